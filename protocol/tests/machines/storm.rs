//! Storms: random operations among a few devices, with crashes, cuts, and a server that is killed, and then calm.
//! Whatever happened: nobody reads anything twice, what was told to be sent is there, at the same seq for all who read
//! it, and all who are members at the end stand in one epoch with equal authenticators.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use qpc_protocol::client::event::{Event, Outcome};
use qpc_protocol::env::Entropy;
use qpc_protocol::id::ChannelId;
use qpc_protocol::io::{Links, Ticket};
use qpc_protocol::mls::suite::Suite;
use qpc_sim::world::{Rules, World};

const NAMES: [&str; 4] = ["anna", "ben", "cleo", "dora"];

struct Storm {
    seed: u64,
    world: World,
    dice: Entropy,
    channel: ChannelId,
    /// Texts handed to `send` by a device that was not crashed before its first batch was durable.
    sent: BTreeMap<String, (usize, Ticket)>,
    count: u32,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let mut rules = Rules::new(seed);
        rules.links = if seed.is_multiple_of(2) { Links::Many } else { Links::One };
        rules.split = seed.is_multiple_of(3);
        let mut world = World::new(rules);
        let devices = NAMES.map(|name| world.register(name));
        assert_eq!(devices, [0, 1, 2, 3]);
        let suite = if seed.is_multiple_of(4) { Suite::Hybrid } else { Suite::Classical };
        let made = world.done(0, |client, now| client.create_group(now, "storm", suite));
        let Outcome::Group(channel) = made else { panic!("{made:?}") };
        for name in &NAMES[1..] {
            world.done(0, |client, now| client.invite(now, channel, name));
        }
        world.settle();
        let mut start = [seed as u8; 32];
        if seed >= 1_000 {
            start[..8].copy_from_slice(&seed.to_be_bytes());
        }
        let dice = Entropy::from_seed(start);
        Self { seed, world, dice, channel, sent: BTreeMap::new(), count: 0 }
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.dice.u64() % sides
    }

    fn step(&mut self) {
        let device = self.roll(4) as usize;
        let on = self.world.devices[device].client.is_some();
        let now = self.world.now;
        let channel = self.channel;
        match self.roll(20) {
            0..8 if on => {
                self.count += 1;
                let text = format!("{} {}", NAMES[device], self.count);
                let sent = self.world.client(device).send(now, channel, text.as_bytes());
                if let Ok(ticket) = sent {
                    // A ticket that comes again was of a message that a crash left nothing of.
                    self.sent.retain(|_, other| *other != (device, ticket));
                    self.sent.insert(text, (device, ticket));
                }
            }
            8..10 if on => {
                let _ = self.world.client(device).update(now, channel);
            }
            10 if self.world.devices[0].client.is_some() => {
                let other = 1 + self.roll(3) as usize;
                if let Some((_, who, _)) =
                    self.world.devices[other].client.as_ref().and_then(|c| c.whoami())
                {
                    let _ = self.world.client(0).remove(now, channel, who.account);
                }
            }
            11 if self.world.devices[0].client.is_some() => {
                let other = NAMES[1 + self.roll(3) as usize];
                let _ = self.world.client(0).invite(now, channel, other);
            }
            12 if on && device > 0 => {
                let _ = self.world.client(device).leave(now, channel);
            }
            13 => self.world.cut(device),
            14 if on => self.world.crash(device),
            15 if on => self.world.devices[device].crash_in = Some(self.dice.u64() % 4),
            16 => {
                if self.world.server.is_some() {
                    self.world.kill_server();
                } else {
                    self.world.start_server();
                }
            }
            17 => {
                let span = Duration::from_millis(self.roll(3_000));
                self.world.pass(span);
            }
            _ if !on => self.world.start(device),
            _ => {}
        }
        match self.roll(4) {
            0 => {}
            1 => {
                let span = Duration::from_micros(self.roll(200_000));
                self.world.pass(span);
            }
            _ => {
                self.world.run();
            }
        }
    }

    fn calm(&mut self) {
        if self.world.server.is_none() {
            self.world.start_server();
        }
        for device in 0..4 {
            self.world.devices[device].crash_in = None;
            if self.world.devices[device].client.is_none() {
                self.world.start(device);
            }
        }
        self.world.settle();
        self.world.pass(Duration::from_secs(2));
        self.world.settle();
    }

    /// What a device was told in all its lives: by seq, since unread messages come again after each start.
    fn read(&self, device: usize) -> BTreeMap<u64, String> {
        let mut read = BTreeMap::new();
        for message in self.world.messages(device) {
            let text = String::from_utf8(message.body.to_vec()).unwrap();
            let before = read.insert(message.seq, text.clone());
            assert!(before.is_none_or(|before| before == text), "seed {}", self.seed);
        }
        read
    }

    fn check(&self) {
        let seed = self.seed;
        let channel = self.channel;
        let mut log: BTreeMap<u64, String> = BTreeMap::new();
        for device in 0..4 {
            let read = self.read(device);
            let texts: BTreeSet<_> = read.values().collect();
            assert_eq!(
                texts.len(),
                read.len(),
                "seed {seed}: device {device} read something twice"
            );
            for (seq, text) in read {
                let other = log.entry(seq).or_insert_with(|| text.clone());
                assert_eq!(*other, text, "seed {seed}: seq {seq} is not the same for all");
            }
        }
        // Everybody who is a member agrees with the founder, who always is one.
        let first = self.world.group(0, channel);
        assert!(first.member, "seed {seed}");
        let mut members = 0;
        for device in 0..4 {
            let known =
                self.world.groups(device).into_iter().find(|group| group.channel == channel);
            let Some(group) = known.filter(|group| group.member) else { continue };
            members += 1;
            let ours = (group.epoch, &group.authenticator, group.cursor, group.chain);
            let theirs = (first.epoch, &first.authenticator, first.cursor, first.chain);
            assert_eq!(ours, theirs, "seed {seed}: device {device}");
        }
        assert_eq!(first.members, members, "seed {seed}");
        self.check_sent(&log);
        for device in 0..4 {
            for event in &self.world.devices[device].log {
                let bad = matches!(
                    event,
                    Event::ForkDetected { .. }
                        | Event::ForkSuspected { .. }
                        | Event::ServerFault { .. }
                        | Event::Restored { .. }
                        | Event::Unreadable { .. }
                );
                assert!(!bad, "seed {seed}: device {device}: {event:?}");
            }
        }
    }

    /// What was told to be sent is in the log; what never left is told to have failed.
    fn check_sent(&self, log: &BTreeMap<u64, String>) {
        let in_log: BTreeSet<_> = log.values().collect();
        for (text, (device, ticket)) in &self.sent {
            let log = &self.world.devices[*device].log;
            let done = log
                .iter()
                .any(|event| matches!(event, Event::Done(of, Outcome::Sent(_)) if of == ticket));
            let failed =
                log.iter().any(|event| matches!(event, Event::Failed(of, _) if of == ticket));
            assert!(!(done && failed), "seed {}: {text} is both", self.seed);
            // A message to a group of one is read by nobody: the founder may be alone for a while.
            if done && *device != 0 {
                assert!(in_log.contains(text), "seed {}: {text} was sent and is lost", self.seed);
            }
            assert!(
                !(failed && in_log.contains(text)),
                "seed {}: {text} failed and is there",
                self.seed
            );
        }
    }
}

fn storm(seed: u64, steps: u32) {
    let mut storm = Storm::new(seed);
    for _ in 0..steps {
        storm.step();
    }
    storm.calm();
    storm.check();
}

#[test]
fn storms_lose_nothing_and_tell_all_the_same() {
    let from: u64 =
        std::env::var("STORM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let count: u64 =
        std::env::var("STORM_COUNT").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20);
    let mut bad = Vec::new();
    // These, and 2, 8 and 9 among the first, once found something.
    let found = [23, 31, 34, 160, 166, 181, 186, 471, 2145];
    let found = found.into_iter().filter(|_| from == 0);
    for seed in (from..from + count).chain(found) {
        if std::panic::catch_unwind(|| storm(seed, 60)).is_err() {
            bad.push(seed);
        }
    }
    assert!(bad.is_empty(), "storms that went wrong: {bad:?}");
}
