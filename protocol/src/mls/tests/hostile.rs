//! Bytes that nobody honest sent.

use proptest::prelude::*;

use super::world::{Device, START, World, adding};
use crate::crypto::portable;
use crate::env::Entropy;
use crate::mls::commit::Wish;
use crate::mls::group::{Group, Plan};
use crate::mls::key_package::{KeyPackages, check};
use crate::mls::suite::Suite;
use crate::mls::{Context, MlsError};

/// One message of each kind, and who they are for.
struct Sample {
    alice: Device,
    bob: Device,
    application: Vec<u8>,
    commit: Vec<u8>,
    proposal: Vec<u8>,
    package: Vec<u8>,
    welcome: Vec<u8>,
    tree: Vec<u8>,
    guest: Device,
}

impl Sample {
    fn new(suite: Suite) -> Self {
        let mut devices = [Device::new(1), Device::new(2)];
        let mut world = World::new(suite, &mut devices);
        let [mut alice, bob] = devices;
        let application = alice.send(b"hello").unwrap();
        let mut guest = Device::new(3);
        let package = guest.package(suite, false);
        let bundle = alice.commit(&adding(core::slice::from_ref(&package))).unwrap();
        let welcome = bundle.welcome.clone().unwrap();
        let wall = alice.wall;
        // What Alice proposes in another life, so that it is of Bob's present epoch too.
        let mut other = Group::restore(alice.backend, alice.disk.records()).unwrap();
        let mut entropy = Entropy::from_seed([77; 32]);
        other.discard_pending().unwrap();
        let cx = Context { backend: portable(), entropy: &mut entropy, wall };
        let proposal = other.propose(cx, &alice.local, Wish::Add(&package)).unwrap();
        let tree = world.accept(&mut alice, &bundle).unwrap();
        let commit = bundle.commit;
        Self { alice, bob, application, commit, proposal, package, welcome, tree, guest }
    }

    fn handshakes_and_content(&self) -> [&Vec<u8>; 3] {
        [&self.application, &self.commit, &self.proposal]
    }
}

/// Receives on a device, without restarts: an error must leave no change.
fn refused(device: &mut Device, payload: &[u8]) -> MlsError {
    let group = device.group.as_mut().unwrap();
    let epoch = group.epoch();
    let cx = Context { backend: device.backend, entropy: &mut device.entropy, wall: device.wall };
    let error = group.receive(cx, payload).expect_err("accepted what nobody sent");
    assert_eq!(group.take_ops(), []);
    assert_eq!(group.epoch(), epoch);
    error
}

fn not_joined(guest: &mut Device, welcome: &[u8], tree: &[u8]) {
    let cx = Context { backend: guest.backend, entropy: &mut guest.entropy, wall: guest.wall };
    let joined = Group::join(cx, &guest.local, &mut guest.packages, welcome, tree);
    joined.expect_err("joined by what nobody sent");
    assert_eq!(guest.packages.take_ops(), []);
}

/// openmls GHSA-rrmv-c79f-cf5r and #2134: a slice shorter than its fields panicked; bytes behind a message were
/// ignored.
#[test]
fn regression_12_truncation_and_trailing_bytes() {
    for suite in Suite::ALL {
        let mut sample = Sample::new(suite);
        let messages: Vec<_> = sample.handshakes_and_content().map(Clone::clone).to_vec();
        for message in &messages {
            for length in 0..message.len() {
                refused(&mut sample.bob, &message[..length]);
            }
            refused(&mut sample.bob, &[message.as_slice(), &[0]].concat());
        }
        for length in 0..sample.package.len() {
            assert!(check(portable(), &sample.package[..length], START).is_err());
        }
        let longer = [sample.package.as_slice(), &[0]].concat();
        assert!(check(portable(), &longer, START).is_err());
        let (welcome, tree) = (sample.welcome.clone(), sample.tree.clone());
        for length in 0..welcome.len() {
            not_joined(&mut sample.guest, &welcome[..length], &tree);
        }
        not_joined(&mut sample.guest, &[welcome.as_slice(), &[0]].concat(), &tree);
        for length in 0..tree.len() {
            not_joined(&mut sample.guest, &welcome, &tree[..length]);
        }
        not_joined(&mut sample.guest, &welcome, &[tree.as_slice(), &[0]].concat());
        // All of them whole are good.
        sample.guest.join(&welcome, &tree).unwrap();
        sample.bob.read(&messages[0]).unwrap();
        sample.bob.receive(&messages[2]).unwrap();
        sample.bob.follow(&messages[1]).unwrap();
        assert_eq!(sample.bob.group().authenticator(), sample.alice.group().authenticator());
        assert_eq!(sample.guest.group().authenticator(), sample.alice.group().authenticator());
    }
}

/// A message with one bit changed: refused wherever it is, and the state is as before (RustCrypto snow
/// CVE-2024-58265 moved a counter).
#[test]
fn every_byte_is_covered_by_a_check() {
    let mut sample = Sample::new(Suite::Classical);
    let messages: Vec<_> = sample.handshakes_and_content().map(Clone::clone).to_vec();
    for message in &messages {
        for at in 0..message.len() {
            let mut spoilt = message.clone();
            spoilt[at] ^= 1 << (at % 8);
            refused(&mut sample.bob, &spoilt);
        }
    }
    for at in 0..sample.package.len() {
        let mut spoilt = sample.package.clone();
        spoilt[at] ^= 1 << (at % 8);
        assert!(check(portable(), &spoilt, START).is_err());
    }
    let (welcome, tree) = (sample.welcome.clone(), sample.tree.clone());
    for at in 0..tree.len() {
        let mut spoilt = tree.clone();
        spoilt[at] ^= 1 << (at % 8);
        not_joined(&mut sample.guest, &welcome, &spoilt);
    }
    for at in 0..welcome.len() {
        let mut spoilt = welcome.clone();
        spoilt[at] ^= 1 << (at % 8);
        not_joined(&mut sample.guest, &spoilt, &tree);
    }
    sample.bob.read(&messages[0]).unwrap();
    sample.bob.follow(&messages[1]).unwrap();
}

#[test]
fn kinds_in_the_wrong_place_are_refused() {
    let mut sample = Sample::new(Suite::Hybrid);
    let (welcome, tree) = (sample.welcome.clone(), sample.tree.clone());
    let (commit, package) = (sample.commit.clone(), sample.package.clone());
    let wrong = [&welcome, &tree, &package];
    for payload in wrong {
        assert!(matches!(refused(&mut sample.bob, payload), MlsError::Invalid(_)));
    }
    for payload in [&commit, &tree, &package, &sample.application.clone()] {
        not_joined(&mut sample.guest, payload, &tree);
        if payload != &tree {
            not_joined(&mut sample.guest, &welcome, payload);
        }
        assert!(payload == &package || check(portable(), payload, START).is_err());
    }
    not_joined(&mut sample.guest, &welcome, &vec![0; crate::limits::TREE_BYTES + 1]);
    // The tree of another epoch.
    let old = sample.bob.group().mls.export_ratchet_tree();
    not_joined(&mut sample.guest, &welcome, &crate::mls::encode(&old).unwrap());
}

#[test]
fn damaged_records_are_named_as_such() {
    let sample = Sample::new(Suite::Hybrid);
    let intact = sample.alice.disk.records();
    for (index, (key, value)) in intact.iter().enumerate() {
        for spoilt in [Vec::new(), value[..value.len() / 2].to_vec()] {
            if spoilt == *value {
                continue;
            }
            let mut records = intact.clone();
            records[index].1 = spoilt;
            let restored = Group::restore(portable(), records);
            let whole = matches!(key[0], b'n' | b'l' | b'k');
            assert!(whole || matches!(restored, Err(MlsError::Damaged(_))), "{}", key[0]);
        }
    }
    assert!(matches!(Group::restore(portable(), Vec::new()), Err(MlsError::Damaged(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut bob = Device::new(2);
        bob.found(Suite::Classical);
        refused(&mut bob, &noise);
        let framed = [&[0, 1, 0, 1, 32][..], &[7; 32], &noise].concat();
        refused(&mut bob, &framed);
        let framed = [&[0, 1, 0, 2, 32][..], &[7; 32], &[0; 8], &noise].concat();
        refused(&mut bob, &framed);
        not_joined(&mut bob, &noise, &noise);
        let framed = [&[0, 1, 0, 3, 0, 1][..], &noise].concat();
        not_joined(&mut bob, &framed, &noise);
        let framed = [&[0, 1, 0, 5, 0, 1, 0, 1][..], &noise].concat();
        prop_assert!(check(portable(), &framed, START).is_err());
        let records = vec![(b"M".to_vec(), noise.clone()), (b"P2".to_vec(), noise.clone())];
        prop_assert!(Group::restore(portable(), records.clone()).is_err());
        prop_assert!(KeyPackages::restore(records).is_err());
    }
}

#[test]
fn a_flood_of_proposals_is_bounded() {
    use crate::limits;
    let mut devices = [Device::new(1), Device::new(2)];
    World::new(Suite::Classical, &mut devices);
    let records = devices[0].disk.records();
    let mut accepted = 0;
    for round in 0..limits::PROPOSALS + 2 {
        // The admin proposes to add ever more devices, each time from the same state.
        let mut group = Group::restore(portable(), records.clone()).unwrap();
        let mut seed = [9; 32];
        seed[..8].copy_from_slice(&(round as u64).to_be_bytes());
        let mut guest = Device::from_entropy(portable(), Entropy::from_seed(seed));
        let package = guest.package(Suite::Classical, false);
        let crypto = crate::mls::Crypto::verifier(portable());
        let package = crate::mls::key_package::validate(&crypto, &package).unwrap();
        let mut entropy = Entropy::from_seed([3; 32]);
        let provider =
            crate::mls::provider::Provider::new(portable(), &mut entropy, &group.overlay);
        let signer = devices[0].local.signer(portable());
        let (proposal, _) = group.mls.propose_add_member(&provider, &signer, &package).unwrap();
        accepted += usize::from(devices[1].receive(&proposal.to_bytes().unwrap()).is_ok());
    }
    assert_eq!(accepted, limits::PROPOSALS);
    // What the admin proposed a plain member may commit.
    assert!(devices[1].commit(&Plan::default()).unwrap().welcome.is_some());
    assert_eq!(devices[1].merge().added.len(), limits::PROPOSALS);
}
