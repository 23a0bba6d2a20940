//! End-to-end encrypted group messaging as a sans-IO protocol core.
//!
//! Two machines, [`client::Client`] (one per device) and [`server::Server`] (one per process), turn events into
//! actions and touch nothing else: no socket, file, clock, thread, lock or randomness of the system. What happened goes
//! in as [`io::Input`], what is to be done comes out as [`io::Output`]. A *runtime* carries it out: over QUIC, a serial
//! line, or, as here, a loop in memory. Nothing is hidden: the same seed, inputs and times give the same outputs,
//! byte for byte.
//!
//! # The run loop
//!
//! All that a runtime does, once for each machine. Alice registers at a server, over one ordered byte stream each way.
//!
//! ```
//! use std::collections::BTreeMap;
//! use qpc_protocol::client::{Client, Config, DIRECTORY, Stretching, event::Event};
//! use qpc_protocol::crypto::portable;
//! use qpc_protocol::env::{Entropy, Now, UnixMillis};
//! use qpc_protocol::io::{Binding, BindingKind, ConnId, Input, LinkId, Links, Output, Page, Target, Transport};
//! use qpc_protocol::limits::READ_CHUNK;
//! use qpc_protocol::server::{self, Server, ServerSecrets, memory::MemoryStore};
//!
//! // A runtime reads the clock before each call and seeds each machine once from the system; here both stand still.
//! let now = Now { mono: core::time::Duration::ZERO, wall: UnixMillis(1_800_000_000_000) };
//! let mut disk: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
//!
//! // A machine starts from the small records under `DIRECTORY`; it asks for the others when it needs them.
//! let directory = Page { prefix: DIRECTORY.to_vec(), after: None, most: usize::MAX }.read(&disk);
//! let config = Config {
//!     stretching: Stretching { memory_kib: 8, passes: 1, lanes: 1 }, // a page's; people get the default
//!     insecure_plain: true, // this stream has no encryption of its own
//!     ..Config::new(portable(), Target("in memory".into()))
//! };
//! let mut client = Client::restore(config, directory, Entropy::from_seed([1; 32]), now)?;
//!
//! let mut entropy = Entropy::from_seed([2; 32]);
//! let secrets = ServerSecrets::generate(&mut entropy); // kept for good: see `ServerSecrets::encode`
//! let config = server::Config { insecure_plain: true, ..server::Config::new(portable()) };
//! let mut server = Server::new(config, secrets, entropy, now);
//! let mut store = MemoryStore::default();
//!
//! // A command is accepted at once or refused at once; what comes of it is an event with its ticket.
//! let ticket = client.register(now, "alice", "correct horse".to_owned().into())?;
//!
//! let transport = Transport {
//!     binding: Binding { kind: BindingKind::InsecurePlain, value: [0; 32] },
//!     peer: Vec::new(),
//!     links: Links::One,
//! };
//! let (conn, at_server) = (ConnId(1), LinkId(1)); // the server's runtime draws its ids
//! let mut at_client = None; // the client's machine draws its own
//! let (mut up, mut down) = (Vec::new(), Vec::new()); // bytes on their way
//! let (mut server_reads, mut client_reads) = (false, false);
//! let mut buffer = Vec::new();
//! loop {
//!     // Whatever a machine asks is carried out and, where that has an answer, answered.
//!     buffer.clear();
//!     let mut idle = true;
//!     match client.poll(&mut buffer) {
//!         Output::Idle { .. } => {} // a runtime sleeps until `wake_at` or the next input, then sends `Tick`
//!         output => {
//!             idle = false;
//!             match output {
//!                 Output::Connect(id, _) => {
//!                     server.handle(now, Input::Connected(conn, transport.clone()))?;
//!                     client.handle(now, Input::Connected(id, transport.clone()))?;
//!                 }
//!                 Output::Open(_, link, _) => {
//!                     at_client = Some(link);
//!                     server.handle(now, Input::Accepted(conn, at_server))?;
//!                     server.handle(now, Input::Writable(at_server, 1 << 20))?;
//!                     client.handle(now, Input::Writable(link, 1 << 20))?;
//!                 }
//!                 Output::Send { link, len, .. } => {
//!                     up.extend_from_slice(&buffer);
//!                     client.handle(now, Input::Writable(link, len))?; // that much credit is back
//!                 }
//!                 Output::Read(_) => client_reads = true,
//!                 Output::Persist(batch) => {
//!                     batch.ops.into_iter().for_each(|op| op.apply(&mut disk));
//!                     // Only once all of it is on the disk: until then nothing that depends on it leaves.
//!                     client.handle(now, Input::Persisted(batch.id, Ok(())))?;
//!                 }
//!                 Output::Load(id, page) => {
//!                     client.handle(now, Input::Loaded(id, Ok(page.read(&disk))))?;
//!                 }
//!                 Output::Compute(id, job) => client.handle(now, Input::Computed(id, job.run()))?,
//!                 Output::Event(Event::Done(done, outcome)) if done == ticket => {
//!                     println!("{outcome:?}");
//!                     break;
//!                 }
//!                 Output::Event(event) => println!("{event:?}"),
//!                 other => panic!("{other:?}"), // a link or the connection is to be closed
//!             }
//!         }
//!     }
//!     buffer.clear();
//!     match server.poll(&mut buffer) {
//!         Output::Idle { .. } if idle && up.is_empty() && down.is_empty() => panic!("nobody has anything to do"),
//!         Output::Idle { .. } => {}
//!         Output::Send { link, len, .. } => {
//!             down.extend_from_slice(&buffer);
//!             server.handle(now, Input::Writable(link, len))?;
//!         }
//!         Output::Read(_) => server_reads = true,
//!         // A runtime gathers all operations that are ready into one transaction.
//!         Output::Store(id, op) => {
//!             for reply in store.apply(&[op]) {
//!                 server.handle(now, Input::Stored(id, Ok(reply)))?;
//!             }
//!         }
//!         Output::Compute(id, job) => server.handle(now, Input::Computed(id, job.run()))?,
//!         Output::Audit(_) => {}
//!         other => panic!("{other:?}"),
//!     }
//!     // The wire: nobody is given bytes unasked.
//!     if server_reads && !up.is_empty() {
//!         server_reads = false;
//!         let bytes: Vec<_> = up.drain(..up.len().min(READ_CHUNK)).collect();
//!         server.handle(now, Input::Bytes(at_server, &bytes))?;
//!     }
//!     if let Some(link) = at_client && client_reads && !down.is_empty() {
//!         client_reads = false;
//!         let bytes: Vec<_> = down.drain(..down.len().min(READ_CHUNK)).collect();
//!         client.handle(now, Input::Bytes(link, &bytes))?;
//!     }
//! }
//! assert_eq!(client.whoami().map(|(name, ..)| name.as_str().to_owned()), Some("alice".to_owned()));
//! assert!(!disk.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A program in full, with a file, a Unix socket and a restart, is `examples/one_link.rs`; over QUIC it is `qpc-smol`.
//!
//! # The map
//!
//! | module | what lives there |
//! |---|---|
//! | [`io`], [`env`](mod@env), [`job`], [`error`], [`limits`], [`id`] | the surface: what goes in and out, time and randomness, slow work as values, whose fault an error is, every bound |
//! | [`client`] | a device: connection and session, groups, outbox, what the application hears |
//! | [`server`] | all connections of a server, and its store as [operations](server::op::StoreOp) |
//! | [`wire`] | bytes to owned messages and back; the only place that knows Cap'n Proto |
//! | [`mls`] | groups: OpenMLS stays in here |
//! | [`auth`] | OPAQUE, tokens, the proof that opens a session |
//! | [`crypto`] | primitives on two backends, X-Wing, HPKE, identities, sealing |
//! | [`delivery`] | chains, cursors, delivery proofs, backoff |
//! | [`store`] | batches, and the gate that holds back what depends on them |
//!
//! # Features
//!
//! * `fast`: a second backend on aws-lc-rs and libcrux (needs a C compiler). The bytes are the same.
#![forbid(unsafe_code)]

pub mod auth;
pub mod client;
pub mod crypto;
pub mod delivery;
pub mod env;
pub mod error;
pub mod gauge;
pub mod id;
pub mod io;
pub mod job;
pub mod limits;
pub mod mls;
pub mod server;
pub mod store;
pub mod wire;

#[cfg(test)]
mod tests;

/// The snippet in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
