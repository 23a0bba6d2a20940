use std::time::Duration;

use super::channels::{CHANNEL, pair, pushed};
use super::device::*;
use super::harness::*;
use crate::error::{CloseCode, ErrorCode};
use crate::id::ChannelId;
use crate::io::{Gone, Input, LinkId, LinkRole, Links, WakeReason};
use crate::limits;
use crate::mls::group::Plan;
use crate::server::op::{Append, StoreOp, StoreReply};
use crate::wire::message::{Entries, EntryKind, Part, Push, Reply, Request, Submit};

fn subscribe(world: &mut World, link: LinkId, after: u64) -> u64 {
    match world.call(link, Request::Subscribe { channel: CHANNEL, after }).unwrap() {
        Reply::Subscribed { head } => head,
        other => panic!("{other:?}"),
    }
}

fn seqs(world: &mut World, link: LinkId) -> Vec<u64> {
    pushed(world, link).into_iter().map(|entry| entry.0).collect()
}

#[test]
fn a_subscription_begins_at_its_cursor_and_goes_on() {
    let mut world = World::new();
    let (mut alice, bob) = pair(&mut world);
    for _ in 0..5 {
        alice.say(&mut world, CHANNEL, "before");
    }
    assert_eq!(subscribe(&mut world, bob.link, 3), 6);
    alice.say(&mut world, CHANNEL, "after");
    assert_eq!(seqs(&mut world, bob.link), [4, 5, 6, 7]);
    // Again from elsewhere: the old one is replaced.
    assert_eq!(subscribe(&mut world, bob.link, 5), 7);
    assert_eq!(seqs(&mut world, bob.link), [6, 7]);
    let request = Request::Unsubscribe { channel: CHANNEL };
    assert_eq!(world.call(bob.link, request.clone()).unwrap(), Reply::Done);
    alice.say(&mut world, CHANNEL, "unheard");
    assert!(seqs(&mut world, bob.link).is_empty());
    assert_eq!(world.call(bob.link, request).unwrap(), Reply::Done);
    assert!(world.server.watches.is_empty());
}

#[test]
fn subscriptions_are_for_members_and_for_what_exists() {
    let mut world = World::new();
    let (_, bob) = pair(&mut world);
    let carol = Device::new(&mut world, "carol");
    let request = |channel, after| Request::Subscribe { channel, after };
    assert_eq!(world.fails(carol.link, request(CHANNEL, 0)), ErrorCode::NotMember);
    let unknown = ChannelId([8; 16]);
    assert_eq!(world.fails(carol.link, request(unknown, 0)), ErrorCode::ChannelUnknown);
    assert_eq!(world.fails(bob.link, request(CHANNEL, 9)), ErrorCode::CursorInvalid);
    assert!(world.server.watches.is_empty());
}

#[test]
fn a_welcome_is_pushed_to_the_inbox() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    let mut bob = Device::new(&mut world, "bob");
    bob.upload(&mut world, 1);
    let channel = ChannelId::inbox(bob.sender());
    world.call(bob.link, Request::Subscribe { channel, after: 0 }).unwrap();
    alice.found(&mut world, CHANNEL);
    alice.invite(&mut world, CHANNEL, bob.id());
    let pushes = world.pushes(bob.link);
    let entries = pushes.iter().find_map(|push| match push {
        Push::Entries(entries) => Some(&entries.entries),
        _ => None,
    });
    let entry = &entries.unwrap()[0];
    assert_eq!(entry.kind, EntryKind::Welcome);
    assert_eq!(entry.origin.unwrap().channel, CHANNEL);
}

#[test]
fn a_slow_subscriber_costs_a_cursor_and_catches_up() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    let conn = world.dial(World::transport(Links::Many));
    let calls = world.open(conn, LinkRole::Calls, CREDIT);
    bob.link = calls;
    bob.resume(&mut world).unwrap();
    // No link for pushes yet: everything waits.
    subscribe(&mut world, calls, 1);
    for _ in 0..200 {
        alice.say(&mut world, CHANNEL, "hello");
    }
    let pushes = world.open(conn, LinkRole::Pushes, 100);
    assert_eq!(world.ends[&pushes].received, 100);
    let backlog = world.server.links[&pushes].backlog();
    assert!(backlog < 2 * limits::FETCH_BYTES);
    let mut granted = 100;
    while granted < 200_000 {
        granted += 1_000;
        world.input(Input::Writable(pushes, 1_000));
        world.settle();
        assert!(world.ends[&pushes].received <= granted);
        if granted % 50_000 == 0 {
            alice.say(&mut world, CHANNEL, "meanwhile");
        }
    }
    world.input(Input::Writable(pushes, CREDIT));
    world.settle();
    let head = alice.say(&mut world, CHANNEL, "last").seq;
    assert_eq!(seqs(&mut world, pushes), (2..=head).collect::<Vec<_>>());
}

#[test]
fn who_loses_the_link_for_pushes_subscribes_again() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    let conn = world.dial(World::transport(Links::Many));
    let calls = world.open(conn, LinkRole::Calls, CREDIT);
    let pushes = world.open(conn, LinkRole::Pushes, CREDIT);
    bob.link = calls;
    bob.resume(&mut world).unwrap();
    subscribe(&mut world, calls, 1);
    // It has nothing to say there; that is no end of listening.
    world.input(Input::Closed(pushes, Gone::Finished));
    world.settle();
    alice.say(&mut world, CHANNEL, "hello");
    assert_eq!(seqs(&mut world, pushes), [2]);
    world.input(Input::Closed(pushes, Gone::Closed(CloseCode::DONE)));
    world.settle();
    assert!(world.server.watches.is_empty());
    alice.say(&mut world, CHANNEL, "unheard");
    let pushes = world.open(conn, LinkRole::Pushes, CREDIT);
    subscribe(&mut world, calls, 2);
    assert_eq!(seqs(&mut world, pushes), [3]);
}

#[test]
fn far_behind_is_told_with_a_number() {
    let mut world = World::new();
    let (mut alice, bob) = pair(&mut world);
    let Request::Submit(submit) = alice.message(&world, CHANNEL, "x") else { panic!() };
    append_elsewhere(&mut world, &alice, &submit, 1_500);
    let request = Request::Fetch { channel: CHANNEL, after: 1, limit: 10, wait_ms: 0 };
    match world.call(bob.link, request).unwrap() {
        Reply::Entries(Entries { entries, head, behind, first, .. }) => {
            assert_eq!((entries.len(), head, behind, first), (10, 1_501, 1_490, 2));
        }
        other => panic!("{other:?}"),
    }
    subscribe(&mut world, bob.link, 1);
    assert_eq!(seqs(&mut world, bob.link), (2..=1_501).collect::<Vec<_>>());
}

/// Appends as another machine on the same store would.
fn append_elsewhere(world: &mut World, by: &Device, submit: &Submit, count: u64) -> u64 {
    let mut last = 0;
    for _ in 0..count {
        let at = world.now.wall;
        let append = Append {
            channel: CHANNEL,
            generation: 1,
            epoch: submit.epoch,
            past_epochs: 2,
            sender: by.sender(),
            message: crate::id::MessageId(world.entropy.array()),
            hash: crate::id::Digest([1; 32]),
            kind: EntryKind::Application,
            payload: Part::Inline(submit.payload.clone()),
            group: vec![],
            at,
            expires: at.plus(limits::ENTRY_TIME),
        };
        match world.elsewhere(StoreOp::Append(append)) {
            StoreReply::Appended { seq, .. } => last = seq,
            other => panic!("{other:?}"),
        }
    }
    last
}

#[test]
fn entries_from_another_machine_are_pushed_when_it_says_so() {
    let mut world = World::new();
    let (mut alice, bob) = pair(&mut world);
    subscribe(&mut world, bob.link, 1);
    let Request::Submit(submit) = alice.message(&world, CHANNEL, "x") else { panic!() };
    let seq = append_elsewhere(&mut world, &alice, &submit, 3);
    assert!(seqs(&mut world, bob.link).is_empty());
    world.input(Input::Notified(CHANNEL, seq));
    world.settle();
    assert_eq!(seqs(&mut world, bob.link), [2, 3, 4]);
    // Late, and for nobody.
    world.input(Input::Notified(CHANNEL, 2));
    world.input(Input::Notified(ChannelId([9; 16]), 2));
    world.settle();
    // A gap that this machine closes by reading.
    append_elsewhere(&mut world, &alice, &submit, 2);
    alice.say(&mut world, CHANNEL, "y");
    assert_eq!(seqs(&mut world, bob.link), [5, 6, 7]);
}

#[test]
fn a_removal_on_another_machine_ends_a_subscription_at_the_removal() {
    let mut world = World::new();
    let (mut alice, bob) = pair(&mut world);
    subscribe(&mut world, bob.link, 1);
    alice.say(&mut world, CHANNEL, "here");
    assert_eq!(seqs(&mut world, bob.link), [2]);
    // Two machines on one store: the other one accepts the removal, ours does not hear of it.
    let plan = Plan { removes: vec![bob.sender()], ..Plan::default() };
    let removal = alice.commit_request(&world, CHANNEL, &plan);
    world.as_another_machine(|world| {
        alice.reconnect(world);
        accepted(world.call(alice.link, removal));
    });
    alice.merge(&world);
    alice.reconnect(&mut world);
    alice.say(&mut world, CHANNEL, "he is gone");
    alice.say(&mut world, CHANNEL, "really");
    assert_eq!(seqs(&mut world, bob.link), [3]);
}

#[test]
fn a_commit_after_one_elsewhere_is_checked_against_the_new_state() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    let commit = alice.commit_request(&world, CHANNEL, &Plan::default());
    world.as_another_machine(|world| {
        alice.reconnect(world);
        accepted(world.call(alice.link, commit.clone()));
    });
    alice.merge(&world);
    let late = bob.commit_request(&world, CHANNEL, &Plan::default());
    let failure = world.call(bob.link, late).unwrap_err();
    assert_eq!((failure.code, failure.epoch), (ErrorCode::EpochConflict, 2));
    bob.discard();
    let entry = bob.read(&mut world, CHANNEL, 1).remove(0);
    bob.receive(&world, &entry.payload);
    let next = bob.commit_request(&world, CHANNEL, &Plan::default());
    accepted(world.call(bob.link, next));
    // The resend of what the other machine accepted.
    alice.reconnect(&mut world);
    assert_eq!(accepted(world.call(alice.link, commit)).seq, 2);
}

#[test]
fn a_fetch_waits_for_the_first_entry() {
    let mut world = World::new();
    let (mut alice, bob) = pair(&mut world);
    let wait = |after| Request::Fetch { channel: CHANNEL, after, limit: 10, wait_ms: 5_000 };
    // There is one already.
    assert!(matches!(world.call(bob.link, wait(0)).unwrap(), Reply::Entries(_)));
    let start = world.now.mono;
    let call = world.ask(bob.link, wait(1));
    world.settle();
    assert!(world.answer(bob.link, call).is_none());
    let sweep = world.idle.0.unwrap();
    assert_eq!(world.idle, (Some(start + Duration::from_secs(5)), WakeReason::LongPoll));
    alice.say(&mut world, CHANNEL, "now");
    match world.answer(bob.link, call).unwrap().unwrap() {
        Reply::Entries(entries) => assert_eq!(entries.entries[0].seq, 2),
        other => panic!("{other:?}"),
    }
    // Nothing comes.
    let call = world.ask(bob.link, wait(2));
    world.settle();
    world.pass(Duration::from_millis(4_999));
    assert!(world.answer(bob.link, call).is_none());
    world.pass(Duration::from_millis(1));
    match world.answer(bob.link, call).unwrap().unwrap() {
        Reply::Entries(Entries { entries, head, first, .. }) => {
            assert_eq!((entries, head, first), (vec![], 2, 2));
        }
        other => panic!("{other:?}"),
    }
    assert!(world.server.watches.is_empty() && world.server.polls.is_empty());
    assert!(world.idle.0.unwrap() > sweep);
    // Refused, and gone with its connection.
    let carol = Device::new(&mut world, "carol");
    assert_eq!(world.fails(carol.link, wait(0)), ErrorCode::NotMember);
    world.ask(bob.link, wait(2));
    world.settle();
    assert_eq!(world.server.polls.len(), 1);
    world.hang_up(bob.link);
    assert!(world.server.watches.is_empty() && world.server.polls.is_empty());
}

#[test]
fn an_entry_that_comes_while_a_waiting_fetch_reads_is_not_missed() {
    let mut world = World::new();
    let (mut alice, bob) = pair(&mut world);
    let message = alice.message(&world, CHANNEL, "quick");
    world.disk = Disk::Waits;
    let wait = Request::Fetch { channel: CHANNEL, after: 1, limit: 10, wait_ms: 5_000 };
    let call = world.ask(bob.link, wait);
    world.settle();
    world.ask(alice.link, message);
    world.settle();
    assert_eq!(world.waiting.len(), 2, "the read is executed before the append");
    world.flush();
    assert!(matches!(world.answer(bob.link, call), Some(Ok(Reply::Entries(_)))));
}

#[test]
fn a_connection_has_so_many_subscriptions() {
    let mut world = World::new();
    let (_, bob) = pair(&mut world);
    world.disk = Disk::Waits;
    world.jobs_wait = true;
    for number in 0..limits::SUBSCRIPTIONS as u32 {
        let mut channel = [0; 16];
        channel[..4].copy_from_slice(&number.to_be_bytes());
        world.ask(bob.link, Request::Subscribe { channel: ChannelId(channel), after: 0 });
        if number % 100 == 99 {
            // Keep their entries in the table, whatever the store will say.
            world.settle();
            world.answer_subscriptions();
        }
    }
    world.settle();
    world.answer_subscriptions();
    assert_eq!(world.close_code(bob.link), None);
    world.ask(bob.link, Request::Subscribe { channel: ChannelId([255; 16]), after: 0 });
    world.settle();
    assert_eq!(world.close_code(bob.link), Some(CloseCode::OVER_LIMIT));
    assert!(world.server.watches.is_empty());
}

#[test]
fn reads_for_pushes_are_few_at_a_time() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    let channels: Vec<_> = (1..=12).map(|number| ChannelId([number; 16])).collect();
    for channel in &channels {
        alice.found(&mut world, *channel);
        world.call(alice.link, Request::Subscribe { channel: *channel, after: 0 }).unwrap();
    }
    world.disk = Disk::Waits;
    for channel in &channels {
        world.input(Input::Notified(*channel, 1));
    }
    world.settle();
    assert_eq!(world.waiting.len(), 4);
    world.flush();
    assert!(world.waiting.is_empty());
    let fetched = world.executed.iter().rev().take(12);
    assert!(fetched.clone().all(|op| matches!(op, StoreOp::Fetch { .. })));
    assert_eq!(fetched.count(), 12);
}
