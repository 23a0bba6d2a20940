//! Several devices of an account, under a clock that moves.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use crate::packages::packages;
use crate::talk::*;
use qpc_protocol::client::event::{Event, Outcome};
use qpc_protocol::crypto::identity::{AccountKey, DeviceRecord, Revocation};
use qpc_protocol::crypto::portable;
use qpc_protocol::env::Entropy;
use qpc_protocol::id::{ChannelId, DeviceId, MessageId};
use qpc_protocol::limits::KEY_PACKAGES_WANTED;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{Body, Entry, EntryKind, Part, Push, Reply, Request};
use qpc_sim::world::{Rules, World};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// Goes on until a device is in a group as that many see it.
pub(crate) fn admitted(world: &mut World, device: usize, channel: ChannelId) {
    world.until(|world| world.groups(device).iter().any(|group| group.channel == channel));
    world.settle();
}

/// Revokes a device, which hears of it, if it is on, and is switched off.
fn revoke(world: &mut World, by: usize, gone: usize) {
    let device = me(world, gone).device;
    let done = world.done(by, |client, now| client.revoke(now, device));
    assert_eq!(done, Outcome::Done);
    assert!(saw(world, gone, |event| matches!(event, Event::SessionEnded(_))));
    world.crash(gone);
}

/// An entry for a device's inbox, as a server could make it up; it takes the seq after those there.
/// Whether it was shown.
fn slip(world: &mut World, at: usize, kind: EntryKind, payload: Vec<u8>) -> Rc<Cell<bool>> {
    let to = me(world, at);
    let inbox = ChannelId::inbox(to);
    let mut waiting = Some(payload);
    let shown = Rc::new(Cell::new(false));
    let slipped = shown.clone();
    lie_entries_of(world, at, inbox, move |entries| {
        let Some(last) = entries.last().cloned() else { return };
        let Some(payload) = waiting.take() else { return };
        slipped.set(true);
        entries.push(Entry {
            seq: last.seq + 1,
            kind,
            message: MessageId([9; 16]),
            origin: None,
            payload: Part::Inline(payload.into()),
            ..last
        });
    });
    shown
}

// ---- coming -----------------------------------------------------------------------------------

#[test]
fn a_device_that_joins_an_account_is_added_to_its_groups_unasked() {
    let mut world = World::new(Rules::new(1));
    let alice = world.register("alice");
    let bob = world.register("bob");
    let one = group_of(&mut world, alice, &["bob"]);
    let two = group_of(&mut world, bob, &["alice"]);
    let phone = world.login("alice");
    admitted(&mut world, phone, one);
    admitted(&mut world, phone, two);
    for channel in [one, two] {
        agree(&world, channel, &[alice, bob, phone]);
        assert_eq!(world.group(phone, channel).members, 3);
    }
    // It was told what they are called, like anybody who joins.
    world.until(|world| world.group(phone, two).name.as_deref() == Some("planted name"));
    let record = |event: &Event| matches!(event, Event::DeviceAdded { .. });
    assert!(saw(&world, alice, record));
    assert!(!saw(&world, phone, record));
    assert!(!saw(&world, bob, record));

    // Messages reach all devices, own ones appear on the sender's others.
    said(&mut world, phone, one, "from the phone");
    said(&mut world, alice, one, "from the laptop");
    said(&mut world, bob, one, "from bob");
    world.settle();
    assert_eq!(world.bodies(alice), ["from the phone", "from bob"]);
    assert_eq!(world.bodies(phone), ["from the laptop", "from bob"]);
    assert_eq!(world.bodies(bob), ["from the phone", "from the laptop"]);
    undisturbed(&world, &[alice, bob, phone]);
}

#[test]
fn a_group_that_is_new_gets_all_devices_and_an_invitation_adds_three_at_once() {
    let mut world = World::new(Rules::new(2));
    let alice = world.register("alice");
    let phone = world.login("alice");
    let bob = world.register("bob");
    let others = [world.login("bob"), world.login("bob")];
    let channel = group_of(&mut world, phone, &[]);
    admitted(&mut world, alice, channel);
    let before = world.group(alice, channel).epoch;
    world.done(alice, |client, now| client.invite(now, channel, "bob"));
    world.settle();
    let all = [alice, phone, bob, others[0], others[1]];
    agree(&world, channel, &all);
    assert_eq!(world.group(alice, channel).epoch, before + 1);
    assert_eq!(world.group(alice, channel).members, 5);
    said(&mut world, others[1], channel, "hello");
    world.settle();
    for device in [alice, phone, bob, others[0]] {
        assert_eq!(world.bodies(device), ["hello"]);
    }
    undisturbed(&world, &all);
}

#[test]
fn siblings_take_turns_and_waste_no_key_package() {
    let mut world = World::new(Rules::new(3));
    let first = world.register("alice");
    let siblings = [world.login("alice"), world.login("alice")];
    let channel = group_of(&mut world, first, &[]);
    for sibling in siblings {
        admitted(&mut world, sibling, channel);
    }
    let before = world.group(first, channel).epoch;
    let late = world.login("alice");
    admitted(&mut world, late, channel);
    assert_eq!(world.group(first, channel).epoch, before + 1);
    agree(&world, channel, &[first, siblings[0], siblings[1], late]);
    assert_eq!(packages(&mut world, late), (KEY_PACKAGES_WANTED as u32 - 1, true));

    // They hear of each other's going too, whoever says so, and one of them acts on it.
    revoke(&mut world, siblings[0], late);
    world.until(|world| world.group(first, channel).members == 3);
    world.settle();
    assert_eq!(world.group(first, channel).epoch, before + 2);
    let revoked = |event: &Event| matches!(event, Event::DeviceRevoked { .. });
    assert!(saw(&world, first, revoked) && saw(&world, siblings[1], revoked));
    assert!(!saw(&world, siblings[0], revoked));
}

#[test]
fn siblings_that_were_off_learn_of_a_device_later_even_when_the_inbox_lost_it() {
    let mut world = World::new(Rules::new(4));
    let alice = world.register("alice");
    let channel = group_of(&mut world, alice, &[]);
    world.crash(alice);
    let phone = world.login("alice");
    // Longer than entries are kept.
    for _ in 0..9 {
        world.pass(24 * HOUR);
    }
    world.start(alice);
    world.until(|world| world.groups(phone).iter().any(|group| group.channel == channel));
    world.settle();
    agree(&world, channel, &[alice, phone]);
    assert!(saw(&world, alice, |event| matches!(event, Event::DeviceAdded { .. })));
}

#[test]
fn a_wish_to_add_a_device_survives_a_crash_at_every_step() {
    for at in 0.. {
        let mut world = World::new(Rules::new(500 + at));
        let alice = world.register("alice");
        let channel = group_of(&mut world, alice, &[]);
        world.settle();
        let epoch = world.group(alice, channel).epoch;
        world.devices[alice].crash_in = Some(at);
        let phone = world.login("alice");
        world.pass(Duration::from_secs(30));
        if world.devices[alice].client.is_some() {
            // It was through before.
            assert!(at > 3, "only {at} steps were crashed at");
            agree(&world, channel, &[alice, phone]);
            return;
        }
        world.start(alice);
        world.pass(Duration::from_secs(30));
        restart(&mut world, alice);
        world.pass(Duration::from_secs(30));
        agree(&world, channel, &[alice, phone]);
        let group = world.group(phone, channel);
        assert_eq!((group.members, group.epoch), (2, epoch + 1), "crash at {at}");
        undisturbed(&world, &[alice, phone]);
    }
}

#[test]
fn an_account_with_several_devices_is_removed_by_one_commit() {
    let (mut world, channel) = three(36);
    let tablets = [world.login("bob"), world.login("bob")];
    for tablet in tablets {
        admitted(&mut world, tablet, channel);
    }
    world.settle();
    let before = world.group(ALICE, channel);
    assert_eq!(before.members, 5);
    let bob = account(&mut world, BOB);
    world.done(ALICE, |client, now| client.remove(now, channel, bob));
    world.settle();
    let after = world.group(ALICE, channel);
    assert_eq!((after.epoch, after.members), (before.epoch + 1, 2));
    for device in [BOB, tablets[0], tablets[1]] {
        assert!(!world.group(device, channel).member);
    }
    agree(&world, channel, &[ALICE, CAROL]);
}

#[test]
fn a_device_that_the_server_invented_is_added_nowhere() {
    let mut world = World::new(Rules::new(6));
    let alice = world.register("alice");
    let channel = group_of(&mut world, alice, &[]);
    let other = AccountKey::generate(portable(), &mut Entropy::from_seed([1; 32]));
    let now = world.now.wall;
    let mut record = DeviceRecord::sign(portable(), &other, DeviceId([7; 16]), [8; 32], 1, now);
    record.account = account(&mut world, alice);
    let shown = slip(&mut world, alice, EntryKind::Device, record.encode());
    // Something real brings the lie along.
    let phone = world.login("alice");
    admitted(&mut world, phone, channel);
    assert!(shown.get());
    assert!(saw(&world, alice, unreadable));
    let added = |event: &Event| matches!(event, Event::DeviceAdded { record } if record.device == DeviceId([7; 16]));
    assert!(!saw(&world, alice, added));
    assert_eq!(members(&mut world, alice, channel).len(), 2);
    // Nor by the list that a new device asks for: what is not in the inbox any more.
    let mut forged = record;
    forged.device = DeviceId([6; 16]);
    let late = world.device();
    let shown = Rc::new(Cell::new(false));
    let listed = shown.clone();
    let claimed = Rc::new(RefCell::new(BTreeSet::new()));
    let claims = claimed.clone();
    world.liar = Some(Box::new(move |device, up, mut frame| {
        match &mut frame.body {
            Body::Reply(Reply::Devices(devices)) if device == late && !up => {
                let mut entry = devices[0].clone();
                entry.record = forged.clone();
                devices.push(entry);
                listed.set(true);
            }
            Body::Request(Request::KeyPackageFetch { device: of, .. }) if device == late && up => {
                claims.borrow_mut().extend(*of);
            }
            _ => {}
        }
        vec![frame]
    }));
    let password = "password of alice".to_owned();
    world.done(late, |client, now| client.login(now, "alice", password.into()));
    world.settle();
    assert!(shown.get() && saw(&world, late, unreadable));
    // Into a group of its own it asks its siblings, and nobody else.
    let own = found(&mut world, late, Suite::Classical);
    admitted(&mut world, alice, own);
    admitted(&mut world, phone, own);
    let siblings = [alice, phone].map(|device| me(&mut world, device).device);
    assert_eq!(*claimed.borrow(), BTreeSet::from(siblings));
    assert_eq!(world.group(late, own).members, 3);
}

// ---- going ------------------------------------------------------------------------------------

#[test]
fn a_revoked_device_is_removed_from_every_group_by_whoever_comes_first() {
    let mut world = World::new(Rules::new(7));
    let alice = world.register("alice");
    let bob = world.register("bob");
    let phone = world.login("bob");
    let carol = world.register("carol");
    let one = group_of(&mut world, alice, &["bob", "carol"]);
    let two = group_of(&mut world, alice, &["bob"]);
    let gone = me(&mut world, phone);
    let before = (world.group(alice, one).epoch, world.group(alice, two).epoch);
    revoke(&mut world, bob, phone);
    world.until(|world| {
        world.group(carol, one).epoch > before.0 && world.group(bob, two).epoch > before.1
    });
    world.settle();
    // One commit each, although everybody wanted to.
    assert_eq!(world.group(carol, one).epoch, before.0 + 1);
    assert_eq!(world.group(bob, two).epoch, before.1 + 1);
    for (channel, device) in [(one, alice), (one, carol), (two, bob)] {
        assert!(!members(&mut world, device, channel).contains(&gone));
    }
    agree(&world, one, &[alice, bob, carol]);
    assert!(!saw(&world, carol, |event| matches!(event, Event::DeviceRevoked { .. })));
    said(&mut world, carol, one, "without the phone");
    world.settle();
    assert!(world.bodies(phone).is_empty());
    undisturbed(&world, &[alice, bob, carol]);
}

#[test]
fn a_plain_member_alone_removes_a_revoked_device_of_another_account() {
    let mut world = World::new(Rules::new(8));
    let alice = world.register("alice");
    let bob = world.register("bob");
    let phone = world.login("bob");
    let carol = world.register("carol");
    let channel = group_of(&mut world, alice, &["bob", "carol"]);
    let gone = me(&mut world, phone);
    world.crash(alice);
    // The revoker gets no further than the revocation.
    revoke(&mut world, bob, phone);
    world.crash(bob);
    world.until(|world| world.group(carol, channel).members == 3);
    assert!(!members(&mut world, carol, channel).contains(&gone));
    // Who was away reads the same; who comes new needs no memory of it.
    world.start(alice);
    world.start(bob);
    world.settle();
    agree(&world, channel, &[alice, bob, carol]);
    undisturbed(&world, &[alice, bob, carol]);
}

#[test]
fn a_device_welcomed_after_the_revocation_accepts_the_removal() {
    let mut world = World::new(Rules::new(9));
    let alice = world.register("alice");
    let bob = world.register("bob");
    let phone = world.login("bob");
    let carol = world.register("carol");
    let dave = world.register("dave");
    let channel = group_of(&mut world, alice, &["bob", "carol"]);
    let gone = me(&mut world, phone);
    // Alice does not hear of it, nor of anything after it, and adds another.
    let mut deaf = false;
    lie(&mut world, alice, false, move |frame| {
        if let Body::Push(Push::Entries(entries)) = &frame.body
            && entries.channel == channel
        {
            deaf |= entries.entries.iter().any(|entry| entry.kind == EntryKind::Revocation);
            if deaf {
                return vec![];
            }
        }
        vec![frame]
    });
    for device in [bob, carol] {
        world.devices[device].connect = false;
        world.cut(device);
    }
    world.devices[bob].connect = true;
    revoke(&mut world, bob, phone);
    world.crash(bob);
    let invite = world.command(alice, |client, now| client.invite(now, channel, "dave"));
    world.until(|world| world.groups(dave).iter().any(|group| group.channel == channel));
    assert!(members(&mut world, dave, channel).contains(&gone), "dave comes before the removal");
    honest(&mut world, &[alice]);
    world.outcome(alice, invite);
    world.devices[carol].connect = true;
    world.start(bob);
    world.pass(Duration::from_secs(120));
    agree(&world, channel, &[alice, bob, carol, dave]);
    assert!(!members(&mut world, dave, channel).contains(&gone));
}

#[test]
fn a_revocation_that_the_server_forged_removes_nobody() {
    let (mut world, channel) = three(10);
    let bob = me(&mut world, BOB);
    let other = AccountKey::generate(portable(), &mut Entropy::from_seed([1; 32]));
    let mut forged = Revocation::sign(portable(), &other, bob.device, world.now.wall);
    forged.account = bob.account;
    let payload = forged.encode();
    lie_entries_of(&mut world, CAROL, channel, move |entries| {
        for entry in entries.iter_mut() {
            entry.kind = EntryKind::Revocation;
            entry.payload = Part::Inline(payload.clone().into());
        }
    });
    said(&mut world, ALICE, channel, "swapped for a lie");
    world.pass(Duration::from_secs(60));
    assert!(saw(&world, CAROL, unreadable));
    world.liar = None;
    world.settle();
    assert_eq!(members(&mut world, CAROL, channel).len(), 3);
    agree(&world, channel, &[ALICE, BOB, CAROL]);
}

#[test]
fn an_old_record_of_a_revoked_device_that_is_shown_again_adds_nobody() {
    let mut world = World::new(Rules::new(11));
    let alice = world.register("alice");
    let channel = group_of(&mut world, alice, &[]);
    let phone = world.login("alice");
    admitted(&mut world, phone, channel);
    let gone = me(&mut world, phone);
    let Outcome::Devices(devices) = world.done(alice, |client, now| client.devices(now)) else {
        panic!("no devices");
    };
    let record =
        devices.into_iter().map(|entry| entry.record).find(|r| r.sender() == gone).unwrap();
    revoke(&mut world, alice, phone);
    world.until(|world| world.group(alice, channel).members == 1);
    let added = |world: &World, of: DeviceId| {
        let is =
            |event: &&Event| matches!(event, Event::DeviceAdded { record } if record.device == of);
        world.devices[alice].log.iter().filter(is).count()
    };
    assert_eq!(added(&world, gone.device), 1);
    for _ in 0..2 {
        let shown = slip(&mut world, alice, EntryKind::Device, record.encode());
        let late = world.login("alice");
        admitted(&mut world, late, channel);
        assert!(shown.get());
        let late = me(&mut world, late).device;
        assert_eq!((added(&world, late), added(&world, gone.device)), (1, 1));
        assert!(!members(&mut world, alice, channel).contains(&gone));
        // It is remembered across a restart. The seq that the lie took is the next entry's.
        world.liar = None;
        restart(&mut world, alice);
        world.login("alice");
        world.settle();
    }
}
