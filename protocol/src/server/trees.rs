//! GroupInfo and ratchet tree of a group, for a member that joins it anew: both of one epoch, the tree as a blob.

use bytes::Bytes;

use super::Server;
use super::connection::Call;
use super::groups::Stage;
use super::line::{Work, WorkKind};
use super::stored::Step;
use crate::error::ErrorCode;
use crate::id::{ChannelId, Digest, Sender};
use crate::limits;
use crate::server::op::{StoreOp, StoreReply};
use crate::wire::message::Reply;

impl Server {
    pub(super) fn group_info_fetch(&mut self, call: Call, sender: Sender, channel: ChannelId) {
        if channel == ChannelId::inbox(sender) {
            return self.fail(call, ErrorCode::ChannelUnknown);
        }
        self.enqueue(channel, Work { call, sender, kind: WorkKind::GroupInfo(None) });
    }

    /// Keeps the tree as a blob, for whoever is about to join with it.
    pub(super) fn store_tree(&mut self, channel: ChannelId, tree: Bytes) {
        let digest = Digest::of(&[&tree]);
        let total = tree.len() as u64;
        let Some(slot) = self.groups.slot(channel) else { return };
        let Some(Work { sender, kind, .. }) = slot.queue.front_mut() else { return };
        // As an upload of who asked: an unfinished one of its own under this hash can only harm itself.
        let sender = *sender;
        if let WorkKind::GroupInfo(Some(reply)) = kind
            && let Reply::GroupInfo { tree, tree_len, .. } = &mut **reply
        {
            *tree = digest;
            *tree_len = total;
        }
        if total == 0 || total > limits::BLOB_BYTES {
            return self.refuse_work(channel, ErrorCode::BlobTooLarge, 0, "");
        }
        let chunks = tree.len().div_ceil(limits::BLOB_CHUNK);
        slot.stage = Stage::Tree(chunks);
        let expires = self.now.wall.plus(self.config.retention);
        for index in 0..chunks {
            let start = index * limits::BLOB_CHUNK;
            let end = tree.len().min(start + limits::BLOB_CHUNK);
            let op = StoreOp::PutBlob {
                sender,
                hash: digest,
                total,
                offset: start as u64,
                chunk: tree.slice(start..end),
                most: limits::BLOB_BYTES,
                uploads: limits::UPLOADS,
                expires,
            };
            self.store(Step::Group(channel), op);
        }
    }

    pub(super) fn tree_stored(&mut self, channel: ChannelId, left: usize, reply: &StoreReply) {
        if left > 1 {
            return self.stage(channel, Stage::Tree(left - 1));
        }
        if !matches!(reply, StoreReply::BlobPut(_)) {
            return self.refuse_work(channel, ErrorCode::Unavailable, 0, "");
        }
        let Some(slot) = self.groups.slot(channel) else { return };
        if let Some(Work { call, kind: WorkKind::GroupInfo(reply), .. }) = slot.queue.front_mut()
            && let Some(reply) = reply.take()
        {
            let call = *call;
            self.reply(call, *reply);
        }
        self.end_work(channel);
    }
}
