//! The network: connections between devices and the server, and all that happens to them.

use std::collections::VecDeque;
use std::time::Duration;

use qpc_protocol::error::CloseCode;
use qpc_protocol::io::{Binding, BindingKind, ConnId, Gone, Input, LinkId, Links, Transport};

use super::link::{Packet, Wire};
use super::{Idle, SERVER, Seen, World, earliest};

/// How long an attempt to connect goes without an answer before the transport gives it up.
pub const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long an end takes to find out by itself that nothing comes any more. Above the time in which a machine that
/// asks whether the other is there would know.
pub const SILENCE: Duration = Duration::from_secs(90);

/// An end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's machine.
    Device,
    /// The server's machine.
    Server,
}

impl Side {
    /// Whoever receives what is sent that way.
    pub(super) fn receiver(up: bool) -> Self {
        if up { Self::Server } else { Self::Device }
    }
}

/// An end that is going to be told that a connection is gone.
#[derive(Debug)]
struct Notice {
    at: Duration,
    why: Gone,
    /// It comes from the other end, so it does not pass where nothing does.
    crosses: bool,
}

/// A connection, as long as an end of it takes it for one.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) device: usize,
    at_device: ConnId,
    pub(super) at_server: ConnId,
    /// When an attempt was begun, and when it is answered.
    attempt: Option<(Duration, Duration)>,
    /// How many links it has; known once it is open.
    links: Links,
    /// Which history it leads to.
    pub(super) forked: bool,
    /// Whether each end takes it for open.
    open: [bool; 2],
    notices: [Option<Notice>; 2],
    /// Nothing passes, ever again.
    pub(super) broken: bool,
    pub(super) wires: Vec<Wire>,
}

impl Connection {
    pub(super) fn is_open(&self, side: Side) -> bool {
        self.open[side as usize]
    }

    fn is_at(&self, device: usize, conn: ConnId) -> bool {
        self.device == device && self.at_device == conn && self.is_open(Side::Device)
    }

    fn is_needed(&self) -> bool {
        self.open.contains(&true)
    }
}

impl World {
    /// The network between a device and the server breaks: both are told at once.
    pub fn cut(&mut self, device: usize) {
        self.lose(device, None);
    }

    /// The same, but one end does not notice for [`SILENCE`].
    pub fn half_open(&mut self, device: usize, blind: Side) {
        self.lose(device, Some(blind));
    }

    fn lose(&mut self, device: usize, blind: Option<Side>) {
        let at = self.now.mono + SILENCE;
        let mut conns = core::mem::take(&mut self.conns);
        for conn in conns.iter_mut().filter(|conn| conn.device == device) {
            conn.broken = true;
            for side in [Side::Server, Side::Device] {
                let why = Gone::Lost("the network broke".into());
                if blind == Some(side) && conn.attempt.is_none() {
                    let notice = Notice { at, why, crosses: false };
                    conn.notices[side as usize].get_or_insert(notice);
                } else {
                    self.tell_gone(conn, side, why);
                }
            }
        }
        conns.retain(Connection::is_needed);
        self.conns = conns;
    }

    /// From now on nothing passes between a device and the server, and nobody is told: what is sent waits. Who waits
    /// for longer than [`SILENCE`] finds its connection gone.
    pub fn part(&mut self, device: usize) {
        let now = self.now.mono;
        self.devices[device].parted.get_or_insert(now);
    }

    /// What waited between a device and the server arrives; whether they were parted.
    pub fn heal(&mut self, device: usize) -> bool {
        self.devices[device].parted.take().is_some()
    }

    /// The same between the server and everybody, for so long.
    pub fn part_server(&mut self, span: Duration) {
        let now = self.now.mono;
        let since = self.island.map_or(now, |(since, _)| since);
        self.island = Some((since, now + span));
    }

    /// What waited since then arrives; whether anything was parted.
    pub fn heal_server(&mut self) -> bool {
        self.island.take().is_some()
    }

    /// Since when nothing passes between a device and the server.
    fn parted(&self, device: usize) -> Option<Duration> {
        earliest(self.devices[device].parted, self.island.map(|(since, _)| since))
    }

    fn tell_gone(&mut self, conn: &mut Connection, side: Side, why: Gone) {
        conn.notices[side as usize] = None;
        // An attempt has one end.
        let told = core::mem::take(&mut conn.open[side as usize]);
        match side {
            Side::Device if told => {
                self.to_device(conn.device, Input::Disconnected(conn.at_device, why));
            }
            Side::Server if told => self.in_history(conn.forked, |world| {
                world.to_server(Input::Disconnected(conn.at_server, why));
            }),
            _ => {}
        }
    }

    /// What the server's machine calls the connection of a device, if it takes it for open.
    pub fn conn_at_server(&self, device: usize) -> Option<ConnId> {
        let is = |conn: &&Connection| conn.device == device && conn.is_open(Side::Server);
        self.conns.iter().find(is).map(|conn| conn.at_server)
    }

    // ---- what machines ask for ------------------------------------------------------------------

    pub(super) fn connect(&mut self, device: usize, conn: ConnId) {
        let now = self.now.mono;
        let answered = now + self.lag(device) + self.lag(device);
        let at_server = ConnId(self.next_id());
        self.conns.push(Connection {
            device,
            at_device: conn,
            at_server,
            attempt: Some((now, answered)),
            links: self.devices[device].links,
            forked: false,
            open: [true, false],
            notices: [None, None],
            broken: false,
            wires: Vec::new(),
        });
    }

    pub(super) fn open(&mut self, device: usize, conn: ConnId, link: LinkId) {
        let at_server = LinkId(self.next_id());
        self.watched(&Seen::Opened(device, link, at_server));
        let at = self.now.mono + self.lag(device);
        let credit = self.devices[device].credit;
        let Some(conn) = self.conns.iter_mut().find(|other| other.is_at(device, conn)) else {
            return;
        };
        let mut wire = Wire::new(link, at_server);
        wire.up.send(at, Packet::Open);
        conn.wires.push(wire);
        self.to_device(device, Input::Writable(link, credit));
    }

    pub(super) fn close_conn(&mut self, side: Side, id: ConnId, device: usize, code: CloseCode) {
        let found = self.conns.iter().position(|conn| match side {
            Side::Device => conn.is_at(device, id),
            Side::Server => conn.at_server == id && conn.is_open(side),
        });
        let Some(at) = found else { return };
        let arrives = self.now.mono + self.lag(self.conns[at].device);
        let conn = &mut self.conns[at];
        conn.open[side as usize] = false;
        conn.notices[side as usize] = None;
        let other = 1 - side as usize;
        if conn.open[other] && !conn.broken {
            let why = Gone::Closed(code);
            conn.notices[other] = Some(Notice { at: arrives, why, crosses: true });
        } else if !conn.is_needed() {
            self.conns.remove(at);
        }
    }

    /// The link that a machine knows by that id, and when what is sent on it now arrives.
    pub(super) fn wire(&mut self, who: usize, link: LinkId) -> Option<(&mut Wire, Duration)> {
        let side = if who == SERVER { Side::Server } else { Side::Device };
        let is = |wire: &Wire| wire.id(side) == link && wire.is_open(side);
        // Each client draws its own ids.
        let is_on =
            |conn: &Connection| (who == SERVER || conn.device == who) && conn.wires.iter().any(is);
        let at = self.conns.iter().position(is_on)?;
        let arrives = self.now.mono + self.lag(self.conns[at].device);
        let wire = self.conns[at].wires.iter_mut().find(|wire| is(wire))?;
        Some((wire, arrives))
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// How long what is sent now is under way.
    fn lag(&mut self, device: usize) -> Duration {
        let (latency, jitter) = (self.devices[device].latency, self.devices[device].jitter);
        let most = u64::try_from(jitter.as_micros()).unwrap_or(u64::MAX);
        let more = if most == 0 { 0 } else { self.rng.u64() % (most + 1) };
        latency + Duration::from_micros(more)
    }

    // ---- what happens by itself -----------------------------------------------------------------

    pub(super) fn run_network(&mut self) -> Idle {
        self.island = self.island.filter(|(_, until)| *until > self.now.mono);
        let mut idle = Idle { worked: false, wake_at: self.island.map(|(_, until)| until) };
        let mut conns = core::mem::take(&mut self.conns);
        for conn in &mut conns {
            idle.and(self.run_connection(conn));
        }
        conns.retain(Connection::is_needed);
        self.conns = conns;
        idle
    }

    fn run_connection(&mut self, conn: &mut Connection) -> Idle {
        if let Some((begun, answered)) = conn.attempt {
            return self.run_attempt(conn, begun, answered);
        }
        let parted = self.parted(conn.device);
        let mut idle = Idle::default();
        if let Some(since) = parted.filter(|_| !conn.broken) {
            let end = since + SILENCE;
            if end <= self.now.mono {
                conn.broken = true;
                for side in [Side::Server, Side::Device] {
                    self.tell_gone(conn, side, Gone::Lost("nothing came".into()));
                }
                return Idle { worked: true, wake_at: None };
            }
            idle.wake_at = Some(end);
        }
        if !conn.broken && parted.is_none() {
            let mut wires = core::mem::take(&mut conn.wires);
            for wire in &mut wires {
                idle.and(self.run_wire(conn, wire));
            }
            let torn = wires.iter().any(|wire| wire.torn);
            wires.retain(Wire::is_needed);
            conn.wires = wires;
            if torn && conn.links == Links::One {
                conn.broken = true;
                for side in [Side::Server, Side::Device] {
                    self.tell_gone(conn, side, Gone::Lost("its link broke".into()));
                }
            }
        }
        // What was sent before a close arrives before it.
        if !idle.worked {
            for side in [Side::Server, Side::Device] {
                idle.and(self.run_notice(conn, side, parted.is_some()));
            }
        }
        idle
    }

    fn run_notice(&mut self, conn: &mut Connection, side: Side, parted: bool) -> Idle {
        let now = self.now.mono;
        let notice = &mut conn.notices[side as usize];
        match notice.take_if(|notice| notice.at <= now && !(parted && notice.crosses)) {
            Some(notice) => {
                self.tell_gone(conn, side, notice.why);
                Idle { worked: true, wake_at: None }
            }
            None => {
                let waits = notice.as_ref().filter(|notice| notice.at > now);
                Idle { worked: false, wake_at: waits.map(|notice| notice.at) }
            }
        }
    }

    fn run_attempt(&mut self, conn: &mut Connection, begun: Duration, answered: Duration) -> Idle {
        let now = self.now.mono;
        let (device, end) = (conn.device, begun + CONNECT_TIME);
        let parted = self.parted(device).is_some();
        let due = if parted { end } else { answered.min(end) };
        if due > now {
            return Idle { worked: false, wake_at: Some(due) };
        }
        conn.attempt = None;
        conn.forked = self.devices[device].forked;
        let is_up = self.in_history(conn.forked, |world| world.server.is_some());
        let reached = is_up && self.devices[device].connect;
        if parted || answered > end || !reached {
            self.tell_gone(conn, Side::Device, Gone::Lost("nobody answers".into()));
            return Idle { worked: true, wake_at: None };
        }
        let binding = Binding { kind: BindingKind::TlsExporter, value: self.rng.array() };
        let peer = vec![127, 0, 0, device as u8];
        conn.links = self.devices[device].links;
        let transport = Transport { binding, peer, links: conn.links };
        conn.open[Side::Server as usize] = true;
        let (at_server, connected) = (conn.at_server, transport.clone());
        self.in_history(conn.forked, |world| {
            world.to_server(Input::Connected(at_server, connected));
        });
        self.to_device(device, Input::Connected(conn.at_device, transport));
        Idle { worked: true, wake_at: None }
    }
}

/// What is on its way: when it arrives, in order.
#[derive(Debug)]
pub(super) struct InFlight<T>(VecDeque<(Duration, T)>);

impl<T> Default for InFlight<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> InFlight<T> {
    /// Nothing overtakes what was put in before it.
    pub(super) fn put(&mut self, at: Duration, what: T) {
        let last = self.0.back().map_or(at, |(last, _)| *last);
        self.0.push_back((at.max(last), what));
    }

    pub(super) fn take(&mut self, now: Duration) -> Option<T> {
        let due = self.0.front().is_some_and(|(at, _)| *at <= now);
        if due { self.0.pop_front().map(|(_, what)| what) } else { None }
    }

    pub(super) fn next(&self) -> Option<Duration> {
        self.0.front().map(|(at, _)| *at)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What is under way, in order.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &T> + '_ {
        self.0.iter().map(|(_, what)| what)
    }

    /// All of it, in order.
    pub(super) fn drain(&mut self) -> impl ExactSizeIterator<Item = T> + '_ {
        self.0.drain(..).map(|(_, what)| what)
    }
}

impl Idle {
    /// Whatever either says.
    pub(super) fn and(&mut self, other: Self) {
        self.worked |= other.worked;
        self.wake_at = earliest(self.wake_at, other.wake_at);
    }
}
