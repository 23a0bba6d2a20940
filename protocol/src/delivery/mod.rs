//! Delivery by sequence number: the log's chain, delivery proofs, order, gaps and duplicates, the outbox,
//! backoff.

pub mod agreed;
pub mod backoff;
pub mod chain;
pub mod marks;
pub mod proof;
pub mod window;
