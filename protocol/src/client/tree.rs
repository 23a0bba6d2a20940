//! A ratchet tree on its way: fetched in chunks beside what names it, and held to its hash.

use crate::id::Digest;
use crate::io::LinkId;
use crate::limits::{BLOB_CHUNK, TREE_BYTES};
use crate::wire::message::Request;

/// A tree, as far as it is here.
#[derive(Debug)]
pub(super) struct Tree {
    hash: Digest,
    len: u64,
    bytes: Vec<u8>,
    /// The bulk link, on a transport with many.
    pub link: Option<LinkId>,
}

/// The server sent another tree than it named.
#[derive(Debug)]
pub(super) struct WrongTree;

impl Tree {
    /// Whether a tree can have that length.
    pub(super) fn is_possible(len: u64) -> bool {
        len > 0 && len <= TREE_BYTES as u64
    }

    pub(super) fn new(hash: Digest, len: u64, link: Option<LinkId>) -> Self {
        Self { hash, len, bytes: Vec::new(), link }
    }

    /// What to ask next.
    pub(super) fn request(&self) -> Request {
        Request::BlobGet { hash: self.hash, offset: self.bytes.len() as u64 }
    }

    /// Takes a chunk in.
    pub(super) fn take(&mut self, total: u64, chunk: &[u8]) -> Result<(), WrongTree> {
        let sound = total == self.len
            && !chunk.is_empty()
            && chunk.len() <= BLOB_CHUNK
            && (self.bytes.len() + chunk.len()) as u64 <= total;
        if !sound {
            return Err(WrongTree);
        }
        self.bytes.extend_from_slice(chunk);
        if self.whole().is_some_and(|tree| Digest::of(&[tree]) != self.hash) {
            return Err(WrongTree);
        }
        Ok(())
    }

    /// The tree, once it is all here.
    pub(super) fn whole(&self) -> Option<&[u8]> {
        (self.bytes.len() as u64 == self.len).then_some(self.bytes.as_slice())
    }
}
