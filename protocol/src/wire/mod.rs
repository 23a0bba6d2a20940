//! The wire: bytes to owned, checked messages and back. `schemas/qpc.capnp` is the contract.

pub mod message;
