//! What is on its way to the server: encrypted once the group is ready, resent byte for byte until answered.

use super::commit::CONTRADICTED;
use super::content::{Content, ContentBody, checkpoints};
use super::directory;
use super::event::{Event, Failed, Outcome, Sent};
use super::net::Call;
use super::submission::{self, OutItem, OutWhat, Says, StoredProof};
use super::{Client, session::Phase};
use crate::error::{ErrorCode, RestoreError};
use crate::id::{ChannelId, Digest, MessageId};
use crate::io::Ticket;
use crate::limits::{CALLS_IN_FLIGHT, MESSAGES_AHEAD};
use crate::mls::MlsError;
use crate::store::batch::{Op, Records};
use crate::store::record::decode;
use crate::wire::message::{Accepted, Failure, Request};

/// Why nobody can say what became of a message.
const UNANSWERED: &str = "the server's answer is missing for longer than it remembers what it took";
const SENT_OTHERWISE: &str =
    "the server has another message under its id, maybe from a later state of this device";

impl Client {
    /// Stores a submission; it goes out with the next pump.
    pub(super) fn store_item(&mut self, ticket: Ticket, item: OutItem) {
        self.gate.stage(directory::put(item_key(ticket), &item));
        self.dirty.insert(item.channel);
        self.outbox.insert(ticket, item);
    }

    /// Forgets a submission.
    pub(super) fn drop_item(&mut self, ticket: Ticket) -> Option<OutItem> {
        let item = self.outbox.remove(&ticket)?;
        self.forget_upload(ticket, &item);
        self.inflight.remove(&ticket);
        self.refused.remove(&ticket);
        self.gate.stage(Op::Delete(item_key(ticket)));
        self.dirty.insert(item.channel);
        Some(item)
    }

    pub(super) fn fail_item(&mut self, ticket: Ticket, failed: Failed) {
        if let Some(item) = self.drop_item(ticket)
            && !item.silent
            && item.accepted.is_none()
        {
            self.event(Event::Failed(ticket, failed));
        }
    }

    pub(super) fn outbox_of(&self, id: ChannelId) -> Vec<Ticket> {
        let of_channel = self.outbox.iter().filter(|(_, item)| item.channel == id);
        of_channel.map(|(ticket, _)| *ticket).collect()
    }

    /// Encrypts and sends what can be sent in a channel now, in order.
    pub(super) fn pump_outbox(&mut self, id: ChannelId) {
        if self.phase() != Some(Phase::Online) {
            return;
        }
        let mono = self.now.mono;
        let Some(channel) = self.channels.get(&id) else { return };
        // Whoever was removed still asks what became of what it had sent.
        let followed = channel.row.member && channel.ended.is_none();
        if (!channel.ready && followed)
            || channel.fall.why.is_some()
            || channel.hold_until.is_some_and(|at| at > mono)
        {
            return;
        }
        // Messages wait in order; the commit that they may be waiting for does not wait behind them.
        let (mut blocked, mut tried_again) = (false, false);
        let mut under_way = 0;
        for ticket in self.outbox_of(id) {
            let item = self.outbox.get(&ticket);
            blocked |= under_way >= MESSAGES_AHEAD;
            let in_order = (blocked && item.is_some_and(OutItem::is_unsealed))
                || (tried_again && item.is_some_and(OutItem::is_message));
            let later = in_order || self.waits_for_others(id, ticket);
            if !self.inflight.contains(&ticket) && !later {
                if self.calls() >= CALLS_IN_FLIGHT / 2 {
                    self.crowded.insert(id);
                    return;
                }
                self.give_up_unclear(ticket);
                if self.seal_item(id, ticket) {
                    self.send_item(ticket);
                } else {
                    blocked = true;
                }
            }
            blocked |= self.may_be_refused(id, ticket);
            tried_again |= self.refused.contains(&ticket);
            under_way += usize::from(self.outbox.get(&ticket).is_some_and(OutItem::is_under_way));
        }
    }

    /// Whether a message was encrypted before the group changed and is not yet answered. The server takes none of an
    /// epoch long past: it will be encrypted anew then, and what was said after it has to come after it.
    fn may_be_refused(&self, id: ChannelId, ticket: Ticket) -> bool {
        let Some(channel) = self.channels.get(&id) else { return false };
        let Some(item) = self.outbox.get(&ticket) else { return false };
        let OutWhat::Application { sealed: Some(submit), .. } = &item.what else { return false };
        let present = (channel.generation(), channel.row.epoch);
        item.accepted.is_none() && (submit.generation, submit.epoch) != present
    }

    /// A message that the server may have taken so long ago that it has forgotten it is not sent again: it would be
    /// read twice. What this device says of itself is said anew.
    fn give_up_unclear(&mut self, ticket: Ticket) {
        let now = self.now.wall;
        let Some(item) = self.outbox.get_mut(&ticket).filter(|item| item.is_unclear(now)) else {
            return;
        };
        if item.silent {
            item.message = MessageId(self.entropy.array());
            self.reseal(ticket);
        } else {
            self.fail_item(ticket, Failed::Unclear(UNANSWERED));
        }
    }

    /// Encrypts a submission if it is not yet; `false`: it has to wait, and what comes after it too.
    fn seal_item(&mut self, id: ChannelId, ticket: Ticket) -> bool {
        let Some(item) = self.outbox.get(&ticket) else { return true };
        let OutWhat::Application { body, says, sealed: None } = &item.what else { return true };
        let (body, says, message) = (body.clone(), *says, item.message);
        if self.channels.get(&id).is_none_or(|channel| !channel.row.member) {
            self.fail_item(ticket, Failed::Obsolete("no longer a member of the group"));
            return true;
        }
        if !self.is_warm(id) {
            self.load_group(id);
            return false;
        }
        self.drop_orphan(id);
        let blocked = self.with_group(id, |group, _| (group.has_pending(), group.has_proposals()));
        let Some(channel) = self.channels.get(&id) else { return false };
        let behind = channel.row.epoch < channel.need_epoch;
        match blocked {
            Some((false, false)) if !behind => {}
            Some((false, true)) => {
                self.clear_proposals(id);
                return false;
            }
            _ => return false,
        }
        let Some(content) = self.content(id, says, body) else {
            self.drop_item(ticket);
            return true;
        };
        let Some(device) = self.device_in(id) else { return false };
        let plaintext = content.encode();
        let made = self.with_group(id, |group, cx| {
            let epoch = group.epoch();
            group.encrypt(cx, &device, &plaintext).map(|payload| (epoch, payload))
        });
        match made {
            Some(Ok((epoch, payload))) => {
                let generation = self.channels.get(&id).map_or(0, |c| c.row.generation);
                let submit = submission::application(id, generation, epoch, message, payload);
                self.stage_channel(id);
                if let Some(mut item) = self.outbox.remove(&ticket) {
                    if let OutWhat::Application { sealed, .. } = &mut item.what {
                        *sealed = Some(submit);
                    }
                    item.since = item.since.or(Some(self.now.wall));
                    self.store_item(ticket, item);
                }
                true
            }
            Some(Err(MlsError::Pending(_))) | None => false,
            Some(Err(error)) => {
                let failed = Failed::Server {
                    code: ErrorCode::BadRequest,
                    detail: format!("the message cannot be encrypted: {error}"),
                };
                self.fail_item(ticket, failed);
                true
            }
        }
    }

    fn content(
        &self,
        id: ChannelId,
        says: Says,
        body: zeroize::Zeroizing<Vec<u8>>,
    ) -> Option<Content> {
        let channel = self.channels.get(&id)?;
        let row = &channel.row;
        let body = match says {
            Says::Metadata => {
                // Whom else this device knows is nobody's business, and what it doubts is no word to give.
                let members = channel.group_members();
                let contacts = self.contacts.keys().filter(|account| members.contains(account));
                let names = contacts
                    .filter_map(|account| Some((*account, self.accepted_name(*account)?.clone())));
                let metadata = channel.present_profile()?.clone();
                ContentBody::Metadata { metadata, names: names.collect() }
            }
            Says::Body => ContentBody::Body(body),
            Says::Checkpoints => ContentBody::Checkpoints(checkpoints(&body)?),
        };
        let username = self.identity.as_ref().map(|identity| identity.username.clone());
        Some(Content { seq: row.cursor.seq(), chain: row.cursor.chain(), username, body })
    }

    pub(super) fn send_item(&mut self, ticket: Ticket) {
        let Some(item) = self.outbox.get(&ticket) else { return };
        if item.accepted.is_some() {
            return;
        }
        if !self.is_uploaded(ticket) {
            return self.upload(item.channel, ticket);
        }
        let (call, request) = match &item.what {
            OutWhat::Commit { bundle, .. } | OutWhat::Rejoin { bundle } => {
                (Call::Commit(ticket), Request::Commit(bundle.clone()))
            }
            _ => match item.submit() {
                Some(submit) => (Call::Submit(ticket), Request::Submit(submit.clone())),
                None => return,
            },
        };
        self.inflight.insert(ticket);
        self.call(call, request);
    }

    /// The server has it, now or since an earlier try. Its proof is checked before anybody is told.
    pub(super) fn on_accepted(&mut self, ticket: Ticket, accepted: Accepted) {
        self.inflight.remove(&ticket);
        self.refused.remove(&ticket);
        let Some(item) = self.outbox.get(&ticket) else { return };
        let Some(hash) = item.hash() else { return };
        let (id, message) = (item.channel, item.message);
        if !self.proves(id, message, hash, &accepted) {
            return;
        }
        let seen = self.channels.get(&id).map(|channel| {
            let passed = accepted.seq <= channel.row.cursor.seq();
            (passed, channel.agrees(accepted.seq, accepted.chain))
        });
        let (passed, agrees) = seen.unwrap_or((false, None));
        match agrees {
            Some(true) => self.note_agreed(id, None, accepted.seq),
            Some(false) => self.fork(id, accepted.seq, None),
            None => {}
        }
        let Some(mut item) = self.outbox.remove(&ticket) else { return };
        if let OutWhat::Proposal { intent, .. } = &item.what {
            self.on_leave_accepted(*intent);
        }
        if !item.silent && item.accepted.is_none() {
            let sent = Sent { channel: id, message, hash, accepted: accepted.clone() };
            let proof = StoredProof { message, hash, accepted: accepted.clone() };
            self.gate.stage(directory::put(directory::proof_key(id, accepted.seq), &proof));
            self.gate.stage(Op::Delete(item_key(ticket)));
            item.accepted = Some(accepted);
            self.finish_accepted(ticket, item, passed);
            return self.event(Event::Done(ticket, Outcome::Sent(sent)));
        }
        item.accepted = Some(accepted);
        self.finish_accepted(ticket, item, passed);
    }

    /// Whether the server's signed word on a submission holds. If not, nothing more is taken from this connection.
    pub(super) fn proves(
        &mut self,
        id: ChannelId,
        message: MessageId,
        hash: Digest,
        accepted: &Accepted,
    ) -> bool {
        let Some(server) = self.server else { return false };
        let statement = accepted.statement(id, message, hash);
        let holds =
            self.config.backend.ed25519_verify(&server.0, &statement, &accepted.proof).is_ok();
        if !holds {
            self.event(Event::ForkSuspected { channel: id, seq: accepted.seq });
            self.drop_connection("the server's delivery proof does not verify".into());
        }
        holds
    }

    /// A page of delivery proofs was read.
    pub(super) fn on_proofs(&mut self, ticket: Ticket, id: ChannelId, records: &Records) {
        let stored = records.iter().map(|(key, value)| decode::<StoredProof>(key, value));
        let sent = stored.map(|proof| {
            let StoredProof { message, hash, accepted } = proof?;
            Ok(Sent { channel: id, message, hash, accepted })
        });
        match sent.collect::<Result<Vec<_>, RestoreError>>() {
            Ok(sent) => self.event(Event::Done(ticket, Outcome::Proofs(sent))),
            Err(_) => {
                self.event(Event::Failed(ticket, Failed::Obsolete("a stored proof is damaged")))
            }
        }
    }

    /// Keeps an accepted submission until the log has shown it, so that it is recognised there.
    fn finish_accepted(&mut self, ticket: Ticket, mut item: OutItem, passed: bool) {
        if passed && !matches!(item.what, OutWhat::Commit { .. } | OutWhat::Rejoin { .. }) {
            self.gate.stage(Op::Delete(item_key(ticket)));
            self.dirty.insert(item.channel);
            return;
        }
        if let OutWhat::Application { body, .. } = &mut item.what {
            *body = Vec::new().into();
        }
        self.store_item(ticket, item);
    }

    /// The server did not take it.
    pub(super) fn on_submit_refused(&mut self, ticket: Ticket, failure: &Failure) {
        let Some(item) = self.outbox.get(&ticket) else { return };
        let id = item.channel;
        match failure.code {
            ErrorCode::StaleEpoch | ErrorCode::FutureEpoch | ErrorCode::EpochConflict => {
                let sent_in = item.submit().map_or(0, |submit| submit.epoch);
                let Some(channel) = self.channels.get_mut(&id) else { return };
                channel.need_epoch = channel.need_epoch.max(failure.epoch);
                if channel.need_epoch <= channel.row.epoch && sent_in >= failure.epoch {
                    // The server contradicts itself: not again at once.
                    self.hold(id, CONTRADICTED);
                }
                self.reseal(ticket);
            }
            ErrorCode::GenerationMismatch if self.is_member(id) => self.generation_passed(ticket),
            _ if failure.is_transient() => {
                let message = item.is_message();
                self.refused.extend(message.then_some(ticket));
                self.hold(id, failure.retry_after_ms);
            }
            _ => {
                if let OutWhat::Proposal { intent, .. } = item.what {
                    self.proposal_refused(Ticket(intent), Failed::from(failure));
                }
                let code = failure.code;
                let failed = match code {
                    ErrorCode::MessageIdReused => Failed::Unclear(SENT_OTHERWISE),
                    _ => Failed::from(failure),
                };
                self.fail_item(ticket, failed);
                if code == ErrorCode::NotMember {
                    self.look_for_removal(id);
                }
            }
        }
    }

    /// The same content, encrypted anew under the same message id: nothing of the first was stored.
    pub(super) fn reseal(&mut self, ticket: Ticket) {
        let Some(mut item) = self.outbox.remove(&ticket) else { return };
        item.since = None;
        match &mut item.what {
            OutWhat::Application { sealed, .. } => {
                *sealed = None;
                self.store_item(ticket, item);
            }
            // A proposal is of its epoch only: the intent makes another.
            OutWhat::Proposal { .. } | OutWhat::Commit { .. } | OutWhat::Rejoin { .. } => {
                self.dirty.insert(item.channel);
                self.gate.stage(Op::Delete(item_key(ticket)));
            }
        }
    }
}

fn item_key(ticket: Ticket) -> Vec<u8> {
    directory::key(directory::OUTBOX, &[&ticket.0.to_be_bytes()])
}
