//! The wire: bytes to owned, checked messages and back. `schemas/qpc.capnp` is the contract.
//!
//! [`frame`] turns the bytes of a link into [`message::Frame`]s and back. Cap'n Proto's readers and
//! builders do not leave this module: deeper code sees values whose every bound has been checked.

pub mod frame;
pub mod message;

#[cfg(test)]
mod arbitrary;
mod generated;
mod read;
mod size;
mod write;
