//! Delivery proofs: the server's signed word that it accepted a submission. The sender keeps it.

use crate::env::UnixMillis;
use crate::id::{ChannelId, Digest, MessageId};
use crate::wire::message::Accepted;

/// What the server signs with its proof key: `"qpc-delivery-v1" || channel (16) || seq (8) || chain (32) ||
/// message id (16) || SHA-256(payload) (32) || time (8)`, numbers big endian.
pub fn proof_statement(
    channel: ChannelId,
    seq: u64,
    chain: Digest,
    message: MessageId,
    hash: Digest,
    time: UnixMillis,
) -> Vec<u8> {
    [
        b"qpc-delivery-v1".as_slice(),
        &channel.0,
        &seq.to_be_bytes(),
        &chain.0,
        &message.0,
        &hash.0,
        &time.0.to_be_bytes(),
    ]
    .concat()
}

impl Accepted {
    /// The statement that [`Accepted::proof`] signs, for this submission.
    pub fn statement(&self, channel: ChannelId, message: MessageId, hash: Digest) -> Vec<u8> {
        proof_statement(channel, self.seq, self.chain, message, hash, self.time)
    }
}
