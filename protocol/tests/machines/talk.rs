//! A small language for tests: groups and what is said in them, what devices were told, and servers that lie.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use qpc_protocol::client::event::{Event, Failed, Outcome, Why};
use qpc_protocol::client::{Client, Role};
use qpc_protocol::env::Now;
use qpc_protocol::error::{ErrorCode, Refused};
use qpc_protocol::id::{AccountId, ChannelId, DeviceId, Sender};
use qpc_protocol::io::Ticket;
use qpc_protocol::limits::COMMIT_LOSSES;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{Body, CommitBundle, Entry, Frame, Part, Push, Reply, Request};

use qpc_sim::world::{Rules, World};

pub(crate) const ALICE: usize = 0;
pub(crate) const BOB: usize = 1;
pub(crate) const CAROL: usize = 2;

/// What groups are called here.
pub(crate) const NAME: &str = "planted name";

/// A device's records.
pub(crate) type Disk = BTreeMap<Vec<u8>, Vec<u8>>;

// ---- devices and groups -----------------------------------------------------------------------

/// Alice, Bob and Carol in a classical group that Alice founded.
pub(crate) fn three(seed: u64) -> (World, ChannelId) {
    three_with(Rules::new(seed))
}

pub(crate) fn three_with(rules: Rules) -> (World, ChannelId) {
    let mut world = World::new(rules);
    for name in ["alice", "bob", "carol"] {
        world.register(name);
    }
    let channel = group_of(&mut world, ALICE, &["bob", "carol"]);
    (world, channel)
}

/// The device as others name it.
pub(crate) fn me(world: &mut World, device: usize) -> Sender {
    world.client(device).whoami().unwrap().1
}

pub(crate) fn account(world: &mut World, device: usize) -> AccountId {
    me(world, device).account
}

/// Switches a device off and on.
pub(crate) fn restart(world: &mut World, device: usize) {
    world.crash(device);
    world.start(device);
}

/// A group with nobody else in it.
pub(crate) fn found(world: &mut World, founder: usize, suite: Suite) -> ChannelId {
    match world.done(founder, |client, now| client.create_group(now, NAME, suite)) {
        Outcome::Group(channel) => channel,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn group_in(
    world: &mut World,
    suite: Suite,
    founder: usize,
    names: &[&str],
) -> ChannelId {
    let channel = found(world, founder, suite);
    for name in names {
        world.done(founder, |client, now| client.invite(now, channel, name));
    }
    world.settle();
    channel
}

pub(crate) fn group_of(world: &mut World, founder: usize, names: &[&str]) -> ChannelId {
    group_in(world, Suite::Classical, founder, names)
}

pub(crate) fn members(world: &mut World, device: usize, channel: ChannelId) -> Vec<Sender> {
    match world.done(device, |client, now| client.members(now, channel)) {
        Outcome::Members(members) => members.into_iter().map(|member| member.sender).collect(),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn set_role(world: &mut World, by: usize, channel: ChannelId, of: usize, role: Role) {
    let of = account(world, of);
    world.done(by, |client, now| client.set_role(now, channel, of, role));
}

pub(crate) fn make_admin(world: &mut World, by: usize, channel: ChannelId, of: usize) {
    set_role(world, by, channel, of, Role::Admin);
}

/// All are members, in one epoch, with equal authenticators.
pub(crate) fn agree(world: &World, channel: ChannelId, devices: &[usize]) {
    let first = world.group(devices[0], channel);
    for device in devices {
        let group = world.group(*device, channel);
        assert!(group.member, "device {device}");
        assert_eq!((group.epoch, &group.authenticator), (first.epoch, &first.authenticator));
    }
}

// ---- what is said -----------------------------------------------------------------------------

pub(crate) fn say(world: &mut World, device: usize, channel: ChannelId, text: &str) -> Ticket {
    world.command(device, |client, now| client.send(now, channel, text.as_bytes()))
}

pub(crate) fn said(world: &mut World, device: usize, channel: ChannelId, text: &str) {
    let ticket = say(world, device, channel, text);
    assert!(matches!(world.outcome(device, ticket), Outcome::Sent(_)));
}

/// How often a device was told a text, told again after restarts aside.
pub(crate) fn count(world: &World, device: usize, text: &str) -> usize {
    let told = world.messages(device).into_iter();
    let told = told.filter(|message| message.body.as_slice() == text.as_bytes());
    told.map(|message| (message.channel, message.seq)).collect::<BTreeSet<_>>().len()
}

/// All say something, each reads what the others say once, and they are in one epoch before and after. `round` is not
/// to be used twice in a world.
pub(crate) fn all_say(world: &mut World, channel: ChannelId, all: &[usize], round: &str) {
    world.settle();
    agree(world, channel, all);
    for device in all {
        said(world, *device, channel, &format!("{round} from {device}"));
    }
    // What is on its way to nobody in particular keeps nobody busy.
    world.pass(Duration::from_secs(2));
    world.settle();
    for device in all {
        for other in all.iter().filter(|other| *other != device) {
            let text = format!("{round} from {other}");
            let read = count(world, *device, &text);
            assert_eq!(read, 1, "device {device}: {text}: {:#?}", world.devices[*device].log);
        }
    }
    agree(world, channel, all);
}

// ---- what a device was told -------------------------------------------------------------------

pub(crate) fn fails(
    world: &mut World,
    device: usize,
    run: impl FnOnce(&mut Client, Now) -> Result<Ticket, Refused>,
) -> Failed {
    let ticket = world.command(device, run);
    world.failure(device, ticket)
}

pub(crate) fn code(failed: &Failed) -> ErrorCode {
    match failed {
        Failed::Server { code, .. } => *code,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn saw(world: &World, device: usize, is: impl Fn(&Event) -> bool) -> bool {
    world.devices[device].log.iter().any(is)
}

/// Whether a device was told that a command is done.
pub(crate) fn is_done(world: &World, device: usize, ticket: Ticket) -> bool {
    saw(world, device, |event| matches!(event, Event::Done(done, _) if *done == ticket))
}

pub(crate) fn forked(event: &Event) -> bool {
    matches!(event, Event::ForkDetected { .. })
}

pub(crate) fn suspected(event: &Event) -> bool {
    matches!(event, Event::ForkSuspected { .. })
}

pub(crate) fn unreadable(event: &Event) -> bool {
    matches!(event, Event::Unreadable { .. })
}

/// What nobody is told while all goes well.
pub(crate) fn trouble(event: &Event) -> bool {
    matches!(
        event,
        Event::Unreadable { .. }
            | Event::Failed(..)
            | Event::NotAdded { .. }
            | Event::ForkDetected { .. }
            | Event::ForkSuspected { .. }
            | Event::NameContradicted { .. }
            | Event::ServerFault { .. }
            | Event::Gap { .. }
            | Event::FellOut { .. }
            | Event::Restored { .. }
            | Event::Evicted { .. }
    )
}

pub(crate) fn undisturbed(world: &World, devices: &[usize]) {
    for device in devices {
        let seen: Vec<_> = world.devices[*device].log.iter().filter(|e| trouble(e)).collect();
        assert!(seen.is_empty(), "device {device}: {seen:?}");
    }
}

/// Why a device came back to groups, each time.
pub(crate) fn rejoins(world: &World, device: usize) -> Vec<Why> {
    let of = |event: &Event| match event {
        Event::Rejoined { why, .. } => Some(*why),
        _ => None,
    };
    world.devices[device].log.iter().filter_map(of).collect()
}

pub(crate) fn restored(event: &Event) -> bool {
    matches!(event, Event::Restored { .. })
}

// ---- servers that lie -------------------------------------------------------------------------

/// Changes frames for one device from its server, or (`up`) to it.
pub(crate) fn lie(
    world: &mut World,
    at: usize,
    of: bool,
    mut with: impl FnMut(Frame) -> Vec<Frame> + 'static,
) {
    world.liar = Some(Box::new(move |device, up, frame| match (device, up) == (at, of) {
        true => with(frame),
        false => vec![frame],
    }));
}

/// Changes frames between one device and its server; `true` for those to the server.
pub(crate) fn lie_both_ways(
    world: &mut World,
    at: usize,
    mut with: impl FnMut(bool, Frame) -> Vec<Frame> + 'static,
) {
    world.liar = Some(Box::new(move |device, up, frame| match device == at {
        true => with(up, frame),
        false => vec![frame],
    }));
}

/// Changes replies for one device.
pub(crate) fn lie_reply(world: &mut World, at: usize, mut with: impl FnMut(&mut Reply) + 'static) {
    lie(world, at, false, move |mut frame| {
        if let Body::Reply(reply) = &mut frame.body {
            with(reply);
        }
        vec![frame]
    });
}

/// Changes entries pushed to one device.
pub(crate) fn lie_entries(
    world: &mut World,
    at: usize,
    mut with: impl FnMut(&mut Vec<Entry>) + 'static,
) {
    lie(world, at, false, move |mut frame| {
        if let Body::Push(Push::Entries(entries)) = &mut frame.body {
            with(&mut entries.entries);
        }
        vec![frame]
    });
}

/// Changes the entries of one channel on their way to one device.
pub(crate) fn lie_entries_of(
    world: &mut World,
    at: usize,
    channel: ChannelId,
    mut with: impl FnMut(&mut Vec<Entry>) + 'static,
) {
    lie(world, at, false, move |mut frame| {
        if let Body::Push(Push::Entries(entries)) = &mut frame.body
            && entries.channel == channel
        {
            with(&mut entries.entries);
        }
        vec![frame]
    });
}

/// Keeps some entries of a channel from a device, and counts the rest on as if they had not been; the same ones,
/// however often it asks.
pub(crate) fn leave_out(
    world: &mut World,
    at: usize,
    channel: ChannelId,
    hidden: impl Fn(&Entry) -> bool + 'static,
) {
    let mut leave = leaving_out(channel, hidden);
    lie(world, at, false, move |frame| leave(frame).into_iter().collect());
}

/// The same for the frames to one device, as part of a greater lie.
pub(crate) fn leaving_out(
    channel: ChannelId,
    hidden: impl Fn(&Entry) -> bool,
) -> impl FnMut(Frame) -> Option<Frame> {
    let mut gone = BTreeSet::new();
    move |mut frame| {
        if let Body::Push(Push::Entries(entries)) = &mut frame.body
            && entries.channel == channel
        {
            gone.extend(
                entries.entries.iter().filter(|entry| hidden(entry)).map(|entry| entry.seq),
            );
            entries.entries.retain(|entry| !hidden(entry));
            let before = |seq: u64| gone.range(..seq).count() as u64;
            entries.entries.iter_mut().for_each(|entry| entry.seq -= before(entry.seq));
            if entries.entries.is_empty() {
                return None;
            }
        }
        Some(frame)
    }
}

/// Lets no request of a kind through from a device; counts them.
pub(crate) fn hold_back(
    world: &mut World,
    at: usize,
    held: impl Fn(&Request) -> bool + 'static,
) -> Rc<Cell<u32>> {
    hold_back_from(world, move |device, request| device == at && held(request))
}

/// The same from more devices than one.
pub(crate) fn hold_back_from(
    world: &mut World,
    held: impl Fn(usize, &Request) -> bool + 'static,
) -> Rc<Cell<u32>> {
    let count = Rc::new(Cell::new(0));
    let seen = count.clone();
    world.liar = Some(Box::new(move |device, up, frame| {
        let is = up && matches!(&frame.body, Body::Request(request) if held(device, request));
        seen.set(seen.get() + u32::from(is));
        if is { vec![] } else { vec![frame] }
    }));
    count
}

/// Whether a request is for key packages.
pub(crate) fn claims(request: &Request) -> bool {
    matches!(request, Request::KeyPackageFetch { .. })
}

/// Keeps a device from asking for key packages; counts how often it would.
pub(crate) fn hold_back_claims(world: &mut World, at: usize) -> Rc<Cell<u32>> {
    hold_back(world, at, claims)
}

/// Tells a device that others have no key packages: all, or one.
pub(crate) fn hide_packages(world: &mut World, at: usize, of: Option<DeviceId>) {
    lie_reply(world, at, move |reply| {
        if let Reply::ClaimedKeyPackages(claimed) = reply {
            let hidden =
                claimed.iter_mut().filter(|claim| of.is_none_or(|device| claim.device == device));
            hidden.for_each(|claim| claim.package = None);
        }
    });
}

/// The server lies no more, and these devices connect anew.
pub(crate) fn honest(world: &mut World, devices: &[usize]) {
    world.liar = None;
    for device in devices {
        world.cut(*device);
    }
}

/// Once the server is honest again, everybody talks and commits as before.
pub(crate) fn honest_again(world: &mut World, channel: ChannelId) {
    honest(world, &[ALICE, BOB, CAROL]);
    world.settle();
    for device in [ALICE, BOB, CAROL] {
        said(world, device, channel, "honest");
        world.done(device, |client, now| client.update(now, channel));
    }
    world.settle();
    agree(world, channel, &[ALICE, BOB, CAROL]);
    for device in [ALICE, BOB, CAROL] {
        let honest = world.bodies(device).iter().filter(|body| *body == "honest").count();
        assert_eq!(honest, 2, "device {device}");
    }
}

// ---- disks ------------------------------------------------------------------------------------

/// Spoils every record of a device's groups but blocks and the heads of trees: `g/`, channel, generation, kind.
pub(crate) fn damage(world: &mut World, device: usize) {
    let of_tree = |key: &[u8]| key[22] == b'B' || key[22..].starts_with(b"Ht");
    let disk = world.devices[device].disk.iter_mut();
    let of_groups = disk.filter(|(key, _)| key.starts_with(b"g/") && !of_tree(key));
    of_groups.for_each(|(_, value)| value.truncate(1));
}

/// Spoils every record of a device's groups.
pub(crate) fn wreck(world: &mut World, device: usize) {
    let disk = world.devices[device].disk.iter_mut();
    disk.filter(|(key, _)| key.starts_with(b"g/")).for_each(|(_, value)| value.truncate(1));
}

/// A copy of Bob's disk from before two sessions in which he spoke. Carol is switched off before them, so that the log
/// is kept for her, and can be followed from the copy.
pub(crate) fn behind(world: &mut World, channel: ChannelId) -> Disk {
    let copy = world.devices[BOB].disk.clone();
    world.crash(CAROL);
    for _ in 0..2 {
        said(world, BOB, channel, "since the copy");
        world.cut(BOB);
        world.pass(Duration::from_secs(5));
    }
    copy
}

/// A device's disk as it was once is put in its place again.
pub(crate) fn put_back(world: &mut World, device: usize, copy: Disk) {
    if world.devices[device].client.is_some() {
        world.crash(device);
    }
    world.devices[device].disk = copy;
    world.start(device);
}

// ---- commits -----------------------------------------------------------------------------------

/// RFC 9420 §6: version, wire format, group id (one byte of length, 32 bytes), epoch, kind of sender.
pub(crate) fn is_outside(bundle: &CommitBundle) -> bool {
    match &bundle.commit {
        Part::Inline(commit) => commit[2 + 2 + 33 + 8] == 4,
        Part::Blob { .. } => false,
    }
}

/// A member's invitation loses until it is proposed, and then no member's commit gets through while the liar stays:
/// the Adds wait in the group.
pub(crate) fn queue_add(
    world: &mut World,
    channel: ChannelId,
    by: usize,
    other: usize,
    name: &str,
) -> Ticket {
    let lose = |of: Option<usize>| {
        move |device: usize, up: bool, frame: Frame| {
            let commit = matches!(&frame.body, Body::Request(Request::Commit(bundle)) if !is_outside(bundle));
            let lost = commit && up && of.is_none_or(|of| of == device);
            if lost { vec![] } else { vec![frame] }
        }
    };
    world.liar = Some(Box::new(lose(Some(by))));
    let ticket = world.command(by, |client, now| client.invite(now, channel, name));
    for _ in 0..COMMIT_LOSSES {
        world.pass(Duration::from_secs(1));
        world.done(other, |client, now| client.update(now, channel));
    }
    world.liar = Some(Box::new(lose(None)));
    world.pass(Duration::from_secs(1));
    ticket
}
