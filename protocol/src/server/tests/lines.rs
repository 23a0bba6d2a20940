//! The lines of groups: who gets into them, whose turn it is, and what is kept of a group between two.

use super::channels::{CHANNEL, pair};
use super::device::*;
use super::harness::*;
use crate::error::ErrorCode;
use crate::id::ChannelId;
use crate::limits;
use crate::mls::group::Plan;
use crate::server::op::StoreOp;
use crate::wire::message::Request;

/// What is at the head of the line is not checked, and so nobody behind it either.
fn hold(world: &mut World) {
    world.jobs_wait = true;
}

fn go_on(world: &mut World) {
    world.jobs_wait = false;
    world.settle();
}

#[test]
fn one_groups_line_is_bounded_and_so_is_each_accounts_place_in_it() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    let commit = alice.commit_request(&world, CHANNEL, &Plan::default());
    let most = limits::GROUP_QUEUE_OF_ACCOUNT;
    hold(&mut world);
    let calls: Vec<_> = (0..=most).map(|_| world.ask(alice.link, commit.clone())).collect();
    world.settle();
    assert_eq!(world.jobs.len(), 1, "one at a time");
    let last = world.answer(alice.link, calls[most]).unwrap();
    assert_eq!(code(last), ErrorCode::Busy);
    let update = bob.commit_request(&world, CHANNEL, &Plan::default());
    let others = world.ask(bob.link, update);
    world.settle();
    assert!(world.answer(bob.link, others).is_none(), "bob waits in the line");
    go_on(&mut world);
    let first = world.answer(alice.link, calls[0]).unwrap();
    assert!(first.is_ok());
    for call in &calls[1..most] {
        assert_eq!(world.answer(alice.link, *call).unwrap(), first);
    }
    assert_eq!(code(world.answer(bob.link, others).unwrap()), ErrorCode::EpochConflict);
}

#[test]
fn a_line_takes_so_many_in_all() {
    let mut world = World::new();
    let (mut alice, _bob) = pair(&mut world);
    let others = limits::GROUP_QUEUE / limits::GROUP_QUEUE_OF_ACCOUNT;
    let mut members: Vec<_> =
        (0..others).map(|n| Device::new(&mut world, &format!("m{n}"))).collect();
    for member in &mut members {
        member.upload(&mut world, 1);
        alice.invite(&mut world, CHANNEL, member.id());
    }
    let request = Request::GroupInfoFetch { channel: CHANNEL };
    hold(&mut world);
    for member in &members {
        for _ in 0..limits::GROUP_QUEUE_OF_ACCOUNT {
            world.ask(member.link, request.clone());
        }
    }
    world.settle();
    let update = alice.commit_request(&world, CHANNEL, &Plan::default());
    let call = world.ask(alice.link, update);
    world.settle();
    assert_eq!(code(world.answer(alice.link, call).unwrap()), ErrorCode::Busy);
    go_on(&mut world);
}

/// Whoever is no member, or not any more, takes no place in the line, however many they are.
#[test]
fn outsiders_starve_no_member() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    let accounts = limits::GROUP_QUEUE / limits::GROUP_QUEUE_OF_ACCOUNT + 1;
    let late = bob.commit_request(&world, CHANNEL, &Plan::default());
    let removes = vec![bob.sender()];
    let removal = alice.commit_request(&world, CHANNEL, &Plan { removes, ..Plan::default() });
    accepted(world.call(alice.link, removal));
    alice.merge(&world);
    let mut outsiders: Vec<_> =
        (0..accounts).map(|n| Device::new(&mut world, &format!("outsider{n}"))).collect();
    outsiders.push(bob);
    let commit = alice.commit_request(&world, CHANNEL, &Plan::default());
    // All at once, before the store has answered anybody.
    world.disk = Disk::Waits;
    let mut calls = Vec::new();
    for (at, outsider) in outsiders.iter().enumerate() {
        for _ in 0..limits::GROUP_QUEUE_OF_ACCOUNT {
            calls.push((at, world.ask(outsider.link, late.clone())));
        }
    }
    let own = world.ask(alice.link, commit);
    world.settle();
    world.disk = Disk::Works;
    world.settle();
    accepted(world.answer(alice.link, own).unwrap());
    for (at, call) in calls {
        let answer = world.answer(outsiders[at].link, call).unwrap();
        assert_eq!(code(answer), ErrorCode::NotMember, "not busy");
    }
}

/// Commits of one epoch, made by devices of one account and by another.
#[test]
fn an_account_takes_one_turn_however_many_devices_it_has() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    let mut phone = bob.sibling(&mut world);
    let adds = vec![phone.key_package(&world, false).to_vec()];
    let add = alice.commit_request(&world, CHANNEL, &Plan { adds, ..Plan::default() });
    accepted(world.call(alice.link, add));
    alice.merge(&world);
    let entry = bob.read(&mut world, CHANNEL, 1).remove(0);
    bob.receive(&world, &entry.payload);
    phone.join(&mut world);
    let late = bob.commit_request(&world, CHANNEL, &Plan::default());
    let late_too = phone.commit_request(&world, CHANNEL, &Plan::default());
    let first = alice.commit_request(&world, CHANNEL, &Plan::default());
    accepted(world.call(alice.link, first));
    alice.merge(&world);
    // One loses after the other: theirs are counted together, and the turn is for both.
    for number in 0..limits::COMMIT_LOSSES {
        let (device, request) = if number == 0 { (&bob, &late) } else { (&phone, &late_too) };
        assert_eq!(world.fails(device.link, request.clone()), ErrorCode::EpochConflict);
    }
    let next = alice.commit_request(&world, CHANNEL, &Plan::default());
    assert_eq!(world.fails(alice.link, next.clone()), ErrorCode::Busy, "it is bob's turn");
    assert_eq!(world.fails(bob.link, late.clone()), ErrorCode::EpochConflict, "not busy");
    world.pass(limits::COMMIT_TURN);
    // They let it pass: neither gets another at once.
    for (device, request) in [(&bob, &late), (&phone, &late_too)] {
        for _ in 0..limits::COMMIT_LOSSES {
            assert_eq!(world.fails(device.link, request.clone()), ErrorCode::EpochConflict);
        }
    }
    accepted(world.call(alice.link, next));
}

#[test]
fn who_is_ahead_of_the_group_has_lost_nothing() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    // Bob's own idea of the group, which nobody has accepted.
    let Request::Commit(_) = bob.commit_request(&world, CHANNEL, &Plan::default()) else {
        panic!()
    };
    bob.merge(&world);
    let ahead = bob.commit_request(&world, CHANNEL, &Plan::default());
    for _ in 0..2 * limits::COMMIT_LOSSES {
        assert_eq!(world.fails(bob.link, ahead.clone()), ErrorCode::FutureEpoch);
    }
    let next = alice.commit_request(&world, CHANNEL, &Plan::default());
    accepted(world.call(alice.link, next));
}

// ---- what is kept ------------------------------------------------------------------------------

#[test]
fn so_many_groups_are_kept_and_the_others_read_again() {
    let mut world = World::new();
    let (mut alice, _) = pair(&mut world);
    let request = alice.commit_request(&world, CHANNEL, &Plan::default());
    let mut founder = Device::new(&mut world, "founder");
    for number in 0..limits::PUBLIC_GROUPS as u32 + 3 {
        let mut channel = [200; 16];
        channel[..4].copy_from_slice(&number.to_be_bytes());
        founder.found(&mut world, ChannelId::group(channel));
    }
    assert_eq!(world.server.groups.resting(), limits::PUBLIC_GROUPS);
    let loads = |world: &World| {
        world.executed.iter().filter(|op| matches!(op, StoreOp::LoadGroup { .. })).count()
    };
    let before = loads(&world);
    accepted(world.call(alice.link, request));
    assert_eq!(loads(&world), before + 1);
    assert_eq!(world.server.groups.resting(), limits::PUBLIC_GROUPS);
    alice.merge(&world);
    let next = alice.commit_request(&world, CHANNEL, &Plan::default());
    accepted(world.call(alice.link, next));
    assert_eq!(loads(&world), before + 1);
}

#[test]
fn so_many_bytes_of_groups_are_kept() {
    let most = 16 * 1024;
    let mut world = World::with(|config| config.public_group_bytes = most);
    let mut founder = Device::new(&mut world, "founder");
    let mut kept = 0;
    for number in 0..64 {
        founder.found(&mut world, ChannelId::group([number; 16]));
        let groups = &world.server.groups;
        assert!(groups.resting_bytes() <= most);
        kept = kept.max(groups.resting());
    }
    assert!((2..64).contains(&kept), "{kept}");
    assert_eq!(world.server.groups.resting(), kept);
    // One that is larger than all may be is worked on, and not kept.
    let mut world = World::with(|config| config.public_group_bytes = 1);
    let (mut alice, _bob) = pair(&mut world);
    let commit = alice.commit_request(&world, CHANNEL, &Plan::default());
    accepted(world.call(alice.link, commit));
    let groups = &world.server.groups;
    assert_eq!((groups.resting(), groups.resting_bytes()), (0, 0));
}
