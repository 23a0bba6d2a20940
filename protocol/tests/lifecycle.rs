//! The rest of a group's life: fresh keys in time, what it is called, who may do what in it, proposals, new device keys.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod world;

use std::time::Duration;

use qpc_protocol::client::UpdatePolicy;
use qpc_protocol::client::event::{Event, Outcome};
use qpc_protocol::id::ChannelId;
use world::talk::*;
use world::{Rules, World};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How many commits of a device everybody saw.
fn commits_of(world: &World, device: usize, witness: usize) -> usize {
    let who = world.devices[device].client.as_ref().unwrap().whoami().unwrap().1;
    let of = |event: &&Event| matches!(event, Event::Changed(change) if change.by == who);
    world.devices[witness].log.iter().filter(of).count()
}

// ---- fresh keys in time -----------------------------------------------------------------------

fn three_with(seed: u64, update: UpdatePolicy) -> (World, ChannelId) {
    let mut rules = Rules::new(seed);
    rules.update = update;
    let mut world = World::new(rules);
    for name in ["alice", "bob", "carol"] {
        world.register(name);
    }
    let channel = group_of(&mut world, ALICE, &["bob", "carol"]);
    (world, channel)
}

#[test]
fn an_update_asked_for_gives_the_leaf_fresh_keys_even_with_something_else_to_commit() {
    let (mut world, channel) = three(1);
    world.register("dave");
    world.cut(ALICE);
    // Both are committed at once: an invitation alone would bring no new keys.
    let update = world.command(ALICE, |client, now| client.update(now, channel));
    let invite = world.command(ALICE, |client, now| client.invite(now, channel, "dave"));
    assert!(matches!(world.outcome(ALICE, update), Outcome::Epoch(_)));
    assert!(matches!(world.outcome(ALICE, invite), Outcome::Epoch(_)));
    world.settle();
    agree(&world, channel, &[ALICE, BOB, CAROL, 3]);
}

#[test]
fn every_leaf_gets_fresh_keys_by_its_age_and_nobody_loses_much_by_it() {
    let (mut world, channel) = three(2);
    let before: Vec<_> = [ALICE, BOB, CAROL].map(|device| commits_of(&world, device, BOB)).into();
    world.pass(DAY * 6);
    let young: Vec<_> = [ALICE, BOB, CAROL].map(|device| commits_of(&world, device, BOB)).into();
    assert_eq!(young, before, "too early");
    world.pass(DAY * 2);
    world.settle();
    for device in [ALICE, BOB, CAROL] {
        assert_eq!(commits_of(&world, device, BOB), before[device] + 1, "device {device}");
    }
    agree(&world, channel, &[ALICE, BOB, CAROL]);
    // And again after as long.
    world.pass(DAY * 6);
    assert_eq!(commits_of(&world, CAROL, BOB), before[CAROL] + 1);
    world.pass(DAY * 2);
    assert_eq!(commits_of(&world, CAROL, BOB), before[CAROL] + 2);
}

#[test]
fn every_leaf_gets_fresh_keys_by_what_was_written() {
    let policy = UpdatePolicy { entries: 20, ..UpdatePolicy::default() };
    let (mut world, channel) = three_with(3, policy);
    for number in 0..15 {
        said(&mut world, ALICE, channel, &format!("{number}"));
    }
    world.pass(Duration::from_secs(60));
    assert_eq!(commits_of(&world, BOB, ALICE), 0, "too early");
    for number in 0..6 {
        said(&mut world, CAROL, channel, &format!("{number}"));
    }
    world.pass(Duration::from_secs(60));
    for device in [BOB, CAROL] {
        assert_eq!(commits_of(&world, device, ALICE), 1, "device {device}");
    }
    agree(&world, channel, &[ALICE, BOB, CAROL]);
}

#[test]
fn how_old_a_leaf_is_survives_restarts_and_waits_for_a_connection() {
    let (mut world, channel) = three(4);
    world.pass(DAY * 3);
    world.crash(BOB);
    world.start(BOB);
    world.pass(DAY * 3);
    // Off, and on without a network: nothing is made that would be of no use.
    world.crash(BOB);
    world.devices[BOB].connect = false;
    world.start(BOB);
    world.pass(DAY * 2);
    assert_eq!(commits_of(&world, BOB, ALICE), 0);
    assert_eq!(world.client(BOB).pending(), 0);
    world.devices[BOB].connect = true;
    world.until(|world| commits_of(world, BOB, ALICE) == 1);
    world.settle();
    // What was asked for counts as well: nothing is done twice.
    world.done(BOB, |client, now| client.update(now, channel));
    world.pass(DAY * 6);
    assert_eq!(commits_of(&world, BOB, ALICE), 2);
    agree(&world, channel, &[ALICE, BOB, CAROL]);
}
