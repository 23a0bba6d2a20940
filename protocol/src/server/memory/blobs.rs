//! Blobs: what is too large for a frame, addressed by its hash.

use std::sync::Arc;

use bytes::Bytes;

use super::{Answer, MemoryStore};
use crate::env::UnixMillis;
use crate::error::ErrorCode;
use crate::id::{AccountId, DeviceId, Digest, Sender};
use crate::server::op::StoreReply;

/// A whole blob.
#[derive(Clone)]
pub(super) struct Blob {
    bytes: Bytes,
    pub(super) expires: UnixMillis,
}

/// What a device has sent of a blob so far.
#[derive(Clone)]
pub(super) struct Upload {
    total: u64,
    /// Shared with snapshots of the store.
    bytes: Arc<Vec<u8>>,
    pub(super) expires: UnixMillis,
}

impl MemoryStore {
    pub(super) fn put_blob(
        &mut self,
        upload: (Digest, Sender),
        total: u64,
        offset: u64,
        chunk: &Bytes,
        most: u64,
        expires: UnixMillis,
    ) -> Answer {
        if total > most {
            return Err(ErrorCode::BlobTooLarge.into());
        }
        if let Some(blob) = self.blobs.get_mut(&upload.0) {
            blob.expires = blob.expires.max(expires);
            return Ok(StoreReply::BlobPut(blob.bytes.len() as u64));
        }
        let known = self.uploads.get(&upload).filter(|known| known.total == total);
        let received = known.map_or(0, |known| known.bytes.len() as u64);
        if offset != received || (chunk.is_empty() && received < total) {
            return Ok(StoreReply::BlobPut(received));
        }
        let known = self.uploads.remove(&upload).filter(|known| known.total == total);
        let received = received.saturating_add(chunk.len() as u64);
        if received > total {
            return Err(ErrorCode::BlobMismatch.into());
        }
        let mut bytes = known.map_or_else(Vec::new, |known| Arc::unwrap_or_clone(known.bytes));
        bytes.extend_from_slice(chunk);
        if received < total {
            let bytes = Arc::new(bytes);
            self.uploads.insert(upload, Upload { total, bytes, expires });
        } else if Digest::of(&[&bytes]) == upload.0 {
            self.keep_blob(&bytes.into(), expires);
        } else {
            return Err(ErrorCode::BlobMismatch.into());
        }
        Ok(StoreReply::BlobPut(received))
    }

    pub(super) fn get_blob(&self, hash: Digest, offset: u64, most: u64, at: UnixMillis) -> Answer {
        let blob = self.blobs.get(&hash).filter(|blob| blob.expires > at);
        let Blob { bytes, .. } = blob.ok_or(ErrorCode::BlobUnknown)?;
        let total = bytes.len() as u64;
        if offset > total {
            return Err(ErrorCode::CursorInvalid.into());
        }
        // Both lie within the bytes' length, which is a `usize`.
        let start = usize::try_from(offset).unwrap_or(bytes.len());
        let len = usize::try_from(most).unwrap_or(usize::MAX).min(bytes.len() - start);
        Ok(StoreReply::Blob { total, chunk: bytes.slice(start..start + len) })
    }

    /// Keeps bytes as a whole blob at least until `expires`. Uploads of it end.
    pub(super) fn keep_blob(&mut self, bytes: &Bytes, expires: UnixMillis) -> Digest {
        let hash = Digest::of(&[bytes]);
        let known = self.blobs.get(&hash);
        let expires = known.map_or(expires, |blob| blob.expires.max(expires));
        self.blobs.insert(hash, Blob { bytes: bytes.clone(), expires });
        let by = |byte| Sender { account: AccountId([byte; 32]), device: DeviceId([byte; 16]) };
        let all = (hash, by(0))..=(hash, by(0xFF));
        let ended: Vec<_> = self.uploads.range(all).map(|(&upload, _)| upload).collect();
        for upload in ended {
            self.uploads.remove(&upload);
        }
        hash
    }
}
