//! Identifiers: fixed-size, typed, never mixed up.
//!
//! Every identifier prints as lowercase hexadecimal; `Debug` shows the first four bytes only, so a
//! log line stays readable. None of them is a secret.

use core::fmt;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::wire::message::ChannelKind;

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
    /// A channel: 16 bytes; random for a group, derived for an inbox and for two accounts. The two highest bits of the
    /// first byte say which ([`ChannelId::kind`]), so that nobody can take another's place.
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
    /// A group's channel, from 16 random bytes.
    pub fn group(random: [u8; Self::LEN]) -> Self {
        Self::marked(ChannelKind::Group, random)
    }

    /// The inbox of a device: `SHA-256("qpc-inbox-v1" || account || device)[..16]`, marked as an inbox.
    pub fn inbox(of: Sender) -> Self {
        Self::derive(ChannelKind::Inbox, b"qpc-inbox-v1", &of.account.0, &of.device.0)
    }

    /// The one channel between two accounts, the same whoever asks:
    /// `SHA-256("qpc-direct-v1" || lower account || higher account)[..16]`, marked as a direct channel.
    pub fn direct(one: AccountId, other: AccountId) -> Self {
        let (low, high) = if one <= other { (one, other) } else { (other, one) };
        Self::derive(ChannelKind::Direct, b"qpc-direct-v1", &low.0, &high.0)
    }

    /// The kind of channel that has such an id: the two highest bits of the first byte, 0 group, 1 direct, 2 inbox;
    /// `None` for 3, which no channel has.
    pub fn kind(self) -> Option<ChannelKind> {
        match self.0[0] >> KIND_SHIFT {
            0 => Some(ChannelKind::Group),
            1 => Some(ChannelKind::Direct),
            2 => Some(ChannelKind::Inbox),
            _ => None,
        }
    }

    fn derive(kind: ChannelKind, domain: &[u8], first: &[u8], second: &[u8]) -> Self {
        let digest = Digest::of(&[domain, first, second]);
        let mut id = [0; Self::LEN];
        id.copy_from_slice(&digest.0[..Self::LEN]);
        Self::marked(kind, id)
    }

    /// The inverse of [`Self::kind`]; the other bits stay.
    fn marked(kind: ChannelKind, mut id: [u8; Self::LEN]) -> Self {
        let mark = match kind {
            ChannelKind::Group => 0,
            ChannelKind::Direct => 1,
            ChannelKind::Inbox => 2,
        };
        id[0] = id[0] & !(0xFF << KIND_SHIFT) | mark << KIND_SHIFT;
        Self(id)
    }
}

/// Where in its first byte a channel's id says its kind.
const KIND_SHIFT: u32 = 6;

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

#[cfg(test)]
mod tests;
