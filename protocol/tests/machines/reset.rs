//! Another generation of a channel: of a group that works and of one that does not, to another suite, across crashes and
//! races; and what a liar gets out of it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use crate::talk::*;
use bytes::Bytes;
use qpc_protocol::client::event::{Event, Failed, Outcome};
use qpc_protocol::client::{ProfileChange, Role};
use qpc_protocol::crypto::hybrid::EnvelopeSecrets;
use qpc_protocol::crypto::identity::{AccountKey, DeviceKey, DeviceRecord};
use qpc_protocol::crypto::portable;
use qpc_protocol::env::Entropy;
use qpc_protocol::error::{ErrorCode, Refused};
use qpc_protocol::id::{AccountId, ChannelId, DeviceId, Digest, GroupId, MessageId, Sender};
use qpc_protocol::io::Ticket;
use qpc_protocol::limits::{CHECKPOINT_TIME, WARM_GROUPS};
use qpc_protocol::mls::Context;
use qpc_protocol::mls::data::GroupData;
use qpc_protocol::mls::group::{Group, LocalDevice, NewGroup, Plan};
use qpc_protocol::mls::public::PublicState;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::server::op::{self, AccountRow, Commit, Member, StoreOp, StoreReply};
use qpc_protocol::wire::message::{
    Body, ChannelKind, EntryKind, Part, Push, Reply, Request, Username,
};
use qpc_sim::world::{Rules, World};

fn me(world: &mut World, device: usize) -> Sender {
    world.client(device).whoami().unwrap().1
}

fn begin(world: &mut World, device: usize, channel: ChannelId) -> Ticket {
    world.command(device, |client, now| client.reset(now, channel, None))
}

fn reset(world: &mut World, device: usize, channel: ChannelId, suite: Option<Suite>) -> u32 {
    match world.done(device, |client, now| client.reset(now, channel, suite)) {
        Outcome::Reset { generation, .. } => generation,
        other => panic!("{other:?}"),
    }
}

/// The generations that a device was told of, and who began them.
fn resets(world: &World, device: usize) -> Vec<(u32, Sender)> {
    let of = |event: &Event| match event {
        Event::Reset { generation, by, .. } => Some((*generation, *by)),
        _ => None,
    };
    world.devices[device].log.iter().filter_map(of).collect()
}

fn trouble(event: &Event) -> bool {
    matches!(
        event,
        Event::Unreadable { .. }
            | Event::Failed(..)
            | Event::NotAdded { .. }
            | Event::ForkDetected { .. }
            | Event::ForkSuspected { .. }
            | Event::ServerFault { .. }
            | Event::Gap { .. }
            | Event::FellOut { .. }
            | Event::Evicted { .. }
    )
}

fn undisturbed(world: &World, devices: &[usize]) {
    for device in devices {
        let seen: Vec<_> = world.devices[*device].log.iter().filter(|e| trouble(e)).collect();
        assert!(seen.is_empty(), "device {device}: {seen:?}");
    }
}

/// How often a device was told a text, told again after restarts aside.
fn count(world: &World, device: usize, text: &str) -> usize {
    let told = world.messages(device).into_iter();
    let told = told.filter(|message| message.body.as_slice() == text.as_bytes());
    told.map(|message| message.seq).collect::<BTreeSet<_>>().len()
}

/// All are in that generation, say something, and read what the others say once.
fn all_talk(world: &mut World, channel: ChannelId, all: &[usize], generation: u32) {
    world.settle();
    agree(world, channel, all);
    for device in all {
        assert_eq!(world.group(*device, channel).generation, generation, "device {device}");
        said(world, *device, channel, &format!("in {generation} from {device}"));
    }
    // What is on its way to nobody in particular keeps nobody busy.
    world.pass(Duration::from_secs(2));
    world.settle();
    for device in all {
        for other in all.iter().filter(|other| *other != device) {
            let text = format!("in {generation} from {other}");
            let read = count(world, *device, &text);
            assert_eq!(read, 1, "device {device}: {text}: {:#?}", world.devices[*device].log);
        }
    }
    agree(world, channel, all);
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
        let bob = me(&mut world, BOB).account;
        world.done(ALICE, |client, now| client.set_role(now, channel, bob, Role::Admin));
        for device in all {
            world.crash(device);
            world.start(device);
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
    lie(&mut world, ALICE, true, |frame| {
        let claim = matches!(frame.body, Body::Request(Request::KeyPackageFetch { .. }));
        if claim { vec![] } else { vec![frame] }
    });
    let ticket = begin(&mut world, ALICE, channel);
    world.pass(Duration::from_secs(2));
    assert_eq!(resets(&world, ALICE).len(), 1);
    let word = say(&mut world, ALICE, channel, "to all");
    world.pass(Duration::from_secs(2));
    world.liar = None;
    world.cut(ALICE);
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
    let bob = me(&mut world, BOB).account;
    let change = ProfileChange { description: Some("about".into()), ..ProfileChange::default() };
    world.done(ALICE, |client, now| client.set_metadata(now, channel, change));
    world.done(ALICE, |client, now| client.set_role(now, channel, bob, Role::Admin));
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
    world.liar = Some(Box::new(|_, up, frame| {
        let asks = matches!(frame.body, Body::Request(Request::GroupInfoFetch { .. }));
        if asks && up { vec![] } else { vec![frame] }
    }));
}

/// Everybody is stuck behind a commit, the admin too, and whose records are damaged besides.
#[test]
fn a_group_that_nobody_can_go_on_in_is_whole_again() {
    for damaged in [false, true] {
        let (mut world, channel) = three(20);
        let mut gone = std::collections::BTreeMap::new();
        world.liar = Some(Box::new(move |device, up, mut frame| {
            if matches!(frame.body, Body::Request(Request::GroupInfoFetch { .. })) && up {
                return vec![];
            }
            if let Body::Push(Push::Entries(entries)) = &mut frame.body
                && entries.channel == channel
                && !up
            {
                // The commit reaches nobody; what is written after it by who made it does.
                let gone: &mut u64 = gone.entry(device).or_default();
                let before = entries.entries.len();
                entries.entries.retain(|entry| entry.kind != EntryKind::Commit || device == CAROL);
                *gone += (before - entries.entries.len()) as u64;
                entries.entries.iter_mut().for_each(|entry| entry.seq -= *gone);
                if entries.entries.is_empty() {
                    return vec![];
                }
            }
            vec![frame]
        }));
        world.done(CAROL, |client, now| client.update(now, channel));
        said(&mut world, CAROL, channel, "out of reach");
        world.pass(Duration::from_secs(1));
        for device in [ALICE, BOB] {
            assert!(saw(&world, device, |e| matches!(e, Event::FellOut { .. })), "{device}");
        }
        unusable(&mut world);
        if damaged {
            world.crash(BOB);
            let disk = world.devices[BOB].disk.iter_mut();
            disk.filter(|(key, _)| key.starts_with(b"g/")).for_each(|(_, value)| value.truncate(1));
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

#[test]
fn who_cannot_tell_who_was_in_the_group_does_not_reset_it() {
    let (mut world, channel) = three(21);
    world.crash(ALICE);
    let disk = world.devices[ALICE].disk.iter_mut();
    disk.filter(|(key, _)| key.starts_with(b"g/")).for_each(|(_, value)| value.truncate(1));
    unusable(&mut world);
    world.start(ALICE);
    fails(&mut world, ALICE, |client, now| client.reset(now, channel, None));
    world.pass(Duration::from_secs(5));
    assert_eq!(world.client(ALICE).pending(), 0);
}

#[test]
fn devices_that_cannot_be_added_are_named_and_the_rest_is_back() {
    let (mut world, channel) = three(22);
    let carol = me(&mut world, CAROL);
    lie_reply(&mut world, ALICE, move |reply| {
        if let Reply::ClaimedKeyPackages(claimed) = reply {
            let of_carol = claimed.iter_mut().filter(|claimed| claimed.device == carol.device);
            of_carol.for_each(|claimed| claimed.package = None);
        }
    });
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
            let done = |e: &Event| matches!(e, Event::Done(done, _) if *done == ticket);
            if world.group(ALICE, channel).generation == 1 {
                assert!(!saw(&world, ALICE, done));
                reset(&mut world, ALICE, channel, None);
            }
            all_talk(&mut world, channel, &[ALICE, BOB, CAROL], 2);
            for device in [ALICE, BOB, CAROL] {
                for other in [ALICE, BOB, CAROL].into_iter().filter(|other| *other != device) {
                    let read = count(&world, device, &format!("before from {other}"));
                    assert!(read == 1 || (other == who && read == 0), "crash at {at}: {read}");
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

fn two_admins(seed: u64) -> (World, ChannelId) {
    let (mut world, channel) = three(seed);
    let bob = me(&mut world, BOB).account;
    world.done(ALICE, |client, now| client.set_role(now, channel, bob, Role::Admin));
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
    let claims = Rc::new(RefCell::new(false));
    let seen = claims.clone();
    lie(&mut world, ALICE, true, move |frame| {
        let claim = matches!(frame.body, Body::Request(Request::KeyPackageFetch { .. }));
        *seen.borrow_mut() |= claim;
        if claim { vec![] } else { vec![frame] }
    });
    begin(&mut world, ALICE, channel);
    world.pass(Duration::from_secs(2));
    assert!(*claims.borrow());
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

// ---- who may not ------------------------------------------------------------------------------

#[test]
fn a_plain_member_and_one_who_is_out_reset_nothing() {
    let (mut world, channel) = three(70);
    let failed = fails(&mut world, BOB, |client, now| client.reset(now, channel, None));
    assert_eq!(code(&failed), ErrorCode::NotAllowed);
    let dave = world.register("dave");
    let now = world.now;
    assert_eq!(world.client(dave).reset(now, channel, None), Err(Refused::UnknownChannel));
    let carol = me(&mut world, CAROL).account;
    world.done(ALICE, |client, now| client.remove(now, channel, carol));
    world.settle();
    let now = world.now;
    assert_eq!(world.client(CAROL).reset(now, channel, None), Err(Refused::NotMember));
    all_talk(&mut world, channel, &[ALICE, BOB], 1);
}

/// The server has a reset begun by one of whom carol does not know that she is an admin, and says that it was begun by
/// one who is: for carol that is a plain member and a server that lies.
#[test]
fn a_reset_by_a_plain_member_is_not_followed_whatever_the_server_says() {
    for says_alice in [false, true] {
        let (mut world, channel) = three(71);
        let (alice, bob) = (me(&mut world, ALICE), me(&mut world, BOB));
        world.crash(CAROL);
        world.done(ALICE, |client, now| client.set_role(now, channel, bob.account, Role::Admin));
        world.settle();
        reset(&mut world, BOB, channel, None);
        world.settle();
        lie_entries(&mut world, CAROL, move |entries| {
            let mut gone = 0;
            entries.retain_mut(|entry| {
                // Of the group she was in: what made bob an admin.
                let hidden = entry.kind == EntryKind::Commit && entry.generation == 1;
                gone += u64::from(hidden);
                if entry.origin.is_none() {
                    entry.seq -= gone;
                }
                if entry.kind == EntryKind::Reset && says_alice {
                    entry.sender = alice;
                }
                !hidden
            });
        });
        world.devices[CAROL].log.clear();
        world.start(CAROL);
        world.pass(Duration::from_secs(30));
        assert_eq!(world.group(CAROL, channel).generation, 1);
        assert!(!saw(&world, CAROL, |e| matches!(e, Event::Joined { .. })));
        let told = |text: &str| {
            saw(&world, CAROL, |e| matches!(e, Event::Unreadable { why, .. } if why.contains(text)))
        };
        assert_eq!(resets(&world, CAROL).len(), usize::from(says_alice));
        assert!(told("no admin"), "{:?}", world.devices[CAROL].log);
    }
}

/// A server that makes up a reset stops a group, as it can anyway, and moves nobody into another.
#[test]
fn a_reset_that_the_server_made_up_is_a_fork_and_nothing_else() {
    let (mut world, channel) = three(72);
    lie_entries(&mut world, BOB, |entries| {
        for entry in entries.iter_mut().filter(|entry| entry.kind == EntryKind::Application) {
            entry.kind = EntryKind::Reset;
            entry.generation = 2;
        }
    });
    said(&mut world, ALICE, channel, "never read");
    world.pass(Duration::from_secs(5));
    assert_eq!(resets(&world, BOB).len(), 1);
    say(&mut world, BOB, channel, "kept");
    world.pass(Duration::from_secs(60));
    assert_eq!(world.bodies(CAROL), ["never read"]);
    // The way out is the one from any log that does not go on: to be added anew, or a reset.
    world.liar = None;
    reset(&mut world, ALICE, channel, None);
    all_talk(&mut world, channel, &[ALICE, BOB, CAROL], 2);
    assert_eq!(count(&world, CAROL, "kept"), 1);
}

// ---- a server that helps an admin to weaken a group --------------------------------------------

/// An admin whose groups go straight into the store: no server has looked at them.
struct Helped {
    local: LocalDevice,
    sender: Sender,
    entropy: Entropy,
}

impl Helped {
    fn new(world: &mut World) -> Self {
        let (backend, wall) = (portable(), world.now.wall);
        let mut entropy = Entropy::from_seed([66; 32]);
        let account = AccountKey::generate(backend, &mut entropy);
        let key = DeviceKey::generate(backend, &mut entropy);
        let device = DeviceId([6; 16]);
        let record = DeviceRecord::sign(backend, &account, device, key.public(), 1, wall);
        let sender = record.sender();
        let envelope_keys =
            EnvelopeSecrets::generate(&mut entropy).publish(backend, &key, sender, 1, wall);
        let row = AccountRow {
            username: Username::prepare("helped").unwrap(),
            account: sender.account,
            opaque_record: Bytes::from_static(b"a record"),
            sealed_account_key: Bytes::from_static(b"a key"),
            created: wall,
        };
        let replies = world.store.apply(&[
            StoreOp::CreateAccount(row),
            StoreOp::PutDevice {
                record: record.clone(),
                envelope_keys,
                most: 1,
                at: wall,
                expires: wall,
            },
        ]);
        assert!(matches!(replies.as_slice(), [StoreReply::Done, StoreReply::Told { .. }]));
        Self { local: LocalDevice { key, record }, sender, entropy }
    }

    /// Begins a generation of the direct channel with an account, and adds its devices.
    fn begin(&mut self, world: &mut World, with: AccountId, generation: u32, suite: Suite) {
        let (backend, wall, sender) = (portable(), world.now.wall, self.sender);
        let channel = ChannelId::direct(sender.account, with);
        let mut admins = vec![sender.account, with];
        admins.sort_unstable();
        let data = GroupData { version: 1, admins, open: false, metadata: Digest([0; 32]) };
        let new = NewGroup { id: GroupId::of(channel, generation), suite, data };
        let cx = Context { backend, entropy: &mut self.entropy, wall };
        let (mut group, founding) = Group::create(cx, &self.local, &new).unwrap();
        let member = Member { sender, device_key: self.local.record.device_key };
        let (info, tree) = (&founding.group_info, &founding.tree);
        let mut state = PublicState::create(backend, new.id, &member, info, tree).unwrap();
        let group_info = Bytes::from(founding.group_info);
        let expires = wall.plus(Duration::from_secs(86_400));
        let number = u8::try_from(generation).unwrap();
        let begin = match generation {
            1 => StoreOp::CreateChannel {
                channel,
                kind: ChannelKind::Direct,
                generation,
                creator: sender,
                with: None,
                group: state.take_ops(),
                group_info,
                at: wall,
            },
            _ => StoreOp::ResetChannel(op::Reset {
                channel,
                generation,
                founder: sender,
                message: op::reset_message(&group_info),
                hash: Digest([number; 32]),
                group: state.take_ops(),
                group_info,
                at: wall,
                expires,
            }),
        };
        let claim = StoreOp::ClaimKeyPackages { account: with, suite, device: None, at: wall };
        let replies = world.store.apply(&[begin, claim]);
        let Some(StoreReply::Claimed(claimed)) = replies.last() else { panic!("{replies:?}") };
        let adds = claimed.iter().map(|of| of.package.clone().unwrap().to_vec()).collect();
        let cx = Context { backend, entropy: &mut self.entropy, wall };
        let bundle = group.commit(cx, &self.local, &Plan { adds, ..Plan::default() }).unwrap();
        let welcome = bundle.welcome.as_deref();
        let checked = state.commit(sender, &bundle.commit, welcome, &bundle.group_info).unwrap();
        let commit = Commit {
            channel,
            generation,
            epoch: 0,
            sender,
            message: MessageId([100 + number; 16]),
            hash: Digest([100 + number; 32]),
            commit: Part::Inline(bundle.commit.into()),
            welcomes: checked.welcomes,
            group_info: bundle.group_info.into(),
            tree: checked.tree.map(Bytes::from),
            group: state.take_ops(),
            adds: checked.adds,
            removes: Vec::new(),
            updates: Vec::new(),
            at: wall,
            expires,
        };
        let replies = world.store.apply(&[StoreOp::Commit(commit)]);
        assert!(matches!(replies.as_slice(), [StoreReply::Appended { .. }]), "{replies:?}");
    }
}

#[test]
fn a_welcome_to_a_weaker_suite_is_refused_whoever_it_is_from() {
    let mut world = World::new(Rules::new(80));
    let bob = world.register("bob");
    let account = me(&mut world, bob).account;
    let mut admin = Helped::new(&mut world);
    let channel = ChannelId::direct(admin.sender.account, account);
    admin.begin(&mut world, account, 1, Suite::Hybrid);
    world.cut(bob);
    world.settle();
    assert_eq!(world.group(bob, channel).suite, Suite::Hybrid);
    admin.begin(&mut world, account, 2, Suite::Classical);
    world.cut(bob);
    world.settle();
    assert_eq!(resets(&world, bob), [(2, admin.sender)]);
    let group = world.group(bob, channel);
    assert_eq!((group.suite, group.generation), (Suite::Hybrid, 1));
    assert!(saw(
        &world,
        bob,
        |e| matches!(e, Event::Unreadable { why, .. } if why.contains("suite"))
    ));
    // The same by one that is not weaker is followed.
    admin.begin(&mut world, account, 3, Suite::Hybrid);
    world.cut(bob);
    world.settle();
    let group = world.group(bob, channel);
    assert_eq!((group.suite, group.generation), (Suite::Hybrid, 3));
}

// ---- what else is wanted at the same time -----------------------------------------------------

/// Keeps alice from adding anybody.
fn adds_nobody(device: usize, up: bool, frame: &qpc_protocol::wire::message::Frame) -> bool {
    let claim = matches!(frame.body, Body::Request(Request::KeyPackageFetch { .. }));
    device == ALICE && up && claim
}

/// Alice has begun a generation that nobody is asked into yet: for all others the group has ended.
fn ended(world: &mut World, channel: ChannelId) -> Ticket {
    world.liar = Some(Box::new(|device, up, frame| match adds_nobody(device, up, &frame) {
        true => vec![],
        false => vec![frame],
    }));
    let ticket = begin(world, ALICE, channel);
    world.pass(Duration::from_secs(2));
    assert_eq!(resets(world, BOB).len(), 1);
    ticket
}

/// Alice goes on.
fn honest(world: &mut World) {
    world.liar = None;
    world.cut(ALICE);
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
        honest(&mut world);
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
    world.liar = Some(Box::new(|device, up, frame| {
        let asks = matches!(frame.body, Body::Request(Request::GroupInfoFetch { .. })) && up;
        if asks || adds_nobody(device, up, &frame) { vec![] } else { vec![frame] }
    }));
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
    honest(&mut world);
    assert!(matches!(world.outcome(ALICE, reset), Outcome::Reset { generation: 2, .. }));
    all_talk(&mut world, channel, &[ALICE, BOB, CAROL], 2);
}

/// Bob's came too late, and nobody follows up the one that was first.
#[test]
fn a_reset_that_came_too_late_does_not_hold_up_the_next() {
    let (mut world, channel) = two_admins(63);
    world.liar = Some(Box::new(|device, up, frame| {
        let create = matches!(frame.body, Body::Request(Request::ChannelCreate { .. }));
        let late = create && up && device == BOB;
        if late || adds_nobody(device, up, &frame) { vec![] } else { vec![frame] }
    }));
    let late = begin(&mut world, BOB, channel);
    world.pass(Duration::from_millis(100));
    begin(&mut world, ALICE, channel);
    world.pass(Duration::from_secs(2));
    assert_eq!(resets(&world, BOB).len(), 1);
    world.crash(ALICE);
    world.liar = None;
    world.cut(BOB);
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
        honest(&mut world);
        assert!(matches!(world.outcome(ALICE, ticket), Outcome::Reset { generation: 2, .. }));
        world.until(|world| saw(world, BOB, |e| matches!(e, Event::Evicted { .. })));
        all_talk(&mut world, channel, &[ALICE, CAROL], 2);
    }
}

/// While the tree of the next generation is on its way, so many other groups are used that the one which is to say who may
/// follow it is put away.
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
