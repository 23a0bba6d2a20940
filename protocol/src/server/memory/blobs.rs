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

/// What an upload may come to.
pub(super) struct Bounds {
    /// Longest blob in bytes.
    pub(super) most: u64,
    /// Unfinished uploads of one sender.
    pub(super) uploads: u32,
}

impl MemoryStore {
    pub(super) fn put_blob(
        &mut self,
        upload: (Digest, Sender),
        total: u64,
        offset: u64,
        chunk: &Bytes,
        bounds: &Bounds,
        expires: UnixMillis,
    ) -> Answer {
        if total > bounds.most {
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
            if offset == 0 {
                self.make_room(upload.1, bounds.uploads);
            }
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

    /// Keeps the whole blob that an entry is about to name at least until `expires`.
    pub(super) fn keep_named(&mut self, hash: Digest, expires: UnixMillis) {
        if let Some(blob) = self.blobs.get_mut(&hash) {
            blob.expires = blob.expires.max(expires);
        }
    }

    /// Whether there is such a blob, whole and unexpired.
    pub(super) fn has_blob(&self, hash: Digest, len: u64, at: UnixMillis) -> bool {
        let blob = self.blobs.get(&hash);
        blob.is_some_and(|blob| blob.bytes.len() as u64 == len && blob.expires > at)
    }

    /// Drops unfinished uploads of a sender, those that end first, until it may begin another.
    fn make_room(&mut self, sender: Sender, uploads: u32) {
        let own = self.uploads.iter().filter(|((_, by), _)| *by == sender);
        let mut own: Vec<_> = own.map(|((hash, _), upload)| (upload.expires, *hash)).collect();
        own.sort_unstable_by(|one, other| other.cmp(one));
        let keep = usize::try_from(uploads.saturating_sub(1)).unwrap_or(usize::MAX);
        for &(_, hash) in own.iter().skip(keep) {
            self.uploads.remove(&(hash, sender));
        }
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
