//! Cryptography: one small trait of primitives with two backends, and what is built from it.
//!
//! Both backends give the same bytes for the same inputs; randomness is always an argument.

pub mod checkpoint;
#[cfg(feature = "fast")]
mod fast;
pub mod hpke;
pub mod hybrid;
pub mod identity;
pub mod kdf;
mod portable;
pub mod safety_number;
pub mod seal;
mod strict;
pub mod xwing;

use core::fmt;

use thiserror::Error;
use zeroize::Zeroizing;

/// A cryptographic check that failed. Says no more on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("cryptographic check failed")]
pub struct CryptoError;

/// Which authenticated cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aead {
    /// AES-128-GCM: 16-byte key.
    Aes128Gcm,
    /// AES-256-GCM: 32-byte key.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439): 32-byte key.
    ChaCha20Poly1305,
}

impl Aead {
    /// Length of a key in bytes.
    pub fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }
}

/// What two keys agree on, if they do.
pub type SharedSecret = Result<Zeroizing<[u8; 32]>, CryptoError>;

/// The primitives that everything else is built from. No method draws randomness.
pub trait Primitives: fmt::Debug + Send + Sync {
    /// `portable` or `fast`.
    fn name(&self) -> &'static str;
    /// SHA-256 over the concatenation of `parts`.
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32];
    /// HMAC-SHA-256 over the concatenation of `parts`.
    fn hmac_sha256(&self, key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]>;
    /// HMAC-SHA-512 over the concatenation of `parts`.
    fn hmac_sha512(&self, key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 64]>;
    /// Ciphertext with the 16-byte tag behind it. Fails only on a wrong key length.
    fn aead_seal(
        &self,
        aead: Aead,
        key: &[u8],
        nonce: &[u8; 12],
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, CryptoError>;
    /// The plaintext, if the tag holds.
    fn aead_open(
        &self,
        aead: Aead,
        key: &[u8],
        nonce: &[u8; 12],
        aad: &[u8],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CryptoError>;
    /// X25519 public key (RFC 7748).
    fn x25519_public(&self, secret: &[u8; 32]) -> [u8; 32];
    /// X25519 shared secret; fails if it is all zeros.
    fn x25519(&self, secret: &[u8; 32], public: &[u8; 32]) -> SharedSecret;
    /// [`Self::x25519_public`] of the secret and [`Self::x25519`] of both, which backends may do for less than the two.
    fn x25519_both(&self, secret: &[u8; 32], public: &[u8; 32]) -> ([u8; 32], SharedSecret) {
        (self.x25519_public(secret), self.x25519(secret, public))
    }
    /// Ed25519 public key of a seed (RFC 8032).
    fn ed25519_public(&self, seed: &[u8; 32]) -> [u8; 32];
    /// Ed25519 signature.
    fn ed25519_sign(&self, seed: &[u8; 32], message: &[u8]) -> [u8; 64];
    /// The key of a seed, expanded once for signing often: the same signatures at half the price.
    fn ed25519_signer(&self, seed: &[u8; 32]) -> Box<dyn Signer>;
    /// Checks an Ed25519 signature; non-canonical and small-order inputs fail.
    fn ed25519_verify(
        &self,
        public: &[u8; 32],
        message: &[u8],
        signature: &[u8; 64],
    ) -> Result<(), CryptoError>;
    /// ML-KEM-768 encapsulation key (1,184 bytes) of a seed `d || z` (FIPS 203).
    fn mlkem768_public(&self, seed: &[u8; 64]) -> Vec<u8>;
    /// ML-KEM-768 encapsulation with given randomness: ciphertext (1,088 bytes) and shared secret. Fails if the
    /// key is malformed (FIPS 203 §7.2).
    fn mlkem768_encapsulate(
        &self,
        public: &[u8],
        randomness: &[u8; 32],
    ) -> Result<(Vec<u8>, Zeroizing<[u8; 32]>), CryptoError>;
    /// ML-KEM-768 decapsulation with implicit rejection. Fails only on a wrong length.
    fn mlkem768_decapsulate(
        &self,
        seed: &[u8; 64],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<[u8; 32]>, CryptoError>;
}

/// An expanded Ed25519 key. It is a secret and erases itself.
pub trait Signer: Send + Sync {
    /// What [`Primitives::ed25519_sign`] gives for its seed.
    fn sign(&self, message: &[u8]) -> [u8; 64];
}

/// A backend: chosen once, passed along.
pub type Backend = &'static dyn Primitives;

/// The pure-Rust backend: builds for any target; the default of this crate.
pub fn portable() -> Backend {
    &portable::Portable
}

/// The backend over AWS-LC and libcrux (feature `fast`): the default of the binaries.
#[cfg(feature = "fast")]
pub fn fast() -> Backend {
    &fast::Fast
}

#[cfg(test)]
mod tests;
