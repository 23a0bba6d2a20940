//! Blocks as they come from the store, and the vectors that they are put together to.

use std::collections::BTreeMap;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Cut, Exceptions, List, Members, Name, PLACES, Shape};

/// Puts blocks together to vectors.
pub(super) struct Reader {
    /// In order of their names.
    blocks: Vec<(Name, Zeroizing<Vec<u8>>)>,
    /// Those of the lists of members read so far.
    pub(super) exceptions: BTreeMap<(u32, u32), Exceptions>,
    members: Option<Members>,
}

impl Reader {
    pub(super) fn new(blocks: Vec<(Name, Zeroizing<Vec<u8>>)>, members: Option<Members>) -> Self {
        Self { blocks, exceptions: BTreeMap::new(), members }
    }

    /// The blocks of a vector.
    fn of(&self, scope: u32, slot: u32) -> &[(Name, Zeroizing<Vec<u8>>)] {
        let from = self.blocks.partition_point(|(name, _)| *name < (scope, slot, 0));
        let behind = &self.blocks[from..];
        &behind[..behind.partition_point(|(name, _)| *name <= (scope, slot, u32::MAX))]
    }

    /// What is around the vectors of a scope.
    pub(super) fn around(&self, scope: u32) -> &[u8] {
        match self.of(scope, 0) {
            [((.., 0), block), ..] => block,
            _ => &[],
        }
    }

    pub(super) fn list(&mut self, (scope, slot): (u32, u32), shape: &Shape) -> Option<List> {
        match *shape {
            Shape::None => Some(List::None),
            Shape::Plain { per, len } if (1..=PLACES).contains(&per) && len <= PLACES => {
                Some(List::Plain(self.plain((scope, slot), per, len)?))
            }
            Shape::Plain { .. } => None,
            Shape::Members { len } => {
                let of_list = self.of(scope, slot).iter();
                let exceptions: Exceptions =
                    of_list.map(|((.., leaf), block)| (*leaf, block.to_vec())).collect();
                let list = Members::restore(self.members.as_ref()?, &exceptions);
                self.exceptions.insert((scope, slot), exceptions);
                (list.len() == len).then(|| List::Members(Arc::new(list)))
            }
        }
    }

    fn plain(&self, (scope, slot): (u32, u32), per: u32, len: u32) -> Option<Cut> {
        let mut blocks = self.of(scope, slot).iter().peekable();
        let stored: usize = blocks.clone().map(|(_, block)| block.len()).sum();
        let blank = usize::try_from(len).ok()?;
        let mut cut = Cut { per, len, ..Cut::default() };
        // Room for all at once: what is moved leaves a copy behind.
        cut.bytes.reserve(stored + blank);
        for at in 0..len.div_ceil(per) {
            match blocks.next_if(|((.., place), _)| *place == at) {
                Some((_, block)) => cut.bytes.extend_from_slice(block),
                None => {
                    let blank = usize::try_from(per.min(len - at * per)).ok()?;
                    let end = cut.bytes.len() + blank;
                    cut.bytes.resize(end, 0);
                }
            }
            cut.ends.push(cut.bytes.len());
        }
        Some(cut)
    }
}

/// Blocks as they are read, by scope.
#[derive(Default)]
pub(in super::super) struct Scattered(BTreeMap<u32, Vec<(Name, Vec<u8>)>>);

impl Scattered {
    pub(in super::super) fn push(&mut self, name: Name, block: Vec<u8>) {
        self.0.entry(name.0).or_default().push((name, block));
    }

    /// The blocks of a scope in order of their names. They are no longer here then.
    pub(super) fn take(&mut self, scope: u32) -> Vec<(Name, Vec<u8>)> {
        let mut blocks = self.0.remove(&scope).unwrap_or_default();
        blocks.sort_unstable_by_key(|(name, _)| *name);
        blocks
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of the last scope.
    pub(in super::super) fn last_scope(&self) -> Option<u32> {
        self.0.keys().next_back().copied()
    }
}
