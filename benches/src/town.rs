//! Clients and a server in one process: real machines and a real store, links that are queues, disks that are maps, and
//! a clock that jumps to the next deadline. What takes time is work, not waiting.

use core::fmt;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use qpc_protocol::client::event::{Event, Outcome};
use qpc_protocol::client::{Client, Config as ClientConfig, DIRECTORY, Stretching, UpdatePolicy};
use qpc_protocol::crypto::fast;
use qpc_protocol::env::{Entropy, Now, UnixMillis};
use qpc_protocol::error::{Refused, StoreFault};
use qpc_protocol::io::{
    Binding, BindingKind, ConnId, Gone, Input, LinkId, Links, Output, Page, Target, Ticket,
    Transport,
};
use qpc_protocol::server::memory::MemoryStore;
use qpc_protocol::server::op::{StoreOp, StoreReply};
use qpc_protocol::server::{Config as ServerConfig, Server, ServerSecrets};
use qpc_protocol::store::batch::{Op, Records};
use qpc_smol::store::ServerStore;

use crate::Error;
use links::Wire;
pub use spent::Spent;

mod links;
mod spent;

/// Small: the password's stretching is not what is measured.
const STRETCHING: Stretching = Stretching { memory_kib: 8, passes: 1, lanes: 1 };
const START: UnixMillis = UnixMillis(1_800_000_000_000);
/// Bytes on their way in one direction of a link.
const CREDIT: usize = 1024 * 1024;
/// Rounds without time passing, more than anything finite takes.
const ENDLESS: u32 = 1_000_000;

/// A device: its machine, if it is on, and its disk.
#[derive(Default)]
pub struct Device {
    client: Option<Client>,
    disk: BTreeMap<Vec<u8>, Vec<u8>>,
    conn: Option<(ConnId, ConnId)>,
    wake_at: Option<Duration>,
    /// What it told the application since this was last taken.
    pub events: Vec<Event>,
}

/// The reference store behind the trait of the runtimes.
#[derive(Debug, Default)]
pub struct InMemory(MemoryStore);

impl ServerStore for InMemory {
    fn apply(&mut self, ops: &[StoreOp]) -> Result<Vec<StoreReply>, StoreFault> {
        Ok(self.0.apply(ops))
    }
}

/// Everybody.
pub struct Town {
    now: Now,
    server: Server,
    server_wake: Option<Duration>,
    store: Box<dyn ServerStore>,
    /// The devices, on or off.
    pub devices: Vec<Device>,
    /// By the server's id of the link.
    wires: BTreeMap<LinkId, Wire>,
    /// Links with bytes on their way.
    moving: BTreeSet<LinkId>,
    at_device: BTreeMap<(usize, LinkId), LinkId>,
    /// Devices that have something to do.
    ready: BTreeSet<usize>,
    last_id: u64,
    rng: Entropy,
    begun: Instant,
    spent: Spent,
}

impl fmt::Debug for Town {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Town({} devices)", self.devices.len())
    }
}

impl Town {
    /// A town with a server over that store, which refuses nobody for coming too often from one place.
    pub fn new(store: Box<dyn ServerStore>) -> Self {
        let mut rng = Entropy::from_seed([11; 32]);
        let now = Now { mono: Duration::ZERO, wall: START };
        let config = ServerConfig { logins_per_source: u32::MAX, ..ServerConfig::new(fast()) };
        let secrets = ServerSecrets::generate(&mut rng.fork());
        Self {
            now,
            server: Server::new(config, secrets, rng.fork(), now),
            server_wake: None,
            store,
            devices: Vec::new(),
            wires: BTreeMap::new(),
            moving: BTreeSet::new(),
            at_device: BTreeMap::new(),
            ready: BTreeSet::new(),
            last_id: 0,
            rng,
            begun: Instant::now(),
            spent: Spent::default(),
        }
    }

    /// Randomness that follows from the town's seed.
    pub fn rng(&mut self) -> &mut Entropy {
        &mut self.rng
    }

    /// What was spent up to now.
    pub fn spent(&self) -> Spent {
        Spent { time: self.begun.elapsed(), ..self.spent }
    }

    /// A new device, switched on.
    ///
    /// # Errors
    /// None that a sound machine gives.
    pub fn device(&mut self) -> Result<usize, Error> {
        self.devices.push(Device::default());
        self.start(self.devices.len() - 1)?;
        Ok(self.devices.len() - 1)
    }

    /// Switches a device on, from its disk.
    ///
    /// # Errors
    /// None that a sound machine gives.
    pub fn start(&mut self, index: usize) -> Result<(), Error> {
        let config = ClientConfig {
            backend: fast(),
            server: Target("server".into()),
            stretching: STRETCHING,
            insecure_plain: false,
            auto_connect: true,
            propose_first: false,
            update: UpdatePolicy::default(),
        };
        let entropy = self.rng.fork();
        let device = &mut self.devices[index];
        let page = Page { prefix: DIRECTORY.to_vec(), after: None, most: usize::MAX };
        let directory = read_page(&device.disk, &page);
        device.client = Some(Client::restore(config, directory, entropy, self.now)?);
        self.ready.insert(index);
        Ok(())
    }

    /// Switches a device off, without a word.
    ///
    /// # Errors
    /// None that a sound machine gives.
    pub fn stop(&mut self, index: usize) -> Result<(), Error> {
        self.devices[index].client = None;
        self.devices[index].wake_at = None;
        if let Some((_, conn)) = self.devices[index].conn.take() {
            self.cut(index);
            self.tell_server(Input::Disconnected(conn, Gone::Lost("switched off".into())))?;
        }
        Ok(())
    }

    /// The machine of a device that is on.
    ///
    /// # Errors
    /// It is off.
    pub fn client(&self, index: usize) -> Result<&Client, Error> {
        self.devices[index].client.as_ref().ok_or_else(|| "the device is off".into())
    }

    /// A command, accepted.
    ///
    /// # Errors
    /// The machine's refusal.
    pub fn command<T>(
        &mut self,
        index: usize,
        run: impl FnOnce(&mut Client, Now) -> Result<T, Refused>,
    ) -> Result<T, Error> {
        let client = self.devices[index].client.as_mut().ok_or("the device is off")?;
        let given = run(client, self.now).map_err(|refused| format!("{refused:?}"))?;
        self.ready.insert(index);
        Ok(given)
    }

    /// A command, and all goes on until it is done.
    ///
    /// # Errors
    /// It was refused, failed, or is never done.
    pub fn done(
        &mut self,
        index: usize,
        run: impl FnOnce(&mut Client, Now) -> Result<Ticket, Refused>,
    ) -> Result<Outcome, Error> {
        let ticket = self.command(index, run)?;
        self.outcome(index, ticket)
    }

    /// Goes on until a ticket is done.
    ///
    /// # Errors
    /// It failed, or is never done.
    pub fn outcome(&mut self, index: usize, ticket: Ticket) -> Result<Outcome, Error> {
        let ends = |event: &Event| matches!(event, Event::Done(of, _) | Event::Failed(of, _) if *of == ticket);
        self.until(|town| town.devices[index].events.iter().any(ends))?;
        let events = &mut self.devices[index].events;
        match events.iter().position(ends).map(|at| events.remove(at)) {
            Some(Event::Done(_, outcome)) => Ok(outcome),
            other => Err(format!("device {index}: {other:?}").into()),
        }
    }

    /// Goes on until all devices that are on have nothing left to do.
    ///
    /// # Errors
    /// That never happens.
    pub fn settle(&mut self) -> Result<(), Error> {
        self.until(|town| {
            town.devices.iter().filter_map(|device| device.client.as_ref()).all(Client::is_idle)
        })
    }

    /// Goes on until something is true.
    ///
    /// # Errors
    /// It does not come true within a day of the town's clock.
    pub fn until(&mut self, mut is: impl FnMut(&Self) -> bool) -> Result<(), Error> {
        let end = self.now.mono + Duration::from_secs(24 * 3600);
        loop {
            self.run()?;
            if is(self) {
                return Ok(());
            }
            let wakes = self.devices.iter().map(|device| device.wake_at);
            let wake = wakes.chain([self.server_wake]).flatten().min();
            let Some(wake) = wake.filter(|wake| *wake <= end) else {
                return Err("it never comes true".into());
            };
            self.now.mono = self.now.mono.max(wake) + Duration::from_micros(1);
            self.now.wall = START.plus(self.now.mono);
            let due = |device: &Device| device.wake_at.is_some_and(|at| at <= self.now.mono);
            let due = self.devices.iter().enumerate().filter(|(_, device)| due(device));
            let due: Vec<_> = due.map(|(index, _)| index).collect();
            for index in due {
                self.tell_device(index, Input::Tick)?;
            }
            if self.server_wake.is_some_and(|at| at <= self.now.mono) {
                self.tell_server(Input::Tick)?;
            }
        }
    }

    fn run(&mut self) -> Result<(), Error> {
        for _ in 0..ENDLESS {
            while let Some(index) = self.ready.pop_first() {
                self.run_device(index)?;
            }
            let begun = Instant::now();
            self.run_server()?;
            self.spent.server += begun.elapsed();
            if self.ready.is_empty() && !self.carry_all()? {
                return Ok(());
            }
        }
        Err("the town does not come to rest".into())
    }

    // ---- devices ------------------------------------------------------------------------------

    fn run_device(&mut self, index: usize) -> Result<(), Error> {
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            let Some(client) = self.devices[index].client.as_mut() else { return Ok(()) };
            match client.poll(&mut buffer) {
                Output::Idle { wake_at, .. } => {
                    self.devices[index].wake_at = wake_at;
                    return Ok(());
                }
                Output::Connect(conn, _) => self.connect(index, conn)?,
                Output::Open(_, link, _) => self.open(index, link)?,
                Output::Send { link, fin, .. } => {
                    self.spent.up += buffer.len() as u64;
                    if let Some(&id) = self.at_device.get(&(index, link)) {
                        self.put(id, true, &buffer, fin);
                    }
                }
                Output::Read(link) => {
                    if let Some(&id) = self.at_device.get(&(index, link)) {
                        self.want(id, true);
                    }
                }
                Output::CloseLink(link, code) => {
                    if let Some(id) = self.at_device.remove(&(index, link)) {
                        self.wires.remove(&id);
                        self.tell_server(Input::Closed(id, Gone::Closed(code)))?;
                    }
                }
                Output::CloseConn(conn, code) => {
                    if let Some((_, at_server)) =
                        self.devices[index].conn.take_if(|(own, _)| *own == conn)
                    {
                        self.cut(index);
                        self.tell_server(Input::Disconnected(at_server, Gone::Closed(code)))?;
                    }
                }
                Output::Persist(batch) => {
                    for op in &batch.ops {
                        self.persist(index, op);
                    }
                    self.tell_device(index, Input::Persisted(batch.id, Ok(())))?;
                }
                Output::Load(id, page) => {
                    let records = read_page(&self.devices[index].disk, &page);
                    self.tell_device(index, Input::Loaded(id, Ok(records)))?;
                }
                Output::Compute(id, job) => {
                    self.tell_device(index, Input::Computed(id, job.run()))?;
                }
                Output::Event(event) => self.devices[index].events.push(event),
                Output::Store(..) | Output::Audit(_) => return Err("a server's output".into()),
            }
        }
    }

    fn persist(&mut self, index: usize, op: &Op) {
        let disk = &mut self.devices[index].disk;
        match op {
            Op::Put(key, value) => {
                self.spent.persisted += (key.len() + value.len()) as u64;
                disk.insert(key.clone(), value.clone());
            }
            Op::Delete(key) => drop(disk.remove(key)),
            Op::DeletePrefix(prefix) => {
                let under = disk.range(prefix.clone()..).map(|(key, _)| key);
                let under: Vec<_> =
                    under.take_while(|key| key.starts_with(prefix)).cloned().collect();
                for key in under {
                    disk.remove(&key);
                }
            }
        }
    }

    fn connect(&mut self, index: usize, conn: ConnId) -> Result<(), Error> {
        let at_server = ConnId(self.next_id());
        self.devices[index].conn = Some((conn, at_server));
        let binding = Binding { kind: BindingKind::TlsExporter, value: self.rng.array() };
        let transport = Transport { binding, peer: vec![127, 0, 0, 1], links: Links::Many };
        self.tell_server(Input::Connected(at_server, transport.clone()))?;
        self.tell_device(index, Input::Connected(conn, transport))
    }

    fn tell_device(&mut self, index: usize, input: Input<'_>) -> Result<(), Error> {
        if let Some(client) = self.devices[index].client.as_mut() {
            client.handle(self.now, input)?;
            self.ready.insert(index);
        }
        Ok(())
    }

    // ---- the server ---------------------------------------------------------------------------

    fn tell_server(&mut self, input: Input<'_>) -> Result<(), Error> {
        Ok(self.server.handle(self.now, input)?)
    }

    fn run_server(&mut self) -> Result<(), Error> {
        let (mut ids, mut ops) = (Vec::new(), Vec::new());
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            match self.server.poll(&mut buffer) {
                Output::Idle { wake_at, .. } => {
                    self.server_wake = wake_at;
                    if ops.is_empty() {
                        return Ok(());
                    }
                    let replies = self.store.apply(&ops)?;
                    ops.clear();
                    for (id, reply) in core::mem::take(&mut ids).into_iter().zip(replies) {
                        self.tell_server(Input::Stored(id, Ok(reply)))?;
                    }
                }
                Output::Store(id, op) => {
                    ids.push(id);
                    ops.push(op);
                }
                Output::Compute(id, job) => self.tell_server(Input::Computed(id, job.run()))?,
                Output::Send { link, fin, .. } => {
                    self.spent.down += buffer.len() as u64;
                    self.put(link, false, &buffer, fin);
                }
                Output::Read(link) => self.want(link, false),
                Output::CloseLink(link, code) => {
                    if let Some(Wire { device, at_device, .. }) = self.wires.remove(&link) {
                        self.at_device.remove(&(device, at_device));
                        self.tell_device(device, Input::Closed(at_device, Gone::Closed(code)))?;
                    }
                }
                Output::CloseConn(conn, code) => {
                    return Err(format!("the server closed {conn:?} with {code:?}").into());
                }
                Output::Audit(_) => {}
                output => return Err(format!("a client's output: {output:?}").into()),
            }
        }
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
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
