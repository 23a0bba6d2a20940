//! What a group shows of itself: changed, told to those who join, and never older than what its context names.

use std::time::Duration;

use crate::reset::{all_talk, begin, two_admins};
use crate::talk::*;
use qpc_protocol::client::event::{Event, Failed, Outcome};
use qpc_protocol::client::{Profile, ProfileChange};
use qpc_protocol::error::{ErrorCode, Refused};
use qpc_protocol::id::{ChannelId, Digest};
use qpc_protocol::wire::message::{Body, Request};
use qpc_sim::world::World;

fn described(world: &World, device: usize, channel: ChannelId) -> Profile {
    let group = world.group(device, channel);
    let name = group.name.unwrap_or_default();
    Profile { name, description: group.description, avatar: group.avatar }
}

fn renamed(name: &str) -> ProfileChange {
    ProfileChange { name: Some(name.into()), ..ProfileChange::default() }
}

fn describe(world: &mut World, device: usize, channel: ChannelId, change: ProfileChange) {
    world.done(device, |client, now| client.set_metadata(now, channel, change));
}

#[test]
fn a_profile_reaches_everybody_and_those_who_join_later() {
    let (mut world, channel) = three(20);
    let dave = world.register("dave");
    let avatar = Digest([9; 32]);
    describe(&mut world, ALICE, channel, renamed("the second name"));
    let rest = ProfileChange {
        name: None,
        description: Some("what it is about".into()),
        avatar: Some(Some(avatar)),
    };
    describe(&mut world, ALICE, channel, rest);
    world.settle();
    world.done(ALICE, |client, now| client.invite(now, channel, "dave"));
    world.settle();
    let expected = Profile {
        name: "the second name".into(),
        description: "what it is about".into(),
        avatar: Some(avatar),
    };
    for device in [ALICE, BOB, CAROL, dave] {
        assert_eq!(described(&world, device, channel), expected, "device {device}");
        restart(&mut world, device);
        assert_eq!(described(&world, device, channel), expected, "device {device}");
    }
    world.settle();
    let none = ProfileChange { avatar: Some(None), ..ProfileChange::default() };
    describe(&mut world, ALICE, channel, none);
    world.settle();
    assert_eq!(described(&world, dave, channel), Profile { avatar: None, ..expected });
    // What is said of a group is nobody else's business: neither in the store nor in what machines say of themselves.
    world.said = Some(String::new());
    describe(&mut world, ALICE, channel, renamed("planted secret"));
    world.settle();
    assert_eq!(described(&world, dave, channel).name, "planted secret");
    assert!(!world.said.take().unwrap().contains("planted secret"));
}

#[test]
fn nothing_out_of_bounds_is_a_profile() {
    let (mut world, channel) = three(21);
    let now = world.now;
    let long = |len: usize| Some("x".repeat(len));
    for change in [
        renamed(""),
        ProfileChange { name: long(257), ..ProfileChange::default() },
        ProfileChange { description: long(2_049), ..ProfileChange::default() },
    ] {
        let refused = world.client(ALICE).set_metadata(now, channel, change);
        assert!(matches!(refused, Err(Refused::Invalid(_))), "{refused:?}");
    }
    let most = ProfileChange { name: long(256), description: long(2_048), avatar: None };
    describe(&mut world, ALICE, channel, most);
    world.settle();
    assert_eq!(described(&world, BOB, channel).description.len(), 2_048);
}

#[test]
fn a_plain_member_describes_nothing() {
    let (mut world, channel) = three(22);
    let failed = fails(&mut world, BOB, |client, now| {
        client.set_metadata(now, channel, renamed("bob's now"))
    });
    assert_eq!(code(&failed), ErrorCode::NotAllowed);
    world.settle();
    assert_eq!(described(&world, CAROL, channel).name, "planted name");
}

#[test]
fn two_who_describe_at_once_both_come_true_and_all_see_the_same() {
    let (mut world, channel) = three(23);
    make_admin(&mut world, ALICE, channel, BOB);
    world.settle();
    for device in [ALICE, BOB] {
        world.cut(device);
    }
    let name = world.command(ALICE, |c, now| c.set_metadata(now, channel, renamed("by alice")));
    let description =
        ProfileChange { description: Some("by bob".into()), ..ProfileChange::default() };
    let about = world.command(BOB, |c, now| c.set_metadata(now, channel, description));
    assert!(matches!(world.outcome(ALICE, name), Outcome::Epoch(_)));
    assert!(matches!(world.outcome(BOB, about), Outcome::Epoch(_)));
    world.settle();
    for device in [ALICE, BOB, CAROL] {
        let Profile { name, description, .. } = described(&world, device, channel);
        assert_eq!((name.as_str(), description.as_str()), ("by alice", "by bob"));
    }
}

/// Alice made the next generation before that, with the name of then. She has read the other one, or Bob alone knows
/// it.
#[test]
fn a_name_that_is_given_while_a_reset_is_under_way_goes_into_the_next_generation() {
    for (by, untold) in [(ALICE, false), (BOB, false), (BOB, true)] {
        let (mut world, channel) = two_admins(26);
        let held = hold_back_from(&mut world, move |device, request| match request {
            Request::ChannelCreate { .. } => true,
            Request::Submit(_) => untold && device == BOB,
            _ => false,
        });
        let reset = begin(&mut world, ALICE, channel);
        world.until(|_| held.get() > 0);
        describe(&mut world, by, channel, renamed("in between"));
        world.pass(Duration::from_secs(1));
        honest(&mut world, &[ALICE]);
        assert!(matches!(world.outcome(ALICE, reset), Outcome::Reset { generation: 2, .. }));
        world.settle();
        for device in [ALICE, BOB, CAROL] {
            assert_eq!(described(&world, device, channel).name, "in between", "device {device}");
        }
        all_talk(&mut world, channel, &[ALICE, BOB, CAROL], 2);
    }
}

/// Metadata written before the last change and read after it is not taken for the present one.
#[test]
fn older_metadata_is_never_shown_after_newer() {
    let (mut world, channel) = three(24);
    make_admin(&mut world, ALICE, channel, BOB);
    world.settle();
    // Bob renames the group, and falls silent before his word on it is accepted.
    lie(&mut world, BOB, true, |frame| match &frame.body {
        Body::Request(Request::Submit(_)) => vec![],
        _ => vec![frame],
    });
    describe(&mut world, BOB, channel, renamed("older"));
    world.until(|world| world.group(ALICE, channel).epoch == world.group(BOB, channel).epoch);
    describe(&mut world, ALICE, channel, renamed("newer"));
    honest(&mut world, &[BOB]);
    world.settle();
    for device in [ALICE, BOB, CAROL] {
        assert_eq!(described(&world, device, channel).name, "newer", "device {device}");
        let mut names = world.devices[device].log.iter().rev().filter_map(|event| match event {
            Event::Metadata(group) => Some(group.profile.name.clone()),
            _ => None,
        });
        assert_eq!(names.next().unwrap(), "newer", "device {device}");
    }
}

/// Who adds somebody may not have read yet what the group is called now.
#[test]
fn who_is_added_between_a_change_and_the_word_on_it_hears_of_it_too() {
    let (mut world, channel) = three(25);
    let dave = world.register("dave");
    make_admin(&mut world, ALICE, channel, BOB);
    world.settle();
    lie(&mut world, ALICE, true, |frame| match &frame.body {
        Body::Request(Request::Submit(_)) => vec![],
        _ => vec![frame],
    });
    describe(&mut world, ALICE, channel, renamed("in between"));
    world.done(BOB, |client, now| client.invite(now, channel, "dave"));
    honest(&mut world, &[ALICE]);
    world.settle();
    for device in [ALICE, BOB, CAROL, dave] {
        assert_eq!(described(&world, device, channel).name, "in between", "device {device}");
    }
}

/// Who adds somebody says at once what the group is called. If it is gone by then the others do, one of them.
#[test]
fn who_is_added_by_one_who_is_gone_at_once_is_told_by_another() {
    for gone in [false, true] {
        let (mut world, channel) = three(15);
        let dave = world.register("dave");
        describe(&mut world, ALICE, channel, about("planted description"));
        world.settle();
        let before = world.group(BOB, channel).cursor;
        if gone {
            // Alice's commit is in the log, and she never reads it.
            lie_entries_of(&mut world, ALICE, channel, Vec::clear);
        }
        world.command(ALICE, |client, now| client.invite(now, channel, "dave"));
        world.until(|world| world.group(BOB, channel).cursor > before);
        if gone {
            world.crash(ALICE);
        }
        world.pass(Duration::from_secs(60));
        let told = described(&world, dave, channel);
        assert_eq!((told.name.as_str(), told.description.as_str()), (NAME, "planted description"));
        // The commit and one word, whoever said it.
        assert_eq!(world.group(BOB, channel).cursor, before + 2, "gone: {gone}");
    }
}

/// What alice calls the group now stands in its context; her word on it is kept from all until she goes on.
fn renamed_unheard(seed: u64) -> (World, ChannelId) {
    let (mut world, channel) = three(seed);
    make_admin(&mut world, ALICE, channel, BOB);
    world.settle();
    hold_back(&mut world, ALICE, |request| matches!(request, Request::Submit(_)));
    describe(&mut world, ALICE, channel, renamed("by alice"));
    world.until(|world| world.group(ALICE, channel).epoch == world.group(BOB, channel).epoch);
    (world, channel)
}

fn about(text: &str) -> ProfileChange {
    ProfileChange { description: Some(text.into()), ..ProfileChange::default() }
}

#[test]
fn a_change_made_before_the_word_on_another_is_read_does_not_revert_it() {
    let (mut world, channel) = renamed_unheard(26);
    let change = world.command(BOB, |c, now| c.set_metadata(now, channel, about("by bob")));
    world.pass(Duration::from_secs(1));
    assert!(!is_done(&world, BOB, change), "it waits for what the group is called now");
    honest(&mut world, &[ALICE]);
    assert!(matches!(world.outcome(BOB, change), Outcome::Epoch(_)));
    world.settle();
    for device in [ALICE, BOB, CAROL] {
        let Profile { name, description, .. } = described(&world, device, channel);
        assert_eq!((name.as_str(), description.as_str()), ("by alice", "by bob"));
    }
}

/// Whoever changed it is gone before the word on it was out.
#[test]
fn a_group_that_nobody_can_name_is_named_anew_and_not_left_without_a_name() {
    let (mut world, channel) = renamed_unheard(27);
    world.crash(ALICE);
    let failed = fails(&mut world, BOB, |c, now| c.set_metadata(now, channel, about("by bob")));
    assert!(matches!(failed, Failed::Obsolete(_)), "{failed:?}");
    describe(&mut world, BOB, channel, renamed("by bob"));
    world.settle();
    for device in [BOB, CAROL] {
        assert_eq!(described(&world, device, channel).name, "by bob", "device {device}");
    }
}
