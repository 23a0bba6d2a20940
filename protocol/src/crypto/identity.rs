//! Who somebody is: account keys, device keys, and the statements they sign.
//!
//! An account *is* its Ed25519 public key. It signs a [`DeviceRecord`] for every device and a
//! [`Revocation`] when one is to go. Every MLS leaf carries the record of its device, so that a server can
//! neither invent nor remove one. Envelope keys change weekly and are signed by the device instead: they
//! need no account key at hand and no room in the tree.
//!
//! All statements are fixed-length, big endian, and begin with a domain of their own, so that none can pass
//! for another.

use core::fmt;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Backend, CryptoError, Signer};
use crate::env::{Entropy, UnixMillis};
use crate::id::{AccountId, DeviceId, Sender};

macro_rules! secret_key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Serialize, Deserialize)]
        pub struct $name {
            seed: Zeroizing<[u8; 32]>,
            public: [u8; 32],
            /// Made when it first signs; every backend makes the same signatures.
            #[serde(skip)]
            expanded: OnceLock<Arc<dyn Signer>>,
        }

        impl $name {
            /// A fresh key.
            pub fn generate(backend: Backend, entropy: &mut Entropy) -> Self {
                Self::from_seed(backend, Zeroizing::new(entropy.array()))
            }

            /// The key of a seed (RFC 8032 §5.1.5).
            pub fn from_seed(backend: Backend, seed: Zeroizing<[u8; 32]>) -> Self {
                let public = backend.ed25519_public(&seed);
                Self { seed, public, expanded: OnceLock::new() }
            }

            /// The seed, for sealing it.
            pub fn seed(&self) -> &[u8; 32] {
                &self.seed
            }

            /// The public key.
            pub fn public(&self) -> [u8; 32] {
                self.public
            }

            /// Signs a message.
            pub fn sign(&self, backend: Backend, message: &[u8]) -> [u8; 64] {
                let expand = || Arc::from(backend.ed25519_signer(&self.seed));
                self.expanded.get_or_init(expand).sign(message)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    };
}

secret_key!(
    /// The secret behind an [`AccountId`].
    AccountKey
);
secret_key!(
    /// The signing key of one device: signs MLS messages, session proofs, envelope keys.
    DeviceKey
);

impl AccountKey {
    /// The account that this key is.
    pub fn account(&self) -> AccountId {
        AccountId(self.public)
    }
}

/// "This device is mine": signed by the account key, carried in every leaf.
#[derive(Clone, PartialEq, Eq)]
pub struct DeviceRecord {
    /// The account.
    pub account: AccountId,
    /// The device.
    pub device: DeviceId,
    /// The device's Ed25519 public key.
    pub device_key: [u8; 32],
    /// Raised with every new record of the device; the highest holds.
    pub sequence: u32,
    /// From when on it holds.
    pub not_before: UnixMillis,
    /// The account key's signature over the statement.
    pub signature: [u8; 64],
}

const RECORD_DOMAIN: &[u8; 20] = b"qpc-device-record-v1";
const REVOCATION_DOMAIN: &[u8; 24] = b"qpc-device-revocation-v1";
const ENVELOPE_DOMAIN: &[u8; 20] = b"qpc-envelope-keys-v1";

impl DeviceRecord {
    /// Length of [`DeviceRecord::encode`] in bytes.
    pub const LEN: usize = 1 + 32 + 16 + 32 + 4 + 8 + 64;
    const VERSION: u8 = 1;

    /// A record signed by the account key.
    pub fn sign(
        backend: Backend,
        key: &AccountKey,
        device: DeviceId,
        device_key: [u8; 32],
        sequence: u32,
        not_before: UnixMillis,
    ) -> Self {
        let mut record = Self {
            account: key.account(),
            device,
            device_key,
            sequence,
            not_before,
            signature: [0; 64],
        };
        record.signature = key.sign(backend, &record.statement());
        record
    }

    /// Checks the signature.
    pub fn verify(&self, backend: Backend) -> Result<(), CryptoError> {
        backend.ed25519_verify(&self.account.0, &self.statement(), &self.signature)
    }

    /// Whose device it is.
    pub fn sender(&self) -> Sender {
        Sender { account: self.account, device: self.device }
    }

    /// version (1) || account (32) || device (16) || device key (32) || sequence (4) || not before (8) ||
    /// signature (64).
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.fields();
        out.extend_from_slice(&self.signature);
        out
    }

    /// Reads what [`Self::encode`] wrote; `None` for any other length or version. Verify it next.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut take = Take(bytes);
        let [version] = take.array()?;
        let record = Self {
            account: AccountId(take.array()?),
            device: DeviceId(take.array()?),
            device_key: take.array()?,
            sequence: u32::from_be_bytes(take.array()?),
            not_before: UnixMillis(u64::from_be_bytes(take.array()?)),
            signature: take.array()?,
        };
        (version == Self::VERSION && take.0.is_empty()).then_some(record)
    }

    fn fields(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN);
        out.push(Self::VERSION);
        out.extend_from_slice(&self.account.0);
        out.extend_from_slice(&self.device.0);
        out.extend_from_slice(&self.device_key);
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.not_before.0.to_be_bytes());
        out
    }

    fn statement(&self) -> Vec<u8> {
        [RECORD_DOMAIN.as_slice(), &self.fields()].concat()
    }
}

impl fmt::Debug for DeviceRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceRecord({:?}, {:?}, #{})", self.account, self.device, self.sequence)
    }
}

/// "This device is mine no more": signed by the account key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// The account.
    pub account: AccountId,
    /// The device.
    pub device: DeviceId,
    /// When.
    pub at: UnixMillis,
    /// The account key's signature over the statement.
    pub signature: [u8; 64],
}

impl Revocation {
    /// Length of [`Revocation::encode`] in bytes.
    pub const LEN: usize = 32 + 16 + 8 + 64;

    /// A revocation signed by the account key.
    pub fn sign(backend: Backend, key: &AccountKey, device: DeviceId, at: UnixMillis) -> Self {
        let mut revocation = Self { account: key.account(), device, at, signature: [0; 64] };
        revocation.signature = key.sign(backend, &revocation.statement());
        revocation
    }

    /// Checks the signature.
    pub fn verify(&self, backend: Backend) -> Result<(), CryptoError> {
        backend.ed25519_verify(&self.account.0, &self.statement(), &self.signature)
    }

    /// Whose device it is.
    pub fn sender(&self) -> Sender {
        Sender { account: self.account, device: self.device }
    }

    /// account (32) || device (16) || at (8) || signature (64).
    pub fn encode(&self) -> Vec<u8> {
        [self.account.0.as_slice(), &self.device.0, &self.at.0.to_be_bytes(), &self.signature]
            .concat()
    }

    /// Reads what [`Self::encode`] wrote. Verify it next.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut take = Take(bytes);
        let revocation = Self {
            account: AccountId(take.array()?),
            device: DeviceId(take.array()?),
            at: UnixMillis(u64::from_be_bytes(take.array()?)),
            signature: take.array()?,
        };
        take.0.is_empty().then_some(revocation)
    }

    fn statement(&self) -> Vec<u8> {
        [REVOCATION_DOMAIN.as_slice(), &self.account.0, &self.device.0, &self.at.0.to_be_bytes()]
            .concat()
    }
}

/// Where to send a hybrid envelope to a device: signed by the device key.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvelopeKeys {
    /// Whose.
    pub sender: Sender,
    /// Raised with every change.
    pub sequence: u32,
    /// From when on they hold.
    pub not_before: UnixMillis,
    /// X25519 public key.
    pub x25519: [u8; 32],
    /// ML-KEM-768 encapsulation key, 1,184 bytes.
    pub mlkem768: Box<[u8; 1184]>,
    /// The device key's signature over the statement.
    pub signature: [u8; 64],
}

impl EnvelopeKeys {
    /// Length of [`EnvelopeKeys::encode`] in bytes.
    pub const LEN: usize = 32 + 16 + 4 + 8 + 32 + 1184 + 64;

    /// Signs the public halves of a pair of secrets.
    pub fn sign(
        backend: Backend,
        key: &DeviceKey,
        sender: Sender,
        sequence: u32,
        not_before: UnixMillis,
        x25519: [u8; 32],
        mlkem768: Box<[u8; 1184]>,
    ) -> Self {
        let mut keys = Self { sender, sequence, not_before, x25519, mlkem768, signature: [0; 64] };
        keys.signature = key.sign(backend, &keys.statement());
        keys
    }

    /// Checks the signature against the device key of the device's record.
    pub fn verify(&self, backend: Backend, device_key: &[u8; 32]) -> Result<(), CryptoError> {
        backend.ed25519_verify(device_key, &self.statement(), &self.signature)
    }

    /// account (32) || device (16) || sequence (4) || not before (8) || X25519 (32) || ML-KEM-768 (1184) ||
    /// signature (64).
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.fields();
        out.extend_from_slice(&self.signature);
        out
    }

    /// Reads what [`Self::encode`] wrote. Verify it next.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut take = Take(bytes);
        let keys = Self {
            sender: Sender { account: AccountId(take.array()?), device: DeviceId(take.array()?) },
            sequence: u32::from_be_bytes(take.array()?),
            not_before: UnixMillis(u64::from_be_bytes(take.array()?)),
            x25519: take.array()?,
            mlkem768: Box::new(take.array()?),
            signature: take.array()?,
        };
        take.0.is_empty().then_some(keys)
    }

    fn fields(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN);
        out.extend_from_slice(&self.sender.account.0);
        out.extend_from_slice(&self.sender.device.0);
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.not_before.0.to_be_bytes());
        out.extend_from_slice(&self.x25519);
        out.extend_from_slice(self.mlkem768.as_slice());
        out
    }

    fn statement(&self) -> Vec<u8> {
        [ENVELOPE_DOMAIN.as_slice(), &self.fields()].concat()
    }
}

impl fmt::Debug for EnvelopeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EnvelopeKeys({:?}, #{})", self.sender, self.sequence)
    }
}

/// Takes fixed-length fields off the front of a slice.
struct Take<'a>(&'a [u8]);

impl Take<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
}

#[cfg(test)]
mod tests;
