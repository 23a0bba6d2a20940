//! The channel log: appending, committing, reading, acknowledging.

use qpc_protocol::delivery::chain;
use qpc_protocol::env::UnixMillis;
use qpc_protocol::error::ErrorCode;
use qpc_protocol::id::{AccountId, ChannelId, DeviceId, Digest, MessageId, Sender};
use qpc_protocol::server::op::{Append, Commit, Reset, StoreReply};
use qpc_protocol::wire::message::{Entry, EntryKind, Origin, Part};
use rusqlite::{Row, params};

use super::channels::{Channel, Membership};
use super::row::{bytes, decode_origin, encode_origin, ordered, place, position};
use super::submissions::Submission;
use super::sweep::CHANNELS;
use super::{Answer, SqliteStore, Stop, all, one, run};

/// Which entries to read.
pub(super) struct Span {
    pub(super) after: u64,
    pub(super) most: u32,
    pub(super) bytes: u64,
}

impl Membership {
    /// The last seq that this member may read.
    fn head(&self, channel: &Channel) -> u64 {
        self.left.unwrap_or(channel.head)
    }

    /// Whether entries from `floor` on have to be kept for this member.
    fn holds_at(&self, floor: u64) -> bool {
        self.cursor <= floor && self.left.is_none_or(|left| self.cursor < left)
    }
}

impl SqliteStore {
    pub(super) fn append(&mut self, op: &Append) -> Answer {
        let sender = self.sender(op.sender)?;
        if let Some(sender) = sender
            && let Some(reply) = self.duplicate(sender, op.message, op.hash, op.at)?
        {
            return Ok(reply);
        }
        let (mut channel, sender) = self.writable(op.channel, op.sender, op.generation)?;
        let now = channel.epoch;
        if op.epoch > now {
            return Err(Stop::Refused { code: ErrorCode::FutureEpoch, epoch: now });
        }
        if now - op.epoch > op.past_epochs {
            return Err(Stop::Refused { code: ErrorCode::StaleEpoch, epoch: now });
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
        let chain = self.push(&mut channel, sender, &entry, op.expires)?;
        self.change_group(channel.no, &op.group)?;
        let submission = Submission { hash: op.hash, seq, chain, time: op.at, expires: op.expires };
        self.remember(sender, op.message, &submission)?;
        Ok(submission.reply(false, Vec::new()))
    }

    pub(super) fn commit(&mut self, op: &Commit) -> Answer {
        let sender = self.sender(op.sender)?;
        if let Some(sender) = sender
            && let Some(reply) = self.duplicate(sender, op.message, op.hash, op.at)?
        {
            return Ok(reply);
        }
        let (mut channel, sender) = self.writable(op.channel, op.sender, op.generation)?;
        let now = channel.epoch;
        if op.epoch > now {
            return Err(Stop::Refused { code: ErrorCode::FutureEpoch, epoch: now });
        }
        if op.epoch < now {
            return Err(Stop::Refused { code: ErrorCode::EpochConflict, epoch: now });
        }
        let mut adds = Vec::with_capacity(op.adds.len());
        for add in &op.adds {
            match self.active_key(add.sender)? {
                Some((no, key)) if key == add.device_key => adds.push((no, add.sender)),
                _ => return Err(ErrorCode::RecordInvalid.into()),
            }
        }
        let blob = match op.commit {
            Part::Blob { hash, len } => Some(self.named_blob(hash, len, op.at)?),
            Part::Inline(_) => None,
        };
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
        channel.epoch += 1;
        let chain = self.push(&mut channel, sender, &entry, op.expires)?;
        if let Some(blob) = blob {
            self.keep_until(&blob, channel.latest)?;
        }
        self.change_group(channel.no, &op.group)?;
        self.set_group_info(channel.no, &op.group_info)?;
        for &removed in &op.removes {
            self.leave(channel.no, removed, seq)?;
        }
        for &(no, _) in &adds {
            if !self.take_back(&channel, no)? {
                self.join(channel.no, no, seq)?;
            }
        }
        let (tree, tree_len) = match &op.tree {
            Some(tree) => (self.keep_blob(tree, op.expires)?, tree.len() as u64),
            None => (Digest([0; 32]), 0),
        };
        let origin = Origin { channel: op.channel, seq, chain, tree, tree_len };
        let inboxes = self.deliver_welcomes(op, sender, &adds, origin)?;
        let submission = Submission { hash: op.hash, seq, chain, time: op.at, expires: op.expires };
        self.remember(sender, op.message, &submission)?;
        Ok(submission.reply(false, inboxes))
    }

    pub(super) fn reset_channel(&mut self, op: &Reset) -> Answer {
        let sender = self.sender(op.founder)?;
        if let Some(sender) = sender
            && let Some(reply) = self.duplicate(sender, op.message, op.hash, op.at)?
        {
            return Ok(reply);
        }
        let mut channel = self.channel(op.channel)?;
        let (founder, member) = self.member(&channel, op.founder)?;
        if member.left.is_some_and(|left| left != channel.reset) {
            return Err(ErrorCode::NotMember.into());
        }
        if channel.generation.checked_add(1) != Some(op.generation) {
            return Err(ErrorCode::GenerationMismatch.into());
        }
        let seq = channel.head + 1;
        self.begin(&mut channel, op.generation, founder, seq)?;
        let chain = self.push(&mut channel, founder, &op.entry(seq), op.expires)?;
        self.change_group(channel.no, &op.group)?;
        self.set_group_info(channel.no, &op.group_info)?;
        let submission = Submission { hash: op.hash, seq, chain, time: op.at, expires: op.expires };
        self.remember(founder, op.message, &submission)?;
        Ok(submission.reply(false, Vec::new()))
    }

    fn deliver_welcomes(
        &mut self,
        op: &Commit,
        committer: i64,
        adds: &[(i64, Sender)],
        origin: Origin,
    ) -> Result<Vec<(ChannelId, u64)>, Stop> {
        let mut inboxes = Vec::with_capacity(op.welcomes.len());
        for (&(_, sender), welcome) in adds.iter().zip(&op.welcomes) {
            let id = ChannelId::inbox(sender);
            let Some(mut inbox) = self.find_channel(id)? else {
                return Err(Stop::corrupt("an active device without an inbox"));
            };
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
            self.push(&mut inbox, committer, &entry, op.expires)?;
        }
        Ok(inboxes)
    }

    /// Appends a notice to a channel: where it stands.
    pub(super) fn tell(
        &mut self,
        id: ChannelId,
        notice: &Entry,
        expires: UnixMillis,
    ) -> Result<(ChannelId, u64), Stop> {
        let mut channel =
            self.find_channel(id)?.ok_or_else(|| Stop::corrupt("a member without a channel"))?;
        let sender = self.number_sender(notice.sender)?;
        let Channel { generation, epoch, head, .. } = channel;
        let entry = Entry { seq: head + 1, generation, epoch, ..notice.clone() };
        self.push(&mut channel, sender, &entry, expires)?;
        Ok((id, entry.seq))
    }

    /// Appends an entry (whose seq is the one after the head) and returns the chain up to it.
    fn push(
        &mut self,
        channel: &mut Channel,
        sender: i64,
        entry: &Entry,
        expires: UnixMillis,
    ) -> Result<Digest, Stop> {
        channel.head = entry.seq;
        channel.chain = chain::next(channel.chain, entry);
        channel.latest = channel.latest.max(ordered(expires));
        let (payload, blob_len) = match &entry.payload {
            Part::Inline(bytes) => (&bytes[..], None),
            Part::Blob { hash, len } => (hash.as_bytes(), Some(len.cast_signed())),
        };
        run(
            &self.db,
            "INSERT INTO entries (place, kind, generation, epoch, sender, time, expires, message,
                 origin, blob_len, payload)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            params![
                place(channel.no, entry.seq)?,
                entry.kind.number(),
                entry.generation,
                entry.epoch,
                sender,
                entry.time.0.cast_signed(),
                channel.latest,
                entry.message.0,
                entry.origin.as_ref().map(encode_origin),
                blob_len,
                payload,
            ],
        )?;
        if channel.due.is_none() {
            channel.due = Some(channel.latest);
            let due = "INSERT OR IGNORE INTO due (kind, at, no) VALUES (?, ?, ?)";
            run(&self.db, due, [CHANNELS, channel.latest, channel.no])?;
        }
        self.set_channel(channel);
        Ok(channel.chain)
    }

    pub(super) fn fetch(
        &mut self,
        id: ChannelId,
        reader: Sender,
        span: &Span,
        at: UnixMillis,
    ) -> Answer {
        let channel = self.channel(id)?;
        let (_, member) = self.member(&channel, reader)?;
        let head = member.head(&channel);
        if span.after > head {
            return Err(ErrorCode::CursorInvalid.into());
        }
        let kept = self.first_kept(&channel, ordered(at))?;
        let first = kept.max(member.joined + 1).min(head + 1);
        let start = first.max(span.after + 1);
        let entries = if start <= head {
            self.read_entries(place(channel.no, start)?, place(channel.no, head)?, span)?
        } else {
            Vec::new()
        };
        Ok(StoreReply::Entries { entries, head, first })
    }

    fn read_entries(&self, first: i64, last: i64, span: &Span) -> Result<Vec<Entry>, Stop> {
        let mut statement = self.db.prepare_cached(
            "SELECT e.place, e.kind, e.generation, e.epoch, s.account, s.device, e.message, e.time,
                 e.origin, e.blob_len, e.payload
             FROM entries e CROSS JOIN senders s ON s.no = e.sender
             WHERE e.place BETWEEN ? AND ? ORDER BY e.place LIMIT ?",
        )?;
        let mut rows = statement.query(params![first, last, span.most.max(1)])?;
        let mut entries = Vec::new();
        let mut size = 0_u64;
        while let Some(row) = rows.next()? {
            let entry = read_entry(row)?;
            if let Part::Inline(payload) = &entry.payload {
                size = size.saturating_add(payload.len() as u64);
            }
            if size > span.bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The first seq above the floor whose entry has not ended; `head + 1` if none. Entries end in their order.
    pub(super) fn first_kept(&self, channel: &Channel, at: i64) -> Result<u64, Stop> {
        let (mut low, mut high) = (channel.floor + 1, channel.head + 1);
        // Mostly the first one has not ended, so that is asked first; then halves.
        let mut middle = low;
        while low < high {
            let ends = "SELECT expires FROM entries WHERE place = ?";
            let ends: Option<i64> =
                one(&self.db, ends, [place(channel.no, middle)?], |row| row.get(0))?;
            let ends = ends.ok_or_else(|| Stop::corrupt("a log with a gap"))?;
            if ends > at {
                high = middle;
            } else {
                low = middle + 1;
            }
            middle = low + (high - low) / 2;
        }
        Ok(low)
    }

    pub(super) fn ack(&mut self, id: ChannelId, reader: Sender, seq: u64) -> Answer {
        let mut channel = self.channel(id)?;
        let (no, member) = self.member(&channel, reader)?;
        if seq > member.head(&channel) {
            return Err(ErrorCode::CursorInvalid.into());
        }
        if seq <= member.cursor {
            return Ok(StoreReply::Done);
        }
        let moved = Membership { cursor: seq, ..member };
        self.set_cursor(channel.no, no, moved)?;
        let before = member.holds_at(channel.floor);
        let after = moved.holds_at(channel.floor);
        if let Some(holding) = self.cache.holding.get_mut(&channel.no) {
            *holding = holding.saturating_sub(u64::from(before && !after));
            if *holding > 0 {
                // Somebody else still holds the floor: counting all members can wait for the last of them.
                return Ok(StoreReply::Done);
            }
        }
        self.raise_floor(&mut channel)?;
        Ok(StoreReply::Done)
    }

    /// Removes the entries that nobody holds, and counts who holds the new floor.
    fn raise_floor(&mut self, channel: &mut Channel) -> Result<(), Stop> {
        let cursors: Vec<u64> = all(
            &self.db,
            "SELECT cursor FROM members
             WHERE channel = ? AND NOT gone AND (left_at IS NULL OR cursor < left_at)",
            [channel.no],
            |row| row.get(0),
        )?;
        let floor = cursors.iter().copied().min().unwrap_or(channel.head);
        if floor > channel.floor {
            self.delete_entries(channel, floor)?;
            channel.floor = floor;
            self.set_channel(channel);
        }
        let holding = cursors.iter().filter(|&&cursor| cursor <= channel.floor).count();
        self.cache.holding.insert(channel.no, holding as u64);
        Ok(())
    }

    /// The channel and the sender's number, if it may submit to that generation.
    fn writable(
        &mut self,
        id: ChannelId,
        sender: Sender,
        generation: u32,
    ) -> Result<(Channel, i64), Stop> {
        let channel = self.channel(id)?;
        let (no, member) = self.member(&channel, sender)?;
        if channel.generation != generation {
            return Err(ErrorCode::GenerationMismatch.into());
        }
        if member.left.is_some() {
            return Err(ErrorCode::NotMember.into());
        }
        Ok((channel, no))
    }
}

fn read_entry(row: &Row<'_>) -> Result<Entry, Stop> {
    let kind = EntryKind::from_number(row.get(1)?);
    let origin = match row.get::<_, Option<Vec<u8>>>(8)? {
        Some(bytes) => {
            Some(decode_origin(&bytes).ok_or_else(|| Stop::corrupt("a welcome's origin"))?)
        }
        None => None,
    };
    let payload = match row.get::<_, Option<i64>>(9)? {
        Some(len) => Part::Blob { hash: Digest(row.get(10)?), len: len.cast_unsigned() },
        None => Part::Inline(bytes(row.get(10)?)),
    };
    Ok(Entry {
        seq: position(row.get(0)?),
        kind: kind.ok_or_else(|| Stop::corrupt("an entry of no known kind"))?,
        generation: row.get(2)?,
        epoch: row.get(3)?,
        sender: Sender { account: AccountId(row.get(4)?), device: DeviceId(row.get(5)?) },
        message: MessageId(row.get(6)?),
        time: UnixMillis(row.get::<_, i64>(7)?.cast_unsigned()),
        origin,
        payload,
    })
}
