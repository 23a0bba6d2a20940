//! Servers that answer or welcome with something else than what is so: the device finds out by its own checks, says so,
//! and goes on where it can.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use crate::stranger::Stranger;
use crate::talk::*;
use qpc_protocol::client::event::{Event, Failed, Outcome, Why};
use qpc_protocol::error::{ErrorCode, PeerFault};
use qpc_protocol::id::{ChannelId, DeviceId, Digest, MessageId};
use qpc_protocol::limits::{MESSAGES_AHEAD, REJOIN_TIME, UPDATE_AGE};
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{Body, Entry, EntryKind, Failure, Frame, Push, Reply, Request};
use qpc_sim::world::{Rules, World};

// ---- replies ----------------------------------------------------------------------------------

#[test]
fn a_delivery_proof_that_does_not_verify_is_not_believed() {
    let spoils: [fn(&mut qpc_protocol::wire::message::Accepted); 4] = [
        |accepted| accepted.proof[0] ^= 1,
        |accepted| accepted.seq += 1,
        |accepted| accepted.chain = Digest([0; 32]),
        |accepted| accepted.time.0 += 1,
    ];
    for (number, spoil) in spoils.into_iter().enumerate() {
        let (mut world, channel) = three(20 + number as u64);
        lie_reply(&mut world, BOB, move |reply| {
            if let Reply::Accepted(accepted) = reply {
                spoil(accepted);
            }
        });
        let ticket = say(&mut world, BOB, channel, "believe me");
        world.pass(Duration::from_secs(20));
        assert!(saw(&world, BOB, suspected));
        assert!(!is_done(&world, BOB, ticket));
        world.liar = None;
        assert!(matches!(world.outcome(BOB, ticket), Outcome::Sent(_)));
        world.settle();
        assert_eq!(world.bodies(ALICE), ["believe me"]);
        honest_again(&mut world, channel);
    }
}

#[test]
fn a_message_that_the_server_promised_and_does_not_show_is_a_fork() {
    let (mut world, channel) = three(25);
    let bob = me(&mut world, BOB);
    leave_out(&mut world, BOB, channel, move |entry| entry.sender == bob);
    said(&mut world, BOB, channel, "promised");
    world.run();
    assert!(!saw(&world, BOB, forked));
    said(&mut world, ALICE, channel, "in its place");
    world.settle();
    // What alice says of the log contradicts it too; the server's own promise needs no witness.
    assert!(saw(&world, BOB, |event| matches!(event, Event::ForkDetected { by: None, .. })));
}

#[test]
fn a_reply_of_another_kind_ends_the_connection_and_the_question() {
    let (mut world, channel) = three(26);
    let mut lies = 1;
    lie_reply(&mut world, BOB, move |reply| {
        if matches!(reply, Reply::Devices(_)) && lies > 0 {
            lies -= 1;
            *reply = Reply::Done;
        }
    });
    let failed = fails(&mut world, BOB, |client, now| client.devices(now));
    assert!(matches!(failed, Failed::Untrusted(_)), "{failed:?}");
    let fault =
        |event: &Event| matches!(event, Event::ServerFault { fault: PeerFault::Unexpected(_), .. });
    assert!(saw(&world, BOB, fault));
    honest_again(&mut world, channel);
}

#[test]
fn frames_that_a_server_does_not_send_end_the_connection() {
    let bodies = [
        Body::Request(Request::Hello),
        Body::Reply(Reply::Done),
        Body::Failure(Failure::from(ErrorCode::Busy)),
        Body::Open(qpc_protocol::io::LinkRole::All),
    ];
    for (number, body) in bodies.into_iter().enumerate() {
        let (mut world, channel) = three(30 + number as u64);
        let mut once = Some(Frame { call: 77_777, body });
        lie(&mut world, BOB, false, move |frame| once.take().into_iter().chain([frame]).collect());
        said(&mut world, ALICE, channel, "hello");
        world.pass(Duration::from_secs(5));
        assert!(saw(&world, BOB, |e| matches!(e, Event::ServerFault { .. })));
        honest_again(&mut world, channel);
    }
}

#[test]
fn a_server_that_contradicts_itself_about_epochs_is_not_asked_without_end() {
    for (number, code) in
        [ErrorCode::StaleEpoch, ErrorCode::FutureEpoch, ErrorCode::EpochConflict, ErrorCode::Busy]
            .into_iter()
            .enumerate()
    {
        // A commit by itself, and one beside a message that is held back as well.
        for (epoch, speaks) in [(0, false), (0, true), (u64::MAX, false), (u64::MAX, true)] {
            let (mut world, channel) = three(40 + number as u64);
            let asked = Rc::new(RefCell::new(0_u32));
            let count = asked.clone();
            let mine = Rc::new(RefCell::new(Vec::new()));
            world.liar = Some(Box::new(move |device, up, frame| {
                let writes =
                    matches!(frame.body, Body::Request(Request::Submit(_) | Request::Commit(_)));
                if device == BOB && up && writes {
                    *count.borrow_mut() += 1;
                    mine.borrow_mut().push(frame.call);
                }
                if device == BOB && !up && mine.borrow().contains(&frame.call) {
                    let failure = Failure { epoch, ..code.into() };
                    return vec![Frame { call: frame.call, body: Body::Failure(failure) }];
                }
                vec![frame]
            }));
            if speaks {
                say(&mut world, BOB, channel, "again and again");
            }
            let ticket = world.command(BOB, |client, now| client.update(now, channel));
            world.pass(Duration::from_secs(20));
            assert!(*asked.borrow() < 500, "{code:?} {epoch}: {}", asked.borrow());
            honest(&mut world, &[BOB]);
            assert!(matches!(world.outcome(BOB, ticket), Outcome::Epoch(_)), "{code:?} {epoch}");
            world.settle();
            agree(&world, channel, &[ALICE, BOB, CAROL]);
        }
    }
}

/// Nothing is wrong with new keys of a device's own leaf: whoever is told that has another view of the group than the
/// server, and comes back from outside. Whoever is told that it is no member sees that the log does not say so.
#[test]
fn a_server_that_takes_no_new_keys_is_not_asked_without_end() {
    for (code, why) in
        [(ErrorCode::CommitInvalid, Some(Why::Blocked)), (ErrorCode::NotMember, None)]
    {
        let (mut world, channel) = three(47);
        let (asked, mut open) = (Rc::new(Cell::new(0)), BTreeSet::new());
        let count = asked.clone();
        world.liar = Some(Box::new(move |device, up, frame| {
            let commits = matches!(&frame.body,
                Body::Request(Request::Commit(bundle)) if !is_outside(bundle));
            let mut body = frame.body;
            if device == BOB && up && commits {
                open.insert(frame.call);
                count.set(count.get() + 1);
                // Nothing of it reaches the server.
                body = Body::Request(Request::Ping(bytes::Bytes::new()));
            } else if device == BOB && !up && open.remove(&frame.call) {
                body = Body::Failure(code.into());
            }
            vec![Frame { body, ..frame }]
        }));
        // The leaf's keys become due, and no command waits for them.
        world.pass(UPDATE_AGE + Duration::from_secs(60));
        assert!(asked.get() < 100, "{code:?}: asked {} times", asked.get());
        let fell = |event: &Event| matches!(event, Event::FellOut { .. });
        assert_eq!(saw(&world, BOB, fell), why.is_some(), "{code:?}: {:?}", world.devices[BOB].log);
        assert_eq!(saw(&world, BOB, suspected), why.is_none(), "{code:?}");
        honest(&mut world, &[BOB]);
        world.pass(REJOIN_TIME);
        assert_eq!(rejoins(&world, BOB), Vec::from_iter(why));
        all_say(&mut world, channel, &[ALICE, BOB, CAROL], "after");
    }
}

#[test]
fn a_refusal_that_is_a_lie_holds_for_its_connection_only() {
    let (mut world, channel) = three(50);
    for code in [ErrorCode::NotMember, ErrorCode::ChannelUnknown, ErrorCode::CursorInvalid] {
        let calls = Rc::new(RefCell::new(Vec::new()));
        world.liar = Some(Box::new(move |device, up, frame| {
            if device != BOB {
                return vec![frame];
            }
            if up && matches!(frame.body, Body::Request(Request::Subscribe { .. })) {
                calls.borrow_mut().push(frame.call);
            }
            if !up && calls.borrow().contains(&frame.call) {
                return vec![Frame { call: frame.call, body: Body::Failure(code.into()) }];
            }
            vec![frame]
        }));
        world.devices[BOB].log.clear();
        world.cut(BOB);
        world.pass(Duration::from_secs(5));
        assert!(saw(&world, BOB, unreadable), "{code:?}");
        honest(&mut world, &[BOB]);
        world.settle();
        said(&mut world, ALICE, channel, code.name());
        world.settle();
        assert_eq!(world.bodies(BOB).last().map(String::as_str), Some(code.name()));
    }
    honest_again(&mut world, channel);
}

#[test]
fn entries_said_to_be_gone_are_told_as_a_gap_and_asked_for_again() {
    let (mut world, channel) = three(51);
    lie(&mut world, BOB, false, move |mut frame| {
        if let Body::Push(Push::Entries(entries)) = &mut frame.body
            && entries.channel == channel
        {
            entries.entries.clear();
            entries.first = entries.head + 1;
        }
        vec![frame]
    });
    said(&mut world, ALICE, channel, "gone?");
    world.pass(Duration::from_secs(1));
    assert!(saw(&world, BOB, |e| matches!(e, Event::Gap { .. })));
    honest(&mut world, &[BOB]);
    world.settle();
    assert_eq!(world.bodies(BOB), ["gone?"]);
    honest_again(&mut world, channel);
}

#[test]
fn a_head_that_is_behind_what_was_read_is_told() {
    let (mut world, channel) = three(52);
    said(&mut world, ALICE, channel, "one");
    world.settle();
    lie_reply(&mut world, BOB, |reply| {
        if let Reply::Subscribed { head } = reply {
            *head = 0;
        }
    });
    world.cut(BOB);
    world.settle();
    assert!(saw(&world, BOB, suspected));
    honest_again(&mut world, channel);
}

// ---- welcomes ---------------------------------------------------------------------------------

#[test]
fn a_wrong_tree_does_not_lose_a_welcome() {
    let mut world = World::new(Rules::new(60));
    for name in ["alice", "bob", "carol"] {
        world.register(name);
    }
    lie_reply(&mut world, BOB, |reply| {
        if let Reply::Blob { chunk, .. } = reply {
            let mut other = chunk.to_vec();
            other[3] ^= 1;
            *chunk = other.into();
        }
    });
    let channel = found(&mut world, ALICE, Suite::Classical);
    world.done(ALICE, |client, now| client.invite(now, channel, "bob"));
    world.until(|world| saw(world, BOB, suspected));
    world.liar = None;
    world.settle();
    agree(&world, channel, &[ALICE, BOB]);
}

#[test]
fn a_tree_that_is_never_right_is_given_up_with_a_word() {
    let mut world = World::new(Rules::new(61));
    for name in ["alice", "bob", "carol"] {
        world.register(name);
    }
    lie_reply(&mut world, BOB, |reply| {
        if let Reply::Blob { total, .. } = reply {
            *total += 1;
        }
    });
    let first = group_of(&mut world, ALICE, &["bob"]);
    assert!(saw(&world, BOB, unreadable));
    assert!(!saw(&world, BOB, |e| matches!(e, Event::Joined { .. } | Event::Rejoined { .. })));
    // The inbox is read on.
    world.liar = None;
    let second = group_of(&mut world, CAROL, &["bob"]);
    agree(&world, second, &[CAROL, BOB]);
    // And the group that the welcome was for is come into from outside.
    world.pass(Duration::from_secs(120));
    agree(&world, first, &[ALICE, BOB]);
}

#[test]
fn a_full_disk_of_the_server_costs_no_welcome() {
    let mut world = World::new(Rules::new(62));
    for name in ["alice", "bob"] {
        world.register(name);
    }
    let calls = Rc::new(RefCell::new(Vec::new()));
    let left = Rc::new(Cell::new(2));
    let refusals = left.clone();
    world.liar = Some(Box::new(move |device, up, frame| {
        if device == BOB && up && matches!(frame.body, Body::Request(Request::BlobGet { .. })) {
            calls.borrow_mut().push(frame.call);
        }
        if device == BOB && !up && calls.borrow().contains(&frame.call) && refusals.get() > 0 {
            refusals.set(refusals.get() - 1);
            let body = Body::Failure(ErrorCode::Unavailable.into());
            return vec![Frame { call: frame.call, body }];
        }
        vec![frame]
    }));
    let channel = group_of(&mut world, ALICE, &["bob"]);
    agree(&world, channel, &[ALICE, BOB]);
    assert_eq!(left.get(), 0, "the tree was asked for again");
    undisturbed(&world, &[ALICE, BOB]);
}

/// The server has no room for the first message that a device sends, so many times; counts those that go before it.
fn refuse_first(world: &mut World, at: usize, mut times: u32) -> Rc<RefCell<BTreeSet<MessageId>>> {
    let others = Rc::new(RefCell::new(BTreeSet::new()));
    let (seen, mut first, mut refused) = (others.clone(), None, Vec::new());
    lie_both_ways(world, at, move |up, frame| {
        let Frame { call, body } = frame;
        let body = match body {
            Body::Request(Request::Submit(submit)) if up && times > 0 => {
                if *first.get_or_insert(submit.message) == submit.message {
                    times -= 1;
                    refused.push(call);
                    Body::Request(Request::Ping(Default::default()))
                } else {
                    seen.borrow_mut().insert(submit.message);
                    Body::Request(Request::Submit(submit))
                }
            }
            Body::Reply(Reply::Pong(_)) if !up && refused.contains(&call) => {
                refused.retain(|of| *of != call);
                Body::Failure(ErrorCode::Unavailable.into())
            }
            other => other,
        };
        vec![Frame { call, body }]
    });
    others
}

/// Behind a message come no more than keys of skipped ones are kept for, however often the server has no room for it.
#[test]
fn a_message_that_is_refused_is_read_behind_all_that_overtook_it() {
    for restarts in [false, true] {
        let (mut world, channel) = three(64);
        let texts: Vec<_> = (0..100).map(|text| text.to_string()).collect();
        let others = refuse_first(&mut world, BOB, 2);
        for text in &texts {
            say(&mut world, BOB, channel, text);
        }
        world.pass(Duration::from_millis(10));
        if restarts {
            world.crash(BOB);
            world.start(BOB);
        }
        world.pass(Duration::from_millis(20));
        assert_eq!(others.borrow().len(), MESSAGES_AHEAD - 1);
        world.settle();
        for text in &texts {
            assert_eq!([ALICE, CAROL].map(|of| count(&world, of, text)), [1, 1], "{text}");
        }
        undisturbed(&world, &[ALICE, BOB, CAROL]);
    }
}

#[test]
fn a_strangers_group_does_not_take_the_place_of_ones_own() {
    // The server knows of a second channel, mallory's, and shows bob its welcome as one to the channel he is in.
    let (mut world, channel) = three(63);
    let mallory = world.register("mallory");
    let theirs = group_of(&mut world, mallory, &[]);
    lie_entries(&mut world, BOB, move |entries| {
        for entry in entries.iter_mut() {
            if let Some(origin) = &mut entry.origin
                && origin.channel == theirs
            {
                origin.channel = channel;
                entry.epoch = 99;
            }
        }
    });
    world.done(mallory, |client, now| client.invite(now, theirs, "bob"));
    world.pass(Duration::from_secs(5));
    assert!(saw(&world, BOB, unreadable));
    agree(&world, channel, &[ALICE, BOB, CAROL]);
    honest_again(&mut world, channel);
}

/// Nor one of the same id, when the server says that one's own cannot be followed.
#[test]
fn a_strangers_group_that_poses_as_ones_own_does_not_take_its_place() {
    let (mut world, channel) = three(67);
    let bob = account(&mut world, BOB);
    let mut stranger = Stranger::new(&mut world);
    stranger.poses_as = Some(channel);
    let theirs = ChannelId::direct(bob, stranger.sender.account);
    let mut calls = Vec::new();
    lie_both_ways(&mut world, BOB, move |up, mut frame| {
        if !up && calls.contains(&frame.call) {
            let body = Body::Failure(ErrorCode::NotMember.into());
            return vec![Frame { call: frame.call, body }];
        }
        match &mut frame.body {
            Body::Request(Request::Subscribe { channel: of, .. }) if up && *of == channel => {
                calls.push(frame.call);
            }
            Body::Push(Push::Entries(entries)) => {
                let origins = entries.entries.iter_mut().filter_map(|e| e.origin.as_mut());
                origins.filter(|at| at.channel == theirs).for_each(|at| at.channel = channel);
            }
            _ => {}
        }
        vec![frame]
    });
    world.cut(BOB);
    world.pass(Duration::from_secs(1));
    world.devices[BOB].log.clear();
    stranger.begin(&mut world, theirs, bob, 1, Suite::Classical);
    world.cut(BOB);
    world.pass(Duration::from_secs(5));
    let told = |e: &Event| matches!(e, Event::Unreadable { why, .. } if why.contains("stranger"));
    assert!(saw(&world, BOB, told), "{:?}", world.devices[BOB].log);
    honest_again(&mut world, channel);
}

/// The way back into a group that one is out of, or into an epoch of it that is over.
#[test]
fn a_welcome_that_was_used_opens_nothing_when_it_is_shown_again() {
    let (mut world, channel) = three(65);
    let other = found(&mut world, CAROL, Suite::Classical);
    let bobs = me(&mut world, BOB);
    let inbox = ChannelId::inbox(bobs);
    world.done(ALICE, |client, now| client.remove(now, channel, bobs.account));
    let old = Rc::new(RefCell::new(None));
    for round in 0..2 {
        let (kept, shown) = (old.clone(), Rc::new(Cell::new(false)));
        let again = shown.clone();
        lie_entries_of(&mut world, BOB, inbox, move |entries| {
            let Some(last) = entries.last().cloned().filter(|e| e.kind == EntryKind::Welcome)
            else {
                return;
            };
            let old: Option<Entry> = kept.borrow().clone();
            match old {
                None => *kept.borrow_mut() = Some(last),
                Some(mut old) => {
                    // As if to an epoch that is new.
                    (old.seq, old.message, old.epoch) = (last.seq + 1, MessageId([9; 16]), 99);
                    entries.push(old);
                    again.set(true);
                }
            }
        });
        if round == 0 {
            // In and out again.
            world.done(ALICE, |client, now| client.invite(now, channel, "bob"));
            world.settle();
            world.done(ALICE, |client, now| client.remove(now, channel, bobs.account));
            world.settle();
            assert!(old.borrow().is_some() && !world.group(BOB, channel).member);
        } else {
            // Something real brings the lie along.
            world.done(CAROL, |client, now| client.invite(now, other, "bob"));
            world.settle();
            assert!(shown.get());
        }
    }
    agree(&world, other, &[CAROL, BOB]);
    assert!(!world.group(BOB, channel).member);
    // It may have been for a key package that a backup does not know: the server says that he is no member.
    assert!(saw(&world, BOB, |e| matches!(e, Event::FellOut { why: Why::Added, .. })));
}

/// Into a group that one is in, just as it came the first time.
#[test]
fn a_welcome_to_an_epoch_that_is_over_is_told() {
    let mut world = World::new(Rules::new(66));
    for name in ["alice", "bob", "carol"] {
        world.register(name);
    }
    let inbox = ChannelId::inbox(me(&mut world, BOB));
    let mut old: Option<Entry> = None;
    let shown = Rc::new(Cell::new(false));
    let again = shown.clone();
    lie_entries_of(&mut world, BOB, inbox, move |entries| {
        let Some(last) = entries.last().filter(|e| e.kind == EntryKind::Welcome) else { return };
        let (seq, message) = (last.seq + 1, MessageId([9; 16]));
        match &old {
            None => old = Some(last.clone()),
            Some(old) => {
                entries.push(Entry { seq, message, ..old.clone() });
                again.set(true);
            }
        }
    });
    let channel = group_of(&mut world, ALICE, &["bob"]);
    undisturbed(&world, &[BOB]);
    // Something real brings the lie along.
    let other = group_of(&mut world, CAROL, &["bob"]);
    assert!(shown.get());
    agree(&world, channel, &[ALICE, BOB]);
    agree(&world, other, &[CAROL, BOB]);
    let told =
        |event: &Event| matches!(event, Event::Unreadable { channel: of, .. } if *of == channel);
    assert!(saw(&world, BOB, told), "{:?}", world.devices[BOB].log);
}

#[test]
fn who_added_a_device_is_what_its_welcome_says() {
    let mut world = World::new(Rules::new(64));
    for name in ["alice", "bob"] {
        world.register(name);
    }
    let alice = me(&mut world, ALICE);
    lie_entries(&mut world, BOB, |entries| {
        for entry in entries.iter_mut().filter(|e| e.kind == EntryKind::Welcome) {
            entry.sender.device = DeviceId([8; 16]);
        }
    });
    group_of(&mut world, ALICE, &["bob"]);
    assert!(saw(&world, BOB, |e| matches!(e, Event::Joined { by, .. } if *by == alice)));
}
