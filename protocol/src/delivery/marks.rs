//! Links of a log's chain that every reader remembers for long: the same ones everywhere, so that any two can compare.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::id::Digest;
use crate::limits::{MARK_EVERY, MARKS_KEPT};

/// The chain at multiples of [`MARK_EVERY`], and wherever reading ended for a while: the last [`MARKS_KEPT`] of those.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks(VecDeque<(u64, Digest)>);

impl Marks {
    /// An entry was read, in order; whether its place is one to remember.
    pub fn note(&mut self, seq: u64, chain: Digest) -> bool {
        let next = self.last().is_none_or(|(last, _)| seq > last);
        let kept = next && seq.is_multiple_of(MARK_EVERY);
        if kept {
            self.push(seq, chain);
        }
        kept
    }

    /// The log is read on from a later place, and what lies between is not read: this is where reading ended. Whoever
    /// has read another log up to here finds that out by it, as by any other.
    pub fn keep(&mut self, seq: u64, chain: Digest) {
        if self.last().map_or(0, |(last, _)| last) < seq {
            self.push(seq, chain);
        }
    }

    fn push(&mut self, seq: u64, chain: Digest) {
        if self.0.len() >= MARKS_KEPT {
            self.0.pop_front();
        }
        self.0.push_back((seq, chain));
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
