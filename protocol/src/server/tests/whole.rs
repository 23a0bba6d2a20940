//! Whole conversations: the same again, cut differently, over a failing store, to the end of a drain.

use std::time::Duration;

use proptest::prelude::*;

use super::channels::{CHANNEL, pair};
use super::device::*;
use super::harness::*;
use crate::error::{CloseCode, ErrorCode};
use crate::id::{ChannelId, Digest};
use crate::io::{Input, WakeReason};
use crate::limits;
use crate::mls::group::Plan;
use crate::server::op::StoreOp;
use crate::wire::message::{Body, ChannelKind, Push, Reply, Request};

/// A conversation with a bit of everything; what its clients received, and the hash of all outputs.
fn conversation(chunk: usize) -> (Vec<String>, Digest, Vec<String>) {
    let mut world = World::new();
    world.chunk = chunk;
    let (mut alice, bob) = pair(&mut world);
    let subscribe = Request::Subscribe { channel: CHANNEL, after: 0 };
    world.call(bob.link, subscribe).unwrap();
    for text in ["one", "two"] {
        alice.say(&mut world, CHANNEL, text);
    }
    let update = alice.commit_request(&world, CHANNEL, &Plan::default());
    accepted(world.call(alice.link, update));
    alice.merge(&world);
    alice.say(&mut world, CHANNEL, "three");
    let lookup = world.ask(bob.link, Request::AccountLookup { username: username("alice") });
    world.settle();
    world.pass(Duration::from_secs(1));
    assert!(world.answer(bob.link, lookup).is_some());
    world.ask(bob.link, Request::Logout);
    world.settle();
    world.pass(Duration::from_secs(61));
    let frames: Vec<_> =
        world.ends.values().flat_map(|end| &end.inbox).map(|f| format!("{f:?}")).collect();
    let executed = world.executed.iter().map(|op| format!("{op:?}")).collect();
    (frames, world.outputs, executed)
}

#[test]
fn the_same_inputs_give_the_same_outputs() {
    assert_eq!(conversation(limits::READ_CHUNK), conversation(limits::READ_CHUNK));
}

#[test]
fn where_bytes_are_cut_changes_nothing() {
    let (frames, _, executed) = conversation(limits::READ_CHUNK);
    for chunk in [1, 7, 64, 1_000] {
        let (same_frames, _, same_executed) = conversation(chunk);
        assert!(frames == same_frames && executed == same_executed, "chunks of {chunk}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_cut_of_pipelined_calls_gives_the_same_answers(cuts in prop::collection::vec(1usize..400, 1..60)) {
        let answers = |cuts: &[usize]| {
            let mut world = World::new();
            let alice = Device::new(&mut world, "alice");
            let mut bytes = Vec::new();
            for call in 1_000..1_040 {
                let request = if call % 3 == 0 { Request::KeyPackageStatus { suite: None } } else { ping() };
                let frame = crate::wire::message::Frame { call, body: Body::Request(request) };
                crate::wire::frame::encode(&frame, &mut bytes);
            }
            let mut rest = bytes.as_slice();
            let mut turn = 0;
            while !rest.is_empty() {
                let (head, tail) = rest.split_at(cuts[turn % cuts.len()].min(rest.len()));
                world.send_bytes(alice.link, head);
                world.settle();
                rest = tail;
                turn += 1;
            }
            let mut inbox: Vec<_> =
                world.ends[&alice.link].inbox.iter().map(|f| (f.call, format!("{f:?}"))).collect();
            inbox.sort();
            inbox
        };
        prop_assert_eq!(answers(&cuts), answers(&[usize::MAX]));
    }

    #[test]
    fn regression_09_noise_moves_nothing_and_harms_nobody_else(
        noise in prop::collection::vec(any::<u8>(), 1..600),
        at in 0usize..600,
    ) {
        let mut world = World::new();
        let alice = Device::new(&mut world, "alice");
        let bob = Device::new(&mut world, "bob");
        let mut bytes = Vec::new();
        let frame = crate::wire::message::Frame { call: 1, body: Body::Request(ping()) };
        crate::wire::frame::encode(&frame, &mut bytes);
        let at = at.min(bytes.len());
        bytes.splice(at..at, noise);
        world.send_bytes(alice.link, &bytes);
        let executed = world.executed.len();
        world.settle();
        prop_assert_eq!(world.executed.len(), executed);
        prop_assert!(world.call(bob.link, ping()).is_ok());
    }
}

#[test]
fn a_failing_store_is_told_call_by_call_and_survived() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    let channel = ChannelId([7; 16]);
    let mut carol = Device::new(&mut world, "carol");
    let requests = |world: &mut World, alice: &mut Device, carol: &mut Device| {
        let fetch = |wait_ms| Request::Fetch { channel: CHANNEL, after: 0, limit: 1, wait_ms };
        let plan = Plan::default();
        vec![
            Request::DeviceList { account: alice.id() },
            alice.revocation(alice.sender().device, world),
            alice.deletion(world),
            alice.device_request(),
            alice.refresh_request(world),
            Request::Logout,
            Request::AccountLookup { username: username("bob") },
            Request::KeyPackageStatus { suite: None },
            Request::KeyPackageUpload {
                packages: vec![alice.key_package(world, false)],
                last_resort: None,
            },
            Request::KeyPackageFetch {
                account: alice.id(),
                suite: crate::mls::suite::Suite::Classical,
                device: None,
            },
            carol.found_request(world, channel, ChannelKind::Group),
            Request::ChannelInfo { channel: CHANNEL },
            Request::ChannelList { after: None },
            alice.message(world, CHANNEL, "lost"),
            alice.commit_request(world, CHANNEL, &plan),
            fetch(0),
            fetch(1_000),
            Request::Subscribe { channel: CHANNEL, after: 0 },
            Request::Ack { channel: CHANNEL, seq: 1 },
            Request::GroupInfoFetch { channel: CHANNEL },
            Request::BlobGet { hash: Digest([1; 32]), offset: 0 },
        ]
    };
    let all = requests(&mut world, &mut alice, &mut carol);
    let last = all.len();
    for request in all {
        let link = match &request {
            Request::ChannelCreate { .. } => carol.link,
            _ => alice.link,
        };
        world.disk = Disk::Fails;
        let failure = world.call(link, request).unwrap_err();
        assert_eq!(failure.code, ErrorCode::Unavailable);
        assert!(failure.retry_after_ms > 0);
        world.disk = Disk::Works;
        assert_eq!(world.close_code(link), None);
    }
    assert!(last > 20);
    assert!(world.server.watches.is_empty() && world.server.polls.is_empty());
    world.disk = Disk::Fails;
    world.ask(alice.link, Request::KeyPackageStatus { suite: None });
    world.settle();
    match world.call(alice.link, Request::Health).unwrap() {
        Reply::Health { healthy, .. } => assert!(!healthy),
        other => panic!("{other:?}"),
    }
    world.disk = Disk::Works;
    alice.discard();
    // A commit that failed at its very last step: the state is read anew, and the resend goes through.
    let commit = alice.commit_request(&world, CHANNEL, &Plan::default());
    world.disk = Disk::Waits;
    let call = world.ask(alice.link, commit.clone());
    world.settle();
    while !world.waiting.iter().any(|(_, op)| matches!(op, StoreOp::Commit(_))) {
        world.flush_once();
    }
    world.disk = Disk::Fails;
    world.settle();
    assert_eq!(code(world.answer(alice.link, call).unwrap()), ErrorCode::Unavailable);
    world.disk = Disk::Works;
    accepted(world.call(alice.link, commit));
    alice.merge(&world);
    let entry = bob.read(&mut world, CHANNEL, 1).remove(0);
    bob.receive(&world, &entry.payload);
    bob.say(&mut world, CHANNEL, "all is well");
}

#[test]
fn logins_over_a_failing_store_can_be_tried_again() {
    let mut world = World::new();
    let mut alice = Device::draft(&mut world, "alice");
    world.disk = Disk::Fails;
    assert_eq!(code(alice.register(&mut world)), ErrorCode::Unavailable);
    assert_eq!(alice.log_in(&mut world, "secret").unwrap_err().code, ErrorCode::Unavailable);
    world.disk = Disk::Works;
    alice.register(&mut world).unwrap();
    alice.log_in(&mut world, "secret").unwrap();
    alice.register_device(&mut world).unwrap();
    let request = alice.resume_request(&mut world, 1);
    world.disk = Disk::Fails;
    assert_eq!(world.fails(alice.link, request.clone()), ErrorCode::Unavailable);
    world.disk = Disk::Works;
    assert!(world.call(alice.link, request).is_ok());
}

#[test]
fn a_push_that_could_not_be_read_is_tried_again_later() {
    let mut world = World::new();
    let (mut alice, bob) = pair(&mut world);
    world.call(bob.link, Request::Subscribe { channel: CHANNEL, after: 1 }).unwrap();
    let message = alice.message(&world, CHANNEL, "hello");
    world.disk = Disk::Waits;
    world.ask(alice.link, message);
    world.settle();
    world.flush_once();
    world.settle();
    assert!(matches!(world.waiting[..], [(_, StoreOp::Fetch { .. })]));
    world.disk = Disk::Fails;
    world.settle();
    let executed = world.executed.len();
    assert_eq!(world.idle.1, WakeReason::LongPoll);
    world.disk = Disk::Works;
    world.pass(Duration::from_millis(999));
    assert_eq!(world.executed.len(), executed);
    world.pass(Duration::from_millis(1));
    assert!(matches!(world.pushes(bob.link)[..], [Push::Entries(_)]));
}

#[test]
fn expired_things_are_swept_every_minute_and_sooner_if_there_are_more() {
    let mut world = World::new();
    world.pass(Duration::from_secs(59));
    assert!(world.executed.is_empty());
    world.pass(Duration::from_secs(1));
    assert!(matches!(world.executed[..], [StoreOp::Sweep { at, .. }] if at == world.now.wall));
    world.disk = Disk::Fails;
    world.pass(Duration::from_secs(60));
    world.disk = Disk::Waits;
    world.pass(Duration::from_secs(60));
    let (op, _) = world.waiting.pop().unwrap();
    world.input(Input::Stored(op, Ok(crate::server::op::StoreReply::Swept(5_000))));
    world.settle();
    let pause = world.idle.0.unwrap() - world.now.mono;
    assert!(pause < Duration::from_secs(1));
}

#[test]
fn a_founding_whose_answer_was_lost_can_be_sent_again() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    let mut bob = Device::new(&mut world, "bob");
    let request = alice.found_request(&world, CHANNEL, ChannelKind::Group);
    assert_eq!(world.call(alice.link, request.clone()).unwrap(), Reply::Done);
    assert_eq!(world.call(alice.link, request).unwrap(), Reply::Done);
    let other = alice.found_request(&world, CHANNEL, ChannelKind::Group);
    assert_eq!(world.fails(alice.link, other), ErrorCode::ChannelExists);
    let others = bob.found_request(&world, CHANNEL, ChannelKind::Group);
    assert_eq!(world.fails(bob.link, others), ErrorCode::ChannelExists);
}

#[test]
fn regression_18_of_two_founders_of_one_channel_one_wins() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    let mut bob = Device::new(&mut world, "bob");
    let channel = ChannelId::direct(alice.id(), bob.id());
    let one = alice.found_direct_request(&world, bob.id());
    let other = bob.found_direct_request(&world, alice.id());
    let (first, second) = (world.ask(alice.link, one), world.ask(bob.link, other));
    world.settle();
    assert_eq!(world.answer(alice.link, first).unwrap().unwrap(), Reply::Done);
    assert_eq!(code(world.answer(bob.link, second).unwrap()), ErrorCode::ChannelExists);
    bob.upload(&mut world, 1);
    alice.invite(&mut world, channel, bob.id());
    bob.join(&mut world);
    bob.say(&mut world, channel, "in");
}

#[test]
fn a_drain_finishes_what_is_in_flight() {
    let mut world = World::new();
    let (mut alice, bob) = pair(&mut world);
    let idle = world.connect();
    let wait = Request::Fetch { channel: CHANNEL, after: 1, limit: 1, wait_ms: 20_000 };
    let waiting = world.ask(bob.link, wait);
    let message = alice.message(&world, CHANNEL, "last");
    world.settle();
    world.disk = Disk::Waits;
    let call = world.ask(alice.link, message);
    world.settle();
    world.server.drain(world.now);
    world.settle();
    assert_eq!(world.pushes(idle), [Push::Draining]);
    assert_eq!(world.pushes(alice.link), [Push::Draining]);
    assert!(matches!(world.answer(bob.link, waiting), Some(Ok(Reply::Entries(_)))));
    // No more connections, no more calls.
    let late = world.dial(World::transport(crate::io::Links::One));
    world.settle();
    assert_eq!(world.closed[&late], CloseCode::SHUTDOWN);
    let refused = world.ask(alice.link, ping());
    world.pass(Duration::from_millis(100));
    assert_eq!(world.close_code(idle), Some(CloseCode::SHUTDOWN));
    assert_eq!(world.close_code(bob.link), Some(CloseCode::SHUTDOWN));
    assert_eq!(world.close_code(alice.link), None);
    assert!(!world.server.is_drained());
    world.flush();
    accepted(world.answer(alice.link, call).unwrap());
    assert!(world.answer(alice.link, refused).is_none());
    assert!(!world.server.is_drained());
    world.pass(Duration::from_millis(100));
    assert_eq!(world.close_code(alice.link), Some(CloseCode::SHUTDOWN));
    assert!(world.server.is_drained());
}

#[test]
fn a_drain_does_not_wait_for_ever() {
    let mut world = World::new();
    let (mut alice, _) = pair(&mut world);
    let message = alice.message(&world, CHANNEL, "stuck");
    world.disk = Disk::Waits;
    world.ask(alice.link, message);
    world.settle();
    world.server.drain(world.now);
    world.server.drain(world.now);
    world.settle();
    world.pass(limits::DRAIN_TIME - Duration::from_millis(1));
    assert_eq!(world.close_code(alice.link), None);
    assert_eq!(world.idle.1, WakeReason::Drain);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.close_code(alice.link), Some(CloseCode::SHUTDOWN));
    world.flush();
    assert!(world.server.is_drained());
}
