//! The path of a commit (RFC 9420 §7.6), read from its bytes: OpenMLS shows only the path's leaf, and looks neither at
//! whether the other keys can be encrypted to nor, where it has no secrets, at whom the path was sealed for.

use std::collections::{BTreeMap, BTreeSet};

use openmls::treesync::{ParentNode, TreeSync};

use super::public::outside::{Reader, read_framing};
use super::rules::{check_key, invalid};
use super::suite::Suite;
use super::{MlsError, encode};
use crate::crypto::Backend;
use crate::crypto::identity::DeviceRecord;

/// A path: of its leaf, whose it says to be.
#[derive(Debug)]
pub(super) struct Path<'a> {
    leaf: Leaf<'a>,
    /// From the committer's leaf up.
    nodes: Vec<PathNode<'a>>,
}

/// Whom a leaf says to be, and whose signatures hold for it.
#[derive(Debug)]
pub(super) struct Leaf<'a> {
    identity: &'a [u8],
    signature_key: &'a [u8],
}

#[derive(Debug)]
struct PathNode<'a> {
    key: &'a [u8],
    /// How many ciphertexts of the node's path secret there are.
    ciphertexts: usize,
}

impl<'a> Path<'a> {
    /// The path of an MLSMessage with a commit in a PublicMessage; `None` if it has none. Error:
    /// [`MlsError::Invalid`].
    pub(super) fn read(message: &'a [u8]) -> Result<Option<Self>, MlsError> {
        read(&mut Reader::new(message)).ok_or_else(|| invalid("malformed commit"))
    }

    /// The device that made it, if that is one: by a record of its account, of the key that the leaf's signatures are
    /// checked by. For a path that nothing else was found wrong with than its secrets, so that they hold.
    pub(super) fn maker(&self, backend: Backend) -> Option<DeviceRecord> {
        let record = DeviceRecord::decode(self.leaf.identity)?;
        let own = record.device_key == self.leaf.signature_key && record.verify(backend).is_ok();
        own.then_some(record)
    }

    /// Whether every key of the path can be encrypted to.
    pub(super) fn check_keys(&self, suite: Suite) -> Result<(), MlsError> {
        self.nodes.iter().try_for_each(|node| check_key(suite, node.key))
    }

    /// Whether every path secret was sealed for as many as need it (RFC 9420 §7.5): fewer would lock members out, who
    /// find out only when the commit is accepted. That what was sealed opens is for each of them to see.
    ///
    /// `tree` is the one after the commit: beside the committer's own path it is the one that the path was made for.
    /// `added` are the leaves that the commit added; they have their secrets from the welcome.
    pub(super) fn check_lengths(
        &self,
        tree: &TreeSync,
        committer: u32,
        added: &BTreeSet<u32>,
    ) -> Result<(), MlsError> {
        let shape = Shape::of(tree, added);
        let mut nodes = self.nodes.iter();
        let mut level = 0;
        while 1_u64 << level < shape.leaves {
            let sibling = (u64::from(committer) >> level ^ 1) << level;
            let (all, old) = shape.resolution(sibling, level)?;
            // The path skips what has nobody on the other side (RFC 9420 §4.1.2).
            if all > 0 && nodes.next().map(|node| node.ciphertexts) != Some(old) {
                return Err(invalid("a path that is not sealed for everyone who needs it"));
            }
            level += 1;
        }
        if nodes.next().is_some() { Err(invalid("a path that is too long")) } else { Ok(()) }
    }
}

fn read<'a>(reader: &mut Reader<'a>) -> Option<Option<Path<'a>>> {
    read_framing(reader)?;
    let _proposals = reader.vector()?;
    let leaf = match reader.u8()? {
        0 => return Some(None),
        1 => read_leaf(reader)?,
        _ => return None,
    };
    let mut list = Reader::new(reader.vector()?);
    let mut nodes = Vec::new();
    while !list.is_empty() {
        let key = list.vector()?;
        let mut sealed = Reader::new(list.vector()?);
        let mut ciphertexts = 0;
        while !sealed.is_empty() {
            let (_kem_output, _ciphertext) = (sealed.vector()?, sealed.vector()?);
            ciphertexts += 1;
        }
        nodes.push(PathNode { key, ciphertexts });
    }
    Some(Some(Path { leaf, nodes }))
}

/// Reads a LeafNode (RFC 9420 §7.2).
pub(super) fn read_leaf<'a>(reader: &mut Reader<'a>) -> Option<Leaf<'a>> {
    const BASIC: u16 = 1;
    let (_encryption_key, signature_key) = (reader.vector()?, reader.vector()?);
    if reader.u16()? != BASIC {
        return None;
    }
    let identity = reader.vector()?;
    let _capabilities: [&[u8]; 5] =
        [reader.vector()?, reader.vector()?, reader.vector()?, reader.vector()?, reader.vector()?];
    match reader.u8()? {
        1 => drop(reader.take(16)?),
        2 => {}
        3 => drop(reader.vector()?),
        _ => return None,
    }
    let (_extensions, _signature) = (reader.vector()?, reader.vector()?);
    Some(Leaf { identity, signature_key })
}

/// Who is where in a tree.
struct Shape<'a> {
    /// Places for leaves: a power of two.
    leaves: u64,
    full: BTreeSet<u32>,
    parents: BTreeMap<u64, &'a ParentNode>,
    added: &'a BTreeSet<u32>,
}

impl<'a> Shape<'a> {
    fn of(tree: &'a TreeSync, added: &'a BTreeSet<u32>) -> Self {
        let parents = tree.full_parents();
        Self {
            leaves: tree.leaves().len() as u64,
            full: tree.full_leaves().map(|(leaf, _)| leaf.u32()).collect(),
            parents: parents.map(|(at, parent)| (u64::from(at.u32()), parent)).collect(),
            added,
        }
    }

    /// How many nodes the resolution of the subtree has that begins with leaf `first` and has 2^`level` leaves, and how
    /// many of them were there before the commit (RFC 9420 §4.1.1).
    fn resolution(&self, first: u64, level: u32) -> Result<(usize, usize), MlsError> {
        if level == 0 {
            let leaf = u32::try_from(first).unwrap_or(u32::MAX);
            let full = self.full.contains(&leaf);
            let old = full && !self.added.contains(&leaf);
            return Ok((usize::from(full), usize::from(old)));
        }
        // In the array of all nodes leaf n is at 2n and parent n at 2n + 1 (RFC 9420 appendix C).
        let half = 1_u64 << (level - 1);
        if let Some(parent) = self.parents.get(&(first + half - 1)) {
            let unmerged = unmerged_leaves(parent)?;
            let old = unmerged.iter().filter(|leaf| !self.added.contains(leaf)).count();
            return Ok((1 + unmerged.len(), 1 + old));
        }
        let (left, right) =
            (self.resolution(first, level - 1)?, self.resolution(first + half, level - 1)?);
        Ok((left.0 + right.0, left.1 + right.1))
    }
}

fn unmerged_leaves(parent: &ParentNode) -> Result<Vec<u32>, MlsError> {
    let encoded = encode(parent)?;
    let mut reader = Reader::new(&encoded);
    let (_key, _parent_hash) = (reader.vector(), reader.vector());
    let leaves = reader.vector().ok_or_else(|| invalid("malformed parent"))?;
    let (leaves, _) = leaves.as_chunks::<4>();
    Ok(leaves.iter().map(|leaf| u32::from_be_bytes(*leaf)).collect())
}
