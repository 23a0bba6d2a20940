//! The server machine: one per process, holds all connections.
//!
//! A frame's way through it: `connection` (bytes to frames, limits) → `inbound` (which call is it, may it be made
//! now) → one file per service (checks, then [`StoreOp`]s or [`ServerJob`]s) →
//! `stored` (their results) → the service again → the reply, encoded on its link. `push` pulls what
//! subscribers have not seen whenever their link has credit.

mod accounts;
mod admission;
pub mod audit;
mod blobs;
mod channels;
mod commits;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod connection;
mod devices;
mod gathered;
mod gauges;
mod groups;
mod inbound;
pub mod job;
mod keys;
mod line;
mod longpoll;
pub mod memory;
pub mod op;
mod push;
mod secrets;
mod sessions;
mod stored;
mod submit;
mod timers;
mod trees;
mod turns;

use core::fmt;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use zeroize::Zeroizing;

use crate::auth::server::OpaqueServer;
use crate::auth::token::TokenKey;
use crate::crypto::{Backend, Signer};
use crate::env::{Entropy, Now};
use crate::error::{CloseCode, ErrorCode, Fatal};
use crate::id::{AccountId, ChannelId, Sender, ServerId};
use crate::io::{ConnId, Input, JobId, LinkId, OpId, Output};
use crate::job::{Job, JobOutput};
use crate::limits;
use crate::mls::suite::Suite;
use crate::wire::message::{Body, Push};
use admission::Admission;
use audit::{AuditEvent, AuditKind};
use connection::{Auth, Call, Connection, Link};
use groups::Groups;
use job::ServerJob;
use longpoll::Poll;
use op::StoreOp;
use push::Watch;
pub use secrets::ServerSecrets;
use stored::{Step, Task};
use timers::{Timer, Timers};

/// What a server is told once. The defaults are those of [`limits`].
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
    /// Bytes of frames not yet complete, over all connections: above, the connection that has most is closed.
    pub gathered_bytes: usize,
    /// Bytes of the records of groups whose public state is kept in memory while nothing is done in them.
    pub public_group_bytes: usize,
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

impl Config {
    /// The defaults, on that backend.
    pub fn new(backend: Backend) -> Self {
        Self {
            backend,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            suites: Suite::ALL.to_vec(),
            connections: limits::CONNECTIONS,
            gathered_bytes: limits::GATHERED_BYTES,
            public_group_bytes: limits::PUBLIC_GROUP_BYTES,
            retention: limits::ENTRY_TIME,
            access_token_time: limits::ACCESS_TOKEN_TIME,
            refresh_token_time: limits::REFRESH_TOKEN_TIME,
            logins_per_account: limits::LOGINS_PER_ACCOUNT,
            logins_per_source: limits::LOGINS_PER_SOURCE,
            insecure_plain: false,
        }
    }
}

/// The server machine.
pub struct Server {
    config: Config,
    opaque: OpaqueServer,
    /// Signs every delivery proof.
    proof_key: Box<dyn Signer>,
    id: ServerId,
    token_key: TokenKey,
    refresh_key: Zeroizing<[u8; 32]>,
    entropy: Entropy,
    now: Now,
    conns: BTreeMap<ConnId, Connection>,
    links: BTreeMap<LinkId, Link>,
    /// Connections with a session of that device.
    sessions: BTreeMap<Sender, BTreeSet<ConnId>>,
    out: VecDeque<Output>,
    /// Links with something to send and credit for it.
    ready: VecDeque<LinkId>,
    /// Links held back by [`limits::STORE_OPS`], in the order they have to wait.
    stalled: VecDeque<LinkId>,
    /// Links to take frames from before this input is done.
    pump: VecDeque<LinkId>,
    /// Links whose pushes need a read and wait for room for it.
    starved: VecDeque<LinkId>,
    closing: VecDeque<(ConnId, CloseCode)>,
    ops: BTreeMap<OpId, Step>,
    jobs: BTreeMap<JobId, Task>,
    last_op: u64,
    last_job: u64,
    last_watch: u64,
    timers: Timers,
    /// Answers that wait for their floor time.
    floored: BTreeMap<Call, Body>,
    polls: BTreeMap<Call, Poll>,
    watches: BTreeMap<ChannelId, Watch>,
    /// Bytes of frames not yet complete, over all links.
    gathered: usize,
    /// Bytes held in all [`Watch`]es together.
    recent_bytes: usize,
    groups: Groups,
    admission: Admission,
    draining: bool,
    /// Whether the last store operation went through.
    healthy: bool,
}

impl Server {
    /// A machine without connections.
    pub fn new(config: Config, secrets: ServerSecrets, entropy: Entropy, now: Now) -> Self {
        let ServerSecrets { opaque_setup, proof_key, token_key } = secrets;
        let mut timers = Timers::default();
        timers.set(now.mono + SWEEP_EVERY, Timer::Sweep);
        Self {
            opaque: opaque_setup,
            proof_key: config.backend.ed25519_signer(&proof_key),
            id: ServerId(config.backend.ed25519_public(&proof_key)),
            refresh_key: config.backend.hmac_sha256(&*token_key, &[b"qpc-refresh-successor-v1"]),
            groups: Groups::new(config.public_group_bytes),
            admission: Admission::new(
                &config,
                config.backend.hmac_sha256(&*token_key, &[b"qpc-claim-counters-v1"]),
            ),
            token_key: TokenKey::new(config.backend, token_key),
            config,
            entropy,
            now,
            conns: BTreeMap::new(),
            links: BTreeMap::new(),
            sessions: BTreeMap::new(),
            out: VecDeque::new(),
            ready: VecDeque::new(),
            stalled: VecDeque::new(),
            pump: VecDeque::new(),
            starved: VecDeque::new(),
            closing: VecDeque::new(),
            ops: BTreeMap::new(),
            jobs: BTreeMap::new(),
            last_op: 0,
            last_job: 0,
            last_watch: 0,
            timers,
            floored: BTreeMap::new(),
            polls: BTreeMap::new(),
            watches: BTreeMap::new(),
            gathered: 0,
            recent_bytes: 0,
            draining: false,
            healthy: true,
        }
    }

    /// One input.
    ///
    /// # Errors
    /// [`Fatal::Misuse`] if the runtime breaks the contract of [`Input`]; nothing else.
    pub fn handle(&mut self, now: Now, input: Input<'_>) -> Result<(), Fatal> {
        self.advance(now);
        match input {
            Input::Connected(conn, transport) => self.connected(conn, transport)?,
            Input::Disconnected(conn, _) => self.drop_conn(conn),
            Input::Accepted(conn, link) => self.accepted(conn, link)?,
            Input::Bytes(link, bytes) => self.bytes(link, bytes)?,
            Input::Closed(link, why) => self.closed(link, &why),
            Input::Writable(link, credit) => self.writable(link, credit),
            Input::Stored(op, result) => {
                let step = self.ops.remove(&op);
                let step = step.ok_or(Fatal::Misuse("answer to no store operation"))?;
                self.healthy = result.is_ok();
                self.stored(step, result);
                self.resume_stalled();
            }
            Input::Notified(channel, seq) => self.appended(channel, seq, None),
            Input::Computed(job, JobOutput::Server(output)) => {
                let task = self.jobs.remove(&job).ok_or(Fatal::Misuse("result of no job"))?;
                self.computed(task, output);
            }
            Input::Computed(_, JobOutput::Client(_)) => {
                return Err(Fatal::Misuse("result of a client's job"));
            }
            Input::Persisted(..) | Input::Loaded(..) => {
                return Err(Fatal::Misuse("an input for clients"));
            }
            Input::Tick => {}
        }
        self.pump_all();
        Ok(())
    }

    /// The next output; bytes to send are appended to `buffer`.
    pub fn poll(&mut self, buffer: &mut Vec<u8>) -> Output {
        loop {
            if let Some(output) = self.out.pop_front() {
                if let Output::Read(link) = output {
                    self.asked(link);
                }
                return output;
            }
            if let Some(link) = self.ready.pop_front() {
                if let Some(output) = self.send(link, buffer) {
                    return output;
                }
                continue;
            }
            if let Some((conn, code)) = self.closing.pop_front() {
                if self.conns.contains_key(&conn) {
                    self.drop_conn(conn);
                    return Output::CloseConn(conn, code);
                }
                continue;
            }
            let (wake_at, reason) = self.timers.earliest();
            return Output::Idle { wake_at, reason };
        }
    }

    /// Takes no more connections and calls, lets those in flight finish (at most
    /// [`DRAIN_TIME`](crate::limits::DRAIN_TIME)), then closes every connection with `SHUTDOWN`.
    pub fn drain(&mut self, now: Now) {
        self.advance(now);
        if core::mem::replace(&mut self.draining, true) {
            return;
        }
        self.timers.set(self.now.mono + limits::DRAIN_TIME, Timer::Drain);
        let waiting: Vec<_> = self.polls.keys().copied().collect();
        for call in waiting {
            self.poll_over(call);
        }
        let conns: Vec<_> = self.conns.keys().copied().collect();
        for conn in conns {
            self.push_now(conn, Push::Draining);
            self.close_if_drained(conn);
        }
    }

    /// Whether a drain is over: nothing is left to do.
    pub fn is_drained(&self) -> bool {
        self.draining && self.conns.is_empty() && self.out.is_empty() && self.ops.is_empty()
    }

    /// The server's id.
    pub fn id(&self) -> ServerId {
        self.id
    }

    /// Connections held now.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    fn advance(&mut self, now: Now) {
        self.now = Now { mono: now.mono.max(self.now.mono), wall: now.wall };
        while let Some(timer) = self.timers.pop(self.now.mono) {
            self.due(timer);
        }
    }

    fn due(&mut self, timer: Timer) {
        match timer {
            Timer::Handshake(conn) => {
                if let Some(connection) = self.conns.get_mut(&conn) {
                    connection.handshake = None;
                    self.fault(conn, crate::error::PeerFault::TooSlow);
                }
            }
            Timer::LongPoll(call) => self.poll_over(call),
            Timer::Floor(call) => {
                if let Some(body) = self.floored.remove(&call) {
                    self.answer(call, body);
                }
            }
            Timer::Retry(key) => self.retry(key),
            Timer::Close(conn, code) => {
                if self.conns.contains_key(&conn) {
                    self.closing.push_back((conn, code));
                }
            }
            Timer::Sweep => self.sweep(),
            Timer::Drain => {
                let conns: Vec<_> = self.conns.keys().copied().collect();
                for conn in conns {
                    self.closing.push_back((conn, CloseCode::SHUTDOWN));
                }
            }
        }
    }

    fn sweep(&mut self) {
        let at = self.now.wall;
        self.store(Step::Sweep, StoreOp::Sweep { at, most: SWEEP_MOST });
    }

    /// The store has removed this many expired things, or could not: comes back sooner if there may be more.
    fn swept(&mut self, removed: u32) {
        let pause = if removed >= SWEEP_MOST { SWEEP_AGAIN } else { SWEEP_EVERY };
        self.timers.set(self.now.mono + pause, Timer::Sweep);
    }

    fn pump_all(&mut self) {
        while let Some(link) = self.pump.pop_front() {
            self.pump_link(link, &[]);
        }
    }

    /// Room for store operations again: lets those that waited longest go on.
    fn resume_stalled(&mut self) {
        while self.ops.len() < limits::STORE_OPS {
            let Some(link) = self.stalled.pop_front() else { break };
            if let Some(link) = self.links.get_mut(&link) {
                link.waiting = false;
            }
            self.pump_link(link, &[]);
        }
        while self.ops.len() < limits::STORE_OPS {
            let Some(link) = self.starved.pop_front() else { return };
            self.make_ready(link);
        }
    }

    /// Emits a store operation; `step` goes on with its answer.
    fn store(&mut self, step: Step, op: StoreOp) {
        self.last_op += 1;
        let id = OpId(self.last_op);
        self.ops.insert(id, step);
        self.out.push_back(Output::Store(id, op));
    }

    /// Emits a job; `task` goes on with its result. `false`: [`limits::JOBS`] are under way, nothing happens.
    #[must_use]
    fn compute(&mut self, task: Task, job: ServerJob) -> bool {
        if self.jobs.len() >= limits::JOBS {
            self.audit(AuditKind::Limit, None, None, Some(ErrorCode::Busy));
            return false;
        }
        self.last_job += 1;
        let id = JobId(self.last_job);
        self.jobs.insert(id, task);
        self.out.push_back(Output::Compute(id, Job::Server(job)));
        true
    }

    fn audit(
        &mut self,
        kind: AuditKind,
        conn: Option<ConnId>,
        channel: Option<ChannelId>,
        error: Option<ErrorCode>,
    ) {
        let sender = conn.and_then(|conn| self.conns.get(&conn)).and_then(|c| match &c.auth {
            Auth::Session(peer) | Auth::Login(peer) => Some(peer.sender),
            Auth::None => None,
        });
        self.audit_as(kind, sender.map(|s| s.account), sender, channel, error);
    }

    fn audit_as(
        &mut self,
        kind: AuditKind,
        account: Option<AccountId>,
        sender: Option<Sender>,
        channel: Option<ChannelId>,
        error: Option<ErrorCode>,
    ) {
        self.out.push_back(Output::Audit(AuditEvent {
            at: self.now.wall,
            kind,
            account,
            device: sender.map(|sender| sender.device),
            channel,
            error,
        }));
    }
}

// Keys, tokens on their way and what people send each other are in here.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (conns, ops) = (self.conns.len(), self.ops.len());
        write!(f, "Server({conns} connections, {ops} store operations under way)")
    }
}

/// How often expired things are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// The pause before the next sweep when one came back full: the store serves others in between.
const SWEEP_AGAIN: Duration = Duration::from_millis(100);
/// Most things of a kind that one sweep removes, so that its transaction stays short.
const SWEEP_MOST: u32 = 1_000;

#[cfg(test)]
mod tests;
