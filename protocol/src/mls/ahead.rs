//! Encapsulations made ahead of what they are to encrypt, side by side: OpenMLS encrypts to joiners one after the
//! other, and nearly all of that time is the KEM's, which needs their keys alone.

use core::sync::atomic::{AtomicBool, Ordering};
use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::parallel;
use crate::crypto::Backend;
use crate::crypto::hpke::{self, Kem};

/// One encapsulation for each of many keys.
pub(super) struct Encapsulations {
    kem: Kem,
    of: BTreeMap<Vec<u8>, Encapsulation>,
}

/// An encapsulated secret, and the secret. Good for a single ciphertext.
pub(super) struct Encapsulation {
    pub(super) enc: Vec<u8>,
    pub(super) shared: Zeroizing<[u8; 32]>,
    taken: AtomicBool,
}

impl Encapsulations {
    /// Encapsulates to each of these keys; not to those that nobody can encapsulate to. `randomness` must be fresh and
    /// differ for every key.
    pub(super) fn new(
        backend: Backend,
        kem: Kem,
        keys: &[&[u8]],
        randomness: impl Fn(&[u8]) -> Zeroizing<[u8; 64]> + Sync,
    ) -> Self {
        let made = parallel::each(keys, |key| {
            let randomness = randomness(key);
            let randomness = &randomness[..kem.randomness_len()];
            let (enc, shared) = hpke::encapsulate(backend, kem, key, randomness).ok()?;
            Some((key.to_vec(), Encapsulation { enc, shared, taken: AtomicBool::new(false) }))
        });
        Self { kem, of: made.into_iter().flatten().collect() }
    }

    /// The one for this key, the first time that it is asked for.
    pub(super) fn take(&self, kem: Kem, key: &[u8]) -> Option<&Encapsulation> {
        let found = self.of.get(key).filter(|_| kem == self.kem)?;
        (!found.taken.swap(true, Ordering::Relaxed)).then_some(found)
    }
}
