//! The qpc server as a library: its store.

pub mod store;
