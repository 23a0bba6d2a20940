//! Checkpoints: a device's signed word on how far it has read a log and what it read, for carrying outside of that log.
//!
//! A server that shows two members two logs also decides what each says to the other in there. What one of them signed
//! and the other gets by another way, it does not. Fixed length, big endian, with a domain of its own.

use core::fmt;

use super::identity::DeviceKey;
use super::{Backend, CryptoError};
use crate::id::{AccountId, ChannelId, DeviceId, Digest, Sender};

const DOMAIN: &[u8; 17] = b"qpc-checkpoint-v1";
const VERSION: u8 = 1;

/// What a device says of a log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Who says so.
    pub by: Sender,
    /// Of which channel.
    pub channel: ChannelId,
    /// Its generation.
    pub generation: u32,
    /// The epoch of the group on that device.
    pub epoch: u64,
    /// The confirmed transcript hash of that epoch (RFC 9420 §8.2); zeros in epoch 0, which has none.
    pub transcript: Digest,
    /// The last seq that it has read.
    pub seq: u64,
    /// The log's chain up to it.
    pub chain: Digest,
    /// An earlier seq, of those whose chain everybody remembers for longer ([`Marks`](crate::delivery::marks)); `seq`
    /// itself if there is none.
    pub mark: u64,
    /// The log's chain up to that one.
    pub mark_chain: Digest,
    /// The device key's signature.
    pub signature: [u8; 64],
}

impl Checkpoint {
    /// Length of [`Self::encode`] in bytes.
    pub const LEN: usize = 1 + 32 + 16 + 16 + 4 + 8 + 32 + 8 + 32 + 8 + 32 + 64;

    /// The same, signed.
    #[must_use]
    pub fn signed(mut self, backend: Backend, key: &DeviceKey) -> Self {
        self.signature = key.sign(backend, &self.statement());
        self
    }

    /// Checks the signature of that device key.
    ///
    /// # Errors
    /// It is of another key, or over something else.
    pub fn verify(&self, backend: Backend, device_key: &[u8; 32]) -> Result<(), CryptoError> {
        backend.ed25519_verify(device_key, &self.statement(), &self.signature)
    }

    /// version (1) = 1 || account (32) || device (16) || channel (16) || generation (4) || epoch (8) || transcript (32)
    /// || seq (8) || chain (32) || mark (8) || mark's chain (32) || signature (64).
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.fields();
        out.extend_from_slice(&self.signature);
        out
    }

    /// Reads what [`Self::encode`] wrote; `None` for any other length or version, or a mark behind the seq. Verify it
    /// next.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut left = bytes;
        let [version] = take(&mut left)?;
        let checkpoint = Self {
            by: Sender { account: AccountId(take(&mut left)?), device: DeviceId(take(&mut left)?) },
            channel: ChannelId(take(&mut left)?),
            generation: u32::from_be_bytes(take(&mut left)?),
            epoch: u64::from_be_bytes(take(&mut left)?),
            transcript: Digest(take(&mut left)?),
            seq: u64::from_be_bytes(take(&mut left)?),
            chain: Digest(take(&mut left)?),
            mark: u64::from_be_bytes(take(&mut left)?),
            mark_chain: Digest(take(&mut left)?),
            signature: take(&mut left)?,
        };
        let sound = version == VERSION && left.is_empty() && checkpoint.mark <= checkpoint.seq;
        sound.then_some(checkpoint)
    }

    fn fields(&self) -> Vec<u8> {
        [
            [VERSION].as_slice(),
            &self.by.account.0,
            &self.by.device.0,
            &self.channel.0,
            &self.generation.to_be_bytes(),
            &self.epoch.to_be_bytes(),
            &self.transcript.0,
            &self.seq.to_be_bytes(),
            &self.chain.0,
            &self.mark.to_be_bytes(),
            &self.mark_chain.0,
        ]
        .concat()
    }

    fn statement(&self) -> Vec<u8> {
        [DOMAIN.as_slice(), &self.fields()].concat()
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checkpoint({:?} #{} by {:?})", self.channel, self.seq, self.by)
    }
}

/// Takes a fixed-length field off the front.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

#[cfg(test)]
mod tests;
