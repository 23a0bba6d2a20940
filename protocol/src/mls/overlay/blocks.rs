//! A large record in blocks: a small change of it is a small write (docs/adr/0012).
//!
//! What OpenMLS stores as one value is kept in one piece here, and stored as a *head* and *blocks*. The vectors in it
//! that grow with the group are cut into blocks of a few places each; a block of blank places is not stored at all.
//! What is around the vectors is one more block. The head says how all of them go together, and has a sum over them:
//! blocks that are missing, or of another time than the head, are found out when they are read.

mod reader;
#[cfg(test)]
mod tests;

use core::ops::Range;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub(super) use self::reader::Scattered;
use self::reader::{Named, Reader};
use super::members::{Exceptions, Members};
use crate::id::Digest;
use crate::mls::parallel;
use crate::store::batch::Op;
use crate::store::record;

/// The first byte of a block's key; its [`Name`] in postcard follows.
pub(super) const BLOCK: u8 = b'B';
/// The first byte of a head's key; the key of the record follows.
pub(super) const HEAD: u8 = b'H';

/// A block: scope, slot, place of the block in its vector. Slot 0 is what is around the vectors of the scope.
pub(super) type Name = (u32, u32, u32);

/// The most places of a vector that is read: OpenMLS's vectors have one per leaf.
const PLACES: u32 = 1 << 20;

/// A record in blocks.
#[derive(Clone, Default)]
pub(super) struct Blocks {
    pub(super) parts: Vec<Part>,
    /// What is stored of it; `None` while it is not.
    pub(super) saved: Option<Saved>,
}

/// Some bytes of a record, and the vector that follows them.
#[derive(Clone)]
pub(super) struct Part {
    /// What it belongs to. A scope keeps its number, and so its blocks their names, wherever in the record it goes.
    pub(super) scope: u32,
    /// Its number in its scope, from 1 on.
    pub(super) slot: u32,
    pub(super) literal: Zeroizing<Vec<u8>>,
    pub(super) list: List,
}

#[derive(Clone, Default)]
pub(super) enum List {
    #[default]
    None,
    Plain(Cut),
    /// Members of an epoch, in order of their leaves. They are public, the same for as long as the epoch is
    /// remembered, and most of them in the tree as well.
    Members(Arc<Members>),
}

/// A vector cut into blocks.
#[derive(Clone, Default)]
pub(super) struct Cut {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// Where each block ends.
    pub(super) ends: Vec<usize>,
    /// How many places there are in a block.
    pub(super) per: u32,
    /// How many places there are.
    pub(super) len: u32,
}

/// What is stored of a record.
#[derive(Clone)]
pub(super) struct Saved {
    pub(super) sum: Sum,
    head: Vec<u8>,
    exceptions: Arc<BTreeMap<(u32, u32), Exceptions>>,
}

/// The ratchet tree that lists of members lean on.
pub(super) struct Tree {
    pub(super) sum: Sum,
    /// Its members. `None`: what is stored of the lists holds still; or there is no tree.
    pub(super) members: Option<Members>,
}

/// The sum of the hashes of blocks, in four lanes. It tells damage, not malice: who can write the records can write a
/// sum.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum([u64; 4]);

#[derive(Serialize, Deserialize)]
struct Head {
    sum: [u8; 32],
    parts: Vec<HeadPart>,
}

#[derive(Serialize, Deserialize)]
struct HeadPart {
    scope: u32,
    literal: u32,
    shape: Shape,
}

#[derive(Serialize, Deserialize)]
enum Shape {
    None,
    Plain { per: u32, len: u32 },
    Members { len: u32 },
}

impl Blocks {
    /// The record in one piece.
    pub(super) fn join(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(self.bytes()));
        for part in &self.parts {
            out.extend_from_slice(&part.literal);
            out.extend_from_slice(part.list.bytes());
        }
        out
    }

    /// How long it is in one piece.
    pub(super) fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.literal.len() + part.list.bytes().len()).sum()
    }

    /// See [`Overlay::slack`](super::Overlay::slack).
    #[cfg(test)]
    pub(super) fn slack(&self) -> usize {
        let literals = self.literals();
        let literals = literals.values().chain(self.parts.iter().map(|part| &part.literal));
        let bytes = literals.chain(self.plain().map(|(_, cut)| &cut.bytes));
        bytes.map(|bytes| bytes.capacity() - bytes.len()).sum()
    }

    pub(super) fn leans(&self) -> bool {
        self.parts.iter().any(|part| matches!(part.list, List::Members(_)))
    }

    /// Whether its lists of members are those of `other`, at the same places.
    pub(super) fn leans_as(&self, other: &Self) -> bool {
        self.members().all(|(at, list)| {
            other.members().any(|(place, same)| place == at && Arc::ptr_eq(list, same))
        })
    }

    fn members(&self) -> impl Iterator<Item = ((u32, u32), &Arc<Members>)> {
        self.parts.iter().filter_map(|part| match &part.list {
            List::Members(list) => Some(((part.scope, part.slot), list)),
            _ => None,
        })
    }

    fn plain(&self) -> impl Iterator<Item = ((u32, u32), &Cut)> {
        self.parts.iter().filter_map(|part| match &part.list {
            List::Plain(cut) => Some(((part.scope, part.slot), cut)),
            _ => None,
        })
    }

    /// The members in a tree.
    pub(super) fn leaves(&self) -> Members {
        let mut members = Members::default();
        if let Some((_, leaves)) = self.plain().next() {
            for (leaf, at) in (0..leaves.len).zip(0..) {
                if let Some(stored) = leaves.block(at) {
                    members.push_leaf(leaf, stored);
                }
            }
        }
        members
    }

    fn literals(&self) -> BTreeMap<u32, Zeroizing<Vec<u8>>> {
        let mut lens: BTreeMap<_, usize> = BTreeMap::new();
        for part in &self.parts {
            *lens.entry(part.scope).or_default() += part.literal.len();
        }
        let room = |(scope, len)| (scope, Zeroizing::new(Vec::with_capacity(len)));
        let mut literals: BTreeMap<_, Zeroizing<Vec<u8>>> = lens.into_iter().map(room).collect();
        for part in &self.parts {
            literals.entry(part.scope).or_default().extend_from_slice(&part.literal);
        }
        literals
    }

    /// What has to be written so that this record is stored where `old` was.
    pub(super) fn changes(&self, key: &[u8], old: &Self, tree: &Tree) -> (Vec<Op>, Saved) {
        let saved = old.saved.as_ref();
        let mut writer =
            Writer { ops: Vec::new(), sum: saved.map(|saved| saved.sum).unwrap_or_default() };
        writer.literals(&old.literals(), &self.literals());
        writer.lists(&old.plain().collect(), &self.plain().collect());
        let before = saved.map(|saved| saved.exceptions.clone()).unwrap_or_default();
        let exceptions = match &tree.members {
            None => before,
            Some(tree) => {
                let lists = self.members().map(|(at, list)| (at, list.exceptions(tree)));
                let exceptions: Arc<BTreeMap<_, _>> = Arc::new(lists.collect());
                writer.exceptions(&before, &exceptions);
                exceptions
            }
        };
        let Writer { mut ops, sum } = writer;
        let head = self.head(sum.plus(tree.sum));
        if saved.map(|saved| &saved.head) != Some(&head) {
            ops.push(Op::Put(head_key(key), head.clone()));
        }
        (ops, Saved { sum, head, exceptions })
    }

    /// What has to be deleted when this record is.
    pub(super) fn removal(&self, key: &[u8]) -> Vec<Op> {
        let none = Tree { sum: Sum::default(), members: Some(Members::default()) };
        let (mut ops, _) = Self::default().changes(key, self, &none);
        ops.retain(|op| matches!(op, Op::Delete(_)));
        ops.push(Op::Delete(head_key(key)));
        ops
    }

    fn head(&self, sum: Sum) -> Vec<u8> {
        let small = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let parts = self.parts.iter().map(|part| HeadPart {
            scope: part.scope,
            literal: small(part.literal.len()),
            shape: match &part.list {
                List::None => Shape::None,
                List::Plain(cut) => Shape::Plain { per: cut.per, len: cut.len },
                List::Members(list) => Shape::Members { len: list.len() },
            },
        });
        record::encode(&Head { sum: sum.to_bytes(), parts: parts.collect() })
    }

    /// Puts a record together from its head and blocks, which it takes out of `stored`. `None` if anything of it is
    /// missing, left over, or of another time.
    pub(super) fn read(
        head: Vec<u8>,
        stored: &mut Scattered,
        tree: impl FnOnce() -> Tree,
    ) -> Option<Self> {
        let decoded: Head = record::decode(b"head", &head).ok()?;
        let scopes: BTreeSet<_> = decoded.parts.iter().map(|part| part.scope).collect();
        let leans = decoded.parts.iter().any(|part| matches!(part.shape, Shape::Members { .. }));
        let none = Tree { sum: Sum::default(), members: None };
        let tree = if leans { tree() } else { none };
        let all: Vec<_> = scopes.into_iter().flat_map(|scope| stored.take(scope)).collect();
        let sum = sum_of(&all);
        let mut reader = Reader::new(all, tree.members);
        let mut cursors: BTreeMap<u32, (usize, u32)> = BTreeMap::new();
        let mut blocks = Self::default();
        for HeadPart { scope, literal, shape } in decoded.parts {
            let (from, slot) = cursors.entry(scope).or_default();
            let to = from.checked_add(usize::try_from(literal).ok()?)?;
            let around = reader.around(scope);
            let literal = Zeroizing::new(around.get(*from..to)?.to_vec());
            *from = to;
            *slot += 1;
            let (slot, list) = (*slot, reader.list((scope, *slot), &shape)?);
            blocks.parts.push(Part { scope, slot, literal, list });
        }
        let whole = cursors.iter().all(|(scope, (len, _))| reader.around(*scope).len() == *len);
        let exceptions = Arc::new(reader.exceptions);
        let sound = whole && sum.plus(tree.sum).to_bytes() == decoded.sum;
        blocks.saved = Some(Saved { sum, head, exceptions });
        sound.then_some(blocks)
    }
}

impl List {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::None => &[],
            Self::Plain(cut) => &cut.bytes,
            Self::Members(list) => list.bytes(),
        }
    }
}

impl Cut {
    /// A block; `None` for one that is not stored, because all its places are blank (an option that is `None` is a
    /// zero).
    fn block(&self, at: usize) -> Option<&[u8]> {
        let end = *self.ends.get(at)?;
        let block = self.bytes.get(self.start(at)..end)?;
        block.iter().any(|byte| *byte != 0).then_some(block)
    }

    fn start(&self, at: usize) -> usize {
        at.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0)
    }

    /// The blocks that may differ. Most are the same in both: those in front and behind are compared in one go.
    fn differing(&self, other: &Self) -> Range<usize> {
        let all = self.ends.len().max(other.ends.len());
        let front = same_in_front(&self.bytes, &other.bytes);
        let ends = self.ends.iter().zip(&other.ends);
        let first = ends.take_while(|(end, same)| end == same && **end <= front).count();
        if self.ends.len() != other.ends.len() {
            return first..all;
        }
        let behind = same_behind(&self.bytes, &other.bytes);
        let rest = |cut: &Self, at| cut.bytes.len() - cut.start(at);
        let same = |at: &usize| rest(self, *at) == rest(other, *at) && rest(self, *at) <= behind;
        first..all - (first..all).rev().take_while(same).count()
    }
}

/// How many bytes two slices have in common from their front on.
fn same_in_front(one: &[u8], other: &[u8]) -> usize {
    let chunks = one.chunks(CHUNK).zip(other.chunks(CHUNK));
    let whole = CHUNK * chunks.take_while(|(one, other)| one == other).count();
    let whole = whole.min(one.len()).min(other.len());
    let rest = one[whole..].iter().zip(&other[whole..]);
    whole + rest.take_while(|(one, other)| one == other).count()
}

/// The same from their back on.
fn same_behind(one: &[u8], other: &[u8]) -> usize {
    let chunks = one.rchunks(CHUNK).zip(other.rchunks(CHUNK));
    let whole = CHUNK * chunks.take_while(|(one, other)| one == other).count();
    let whole = whole.min(one.len()).min(other.len());
    let (one, other) = (&one[..one.len() - whole], &other[..other.len() - whole]);
    let rest = one.iter().rev().zip(other.iter().rev());
    whole + rest.take_while(|(one, other)| one == other).count()
}

/// So many bytes are compared in one go.
const CHUNK: usize = 128;

impl Sum {
    fn of((scope, slot, at): Name, value: &[u8]) -> Self {
        let name = [scope, slot, at].map(u32::to_be_bytes);
        Self::from_bytes(&Digest::of(&[name.as_flattened(), value]).0)
    }

    fn from_bytes(bytes: &[u8; 32]) -> Self {
        let (lanes, _) = bytes.as_chunks::<8>();
        let mut sum = [0; 4];
        for (lane, bytes) in sum.iter_mut().zip(lanes) {
            *lane = u64::from_be_bytes(*bytes);
        }
        Self(sum)
    }

    fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, lane) in bytes.chunks_mut(8).zip(self.0) {
            chunk.copy_from_slice(&lane.to_be_bytes());
        }
        bytes
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self(core::array::from_fn(|lane| self.0[lane].wrapping_add(other.0[lane])))
    }

    fn minus(self, other: Self) -> Self {
        Self(core::array::from_fn(|lane| self.0[lane].wrapping_sub(other.0[lane])))
    }
}

/// The sum of blocks. What many of them have to be hashed for is shared by the cores.
fn sum_of(blocks: &[Named]) -> Sum {
    let of = |(name, block): &Named| Sum::of(*name, block);
    let bytes: usize = blocks.iter().map(|(_, block)| block.len()).sum();
    let sums = match bytes {
        SHARED.. => parallel::each(blocks, of),
        _ => blocks.iter().map(of).collect(),
    };
    sums.into_iter().fold(Sum::default(), Sum::plus)
}

/// From so many bytes on it pays to share the hashing of them.
const SHARED: usize = 1 << 17;

/// Collects what has to be written.
struct Writer {
    ops: Vec<Op>,
    sum: Sum,
}

impl Writer {
    fn change(&mut self, name: Name, old: Option<&[u8]>, new: Option<&[u8]>) {
        if old == new {
            return;
        }
        if let Some(old) = old {
            self.sum = self.sum.minus(Sum::of(name, old));
        }
        let key = block_key(name);
        match new {
            Some(new) => {
                self.sum = self.sum.plus(Sum::of(name, new));
                self.ops.push(Op::Put(key, new.to_vec()));
            }
            None => self.ops.push(Op::Delete(key)),
        }
    }

    fn literals(
        &mut self,
        old: &BTreeMap<u32, Zeroizing<Vec<u8>>>,
        new: &BTreeMap<u32, Zeroizing<Vec<u8>>>,
    ) {
        let bytes = |literals: &'_ BTreeMap<u32, Zeroizing<Vec<u8>>>, scope| {
            literals.get(&scope).cloned().filter(|literal| !literal.is_empty())
        };
        for scope in keys_of(old, new) {
            let (old, new) = (bytes(old, scope), bytes(new, scope));
            let (old, new) =
                (old.as_ref().map(|b| b.as_slice()), new.as_ref().map(|b| b.as_slice()));
            self.change((scope, 0, 0), old, new);
        }
    }

    fn lists(&mut self, old: &BTreeMap<(u32, u32), &Cut>, new: &BTreeMap<(u32, u32), &Cut>) {
        let none = Cut::default();
        for (scope, slot) in keys_of(old, new) {
            let old = old.get(&(scope, slot)).copied().unwrap_or(&none);
            let new = new.get(&(scope, slot)).copied().unwrap_or(&none);
            for at in old.differing(new) {
                let name = (scope, slot, u32::try_from(at).unwrap_or(u32::MAX));
                self.change(name, old.block(at), new.block(at));
            }
        }
    }

    fn exceptions(
        &mut self,
        old: &BTreeMap<(u32, u32), Exceptions>,
        new: &BTreeMap<(u32, u32), Exceptions>,
    ) {
        let none = Exceptions::new();
        for at in keys_of(old, new) {
            let (old, new) = (old.get(&at).unwrap_or(&none), new.get(&at).unwrap_or(&none));
            for leaf in keys_of(old, new) {
                let (old, new) = (old.get(&leaf), new.get(&leaf));
                self.change((at.0, at.1, leaf), old.map(Vec::as_slice), new.map(Vec::as_slice));
            }
        }
    }
}

fn keys_of<K: Ord + Copy, A, B>(old: &BTreeMap<K, A>, new: &BTreeMap<K, B>) -> BTreeSet<K> {
    old.keys().chain(new.keys()).copied().collect()
}

fn head_key(key: &[u8]) -> Vec<u8> {
    [&[HEAD], key].concat()
}

fn block_key(name: Name) -> Vec<u8> {
    // Three numbers: postcard cannot refuse them.
    postcard::to_extend(&name, vec![BLOCK]).unwrap_or_default()
}

/// The name in a block's key.
pub(super) fn block_name(key: &[u8]) -> Option<Name> {
    match postcard::take_from_bytes(key.strip_prefix(&[BLOCK])?) {
        Ok((name, [])) => Some(name),
        _ => None,
    }
}
