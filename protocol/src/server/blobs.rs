//! Blobs: what exceeds a frame, in chunks.

use bytes::Bytes;

use super::Server;
use super::connection::Call;
use super::stored::Step;
use crate::error::ErrorCode;
use crate::id::{Digest, Sender};
use crate::limits;
use crate::server::op::StoreOp;

impl Server {
    pub(super) fn blob_put(
        &mut self,
        call: Call,
        sender: Sender,
        hash: Digest,
        total: u64,
        offset: u64,
        chunk: Bytes,
    ) {
        if total > limits::BLOB_BYTES {
            return self.fail(call, ErrorCode::BlobTooLarge);
        }
        let end = offset.checked_add(chunk.len() as u64);
        if chunk.len() > limits::BLOB_CHUNK || end.is_none_or(|end| end > total) {
            return self.fail(call, ErrorCode::BadRequest);
        }
        let (most, uploads) = (limits::BLOB_BYTES, limits::UPLOADS);
        let expires = self.now.wall.plus(limits::UPLOAD_TIME);
        let op = StoreOp::PutBlob { sender, hash, total, offset, chunk, most, uploads, expires };
        self.store(Step::BlobPut(call), op);
    }
}
