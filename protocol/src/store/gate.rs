//! The persistence gate: nothing that depends on a change leaves the machine before the change is durable.
//!
//! Changes are staged into the open batch; effects (frames, events) are held behind every change staged before
//! them. [`Gate::seal`] closes the open batch for the runtime to persist, [`Gate::persisted`] opens the gate
//! for what waited, [`Gate::release`] lets it out in order. Batches become durable strictly in order, so one number
//! says how far.

use std::collections::VecDeque;

use super::batch::{Batch, Op};
use crate::error::Fatal;
use crate::io::BatchId;

/// Key of the record that holds the state version; written by every batch.
pub const VERSION_KEY: &[u8] = b"d/version";

/// Holds effects of type `E` until what they depend on is durable.
#[derive(Debug)]
pub struct Gate<E> {
    staged: Vec<Op>,
    sealed: u64,
    durable: u64,
    restored: u64,
    held: VecDeque<(u64, E)>,
}

impl<E> Gate<E> {
    /// A gate over state of that version.
    pub fn new(version: u64) -> Self {
        Self { staged: Vec::new(), sealed: 0, durable: 0, restored: version, held: VecDeque::new() }
    }

    /// The version that the state will have with everything staged so far.
    pub fn version(&self) -> u64 {
        self.restored + self.sealed + u64::from(!self.staged.is_empty())
    }

    /// Adds a change to the open batch.
    pub fn stage(&mut self, op: Op) {
        self.staged.push(op);
    }

    /// Adds changes to the open batch.
    pub fn stage_all(&mut self, ops: impl IntoIterator<Item = Op>) {
        self.staged.extend(ops);
    }

    /// Holds an effect until everything staged before it is durable.
    pub fn hold(&mut self, effect: E) {
        let needs = self.sealed + u64::from(!self.staged.is_empty());
        self.held.push_back((needs, effect));
    }

    /// Closes the open batch, if anything is in it.
    pub fn seal(&mut self) -> Option<Batch> {
        if self.staged.is_empty() {
            return None;
        }
        let version = self.version().to_be_bytes().to_vec();
        self.sealed += 1;
        self.staged.push(Op::Put(VERSION_KEY.to_vec(), version));
        Some(Batch { id: BatchId(self.sealed), ops: std::mem::take(&mut self.staged) })
    }

    /// A batch is durable. They come in order, each once.
    pub fn persisted(&mut self, id: BatchId) -> Result<(), Fatal> {
        if id.0 != self.durable + 1 || id.0 > self.sealed {
            return Err(Fatal::Misuse("a batch was reported durable out of order"));
        }
        self.durable = id.0;
        Ok(())
    }

    /// The next effect whose changes are durable.
    pub fn release(&mut self) -> Option<E> {
        let (needs, _) = self.held.front()?;
        if *needs > self.durable {
            return None;
        }
        self.held.pop_front().map(|(_, effect)| effect)
    }

    /// Whether nothing is staged, in flight or held.
    pub fn is_idle(&self) -> bool {
        self.staged.is_empty() && self.durable == self.sealed && self.held.is_empty()
    }

    /// How many effects wait.
    pub fn held(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests;
