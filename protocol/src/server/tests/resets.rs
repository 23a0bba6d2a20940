//! Another generation of a channel, as the server judges it.

use super::channels::{CHANNEL, pair};
use super::device::{Device, accepted};
use super::harness::{World, backend};
use crate::error::ErrorCode;
use crate::id::{ChannelId, Digest, GroupId};
use crate::mls::Context;
use crate::mls::data::GroupData;
use crate::mls::group::{Group, NewGroup};
use crate::mls::suite::Suite;
use crate::server::op::{reset_message, reset_payload};
use crate::wire::message::{ChannelKind, EntryKind, Reply, Request};

/// Makes the next group of a channel and what asks for it.
fn reset(
    device: &mut Device,
    world: &World,
    (generation, made_for): (u32, u32),
    suite: Suite,
    data: GroupData,
) -> (Group, Request) {
    let new = NewGroup { id: GroupId::of(CHANNEL, made_for), suite, data };
    let wall = world.now.wall;
    let cx = Context { backend: backend(), entropy: &mut device.entropy, wall };
    let (group, founding) = Group::create(cx, &device.local, &new).unwrap();
    let request = Request::ChannelCreate {
        channel: CHANNEL,
        kind: ChannelKind::Group,
        generation,
        group_info: founding.group_info.into(),
        tree: founding.tree.into(),
        with: None,
    };
    (group, request)
}

fn next(of: &Device) -> GroupData {
    GroupData { version: 1, admins: vec![of.id()], open: true, metadata: Digest([1; 32]) }
}

#[test]
fn only_an_admin_resets_and_changes_no_roles_by_it() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    let mut carol = Device::new(&mut world, "carol");
    let both = |alice: &Device, bob: &Device| {
        let mut admins = vec![alice.id(), bob.id()];
        admins.sort_unstable();
        admins
    };
    let suite = Suite::Classical;
    let data = next(&alice);
    let refused = |world: &mut World, who: &mut Device, generation, data, code| {
        let (_, request) = reset(who, world, generation, suite, data);
        assert_eq!(world.fails(who.link, request), code, "{generation:?}");
    };
    let of_bob = GroupData { admins: both(&alice, &bob), ..data.clone() };
    refused(&mut world, &mut bob, (2, 2), of_bob.clone(), ErrorCode::NotAllowed);
    let of_carol = next(&carol);
    refused(&mut world, &mut carol, (2, 2), of_carol, ErrorCode::NotMember);
    refused(&mut world, &mut alice, (2, 2), of_bob, ErrorCode::NotAllowed);
    let closed = GroupData { open: false, ..data.clone() };
    refused(&mut world, &mut alice, (2, 2), closed, ErrorCode::NotAllowed);
    refused(&mut world, &mut alice, (2, 1), data.clone(), ErrorCode::CommitInvalid);
    for generation in [0, 3, u32::MAX - 1, u32::MAX] {
        let both = (generation, generation);
        refused(&mut world, &mut alice, both, data.clone(), ErrorCode::GenerationMismatch);
    }
    refused(&mut world, &mut alice, (1, 1), data.clone(), ErrorCode::ChannelExists);
    // Of a channel that there is not.
    let (_, mut elsewhere) = reset(&mut alice, &world, (2, 2), suite, data.clone());
    if let Request::ChannelCreate { channel, .. } = &mut elsewhere {
        *channel = ChannelId([4; 16]);
    }
    assert_eq!(world.fails(alice.link, elsewhere), ErrorCode::ChannelUnknown);
    // Made by another than whose session it is.
    let (_, foreign) = reset(&mut alice, &world, (2, 2), suite, data.clone());
    assert_eq!(world.fails(bob.link, foreign), ErrorCode::NotAllowed);
    // Nothing of it has changed the group.
    bob.say(&mut world, CHANNEL, "still here");
    let (_, request) = reset(&mut alice, &world, (2, 2), suite, data);
    accepted(world.call(alice.link, request));
}

#[test]
fn a_reset_is_answered_again_and_ends_the_group_for_the_others() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    let late = bob.message(&world, CHANNEL, "late");
    let data = next(&alice);
    let (group, request) = reset(&mut alice, &world, (2, 2), Suite::Classical, data);
    let Request::ChannelCreate { group_info, .. } = &request else { panic!() };
    let (message, payload) = (reset_message(group_info), reset_payload(group_info));
    let first = accepted(world.call(alice.link, request.clone()));
    let statement = first.statement(CHANNEL, message, payload.hash());
    let server = world.server.id();
    backend().ed25519_verify(&server.0, &statement, &first.proof).unwrap();
    assert_eq!(accepted(world.call(alice.link, request)), first, "sent again");
    let entry = bob.read(&mut world, CHANNEL, 0).pop().unwrap();
    assert_eq!(
        (entry.kind, entry.seq, entry.sender),
        (EntryKind::Reset, first.seq, alice.sender())
    );
    assert_eq!((entry.generation, entry.payload), (2, payload));
    assert_eq!(world.fails(bob.link, late), ErrorCode::GenerationMismatch);
    // The new group goes on in the same log; who is added reads on.
    alice.group = Some(group);
    let adds = alice.claim(&mut world, bob.id()).iter().map(|package| package.to_vec()).collect();
    let plan = crate::mls::group::Plan { adds, ..Default::default() };
    let Request::Commit(mut bundle) = alice.commit_request(&world, CHANNEL, &plan) else {
        panic!()
    };
    bundle.generation = 2;
    let added = accepted(world.call(alice.link, Request::Commit(bundle)));
    assert_eq!(added.seq, first.seq + 1);
    assert_eq!(bob.read(&mut world, CHANNEL, 0).pop().unwrap().seq, added.seq);
    bob.join(&mut world);
    assert_eq!(bob.group.as_ref().unwrap().id(), GroupId::of(CHANNEL, 2));
    let Reply::Channel(info) =
        world.call(bob.link, Request::ChannelInfo { channel: CHANNEL }).unwrap()
    else {
        panic!()
    };
    assert_eq!((info.generation, info.epoch, info.members), (2, 1, 2));
}

#[test]
fn a_group_never_moves_to_a_weaker_suite() {
    let mut world = World::new();
    let (mut alice, _bob) = pair(&mut world);
    let data = next(&alice);
    let (_, up) = reset(&mut alice, &world, (2, 2), Suite::Hybrid, data.clone());
    accepted(world.call(alice.link, up));
    let (_, down) = reset(&mut alice, &world, (3, 3), Suite::Classical, data.clone());
    assert_eq!(world.fails(alice.link, down), ErrorCode::SuiteNotAllowed);
    let (_, same) = reset(&mut alice, &world, (3, 3), Suite::Hybrid, data);
    accepted(world.call(alice.link, same));
}
