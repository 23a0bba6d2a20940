//! The gate: the same seed gives the same outputs, byte for byte, whatever the threads and the backend.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failure is a panic")]

use std::time::Duration;

use qpc_protocol::client::Role;
use qpc_protocol::client::event::Outcome;
use qpc_protocol::crypto::{Backend, fast, portable};
use qpc_protocol::id::{ChannelId, Digest};
use qpc_protocol::io::Links;
use qpc_protocol::mls::suite::Suite;
use qpc_sim::takeover;
use qpc_sim::world::{Moment, Rules, World};

const ALICE: usize = 0;
const BOB: usize = 1;
const CAROL: usize = 2;

fn group(world: &mut World, suite: Suite, names: &[&str]) -> ChannelId {
    let made = world.done(ALICE, |client, now| client.create_group(now, "group", suite));
    let Outcome::Group(channel) = made else { panic!("{made:?}") };
    for name in names {
        world.done(ALICE, |client, now| client.invite(now, channel, name));
    }
    channel
}

/// A world with something of everything: all kinds of links, disks that take their time, crashes, a clock that is
/// wrong, a commit with many removals, a rejoin, a reset.
fn rich(seed: u64, backend: Backend) -> (Digest, u64) {
    let mut world = World::new(Rules { backend, ..Rules::new(seed).split() });
    for name in ["alice", "bob", "carol", "dave"] {
        world.register(name);
    }
    for name in ["bob", "bob", "carol"] {
        world.login(name);
    }
    let hybrid = group(&mut world, Suite::Hybrid, &["bob", "carol", "dave"]);
    let classical = group(&mut world, Suite::Classical, &["bob"]);
    world.settle();
    for (number, device) in world.devices.iter_mut().enumerate() {
        device.latency = Duration::from_millis(3 * number as u64);
        device.jitter = Duration::from_millis(5);
        device.disk_latency = Duration::from_micros(700);
        device.credit = 1_000 + 7_000 * number;
        device.links = if number % 2 == 0 { Links::Many } else { Links::One };
        device.clock.ahead = 20_000 - 10_000 * number as i64;
    }
    world.storage.latency = Duration::from_millis(1);
    for device in 0..world.devices.len() {
        world.cut(device);
    }
    for round in 0..4 {
        for device in [ALICE, BOB, CAROL] {
            let text = format!("{device} says {round}");
            world.command(device, |client, now| client.send(now, hybrid, text.as_bytes()));
        }
        world.command(BOB, |client, now| client.update(now, classical));
        world.command(CAROL, |client, now| client.update(now, hybrid));
        world.pass(Duration::from_millis(40));
    }
    world.devices[CAROL].crash_in = Some(1);
    world.devices[CAROL].crash_moment = Moment::During;
    world.command(CAROL, |client, now| client.send(now, hybrid, b"going down"));
    world.pass(Duration::from_secs(1));
    world.start(CAROL);
    world.kill_server();
    world.pass(Duration::from_secs(1));
    world.start_server();
    world.settle();
    // Bob has three devices: one commit with three removals, in the order of a map of the standard library.
    let bob = world.client(BOB).whoami().unwrap().1.account;
    let carol = world.client(CAROL).whoami().unwrap().1.account;
    world.done(ALICE, |client, now| client.set_role(now, hybrid, carol, Role::Admin));
    world.done(ALICE, |client, now| client.remove(now, hybrid, bob));
    world.done(CAROL, |client, now| client.rejoin(now, hybrid));
    world.done(ALICE, |client, now| client.invite(now, hybrid, "bob"));
    world.done(ALICE, |client, now| client.reset(now, hybrid, None));
    world.command(BOB, |client, now| client.send(now, hybrid, b"all here"));
    // Who has sent it is idle before it has come to the others.
    world.until(|world| world.bodies(ALICE).contains(&"all here".to_owned()));
    (world.trace, world.sent_bytes)
}

/// In a pool of so many threads, all of them taken over.
fn on(threads: usize, seed: u64) -> (Digest, u64) {
    let pool = rayon::ThreadPoolBuilder::new();
    let pool = pool.num_threads(threads).stack_size(8 << 20);
    let pool = pool.start_handler(move |_| takeover::enter(seed)).build().unwrap();
    pool.install(|| rich(seed, portable()))
}

#[test]
fn a_seed_is_a_world() {
    let first = takeover::run(5, || rich(5, portable()));
    assert_eq!(first, takeover::run(5, || rich(5, portable())), "run again");
    assert_eq!(first, takeover::run(5, || rich(5, fast())), "the other backend");
    assert_eq!(first, on(1, 5), "one thread for OpenMLS");
    assert_eq!(first, on(2, 5), "two threads for OpenMLS");
    assert_ne!(first.0, takeover::run(6, || rich(6, portable())).0, "another seed");
}
