//! Blocks as they come from the store, and the vectors that they are put together to.

use std::collections::BTreeMap;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Cut, Exceptions, List, Members, Name, PLACES, Shape};

/// Puts blocks together to vectors.
pub(super) struct Reader {
    /// In order of their names.
    blocks: Vec<Named>,
    /// Those of the lists of members read so far.
    pub(super) exceptions: BTreeMap<(u32, u32), Exceptions>,
    members: Option<Members>,
}

impl Reader {
    pub(super) fn new(blocks: Vec<Named>, members: Option<Members>) -> Self {
        Self { blocks, exceptions: BTreeMap::new(), members }
    }

    /// The blocks of a vector.
    fn of(&self, scope: u32, slot: u32) -> &[Named] {
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
        let blank = |at: u32| per.min(len - at * per) as usize;
        let of_blank = (0..len.div_ceil(per)).map(blank).sum::<usize>();
        let within = blocks.clone().filter(|((.., at), _)| *at < len.div_ceil(per));
        let (stored, covered) = within.fold((0, 0), |(stored, covered), ((.., at), block)| {
            (stored + block.len(), covered + blank(*at))
        });
        // Room for all at once: what is moved leaves a copy behind.
        let bytes = Vec::with_capacity(stored + of_blank - covered);
        let mut cut = Cut { per, len, bytes: Zeroizing::new(bytes), ..Cut::default() };
        for at in 0..len.div_ceil(per) {
            match blocks.next_if(|((.., place), _)| *place == at) {
                Some((_, block)) => cut.bytes.extend_from_slice(block),
                None => {
                    let end = cut.bytes.len() + blank(at);
                    cut.bytes.resize(end, 0);
                }
            }
            cut.ends.push(cut.bytes.len());
        }
        Some(cut)
    }
}

/// A block and its name.
pub(super) type Named = (Name, Zeroizing<Vec<u8>>);

/// Blocks as they are read, by scope.
#[derive(Default)]
pub(in super::super) struct Scattered(BTreeMap<u32, Vec<Named>>);

impl Scattered {
    pub(in super::super) fn push(&mut self, name: Name, block: Vec<u8>) {
        self.0.entry(name.0).or_default().push((name, Zeroizing::new(block)));
    }

    /// The blocks of a scope in order of their names. They are no longer here then.
    pub(super) fn take(&mut self, scope: u32) -> Vec<Named> {
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
