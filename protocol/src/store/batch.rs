//! What a client makes durable: ordered key-value records, changed in atomic batches.

use core::fmt;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::io::{BatchId, Page};

/// One change of the stored records. It serializes for stores that keep changes rather than records; its
/// bytes are as secret as they are.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Sets a record.
    Put(Vec<u8>, Vec<u8>),
    /// Removes a record; nothing happens if there is none.
    Delete(Vec<u8>),
    /// Removes all records whose key starts with this.
    DeletePrefix(Vec<u8>),
}

/// Changes that belong together: all of them become durable, or none.
#[derive(Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its place in the order; contiguous from 1 after each restore.
    pub id: BatchId,
    /// The changes, to be applied in this order.
    pub ops: Vec<Op>,
}

/// Stored records: key and value, in key order.
pub type Records = Vec<(Vec<u8>, Vec<u8>)>;

impl Op {
    /// Makes this change to records in memory: what a store's own change has to come to.
    pub fn apply(self, records: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
        match self {
            Self::Put(key, value) => drop(records.insert(key, value)),
            Self::Delete(key) => drop(records.remove(&key)),
            Self::DeletePrefix(prefix) => records.retain(|key, _| !key.starts_with(&prefix)),
        }
    }
}

impl Page {
    /// Reads this page from records in memory: what a store's own answer has to be.
    pub fn read(&self, records: &BTreeMap<Vec<u8>, Vec<u8>>) -> Records {
        let start = self.after.as_ref().filter(|after| **after > self.prefix);
        let following = records.range(start.unwrap_or(&self.prefix).clone()..);
        following
            .take_while(|(key, _)| key.starts_with(&self.prefix))
            .filter(|(key, _)| Some(*key) != self.after.as_ref())
            .take(self.most)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

// Values are secrets: `Debug` shows keys and lengths only.
impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(key, value) => {
                write!(f, "Put({}, {} bytes)", key.escape_ascii(), value.len())
            }
            Self::Delete(key) => write!(f, "Delete({})", key.escape_ascii()),
            Self::DeletePrefix(key) => write!(f, "DeletePrefix({})", key.escape_ascii()),
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({}, {:?})", self.id.0, self.ops)
    }
}

#[cfg(test)]
mod tests;
