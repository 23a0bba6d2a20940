//! What was before an execution begins: people with devices and groups, and what they said to the server and heard from
//! it in stories that all begin there. Made once, in some tenths of a second, by the machines themselves.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use qpc_protocol::client::event::GroupSummary;
use qpc_protocol::client::{Client, ProfileChange, Role};
use qpc_protocol::env::{Entropy, Now};
use qpc_protocol::error::Refused;
use qpc_protocol::id::{ChannelId, Digest, Sender};
use qpc_protocol::io::Ticket;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::server::ServerSecrets;
use qpc_protocol::server::memory::MemoryStore;
use qpc_protocol::wire::frame::encode;
use qpc_protocol::wire::message::{Body, ChannelKind, Frame, Request};
use zeroize::Zeroizing;

use super::server::{say, session};
use super::stage::{Disk, Stage};

/// Who there is, with a device each; Dan is in no group of all.
pub(super) const NAMES: [&str; 4] = ["alice", "bob", "carol", "dan"];
pub(super) const ALICE: usize = 0;
pub(super) const BOB: usize = 1;
pub(super) const CAROL: usize = 2;
pub(super) const DAN: usize = 3;
/// Most frames of a story and direction that are kept.
const KEPT: usize = 400;

/// See the module.
pub(super) struct Past {
    pub(super) secrets: Vec<u8>,
    pub(super) store: MemoryStore,
    pub(super) disks: Vec<Disk>,
    pub(super) now: Now,
    pub(super) senders: Vec<Sender>,
    /// The group of three in the classical suite; of two in the hybrid one.
    pub(super) channels: [ChannelId; 2],
    /// What devices asked in the stories.
    pub(super) up: Vec<(usize, Frame)>,
    /// What they were told.
    pub(super) down: Vec<(usize, Frame)>,
}

pub(super) fn password(name: &str) -> Zeroizing<String> {
    format!("password of {name}").into()
}

/// The one past of this process.
pub(super) fn past() -> &'static Past {
    static PAST: OnceLock<Past> = OnceLock::new();
    PAST.get_or_init(Past::make)
}

impl Past {
    fn make() -> Self {
        let secrets = ServerSecrets::generate(&mut Entropy::from_seed([1; 32])).encode().to_vec();
        let mut stage = Stage::fresh(&secrets);
        for name in NAMES {
            let device = stage.device();
            stage.start(device);
            order(&mut stage, device, |c, now| c.register(now, name, password(name)));
        }
        for (suite, names) in [(Suite::Classical, &NAMES[1..3]), (Suite::Hybrid, &NAMES[1..2])] {
            order(&mut stage, ALICE, |c, now| c.create_group(now, "group", suite));
            let channel = group(&stage, suite);
            for name in names {
                order(&mut stage, ALICE, |c, now| c.invite(now, channel, name));
            }
            order(&mut stage, BOB, |c, now| c.update(now, channel));
            order(&mut stage, ALICE, |c, now| c.send(now, channel, b"before"));
        }
        order(&mut stage, ALICE, |c, now| c.open_direct(now, "bob"));
        let channels = [Suite::Classical, Suite::Hybrid].map(|suite| group(&stage, suite));
        let senders = (0..NAMES.len()).map(|device| whoami(&stage, device)).collect();
        for device in 0..NAMES.len() {
            stage.stop(device);
        }
        stage.run();
        let disks = stage.devices.iter().map(|device| device.disk.clone()).collect();
        let (store, now) = (stage.store.clone(), stage.now);
        let (up, down) = (Vec::new(), Vec::new());
        let mut past = Self { secrets, store, disks, now, senders, channels, up, down };
        for story in STORIES {
            let (up, down) = past.record(*story);
            past.up.extend(up);
            past.down.extend(down);
        }
        past.ask();
        past
    }

    /// What a server answers and our clients do not ask.
    fn ask(&mut self) {
        let [channel, _] = self.channels;
        let chunk = Bytes::from_static(b"a blob");
        let (hash, total) = (Digest::of(&[&chunk]), chunk.len() as u64);
        let requests = [
            Request::ChannelInfo { channel },
            Request::ChannelList { after: None },
            Request::Fetch { channel, after: 0, limit: 9, wait_ms: 0 },
            Request::Fetch { channel, after: 1_000, limit: 1, wait_ms: 9_000 },
            Request::Unsubscribe { channel },
            Request::BlobPut { hash, total, offset: 0, chunk },
        ];
        let mut stage = self.server();
        let (_, link) = session(self, &mut stage, ALICE);
        stage.heard(link);
        for (call, request) in (100..).zip(requests) {
            let frame = Frame { call, body: Body::Request(request) };
            say(&mut stage, link, &frame);
            stage.run();
            self.up.push((ALICE, frame));
            self.down.extend(stage.heard(link).into_iter().map(|frame| (ALICE, frame)));
        }
    }

    /// The machines as they were; all devices off.
    pub(super) fn stage(&self) -> Stage {
        Stage::new(&self.secrets, self.store.clone(), self.disks.clone(), self.now)
    }

    /// The server as it was, and nobody else.
    pub(super) fn server(&self) -> Stage {
        Stage::new(&self.secrets, self.store.clone(), Vec::new(), self.now)
    }

    fn record(&self, story: Story) -> (Heard, Heard) {
        let mut stage = self.stage();
        let heard: Rc<RefCell<[Heard; 2]>> = Rc::default();
        let hears = heard.clone();
        stage.tap = Some(Box::new(move |device, up, frame, on| {
            encode(&frame, on);
            let kept = &mut hears.borrow_mut()[usize::from(!up)];
            if kept.len() < KEPT {
                kept.push((device, frame));
            }
        }));
        for device in 0..NAMES.len() {
            stage.start(device);
        }
        rest(&mut stage);
        story(self, &mut stage);
        rest(&mut stage);
        let [up, down] = heard.take();
        (up, down)
    }

    /// The request that opened the session of a device.
    pub(super) fn resume(&self, device: usize) -> Option<&Frame> {
        let is = |(of, frame): &&(usize, Frame)| {
            *of == device && matches!(frame.body, Body::Request(Request::Resume { .. }))
        };
        self.up.iter().find(is).map(|(_, frame)| frame)
    }
}

/// Frames, and whose connection each was on.
type Heard = Vec<(usize, Frame)>;
type Story = fn(&Past, &mut Stage);

/// What people do; the frames of it are what a fuzzer starts from.
const STORIES: &[Story] = &[talk, changes, devices, anew, ends];

fn talk(past: &Past, stage: &mut Stage) {
    for channel in past.channels {
        for device in [ALICE, BOB, CAROL] {
            order(stage, device, |c, now| c.send(now, channel, b"a message"));
            order(stage, device, |c, now| c.proofs(now, channel, 0, 9));
            order(stage, device, |c, now| c.members(now, channel));
        }
        stage.cut(BOB);
        order(stage, ALICE, |c, now| c.send(now, channel, b"another"));
        let from = stage.devices[ALICE].client.as_ref().map(|c| c.checkpoint(channel));
        if let Some(Ok(checkpoint)) = from {
            let bytes = checkpoint.encode();
            order(stage, BOB, |c, now| c.compare_checkpoint(now, channel, &bytes));
        }
    }
    order(stage, ALICE, |c, now| c.ping(now));
    order(stage, ALICE, |c, now| c.health(now));
    order(stage, ALICE, |c, now| c.lookup(now, "dan"));
    order(stage, ALICE, |c, now| c.devices(now));
    order(stage, ALICE, |c, now| c.key_packages(now));
}

fn changes(past: &Past, stage: &mut Stage) {
    let carol = past.senders[CAROL].account;
    for channel in past.channels {
        order(stage, CAROL, |c, now| c.update(now, channel));
        let change = ProfileChange { name: Some("renamed".into()), ..ProfileChange::default() };
        order(stage, ALICE, |c, now| c.set_metadata(now, channel, change));
        order(stage, ALICE, |c, now| {
            c.set_role(now, channel, past.senders[BOB].account, Role::Admin)
        });
        order(stage, BOB, |c, now| c.invite(now, channel, "dan"));
        order(stage, DAN, |c, now| c.send(now, channel, b"here"));
        order(stage, ALICE, |c, now| c.remove(now, channel, carol));
        order(stage, BOB, |c, now| c.leave(now, channel));
    }
    order(stage, ALICE, |c, now| c.open_direct(now, "dan"));
    order(stage, BOB, |c, now| c.create_group(now, "second", Suite::Hybrid));
}

fn devices(past: &Past, stage: &mut Stage) {
    let device = stage.device();
    stage.start(device);
    order(stage, device, |c, now| c.login(now, "bob", password("bob")));
    stage.pass(Duration::from_secs(30));
    order(stage, device, |c, now| c.send(now, past.channels[0], b"from the second device"));
    order(stage, BOB, |c, now| c.rotate(now));
    order(stage, BOB, |c, now| c.refresh_key_packages(now));
    let second = whoami(stage, device).device;
    order(stage, BOB, |c, now| c.revoke(now, second));
    stage.pass(Duration::from_secs(30));
}

fn anew(past: &Past, stage: &mut Stage) {
    for channel in past.channels {
        order(stage, BOB, |c, now| c.rejoin(now, channel));
        order(stage, ALICE, |c, now| c.reset(now, channel, None));
        stage.pass(Duration::from_secs(5));
        order(stage, BOB, |c, now| c.send(now, channel, b"in a new generation"));
    }
}

fn ends(past: &Past, stage: &mut Stage) {
    order(stage, CAROL, |c, now| c.remove(now, past.channels[0], past.senders[CAROL].account));
    stage.pass(Duration::from_secs(3_700));
    order(stage, CAROL, |c, now| c.delete_account(now));
    stage.stop(BOB);
    // The access token is over by then.
    stage.pass(Duration::from_secs(8_000));
    stage.start(BOB);
    rest(stage);
    order(stage, BOB, |c, now| c.logout(now));
    order(stage, BOB, |c, now| c.login(now, "bob", password("bob")));
    let device = stage.device();
    stage.start(device);
    order(stage, device, |c, now| c.register(now, "erin", password("erin")));
}

/// A command, and what comes of it.
fn order(
    stage: &mut Stage,
    device: usize,
    run: impl FnOnce(&mut Client, Now) -> Result<Ticket, Refused>,
) {
    let now = stage.now;
    if let Some(client) = stage.devices[device].client.as_mut() {
        // Some are refused, where a story passes over who is no member: nothing comes of them.
        let _ = run(client, now);
    }
    rest(stage);
}

/// A few seconds, in which everything is done.
fn rest(stage: &mut Stage) {
    stage.pass(Duration::from_secs(3));
}

/// The group of that suite.
fn group(stage: &Stage, suite: Suite) -> ChannelId {
    let client = stage.devices[ALICE].client.as_ref().expect("on");
    let is = |group: &GroupSummary| group.kind == ChannelKind::Group && group.suite == suite;
    client.groups().into_iter().find(is).expect("made").channel
}

fn whoami(stage: &Stage, device: usize) -> Sender {
    let client = stage.devices[device].client.as_ref().expect("on");
    client.whoami().expect("registered").1
}
