//! Where two logs part is named: behind the last place where both are known to be the same, and not behind the first
//! where they are known to differ.

use crate::talk::*;
use qpc_protocol::client::event::{Event, Outcome};
use qpc_protocol::id::{ChannelId, Sender};
use qpc_protocol::limits::MARK_EVERY;
use qpc_sim::world::World;

/// What Bob was told of forks: the seq agreed on, the one that differs, and on whose word.
fn parted(world: &World) -> Vec<(u64, u64, Option<Sender>)> {
    let fork = |event: &Event| match event {
        Event::ForkDetected { agreed, seq, by, .. } => Some((*agreed, *seq, *by)),
        _ => None,
    };
    world.devices[BOB].log.iter().filter_map(fork).collect()
}

fn read(world: &World, channel: ChannelId) -> u64 {
    world.group(BOB, channel).cursor
}

/// Shows Bob one entry as of another time.
fn change(world: &mut World, channel: ChannelId, at: u64) {
    lie_entries_of(world, BOB, channel, move |entries| {
        entries.iter_mut().filter(|entry| entry.seq == at).for_each(|entry| entry.time.0 += 1);
    });
}

/// Entries that say nothing of the log.
fn commits(world: &mut World, channel: ChannelId, most: u64) {
    for _ in 0..most {
        world.done(CAROL, |client, now| client.update(now, channel));
    }
    world.settle();
}

fn compare(world: &mut World, channel: ChannelId) {
    let theirs = world.client(ALICE).checkpoint(channel).unwrap().encode();
    let compared = world.done(BOB, |client, now| client.compare_checkpoint(now, channel, &theirs));
    assert!(matches!(compared, Outcome::Compared(_)), "{compared:?}");
}

/// The entry is one of three, wherever among them it is.
#[test]
fn an_entry_shown_otherwise_lies_between_two_words_of_the_same_member() {
    for place in 0..3 {
        let (mut world, channel) = three(1);
        let (alice, carol) = (me(&mut world, ALICE), me(&mut world, CAROL));
        said(&mut world, CAROL, channel, "first");
        world.run();
        said(&mut world, ALICE, channel, "second");
        world.settle();
        // What alice had read when she wrote was the same.
        let first = read(&world, channel) + 1;
        change(&mut world, channel, first + place);
        commits(&mut world, channel, 3);
        assert!(parted(&world).is_empty(), "nobody has said anything");
        said(&mut world, ALICE, channel, "third");
        world.settle();
        assert_eq!(parted(&world), [(first - 2, first + 2, Some(alice))], "at {place}");
        // Carol's last word is older than alice's.
        said(&mut world, CAROL, channel, "fourth");
        world.settle();
        assert_eq!(parted(&world).last(), Some(&(first - 3, first + 3, Some(carol))));
    }
}

#[test]
fn an_entry_shown_otherwise_is_named_by_two_checkpoints_next_to_it() {
    let (mut world, channel) = three(2);
    let alice = me(&mut world, ALICE);
    compare(&mut world, channel);
    let at = read(&world, channel) + 1;
    change(&mut world, channel, at);
    commits(&mut world, channel, 1);
    compare(&mut world, channel);
    assert_eq!(parted(&world), [(at - 1, at, Some(alice))]);
}

/// One checkpoint has two places in it.
#[test]
fn an_entry_shown_otherwise_lies_behind_the_mark_of_the_same_checkpoint() {
    let (mut world, channel) = three(3);
    let alice = me(&mut world, ALICE);
    let most = MARK_EVERY + 1 - read(&world, channel);
    commits(&mut world, channel, most);
    assert_eq!(read(&world, channel), MARK_EVERY + 1);
    change(&mut world, channel, MARK_EVERY + 2);
    commits(&mut world, channel, 2);
    compare(&mut world, channel);
    assert_eq!(parted(&world), [(MARK_EVERY, MARK_EVERY + 3, Some(alice))]);
}

/// Left out for bob, so that the next one stands in its place: whoever wrote that one had read another there.
#[test]
fn an_entry_left_out_is_the_one_that_another_stands_in_the_place_of() {
    let (mut world, channel) = three(4);
    let alice = me(&mut world, ALICE);
    compare(&mut world, channel);
    let at = read(&world, channel) + 1;
    let carol = me(&mut world, CAROL);
    leave_out(&mut world, BOB, channel, move |entry| entry.sender == carol);
    for text in ["hidden", "and this", "and that"] {
        said(&mut world, CAROL, channel, text);
    }
    world.run();
    said(&mut world, ALICE, channel, "seen");
    world.settle();
    assert_eq!(parted(&world), [(at - 1, at, Some(alice))]);
}
