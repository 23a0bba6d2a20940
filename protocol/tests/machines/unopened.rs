//! Welcomes that cannot be opened, as many as a server can make up.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crate::talk::*;
use qpc_protocol::client::event::Event;
use qpc_protocol::id::{ChannelId, MessageId};
use qpc_protocol::limits::{ENTRY_TIME, UNOPENED_WELCOMES};
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{Body, Entry, EntryKind, Frame, Origin, Push, Reply, Request};
use qpc_sim::world::{Rules, World};

/// Channels that a device has something stored of, its inbox included.
fn kept(world: &World, device: usize) -> usize {
    world.devices[device].disk.keys().filter(|key| key.starts_with(b"d/c/")).count()
}

/// A welcome as it was once used, to a group that does not exist.
fn made_up(old: &Entry, number: u64, seq: u64) -> Entry {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    let message = MessageId(id);
    let origin = old.origin.map(|origin| Origin { channel: ChannelId::group(id), ..origin });
    Entry { seq, message, origin, ..old.clone() }
}

/// Before each real welcome Bob is shown `most` that are made up; while `deaf` he is told nothing of their groups.
fn flood(world: &mut World, old: Entry, most: u64, deaf: bool) {
    let inbox = ChannelId::inbox(me(world, BOB));
    let (mut number, mut more) = (0, 0);
    lie_both_ways(world, BOB, move |up, mut frame: Frame| {
        let asks = matches!(frame.body, Body::Request(Request::GroupInfoFetch { .. }));
        if up {
            return if asks && deaf { vec![] } else { vec![frame] };
        }
        if let Body::Push(Push::Entries(entries)) = &mut frame.body
            && entries.channel == inbox
        {
            let mut shown = Vec::new();
            for entry in core::mem::take(&mut entries.entries) {
                for _ in 0..if entry.kind == EntryKind::Welcome { most } else { 0 } {
                    shown.push(made_up(&old, number, entry.seq + more));
                    (number, more) = (number + 1, more + 1);
                }
                shown.push(Entry { seq: entry.seq + more, ..entry });
            }
            entries.entries = shown;
        }
        vec![frame]
    });
}

/// Alice, Bob and a welcome that Bob has used.
fn used(seed: u64) -> (World, Entry) {
    let mut world = World::new(Rules::new(seed));
    for name in ["alice", "bob"] {
        world.register(name);
    }
    let inbox = ChannelId::inbox(me(&mut world, BOB));
    let old: Rc<RefCell<Option<Entry>>> = Rc::default();
    let keep = old.clone();
    lie_entries_of(&mut world, BOB, inbox, move |entries| {
        let mut welcomes = entries.iter().filter(|entry| entry.kind == EntryKind::Welcome);
        let mut kept = keep.borrow_mut();
        *kept = kept.take().or_else(|| welcomes.next().cloned());
    });
    group_of(&mut world, ALICE, &["bob"]);
    world.liar = None;
    let old = old.borrow().clone().unwrap();
    (world, old)
}

/// As many as are tried are kept, no more; and whoever honestly invites is followed all the same.
#[test]
fn welcomes_that_cannot_be_opened_fill_no_more_than_their_room() {
    let (mut world, old) = used(1);
    let before = kept(&world, BOB);
    flood(&mut world, old, UNOPENED_WELCOMES as u64 + 6, true);
    let channel = found(&mut world, ALICE, Suite::Classical);
    world.done(ALICE, |client, now| client.invite(now, channel, "bob"));
    // Short of the time after which a connection without answers is given up.
    world.pass(Duration::from_secs(20));
    agree(&world, channel, &[ALICE, BOB]);
    assert_eq!(kept(&world, BOB), before + UNOPENED_WELCOMES + 1);
    let fell = |event: &&Event| matches!(event, Event::FellOut { .. });
    assert_eq!(world.devices[BOB].log.iter().filter(fell).count(), UNOPENED_WELCOMES);
    let told = world.devices[BOB].log.iter().filter(|event| unreadable(event)).count();
    assert_eq!(told, 6);
    said(&mut world, ALICE, channel, "welcome");
    world.run();
    assert_eq!(world.bodies(BOB), ["welcome"]);
    // The server says that he is in none of them: nothing is left, and the room is free again.
    honest(&mut world, &[BOB]);
    world.pass(Duration::from_secs(120));
    world.settle();
    assert_eq!(kept(&world, BOB), before + 1);
    let last = group_of(&mut world, ALICE, &["bob"]);
    all_say(&mut world, last, &[ALICE, BOB], "after");
}

/// A server that says so each time can go on for ever: nothing piles up.
#[test]
fn welcomes_to_groups_that_do_not_exist_leave_nothing_behind() {
    let (mut world, old) = used(2);
    flood(&mut world, old, 10, false);
    for round in 0..4 {
        let channel = group_of(&mut world, ALICE, &["bob"]);
        world.pass(Duration::from_secs(60));
        agree(&world, channel, &[ALICE, BOB]);
        // The inbox, the first group, and one more each time.
        assert_eq!(kept(&world, BOB), 3 + round);
    }
    let out = |event: &&Event| matches!(event, Event::Evicted { .. });
    assert_eq!(world.devices[BOB].log.iter().filter(out).count(), 40);
}

/// Of more groups than are tried at once, whose welcomes the inbox has lost, none is forgotten: those left are asked
/// for with the next session.
#[test]
fn more_groups_than_are_tried_at_once_are_come_into_with_later_sessions() {
    let mut world = World::new(Rules::new(3));
    for name in ["alice", "bob"] {
        world.register(name);
    }
    world.crash(BOB);
    let many = UNOPENED_WELCOMES + 2;
    let groups: Vec<_> = (0..many).map(|_| group_of(&mut world, ALICE, &["bob"])).collect();
    world.advance(ENTRY_TIME + Duration::from_secs(24 * 3600));
    world.pass(Duration::from_secs(120));
    world.start(BOB);
    world.settle();
    let inside = |world: &World| world.groups(BOB).iter().filter(|group| group.member).count();
    assert_eq!(inside(&world), UNOPENED_WELCOMES);
    world.crash(BOB);
    world.start(BOB);
    world.settle();
    assert_eq!(inside(&world), many);
    for (number, channel) in groups.into_iter().enumerate() {
        all_say(&mut world, channel, &[ALICE, BOB], &format!("in {number}"));
    }
    // The list was read to its end: nothing is asked any more.
    let asked = Rc::new(Cell::new(false));
    let seen = asked.clone();
    lie_reply(&mut world, BOB, move |reply| {
        seen.set(seen.get() || matches!(reply, Reply::Channels { .. }));
    });
    world.cut(BOB);
    world.settle();
    assert!(!asked.get());
}
