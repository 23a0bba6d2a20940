//! Key packages: their end, their checks, what is left of them.

use core::time::Duration;

use openmls::prelude::{HpkeCiphertext, KeyPackageBundle, KeyPackageRef};
use openmls_traits::crypto::OpenMlsCrypto as _;
use openmls_traits::storage::StorageProvider as _;
use tls_codec::{Deserialize as _, Serialize as _, VLBytes};

use super::world::{Device, START, World, adding};
use crate::crypto::portable;
use crate::env::UnixMillis;
use crate::id::Digest;
use crate::limits;
use crate::mls::Crypto;
use crate::mls::MlsError;
use crate::mls::group::Plan;
use crate::mls::key_package::{KeyPackages, check, validate};
use crate::mls::suite::Suite;

fn at(span: Duration) -> UnixMillis {
    START.plus(span)
}

const MOMENT: Duration = Duration::from_millis(1);

#[test]
fn a_fresh_one_holds() {
    for suite in Suite::ALL {
        let mut alice = Device::new(1);
        for (last_resort, life) in
            [(false, limits::KEY_PACKAGE_TIME), (true, limits::LAST_RESORT_TIME)]
        {
            let package = alice.package(suite, last_resort);
            assert!(package.len() <= limits::KEY_PACKAGE_BYTES);
            let checked = check(alice.backend, &package, START).unwrap();
            assert_eq!(checked.record, alice.local.record);
            assert_eq!((checked.suite, checked.last_resort), (suite, last_resort));
            assert_eq!(checked.expires, at(life));
            assert_eq!(checked.hash, Digest::of(&[&package]));
        }
    }
}

#[test]
fn its_end_follows_the_clock_that_is_handed_in() {
    let mut alice = Device::new(1);
    for (last_resort, life) in [(false, limits::KEY_PACKAGE_TIME), (true, limits::LAST_RESORT_TIME)]
    {
        let package = alice.package(Suite::Classical, last_resort);
        let checked = |wall| check(alice.backend, &package, wall).map(|_| ());
        assert_eq!(checked(at(life - MOMENT)), Ok(()));
        assert_eq!(checked(at(life)), Err(MlsError::Expired));
        assert_eq!(checked(UnixMillis(u64::MAX)), Err(MlsError::Expired));
        // Issued by a clock ahead of ours: as far as clocks may differ, and no farther.
        assert_eq!(checked(START.minus(limits::CLOCK_SKEW)), Ok(()));
        assert_eq!(checked(START.minus(limits::CLOCK_SKEW + MOMENT)), Err(MlsError::Expired));
        assert_eq!(checked(UnixMillis(0)), Err(MlsError::Expired));
    }
}

#[test]
fn an_expired_one_is_not_added_and_an_old_add_is_still_followed() {
    let mut devices = [Device::new(1), Device::new(2), Device::new(3)];
    let mut world = World::new(Suite::Classical, &mut devices[..2]);
    let package = devices[2].package(Suite::Classical, false);
    let plan = adding(&[package]);
    devices[0].wall = at(limits::KEY_PACKAGE_TIME);
    assert_eq!(devices[0].commit(&plan), Err(MlsError::Expired));
    devices[0].wall = at(limits::KEY_PACKAGE_TIME - MOMENT);
    let bundle = devices[0].commit(&plan).unwrap();
    world.accept(&mut devices[0], &bundle).unwrap();
    // Bob reads it when its life in the log is all but over; what is older was let in expired.
    let last = limits::KEY_PACKAGE_TIME + limits::ENTRY_TIME + limits::CLOCK_SKEW;
    devices[1].wall = at(last + MOMENT);
    assert!(matches!(devices[1].follow(&bundle.commit), Err(MlsError::Expired)));
    devices[1].wall = at(last);
    devices[1].follow(&bundle.commit).unwrap();
    world.agree(&[&devices[0], &devices[1]]);
    // A clock far behind keeps nobody from following.
    let package = devices[2].sibling(4).package(Suite::Classical, false);
    devices[0].wall = START;
    let bundle = devices[0].commit(&adding(&[package])).unwrap();
    world.accept(&mut devices[0], &bundle).unwrap();
    devices[1].wall = UnixMillis(0);
    devices[1].follow(&bundle.commit).unwrap();
}

#[test]
fn an_ordinary_one_opens_one_welcome_and_a_last_resort_one_more() {
    for suite in Suite::ALL {
        for last_resort in [false, true] {
            let mut guest = Device::new(9);
            let package = guest.package(suite, last_resort);
            for (round, host) in [1, 2, 3].into_iter().enumerate() {
                let mut host = [Device::new(host)];
                let mut world = World::new(suite, &mut host);
                let [host] = &mut host;
                let bundle = host.commit(&adding(core::slice::from_ref(&package))).unwrap();
                let tree = world.accept(host, &bundle).unwrap();
                let joined = guest.join(bundle.welcome.as_ref().unwrap(), &tree);
                if round == 0 || last_resort {
                    assert_eq!(joined, Ok(()));
                    world.agree(&[&*host, &guest]);
                } else {
                    assert_eq!(joined, Err(MlsError::NotForUs));
                }
            }
            assert_eq!(guest.packages.overlay.is_empty(), !last_resort);
        }
    }
}

/// The key of a last-resort package may be in several groups, and its private half is kept: who came in by it
/// replaces it at the first chance.
#[test]
fn who_came_by_a_last_resort_one_replaces_its_key_in_its_first_commit() {
    let mut devices = vec![Device::new(1), Device::new(2)];
    let mut world = World::new(Suite::Classical, &mut devices[..1]);
    let package = devices[1].package(Suite::Classical, true);
    let bundle = devices[0].commit(&adding(&[package])).unwrap();
    let tree = world.accept(&mut devices[0], &bundle).unwrap();
    devices[1].join(bundle.welcome.as_ref().unwrap(), &tree).unwrap();
    let own_key = |device: &Device| {
        let leaf = device.group().mls.own_leaf_node().unwrap();
        leaf.encryption_key().clone()
    };
    let before = own_key(&devices[1]);
    // By itself such a commit would need no path (RFC 9420 §12.4).
    let mut sibling = devices[1].sibling(3);
    for _ in 0..2 {
        let package = sibling.package(Suite::Classical, false);
        let stale = devices[1].group().meta.stale_leaf;
        let key = own_key(&devices[1]);
        let bundle = world.turn(&mut devices, 1, &adding(&[package]));
        assert!(bundle.welcome.is_some());
        assert_eq!(own_key(&devices[1]) != key, stale);
        let target = sibling.sender();
        let remove = Plan { removes: vec![target], ..Plan::default() };
        world.turn(&mut devices, 0, &remove);
    }
    assert_ne!(own_key(&devices[1]), before);
    assert!(!devices[1].group().meta.stale_leaf);
}

#[test]
fn private_keys_go_when_nobody_can_need_them() {
    let mut alice = Device::new(1);
    let count = |packages: &KeyPackages| packages.overlay.records().len();
    let each = {
        alice.package(Suite::Classical, false);
        count(&alice.packages)
    };
    alice.package(Suite::Classical, true);
    alice.package(Suite::Hybrid, true);
    assert_eq!(count(&alice.packages), 3 * each);
    let sweep = |alice: &mut Device, wall| {
        alice.packages.sweep(wall);
        alice.restart();
        count(&alice.packages) / each
    };
    // An ordinary one outlives its end by the life of a log entry: its welcome may lie in the inbox.
    let last = at(limits::KEY_PACKAGE_TIME + limits::ENTRY_TIME);
    assert_eq!(sweep(&mut alice, last), 3);
    assert_eq!(sweep(&mut alice, last.plus(MOMENT)), 2);
    // A last-resort one goes some time after another of its suite took its place.
    alice.wall = last.plus(MOMENT);
    alice.package(Suite::Classical, true);
    let last = alice.wall.plus(limits::LAST_RESORT_GRACE);
    assert_eq!(sweep(&mut alice, last), 3);
    assert_eq!(sweep(&mut alice, last.plus(MOMENT)), 2);
    assert_eq!(sweep(&mut alice, UnixMillis(u64::MAX)), 0);
}

#[test]
fn so_many_private_keys_are_kept_and_those_that_end_last() {
    let mut alice = Device::new(1);
    let (first, last_resort) =
        (alice.package(Suite::Classical, false), alice.package(Suite::Classical, true));
    let mut second = Vec::new();
    for number in 0..limits::KEY_PACKAGES_KEPT {
        alice.wall = START.plus(MOMENT * u32::try_from(number + 1).unwrap());
        let package = alice.package(Suite::Classical, false);
        if number == 0 {
            second = package;
        }
    }
    alice.packages.sweep(alice.wall);
    alice.restart();
    let of = |package: &[u8]| {
        let crypto = Crypto::verifier(portable());
        let package = validate(&crypto, package).unwrap();
        package.hash_ref(&crypto).unwrap()
    };
    let keeps = |package: &[u8]| {
        let found: Option<KeyPackageBundle> =
            alice.packages.overlay.key_package(&of(package)).unwrap();
        found.is_some()
    };
    assert!(!keeps(&first));
    assert!(keeps(&second) && keeps(&last_resort));
}

#[test]
fn so_many_superseded_last_resorts_are_kept_and_those_of_late() {
    let mut alice = Device::new(1);
    let kept = |device: &Device| device.packages.overlay.keys(b"P").len();
    for number in 0..limits::LAST_RESORTS_KEPT + 2 {
        alice.wall = START.plus(MOMENT * u32::try_from(number).unwrap());
        alice.package(Suite::Classical, true);
    }
    // One of them is not superseded, and those of another suite supersede none of it.
    alice.package(Suite::Hybrid, true);
    let before = alice.packages.overlay.keys(b"P");
    assert_eq!(kept(&alice), limits::LAST_RESORTS_KEPT + 3);
    alice.packages.sweep(alice.wall);
    assert_eq!(kept(&alice), limits::LAST_RESORTS_KEPT + 2);
    alice.restart();
    let after = alice.packages.overlay.keys(b"P");
    assert_eq!(before.iter().filter(|key| !after.contains(key)).count(), 1);
}

#[test]
fn other_suites_kinds_and_lengths_are_refused() {
    let mut alice = Device::new(1);
    let package = alice.package(Suite::Classical, false);
    let refusal = |package: &[u8]| check(portable(), package, START).unwrap_err();
    for suite in [0x0002_u16, 0x0003, 0x0007, 0x004E, 0xFFFF] {
        let mut other = package.clone();
        other[6..8].copy_from_slice(&suite.to_be_bytes());
        assert_eq!(refusal(&other), MlsError::Suite);
    }
    let mut other = package.clone();
    other[6..8].copy_from_slice(&Suite::Hybrid.number().to_be_bytes());
    assert!(matches!(refusal(&other), MlsError::Invalid(_)));
    let founding = alice.found(Suite::Classical);
    assert!(matches!(refusal(&founding.group_info), MlsError::Invalid(_)));
    let mut long = package;
    long.resize(limits::KEY_PACKAGE_BYTES + 1, 0);
    assert!(matches!(refusal(&long), MlsError::Invalid(_)));
}

#[test]
fn a_device_whose_record_does_not_hold_makes_none() {
    let mut alice = Device::new(1);
    alice.local.record.sequence += 1;
    let cx = crate::mls::Context {
        backend: alice.backend,
        entropy: &mut alice.entropy,
        wall: alice.wall,
    };
    let made = alice.packages.generate(cx, &alice.local, Suite::Classical, false);
    assert_eq!(made, Err(MlsError::Record));
    assert_eq!(alice.packages.take_ops(), []);
    let bad = vec![(b"P1".to_vec(), vec![9, 9, 9])];
    assert!(matches!(KeyPackages::restore(bad), Err(MlsError::Damaged(_))));
}

#[test]
fn a_welcome_for_another_device_is_not_taken() {
    let mut devices = [Device::new(1), Device::new(2)];
    let mut world = World::new(Suite::Classical, &mut devices[..1]);
    let package = devices[1].package(Suite::Classical, false);
    let bundle = devices[0].commit(&adding(&[package])).unwrap();
    let tree = world.accept(&mut devices[0], &bundle).unwrap();
    let welcome = bundle.welcome.unwrap();
    // One that holds no key package of it, and one that holds another device's.
    let mut stranger = Device::new(3);
    assert_eq!(stranger.join(&welcome, &tree), Err(MlsError::NotForUs));
    let own = core::mem::replace(&mut devices[1].local, stranger.local.clone());
    assert_eq!(devices[1].join(&welcome, &tree), Err(MlsError::Record));
    devices[1].local = own;
    devices[1].join(&welcome, &tree).unwrap();
    world.agree(&devices.each_ref());
}

/// A key of one package, a leaf of another: whoever made this welcome knows a way for us to be in a group whose
/// secrets we cannot follow.
#[test]
fn a_welcome_to_a_leaf_of_another_package_is_refused() {
    let mut devices = [Device::new(1), Device::new(2)];
    let mut world = World::new(Suite::Classical, &mut devices[..1]);
    let old = devices[1].package(Suite::Classical, false);
    let new = devices[1].package(Suite::Classical, false);
    let bundle = devices[0].commit(&adding(core::slice::from_ref(&old))).unwrap();
    let tree = world.accept(&mut devices[0], &bundle).unwrap();
    let welcome = bundle.welcome.unwrap();
    let diverted = divert(&devices[1], &welcome, &old, &new);
    let refusal = devices[1].join(&diverted, &tree);
    let why = "welcome to a leaf of another key package";
    assert_eq!(refusal, Err(MlsError::Invalid(why.to_owned())));
    // Diverting itself is right: back to the old one it is as good as it was.
    let back = divert(&devices[1], &diverted, &new, &old);
    devices[1].join(&back, &tree).unwrap();
    world.agree(&devices.each_ref());
}

/// Re-encrypts a welcome for one package of a device to another one (RFC 9420 §12.4.3.1, §5.1.3).
fn divert(device: &Device, welcome: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let crypto = Crypto::verifier(device.backend);
    let bundle = |package: &[u8]| -> (KeyPackageRef, KeyPackageBundle) {
        let package = validate(&crypto, package).unwrap();
        let reference = package.hash_ref(&crypto).unwrap();
        let bundle = device.packages.overlay.key_package(&reference).unwrap().unwrap();
        (reference, bundle)
    };
    let ((_, from), (reference, to)) = (bundle(from), bundle(to));
    let (head, mut rest) = welcome.split_at(6); // version, wire format, cipher suite
    let vector = |bytes: &mut &[u8]| VLBytes::tls_deserialize(bytes).unwrap();
    let (secrets, info) = (vector(&mut rest), vector(&mut rest));
    let mut secret = secrets.as_slice();
    let (_, kem_output, ciphertext) =
        (vector(&mut secret), vector(&mut secret), vector(&mut secret));
    assert!(secret.is_empty());
    let label = VLBytes::new(b"MLS 1.0 Welcome".to_vec());
    let context = [label.tls_serialize_detached(), info.tls_serialize_detached()];
    let context = context.map(Result::unwrap).concat();
    let config = || Suite::Classical.ciphersuite().hpke_config();
    let sealed = HpkeCiphertext { kem_output, ciphertext };
    let private = from.init_private_key();
    let opened = crypto.hpke_open(config(), &sealed, private, &context, b"").unwrap();
    let public = to.key_package().hpke_init_key().as_slice();
    let sealed = crypto.hpke_seal(config(), public, &context, b"", &opened).unwrap();
    let secret = [reference.tls_serialize_detached(), sealed.tls_serialize_detached()];
    let secrets = VLBytes::new(secret.map(Result::unwrap).concat());
    let tail = [secrets.tls_serialize_detached(), info.tls_serialize_detached()];
    [head, &tail.map(Result::unwrap).concat()].concat()
}
