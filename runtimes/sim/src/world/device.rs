//! Devices: a client machine each, and the disk that it is restored from.

use std::collections::BTreeMap;
use std::time::Duration;

use qpc_protocol::client::event::Event;
use qpc_protocol::client::{Client, Config as ClientConfig, DIRECTORY};
use qpc_protocol::env::{Entropy, Now};
use qpc_protocol::error::{Fatal, RestoreError, StoreFault, StoreFaultKind};
use qpc_protocol::io::{Input, Links, Output, Page, Target};
use qpc_protocol::store::batch::Batch;

use super::disk::{Disk, Moment};
use super::link::Packet;
use super::network::{InFlight, Side};
use crate::recorder::Forgery;

use super::{CREDIT, Clock, ENDLESS, Idle, STRETCHING, Seen, World};

/// A device: its machine, unless it is switched off, and its disk. What the world does to it is in its fields: change
/// them at any time.
pub struct Device {
    /// Its machine.
    pub client: Option<Client>,
    /// Its records: what is durable.
    pub disk: Disk,
    /// Events of this run that nobody has taken yet.
    pub events: Vec<Event>,
    /// Every event of all runs.
    pub log: Vec<Event>,
    /// Whether the server can be reached by a new connection.
    pub connect: bool,
    /// How long what it sends, and what is sent to it, is under way at least.
    pub latency: Duration,
    /// How much longer at most, drawn for each packet; nothing on a link overtakes anything.
    pub jitter: Duration,
    /// How many bytes a link to or from it takes ahead of its reader, in bytes; small: a slow reader.
    pub credit: usize,
    /// How many links its next connection has.
    pub links: Links,
    /// The link that the n-th byte from now to it, or from it, goes along ends behind that byte.
    pub ends_in: [Option<usize>; 2],
    /// The server leads it into another history: see [`World::fork`].
    pub(super) forked: bool,
    /// Since when nothing passes: see [`World::part`].
    pub(super) parted: Option<Duration>,
    /// Its calendar.
    pub clock: Clock,
    /// It does not run, like a telephone in a pocket: what happens to it waits.
    pub asleep: bool,
    /// How long a batch takes to become durable. Several may be under way; they become so in order.
    pub disk_latency: Duration,
    pub(super) writing: InFlight<Batch>,
    /// Crash at the n-th batch from now that becomes durable, counted from 0.
    pub crash_in: Option<u64>,
    /// At which moment of that batch.
    pub crash_moment: Moment,
    /// It crashes as soon as what waited for its last batch has left.
    pub(super) dying: bool,
    /// How often it was switched off without a word.
    pub crashes: u64,
    /// Batches made durable.
    pub batches: u64,
    /// Fail the next batch with this.
    pub fail_disk: Option<StoreFaultKind>,
    /// Fail the next read with this.
    pub fail_load: Option<StoreFaultKind>,
    /// Its owner has changed its program: the path secrets of its commits are forged.
    pub forgery: Option<Forgery>,
    /// Why its machine stopped, until it is switched on again.
    pub fatal: Option<String>,
}

impl World {
    /// A new device, switched on.
    pub fn device(&mut self) -> usize {
        self.devices.push(Device {
            client: None,
            disk: BTreeMap::new(),
            events: Vec::new(),
            log: Vec::new(),
            connect: true,
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            credit: CREDIT,
            links: self.rules.links,
            ends_in: [None, None],
            forked: false,
            parted: None,
            clock: Clock::default(),
            asleep: false,
            disk_latency: Duration::ZERO,
            writing: InFlight::default(),
            crash_in: None,
            crash_moment: Moment::Before,
            dying: false,
            crashes: 0,
            batches: 0,
            fail_disk: None,
            fail_load: None,
            forgery: None,
            fatal: None,
        });
        let device = self.devices.len() - 1;
        self.start(device);
        device
    }

    /// Switches a device on, from its disk.
    ///
    /// # Panics
    /// If its directory is damaged.
    pub fn start(&mut self, device: usize) {
        self.try_start(device).expect("a directory that can be read");
    }

    /// Switches a device on, from a disk that may be damaged.
    ///
    /// # Errors
    /// What the machine finds wrong with its directory. The device stays off.
    pub fn try_start(&mut self, index: usize) -> Result<(), RestoreError> {
        let seed = self.rng.array();
        let config = ClientConfig {
            backend: self.backend,
            server: Target("server".into()),
            stretching: STRETCHING,
            insecure_plain: false,
            auto_connect: true,
            propose_first: false,
            update: self.rules.update,
        };
        let now = self.now_of(index);
        self.watched(&Seen::Started(index, now, seed, None));
        let device = &mut self.devices[index];
        device.fatal = None;
        let page = Page { prefix: DIRECTORY.to_vec(), after: None, most: usize::MAX };
        let directory = page.read(&device.disk);
        device.client = Some(Client::restore(config, directory, Entropy::from_seed(seed), now)?);
        Ok(())
    }

    /// Switches a device off, without a word; its connection is found gone at once.
    pub fn crash(&mut self, device: usize) {
        self.stop(device);
        self.cut(device);
    }

    /// The same, but the server hears nothing of it: the device has lost its power.
    pub fn lose_power(&mut self, device: usize) {
        self.stop(device);
        self.half_open(device, Side::Server);
    }

    fn stop(&mut self, index: usize) {
        self.settle_disk(index);
        let device = &mut self.devices[index];
        device.client = None;
        device.events.clear();
        device.crashes += 1;
        device.crash_in = None;
        device.dying = false;
    }

    /// What time it is for a device.
    pub fn now_of(&self, device: usize) -> Now {
        self.devices[device].clock.of(self.now)
    }

    pub(super) fn run_device(&mut self, index: usize) -> Idle {
        let mut idle = self.run_disk(index);
        for round in 0.. {
            let mut buffer = Vec::new();
            let now = self.now_of(index);
            self.stand_at(index, now);
            let device = &mut self.devices[index];
            let Some(client) = device.client.as_mut().filter(|_| !device.asleep) else {
                return idle;
            };
            let output = client.poll(&mut buffer);
            if let Output::Idle { wake_at, reason } = output {
                if device.dying {
                    self.crash(index);
                    return idle;
                }
                idle.and(Idle { worked: false, wake_at });
                let ahead = wake_at.is_none_or(|at| at > now.mono);
                assert!(ahead, "device {index} would spin at {now:?}: {reason:?} {wake_at:?}");
                self.reasons.insert(index, format!("{reason:?} {wake_at:?}"));
                let gauges = self.watch.as_ref().map(|_| client.gauges()).unwrap_or_default();
                self.watched(&Seen::Idle(index, &output, &gauges));
                return idle;
            }
            idle.worked = true;
            assert!(round < ENDLESS, "device {index} does not come to rest: {output:?}");
            self.note(index, &output, &buffer);
            self.carry_out(index, output, buffer);
        }
        idle
    }

    fn carry_out(&mut self, index: usize, output: Output, buffer: Vec<u8>) {
        match output {
            Output::Connect(conn, _) => self.connect(index, conn),
            Output::Open(conn, link, _) => self.open(index, conn, link),
            Output::Send { link, fin, .. } => {
                self.see_bytes(index, &buffer);
                if let Some((wire, at)) = self.wire(index, link) {
                    wire.up.send(at, Packet::Data { bytes: buffer, fin });
                }
            }
            Output::Read(link) => {
                if let Some((wire, _)) = self.wire(index, link) {
                    wire.down.want();
                }
            }
            Output::CloseLink(link, code) => {
                if let Some((wire, at)) = self.wire(index, link) {
                    wire.close(Side::Device, at, code);
                }
            }
            Output::CloseConn(conn, code) => self.close_conn(Side::Device, conn, index, code),
            Output::Persist(batch) => self.persist(index, batch),
            Output::Load(id, page) => {
                let device = &mut self.devices[index];
                let records = match device.fail_load.take() {
                    Some(kind) => Err(StoreFault { kind, detail: "planned".into() }),
                    None => Ok(page.read(&device.written())),
                };
                self.to_device(index, Input::Loaded(id, records));
            }
            Output::Compute(id, job) => self.to_device(index, Input::Computed(id, job.run())),
            Output::Event(event) => {
                self.devices[index].log.push(event.clone());
                self.devices[index].events.push(event);
            }
            Output::Store(..) | Output::Audit(_) | Output::Idle { .. } => {
                unreachable!("a client")
            }
        }
    }

    pub(super) fn to_device(&mut self, index: usize, input: Input<'_>) {
        if let Some(said) = &mut self.said {
            said.push_str(&format!("{index} {input:?}\n"));
        }
        let now = self.now_of(index);
        self.stand_at(index, now);
        if self.devices[index].client.is_some() && self.devices[index].fatal.is_none() {
            self.watched(&Seen::Input(index, now, &input));
        }
        let device = &mut self.devices[index];
        if let Some(client) = device.client.as_mut().filter(|_| device.fatal.is_none()) {
            match client.handle(now, input) {
                Ok(()) => {}
                Err(fatal @ Fatal::Store(_)) => device.fatal = Some(fatal.to_string()),
                Err(fatal) => panic!("device {index}: {fatal}"),
            }
        }
    }
}
