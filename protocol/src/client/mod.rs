//! The client machine: one per device.
//!
//! [`Client::handle`] takes what happened, commands say what is wanted, [`Client::poll`] gives what is to be done.
//! Inside, every connection goes through the table of `session`, by way of `login` if need be, and carries calls
//! (`call`; the application's questions: `ask`); every channel's log is read in order (`inbound`, welcomes by `join`,
//! messages on to the application by `unread`, what is too long for a frame by `blobs`); every change of a group is an
//! intent that stays until it has come true (`intent`, `change`, `prepare`, `commit`); every submission stays in the
//! outbox until the server has it and the log has shown it (`submission`, `outbox`). A device that cannot go on in a
//! group (`fall`) comes back to it by a new leaf (`rejoin`, `come_back`); one that can do so for all begins another
//! (`reset`, `generation`). All state changes go through the [gate](crate::store::gate): nothing leaves before what it
//! depends on is durable.

mod account;
mod additions;
mod ask;
mod blobs;
mod call;
mod change;
mod channel;
mod checkpoint;
mod come_back;
mod command;
mod commit;
mod contacts;
mod content;
mod damage;
mod deadline;
mod devices;
mod direct;
mod directory;
mod early;
mod echo;
mod envelope;
pub mod event;
mod fall;
mod fork;
mod gauges;
mod generation;
mod inbound;
mod incoming;
mod intent;
pub mod job;
mod join;
mod keys;
mod left;
mod link;
mod load;
mod login;
mod memberships;
mod metadata;
mod net;
mod outbox;
mod prepare;
mod rejoin;
mod reset;
mod restore;
mod rotation;
mod session;
mod submission;
mod trust;
mod unread;
mod upkeep;
mod view;
mod warm;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::crypto::Backend;
use crate::crypto::checkpoint::Checkpoint;
use crate::env::{Entropy, Now};
use crate::error::{CloseCode, Fatal};
use crate::id::{AccountId, ChannelId, Digest, Sender, ServerId};
use crate::io::{Input, JobId, LinkId, LoadId, Output, Target, Ticket};
use crate::job::{Job, JobOutput};
use crate::mls::suite::Suite;
use crate::store::gate::Gate;
use crate::wire::message::{Frame, Tokens};
use blobs::Upload;
use channel::Channel;
use checkpoint::Claim;
use contacts::NameClaim;
use devices::Turn;
use directory::{Contact, Fleet, Identity, PackagePlan, Restored, Sweep};
use envelope::Envelopes;
use event::{Event, Outcome};
use intent::Intent;
use job::ClientJobOutput;
use keys::{LastResort, Packages};
use load::Loading;
use login::AuthTask;
use memberships::Listed;
use net::{Ask, Net};
use rotation::Rotation;
use session::Phase;
use submission::OutItem;

pub use directory::DIRECTORY;
pub use metadata::{Profile, ProfileChange, Role};
pub use upkeep::UpdatePolicy;

/// What a client is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// Primitives.
    pub backend: Backend,
    /// Where the server is.
    pub server: Target,
    /// Argon2id for OPAQUE's key stretching.
    pub stretching: Stretching,
    /// Accept a transport without channel binding.
    pub insecure_plain: bool,
    /// Connect by itself and stay connected. Without it, only [`Client::connect`] and commands that need a
    /// connection do.
    pub auto_connect: bool,
    /// When the keys of an own leaf are replaced without being asked.
    pub update: UpdatePolicy,
    /// Publish who is to be added or removed as proposals at once, for the next committer, without trying a commit
    /// first: for a link so slow that its commits come too late anyway.
    pub propose_first: bool,
}

impl Config {
    /// What people get: stretched as they should be, by an encrypted transport, connected by itself.
    pub fn new(backend: Backend, server: Target) -> Self {
        Self {
            backend,
            server,
            stretching: Stretching::default(),
            insecure_plain: false,
            auto_connect: true,
            update: UpdatePolicy::default(),
            propose_first: false,
        }
    }
}

/// Cost of Argon2id (RFC 9106).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretching {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for Stretching {
    /// 64 MiB, 3 passes, 1 lane (RFC 9106 §4, second choice, on one core).
    fn default() -> Self {
        Self { memory_kib: 64 * 1024, passes: 3, lanes: 1 }
    }
}

/// What waits behind the gate.
#[derive(Debug)]
enum Effect {
    Frame(LinkId, Frame),
    Event(Event),
}

/// A reply of a kind that does not answer its request.
struct WrongReply;

/// The client machine.
pub struct Client {
    config: Config,
    entropy: Entropy,
    now: Now,
    stopped: bool,
    gate: Gate<Effect>,
    /// Outputs that wait for nothing.
    out: VecDeque<Output>,
    /// The last connection, link, load or job id drawn.
    last_handle: u64,
    last_ticket: u64,
    net: Net,
    identity: Option<Identity>,
    tokens: Option<Tokens>,
    server: Option<ServerId>,
    auth: Option<AuthTask>,
    /// A login that is through but for its key packages.
    greeting: Option<(Ticket, Outcome)>,
    /// Questions not yet asked on this connection.
    asks: VecDeque<(Ticket, Ask)>,
    contacts: BTreeMap<AccountId, Contact>,
    /// What members said somebody is called and was contradicted, as far as it was told.
    conflicts: VecDeque<NameClaim>,
    channels: BTreeMap<ChannelId, Channel>,
    /// Groups that the server does not know yet.
    founding: BTreeSet<ChannelId>,
    intents: BTreeMap<Ticket, Intent>,
    fleet: Fleet,
    /// Intents that wait for their time.
    turns: BTreeMap<Ticket, Turn>,
    outbox: BTreeMap<Ticket, OutItem>,
    /// Intents and submissions with a call under way.
    inflight: BTreeSet<Ticket>,
    /// Messages that the server could not take when they were last sent, or of which a machine before this one may have
    /// heard so: what comes after them waits for their answer.
    refused: BTreeSet<Ticket>,
    rotation: Rotation,
    /// When to offer the next key again after the server could not take it.
    rotation_retry: Option<Duration>,
    /// The present key does not hold: the next one is tried.
    tries_next: bool,
    envelopes: Envelopes,
    /// The same for envelope keys.
    envelope_retry: Option<Duration>,
    /// Commits that name blobs, and how far those are uploaded.
    uploads: BTreeMap<Ticket, Upload>,
    /// What had come of blobs when their connection was lost.
    partial: BTreeMap<Digest, Vec<u8>>,
    packages: Packages,
    plan: PackagePlan,
    /// When private halves of key packages are to be deleted; `None` if that is not known.
    sweep: Option<Sweep>,
    /// New key packages are wanted; whether the last-resort one can stay.
    wanted_packages: BTreeMap<Suite, LastResort>,
    /// The server told of few since it was asked last.
    packages_low: bool,
    /// What it has after the last upload of this session.
    packages_taken: Option<(u32, bool)>,
    package_tickets: Vec<Ticket>,
    /// When to ask the server about key packages again after it could not answer.
    packages_retry: Option<Duration>,
    member_tickets: Vec<(Ticket, ChannelId)>,
    /// Checkpoints of others that are not compared yet.
    claims: BTreeMap<(ChannelId, Sender), Claim>,
    /// Checkpoints that the application wants to be compared.
    comparisons: Vec<(Ticket, Checkpoint)>,
    loads: BTreeMap<LoadId, Loading>,
    jobs: BTreeSet<JobId>,
    /// Channels with something to do.
    dirty: BTreeSet<ChannelId>,
    /// Channels with more to send than calls may be under way: they go on with the next answer.
    crowded: BTreeSet<ChannelId>,
    /// Messages told to the application and not acknowledged, in all.
    told: usize,
    /// The group whose messages are told although too many of the others are unread.
    preferred: Option<ChannelId>,
    uses: u64,
    synced: bool,
    /// What is known of this state being an older one than the device once had.
    restored: Restored,
    /// Groups may have been missed: see [`directory::Unwelcomed`].
    unwelcomed: bool,
    /// How far the server's list of memberships was read.
    listed: Option<Listed>,
}

impl Client {
    /// Takes one input.
    ///
    /// # Errors
    /// [`Fatal`]: drop the machine and restore another from what is durable. A peer's misbehaviour is never an
    /// error here.
    pub fn handle(&mut self, now: Now, input: Input<'_>) -> Result<(), Fatal> {
        self.set_now(now);
        if self.stopped {
            return Err(Fatal::Misuse("the machine stopped after a fatal error"));
        }
        let handled = self.take(input);
        if handled.is_err() {
            self.stop();
        }
        handled
    }

    fn take(&mut self, input: Input<'_>) -> Result<(), Fatal> {
        match input {
            Input::Connected(conn, transport) => self.on_connected(conn, transport),
            Input::Disconnected(conn, gone) => self.on_disconnected(conn, &gone),
            Input::Bytes(link, bytes) => self.on_bytes(link, bytes),
            Input::Closed(link, gone) => self.on_closed(link, &gone),
            Input::Writable(link, credit) => self.on_writable(link, credit),
            Input::Persisted(id, done) => {
                done?;
                self.gate.persisted(id)?;
            }
            Input::Loaded(id, records) => self.on_loaded(id, records?)?,
            Input::Computed(id, output) => self.on_computed(id, output)?,
            Input::Tick => {}
            Input::Accepted(..) | Input::Stored(..) | Input::Notified(..) => {
                return Err(Fatal::Misuse("an input for a server's machine"));
            }
        }
        self.check_deadlines();
        Ok(())
    }

    /// The next output; bytes to send are appended to `buffer`.
    pub fn poll(&mut self, buffer: &mut Vec<u8>) -> Output {
        if self.stopped {
            return self.out.pop_front().unwrap_or_else(deadline::never);
        }
        self.check_deadlines();
        loop {
            self.pump();
            if let Some(batch) = self.gate.seal() {
                return Output::Persist(batch);
            }
            if let Some(output) = self.out.pop_front() {
                return output;
            }
            match self.gate.release() {
                Some(Effect::Event(event)) => return Output::Event(event),
                Some(Effect::Frame(link, frame)) => self.enqueue(link, &frame),
                None => break,
            }
        }
        self.next_send(buffer).unwrap_or_else(|| self.idle())
    }

    /// Works on every channel that has something to do.
    fn pump(&mut self) {
        while let Some(id) = self.dirty.pop_first() {
            self.check_left_out(id);
            self.subscribe(id);
            self.read_waiting(id);
            self.try_join(id);
            self.pump_reset(id);
            self.pump_rejoin(id);
            self.pump_intents(id);
            self.pump_outbox(id);
            self.answer_members(id);
            self.pump_checkpoints(id);
            self.pump_profile(id);
            self.refill(id);
            self.stage_channel(id);
        }
        self.cool();
        self.note_recovered();
        self.note_synced();
    }

    /// Tells once per session that every log was read to its head.
    fn note_synced(&mut self) {
        if self.synced || self.phase() != Some(Phase::Online) {
            return;
        }
        let all = self.channels.iter().all(|(id, channel)| {
            let read = !channel.followed() || self.founding.contains(id) || channel.at_head();
            read && !channel.comes_back()
        });
        if all && !self.asks_for_memberships() {
            self.synced = true;
            // What a lost connection had begun and nobody needs any more.
            self.partial.clear();
            self.event(Event::Synced);
        }
    }

    // ---- small things everybody uses ----------------------------------------------------------

    fn set_now(&mut self, now: Now) {
        self.now = Now { mono: self.now.mono.max(now.mono), wall: now.wall };
    }

    fn event(&mut self, event: Event) {
        self.gate.hold(Effect::Event(event));
    }

    fn next_handle(&mut self) -> u64 {
        self.last_handle += 1;
        self.last_handle
    }

    fn next_ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    fn me(&self) -> Option<Sender> {
        Some(self.identity.as_ref()?.device_record()?.sender())
    }

    fn compute(&mut self, job: Job) {
        let id = JobId(self.next_handle());
        self.jobs.insert(id);
        self.out.push_back(Output::Compute(id, job));
    }

    fn on_computed(&mut self, id: JobId, output: JobOutput) -> Result<(), Fatal> {
        if !self.jobs.remove(&id) {
            return Err(Fatal::Misuse("a job was answered that is not under way"));
        }
        match output {
            JobOutput::Client(ClientJobOutput::Register(done)) => self.on_register_done(done),
            JobOutput::Client(ClientJobOutput::Login(done)) => self.on_login_done(done),
            JobOutput::Server(_) => return Err(Fatal::Misuse("a job of another machine")),
        }
        Ok(())
    }

    /// A welcome may have waited for a change in a group.
    fn wake_inboxes(&mut self) {
        self.dirty.extend(self.channels.iter().filter(|(_, c)| c.inbox).map(|(id, _)| *id));
    }

    /// Stages what changed in a channel.
    pub(super) fn stage_channel(&mut self, id: ChannelId) {
        if let Some(channel) = self.channels.get_mut(&id) {
            self.gate.stage_all(channel.take_ops(id));
        }
    }

    // ---- the end ------------------------------------------------------------------------------

    /// Nothing that depended on a lost batch may be sent or told: all of it goes.
    fn stop(&mut self) {
        self.stopped = true;
        self.out.clear();
        self.gate = Gate::new(0);
        if let Some(conn) = self.net.conn.take() {
            self.out.push_back(Output::CloseConn(conn.id, CloseCode::INTERNAL));
        }
    }
}

// Keys, tokens and what people send each other are in here.
impl core::fmt::Debug for Client {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (channels, outbox) = (self.channels.len(), self.outbox.len());
        write!(f, "Client({channels} channels, {outbox} submissions under way)")
    }
}
