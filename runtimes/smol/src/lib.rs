//! Drives qpc machines over QUIC (quinn) on smol: [`serve`] for a server's machine, [`open`] for a client's.
//!
//! Each driver is one thread with one executor, on which the machine and all QUIC work run; the store has a
//! thread of its own, jobs run on a small pool. Everything here is what `qpc_protocol::io` asks of a
//! runtime: bytes in and out by credit, durable batches, one timer, the clock and the random seed.
#![forbid(unsafe_code)]

mod address;
mod client;
mod clock;
mod dial;
mod driver;
mod link;
mod quic;
mod server;
pub mod store;
mod tls;

pub use address::{Address, AddressError, DEFAULT_PORT, Pin};
pub use client::{ClientHandle, ClientOptions, OpenError, Stopped, open};
pub use clock::{Clock, entropy};
pub use quic::{ALPN, ConnectionFacts, EXPORTER_LABEL, ResetSecret};
pub use server::{AuditSink, ServeOptions, ServerHandle, serve};
pub use tls::{Identity, IdentityError, RootsError, Trust};
