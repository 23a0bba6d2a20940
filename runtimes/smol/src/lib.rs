//! Drives qpc machines over QUIC (quinn) on smol.

pub mod store;
