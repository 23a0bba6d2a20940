//! Secrets at rest, under a password or under a key. Work of [`seal`] and [`open`] is slow on purpose (tens to
//! hundreds of milliseconds): run it as a job.
//!
//! ```text
//! under a password: 1 || 1 || memory in KiB (4) || passes (4) || lanes (1) || salt (16) || ciphertext and tag
//! under a key:      1 || 2 || salt (16) || ciphertext and tag
//! ```
//!
//! Numbers are big endian, the cipher is ChaCha20-Poly1305, the AAD is `"qpc-sealed-v1"`, everything before the
//! ciphertext, and the caller's own. The salt is fresh for every sealing, therefore so is the key, therefore the
//! nonce may be zero.

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

use super::{Aead, Backend, CryptoError, kdf};
use crate::env::Entropy;

/// Least memory in KiB (RFC 9106 §3.1: eight blocks per lane).
pub const MEMORY_LEAST: u32 = 8;
/// Most memory in KiB, 256 MiB: a hostile header makes nobody allocate more.
pub const MEMORY_MOST: u32 = 256 * 1024;
/// Most passes.
pub const PASSES_MOST: u32 = 16;
/// What sealing under a password adds, in bytes.
pub const OVERHEAD: usize = PASSWORD_HEADER + TAG;
/// What sealing under a key adds, in bytes.
pub const OVERHEAD_WITH_KEY: usize = KEY_HEADER + TAG;

const VERSION: u8 = 1;
const UNDER_PASSWORD: u8 = 1;
const UNDER_KEY: u8 = 2;
const SALT: usize = 16;
const TAG: usize = 16;
const PASSWORD_HEADER: usize = 2 + 4 + 4 + 1 + SALT;
const KEY_HEADER: usize = 2 + SALT;
const NONCE: [u8; 12] = [0; 12];
const AAD_DOMAIN: &[u8; 13] = b"qpc-sealed-v1";
const KEY_DOMAIN: &[u8; 17] = b"qpc-sealed-key-v1";

/// What a guess at the password costs (Argon2id, RFC 9106, one lane).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    memory_kib: u32,
    passes: u32,
}

impl Cost {
    /// 64 MiB and three passes, the memory-constrained recommendation of RFC 9106 §4 on one lane: about 0.1 s.
    pub const DEFAULT: Self = Self { memory_kib: 64 * 1024, passes: 3 };

    /// Memory in KiB within [`MEMORY_LEAST`] and [`MEMORY_MOST`], passes within 1 and [`PASSES_MOST`].
    pub fn new(memory_kib: u32, passes: u32) -> Option<Self> {
        let allowed = (MEMORY_LEAST..=MEMORY_MOST).contains(&memory_kib)
            && (1..=PASSES_MOST).contains(&passes);
        allowed.then_some(Self { memory_kib, passes })
    }

    fn key(self, password: &[u8], salt: &[u8]) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
        let params =
            Params::new(self.memory_kib, self.passes, 1, Some(32)).map_err(|_| CryptoError)?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(password, salt, key.as_mut_slice())
            .map_err(|_| CryptoError)?;
        Ok(key)
    }
}

/// Seals `plaintext` under a password; `aad` must be given again to open it. Fails if there is no memory for it.
pub fn seal(
    backend: Backend,
    password: &[u8],
    cost: Cost,
    plaintext: &[u8],
    aad: &[u8],
    entropy: &mut Entropy,
) -> Result<Vec<u8>, CryptoError> {
    let salt: [u8; SALT] = entropy.array();
    let mut header = Vec::with_capacity(OVERHEAD + plaintext.len());
    header.extend_from_slice(&[VERSION, UNDER_PASSWORD]);
    header.extend_from_slice(&cost.memory_kib.to_be_bytes());
    header.extend_from_slice(&cost.passes.to_be_bytes());
    header.push(1);
    header.extend_from_slice(&salt);
    let key = cost.key(password, &salt)?;
    finish(backend, &key, header, plaintext, aad)
}

/// Opens what [`seal`] made. A wrong password, a wrong `aad` and damaged bytes look the same; a header that asks
/// for more work than the bounds above fails before any is done.
pub fn open(
    backend: Backend,
    password: &[u8],
    sealed: &[u8],
    aad: &[u8],
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let (header, ciphertext) = sealed.split_first_chunk::<PASSWORD_HEADER>().ok_or(CryptoError)?;
    let [VERSION, UNDER_PASSWORD, m0, m1, m2, m3, p0, p1, p2, p3, 1, salt @ ..] = header else {
        return Err(CryptoError);
    };
    if ciphertext.len() < TAG {
        return Err(CryptoError);
    }
    let memory_kib = u32::from_be_bytes([*m0, *m1, *m2, *m3]);
    let passes = u32::from_be_bytes([*p0, *p1, *p2, *p3]);
    let key = Cost::new(memory_kib, passes).ok_or(CryptoError)?.key(password, salt)?;
    unseal(backend, &key, header, ciphertext, aad)
}

/// Seals `plaintext` under a key of 32 uniform bytes, such as OPAQUE's export key; quick. The cipher's key is
/// `HKDF-SHA256(salt, key, "qpc-sealed-key-v1")`, so the same key may serve elsewhere too.
pub fn seal_with_key(
    backend: Backend,
    key: &[u8; 32],
    plaintext: &[u8],
    aad: &[u8],
    entropy: &mut Entropy,
) -> Result<Vec<u8>, CryptoError> {
    let salt: [u8; SALT] = entropy.array();
    let mut header = Vec::with_capacity(OVERHEAD_WITH_KEY + plaintext.len());
    header.extend_from_slice(&[VERSION, UNDER_KEY]);
    header.extend_from_slice(&salt);
    finish(backend, &derived(backend, key, &salt), header, plaintext, aad)
}

/// Opens what [`seal_with_key`] made.
pub fn open_with_key(
    backend: Backend,
    key: &[u8; 32],
    sealed: &[u8],
    aad: &[u8],
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let (header, ciphertext) = sealed.split_first_chunk::<KEY_HEADER>().ok_or(CryptoError)?;
    let [VERSION, UNDER_KEY, salt @ ..] = header else { return Err(CryptoError) };
    unseal(backend, &derived(backend, key, salt), header, ciphertext, aad)
}

fn derived(backend: Backend, key: &[u8; 32], salt: &[u8; SALT]) -> Zeroizing<[u8; 32]> {
    let prk = kdf::extract(backend, salt, &[key]);
    kdf::expand_key(backend, prk.as_slice(), &[KEY_DOMAIN])
}

fn finish(
    backend: Backend,
    key: &[u8; 32],
    header: Vec<u8>,
    plaintext: &[u8],
    aad: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let aad = [AAD_DOMAIN, header.as_slice(), aad].concat();
    let ciphertext = backend.aead_seal(Aead::ChaCha20Poly1305, key, &NONCE, &aad, plaintext)?;
    let mut out = header;
    out.extend_from_slice(&ciphertext);
    Ok(out)
}

fn unseal(
    backend: Backend,
    key: &[u8; 32],
    header: &[u8],
    ciphertext: &[u8],
    aad: &[u8],
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let aad = [AAD_DOMAIN, header, aad].concat();
    backend.aead_open(Aead::ChaCha20Poly1305, key, &NONCE, &aad, ciphertext)
}

#[cfg(test)]
mod tests;
