//! One server's machine and a few clients', with nothing around them that costs time: no network, no disk that is late,
//! no record of what happened. What a [`World`](crate::world::World) is for whole runs, this is for executions that
//! take microseconds; and the fuzzer has links of its own to the server.

#![allow(clippy::wrong_self_convention, reason = "`to_server` hands something to it")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use qpc_protocol::client::{Client, Config as ClientConfig, DIRECTORY, UpdatePolicy};
use qpc_protocol::env::{Entropy, Now, UnixMillis};
use qpc_protocol::io::{
    Binding, BindingKind, ConnId, Gone, Input, LinkId, Links, Output, Page, Target, Transport,
};
use qpc_protocol::limits::READ_CHUNK;
use qpc_protocol::server::memory::MemoryStore;
use qpc_protocol::server::{Config as ServerConfig, Server, ServerSecrets};
use qpc_protocol::wire::frame::Decoder;
use qpc_protocol::wire::message::Frame;

use crate::insecure;
use crate::world::STRETCHING;

/// More rounds than anything finite takes.
const ENDLESS: u32 = 20_000;
const CREDIT: usize = 1 << 20;
/// When time begins.
pub(super) const START: u64 = 1_800_000_000_000;

pub(super) type Disk = BTreeMap<Vec<u8>, Vec<u8>>;

/// Sees every frame between a device and the server (`true`: to the server), and writes what arrives in its place.
pub(super) type Tap = Box<dyn FnMut(usize, bool, Frame, &mut Vec<u8>)>;

#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    decoder: Decoder,
    fin: bool,
    told: bool,
    wanted: bool,
}

/// A link; one without a device is the fuzzer's.
struct Wire {
    device: Option<usize>,
    conn: ConnId,
    at_device: LinkId,
    at_server: LinkId,
    up: Pipe,
    down: Pipe,
}

/// A device, on or off.
pub(super) struct Device {
    pub(super) client: Option<Client>,
    pub(super) disk: Disk,
    conn: Option<(ConnId, ConnId)>,
    /// It gave up because of what its disk said.
    pub(super) fatal: bool,
    pub(super) links: Links,
}

/// The machines.
pub(super) struct Stage {
    pub(super) now: Now,
    pub(super) server: Server,
    pub(super) store: MemoryStore,
    pub(super) devices: Vec<Device>,
    wires: Vec<Wire>,
    next: u64,
    dice: Entropy,
    pub(super) tap: Option<Tap>,
    /// A disk may say anything: that a device gives up is no fault.
    pub(super) damaged: bool,
}

impl Stage {
    /// A server with this past; all devices off.
    pub(super) fn new(secrets: &[u8], store: MemoryStore, disks: Vec<Disk>, now: Now) -> Self {
        let mut dice = Entropy::from_seed([9; 32]);
        let secrets = ServerSecrets::decode(secrets).expect("made here");
        let config = ServerConfig::new(insecure::open());
        let server = Server::new(config, secrets, dice.fork(), now);
        let mut stage = Self {
            now,
            server,
            store,
            devices: Vec::new(),
            wires: Vec::new(),
            next: 1 << 32,
            dice,
            tap: None,
            damaged: false,
        };
        for disk in disks {
            let device = stage.device();
            stage.devices[device].disk = disk;
        }
        stage
    }

    pub(super) fn fresh(secrets: &[u8]) -> Self {
        let now = Now { mono: Duration::ZERO, wall: UnixMillis(START) };
        Self::new(secrets, MemoryStore::default(), Vec::new(), now)
    }

    /// A new device, off.
    pub(super) fn device(&mut self) -> usize {
        let links = if self.devices.len().is_multiple_of(2) { Links::Many } else { Links::One };
        let disk = Disk::new();
        self.devices.push(Device { client: None, disk, conn: None, fatal: false, links });
        self.devices.len() - 1
    }

    /// Switches a device on; not, if its disk is damaged.
    pub(super) fn start(&mut self, device: usize) {
        self.stop(device);
        let config = ClientConfig {
            backend: insecure::open(),
            server: Target("server".into()),
            stretching: STRETCHING,
            insecure_plain: false,
            auto_connect: true,
            propose_first: false,
            update: UpdatePolicy::default(),
        };
        let page = Page { prefix: DIRECTORY.to_vec(), after: None, most: usize::MAX };
        let directory = page.read(&self.devices[device].disk);
        let restored = Client::restore(config, directory, self.dice.fork(), self.now);
        assert!(self.damaged || restored.is_ok(), "{restored:?}");
        self.devices[device].client = restored.ok();
    }

    pub(super) fn stop(&mut self, device: usize) {
        self.devices[device].client = None;
        self.cut(device);
    }

    /// The connection of a device breaks.
    pub(super) fn cut(&mut self, device: usize) {
        let Some((at_device, at_server)) = self.devices[device].conn.take() else { return };
        self.wires.retain(|wire| wire.device != Some(device));
        let gone = || Gone::Lost("cut".into());
        self.to_server(Input::Disconnected(at_server, gone()));
        self.to_device(device, Input::Disconnected(at_device, gone()));
    }

    /// Runs until nothing more happens now; returns the next deadline.
    pub(super) fn run(&mut self) -> Option<Duration> {
        self.to_server(Input::Tick);
        for device in 0..self.devices.len() {
            self.to_device(device, Input::Tick);
        }
        for _ in 0..ENDLESS {
            let (mut busy, mut wake) = self.run_server();
            for device in 0..self.devices.len() {
                let (worked, at) = self.run_device(device);
                busy |= worked;
                wake = [wake, at].into_iter().flatten().min();
            }
            busy |= self.run_wires();
            if !busy {
                return wake;
            }
        }
        panic!("it does not come to rest");
    }

    /// Lets time pass with everything that happens meanwhile, as long as that is not too much.
    pub(super) fn pass(&mut self, span: Duration) {
        let end = self.now.mono + span;
        for _ in 0..40 {
            let Some(wake) = self.run().filter(|wake| *wake < end) else { break };
            let next = wake.max(self.now.mono + Duration::from_micros(1));
            self.until(next);
        }
        self.until(end);
        self.run();
    }

    fn until(&mut self, mono: Duration) {
        let span = mono.saturating_sub(self.now.mono);
        self.now = Now { mono: self.now.mono + span, wall: self.now.wall.plus(span) };
    }

    // ---- devices ------------------------------------------------------------------------------

    fn run_device(&mut self, index: usize) -> (bool, Option<Duration>) {
        for round in 0..ENDLESS {
            let mut buffer = Vec::new();
            let Some(client) = self.devices[index].client.as_mut() else {
                return (round > 0, None);
            };
            let output = client.poll(&mut buffer);
            if let Output::Idle { wake_at, .. } = output {
                return (round > 0, wake_at);
            }
            match output {
                Output::Connect(conn, _) => self.connect(index, conn),
                Output::Open(_, link, _) => self.open(index, link),
                Output::Send { link, fin, .. } => self.send(Some(index), link, &buffer, fin),
                Output::Read(link) => {
                    if let Some(at) = self.wire(Some(index), link) {
                        self.wires[at].down.wanted = true;
                    }
                }
                Output::CloseLink(link, code) => {
                    let at = self.wire(Some(index), link);
                    if let Some(wire) = at.map(|at| self.wires.remove(at)) {
                        self.to_server(Input::Closed(wire.at_server, Gone::Closed(code)));
                    }
                }
                Output::CloseConn(_, code) => {
                    if let Some((_, at_server)) = self.devices[index].conn.take() {
                        self.wires.retain(|wire| wire.device != Some(index));
                        self.to_server(Input::Disconnected(at_server, Gone::Closed(code)));
                    }
                }
                Output::Persist(batch) => {
                    let disk = &mut self.devices[index].disk;
                    batch.ops.into_iter().for_each(|op| op.apply(disk));
                    self.to_device(index, Input::Persisted(batch.id, Ok(())));
                }
                Output::Load(id, page) => {
                    let records = page.read(&self.devices[index].disk);
                    self.to_device(index, Input::Loaded(id, Ok(records)));
                }
                Output::Compute(id, job) => {
                    self.to_device(index, Input::Computed(id, job.run()));
                }
                _ => {}
            }
        }
        panic!("device {index} does not come to rest");
    }

    pub(super) fn to_device(&mut self, index: usize, input: Input<'_>) {
        let (now, damaged) = (self.now, self.damaged);
        let device = &mut self.devices[index];
        let Some(client) = device.client.as_mut().filter(|_| !device.fatal) else { return };
        let handled = client.handle(now, input);
        assert!(damaged || handled.is_ok(), "a peer did this: {handled:?}");
        device.fatal = handled.is_err();
    }

    fn transport(&mut self, peer: u8, links: Links) -> Transport {
        let binding = Binding { kind: BindingKind::TlsExporter, value: self.dice.array() };
        Transport { binding, peer: vec![127, 0, 0, peer], links }
    }

    fn draw(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn connect(&mut self, index: usize, conn: ConnId) {
        let at_server = ConnId(self.draw());
        self.devices[index].conn = Some((conn, at_server));
        let transport = self.transport(index as u8, self.devices[index].links);
        self.to_server(Input::Connected(at_server, transport.clone()));
        self.to_device(index, Input::Connected(conn, transport));
    }

    fn open(&mut self, index: usize, link: LinkId) {
        let Some((_, conn)) = self.devices[index].conn else { return };
        self.link(conn, Some(index), Some(link));
        self.to_device(index, Input::Writable(link, CREDIT));
    }

    // ---- server -------------------------------------------------------------------------------

    fn run_server(&mut self) -> (bool, Option<Duration>) {
        let mut ops = Vec::new();
        for round in 0..ENDLESS {
            let mut buffer = Vec::new();
            match self.server.poll(&mut buffer) {
                Output::Idle { wake_at, .. } if ops.is_empty() => return (round > 0, wake_at),
                Output::Idle { .. } => {
                    let (ids, ready): (Vec<_>, Vec<_>) =
                        core::mem::take(&mut ops).into_iter().unzip();
                    let replies = self.store.apply(&ready);
                    for (id, reply) in ids.into_iter().zip(replies) {
                        self.to_server(Input::Stored(id, Ok(reply)));
                    }
                }
                Output::Send { link, fin, .. } => self.send(None, link, &buffer, fin),
                Output::Read(link) => {
                    if let Some(at) = self.wire(None, link) {
                        self.wires[at].up.wanted = true;
                    }
                }
                Output::CloseLink(link, code) => {
                    let at = self.wire(None, link);
                    if let Some(wire) = at.map(|at| self.wires.remove(at))
                        && let Some(device) = wire.device
                    {
                        self.to_device(device, Input::Closed(wire.at_device, Gone::Closed(code)));
                    }
                }
                Output::CloseConn(conn, code) => {
                    self.run_wires();
                    self.wires.retain(|wire| wire.conn != conn);
                    let device = self.devices.iter_mut().enumerate().find_map(|(index, device)| {
                        let (at_device, _) = device.conn.take_if(|(_, at)| *at == conn)?;
                        Some((index, at_device))
                    });
                    if let Some((index, at_device)) = device {
                        self.to_device(index, Input::Disconnected(at_device, Gone::Closed(code)));
                    }
                }
                Output::Store(id, op) => ops.push((id, op)),
                Output::Compute(id, job) => self.to_server(Input::Computed(id, job.run())),
                _ => {}
            }
        }
        panic!("the server does not come to rest");
    }

    pub(super) fn to_server(&mut self, input: Input<'_>) {
        self.server.handle(self.now, input).expect("a peer cannot do this");
    }

    // ---- the fuzzer's own links ---------------------------------------------------------------

    /// A connection of the fuzzer's.
    pub(super) fn dial(&mut self, peer: u8, links: Links) -> ConnId {
        let conn = ConnId(self.draw());
        let transport = self.transport(peer, links);
        self.to_server(Input::Connected(conn, transport));
        conn
    }

    /// A link to the server: a device's, or the fuzzer's.
    pub(super) fn link(
        &mut self,
        conn: ConnId,
        device: Option<usize>,
        at_device: Option<LinkId>,
    ) -> LinkId {
        let at_server = LinkId(self.draw());
        let at_device = at_device.unwrap_or(at_server);
        let (up, down) = Default::default();
        self.wires.push(Wire { device, conn, at_device, at_server, up, down });
        self.to_server(Input::Accepted(conn, at_server));
        self.to_server(Input::Writable(at_server, CREDIT));
        at_server
    }

    /// Bytes for the server on a link of the fuzzer's.
    pub(super) fn say(&mut self, link: LinkId, bytes: &[u8]) {
        if let Some(at) = self.wire(None, link) {
            self.wires[at].up.bytes.extend(bytes);
        }
    }

    /// Bytes for a device, on the link of it that was opened as the `nth`.
    pub(super) fn tell(&mut self, device: usize, nth: usize, bytes: &[u8]) {
        let mut wires: Vec<_> =
            self.wires.iter_mut().filter(|wire| wire.device == Some(device)).collect();
        let count = wires.len().max(1);
        if let Some(wire) = wires.get_mut(nth % count) {
            wire.down.bytes.extend(bytes);
        }
    }

    /// What the server has sent on a link of the fuzzer's.
    pub(super) fn heard(&mut self, link: LinkId) -> Vec<Frame> {
        let Some(at) = self.wire(None, link) else { return Vec::new() };
        let pipe = &mut self.wires[at].down;
        let bytes: Vec<u8> = pipe.bytes.drain(..).collect();
        let (mut left, decoder) = (bytes.as_slice(), &mut pipe.decoder);
        let frames = core::iter::from_fn(|| decoder.next(&mut left).expect("a server's frames"));
        frames.collect()
    }

    pub(super) fn hang_up(&mut self, link: LinkId, whole: bool) {
        let Some(at) = self.wire(None, link) else { return };
        let conn = self.wires[at].conn;
        if whole {
            self.wires.retain(|wire| wire.conn != conn);
            self.to_server(Input::Disconnected(conn, Gone::Lost("cut".into())));
        } else {
            self.wires.remove(at);
            self.to_server(Input::Closed(link, Gone::Finished));
        }
    }

    // ---- wires --------------------------------------------------------------------------------

    /// A link by the name that a device has for it, or (`None`) the server.
    fn wire(&self, whose: Option<usize>, link: LinkId) -> Option<usize> {
        self.wires.iter().position(|wire| match whose {
            Some(device) => wire.device == Some(device) && wire.at_device == link,
            None => wire.at_server == link,
        })
    }

    fn send(&mut self, from: Option<usize>, link: LinkId, bytes: &[u8], fin: bool) {
        let up = from.is_some();
        let Some(at) = self.wire(from, link) else { return };
        let wire = &mut self.wires[at];
        let (device, at_device, at_server) = (wire.device, wire.at_device, wire.at_server);
        let pipe = if up { &mut wire.up } else { &mut wire.down };
        pipe.fin |= fin;
        match (&mut self.tap, device) {
            (Some(tap), Some(device)) => {
                let (mut left, mut told) = (bytes, Vec::new());
                while let Some(frame) = pipe.decoder.next(&mut left).expect("machines send frames")
                {
                    tap(device, up, frame, &mut told);
                }
                pipe.bytes.extend(told);
            }
            _ => pipe.bytes.extend(bytes),
        }
        // Whoever sent it may send as much again: nobody is slow here.
        match from {
            Some(device) => self.to_device(device, Input::Writable(at_device, bytes.len())),
            None => self.to_server(Input::Writable(at_server, bytes.len())),
        }
    }

    fn run_wires(&mut self) -> bool {
        let links: Vec<_> = self.wires.iter().map(|wire| wire.at_server).collect();
        let mut busy = false;
        for link in links {
            busy |= self.carry(link, true);
            busy |= self.carry(link, false);
        }
        busy
    }

    fn carry(&mut self, link: LinkId, up: bool) -> bool {
        let Some(at) = self.wire(None, link) else { return false };
        let wire = &mut self.wires[at];
        if !up && wire.device.is_none() {
            return false;
        }
        let (device, at_device) = (wire.device, wire.at_device);
        let pipe = if up { &mut wire.up } else { &mut wire.down };
        if !pipe.wanted {
            return false;
        }
        if pipe.bytes.is_empty() {
            let ends = pipe.fin && !core::mem::replace(&mut pipe.told, pipe.fin);
            match device {
                _ if !ends => {}
                _ if up => self.to_server(Input::Closed(link, Gone::Finished)),
                Some(device) => self.to_device(device, Input::Closed(at_device, Gone::Finished)),
                None => {}
            }
            return ends;
        }
        pipe.wanted = false;
        let len = pipe.bytes.len().min(READ_CHUNK);
        let bytes: Vec<u8> = pipe.bytes.drain(..len).collect();
        match device {
            _ if up => self.to_server(Input::Bytes(link, &bytes)),
            Some(device) => self.to_device(device, Input::Bytes(at_device, &bytes)),
            None => {}
        }
        true
    }
}
