//! Proposals that wait for a commit, as the server lets them in and insists on them: no member's wish stops the group.

use std::time::Duration;

use super::channels::{CHANNEL, pair};
use super::device::*;
use super::harness::*;
use crate::error::ErrorCode;
use crate::limits;
use crate::mls::commit::Wish;
use crate::mls::group::Plan;
use crate::wire::message::Request;

/// Alice's proposal to add a device by that key package, which alice and bob have read.
fn queue(world: &mut World, alice: &mut Device, bob: &mut Device, package: &[u8]) {
    let proposal = alice.propose_request(world, CHANNEL, Wish::Add(package));
    let seq = accepted(world.call(alice.link, proposal)).seq;
    let entry = bob.read(world, CHANNEL, seq - 1).remove(0);
    bob.receive(world, &entry.payload);
    alice.receive(world, &entry.payload);
}

fn commit(world: &mut World, by: &mut Device, leave_adds_out: bool) -> Result<(), ErrorCode> {
    let plan = Plan { leave_adds_out, ..Plan::default() };
    let request = by.commit_request(world, CHANNEL, &plan);
    match world.call(by.link, request) {
        Ok(_) => {
            by.merge(world);
            Ok(())
        }
        Err(failure) => {
            by.discard();
            Err(failure.code)
        }
    }
}

/// `reader` takes the commit of another in.
fn follow(world: &mut World, reader: &mut Device) {
    let entry = reader.read(world, CHANNEL, 0).pop().unwrap();
    reader.receive(world, &entry.payload);
}

#[test]
fn a_device_that_its_account_does_not_have_is_not_queued() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    // Never registered; registered with another key; of no account at all; revoked.
    let mut phone = bob.sibling(&mut world);
    let mut ghost = Device::draft(&mut world, "ghost");
    let mut other = Device::new(&mut world, "other");
    let mut record = other.local.record.clone();
    record.device.0[0] ^= 1;
    let at = world.now.wall;
    record = crate::crypto::identity::DeviceRecord::sign(
        backend(),
        &other.account,
        record.device,
        other.local.key.public(),
        1,
        at,
    );
    other.local.record = record;
    let unknown = other.key_package(&world, false);
    let ghostly = ghost.key_package(&world, false);
    let revoked = phone.key_package(&world, false);
    let revocation = bob.revocation(phone.sender().device, &world);
    world.call(bob.link, revocation).unwrap();
    for package in [unknown, ghostly, revoked] {
        let proposal = alice.propose_request(&world, CHANNEL, Wish::Add(&package));
        assert_eq!(world.fails(alice.link, proposal), ErrorCode::RecordInvalid);
    }
    // The group has not changed by it.
    commit(&mut world, &mut alice, false).unwrap();
    follow(&mut world, &mut bob);
    bob.say(&mut world, CHANNEL, "as before");
}

#[test]
fn a_device_revoked_after_it_was_queued_does_not_stop_the_group() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    let mut carol = Device::new(&mut world, "carol");
    let phone = carol.sibling(&mut world);
    let package = carol.key_package(&world, false);
    queue(&mut world, &mut alice, &mut bob, &package);
    let revocation = phone.revocation(carol.sender().device, &world);
    world.call(phone.link, revocation).unwrap();
    // Insisted on, until it has shown that nobody can do it.
    assert_eq!(commit(&mut world, &mut bob, true), Err(ErrorCode::ProposalLeftOut));
    assert_eq!(commit(&mut world, &mut bob, false), Err(ErrorCode::RecordInvalid));
    commit(&mut world, &mut bob, true).unwrap();
    follow(&mut world, &mut alice);
    alice.say(&mut world, CHANNEL, "on we go");
    // In that epoch only.
    let mut dave = Device::new(&mut world, "dave");
    let package = dave.key_package(&world, false);
    queue(&mut world, &mut alice, &mut bob, &package);
    assert_eq!(commit(&mut world, &mut bob, true), Err(ErrorCode::ProposalLeftOut));
    commit(&mut world, &mut bob, false).unwrap();
}

#[test]
fn a_queued_add_is_insisted_on_while_its_key_package_has_time() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    let mut carol = Device::new(&mut world, "carol");
    let package = carol.key_package(&world, false);
    let end = world.now.wall.plus(limits::KEY_PACKAGE_TIME);
    queue(&mut world, &mut alice, &mut bob, &package);
    world.now.wall = end.minus(limits::ADD_INSISTED).minus(Duration::from_millis(1));
    assert_eq!(commit(&mut world, &mut bob, true), Err(ErrorCode::ProposalLeftOut));
    world.now.wall = end.minus(limits::ADD_INSISTED);
    commit(&mut world, &mut bob, true).unwrap();
}

#[test]
fn a_queued_add_that_ends_is_waived() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    let mut carol = Device::new(&mut world, "carol");
    let package = carol.key_package(&world, false);
    let end = world.now.wall.plus(limits::KEY_PACKAGE_TIME);
    queue(&mut world, &mut alice, &mut bob, &package);
    // Made in its last moments, by a clock that is behind.
    let request = bob.commit_request(&world, CHANNEL, &Plan::default());
    world.now.wall = end;
    assert_eq!(world.fails(bob.link, request), ErrorCode::KeyPackageInvalid);
    bob.discard();
    // Even if the server's clock were set back then.
    world.now.wall = end.minus(limits::KEY_PACKAGE_TIME);
    commit(&mut world, &mut bob, true).unwrap();
}

/// A device that fell out cannot take along what is queued, and is not kept out by it.
#[test]
fn a_commit_from_outside_may_leave_a_queued_add_out() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    let mut carol = Device::new(&mut world, "carol");
    let package = carol.key_package(&world, false);
    queue(&mut world, &mut alice, &mut bob, &package);
    let request = bob.rejoin_request(&mut world, CHANNEL);
    assert!(matches!(request, Request::Commit(_)));
    accepted(world.call(bob.link, request));
    follow(&mut world, &mut alice);
    bob.say(&mut world, CHANNEL, "back");
}
