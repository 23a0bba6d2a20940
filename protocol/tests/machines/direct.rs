//! Direct channels: opened from either side, and nobody else gets in.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crate::stranger::Stranger;
use crate::talk::*;
use qpc_protocol::client::event::{Event, Failed, Outcome};
use qpc_protocol::error::{ErrorCode, Refused};
use qpc_protocol::id::{AccountId, ChannelId};
use qpc_protocol::limits::KEEP_ALIVE;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::server::op::{StoreOp, StoreReply};
use qpc_protocol::wire::message::{Body, ChannelKind, Reply, Request};
use qpc_sim::world::{Rules, World};

pub(crate) fn two(rules: Rules) -> World {
    let mut world = World::new(rules);
    world.register("alice");
    world.register("bob");
    world
}

pub(crate) fn open(world: &mut World, device: usize, name: &str) -> ChannelId {
    match world.done(device, |client, now| client.open_direct(now, name)) {
        Outcome::Group(channel) => channel,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn between(world: &mut World, one: usize, other: usize) -> ChannelId {
    ChannelId::direct(account(world, one), account(world, other))
}

/// Both are in the one channel and talk, each reading what the other says once.
pub(crate) fn talk(world: &mut World) {
    let channel = between(world, ALICE, BOB);
    world.settle();
    agree(world, channel, &[ALICE, BOB]);
    said(world, ALICE, channel, "from alice");
    said(world, BOB, channel, "from bob");
    world.settle();
    assert_eq!(world.bodies(ALICE), ["from bob"]);
    assert_eq!(world.bodies(BOB), ["from alice"]);
    for (device, name) in [(ALICE, "bob"), (BOB, "alice")] {
        assert_eq!(world.groups(device).len(), 1);
        let group = world.group(device, channel);
        assert_eq!((group.kind, group.members), (ChannelKind::Direct, 2));
        assert_eq!(group.name.as_deref(), Some(name));
    }
}

#[test]
fn two_people_open_a_channel_and_talk_both_ways() {
    let mut world = two(Rules::new(1));
    let channel = open(&mut world, ALICE, "bob");
    assert_eq!(channel, between(&mut world, ALICE, BOB));
    talk(&mut world);
    assert_eq!(world.group(ALICE, channel).suite, Suite::Hybrid);
    // Who asks again, from either side, is answered by what is there: no commit, no key package.
    assert_eq!(open(&mut world, ALICE, "bob"), channel);
    assert_eq!(open(&mut world, BOB, "ALICE"), channel);
    assert_eq!(world.group(BOB, channel).epoch, 1);
    world.crash(BOB);
    world.start(BOB);
    assert_eq!(open(&mut world, BOB, "alice"), channel);
    world.settle();
    undisturbed(&world, &[ALICE, BOB]);
}

#[test]
fn all_devices_of_both_accounts_are_in_it_from_the_first_commit_on() {
    let mut world = two(Rules::new(2).one_link());
    let (phone, tablet) = (world.login("alice"), world.login("bob"));
    let all = [ALICE, BOB, phone, tablet];
    let channel = open(&mut world, ALICE, "bob");
    world.settle();
    agree(&world, channel, &all);
    assert_eq!(world.group(tablet, channel).epoch, 1);
    for device in all {
        said(&mut world, device, channel, &format!("from {device}"));
    }
    world.settle();
    for device in all {
        let others = all.iter().filter(|other| **other != device);
        let expected: Vec<_> = others.map(|other| format!("from {other}")).collect();
        assert_eq!(world.bodies(device), expected);
        let name = if [ALICE, phone].contains(&device) { "bob" } else { "alice" };
        assert_eq!(world.group(device, channel).name.as_deref(), Some(name));
    }
    // The account's other device finds the channel open.
    assert_eq!(open(&mut world, phone, "bob"), channel);
    undisturbed(&world, &all);
}

#[test]
fn two_devices_of_one_account_open_it_at_once() {
    let mut world = two(Rules::new(3));
    let phone = world.login("alice");
    let one = world.command(ALICE, |client, now| client.open_direct(now, "bob"));
    let other = world.command(phone, |client, now| client.open_direct(now, "bob"));
    let again = world.command(phone, |client, now| client.open_direct(now, "bob"));
    let channel = between(&mut world, ALICE, BOB);
    for (device, ticket) in [(ALICE, one), (phone, other), (phone, again)] {
        assert_eq!(world.outcome(device, ticket), Outcome::Group(channel));
    }
    world.settle();
    agree(&world, channel, &[ALICE, BOB, phone]);
    assert_eq!(world.group(BOB, channel).epoch, 1);
    undisturbed(&world, &[ALICE, BOB, phone]);
}

#[test]
fn a_channel_is_unknown_until_it_is_open() {
    let mut world = two(Rules::new(6));
    let channel = between(&mut world, ALICE, BOB);
    let ticket = world.command(ALICE, |client, now| client.open_direct(now, "bob"));
    let mut asked = 0;
    for _ in 0..2 {
        let now = world.now;
        let client = world.client(ALICE);
        assert_eq!(client.send(now, channel, b"too early"), Err(Refused::UnknownChannel));
        assert_eq!(client.leave(now, channel), Err(Refused::UnknownChannel));
        assert_eq!(client.members(now, channel), Err(Refused::UnknownChannel));
        // Founded, but bob's packages do not come.
        let claims = hold_back_claims(&mut world, ALICE);
        world.pass(Duration::from_secs(5));
        asked += claims.get();
    }
    assert!(asked > 0);
    honest(&mut world, &[ALICE]);
    assert_eq!(world.outcome(ALICE, ticket), Outcome::Group(channel));
    talk(&mut world);
}

/// The other's welcome came after the wish and before the key packages, and its tree is slow.
#[test]
fn a_channel_is_not_founded_while_its_welcome_is_on_its_way() {
    let mut world = two(Rules::new(8));
    let (mut held, founded) = (Vec::new(), Rc::new(Cell::new(0)));
    let counts = founded.clone();
    lie_both_ways(&mut world, BOB, move |_, frame| {
        match &frame.body {
            Body::Request(Request::BlobGet { .. }) => return vec![],
            Body::Request(Request::ChannelCreate { .. }) => counts.set(counts.get() + 1),
            Body::Reply(Reply::ClaimedKeyPackages(_)) => {
                held.push(frame);
                return vec![];
            }
            // Later than the welcome.
            Body::Reply(Reply::Pong(_)) => {
                return [vec![frame], core::mem::take(&mut held)].concat();
            }
            _ => {}
        }
        vec![frame]
    });
    let opened = world.command(BOB, |client, now| client.open_direct(now, "alice"));
    world.pass(Duration::from_secs(1));
    let channel = open(&mut world, ALICE, "bob");
    world.pass(KEEP_ALIVE + Duration::from_secs(1));
    assert_eq!(founded.get(), 0, "its welcome is here");
    honest(&mut world, &[BOB]);
    assert_eq!(world.outcome(BOB, opened), Outcome::Group(channel));
    talk(&mut world);
    undisturbed(&world, &[ALICE, BOB]);
}

// ---- what is refused ---------------------------------------------------------------------------

#[test]
fn names_that_lead_nowhere_or_elsewhere_open_nothing() {
    let mut world = two(Rules::new(7));
    let mallory = world.register("mallory");
    let now = world.now;
    let own = world.client(ALICE).open_direct(now, "Alice");
    assert!(matches!(own, Err(Refused::Invalid(_))), "{own:?}");
    let bad = world.client(ALICE).open_direct(now, "");
    assert!(matches!(bad, Err(Refused::Invalid(_))), "{bad:?}");
    let unknown = fails(&mut world, ALICE, |client, now| client.open_direct(now, "nobody"));
    assert_eq!(code(&unknown), ErrorCode::AccountUnknown);
    // The name was bob's account's; the server says now that it is another's, or alice's own.
    world.done(ALICE, |client, now| client.lookup(now, "bob"));
    let accounts = [mallory, ALICE].map(|device| account(&mut world, device));
    for (other, has_moved) in accounts.into_iter().zip([true, false]) {
        lie_reply(&mut world, ALICE, move |reply| {
            if let Reply::Account { account, .. } = reply {
                *account = other;
            }
        });
        let failed = fails(&mut world, ALICE, |client, now| client.open_direct(now, "bob"));
        let moved = match &failed {
            Failed::NameChanged(_) => true,
            Failed::Untrusted(_) => false,
            _ => panic!("{failed:?}"),
        };
        assert_eq!(moved, has_moved);
        world.liar = None;
        let _ = world.command(ALICE, |client, now| client.lookup(now, "bob"));
        world.settle();
    }
    assert!(saw(&world, ALICE, |event| matches!(event, Event::AccountChanged { .. })));
    assert!(world.groups(ALICE).is_empty());
    open(&mut world, ALICE, "bob");
    talk(&mut world);
}

#[test]
fn an_account_without_key_packages_can_be_asked_again() {
    let mut world = two(Rules::new(8));
    hide_packages(&mut world, ALICE, None);
    let failed = fails(&mut world, ALICE, |client, now| client.open_direct(now, "bob"));
    assert!(matches!(failed, Failed::NotAdded { .. }), "{failed:?}");
    world.settle();
    assert!(world.groups(ALICE).is_empty(), "it is founded and not open");
    world.liar = None;
    world.crash(ALICE);
    world.start(ALICE);
    open(&mut world, ALICE, "bob");
    talk(&mut world);
}

#[test]
fn an_account_that_is_deleted_meanwhile_ends_the_wish() {
    let mut world = two(Rules::new(9));
    let account = account(&mut world, BOB);
    let at = world.now.wall;
    let gone = StoreOp::DeleteAccount { account, at };
    let ticket = world.command(ALICE, |client, now| client.open_direct(now, "bob"));
    let founding = Rc::new(RefCell::new(false));
    let seen = founding.clone();
    lie(&mut world, ALICE, true, move |frame| {
        *seen.borrow_mut() |= matches!(frame.body, Body::Request(Request::ChannelCreate { .. }));
        if *seen.borrow() { vec![] } else { vec![frame] }
    });
    world.pass(Duration::from_secs(5));
    // The name was looked up; the founding comes too late.
    assert!(*founding.borrow());
    world.liar = None;
    assert_eq!(world.store.apply(&[gone]), [StoreReply::Done]);
    world.cut(ALICE);
    assert_eq!(code(&world.failure(ALICE, ticket)), ErrorCode::AccountUnknown);
    world.run();
    assert!(world.groups(ALICE).is_empty());
    assert_eq!(world.client(ALICE).pending(), 0);
}

#[test]
fn a_third_is_not_invited_and_the_other_not_put_out() {
    let mut world = two(Rules::new(10));
    world.register("carol");
    let channel = open(&mut world, ALICE, "bob");
    talk(&mut world);
    let bobs = account(&mut world, BOB);
    let now = world.now;
    for name in ["carol", "bob"] {
        let refused = world.client(ALICE).invite(now, channel, name);
        assert!(matches!(refused, Err(Refused::Invalid(_))), "{refused:?}");
    }
    let refused = world.client(ALICE).remove(now, channel, bobs);
    assert!(matches!(refused, Err(Refused::Invalid(_))), "{refused:?}");
    assert_eq!(world.group(ALICE, channel).members, 2);
}

#[test]
fn who_left_is_taken_in_again_by_the_other() {
    let mut world = two(Rules::new(11));
    let channel = open(&mut world, ALICE, "bob");
    talk(&mut world);
    world.done(BOB, |client, now| client.leave(now, channel));
    world.until(|world| saw(world, BOB, |event| matches!(event, Event::Evicted { .. })));
    world.settle();
    let failed = fails(&mut world, BOB, |client, now| client.open_direct(now, "alice"));
    assert!(matches!(failed, Failed::Obsolete(_)), "{failed:?}");
    assert_eq!(open(&mut world, ALICE, "bob"), channel);
    world.settle();
    agree(&world, channel, &[ALICE, BOB]);
    said(&mut world, BOB, channel, "back");
    world.settle();
    assert_eq!(world.bodies(ALICE), ["from bob", "back"]);
}

/// The only device of bob's that could be added never comes back; whoever opened the channel adds the other one.
#[test]
fn who_could_not_be_added_is_once_it_has_a_key_package() {
    let mut world = two(Rules::new(13));
    let tablet = world.login("bob");
    let bob = me(&mut world, BOB);
    world.crash(tablet);
    hide_packages(&mut world, ALICE, Some(bob.device));
    let channel = open(&mut world, ALICE, "bob");
    let named = |event: &Event| matches!(event, Event::NotAdded { device, .. } if *device == bob);
    assert_eq!(world.devices[ALICE].log.iter().filter(|event| named(event)).count(), 1);
    world.liar = None;
    assert_eq!(open(&mut world, BOB, "alice"), channel);
    world.settle();
    agree(&world, channel, &[ALICE, BOB]);
    assert_eq!(world.group(ALICE, channel).members, 3);
    assert_eq!(world.devices[ALICE].log.iter().filter(|event| named(event)).count(), 1);
    assert_eq!(world.client(ALICE).pending(), 0);
}

// ---- a server that helps a stranger ------------------------------------------------------------

/// A stranger founds a channel of any id, with the server's help, and adds a device to it; the admins are `both`
/// accounts, or the stranger's alone.
fn welcome_from_a_stranger(
    world: &mut World,
    victim: usize,
    id: impl FnOnce(AccountId) -> ChannelId,
    both: bool,
) -> ChannelId {
    let with = account(world, victim);
    let mut stranger = Stranger::new(world);
    stranger.alone = !both;
    let channel = id(stranger.sender.account);
    stranger.begin(world, channel, with, 1, Suite::Hybrid);
    world.cut(victim);
    world.until(|world| {
        let member = world.groups(victim).iter().any(|group| group.channel == channel);
        member || saw(world, victim, unreadable)
    });
    channel
}

#[test]
fn a_welcome_to_the_channel_of_others_is_not_joined() {
    let mut world = two(Rules::new(12));
    let channel = between(&mut world, ALICE, BOB);
    let carol = world.register("carol");
    // Not as a third in the channel of two.
    welcome_from_a_stranger(&mut world, carol, |_| channel, true);
    assert!(world.groups(carol).is_empty());
    assert!(!saw(&world, carol, |event| matches!(event, Event::Joined { .. })));
}

#[test]
fn a_welcome_to_the_channel_with_another_is_not_joined() {
    let mut world = two(Rules::new(13));
    let channel = between(&mut world, ALICE, BOB);
    // Bob is to take the stranger for alice.
    welcome_from_a_stranger(&mut world, BOB, |_| channel, true);
    assert!(world.groups(BOB).is_empty());
    assert!(!saw(&world, BOB, |event| matches!(event, Event::Joined { .. })));
}

#[test]
fn a_welcome_to_the_channel_with_its_sender_is_joined() {
    let mut world = two(Rules::new(14));
    let bobs = account(&mut world, BOB);
    let between = |theirs| ChannelId::direct(bobs, theirs);
    let channel = welcome_from_a_stranger(&mut world, BOB, between, true);
    assert_eq!(world.group(BOB, channel).kind, ChannelKind::Direct);
    assert_eq!(world.group(BOB, channel).name, None, "nobody said what it is called");
}

#[test]
fn a_welcome_to_a_direct_channel_that_one_of_the_two_rules_is_not_joined() {
    let mut world = two(Rules::new(15));
    let bobs = account(&mut world, BOB);
    let between = |theirs| ChannelId::direct(bobs, theirs);
    welcome_from_a_stranger(&mut world, BOB, between, false);
    assert!(world.groups(BOB).is_empty());
    let told =
        |e: &Event| matches!(e, Event::Unreadable { why, .. } if why.contains("two accounts"));
    assert!(saw(&world, BOB, told), "{:?}", world.devices[BOB].log);
}

#[test]
fn a_welcome_to_a_direct_channel_with_a_third_in_it_is_not_joined() {
    let mut world = two(Rules::new(17));
    let (alice, bob) = (account(&mut world, ALICE), account(&mut world, BOB));
    let mut stranger = Stranger::new(&mut world);
    stranger.third = Some(alice);
    let channel = ChannelId::direct(bob, stranger.sender.account);
    stranger.begin(&mut world, channel, bob, 1, Suite::Hybrid);
    for device in [ALICE, BOB] {
        world.cut(device);
        world.until(|world| saw(world, device, unreadable));
        assert!(world.groups(device).is_empty());
    }
}

/// Nor does the other account get so far by a commit that the server takes, and then shows as the state to come back
/// to.
#[test]
fn a_direct_channel_that_one_of_the_two_rules_is_not_come_back_to() {
    let mut world = two(Rules::new(16));
    let bobs = account(&mut world, BOB);
    let mut stranger = Stranger::new(&mut world);
    let channel = ChannelId::direct(bobs, stranger.sender.account);
    stranger.begin(&mut world, channel, bobs, 1, Suite::Hybrid);
    world.cut(BOB);
    world.settle();
    let before = world.group(BOB, channel).epoch;
    stranger.rule_alone(&mut world);
    world.cut(BOB);
    world.settle();
    assert!(saw(&world, BOB, unreadable), "{:?}", world.devices[BOB].log);
    world.devices[BOB].log.clear();
    let ticket = world.command(BOB, |client, now| client.rejoin(now, channel));
    world.pass(Duration::from_secs(30));
    let told =
        |e: &Event| matches!(e, Event::Unreadable { why, .. } if why.contains("two accounts"));
    assert!(saw(&world, BOB, told), "{:?}", world.devices[BOB].log);
    assert!(rejoins(&world, BOB).is_empty() && !is_done(&world, BOB, ticket));
    assert_eq!(world.group(BOB, channel).epoch, before);
}

// ---- across resets and returns ----------------------------------------------------------------

/// Alice cannot be added to the next generation at once; bob's other devices know whose channel it is all the same, and
/// one that was not there before learns it as soon as she is in, even if it missed how.
#[test]
fn a_channel_stays_open_over_a_reset_that_leaves_the_other_out_for_now() {
    let mut world = two(Rules::new(20));
    let tablet = world.login("bob");
    let channel = open(&mut world, BOB, "alice");
    world.settle();
    let alice = me(&mut world, ALICE).device;
    hide_packages(&mut world, BOB, Some(alice));
    let reset = world.done(BOB, |client, now| client.reset(now, channel, None));
    assert!(matches!(reset, Outcome::Reset { generation: 2, .. }));
    world.until(|world| saw(world, tablet, |e| matches!(e, Event::Reset { .. })));
    world.settle();
    for device in [BOB, tablet] {
        let known = world.groups(device).into_iter().find(|group| group.channel == channel);
        let known = known.unwrap_or_else(|| panic!("device {device} does not know it"));
        assert_eq!((known.generation, known.members, known.member), (2, 2, true));
        assert_eq!(known.name.as_deref(), Some("alice"), "device {device}");
    }
    let phone = world.login("bob");
    world.pass(Duration::from_secs(10));
    assert!(world.groups(phone).is_empty(), "nobody else was ever in it there");
    world.crash(phone);
    world.liar = None;
    assert_eq!(open(&mut world, BOB, "alice"), channel);
    world.settle();
    damage(&mut world, phone);
    world.start(phone);
    world.until(|world| saw(world, phone, |e| matches!(e, Event::Rejoined { .. })));
    assert_eq!(world.group(phone, channel).members, 4);
}

#[test]
fn who_opens_a_channel_that_it_has_fallen_out_of_is_done_when_it_is_back() {
    let mut world = two(Rules::new(21));
    let channel = open(&mut world, ALICE, "bob");
    world.settle();
    world.crash(BOB);
    damage(&mut world, BOB);
    lie(&mut world, BOB, true, |frame| match &frame.body {
        Body::Request(Request::GroupInfoFetch { .. }) => vec![],
        _ => vec![frame],
    });
    world.start(BOB);
    let opened = world.command(BOB, |client, now| client.open_direct(now, "alice"));
    world.pass(Duration::from_secs(1));
    assert!(saw(&world, BOB, |e| matches!(e, Event::FellOut { .. })));
    honest(&mut world, &[BOB]);
    assert_eq!(world.outcome(BOB, opened), Outcome::Group(channel));
    talk(&mut world);
}
