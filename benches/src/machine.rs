//! A server's machine over the reference store, in memory, with one connection: calls are handed in as bytes and come
//! out as bytes, so a measured call is decoding, checking, storing in memory, signing where that is due, and encoding.

use core::time::Duration;

use qpc_protocol::crypto::fast;
use qpc_protocol::env::{Entropy, Now, UnixMillis};
use qpc_protocol::io::{
    Binding, BindingKind, ConnId, Input, LinkId, LinkRole, Links, Output, Transport,
};
use qpc_protocol::server::memory::MemoryStore;
use qpc_protocol::server::{Config, Server, ServerSecrets};
use qpc_protocol::wire::frame::{Decoder, encode};
use qpc_protocol::wire::message::{Body, Frame, Reply, Request};

use crate::Error;
use crate::device::Caller;

/// The channel binding of the one connection.
pub const BINDING: Binding = Binding { kind: BindingKind::TlsExporter, value: [9; 32] };
const LINK: LinkId = LinkId(1);

/// A server in memory.
#[derive(Debug)]
pub struct InMemory {
    server: Server,
    store: MemoryStore,
    now: Now,
    calls: u32,
    /// The machine asked for bytes.
    asked: bool,
    decoder: Decoder,
    frame: Vec<u8>,
    sent: Vec<u8>,
}

impl InMemory {
    /// A server with one connection and one link for calls.
    ///
    /// # Errors
    /// None that a sound machine gives.
    pub fn start() -> Result<Self, Error> {
        let now = Now { mono: Duration::ZERO, wall: UnixMillis(1_800_000_000_000) };
        let mut entropy = Entropy::from_seed([3; 32]);
        let secrets = ServerSecrets::generate(&mut entropy);
        let mut server = Server::new(Config::new(fast()), secrets, entropy, now);
        let transport =
            Transport { binding: BINDING, peer: vec![127, 0, 0, 1], links: Links::Many };
        server.handle(now, Input::Connected(ConnId(1), transport))?;
        server.handle(now, Input::Accepted(ConnId(1), LINK))?;
        server.handle(now, Input::Writable(LINK, 1 << 30))?;
        let mut this = Self {
            server,
            store: MemoryStore::default(),
            now,
            calls: 0,
            asked: false,
            decoder: Decoder::new(),
            frame: Vec::new(),
            sent: Vec::new(),
        };
        encode(&Frame { call: 0, body: Body::Open(LinkRole::Calls) }, &mut this.frame);
        this.run()?;
        Ok(this)
    }

    /// The time of the machine.
    pub fn wall(&self) -> UnixMillis {
        self.now.wall
    }

    /// A request as bytes, under the next call number.
    pub fn encoded(&mut self, request: Request) -> Vec<u8> {
        self.calls += 1;
        let mut bytes = Vec::new();
        encode(&Frame { call: self.calls, body: Body::Request(request) }, &mut bytes);
        bytes
    }

    /// Hands a request in and runs the machine until nothing is left to do; the length of what it sent.
    ///
    /// # Errors
    /// If the machine closes the connection.
    pub fn serve(&mut self, request: &[u8]) -> Result<usize, Error> {
        self.frame.clear();
        self.frame.extend_from_slice(request);
        self.run()?;
        Ok(self.sent.len())
    }

    fn run(&mut self) -> Result<(), Error> {
        let now = self.now;
        self.sent.clear();
        let mut given = false;
        loop {
            let before = self.sent.len();
            match self.server.poll(&mut self.sent) {
                Output::Idle { .. } if given => return Ok(()),
                Output::Idle { .. } if !self.asked => {
                    return Err("the machine reads no more".into());
                }
                Output::Idle { .. } => {
                    (given, self.asked) = (true, false);
                    self.server.handle(now, Input::Bytes(LINK, &self.frame))?;
                }
                Output::Read(_) => self.asked = true,
                Output::Audit(_) => {}
                Output::Send { .. } => {
                    let sent = self.sent.len() - before;
                    self.server.handle(now, Input::Writable(LINK, sent))?;
                }
                Output::Store(id, op) => {
                    let reply = self.store.apply(&[op]).pop().ok_or("no reply")?;
                    self.server.handle(now, Input::Stored(id, Ok(reply)))?;
                }
                Output::Compute(id, job) => {
                    self.server.handle(now, Input::Computed(id, job.run()))?;
                }
                other => return Err(format!("{other:?}").into()),
            }
        }
    }
}

impl Caller for InMemory {
    fn call(&mut self, request: Request) -> Result<Reply, Error> {
        let bytes = self.encoded(request);
        self.serve(&bytes)?;
        let mut rest = self.sent.as_slice();
        // An answer may be held back to its floor time.
        while let Some(frame) =
            self.decoder.next(&mut rest).map_err(|fault| format!("{fault:?}"))?
        {
            match frame.body {
                Body::Reply(reply) => return Ok(reply),
                Body::Failure(failure) => return Err(format!("{failure:?}").into()),
                _ => {}
            }
        }
        Err("no answer".into())
    }
}
