//! Order in one channel: what comes next, what was there before, what is missing, and what contradicts.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

use super::chain;
use crate::id::{ChannelId, Digest};
use crate::limits::{CHAINS_KEPT, CHAINS_STORED};
use crate::wire::message::Entry;

/// How far a device has read a channel's log, and what it read: the log's chain there, and a few values behind
/// it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    seq: u64,
    chain: Digest,
    /// `chain[seq - 1]`, `chain[seq - 2]` …; at most [`CHAINS_KEPT`], of which [`CHAINS_STORED`] are stored.
    #[serde(serialize_with = "nearest")]
    behind: VecDeque<Digest>,
}

/// What an entry is to a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// The next one: the cursor stands behind it now.
    Next,
    /// It was read before. Nothing changed.
    Duplicate,
    /// Entries are missing in between: fetch `from` to `to`, both included. Nothing changed.
    Gap {
        /// The first one missing.
        from: u64,
        /// The last one missing.
        to: u64,
    },
}

/// The log contradicts what was read of it: somebody shows different logs to different readers, or at
/// different times. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the log has forked at seq {seq}")]
pub struct Forked {
    /// Where it shows.
    pub seq: u64,
}

/// What somebody else's word "at `seq` the chain is this" is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Agreement {
    /// The same log up to there.
    Same,
    /// Too far back to tell.
    TooOld,
    /// Not read that far yet: ask again then.
    Ahead,
}

impl Cursor {
    /// Before the first entry of a channel.
    pub fn start(channel: ChannelId) -> Self {
        Self::at(0, chain::start(channel))
    }

    /// Behind an entry that one need not read, on the word of somebody who has: where a welcome leads.
    pub fn at(seq: u64, chain: Digest) -> Self {
        Self { seq, chain, behind: VecDeque::new() }
    }

    /// The last entry read; 0 before the first.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The chain up to and including it.
    pub fn chain(&self) -> Digest {
        self.chain
    }

    /// Takes an entry in, if it is the next one.
    ///
    /// # Errors
    /// An entry that was read before and is not what it was, as far as the chain values kept can tell; or one
    /// with the seq 0, which no log has.
    pub fn advance(&mut self, entry: &Entry) -> Result<Step, Forked> {
        let Some(ahead) = entry.seq.checked_sub(self.seq) else { return self.again(entry) };
        match ahead {
            0 => self.again(entry),
            1 => {
                let next = chain::next(self.chain, entry);
                self.behind.push_front(core::mem::replace(&mut self.chain, next));
                self.behind.truncate(CHAINS_KEPT);
                self.seq = entry.seq;
                Ok(Step::Next)
            }
            // At least two ahead, so neither end overflows.
            _ => Ok(Step::Gap { from: self.seq + 1, to: entry.seq - 1 }),
        }
    }

    /// Whether somebody else read the same log: for what messages, receipts and checkpoints say.
    ///
    /// # Errors
    /// They read another.
    pub fn compare(&self, seq: u64, chain: Digest) -> Result<Agreement, Forked> {
        if seq > self.seq {
            return Ok(Agreement::Ahead);
        }
        match self.kept(seq) {
            None => Ok(Agreement::TooOld),
            Some(own) if own == chain => Ok(Agreement::Same),
            Some(_) => Err(Forked { seq }),
        }
    }

    /// Whether entries that this device has not read are gone, if `first` is the first that is kept: only a resync
    /// can help.
    pub fn has_lost(&self, first: u64) -> bool {
        first.checked_sub(1).is_some_and(|before| before > self.seq)
    }

    fn again(&self, entry: &Entry) -> Result<Step, Forked> {
        let forked = Forked { seq: entry.seq };
        let before = entry.seq.checked_sub(1).ok_or(forked)?;
        match (self.kept(before), self.kept(entry.seq)) {
            (Some(before), Some(then)) if chain::next(before, entry) != then => Err(forked),
            _ => Ok(Step::Duplicate),
        }
    }

    /// The chain at a seq, if it is not ahead and not too far back.
    fn kept(&self, seq: u64) -> Option<Digest> {
        match self.seq.checked_sub(seq)? {
            0 => Some(self.chain),
            back => self.behind.get(usize::try_from(back - 1).ok()?).copied(),
        }
    }
}

/// Stores the nearest links only.
fn nearest<S: Serializer>(behind: &VecDeque<Digest>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(behind.iter().take(CHAINS_STORED))
}

#[cfg(test)]
mod tests;
