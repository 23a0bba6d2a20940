//! Calls: what is asked of the server, and where its answers and pushes go.

use super::net::{Call, Pending};
use super::{Client, Effect, Event};
use crate::client::event::Failed;
use crate::error::{ErrorCode, PeerFault};
use crate::io::{LinkId, LinkRole};
use crate::limits::CALL_TIME;
use crate::wire::message::{Body, Failure, Frame, Push, Reply, Request};

impl Client {
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

    pub(super) fn on_frame(&mut self, link: LinkId, frame: Frame) -> Result<(), PeerFault> {
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
            Push::KeyPackagesLow { .. } => self.on_packages_low(),
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
            (Call::Renew, Reply::Tokens(tokens)) => self.on_renewed(tokens),
            (Call::Rotate, Reply::Done) => self.on_rotated(),
            (Call::Envelope, Reply::Done) => self.on_envelope_taken(),
            (Call::OwnDevices, Reply::Devices(devices)) => self.on_own_devices(&devices),
            (Call::Memberships, Reply::Channels { channels, more }) => {
                self.on_memberships(&channels, more);
            }
            (Call::PackageStatus(suite), Reply::KeyPackages { available, last_resort }) => {
                self.on_package_status(suite, available, last_resort)
            }
            (Call::PackageUpload(_), Reply::KeyPackages { available, last_resort }) => {
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
                return self.on_confirmed(claimed, &username, account);
            }
            (Call::Submit(ticket) | Call::Commit(ticket), Reply::Accepted(accepted)) => {
                self.on_accepted(ticket, accepted);
            }
            (Call::Subscribe(channel, after), Reply::Subscribed { head }) => {
                self.on_subscribed(channel, after, head);
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
            Call::KeepAlive | Call::Tell | Call::Void | Call::OwnDevices => {}
            Call::Confirm(claim) => self.on_not_confirmed(claim, failure),
            // The session stands; the next one may not.
            Call::Renew => self.plan_renewal(),
            Call::Rotate => self.on_rotation_refused(failure),
            Call::Envelope => self.on_envelope_refused(failure),
            Call::Memberships => self.stop_memberships(),
            Call::PackageStatus(suite) | Call::PackageUpload(suite) => {
                self.on_packages_refused(suite, failure);
            }
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
            Call::Subscribe(channel, _) => self.on_subscribe_refused(channel, failure),
            Call::Blob(channel, hash) => self.on_blob_refused(channel, hash, failure),
            Call::Upload(ticket) => self.on_upload_refused(ticket, failure),
            Call::GroupInfo(channel) | Call::RejoinTree(channel) => {
                self.on_group_info_refused(channel, failure);
            }
            call => self.on_session_refused(&call, failure),
        }
    }
}
