//! Direct channels: opened from either side, at the same moment, across crashes; and nobody else gets in.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::talk::{agree, code, fails, lie, lie_reply, said, saw};
use bytes::Bytes;
use qpc_protocol::client::event::{Event, Failed, Outcome};
use qpc_protocol::crypto::hybrid::EnvelopeSecrets;
use qpc_protocol::crypto::identity::{AccountKey, DeviceKey, DeviceRecord};
use qpc_protocol::crypto::portable;
use qpc_protocol::env::Entropy;
use qpc_protocol::error::{ErrorCode, Refused};
use qpc_protocol::id::{AccountId, ChannelId, DeviceId, GroupId, MessageId};
use qpc_protocol::mls::Context;
use qpc_protocol::mls::data::GroupData;
use qpc_protocol::mls::group::{Group, LocalDevice, NewGroup, Plan};
use qpc_protocol::mls::public::PublicState;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::server::op::{AccountRow, Commit, Member, StoreOp, StoreReply};
use qpc_protocol::wire::message::{Body, ChannelKind, Part, Reply, Request, Username};
use qpc_sim::world::{Rules, World};

const ALICE: usize = 0;
const BOB: usize = 1;

fn two(rules: Rules) -> World {
    let mut world = World::new(rules);
    world.register("alice");
    world.register("bob");
    world
}

fn account(world: &mut World, device: usize) -> AccountId {
    world.client(device).whoami().unwrap().1.account
}

fn open(world: &mut World, device: usize, name: &str) -> ChannelId {
    match world.done(device, |client, now| client.open_direct(now, name)) {
        Outcome::Group(channel) => channel,
        other => panic!("{other:?}"),
    }
}

fn between(world: &mut World, one: usize, other: usize) -> ChannelId {
    ChannelId::direct(account(world, one), account(world, other))
}

/// Nothing went wrong that an application would hear of.
fn quiet(world: &World, devices: &[usize]) {
    for device in devices {
        let trouble = saw(world, *device, |event| {
            matches!(
                event,
                Event::Failed(..)
                    | Event::Unreadable { .. }
                    | Event::ForkDetected { .. }
                    | Event::ForkSuspected { .. }
                    | Event::ServerFault { .. }
                    | Event::Gap { .. }
            )
        });
        assert!(!trouble, "device {device}: {:?}", world.devices[*device].log);
    }
}

/// Both are in the one channel and talk, each reading what the other says once.
fn talk(world: &mut World) {
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
    quiet(&world, &[ALICE, BOB]);
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
    quiet(&world, &all);
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
    quiet(&world, &[ALICE, BOB, phone]);
}

// ---- two creators of one channel --------------------------------------------------------------

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
        quiet(&world, &[ALICE, BOB]);
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
            quiet(&world, &[ALICE, BOB]);
        }
        assert!(reached > 4, "only {reached} steps were crashed at");
    }
}

#[test]
fn regression_18_both_creators_crash() {
    for at in 0..8 {
        let mut world = two(Rules::new(1_900 + at));
        both_open(&mut world);
        world.devices[ALICE].crash_in = Some(at % 3 + 1);
        world.devices[BOB].crash_in = Some(at / 3 + 1);
        until_open(&mut world);
        world.settle();
        for device in [ALICE, BOB] {
            world.devices[device].crash_in = None;
        }
        talk(&mut world);
        quiet(&world, &[ALICE, BOB]);
    }
}

#[test]
fn a_founder_that_is_away_before_it_invites_goes_on_when_it_is_back() {
    let mut world = two(Rules::new(4));
    // Alice founds it; then her connection breaks, and stays so.
    let founded = Rc::new(RefCell::new(false));
    let seen = founded.clone();
    lie(&mut world, ALICE, true, move |frame| {
        let claims = matches!(frame.body, Body::Request(Request::KeyPackageFetch { .. }));
        *seen.borrow_mut() |= claims;
        if claims { vec![] } else { vec![frame] }
    });
    world.command(ALICE, |client, now| client.open_direct(now, "bob"));
    world.pass(Duration::from_secs(5));
    assert!(*founded.borrow());
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
    quiet(&world, &[ALICE, BOB]);
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
    quiet(&world, &[ALICE, BOB]);
}

#[test]
fn a_channel_is_unknown_until_it_is_open() {
    let mut world = two(Rules::new(6));
    let channel = between(&mut world, ALICE, BOB);
    let ticket = world.command(ALICE, |client, now| client.open_direct(now, "bob"));
    for _ in 0..2 {
        let now = world.now;
        let client = world.client(ALICE);
        assert_eq!(client.send(now, channel, b"too early"), Err(Refused::UnknownChannel));
        assert_eq!(client.leave(now, channel), Err(Refused::UnknownChannel));
        assert_eq!(client.members(now, channel), Err(Refused::UnknownChannel));
        // Founded, but bob's packages do not come.
        lie(&mut world, ALICE, true, |frame| {
            let claims = matches!(frame.body, Body::Request(Request::KeyPackageFetch { .. }));
            if claims { vec![] } else { vec![frame] }
        });
        world.pass(Duration::from_secs(5));
    }
    world.liar = None;
    world.cut(ALICE);
    assert_eq!(world.outcome(ALICE, ticket), Outcome::Group(channel));
    talk(&mut world);
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
    lie_reply(&mut world, ALICE, |reply| {
        if let Reply::ClaimedKeyPackages(claimed) = reply {
            claimed.iter_mut().for_each(|claimed| claimed.package = None);
        }
    });
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

// ---- a server that helps a stranger ------------------------------------------------------------

/// A stranger founds a channel of any id, with the server's help, and adds a device to it. Its account.
fn welcome_from_a_stranger(
    world: &mut World,
    victim: usize,
    id: impl FnOnce(AccountId) -> ChannelId,
) -> ChannelId {
    let (backend, wall) = (portable(), world.now.wall);
    let mut entropy = Entropy::from_seed([66; 32]);
    let account = AccountKey::generate(backend, &mut entropy);
    let key = DeviceKey::generate(backend, &mut entropy);
    let device = DeviceId([6; 16]);
    let record = DeviceRecord::sign(backend, &account, device, key.public(), 1, wall);
    let sender = record.sender();
    let envelope_keys =
        EnvelopeSecrets::generate(&mut entropy).publish(backend, &key, sender, 1, wall);
    let channel = id(sender.account);
    let local = LocalDevice { key, record: record.clone() };
    let admins = vec![sender.account];
    let data =
        GroupData { version: 1, admins, open: false, metadata: qpc_protocol::id::Digest([0; 32]) };
    let new = NewGroup { id: GroupId::of(channel, 1), suite: Suite::Hybrid, data };
    let mut entropy = Entropy::from_seed([67; 32]);
    let cx = Context { backend, entropy: &mut entropy, wall };
    let (mut group, founding) = Group::create(cx, &local, &new).unwrap();
    let member = Member { sender, device_key: record.device_key };
    let (info, tree) = (&founding.group_info, &founding.tree);
    let mut state = PublicState::create(backend, new.id, &member, info, tree).unwrap();

    let victims = world.client(victim).whoami().unwrap().1.account;
    let row = AccountRow {
        username: Username::prepare("stranger").unwrap(),
        account: sender.account,
        opaque_record: Bytes::from_static(b"a record"),
        sealed_account_key: Bytes::from_static(b"a key"),
        created: wall,
    };
    let claim = StoreOp::ClaimKeyPackages {
        account: victims,
        suite: Suite::Hybrid,
        device: None,
        at: wall,
    };
    let replies = world.store.apply(&[
        StoreOp::CreateAccount(row),
        StoreOp::PutDevice { record, envelope_keys, most: 1, at: wall, expires: wall },
        StoreOp::CreateChannel {
            channel,
            kind: ChannelKind::Direct,
            generation: 1,
            creator: sender,
            with: None,
            group: state.take_ops(),
            group_info: founding.group_info.clone().into(),
            at: wall,
        },
        claim,
    ]);
    let [StoreReply::Done, StoreReply::Told { .. }, StoreReply::Done, StoreReply::Claimed(claimed)] =
        replies.as_slice()
    else {
        panic!("{replies:?}")
    };
    let adds = claimed.iter().map(|claimed| claimed.package.clone().unwrap().to_vec()).collect();
    let cx = Context { backend, entropy: &mut entropy, wall };
    let bundle = group.commit(cx, &local, &Plan { adds, ..Plan::default() }).unwrap();
    let welcome = bundle.welcome.as_deref();
    let checked = state.commit(sender, &bundle.commit, welcome, &bundle.group_info).unwrap();
    let commit = Commit {
        channel,
        generation: 1,
        epoch: 0,
        sender,
        message: MessageId([1; 16]),
        hash: qpc_protocol::id::Digest([1; 32]),
        commit: Part::Inline(bundle.commit.into()),
        welcomes: checked.welcomes,
        group_info: bundle.group_info.into(),
        tree: checked.tree.map(Bytes::from),
        group: state.take_ops(),
        adds: checked.adds,
        removes: Vec::new(),
        updates: Vec::new(),
        at: wall,
        expires: wall.plus(Duration::from_secs(86_400)),
    };
    let replies = world.store.apply(&[StoreOp::Commit(commit)]);
    assert!(matches!(replies.as_slice(), [StoreReply::Appended { .. }]), "{replies:?}");
    world.cut(victim);
    world.until(|world| {
        let member = world.groups(victim).iter().any(|group| group.channel == channel);
        member || saw(world, victim, |event| matches!(event, Event::Unreadable { .. }))
    });
    channel
}

#[test]
fn a_welcome_to_the_channel_of_others_is_not_joined() {
    let mut world = two(Rules::new(12));
    let channel = between(&mut world, ALICE, BOB);
    let carol = world.register("carol");
    // Not as a third in the channel of two.
    welcome_from_a_stranger(&mut world, carol, |_| channel);
    assert!(world.groups(carol).is_empty());
    assert!(!saw(&world, carol, |event| matches!(event, Event::Joined { .. })));
}

#[test]
fn a_welcome_to_the_channel_with_another_is_not_joined() {
    let mut world = two(Rules::new(13));
    let channel = between(&mut world, ALICE, BOB);
    // Bob is to take the stranger for alice.
    welcome_from_a_stranger(&mut world, BOB, |_| channel);
    assert!(world.groups(BOB).is_empty());
    assert!(!saw(&world, BOB, |event| matches!(event, Event::Joined { .. })));
}

#[test]
fn a_welcome_to_the_channel_with_its_sender_is_joined() {
    let mut world = two(Rules::new(14));
    let bobs = account(&mut world, BOB);
    let channel =
        welcome_from_a_stranger(&mut world, BOB, |theirs| ChannelId::direct(bobs, theirs));
    assert_eq!(world.group(BOB, channel).kind, ChannelKind::Direct);
    assert_eq!(world.group(BOB, channel).name, None, "nobody said what it is called");
}
