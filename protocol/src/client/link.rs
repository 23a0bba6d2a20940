//! Connections and links: opening them, frames in, frames out within credit, and what a lost connection means.

use std::collections::BTreeMap;

use super::net::{Call, Connection, Link};
use super::session::Phase;
use super::{Client, Effect, Event};
use crate::client::event::Failed;
use crate::error::{CloseCode, PeerFault};
use crate::io::{BindingKind, ConnId, Gone, LinkId, LinkRole, Links, Output, Transport};
use crate::limits::HANDSHAKE_TIME;
use crate::wire::frame::{Decoder, encode};
use crate::wire::message::{Body, Frame, Request};

impl Client {
    // ---- connections --------------------------------------------------------------------------

    /// Connects at the next opportunity, without waiting for the backoff.
    pub(super) fn connect_soon(&mut self) {
        if self.net.conn.is_none() && !self.stopped {
            self.net.backoff.reset();
            self.net.connect_at = Some(self.now.mono);
        }
    }

    pub(super) fn connect_now(&mut self) {
        let id = ConnId(self.next_handle());
        self.net.connect_at = None;
        self.net.conn = Some(Connection {
            id,
            transport: None,
            calls_link: None,
            links: BTreeMap::new(),
            phase: Phase::Connecting,
            nonce: [0; 32],
            greeted: None,
            renew_at: None,
            refreshed: false,
            handshake_by: self.now.mono + HANDSHAKE_TIME,
            heard: self.now.mono,
            next_call: 1,
            calls: BTreeMap::new(),
        });
        self.out.push_back(Output::Connect(id, self.config.server.clone()));
    }

    pub(super) fn on_connected(&mut self, id: ConnId, transport: Transport) {
        if transport.binding.kind == BindingKind::InsecurePlain && !self.config.insecure_plain {
            return self
                .give_up("the transport is plain and plain transports are not allowed".into());
        }
        let Some(conn) = self.net.conn.as_mut().filter(|conn| conn.id == id) else { return };
        let role = match transport.links {
            Links::One => LinkRole::All,
            Links::Many => LinkRole::Calls,
        };
        conn.transport = Some(transport);
        conn.phase = Phase::Hello;
        conn.handshake_by = self.now.mono + HANDSHAKE_TIME;
        conn.heard = self.now.mono;
        let link = self.open(role);
        if let Some(conn) = &mut self.net.conn {
            conn.calls_link = link;
        }
        self.call(Call::Hello, Request::Hello);
    }

    pub(super) fn on_disconnected(&mut self, id: ConnId, gone: &Gone) {
        if self.net.conn.as_ref().is_none_or(|conn| conn.id != id) {
            return;
        }
        let why = match gone {
            Gone::Closed(CloseCode::SHUTDOWN) => "the server is shutting down".to_owned(),
            Gone::Closed(CloseCode::SESSION_ENDED) => "the server ended the session".to_owned(),
            Gone::Closed(code) => format!("the server closed the connection (code {})", code.0),
            Gone::Finished => "the server closed the connection".to_owned(),
            Gone::Lost(why) => why.clone(),
            Gone::Untrusted(why) => return self.give_up(why.clone()),
        };
        self.connection_lost(why);
    }

    /// The connection is of no more use: closes it and tries again later.
    pub(super) fn drop_connection(&mut self, why: String) {
        if let Some(conn) = &self.net.conn {
            self.out.push_back(Output::CloseConn(conn.id, CloseCode::DONE));
            self.connection_lost(why);
        }
    }

    /// Trying again cannot help: closes, tells, and stays away until asked.
    pub(super) fn give_up(&mut self, why: String) {
        self.close_connection(CloseCode::DONE);
        self.net.connect_at = None;
        let failed = Failed::Unreachable(why.clone());
        if let Some(task) = self.auth.take() {
            self.event(Event::Failed(task.ticket, failed.clone()));
        }
        self.fail_asks(&failed);
        self.event(Event::Offline { why, last: true });
    }

    pub(super) fn close_connection(&mut self, code: CloseCode) {
        if let Some(conn) = &self.net.conn {
            self.out.push_back(Output::CloseConn(conn.id, code));
            self.forget_connection();
        }
    }

    fn connection_lost(&mut self, why: String) {
        self.forget_connection();
        let delay = self.net.backoff.lost(self.now.mono, &mut self.entropy);
        let stays = self.config.auto_connect && self.need_session().is_ok();
        let wanted = stays || self.auth.is_some() || !self.asks.is_empty();
        self.net.connect_at = wanted.then(|| self.now.mono + delay);
        self.event(Event::Offline { why, last: false });
    }

    /// Everything that belonged to the connection is void; what has to be asked again is queued again.
    fn forget_connection(&mut self) {
        let Some(conn) = self.net.conn.take() else { return };
        for (_, pending) in conn.calls {
            if let Call::Ask(ticket, ask) = pending.what {
                self.asks.push_back((ticket, ask));
            }
        }
        self.fail_pointless_asks();
        self.inflight.clear();
        self.interrupt_transfers();
        self.synced = false;
        self.rewind_auth();
        for channel in self.channels.values_mut() {
            channel.disconnected();
        }
    }

    // ---- links --------------------------------------------------------------------------------

    /// Opens a link and says what it is for.
    fn open(&mut self, role: LinkRole) -> Option<LinkId> {
        let id = LinkId(self.next_handle());
        let conn = self.net.conn.as_mut()?;
        conn.links.insert(id, Link::new(role));
        self.out.push_back(Output::Open(conn.id, id, role));
        self.out.push_back(Output::Read(id));
        self.gate.hold(Effect::Frame(id, Frame { call: 0, body: Body::Open(role) }));
        Some(id)
    }

    /// A link for one bulk object; `None` on a transport with one link.
    pub(super) fn open_bulk(&mut self) -> Option<LinkId> {
        let transport = self.net.conn.as_ref()?.transport.as_ref()?;
        match transport.links {
            Links::Many => self.open(LinkRole::Bulk),
            Links::One => None,
        }
    }

    /// The link of pushes, on a transport with many; that of a session before on the same connection serves on.
    pub(super) fn open_pushes(&mut self) {
        let Some(conn) = &self.net.conn else { return };
        let many = conn.transport.as_ref().is_some_and(|with| with.links == Links::Many);
        if many && conn.links.values().all(|link| link.role != LinkRole::Pushes) {
            self.open(LinkRole::Pushes);
        }
    }

    /// Nothing more will be sent on a bulk link.
    pub(super) fn finish_link(&mut self, id: LinkId) {
        if let Some(link) = self.link(id) {
            link.fin = true;
        }
    }

    pub(super) fn link(&mut self, id: LinkId) -> Option<&mut Link> {
        self.net.conn.as_mut()?.links.get_mut(&id)
    }

    pub(super) fn on_writable(&mut self, id: LinkId, credit: usize) {
        if let Some(link) = self.link(id) {
            link.credit = link.credit.saturating_add(credit);
        }
    }

    pub(super) fn on_closed(&mut self, id: LinkId, gone: &Gone) {
        let Some(conn) = &mut self.net.conn else { return };
        let Some(link) = conn.links.remove(&id) else { return };
        if link.role == LinkRole::Bulk {
            return self.out.push_back(Output::CloseLink(id, CloseCode::DONE));
        }
        let conn = conn.id;
        self.on_disconnected(conn, gone);
        self.out.push_back(Output::CloseConn(conn, CloseCode::DONE));
    }

    pub(super) fn on_bytes(&mut self, id: LinkId, mut bytes: &[u8]) {
        let mono = self.now.mono;
        let Some(conn) = &mut self.net.conn else { return };
        let conn_id = conn.id;
        conn.heard = mono;
        let Some(link) = conn.links.get_mut(&id) else { return };
        let mut decoder = core::mem::take(&mut link.decoder);
        loop {
            match decoder.next(&mut bytes) {
                Ok(Some(frame)) => {
                    if let Err(fault) = self.on_frame(id, frame) {
                        return self.server_fault(conn_id, fault);
                    }
                    if self.net.conn.as_ref().is_none_or(|conn| conn.id != conn_id) {
                        return;
                    }
                }
                Ok(None) => break,
                Err(fault) => return self.server_fault(conn_id, fault),
            }
        }
        self.keep_decoder(id, decoder);
        self.out.push_back(Output::Read(id));
    }

    fn keep_decoder(&mut self, id: LinkId, decoder: Decoder) {
        if let Some(link) = self.link(id) {
            link.decoder = decoder;
        }
    }

    fn server_fault(&mut self, conn: ConnId, fault: PeerFault) {
        self.event(Event::ServerFault { conn, fault });
        if self.net.conn.is_some() {
            self.out.push_back(Output::CloseConn(conn, fault.code()));
            self.connection_lost(format!("the server broke the protocol: {fault}"));
        }
    }

    /// Encodes a frame onto its link; dropped if the link is gone.
    pub(super) fn enqueue(&mut self, id: LinkId, frame: &Frame) {
        if let Some(link) = self.link(id) {
            encode(frame, &mut link.out);
        }
    }

    /// The next bytes to send, within credit.
    pub(super) fn next_send(&mut self, buffer: &mut Vec<u8>) -> Option<Output> {
        let conn = self.net.conn.as_mut()?;
        for (id, link) in &mut conn.links {
            let len = link.out.len().min(link.credit);
            let fin = link.fin && len == link.out.len();
            if len == 0 && !fin {
                continue;
            }
            buffer.extend(link.out.drain(..len));
            link.credit -= len;
            if fin {
                link.fin = false;
            }
            return Some(Output::Send { link: *id, len, fin });
        }
        None
    }

    // ---- phases -------------------------------------------------------------------------------

    pub(super) fn phase(&self) -> Option<Phase> {
        self.net.conn.as_ref().map(|conn| conn.phase)
    }

    pub(super) fn set_phase(&mut self, phase: Phase) {
        if let Some(conn) = &mut self.net.conn {
            conn.phase = phase;
        }
    }
}
