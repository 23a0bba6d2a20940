//! From a frame to the call that it makes, and from a result to the frame that answers it.

use super::Server;
use super::channels::Creation;
use super::connection::{Auth, Call, Peer};
use super::stored::Step;
use crate::crypto::identity::{DeviceRecord, EnvelopeKeys};
use crate::error::{ErrorCode, PeerFault};
use crate::io::{ConnId, LinkId, LinkRole, Links};
use crate::limits;
use crate::server::op::StoreOp;
use crate::wire::message::{Body, Failure, Frame, Part, Reply, Request};

/// What a call may hold beside its payload: its reply's frame, its place in the tables.
const CALL_BYTES: usize = 512;

/// When to try again after a refusal for lack of room or a failed store, in milliseconds.
pub(super) const RETRY_MS: u32 = 1_000;

impl Server {
    /// One frame of a link.
    pub(super) fn frame(&mut self, conn: ConnId, id: LinkId, frame: Frame) {
        let Some(link) = self.links.get_mut(&id) else { return };
        match (link.role, frame.body) {
            (None, Body::Open(role)) => self.open_link(conn, id, role),
            (None, _) => self.fault(conn, PeerFault::Unexpected("a link begins with its role")),
            (Some(_), Body::Open(_)) => self.fault(conn, PeerFault::Unexpected("a second role")),
            (Some(LinkRole::Pushes), Body::Request(request))
                if !matches!(request, Request::Ack { .. }) =>
            {
                self.fault(conn, PeerFault::Unexpected("a call on the link for pushes"));
            }
            (Some(_), Body::Request(request)) => {
                if link.calls.contains_key(&frame.call) {
                    return self.fault(conn, PeerFault::Unexpected("a call id in use"));
                }
                let held = weight(&request);
                link.calls.insert(frame.call, held);
                link.held += held;
                if let Some(connection) = self.conns.get_mut(&conn) {
                    connection.in_flight += 1;
                }
                self.request(Call { conn, link: id, id: frame.call }, request);
            }
            (Some(_), Body::Reply(_) | Body::Failure(_) | Body::Push(_)) => {
                self.fault(conn, PeerFault::Unexpected("a frame that only servers send"));
            }
        }
    }

    fn open_link(&mut self, conn: ConnId, id: LinkId, role: LinkRole) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        let Some(link) = self.links.get_mut(&id) else { return };
        if (connection.transport.links == Links::One) != (role == LinkRole::All) {
            return self.fault(conn, PeerFault::Unexpected("a role for another transport"));
        }
        if matches!(role, LinkRole::All | LinkRole::Pushes) {
            if connection.push_link.is_some() {
                return self.fault(conn, PeerFault::Unexpected("a second link for pushes"));
            }
            connection.push_link = Some(id);
        }
        link.role = Some(role);
        self.make_ready(id);
    }

    fn request(&mut self, call: Call, request: Request) {
        match request {
            Request::Ping(payload) => self.reply(call, Reply::Pong(payload)),
            Request::Health => self.health(call),
            Request::Hello => self.hello(call),
            Request::RegisterStart { username, request } => {
                self.register_start(call, username, request);
            }
            Request::RegisterFinish { username, upload, account, sealed_account_key, proof } => {
                let sealed = sealed_account_key;
                self.register_finish(call, username, &upload, account, sealed, &proof);
            }
            Request::LoginStart { username, ke1 } => self.login_start(call, username, ke1),
            Request::LoginFinish { ke3, device, device_key, signature } => {
                self.login_finish(call, ke3, device, device_key, signature);
            }
            Request::Resume { token, sender, state_version, signature } => {
                self.resume(call, &token, sender, state_version, signature);
            }
            Request::Refresh { token, sender, signature } => {
                self.refresh(call, &token, sender, signature);
            }
            Request::DeviceRegister { record, envelope_keys } => {
                self.device_call(call, record, envelope_keys);
            }
            request => match self.peer(call.conn) {
                Some(peer) => self.session_request(call, peer, request),
                None => self.fail(call, ErrorCode::NotLoggedIn),
            },
        }
    }

    /// The device whose session this connection is.
    pub(super) fn peer(&self, conn: ConnId) -> Option<Peer> {
        match self.conns.get(&conn)?.auth {
            Auth::Session(peer) => Some(peer),
            Auth::Login(_) | Auth::None => None,
        }
    }

    fn device_call(&mut self, call: Call, record: DeviceRecord, envelope_keys: EnvelopeKeys) {
        match self.conns.get(&call.conn).map(|connection| connection.auth) {
            Some(Auth::Session(peer)) => {
                self.device_register(call, peer.sender, None, record, envelope_keys);
            }
            Some(Auth::Login(peer)) => {
                let key = Some(peer.device_key);
                self.device_register(call, peer.sender, key, record, envelope_keys);
            }
            Some(Auth::None) | None => self.fail(call, ErrorCode::NotLoggedIn),
        }
    }

    fn session_request(&mut self, call: Call, peer: Peer, request: Request) {
        let at = self.now.wall;
        let sender = peer.sender;
        match request {
            Request::Logout => self.logout(call, sender),
            Request::DeviceList { account } => {
                self.store(Step::DeviceList(call), StoreOp::ListDevices { account });
            }
            Request::DeviceRevoke { revocation } => self.device_revoke(call, sender, revocation),
            Request::AccountLookup { username } => self.lookup(call, sender, username),
            Request::AccountDelete { proof } => self.account_delete(call, sender, &proof),
            Request::KeyPackageUpload { packages, last_resort } => {
                self.key_package_upload(call, packages, last_resort);
            }
            Request::KeyPackageStatus { suite } => {
                let op = StoreOp::CountKeyPackages { sender, suite, at };
                self.store(Step::KeyPackages(call), op);
            }
            Request::KeyPackageFetch { account, suite, device } => {
                self.key_package_fetch(call, sender, account, suite, device);
            }
            Request::ChannelCreate { channel, kind, generation, group_info, tree, with } => {
                let creator = sender;
                let creation = Creation { channel, kind, generation, creator, with, group_info };
                self.channel_create(call, peer, creation, tree);
            }
            Request::ChannelInfo { channel } => {
                let op = StoreOp::ChannelInfo { channel, reader: sender };
                self.store(Step::ChannelInfo(call), op);
            }
            Request::ChannelList { after } => self.channel_list(call, sender, after),
            Request::Submit(submit) => self.submit(call, sender, submit),
            Request::Commit(bundle) => self.commit(call, sender, bundle),
            Request::Fetch { channel, after, limit, wait_ms } => {
                self.fetch(call, sender, channel, after, limit, wait_ms);
            }
            Request::Subscribe { channel, after } => self.subscribe(call, sender, channel, after),
            Request::Unsubscribe { channel } => self.unsubscribe(call, channel),
            Request::Ack { channel, seq } => {
                self.store(Step::Ack(call), StoreOp::Ack { channel, reader: sender, seq });
            }
            Request::GroupInfoFetch { channel } => self.group_info_fetch(call, sender, channel),
            Request::BlobPut { hash, total, offset, chunk } => {
                self.blob_put(call, sender, hash, total, offset, chunk);
            }
            Request::BlobGet { hash, offset } => {
                let most = limits::BLOB_CHUNK as u64;
                self.store(Step::BlobGet(call), StoreOp::GetBlob { hash, offset, most, at });
            }
            Request::Ping(_)
            | Request::Health
            | Request::Hello
            | Request::RegisterStart { .. }
            | Request::RegisterFinish { .. }
            | Request::LoginStart { .. }
            | Request::LoginFinish { .. }
            | Request::Resume { .. }
            | Request::Refresh { .. }
            | Request::DeviceRegister { .. } => self.fail(call, ErrorCode::BadRequest),
        }
    }

    fn health(&mut self, call: Call) {
        let reply = Reply::Health {
            healthy: self.healthy,
            version: self.config.version.clone(),
            time: self.now.wall,
        };
        self.reply(call, reply);
    }

    /// Answers a call.
    pub(super) fn reply(&mut self, call: Call, reply: Reply) {
        self.answer(call, Body::Reply(reply));
    }

    /// Refuses a call.
    pub(super) fn fail(&mut self, call: Call, code: ErrorCode) {
        self.fail_at(call, code, 0);
    }

    /// Refuses a call, telling the channel's epoch.
    pub(super) fn fail_at(&mut self, call: Call, code: ErrorCode, epoch: u64) {
        let later = matches!(code, ErrorCode::Busy | ErrorCode::Unavailable);
        let retry_after_ms = if later { RETRY_MS } else { 0 };
        self.refuse(call, Failure { code, detail: String::new(), retry_after_ms, epoch });
    }

    /// Refuses a call with words for people.
    pub(super) fn fail_with(&mut self, call: Call, code: ErrorCode, detail: &str) {
        let end = detail.floor_char_boundary(limits::ERROR_DETAIL_BYTES);
        let detail = detail[..end].to_owned();
        self.refuse(call, Failure { detail, ..code.into() });
    }

    /// Refuses a call.
    pub(super) fn refuse(&mut self, call: Call, failure: Failure) {
        self.answer(call, Body::Failure(failure));
    }

    /// Ends a call. Nothing happens if its link is gone.
    pub(super) fn answer(&mut self, call: Call, body: Body) {
        let Some(link) = self.links.get_mut(&call.link) else { return };
        let Some(held) = link.calls.remove(&call.id) else { return };
        link.held -= held;
        self.write(call.link, &Frame { call: call.id, body });
        if let Some(connection) = self.conns.get_mut(&call.conn) {
            connection.in_flight -= 1;
        }
        self.unstall(call.conn);
        self.finish_link(call.link);
        self.close_if_drained(call.conn);
    }
}

/// Bytes that a call may hold until it is answered: its payload, and the largest usual reply.
fn weight(request: &Request) -> usize {
    let part = |part: &Part| match part {
        Part::Inline(bytes) => bytes.len(),
        Part::Blob { .. } => 0,
    };
    CALL_BYTES
        + match request {
            Request::Submit(submit) => submit.payload.len(),
            Request::Commit(bundle) => {
                let welcome = bundle.welcome.as_ref().map_or(0, part);
                part(&bundle.commit) + welcome + bundle.group_info.len()
            }
            Request::ChannelCreate { group_info, tree, .. } => group_info.len() + tree.len(),
            Request::KeyPackageUpload { packages, last_resort } => {
                let last_resort = last_resort.as_ref().map_or(0, bytes::Bytes::len);
                packages.iter().map(bytes::Bytes::len).sum::<usize>() + last_resort
            }
            Request::BlobPut { chunk, .. } => chunk.len(),
            Request::BlobGet { .. } => limits::BLOB_CHUNK,
            Request::Fetch { wait_ms: 0, .. } => limits::FETCH_BYTES,
            Request::Fetch { .. } | Request::Subscribe { .. } => super::longpoll::WOKEN_BYTES,
            Request::KeyPackageFetch { .. } => {
                limits::DEVICES_PER_ACCOUNT * limits::KEY_PACKAGE_BYTES
            }
            _ => 0,
        }
}
