//! The hash chain of a channel's log: `chain[seq] = SHA-256(chain[seq-1] || entry)`.
//!
//! Two members who agree on `chain[seq]` agree on every entry up to `seq`.

use crate::id::{ChannelId, Digest};
use crate::wire::message::{Entry, Part};

/// The chain before the first entry: `SHA-256("qpc-log-v1" || channel)`.
pub fn start(channel: ChannelId) -> Digest {
    Digest::of(&[b"qpc-log-v1", &channel.0])
}

/// The chain after `entry`:
/// `SHA-256(before || seq (8) || kind (1) || generation (4) || epoch (8) || account (32) || device (16) ||
/// message id (16) || time (8) || origin || SHA-256(payload))`, numbers big endian; `origin` is one zero byte, or
/// a one and channel (16) || seq (8) || chain (32) || tree (32).
pub fn next(before: Digest, entry: &Entry) -> Digest {
    let origin = match &entry.origin {
        None => vec![0],
        Some(origin) => [
            [1].as_slice(),
            &origin.channel.0,
            &origin.seq.to_be_bytes(),
            &origin.chain.0,
            &origin.tree.0,
        ]
        .concat(),
    };
    Digest::of(&[
        &before.0,
        &entry.seq.to_be_bytes(),
        &[entry.kind.number()],
        &entry.generation.to_be_bytes(),
        &entry.epoch.to_be_bytes(),
        &entry.sender.account.0,
        &entry.sender.device.0,
        &entry.message.0,
        &entry.time.0.to_be_bytes(),
        &origin,
        &entry.payload.hash().0,
    ])
}

impl Part {
    /// SHA-256 of the bytes, whether they are here or in a blob.
    pub fn hash(&self) -> Digest {
        match self {
            Self::Inline(bytes) => Digest::of(&[bytes]),
            Self::Blob { hash, .. } => *hash,
        }
    }

    /// Length of the bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Blob { len, .. } => *len,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
