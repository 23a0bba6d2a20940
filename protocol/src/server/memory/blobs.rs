//! Blobs: what is too large for a frame, addressed by its hash.

use std::sync::Arc;

use bytes::Bytes;

use super::{Answer, MemoryStore};
use crate::env::UnixMillis;
use crate::error::ErrorCode;
use crate::id::Digest;
use crate::server::op::StoreReply;

#[derive(Clone)]
pub(super) struct Blob {
    total: u64,
    content: Content,
    pub(super) expires: UnixMillis,
}

#[derive(Clone)]
enum Content {
    /// What was received so far; shared with snapshots of the store.
    Partial(Arc<Vec<u8>>),
    Whole(Bytes),
}

impl MemoryStore {
    pub(super) fn put_blob(
        &mut self,
        hash: Digest,
        total: u64,
        offset: u64,
        chunk: &Bytes,
        most: u64,
        expires: UnixMillis,
    ) -> Answer {
        if total > most {
            return Err(ErrorCode::BlobTooLarge.into());
        }
        let received = match self.blobs.get_mut(&hash) {
            Some(blob) => match &blob.content {
                Content::Whole(bytes) => {
                    blob.expires = blob.expires.max(expires);
                    return Ok(StoreReply::BlobPut(bytes.len() as u64));
                }
                Content::Partial(bytes) if blob.total == total => bytes.len() as u64,
                Content::Partial(_) => 0,
            },
            None => 0,
        };
        if offset != received || (chunk.is_empty() && received < total) {
            return Ok(StoreReply::BlobPut(received));
        }
        let received = received.saturating_add(chunk.len() as u64);
        if received > total {
            self.blobs.remove(&hash);
            return Err(ErrorCode::BlobMismatch.into());
        }
        let mut bytes = match self.blobs.remove(&hash) {
            Some(Blob { total: same, content: Content::Partial(bytes), .. }) if same == total => {
                Arc::unwrap_or_clone(bytes)
            }
            _ => Vec::new(),
        };
        bytes.extend_from_slice(chunk);
        let content = if received < total {
            Content::Partial(Arc::new(bytes))
        } else if Digest::of(&[&bytes]) == hash {
            Content::Whole(bytes.into())
        } else {
            return Err(ErrorCode::BlobMismatch.into());
        };
        self.blobs.insert(hash, Blob { total, content, expires });
        Ok(StoreReply::BlobPut(received))
    }

    pub(super) fn get_blob(&self, hash: Digest, offset: u64, most: u64, at: UnixMillis) -> Answer {
        let blob = self.blobs.get(&hash).filter(|blob| blob.expires > at);
        let Some(Blob { total, content: Content::Whole(bytes), .. }) = blob else {
            return Err(ErrorCode::BlobUnknown.into());
        };
        if offset > *total {
            return Err(ErrorCode::CursorInvalid.into());
        }
        // Both lie within the bytes' length, which is a `usize`.
        let start = usize::try_from(offset).unwrap_or(bytes.len());
        let len = usize::try_from(most).unwrap_or(usize::MAX).min(bytes.len() - start);
        Ok(StoreReply::Blob { total: *total, chunk: bytes.slice(start..start + len) })
    }

    /// Keeps bytes as a whole blob at least until `expires`.
    pub(super) fn keep_blob(&mut self, bytes: &Bytes, expires: UnixMillis) -> Digest {
        let hash = Digest::of(&[bytes]);
        let known = self.blobs.get(&hash).filter(|b| matches!(b.content, Content::Whole(_)));
        let expires = known.map_or(expires, |blob| blob.expires.max(expires));
        let total = bytes.len() as u64;
        self.blobs.insert(hash, Blob { total, content: Content::Whole(bytes.clone()), expires });
        hash
    }
}
