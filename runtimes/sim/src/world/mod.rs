//! A world in memory: one server machine over the reference store, any number of client machines over disks that are
//! maps, links that are queues, and a clock that jumps to the next deadline. Everything follows from one seed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a failure is a panic"
)]
#![allow(clippy::wrong_self_convention, reason = "`to_server` hands something to it")]

mod app;
mod clock;
mod device;
mod disk;
mod fork;
mod link;
mod network;
mod server;
mod tamper;
mod witness;

use std::collections::BTreeMap;
use std::time::Duration;

use qpc_protocol::client::{Stretching, UpdatePolicy};
use qpc_protocol::crypto::{Backend, portable};
use qpc_protocol::env::{Entropy, Now, UnixMillis};
use qpc_protocol::id::Digest;
use qpc_protocol::io::{Input, Links};
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::server::memory::MemoryStore;
use qpc_protocol::server::{Server, ServerSecrets};

use crate::recorder::Recorder;

pub use clock::Clock;
pub use device::Device;
pub use disk::{Damage, Disk, Moment};
use fork::Fork;
use network::Connection;
pub use network::{CONNECT_TIME, SILENCE, Side};
pub use server::Storage;
pub use tamper::{Delayer, Garbler, Liar};
pub use witness::{Seen, Watcher};

/// Small: the password's stretching is not what these tests are about.
pub const STRETCHING: Stretching = Stretching { memory_kib: 8, passes: 1, lanes: 1 };
const START: u64 = 1_800_000_000_000;
/// More rounds than anything finite takes.
const ENDLESS: u32 = 100_000;
/// What a link takes ahead of its reader unless a device says otherwise, in bytes.
pub const CREDIT: usize = 256 * 1024;
/// The server, where machines are numbered.
const SERVER: usize = usize::MAX;

/// How the world behaves.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// What all randomness of the world is drawn from.
    pub seed: u64,
    /// How many links a connection has.
    pub links: Links,
    /// Bytes arrive in pieces of random size.
    pub split: bool,
    /// Whose primitives all machines compute with.
    pub backend: Backend,
    /// When clients replace the keys of their leaves.
    pub update: UpdatePolicy,
    /// What the server allows.
    pub suites: &'static [Suite],
}

impl Rules {
    /// Many links, whole chunks, the portable backend.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            links: Links::Many,
            split: false,
            backend: portable(),
            update: UpdatePolicy::default(),
            suites: &Suite::ALL,
        }
    }

    /// The same over transports with one link.
    pub fn one_link(self) -> Self {
        Self { links: Links::One, ..self }
    }

    /// The same with bytes that arrive in pieces.
    pub fn split(self) -> Self {
        Self { split: true, ..self }
    }
}

/// A world that is switched off: see [`World::from`].
pub struct Remains {
    now: Now,
    secrets: Vec<u8>,
    store: MemoryStore,
    disks: Vec<Disk>,
}

/// The world.
pub struct World {
    rules: Rules,
    /// What time it is.
    pub now: Now,
    /// The server's machine, unless it is switched off.
    pub server: Option<Server>,
    /// The other history, if the server has two.
    fork: Option<Fork>,
    /// That one is under way.
    in_fork: bool,
    secrets: Vec<u8>,
    /// What the server has stored.
    pub store: MemoryStore,
    /// All devices, by the number that every method here knows them by.
    pub devices: Vec<Device>,
    conns: Vec<Connection>,
    /// Nothing passes between the server and anybody: since when, and until when.
    island: Option<(Duration, Duration)>,
    /// The server's calendar.
    pub server_clock: Clock,
    /// The server's disk, and what goes wrong with it.
    pub storage: Storage,
    /// The backend of the rules, watched.
    backend: Backend,
    recorder: &'static Recorder,
    last_id: u64,
    rng: Entropy,
    /// A hash over every output of every machine.
    pub trace: Digest,
    /// Bytes that machines sent, in all.
    pub sent_bytes: u64,
    /// What each machine is waiting for.
    reasons: BTreeMap<usize, String>,
    /// Every store operation fails.
    pub server_disk_full: bool,
    /// Lies about frames.
    pub liar: Option<Liar>,
    /// Holds frames back that the liar has told.
    pub delayer: Option<Delayer>,
    /// Spoils bytes.
    pub garbler: Option<Garbler>,
    /// Everything that machines say of themselves, if it is kept.
    pub said: Option<String>,
    /// Sees everything.
    pub watch: Option<Watcher>,
}

impl World {
    /// A world with a server and nobody else.
    pub fn new(rules: Rules) -> Self {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&rules.seed.to_be_bytes());
        let mut rng = Entropy::from_seed(seed);
        let secrets = ServerSecrets::generate(&mut rng.fork()).encode().to_vec();
        let recorder = Recorder::over(rules.backend);
        let mut world = Self {
            rules,
            now: Now { mono: Duration::ZERO, wall: UnixMillis(START) },
            server: None,
            fork: None,
            in_fork: false,
            secrets,
            store: MemoryStore::default(),
            devices: Vec::new(),
            conns: Vec::new(),
            island: None,
            server_clock: Clock::default(),
            storage: Storage::default(),
            backend: recorder,
            recorder,
            last_id: 1_000_000,
            rng,
            trace: Digest([0; 32]),
            sent_bytes: 0,
            reasons: BTreeMap::new(),
            server_disk_full: false,
            liar: None,
            delayer: None,
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
        if self.is_forked() {
            self.in_history(true, |world| world.to_server(Input::Tick));
        }
        for device in 0..self.devices.len() {
            self.to_device(device, Input::Tick);
        }
        for round in 0.. {
            assert!(round < ENDLESS, "the world does not come to rest");
            let mut idle = Idle::default();
            for device in 0..self.devices.len() {
                idle.and(self.run_device(device));
            }
            idle.and(self.run_server());
            if self.is_forked() {
                idle.and(self.in_history(true, Self::run_server));
            }
            idle.and(self.run_network());
            if !idle.worked {
                self.check_keys();
                return idle.wake_at;
            }
        }
        None
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.recorder.forget();
    }
}

fn earliest(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// What a machine said when it had nothing more to do.
#[derive(Debug, Default)]
struct Idle {
    worked: bool,
    wake_at: Option<Duration>,
}
