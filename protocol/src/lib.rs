//! End-to-end encrypted group messaging as a sans-IO protocol core.

pub mod auth;
pub mod client;
pub mod crypto;
pub mod delivery;
pub mod env;
pub mod error;
pub mod id;
pub mod io;
pub mod job;
pub mod limits;
pub mod mls;
pub mod server;
pub mod store;
pub mod wire;
