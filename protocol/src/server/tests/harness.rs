//! A server machine over the memory store, its jobs run inline, its clients' ends of the links held by the test.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::crypto::{Backend, portable};
use crate::env::{Entropy, Now, UnixMillis};
use crate::error::{CloseCode, ErrorCode, StoreFault, StoreFaultKind};
use crate::id::Digest;
use crate::io::{
    Binding, BindingKind, ConnId, Gone, Input, LinkId, LinkRole, Links, OpId, Output, Transport,
    WakeReason,
};
use crate::job::Job;
use crate::limits;
use crate::server::audit::AuditEvent;
use crate::server::memory::MemoryStore;
use crate::server::op::{StoreOp, StoreReply};
use crate::server::{Config, Server, ServerSecrets};
use crate::wire::frame::{Decoder, encode};
use crate::wire::message::{Body, Failure, Frame, Push, Reply, Request};

pub(super) const START: UnixMillis = UnixMillis(1_800_000_000_000);
/// Plenty for a test that is not about credit.
pub(super) const CREDIT: usize = 64 * 1024 * 1024;

/// The client's end of a link.
pub(super) struct End {
    pub(super) conn: ConnId,
    decoder: Decoder,
    /// Frames received and not yet taken by the test.
    pub(super) inbox: VecDeque<Frame>,
    /// Bytes that the machine has not yet asked for.
    pub(super) pending: VecDeque<u8>,
    pub(super) wanted: bool,
    pub(super) finished: bool,
    pub(super) received: usize,
    calls: u32,
}

/// How the store behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Disk {
    Works,
    /// Every transaction fails.
    Fails,
    /// Operations wait until the test lets them through.
    Waits,
}

pub(super) struct World {
    pub(super) server: Server,
    pub(super) store: MemoryStore,
    pub(super) disk: Disk,
    pub(super) now: Now,
    pub(super) entropy: Entropy,
    pub(super) ends: BTreeMap<LinkId, End>,
    pub(super) closed: BTreeMap<ConnId, CloseCode>,
    pub(super) audit: Vec<AuditEvent>,
    pub(super) waiting: Vec<(OpId, StoreOp)>,
    /// Jobs wait until the test runs them.
    pub(super) jobs_wait: bool,
    pub(super) jobs: Vec<(crate::io::JobId, Job)>,
    /// Names of all operations executed.
    pub(super) executed: Vec<StoreOp>,
    pub(super) idle: (Option<Duration>, WakeReason),
    /// Most bytes delivered at once.
    pub(super) chunk: usize,
    /// SHA-256 over everything that came out, in order.
    pub(super) outputs: Digest,
    /// Whether all that is said of inputs and outputs is kept.
    pub(super) keep_text: bool,
    pub(super) text: String,
    next: u64,
}

pub(super) fn backend() -> Backend {
    portable()
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(configure: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(backend());
        configure(&mut config);
        let now = Now { mono: Duration::from_secs(5), wall: START };
        let secrets = ServerSecrets::generate(&mut Entropy::from_seed([1; 32]));
        Self {
            server: Server::new(config, secrets, Entropy::from_seed([2; 32]), now),
            store: MemoryStore::default(),
            disk: Disk::Works,
            now,
            entropy: Entropy::from_seed([3; 32]),
            ends: BTreeMap::new(),
            closed: BTreeMap::new(),
            audit: Vec::new(),
            waiting: Vec::new(),
            jobs_wait: false,
            jobs: Vec::new(),
            executed: Vec::new(),
            idle: (None, WakeReason::Nothing),
            chunk: limits::READ_CHUNK,
            outputs: Digest([0; 32]),
            keep_text: false,
            text: String::new(),
            next: 0,
        }
    }

    pub(super) fn transport(links: Links) -> Transport {
        let binding = Binding { kind: BindingKind::TlsExporter, value: [9; 32] };
        Transport { binding, peer: vec![127, 0, 0, 1], links }
    }

    fn draw(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A connection without links.
    pub(super) fn dial(&mut self, transport: Transport) -> ConnId {
        let conn = ConnId(self.draw());
        self.input(Input::Connected(conn, transport));
        conn
    }

    /// A link that has said its role.
    pub(super) fn open(&mut self, conn: ConnId, role: LinkRole, credit: usize) -> LinkId {
        let link = self.raw_link(conn, credit);
        self.send(link, &Frame { call: 0, body: Body::Open(role) });
        self.settle();
        link
    }

    pub(super) fn raw_link(&mut self, conn: ConnId, credit: usize) -> LinkId {
        let link = LinkId(self.draw());
        let end = End {
            conn,
            decoder: Decoder::new(),
            inbox: VecDeque::new(),
            pending: VecDeque::new(),
            wanted: false,
            finished: false,
            received: 0,
            calls: 0,
        };
        self.ends.insert(link, end);
        self.input(Input::Accepted(conn, link));
        self.input(Input::Writable(link, credit));
        self.settle();
        link
    }

    /// A connection with its one link.
    pub(super) fn connect(&mut self) -> LinkId {
        let conn = self.dial(Self::transport(Links::One));
        self.open(conn, LinkRole::All, CREDIT)
    }

    pub(super) fn conn(&self, link: LinkId) -> ConnId {
        self.ends[&link].conn
    }

    pub(super) fn input(&mut self, input: Input<'_>) {
        // Bytes of a link are what they are; everything else is fit for a log.
        if self.keep_text && !matches!(input, Input::Bytes(..)) {
            self.text.push_str(&format!("{input:?}"));
        }
        self.server.handle(self.now, input).unwrap();
    }

    pub(super) fn send(&mut self, link: LinkId, frame: &Frame) {
        let mut bytes = Vec::new();
        encode(frame, &mut bytes);
        self.send_bytes(link, &bytes);
    }

    pub(super) fn send_bytes(&mut self, link: LinkId, bytes: &[u8]) {
        self.ends.get_mut(&link).unwrap().pending.extend(bytes);
    }

    /// Sends a request and returns its call id.
    pub(super) fn ask(&mut self, link: LinkId, request: Request) -> u32 {
        let end = self.ends.get_mut(&link).unwrap();
        end.calls += 1;
        let call = end.calls;
        self.send(link, &Frame { call, body: Body::Request(request) });
        call
    }

    /// Makes a call and waits for its answer.
    pub(super) fn call(&mut self, link: LinkId, request: Request) -> Result<Reply, Failure> {
        let call = self.ask(link, request);
        self.settle();
        self.answer(link, call).expect("no answer")
    }

    /// The answer to a call, if it has come.
    pub(super) fn answer(&mut self, link: LinkId, call: u32) -> Option<Result<Reply, Failure>> {
        let inbox = &mut self.ends.get_mut(&link).unwrap().inbox;
        let at = inbox.iter().position(|frame| {
            frame.call == call && matches!(frame.body, Body::Reply(_) | Body::Failure(_))
        })?;
        Some(match inbox.remove(at)?.body {
            Body::Reply(reply) => Ok(reply),
            Body::Failure(failure) => Err(failure),
            other => panic!("{other:?}"),
        })
    }

    pub(super) fn fails(&mut self, link: LinkId, request: Request) -> ErrorCode {
        self.call(link, request).expect_err("went through").code
    }

    /// Pushes that have come on a link.
    pub(super) fn pushes(&mut self, link: LinkId) -> Vec<Push> {
        let inbox = &mut self.ends.get_mut(&link).unwrap().inbox;
        let (pushes, rest) = core::mem::take(inbox)
            .into_iter()
            .partition::<VecDeque<_>, _>(|frame| matches!(frame.body, Body::Push(_)));
        *inbox = rest;
        pushes
            .into_iter()
            .map(|frame| match frame.body {
                Body::Push(push) => push,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    pub(super) fn close_code(&self, link: LinkId) -> Option<CloseCode> {
        self.closed.get(&self.conn(link)).copied()
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now.mono += time;
        self.now.wall = self.now.wall.plus(time);
        self.input(Input::Tick);
        self.settle();
    }

    /// Lets waiting operations through.
    pub(super) fn flush(&mut self) {
        let disk = core::mem::replace(&mut self.disk, Disk::Works);
        self.settle();
        self.disk = disk;
    }

    /// Lets the operations through that wait now, and holds those that follow.
    pub(super) fn flush_once(&mut self) {
        let (ids, ops): (Vec<_>, Vec<_>) = core::mem::take(&mut self.waiting).into_iter().unzip();
        let replies = self.store.apply(&ops);
        self.executed.extend(ops);
        for (id, reply) in ids.into_iter().zip(replies) {
            self.input(Input::Stored(id, Ok(reply)));
        }
        self.settle();
    }

    /// Answers the reads of subscriptions as if each channel were there and empty.
    pub(super) fn answer_subscriptions(&mut self) {
        for (id, op) in core::mem::take(&mut self.waiting) {
            assert!(matches!(op, StoreOp::Fetch { .. }));
            let reply = StoreReply::Entries { entries: vec![], head: 0, first: 1 };
            self.input(Input::Stored(id, Ok(reply)));
        }
        self.settle();
    }

    /// Does something on another machine over the same store.
    pub(super) fn as_another_machine(&mut self, act: impl FnOnce(&mut Self)) {
        let secrets = ServerSecrets::generate(&mut Entropy::from_seed([1; 32]));
        let entropy = Entropy::from_seed([4; 32]);
        let other = Server::new(Config::new(backend()), secrets, entropy, self.now);
        let own = core::mem::replace(&mut self.server, other);
        act(self);
        self.settle();
        self.server = own;
    }

    /// Runs the machine until nothing moves.
    pub(super) fn settle(&mut self) {
        let mut buffer = Vec::new();
        loop {
            loop {
                buffer.clear();
                let output = self.server.poll(&mut buffer);
                self.note(&output, &buffer);
                if !self.act(output, &buffer) {
                    break;
                }
            }
            if !self.step() {
                return;
            }
        }
    }

    fn note(&mut self, output: &Output, bytes: &[u8]) {
        let text = format!("{output:?}");
        if self.keep_text {
            self.text.push_str(&text);
        }
        self.outputs = Digest::of(&[&self.outputs.0, text.as_bytes(), bytes]);
    }

    fn act(&mut self, output: Output, bytes: &[u8]) -> bool {
        match output {
            Output::Send { link, len, fin } => {
                assert_eq!(len, bytes.len());
                let end = self.ends.get_mut(&link).unwrap();
                assert!(!end.finished);
                end.finished = fin;
                end.received += len;
                let mut bytes = bytes;
                while let Some(frame) = end.decoder.next(&mut bytes).unwrap() {
                    end.inbox.push_back(frame);
                }
            }
            Output::Read(link) => {
                let end = self.ends.get_mut(&link).unwrap();
                assert!(!end.wanted, "asked twice");
                end.wanted = true;
            }
            Output::CloseConn(conn, code) => {
                assert!(self.closed.insert(conn, code).is_none());
                for end in self.ends.values_mut().filter(|end| end.conn == conn) {
                    end.wanted = false;
                }
            }
            Output::Store(op, what) => self.waiting.push((op, what)),
            Output::Compute(job, what) => self.jobs.push((job, what)),
            Output::Audit(event) => self.audit.push(event),
            Output::Idle { wake_at, reason } => {
                self.idle = (wake_at, reason);
                return false;
            }
            other => panic!("{other:?}"),
        }
        true
    }

    /// Something of what the outputs asked for; whether there was anything.
    fn step(&mut self) -> bool {
        if !self.jobs_wait && !self.jobs.is_empty() {
            for (id, job) in core::mem::take(&mut self.jobs) {
                let output = job.run();
                self.input(Input::Computed(id, output));
            }
            return true;
        }
        if self.disk != Disk::Waits && !self.waiting.is_empty() {
            let batch = core::mem::take(&mut self.waiting);
            let (ids, ops): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            if self.disk == Disk::Fails {
                for id in ids {
                    let kind = StoreFaultKind::Io;
                    let fault = StoreFault { kind, detail: "broken".to_owned() };
                    self.input(Input::Stored(id, Err(fault)));
                }
                return true;
            }
            let replies = self.store.apply(&ops);
            self.executed.extend(ops);
            for (id, reply) in ids.into_iter().zip(replies) {
                self.input(Input::Stored(id, Ok(reply)));
            }
            return true;
        }
        let chunk = self.chunk;
        let next = self.ends.iter_mut().find(|(_, end)| end.wanted && !end.pending.is_empty());
        if let Some((&link, end)) = next {
            end.wanted = false;
            let len = end.pending.len().min(chunk);
            let bytes: Vec<u8> = end.pending.drain(..len).collect();
            self.input(Input::Bytes(link, &bytes));
            return true;
        }
        false
    }

    /// Applies operations as if another machine had done so.
    pub(super) fn elsewhere(&mut self, op: StoreOp) -> StoreReply {
        self.store.apply(&[op]).remove(0)
    }

    pub(super) fn hang_up(&mut self, link: LinkId) {
        let conn = self.conn(link);
        self.input(Input::Disconnected(conn, Gone::Lost("gone".to_owned())));
        self.settle();
    }
}

pub(super) fn ping() -> Request {
    Request::Ping(Bytes::from_static(b"are you there"))
}
