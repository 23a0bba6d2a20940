//! What the measurements share: a device without the client's machine, so that a measured call is the server's work
//! and not ours, and a server's machine in memory.
#![forbid(unsafe_code)]

pub mod account;
pub mod device;
pub mod echo;
pub mod machine;
pub mod members;
pub mod mls;
pub mod quic;
pub mod send;
pub mod timing;
pub mod town;
pub mod welch;
pub mod window;

/// What goes wrong while preparing a measurement.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
