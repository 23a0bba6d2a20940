//! What a device, or the server, knows is known after it was switched off and on: twice, for what gets lost may get
//! lost only then.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::talk::*;
use qpc_protocol::client::ProfileChange;
use qpc_protocol::id::{ChannelId, MessageId};
use qpc_protocol::wire::message::{Body, Entry, EntryKind, Frame, Push, Request};
use qpc_sim::world::World;

// ---- associations -----------------------------------------------------------------------------

/// What a device shows of all that it remembers.
fn remembered(world: &mut World, device: usize) -> Vec<String> {
    let mut all = Vec::new();
    for group in world.groups(device) {
        all.push(format!("{:?} {:?} {:?}", group.name, group.description, group.avatar));
        all.push(format!("{group:?} {:?}", group.authenticator));
    }
    let accounts: Vec<_> = [ALICE, BOB, CAROL].map(|of| account(world, of)).into();
    let client = world.client(device);
    all.push(format!("{:?} {}", client.whoami(), client.pending()));
    all.extend(client.trust_list().into_iter().map(|entry| format!("{entry:?}")));
    all.extend(accounts.into_iter().map(|of| format!("{:?}", client.username(of))));
    let unread = world.devices[device].events.iter().filter_map(|event| match event {
        qpc_protocol::client::event::Event::Message(message) => {
            Some(format!("{} {:?} {:?}", message.seq, message.sender, &message.body[..]))
        }
        _ => None,
    });
    all.extend(unread);
    all
}

/// Associations that were lost only after the second restart (simplexmq #1618). A group with its profile and roles, a
/// direct channel, verified and changed contacts, unread and unsent messages: as they were, each time, without a
/// network.
#[test]
fn regression_28_nothing_is_forgotten_at_the_second_restart() {
    let (mut world, channel) = three(28);
    let profile = ProfileChange { description: Some("about".into()), ..ProfileChange::default() };
    world.done(ALICE, |client, now| client.set_metadata(now, channel, profile));
    make_admin(&mut world, ALICE, channel, BOB);
    for name in ["bob", "carol"] {
        world.done(ALICE, |client, now| client.open_direct(now, name));
    }
    let bobs = account(&mut world, BOB);
    world.done(ALICE, |client, now| client.mark_verified(now, bobs));
    world.done(BOB, |client, now| client.rotate(now));
    for device in [ALICE, BOB, CAROL] {
        said(&mut world, device, channel, "unread");
    }
    world.settle();
    for device in [ALICE, BOB, CAROL] {
        world.devices[device].connect = false;
        world.cut(device);
        say(&mut world, device, channel, &format!("unsent by {device}"));
    }
    world.pass(Duration::from_secs(1));
    let mut before = Vec::new();
    for life in 0..3 {
        if life > 0 {
            for device in [ALICE, BOB, CAROL] {
                restart(&mut world, device);
            }
            world.pass(Duration::from_secs(1));
        }
        for device in [ALICE, BOB, CAROL] {
            let now = remembered(&mut world, device);
            assert!(now.iter().any(|line| line.contains("about")), "{now:?}");
            assert!(now.len() > 8, "{now:?}");
            match life {
                0 => before.push(now),
                _ => assert_eq!(now, before[device], "device {device} in life {life}"),
            }
        }
    }
    for _ in 0..2 {
        world.kill_server();
        world.start_server();
        for device in [ALICE, BOB, CAROL] {
            world.devices[device].connect = true;
            world.cut(device);
        }
        world.settle();
    }
    for device in [ALICE, BOB, CAROL] {
        for other in [ALICE, BOB, CAROL].into_iter().filter(|other| *other != device) {
            assert_eq!(count(&world, device, &format!("unsent by {other}")), 1);
        }
    }
    all_say(&mut world, channel, &[ALICE, BOB, CAROL], "after");
    undisturbed(&world, &[ALICE, BOB, CAROL]);
}

// ---- replays ----------------------------------------------------------------------------------

/// The application reads everything and says so.
fn read_all(world: &mut World, device: usize, channel: ChannelId) {
    let last = world.messages(device).into_iter().map(|message| message.seq).max();
    let now = world.now;
    world.client(device).ack(now, channel, last.unwrap()).unwrap();
    world.settle();
}

/// Everything that was ever pushed to bob or submitted by alice, again with each frame that follows, in whatever
/// connection.
fn repeat_all(world: &mut World) -> Rc<RefCell<(u32, u32)>> {
    const AGAIN: u32 = 1 << 30;
    let counts = Rc::new(RefCell::new((0, 0)));
    let seen = counts.clone();
    let (mut pushed, mut submitted): (Vec<Frame>, Vec<Frame>) = (Vec::new(), Vec::new());
    world.liar = Some(Box::new(move |device, up, frame| {
        let mut frames = vec![frame.clone()];
        match (device, up, &frame.body) {
            (BOB, false, Body::Push(Push::Entries(_))) => {
                seen.borrow_mut().0 += pushed.len() as u32;
                frames.extend(pushed.iter().cloned());
                pushed.push(frame);
            }
            (ALICE, true, Body::Request(Request::Submit(_))) => {
                for (number, old) in submitted.iter().enumerate() {
                    seen.borrow_mut().1 += 1;
                    frames.push(Frame { call: AGAIN + number as u32, body: old.body.clone() });
                }
                submitted.push(frame);
            }
            // She did not ask.
            (ALICE, false, Body::Reply(_) | Body::Failure(_)) if frame.call >= AGAIN => {
                frames.clear();
            }
            _ => {}
        }
        frames
    }));
    counts
}

/// Replays and late duplicates across a restart (SimpleX's tests of its ratchet and its queues): told to the
/// application exactly once across two restarts, whether repeated under the old seq or under a new one, or submitted
/// again.
#[test]
fn regression_23_replays_and_late_duplicates_across_restarts_are_told_once() {
    let (mut world, channel) = three(23);
    let repeated = repeat_all(&mut world);
    let mut texts = Vec::new();
    for life in 0..3 {
        for number in 0..4 {
            texts.push(format!("{number} in life {life}"));
            said(&mut world, ALICE, channel, texts.last().unwrap());
        }
        world.settle();
        assert_eq!(world.bodies(BOB), texts);
        read_all(&mut world, BOB, channel);
        for device in [ALICE, BOB] {
            restart(&mut world, device);
        }
        world.settle();
        assert_eq!(world.bodies(BOB), texts, "after life {life}");
    }
    assert!(repeated.borrow().0 > 20 && repeated.borrow().1 > 20, "{repeated:?}");
    assert_eq!(world.bodies(CAROL), texts, "submitted again, accepted once");
    undisturbed(&world, &[ALICE, BOB, CAROL]);

    // The ciphertext of an earlier life under a seq that is new: its key is gone.
    let mut old: Option<Entry> = None;
    lie_entries_of(&mut world, BOB, channel, move |entries| {
        let Some(last) = entries.last().cloned().filter(|e| e.kind == EntryKind::Application)
        else {
            return;
        };
        match &old {
            None => old = Some(last),
            Some(old) => {
                let seq = last.seq + 1;
                entries.push(Entry { seq, message: MessageId([9; 16]), ..old.clone() });
            }
        }
    });
    for text in ["kept back", "next"] {
        if text == "next" {
            read_all(&mut world, BOB, channel);
            restart(&mut world, BOB);
            world.settle();
        }
        texts.push(text.to_owned());
        said(&mut world, ALICE, channel, text);
        world.settle();
    }
    world.pass(Duration::from_secs(5));
    assert!(saw(&world, BOB, unreadable));
    assert_eq!(world.bodies(BOB), texts);
}
