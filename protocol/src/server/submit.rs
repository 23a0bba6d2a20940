//! Submissions: application messages straight to the log, proposals through their group's line.

use super::Server;
use super::connection::Call;
use super::line::{Work, WorkKind};
use super::stored::Step;
use crate::delivery::proof::proof_statement;
use crate::env::UnixMillis;
use crate::error::ErrorCode;
use crate::id::{ChannelId, Digest, GroupId, MessageId, Sender};
use crate::limits;
use crate::mls::public::PublicState;
use crate::server::audit::AuditKind;
use crate::server::op::{Append, StoreOp, StoreReply};
use crate::wire::message::{Accepted, Entry, EntryKind, Part, Reply, Submit, SubmitKind};

/// A submission that the store is about to answer.
#[derive(Clone, Debug)]
pub(super) struct Submitted {
    pub(super) channel: ChannelId,
    /// SHA-256 of the payload, as the delivery proof names it.
    pub(super) payload: Digest,
    /// The entry as it will stand, but for its seq and time.
    pub(super) entry: Entry,
}

impl Server {
    pub(super) fn submit(&mut self, call: Call, sender: Sender, submit: Submit) {
        let kind = match submit.kind {
            SubmitKind::Application => EntryKind::Application,
            SubmitKind::Proposal => EntryKind::Proposal,
        };
        let Submit { channel, generation, epoch, .. } = submit;
        let private = kind == EntryKind::Application;
        if channel == ChannelId::inbox(sender) {
            return self.fail(call, ErrorCode::NotAllowed);
        }
        if submit.payload.len() > limits::PAYLOAD_BYTES {
            return self.fail(call, ErrorCode::PayloadTooLarge);
        }
        if !outside_holds(&submit.payload, private, kind, channel, generation, epoch) {
            return self.fail_with(call, ErrorCode::BadRequest, "not the message it is said to be");
        }
        if kind == EntryKind::Proposal {
            return self.enqueue(channel, Work { call, sender, kind: WorkKind::Propose(submit) });
        }
        let (submitted, op) = self.append(sender, &submit, kind);
        self.store(Step::Submit(call, Box::new(submitted)), StoreOp::Append(op));
    }

    /// The operation that appends a submission.
    pub(super) fn append(
        &self,
        sender: Sender,
        submit: &Submit,
        kind: EntryKind,
    ) -> (Submitted, Append) {
        let Submit { channel, generation, epoch, message, .. } = *submit;
        let at = self.now.wall;
        let payload = Digest::of(&[&submit.payload]);
        let part = Part::Inline(submit.payload.clone());
        let entry = Entry {
            seq: 0,
            kind,
            generation,
            epoch,
            sender,
            message,
            time: at,
            origin: None,
            payload: part.clone(),
        };
        let past_epochs = if kind == EntryKind::Application { limits::PAST_EPOCHS } else { 0 };
        let op = Append {
            channel,
            generation,
            epoch,
            past_epochs,
            sender,
            message,
            hash: submission_hash(channel, generation, epoch, kind, &[payload]),
            kind,
            payload: part,
            group: Vec::new(),
            at,
            expires: at.plus(self.config.retention),
        };
        (Submitted { channel, payload, entry }, op)
    }

    pub(super) fn submitted(&mut self, call: Call, submitted: &Submitted, reply: StoreReply) {
        let channel = submitted.channel;
        let StoreReply::Appended { seq, chain, time, duplicate, .. } = reply else {
            return self.refusal(call, Some(AuditKind::Submit), Some(channel), &reply);
        };
        self.accept(call, channel, submitted.entry.message, submitted.payload, seq, chain, time);
        if !duplicate {
            self.audit(AuditKind::Submit, Some(call.conn), Some(channel), None);
            self.appended(channel, seq, Some(Entry { seq, time, ..submitted.entry.clone() }));
        }
    }

    /// Answers a submission with the server's signed word.
    pub(super) fn accept(
        &mut self,
        call: Call,
        channel: ChannelId,
        message: MessageId,
        payload: Digest,
        seq: u64,
        chain: Digest,
        time: UnixMillis,
    ) {
        let statement = proof_statement(channel, seq, chain, message, payload, time);
        let proof = self.proof_key.sign(&statement);
        self.reply(call, Reply::Accepted(Accepted { seq, chain, time, proof }));
    }
}

/// Whether the outside of an MLSMessage is what its submission says.
pub(super) fn outside_holds(
    payload: &[u8],
    private: bool,
    kind: EntryKind,
    channel: ChannelId,
    generation: u32,
    epoch: u64,
) -> bool {
    PublicState::peek(payload).is_ok_and(|peeked| {
        peeked.private == private
            && peeked.kind == kind
            && peeked.group == GroupId::of(channel, generation)
            && peeked.epoch == epoch
    })
}

/// What the duplicate check compares: where a submission goes, and all of its parts.
pub(super) fn submission_hash(
    channel: ChannelId,
    generation: u32,
    epoch: u64,
    kind: EntryKind,
    parts: &[Digest],
) -> Digest {
    let (generation, epoch) = (generation.to_be_bytes(), epoch.to_be_bytes());
    let kind = [kind.number()];
    let mut fields: Vec<&[u8]> = vec![b"qpc-submission-v1", &channel.0, &generation, &epoch, &kind];
    fields.extend(parts.iter().map(|part| part.0.as_slice()));
    Digest::of(&fields)
}
