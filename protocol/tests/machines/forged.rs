//! Commits whose path secrets are forged: no server can see it, the members do, and go on.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::reset::{all_talk, reset};
use crate::talk::*;
use qpc_protocol::client::event::{Event, Outcome, Why};
use qpc_protocol::crypto::{Aead, CryptoError, Primitives, Signer, portable};
use qpc_protocol::id::ChannelId;
use qpc_protocol::wire::message::{Body, Request};
use qpc_sim::world::{Rules, World};
use zeroize::Zeroizing;

/// What a member who means harm does to the path secrets of its commit, before it signs it and computes its tags.
#[derive(Clone, Copy, Debug)]
enum Forgery {
    /// They are sealed right.
    None,
    /// What is sealed opens for nobody.
    Sealed,
    /// It opens, and is another secret than the path was made from.
    Secret,
}

/// The primitives of a machine whose owner has changed it.
#[derive(Debug)]
struct Forger {
    forgery: AtomicU8,
    forged: AtomicU8,
}

static FORGER: Forger = Forger { forgery: AtomicU8::new(0), forged: AtomicU8::new(0) };

impl Forger {
    fn set(&self, forgery: Forgery) {
        self.forgery.store(forgery as u8, Ordering::Relaxed);
    }

    fn is(&self, forgery: Forgery) -> bool {
        let is = self.forgery.load(Ordering::Relaxed) == forgery as u8;
        if is && !matches!(forgery, Forgery::None) {
            self.forged.fetch_add(1, Ordering::Relaxed);
        }
        is
    }

    /// How many secrets were forged since the last call.
    fn take_forged(&self) -> u8 {
        self.forged.swap(0, Ordering::Relaxed)
    }
}

impl Primitives for Forger {
    fn name(&self) -> &'static str {
        portable().name()
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
        let mut plaintext = plaintext.to_vec();
        if self.is(Forgery::Secret) {
            plaintext[0] ^= 1;
        }
        let mut sealed = portable().aead_seal(aead, key, nonce, aad, &plaintext)?;
        if self.is(Forgery::Sealed) {
            sealed[0] ^= 1;
        }
        Ok(sealed)
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
        portable().x25519_public(secret)
    }

    fn x25519(
        &self,
        secret: &[u8; 32],
        public: &[u8; 32],
    ) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
        portable().x25519(secret, public)
    }

    fn ed25519_public(&self, seed: &[u8; 32]) -> [u8; 32] {
        portable().ed25519_public(seed)
    }

    fn ed25519_sign(&self, seed: &[u8; 32], message: &[u8]) -> [u8; 64] {
        portable().ed25519_sign(seed, message)
    }

    fn ed25519_signer(&self, seed: &[u8; 32]) -> Box<dyn Signer> {
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
        portable().mlkem768_public(seed)
    }

    fn mlkem768_encapsulate(
        &self,
        public: &[u8],
        randomness: &[u8; 32],
    ) -> Result<(Vec<u8>, Zeroizing<[u8; 32]>), CryptoError> {
        portable().mlkem768_encapsulate(public, randomness)
    }

    fn mlkem768_decapsulate(
        &self,
        seed: &[u8; 64],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
        portable().mlkem768_decapsulate(seed, ciphertext)
    }
}

/// A member's commit of nothing but new keys, with forged secrets: nobody else seals anything meanwhile.
fn forge(world: &mut World, by: usize, channel: ChannelId, forgery: Forgery) {
    lie(world, by, true, |frame| {
        if matches!(frame.body, Body::Request(Request::Commit(_))) {
            FORGER.set(Forgery::None);
        }
        vec![frame]
    });
    FORGER.set(forgery);
    let outcome = world.done(by, |client, now| client.update(now, channel));
    world.liar = None;
    assert!(matches!(outcome, Outcome::Epoch(_)), "the server has no way to see it: {outcome:?}");
    assert!(FORGER.take_forged() >= 2, "one secret for each half of the tree");
}

/// How often a device said that a commit does not open for it.
fn unopened(world: &World, device: usize) -> usize {
    let of = |event: &&Event| matches!(event, Event::FellOut { why: Why::Unopened, .. });
    world.devices[device].log.iter().filter(of).count()
}

/// The server accepts what it cannot look into. Members say what has happened and come back by themselves; a member who
/// does it again breaks the group, until an admin begins another.
#[test]
fn a_group_that_forged_secrets_have_broken_goes_on_after_a_reset() {
    for (seed, forgery) in [(90, Forgery::Sealed), (91, Forgery::Secret)] {
        let mut world = World::new(Rules { backend: &FORGER, ..Rules::new(seed) });
        for name in ["alice", "bob", "carol", "dave"] {
            world.register(name);
        }
        let channel = group_of(&mut world, ALICE, &["bob", "carol", "dave"]);
        let (others, all) = ([ALICE, CAROL, 3], [ALICE, BOB, CAROL, 3]);
        all_talk(&mut world, channel, &all, 1);
        forge(&mut world, BOB, channel, forgery);
        world.settle();
        for device in others {
            assert_eq!(unopened(&world, device), 1, "{forgery:?}, device {device}");
        }
        agree(&world, channel, &all);

        forge(&mut world, BOB, channel, forgery);
        world.pass(Duration::from_secs(5));
        let epoch = world.group(BOB, channel).epoch;
        let mut waiting = Vec::new();
        for device in others {
            assert_eq!(unopened(&world, device), 2, "{forgery:?}, device {device}");
            assert!(world.group(device, channel).epoch < epoch, "not again within the hour");
            waiting.push((device, say(&mut world, device, channel, &format!("kept by {device}"))));
        }
        assert_eq!(reset(&mut world, ALICE, channel, None), 2);
        for (device, ticket) in waiting {
            assert!(matches!(world.outcome(device, ticket), Outcome::Sent(_)));
        }
        all_talk(&mut world, channel, &all, 2);
        for device in others {
            assert_eq!(count(&world, BOB, &format!("kept by {device}")), 1);
        }
        // And bob is put out.
        let bob = me(&mut world, BOB).account;
        world.done(ALICE, |client, now| client.remove(now, channel, bob));
        world.settle();
        agree(&world, channel, &others);
    }
}
