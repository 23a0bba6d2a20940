//! Anything in any order: what must hold whatever happens.

use std::time::Duration;

use super::channels::{CHANNEL, pair};
use super::device::*;
use super::harness::*;
use crate::env::Entropy;
use crate::id::{ChannelId, Digest};
use crate::io::{Gone, Input, LinkId, LinkRole, Links};
use crate::limits;
use crate::mls::group::Plan;
use crate::wire::message::{Request, Submit};

struct Dice(Entropy);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        usize::try_from(self.0.u64() % sides as u64).unwrap()
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let at = self.roll(from.len());
        &from[at]
    }
}

fn channel(dice: &mut Dice, device: &Device) -> ChannelId {
    match dice.roll(6) {
        0 => ChannelId([8; 16]),
        1 => ChannelId::inbox(device.sender()),
        _ => CHANNEL,
    }
}

/// Any request of a device that has a session, or thinks so.
fn request(dice: &mut Dice, world: &World, device: &mut Device, known: &[Request]) -> Request {
    let channel = channel(dice, device);
    let after = dice.roll(12) as u64;
    match dice.roll(24) {
        0 => Request::Ping(vec![1; dice.roll(60)].into()),
        1 => Request::Health,
        2 => Request::Hello,
        3 if dice.roll(200) == 0 => Request::Logout,
        4 => Request::DeviceList { account: device.id() },
        5 if dice.roll(30) == 0 => device.revocation(device.sender().device, world),
        6 => Request::AccountLookup { username: username("bob") },
        7 => Request::KeyPackageUpload {
            packages: vec![device.key_package(world, false)],
            last_resort: None,
        },
        8 => Request::KeyPackageStatus { suite: None },
        9 => Request::KeyPackageFetch {
            account: device.id(),
            suite: crate::mls::suite::Suite::Classical,
            device: None,
        },
        10 => Request::ChannelInfo { channel },
        11 => Request::ChannelList { after: None },
        12..=14 => Request::Fetch {
            channel,
            after,
            limit: 3,
            wait_ms: dice.roll(2) as u32 * dice.roll(20_000) as u32,
        },
        15..=17 => Request::Subscribe { channel, after },
        18 => Request::Unsubscribe { channel },
        19 => Request::Ack { channel, seq: after.min(1) },
        20 => Request::GroupInfoFetch { channel },
        21 => Request::BlobPut {
            hash: Digest::of(&[&[7; 9]]),
            total: 9,
            offset: 0,
            chunk: vec![7; 9].into(),
        },
        _ => dice.pick(known).clone(),
    }
}

fn storm(seed: u8, steps: usize) -> Digest {
    let mut world = World::with(|config| config.insecure_plain = true);
    let (mut alice, bob) = pair(&mut world);
    let mut known: Vec<_> = (0..20).map(|_| alice.message(&world, CHANNEL, "storm")).collect();
    let Request::Submit(submit) = known[0].clone() else { panic!() };
    known.push(Request::Submit(Submit { epoch: 7, ..submit }));
    known.push(alice.commit_request(&world, CHANNEL, &Plan::default()));
    let mut devices = [alice, bob];
    let mut dice = Dice(Entropy::from_seed([seed; 32]));
    let mut links: Vec<(LinkId, usize)> = Vec::new();
    for _ in 0..steps {
        match dice.roll(40) {
            0 | 1 => open(&mut dice, &mut world, &mut devices, &mut links),
            2 if !links.is_empty() => {
                let (link, _) = *dice.pick(&links);
                let conn = world.conn(link);
                links.retain(|(link, _)| world.conn(*link) != conn);
                world.input(Input::Disconnected(conn, Gone::Lost("storm".to_owned())));
                for end in world.ends.values_mut().filter(|end| end.conn == conn) {
                    end.wanted = false;
                }
            }
            3 if !links.is_empty() => {
                let at = dice.roll(links.len());
                let (link, _) = links.swap_remove(at);
                let why = match dice.roll(2) {
                    0 => Gone::Finished,
                    _ => Gone::Lost("storm".to_owned()),
                };
                world.ends.get_mut(&link).unwrap().wanted = false;
                world.input(Input::Closed(link, why));
            }
            4 => world.disk = *dice.pick(&[Disk::Works, Disk::Works, Disk::Waits, Disk::Fails]),
            5 => world.jobs_wait = dice.roll(3) == 0,
            6 => world.chunk = 1 + dice.roll(3_000),
            7 => {
                let time = Duration::from_millis(dice.roll(3_000) as u64);
                world.pass(time);
            }
            8 => world.input(Input::Notified(CHANNEL, dice.roll(30) as u64)),
            9 => world.flush(),
            10..=13 if !links.is_empty() => {
                let (link, _) = *dice.pick(&links);
                let credit = dice.roll(4_000);
                world.input(Input::Writable(link, credit));
            }
            _ if !links.is_empty() => {
                let (link, device) = *dice.pick(&links);
                let request = request(&mut dice, &world, &mut devices[device], &known);
                world.ask(link, request);
            }
            _ => {}
        }
        if dice.roll(3) == 0 {
            world.settle();
        }
        check(&world);
    }
    world.disk = Disk::Works;
    world.jobs_wait = false;
    calm(&mut world);
    world.outputs
}

fn open(
    dice: &mut Dice,
    world: &mut World,
    devices: &mut [Device; 2],
    links: &mut Vec<(LinkId, usize)>,
) {
    let which = dice.roll(2);
    let before = (world.disk, world.jobs_wait);
    (world.disk, world.jobs_wait) = (Disk::Works, false);
    world.settle();
    let kind = *dice.pick(&[Links::One, Links::Many]);
    let conn = world.dial(World::transport(kind));
    let device = &mut devices[which];
    if kind == Links::One {
        device.link = world.open(conn, LinkRole::All, 10_000);
    } else {
        device.link = world.open(conn, LinkRole::Calls, 10_000);
        let credit = dice.roll(10_000);
        let pushes = world.open(conn, LinkRole::Pushes, credit);
        world.open(conn, LinkRole::Bulk, 10_000);
        let _ = pushes;
    }
    let request = device.resume_request(world, 1);
    world.ask(device.link, request);
    world.settle();
    links.push((device.link, which));
    (world.disk, world.jobs_wait) = before;
}

/// What holds at any moment.
fn check(world: &World) {
    let server = &world.server;
    assert!(server.ops.len() <= limits::STORE_OPS + server.conns.len() * 8);
    for (id, connection) in &server.conns {
        let calls: usize = connection.links.iter().map(|link| server.links[link].calls.len()).sum();
        assert_eq!(calls, connection.in_flight);
        assert!(calls <= limits::CALLS_IN_FLIGHT);
        for channel in connection.subscriptions.keys() {
            assert!(server.watches[channel].subscribers.contains(id));
        }
        assert!(connection.fetches <= 4);
    }
    for (id, link) in &server.links {
        assert!(server.conns[&link.conn].links.contains(id));
        assert_eq!(link.held, link.calls.values().sum::<usize>());
    }
    for (channel, watch) in &server.watches {
        assert!(!watch.subscribers.is_empty() || !watch.polls.is_empty());
        for conn in &watch.subscribers {
            assert!(server.conns[conn].subscriptions.contains_key(channel));
        }
        for call in &watch.polls {
            assert!(server.polls.contains_key(call));
        }
    }
    for (sender, conns) in &server.sessions {
        assert!(!conns.is_empty());
        for conn in conns {
            assert_eq!(server.peer(*conn).unwrap().sender, *sender);
        }
    }
}

/// All calls end, and when all are gone nothing is left.
fn calm(world: &mut World) {
    let ends: Vec<_> = world.ends.keys().copied().collect();
    for link in &ends {
        world.input(Input::Writable(*link, CREDIT));
    }
    world.settle();
    world.pass(limits::FETCH_WAIT);
    check(world);
    for (id, link) in &world.server.links {
        assert!(link.calls.is_empty(), "{id:?} has calls without an answer");
        assert_eq!(link.backlog(), 0);
        let closing = world.server.conns[&link.conn].closing;
        assert!(closing || world.ends[id].wanted || link.is_finished(), "{id:?} is not read");
    }
    let conns: Vec<_> = world.server.conns.keys().copied().collect();
    for conn in conns {
        world.input(Input::Disconnected(conn, Gone::Lost("calm".to_owned())));
    }
    world.pass(Duration::from_secs(1));
    let server = &world.server;
    assert!(server.links.is_empty() && server.sessions.is_empty() && server.polls.is_empty());
    assert!(server.watches.is_empty() && server.ops.is_empty() && server.jobs.is_empty());
    assert!(server.floored.is_empty());
    assert_eq!((server.recent_bytes, server.connections()), (0, 0));
    assert_eq!(world.idle.1, crate::io::WakeReason::Sweep);
}

#[test]
fn whatever_happens_every_call_ends_and_nothing_is_left_behind() {
    for seed in 0..40 {
        storm(seed, 400);
    }
}

#[test]
fn a_storm_can_be_had_again() {
    assert_eq!(storm(77, 300), storm(77, 300));
    assert_ne!(storm(77, 300), storm(78, 300));
}
