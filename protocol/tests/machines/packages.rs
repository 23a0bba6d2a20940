//! Key packages: replaced before they run out or end, handed out once, and named where one cannot be used.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::devices::admitted;
use crate::mallory::Mallory;
use crate::talk::*;
use qpc_protocol::client::event::{Event, Failed, Outcome};
use qpc_protocol::id::{AccountId, DeviceId};
use qpc_protocol::limits::{
    CLAIMS_BETWEEN, CLASSICAL_SHARE, ENTRY_TIME, KEY_PACKAGE_TIME, KEY_PACKAGES_WANTED,
    LAST_RESORT_GRACE, LAST_RESORT_TIME,
};
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::server::op::{StoreOp, StoreReply};
use qpc_protocol::wire::message::Reply;
use qpc_sim::world::{Rules, World};

const HOUR: Duration = Duration::from_secs(60 * 60);

pub(crate) fn packages(world: &mut World, device: usize) -> (u32, bool) {
    match world.done(device, |client, now| client.key_packages(now)) {
        Outcome::KeyPackages { available, last_resort } => (available, last_resort),
        other => panic!("{other:?}"),
    }
}

#[test]
fn key_packages_are_replaced_before_they_end_and_old_private_keys_go() {
    let mut world = World::new(Rules::new(20));
    let alice = world.register("alice");
    let private = |world: &World| {
        world.devices[alice].disk.keys().filter(|key| key.starts_with(b"k/P")).count()
    };
    let first = private(&world);
    assert_eq!(first, KEY_PACKAGES_WANTED + 2);
    let mut most = 0;
    for _ in 0..24 * 12 {
        world.pass(HOUR);
        let (available, last_resort) = packages(&mut world, alice);
        assert!(last_resort && available as usize >= KEY_PACKAGES_WANTED, "{available}");
        most = most.max(private(&world));
    }
    // Those of eight days at most are kept: of a day's life and as long as a welcome may be on its way.
    let days = (KEY_PACKAGE_TIME + ENTRY_TIME).as_secs() / HOUR.as_secs() / 20 + 2;
    assert!(most <= days as usize * KEY_PACKAGES_WANTED + 4, "{most}");
}

#[test]
fn a_suite_that_runs_out_is_replaced_although_there_is_plenty_of_the_other() {
    let mut world = World::new(Rules::new(21));
    let alice = world.register("alice");
    let bob = world.register("bob");
    for _ in 0..CLAIMS_BETWEEN {
        let channel = group_of(&mut world, alice, &["bob"]);
        assert!(world.groups(bob).iter().any(|group| group.channel == channel));
    }
    undisturbed(&world, &[alice, bob]);
}

#[test]
fn regression_22_claims_wait_for_their_budget_and_no_one_is_given_twice() {
    let mut world = World::new(Rules::new(22));
    let alice = world.register("alice");
    let bob = world.register("bob");
    world.crash(bob);
    let start = world.now.mono;
    let groups: Vec<_> =
        (0..CLAIMS_BETWEEN + 1).map(|_| found(&mut world, alice, Suite::Hybrid)).collect();
    let tickets: Vec<_> = groups
        .iter()
        .map(|channel| world.command(alice, |client, now| client.invite(now, *channel, "bob")))
        .collect();
    for ticket in tickets {
        assert!(matches!(world.outcome(alice, ticket), Outcome::Epoch(_)));
    }
    // The last one waited, and went on by itself.
    assert!(world.now.mono - start >= qpc_protocol::limits::CLAIM_WINDOW);
    world.start(bob);
    world.settle();
    assert_eq!(world.groups(bob).len(), groups.len());
    undisturbed(&world, &[alice, bob]);
}

#[test]
fn the_last_resort_of_each_suite_serves_a_device_long_away_which_then_renews_everything() {
    for suite in Suite::ALL {
        let mut world = World::new(Rules::new(23));
        let alice = world.register("alice");
        let bob = world.register("bob");
        let first = private_keys(&world, bob);
        world.crash(bob);
        world.pass(2 * 24 * HOUR);
        let channel = found(&mut world, alice, suite);
        world.done(alice, |client, now| client.invite(now, channel, "bob"));
        world.start(bob);
        world.until(|world| world.groups(bob).iter().any(|group| group.channel == channel));
        world.settle();
        assert_eq!(packages(&mut world, bob), (KEY_PACKAGES_WANTED as u32, true));
        said(&mut world, bob, channel, "here");
        world.done(bob, |client, now| client.update(now, channel));
        world.settle();
        agree(&world, channel, &[alice, bob]);
        // Superseded on the second day: its private key is kept for a week more, longer than those of ordinary
        // packages. That of the other suite serves on.
        let kept = |world: &World| private_keys(world, bob).intersection(&first).count();
        let grace = 2 * 24 * HOUR + LAST_RESORT_GRACE;
        world.pass(grace - 3 * HOUR - world.now.mono);
        assert_eq!(kept(&world), 2);
        world.pass(24 * HOUR);
        assert_eq!(kept(&world), 1);
        undisturbed(&world, &[alice, bob]);
    }
}

#[test]
fn private_keys_go_in_time_from_a_device_that_is_offline() {
    for restarts in [false, true] {
        let mut world = World::new(Rules::new(28));
        let alice = world.register("alice");
        let bob = world.register("bob");
        let first = private_keys(&world, bob);
        world.crash(bob);
        world.pass(2 * 24 * HOUR);
        let channel = found(&mut world, alice, Suite::Hybrid);
        world.done(alice, |client, now| client.invite(now, channel, "bob"));
        world.start(bob);
        world.until(|world| world.groups(bob).iter().any(|group| group.channel == channel));
        world.settle();
        let renewed = private_keys(&world, bob);
        world.devices[bob].connect = false;
        world.cut(bob);
        let left = |world: &World| private_keys(world, bob);
        let offline = world.now.mono;
        let pass_until = |world: &mut World, at: Duration| {
            if restarts {
                restart(world, bob);
            }
            world.pass(at - world.now.mono);
            // Nothing is due that is not done.
            assert!(world.run().is_none_or(|wake| wake > world.now.mono));
        };
        // Superseded when bob came back: within its grace it is there, and the day after it is gone. So are ordinary
        // ones that nobody can have been welcomed by any more; those of the first day went already.
        pass_until(&mut world, offline + LAST_RESORT_GRACE - 3 * HOUR);
        assert_eq!(left(&world).intersection(&first).count(), 2);
        pass_until(&mut world, offline + LAST_RESORT_GRACE + 2 * HOUR);
        assert_eq!(left(&world).intersection(&first).count(), 1);
        pass_until(&mut world, offline + KEY_PACKAGE_TIME + ENTRY_TIME - 3 * HOUR);
        assert!(left(&world).intersection(&renewed).count() > KEY_PACKAGES_WANTED / 2);
        pass_until(&mut world, offline + KEY_PACKAGE_TIME + ENTRY_TIME + 2 * HOUR);
        // The last-resort ones in use, one of each suite.
        assert_eq!(left(&world).len(), 2);
        pass_until(&mut world, offline + LAST_RESORT_TIME + ENTRY_TIME + 2 * HOUR);
        assert_eq!(left(&world).len(), 0);
    }
}

fn private_keys(world: &World, device: usize) -> BTreeSet<Vec<u8>> {
    let keys = world.devices[device].disk.keys();
    keys.filter(|key| key.starts_with(b"k/P")).cloned().collect()
}

/// Claims packages of an account, at the store, until the last-resort one is handed out; which that is.
fn claimed_empty(world: &mut World, account: AccountId, suite: Suite) -> bytes::Bytes {
    loop {
        let claim = StoreOp::ClaimKeyPackages { account, suite, device: None, at: world.now.wall };
        let replies = world.store.apply(&[claim]);
        let [StoreReply::Claimed(claimed)] = replies.as_slice() else { panic!("{replies:?}") };
        if claimed[0].last_resort {
            return claimed[0].package.clone().unwrap();
        }
    }
}

#[test]
fn a_last_resort_handed_out_is_superseded_although_there_is_plenty_of_the_other_suite() {
    for (suite, other) in [(Suite::Hybrid, Suite::Classical), (Suite::Classical, Suite::Hybrid)] {
        let mut world = World::new(Rules::new(26));
        let bob = world.register("bob");
        let account = me(&mut world, bob).account;
        world.crash(bob);
        let given = claimed_empty(&mut world, account, suite);
        assert_eq!(claimed_empty(&mut world, account, suite), given);
        let before = private_keys(&world, bob);
        world.start(bob);
        world.settle();
        assert!(packages(&mut world, bob).1);
        // Those of the other suite were not touched: none was made.
        let made = KEY_PACKAGES_WANTED / (CLASSICAL_SHARE + 1);
        let made = if suite == Suite::Hybrid { KEY_PACKAGES_WANTED - made } else { made };
        assert_eq!(private_keys(&world, bob).difference(&before).count(), made + 1);
        world.crash(bob);
        assert_ne!(claimed_empty(&mut world, account, suite), given);
        // And with the next contact again, whatever was uploaded beside it.
        world.start(bob);
        world.settle();
        let (of_other, kept) =
            (claimed_empty(&mut world, account, other), private_keys(&world, bob));
        restart(&mut world, bob);
        world.settle();
        assert_ne!(claimed_empty(&mut world, account, other), of_other);
        assert!(kept.is_subset(&private_keys(&world, bob)));
    }
}

#[test]
fn a_server_without_the_classical_suite_has_the_packages_of_the_other() {
    let rules = Rules { suites: &[Suite::Hybrid], ..Rules::new(27) };
    let mut world = World::new(rules);
    let alice = world.register("alice");
    let bob = world.register("bob");
    let hybrid = (KEY_PACKAGES_WANTED - KEY_PACKAGES_WANTED / (CLASSICAL_SHARE + 1)) as u32;
    assert_eq!(packages(&mut world, bob), (hybrid, true));
    let refreshed = world.done(bob, |client, now| client.refresh_key_packages(now));
    let available = 2 * hybrid;
    assert!(matches!(refreshed, Outcome::KeyPackages { available: of, .. } if of == available));
    let channel = found(&mut world, alice, Suite::Hybrid);
    world.done(alice, |client, now| client.invite(now, channel, "bob"));
    world.settle();
    agree(&world, channel, &[alice, bob]);
}

#[test]
fn a_device_that_cannot_be_added_is_named_and_the_others_are_added() {
    let mut world = World::new(Rules::new(24));
    let alice = world.register("alice");
    let bob = world.register("bob");
    let phone = world.login("bob");
    let empty = me(&mut world, phone);
    world.crash(phone);
    hide_packages(&mut world, alice, Some(empty.device));
    let channel = found(&mut world, alice, Suite::Hybrid);
    let ticket = world.command(alice, |client, now| client.invite(now, channel, "bob"));
    assert!(matches!(world.outcome(alice, ticket), Outcome::Epoch(_)));
    let named = world.devices[alice].log.iter().position(|event| {
        matches!(event, Event::NotAdded { ticket: of, device, .. } if *of == ticket && *device == empty)
    });
    let done = |event: &Event| matches!(event, Event::Done(of, _) if *of == ticket);
    let done = world.devices[alice].log.iter().position(done);
    assert!(named.is_some() && named < done);
    // Its sibling brings it in once it can.
    world.liar = None;
    world.start(phone);
    admitted(&mut world, phone, channel);
    agree(&world, channel, &[alice, bob, phone]);
}

#[test]
fn nobody_left_to_add_is_a_failure_and_a_stranger_s_package_too() {
    let mut world = World::new(Rules::new(25));
    let alice = world.register("alice");
    world.register("bob");
    let channel = group_of(&mut world, alice, &[]);
    hide_packages(&mut world, alice, None);
    let failed = fails(&mut world, alice, |client, now| client.invite(now, channel, "bob"));
    assert!(matches!(failed, Failed::NotAdded { .. }), "{failed:?}");
    lie_reply(&mut world, alice, |reply| {
        if let Reply::ClaimedKeyPackages(claimed) = reply {
            claimed.iter_mut().for_each(|claim| claim.device = DeviceId([1; 16]));
        }
    });
    let failed = fails(&mut world, alice, |client, now| client.invite(now, channel, "bob"));
    assert!(matches!(failed, Failed::Untrusted(_)), "{failed:?}");
}

/// What may be wrong with a device's key package.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    Nothing,
    Expired,
    Suite,
    Capabilities,
    Binding,
}

#[test]
fn each_key_package_that_cannot_be_used_is_named_whether_or_not_another_can() {
    use Wrong::{Binding, Capabilities, Expired, Nothing, Suite as OtherSuite};
    let cases: [&[Wrong]; 8] = [
        &[Nothing, Expired],
        &[OtherSuite, Nothing],
        &[Nothing, Capabilities],
        &[Binding, Nothing],
        &[Expired, OtherSuite, Nothing, Capabilities, Binding],
        &[Expired, OtherSuite, Capabilities],
        &[Binding],
        &[Expired, OtherSuite, Capabilities, Binding],
    ];
    for case in cases {
        let mut world = World::new(Rules::new(29));
        let alice = world.register("alice");
        let channel = found(&mut world, alice, Suite::Hybrid);
        let mallory = Mallory::new(&mut world, "mallory", case.len() as u8);
        let other = Mallory::new(&mut world, "other", 1);
        let wall = world.now.wall;
        for (number, wrong) in case.iter().enumerate() {
            let seed = number as u8;
            let package = match wrong {
                Nothing => mallory.package(number, Suite::Hybrid, seed, wall),
                Expired => mallory.package(number, Suite::Hybrid, seed, wall.minus(48 * HOUR)),
                OtherSuite => mallory.package(number, Suite::Classical, seed, wall),
                Capabilities => mallory.incapable(number, Suite::Hybrid),
                Binding => other.package(0, Suite::Hybrid, seed, wall),
            };
            mallory.put(&mut world, number, Suite::Hybrid, package);
        }
        let ticket = world.command(alice, |client, now| client.invite(now, channel, "mallory"));
        world.settle();
        let log = &world.devices[alice].log;
        let ended = log.iter().position(|event| match event {
            Event::Done(of, Outcome::Epoch(_)) if case.contains(&Nothing) => *of == ticket,
            Event::Failed(of, Failed::Untrusted(_)) if case.contains(&Binding) => *of == ticket,
            Event::Failed(of, Failed::NotAdded { .. }) => *of == ticket,
            _ => false,
        });
        let ended = ended.unwrap_or_else(|| panic!("{case:?}: {log:?}"));
        let named = log[..ended].iter().filter_map(|event| match event {
            Event::NotAdded { ticket: of, device, why, .. } if *of == ticket => {
                Some((*device, why))
            }
            _ => None,
        });
        let named: Vec<_> = named.collect();
        let wrong = case.iter().enumerate().filter(|(_, wrong)| **wrong != Nothing);
        let expected: Vec<_> = wrong.map(|(number, _)| mallory.device(number)).collect();
        let devices: Vec<_> = named.iter().map(|(device, _)| *device).collect();
        assert_eq!(devices, expected, "{case:?}");
        // Each by a reason of its own.
        let reasons: BTreeSet<_> = named.iter().map(|(_, why)| *why).collect();
        assert_eq!(reasons.len(), expected.len(), "{named:?}");
    }
}
