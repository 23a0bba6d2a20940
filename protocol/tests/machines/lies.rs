//! Servers that lie to a device: it finds out by its own checks, says so, and goes on where it can.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::talk::*;
use qpc_protocol::client::event::Event;
use qpc_protocol::id::MessageId;
use qpc_protocol::wire::message::{Body, Entries, Entry, EntryKind, Frame, Part, Push, Reply};

fn push(entries: Entries) -> Frame {
    Frame { call: 0, body: Body::Push(Push::Entries(entries)) }
}

// ---- entries ----------------------------------------------------------------------------------

#[test]
fn another_sender_than_the_one_who_signed_is_told_and_the_signature_counts() {
    let (mut world, channel) = three(1);
    let alice = me(&mut world, ALICE);
    let carol = me(&mut world, CAROL);
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
fn another_sender_than_the_one_who_signed_a_commit_is_told() {
    for committer in [ALICE, BOB] {
        let (mut world, channel) = three(12);
        let carol = me(&mut world, CAROL);
        lie_entries_of(&mut world, BOB, channel, move |entries| {
            entries.iter_mut().for_each(|entry| entry.sender = carol);
        });
        world.done(committer, |client, now| client.update(now, channel));
        world.settle();
        assert!(saw(&world, BOB, suspected), "a commit of {committer}");
        agree(&world, channel, &[ALICE, BOB, CAROL]);
        said(&mut world, CAROL, channel, "where I am");
        world.settle();
        assert!(saw(&world, BOB, forked));
        honest_again(&mut world, channel);
    }
}

#[test]
fn an_entry_left_out_and_the_rest_counted_on_is_found_out_by_the_next_message() {
    let (mut world, channel) = three(2);
    let carol = me(&mut world, CAROL);
    leave_out(&mut world, BOB, channel, move |entry| entry.sender == carol);
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
    let carol = me(&mut world, CAROL);
    lie_entries(&mut world, BOB, move |entries| entries.retain(|e| e.sender != carol));
    said(&mut world, CAROL, channel, "hidden");
    said(&mut world, ALICE, channel, "after");
    // Each time it waits a little for what may be on its way still.
    world.pass(Duration::from_secs(60));
    assert!(saw(&world, BOB, suspected));
    assert!(saw(&world, BOB, |e| matches!(e, Event::Offline { last: false, .. })));
    assert!(world.bodies(BOB).is_empty());
    honest(&mut world, &[BOB]);
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
    assert!(!saw(&world, BOB, unreadable));
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
    assert!(saw(&world, BOB, unreadable));
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
    assert!(saw(&world, BOB, unreadable));
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
    assert!(saw(&world, BOB, unreadable));
    agree(&world, channel, &[ALICE, BOB, CAROL]);
    said(&mut world, ALICE, channel, "still here");
    world.settle();
    assert_eq!(world.bodies(BOB), ["still here"]);
    assert!(saw(&world, BOB, forked));
}

/// The way back to an epoch whose keys an attacker may have.
#[test]
fn a_commit_of_an_epoch_that_is_over_is_refused_when_it_is_shown_again() {
    let (mut world, channel) = three(11);
    let (mut old, mut extra): (Option<Entry>, u64) = (None, 0);
    lie_entries_of(&mut world, BOB, channel, move |entries| {
        let mut shown = Vec::new();
        for mut entry in entries.drain(..) {
            entry.seq += extra;
            let seq = entry.seq + 1;
            let again = old.clone().filter(|_| extra == 0 && entry.kind == EntryKind::Commit);
            if entry.kind == EntryKind::Commit && old.is_none() {
                old = Some(entry.clone());
            }
            shown.push(entry);
            if let Some(old) = again {
                extra = 1;
                shown.push(Entry { seq, message: MessageId([9; 16]), ..old });
            }
        }
        *entries = shown;
    });
    for _ in 0..2 {
        world.done(ALICE, |client, now| client.update(now, channel));
    }
    world.settle();
    assert!(saw(&world, BOB, unreadable));
    agree(&world, channel, &[ALICE, BOB, CAROL]);
    for text in ["still here", "and here"] {
        said(&mut world, ALICE, channel, text);
        world.settle();
    }
    assert_eq!(world.bodies(BOB), ["still here", "and here"]);
    assert!(saw(&world, BOB, forked));
}

#[test]
fn a_device_that_misses_a_commit_says_so_and_troubles_nobody_else() {
    let (mut world, channel) = three(9);
    leave_out(&mut world, BOB, channel, |entry| entry.kind == EntryKind::Commit);
    for number in 0..3 {
        world.done(ALICE, |client, now| client.update(now, channel));
        said(&mut world, ALICE, channel, &format!("{number}"));
    }
    world.pass(Duration::from_secs(60));
    assert!(saw(&world, BOB, unreadable));
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
        said(&mut world, ALICE, channel, "honest");
        world.settle();
        for device in [BOB, CAROL] {
            assert_eq!(world.bodies(device).last().map(String::as_str), Some("honest"));
        }
    }
}
