//! The hybrid envelope: one message from a device to a device outside any MLS group (device notes, sealed sender,
//! recovery). It stays closed as long as X25519 or ML-KEM-768 holds, and only the recipient learns who sent it.
//!
//! ```text
//! envelope  = version (1) || ephemeral (32) || ML-KEM ciphertext (1088) || ChaCha20-Poly1305(key, 0, aad, plaintext)
//! key       = HKDF-SHA256(ikm = X25519 secret || ML-KEM secret, info = "quicprochat-hybrid-v1", 32)
//! aad       = recipient X25519 (32) || recipient ML-KEM (1184) || ephemeral (32) || ML-KEM ciphertext (1088)
//! plaintext = device record (157) || signature (64) || body
//! signature = by the record's device key over
//!             "qpc-envelope-v1" || purpose (1) || recipient account (32) || device (16) || aad || body
//! ```
//!
//! The nonce may be zero because the key is used once: both secrets behind it are fresh for every envelope. The
//! signature names recipient and aad, so a recipient cannot pass an envelope on as if it were meant for another.
//!
//! ```
//! use qpc_protocol::crypto::hybrid::{self, EnvelopeSecrets, Purpose};
//! use qpc_protocol::crypto::identity::{AccountKey, DeviceKey, DeviceRecord};
//! use qpc_protocol::crypto::portable;
//! use qpc_protocol::env::{Entropy, UnixMillis};
//! use qpc_protocol::id::DeviceId;
//!
//! let mut entropy = Entropy::from_seed([7; 32]); // from the operating system in earnest
//! let at = UnixMillis(1_800_000_000_000);
//! let mut device = || {
//!     let account = AccountKey::generate(portable(), &mut entropy);
//!     let key = DeviceKey::generate(portable(), &mut entropy);
//!     let id = DeviceId(entropy.array());
//!     let record = DeviceRecord::sign(portable(), &account, id, key.public(), 1, at);
//!     (key, record)
//! };
//! let ((alice_key, alice), (bob_key, bob)) = (device(), device());
//!
//! // Bob publishes the public halves; Alice has verified that they are of Bob's device.
//! let secrets = EnvelopeSecrets::generate(&mut entropy);
//! let keys = secrets.publish(portable(), &bob_key, bob.sender(), 1, at);
//!
//! let note = Purpose::DeviceNote;
//! let envelope = hybrid::seal(portable(), note, &alice, &alice_key, &keys, b"hello", &mut entropy)?;
//! assert_eq!(envelope.len(), hybrid::OVERHEAD + 5);
//! let (from, body) = hybrid::open(portable(), note, &secrets, bob.sender(), &envelope)?;
//! assert_eq!((from, body.as_slice()), (alice, b"hello".as_slice()));
//! # Ok::<(), qpc_protocol::crypto::CryptoError>(())
//! ```

use core::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::identity::{DeviceKey, DeviceRecord, EnvelopeKeys};
use super::{Aead, Backend, CryptoError, kdf};
use crate::env::{Entropy, UnixMillis};
use crate::id::Sender;

/// What an envelope adds to its body, in bytes.
pub const OVERHEAD: usize = HEADER + DeviceRecord::LEN + SIGNATURE + TAG;

const VERSION: u8 = 1;
const HEADER: usize = 1 + 32 + MLKEM_CIPHERTEXT;
const MLKEM_PUBLIC: usize = 1184;
const MLKEM_CIPHERTEXT: usize = 1088;
const SIGNATURE: usize = 64;
const TAG: usize = 16;
const INFO: &[u8] = b"quicprochat-hybrid-v1";
const STATEMENT_DOMAIN: &[u8; 15] = b"qpc-envelope-v1";
const NONCE: [u8; 12] = [0; 12];

/// What an envelope is for. The recipient opens it for one purpose only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purpose {
    /// A note from device to device: checkpoints, requests between one's own devices.
    DeviceNote,
    /// A message whose sender the server must not learn.
    SealedSender,
    /// Recovery of an account.
    Recovery,
}

impl Purpose {
    fn number(self) -> u8 {
        match self {
            Self::DeviceNote => 1,
            Self::SealedSender => 2,
            Self::Recovery => 3,
        }
    }
}

/// The secret halves of a device's [`EnvelopeKeys`].
#[derive(Clone, Serialize, Deserialize)]
pub struct EnvelopeSecrets {
    x25519: Zeroizing<[u8; 32]>,
    /// ML-KEM-768's seed in FIPS 203's two halves.
    mlkem_d: Zeroizing<[u8; 32]>,
    mlkem_z: Zeroizing<[u8; 32]>,
}

impl EnvelopeSecrets {
    /// Fresh secrets.
    pub fn generate(entropy: &mut Entropy) -> Self {
        Self {
            x25519: Zeroizing::new(entropy.array()),
            mlkem_d: Zeroizing::new(entropy.array()),
            mlkem_z: Zeroizing::new(entropy.array()),
        }
    }

    /// The public halves, signed by the device.
    pub fn publish(
        &self,
        backend: Backend,
        key: &DeviceKey,
        sender: Sender,
        sequence: u32,
        not_before: UnixMillis,
    ) -> EnvelopeKeys {
        let (x25519, mlkem768) = self.public(backend);
        EnvelopeKeys::sign(backend, key, sender, sequence, not_before, x25519, mlkem768)
    }

    /// The public halves: X25519 and ML-KEM-768.
    #[expect(
        clippy::expect_used,
        reason = "FIPS 203 table 3: an encapsulation key has 1,184 bytes"
    )]
    pub fn public(&self, backend: Backend) -> ([u8; 32], Box<[u8; MLKEM_PUBLIC]>) {
        let mlkem = backend.mlkem768_public(&self.mlkem_seed()).into_boxed_slice();
        (backend.x25519_public(&self.x25519), mlkem.try_into().expect("1,184 bytes"))
    }

    fn mlkem_seed(&self) -> Zeroizing<[u8; 64]> {
        let mut seed = Zeroizing::new([0; 64]);
        seed[..32].copy_from_slice(self.mlkem_d.as_slice());
        seed[32..].copy_from_slice(self.mlkem_z.as_slice());
        seed
    }
}

impl fmt::Debug for EnvelopeSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnvelopeSecrets(…)")
    }
}

/// Puts `body` into an envelope from the device of `record`, whose key is `key`, to the device that published `to`.
/// Verify `to` before. Fails if its keys are malformed or of small order, or if the record is of another key.
pub fn seal(
    backend: Backend,
    purpose: Purpose,
    record: &DeviceRecord,
    key: &DeviceKey,
    to: &EnvelopeKeys,
    body: &[u8],
    entropy: &mut Entropy,
) -> Result<Vec<u8>, CryptoError> {
    if record.device_key != key.public() {
        return Err(CryptoError);
    }
    let ephemeral = Zeroizing::new(entropy.array());
    let message = Zeroizing::new(entropy.array());
    let x25519_shared = backend.x25519(&ephemeral, &to.x25519)?;
    let (mlkem_ciphertext, mlkem_shared) =
        backend.mlkem768_encapsulate(to.mlkem768.as_slice(), &message)?;
    let ephemeral = backend.x25519_public(&ephemeral);

    let aad =
        [to.x25519.as_slice(), to.mlkem768.as_slice(), &ephemeral, &mlkem_ciphertext].concat();
    let signature = key.sign(backend, &statement(purpose, to.sender, &aad, body));
    let mut plaintext =
        Zeroizing::new(Vec::with_capacity(DeviceRecord::LEN + SIGNATURE + body.len()));
    plaintext.extend_from_slice(&record.encode());
    plaintext.extend_from_slice(&signature);
    plaintext.extend_from_slice(body);

    let once = combine(backend, &x25519_shared, &mlkem_shared);
    let sealed =
        backend.aead_seal(Aead::ChaCha20Poly1305, once.as_slice(), &NONCE, &aad, &plaintext)?;
    Ok([[VERSION].as_slice(), &ephemeral, &mlkem_ciphertext, &sealed].concat())
}

/// Opens an envelope that was made for `recipient` and `purpose`: the sender's record and the body. The record's
/// signature and the sender's hold; whether the record still does (a newer one, a revocation) is the caller's to ask.
pub fn open(
    backend: Backend,
    purpose: Purpose,
    secrets: &EnvelopeSecrets,
    recipient: Sender,
    envelope: &[u8],
) -> Result<(DeviceRecord, Zeroizing<Vec<u8>>), CryptoError> {
    let (&[version], rest) = envelope.split_first_chunk::<1>().ok_or(CryptoError)?;
    let (ephemeral, rest) = rest.split_first_chunk::<32>().ok_or(CryptoError)?;
    let (mlkem_ciphertext, sealed) =
        rest.split_first_chunk::<MLKEM_CIPHERTEXT>().ok_or(CryptoError)?;
    if version != VERSION {
        return Err(CryptoError);
    }
    let x25519_shared = backend.x25519(&secrets.x25519, ephemeral)?;
    let mlkem_shared = backend.mlkem768_decapsulate(&secrets.mlkem_seed(), mlkem_ciphertext)?;
    let (x25519, mlkem768) = secrets.public(backend);
    let aad = [x25519.as_slice(), mlkem768.as_slice(), ephemeral, mlkem_ciphertext].concat();
    let once = combine(backend, &x25519_shared, &mlkem_shared);
    let plaintext =
        backend.aead_open(Aead::ChaCha20Poly1305, once.as_slice(), &NONCE, &aad, sealed)?;

    let (record, rest) = plaintext.split_at_checked(DeviceRecord::LEN).ok_or(CryptoError)?;
    let (signature, body) = rest.split_first_chunk::<SIGNATURE>().ok_or(CryptoError)?;
    let record = DeviceRecord::decode(record).ok_or(CryptoError)?;
    record.verify(backend)?;
    let statement = statement(purpose, recipient, &aad, body);
    backend.ed25519_verify(&record.device_key, &statement, signature)?;
    Ok((record, Zeroizing::new(body.to_vec())))
}

/// Both secrets into the key of one envelope.
fn combine(
    backend: Backend,
    x25519_shared: &[u8; 32],
    mlkem_shared: &[u8; 32],
) -> Zeroizing<[u8; 32]> {
    let prk = kdf::extract(backend, &[], &[x25519_shared, mlkem_shared]);
    kdf::expand_key(backend, prk.as_slice(), &[INFO])
}

/// What the sender signs. All but the body is of fixed length, and the body comes last.
fn statement(purpose: Purpose, recipient: Sender, aad: &[u8], body: &[u8]) -> Zeroizing<Vec<u8>> {
    let parts: [&[u8]; 6] = [
        STATEMENT_DOMAIN,
        &[purpose.number()],
        &recipient.account.0,
        &recipient.device.0,
        aad,
        body,
    ];
    Zeroizing::new(parts.concat())
}

#[cfg(test)]
mod tests;
