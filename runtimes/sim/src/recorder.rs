//! A backend that watches: it computes with another one and remembers each key and what was encrypted under it. It can
//! also be told to do as the program of a member who means harm.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use qpc_protocol::crypto::{Aead, Backend, CryptoError, Primitives, Signer};
use zeroize::Zeroizing;

/// Shortest secret that is looked for, in bytes.
pub const PLANTED_BYTES: usize = 8;
/// A path secret in bytes.
const PATH_SECRET: usize = 32;
/// Slots of the sieve in front of the search, a power of two.
const SIEVE: usize = 1 << 20;

/// See the module. One for each world: what it remembers ends with [`Self::forget`].
pub struct Recorder {
    inner: Backend,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// What a key and a nonce encrypted.
    sealed: BTreeMap<[u8; 32], [u8; 32]>,
    reuse: Option<String>,
    secrets: Secrets,
    /// Where each ciphertext's key came from, for whoever asks.
    keys: Option<Keys>,
    forgery: Option<Forgery>,
    forged: usize,
}

/// What is done to path secrets when they are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgery {
    /// It opens for nobody.
    Sealed,
    /// It opens, and is something else.
    Secret,
}

/// A key of 16 bytes, and the ratchet secret that it was derived from, if that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MessageKey {
    pub(crate) key: [u8; 16],
    pub(crate) secret: Option<[u8; 32]>,
}

#[derive(Default)]
struct Keys {
    /// By the ciphertext's SHA-256.
    seals: BTreeMap<[u8; 32], [u8; 16]>,
    /// What HMAC made of which key: the first 16 bytes of the one, the other.
    derived: BTreeMap<[u8; 16], [u8; 32]>,
}

/// Bytes that are to be in nothing that is sent, found by their first eight.
#[derive(Default)]
struct Secrets {
    known: BTreeSet<Vec<u8>>,
    by_start: HashMap<[u8; PLANTED_BYTES], Vec<(&'static str, Vec<u8>)>>,
    /// One bit for each slot that some start falls into.
    sieve: Vec<u64>,
}

fn slot(start: [u8; PLANTED_BYTES]) -> (usize, u64) {
    let mixed = u64::from_le_bytes(start).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let slot = (mixed >> 44) as usize % SIEVE;
    (slot / 64, 1 << (slot % 64))
}

impl Secrets {
    fn add(&mut self, what: &'static str, secret: &[u8]) {
        let Some(start) = secret.first_chunk::<PLANTED_BYTES>() else { return };
        // Seeds of zeros and the like are no secrets.
        if secret.iter().all(|byte| *byte == secret[0]) || !self.known.insert(secret.to_vec()) {
            return;
        }
        self.by_start.entry(*start).or_default().push((what, secret.to_vec()));
        self.sieve.resize(SIEVE / 64, 0);
        let (word, bit) = slot(*start);
        self.sieve[word] |= bit;
    }

    fn find(&self, bytes: &[u8]) -> Option<&'static str> {
        if self.sieve.is_empty() {
            return None;
        }
        bytes.windows(PLANTED_BYTES).enumerate().find_map(|(at, window)| {
            let start: [u8; PLANTED_BYTES] = window.try_into().ok()?;
            let (word, bit) = slot(start);
            if self.sieve[word] & bit == 0 {
                return None;
            }
            let found = self.by_start.get(&start)?.iter();
            found
                .filter(|(_, secret)| bytes[at..].starts_with(secret))
                .map(|(what, _)| *what)
                .next()
        })
    }
}

/// All there are: what nothing points to any more, a fuzzer's leak detector takes for lost.
static ALL: Mutex<Vec<&Recorder>> = Mutex::new(Vec::new());

impl Recorder {
    /// Over that backend. It has to live as long as the program, as every backend: a few hundred bytes each.
    pub fn over(inner: Backend) -> &'static Self {
        let recorder: &'static Self = Box::leak(Box::new(Self { inner, seen: Mutex::default() }));
        ALL.lock().unwrap_or_else(PoisonError::into_inner).push(recorder);
        recorder
    }

    /// Lets all that it remembers go.
    pub fn forget(&self) {
        *self.seen() = Seen::default();
    }

    /// From now on [`Self::find`] finds these bytes.
    pub fn plant(&self, secret: &[u8]) {
        assert!(secret.len() >= PLANTED_BYTES, "too short to be looked for");
        self.seen().secrets.add("planted", secret);
    }

    /// What secret is in these bytes, if there is one. Primitives that keep nothing secret are let be.
    pub fn find(&self, bytes: &[u8]) -> Option<&'static str> {
        self.is_secure().then(|| self.seen().secrets.find(bytes))?
    }

    /// Which key and nonce encrypted two different plaintexts, if any did.
    pub fn reuse(&self) -> Option<String> {
        self.is_secure().then(|| self.seen().reuse.clone())?
    }

    /// From now on, until it is told otherwise, the path secrets of commits are forged, where no server can see it.
    pub fn forge_path_secrets(&self, forgery: Option<Forgery>) {
        self.seen().forgery = forgery;
    }

    /// How much was forged since the last call.
    pub fn take_forged(&self) -> usize {
        core::mem::take(&mut self.seen().forged)
    }

    /// Remembers from now on which key makes which ciphertext. Returns whether its primitives keep anything secret.
    pub(crate) fn keep_keys(&self) -> bool {
        self.seen().keys.get_or_insert_default();
        self.is_secure()
    }

    /// The key that a ciphertext was made with, if keys are kept.
    pub(crate) fn key_of(&self, ciphertext: &[u8]) -> Option<MessageKey> {
        let digest = self.inner.sha256(&[ciphertext]);
        let seen = self.seen();
        let keys = seen.keys.as_ref()?;
        let key = *keys.seals.get(&digest)?;
        Some(MessageKey { key, secret: keys.derived.get(&key).copied() })
    }

    fn is_secure(&self) -> bool {
        matches!(self.inner.name(), "portable" | "fast")
    }

    fn secret(&self, what: &'static str, bytes: &[u8]) {
        self.seen().secrets.add(what, bytes);
    }

    fn agreed(&self, shared: Zeroizing<[u8; 32]>) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
        self.secret("an agreed secret", &*shared);
        Ok(shared)
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recorder({:?})", self.inner)
    }
}

impl Primitives for Recorder {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.inner.sha256(parts)
    }

    fn hmac_sha256(&self, key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        let made = self.inner.hmac_sha256(key, parts);
        if let Some(keys) = &mut self.seen().keys
            && let (Ok(key), Some(first)) = (key.try_into(), made.first_chunk())
        {
            keys.derived.insert(*first, key);
        }
        made
    }

    fn hmac_sha512(&self, key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 64]> {
        self.inner.hmac_sha512(key, parts)
    }

    fn aead_seal(
        &self,
        aead: Aead,
        key: &[u8],
        nonce: &[u8; 12],
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        let under = self.inner.sha256(&[&[aead as u8], nonce, key]);
        let length = (aad.len() as u64).to_be_bytes();
        let what = self.inner.sha256(&[&length, aad, plaintext]);
        let mut seen = self.seen();
        seen.secrets.add("an AEAD key", key);
        if *seen.sealed.entry(under).or_insert(what) != what && seen.reuse.is_none() {
            let sizes = (aad.len(), plaintext.len());
            seen.reuse = Some(format!(
                "{aead:?}: a key and a nonce sealed two plaintexts, now {sizes:?} bytes"
            ));
        }
        // A path secret is as long as a hash, and sealed with nothing beside it (RFC 9420 §7.6, §5.1.3).
        let of_path = aad.is_empty() && plaintext.len() == PATH_SECRET;
        let forgery = seen.forgery.filter(|_| of_path);
        seen.forged += usize::from(forgery.is_some());
        drop(seen);
        let mut plaintext = Zeroizing::new(plaintext.to_vec());
        if forgery == Some(Forgery::Secret) {
            plaintext[0] ^= 1;
        }
        let mut made = self.inner.aead_seal(aead, key, nonce, aad, &plaintext)?;
        if forgery == Some(Forgery::Sealed) {
            made[0] ^= 1;
        }
        if let Some(keys) = &mut self.seen().keys
            && let Ok(key) = key.try_into()
        {
            keys.seals.insert(self.inner.sha256(&[&made]), key);
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
        self.inner.aead_open(aead, key, nonce, aad, ciphertext)
    }

    fn x25519_public(&self, secret: &[u8; 32]) -> [u8; 32] {
        self.secret("an X25519 key", secret);
        self.inner.x25519_public(secret)
    }

    fn x25519(
        &self,
        secret: &[u8; 32],
        public: &[u8; 32],
    ) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
        self.secret("an X25519 key", secret);
        self.agreed(self.inner.x25519(secret, public)?)
    }

    fn ed25519_public(&self, seed: &[u8; 32]) -> [u8; 32] {
        self.secret("an Ed25519 key", seed);
        self.inner.ed25519_public(seed)
    }

    fn ed25519_sign(&self, seed: &[u8; 32], message: &[u8]) -> [u8; 64] {
        self.secret("an Ed25519 key", seed);
        self.inner.ed25519_sign(seed, message)
    }

    fn ed25519_signer(&self, seed: &[u8; 32]) -> Box<dyn Signer> {
        self.secret("an Ed25519 key", seed);
        self.inner.ed25519_signer(seed)
    }

    fn ed25519_verify(
        &self,
        public: &[u8; 32],
        message: &[u8],
        signature: &[u8; 64],
    ) -> Result<(), CryptoError> {
        self.inner.ed25519_verify(public, message, signature)
    }

    fn mlkem768_public(&self, seed: &[u8; 64]) -> Vec<u8> {
        self.secret("an ML-KEM key", seed);
        self.inner.mlkem768_public(seed)
    }

    fn mlkem768_encapsulate(
        &self,
        public: &[u8],
        randomness: &[u8; 32],
    ) -> Result<(Vec<u8>, Zeroizing<[u8; 32]>), CryptoError> {
        self.secret("an ML-KEM encapsulation's randomness", randomness);
        let (ciphertext, shared) = self.inner.mlkem768_encapsulate(public, randomness)?;
        Ok((ciphertext, self.agreed(shared)?))
    }

    fn mlkem768_decapsulate(
        &self,
        seed: &[u8; 64],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
        self.secret("an ML-KEM key", seed);
        self.agreed(self.inner.mlkem768_decapsulate(seed, ciphertext)?)
    }
}
