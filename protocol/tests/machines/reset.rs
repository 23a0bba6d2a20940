//! Another generation of a channel: of a group that works and of one that does not, to another suite, across crashes
//! and races.

use std::time::Duration;

use bytes::Bytes;

use crate::talk::*;
use qpc_protocol::client::ProfileChange;
use qpc_protocol::client::event::{Event, Failed, Outcome};
use qpc_protocol::error::Refused;
use qpc_protocol::id::{ChannelId, Sender};
use qpc_protocol::io::Ticket;
use qpc_protocol::limits::ENTRY_TIME;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{Body, Entry, EntryKind, Frame, Reply};
use qpc_sim::world::{Rules, World};

pub(crate) fn begin(world: &mut World, device: usize, channel: ChannelId) -> Ticket {
    world.command(device, |client, now| client.reset(now, channel, None))
}

pub(crate) fn reset(
    world: &mut World,
    device: usize,
    channel: ChannelId,
    suite: Option<Suite>,
) -> u32 {
    match world.done(device, |client, now| client.reset(now, channel, suite)) {
        Outcome::Reset { generation, .. } => generation,
        other => panic!("{other:?}"),
    }
}

/// The generations that a device was told of, and who began them.
pub(crate) fn resets(world: &World, device: usize) -> Vec<(u32, Sender)> {
    let of = |event: &Event| match event {
        Event::Reset { generation, by, .. } => Some((*generation, *by)),
        _ => None,
    };
    world.devices[device].log.iter().filter_map(of).collect()
}

/// All are in that generation, say something, and read what the others say once.
pub(crate) fn all_talk(world: &mut World, channel: ChannelId, all: &[usize], generation: u32) {
    world.settle();
    for device in all {
        assert_eq!(world.group(*device, channel).generation, generation, "device {device}");
    }
    all_say(world, channel, all, &format!("in {generation}"));
}

/// Whether anything of a group of that generation is on a device's disk.
fn keeps(world: &World, device: usize, channel: ChannelId, generation: u32) -> bool {
    let mut prefix = b"g/".to_vec();
    prefix.extend(channel.0);
    prefix.extend(generation.to_be_bytes());
    world.devices[device].disk.keys().any(|key| key.starts_with(&prefix))
}

// ---- a group that works -----------------------------------------------------------------------

/// Messages before, on their way, and after; one member away with messages unread, one with a message unsent.
#[test]
fn a_group_goes_on_in_another_generation_and_loses_nothing() {
    for rules in [Rules::new(1), Rules::new(2).one_link(), Rules::new(3).split()] {
        let mut world = World::new(rules);
        for name in ["alice", "bob", "carol", "dave"] {
            world.register(name);
        }
        let tablet = world.login("bob");
        let all = [ALICE, BOB, CAROL, 3, tablet];
        let channel = group_of(&mut world, ALICE, &["bob", "carol", "dave"]);
        world.crash(3);
        said(&mut world, CAROL, channel, "unread by dave");
        world.devices[CAROL].latency = Duration::from_millis(40);
        world.devices[BOB].latency = Duration::from_millis(7);
        for device in [ALICE, BOB, CAROL, tablet] {
            for number in 0..3 {
                say(&mut world, device, channel, &format!("{number} of {device}"));
            }
        }
        let ticket = begin(&mut world, ALICE, channel);
        say(&mut world, CAROL, channel, "meanwhile");
        say(&mut world, ALICE, channel, "after all are back");
        let outcome = world.outcome(ALICE, ticket);
        assert!(matches!(outcome, Outcome::Reset { generation: 2, epoch: 1 }), "{outcome:?}");
        world.start(3);
        world.pass(Duration::from_secs(2));
        world.settle();
        let alice = me(&mut world, ALICE);
        for device in all {
            assert_eq!(resets(&world, device), [(2, alice)], "device {device}");
            for other in [ALICE, BOB, CAROL, tablet].into_iter().filter(|other| *other != device) {
                for number in 0..3 {
                    let text = format!("{number} of {other}");
                    assert_eq!(count(&world, device, &text), 1, "device {device}: {text}");
                }
            }
            if device != ALICE {
                assert_eq!(count(&world, device, "after all are back"), 1, "device {device}");
            }
            assert_eq!(world.group(device, channel).name.as_deref(), Some("planted name"));
            assert!(keeps(&world, device, channel, 2));
            assert!(!keeps(&world, device, channel, 1), "device {device}");
        }
        assert_eq!(count(&world, 3, "unread by dave"), 1);
        assert_eq!(count(&world, 3, "meanwhile"), 1);
        undisturbed(&world, &all);
        all_talk(&mut world, channel, &all, 2);
        // And once more, by somebody else, after restarts.
        make_admin(&mut world, ALICE, channel, BOB);
        for device in all {
            restart(&mut world, device);
        }
        assert_eq!(reset(&mut world, tablet, channel, None), 3);
        all_talk(&mut world, channel, &all, 3);
        undisturbed(&world, &all);
    }
}

/// What is said in a generation that nobody else is in yet would be read by nobody.
#[test]
fn what_is_said_before_all_are_back_waits_for_them() {
    let (mut world, channel) = three(7);
    let claims = hold_back_claims(&mut world, ALICE);
    let ticket = begin(&mut world, ALICE, channel);
    world.pass(Duration::from_secs(2));
    assert_eq!(resets(&world, ALICE).len(), 1);
    let word = say(&mut world, ALICE, channel, "to all");
    world.pass(Duration::from_secs(2));
    assert!(claims.get() > 0 && !is_done(&world, ALICE, word));
    honest(&mut world, &[ALICE]);
    assert!(matches!(world.outcome(ALICE, ticket), Outcome::Reset { generation: 2, epoch: 1 }));
    assert!(matches!(world.outcome(ALICE, word), Outcome::Sent(_)));
    all_talk(&mut world, channel, &[ALICE, BOB, CAROL], 2);
    for device in [BOB, CAROL] {
        assert_eq!(count(&world, device, "to all"), 1, "device {device}");
    }
}

#[test]
fn roles_and_profile_are_carried_over_under_another_key() {
    let (mut world, channel) = three(4);
    let change = ProfileChange { description: Some("about".into()), ..ProfileChange::default() };
    world.done(ALICE, |client, now| client.set_metadata(now, channel, change));
    make_admin(&mut world, ALICE, channel, BOB);
    world.settle();
    reset(&mut world, BOB, channel, None);
    world.settle();
    for device in [ALICE, BOB, CAROL] {
        let group = world.group(device, channel);
        assert_eq!(group.name.as_deref(), Some("planted name"), "device {device}");
        assert_eq!(group.description, "about");
        let members = world.done(device, |client, now| client.members(now, channel));
        let Outcome::Members(members) = members else { panic!() };
        assert_eq!(members.iter().filter(|member| member.admin).count(), 2);
    }
    all_talk(&mut world, channel, &[ALICE, BOB, CAROL], 2);
    undisturbed(&world, &[ALICE, BOB, CAROL]);
}

#[test]
fn wishes_outlive_a_reset_and_a_leaver_leaves() {
    let (mut world, channel) = three(5);
    world.register("dave");
    // Nobody commits carol's leaving before the reset.
    for device in [ALICE, BOB] {
        world.cut(device);
        world.devices[device].connect = false;
    }
    world.done(CAROL, |client, now| client.leave(now, channel));
    let invite = world.command(ALICE, |client, now| client.invite(now, channel, "dave"));
    let update = world.command(BOB, |client, now| client.update(now, channel));
    let ticket = begin(&mut world, ALICE, channel);
    for device in [ALICE, BOB] {
        world.devices[device].connect = true;
    }
    assert!(matches!(world.outcome(ALICE, ticket), Outcome::Reset { .. }));
    assert!(matches!(world.outcome(ALICE, invite), Outcome::Epoch(_)));
    assert!(matches!(world.outcome(BOB, update), Outcome::Epoch(_)));
    world.until(|world| saw(world, CAROL, |e| matches!(e, Event::Evicted { .. })));
    assert!(!world.group(CAROL, channel).member);
    all_talk(&mut world, channel, &[ALICE, BOB, 3], 2);
}

// ---- another suite ----------------------------------------------------------------------------

#[test]
fn a_classical_group_becomes_a_hybrid_one_and_never_the_other_way() {
    let (mut world, channel) = three(10);
    assert_eq!(world.group(BOB, channel).suite, Suite::Classical);
    assert_eq!(reset(&mut world, ALICE, channel, Some(Suite::Hybrid)), 2);
    all_talk(&mut world, channel, &[ALICE, BOB, CAROL], 2);
    for device in [ALICE, BOB, CAROL] {
        assert_eq!(world.group(device, channel).suite, Suite::Hybrid);
    }
    let now = world.now;
    let weaker = world.client(ALICE).reset(now, channel, Some(Suite::Classical));
    assert!(matches!(weaker, Err(Refused::Invalid(_))), "{weaker:?}");
    assert_eq!(reset(&mut world, ALICE, channel, None), 3);
    assert_eq!(world.group(ALICE, channel).suite, Suite::Hybrid);
    all_talk(&mut world, channel, &[ALICE, BOB, CAROL], 3);
    undisturbed(&world, &[ALICE, BOB, CAROL]);
}

#[test]
fn a_direct_channel_is_reset_by_either() {
    let mut world = World::new(Rules::new(11));
    for name in ["alice", "bob"] {
        world.register(name);
    }
    let tablet = world.login("bob");
    let all = [ALICE, BOB, tablet];
    let opened = world.done(ALICE, |client, now| client.open_direct(now, "bob"));
    let Outcome::Group(channel) = opened else { panic!("{opened:?}") };
    for (device, generation) in [(BOB, 2), (ALICE, 3), (tablet, 4)] {
        world.settle();
        assert_eq!(reset(&mut world, device, channel, None), generation);
        all_talk(&mut world, channel, &all, generation);
    }
    for (device, name) in [(ALICE, "bob"), (BOB, "alice"), (tablet, "alice")] {
        assert_eq!(world.group(device, channel).name.as_deref(), Some(name));
    }
    undisturbed(&world, &all);
}

// ---- a group that does not work ---------------------------------------------------------------

/// Keeps devices from coming back by themselves: what the server has of the group is of no use to them.
fn unusable(world: &mut World) {
    world.liar = Some(Box::new(move |_, _, frame| vec![without_group(frame)]));
}

/// What the server has of a group does not hold.
fn without_group(mut frame: Frame) -> Frame {
    if let Body::Reply(Reply::GroupInfo { group_info, .. }) = &mut frame.body {
        *group_info = Bytes::from_static(b"of no use");
    }
    frame
}

/// Everybody is stuck behind a commit, the admin too, and whose records are damaged besides.
#[test]
fn a_group_that_nobody_can_go_on_in_is_whole_again() {
    for damaged in [false, true] {
        let (mut world, channel) = three(20);
        // The commit reaches nobody; what is written after it by who made it does.
        let is_commit = |entry: &Entry| entry.kind == EntryKind::Commit;
        let mut from = [leaving_out(channel, is_commit), leaving_out(channel, is_commit)];
        world.liar = Some(Box::new(move |device, up, frame| match from.get_mut(device) {
            Some(leave) if !up => leave(frame).into_iter().map(without_group).collect(),
            _ => vec![without_group(frame)],
        }));
        world.done(CAROL, |client, now| client.update(now, channel));
        said(&mut world, CAROL, channel, "out of reach");
        world.pass(Duration::from_secs(60));
        for device in [ALICE, BOB] {
            assert!(saw(&world, device, |e| matches!(e, Event::FellOut { .. })), "{device}");
        }
        unusable(&mut world);
        if damaged {
            world.crash(BOB);
            wreck(&mut world, BOB);
            world.start(BOB);
        }
        let waiting = say(&mut world, BOB, channel, "waiting");
        assert_eq!(reset(&mut world, ALICE, channel, None), 2);
        assert!(matches!(world.outcome(BOB, waiting), Outcome::Sent(_)));
        all_talk(&mut world, channel, &[ALICE, BOB, CAROL], 2);
        assert_eq!(count(&world, ALICE, "waiting"), 1);
        for device in [ALICE, BOB, CAROL] {
            assert!(!saw(&world, device, |e| matches!(e, Event::Rejoined { .. })));
        }
    }
}

/// An admin that was away for longer than entries are kept hears of who was added meanwhile before it resets the group.
#[test]
fn who_was_added_while_the_admin_was_away_is_added_again() {
    let (mut world, channel) = three(24);
    world.register("dave");
    make_admin(&mut world, ALICE, channel, BOB);
    world.crash(ALICE);
    world.done(BOB, |client, now| client.invite(now, channel, "dave"));
    world.advance(ENTRY_TIME + Duration::from_secs(24 * 3600));
    world.pass(Duration::from_secs(120));
    // What the server has of the group is signed by one whom she knows.
    world.done(BOB, |client, now| client.update(now, channel));
    world.devices[ALICE].connect = false;
    world.start(ALICE);
    let ticket = begin(&mut world, ALICE, channel);
    world.devices[ALICE].connect = true;
    assert!(matches!(world.outcome(ALICE, ticket), Outcome::Reset { generation: 2, .. }));
    all_talk(&mut world, channel, &[ALICE, BOB, CAROL, 3], 2);
    assert_eq!(world.group(ALICE, channel).members, 4);
}

#[test]
fn who_cannot_tell_who_was_in_the_group_does_not_reset_it() {
    let (mut world, channel) = three(21);
    world.crash(ALICE);
    wreck(&mut world, ALICE);
    unusable(&mut world);
    world.start(ALICE);
    let failed = fails(&mut world, ALICE, |client, now| client.reset(now, channel, None));
    assert!(matches!(failed, Failed::Obsolete(_)), "{failed:?}");
    world.pass(Duration::from_secs(5));
    assert_eq!(world.client(ALICE).pending(), 0);
    assert_eq!(world.group(BOB, channel).generation, 1);
}

#[test]
fn devices_that_cannot_be_added_are_named_and_the_rest_is_back() {
    let (mut world, channel) = three(22);
    let carol = me(&mut world, CAROL);
    hide_packages(&mut world, ALICE, Some(carol.device));
    let ticket = begin(&mut world, ALICE, channel);
    assert!(matches!(world.outcome(ALICE, ticket), Outcome::Reset { generation: 2, .. }));
    let named = |event: &Event| match event {
        Event::NotAdded { ticket: of, device, .. } => *of == ticket && *device == carol,
        _ => false,
    };
    assert_eq!(world.devices[ALICE].log.iter().filter(|event| named(event)).count(), 1);
    world.liar = None;
    all_talk(&mut world, channel, &[ALICE, BOB], 2);
    let unsent = say(&mut world, CAROL, channel, "kept");
    // Asked for like anybody else, she is back, with what she has not sent.
    world.done(ALICE, |client, now| client.invite(now, channel, "carol"));
    assert!(matches!(world.outcome(CAROL, unsent), Outcome::Sent(_)));
    world.settle();
    assert_eq!(count(&world, BOB, "kept"), 1);
    agree(&world, channel, &[ALICE, BOB, CAROL]);
}

// ---- crashes and races ------------------------------------------------------------------------

/// The one who resets, or one who follows, crashes at every batch, twice in a row.
#[test]
fn a_crash_at_every_step_strands_nobody_and_loses_nothing() {
    for who in [ALICE, BOB] {
        let mut crashed = 0;
        for at in 0.. {
            let (mut world, channel) = three(30);
            world.cut(BOB);
            for device in [ALICE, BOB, CAROL] {
                say(&mut world, device, channel, &format!("before from {device}"));
            }
            let ticket = begin(&mut world, ALICE, channel);
            let before = world.devices[who].crashes;
            for _ in 0..2 {
                world.devices[who].crash_in = Some(at);
                world.pass(Duration::from_secs(20));
                if world.devices[who].client.is_none() {
                    world.start(who);
                }
            }
            world.devices[who].crash_in = None;
            world.settle();
            // What was asked for in the very moment of the crash may be forgotten, and is asked for again.
            if world.group(ALICE, channel).generation == 1 {
                assert!(at == 0 && who == ALICE && !is_done(&world, ALICE, ticket));
                reset(&mut world, ALICE, channel, None);
            }
            all_talk(&mut world, channel, &[ALICE, BOB, CAROL], 2);
            for device in [ALICE, BOB, CAROL] {
                for other in [ALICE, BOB, CAROL].into_iter().filter(|other| *other != device) {
                    let read = count(&world, device, &format!("before from {other}"));
                    // Unless it was said in the moment of the crash: the first batch holds it.
                    let lost = at == 0 && other == who;
                    assert_eq!(read, usize::from(!lost), "crash at {at}: {device} of {other}");
                }
                assert!(!keeps(&world, device, channel, 1), "crash at {at}");
            }
            undisturbed(&world, &[ALICE, BOB, CAROL]);
            let crashes = world.devices[who].crashes - before;
            crashed += crashes;
            if crashes == 0 {
                break;
            }
        }
        assert!(crashed >= 8, "{who}: {crashed}");
    }
}

pub(crate) fn two_admins(seed: u64) -> (World, ChannelId) {
    let (mut world, channel) = three(seed);
    make_admin(&mut world, ALICE, channel, BOB);
    world.settle();
    (world, channel)
}

#[test]
fn of_two_resets_at_once_one_comes_true_for_both() {
    for seed in 40..46 {
        let (mut world, channel) = two_admins(seed);
        world.devices[ALICE].latency = Duration::from_millis(seed % 3);
        let tickets = [ALICE, BOB].map(|device| begin(&mut world, device, channel));
        for (device, ticket) in [ALICE, BOB].into_iter().zip(tickets) {
            let outcome = world.outcome(device, ticket);
            assert!(matches!(outcome, Outcome::Reset { generation: 2, .. }), "{outcome:?}");
        }
        world.settle();
        let first = resets(&world, CAROL);
        assert_eq!(first.len(), 1);
        for device in [ALICE, BOB] {
            assert_eq!(resets(&world, device), first);
        }
        all_talk(&mut world, channel, &[ALICE, BOB, CAROL], 2);
        undisturbed(&world, &[ALICE, BOB, CAROL]);
    }
}

#[test]
fn a_reset_that_was_overtaken_by_one_of_a_weaker_suite_is_made_again() {
    let mut third = 0;
    for seed in 50..54 {
        let (mut world, channel) = two_admins(seed);
        let plain = begin(&mut world, ALICE, channel);
        let hybrid =
            world.command(BOB, |client, now| client.reset(now, channel, Some(Suite::Hybrid)));
        assert!(matches!(world.outcome(ALICE, plain), Outcome::Reset { .. }));
        let Outcome::Reset { generation, .. } = world.outcome(BOB, hybrid) else { panic!() };
        third += u32::from(generation == 3);
        all_talk(&mut world, channel, &[ALICE, BOB, CAROL], generation);
        assert_eq!(world.group(CAROL, channel).suite, Suite::Hybrid);
    }
    assert!(third > 0, "nobody was overtaken");
}

/// Whoever began a generation is gone before anybody was added: another admin begins the next one.
#[test]
fn a_generation_whose_founder_is_gone_is_followed_by_another() {
    let (mut world, channel) = two_admins(60);
    let claims = hold_back_claims(&mut world, ALICE);
    begin(&mut world, ALICE, channel);
    world.pass(Duration::from_secs(2));
    assert!(claims.get() > 0);
    world.crash(ALICE);
    world.liar = None;
    world.settle();
    assert_eq!(resets(&world, BOB).len(), 1);
    let unsent = say(&mut world, CAROL, channel, "kept");
    assert_eq!(reset(&mut world, BOB, channel, None), 3);
    assert!(matches!(world.outcome(CAROL, unsent), Outcome::Sent(_)));
    world.start(ALICE);
    all_talk(&mut world, channel, &[ALICE, BOB, CAROL], 3);
}
