//! Hears what the machines do with keys: a backend that passes everything on and remembers, for this thread, which key
//! made which ciphertext and which bytes are secret.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use qpc_protocol::crypto::{Aead, Backend, CryptoError, Primitives, Signer, portable};
use zeroize::Zeroizing;

/// A key of an application message, and the ratchet secret that it was derived from, if that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MessageKey {
    pub(super) key: [u8; 16],
    pub(super) secret: Option<[u8; 32]>,
}

#[derive(Default)]
struct Heard {
    /// By the ciphertext's SHA-256.
    seals: BTreeMap<[u8; 32], [u8; 16]>,
    /// What HMAC made of which key: the first 16 bytes of the one, the other.
    derived: BTreeMap<[u8; 16], [u8; 32]>,
    /// The first bytes of every private or symmetric key.
    secrets: BTreeSet<[u8; 8]>,
}

thread_local! {
    static HEARD: RefCell<Heard> = RefCell::default();
}

/// The real primitives, overheard on this thread from here on.
pub(crate) fn portable_overheard() -> Backend {
    HEARD.with_borrow_mut(|heard| *heard = Heard::default());
    static EAR: Ear = Ear;
    &EAR
}

/// The key that a ciphertext was made with on this thread.
pub(super) fn key_of(ciphertext: &[u8]) -> Option<MessageKey> {
    let digest = portable().sha256(&[ciphertext]);
    HEARD.with_borrow(|heard| {
        let key = *heard.seals.get(&digest)?;
        Some(MessageKey { key, secret: heard.derived.get(&key).copied() })
    })
}

/// Where the first secret is in these bytes.
pub(super) fn find_secret(bytes: &[u8]) -> Option<usize> {
    HEARD.with_borrow(|heard| {
        // A quarter million bits: most places are passed over by their first bytes.
        let mut marked = vec![0_u64; 4_096];
        for secret in &heard.secrets {
            let at = mark(secret);
            marked[at >> 6] |= 1 << (at & 63);
        }
        bytes.windows(8).position(|window| {
            let at = mark(window);
            marked[at >> 6] >> (at & 63) & 1 == 1 && heard.secrets.contains(window)
        })
    })
}

fn mark(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) | usize::from(bytes[1]) << 8 | usize::from(bytes[2] & 3) << 16
}

fn secret(key: &[u8]) {
    if let Some(first) = key.first_chunk::<8>()
        // Keys that are all zeros are nobody's.
        && first.iter().any(|byte| *byte != first[0])
    {
        HEARD.with_borrow_mut(|heard| heard.secrets.insert(*first));
    }
}

#[derive(Debug)]
struct Ear;

impl Primitives for Ear {
    fn name(&self) -> &'static str {
        portable().name()
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        portable().sha256(parts)
    }

    fn hmac_sha256(&self, key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        let made = portable().hmac_sha256(key, parts);
        if let (Ok(key), Some(first)) = (key.try_into(), made.first_chunk()) {
            HEARD.with_borrow_mut(|heard| heard.derived.insert(*first, key));
        }
        made
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
        let made = portable().aead_seal(aead, key, nonce, aad, plaintext)?;
        secret(key);
        if let Ok(key) = key.try_into() {
            let digest = portable().sha256(&[&made]);
            HEARD.with_borrow_mut(|heard| heard.seals.insert(digest, key));
        }
        Ok(made)
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

    fn x25519_public(&self, key: &[u8; 32]) -> [u8; 32] {
        secret(key);
        portable().x25519_public(key)
    }

    fn x25519(
        &self,
        key: &[u8; 32],
        public: &[u8; 32],
    ) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
        let shared = portable().x25519(key, public)?;
        secret(&*shared);
        Ok(shared)
    }

    fn ed25519_public(&self, seed: &[u8; 32]) -> [u8; 32] {
        secret(seed);
        portable().ed25519_public(seed)
    }

    fn ed25519_sign(&self, seed: &[u8; 32], message: &[u8]) -> [u8; 64] {
        secret(seed);
        portable().ed25519_sign(seed, message)
    }

    fn ed25519_signer(&self, seed: &[u8; 32]) -> Box<dyn Signer> {
        secret(seed);
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
        secret(seed);
        portable().mlkem768_public(seed)
    }

    fn mlkem768_encapsulate(
        &self,
        public: &[u8],
        randomness: &[u8; 32],
    ) -> Result<(Vec<u8>, Zeroizing<[u8; 32]>), CryptoError> {
        let (ciphertext, shared) = portable().mlkem768_encapsulate(public, randomness)?;
        secret(&*shared);
        Ok((ciphertext, shared))
    }

    fn mlkem768_decapsulate(
        &self,
        seed: &[u8; 64],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
        portable().mlkem768_decapsulate(seed, ciphertext)
    }
}
