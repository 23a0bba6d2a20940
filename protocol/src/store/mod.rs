//! Durable state of a client: batches of records, the gate that holds outputs until they are durable,
//! and the versioned encoding of records.

pub mod batch;
pub mod gate;
pub mod record;
