//! What the runtime asks of durable storage. Both run on a thread of their own.

use qpc_protocol::error::StoreFault;
use qpc_protocol::io::Page;
use qpc_protocol::server::op::{StoreOp, StoreReply};
use qpc_protocol::store::batch::{Batch, Records};

/// A server's store: executes operations, see [`StoreOp`].
pub trait ServerStore: Send {
    /// Executes operations in order as one durable transaction. On an error nothing of it happened.
    fn apply(&mut self, ops: &[StoreOp]) -> Result<Vec<StoreReply>, StoreFault>;
}

/// A client's store: ordered records.
pub trait ClientStore: Send {
    /// Applies a batch, atomically and durably. On an error nothing of it happened.
    fn apply(&mut self, batch: &Batch) -> Result<(), StoreFault>;
    /// Reads a page of records.
    fn load(&mut self, page: &Page) -> Result<Records, StoreFault>;
}
