//! Keys that nobody can encrypt to: whoever brings one into a group would make every later commit that has to be
//! sealed to it fail.

use core::sync::atomic::{AtomicUsize, Ordering};

use openmls::prelude::{KeyPackage, MlsMessageBodyIn, ProtocolVersion};
use zeroize::Zeroizing;

use super::guards::{forge, refused};
use super::world::{Device, START, World, adding};
use crate::crypto::{Aead, Backend, CryptoError, Primitives, portable};
use crate::mls::key_package::check;
use crate::mls::suite::Suite;
use crate::mls::{Crypto, Provider};
use crate::mls::{MlsError, encode, parse};

/// The portable backend, but one of the public keys that it makes is spoilt.
#[derive(Debug)]
struct Spoiling {
    suite: Suite,
    /// How many keys come before the one that is spoilt.
    before: AtomicUsize,
}

fn spoiling(suite: Suite, before: usize) -> Backend {
    Box::leak(Box::new(Spoiling { suite, before: AtomicUsize::new(before) }))
}

impl Spoiling {
    fn is_due(&self, suite: Suite) -> bool {
        suite == self.suite && self.before.fetch_sub(1, Ordering::Relaxed) == 0
    }
}

impl Primitives for Spoiling {
    fn name(&self) -> &'static str {
        "spoiling"
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        portable().sha256(parts)
    }

    fn hmac_sha256(&self, key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        portable().hmac_sha256(key, parts)
    }

    fn hmac_sha512(&self, key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 64]> {
        portable().hmac_sha512(key, parts)
    }

    fn aead_seal(
        &self,
        aead: Aead,
        key: &[u8],
        nonce: &[u8; 12],
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        portable().aead_seal(aead, key, nonce, aad, plaintext)
    }

    fn aead_open(
        &self,
        aead: Aead,
        key: &[u8],
        nonce: &[u8; 12],
        aad: &[u8],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        portable().aead_open(aead, key, nonce, aad, ciphertext)
    }

    fn x25519_public(&self, secret: &[u8; 32]) -> [u8; 32] {
        let public = portable().x25519_public(secret);
        if self.is_due(Suite::Classical) { [0; 32] } else { public }
    }

    /// Does as if it could encrypt to any key.
    fn x25519(
        &self,
        secret: &[u8; 32],
        public: &[u8; 32],
    ) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
        portable().x25519(secret, public).or(Ok(Zeroizing::new([0; 32])))
    }

    fn ed25519_public(&self, seed: &[u8; 32]) -> [u8; 32] {
        portable().ed25519_public(seed)
    }

    fn ed25519_sign(&self, seed: &[u8; 32], message: &[u8]) -> [u8; 64] {
        portable().ed25519_sign(seed, message)
    }

    fn ed25519_signer(&self, seed: &[u8; 32]) -> Box<dyn crate::crypto::Signer> {
        portable().ed25519_signer(seed)
    }

    fn ed25519_verify(
        &self,
        public: &[u8; 32],
        message: &[u8],
        signature: &[u8; 64],
    ) -> Result<(), CryptoError> {
        portable().ed25519_verify(public, message, signature)
    }

    fn mlkem768_public(&self, seed: &[u8; 64]) -> Vec<u8> {
        let mut public = portable().mlkem768_public(seed);
        if self.is_due(Suite::Hybrid) {
            public[600..603].fill(0xFF);
        }
        public
    }

    /// Does as if it could encrypt to any key.
    fn mlkem768_encapsulate(
        &self,
        public: &[u8],
        randomness: &[u8; 32],
    ) -> Result<(Vec<u8>, Zeroizing<[u8; 32]>), CryptoError> {
        let other = portable().mlkem768_public(&[1; 64]);
        portable()
            .mlkem768_encapsulate(public, randomness)
            .or_else(|_| portable().mlkem768_encapsulate(&other, randomness))
    }

    fn mlkem768_decapsulate(
        &self,
        seed: &[u8; 64],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
        portable().mlkem768_decapsulate(seed, ciphertext)
    }
}

fn is_unusable(error: &MlsError) -> bool {
    matches!(error, MlsError::Invalid(why) if why.contains("nobody can encrypt to"))
}

/// A key package whose init key, or else whose leaf's key, nobody can encrypt to.
fn package(device: &mut Device, suite: Suite, before: usize) -> Vec<u8> {
    device.backend = spoiling(suite, before);
    let package = device.package(suite, false);
    device.backend = portable();
    package
}

/// As OpenMLS takes it.
fn parsed(package: &[u8]) -> KeyPackage {
    let MlsMessageBodyIn::KeyPackage(package) = parse(package).unwrap() else {
        panic!("no key package");
    };
    package.validate(&Crypto::verifier(portable()), ProtocolVersion::Mls10).unwrap()
}

#[test]
fn key_packages_are_refused_wherever_they_appear() {
    for suite in Suite::ALL {
        for before in 0..2 {
            let mut devices = [Device::new(1), Device::new(2)];
            let mut world = World::new(suite, &mut devices);
            let mut guest = Device::new(3);
            let bad = package(&mut guest, suite, before);
            // Where it is uploaded and fetched, and where it is to be used.
            assert!(is_unusable(&check(portable(), &bad, START).unwrap_err()));
            let plan = adding(core::slice::from_ref(&bad));
            assert!(is_unusable(&devices[0].commit(&plan).unwrap_err()));

            // In a commit of somebody who does not mind.
            devices[0].backend = spoiling(suite, usize::MAX);
            let forged = forge(&mut devices[0], |commit| commit.propose_adds([parsed(&bad)]));
            devices[0].backend = portable();
            assert!(is_unusable(&refused(&mut world, &mut devices, 0, &forged)));

            // In a proposal.
            let alice = &mut devices[0];
            let group = alice.group.as_mut().unwrap();
            let provider = Provider::new(alice.backend, &mut alice.entropy, &group.overlay);
            let signer = alice.local.signer(portable());
            let proposed = group.mls.propose_add_member(&provider, &signer, &parsed(&bad));
            let proposal = proposed.unwrap().0.to_bytes().unwrap();
            let by_server = world.server.propose(alice.sender(), &proposal, START).unwrap_err();
            assert!(is_unusable(&by_server), "{by_server}");
            assert!(is_unusable(&devices[1].receive(&proposal).unwrap_err()));
        }
    }
}

/// One key after another of a commit with a path: its leaf, its two nodes, the group's external key.
#[test]
fn no_key_of_a_commit_may_be_unusable() {
    let mut devices = [Device::new(1), Device::new(2), Device::new(3)];
    let mut world = World::new(Suite::Hybrid, &mut devices);
    let forged = |devices: &mut [Device], before| {
        devices[0].backend = spoiling(Suite::Hybrid, before);
        let bundle = forge(&mut devices[0], |commit| commit.force_self_update(true));
        devices[0].backend = portable();
        bundle
    };
    for before in 0..3 {
        let bundle = forged(&mut devices, before);
        assert!(is_unusable(&refused(&mut world, &mut devices, 0, &bundle)), "{before}");
    }
    // The external key stands in the GroupInfo, which only the server sees; it is what others rejoin by.
    let bundle = forged(&mut devices, 3);
    assert!(matches!(world.accept_error(&devices[0], &bundle), MlsError::Invalid(_)));
    devices[0].run(|group, _, _| group.discard_pending()).unwrap();
    let bundle = forged(&mut devices, 4);
    world.accept(&mut devices[0], &bundle).unwrap();
    for device in &mut devices[1..] {
        device.follow(&bundle.commit).unwrap();
    }
    world.agree(&devices.iter().collect::<Vec<_>>());
}

/// A server that lets such a commit through is found out by whoever joins after it.
#[test]
fn nobody_joins_a_tree_with_an_unusable_key() {
    for before in [0, 1] {
        let mut devices = [Device::new(1), Device::new(2)];
        World::new(Suite::Hybrid, &mut devices);
        let [mut alice, _] = devices;
        let mut guest = Device::new(3);
        let package = guest.package(Suite::Hybrid, false);
        alice.backend = spoiling(Suite::Hybrid, before);
        forge(&mut alice, |commit| commit.force_self_update(true));
        let group = alice.group.as_mut().unwrap();
        let provider = Provider::new(alice.backend, &mut alice.entropy, &group.overlay);
        group.mls.merge_pending_commit(&provider).unwrap();
        let added = forge(&mut alice, |commit| commit.propose_adds([parsed(&package)]));
        let group = alice.group.as_mut().unwrap();
        let provider = Provider::new(alice.backend, &mut alice.entropy, &group.overlay);
        group.mls.merge_pending_commit(&provider).unwrap();
        let tree = encode(&group.mls.export_ratchet_tree()).unwrap();
        let error = guest.join(&added.welcome.unwrap(), &tree).unwrap_err();
        assert!(is_unusable(&error), "{error}");
    }
}
