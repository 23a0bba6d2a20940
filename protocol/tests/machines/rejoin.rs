//! Falling out of a group and coming back: a long absence, damaged records, crashes and races on the way.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use crate::talk::*;
use qpc_protocol::client::event::{Event, Failed, Outcome, Why};
use qpc_protocol::client::{Client, ProfileChange};
use qpc_protocol::error::{ErrorCode, Refused};
use qpc_protocol::id::ChannelId;
use qpc_protocol::limits::{ENTRY_TIME, REJOIN_TIME, REJOINS};
use qpc_protocol::wire::message::{Body, Failure, Frame, Request};
use qpc_sim::world::{Rules, World};

/// Everybody says something, everybody else reads it, and all are in one epoch.
pub(crate) fn all_talk(world: &mut World, channel: ChannelId, round: &str) {
    all_say(world, channel, &[ALICE, BOB, CAROL], round);
}

/// Nobody but the device itself has seen more than epochs.
pub(crate) fn undisturbed(world: &World, devices: &[usize]) {
    crate::talk::undisturbed(world, devices);
    for device in devices {
        let put_out = |event: &Event| match event {
            Event::Changed(change) => !change.removed.is_empty(),
            _ => false,
        };
        assert!(!saw(world, *device, put_out), "device {device}");
    }
}

// ---- away too long, and damage ----------------------------------------------------------------

#[test]
fn a_device_that_was_away_longer_than_entries_live_comes_back_and_keeps_what_it_had() {
    let (mut world, channel) = three(10);
    said(&mut world, ALICE, channel, "unread before");
    world.settle();
    world.crash(BOB);
    said(&mut world, ALICE, channel, "gone");
    world.done(CAROL, |client, now| client.update(now, channel));
    world.advance(ENTRY_TIME + Duration::from_secs(24 * 3600));
    world.pass(Duration::from_secs(120));
    said(&mut world, ALICE, channel, "still there, not for bob");
    world.devices[BOB].log.clear();
    world.start(BOB);
    world.settle();
    assert!(saw(&world, BOB, |e| matches!(e, Event::Gap { .. })));
    assert_eq!(rejoins(&world, BOB), [Why::Gap]);
    assert_eq!(world.bodies(BOB), ["unread before"]);
    all_talk(&mut world, channel, "after");
    undisturbed(&world, &[ALICE, CAROL]);
}

#[test]
fn damaged_records_are_replaced() {
    let (mut world, channel) = three(11);
    world.crash(BOB);
    damage(&mut world, BOB);
    world.start(BOB);
    said(&mut world, ALICE, channel, "while damaged");
    world.settle();
    assert_eq!(rejoins(&world, BOB), [Why::Damaged]);
    all_talk(&mut world, channel, "after");
    undisturbed(&world, &[ALICE, CAROL]);
    // For an hour that was it: damaged again, the device waits, and what is to be sent with it.
    world.crash(BOB);
    damage(&mut world, BOB);
    world.start(BOB);
    let late = say(&mut world, BOB, channel, "late");
    world.pass(REJOIN_TIME / 2);
    assert_eq!(rejoins(&world, BOB).len(), 1);
    assert!(!is_done(&world, BOB, late));
    world.pass(REJOIN_TIME / 2 + Duration::from_secs(60));
    assert_eq!(rejoins(&world, BOB).len(), 2);
    assert!(is_done(&world, BOB, late));
    all_talk(&mut world, channel, "again");
}

/// Whose group it was cannot be told: whoever holds a key package could stand in its place.
#[test]
fn a_device_that_cannot_tell_whose_group_it_was_is_added_anew() {
    let (mut world, channel) = three(12);
    let bob = world.client(BOB).whoami().unwrap().1.account;
    world.crash(BOB);
    world.devices[BOB].disk.retain(|key, _| !key.starts_with(b"g/"));
    world.start(BOB);
    said(&mut world, ALICE, channel, "hello");
    world.settle();
    assert!(rejoins(&world, BOB).is_empty());
    assert!(saw(&world, BOB, |e| matches!(e, Event::Unreadable { .. })));
    world.done(ALICE, |client, now| client.remove(now, channel, bob));
    world.done(ALICE, |client, now| client.invite(now, channel, "bob"));
    world.settle();
    all_talk(&mut world, channel, "after");
}

#[test]
fn whose_a_direct_channel_is_its_id_tells() {
    let (mut world, _) = three(16);
    let opened = world.done(ALICE, |client, now| client.open_direct(now, "bob"));
    let Outcome::Group(channel) = opened else { panic!("{opened:?}") };
    world.settle();
    world.crash(BOB);
    wreck(&mut world, BOB);
    world.start(BOB);
    said(&mut world, ALICE, channel, "hello");
    world.settle();
    assert_eq!(rejoins(&world, BOB), [Why::Damaged]);
    all_say(&mut world, channel, &[ALICE, BOB], "after");
    undisturbed(&world, &[ALICE]);
}

/// Nothing that it could read tells it so: it asks again now and then, on the same connection, and says once why.
#[test]
fn a_device_that_cannot_tell_whose_group_it_was_learns_that_it_was_removed() {
    let (mut world, channel) = three(15);
    let bob = world.client(BOB).whoami().unwrap().1.account;
    world.crash(BOB);
    wreck(&mut world, BOB);
    world.start(BOB);
    said(&mut world, ALICE, channel, "hello");
    let why = |event: &Event| matches!(event, Event::Unreadable { why, .. } if why.contains("a member has to"));
    world.until(|world| saw(world, BOB, why));
    world.pass(REJOIN_TIME * 2);
    let told = world.devices[BOB].log.iter().filter(|event| why(event)).count();
    assert_eq!(told, 1);
    // Whoever asks is answered at once.
    fails(&mut world, BOB, |client, now| client.rejoin(now, channel));
    world.done(ALICE, |client, now| client.remove(now, channel, bob));
    world.pass(REJOIN_TIME + Duration::from_secs(60));
    assert!(saw(&world, BOB, |event| matches!(event, Event::Evicted { by: None, .. })));
    assert!(!world.group(BOB, channel).member);
    world.done(ALICE, |client, now| client.invite(now, channel, "bob"));
    world.settle();
    all_talk(&mut world, channel, "after");
}

/// Its own group is damaged, so that the server's word is all it has; the server does not stand by it.
#[test]
fn a_device_that_is_told_wrongly_that_it_was_removed_comes_back() {
    let (mut world, channel) = three(18);
    world.crash(BOB);
    damage(&mut world, BOB);
    let mut asked = None;
    lie_both_ways(&mut world, BOB, move |up, frame| {
        let Frame { call, body } = frame;
        let asks = up && matches!(body, Body::Request(Request::GroupInfoFetch { .. }));
        if asks && asked.is_none() {
            asked = Some(call);
        }
        let denied = !up && asked == Some(call);
        let body = if denied { Body::Failure(ErrorCode::NotMember.into()) } else { body };
        vec![Frame { call, body }]
    });
    world.start(BOB);
    said(&mut world, ALICE, channel, "while damaged");
    world.until(|world| saw(world, BOB, |e| matches!(e, Event::Evicted { by: None, .. })));
    world.settle();
    assert_eq!(rejoins(&world, BOB), [Why::Added]);
    all_talk(&mut world, channel, "after");
    undisturbed(&world, &[ALICE, CAROL]);
}

#[test]
fn a_device_removed_while_it_could_not_read_learns_it_and_tries_no_more() {
    let (mut world, channel) = three(13);
    let bob = world.client(BOB).whoami().unwrap().1.account;
    world.crash(BOB);
    damage(&mut world, BOB);
    world.done(ALICE, |client, now| client.remove(now, channel, bob));
    world.start(BOB);
    world.settle();
    world.until(|world| saw(world, BOB, |e| matches!(e, Event::Evicted { by: None, .. })));
    assert!(!world.group(BOB, channel).member);
    assert!(rejoins(&world, BOB).is_empty());
    // The way in is the ordinary one.
    world.done(ALICE, |client, now| client.invite(now, channel, "bob"));
    world.settle();
    all_talk(&mut world, channel, "after");
}

// ---- on demand --------------------------------------------------------------------------------

#[test]
fn a_device_comes_back_on_demand_at_most_once_an_hour() {
    let (mut world, channel) = three(14);
    let before = world.group(BOB, channel).epoch;
    let ticket = world.command(BOB, |client, now| client.rejoin(now, channel));
    assert_eq!(world.outcome(BOB, ticket), Outcome::Epoch(before + 1));
    world.crash(BOB);
    world.start(BOB);
    world.settle();
    let now = world.now;
    assert!(matches!(world.client(BOB).rejoin(now, channel), Err(Refused::Invalid(_))));
    all_talk(&mut world, channel, "between");
    world.pass(REJOIN_TIME);
    let ticket = world.command(BOB, |client, now| client.rejoin(now, channel));
    assert_eq!(world.outcome(BOB, ticket), Outcome::Epoch(before + 2));
    all_talk(&mut world, channel, "after");
    undisturbed(&world, &[ALICE, CAROL]);
}

// ---- crashes and races ------------------------------------------------------------------------

/// marmot darkmatter #150: a crash between publish and confirm. At every batch, twice in a row: one epoch, no more.
#[test]
fn regression_19_a_crash_at_every_step_of_coming_back_strands_nobody() {
    for (seed, unreadable) in [(20, false), (21, true)] {
        let mut crashed = 0;
        for at in 0.. {
            let (mut world, channel) = three(seed);
            let copy = behind(&mut world, channel);
            let before = world.group(ALICE, channel).epoch;
            world.devices[BOB].connect = false;
            put_back(&mut world, BOB, copy);
            say(&mut world, BOB, channel, "meanwhile");
            world.run();
            world.crash(BOB);
            if unreadable {
                damage(&mut world, BOB);
            }
            world.devices[BOB].connect = true;
            world.start(BOB);
            let mut crashes = 0;
            for _ in 0..2 {
                world.devices[BOB].crash_in = Some(at);
                world.pass(Duration::from_secs(20));
                if world.devices[BOB].client.is_none() {
                    crashes += 1;
                    world.start(BOB);
                }
            }
            world.devices[BOB].crash_in = None;
            world.start(CAROL);
            world.settle();
            assert_eq!(world.group(ALICE, channel).epoch, before + 1, "crash at {at}");
            let said = ["since the copy", "since the copy", "meanwhile"];
            for other in [ALICE, CAROL] {
                assert_eq!(world.bodies(other), said, "crash at {at}");
            }
            all_talk(&mut world, channel, "after");
            undisturbed(&world, &[ALICE, CAROL]);
            crashed += crashes;
            if crashes == 0 {
                break;
            }
        }
        assert!(crashed >= 8, "{crashed}");
    }
}

#[test]
fn a_commit_that_comes_first_costs_another_try() {
    for unreadable in [false, true] {
        let (mut world, channel) = three(22);
        world.crash(BOB);
        if unreadable {
            damage(&mut world, BOB);
        }
        world.start(BOB);
        // Bob's first commits do not get through.
        let tries = Rc::new(RefCell::new(0));
        let count = tries.clone();
        world.liar = Some(Box::new(move |device, up, frame| {
            let commit = matches!(frame.body, Body::Request(Request::Commit(_)));
            if device == BOB && up && commit {
                *count.borrow_mut() += 1;
                if *count.borrow() == 1 {
                    return vec![];
                }
            }
            vec![frame]
        }));
        let before = world.group(ALICE, channel).epoch;
        let ticket = world.command(BOB, |client, now| client.rejoin(now, channel));
        world.pass(Duration::from_secs(5));
        assert_eq!(*tries.borrow(), 1);
        world.done(ALICE, |client, now| client.update(now, channel));
        world.cut(BOB);
        assert_eq!(world.outcome(BOB, ticket), Outcome::Epoch(before + 2));
        assert_eq!(rejoins(&world, BOB).len(), 1);
        all_talk(&mut world, channel, "after");
        undisturbed(&world, &[ALICE, CAROL]);
    }
}

#[test]
fn all_come_back_at_once_while_one_commits() {
    for seed in 30..38 {
        let (mut world, channel) = three(seed);
        let before = world.group(ALICE, channel).epoch;
        let mut tickets = Vec::new();
        for device in [BOB, CAROL] {
            let ticket = world.command(device, |client, now| client.rejoin(now, channel));
            tickets.push((device, ticket));
        }
        tickets.push((ALICE, world.command(ALICE, |client, now| client.update(now, channel))));
        for (device, ticket) in tickets {
            assert!(matches!(world.outcome(device, ticket), Outcome::Epoch(_)), "seed {seed}");
        }
        world.settle();
        assert_eq!(world.group(ALICE, channel).epoch, before + 3, "seed {seed}");
        all_talk(&mut world, channel, "after");
        undisturbed(&world, &[ALICE]);
    }
}

/// The server's word that a device is no member is held against the log: a removal there explains it, and nothing else.
#[test]
fn who_is_removed_while_it_asks_to_come_back_hears_so_by_the_log() {
    for removed in [true, false] {
        let (mut world, channel) = three(39);
        // What is pushed comes later than what is answered.
        let mut asked = None;
        let mut pushed = 0;
        world.liar = Some(Box::new(move |device, up, frame| match &frame.body {
            Body::Push(_) if device == BOB && pushed == 0 => {
                pushed += 1;
                vec![]
            }
            Body::Request(Request::GroupInfoFetch { .. }) if device == BOB && up => {
                asked = Some(frame.call);
                vec![frame]
            }
            Body::Reply(_) if device == BOB && !up && !removed && asked == Some(frame.call) => {
                let body = Body::Failure(Failure::from(ErrorCode::NotMember));
                vec![Frame { body, ..frame }]
            }
            _ => vec![frame],
        }));
        let bob = account(&mut world, BOB);
        if removed {
            world.done(ALICE, |client, now| client.remove(now, channel, bob));
        }
        world.devices[BOB].log.clear();
        let ticket = world.command(BOB, |client, now| client.rejoin(now, channel));
        world.run();
        world.liar = None;
        assert!(matches!(world.failure(BOB, ticket), Failed::Obsolete(_)));
        let told = saw(&world, BOB, |event| matches!(event, Event::Unreadable { .. }));
        let out = saw(&world, BOB, |event| matches!(event, Event::Evicted { .. }));
        assert_eq!((told, out), (!removed, removed));
    }
}

#[test]
fn a_device_in_many_groups_asks_for_a_few_at_once_and_comes_back_to_all() {
    for rules in [Rules::new(46), Rules::new(46).one_link()] {
        let mut world = World::new(rules);
        for name in ["alice", "bob"] {
            world.register(name);
        }
        let mut groups = Vec::new();
        for number in 0..REJOINS + 3 {
            groups.push(group_of(&mut world, ALICE, &["bob"]));
            if number % 3 == 2 {
                world.done(BOB, Client::refresh_key_packages);
            }
        }
        let copy = world.devices[BOB].disk.clone();
        for _ in 0..2 {
            said(&mut world, BOB, groups[0], "since the copy");
            world.cut(BOB);
            world.settle();
        }
        let (mut open, most) = (BTreeSet::new(), Rc::new(RefCell::new(0)));
        let seen = most.clone();
        world.liar = Some(Box::new(move |device, up, frame| {
            match &frame.body {
                Body::Request(Request::GroupInfoFetch { .. }) if device == BOB && up => {
                    open.insert(frame.call);
                }
                _ if device == BOB && !up => drop(open.remove(&frame.call)),
                _ => {}
            }
            let most = open.len().max(*seen.borrow());
            *seen.borrow_mut() = most;
            vec![frame]
        }));
        put_back(&mut world, BOB, copy);
        world.settle();
        assert_eq!(rejoins(&world, BOB).len(), groups.len());
        assert!((1..=REJOINS).contains(&*most.borrow()), "{most:?}");
        for group in groups {
            agree(&world, group, &[ALICE, BOB]);
        }
        undisturbed(&world, &[ALICE]);
    }
}

/// Who comes back can take nobody along, and is not kept out by what is queued. The wish is proposed again.
#[test]
fn a_device_comes_back_while_somebody_is_queued_to_be_added() {
    let (mut world, channel) = three(40);
    let dave = world.register("dave");
    let invite = queue_add(&mut world, channel, ALICE, BOB, "dave");
    let before = world.group(CAROL, channel).epoch;
    let ticket = world.command(CAROL, |client, now| client.rejoin(now, channel));
    assert_eq!(world.outcome(CAROL, ticket), Outcome::Epoch(before + 1));
    honest(&mut world, &[ALICE, BOB, CAROL]);
    assert!(matches!(world.outcome(ALICE, invite), Outcome::Epoch(_)));
    world.settle();
    agree(&world, channel, &[ALICE, BOB, CAROL, dave]);
    all_talk(&mut world, channel, "after");
}

// ---- what is kept and what is left behind -----------------------------------------------------

/// The keys of a device's records that name a channel.
fn records_of(world: &World, device: usize, channel: ChannelId) -> Vec<Vec<u8>> {
    let keys = world.devices[device].disk.keys();
    keys.filter(|key| key.windows(16).any(|part| part == channel.0)).cloned().collect()
}

/// The server has the new key of a device, the group has the one before.
#[test]
fn a_device_whose_new_key_is_in_no_leaf_yet_comes_back_by_the_one_before() {
    let (mut world, channel) = three(60);
    lie(&mut world, BOB, true, |frame| match &frame.body {
        Body::Request(Request::Commit(bundle)) if !is_outside(bundle) => vec![],
        _ => vec![frame],
    });
    world.done(BOB, |client, now| client.rotate(now));
    world.pass(Duration::from_secs(1));
    let before = world.group(ALICE, channel).epoch;
    let ticket = world.command(BOB, |client, now| client.rejoin(now, channel));
    assert_eq!(world.outcome(BOB, ticket), Outcome::Epoch(before + 1));
    honest(&mut world, &[BOB]);
    world.settle();
    all_talk(&mut world, channel, "after");
    let bob = world.client(BOB).whoami().unwrap().1;
    let rekeyed = |e: &Event| matches!(e, Event::Changed(change) if change.updated == [bob]);
    assert!(saw(&world, ALICE, rekeyed), "the new key follows");
    undisturbed(&world, &[ALICE, CAROL]);
}

#[test]
fn who_is_in_a_damaged_group_cannot_be_told_while_it_is_come_back_to() {
    let (mut world, channel) = three(61);
    world.crash(BOB);
    damage(&mut world, BOB);
    lie(&mut world, BOB, true, |frame| match &frame.body {
        Body::Request(Request::Commit(_)) => vec![],
        _ => vec![frame],
    });
    world.start(BOB);
    say(&mut world, BOB, channel, "waiting");
    world.pass(Duration::from_secs(1));
    assert!(records_of(&world, BOB, channel).iter().any(|key| key.starts_with(b"r/")));
    let members = world.command(BOB, |client, now| client.members(now, channel));
    world.failure(BOB, members);
    honest(&mut world, &[BOB]);
    world.settle();
    assert_eq!(rejoins(&world, BOB), [Why::Damaged]);
    all_talk(&mut world, channel, "after");
}

/// Whoever comes first in the tree tells it, or the next, if that one is off.
#[test]
fn who_was_away_for_a_change_of_the_profile_is_told_when_it_is_back() {
    for first_is_off in [false, true] {
        let (mut world, channel) = three(62);
        world.crash(BOB);
        let change =
            ProfileChange { name: Some("another name".into()), ..ProfileChange::default() };
        world.done(ALICE, |client, now| client.set_metadata(now, channel, change));
        world.settle();
        world.advance(ENTRY_TIME + Duration::from_secs(24 * 3600));
        world.pass(Duration::from_secs(120));
        said(&mut world, CAROL, channel, "not for bob");
        if first_is_off {
            world.crash(ALICE);
        }
        world.devices[BOB].log.clear();
        world.start(BOB);
        world.until(|world| rejoins(world, BOB) == [Why::Gap]);
        let name = |world: &World| world.group(BOB, channel).name;
        assert_ne!(name(&world).as_deref(), Some("planted name"), "what was is not shown");
        world.until(|world| name(world).as_deref() == Some("another name"));
        // One told it, and nobody else.
        let told = world.group(CAROL, channel).cursor;
        world.pass(Duration::from_secs(60));
        assert_eq!(world.group(CAROL, channel).cursor, told);
    }
}

#[test]
fn who_came_back_after_long_has_fresh_keys_and_makes_no_others() {
    let (mut world, channel) = three(63);
    world.crash(BOB);
    said(&mut world, ALICE, channel, "gone");
    world.advance(ENTRY_TIME + Duration::from_secs(24 * 3600));
    world.pass(Duration::from_secs(120));
    said(&mut world, ALICE, channel, "not for bob");
    let bob = {
        world.start(BOB);
        world.client(BOB).whoami().unwrap().1
    };
    world.settle();
    assert_eq!(rejoins(&world, BOB), [Why::Gap]);
    world.pass(Duration::from_secs(3600));
    let by_bob = |event: &&Event| matches!(event, Event::Changed(change) if change.by == bob);
    assert_eq!(world.devices[ALICE].log.iter().filter(by_bob).count(), 1);
}

#[test]
fn who_was_removed_unseen_keeps_what_was_said_and_nothing_of_the_group() {
    let (mut world, channel) = three(64);
    let bob = world.client(BOB).whoami().unwrap().1.account;
    said(&mut world, ALICE, channel, "unread");
    world.settle();
    world.crash(BOB);
    damage(&mut world, BOB);
    world.done(ALICE, |client, now| client.remove(now, channel, bob));
    world.start(BOB);
    world.until(|world| saw(world, BOB, |e| matches!(e, Event::Evicted { by: None, .. })));
    world.settle();
    let mut kept = records_of(&world, BOB, channel);
    kept.retain(|key| ![&b"d/c/"[..], b"d/g/", b"m/"].iter().any(|of| key.starts_with(of)));
    assert!(kept.is_empty(), "{kept:?}");
}

/// What leaves with its author waits for somebody to commit it: for the one who is about to come back.
#[test]
fn who_comes_back_does_not_wait_for_a_removal_that_nobody_else_can_commit() {
    let mut world = World::new(Rules::new(65));
    for name in ["alice", "bob"] {
        world.register(name);
    }
    let channel = group_of(&mut world, ALICE, &["bob"]);
    world.crash(ALICE);
    damage(&mut world, ALICE);
    assert_eq!(world.done(BOB, |client, now| client.leave(now, channel)), Outcome::Done);
    world.start(ALICE);
    world.until(|world| rejoins(world, ALICE) == [Why::Damaged]);
    world.until(|world| saw(world, BOB, |e| matches!(e, Event::Evicted { .. })));
    world.settle();
    assert_eq!(world.group(ALICE, channel).members, 1);
}
