//! Links of a log's chain that every reader remembers for long: the same ones everywhere, so that any two can compare.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::id::Digest;
use crate::limits::{MARK_EVERY, MARKS_KEPT};

/// The chain at multiples of [`MARK_EVERY`]: the last [`MARKS_KEPT`] of those read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks(VecDeque<(u64, Digest)>);

impl Marks {
    /// An entry was read, in order; whether its place is one to remember.
    pub fn note(&mut self, seq: u64, chain: Digest) -> bool {
        let next = self.last().is_none_or(|(last, _)| seq > last);
        if !next || !seq.is_multiple_of(MARK_EVERY) {
            return false;
        }
        if self.0.len() >= MARKS_KEPT {
            self.0.pop_front();
        }
        self.0.push_back((seq, chain));
        true
    }

    /// The chain at a seq, if it is remembered.
    pub fn at(&self, seq: u64) -> Option<Digest> {
        let place = self.0.binary_search_by_key(&seq, |(seq, _)| *seq).ok()?;
        self.0.get(place).map(|(_, chain)| *chain)
    }

    /// The last one.
    pub fn last(&self) -> Option<(u64, Digest)> {
        self.0.back().copied()
    }
}

#[cfg(test)]
mod tests;
