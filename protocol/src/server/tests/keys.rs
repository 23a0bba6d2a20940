//! Key packages: what is taken, who gets how many.

use std::time::Duration;

use bytes::Bytes;

use super::device::*;
use super::harness::*;
use crate::error::ErrorCode;
use crate::id::AccountId;
use crate::limits;
use crate::mls::suite::Suite;
use crate::wire::message::{Push, Reply, Request};

#[test]
fn key_packages_are_checked_counted_and_claimed_once() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    let mut bob = Device::new(&mut world, "bob");
    let upload = |packages, last_resort| Request::KeyPackageUpload { packages, last_resort };
    let (one, two) = (bob.key_package(&world, false), bob.key_package(&world, false));
    let last = bob.key_package(&world, true);
    let foreign = alice.key_package(&world, false);
    for wrong in [
        upload(vec![foreign], None),
        upload(vec![last.clone()], None),
        upload(vec![], Some(one.clone())),
        upload(vec![one.slice(..one.len() - 1)], None),
        upload(vec![one.clone(), Bytes::from_static(b"no key package")], None),
    ] {
        assert_eq!(world.fails(bob.link, wrong), ErrorCode::KeyPackageInvalid);
    }
    let reply = world.call(bob.link, upload(vec![one.clone(), two.clone()], Some(last.clone())));
    assert_eq!(reply.unwrap(), Reply::KeyPackages { available: 2, last_resort: true });
    for expected in [&one, &two, &last, &last] {
        assert_eq!(alice.claim(&mut world, bob.id()), std::slice::from_ref(expected));
    }
    let fetch = |account, suite| Request::KeyPackageFetch { account, suite, device: None };
    let other = fetch(bob.id(), Suite::Hybrid);
    assert_eq!(world.fails(alice.link, other), ErrorCode::NoKeyPackage);
    let nobody = fetch(AccountId([1; 32]), Suite::Hybrid);
    assert_eq!(world.fails(alice.link, nobody), ErrorCode::AccountUnknown);
    // Past its end.
    let late = bob.key_package(&world, false);
    world.now.wall = world.now.wall.plus(limits::KEY_PACKAGE_TIME + Duration::from_secs(3600));
    assert_eq!(world.fails(bob.link, upload(vec![late], None)), ErrorCode::KeyPackageInvalid);
}

#[test]
fn suites_that_a_server_does_not_allow_are_refused() {
    let mut world = World::with(|config| config.suites = vec![Suite::Hybrid]);
    let mut alice = Device::new(&mut world, "alice");
    let packages = vec![alice.key_package(&world, false)];
    let request = Request::KeyPackageUpload { packages, last_resort: None };
    assert_eq!(world.fails(alice.link, request), ErrorCode::SuiteNotAllowed);
    let request =
        Request::KeyPackageFetch { account: alice.id(), suite: Suite::Classical, device: None };
    assert_eq!(world.fails(alice.link, request), ErrorCode::SuiteNotAllowed);
    let channel = crate::id::ChannelId([1; 16]);
    let kind = crate::wire::message::ChannelKind::Group;
    let request = alice.found_request(&world, channel, kind);
    assert_eq!(world.fails(alice.link, request), ErrorCode::SuiteNotAllowed);
}

#[test]
fn a_device_has_so_many_key_packages_and_hears_when_they_run_low() {
    let mut world = World::new();
    let alice = Device::new(&mut world, "alice");
    let mut bob = Device::new(&mut world, "bob");
    bob.upload(&mut world, limits::KEY_PACKAGES_PER_DEVICE);
    // One more takes the place of the oldest.
    bob.upload(&mut world, 1);
    // Of the suite that is claimed: those of another are no help.
    let low = limits::KEY_PACKAGES_LOW / limits::CLASSICAL_SHARE;
    for left in (0..limits::KEY_PACKAGES_PER_DEVICE as u32).rev() {
        alice.claim(&mut world, bob.id());
        world.pass(limits::CLAIM_WINDOW / 8);
        let expected = Push::KeyPackagesLow { available: left };
        let pushes = world.pushes(bob.link);
        assert_eq!(pushes, if (left as usize) < low { vec![expected] } else { vec![] });
    }
}

#[test]
fn regression_22_nobody_claims_more_key_packages_than_its_share() {
    let mut world = World::new();
    let mut bob = Device::new(&mut world, "bob");
    bob.upload(&mut world, limits::KEY_PACKAGES_PER_DEVICE);
    let carol = Device::new(&mut world, "carol");
    let claim = |of: &Device| Request::KeyPackageFetch {
        account: of.id(),
        suite: Suite::Classical,
        device: None,
    };
    let others = limits::CLAIMS_OF_TARGET.div_ceil(limits::CLAIMS_BETWEEN) - 1;
    let mut left = limits::KEY_PACKAGES_PER_DEVICE as u32;
    let mut between = |world: &mut World, device: &Device| {
        for _ in 0..limits::CLAIMS_BETWEEN {
            // Once they are gone the answer is another, and counts all the same.
            let claimed = world.call(device.link, claim(&bob)).is_ok();
            assert_eq!(claimed, left > 0);
            left = left.saturating_sub(1);
        }
        let failure = world.call(device.link, claim(&bob)).unwrap_err();
        assert_eq!(failure.code, ErrorCode::RateLimited);
        assert!(failure.retry_after_ms > 0);
        failure.retry_after_ms
    };
    let wait = between(&mut world, &carol);
    // Others are not held up by it, nor is she with others' packages.
    assert_eq!(world.fails(carol.link, claim(&carol)), ErrorCode::NoKeyPackage);
    for number in 0..others {
        let other = Device::new(&mut world, &format!("other{number}"));
        between(&mut world, &other);
    }
    // Nor do many together use them up.
    let late = Device::new(&mut world, "late");
    assert_eq!(world.fails(late.link, claim(&bob)), ErrorCode::RateLimited);
    // One's own are one's own.
    assert_eq!(world.fails(bob.link, claim(&bob)), ErrorCode::NoKeyPackage);
    world.pass(Duration::from_millis(wait.into()));
    assert_eq!(world.fails(carol.link, claim(&bob)), ErrorCode::NoKeyPackage);
}

fn claim_of(account: AccountId) -> Request {
    Request::KeyPackageFetch { account, suite: Suite::Classical, device: None }
}

/// Accounts that nobody knows cost a caller its own budget, and make nobody forget what it took of others.
#[test]
fn no_flood_of_claims_gives_a_budget_back() {
    // As many as the server remembers of whom it can ask for proof.
    let mut world = World::with(|config| config.connections = 8);
    let bob = Device::new(&mut world, "bob");
    let mallory = Device::new(&mut world, "mallory");
    for _ in 0..limits::CLAIMS_BETWEEN {
        assert_eq!(world.fails(mallory.link, claim_of(bob.id())), ErrorCode::NoKeyPackage);
    }
    for number in 0..100 {
        let nobody = claim_of(AccountId([number; 32]));
        assert_eq!(world.fails(mallory.link, nobody), ErrorCode::AccountUnknown);
    }
    assert_eq!(world.fails(mallory.link, claim_of(bob.id())), ErrorCode::RateLimited);
}

#[test]
fn one_caller_claims_so_much_in_all() {
    let mut world = World::new();
    let alice = Device::new(&mut world, "alice");
    let bob = Device::new(&mut world, "bob");
    for _ in 0..limits::CLAIMS_BY_CALLER {
        world.ask(alice.link, claim_of(alice.id()));
        world.settle();
    }
    let refused = world.call(alice.link, claim_of(bob.id())).unwrap_err();
    assert_eq!(refused.code, ErrorCode::RateLimited);
    assert_eq!(world.fails(bob.link, claim_of(alice.id())), ErrorCode::NoKeyPackage);
    world.pass(Duration::from_millis(refused.retry_after_ms.into()));
    assert_eq!(world.fails(alice.link, claim_of(bob.id())), ErrorCode::NoKeyPackage);
}
