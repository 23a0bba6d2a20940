//! The reference store: everything in memory.

use super::op::{StoreOp, StoreReply};

/// A store in memory; the meaning of [`StoreOp`] in code.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    _private: (),
}

#[expect(clippy::todo, unused_variables, reason = "skeleton")]
impl MemoryStore {
    /// Executes operations in order, as one transaction.
    pub fn apply(&mut self, ops: &[StoreOp]) -> Vec<StoreReply> {
        todo!()
    }
}
