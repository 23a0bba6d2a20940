//! Key packages that share a key: with each other, or with a member. Each holds by itself, and a commit with both is
//! refused as a whole. So one of them is left out and named, and nobody else's wish suffers.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use crate::mallory::Mallory;
use crate::talk::*;
use qpc_protocol::client::event::{Event, Failed, Outcome};
use qpc_protocol::crypto::identity::DeviceKey;
use qpc_protocol::crypto::portable;
use qpc_protocol::env::Entropy;
use qpc_protocol::error::ErrorCode;
use qpc_protocol::id::Sender;
use qpc_protocol::io::Ticket;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{Body, Failure, Frame, Part, Request};
use qpc_sim::world::{Rules, World};

/// Who a device was told could not be added, by a ticket or by any.
fn named(world: &World, device: usize, by: Option<Ticket>) -> Vec<Sender> {
    let of = |event: &Event| match event {
        Event::NotAdded { ticket, device, .. } if by.is_none_or(|by| by == *ticket) => {
            Some(*device)
        }
        _ => None,
    };
    world.devices[device].log.iter().filter_map(of).collect()
}

#[test]
fn of_two_devices_that_share_a_key_one_comes_in_and_the_other_is_named() {
    let same = || DeviceKey::generate(portable(), &mut Entropy::from_seed([8; 32]));
    // The keys that others encrypt to, or the one that they sign with.
    for (seeds, keys) in [([9, 9], None), ([1, 2], Some(vec![same(), same()]))] {
        let mut world = World::new(Rules::new(31));
        let alice = world.register("alice");
        let mallory = match keys {
            None => Mallory::new(&mut world, "mallory", 2),
            Some(keys) => Mallory::with_keys(&mut world, "mallory", keys),
        };
        let channel = found(&mut world, alice, Suite::Classical);
        mallory.upload(&mut world, Suite::Classical, &seeds);
        let ticket = world.command(alice, |client, now| client.invite(now, channel, "mallory"));
        assert!(matches!(world.outcome(alice, ticket), Outcome::Epoch(_)));
        let left_out = named(&world, alice, Some(ticket));
        assert_eq!(left_out, [mallory.device(1)]);
        let members = members(&mut world, alice, channel);
        assert_eq!(members.len(), 2);
        assert!(!members.contains(&left_out[0]));
    }
}

#[test]
fn who_is_invited_beside_devices_that_share_keys_comes_in() {
    let mut world = World::new(Rules::new(32));
    let alice = world.register("alice");
    let bob = world.register("bob");
    let mallory = Mallory::new(&mut world, "mallory", 2);
    let channel = found(&mut world, alice, Suite::Classical);
    mallory.upload(&mut world, Suite::Classical, &[9, 9]);
    let first = world.command(alice, |client, now| client.invite(now, channel, "mallory"));
    let second = world.command(alice, |client, now| client.invite(now, channel, "bob"));
    assert!(matches!(world.outcome(alice, second), Outcome::Epoch(_)));
    assert!(matches!(world.outcome(alice, first), Outcome::Epoch(_)));
    assert_eq!(named(&world, alice, None), [mallory.device(1)]);
    world.settle();
    agree(&world, channel, &[alice, bob]);
}

/// Two accounts, one invitation each, in one commit but for their keys: the second waits for the next, and is named
/// then.
#[test]
fn a_copy_of_a_member_s_keys_is_named_and_added_nowhere() {
    let (mut world, channel) = three(33);
    let mallory = Mallory::new(&mut world, "mallory", 1);
    let eve = Mallory::new(&mut world, "eve", 2);
    world.register("dave");
    mallory.upload(&mut world, Suite::Classical, &[9]);
    eve.upload(&mut world, Suite::Classical, &[9, 9]);
    let tickets = ["mallory", "eve", "dave"]
        .map(|name| world.command(ALICE, |client, now| client.invite(now, channel, name)));
    let failed = world.failure(ALICE, tickets[1]);
    assert!(matches!(failed, Failed::NotAdded { .. }), "{failed:?}");
    for ticket in [tickets[0], tickets[2]] {
        assert!(matches!(world.outcome(ALICE, ticket), Outcome::Epoch(_)));
    }
    let both = BTreeSet::from([eve.device(0), eve.device(1)]);
    let left_out = named(&world, ALICE, Some(tickets[1]));
    assert_eq!((left_out.len(), BTreeSet::from_iter(left_out)), (2, both));
    // With keys of her own she is welcome.
    eve.upload(&mut world, Suite::Classical, &[10, 9]);
    let ticket = world.command(ALICE, |client, now| client.invite(now, channel, "eve"));
    assert!(matches!(world.outcome(ALICE, ticket), Outcome::Epoch(_)));
    assert_eq!(named(&world, ALICE, Some(ticket)), [eve.device(1)]);
    world.settle();
    assert_eq!(world.group(ALICE, channel).members, 6);
    agree(&world, channel, &[ALICE, BOB, CAROL, 3]);
}

/// What another has proposed is committed first; then a copy of its keys is found.
#[test]
fn keys_of_a_device_that_is_proposed_are_taken() {
    let (mut world, channel) = three(34);
    make_admin(&mut world, ALICE, channel, BOB);
    let mallory = Mallory::new(&mut world, "mallory", 1);
    let eve = Mallory::new(&mut world, "eve", 2);
    mallory.upload(&mut world, Suite::Classical, &[9]);
    eve.upload(&mut world, Suite::Classical, &[9, 10]);
    let proposed = queue_add(&mut world, channel, BOB, ALICE, "mallory");
    let ticket = world.command(ALICE, |client, now| client.invite(now, channel, "eve"));
    world.pass(Duration::from_secs(1));
    honest(&mut world, &[ALICE, BOB, CAROL]);
    assert!(matches!(world.outcome(BOB, proposed), Outcome::Epoch(_)));
    assert!(matches!(world.outcome(ALICE, ticket), Outcome::Epoch(_)));
    assert_eq!(named(&world, ALICE, None), [eve.device(0)]);
    world.settle();
    let members = members(&mut world, CAROL, channel);
    assert!(members.contains(&mallory.device(0)) && members.contains(&eve.device(1)));
    agree(&world, channel, &[ALICE, BOB, CAROL]);
}

#[test]
fn a_reset_brings_the_others_back_beside_devices_that_share_keys() {
    let (mut world, channel) = three(35);
    let mallory = Mallory::new(&mut world, "mallory", 2);
    mallory.upload(&mut world, Suite::Classical, &[1, 2]);
    world.done(ALICE, |client, now| client.invite(now, channel, "mallory"));
    mallory.upload(&mut world, Suite::Classical, &[9, 9]);
    let ticket = world.command(ALICE, |client, now| client.reset(now, channel, None));
    assert!(matches!(world.outcome(ALICE, ticket), Outcome::Reset { generation: 2, .. }));
    let left_out = named(&world, ALICE, Some(ticket));
    assert_eq!(left_out, [mallory.device(1)]);
    all_say(&mut world, channel, &[ALICE, BOB, CAROL], "again");
    // It is tried again, told no more, and keeps nobody from anything.
    for _ in 0..5 {
        mallory.upload(&mut world, Suite::Classical, &[11, 9]);
        world.done(ALICE, |client, now| client.update(now, channel));
        world.pass(Duration::from_secs(60));
    }
    assert_eq!(named(&world, ALICE, None), left_out);
    for _ in 0..8 {
        mallory.upload(&mut world, Suite::Classical, &[11, 12]);
        world.pass(Duration::from_secs(3_600));
    }
    assert!(members(&mut world, ALICE, channel).contains(&left_out[0]));
    agree(&world, channel, &[ALICE, BOB, CAROL]);
}

/// Whatever is wrong with one wish: it fails alone.
#[test]
fn of_several_wishes_one_that_the_server_does_not_take_fails_alone() {
    let mut world = World::new(Rules::new(36));
    let alice = world.register("alice");
    let bob = world.register("bob");
    let carol = world.register("carol");
    let unwanted = account(&mut world, carol);
    let channel = found(&mut world, alice, Suite::Classical);
    let has = move |part: &Part| match part {
        Part::Inline(bytes) => bytes.windows(32).any(|window| window == unwanted.0),
        Part::Blob { .. } => false,
    };
    let call = Rc::new(Cell::new(0));
    lie_both_ways(&mut world, alice, move |up, frame| {
        let id = frame.call;
        match &frame.body {
            Body::Request(Request::Commit(bundle)) if up && has(&bundle.commit) => {
                call.set(id);
                vec![Frame { call: id, body: Body::Request(Request::Ping(Bytes::new())) }]
            }
            _ if !up && id > 0 && call.get() == id => {
                call.set(0);
                let failure = Failure::from(ErrorCode::CommitInvalid);
                vec![Frame { call: id, body: Body::Failure(failure) }]
            }
            _ => vec![frame],
        }
    });
    let tickets = ["carol", "bob"]
        .map(|name| world.command(alice, |client, now| client.invite(now, channel, name)));
    let update = world.command(alice, |client, now| client.update(now, channel));
    assert_eq!(code(&world.failure(alice, tickets[0])), ErrorCode::CommitInvalid);
    for ticket in [tickets[1], update] {
        assert!(matches!(world.outcome(alice, ticket), Outcome::Epoch(_)));
    }
    world.settle();
    assert_eq!(world.group(alice, channel).members, 2);
    agree(&world, channel, &[alice, bob]);
}
