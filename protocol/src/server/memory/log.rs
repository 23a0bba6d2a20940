//! The channel log: appending, committing, reading, acknowledging.

use std::collections::BTreeMap;

use super::channels::{Channel, Kept, Membership};
use super::{Answer, MemoryStore, Refusal};
use crate::delivery::chain;
use crate::env::UnixMillis;
use crate::error::ErrorCode;
use crate::id::{ChannelId, Digest, MessageId, Sender};
use crate::limits;
use crate::server::op::{Append, Commit, Reset, StoreReply};
use crate::wire::message::{Entry, EntryKind, Origin, Part};

/// What one device submitted, remembered for answering it again.
#[derive(Clone, Default)]
pub(super) struct Submissions {
    pub(super) known: BTreeMap<MessageId, Submission>,
    /// The end of the last one; no later one ends earlier.
    pub(super) latest: UnixMillis,
}

#[derive(Clone, Copy)]
pub(super) struct Submission {
    hash: Digest,
    seq: u64,
    chain: Digest,
    time: UnixMillis,
    pub(super) expires: UnixMillis,
}

/// Which entries to read.
pub(super) struct Span {
    pub(super) after: u64,
    pub(super) most: u32,
    pub(super) bytes: u64,
}

impl Channel {
    /// Appends an entry (whose seq is the one after the head) and returns the chain up to it.
    fn push(&mut self, entry: Entry, expires: UnixMillis) -> Digest {
        self.latest = self.latest.max(expires);
        self.head = entry.seq;
        self.chain = chain::next(self.chain, &entry);
        self.entries.insert(entry.seq, Kept { entry, expires: self.latest });
        self.chain
    }

    /// The first seq above the floor whose entry has not ended; `head + 1` if none.
    fn first_kept(&self, at: UnixMillis) -> u64 {
        let kept = self.entries.iter().find(|(_, kept)| kept.expires > at);
        kept.map_or(self.head + 1, |(&seq, _)| seq)
    }
}

impl Membership {
    /// The last seq that this member may read.
    fn head(&self, channel: &Channel) -> u64 {
        self.left.unwrap_or(channel.head)
    }

    /// The cursor, if entries above it have to be kept for this member.
    fn holds(&self) -> Option<u64> {
        match self.left {
            Some(left) if self.cursor >= left => None,
            _ => Some(self.cursor),
        }
    }
}

impl MemoryStore {
    pub(super) fn append(&mut self, op: &Append) -> Answer {
        if let Some(reply) = self.duplicate(op.sender, op.message, op.hash, op.at)? {
            return Ok(reply);
        }
        let channel = self.writable(op.channel, op.sender, op.generation)?;
        let (found, now) = (op.epoch, channel.epoch);
        if found > now {
            return Err(Refusal { code: ErrorCode::FutureEpoch, epoch: now });
        }
        if now - found > op.past_epochs {
            return Err(Refusal { code: ErrorCode::StaleEpoch, epoch: now });
        }
        let entry = Entry {
            seq: channel.head + 1,
            kind: op.kind,
            generation: op.generation,
            epoch: op.epoch,
            sender: op.sender,
            message: op.message,
            time: op.at,
            origin: None,
            payload: op.payload.clone(),
        };
        let seq = entry.seq;
        let channel = self.channels.get_mut(&op.channel).ok_or(ErrorCode::ChannelUnknown)?;
        let chain = channel.push(entry, op.expires);
        channel.change_group(&op.group);
        let submission = Submission { hash: op.hash, seq, chain, time: op.at, expires: op.expires };
        self.remember(op.sender, op.message, submission);
        Ok(appended(&submission, false, Vec::new()))
    }

    pub(super) fn commit(&mut self, op: &Commit) -> Answer {
        if let Some(reply) = self.duplicate(op.sender, op.message, op.hash, op.at)? {
            return Ok(reply);
        }
        let channel = self.writable(op.channel, op.sender, op.generation)?;
        let now = channel.epoch;
        if op.epoch > now {
            return Err(Refusal { code: ErrorCode::FutureEpoch, epoch: now });
        }
        if op.epoch < now {
            return Err(Refusal { code: ErrorCode::EpochConflict, epoch: now });
        }
        for add in &op.adds {
            let registered = self.devices.get(&add.sender).map(|device| device.record.device_key);
            if !self.is_active(add.sender) || registered != Some(add.device_key) {
                return Err(ErrorCode::RecordInvalid.into());
            }
        }
        if let Part::Blob { hash, len } = op.commit
            && !self.has_blob(hash, len, op.at)
        {
            return Err(ErrorCode::BlobUnknown.into());
        }
        let entry = Entry {
            seq: channel.head + 1,
            kind: EntryKind::Commit,
            generation: op.generation,
            epoch: op.epoch,
            sender: op.sender,
            message: op.message,
            time: op.at,
            origin: None,
            payload: op.commit.clone(),
        };
        let seq = entry.seq;
        let channel = self.channels.get_mut(&op.channel).ok_or(ErrorCode::ChannelUnknown)?;
        let chain = channel.push(entry, op.expires);
        channel.epoch += 1;
        channel.change_group(&op.group);
        channel.set_group_info(&op.group_info);
        let ends = channel.latest;
        for &removed in &op.removes {
            channel.leave(removed, seq);
        }
        for add in &op.adds {
            channel.join(add.sender, seq);
            self.memberships.insert((add.sender, op.channel));
        }
        if let Part::Blob { hash, .. } = op.commit {
            self.keep_named(hash, ends);
        }
        let (tree, tree_len) = match &op.tree {
            Some(tree) => (self.keep_blob(tree, op.expires), tree.len() as u64),
            None => (Digest([0; 32]), 0),
        };
        let origin = Origin { channel: op.channel, seq, chain, tree, tree_len };
        let inboxes = self.deliver_welcomes(op, origin);
        let submission = Submission { hash: op.hash, seq, chain, time: op.at, expires: op.expires };
        self.remember(op.sender, op.message, submission);
        Ok(appended(&submission, false, inboxes))
    }

    pub(super) fn reset_channel(&mut self, op: &Reset) -> Answer {
        if let Some(reply) = self.duplicate(op.founder, op.message, op.hash, op.at)? {
            return Ok(reply);
        }
        let (channel, member) = self.readable(op.channel, op.founder)?;
        if member.left.is_some() && !member.was_in_until(channel.reset) {
            return Err(ErrorCode::NotMember.into());
        }
        if channel.generation.checked_add(1) != Some(op.generation) {
            return Err(ErrorCode::GenerationMismatch.into());
        }
        let channel = self.channels.get_mut(&op.channel).ok_or(ErrorCode::ChannelUnknown)?;
        let seq = channel.head + 1;
        let chain = channel.push(op.entry(seq), op.expires);
        channel.begin(op.generation, op.founder, seq);
        channel.change_group(&op.group);
        channel.set_group_info(&op.group_info);
        let submission = Submission { hash: op.hash, seq, chain, time: op.at, expires: op.expires };
        self.remember(op.founder, op.message, submission);
        Ok(appended(&submission, false, Vec::new()))
    }

    fn deliver_welcomes(&mut self, op: &Commit, origin: Origin) -> Vec<(ChannelId, u64)> {
        let mut inboxes = Vec::with_capacity(op.welcomes.len());
        for (add, welcome) in op.adds.iter().zip(&op.welcomes) {
            let id = ChannelId::inbox(add.sender);
            // An active device has an inbox.
            let Some(inbox) = self.channels.get_mut(&id) else { continue };
            let entry = Entry {
                seq: inbox.head + 1,
                kind: EntryKind::Welcome,
                generation: op.generation,
                epoch: op.epoch + 1,
                sender: op.sender,
                message: op.message,
                time: op.at,
                origin: Some(origin),
                payload: Part::Inline(welcome.clone()),
            };
            inboxes.push((id, entry.seq));
            inbox.push(entry, op.expires);
        }
        inboxes
    }

    /// Appends a notice to a channel, if there is one: where it stands.
    pub(super) fn tell(
        &mut self,
        id: ChannelId,
        notice: &Entry,
        expires: UnixMillis,
    ) -> Option<(ChannelId, u64)> {
        let channel = self.channels.get_mut(&id)?;
        let (seq, generation, epoch) = (channel.head + 1, channel.generation, channel.epoch);
        channel.push(Entry { seq, generation, epoch, ..notice.clone() }, expires);
        Some((id, seq))
    }

    pub(super) fn fetch(
        &self,
        id: ChannelId,
        reader: Sender,
        span: &Span,
        at: UnixMillis,
    ) -> Answer {
        let (channel, member) = self.readable(id, reader)?;
        let head = member.head(channel);
        if span.after > head {
            return Err(ErrorCode::CursorInvalid.into());
        }
        let first = channel.first_kept(at).max(member.joined + 1).min(head + 1);
        let start = first.max(span.after + 1);
        let most = usize::try_from(span.most).unwrap_or(usize::MAX).max(1);
        let mut entries = Vec::new();
        let mut bytes = 0_u64;
        if start <= head {
            for kept in channel.entries.range(start..=head).map(|(_, kept)| kept).take(most) {
                bytes = bytes.saturating_add(inline_len(&kept.entry.payload));
                if bytes > span.bytes && !entries.is_empty() {
                    break;
                }
                entries.push(kept.entry.clone());
            }
        }
        Ok(StoreReply::Entries { entries, head, first })
    }

    pub(super) fn ack(&mut self, id: ChannelId, reader: Sender, seq: u64) -> Answer {
        let (channel, member) = self.readable(id, reader)?;
        if seq > member.head(channel) {
            return Err(ErrorCode::CursorInvalid.into());
        }
        if seq <= member.cursor {
            return Ok(StoreReply::Done);
        }
        let channel = self.channels.get_mut(&id).ok_or(ErrorCode::ChannelUnknown)?;
        if let Some(member) = channel.members.get_mut(&reader) {
            member.cursor = seq;
        }
        let channel = self.channel(id)?;
        let mut floor = channel.head;
        for (&member, membership) in &channel.members {
            if let Some(cursor) = membership.holds()
                && cursor < floor
                && self.is_active(member)
            {
                if cursor <= channel.floor {
                    return Ok(StoreReply::Done);
                }
                floor = cursor;
            }
        }
        let channel = self.channels.get_mut(&id).ok_or(ErrorCode::ChannelUnknown)?;
        if floor > channel.floor {
            channel.floor = floor;
            channel.entries = channel.entries.split_off(&(floor + 1));
        }
        Ok(StoreReply::Done)
    }

    /// The first answer to this submission, if it was accepted before and is remembered.
    fn duplicate(
        &self,
        sender: Sender,
        message: MessageId,
        hash: Digest,
        at: UnixMillis,
    ) -> Result<Option<StoreReply>, Refusal> {
        let known = self.submissions.get(&sender).and_then(|device| device.known.get(&message));
        match known.filter(|submission| submission.expires > at) {
            None => Ok(None),
            Some(first) if first.hash == hash => Ok(Some(appended(first, true, Vec::new()))),
            Some(_) => Err(ErrorCode::MessageIdReused.into()),
        }
    }

    fn remember(&mut self, sender: Sender, message: MessageId, submission: Submission) {
        let device = self.submissions.entry(sender).or_default();
        device.latest = device.latest.max(submission.expires.plus(limits::RESEND_TIME));
        device.known.insert(message, Submission { expires: device.latest, ..submission });
    }

    fn writable(
        &self,
        id: ChannelId,
        sender: Sender,
        generation: u32,
    ) -> Result<&Channel, ErrorCode> {
        let (channel, member) = self.readable(id, sender)?;
        if channel.generation != generation {
            return Err(ErrorCode::GenerationMismatch);
        }
        if member.left.is_some() {
            return Err(ErrorCode::NotMember);
        }
        Ok(channel)
    }

    pub(super) fn readable(
        &self,
        id: ChannelId,
        reader: Sender,
    ) -> Result<(&Channel, Membership), ErrorCode> {
        let channel = self.channel(id)?;
        let member = channel.members.get(&reader).filter(|_| self.is_active(reader));
        Ok((channel, *member.ok_or(ErrorCode::NotMember)?))
    }
}

fn appended(
    submission: &Submission,
    duplicate: bool,
    inboxes: Vec<(ChannelId, u64)>,
) -> StoreReply {
    let &Submission { seq, chain, time, .. } = submission;
    StoreReply::Appended { seq, chain, time, duplicate, inboxes }
}

fn inline_len(part: &Part) -> u64 {
    match part {
        Part::Inline(bytes) => bytes.len() as u64,
        Part::Blob { .. } => 0,
    }
}
