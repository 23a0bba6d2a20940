//! A server's machine over the reference store, in memory, with one connection: calls are handed in as bytes and come
//! out as bytes, so a measured call is decoding, checking, the jobs that it needs, storing in memory, signing where
//! that is due, and encoding.

use core::time::Duration;
use std::time::Instant;

use qpc_protocol::crypto::fast;
use qpc_protocol::env::{Entropy, Now, UnixMillis};
use qpc_protocol::io::{
    Binding, BindingKind, ConnId, Gone, Input, LinkId, LinkRole, Links, Output, Transport,
};
use qpc_protocol::limits::{LOOKUP_TIME, READ_CHUNK};
use qpc_protocol::server::memory::MemoryStore;
use qpc_protocol::server::{Config, Server, ServerSecrets};
use qpc_protocol::wire::frame::{Decoder, encode};
use qpc_protocol::wire::message::{Body, Frame, Push, Request};

use crate::Error;
use crate::account::{Answer, Caller};

/// The channel binding of every connection.
pub const BINDING: Binding = Binding { kind: BindingKind::TlsExporter, value: [9; 32] };
/// By the machine's clock, calls come so far apart: no budget runs out, and a login is well within its time.
const PAUSE: Duration = Duration::from_secs(1);

/// What is done about an answer that is held back to its floor time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floor {
    /// The machine's clock jumps there: what is measured is work.
    Skip,
    /// It is waited for: what is measured is what a caller sees.
    Wait,
}

/// A server in memory.
#[derive(Debug)]
pub struct InMemory {
    server: Server,
    store: MemoryStore,
    floor: Floor,
    now: Now,
    conn: ConnId,
    calls: u32,
    /// Links that the machine asked for bytes of.
    asked: Vec<LinkId>,
    /// What the last call was answered, pushes included.
    sent: Vec<u8>,
}

impl InMemory {
    /// A server with one connection, one link for calls and one for pushes. It never refuses a login for coming too
    /// often.
    ///
    /// # Errors
    /// None that a sound machine gives.
    pub fn start(floor: Floor) -> Result<Self, Error> {
        let now = Now { mono: Duration::ZERO, wall: UnixMillis(1_800_000_000_000) };
        let mut entropy = Entropy::from_seed([3; 32]);
        let secrets = ServerSecrets::generate(&mut entropy);
        let unlimited = Config {
            logins_per_account: u32::MAX,
            logins_per_source: u32::MAX,
            ..Config::new(fast())
        };
        let mut this = Self {
            server: Server::new(unlimited, secrets, entropy, now),
            store: MemoryStore::default(),
            floor,
            now,
            conn: ConnId(0),
            calls: 0,
            asked: Vec::new(),
            sent: Vec::new(),
        };
        this.reconnect()?;
        Ok(this)
    }

    /// Ends the connection, and its session with it, for a new one.
    ///
    /// # Errors
    /// None that a sound machine gives.
    pub fn reconnect(&mut self) -> Result<(), Error> {
        let now = self.now;
        if self.conn != ConnId(0) {
            self.server.handle(now, Input::Disconnected(self.conn, Gone::Finished))?;
        }
        self.conn.0 += 1;
        self.asked.clear();
        let transport =
            Transport { binding: BINDING, peer: vec![127, 0, 0, 1], links: Links::Many };
        self.server.handle(now, Input::Connected(self.conn, transport))?;
        for role in [LinkRole::Calls, LinkRole::Pushes] {
            let link = self.link(role);
            self.server.handle(now, Input::Accepted(self.conn, link))?;
            self.server.handle(now, Input::Writable(link, 1 << 30))?;
            let mut open = Vec::new();
            encode(&Frame { call: 0, body: Body::Open(role) }, &mut open);
            self.run(link, &open)?;
        }
        Ok(())
    }

    fn link(&self, role: LinkRole) -> LinkId {
        LinkId(2 * self.conn.0 + u64::from(role == LinkRole::Pushes))
    }

    /// The time of the machine.
    pub fn wall(&self) -> UnixMillis {
        self.now.wall
    }

    /// All that is stored.
    pub fn stored(&self) -> MemoryStore {
        self.store.clone()
    }

    /// Goes back to what was stored. Connections and groups that the machine holds stay as they are.
    pub fn restore(&mut self, stored: MemoryStore) {
        self.store = stored;
    }

    /// A request as bytes, under the next call number and `PAUSE` after the last.
    ///
    /// # Errors
    /// If the machine closes the connection.
    pub fn encoded(&mut self, request: Request) -> Result<Vec<u8>, Error> {
        self.now.mono += PAUSE;
        self.server.handle(self.now, Input::Tick)?;
        self.run(self.link(LinkRole::Calls), &[])?;
        self.calls += 1;
        let mut bytes = Vec::new();
        encode(&Frame { call: self.calls, body: Body::Request(request) }, &mut bytes);
        Ok(bytes)
    }

    /// Hands a request in and runs the machine until nothing is left to do; the length of what it sent.
    ///
    /// # Errors
    /// If the machine closes the connection.
    pub fn serve(&mut self, request: &[u8]) -> Result<usize, Error> {
        self.run(self.link(LinkRole::Calls), request)?;
        Ok(self.sent.len())
    }

    /// What [`Self::serve`] sent: the answer, and how many log entries were pushed with it.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn answered(&self) -> Result<(Answer, usize), Error> {
        let (mut answer, mut pushed) = (None, 0);
        let (mut decoder, mut rest) = (Decoder::new(), self.sent.as_slice());
        while let Some(frame) = decoder.next(&mut rest).map_err(|fault| format!("{fault:?}"))? {
            match frame.body {
                Body::Reply(reply) => answer = Some(Ok(reply)),
                Body::Failure(failure) => answer = Some(Err(failure)),
                Body::Push(Push::Entries(pushes)) => pushed += pushes.entries.len(),
                _ => {}
            }
        }
        Ok((answer.ok_or("no answer")?, pushed))
    }

    fn run(&mut self, link: LinkId, mut input: &[u8]) -> Result<(), Error> {
        let (begun, arrived) = (Instant::now(), self.now.mono);
        let expects = !input.is_empty();
        self.sent.clear();
        loop {
            let now = self.now;
            match self.server.poll(&mut self.sent) {
                Output::Idle { wake_at, .. } if input.is_empty() => {
                    let held = wake_at.map(|at| at.saturating_sub(arrived));
                    let held = held.filter(|held| *held <= LOOKUP_TIME);
                    let Some(held) = held.filter(|_| expects && self.sent.is_empty()) else {
                        return Ok(());
                    };
                    while self.floor == Floor::Wait && begun.elapsed() < held {
                        core::hint::spin_loop();
                    }
                    self.now.mono = arrived + held;
                    self.server.handle(self.now, Input::Tick)?;
                }
                Output::Idle { .. } => {
                    let asked = self.asked.iter().position(|asked| *asked == link);
                    self.asked.swap_remove(asked.ok_or("the machine reads no more")?);
                    let (chunk, rest) = input.split_at(input.len().min(READ_CHUNK));
                    self.server.handle(now, Input::Bytes(link, chunk))?;
                    input = rest;
                }
                Output::Read(link) => self.asked.push(link),
                Output::Audit(_) => {}
                Output::Send { link, len, .. } => {
                    self.server.handle(now, Input::Writable(link, len))?;
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
    fn ask(&mut self, request: Request) -> Result<(Answer, Duration), Error> {
        let bytes = self.encoded(request)?;
        let begun = Instant::now();
        self.serve(&bytes)?;
        let took = begun.elapsed();
        Ok((self.answered()?.0, took))
    }
}
