//! The rest of a group's life: fresh keys in time, who may do what in it, proposals, new device keys.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crate::talk::*;
use qpc_protocol::client::event::{Event, Failed, Outcome};
use qpc_protocol::client::{Role, UpdatePolicy};
use qpc_protocol::error::{ErrorCode, Refused};
use qpc_protocol::id::ChannelId;
use qpc_protocol::limits::UPDATE_ENTRIES;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{Body, Part, Reply, Request};
use qpc_sim::insecure;
use qpc_sim::world::{Rules, World};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How many commits of a device everybody saw.
fn commits_of(world: &World, device: usize, witness: usize) -> usize {
    let who = world.devices[device].client.as_ref().unwrap().whoami().unwrap().1;
    let of = |event: &&Event| matches!(event, Event::Changed(change) if change.by == who);
    world.devices[witness].log.iter().filter(of).count()
}

// ---- fresh keys in time -----------------------------------------------------------------------

/// Whether a commit brings its maker a new leaf. RFC 9420 §6: version, wire format, group id, epoch, sender (a member),
/// authenticated data, kind of content; §12.4: proposals, then the path, if there is one.
fn has_path(commit: &Part) -> bool {
    let Part::Inline(bytes) = commit else { panic!("{commit:?}") };
    let after = |at: usize| {
        // RFC 9420 §2.1.2: the length of a length is in its first two bits.
        let size = 1 << (bytes[at] >> 6);
        let rest = bytes[at + 1..at + size].iter();
        at + size
            + rest.fold(usize::from(bytes[at] & 63), |len, byte| len << 8 | usize::from(*byte))
    };
    let content = after(after(4) + 8 + 5);
    assert_eq!(bytes[content], 3, "a commit");
    bytes[after(content + 1)] == 1
}

#[test]
fn an_update_asked_for_gives_the_leaf_fresh_keys_even_with_something_else_to_commit() {
    let (mut world, channel) = three(1);
    let dave = world.register("dave");
    world.register("erin");
    for asked in [false, true] {
        let paths = Rc::new(RefCell::new(Vec::new()));
        let seen = paths.clone();
        lie(&mut world, ALICE, true, move |frame| {
            if let Body::Request(Request::Commit(bundle)) = &frame.body {
                seen.borrow_mut().push(has_path(&bundle.commit));
            }
            vec![frame]
        });
        world.cut(ALICE);
        // Both are committed at once: an invitation alone brings no new keys.
        let update = asked.then(|| world.command(ALICE, |client, now| client.update(now, channel)));
        let name = if asked { "erin" } else { "dave" };
        let invite = world.command(ALICE, |client, now| client.invite(now, channel, name));
        for ticket in update.into_iter().chain([invite]) {
            assert!(matches!(world.outcome(ALICE, ticket), Outcome::Epoch(_)));
        }
        world.settle();
        agree(&world, channel, &[ALICE, BOB, CAROL, dave]);
        assert_eq!(paths.borrow().contains(&true), asked, "{paths:?}");
    }
}

#[test]
fn every_leaf_gets_fresh_keys_by_its_age_and_nobody_loses_much_by_it() {
    let (mut world, channel) = three(2);
    let before: Vec<_> = [ALICE, BOB, CAROL].map(|device| commits_of(&world, device, BOB)).into();
    world.pass(DAY * 6);
    let young: Vec<_> = [ALICE, BOB, CAROL].map(|device| commits_of(&world, device, BOB)).into();
    assert_eq!(young, before, "too early");
    world.pass(DAY * 2);
    world.settle();
    for device in [ALICE, BOB, CAROL] {
        assert_eq!(commits_of(&world, device, BOB), before[device] + 1, "device {device}");
    }
    agree(&world, channel, &[ALICE, BOB, CAROL]);
    // And again after as long.
    world.pass(DAY * 6);
    assert_eq!(commits_of(&world, CAROL, BOB), before[CAROL] + 1);
    world.pass(DAY * 2);
    assert_eq!(commits_of(&world, CAROL, BOB), before[CAROL] + 2);
}

#[test]
fn every_leaf_gets_fresh_keys_by_what_was_written() {
    let policy = UpdatePolicy { entries: 20, ..UpdatePolicy::default() };
    let (mut world, channel) = three_with(Rules { update: policy, ..Rules::new(3) });
    for number in 0..15 {
        said(&mut world, ALICE, channel, &format!("{number}"));
    }
    world.pass(Duration::from_secs(60));
    assert_eq!(commits_of(&world, BOB, ALICE), 0, "too early");
    for number in 0..6 {
        said(&mut world, CAROL, channel, &format!("{number}"));
    }
    world.pass(Duration::from_secs(60));
    for device in [BOB, CAROL] {
        assert_eq!(commits_of(&world, device, ALICE), 1, "device {device}");
    }
    agree(&world, channel, &[ALICE, BOB, CAROL]);
}

#[test]
fn by_default_a_leaf_gets_fresh_keys_after_a_thousand_entries() {
    let (mut world, channel) = three_with(Rules { backend: insecure::quick(), ..Rules::new(30) });
    let write = |world: &mut World, messages: u64| {
        for _ in 0..messages {
            world.command(ALICE, |client, now| client.send(now, channel, b"x"));
        }
        world.settle();
        world.pass(Duration::from_secs(60));
    };
    write(&mut world, UPDATE_ENTRIES - 20);
    for device in [ALICE, BOB, CAROL] {
        let seen = commits_of(&world, device, CAROL);
        assert_eq!(seen, 0, "device {device} after {:?}", world.group(CAROL, channel).cursor);
    }
    write(&mut world, 20);
    for device in [ALICE, BOB, CAROL] {
        assert_eq!(commits_of(&world, device, CAROL), 1, "device {device}");
    }
    agree(&world, channel, &[ALICE, BOB, CAROL]);
}

#[test]
fn how_old_a_leaf_is_survives_restarts_and_waits_for_a_connection() {
    let (mut world, channel) = three(4);
    world.pass(DAY * 3);
    world.crash(BOB);
    world.start(BOB);
    world.pass(DAY * 3);
    // Off, and on without a network: nothing is made that would be of no use.
    world.crash(BOB);
    world.devices[BOB].connect = false;
    world.start(BOB);
    world.pass(DAY * 2);
    assert_eq!(commits_of(&world, BOB, ALICE), 0);
    assert_eq!(world.client(BOB).pending(), 0);
    world.devices[BOB].connect = true;
    world.until(|world| commits_of(world, BOB, ALICE) == 1);
    world.settle();
    // What was asked for counts as well: nothing is done twice.
    world.done(BOB, |client, now| client.update(now, channel));
    world.pass(DAY * 6);
    assert_eq!(commits_of(&world, BOB, ALICE), 2);
    agree(&world, channel, &[ALICE, BOB, CAROL]);
}

/// Once it is late no moment is drawn any more: the next one may be past before it comes.
#[test]
fn a_device_that_is_on_for_moments_only_gets_fresh_keys_as_well() {
    let policy = UpdatePolicy { age: DAY, ..UpdatePolicy::default() };
    let (mut world, channel) = three_with(Rules { update: policy, ..Rules::new(5) });
    world.crash(BOB);
    world.pass(DAY + Duration::from_secs(2 * 60 * 60));
    for _ in 0..4 {
        world.start(BOB);
        world.run();
        world.crash(BOB);
    }
    world.start(BOB);
    world.run();
    assert_eq!(commits_of(&world, BOB, ALICE), 1);
    world.settle();
    agree(&world, channel, &[ALICE, BOB, CAROL]);
}

// ---- who may do what --------------------------------------------------------------------------

fn admins(world: &mut World, device: usize, channel: ChannelId) -> Vec<usize> {
    let members = world.done(device, |client, now| client.members(now, channel));
    let Outcome::Members(members) = members else { panic!("{members:?}") };
    let admins: Vec<_> =
        members.iter().filter(|member| member.admin).map(|member| member.sender).collect();
    let all = 0..world.devices.len();
    all.filter(|device| admins.contains(&world.client(*device).whoami().unwrap().1)).collect()
}

#[test]
fn roles_are_given_and_taken() {
    let (mut world, channel) = three(30);
    make_admin(&mut world, ALICE, channel, BOB);
    world.settle();
    assert_eq!(admins(&mut world, CAROL, channel), [ALICE, BOB]);
    set_role(&mut world, BOB, channel, ALICE, Role::Member);
    world.settle();
    assert_eq!(admins(&mut world, CAROL, channel), [BOB]);
    let carol = account(&mut world, CAROL);
    let failed = fails(&mut world, ALICE, |client, now| client.remove(now, channel, carol));
    assert_eq!(code(&failed), ErrorCode::NotAllowed);
    let failed =
        fails(&mut world, ALICE, |client, now| client.set_role(now, channel, carol, Role::Admin));
    assert_eq!(code(&failed), ErrorCode::NotAllowed);
    world.done(BOB, |client, now| client.remove(now, channel, carol));
    // Nobody who is not there.
    let failed =
        fails(&mut world, BOB, |client, now| client.set_role(now, channel, carol, Role::Admin));
    assert!(matches!(failed, Failed::Obsolete(_)), "{failed:?}");
    world.settle();
    agree(&world, channel, &[ALICE, BOB]);
}

#[test]
fn the_last_admin_neither_steps_down_nor_leaves_before_another_is_named() {
    let (mut world, channel) = three(31);
    let alice = account(&mut world, ALICE);
    let failed =
        fails(&mut world, ALICE, |client, now| client.set_role(now, channel, alice, Role::Member));
    assert_eq!(code(&failed), ErrorCode::NotAllowed);
    let failed = fails(&mut world, ALICE, |client, now| client.leave(now, channel));
    assert_eq!(code(&failed), ErrorCode::NotAllowed);
    said(&mut world, ALICE, channel, "still here");
    make_admin(&mut world, ALICE, channel, BOB);
    world.done(ALICE, |client, now| client.leave(now, channel));
    world.settle();
    world.until(|world| saw(world, ALICE, |e| matches!(e, Event::Evicted { .. })));
    assert_eq!(admins(&mut world, CAROL, channel), [BOB]);
    agree(&world, channel, &[BOB, CAROL]);
}

#[test]
fn of_two_admins_who_leave_at_once_one_stays() {
    let (mut world, channel) = three(32);
    make_admin(&mut world, ALICE, channel, BOB);
    world.settle();
    let leaving: Vec<_> = [ALICE, BOB]
        .map(|device| (device, world.command(device, |client, now| client.leave(now, channel))))
        .into();
    world.settle();
    world.pass(Duration::from_secs(5));
    world.settle();
    let is_done = |device: usize, ticket| {
        let done = |event: &Event| matches!(event, Event::Done(of, _) if *of == ticket);
        saw(&world, device, done)
    };
    let done: Vec<_> = leaving.iter().map(|(device, ticket)| is_done(*device, *ticket)).collect();
    assert_eq!(done.iter().filter(|done| **done).count(), 1, "{done:?}");
    let stays = if done[0] { BOB } else { ALICE };
    agree(&world, channel, &[stays, CAROL]);
    assert_eq!(world.group(CAROL, channel).members, 2);
    assert_eq!(admins(&mut world, CAROL, channel), [stays]);
    said(&mut world, stays, channel, "somebody has to");
}

// ---- another device key -----------------------------------------------------------------------

fn device_keys(world: &mut World, of: usize, by: usize) -> Vec<[u8; 32]> {
    let account = account(world, of);
    let devices = world.done(by, |client, now| client.devices(now));
    let Outcome::Devices(devices) = devices else { panic!("{devices:?}") };
    let of = devices.into_iter().filter(|entry| entry.record.account == account);
    of.map(|entry| entry.record.device_key).collect()
}

/// How often everybody saw a device get another key in the group.
fn rekeyed(world: &World, device: usize, witness: usize) -> usize {
    let who = world.devices[device].client.as_ref().unwrap().whoami().unwrap().1;
    let seen = |event: &&Event| matches!(event, Event::Changed(c) if c.updated.contains(&who));
    world.devices[witness].log.iter().filter(seen).count()
}

#[test]
fn a_new_device_key_goes_everywhere_and_everything_goes_on() {
    let (mut world, channel) = three(40);
    let other = group_of(&mut world, BOB, &["carol"]);
    let before = device_keys(&mut world, BOB, BOB);
    world.done(BOB, |client, now| client.rotate(now));
    world.settle();
    let after = device_keys(&mut world, BOB, BOB);
    assert!(before.len() == 1 && after.len() == 1 && before != after);
    assert_eq!(rekeyed(&world, BOB, CAROL), 2);
    agree(&world, channel, &[ALICE, BOB, CAROL]);
    agree(&world, other, &[BOB, CAROL]);
    said(&mut world, BOB, channel, "with the new key");
    // A new session, a refreshed one, and a login: each under the new key.
    world.cut(BOB);
    said(&mut world, BOB, channel, "resumed");
    world.pass(Duration::from_secs(2 * 60 * 60));
    world.cut(BOB);
    said(&mut world, BOB, channel, "refreshed");
    world.done(BOB, |client, now| client.logout(now));
    let password = "password of bob".to_owned();
    world.done(BOB, |client, now| client.login(now, "bob", password.into()));
    said(&mut world, BOB, channel, "logged in");
    world.settle();
    let all = ["with the new key", "resumed", "refreshed", "logged in"];
    assert_eq!(world.bodies(CAROL), all);
    // Others add it by key packages of the new key.
    let third = group_of(&mut world, ALICE, &["bob"]);
    said(&mut world, BOB, third, "here too");
    assert_eq!(rekeyed(&world, BOB, ALICE), 1, "it joined with the new key");
    for device in [ALICE, BOB, CAROL] {
        assert!(!saw(&world, device, |e| matches!(e, Event::Unreadable { .. })));
    }
}

#[test]
fn a_key_package_of_the_old_key_is_replaced_and_the_invitation_goes_through() {
    let (mut world, _) = three(41);
    let channel = found(&mut world, ALICE, Suite::Hybrid);
    // Alice has the key package, and commits only after bob has a new key.
    lie(&mut world, ALICE, true, |frame| match &frame.body {
        Body::Request(Request::Commit(_)) => vec![],
        _ => vec![frame],
    });
    let invite = world.command(ALICE, |client, now| client.invite(now, channel, "bob"));
    world.pass(Duration::from_millis(500));
    world.done(BOB, |client, now| client.rotate(now));
    honest(&mut world, &[ALICE]);
    world.outcome(ALICE, invite);
    world.settle();
    agree(&world, channel, &[ALICE, BOB]);
    assert_eq!(rekeyed(&world, BOB, ALICE), 1, "in the old group only");
    said(&mut world, BOB, channel, "here");
}

#[test]
fn a_welcome_for_a_key_package_of_the_old_key_is_joined_and_the_leaf_moved() {
    let (mut world, _) = three(44);
    let channel = found(&mut world, ALICE, Suite::Hybrid);
    // Bob is in, and does not know it before he has another key.
    lie(&mut world, BOB, false, |frame| match &frame.body {
        Body::Push(_) => vec![],
        _ => vec![frame],
    });
    world.done(ALICE, |client, now| client.invite(now, channel, "bob"));
    world.done(BOB, |client, now| client.rotate(now));
    honest(&mut world, &[BOB]);
    world.settle();
    agree(&world, channel, &[ALICE, BOB]);
    assert_eq!(rekeyed(&world, BOB, ALICE), 2, "in the old group and in this one");
    said(&mut world, BOB, channel, "moved");
}

/// Each try crashes bob one batch later, until he gets through without; the server's answer to the new record is lost
/// as well, or not.
#[test]
fn a_rotation_that_is_interrupted_anywhere_is_carried_on() {
    for lost in [false, true] {
        let mut answers = 0;
        for crash in 0.. {
            let (mut world, channel) = three(42);
            let before = device_keys(&mut world, BOB, BOB);
            let unheard = lose_rotation(&mut world, BOB, lost);
            let crashes = world.devices[BOB].crashes;
            world.devices[BOB].crash_in = Some(crash);
            world.command(BOB, |client, now| client.rotate(now));
            world.pass(Duration::from_millis(500));
            world.liar = None;
            answers += unheard.get();
            let through = world.devices[BOB].crashes == crashes;
            if !through {
                world.start(BOB);
            } else {
                world.devices[BOB].crash_in = None;
                world.cut(BOB);
            }
            world.settle();
            let after = device_keys(&mut world, BOB, BOB);
            // Only a crash before anything was durable leaves the old key.
            assert_eq!(before == after, crash == 0 && !through, "crash {crash}");
            said(&mut world, BOB, channel, "still me");
            world.cut(BOB);
            said(&mut world, BOB, channel, "and again");
            world.settle();
            agree(&world, channel, &[ALICE, BOB, CAROL]);
            assert_eq!(rekeyed(&world, BOB, CAROL), usize::from(before != after));
            assert_eq!(world.bodies(CAROL), ["still me", "and again"]);
            assert!(!saw(&world, BOB, |e| matches!(e, Event::SessionEnded(_))));
            if through {
                // With the answer lost nothing is stored after the key and before the connection ends.
                assert!(crash >= if lost { 1 } else { 3 }, "{crash}");
                assert_eq!(answers > 0, lost);
                break;
            }
        }
    }
}

/// Loses the server's answers to new device records of a device; counts them.
pub(crate) fn lose_rotation(world: &mut World, of: usize, lost: bool) -> Rc<Cell<u32>> {
    let count = Rc::new(Cell::new(0));
    let seen = count.clone();
    let mut call = None;
    world.liar = Some(Box::new(move |device, up, frame| {
        if device == of && up && matches!(frame.body, Body::Request(Request::DeviceRegister { .. }))
        {
            call = Some(frame.call);
        }
        if device == of && !up && lost && call == Some(frame.call) {
            assert_eq!(frame.body, Body::Reply(Reply::Done));
            seen.set(seen.get() + 1);
            return vec![];
        }
        vec![frame]
    }));
    count
}

#[test]
fn old_keys_are_forgotten_and_only_so_many_kept() {
    let (mut world, channel) = three(43);
    for _ in 0..8 {
        world.done(BOB, |client, now| client.rotate(now));
        world.settle();
    }
    let now = world.now;
    assert_eq!(world.client(BOB).rotate(now), Err(Refused::Busy));
    world.pass(DAY * 9);
    world.done(BOB, |client, now| client.rotate(now));
    world.settle();
    assert_eq!(rekeyed(&world, BOB, ALICE), 9);
    agree(&world, channel, &[ALICE, BOB, CAROL]);
    // The last one goes as soon as a device that was offline has heard that it was added nowhere by it.
    let kept = |world: &World| world.devices[BOB].disk[b"d/rotation".as_slice()].len();
    let with_one = kept(&world);
    world.devices[BOB].connect = false;
    world.cut(BOB);
    world.pass(DAY * 9);
    assert!(kept(&world) + 100 >= with_one);
    world.devices[BOB].connect = true;
    world.pass(DAY / 24);
    assert!(kept(&world) + 100 < with_one);
}

/// A founding that the server refuses, since it was made with the key of before, waits for the one that is on its way.
#[test]
fn a_group_is_founded_though_its_key_changes_twice_meanwhile() {
    let mut world = World::new(Rules::new(48));
    world.register("alice");
    world.devices[ALICE].connect = false;
    world.cut(ALICE);
    let founded =
        world.command(ALICE, |client, now| client.create_group(now, "group", Suite::Classical));
    let first = world.command(ALICE, |client, now| client.rotate(now));
    world.storage.latency = Duration::from_millis(100);
    world.devices[ALICE].connect = true;
    assert_eq!(world.outcome(ALICE, first), Outcome::Done);
    world.done(ALICE, |client, now| client.rotate(now));
    assert!(matches!(world.outcome(ALICE, founded), Outcome::Group(_)));
}

// ---- what must not stop a group ----------------------------------------------------------------

/// A device that was revoked after it was proposed to be added: no commit goes through with it, and nobody can say
/// anything while it waits.
#[test]
fn a_queued_add_that_nobody_can_commit_does_not_stop_the_group() {
    let (mut world, channel) = three(60);
    let dave = world.register("dave");
    let laptop = world.login("dave");
    let invite = queue_add(&mut world, channel, ALICE, BOB, "dave");
    let gone = world.client(dave).whoami().unwrap().1.device;
    world.done(laptop, |client, now| client.revoke(now, gone));
    world.crash(dave);
    let word = say(&mut world, CAROL, channel, "not stopped");
    world.pass(Duration::from_secs(1));
    assert!(!saw(&world, CAROL, |e| matches!(e, Event::Done(done, _) if *done == word)));
    honest(&mut world, &[ALICE, BOB, CAROL]);
    assert!(matches!(world.outcome(CAROL, word), Outcome::Sent(_)));
    assert!(matches!(world.outcome(ALICE, invite), Outcome::Epoch(_)));
    world.settle();
    agree(&world, channel, &[ALICE, BOB, CAROL, laptop]);
    assert_eq!(world.group(ALICE, channel).members, 4);
}

/// Its account has no other device in the group. Whoever removes it names the next admin.
#[test]
fn a_group_whose_only_admin_is_revoked_is_led_by_another() {
    let (mut world, channel) = three(61);
    let dave = world.register("dave");
    let phone = world.client(ALICE).whoami().unwrap().1.device;
    world.crash(ALICE);
    let laptop = world.login("alice");
    world.done(laptop, |client, now| client.revoke(now, phone));
    world.until(|world| world.group(BOB, channel).members == 2);
    world.settle();
    let leaders = |world: &mut World, as_seen_by: usize| {
        let members = world.done(as_seen_by, |client, now| client.members(now, channel));
        let Outcome::Members(members) = members else { panic!("{members:?}") };
        let admins = members.iter().filter(|member| member.admin);
        admins.map(|member| member.sender.account).collect::<Vec<_>>()
    };
    let (bob, carol) = (account(&mut world, BOB), account(&mut world, CAROL));
    assert_eq!(leaders(&mut world, CAROL), [bob]);
    world.done(BOB, |client, now| client.invite(now, channel, "dave"));
    make_admin(&mut world, BOB, channel, CAROL);
    world.settle();
    agree(&world, channel, &[BOB, CAROL, dave]);
    assert_eq!(leaders(&mut world, dave), [bob, carol]);
}
