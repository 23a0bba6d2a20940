//! A server that shows messages before the commit that leads to their epoch: they wait for it, and it is told.

use std::time::Duration;

use crate::talk::*;
use qpc_protocol::client::event::{Comparison, Event, Outcome, Why};
use qpc_protocol::id::{ChannelId, Sender};
use qpc_protocol::limits::{CHECKPOINT_TIME, EARLY_BYTES, EARLY_ENTRIES, EARLY_PATIENCE};
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{Body, Entry, EntryKind, Push};
use qpc_sim::world::World;

/// Shows Bob the entry `at` behind the next `behind` ones, however often he asks.
fn show_late(world: &mut World, channel: ChannelId, at: u64, behind: u64) {
    let mut held: Option<Entry> = None;
    lie(world, BOB, false, move |mut frame| {
        let Body::Push(Push::Entries(entries)) = &mut frame.body else { return vec![frame] };
        if entries.channel != channel {
            return vec![frame];
        }
        let mut shown = Vec::new();
        for mut entry in core::mem::take(&mut entries.entries) {
            match entry.seq {
                seq if seq == at => held = Some(Entry { seq: at + behind, ..entry }),
                seq if seq > at && seq <= at + behind => {
                    entry.seq -= 1;
                    shown.push(entry);
                    shown.extend(held.take_if(|_| seq == at + behind));
                }
                _ => shown.push(entry),
            }
        }
        entries.entries = shown;
        if entries.entries.is_empty() { vec![] } else { vec![frame] }
    });
}

/// What Bob was told of forks: the seq agreed on, the one that differs, and on whose word.
fn forks(world: &World, device: usize) -> Vec<(u64, u64, Option<Sender>)> {
    let fork = |event: &Event| match event {
        Event::ForkDetected { agreed, seq, by, .. } => Some((*agreed, *seq, *by)),
        _ => None,
    };
    world.devices[device].log.iter().filter_map(fork).collect()
}

fn fell(world: &World) -> bool {
    saw(world, BOB, |event| matches!(event, Event::FellOut { .. }))
}

fn read(world: &World, channel: ChannelId) -> u64 {
    world.group(BOB, channel).cursor
}

fn update(world: &mut World, device: usize, channel: ChannelId) {
    world.done(device, |client, now| client.update(now, channel));
    // All others have read it.
    world.run();
}

fn texts(first: usize, most: usize) -> Vec<String> {
    (first..most).map(|number| format!("{number}")).collect()
}

#[test]
fn a_message_shown_before_its_commit_is_read_when_that_has_come() {
    let (mut world, channel) = three(1);
    let alice = me(&mut world, ALICE);
    said(&mut world, ALICE, channel, "before");
    said(&mut world, ALICE, channel, "agreed");
    world.settle();
    let at = read(&world, channel) + 1;
    show_late(&mut world, channel, at, 2);
    update(&mut world, CAROL, channel);
    said(&mut world, ALICE, channel, "one");
    world.run();
    assert_eq!(read(&world, channel), at - 1, "it waits");
    assert!(saw(&world, BOB, suspected));
    let waiting = say(&mut world, BOB, channel, "not in an epoch that is over");
    world.run();
    assert!(!is_done(&world, BOB, waiting));
    said(&mut world, CAROL, channel, "two");
    world.settle();
    assert_eq!(world.bodies(BOB), ["before", "agreed", "one", "two"]);
    assert!(matches!(world.outcome(BOB, waiting), Outcome::Sent(_)));
    assert!(!fell(&world) && rejoins(&world, BOB).is_empty());
    // Alice had read the commit in that place. The message that she was heard of by last says what came before it.
    assert_eq!(forks(&world, BOB).first(), Some(&(at - 2, at, Some(alice))));
    agree(&world, channel, &[ALICE, BOB, CAROL]);
}

/// Two commits at once, and messages of each epoch.
#[test]
fn messages_of_several_epochs_wait_for_their_commits_in_order() {
    let (mut world, channel) = three(2);
    let at = read(&world, channel) + 1;
    show_late(&mut world, channel, at, 4);
    for number in 0..2 {
        update(&mut world, CAROL, channel);
        said(&mut world, ALICE, channel, &format!("{number}"));
    }
    said(&mut world, CAROL, channel, "2");
    world.settle();
    assert_eq!(world.bodies(BOB), texts(0, 3));
    assert!(!fell(&world));
    agree(&world, channel, &[ALICE, BOB, CAROL]);
}

/// Nothing goes out before the batch before it, and there is no deadline meanwhile that has come already.
#[test]
fn a_log_is_asked_for_again_while_a_batch_is_on_its_way_to_a_slow_disk() {
    let (mut world, channel) = three(9);
    let at = read(&world, channel) + 1;
    show_late(&mut world, channel, at, 2);
    update(&mut world, CAROL, channel);
    said(&mut world, ALICE, channel, "one");
    world.run();
    world.devices[BOB].disk_latency = 2 * EARLY_PATIENCE;
    world.command(BOB, |client, now| client.create_group(now, "another", Suite::Classical));
    world.pass(2 * EARLY_PATIENCE);
    said(&mut world, CAROL, channel, "two");
    world.settle();
    assert_eq!(world.bodies(BOB), ["one", "two"]);
    assert!(!fell(&world));
    agree(&world, channel, &[ALICE, BOB, CAROL]);
}

/// In the batch in which the commit is read, all is; before, nothing.
#[test]
fn a_crash_while_a_message_waits_loses_nothing() {
    for at_batch in 0..3 {
        let (mut world, channel) = three(3);
        let at = read(&world, channel) + 1;
        show_late(&mut world, channel, at, 2);
        update(&mut world, CAROL, channel);
        said(&mut world, ALICE, channel, "one");
        world.run();
        restart(&mut world, BOB);
        world.run();
        world.devices[BOB].crash_in = Some(at_batch);
        said(&mut world, CAROL, channel, "two");
        world.pass(Duration::from_secs(5));
        if world.devices[BOB].client.is_none() {
            world.start(BOB);
        }
        world.devices[BOB].crash_in = None;
        world.settle();
        for text in ["one", "two"] {
            assert_eq!(count(&world, BOB, text), 1, "crash at {at_batch}: {text}");
        }
        assert!(!fell(&world));
    }
}

#[test]
fn so_many_messages_wait_and_with_one_more_the_commit_is_given_up() {
    for more in [0, 1] {
        let (mut world, channel) = three(4);
        let at = read(&world, channel) + 1;
        let behind = EARLY_ENTRIES + more;
        show_late(&mut world, channel, at, behind as u64);
        update(&mut world, CAROL, channel);
        for text in texts(0, behind) {
            said(&mut world, ALICE, channel, &text);
        }
        world.run();
        assert_eq!(fell(&world), more == 1);
        if more == 0 {
            assert_eq!(world.bodies(BOB), texts(0, behind));
        }
        honest(&mut world, &[BOB]);
        world.settle();
        assert_eq!(rejoins(&world, BOB), vec![Why::Missed; more]);
        all_say(&mut world, channel, &[ALICE, BOB, CAROL], "after");
    }
}

#[test]
fn so_many_bytes_wait_and_with_more_the_commit_is_given_up() {
    for more in [false, true] {
        let (mut world, channel) = three(5);
        let at = read(&world, channel) + 1;
        show_late(&mut world, channel, at, 4);
        update(&mut world, CAROL, channel);
        let len = usize::try_from(EARLY_BYTES / 4).unwrap();
        // What surrounds them counts as well.
        let len = if more { len } else { len - 16 * 1024 };
        for _ in 0..4 {
            said(&mut world, ALICE, channel, &"x".repeat(len));
        }
        world.run();
        assert_eq!(fell(&world), more);
        honest(&mut world, &[BOB]);
        world.settle();
        all_say(&mut world, channel, &[ALICE, BOB, CAROL], "after");
    }
}

/// The commit is shown after all, in its place: nothing is lost, and the server has contradicted itself.
#[test]
fn a_commit_that_is_shown_when_the_log_is_asked_for_again_is_taken() {
    let (mut world, channel) = three(6);
    let at = read(&world, channel) + 1;
    leave_out(&mut world, BOB, channel, |entry| entry.kind == EntryKind::Commit);
    update(&mut world, CAROL, channel);
    said(&mut world, ALICE, channel, "one");
    world.pass(Duration::from_millis(1_500));
    assert!(world.bodies(BOB).is_empty() && !fell(&world));
    // He asks by himself, on the same connection.
    world.liar = None;
    world.settle();
    assert_eq!(world.bodies(BOB), ["one"]);
    assert_eq!(forks(&world, BOB), [(at - 1, at, None)]);
    assert!(!fell(&world));
    all_say(&mut world, channel, &[ALICE, BOB, CAROL], "after");
}

/// The commit is never shown. What was read up to then is not forgotten with the group: whoever has read another log up
/// to there hears of it.
#[test]
fn a_commit_that_never_comes_is_missed_and_what_was_shown_is_told_later() {
    let (mut world, channel) = three(7);
    let two = group_of(&mut world, ALICE, &["bob"]);
    let bob = me(&mut world, BOB);
    let at = read(&world, channel) + 1;
    leave_out(&mut world, BOB, channel, |entry| entry.kind == EntryKind::Commit);
    update(&mut world, CAROL, channel);
    said(&mut world, ALICE, channel, "never read");
    world.pass(Duration::from_secs(10));
    assert!(!fell(&world), "it is waited for");
    world.pass(Duration::from_secs(10));
    assert!(fell(&world));
    honest(&mut world, &[BOB]);
    world.settle();
    assert_eq!(rejoins(&world, BOB), [Why::Missed]);
    all_say(&mut world, channel, &[ALICE, BOB, CAROL], "after");
    let theirs = world.client(BOB).checkpoint(channel).unwrap().encode();
    let compared =
        world.done(ALICE, |client, now| client.compare_checkpoint(now, channel, &theirs));
    assert_eq!(compared, Outcome::Compared(Comparison::Differs { seq: at }));
    // The same by itself, with what he writes elsewhere.
    world.devices[ALICE].log.clear();
    world.pass(CHECKPOINT_TIME);
    said(&mut world, BOB, two, "hello");
    world.settle();
    assert_eq!(forks(&world, ALICE).first().map(|(_, seq, by)| (*seq, *by)), Some((at, Some(bob))));
}
