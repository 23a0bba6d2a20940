//! A world in memory: one server machine over the reference store, any number of client machines over disks that are
//! maps, links that are queues, and a clock that jumps to the next deadline. Everything follows from one seed.

#![allow(missing_docs, reason = "to be written")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a failure is a panic"
)]
#![allow(clippy::wrong_self_convention, reason = "`to_server` hands something to it")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use qpc_protocol::client::event::{Event, GroupSummary, Message, Outcome};
use qpc_protocol::client::{Client, Config as ClientConfig, DIRECTORY, Stretching, UpdatePolicy};
use qpc_protocol::crypto::{Backend, portable};
use qpc_protocol::env::{Entropy, Now, UnixMillis};
use qpc_protocol::error::{CloseCode, Refused, StoreFault, StoreFaultKind};
use qpc_protocol::id::{ChannelId, Digest};
use qpc_protocol::io::{
    Binding, BindingKind, ConnId, Gone, Input, LinkId, Links, Output, Page, Target, Ticket,
    Transport,
};
use qpc_protocol::limits::READ_CHUNK;
use qpc_protocol::server::memory::MemoryStore;
use qpc_protocol::server::op::{StoreOp, StoreReply};
use qpc_protocol::server::{Config as ServerConfig, Server, ServerSecrets};
use qpc_protocol::store::batch::{Batch, Op, Records};
use qpc_protocol::wire::frame::{Decoder, encode};
use qpc_protocol::wire::message::Frame;

/// Small: the password's stretching is not what these tests are about.
pub const STRETCHING: Stretching = Stretching { memory_kib: 8, passes: 1, lanes: 1 };
const START: u64 = 1_800_000_000_000;
/// More rounds than anything finite takes.
const ENDLESS: u32 = 100_000;
const CREDIT: usize = 256 * 1024;

/// How the world behaves.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub seed: u64,
    pub links: Links,
    /// Bytes arrive in pieces of random size.
    pub split: bool,
    pub backend: Backend,
    pub update: UpdatePolicy,
}

impl Rules {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            links: Links::Many,
            split: false,
            backend: portable(),
            update: UpdatePolicy::default(),
        }
    }

    pub fn one_link(self) -> Self {
        Self { links: Links::One, ..self }
    }

    pub fn split(self) -> Self {
        Self { split: true, ..self }
    }
}

/// Sees every frame between a device and the server (`up`: to the server), and says what arrives in its place.
pub type Liar = Box<dyn FnMut(usize, bool, Frame) -> Vec<Frame>>;

/// Changes the bytes that are about to arrive at the server (`up`) or at a device.
pub type Garbler = Box<dyn FnMut(usize, bool, &mut Vec<u8>)>;

/// What a [`Watcher`] sees.
pub enum Seen<'a> {
    /// What a device's machine, or the server's (`usize::MAX`), put out, with the bytes that go with it.
    Output(usize, &'a Output, &'a [u8]),
    /// A batch became durable on a device.
    Persisted(usize, &'a Batch),
    /// The server's store executed a transaction.
    Stored(&'a [StoreOp], &'a [StoreReply]),
}

/// Sees what happens, at the moment in which it does, and changes nothing.
pub type Watcher = Box<dyn FnMut(Duration, &Seen<'_>)>;

/// One direction of a link.
#[derive(Debug, Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    fin: bool,
    /// Sent and not here yet: when it arrives.
    late: VecDeque<(Duration, Vec<u8>, bool)>,
    fin_told: bool,
    /// The receiver asked for bytes.
    wanted: bool,
    /// Of a link with a liar on it: frames are read off `bytes`, what replaces them waits in `told`.
    decoder: Decoder,
    told: VecDeque<u8>,
}

impl Pipe {
    fn send(&mut self, at: Duration, now: Duration, bytes: &[u8], fin: bool) {
        if at > now || !self.late.is_empty() {
            self.late.push_back((at, bytes.to_vec(), fin));
        } else {
            self.bytes.extend(bytes);
            self.fin |= fin;
        }
    }

    /// Takes in what arrives now; returns when more does.
    fn arrive(&mut self, now: Duration) -> Option<Duration> {
        while self.late.front().is_some_and(|(at, ..)| *at <= now) {
            let (_, bytes, fin) = self.late.pop_front().unwrap();
            self.bytes.extend(bytes);
            self.fin |= fin;
        }
        self.late.front().map(|(at, ..)| *at)
    }
}

/// A link between a device and the server.
#[derive(Debug)]
struct Wire {
    device: usize,
    conn: ConnId,
    at_device: LinkId,
    at_server: LinkId,
    up: Pipe,
    down: Pipe,
}

/// A device: its machine, unless it is switched off, and its disk.
pub struct Device {
    pub client: Option<Client>,
    pub disk: BTreeMap<Vec<u8>, Vec<u8>>,
    pub events: Vec<Event>,
    /// Every event of all runs.
    pub log: Vec<Event>,
    conn: Option<(ConnId, ConnId)>,
    pub connect: bool,
    /// How long what it sends, and what is sent to it, is under way.
    pub latency: Duration,
    /// Crash instead of making the n-th batch from now durable.
    pub crash_in: Option<u64>,
    pub crashes: u64,
    pub batches: u64,
    /// Fail the next batch with this.
    pub fail_disk: Option<StoreFaultKind>,
    pub fatal: Option<String>,
    starts: u64,
}

/// A world that is switched off: see [`World::from`].
pub struct Remains {
    now: Now,
    secrets: Vec<u8>,
    store: MemoryStore,
    disks: Vec<BTreeMap<Vec<u8>, Vec<u8>>>,
}

/// The world.
pub struct World {
    rules: Rules,
    pub now: Now,
    pub server: Option<Server>,
    secrets: Vec<u8>,
    pub store: MemoryStore,
    pub devices: Vec<Device>,
    wires: Vec<Wire>,
    last_id: u64,
    rng: Entropy,
    /// A hash over every output of every machine.
    pub trace: Digest,
    pub sent_bytes: u64,
    server_starts: u64,
    /// What each machine is waiting for.
    reasons: BTreeMap<usize, String>,
    /// Every store operation fails.
    pub server_disk_full: bool,
    /// Changes what the server sends to a device, for a server that lies.
    #[allow(clippy::type_complexity, reason = "one hook")]
    pub tap: Option<Box<dyn FnMut(&mut Vec<StoreReply>)>>,
    /// Lies about frames.
    pub liar: Option<Liar>,
    /// Spoils bytes.
    pub garbler: Option<Garbler>,
    /// Everything that machines say of themselves, if it is kept.
    pub said: Option<String>,
    /// Sees everything.
    pub watch: Option<Watcher>,
}

impl World {
    pub fn new(rules: Rules) -> Self {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&rules.seed.to_be_bytes());
        let mut rng = Entropy::from_seed(seed);
        let secrets = ServerSecrets::generate(&mut rng.fork()).encode().to_vec();
        let mut world = Self {
            rules,
            now: Now { mono: Duration::ZERO, wall: UnixMillis(START) },
            server: None,
            secrets,
            store: MemoryStore::default(),
            devices: Vec::new(),
            wires: Vec::new(),
            last_id: 1_000_000,
            rng,
            trace: Digest([0; 32]),
            sent_bytes: 0,
            server_starts: 0,
            reasons: BTreeMap::new(),
            server_disk_full: false,
            tap: None,
            liar: None,
            garbler: None,
            said: None,
            watch: None,
        };
        world.start_server();
        world
    }

    /// What is left of this world when everybody is switched off.
    pub fn remains(&self) -> Remains {
        let disks = self.devices.iter().map(|device| device.disk.clone()).collect();
        let (secrets, store) = (self.secrets.clone(), self.store.clone());
        Remains { now: self.now, secrets, store, disks }
    }

    /// A world with a past: its devices are there, and switched off.
    pub fn from(rules: Rules, remains: &Remains) -> Self {
        let mut world = Self::new(rules);
        world.now = remains.now;
        world.secrets = remains.secrets.clone();
        world.store = remains.store.clone();
        world.start_server();
        for disk in &remains.disks {
            let device = world.device();
            world.crash(device);
            world.devices[device].disk = disk.clone();
        }
        world
    }

    pub fn start_server(&mut self) {
        self.server_starts += 1;
        let secrets = ServerSecrets::decode(&self.secrets).unwrap();
        let config = ServerConfig::new(self.rules.backend);
        self.server = Some(Server::new(config, secrets, self.rng.fork(), self.now));
    }

    /// The server is gone, without a word; its store stays.
    pub fn kill_server(&mut self) {
        self.server = None;
        for device in 0..self.devices.len() {
            self.cut(device);
        }
    }

    pub fn device(&mut self) -> usize {
        self.devices.push(Device {
            client: None,
            disk: BTreeMap::new(),
            events: Vec::new(),
            log: Vec::new(),
            conn: None,
            connect: true,
            latency: Duration::ZERO,
            crash_in: None,
            crashes: 0,
            batches: 0,
            fail_disk: None,
            fatal: None,
            starts: 0,
        });
        let device = self.devices.len() - 1;
        self.start(device);
        device
    }

    /// Switches a device on, from its disk.
    pub fn start(&mut self, device: usize) {
        let entropy = self.rng.fork();
        let config = ClientConfig {
            backend: self.rules.backend,
            server: Target("server".into()),
            stretching: STRETCHING,
            insecure_plain: false,
            auto_connect: true,
            update: self.rules.update,
        };
        let now = self.now;
        let device = &mut self.devices[device];
        device.starts += 1;
        device.fatal = None;
        let page = Page { prefix: DIRECTORY.to_vec(), after: None, most: usize::MAX };
        let directory = read_page(&device.disk, &page);
        device.client = Some(Client::restore(config, directory, entropy, now).unwrap());
    }

    /// Switches a device off, without a word.
    pub fn crash(&mut self, device: usize) {
        self.devices[device].client = None;
        self.devices[device].events.clear();
        self.devices[device].crashes += 1;
        self.devices[device].crash_in = None;
        self.drop_conn(device, true);
    }

    /// The network between a device and the server breaks.
    pub fn cut(&mut self, device: usize) {
        self.drop_conn(device, true);
    }

    pub fn client(&mut self, device: usize) -> &mut Client {
        self.devices[device].client.as_mut().expect("the device is on")
    }

    /// A command.
    pub fn command(
        &mut self,
        device: usize,
        run: impl FnOnce(&mut Client, Now) -> Result<Ticket, Refused>,
    ) -> Ticket {
        let now = self.now;
        run(self.client(device), now).expect("accepted")
    }

    /// A command, and the world goes on until it is done.
    pub fn done(
        &mut self,
        device: usize,
        run: impl FnOnce(&mut Client, Now) -> Result<Ticket, Refused>,
    ) -> Outcome {
        let ticket = self.command(device, run);
        self.outcome(device, ticket)
    }

    /// Goes on until a ticket is done.
    pub fn outcome(&mut self, device: usize, ticket: Ticket) -> Outcome {
        let is = |event: &Event| match event {
            Event::Done(done, _) | Event::Failed(done, _) => *done == ticket,
            _ => false,
        };
        self.until(|world| world.devices[device].events.iter().any(is));
        let events = &mut self.devices[device].events;
        let at = events.iter().position(is).unwrap();
        match events.remove(at) {
            Event::Done(_, outcome) => outcome,
            event => panic!("device {device}: {event:?}"),
        }
    }

    /// Goes on until a ticket has failed.
    pub fn failure(
        &mut self,
        device: usize,
        ticket: Ticket,
    ) -> qpc_protocol::client::event::Failed {
        let is = |event: &Event| match event {
            Event::Done(done, _) | Event::Failed(done, _) => *done == ticket,
            _ => false,
        };
        self.until(|world| world.devices[device].events.iter().any(is));
        let events = &mut self.devices[device].events;
        let at = events.iter().position(is).unwrap();
        match events.remove(at) {
            Event::Failed(_, failed) => failed,
            event => panic!("device {device}: {event:?}"),
        }
    }

    /// Registers a new account on a device.
    pub fn register(&mut self, name: &str) -> usize {
        let device = self.device();
        let password = format!("password of {name}").into();
        self.done(device, |client, now| client.register(now, name, password));
        device
    }

    /// A further device of an account.
    pub fn login(&mut self, name: &str) -> usize {
        let device = self.device();
        let password = format!("password of {name}").into();
        self.done(device, |client, now| client.login(now, name, password));
        device
    }

    /// Goes on until everybody who is on has nothing left to do.
    pub fn settle(&mut self) {
        self.until(|world| {
            world.devices.iter().filter_map(|device| device.client.as_ref()).all(Client::is_idle)
        });
    }

    /// Goes on until something is true; a virtual hour at most.
    pub fn until(&mut self, mut is: impl FnMut(&Self) -> bool) {
        let end = self.now.mono + Duration::from_secs(3600);
        let mut late = 0;
        loop {
            let wake = self.run();
            if is(self) {
                return;
            }
            late += u32::from(wake.is_some_and(|wake| wake <= self.now.mono));
            assert!(late < 10_000, "a deadline is past and nothing is done: {:?}", self.reasons);
            let Some(wake) = wake.filter(|wake| *wake <= end) else {
                let last =
                    |device: &Device| device.log.iter().rev().take(8).cloned().collect::<Vec<_>>();
                let events: Vec<_> = self.devices.iter().map(last).collect();
                for device in &self.devices {
                    eprintln!("{:?}", device.client);
                }
                panic!("it never comes true; the last events: {events:#?}");
            };
            self.advance(wake.saturating_sub(self.now.mono).max(Duration::from_micros(1)));
        }
    }

    /// Lets time pass.
    pub fn advance(&mut self, span: Duration) {
        self.now.mono += span;
        self.now.wall = UnixMillis(START).plus(self.now.mono);
    }

    /// Lets time pass, with everything that happens meanwhile.
    pub fn pass(&mut self, span: Duration) {
        let end = self.now.mono + span;
        loop {
            let wake = self.run();
            match wake.filter(|wake| *wake < end) {
                Some(wake) => {
                    self.advance(wake.saturating_sub(self.now.mono).max(Duration::from_micros(1)));
                }
                None => break,
            }
        }
        self.advance(end.saturating_sub(self.now.mono));
        self.run();
    }

    /// Runs until nothing more happens now; returns the next deadline.
    pub fn run(&mut self) -> Option<Duration> {
        self.to_server(Input::Tick);
        for device in 0..self.devices.len() {
            self.to_device(device, Input::Tick);
        }
        for round in 0.. {
            assert!(round < ENDLESS, "the world does not come to rest");
            let mut wake: Option<Duration> = None;
            let mut busy = false;
            let mut see = |idle: Idle| {
                busy |= idle.worked;
                wake = match (wake, idle.wake_at) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
            };
            for device in 0..self.devices.len() {
                see(self.run_device(device));
            }
            see(self.run_server());
            let now = self.now.mono;
            for wire in &mut self.wires {
                for pipe in [&mut wire.up, &mut wire.down] {
                    see(Idle { worked: false, wake_at: pipe.arrive(now) });
                }
            }
            busy |= self.run_wires();
            if !busy {
                return wake;
            }
        }
        None
    }

    // ---- devices ------------------------------------------------------------------------------

    fn run_device(&mut self, index: usize) -> Idle {
        let mut idle = Idle::default();
        for round in 0.. {
            let mut buffer = Vec::new();
            let Some(client) = self.devices[index].client.as_mut() else { return idle };
            let output = client.poll(&mut buffer);
            if let Output::Idle { wake_at, reason } = output {
                idle.wake_at = wake_at;
                let ahead = wake_at.is_none_or(|at| at > self.now.mono);
                assert!(
                    ahead,
                    "device {index} would spin at {:?}: {reason:?} {wake_at:?}",
                    self.now
                );
                self.reasons.insert(index, format!("{reason:?} {wake_at:?}"));
                return idle;
            }
            idle.worked = true;
            assert!(round < ENDLESS, "device {index} does not come to rest: {output:?}");
            self.note(index, &output, &buffer);
            match output {
                Output::Connect(conn, _) => self.connect(index, conn),
                Output::Open(_, link, role) => {
                    self.open(index, link, role == qpc_protocol::io::LinkRole::All)
                }
                Output::Send { link, fin, .. } => {
                    let now = self.now.mono;
                    let at = now + self.devices[index].latency;
                    if let Some(wire) = self.wire_at_device(index, link) {
                        wire.up.send(at, now, &buffer, fin);
                    }
                    self.sent_bytes += buffer.len() as u64;
                }
                Output::Read(link) => {
                    if let Some(wire) = self.wire_at_device(index, link) {
                        wire.down.wanted = true;
                    }
                }
                Output::CloseLink(link, code) => {
                    let found = self.wire_at_device(index, link).map(|wire| wire.at_server);
                    self.wires.retain(|wire| wire.device != index || wire.at_device != link);
                    if let Some(link) = found {
                        self.to_server(Input::Closed(link, Gone::Closed(code)));
                    }
                }
                Output::CloseConn(conn, code) => self.close_from_device(index, conn, code),
                Output::Persist(batch) => self.persist(index, &batch),
                Output::Load(id, page) => {
                    let records = read_page(&self.devices[index].disk, &page);
                    self.to_device(index, Input::Loaded(id, Ok(records)));
                }
                Output::Compute(id, job) => {
                    self.to_device(index, Input::Computed(id, job.run()));
                }
                Output::Event(event) => {
                    self.devices[index].log.push(event.clone());
                    self.devices[index].events.push(event);
                }
                Output::Store(..) | Output::Audit(_) | Output::Idle { .. } => {
                    unreachable!("a client")
                }
            }
        }
        idle
    }

    fn persist(&mut self, index: usize, batch: &Batch) {
        let device = &mut self.devices[index];
        if let Some(kind) = device.fail_disk.take() {
            let fault = StoreFault { kind, detail: "planned".into() };
            let now = self.now;
            let client = device.client.as_mut().unwrap();
            let fatal = client.handle(now, Input::Persisted(batch.id, Err(fault))).unwrap_err();
            device.fatal = Some(fatal.to_string());
            return;
        }
        if let Some(left) = &mut device.crash_in {
            if *left == 0 {
                device.crash_in = None;
                return self.crash(index);
            }
            *left -= 1;
        }
        device.batches += 1;
        for op in &batch.ops {
            match op {
                Op::Put(key, value) => {
                    device.disk.insert(key.clone(), value.clone());
                }
                Op::Delete(key) => {
                    device.disk.remove(key);
                }
                Op::DeletePrefix(prefix) => device.disk.retain(|key, _| !key.starts_with(prefix)),
            }
        }
        self.watched(&Seen::Persisted(index, batch));
        self.to_device(index, Input::Persisted(batch.id, Ok(())));
    }

    fn to_device(&mut self, index: usize, input: Input<'_>) {
        if let Some(said) = &mut self.said {
            said.push_str(&format!("{index} {input:?}\n"));
        }
        let now = self.now;
        let device = &mut self.devices[index];
        if let Some(client) = device.client.as_mut().filter(|_| device.fatal.is_none()) {
            client.handle(now, input).unwrap();
        }
    }

    fn connect(&mut self, index: usize, conn: ConnId) {
        if self.server.is_none() || !self.devices[index].connect {
            let gone = Gone::Lost("nobody answers".into());
            return self.to_device(index, Input::Disconnected(conn, gone));
        }
        let at_server = ConnId(self.next_id());
        self.devices[index].conn = Some((conn, at_server));
        let binding = Binding { kind: BindingKind::TlsExporter, value: self.rng.array() };
        let peer = vec![127, 0, 0, index as u8];
        let links = self.rules.links;
        let transport = Transport { binding, peer, links };
        self.to_server(Input::Connected(at_server, transport.clone()));
        self.to_device(index, Input::Connected(conn, transport));
    }

    fn open(&mut self, index: usize, link: LinkId, _all: bool) {
        let Some((_, conn)) = self.devices[index].conn else { return };
        let at_server = LinkId(self.next_id());
        self.wires.push(Wire {
            device: index,
            conn,
            at_device: link,
            at_server,
            up: Pipe::default(),
            down: Pipe::default(),
        });
        self.to_server(Input::Accepted(conn, at_server));
        self.to_server(Input::Writable(at_server, CREDIT));
        self.to_device(index, Input::Writable(link, CREDIT));
    }

    fn close_from_device(&mut self, index: usize, conn: ConnId, code: CloseCode) {
        if self.devices[index].conn.is_some_and(|(own, _)| own == conn) {
            let (_, at_server) = self.devices[index].conn.take().unwrap();
            self.wires.retain(|wire| wire.device != index);
            self.to_server(Input::Disconnected(at_server, Gone::Closed(code)));
        }
    }

    fn drop_conn(&mut self, index: usize, tell: bool) {
        if let Some((conn, at_server)) = self.devices[index].conn.take() {
            self.wires.retain(|wire| wire.device != index);
            let gone = || Gone::Lost("the network broke".into());
            self.to_server(Input::Disconnected(at_server, gone()));
            if tell {
                self.to_device(index, Input::Disconnected(conn, gone()));
            }
        }
    }

    fn wire_at_device(&mut self, device: usize, link: LinkId) -> Option<&mut Wire> {
        self.wires.iter_mut().find(|wire| wire.device == device && wire.at_device == link)
    }

    // ---- server -------------------------------------------------------------------------------

    fn run_server(&mut self) -> Idle {
        let mut idle = Idle::default();
        let mut ops = Vec::new();
        for round in 0.. {
            let mut buffer = Vec::new();
            let Some(server) = self.server.as_mut() else { return idle };
            let output = server.poll(&mut buffer);
            if let Output::Idle { wake_at, reason } = output {
                idle.wake_at = wake_at;
                self.reasons.insert(usize::MAX, format!("{reason:?} {wake_at:?}"));
                if ops.is_empty() {
                    return idle;
                }
                self.transact(core::mem::take(&mut ops));
                continue;
            }
            idle.worked = true;
            assert!(round < ENDLESS, "the server does not come to rest: {output:?}");
            self.note(usize::MAX, &output, &buffer);
            match output {
                Output::Send { link, fin, .. } => {
                    let now = self.now.mono;
                    if let Some(wire) = self.wires.iter_mut().find(|wire| wire.at_server == link) {
                        let at = now + self.devices[wire.device].latency;
                        wire.down.send(at, now, &buffer, fin);
                    }
                    self.sent_bytes += buffer.len() as u64;
                }
                Output::Read(link) => {
                    if let Some(wire) = self.wires.iter_mut().find(|wire| wire.at_server == link) {
                        wire.up.wanted = true;
                    }
                }
                Output::CloseLink(link, code) => {
                    let at = self.wires.iter().position(|wire| wire.at_server == link);
                    if let Some(wire) = at.map(|at| self.wires.remove(at)) {
                        let closed = Input::Closed(wire.at_device, Gone::Closed(code));
                        self.to_device(wire.device, closed);
                    }
                }
                Output::CloseConn(conn, code) => {
                    let device = self.devices.iter().position(|device| {
                        device.conn.is_some_and(|(_, at_server)| at_server == conn)
                    });
                    if let Some(index) = device {
                        // What was sent before the close still arrives.
                        self.run_wires();
                        let Some((at_device, _)) = self.devices[index].conn.take() else {
                            continue;
                        };
                        self.wires.retain(|wire| wire.device != index);
                        let closed = Input::Disconnected(at_device, Gone::Closed(code));
                        self.to_device(index, closed);
                    }
                }
                Output::Store(id, op) => ops.push((id, op)),
                Output::Compute(id, job) => {
                    let done = job.run();
                    self.to_server(Input::Computed(id, done));
                }
                Output::Audit(_) => {}
                output => unreachable!("a server: {output:?}"),
            }
        }
        idle
    }

    fn transact(&mut self, ops: Vec<(qpc_protocol::io::OpId, StoreOp)>) {
        let (ids, ops): (Vec<_>, Vec<_>) = ops.into_iter().unzip();
        if self.server_disk_full {
            for id in ids {
                let fault = StoreFault { kind: StoreFaultKind::Full, detail: "planned".into() };
                self.to_server(Input::Stored(id, Err(fault)));
            }
            return;
        }
        let mut replies = self.store.apply(&ops);
        self.watched(&Seen::Stored(&ops, &replies));
        if let Some(tap) = &mut self.tap {
            tap(&mut replies);
        }
        for (id, reply) in ids.into_iter().zip(replies) {
            self.to_server(Input::Stored(id, Ok(reply)));
        }
    }

    pub fn to_server(&mut self, input: Input<'_>) {
        if let Some(said) = &mut self.said {
            said.push_str(&format!("server {input:?}\n"));
        }
        let now = self.now;
        if let Some(server) = self.server.as_mut() {
            server.handle(now, input).unwrap();
        }
    }

    // ---- wires --------------------------------------------------------------------------------

    fn run_wires(&mut self) -> bool {
        let mut busy = false;
        let mut at = 0;
        while at < self.wires.len() {
            let link = self.wires[at].at_server;
            busy |= self.carry(at, true);
            if self.wires.get(at).is_some_and(|wire| wire.at_server == link) {
                busy |= self.carry(at, false);
            }
            if self.wires.get(at).is_some_and(|wire| wire.at_server == link) {
                at += 1;
            }
        }
        busy
    }

    fn carry(&mut self, at: usize, up: bool) -> bool {
        let split = self.rules.split;
        let most = if split { 1 + self.rng.u64() as usize % 700 } else { READ_CHUNK };
        let lied = self.lie(at, up);
        let wire = &mut self.wires[at];
        let (device, at_device, at_server) = (wire.device, wire.at_device, wire.at_server);
        let pipe = if up { &mut wire.up } else { &mut wire.down };
        if !pipe.wanted {
            return false;
        }
        let from = if lied { &mut pipe.told } else { &mut pipe.bytes };
        if from.is_empty() {
            if pipe.bytes.is_empty() && pipe.fin && !pipe.fin_told {
                pipe.fin_told = true;
                if up {
                    self.to_server(Input::Closed(at_server, Gone::Finished));
                } else {
                    self.to_device(device, Input::Closed(at_device, Gone::Finished));
                }
                return true;
            }
            return false;
        }
        pipe.wanted = false;
        let len = from.len().min(most);
        let mut bytes: Vec<u8> = from.drain(..len).collect();
        if let Some(garbler) = &mut self.garbler {
            garbler(device, up, &mut bytes);
        }
        let credit = if lied { 0 } else { len };
        if up {
            self.to_server(Input::Bytes(at_server, &bytes));
            self.to_device(device, Input::Writable(at_device, credit));
        } else {
            self.to_device(device, Input::Bytes(at_device, &bytes));
            self.to_server(Input::Writable(at_server, credit));
        }
        true
    }

    /// Lets the liar at what is on its way; whether bytes are to be taken from what it told.
    fn lie(&mut self, at: usize, up: bool) -> bool {
        let wire = &mut self.wires[at];
        let (device, at_device, at_server) = (wire.device, wire.at_device, wire.at_server);
        let pipe = if up { &mut wire.up } else { &mut wire.down };
        if self.liar.is_none() && pipe.decoder.held() == 0 && pipe.told.is_empty() {
            return false;
        }
        let bytes: Vec<u8> = pipe.bytes.drain(..).collect();
        let mut left = bytes.as_slice();
        while let Some(frame) = pipe.decoder.next(&mut left).expect("machines send frames") {
            let frames = match &mut self.liar {
                Some(liar) => liar(device, up, frame),
                None => vec![frame],
            };
            let mut told = Vec::new();
            frames.iter().for_each(|frame| encode(frame, &mut told));
            pipe.told.extend(told);
        }
        if up {
            self.to_device(device, Input::Writable(at_device, bytes.len()));
        } else {
            self.to_server(Input::Writable(at_server, bytes.len()));
        }
        true
    }

    // ---- looking ------------------------------------------------------------------------------

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn watched(&mut self, seen: &Seen<'_>) {
        let now = self.now.mono;
        if let Some(watch) = &mut self.watch {
            watch(now, seen);
        }
    }

    fn note(&mut self, who: usize, output: &Output, bytes: &[u8]) {
        self.watched(&Seen::Output(who, output, bytes));
        if let Some(said) = &mut self.said {
            said.push_str(&format!("{who} {output:?}\n"));
        }
        let who = (who as u64).to_be_bytes();
        let mut hash = |part: &[u8]| self.trace = Digest::of(&[&self.trace.0, &who, part]);
        if let Output::Persist(batch) = output {
            for op in &batch.ops {
                let (Op::Put(key, _) | Op::Delete(key) | Op::DeletePrefix(key)) = op;
                hash(key);
                // OpenMLS stamps past epochs with the clock of the machine, in a group's own records: the one
                // value that is not ours. All others count whole.
                if let Op::Put(key, value) = op
                    && !key.starts_with(b"g/")
                    && !key.starts_with(b"r/")
                {
                    hash(value);
                }
            }
        } else {
            hash(format!("{output:?}").as_bytes());
        }
        hash(bytes);
    }

    pub fn groups(&self, device: usize) -> Vec<GroupSummary> {
        self.devices[device].client.as_ref().unwrap().groups()
    }

    pub fn group(&self, device: usize, channel: ChannelId) -> GroupSummary {
        let group = self.groups(device).into_iter().find(|group| group.channel == channel);
        group.unwrap_or_else(|| panic!("device {device} does not know {channel}"))
    }

    pub fn messages(&self, device: usize) -> Vec<Message> {
        let of = |event: &Event| match event {
            Event::Message(message) => Some(message.clone()),
            _ => None,
        };
        self.devices[device].log.iter().filter_map(of).collect()
    }

    pub fn bodies(&self, device: usize) -> Vec<String> {
        let text = |message: Message| String::from_utf8_lossy(&message.body).into_owned();
        self.messages(device).into_iter().map(text).collect()
    }
}

/// What a machine said when it had nothing more to do.
#[derive(Debug, Default)]
struct Idle {
    worked: bool,
    wake_at: Option<Duration>,
}

fn read_page(disk: &BTreeMap<Vec<u8>, Vec<u8>>, page: &Page) -> Records {
    let from = page.after.clone().unwrap_or_else(|| page.prefix.clone());
    disk.range(from..)
        .filter(|(key, _)| Some(*key) != page.after.as_ref())
        .take_while(|(key, _)| key.starts_with(&page.prefix))
        .take(page.most)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
