//! Cases of key packages.

use super::Backend;
use super::bed::{Bed, LIFE, NOW, later, package, put_packages, revoke, sender};
use crate::error::ErrorCode;
use crate::mls::key_package::latest_end;
use crate::mls::suite::Suite;
use crate::server::op::{KeyPackageRow, StoreOp, StoreReply};
use crate::wire::message::ClaimedKeyPackage;

fn put(packages: Vec<KeyPackageRow>, last_resort: Option<KeyPackageRow>, most: u32) -> StoreOp {
    StoreOp::PutKeyPackages { sender: sender(1, 1), packages, last_resort, most, at: NOW }
}

fn left(available: u32, last_resort: bool) -> StoreReply {
    StoreReply::KeyPackages { available, last_resort }
}

fn hybrid(n: u8, life: u64) -> KeyPackageRow {
    package(n, Suite::Hybrid, later(life))
}

/// More than the quota at once: nothing is added. What is there already, or has ended, does not count.
pub fn key_packages_are_added_all_or_nothing(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    bed.refused(put(Vec::new(), None, 10), ErrorCode::DeviceUnknown);
    let count = |at| StoreOp::CountKeyPackages { sender: sender(1, 1), suite: None, at };
    assert_eq!(bed.run(count(NOW)), left(0, false));
    bed.people(1, 1);
    assert_eq!(bed.run(count(NOW)), left(0, false));
    assert_eq!(bed.run(put(vec![hybrid(1, 10), hybrid(2, 20)], None, 3)), left(2, false));
    let four = (3..7).map(|n| hybrid(n, 20)).collect();
    bed.refused(put(four, Some(hybrid(9, 50)), 3), ErrorCode::KeyPackageQuota);
    assert_eq!(bed.run(count(NOW)), left(2, false));
    let again = vec![hybrid(1, 10), hybrid(2, 20), hybrid(3, 20), hybrid(3, 20)];
    assert_eq!(bed.run(put(again, Some(hybrid(9, 50)), 3)), left(3, true));
    assert_eq!(bed.run(put(vec![hybrid(5, 0)], None, 3)), left(3, true));
    assert_eq!(bed.run(count(later(9))), left(3, true));
    assert_eq!(bed.run(count(later(10))), left(2, true));
    assert_eq!(bed.run(count(later(20))), left(0, true));
    assert_eq!(bed.run(count(later(50))), left(0, false));
}

/// Each package is handed out once, the oldest of the suite first; the last resort only then, and it stays.
pub fn key_packages_are_claimed_once_and_in_order(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    bed.refused(
        StoreOp::ClaimKeyPackages {
            account: sender(1, 1).account,
            suite: Suite::Hybrid,
            device: None,
            at: NOW,
        },
        ErrorCode::AccountUnknown,
    );
    bed.people(1, 3);
    bed.run(put(
        vec![
            hybrid(30, 5),
            package(20, Suite::Classical, later(LIFE)),
            hybrid(12, LIFE),
            hybrid(11, LIFE),
        ],
        Some(hybrid(99, LIFE)),
        10,
    ));
    bed.run(put_packages(sender(1, 2), vec![hybrid(40, LIFE)]));
    let at = later(5);
    let count = |suite| StoreOp::CountKeyPackages { sender: sender(1, 1), suite, at };
    assert_eq!(bed.run(count(None)), left(3, true));
    assert_eq!(bed.run(count(Some(Suite::Hybrid))), left(2, true));
    assert_eq!(bed.run(count(Some(Suite::Classical))), left(1, false));
    assert_eq!(
        bed.claim(1, Suite::Hybrid, at),
        [(Some(12), false), (Some(40), false), (None, false)]
    );
    bed.told(revoke(sender(1, 2), 1));
    let one = |device| StoreOp::ClaimKeyPackages {
        account: sender(1, 1).account,
        suite: Suite::Hybrid,
        device: Some(device),
        at,
    };
    assert_eq!(bed.run(one(sender(1, 2).device)), StoreReply::Claimed(Vec::new()));
    let of_the_third =
        ClaimedKeyPackage { device: sender(1, 3).device, package: None, last_resort: false };
    assert_eq!(bed.run(one(sender(1, 3).device)), StoreReply::Claimed(vec![of_the_third]));
    assert_eq!(bed.claim(1, Suite::Hybrid, at), [(Some(11), false), (None, false)]);
    assert_eq!(bed.claim(1, Suite::Hybrid, at), [(Some(99), true), (None, false)]);
    assert_eq!(bed.claim(1, Suite::Hybrid, at), [(Some(99), true), (None, false)]);
    assert_eq!(bed.claim(1, Suite::Classical, at), [(Some(20), false), (None, false)]);
    // The last resort is of the other suite.
    assert_eq!(bed.claim(1, Suite::Classical, at), [(None, false), (None, false)]);
    // A new last resort takes the place of the old one, and of no other suite's.
    bed.run(put(Vec::new(), Some(package(97, Suite::Classical, later(30))), 10));
    bed.run(put(Vec::new(), Some(hybrid(98, 20)), 10));
    assert_eq!(bed.claim(1, Suite::Hybrid, later(19)), [(Some(98), true), (None, false)]);
    assert_eq!(bed.claim(1, Suite::Hybrid, later(20)), [(None, false), (None, false)]);
    assert_eq!(bed.claim(1, Suite::Classical, later(29)), [(Some(97), true), (None, false)]);
    assert_eq!(bed.claim(1, Suite::Classical, later(30)), [(None, false), (None, false)]);
}

/// Made while clocks were ahead, they are neither counted nor handed out before they hold, and are kept until then.
pub fn key_packages_made_ahead_of_time_wait_for_it(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    bed.people(1, 1);
    let ahead = |n: u8, last_resort| KeyPackageRow {
        expires: latest_end(last_resort, later(n.into())),
        ..hybrid(n, 0)
    };
    let both = vec![ahead(10, false), hybrid(1, LIFE)];
    assert_eq!(bed.run(put(both, Some(ahead(20, true)), 2)), left(1, false));
    bed.0.reopen();
    let count =
        |at, suite| StoreOp::CountKeyPackages { sender: sender(1, 1), suite, at: later(at) };
    let of_suite = Some(Suite::Hybrid);
    assert_eq!(bed.run(count(9, of_suite)), left(1, false));
    assert_eq!(bed.run(count(10, None)), left(2, false));
    assert_eq!(bed.run(count(20, of_suite)), left(2, true));
    assert_eq!(bed.claim(1, Suite::Hybrid, later(9)), [(Some(1), false)]);
    assert_eq!(bed.claim(1, Suite::Hybrid, later(9)), [(None, false)]);
    assert_eq!(bed.claim(1, Suite::Hybrid, later(10)), [(Some(10), false)]);
    assert_eq!(bed.claim(1, Suite::Hybrid, later(19)), [(None, false)]);
    assert_eq!(bed.claim(1, Suite::Hybrid, later(20)), [(Some(20), true)]);
    // What waits counts among those of which the oldest make room.
    bed.run(put(vec![ahead(30, false), hybrid(31, LIFE)], None, 2));
    assert_eq!(bed.run(put(vec![hybrid(32, LIFE)], None, 2)), left(2, false));
    assert_eq!(bed.run(count(30, None)), left(2, false));
}

/// Which last-resort packages were handed out is known by suite, until others take their place.
pub fn last_resorts_handed_out_are_told_from_others(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    bed.people(1, 1);
    let count = |suite| StoreOp::CountKeyPackages { sender: sender(1, 1), suite, at: NOW };
    let classical = || package(2, Suite::Classical, later(LIFE));
    bed.run(put(Vec::new(), Some(hybrid(1, LIFE)), 10));
    bed.run(put(Vec::new(), Some(classical()), 10));
    assert_eq!(bed.claim(1, Suite::Classical, NOW), [(Some(2), true)]);
    bed.0.reopen();
    assert_eq!(bed.run(count(Some(Suite::Classical))), left(0, false));
    assert_eq!(bed.run(count(Some(Suite::Hybrid))), left(0, true));
    assert_eq!(bed.run(count(None)), left(0, true));
    // The same again was handed out; another was not.
    bed.run(put(Vec::new(), Some(classical()), 10));
    assert_eq!(bed.run(count(Some(Suite::Classical))), left(0, false));
    bed.run(put(Vec::new(), Some(package(3, Suite::Classical, later(LIFE))), 10));
    assert_eq!(bed.run(count(Some(Suite::Classical))), left(0, true));
    assert_eq!(bed.claim(1, Suite::Hybrid, NOW), [(Some(1), true)]);
    assert_eq!(bed.run(count(Some(Suite::Hybrid))), left(0, false));
    bed.run(put(Vec::new(), Some(hybrid(4, LIFE)), 10));
    assert_eq!(bed.run(count(Some(Suite::Hybrid))), left(0, true));
}

/// An upload that is sent again after a lost reply adds nothing that was handed out meanwhile.
pub fn claimed_key_packages_do_not_come_back(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    bed.people(1, 1);
    let upload = || put(vec![hybrid(1, LIFE), hybrid(2, LIFE)], None, 2);
    assert_eq!(bed.run(upload()), left(2, false));
    assert_eq!(bed.claim(1, Suite::Hybrid, NOW), [(Some(1), false)]);
    bed.0.reopen();
    assert_eq!(bed.run(upload()), left(1, false));
    assert_eq!(bed.claim(1, Suite::Hybrid, NOW), [(Some(2), false)]);
    assert_eq!(bed.claim(1, Suite::Hybrid, NOW), [(None, false)]);
    assert_eq!(bed.run(upload()), left(0, false));
}

/// Above the quota the oldest of the device make room, whatever their suite; what was handed out stays so.
pub fn fresh_key_packages_replace_the_oldest(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    bed.people(1, 2);
    let classical = |n| package(n, Suite::Classical, later(LIFE));
    bed.run(put_packages(sender(1, 2), vec![hybrid(50, LIFE)]));
    let first = vec![hybrid(1, LIFE), hybrid(2, 5), classical(3), hybrid(4, LIFE), hybrid(5, LIFE)];
    assert_eq!(bed.run(put(first, None, 5)), left(5, false));
    assert_eq!(bed.claim(1, Suite::Hybrid, NOW), [(Some(1), false), (Some(50), false)]);
    // One that has ended is no room to be made: of four there are three, and two of them go.
    let fresh = || vec![hybrid(6, LIFE), hybrid(7, LIFE), hybrid(8, LIFE), hybrid(9, LIFE)];
    let put_later = |packages| StoreOp::PutKeyPackages {
        sender: sender(1, 1),
        packages,
        last_resort: None,
        most: 5,
        at: later(5),
    };
    assert_eq!(bed.run(put_later(fresh())), left(5, false));
    bed.0.reopen();
    assert_eq!(bed.run(put_later(fresh())), left(5, false));
    assert_eq!(bed.run(put_later(vec![hybrid(1, LIFE)])), left(5, false));
    assert_eq!(bed.claim(1, Suite::Classical, later(5)), [(None, false), (None, false)]);
    for number in [5, 6, 7, 8, 9] {
        let claimed = bed.claim(1, Suite::Hybrid, later(5));
        assert_eq!(claimed, [(Some(number), false), (None, false)]);
    }
    assert_eq!(bed.claim(1, Suite::Hybrid, later(5)), [(None, false), (None, false)]);
}
