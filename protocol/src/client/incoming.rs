//! A blob on its way down: chunk by chunk, held to its length and its hash.

use crate::id::Digest;
use crate::io::LinkId;
use crate::limits::{BLOB_CHUNK, TREE_BYTES};
use crate::wire::message::Request;

/// A blob, as far as it is here.
pub(super) struct Incoming {
    hash: Digest,
    len: u64,
    bytes: Vec<u8>,
    /// The bulk link, while there is something to come and on a transport with many.
    pub(super) link: Option<LinkId>,
}

/// The server has another blob than it named.
#[derive(Debug)]
pub(super) struct WrongBlob;

// A tree or a commit is long, and no help to a reader.
impl core::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Incoming({} of {} bytes)", self.bytes.len(), self.len)
    }
}

impl Incoming {
    /// Whether a ratchet tree can have that length.
    pub(super) fn may_be_tree(len: u64) -> bool {
        len > 0 && len <= TREE_BYTES as u64
    }

    /// A blob of which so much is here from an earlier try.
    pub(super) fn new(hash: Digest, len: u64, bytes: Vec<u8>, link: Option<LinkId>) -> Self {
        Self { hash, len, bytes, link }
    }

    /// Its SHA-256, as it was named.
    pub(super) fn hash(&self) -> Digest {
        self.hash
    }

    /// What to ask next.
    pub(super) fn request(&self) -> Request {
        Request::BlobGet { hash: self.hash, offset: self.bytes.len() as u64 }
    }

    /// Takes a chunk in. After an error not one byte is of use, and none is kept.
    pub(super) fn take(&mut self, total: u64, chunk: &[u8]) -> Result<(), WrongBlob> {
        let end = (self.bytes.len() + chunk.len()) as u64;
        let fits = total == self.len && end <= total && (1..=BLOB_CHUNK).contains(&chunk.len());
        if fits {
            self.bytes.extend_from_slice(chunk);
        }
        if fits && self.whole().is_none_or(|whole| Digest::of(&[whole]) == self.hash) {
            return Ok(());
        }
        self.bytes.clear();
        Err(WrongBlob)
    }

    /// The blob, once all of it is here.
    pub(super) fn whole(&self) -> Option<&[u8]> {
        (self.bytes.len() as u64 == self.len).then_some(self.bytes.as_slice())
    }

    /// What there is of it, for a later try.
    pub(super) fn into_part(self) -> (Digest, Vec<u8>) {
        (self.hash, self.bytes)
    }
}
