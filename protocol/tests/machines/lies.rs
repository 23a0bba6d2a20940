//! Servers that lie to a device: it finds out by its own checks, says so, and goes on where it can.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::talk::*;
use qpc_protocol::client::event::{Event, Failed, Outcome};
use qpc_protocol::error::{ErrorCode, PeerFault};
use qpc_protocol::id::{ChannelId, DeviceId, Digest, MessageId};
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{
    Body, Entries, Entry, EntryKind, Failure, Frame, Part, Push, Reply, Request,
};
use qpc_sim::world::{Rules, World};

fn push(entries: Entries) -> Frame {
    Frame { call: 0, body: Body::Push(Push::Entries(entries)) }
}

/// Once the server is honest again, everybody talks and commits as before.
fn honest_again(world: &mut World, channel: ChannelId) {
    world.liar = None;
    for device in [ALICE, BOB, CAROL] {
        world.cut(device);
    }
    world.settle();
    for device in [ALICE, BOB, CAROL] {
        said(world, device, channel, "honest");
        world.done(device, |client, now| client.update(now, channel));
    }
    world.settle();
    agree(world, channel, &[ALICE, BOB, CAROL]);
    for device in [ALICE, BOB, CAROL] {
        let honest = world.bodies(device).iter().filter(|body| *body == "honest").count();
        assert_eq!(honest, 2, "device {device}");
    }
}

// ---- entries ----------------------------------------------------------------------------------

#[test]
fn another_sender_than_the_one_who_signed_is_told_and_the_signature_counts() {
    let (mut world, channel) = three(1);
    let alice = world.client(ALICE).whoami().unwrap().1;
    let carol = world.client(CAROL).whoami().unwrap().1;
    lie_entries(&mut world, BOB, move |entries| {
        entries.iter_mut().filter(|e| e.sender == alice).for_each(|e| e.sender = carol);
    });
    said(&mut world, ALICE, channel, "mine");
    world.settle();
    let message = world.messages(BOB).pop().unwrap();
    assert_eq!((message.sender, message.body.as_slice()), (alice, b"mine".as_slice()));
    assert!(saw(&world, BOB, suspected));
    // The log is another one for bob: the next message shows it.
    said(&mut world, CAROL, channel, "me too");
    world.settle();
    assert!(saw(&world, BOB, forked));
    honest_again(&mut world, channel);
}

#[test]
fn an_entry_left_out_and_the_rest_counted_on_is_found_out_by_the_next_message() {
    let (mut world, channel) = three(2);
    let carol = world.client(CAROL).whoami().unwrap().1;
    let mut gone = 0;
    lie(&mut world, BOB, false, move |mut frame| {
        if let Body::Push(Push::Entries(entries)) = &mut frame.body
            && entries.channel == channel
        {
            let before = entries.entries.len();
            entries.entries.retain(|e| e.sender != carol);
            gone += (before - entries.entries.len()) as u64;
            entries.entries.iter_mut().for_each(|e| e.seq -= gone);
            if entries.entries.is_empty() {
                return vec![];
            }
        }
        vec![frame]
    });
    said(&mut world, CAROL, channel, "hidden");
    world.settle();
    said(&mut world, ALICE, channel, "seen");
    world.settle();
    assert_eq!(world.bodies(BOB), ["seen"]);
    assert!(saw(&world, BOB, forked));
    assert!(!saw(&world, ALICE, forked));
}

#[test]
fn an_entry_left_out_makes_the_device_ask_again_and_then_leave() {
    let (mut world, channel) = three(3);
    let carol = world.client(CAROL).whoami().unwrap().1;
    lie_entries(&mut world, BOB, move |entries| entries.retain(|e| e.sender != carol));
    said(&mut world, CAROL, channel, "hidden");
    said(&mut world, ALICE, channel, "after");
    world.pass(Duration::from_secs(30));
    assert!(saw(&world, BOB, suspected));
    assert!(saw(&world, BOB, |e| matches!(e, Event::Offline { last: false, .. })));
    assert!(world.bodies(BOB).is_empty());
    world.liar = None;
    world.cut(BOB);
    world.settle();
    assert_eq!(world.bodies(BOB), ["hidden", "after"]);
    honest_again(&mut world, channel);
}

#[test]
fn entries_repeated_or_out_of_order_change_nothing() {
    let (mut world, channel) = three(4);
    let mut before: Option<Frame> = None;
    lie(&mut world, BOB, false, move |frame| {
        if !matches!(frame.body, Body::Push(_)) {
            return vec![frame];
        }
        let mut frames = vec![frame.clone(), frame.clone()];
        frames.extend(before.replace(frame));
        frames
    });
    let texts: Vec<_> = (0..10).map(|number| format!("message {number}")).collect();
    for text in &texts {
        said(&mut world, ALICE, channel, text);
    }
    world.settle();
    assert_eq!(world.bodies(BOB), texts);
    assert!(!saw(&world, BOB, |e| forked(e) || suspected(e)));
    assert!(!saw(&world, BOB, |e| matches!(e, Event::Unreadable { .. })));
}

#[test]
fn an_entry_that_was_read_before_and_is_another_now_is_a_fork() {
    let (mut world, channel) = three(5);
    said(&mut world, ALICE, channel, "one");
    world.settle();
    let mut last: Option<Entries> = None;
    lie(&mut world, BOB, false, move |frame| {
        let mut frames = vec![frame.clone()];
        if let Body::Push(Push::Entries(entries)) = frame.body
            && entries.channel == channel
        {
            if let Some(mut old) = last.take() {
                old.entries[0].time.0 += 1;
                frames.push(push(old));
            }
            last = Some(entries);
        }
        frames
    });
    said(&mut world, ALICE, channel, "two");
    said(&mut world, ALICE, channel, "three");
    world.settle();
    assert_eq!(world.bodies(BOB), ["one", "two", "three"]);
    assert!(saw(&world, BOB, forked));
    honest_again(&mut world, channel);
}

#[test]
fn another_payload_is_unreadable_and_what_follows_is_read() {
    let (mut world, channel) = three(6);
    let mut spoiled = false;
    lie_entries(&mut world, BOB, move |entries| {
        for entry in entries.iter_mut().filter(|e| e.kind == EntryKind::Application) {
            if let Part::Inline(bytes) = &mut entry.payload
                && !std::mem::replace(&mut spoiled, true)
            {
                let mut other = bytes.to_vec();
                let last = other.len() - 1;
                other[last] ^= 1;
                *bytes = other.into();
            }
        }
    });
    said(&mut world, ALICE, channel, "lost on bob");
    said(&mut world, ALICE, channel, "read");
    world.settle();
    assert_eq!(world.bodies(BOB), ["read"]);
    assert!(saw(&world, BOB, |e| matches!(e, Event::Unreadable { .. })));
    assert!(saw(&world, BOB, forked));
    honest_again(&mut world, channel);
}

#[test]
fn a_message_replayed_under_a_new_seq_is_read_once() {
    let (mut world, channel) = three(7);
    let mut extra = 0;
    lie_entries(&mut world, BOB, move |entries| {
        let mut all = Vec::new();
        for mut entry in entries.drain(..) {
            entry.seq += extra;
            all.push(entry.clone());
            if entry.kind == EntryKind::Application {
                if extra > 0 {
                    continue;
                }
                extra += 1;
                entry.seq += 1;
                entry.message = MessageId([9; 16]);
                all.push(entry);
            }
        }
        *entries = all;
    });
    said(&mut world, ALICE, channel, "once");
    world.settle();
    assert_eq!(world.bodies(BOB), ["once"]);
    assert!(saw(&world, BOB, |e| matches!(e, Event::Unreadable { .. })));
    // Who wrote after the replay saw another log.
    said(&mut world, CAROL, channel, "again");
    said(&mut world, ALICE, channel, "too");
    world.settle();
    assert_eq!(world.bodies(BOB), ["once", "again", "too"]);
    assert!(saw(&world, BOB, forked));
}

#[test]
fn a_commit_that_the_server_made_up_is_refused_by_the_members() {
    let (mut world, channel) = three(8);
    let seen: Rc<RefCell<Option<Entry>>> = Rc::default();
    let keep = seen.clone();
    let mut extra = 0;
    lie(&mut world, BOB, false, move |mut frame| {
        if let Body::Push(Push::Entries(entries)) = &mut frame.body
            && entries.channel == channel
        {
            entries.entries.iter_mut().for_each(|e| e.seq += extra);
            let commit = entries.entries.iter().find(|e| e.kind == EntryKind::Commit).cloned();
            if let Some(mut commit) = commit {
                // The honest commit of one epoch, spoiled, comes first.
                if let Part::Inline(bytes) = &mut commit.payload {
                    let mut other = bytes.to_vec();
                    let signature = other.len() - 100;
                    other[signature] ^= 1;
                    *bytes = other.into();
                }
                *keep.borrow_mut() = Some(commit.clone());
                extra += 1;
                entries.entries.iter_mut().filter(|e| e.seq >= commit.seq).for_each(|e| e.seq += 1);
                let at = entries.entries.iter().position(|e| e.seq > commit.seq).unwrap();
                entries.entries.insert(at, commit);
            }
        }
        vec![frame]
    });
    world.done(ALICE, |client, now| client.update(now, channel));
    world.settle();
    assert!(seen.borrow().is_some());
    assert!(saw(&world, BOB, |e| matches!(e, Event::Unreadable { .. })));
    agree(&world, channel, &[ALICE, BOB, CAROL]);
    said(&mut world, ALICE, channel, "still here");
    world.settle();
    assert_eq!(world.bodies(BOB), ["still here"]);
    assert!(saw(&world, BOB, forked));
}

#[test]
fn a_device_that_misses_a_commit_says_so_and_troubles_nobody_else() {
    let (mut world, channel) = three(9);
    let mut gone = 0;
    lie(&mut world, BOB, false, move |mut frame| {
        if let Body::Push(Push::Entries(entries)) = &mut frame.body
            && entries.channel == channel
        {
            let before = entries.entries.len();
            entries.entries.retain(|e| e.kind != EntryKind::Commit);
            gone += (before - entries.entries.len()) as u64;
            entries.entries.iter_mut().for_each(|e| e.seq -= gone);
            if entries.entries.is_empty() {
                return vec![];
            }
        }
        vec![frame]
    });
    for number in 0..3 {
        world.done(ALICE, |client, now| client.update(now, channel));
        said(&mut world, ALICE, channel, &format!("{number}"));
    }
    world.pass(Duration::from_secs(5));
    assert!(saw(&world, BOB, |e| matches!(e, Event::Unreadable { .. })));
    assert!(world.bodies(BOB).is_empty());
    // The others do not care.
    agree(&world, channel, &[ALICE, CAROL]);
    assert_eq!(world.bodies(CAROL), ["0", "1", "2"]);
}

#[test]
fn huge_numbers_break_nothing() {
    for (number, seq) in [u64::MAX, u64::MAX - 1, 0].into_iter().enumerate() {
        let (mut world, channel) = three(10 + number as u64);
        lie(&mut world, BOB, false, move |mut frame| {
            match &mut frame.body {
                Body::Push(Push::Entries(entries)) => {
                    entries.first = seq;
                    entries.head = seq;
                    for entry in &mut entries.entries {
                        entry.seq = seq;
                        entry.epoch = seq;
                        entry.time.0 = seq;
                    }
                }
                Body::Reply(Reply::Subscribed { head }) => *head = seq,
                Body::Reply(Reply::Accepted(accepted)) => accepted.seq = seq,
                _ => {}
            }
            vec![frame]
        });
        say(&mut world, BOB, channel, "into the void");
        said(&mut world, ALICE, channel, "hello");
        world.cut(BOB);
        world.pass(Duration::from_secs(60));
        world.liar = None;
        world.crash(BOB);
        world.start(BOB);
        world.settle();
        honest_after_restart(&mut world, channel);
    }
}

fn honest_after_restart(world: &mut World, channel: ChannelId) {
    said(world, ALICE, channel, "honest");
    world.settle();
    assert_eq!(world.bodies(BOB).last().map(String::as_str), Some("honest"));
    assert_eq!(world.bodies(CAROL).last().map(String::as_str), Some("honest"));
}

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
        assert!(!saw(&world, BOB, |e| matches!(e, Event::Done(done, _) if *done == ticket)));
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
    let bob = world.client(BOB).whoami().unwrap().1;
    let mut gone = 0;
    lie(&mut world, BOB, false, move |mut frame| {
        if let Body::Push(Push::Entries(entries)) = &mut frame.body
            && entries.channel == channel
        {
            let before = entries.entries.len();
            entries.entries.retain(|e| e.sender != bob);
            gone += (before - entries.entries.len()) as u64;
            entries.entries.iter_mut().for_each(|e| e.seq -= gone);
            if entries.entries.is_empty() {
                return vec![];
            }
        }
        vec![frame]
    });
    said(&mut world, BOB, channel, "promised");
    world.run();
    assert!(!saw(&world, BOB, forked));
    said(&mut world, ALICE, channel, "in its place");
    world.settle();
    assert!(saw(&world, BOB, forked));
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
        for epoch in [0, u64::MAX] {
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
            say(&mut world, BOB, channel, "again and again");
            let ticket = world.command(BOB, |client, now| client.update(now, channel));
            world.pass(Duration::from_secs(20));
            assert!(*asked.borrow() < 500, "{code:?} {epoch}: {}", asked.borrow());
            world.liar = None;
            world.cut(BOB);
            assert!(matches!(world.outcome(BOB, ticket), Outcome::Epoch(_)), "{code:?} {epoch}");
            world.settle();
            agree(&world, channel, &[ALICE, BOB, CAROL]);
        }
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
        assert!(saw(&world, BOB, |e| matches!(e, Event::Unreadable { .. })), "{code:?}");
        world.liar = None;
        world.cut(BOB);
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
    world.liar = None;
    world.cut(BOB);
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
    let made = world.done(ALICE, |c, now| c.create_group(now, "planted name", Suite::Classical));
    let Outcome::Group(channel) = made else { panic!("{made:?}") };
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
    group_of(&mut world, ALICE, &["bob"]);
    assert!(saw(&world, BOB, |e| matches!(e, Event::Unreadable { .. })));
    assert!(world.groups(BOB).is_empty());
    // The inbox is read on.
    world.liar = None;
    let second = group_of(&mut world, CAROL, &["bob"]);
    agree(&world, second, &[CAROL, BOB]);
}

#[test]
fn a_full_disk_of_the_server_costs_no_welcome() {
    let mut world = World::new(Rules::new(62));
    for name in ["alice", "bob"] {
        world.register(name);
    }
    let calls = Rc::new(RefCell::new(Vec::new()));
    let mut refusals = 2;
    world.liar = Some(Box::new(move |device, up, frame| {
        if device == BOB && up && matches!(frame.body, Body::Request(Request::BlobGet { .. })) {
            calls.borrow_mut().push(frame.call);
        }
        if device == BOB && !up && calls.borrow().contains(&frame.call) && refusals > 0 {
            refusals -= 1;
            let body = Body::Failure(ErrorCode::Unavailable.into());
            return vec![Frame { call: frame.call, body }];
        }
        vec![frame]
    }));
    let channel = group_of(&mut world, ALICE, &["bob"]);
    agree(&world, channel, &[ALICE, BOB]);
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
    assert!(saw(&world, BOB, |e| matches!(e, Event::Unreadable { .. })));
    agree(&world, channel, &[ALICE, BOB, CAROL]);
    honest_again(&mut world, channel);
}

#[test]
fn who_added_a_device_is_what_its_welcome_says() {
    let mut world = World::new(Rules::new(64));
    for name in ["alice", "bob"] {
        world.register(name);
    }
    let alice = world.client(ALICE).whoami().unwrap().1;
    lie_entries(&mut world, BOB, |entries| {
        for entry in entries.iter_mut().filter(|e| e.kind == EntryKind::Welcome) {
            entry.sender.device = DeviceId([8; 16]);
        }
    });
    group_of(&mut world, ALICE, &["bob"]);
    assert!(saw(&world, BOB, |e| matches!(e, Event::Joined { by, .. } if *by == alice)));
}
