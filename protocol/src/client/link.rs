//! Links and calls: opening a connection, frames in, frames out within credit, and what a lost connection means.

use super::net::{Ask, Call, Connection, Link, Pending};
use super::session::Phase;
use super::{Client, Effect, Event};
use crate::client::event::{Contradiction, Failed, Outcome};
use crate::crypto::identity::Revocation;
use crate::error::{CloseCode, ErrorCode, PeerFault};
use crate::io::{BindingKind, ConnId, Gone, LinkId, LinkRole, Links, Output, Ticket, Transport};
use crate::limits::{CALL_TIME, HANDSHAKE_TIME};
use crate::wire::frame::{Decoder, encode};
use crate::wire::message::{Body, Failure, Frame, Push, Reply, Request};
use std::collections::BTreeMap;

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

    fn link(&mut self, id: LinkId) -> Option<&mut Link> {
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

    // ---- calls --------------------------------------------------------------------------------

    pub(super) fn phase(&self) -> Option<Phase> {
        self.net.conn.as_ref().map(|conn| conn.phase)
    }

    pub(super) fn set_phase(&mut self, phase: Phase) {
        if let Some(conn) = &mut self.net.conn {
            conn.phase = phase;
        }
    }

    /// Calls under way.
    pub(super) fn calls(&self) -> usize {
        self.net.conn.as_ref().map_or(0, |conn| conn.calls.len())
    }

    /// Makes a call on the link of calls. Without a connection nothing happens: whatever wants the call wants it
    /// again on the next one.
    pub(super) fn call(&mut self, what: Call, request: Request) {
        self.call_on(None, what, request);
    }

    /// Makes a call on that link, or on the link of calls.
    pub(super) fn call_on(&mut self, link: Option<LinkId>, what: Call, request: Request) {
        let deadline = self.now.mono + CALL_TIME;
        let Some(conn) = &mut self.net.conn else { return };
        let Some(link) = link.or(conn.calls_link) else { return };
        let call = conn.next_call;
        conn.next_call = conn.next_call.wrapping_add(1).max(1);
        conn.calls.insert(call, Pending { what, deadline });
        self.gate.hold(Effect::Frame(link, Frame { call, body: Body::Request(request) }));
    }

    /// A session is over although the connection stands: what was asked for it is void.
    pub(super) fn void_calls(&mut self) {
        self.inflight.clear();
        let Some(conn) = &mut self.net.conn else { return };
        let of_session = |what: &Call| !matches!(what, Call::Ask(..) | Call::KeepAlive);
        for pending in conn.calls.values_mut().filter(|pending| of_session(&pending.what)) {
            pending.what = Call::Void;
        }
    }

    fn on_frame(&mut self, link: LinkId, frame: Frame) -> Result<(), PeerFault> {
        let Some(role) = self.link(link).map(|link| link.role) else { return Ok(()) };
        let pushes = matches!(role, LinkRole::All | LinkRole::Pushes);
        match frame.body {
            Body::Push(push) if pushes => self.on_push(push),
            Body::Reply(_) | Body::Failure(_) if role == LinkRole::Pushes => {
                return Err(PeerFault::Unexpected("an answer on the link of pushes"));
            }
            Body::Reply(reply) => {
                let what = self.answered(frame.call)?;
                self.on_reply(what, reply)
                    .map_err(|_| PeerFault::Unexpected("a reply of another kind"))?;
            }
            Body::Failure(failure) => {
                let what = self.answered(frame.call)?;
                self.on_failure(what, &failure);
            }
            Body::Push(_) | Body::Request(_) | Body::Open(_) => {
                return Err(PeerFault::Unexpected("a frame that a server does not send here"));
            }
        }
        Ok(())
    }

    fn answered(&mut self, call: u32) -> Result<Call, PeerFault> {
        let conn = self.net.conn.as_mut();
        let pending = conn.and_then(|conn| conn.calls.remove(&call));
        self.dirty.append(&mut self.crowded);
        pending.map(|pending| pending.what).ok_or(PeerFault::Unexpected("an answer to no call"))
    }

    fn on_push(&mut self, push: Push) {
        match push {
            Push::Entries(entries) => self.on_entries(entries),
            Push::KeyPackagesLow { available } => self.on_packages_low(available),
            Push::SessionEnded => self.end_session(ErrorCode::TokenInvalid),
            // The connection closes by itself; the backoff does the rest.
            Push::Draining => {}
        }
    }

    fn on_reply(&mut self, what: Call, reply: Reply) -> Result<(), super::WrongReply> {
        match (what, reply) {
            (Call::KeepAlive, Reply::Pong(_)) | (Call::Tell, Reply::Done) | (Call::Void, _) => {}
            (Call::Ask(ticket, ask), reply) => {
                let answered = self.on_asked(ticket, ask, reply);
                if answered.is_err() {
                    let failed = Failed::Untrusted("the server's answer is of another kind");
                    self.event(Event::Failed(ticket, failed));
                }
                return answered;
            }
            (Call::Rotate, Reply::Done) => self.on_rotated(),
            (Call::OwnDevices, Reply::Devices(devices)) => self.on_own_devices(&devices),
            (Call::PackageStatus, Reply::KeyPackages { available, last_resort }) => {
                self.on_package_status(available, last_resort)
            }
            (Call::PackageUpload, Reply::KeyPackages { available, last_resort }) => {
                self.on_uploaded(available, last_resort)
            }
            (Call::Found(ticket), Reply::Done) => {
                self.inflight.remove(&ticket);
                self.on_founded(ticket);
            }
            (Call::Reset(ticket), Reply::Accepted(accepted)) => {
                self.on_reset_accepted(ticket, &accepted);
            }
            (Call::Resolve(ticket), Reply::Account { username, account }) => {
                self.inflight.remove(&ticket);
                return self.on_resolved(ticket, &username, account);
            }
            (Call::Claim(ticket), Reply::ClaimedKeyPackages(claimed)) => {
                self.inflight.remove(&ticket);
                self.on_claimed(ticket, claimed);
            }
            (Call::Confirm(claimed), Reply::Account { username, account }) => {
                self.on_confirmed(claimed, username, account);
            }
            (Call::Submit(ticket) | Call::Commit(ticket), Reply::Accepted(accepted)) => {
                self.on_accepted(ticket, accepted);
            }
            (Call::Subscribe(channel), Reply::Subscribed { head }) => {
                self.on_subscribed(channel, head);
            }
            (Call::Blob(channel, hash), Reply::Blob { total, chunk }) => {
                self.on_chunk(channel, hash, total, &chunk);
            }
            (Call::Upload(ticket), Reply::BlobPut { received }) => {
                self.on_received(ticket, received);
            }
            (Call::GroupInfo(channel), reply @ Reply::GroupInfo { .. }) => {
                self.on_group_info(channel, reply);
            }
            (Call::RejoinTree(channel), Reply::Blob { total, chunk }) => {
                self.on_rejoin_tree(channel, total, &chunk);
            }
            (what, reply) => return self.on_session_reply(what, reply),
        }
        Ok(())
    }

    fn on_failure(&mut self, what: Call, failure: &Failure) {
        match what {
            // The devices are asked for again with the next session.
            Call::KeepAlive | Call::Tell | Call::Void | Call::Confirm(_) | Call::OwnDevices => {}
            Call::Rotate => self.on_rotation_refused(failure),
            Call::PackageStatus | Call::PackageUpload => self.on_packages_refused(failure),
            Call::Ask(ticket, _) => self.event(Event::Failed(ticket, Failed::from(failure))),
            Call::Found(ticket) | Call::Resolve(ticket) | Call::Claim(ticket) => {
                self.inflight.remove(&ticket);
                self.on_intent_refused(ticket, failure);
            }
            Call::Reset(ticket) => {
                self.inflight.remove(&ticket);
                self.on_reset_refused(ticket, failure);
            }
            Call::Submit(ticket) => {
                self.inflight.remove(&ticket);
                self.on_submit_refused(ticket, failure);
            }
            Call::Commit(ticket) => {
                self.inflight.remove(&ticket);
                self.on_commit_refused(ticket, failure);
            }
            Call::Subscribe(channel) => self.on_subscribe_refused(channel, failure),
            Call::Blob(channel, hash) => self.on_blob_refused(channel, hash, failure),
            Call::Upload(ticket) => self.on_upload_refused(ticket, failure),
            Call::GroupInfo(channel) | Call::RejoinTree(channel) => {
                self.on_group_info_refused(channel, failure);
            }
            call => self.on_session_refused(&call, failure),
        }
    }

    // ---- questions of the application ---------------------------------------------------------

    pub(super) fn queue_ask(&mut self, ask: Ask) -> Ticket {
        let ticket = self.next_ticket();
        self.asks.push_back((ticket, ask));
        self.connect_soon();
        self.ask_waiting();
        ticket
    }

    /// Asks what waits, as far as the connection allows.
    pub(super) fn ask_waiting(&mut self) {
        let Some(phase) = self.phase() else { return };
        for (ticket, ask) in core::mem::take(&mut self.asks) {
            let anyone = matches!(ask, Ask::Ping(_) | Ask::Health);
            let may = phase == Phase::Online
                || (anyone && !matches!(phase, Phase::Connecting | Phase::Hello));
            let Some(request) = self.question(&ask).filter(|_| may) else {
                self.asks.push_back((ticket, ask));
                continue;
            };
            let ask = if matches!(ask, Ask::Ping(_)) { Ask::Ping(self.now.mono) } else { ask };
            self.call(Call::Ask(ticket, ask), request);
        }
    }

    fn question(&self, ask: &Ask) -> Option<Request> {
        Some(match ask {
            Ask::Ping(_) => Request::Ping(bytes::Bytes::from_static(b"ping")),
            Ask::Health => Request::Health,
            Ask::Lookup(username) => Request::AccountLookup { username: username.clone() },
            Ask::Devices => Request::DeviceList { account: self.me()?.account },
            Ask::Packages => Request::KeyPackageStatus,
            Ask::Logout => Request::Logout,
            Ask::Revoke(device) => {
                let key = &self.identity.as_ref()?.account_key;
                let backend = self.config.backend;
                let revocation = Revocation::sign(backend, key, *device, self.now.wall);
                Request::DeviceRevoke { revocation }
            }
            Ask::Delete => {
                let me = self.me()?;
                let nonce = &self.net.conn.as_ref()?.nonce;
                let statement = crate::auth::device::deletion_statement(
                    nonce,
                    self.server?,
                    me.account,
                    me.device,
                );
                let key = &self.identity.as_ref()?.account_key;
                Request::AccountDelete { proof: key.sign(self.config.backend, &statement) }
            }
        })
    }

    fn on_asked(
        &mut self,
        ticket: Ticket,
        ask: Ask,
        reply: Reply,
    ) -> Result<(), super::WrongReply> {
        let outcome = match (ask, reply) {
            (Ask::Ping(sent), Reply::Pong(_)) => Outcome::Pong(self.now.mono.saturating_sub(sent)),
            (Ask::Health, Reply::Health { healthy, version, time }) => {
                Outcome::Health { healthy, version, time }
            }
            (Ask::Lookup(asked), Reply::Account { username, account }) => {
                if asked != username {
                    return Err(super::WrongReply);
                }
                // What moved is shown: its numbers have to be compared before it is accepted.
                if let Err(lie @ Contradiction::SecondName) = self.learn(account, username.clone())
                {
                    self.event(Event::Failed(ticket, Failed::from(lie)));
                    return Ok(());
                }
                let Some(safety_number) = self.safety_number(account) else { return Ok(()) };
                Outcome::Lookup { username, account, safety_number, trust: self.trust(account) }
            }
            (Ask::Devices, Reply::Devices(devices)) => {
                let backend = self.config.backend;
                let mine = self.me().map(|me| me.account);
                let sound = devices.iter().all(|entry| {
                    Some(entry.record.account) == mine
                        && entry.record.verify(backend).is_ok()
                        && entry.revocation.as_ref().is_none_or(|revocation| {
                            revocation.device == entry.record.device
                                && Some(revocation.account) == mine
                                && revocation.verify(backend).is_ok()
                        })
                });
                if !sound {
                    let failed = Failed::Untrusted("a device record is not signed by this account");
                    self.event(Event::Failed(ticket, failed));
                    return Ok(());
                }
                Outcome::Devices(devices)
            }
            (Ask::Packages, Reply::KeyPackages { available, last_resort }) => {
                Outcome::KeyPackages { available, last_resort }
            }
            (Ask::Revoke(device), Reply::Done) => {
                if let Some(identity) = &self.identity {
                    let (key, wall) = (&identity.account_key, self.now.wall);
                    let revocation = Revocation::sign(self.config.backend, key, device, wall);
                    self.learn_revocation(&revocation, false);
                }
                Outcome::Done
            }
            (Ask::Logout | Ask::Delete, Reply::Done) => {
                self.event(Event::Done(ticket, Outcome::Done));
                self.end_quietly();
                self.fail_pointless_asks();
                return Ok(());
            }
            _ => return Err(super::WrongReply),
        };
        self.event(Event::Done(ticket, outcome));
        Ok(())
    }

    /// Without a session only strangers' questions can be answered.
    fn fail_pointless_asks(&mut self) {
        if self.auth.is_some() || self.need_session().is_ok() {
            return;
        }
        for (ticket, ask) in core::mem::take(&mut self.asks) {
            if matches!(ask, Ask::Ping(_) | Ask::Health) {
                self.asks.push_back((ticket, ask));
            } else {
                let failed = Failed::from(&Failure::from(ErrorCode::NotLoggedIn));
                self.event(Event::Failed(ticket, failed));
            }
        }
    }

    /// Questions that can never be answered now.
    pub(super) fn fail_asks(&mut self, failed: &Failed) {
        for (ticket, ask) in core::mem::take(&mut self.asks) {
            // A session that is over is what a logout wanted; its answer was lost.
            let done = matches!((ask, failed), (Ask::Logout, Failed::Server { .. }));
            self.event(match done {
                true => Event::Done(ticket, Outcome::Done),
                false => Event::Failed(ticket, failed.clone()),
            });
        }
    }
}
