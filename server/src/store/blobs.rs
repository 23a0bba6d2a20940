//! Blobs: what is too large for a frame, addressed by its hash, stored in the chunks in which it came.

use bytes::Bytes;
use qpc_protocol::env::UnixMillis;
use qpc_protocol::error::ErrorCode;
use qpc_protocol::id::Digest;
use qpc_protocol::limits::BLOB_CHUNK;
use qpc_protocol::server::op::StoreReply;
use rusqlite::params;
use sha2::{Digest as _, Sha256};

use super::row::{LAST, ordered, place, position};
use super::{Answer, SqliteStore, Stop, all, one, run};

/// Uploads whose running hash is kept; of others the chunks are read again at the end.
const HASHING: usize = 256;

/// The hash of an upload's first `received` bytes.
pub(super) struct Hashing {
    received: u64,
    hash: Sha256,
}

/// A chunk that arrives.
pub(super) struct Put<'a> {
    /// Whose upload it belongs to; none for a blob that is kept whole.
    pub(super) sender: Option<i64>,
    pub(super) hash: Digest,
    pub(super) total: u64,
    pub(super) offset: u64,
    pub(super) chunk: &'a Bytes,
}

/// What an upload may come to.
pub(super) struct Bounds {
    /// Longest blob in bytes.
    pub(super) most: u64,
    /// Unfinished uploads of one sender.
    pub(super) uploads: u32,
}

pub(super) struct Blob {
    no: i64,
    total: u64,
    received: u64,
    expires: i64,
}

impl SqliteStore {
    pub(super) fn put_blob(
        &mut self,
        put: &Put<'_>,
        bounds: &Bounds,
        expires: UnixMillis,
    ) -> Answer {
        if put.total > bounds.most {
            return Err(ErrorCode::BlobTooLarge.into());
        }
        if let Some(blob) = self.blob(put.hash, None)? {
            self.keep_until(&blob, ordered(expires))?;
            return Ok(StoreReply::BlobPut(blob.total));
        }
        let blob = self.blob(put.hash, put.sender)?;
        let received = match &blob {
            Some(blob) if blob.total == put.total => blob.received,
            _ => 0,
        };
        if put.offset != received || (put.chunk.is_empty() && received < put.total) {
            return Ok(StoreReply::BlobPut(received));
        }
        let (old, current) = match blob {
            Some(blob) if blob.total == put.total => (None, Some(blob.no)),
            other => (other, None),
        };
        let now_received = received.saturating_add(put.chunk.len() as u64);
        if let Some(old) = old {
            self.drop_blob(old.no)?;
        }
        if now_received > put.total {
            if let Some(no) = current {
                self.drop_blob(no)?;
            }
            return Err(ErrorCode::BlobMismatch.into());
        }
        let mut hashing = match current {
            Some(no) => self.hashing(no, received)?,
            None => Hashing { received: 0, hash: Sha256::new() },
        };
        hashing.hash.update(put.chunk);
        hashing.received = now_received;
        let is_right = || Digest(hashing.hash.clone().finalize().into()) == put.hash;
        if now_received == put.total && !is_right() {
            if let Some(no) = current {
                self.drop_blob(no)?;
            }
            return Err(ErrorCode::BlobMismatch.into());
        }
        if current.is_none() && now_received < put.total {
            self.make_room(put.sender, bounds.uploads)?;
        }
        let no = self.write_blob(put, current, now_received, expires)?;
        if now_received < put.total {
            if self.cache.hashing.len() >= HASHING {
                self.cache.hashing.clear();
            }
            self.cache.hashing.insert(no, hashing);
        } else {
            run(&self.db, "UPDATE blobs SET sender = NULL WHERE no = ?", [no])?;
            self.end_uploads(put.hash)?;
        }
        Ok(StoreReply::BlobPut(now_received))
    }

    pub(super) fn get_blob(
        &mut self,
        hash: Digest,
        offset: u64,
        most: u64,
        at: UnixMillis,
    ) -> Answer {
        let blob = self.blob(hash, None)?.filter(|blob| blob.expires > ordered(at));
        let blob = blob.ok_or(ErrorCode::BlobUnknown)?;
        if offset > blob.total {
            return Err(ErrorCode::CursorInvalid.into());
        }
        let wanted = usize::try_from(most.min(blob.total - offset)).unwrap_or(usize::MAX);
        let mut out = Vec::with_capacity(wanted);
        if wanted > 0 {
            self.read_chunks(blob.no, offset, |chunk| {
                out.extend_from_slice(chunk.get(..wanted - out.len()).unwrap_or(chunk));
                out.len() < wanted
            })?;
            if out.len() < wanted {
                return Err(Stop::corrupt("a blob with a missing chunk"));
            }
        }
        Ok(StoreReply::Blob { total: blob.total, chunk: out.into() })
    }

    /// Keeps bytes as a whole blob at least until `expires`. Uploads of it end.
    pub(super) fn keep_blob(&mut self, bytes: &Bytes, expires: UnixMillis) -> Result<Digest, Stop> {
        let hash = Digest::of(&[bytes]);
        if let Some(blob) = self.blob(hash, None)? {
            self.keep_until(&blob, ordered(expires))?;
            return Ok(hash);
        }
        self.end_uploads(hash)?;
        let total = bytes.len() as u64;
        let mut no = None;
        let mut offset = 0;
        loop {
            let end = bytes.len().min(offset + BLOB_CHUNK);
            let chunk = bytes.slice(offset..end);
            let put = Put { sender: None, hash, total, offset: offset as u64, chunk: &chunk };
            no = Some(self.write_blob(&put, no, end as u64, expires)?);
            offset = end;
            if offset == bytes.len() {
                return Ok(hash);
            }
        }
    }

    pub(super) fn drop_blob(&mut self, no: i64) -> Result<(), Stop> {
        let gone = "DELETE FROM blob_chunks WHERE place BETWEEN ? AND ?";
        run(&self.db, gone, [place(no, 0)?, place(no, LAST)?])?;
        run(&self.db, "DELETE FROM blobs WHERE no = ?", [no])?;
        self.cache.hashing.remove(&no);
        Ok(())
    }

    /// The whole blob that an entry is about to name. Refusal: `BlobUnknown`.
    pub(super) fn named_blob(&self, hash: Digest, len: u64, at: UnixMillis) -> Result<Blob, Stop> {
        let blob = self.blob(hash, None)?;
        let blob = blob.filter(|blob| blob.total == len && blob.expires > ordered(at));
        blob.ok_or(ErrorCode::BlobUnknown.into())
    }

    /// Drops unfinished uploads of a sender, those that end first, until it may begin another.
    fn make_room(&mut self, sender: Option<i64>, uploads: u32) -> Result<(), Stop> {
        let own = "SELECT no FROM blobs WHERE sender = ? ORDER BY expires DESC, hash DESC";
        let own: Vec<i64> = all(&self.db, own, [sender], |row| row.get(0))?;
        let keep = usize::try_from(uploads.saturating_sub(1)).unwrap_or(usize::MAX);
        for &no in own.iter().skip(keep) {
            self.drop_blob(no)?;
        }
        Ok(())
    }

    /// Nobody uploads any more what is there.
    fn end_uploads(&mut self, hash: Digest) -> Result<(), Stop> {
        let uploads = "SELECT no FROM blobs WHERE hash = ? AND sender IS NOT NULL";
        let uploads: Vec<i64> = all(&self.db, uploads, [hash.0], |row| row.get(0))?;
        for no in uploads {
            self.drop_blob(no)?;
        }
        Ok(())
    }

    /// The upload of a sender, or the whole blob.
    fn blob(&self, hash: Digest, sender: Option<i64>) -> Result<Option<Blob>, Stop> {
        Ok(one(
            &self.db,
            "SELECT no, total, received, expires FROM blobs WHERE hash = ? AND sender IS ?",
            params![hash.0, sender],
            |row| {
                Ok(Blob {
                    no: row.get(0)?,
                    total: row.get(1)?,
                    received: row.get(2)?,
                    expires: row.get(3)?,
                })
            },
        )?)
    }

    /// Keeps a blob until that time ([`ordered`]) at least.
    pub(super) fn keep_until(&self, blob: &Blob, expires: i64) -> Result<(), Stop> {
        if expires > blob.expires {
            run(&self.db, "UPDATE blobs SET expires = ? WHERE no = ?", [expires, blob.no])?;
        }
        Ok(())
    }

    /// Writes a chunk and the blob's row, and returns the blob's number.
    fn write_blob(
        &self,
        put: &Put<'_>,
        known: Option<i64>,
        received: u64,
        expires: UnixMillis,
    ) -> Result<i64, Stop> {
        let no = match known {
            Some(no) => {
                let more = "UPDATE blobs SET received = ?, expires = ? WHERE no = ?";
                run(&self.db, more, params![received, ordered(expires), no])?;
                no
            }
            None => {
                run(
                    &self.db,
                    "INSERT INTO blobs (hash, sender, total, received, expires) VALUES (?, ?, ?, ?, ?)",
                    params![put.hash.0, put.sender, put.total, received, ordered(expires)],
                )?;
                self.db.last_insert_rowid()
            }
        };
        if !put.chunk.is_empty() {
            let chunk = "INSERT INTO blob_chunks (place, bytes) VALUES (?, ?)";
            run(&self.db, chunk, params![place(no, put.offset)?, &put.chunk[..]])?;
        }
        Ok(no)
    }

    /// The running hash of an upload, read again if it is not at hand.
    fn hashing(&mut self, no: i64, received: u64) -> Result<Hashing, Stop> {
        if let Some(hashing) = self.cache.hashing.remove(&no)
            && hashing.received == received
        {
            return Ok(hashing);
        }
        let mut hash = Sha256::new();
        self.read_chunks(no, 0, |chunk| {
            hash.update(chunk);
            true
        })?;
        Ok(Hashing { received, hash })
    }

    /// Hands out the bytes from `offset` on, chunk by chunk, as long as `more` says so.
    fn read_chunks(
        &self,
        no: i64,
        offset: u64,
        mut more: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), Stop> {
        let first = "SELECT place FROM blob_chunks WHERE place BETWEEN ? AND ?
             ORDER BY place DESC LIMIT 1";
        let first: Option<i64> =
            one(&self.db, first, [place(no, 0)?, place(no, offset)?], |row| row.get(0))?;
        let Some(first) = first else { return Ok(()) };
        let mut skip = usize::try_from(offset - position(first)).unwrap_or(usize::MAX);
        let mut statement = self.db.prepare_cached(
            "SELECT bytes FROM blob_chunks WHERE place BETWEEN ? AND ? ORDER BY place",
        )?;
        let mut rows = statement.query([first, place(no, LAST)?])?;
        while let Some(row) = rows.next()? {
            let chunk = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
            if !more(chunk.get(skip..).unwrap_or_default()) {
                break;
            }
            skip = 0;
        }
        Ok(())
    }
}
