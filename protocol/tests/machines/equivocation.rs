//! A server that shows members different logs is found out when the two views meet: in a message of the log itself, in
//! a checkpoint carried by another channel, or in one that a person carries.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::talk::*;
use qpc_protocol::client::event::{Comparison, Event, Failed, Outcome};
use qpc_protocol::crypto::checkpoint::Checkpoint;
use qpc_protocol::crypto::identity::DeviceKey;
use qpc_protocol::crypto::portable;
use qpc_protocol::env::Entropy;
use qpc_protocol::error::{ErrorCode, Refused};
use qpc_protocol::id::{ChannelId, DeviceId, Digest, MessageId, Sender};
use qpc_protocol::io::{Input, LinkId};
use qpc_protocol::limits::{CHAINS_KEPT, CHECKPOINT_TIME, MARK_EVERY, MARKS_KEPT};
use qpc_protocol::wire::frame::encode;
use qpc_protocol::wire::message::{Body, Entry, Push, Reply, Request};
use qpc_sim::world::{Rules, World};

/// Shows Bob the entries of one channel as `change` has them; pushes without any are left out.
fn show_bob(
    world: &mut World,
    channel: ChannelId,
    mut change: impl FnMut(Vec<Entry>) -> Vec<Entry> + 'static,
) {
    lie(world, BOB, false, move |mut frame| {
        if let Body::Push(Push::Entries(entries)) = &mut frame.body
            && entries.channel == channel
        {
            entries.entries = change(core::mem::take(&mut entries.entries));
            entries.head = entries.entries.last().map_or(0, |last| last.seq);
            if entries.entries.is_empty() {
                return vec![];
            }
        }
        vec![frame]
    });
}

/// Shows Bob nothing of a channel after `last`, and calls that all there is.
fn withhold(world: &mut World, channel: ChannelId, last: u64) {
    lie(world, BOB, false, move |mut frame| {
        match &mut frame.body {
            Body::Push(Push::Entries(entries)) if entries.channel == channel => {
                entries.entries.retain(|entry| entry.seq <= last);
                entries.head = last;
                if entries.entries.is_empty() {
                    return vec![];
                }
            }
            Body::Reply(Reply::Subscribed { head }) => *head = (*head).min(last),
            _ => {}
        }
        vec![frame]
    });
}

/// What a device was told of forks of a channel: the seq, and on whose word.
fn forks(world: &World, device: usize, of: ChannelId) -> Vec<(u64, Option<Sender>)> {
    let fork = |event: &Event| match event {
        Event::ForkDetected { channel, seq, by, .. } if *channel == of => Some((*seq, *by)),
        _ => None,
    };
    world.devices[device].log.iter().filter_map(fork).collect()
}

fn read(world: &World, device: usize, channel: ChannelId) -> u64 {
    world.group(device, channel).cursor
}

fn compare(world: &mut World, device: usize, of: usize, channel: ChannelId) -> Comparison {
    let theirs = world.client(of).checkpoint(channel).unwrap().encode();
    compared(world, device, channel, &theirs)
}

fn compared(world: &mut World, device: usize, channel: ChannelId, theirs: &[u8]) -> Comparison {
    match world.done(device, |client, now| client.compare_checkpoint(now, channel, theirs)) {
        Outcome::Compared(found) => found,
        other => panic!("{other:?}"),
    }
}

// ---- messages of the log itself ----------------------------------------------------------------

/// Forks in production (libxmtp #914): what a dishonest server shows otherwise is found out, and named.
#[test]
fn regression_20_an_entry_shown_otherwise_is_named_by_the_next_message() {
    let (mut world, channel) = three(1);
    let alice = me(&mut world, ALICE);
    let at = read(&world, BOB, channel) + 1;
    // The same ciphertext at another time: nothing but the chain tells.
    show_bob(&mut world, channel, move |mut entries| {
        entries.iter_mut().filter(|entry| entry.seq == at).for_each(|entry| entry.time.0 += 1);
        entries
    });
    said(&mut world, CAROL, channel, "when?");
    world.settle();
    assert!(forks(&world, BOB, channel).is_empty());
    said(&mut world, ALICE, channel, "now");
    world.settle();
    assert_eq!(forks(&world, BOB, channel), [(at, Some(alice))]);
    assert_eq!(world.bodies(BOB), ["when?", "now"], "it reads on");
    for honest in [ALICE, CAROL] {
        assert!(forks(&world, honest, channel).is_empty());
    }
}

#[test]
fn an_entry_left_out_is_named_by_the_next_message() {
    let (mut world, channel) = three(2);
    let (alice, carol) = (me(&mut world, ALICE), me(&mut world, CAROL));
    let at = read(&world, BOB, channel) + 1;
    show_bob(&mut world, channel, move |mut entries| {
        entries.retain(|entry| entry.sender != carol);
        entries.iter_mut().filter(|entry| entry.seq > at).for_each(|entry| entry.seq -= 1);
        entries
    });
    said(&mut world, CAROL, channel, "hidden");
    world.run();
    said(&mut world, ALICE, channel, "seen");
    world.settle();
    assert_eq!(forks(&world, BOB, channel), [(at, Some(alice))]);
    assert_eq!(world.bodies(BOB), ["seen"]);
}

#[test]
fn entries_in_another_order_are_named_by_the_first_that_had_read_another() {
    let (mut world, channel) = three(3);
    let carol = me(&mut world, CAROL);
    let at = read(&world, BOB, channel) + 1;
    let mut held = None;
    show_bob(&mut world, channel, move |entries| {
        let mut shown = Vec::new();
        for mut entry in entries {
            if entry.seq == at {
                held = Some(entry);
            } else if let Some(mut first) = held.take() {
                entry.seq = at;
                first.seq = at + 1;
                shown.extend([entry, first]);
            } else {
                shown.push(entry);
            }
        }
        shown
    });
    said(&mut world, ALICE, channel, "question");
    world.run();
    said(&mut world, CAROL, channel, "answer");
    world.settle();
    assert_eq!(forks(&world, BOB, channel).first(), Some(&(at, Some(carol))));
    assert_eq!(world.bodies(BOB), ["answer", "question"]);
}

#[test]
fn an_entry_shown_twice_is_suspected_at_once_and_named_by_the_next_message() {
    let (mut world, channel) = three(4);
    let alice = me(&mut world, ALICE);
    let at = read(&world, BOB, channel) + 1;
    show_bob(&mut world, channel, move |entries| {
        let mut shown = Vec::new();
        for mut entry in entries {
            entry.seq += u64::from(entry.seq > at);
            let again = Entry { seq: at + 1, message: MessageId([9; 16]), ..entry.clone() };
            let twice = entry.seq == at;
            shown.push(entry);
            shown.extend(twice.then_some(again));
        }
        shown
    });
    said(&mut world, ALICE, channel, "once");
    world.settle();
    // A key opens one ciphertext once: what does not open at the own epoch is no honest server's.
    let twice = |event: &Event| matches!(event, Event::ForkSuspected { channel: of, seq } if (*of, *seq) == (channel, at + 1));
    assert!(saw(&world, BOB, twice));
    said(&mut world, CAROL, channel, "two");
    world.run();
    said(&mut world, ALICE, channel, "three");
    world.settle();
    assert_eq!(forks(&world, BOB, channel).first(), Some(&(at + 1, Some(alice))));
    assert_eq!(world.bodies(BOB), ["once", "two", "three"]);
}

#[test]
fn a_withheld_tail_shows_with_what_is_put_in_its_place_and_not_before() {
    let (mut world, channel) = three(5);
    let carol = me(&mut world, CAROL);
    let last = read(&world, BOB, channel);
    withhold(&mut world, channel, last);
    said(&mut world, ALICE, channel, "withheld");
    world.pass(Duration::from_secs(60));
    assert!(!saw(&world, BOB, |event| forked(event) || suspected(event)));
    // By another way it shows that there is more, and that nothing of it is here.
    let ahead = Comparison::Ahead { seq: last + 1, agreed: None };
    assert_eq!(compare(&mut world, BOB, ALICE, channel), ahead);
    show_bob(&mut world, channel, move |mut entries| {
        entries.retain(|entry| entry.seq > last + 1);
        entries.iter_mut().for_each(|entry| entry.seq -= 1);
        entries
    });
    said(&mut world, CAROL, channel, "in its place");
    world.run();
    assert_eq!(forks(&world, BOB, channel), [(last + 1, Some(carol))]);
}

// ---- checkpoints in other channels -------------------------------------------------------------

/// A fork of `channel` at the seq returned, after which nothing more is said there.
fn fork(world: &mut World, channel: ChannelId) -> u64 {
    let at = read(world, BOB, channel) + 1;
    show_bob(world, channel, move |mut entries| {
        entries.iter_mut().filter(|entry| entry.seq == at).for_each(|entry| entry.time.0 += 1);
        entries
    });
    said(world, CAROL, channel, "seen by all, not as one");
    world.settle();
    at
}

#[test]
fn a_checkpoint_in_another_channel_finds_a_fork_of_a_silent_one() {
    let (mut world, channel) = three(10);
    let two = group_of(&mut world, ALICE, &["bob"]);
    let alice = me(&mut world, ALICE);
    let at = fork(&mut world, channel);
    assert!(forks(&world, BOB, channel).is_empty());
    said(&mut world, ALICE, two, "between us");
    world.settle();
    assert_eq!(forks(&world, BOB, channel), [(at, Some(alice))]);
    assert_eq!(world.bodies(BOB), ["seen by all, not as one", "between us"]);
    // Bob's own word is as good: Alice hears of it when he writes.
    let bob = me(&mut world, BOB);
    said(&mut world, BOB, two, "oh");
    world.settle();
    assert_eq!(forks(&world, ALICE, channel), [(at, Some(bob))]);
    assert!(forks(&world, CAROL, channel).is_empty());
    // Nobody stops on it: the others read on, whatever a member claims.
    for device in [ALICE, CAROL] {
        said(&mut world, device, channel, "on we go");
    }
    world.settle();
    assert_eq!(world.bodies(ALICE).iter().filter(|body| *body == "on we go").count(), 1);
    agree(&world, channel, &[ALICE, BOB, CAROL]);
}

#[test]
fn checkpoints_go_only_to_members_and_only_now_and_then() {
    let (mut world, channel) = three(11);
    let two = group_of(&mut world, ALICE, &["bob"]);
    let entries = |world: &mut World, device, of| {
        let before = read(world, ALICE, of);
        said(world, device, of, "hello");
        world.settle();
        read(world, ALICE, of) - before
    };
    assert_eq!(entries(&mut world, ALICE, channel), 1, "carol is not in the other one");
    assert_eq!(entries(&mut world, ALICE, two), 2, "both are in the first one");
    assert_eq!(entries(&mut world, ALICE, two), 1);
    assert_eq!(entries(&mut world, BOB, two), 2, "it was alice's turn, now it is bob's");
    world.pass(CHECKPOINT_TIME);
    world.settle();
    assert_eq!(entries(&mut world, ALICE, two), 2);
    world.crash(ALICE);
    world.start(ALICE);
    world.settle();
    assert_eq!(entries(&mut world, ALICE, two), 1, "it remembers");
    for device in [ALICE, BOB, CAROL] {
        assert!(!saw(&world, device, |event| forked(event) || suspected(event)));
        assert!(!saw(&world, device, |event| matches!(event, Event::Unreadable { .. })));
    }
}

/// A checkpoint that is ahead waits, across a restart, until the log was read as far.
#[test]
fn a_checkpoint_ahead_is_kept_until_the_log_has_come_so_far() {
    for (seed, honest) in [(12, true), (13, false)] {
        let (mut world, channel) = three(seed);
        let two = group_of(&mut world, ALICE, &["bob"]);
        let alice = me(&mut world, ALICE);
        let last = read(&world, BOB, channel);
        withhold(&mut world, channel, last);
        said(&mut world, CAROL, channel, "withheld");
        world.run();
        said(&mut world, ALICE, two, "did you see?");
        world.pass(Duration::from_secs(5));
        assert_eq!(world.bodies(BOB), ["did you see?"]);
        assert!(forks(&world, BOB, channel).is_empty());
        world.crash(BOB);
        if honest {
            world.liar = None;
        } else {
            show_bob(&mut world, channel, |mut entries| {
                entries.iter_mut().for_each(|entry| entry.time.0 += 1);
                entries
            });
        }
        world.start(BOB);
        world.settle();
        let expected = if honest { vec![] } else { vec![(last + 1, Some(alice))] };
        assert_eq!(forks(&world, BOB, channel), expected);
        // Once compared it is forgotten.
        world.crash(BOB);
        assert!(!world.devices[BOB].disk.keys().any(|key| key.starts_with(b"d/k/")));
    }
}

// ---- checkpoints that people carry -------------------------------------------------------------

#[test]
fn people_compare_what_their_devices_read() {
    let (mut world, channel) = three(20);
    let seq = read(&world, ALICE, channel);
    let same = Comparison::Same { seq };
    assert_eq!(compare(&mut world, ALICE, BOB, channel), same);
    assert_eq!(compare(&mut world, BOB, ALICE, channel), same);
    let old = world.client(ALICE).checkpoint(channel).unwrap().encode();
    let alice = me(&mut world, ALICE);
    let at = fork(&mut world, channel);
    assert_eq!(compare(&mut world, BOB, ALICE, channel), Comparison::Differs { seq: at });
    assert_eq!(forks(&world, BOB, channel), [(at, Some(alice))]);
    assert_eq!(compare(&mut world, CAROL, ALICE, channel), Comparison::Same { seq: at });
    assert_eq!(compared(&mut world, BOB, channel, &old), same, "up to there it was the same");
}

#[test]
fn the_history_of_the_group_counts_where_the_epochs_are_the_same() {
    let (mut world, channel) = three(21);
    let key = world.client(ALICE).checkpoint(channel).unwrap();
    for device in [BOB, CAROL] {
        let theirs = world.client(device).checkpoint(channel).unwrap();
        assert_eq!((key.epoch, key.transcript), (theirs.epoch, theirs.transcript));
        assert_ne!(key.transcript, Digest([0; 32]));
    }
    let before = key.transcript;
    world.done(BOB, |client, now| client.update(now, channel));
    world.settle();
    assert_ne!(world.client(ALICE).checkpoint(channel).unwrap().transcript, before);
    assert!(matches!(compare(&mut world, ALICE, CAROL, channel), Comparison::Same { .. }));
}

/// Links that are far behind are compared where everybody remembers one, after a restart too.
#[test]
fn an_old_checkpoint_is_compared_at_its_mark() {
    let (mut world, channel) = three(22);
    let talk_to = |world: &mut World, seq: u64| {
        while read(world, ALICE, channel) < seq {
            said(world, ALICE, channel, "on and on");
        }
        world.settle();
    };
    talk_to(&mut world, 2 * MARK_EVERY + 3);
    let old = world.client(CAROL).checkpoint(channel).unwrap();
    assert_eq!((old.seq, old.mark), (2 * MARK_EVERY + 3, 2 * MARK_EVERY));
    talk_to(&mut world, old.seq + MARK_EVERY);
    world.crash(BOB);
    world.start(BOB);
    world.settle();
    let same = Comparison::Same { seq: old.mark };
    assert_eq!(compared(&mut world, BOB, channel, &old.encode()), same);
    const { assert!(MARK_EVERY * MARKS_KEPT as u64 > CHAINS_KEPT as u64) }
}

#[test]
fn a_forged_checkpoint_is_told_as_that_and_never_as_a_fork() {
    let (mut world, channel) = three(23);
    let key = DeviceKey::generate(portable(), &mut Entropy::from_seed([1; 32]));
    let honest = world.client(CAROL).checkpoint(channel).unwrap();
    let lie = Checkpoint { chain: Digest([7; 32]), mark_chain: Digest([7; 32]), ..honest };
    let forged = [lie, lie.signed(portable(), &key), Checkpoint { seq: honest.seq + 1, ..honest }];
    for theirs in forged {
        assert_eq!(compared(&mut world, BOB, channel, &theirs.encode()), Comparison::Forged);
    }
    let nobody = Sender { device: DeviceId([7; 16]), ..honest.by };
    let strange = Checkpoint { by: nobody, ..lie }.signed(portable(), &key);
    assert_eq!(compared(&mut world, BOB, channel, &strange.encode()), Comparison::Stranger);
    let now = world.now;
    let elsewhere = Checkpoint { channel: ChannelId([1; 16]), ..honest }.encode();
    for bytes in [&elsewhere[..], &elsewhere[1..], &[]] {
        let refused = world.client(BOB).compare_checkpoint(now, channel, bytes);
        assert!(matches!(refused, Err(Refused::Invalid(_))), "{refused:?}");
    }
    let unknown = ChannelId([1; 16]);
    assert_eq!(world.client(BOB).checkpoint(unknown), Err(Refused::UnknownChannel));
    assert!(!saw(&world, BOB, |event| forked(event) || suspected(event)));
}

/// Whoever was removed has nothing to say of the group any more.
#[test]
fn a_checkpoint_of_somebody_who_is_out_counts_for_nothing() {
    let (mut world, channel) = three(24);
    let carol = me(&mut world, CAROL).account;
    let last = world.client(CAROL).checkpoint(channel).unwrap().encode();
    world.done(ALICE, |client, now| client.remove(now, channel, carol));
    world.settle();
    assert_eq!(compared(&mut world, BOB, channel, &last), Comparison::Stranger);
    assert_eq!(world.client(CAROL).checkpoint(channel), Err(Refused::NotMember));
}

#[test]
fn commits_in_a_log_do_not_disturb_checkpoints() {
    let (mut world, channel) = three(25);
    let two = group_of(&mut world, ALICE, &["bob"]);
    for round in 0..3 {
        world.done(CAROL, |client, now| client.update(now, channel));
        let before = read(&world, ALICE, two);
        for device in [ALICE, BOB] {
            said(&mut world, device, two, "hello");
            world.settle();
        }
        assert_eq!(read(&world, ALICE, two), before + 4, "each carries a checkpoint: {round}");
        world.pass(CHECKPOINT_TIME);
        world.settle();
    }
    for device in [ALICE, BOB, CAROL] {
        assert!(!saw(&world, device, |event| forked(event) || suspected(event)));
    }
    // A commit counts as any entry: shown to bob alone as of another time it is named, though nobody wrote since.
    let alice = me(&mut world, ALICE);
    let at = read(&world, BOB, channel) + 1;
    show_bob(&mut world, channel, move |mut entries| {
        entries.iter_mut().filter(|entry| entry.seq == at).for_each(|entry| entry.time.0 += 1);
        entries
    });
    world.done(CAROL, |client, now| client.update(now, channel));
    world.settle();
    agree(&world, channel, &[ALICE, BOB, CAROL]);
    assert!(forks(&world, BOB, channel).is_empty());
    said(&mut world, ALICE, two, "did you see?");
    world.settle();
    assert_eq!(forks(&world, BOB, channel), [(at, Some(alice))]);
}

#[test]
fn a_checkpoint_is_compared_with_what_was_read_of_a_group_that_has_ended_or_is_lost() {
    let (mut world, channel) = three(26);
    let theirs = world.client(ALICE).checkpoint(channel).unwrap();
    let same = Comparison::Same { seq: theirs.seq };
    lie(&mut world, ALICE, true, |frame| match &frame.body {
        Body::Request(Request::KeyPackageFetch { .. }) => vec![],
        _ => vec![frame],
    });
    world.command(ALICE, |client, now| client.reset(now, channel, None));
    world.pass(Duration::from_secs(1));
    assert!(saw(&world, BOB, |event| matches!(event, Event::Reset { .. })));
    for _ in 0..2 {
        assert_eq!(compared(&mut world, BOB, channel, &theirs.encode()), same);
        world.crash(BOB);
        world.start(BOB);
    }
    // Who was in it is not known any more: that is no stranger's.
    world.crash(BOB);
    let disk = world.devices[BOB].disk.iter_mut();
    disk.filter(|(key, _)| key.starts_with(b"g/")).for_each(|(_, value)| value.truncate(1));
    world.start(BOB);
    for _ in 0..2 {
        let theirs = theirs.encode();
        let failed = fails(&mut world, BOB, |c, now| c.compare_checkpoint(now, channel, &theirs));
        assert!(matches!(failed, Failed::Obsolete(_)), "{failed:?}");
    }
}

/// Asked for, and removed in the very turn in which it would be answered.
#[test]
fn a_comparison_under_way_when_the_device_is_removed_fails() {
    let mut world = World::new(Rules::new(27).one_link());
    for name in ["alice", "bob", "carol"] {
        world.register(name);
    }
    let channel = group_of(&mut world, ALICE, &["bob", "carol"]);
    said(&mut world, BOB, channel, "in memory");
    let theirs = world.client(ALICE).checkpoint(channel).unwrap().encode();
    let bob = me(&mut world, BOB).account;
    let held: Rc<RefCell<Vec<u8>>> = Rc::default();
    let keep = held.clone();
    lie(&mut world, BOB, false, move |frame| match &frame.body {
        Body::Push(Push::Entries(entries)) if entries.channel == channel => {
            encode(&frame, &mut keep.borrow_mut());
            vec![]
        }
        _ => vec![frame],
    });
    world.done(ALICE, |client, now| client.remove(now, channel, bob));
    world.run();
    let ticket = world.command(BOB, |client, now| client.compare_checkpoint(now, channel, &theirs));
    // Whichever the link is: there is one.
    let now = world.now;
    for link in 0..10_000 {
        let input = Input::Bytes(LinkId(link), &held.borrow());
        world.client(BOB).handle(now, input).unwrap();
    }
    assert!(matches!(world.failure(BOB, ticket), Failed::Obsolete(_)));
    assert!(saw(&world, BOB, |event| matches!(event, Event::Evicted { .. })));
}

/// Bob has read as far in another history as he may read in the first, where he is removed: nothing shows it until he
/// says something.
#[test]
fn who_is_refused_as_no_member_and_finds_no_removal_suspects_a_fork() {
    let (mut world, channel) = three(29);
    let bob = account(&mut world, BOB);
    world.fork(&[BOB]);
    said(&mut world, BOB, channel, "elsewhere");
    world.done(ALICE, |client, now| client.remove(now, channel, bob));
    assert!(world.join_forks());
    world.pass(Duration::from_secs(10));
    assert!(!saw(&world, BOB, suspected));
    let unsaid = say(&mut world, BOB, channel, "to nobody");
    assert_eq!(code(&world.failure(BOB, unsaid)), ErrorCode::NotMember);
    world.until(|world| saw(world, BOB, suspected));
}
