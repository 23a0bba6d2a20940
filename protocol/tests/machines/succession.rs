//! Another generation of a channel while something else is wanted of it, and what stays of a channel that is over.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::reset::{all_talk, begin, reset, resets, two_admins};
use crate::talk::*;
use qpc_protocol::client::Role;
use qpc_protocol::client::event::{Event, Failed, Outcome};
use qpc_protocol::error::Refused;
use qpc_protocol::id::ChannelId;
use qpc_protocol::io::Ticket;
use qpc_protocol::limits::{CHECKPOINT_TIME, ENTRY_TIME, WARM_GROUPS};
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{Body, EntryKind, Push, Reply, Request};
use qpc_sim::world::World;

/// Alice has begun a generation that nobody is asked into yet: for all others the group has ended.
fn ended(world: &mut World, channel: ChannelId) -> Ticket {
    hold_back_claims(world, ALICE);
    let ticket = begin(world, ALICE, channel);
    world.pass(Duration::from_secs(2));
    assert_eq!(resets(world, BOB).len(), 1);
    ticket
}

#[test]
fn who_leaves_during_its_own_reset_leaves_the_group_that_follows() {
    for begun in [false, true] {
        let (mut world, channel) = two_admins(61);
        let (reset, leave) = if begun {
            let reset = ended(&mut world, channel);
            (reset, world.command(ALICE, |client, now| client.leave(now, channel)))
        } else {
            let reset = begin(&mut world, ALICE, channel);
            (reset, world.command(ALICE, |client, now| client.leave(now, channel)))
        };
        world.pass(Duration::from_secs(1));
        honest(&mut world, &[ALICE]);
        assert!(matches!(world.outcome(ALICE, reset), Outcome::Reset { generation: 2, .. }));
        assert_eq!(world.outcome(ALICE, leave), Outcome::Done);
        world.until(|world| saw(world, ALICE, |e| matches!(e, Event::Evicted { .. })));
        all_talk(&mut world, channel, &[BOB, CAROL], 2);
    }
}

/// Who resets has another leaf by that; for all others the group that they wanted to come back to is over.
#[test]
fn a_wish_to_come_back_ends_with_the_group_that_it_was_about() {
    let (mut world, channel) = three(62);
    hold_back_from(&mut world, |device, request| {
        let asks = matches!(request, Request::GroupInfoFetch { .. });
        asks || (device == ALICE && claims(request))
    });
    let wishes = [ALICE, BOB].map(|device| world.command(device, |c, now| c.rejoin(now, channel)));
    let reset = begin(&mut world, ALICE, channel);
    assert_eq!(world.outcome(ALICE, wishes[0]), Outcome::Epoch(0));
    assert!(matches!(world.failure(BOB, wishes[1]), Failed::Obsolete(_)));
    for device in [BOB, CAROL] {
        world.until(|world| resets(world, device).len() == 1);
        let now = world.now;
        let refused = world.client(device).rejoin(now, channel);
        assert!(matches!(refused, Err(Refused::Invalid(_))), "{refused:?}");
    }
    honest(&mut world, &[ALICE]);
    assert!(matches!(world.outcome(ALICE, reset), Outcome::Reset { generation: 2, .. }));
    all_talk(&mut world, channel, &[ALICE, BOB, CAROL], 2);
}

/// Alice has reset the group while Bob was away, for longer than entries are kept; his first commit to come back by is
/// held back.
fn away_during_a_reset(world: &mut World, channel: ChannelId, meanwhile: impl FnOnce(&mut World)) {
    world.devices[BOB].connect = false;
    world.cut(BOB);
    meanwhile(world);
    reset(world, ALICE, channel, None);
    world.advance(ENTRY_TIME + Duration::from_secs(24 * 3600));
    world.pass(Duration::from_secs(120));
    world.done(ALICE, |client, now| client.update(now, channel));
    let held = hold_back(world, BOB, |request| matches!(request, Request::Commit(_)));
    world.devices[BOB].connect = true;
    world.until(|_| held.get() > 0);
}

/// What he asked for waits for the generation that was first, and he comes into that at his second try.
#[test]
fn a_reset_that_another_overtook_does_not_keep_its_device_out() {
    let (mut world, channel) = two_admins(69);
    let mut late = None;
    away_during_a_reset(&mut world, channel, |world| late = Some(begin(world, BOB, channel)));
    world.done(ALICE, |client, now| client.update(now, channel));
    world.pass(Duration::from_secs(1));
    honest(&mut world, &[BOB]);
    let outcome = world.outcome(BOB, late.unwrap());
    assert!(matches!(outcome, Outcome::Reset { generation: 2, .. }), "{outcome:?}");
    all_talk(&mut world, channel, &[ALICE, BOB, CAROL], 2);
}

/// He was added to the next generation, and is removed before he is in: nobody sends him a welcome.
#[test]
fn who_is_removed_on_its_way_into_the_next_generation_waits_for_no_welcome() {
    for restarts in [false, true] {
        let (mut world, channel) = three(70);
        away_during_a_reset(&mut world, channel, |_| {});
        let bob = account(&mut world, BOB);
        world.done(ALICE, |client, now| client.remove(now, channel, bob));
        if restarts {
            world.crash(BOB);
            honest(&mut world, &[]);
            world.start(BOB);
        }
        world.until(|world| saw(world, BOB, |e| matches!(e, Event::Evicted { .. })));
        world.settle();
        all_talk(&mut world, channel, &[ALICE, CAROL], 2);
    }
}

/// Bob's came too late, and nobody follows up the one that was first.
#[test]
fn a_reset_that_came_too_late_does_not_hold_up_the_next() {
    let (mut world, channel) = two_admins(63);
    hold_back_from(&mut world, |device, request| match device {
        ALICE => claims(request),
        _ => device == BOB && matches!(request, Request::ChannelCreate { .. }),
    });
    let late = begin(&mut world, BOB, channel);
    world.pass(Duration::from_millis(100));
    begin(&mut world, ALICE, channel);
    world.pass(Duration::from_secs(2));
    assert_eq!(resets(&world, BOB).len(), 1);
    world.crash(ALICE);
    honest(&mut world, &[BOB]);
    world.pass(Duration::from_secs(2));
    assert_eq!(reset(&mut world, BOB, channel, None), 3);
    assert!(matches!(world.outcome(BOB, late), Outcome::Reset { generation: 3, .. }));
    world.start(ALICE);
    all_talk(&mut world, channel, &[ALICE, BOB, CAROL], 3);
}

/// Key packages that were fetched and not used before: for an invitation, and for another device of one's own.
#[test]
fn key_packages_for_the_suite_before_are_not_used_in_the_next() {
    let (mut world, channel) = three(64);
    world.register("dave");
    lie(&mut world, ALICE, true, |frame| match &frame.body {
        Body::Request(Request::Commit(bundle)) if bundle.generation == 1 => vec![],
        _ => vec![frame],
    });
    let invite = world.command(ALICE, |client, now| client.invite(now, channel, "dave"));
    let phone = world.login("alice");
    world.pass(Duration::from_secs(1));
    assert_eq!(reset(&mut world, ALICE, channel, Some(Suite::Hybrid)), 2);
    assert!(matches!(world.outcome(ALICE, invite), Outcome::Epoch(_)));
    world.until(|world| world.groups(phone).iter().any(|group| group.channel == channel));
    all_talk(&mut world, channel, &[ALICE, BOB, CAROL, 3, phone], 2);
    undisturbed(&world, &[ALICE, BOB, CAROL, 3, phone]);
}

#[test]
fn who_leaves_a_group_that_has_ended_is_done_and_leaves_the_next_unasked() {
    for before in [false, true] {
        let (mut world, channel) = three(65);
        // Asked for before the end is read, and after.
        let early = before.then(|| {
            lie(&mut world, BOB, true, |frame| match &frame.body {
                Body::Request(Request::Submit(_)) => vec![],
                _ => vec![frame],
            });
            let leave = world.command(BOB, |client, now| client.leave(now, channel));
            world.pass(Duration::from_secs(1));
            leave
        });
        let ticket = ended(&mut world, channel);
        let leave =
            early.unwrap_or_else(|| world.command(BOB, |client, now| client.leave(now, channel)));
        assert_eq!(world.outcome(BOB, leave), Outcome::Done);
        assert!(!world.group(BOB, channel).member);
        assert_eq!(world.client(BOB).pending(), 0);
        world.crash(BOB);
        world.start(BOB);
        honest(&mut world, &[ALICE]);
        assert!(matches!(world.outcome(ALICE, ticket), Outcome::Reset { generation: 2, .. }));
        world.until(|world| saw(world, BOB, |e| matches!(e, Event::Evicted { .. })));
        all_talk(&mut world, channel, &[ALICE, CAROL], 2);
    }
}

/// While the tree of the next generation is on its way, so many other groups are used that the one which is to say who
/// may follow it is put away.
#[test]
fn a_group_that_is_put_away_meanwhile_still_judges_who_follows_it() {
    let (mut world, channel) = three(66);
    let (alice, bob) = (me(&mut world, ALICE), me(&mut world, BOB));
    let others: Vec<_> = (0..=WARM_GROUPS).map(|_| group_of(&mut world, CAROL, &[])).collect();
    for other in &others {
        // The first word of the hour has checkpoints to carry, of all groups.
        said(&mut world, CAROL, *other, "nothing to carry from here on");
    }
    world.crash(CAROL);
    world.done(ALICE, |client, now| client.set_role(now, channel, bob.account, Role::Admin));
    world.settle();
    reset(&mut world, BOB, channel, None);
    world.settle();
    let (go_on, mut held) = (Rc::new(RefCell::new(false)), Vec::new());
    let goes_on = go_on.clone();
    let mut gone = 0;
    lie(&mut world, CAROL, false, move |mut frame| {
        match &mut frame.body {
            Body::Push(Push::Entries(entries)) if entries.channel == channel => {
                entries.entries.retain_mut(|entry| {
                    let hidden = entry.kind == EntryKind::Commit && entry.generation == 1;
                    gone += u64::from(hidden);
                    entry.seq -= gone;
                    if entry.kind == EntryKind::Reset {
                        entry.sender = alice;
                    }
                    !hidden
                });
            }
            Body::Reply(Reply::Blob { .. }) if !*goes_on.borrow() => {
                held.push(frame);
                return vec![];
            }
            Body::Reply(Reply::Accepted(_)) if *goes_on.borrow() => {
                held.push(frame);
                return core::mem::take(&mut held);
            }
            _ => {}
        }
        vec![frame]
    });
    world.start(CAROL);
    world.pass(Duration::from_secs(1));
    for other in &others {
        say(&mut world, CAROL, *other, "busy elsewhere");
    }
    world.pass(Duration::from_secs(1));
    *go_on.borrow_mut() = true;
    say(&mut world, CAROL, others[0], "here it is");
    world.pass(Duration::from_secs(1));
    assert_eq!(world.group(CAROL, channel).generation, 1);
    let refused =
        |e: &Event| matches!(e, Event::Unreadable { why, .. } if why.contains("no admin"));
    assert!(saw(&world, CAROL, refused), "{:?}", world.devices[CAROL].log);
}

// ---- the whole life of a channel --------------------------------------------------------------

/// Made, written to, come back to, reset, and left by the last one who was in it.
#[test]
fn of_a_channel_that_was_left_nothing_stays_on_the_disk() {
    let (mut world, channel) = three(67);
    let (bob, carol) = (me(&mut world, BOB).account, me(&mut world, CAROL).account);
    let other = group_of(&mut world, ALICE, &["bob", "carol"]);
    for device in [ALICE, BOB, CAROL] {
        for of in [channel, other] {
            said(&mut world, device, of, "unread by all");
        }
    }
    world.pass(CHECKPOINT_TIME);
    said(&mut world, BOB, other, "with checkpoints");
    world.done(ALICE, |client, now| client.rejoin(now, channel));
    reset(&mut world, ALICE, channel, None);
    all_talk(&mut world, channel, &[ALICE, BOB, CAROL], 2);
    for gone in [bob, carol] {
        world.done(ALICE, |client, now| client.remove(now, channel, gone));
    }
    world.settle();
    let named = |world: &World| {
        let names = |bytes: &[u8]| bytes.windows(16).any(|part| part == channel.0);
        let records = world.devices[ALICE].disk.iter();
        let records = records.filter(|(key, value)| names(key) || names(value));
        records.map(|(key, _)| key.escape_ascii().to_string()).collect::<Vec<_>>()
    };
    for kept in ["d/c/", "d/g/", "d/l/", "d/f/", "g/", "p/", "m/"] {
        assert!(named(&world).iter().any(|key| key.starts_with(kept)), "{kept}");
    }
    assert_eq!(world.done(ALICE, |client, now| client.leave(now, channel)), Outcome::Done);
    world.settle();
    assert!(named(&world).is_empty(), "{:?}", named(&world));
    all_talk(&mut world, other, &[ALICE, BOB, CAROL], 1);
}
