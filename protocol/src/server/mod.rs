//! The server machine: one per process, holds all connections.

pub mod audit;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod job;
pub mod memory;
pub mod op;

use core::time::Duration;

use zeroize::Zeroizing;

use crate::crypto::Backend;
use crate::env::{Entropy, Now};
use crate::error::Fatal;
use crate::id::ServerId;
use crate::io::{Input, Output};
use crate::mls::suite::Suite;

/// What a server is told once. The defaults are those of [`limits`](crate::limits).
#[derive(Clone, Debug)]
pub struct Config {
    /// Primitives.
    pub backend: Backend,
    /// Version text for `Health`.
    pub version: String,
    /// Suites that key packages and groups may have.
    pub suites: Vec<Suite>,
    /// Connections held at once.
    pub connections: usize,
    /// Life of log entries.
    pub retention: Duration,
    /// Life of an access token.
    pub access_token_time: Duration,
    /// Life of a refresh token.
    pub refresh_token_time: Duration,
    /// Failed logins per account and window.
    pub logins_per_account: u32,
    /// Logins and registrations per source and window.
    pub logins_per_source: u32,
    /// Accept a transport without channel binding.
    pub insecure_plain: bool,
}

/// The secrets of a server, made once and kept for its life.
pub struct ServerSecrets {
    /// `ServerSetup` of OPAQUE, encoded ([`crate::auth`] makes it).
    pub opaque_setup: Zeroizing<Vec<u8>>,
    /// Seed of the Ed25519 key that signs delivery proofs; its public key is the server's id.
    pub proof_key: Zeroizing<[u8; 32]>,
    /// Key of the MACs in access tokens.
    pub token_key: Zeroizing<[u8; 32]>,
}

impl core::fmt::Debug for ServerSecrets {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("ServerSecrets(…)")
    }
}

/// The server machine.
#[derive(Debug)]
pub struct Server {
    _private: (),
}

#[expect(clippy::todo, unused_variables, reason = "skeleton")]
impl Config {
    /// The defaults, on that backend.
    pub fn new(backend: Backend) -> Self {
        todo!()
    }
}

#[expect(clippy::todo, unused_variables, reason = "skeleton")]
impl ServerSecrets {
    /// Fresh secrets.
    pub fn generate(entropy: &mut Entropy) -> Self {
        todo!()
    }
    /// All of them in one versioned encoding, to be kept where only the server can read.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        todo!()
    }
    /// Reads what [`Self::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        todo!()
    }
}

#[expect(clippy::todo, unused_variables, reason = "skeleton")]
impl Server {
    /// A machine.
    pub fn new(config: Config, secrets: ServerSecrets, entropy: Entropy, now: Now) -> Self {
        todo!()
    }
    /// One input.
    pub fn handle(&mut self, now: Now, input: Input<'_>) -> Result<(), Fatal> {
        todo!()
    }
    /// The next output; bytes to send are appended to `buffer`.
    pub fn poll(&mut self, buffer: &mut Vec<u8>) -> Output {
        todo!()
    }
    /// Takes no more connections and calls, lets those in flight finish (at most
    /// [`DRAIN_TIME`](crate::limits::DRAIN_TIME)), then closes every connection with `SHUTDOWN`.
    pub fn drain(&mut self, now: Now) {
        todo!()
    }
    /// Whether a drain is over: nothing is left to do.
    pub fn is_drained(&self) -> bool {
        todo!()
    }
    /// The server's id.
    pub fn id(&self) -> ServerId {
        todo!()
    }
    /// Connections held now.
    pub fn connections(&self) -> usize {
        todo!()
    }
}
