//! Connections and links: what is known of each, how they come and go, and when their next bytes are asked for.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Server;
use super::push::Subscription;
use super::sessions::PendingLogin;
use super::timers::{Timer, TimerKey};
use crate::error::{CloseCode, ErrorCode, Fatal, PeerFault};
use crate::id::{ChannelId, Sender};
use crate::io::{BindingKind, ConnId, Gone, LinkId, LinkRole, Links, Output, Transport};
use crate::limits;
use crate::server::audit::AuditKind;
use crate::wire::frame::Decoder;
use crate::wire::message::{Body, Frame, Push, Username};

/// Longest frame in bytes from somebody without a session: the largest such call registers a device.
const STRANGER_BYTES: usize = 4 * 1024;

/// Calls that somebody without a session may have in flight.
const STRANGER_CALLS: usize = 16;

/// Bytes that may wait on a link to be read by somebody without a session: whoever logs in reads.
const STRANGER_BACKLOG_BYTES: usize = 16 * 1024;

/// Time between the last byte handed to the transport and an orderly close.
const CLOSE_AFTER: Duration = Duration::from_millis(100);

/// One call in flight: where its reply goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Call {
    pub(super) conn: ConnId,
    pub(super) link: LinkId,
    pub(super) id: u32,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Auth {
    /// Nobody known.
    None,
    /// A login went through on this connection; its device may register itself.
    Login(Peer),
    /// A proven session.
    Session(Peer),
}

/// A device that has proved its key on this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) sender: Sender,
    pub(super) device_key: [u8; 32],
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) transport: Transport,
    pub(super) links: BTreeSet<LinkId>,
    /// Where pushes go, once the client has opened it.
    pub(super) push_link: Option<LinkId>,
    pub(super) in_flight: usize,
    /// Drawn at the first `Hello`, kept for the connection's life.
    pub(super) nonce: Option<[u8; 32]>,
    pub(super) auth: Auth,
    pub(super) login: Option<PendingLogin>,
    /// The name whose registration was admitted and begun.
    pub(super) registering: Option<Username>,
    pub(super) handshake: Option<TimerKey>,
    pub(super) subscriptions: BTreeMap<ChannelId, Subscription>,
    /// Subscriptions that may have something to push, in turn.
    pub(super) due: VecDeque<ChannelId>,
    /// Reads for pushes under way.
    pub(super) fetches: usize,
    /// `KeyPackagesLow` to push: the newest number only.
    pub(super) low: Option<u32>,
    pub(super) closing: bool,
}

/// A link.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) conn: ConnId,
    pub(super) role: Option<LinkRole>,
    decoder: Decoder,
    /// `Read` is listed or out, and not yet answered.
    reading: bool,
    /// `Read` is out.
    asked: bool,
    /// Frames wait in the decoder until a limit lets them pass.
    stalled: bool,
    /// Listed in `Server::stalled`.
    pub(super) waiting: bool,
    /// The other side finished sending.
    finished: bool,
    /// Bytes in the decoder when they were last counted.
    pub(super) gathered: usize,
    /// Calls in flight and the bytes each may hold here.
    pub(super) calls: BTreeMap<u32, usize>,
    pub(super) held: usize,
    /// Encoded frames; `out[sent..]` is still to be sent.
    pub(super) out: Vec<u8>,
    pub(super) sent: usize,
    pub(super) credit: usize,
    /// Listed in `Server::ready`.
    pub(super) queued: bool,
}

impl Link {
    fn new(conn: ConnId) -> Self {
        Self {
            conn,
            role: None,
            decoder: Decoder::new(),
            reading: false,
            asked: false,
            stalled: false,
            waiting: false,
            finished: false,
            gathered: 0,
            calls: BTreeMap::new(),
            held: 0,
            out: Vec::new(),
            sent: 0,
            credit: 0,
            queued: false,
        }
    }

    #[cfg(test)]
    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Counts what waits in the decoder.
    pub(super) fn count_gathered(&mut self) {
        self.gathered = self.decoder.held();
    }

    /// Drops what waits in the decoder: the connection is over.
    pub(super) fn drop_gathered(&mut self) {
        self.decoder = Decoder::new();
        self.gathered = 0;
    }

    /// Bytes held by calls in flight, and waiting for credit.
    pub(super) fn load(&self) -> usize {
        self.held + self.backlog()
    }

    /// Bytes waiting for credit.
    pub(super) fn backlog(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Whether the last byte that this link will ever carry from here can go.
    pub(super) fn is_over(&self) -> bool {
        // Who only listens to pushes may well have nothing to say on their link.
        let listens = self.role == Some(LinkRole::Pushes);
        self.finished && !listens && self.calls.is_empty() && self.backlog() == 0 && !self.stalled
    }
}

impl Server {
    pub(super) fn connected(&mut self, conn: ConnId, transport: Transport) -> Result<(), Fatal> {
        if self.conns.contains_key(&conn) {
            return Err(Fatal::Misuse("connection id used twice"));
        }
        let refused = if self.draining {
            Some(CloseCode::SHUTDOWN)
        } else if self.conns.len() >= self.config.connections {
            self.audit(AuditKind::Limit, None, None, Some(ErrorCode::Busy));
            Some(CloseCode::FULL)
        } else if transport.binding.kind == BindingKind::InsecurePlain
            && !self.config.insecure_plain
        {
            self.audit(AuditKind::PeerFault, None, None, Some(ErrorCode::Unsupported));
            Some(CloseCode::UNEXPECTED)
        } else {
            None
        };
        if let Some(code) = refused {
            self.out.push_back(Output::CloseConn(conn, code));
            return Ok(());
        }
        let deadline = self.now.mono + limits::HANDSHAKE_TIME;
        let handshake = Some(self.timers.set(deadline, Timer::Handshake(conn)));
        let connection = Connection {
            transport,
            links: BTreeSet::new(),
            push_link: None,
            in_flight: 0,
            nonce: None,
            auth: Auth::None,
            login: None,
            registering: None,
            handshake,
            subscriptions: BTreeMap::new(),
            due: VecDeque::new(),
            fetches: 0,
            low: None,
            closing: false,
        };
        self.conns.insert(conn, connection);
        Ok(())
    }

    pub(super) fn accepted(&mut self, conn: ConnId, link: LinkId) -> Result<(), Fatal> {
        if self.links.contains_key(&link) {
            return Err(Fatal::Misuse("link id used twice"));
        }
        // A connection that this machine has just closed may still have had links on their way in.
        let Some(connection) = self.conns.get_mut(&conn) else { return Ok(()) };
        if connection.closing {
            return Ok(());
        }
        let most = match connection.transport.links {
            Links::One => 1,
            Links::Many => limits::LINKS_PER_CONNECTION,
        };
        if connection.links.len() >= most {
            self.fault(conn, PeerFault::OverLimit("links"));
            return Ok(());
        }
        connection.links.insert(link);
        self.links.insert(link, Link::new(conn));
        self.pump.push_back(link);
        Ok(())
    }

    pub(super) fn bytes(&mut self, id: LinkId, bytes: &[u8]) -> Result<(), Fatal> {
        if bytes.len() > limits::READ_CHUNK {
            return Err(Fatal::Misuse("more bytes than READ_CHUNK at once"));
        }
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        if !core::mem::take(&mut link.asked) {
            return Err(Fatal::Misuse("bytes delivered unasked"));
        }
        link.reading = false;
        let conn = link.conn;
        if self.conns.get(&conn).is_none_or(|connection| connection.closing) {
            return Ok(());
        }
        self.pump_link(id, bytes);
        Ok(())
    }

    /// Takes frames that have arrived on a link as long as all limits allow, then asks for more bytes. `input` is
    /// what has just come; a frame that lies whole in it is read in place.
    pub(super) fn pump_link(&mut self, id: LinkId, mut input: &[u8]) {
        loop {
            let Some(link) = self.links.get_mut(&id) else { return };
            let Some(connection) = self.conns.get(&link.conn) else { return };
            if connection.closing || self.draining {
                return;
            }
            let conn = link.conn;
            // Nothing that is allowed before a session is proven needs more.
            let (calls, bytes, backlog) = match connection.auth {
                Auth::None | Auth::Login(_) => {
                    (STRANGER_CALLS, STRANGER_BYTES, STRANGER_BACKLOG_BYTES)
                }
                Auth::Session(_) => {
                    (limits::CALLS_IN_FLIGHT, limits::FRAME_BYTES, limits::LINK_BACKLOG_BYTES)
                }
            };
            let (in_flight, load) = (connection.in_flight, link.load());
            // What is small goes on beside what is large.
            let crowded =
                load > limits::READ_CHUNK && self.load(conn) >= limits::CONNECTION_BACKLOG_BYTES;
            let full = in_flight >= calls || load >= backlog || crowded;
            let Some(link) = self.links.get_mut(&id) else { return };
            let stalled = full || self.ops.len() >= limits::STORE_OPS;
            if stalled {
                link.decoder.push(input);
                link.stalled = true;
                if !full && !core::mem::replace(&mut link.waiting, true) {
                    self.stalled.push_back(id);
                }
                self.count_gathered(conn, id);
                return;
            }
            link.stalled = false;
            link.decoder.limit(bytes);
            match link.decoder.next(&mut input) {
                Ok(Some(frame)) => self.frame(conn, id, frame),
                Ok(None) => {
                    let may_read = self.count_gathered(conn, id);
                    let Some(link) = self.links.get_mut(&id) else { return };
                    link.stalled = !may_read && !link.finished;
                    if link.stalled {
                        return;
                    }
                    if !link.finished && !link.reading {
                        link.reading = true;
                        self.out.push_back(Output::Read(id));
                    }
                    return self.finish_link(id);
                }
                Err(fault) => return self.fault(conn, fault),
            }
        }
    }

    /// Bytes that a connection's links hold.
    fn load(&self, conn: ConnId) -> usize {
        let links = self.conns.get(&conn).map(|connection| &connection.links);
        links.into_iter().flatten().filter_map(|link| self.links.get(link)).map(Link::load).sum()
    }

    /// The runtime has been asked for a link's next bytes.
    pub(super) fn asked(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.asked = true;
        }
    }

    /// Something that held links of this connection back has changed.
    pub(super) fn unstall(&mut self, conn: ConnId) {
        let Some(connection) = self.conns.get(&conn) else { return };
        for link in &connection.links {
            if self.links.get(link).is_some_and(|link| link.stalled) {
                self.pump.push_back(*link);
            }
        }
    }

    /// Sends the end of a link whose other direction has ended, once nothing is left to say on it.
    pub(super) fn finish_link(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.is_over() && !link.queued {
            link.queued = true;
            self.ready.push_back(id);
        }
    }

    pub(super) fn closed(&mut self, id: LinkId, why: &Gone) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let conn = link.conn;
        (link.reading, link.asked) = (false, false);
        let one = self.conns.get(&conn).is_some_and(|c| c.transport.links == Links::One);
        match why {
            Gone::Finished if !link.finished => {
                link.finished = true;
                self.finish_link(id);
            }
            Gone::Finished => {}
            _ if one => self.begin_close(conn, CloseCode::DONE),
            _ => self.drop_link(id),
        }
    }

    pub(super) fn writable(&mut self, id: LinkId, credit: usize) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.credit = link.credit.saturating_add(credit);
        self.make_ready(id);
    }

    /// Lists a link for the next poll round.
    pub(super) fn make_ready(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.credit > 0 && !link.queued {
            link.queued = true;
            self.ready.push_back(id);
        }
    }

    /// Queues an encoded frame on a link.
    pub(super) fn write(&mut self, id: LinkId, frame: &Frame) {
        let Some(link) = self.links.get_mut(&id) else { return };
        crate::wire::frame::encode(frame, &mut link.out);
        self.make_ready(id);
    }

    /// Sends what credit allows on a link, pushes included.
    pub(super) fn send(&mut self, id: LinkId, buffer: &mut Vec<u8>) -> Option<Output> {
        self.links.get_mut(&id)?.queued = false;
        self.pull(id);
        let link = self.links.get_mut(&id)?;
        let conn = link.conn;
        let len = link.backlog().min(link.credit);
        buffer.extend_from_slice(&link.out[link.sent..link.sent + len]);
        link.sent += len;
        link.credit -= len;
        if link.sent == link.out.len() {
            link.sent = 0;
            link.out.clear();
            // An idle connection keeps no more than a small buffer.
            link.out.shrink_to(4 * 1024);
        } else if link.sent > limits::READ_CHUNK && link.sent * 2 > link.out.len() {
            link.out.drain(..link.sent);
            link.sent = 0;
        }
        let fin = link.is_over();
        if len > 0 {
            self.unstall(conn);
            self.pump_all();
        }
        if fin {
            let one = self.conns.get(&conn).is_some_and(|c| c.transport.links == Links::One);
            self.drop_link(id);
            if one {
                self.close_soon(conn, CloseCode::DONE);
            }
        }
        self.close_if_drained(conn);
        (len > 0 || fin).then_some(Output::Send { link: id, len, fin })
    }

    /// The peer broke a rule: its connection closes with the fault's code.
    pub(super) fn fault(&mut self, conn: ConnId, fault: PeerFault) {
        let kind = match fault {
            PeerFault::OverLimit(_) => AuditKind::Limit,
            _ => AuditKind::PeerFault,
        };
        self.audit(kind, Some(conn), None, Some(ErrorCode::BadRequest));
        self.begin_close(conn, fault.code());
    }

    /// Closes a connection after this poll round's sends. Nothing more is read from it.
    pub(super) fn begin_close(&mut self, conn: ConnId, code: CloseCode) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        if !core::mem::replace(&mut connection.closing, true) {
            self.closing.push_back((conn, code));
        }
    }

    /// Closes a connection once the transport has had the time to deliver what it was given: closing may drop what
    /// is on its way. Nothing more is read from it.
    pub(super) fn close_soon(&mut self, conn: ConnId, code: CloseCode) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        if !core::mem::replace(&mut connection.closing, true) {
            self.timers.set(self.now.mono + CLOSE_AFTER, Timer::Close(conn, code));
        }
    }

    /// Ends the sessions of a device on other connections than `but`.
    pub(super) fn end_sessions(&mut self, sender: Sender, but: Option<ConnId>) {
        let Some(conns) = self.sessions.get(&sender) else { return };
        let ended: Vec<_> = conns.iter().copied().filter(|conn| Some(*conn) != but).collect();
        for conn in ended {
            self.push_now(conn, Push::SessionEnded);
            self.close_soon(conn, CloseCode::SESSION_ENDED);
        }
    }

    /// Queues a push that does not wait for its turn. At most one of each kind per connection.
    pub(super) fn push_now(&mut self, conn: ConnId, push: Push) {
        if let Some(link) = self.conns.get(&conn).and_then(|connection| connection.push_link) {
            self.write(link, &Frame { call: 0, body: Body::Push(push) });
        }
    }

    /// Forgets a connection and all that hangs on it.
    pub(super) fn drop_conn(&mut self, conn: ConnId) {
        self.leave_session(conn);
        let Some(connection) = self.conns.remove(&conn) else { return };
        if let Some(timer) = connection.handshake {
            self.timers.cancel(timer);
        }
        for channel in connection.subscriptions.keys() {
            self.unwatch(*channel, conn);
        }
        for link in &connection.links {
            if let Some(link) = self.links.remove(link) {
                self.gathered -= link.gathered;
            }
        }
        for call in self.polls_of(conn) {
            self.end_poll(call);
        }
    }

    fn drop_link(&mut self, id: LinkId) {
        let Some(link) = self.links.remove(&id) else { return };
        self.gathered -= link.gathered;
        for call in link.calls.keys() {
            self.end_poll(Call { conn: link.conn, link: id, id: *call });
        }
        if let Some(connection) = self.conns.get_mut(&link.conn) {
            connection.links.remove(&id);
            connection.in_flight -= link.calls.len();
            if connection.push_link == Some(id) {
                connection.push_link = None;
                // What was on its way is lost: the client subscribes again from where it is.
                self.end_subscriptions(link.conn);
            }
            self.unstall(link.conn);
        }
    }

    /// The session of a connection ends; the connection stays.
    pub(super) fn leave_session(&mut self, conn: ConnId) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        if let Auth::Session(peer) = core::mem::replace(&mut connection.auth, Auth::None)
            && let Some(conns) = self.sessions.get_mut(&peer.sender)
        {
            conns.remove(&conn);
            if conns.is_empty() {
                self.sessions.remove(&peer.sender);
            }
        }
    }

    /// While draining: closes a connection that has nothing left to finish.
    pub(super) fn close_if_drained(&mut self, conn: ConnId) {
        if !self.draining {
            return;
        }
        let Some(connection) = self.conns.get(&conn) else { return };
        let unsent = connection
            .links
            .iter()
            .filter_map(|link| self.links.get(link))
            .any(|l| l.backlog() > 0);
        if connection.in_flight == 0 && !unsent {
            self.close_soon(conn, CloseCode::SHUTDOWN);
        }
    }
}
