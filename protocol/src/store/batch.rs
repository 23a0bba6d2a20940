//! What a client makes durable: ordered key-value records, changed in atomic batches.

use core::fmt;

use crate::io::BatchId;

/// One change of the stored records.
#[derive(Clone, PartialEq, Eq)]
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
