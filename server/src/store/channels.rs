//! Channels, who is in them, and the public state of their groups.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use qpc_protocol::delivery::chain;
use qpc_protocol::error::ErrorCode;
use qpc_protocol::id::{AccountId, ChannelId, Digest, Sender};
use qpc_protocol::server::op::StoreReply;
use qpc_protocol::store::batch::Op;
use qpc_protocol::wire::message::{ChannelInfo, ChannelKind};
use rusqlite::{Row, params};

use super::row::{LAST, bytes, kind_number, kind_of, place};
use super::sweep::CHANNELS;
use super::{Answer, SqliteStore, Stop, all, one, run};

/// Channels and memberships held in memory, a few MB each.
const CACHED: usize = 32_768;

/// Rows of channels and of members as they are now. Changes of a channel are written once, at the end of their
/// transaction, however many entries it got; changes of a member at once.
#[derive(Default)]
pub(super) struct Rows {
    channels: HashMap<ChannelId, Channel>,
    unwritten: BTreeSet<ChannelId>,
    members: HashMap<(i64, i64), Membership>,
}

impl Rows {
    /// Forgets all memberships: some changed.
    pub(super) fn forget_members(&mut self) {
        self.members.clear();
    }

    fn set_member(&mut self, channel: i64, sender: i64, member: Membership) {
        if self.members.len() >= CACHED {
            self.members.clear();
        }
        self.members.insert((channel, sender), member);
    }
}

/// A row of `channels`.
#[derive(Clone, Copy)]
pub(super) struct Channel {
    pub(super) id: ChannelId,
    pub(super) no: i64,
    pub(super) kind: ChannelKind,
    pub(super) generation: u32,
    pub(super) epoch: u64,
    pub(super) head: u64,
    /// The seq of the last reset; 0 if there was none.
    pub(super) reset: u64,
    pub(super) floor: u64,
    pub(super) latest: i64,
    pub(super) due: Option<i64>,
    pub(super) chain: Digest,
}

/// A row of `members`.
#[derive(Clone, Copy)]
pub(super) struct Membership {
    /// Entries above this seq may be read.
    pub(super) joined: u64,
    /// Entries up to this one, if the device was removed.
    pub(super) left: Option<u64>,
    pub(super) cursor: u64,
}

/// What a new channel starts with.
pub(super) struct New<'a> {
    pub(super) kind: ChannelKind,
    pub(super) generation: u32,
    pub(super) with: Option<AccountId>,
    pub(super) group: &'a [Op],
    pub(super) group_info: &'a Bytes,
}

impl SqliteStore {
    /// Adds a channel with its first member, and returns its number.
    pub(super) fn open_channel(
        &mut self,
        id: ChannelId,
        creator: i64,
        kind: ChannelKind,
        generation: u32,
    ) -> Result<i64, Stop> {
        run(
            &self.db,
            "INSERT INTO channels (id, kind, generation, epoch, head, floor, latest, chain)
             VALUES (?, ?, ?, 0, 0, 0, 0, ?)",
            params![id.0, kind_number(kind), generation, chain::start(id).0],
        )?;
        let no = self.db.last_insert_rowid();
        self.join(no, creator, 0)?;
        Ok(no)
    }

    pub(super) fn create_channel(
        &mut self,
        id: ChannelId,
        creator: Sender,
        new: &New<'_>,
    ) -> Answer {
        if self.find_channel(id)?.is_some() {
            return Err(ErrorCode::ChannelExists.into());
        }
        let creator = self.check_device(creator)?;
        if let Some(with) = new.with {
            self.known_account(with)?;
        }
        let no = self.open_channel(id, creator, new.kind, new.generation)?;
        self.change_group(no, new.group)?;
        self.set_group_info(no, new.group_info)?;
        Ok(StoreReply::Done)
    }

    /// Removes a channel and all it holds, if there is one.
    pub(super) fn drop_channel(&mut self, id: ChannelId) -> Result<(), Stop> {
        let Some(channel) = self.find_channel(id)? else { return Ok(()) };
        self.delete_entries(&channel, LAST)?;
        if let Some(due) = channel.due {
            let gone = "DELETE FROM due WHERE kind = ? AND at = ? AND no = ?";
            run(&self.db, gone, [CHANNELS, due, channel.no])?;
        }
        for sql in [
            "DELETE FROM members WHERE channel = ?",
            "DELETE FROM group_infos WHERE channel = ?",
            "DELETE FROM group_records WHERE channel = ?",
            "DELETE FROM channels WHERE no = ?",
        ] {
            run(&self.db, sql, [channel.no])?;
        }
        self.cache.holding.remove(&channel.no);
        self.cache.rows.channels.remove(&id);
        self.cache.rows.unwritten.remove(&id);
        self.cache.rows.forget_members();
        Ok(())
    }

    pub(super) fn channel_info(&mut self, id: ChannelId, reader: Sender) -> Answer {
        let channel = self.channel(id)?;
        let (_, member) = self.present(&channel, reader)?;
        Ok(StoreReply::Channel(self.describe(id, &channel, member.cursor)?))
    }

    pub(super) fn list_channels(
        &mut self,
        reader: Sender,
        after: Option<ChannelId>,
        most: u32,
    ) -> Answer {
        let Some(no) = self.sender(reader)? else {
            return Ok(StoreReply::Channels(Vec::new(), false));
        };
        let mut ids: Vec<[u8; 16]> = all(
            &self.db,
            "SELECT id FROM members CROSS JOIN channels ON no = channel
             WHERE sender = ? AND left_at IS NULL AND NOT gone AND (?2 IS NULL OR id > ?2)
             ORDER BY id LIMIT ?",
            params![no, after.map(|after| after.0), u64::from(most) + 1],
            |row| row.get(0),
        )?;
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let more = ids.len() > most;
        ids.truncate(most);
        let mut page = Vec::with_capacity(ids.len());
        for id in ids.into_iter().map(ChannelId) {
            let channel = self.channel(id)?;
            let (_, member) = self.present(&channel, reader)?;
            page.push(self.describe(id, &channel, member.cursor)?);
        }
        Ok(StoreReply::Channels(page, more))
    }

    pub(super) fn load_group(&mut self, id: ChannelId) -> Answer {
        let channel = self.channel(id)?;
        let records = all(
            &self.db,
            "SELECT key, value FROM group_records WHERE channel = ? ORDER BY key",
            [channel.no],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        Ok(StoreReply::Group { generation: channel.generation, epoch: channel.epoch, records })
    }

    pub(super) fn load_group_info(&mut self, id: ChannelId, reader: Sender) -> Answer {
        let channel = self.channel(id)?;
        let (_, member) = self.member(&channel, reader)?;
        if let Some(left) = member.left {
            let until = channel.reset > 0 && left == channel.reset;
            let code = if until { ErrorCode::GenerationMismatch } else { ErrorCode::NotMember };
            return Err(code.into());
        }
        let stored = "SELECT group_info FROM group_infos WHERE channel = ?";
        let group_info = one(&self.db, stored, [channel.no], |row| row.get(0))?;
        Ok(StoreReply::GroupInfo {
            generation: channel.generation,
            epoch: channel.epoch,
            group_info: bytes(group_info.unwrap_or_default()),
            seq: channel.head,
            chain: channel.chain,
        })
    }

    pub(super) fn find_channel(&mut self, id: ChannelId) -> Result<Option<Channel>, Stop> {
        if let Some(channel) = self.cache.rows.channels.get(&id) {
            return Ok(Some(*channel));
        }
        let read = |row: &Row<'_>| {
            let channel = Channel {
                id,
                no: row.get(0)?,
                kind: ChannelKind::Group,
                generation: row.get(2)?,
                epoch: row.get(3)?,
                head: row.get(4)?,
                floor: row.get(5)?,
                latest: row.get(6)?,
                due: row.get(7)?,
                chain: Digest(row.get(8)?),
                reset: row.get(9)?,
            };
            Ok((row.get(1)?, channel))
        };
        let found = one(
            &self.db,
            "SELECT no, kind, generation, epoch, head, floor, latest, due, chain, reset
             FROM channels WHERE id = ?",
            [id.0],
            read,
        )?;
        let Some((kind, channel)) = found else { return Ok(None) };
        let channel = Channel { kind: kind_of(kind)?, ..channel };
        self.cache.rows.channels.insert(id, channel);
        Ok(Some(channel))
    }

    pub(super) fn channel_of_number(&mut self, no: i64) -> Result<Option<Channel>, Stop> {
        match one(&self.db, "SELECT id FROM channels WHERE no = ?", [no], |row| row.get(0))? {
            Some(id) => self.find_channel(ChannelId(id)),
            None => Ok(None),
        }
    }

    pub(super) fn channel(&mut self, id: ChannelId) -> Result<Channel, Stop> {
        self.find_channel(id)?.ok_or(ErrorCode::ChannelUnknown.into())
    }

    /// Notes what changed in the life of a channel; [`Self::write_channels`] writes it.
    pub(super) fn set_channel(&mut self, channel: &Channel) {
        self.cache.rows.channels.insert(channel.id, *channel);
        self.cache.rows.unwritten.insert(channel.id);
    }

    /// Writes the channels that changed.
    pub(super) fn write_channels(&mut self) -> rusqlite::Result<()> {
        let rows = &mut self.cache.rows;
        while let Some(id) = rows.unwritten.pop_first() {
            let Some(channel) = rows.channels.get(&id) else { continue };
            run(
                &self.db,
                "UPDATE channels SET generation = ?, epoch = ?, reset = ?, head = ?, floor = ?,
                     latest = ?, due = ?, chain = ?
                 WHERE no = ?",
                params![
                    channel.generation,
                    channel.epoch,
                    channel.reset,
                    channel.head,
                    channel.floor,
                    channel.latest,
                    channel.due,
                    channel.chain.0,
                    channel.no
                ],
            )?;
        }
        if rows.channels.len() > CACHED {
            rows.channels.clear();
        }
        Ok(())
    }

    /// The number and membership of a device that is or was a member.
    pub(super) fn member(
        &mut self,
        channel: &Channel,
        sender: Sender,
    ) -> Result<(i64, Membership), Stop> {
        let no = self.sender(sender)?.ok_or(ErrorCode::NotMember)?;
        if let Some(member) = self.cache.rows.members.get(&(channel.no, no)) {
            return Ok((no, *member));
        }
        let member = one(
            &self.db,
            "SELECT joined, left_at, cursor FROM members
             WHERE channel = ? AND sender = ? AND NOT gone",
            [channel.no, no],
            |row| Ok(Membership { joined: row.get(0)?, left: row.get(1)?, cursor: row.get(2)? }),
        )?;
        let member = member.ok_or(ErrorCode::NotMember)?;
        self.cache.rows.set_member(channel.no, no, member);
        Ok((no, member))
    }

    /// The same of one that is a member now.
    pub(super) fn present(
        &mut self,
        channel: &Channel,
        sender: Sender,
    ) -> Result<(i64, Membership), Stop> {
        let (no, member) = self.member(channel, sender)?;
        if member.left.is_some() {
            return Err(ErrorCode::NotMember.into());
        }
        Ok((no, member))
    }

    pub(super) fn join(&mut self, channel: i64, sender: i64, seq: u64) -> Result<(), Stop> {
        run(
            &self.db,
            "INSERT OR REPLACE INTO members (channel, sender, joined, cursor) VALUES (?1, ?2, ?3, ?3)",
            params![channel, sender, seq],
        )?;
        self.cache.holding.remove(&channel);
        self.cache.rows.members.remove(&(channel, sender));
        Ok(())
    }

    /// Lets a device read on that was a member until the last reset; false if it was not.
    pub(super) fn take_back(&mut self, channel: &Channel, sender: i64) -> Result<bool, Stop> {
        let changed = run(
            &self.db,
            "UPDATE members SET left_at = NULL
             WHERE channel = ?1 AND sender = ?2 AND left_at = ?3 AND ?3 > 0",
            params![channel.no, sender, channel.reset],
        )?;
        self.cache.rows.members.remove(&(channel.no, sender));
        self.cache.holding.remove(&channel.no);
        Ok(changed > 0)
    }

    /// Begins the next generation, with one member, at the entry of that seq; the channel's row is the caller's to
    /// write.
    pub(super) fn begin(
        &mut self,
        channel: &mut Channel,
        generation: u32,
        founder: i64,
        seq: u64,
    ) -> Result<(), Stop> {
        run(
            &self.db,
            "UPDATE members SET left_at = iif(sender = ?1, NULL, ?2) WHERE channel = ?3
                 AND (left_at IS NULL OR (left_at = ?4 AND ?4 > 0) OR sender = ?1)",
            params![founder, seq, channel.no, channel.reset],
        )?;
        run(&self.db, "DELETE FROM group_records WHERE channel = ?", [channel.no])?;
        self.cache.rows.forget_members();
        self.cache.holding.remove(&channel.no);
        (channel.generation, channel.epoch, channel.reset) = (generation, 0, seq);
        Ok(())
    }

    pub(super) fn leave(&mut self, channel: i64, sender: Sender, seq: u64) -> Result<(), Stop> {
        if let Some(no) = self.sender(sender)? {
            run(
                &self.db,
                "UPDATE members SET left_at = ?
                 WHERE channel = ? AND sender = ? AND left_at IS NULL",
                params![seq, channel, no],
            )?;
            self.cache.rows.members.remove(&(channel, no));
        }
        self.cache.holding.remove(&channel);
        Ok(())
    }

    pub(super) fn set_cursor(
        &mut self,
        channel: i64,
        sender: i64,
        member: Membership,
    ) -> Result<(), Stop> {
        run(
            &self.db,
            "UPDATE members SET cursor = ? WHERE channel = ? AND sender = ?",
            params![member.cursor, channel, sender],
        )?;
        self.cache.rows.set_member(channel, sender, member);
        Ok(())
    }

    pub(super) fn change_group(&self, channel: i64, ops: &[Op]) -> Result<(), Stop> {
        for op in ops {
            match op {
                Op::Put(key, value) => run(
                    &self.db,
                    "INSERT OR REPLACE INTO group_records (channel, key, value) VALUES (?, ?, ?)",
                    params![channel, key, value],
                )?,
                Op::Delete(key) => run(
                    &self.db,
                    "DELETE FROM group_records WHERE channel = ? AND key = ?",
                    params![channel, key],
                )?,
                Op::DeletePrefix(prefix) => match after_prefix(prefix) {
                    Some(end) => run(
                        &self.db,
                        "DELETE FROM group_records WHERE channel = ? AND key >= ? AND key < ?",
                        params![channel, prefix, end],
                    )?,
                    None => run(
                        &self.db,
                        "DELETE FROM group_records WHERE channel = ? AND key >= ?",
                        params![channel, prefix],
                    )?,
                },
            };
        }
        Ok(())
    }

    pub(super) fn set_group_info(&self, channel: i64, group_info: &Bytes) -> Result<(), Stop> {
        run(
            &self.db,
            "INSERT OR REPLACE INTO group_infos (channel, group_info) VALUES (?, ?)",
            params![channel, &group_info[..]],
        )?;
        Ok(())
    }

    /// Removes the entries up to `seq`; the channel's row is the caller's to write.
    pub(super) fn delete_entries(&self, channel: &Channel, seq: u64) -> Result<(), Stop> {
        let (first, last) = (place(channel.no, channel.floor + 1)?, place(channel.no, seq)?);
        run(&self.db, "DELETE FROM entries WHERE place BETWEEN ? AND ?", [first, last])?;
        Ok(())
    }

    fn describe(&self, id: ChannelId, channel: &Channel, cursor: u64) -> Result<ChannelInfo, Stop> {
        let members = one(
            &self.db,
            "SELECT count(*) FROM members WHERE channel = ? AND left_at IS NULL AND NOT gone",
            [channel.no],
            |row| row.get(0),
        )?;
        Ok(ChannelInfo {
            channel: id,
            kind: channel.kind,
            generation: channel.generation,
            epoch: channel.epoch,
            head: channel.head,
            cursor,
            members: members.unwrap_or(0),
        })
    }
}

/// The first key after all that start with `prefix`; `None` if there is none.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xFF)?;
    let mut end = prefix.get(..=last)?.to_vec();
    if let Some(byte) = end.last_mut() {
        *byte += 1;
    }
    Some(end)
}
