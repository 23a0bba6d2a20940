//! A direct channel that both of its accounts open: at the same moment, across crashes, with answers that come late.
//! One founds it, and the other joins.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crate::direct::{between, talk, two};
use crate::talk::*;
use qpc_protocol::client::event::{Event, Outcome};
use qpc_protocol::limits::KEY_PACKAGE_TIME;
use qpc_protocol::wire::message::{Body, Reply, Request};
use qpc_sim::world::{Rules, World};

/// Both open it in the same moment.
fn both_open(world: &mut World) {
    for (device, name) in [(ALICE, "bob"), (BOB, "alice")] {
        world.command(device, |client, now| client.open_direct(now, name));
    }
}

/// Goes on until both know it, switching on who crashed.
fn until_open(world: &mut World) {
    let channel = between(world, ALICE, BOB);
    for round in 0.. {
        assert!(round < 20, "it never opens");
        for device in [ALICE, BOB] {
            if world.devices[device].client.is_none() {
                world.start(device);
            }
        }
        world.until(|world| {
            [ALICE, BOB].iter().any(|device| world.devices[*device].client.is_none())
                || [ALICE, BOB].iter().all(|device| {
                    world.groups(*device).iter().any(|group| group.channel == channel)
                })
        });
        if world.devices.iter().all(|device| device.client.is_some()) {
            return;
        }
    }
}

#[test]
fn regression_18_two_creators_of_one_channel() {
    for seed in 0..4 {
        // Frames arrive whole, or in pieces that come in another order each time.
        let rules = if seed == 0 { Rules::new(180) } else { Rules::new(180 + seed).split() };
        let mut world = two(rules);
        both_open(&mut world);
        until_open(&mut world);
        talk(&mut world);
        for device in [ALICE, BOB] {
            let channel = between(&mut world, ALICE, BOB);
            let done = |event: &&Event| matches!(event, Event::Done(_, Outcome::Group(id)) if *id == channel);
            let done = world.devices[device].log.iter().filter(done).count();
            assert_eq!(done, 1, "each hears so once");
        }
        undisturbed(&world, &[ALICE, BOB]);
    }
}

#[test]
fn regression_18_two_creators_and_a_crash_at_every_step() {
    for who in [ALICE, BOB] {
        let mut reached = 0;
        for at in 0..16 {
            let mut world = two(Rules::new(1_800 + at));
            both_open(&mut world);
            world.devices[who].crash_in = Some(at);
            until_open(&mut world);
            world.settle();
            world.devices[who].crash_in = None;
            reached += u64::from(world.devices[who].crashes > 0);
            talk(&mut world);
            undisturbed(&world, &[ALICE, BOB]);
        }
        assert!(reached > 4, "only {reached} steps were crashed at");
    }
}

#[test]
fn regression_18_both_creators_crash() {
    let mut both = 0;
    for (alices, bobs) in (1..5).flat_map(|one| (1..5).map(move |other| (one, other))) {
        let mut world = two(Rules::new(1_900 + 10 * alices + bobs));
        both_open(&mut world);
        world.devices[ALICE].crash_in = Some(alices);
        world.devices[BOB].crash_in = Some(bobs);
        until_open(&mut world);
        world.settle();
        both += u32::from([ALICE, BOB].iter().all(|device| world.devices[*device].crashes > 0));
        for device in [ALICE, BOB] {
            world.devices[device].crash_in = None;
        }
        talk(&mut world);
        undisturbed(&world, &[ALICE, BOB]);
    }
    assert!(both > 4, "only {both} times both crashed");
}

#[test]
fn a_founder_that_is_away_before_it_invites_goes_on_when_it_is_back() {
    let mut world = two(Rules::new(4));
    // Alice founds it; then her connection breaks, and stays so.
    let held = Rc::new(RefCell::new(0));
    let commits = held.clone();
    world.liar = Some(Box::new(move |device, up, frame| match &frame.body {
        Body::Request(Request::Commit(_)) if device == ALICE && up => {
            *commits.borrow_mut() += 1;
            vec![]
        }
        _ => vec![frame],
    }));
    world.command(ALICE, |client, now| client.open_direct(now, "bob"));
    world.pass(Duration::from_secs(5));
    assert!(*held.borrow() > 0);
    world.crash(ALICE);
    world.liar = None;
    let ticket = world.command(BOB, |client, now| client.open_direct(now, "alice"));
    world.pass(Duration::from_secs(60));
    assert!(world.groups(BOB).is_empty());
    // Bob's wish outlives a restart of his own.
    world.crash(BOB);
    world.start(BOB);
    world.pass(Duration::from_secs(60));
    world.start(ALICE);
    let channel = between(&mut world, ALICE, BOB);
    assert_eq!(world.outcome(BOB, ticket), Outcome::Group(channel));
    talk(&mut world);
    undisturbed(&world, &[ALICE, BOB]);
}

/// The place is taken: what keeps the founder from adding the other now must not keep the other out for good.
#[test]
fn a_founder_without_key_packages_of_the_other_goes_on_when_there_are_some() {
    let mut world = two(Rules::new(6));
    // Alice founds it and does not hear so; the key packages that she has end meanwhile.
    let (mut call, founded) = (0, Rc::new(Cell::new(false)));
    let seen = founded.clone();
    world.liar = Some(Box::new(move |device, up, frame| {
        let founds = matches!(frame.body, Body::Request(Request::ChannelCreate { .. }));
        if device == ALICE && up && founds {
            call = frame.call;
        }
        let answers = device == ALICE && !up && call > 0 && frame.call == call;
        seen.set(seen.get() || answers);
        if answers { vec![] } else { vec![frame] }
    }));
    let wish = world.command(ALICE, |client, now| client.open_direct(now, "bob"));
    world.pass(Duration::from_secs(1));
    assert!(founded.get());
    world.crash(ALICE);
    world.advance(KEY_PACKAGE_TIME);
    world.pass(Duration::from_secs(120));
    hide_packages(&mut world, ALICE, None);
    world.start(ALICE);
    let ticket = world.command(BOB, |client, now| client.open_direct(now, "alice"));
    world.pass(Duration::from_secs(60));
    let told = |event: &&Event| matches!(event, Event::NotAdded { ticket, .. } if *ticket == wish);
    assert_eq!(world.devices[ALICE].log.iter().filter(told).count(), 1);
    assert!([ALICE, BOB].iter().all(|device| world.client(*device).pending() > 0));
    world.liar = None;
    let channel = between(&mut world, ALICE, BOB);
    assert_eq!(world.outcome(BOB, ticket), Outcome::Group(channel));
    assert_eq!(world.outcome(ALICE, wish), Outcome::Group(channel));
    talk(&mut world);
    undisturbed(&world, &[BOB]);
}

#[test]
fn a_welcome_before_the_answer_to_ones_own_founding_is_not_lost() {
    let mut world = two(Rules::new(5));
    // Bob's founding is refused, and the refusal held back until alice's welcome has come.
    let call = Rc::new(RefCell::new(0));
    let held = Rc::new(RefCell::new(Vec::new()));
    let (creating, kept) = (call.clone(), held.clone());
    world.liar = Some(Box::new(move |device, up, frame| {
        if device != BOB {
            return vec![frame];
        }
        if up && matches!(frame.body, Body::Request(Request::ChannelCreate { .. })) {
            *creating.borrow_mut() = frame.call;
        }
        if !up && frame.call > 0 && frame.call == *creating.borrow() {
            kept.borrow_mut().push(frame);
            return vec![];
        }
        // With the next answer, to a ping.
        if matches!(frame.body, Body::Reply(Reply::Pong(_))) {
            return kept.borrow_mut().drain(..).chain([frame]).collect();
        }
        vec![frame]
    }));
    both_open(&mut world);
    let channel = between(&mut world, ALICE, BOB);
    world.until(|world| world.groups(ALICE).iter().any(|group| group.channel == channel));
    world.run();
    assert_eq!(held.borrow().len(), 1, "bob's answer is held back");
    assert!(world.groups(BOB).is_empty());
    world.done(BOB, |client, now| client.ping(now));
    until_open(&mut world);
    world.liar = None;
    talk(&mut world);
    undisturbed(&world, &[ALICE, BOB]);
}

/// What was founded and came second goes without a trace, whether or not the other's welcome ever comes.
#[test]
fn of_a_founding_that_came_too_late_nothing_stays() {
    let mut world = two(Rules::new(22));
    let channel = between(&mut world, ALICE, BOB);
    world.devices[BOB].latency = Duration::from_millis(20);
    world.settle();
    world.liar = Some(Box::new(|device, up, frame| match &frame.body {
        Body::Request(Request::Commit(_)) if device == ALICE && up => vec![],
        _ => vec![frame],
    }));
    world.command(BOB, |client, now| client.open_direct(now, "alice"));
    world.command(ALICE, |client, now| client.open_direct(now, "bob"));
    let left = |world: &World| {
        let keys = world.devices[BOB].disk.keys();
        let named = keys.filter(|key| key.windows(16).any(|part| part == channel.0));
        named.map(|key| key.escape_ascii().to_string()).collect::<Vec<_>>()
    };
    world.until(|world| !left(world).is_empty());
    world.pass(Duration::from_secs(1));
    assert!(left(&world).is_empty(), "{:?}", left(&world));
    honest(&mut world, &[ALICE]);
    talk(&mut world);
}
