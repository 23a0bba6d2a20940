//! Identifiers: fixed-size, typed, never mixed up.
//!
//! Every identifier prints as lowercase hexadecimal; `Debug` shows the first four bytes only, so a
//! log line stays readable. None of them is a secret.

use core::fmt;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// Takes exactly [`Self::LEN`] bytes.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// Reads the form that `Display` prints.
            pub fn from_hex(text: &str) -> Option<Self> {
                Self::from_slice(&HEXLOWER.decode(text.as_bytes()).ok()?)
            }

            /// The bytes themselves.
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({}…)", stringify!($name), HEXLOWER.encode(&self.0[..4]))
            }
        }
    };
}

identifier!(
    /// An account is its Ed25519 public key: whoever holds the account key *is* the account, and a
    /// server cannot put another key under the same id.
    AccountId, 32
);
identifier!(
    /// A device of an account: 16 random bytes drawn by the device.
    DeviceId, 16
);
identifier!(
    /// A channel: 16 bytes; random for a group, derived for an inbox and for two accounts.
    ChannelId, 16
);
identifier!(
    /// One submission to a log: 16 random bytes drawn by the sending device, kept across resends.
    MessageId, 16
);
identifier!(
    /// A server: the Ed25519 public key under which it signs delivery proofs.
    ServerId, 32
);
identifier!(
    /// An MLS group: 32 bytes, derived from the channel and the generation ([`GroupId::of`]).
    GroupId, 32
);
identifier!(
    /// SHA-256 of something: a payload, a blob, a link of a log's chain.
    Digest, 32
);

/// A device together with its account: who a log entry is from, who a leaf belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sender {
    /// The account.
    pub account: AccountId,
    /// The device of that account.
    pub device: DeviceId,
}

impl ChannelId {
    /// The inbox of a device: `SHA-256("qpc-inbox-v1" || account || device)[..16]`.
    pub fn inbox(of: Sender) -> Self {
        Self::derive(b"qpc-inbox-v1", &of.account.0, &of.device.0)
    }

    /// The one channel between two accounts, the same whoever asks:
    /// `SHA-256("qpc-direct-v1" || lower account || higher account)[..16]`.
    pub fn direct(one: AccountId, other: AccountId) -> Self {
        let (low, high) = if one <= other { (one, other) } else { (other, one) };
        Self::derive(b"qpc-direct-v1", &low.0, &high.0)
    }

    fn derive(domain: &[u8], first: &[u8], second: &[u8]) -> Self {
        let digest = Digest::of(&[domain, first, second]);
        let mut id = [0; Self::LEN];
        id.copy_from_slice(&digest.0[..Self::LEN]);
        Self(id)
    }
}

impl GroupId {
    /// The MLS group id of one generation of a channel:
    /// `SHA-256("qpc-group-v1" || channel || generation as u32 big endian)`.
    pub fn of(channel: ChannelId, generation: u32) -> Self {
        Self(Digest::of(&[b"qpc-group-v1", &channel.0, &generation.to_be_bytes()]).0)
    }
}

impl Digest {
    /// SHA-256 over the concatenation of `parts`.
    pub fn of(parts: &[&[u8]]) -> Self {
        use sha2::Digest as _;
        let mut hash = sha2::Sha256::new();
        for part in parts {
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

/// `serde` for 64-byte arrays (signatures): as a slice of bytes.
pub mod signature_bytes {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::{Serialize, Serializer};

    /// Writes 64 bytes as a slice.
    pub fn serialize<S: Serializer>(bytes: &[u8; 64], to: S) -> Result<S::Ok, S::Error> {
        bytes.as_slice().serialize(to)
    }

    /// Reads a slice of exactly 64 bytes.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 64], D::Error> {
        let bytes = Vec::<u8>::deserialize(from)?;
        bytes.try_into().map_err(|_| D::Error::custom("not 64 bytes"))
    }
}
