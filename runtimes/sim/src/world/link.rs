//! One link: an ordered byte stream each way, cut anywhere, and the credit for it.

use std::collections::VecDeque;
use std::time::Duration;

use qpc_protocol::error::CloseCode;
use qpc_protocol::io::{Gone, Input, LinkId};
use qpc_protocol::limits::READ_CHUNK;
use qpc_protocol::wire::frame::Decoder;

use super::network::{Connection, InFlight, Side};
use super::{Idle, World, earliest};

/// Something on its way along a link.
#[derive(Debug)]
pub(super) enum Packet {
    Open,
    Data { bytes: Vec<u8>, fin: bool },
    Reset(CloseCode),
}

/// One direction of a link.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    late: InFlight<Packet>,
    /// What has arrived and was not read.
    pub(super) bytes: VecDeque<u8>,
    fin: bool,
    fin_told: bool,
    /// The receiver asked for bytes.
    wanted: bool,
    /// Of a link with a liar on it: frames are read off `bytes`, what replaces them waits in `told`.
    pub(super) decoder: Decoder,
    pub(super) told: VecDeque<u8>,
    /// What is held back, and until when.
    pub(super) held: Vec<(Duration, Vec<u8>)>,
}

impl Pipe {
    pub(super) fn send(&mut self, at: Duration, packet: Packet) {
        self.late.put(at, packet);
    }

    pub(super) fn want(&mut self) {
        self.wanted = true;
    }
}

/// A link between a device and the server.
#[derive(Debug)]
pub(super) struct Wire {
    at_device: LinkId,
    at_server: LinkId,
    /// Whether each end takes it for open.
    open: [bool; 2],
    /// It ended in the middle of something.
    pub(super) torn: bool,
    pub(super) up: Pipe,
    pub(super) down: Pipe,
}

impl Wire {
    pub(super) fn new(at_device: LinkId, at_server: LinkId) -> Self {
        let (up, down) = (Pipe::default(), Pipe::default());
        Self { at_device, at_server, open: [true, false], torn: false, up, down }
    }

    pub(super) fn id(&self, side: Side) -> LinkId {
        match side {
            Side::Device => self.at_device,
            Side::Server => self.at_server,
        }
    }

    pub(super) fn is_open(&self, side: Side) -> bool {
        self.open[side as usize]
    }

    /// Whether anything can still happen on it.
    pub(super) fn is_needed(&self) -> bool {
        let over = self.up.fin_told && self.down.fin_told;
        let coming = self.up.late.next().or(self.down.late.next()).is_some();
        (self.open.contains(&true) || coming) && !over
    }

    pub(super) fn pipe(&mut self, up: bool) -> &mut Pipe {
        if up { &mut self.up } else { &mut self.down }
    }

    /// An end closes it: what was sent to it is of no use any more, the other end is going to hear.
    pub(super) fn close(&mut self, side: Side, at: Duration, code: CloseCode) {
        self.open[side as usize] = false;
        let up = side == Side::Device;
        *self.pipe(!up) = Pipe::default();
        self.pipe(up).send(at, Packet::Reset(code));
    }
}

impl World {
    pub(super) fn run_wire(&mut self, conn: &Connection, wire: &mut Wire) -> Idle {
        let mut idle = Idle::default();
        for up in [true, false] {
            idle.and(self.arrive(conn, wire, up));
            idle.worked |= self.carry(conn, wire, up);
        }
        idle
    }

    fn tell(&mut self, conn: &Connection, wire: &Wire, side: Side, input: Input<'_>) {
        if wire.is_open(side) && conn.is_open(side) {
            match side {
                Side::Device => self.to_device(conn.device, input),
                Side::Server => self.in_history(conn.forked, |world| world.to_server(input)),
            }
        }
    }

    fn arrive(&mut self, conn: &Connection, wire: &mut Wire, up: bool) -> Idle {
        let mut idle = Idle::default();
        let (now, receiver) = (self.now.mono, Side::receiver(up));
        while let Some(packet) = wire.pipe(up).late.take(now) {
            idle.worked = true;
            match packet {
                Packet::Open => {
                    wire.open[Side::Server as usize] = true;
                    let credit = self.devices[conn.device].credit;
                    let link = wire.at_server;
                    self.tell(conn, wire, receiver, Input::Accepted(conn.at_server, link));
                    self.tell(conn, wire, receiver, Input::Writable(link, credit));
                }
                Packet::Data { bytes, fin } => {
                    let pipe = wire.pipe(up);
                    pipe.bytes.extend(bytes);
                    pipe.fin |= fin;
                }
                Packet::Reset(code) => {
                    let closed = Input::Closed(wire.id(receiver), Gone::Closed(code));
                    self.tell(conn, wire, receiver, closed);
                    wire.open = [false, false];
                }
            }
        }
        let pipe = wire.pipe(up);
        let held = pipe.held.iter().map(|(at, _)| *at).filter(|at| *at > now).min();
        idle.wake_at = earliest(pipe.late.next(), held);
        idle
    }

    /// Hands over what has arrived, if it is asked for.
    fn carry(&mut self, conn: &Connection, wire: &mut Wire, up: bool) -> bool {
        let receiver = Side::receiver(up);
        let sender = Side::receiver(!up);
        if !wire.is_open(receiver) || !conn.is_open(receiver) {
            return false;
        }
        let lied = self.lie(conn.device, wire.pipe(up), up);
        if let Some(taken) = lied {
            self.tell(conn, wire, sender, Input::Writable(wire.id(sender), taken));
        }
        let pipe = wire.pipe(up);
        if !pipe.wanted {
            return false;
        }
        let from = if lied.is_some() { &mut pipe.told } else { &mut pipe.bytes };
        if from.is_empty() {
            if pipe.bytes.is_empty() && pipe.fin && !pipe.fin_told {
                pipe.fin_told = true;
                let closed = Input::Closed(wire.id(receiver), Gone::Finished);
                self.tell(conn, wire, receiver, closed);
                return true;
            }
            return false;
        }
        pipe.wanted = false;
        let most = if self.rules.split { 1 + self.rng.u64() as usize % 700 } else { READ_CHUNK };
        let mut len = from.len().min(most);
        let ends = &mut self.devices[conn.device].ends_in[usize::from(up)];
        let torn = ends.take_if(|left| *left <= len);
        *ends = ends.map(|left| left - len);
        len = torn.unwrap_or(len);
        let mut bytes: Vec<u8> = from.drain(..len).collect();
        if let Some(garbler) = &mut self.garbler {
            garbler(conn.device, up, &mut bytes);
        }
        self.tell(conn, wire, receiver, Input::Bytes(wire.id(receiver), &bytes));
        if lied.is_none() {
            self.tell(conn, wire, sender, Input::Writable(wire.id(sender), len));
        }
        if torn.is_some() {
            self.tear(conn, wire);
        }
        true
    }

    /// A link ends where it is: both ends are told.
    fn tear(&mut self, conn: &Connection, wire: &mut Wire) {
        for side in [Side::Server, Side::Device] {
            let gone = Gone::Lost("the link broke".into());
            self.tell(conn, wire, side, Input::Closed(wire.id(side), gone));
        }
        (wire.open, wire.torn) = ([false, false], true);
        (wire.up, wire.down) = (Pipe::default(), Pipe::default());
    }
}
