//! What was sent in the epochs before a device came back, and was taken after: it is read as after any other commit, if
//! the device could read it before.

use std::time::Duration;

use crate::talk::*;
use qpc_protocol::client::event::{Outcome, Why};
use qpc_protocol::id::{ChannelId, Sender};
use qpc_protocol::limits::PAST_EPOCHS;
use qpc_protocol::wire::message::{Body, Push};
use qpc_sim::world::World;

/// Keeps the log of a group from some of its members: what they send is of the epoch that they are in.
fn blindfold(world: &mut World, channel: ChannelId, devices: &'static [usize]) {
    world.liar = Some(Box::new(move |device, up, frame| {
        let of_group = matches!(&frame.body,
            Body::Push(Push::Entries(entries)) if entries.channel == channel);
        if !up && of_group && devices.contains(&device) { vec![] } else { vec![frame] }
    }));
}

/// Bob comes back, and the others do not see it yet.
fn rejoin_unseen(world: &mut World, channel: ChannelId) {
    let before = world.group(BOB, channel).epoch;
    blindfold(world, channel, &[ALICE, CAROL]);
    let ticket = world.command(BOB, |client, now| client.rejoin(now, channel));
    assert_eq!(world.outcome(BOB, ticket), Outcome::Epoch(before + 1));
}

/// What Bob was told of a text: who sent it, and in which epoch.
fn told(world: &World, text: &str) -> Vec<(Sender, u64)> {
    let told = world.messages(BOB).into_iter().filter(|of| of.body.as_slice() == text.as_bytes());
    told.map(|message| (message.sender, message.epoch)).collect()
}

/// Nobody else is disturbed, and Bob can read everything.
fn well(world: &World) {
    undisturbed(world, &[ALICE, CAROL]);
    assert!(!saw(world, BOB, |event| unreadable(event) || suspected(event) || forked(event)));
}

#[test]
fn what_was_sent_before_one_came_back_and_taken_after_is_read_once() {
    for restarts in [false, true] {
        let (mut world, channel) = three(1);
        let epoch = world.group(BOB, channel).epoch;
        said(&mut world, ALICE, channel, "read before");
        world.settle();
        rejoin_unseen(&mut world, channel);
        said(&mut world, ALICE, channel, "one");
        world.run();
        if restarts {
            restart(&mut world, BOB);
            world.run();
            world.devices[BOB].log.clear();
        }
        said(&mut world, CAROL, channel, "two");
        world.run();
        let (alice, carol) = (me(&mut world, ALICE), me(&mut world, CAROL));
        assert_eq!(told(&world, "two"), [(carol, epoch)]);
        if !restarts {
            assert_eq!(told(&world, "one"), [(alice, epoch)]);
        }
        honest(&mut world, &[ALICE, CAROL]);
        all_say(&mut world, channel, &[ALICE, BOB, CAROL], "after");
        restart(&mut world, BOB);
        world.settle();
        for text in ["read before", "one", "two"] {
            assert_eq!(count(&world, BOB, text), 1, "{text}");
        }
        well(&world);
    }
}

/// Of the two epochs before the present one, as always: the commit that brought it back counts like any other.
#[test]
fn what_is_kept_goes_when_its_epoch_is_long_over() {
    let (mut world, channel) = three(2);
    blindfold(&mut world, channel, &[ALICE]);
    for _ in 0..PAST_EPOCHS - 1 {
        world.done(CAROL, |client, now| client.update(now, channel));
        world.run();
    }
    let ticket = world.command(BOB, |client, now| client.rejoin(now, channel));
    assert!(matches!(world.outcome(BOB, ticket), Outcome::Epoch(_)));
    said(&mut world, ALICE, channel, "in time");
    world.run();
    assert_eq!(count(&world, BOB, "in time"), 1);
    well(&world);
    // The server keeps it to that, and so does Bob: Alice's next goes out in the present epoch.
    world.done(CAROL, |client, now| client.update(now, channel));
    let late = say(&mut world, ALICE, channel, "too late");
    world.run();
    assert!(!is_done(&world, ALICE, late));
    honest(&mut world, &[ALICE]);
    all_say(&mut world, channel, &[ALICE, BOB, CAROL], "after");
    assert_eq!(count(&world, BOB, "too late"), 1);
    well(&world);
}

/// What it had of the group is of no use any more, and it says so for each message that it is not told.
#[test]
fn a_damaged_group_leaves_nothing_to_read_with() {
    let (mut world, channel) = three(3);
    world.crash(BOB);
    damage(&mut world, BOB);
    blindfold(&mut world, channel, &[ALICE]);
    world.start(BOB);
    said(&mut world, CAROL, channel, "while damaged");
    world.until(|world| rejoins(world, BOB) == [Why::Damaged]);
    world.devices[BOB].log.clear();
    said(&mut world, ALICE, channel, "of before");
    world.run();
    assert!(saw(&world, BOB, unreadable));
    assert_eq!(count(&world, BOB, "of before"), 0);
    honest(&mut world, &[ALICE]);
    all_say(&mut world, channel, &[ALICE, BOB, CAROL], "after");
}

/// What was meant for those who were there while it was not is no loss, whether it had come back before or not.
#[test]
fn what_was_sent_while_one_was_out_and_taken_after_its_return_is_not_told() {
    for restarts in [false, true] {
        let (mut world, channel) = three(6);
        let bob = account(&mut world, BOB);
        world.done(BOB, |client, now| client.rejoin(now, channel));
        world.done(ALICE, |client, now| client.remove(now, channel, bob));
        world.settle();
        blindfold(&mut world, channel, &[CAROL]);
        world.done(ALICE, |client, now| client.invite(now, channel, "bob"));
        world.settle();
        if restarts {
            restart(&mut world, BOB);
        }
        said(&mut world, CAROL, channel, "not for bob");
        world.settle();
        let read = [ALICE, BOB].map(|device| count(&world, device, "not for bob"));
        assert_eq!(read, [1, 0]);
        honest(&mut world, &[CAROL]);
        all_say(&mut world, channel, &[ALICE, BOB, CAROL], "after");
        well(&world);
    }
}

/// A backup that can read on to its return does so after it as well. What it has forgotten of itself tells it nothing
/// new.
#[test]
fn a_restored_backup_reads_what_was_sent_before_its_return() {
    let (mut world, channel) = three(4);
    let copy = behind(&mut world, channel);
    blindfold(&mut world, channel, &[ALICE]);
    put_back(&mut world, BOB, copy);
    world.until(|world| rejoins(world, BOB) == [Why::Restored]);
    said(&mut world, ALICE, channel, "of before");
    world.run();
    assert_eq!(count(&world, BOB, "of before"), 1);
    honest(&mut world, &[ALICE]);
    world.start(CAROL);
    all_say(&mut world, channel, &[ALICE, BOB, CAROL], "after");
    assert_eq!(rejoins(&world, BOB), [Why::Restored]);
    undisturbed(&world, &[ALICE, CAROL]);
}

#[test]
fn a_crash_at_any_step_of_coming_back_costs_no_message() {
    let mut crashed = 0;
    for at in 0.. {
        let (mut world, channel) = three(5);
        said(&mut world, CAROL, channel, "unread");
        blindfold(&mut world, channel, &[ALICE]);
        world.devices[BOB].crash_in = Some(at);
        world.command(BOB, |client, now| client.rejoin(now, channel));
        world.pass(Duration::from_secs(5));
        said(&mut world, ALICE, channel, "of before");
        world.pass(Duration::from_secs(5));
        let struck = world.devices[BOB].client.is_none();
        world.devices[BOB].crash_in = None;
        if struck {
            crashed += 1;
            world.start(BOB);
        }
        world.run();
        honest(&mut world, &[ALICE]);
        all_say(&mut world, channel, &[ALICE, BOB, CAROL], "after");
        for text in ["unread", "of before"] {
            assert_eq!(count(&world, BOB, text), 1, "{text}, crash at {at}");
        }
        well(&world);
        if !struck {
            break;
        }
    }
    assert!(crashed >= 4, "{crashed}");
}
