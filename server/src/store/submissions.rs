//! What devices submitted, remembered for answering it again.
//!
//! Rows are appended per device, so that they cost no more than the bytes they hold; which message stands in which
//! row is looked up in memory, read once per device and kept for those that submitted last.

use std::collections::{BTreeMap, HashMap};

use qpc_protocol::env::UnixMillis;
use qpc_protocol::error::ErrorCode;
use qpc_protocol::id::{ChannelId, Digest, MessageId};
use qpc_protocol::limits;
use qpc_protocol::server::op::StoreReply;
use rusqlite::params;

use super::row::{LAST, ordered, place, position};
use super::sweep::SENDERS;
use super::{SqliteStore, Stop, all, one, run};

/// Message ids held in memory before the devices that rested longest are forgotten: about 50 MB.
const CACHED: usize = 1_000_000;

/// Where the submissions of devices stand.
pub(super) struct Index {
    /// Ids to hold at most, but for those of the device that is at work.
    pub(super) most: usize,
    devices: HashMap<i64, Device>,
    by_use: BTreeMap<u64, i64>,
    uses: u64,
    pub(super) ids: usize,
}

impl Default for Index {
    fn default() -> Self {
        let (devices, by_use) = Default::default();
        Self { most: CACHED, devices, by_use, uses: 0, ids: 0 }
    }
}

#[derive(Default)]
struct Device {
    rows: HashMap<MessageId, u64>,
    next: u64,
    /// The last one's end; no later one ends earlier. 0 without any.
    latest: i64,
    used: u64,
}

/// One submission as it is remembered.
pub(super) struct Submission {
    pub(super) hash: Digest,
    pub(super) seq: u64,
    pub(super) chain: Digest,
    pub(super) time: UnixMillis,
    pub(super) expires: UnixMillis,
}

impl Submission {
    pub(super) fn reply(&self, duplicate: bool, inboxes: Vec<(ChannelId, u64)>) -> StoreReply {
        let &Self { seq, chain, time, .. } = self;
        StoreReply::Appended { seq, chain, time, duplicate, inboxes }
    }
}

impl Index {
    /// Marks a device as used, and forgets others if there are too many ids.
    fn touch(&mut self, sender: i64) {
        self.uses += 1;
        if let Some(device) = self.devices.get_mut(&sender) {
            self.by_use.remove(&device.used);
            device.used = self.uses;
            self.by_use.insert(self.uses, sender);
        }
        while self.ids > self.most && self.by_use.len() > 1 {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            if let Some(device) = self.devices.remove(&oldest) {
                self.ids -= device.rows.len();
            }
        }
    }
}

impl SqliteStore {
    /// The first answer to this submission, if it was accepted before and is remembered.
    pub(super) fn duplicate(
        &mut self,
        sender: i64,
        message: MessageId,
        hash: Digest,
        at: UnixMillis,
    ) -> Result<Option<StoreReply>, Stop> {
        self.load_submissions(sender)?;
        let device = self.cache.submissions.devices.get(&sender);
        let Some(&n) = device.and_then(|device| device.rows.get(&message)) else {
            return Ok(None);
        };
        let found = one(
            &self.db,
            "SELECT hash, seq, chain, time FROM submissions WHERE place = ? AND expires > ?",
            [place(sender, n)?, ordered(at)],
            |row| {
                Ok(Submission {
                    hash: Digest(row.get(0)?),
                    seq: row.get(1)?,
                    chain: Digest(row.get(2)?),
                    time: UnixMillis(row.get::<_, i64>(3)?.cast_unsigned()),
                    expires: at,
                })
            },
        )?;
        match found {
            None => Ok(None),
            Some(first) if first.hash == hash => Ok(Some(first.reply(true, Vec::new()))),
            Some(_) => Err(ErrorCode::MessageIdReused.into()),
        }
    }

    pub(super) fn remember(
        &mut self,
        sender: i64,
        message: MessageId,
        submission: &Submission,
    ) -> Result<(), Stop> {
        self.load_submissions(sender)?;
        let index = &mut self.cache.submissions;
        let device = index.devices.entry(sender).or_default();
        let is_first = device.rows.is_empty();
        if let Some(ended) = device.rows.remove(&message) {
            // Only one that has ended is submitted anew.
            index.ids -= 1;
            let gone = "DELETE FROM submissions WHERE place = ?";
            run(&self.db, gone, [place(sender, ended)?])?;
        }
        let ends = submission.expires.plus(limits::RESEND_TIME);
        device.latest = device.latest.max(ordered(ends));
        run(
            &self.db,
            "INSERT INTO submissions (place, expires, seq, time, message, hash, chain)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
            params![
                place(sender, device.next)?,
                device.latest,
                submission.seq,
                submission.time.0.cast_signed(),
                message.0,
                submission.hash.0,
                submission.chain.0
            ],
        )?;
        device.rows.insert(message, device.next);
        device.next += 1;
        index.ids += 1;
        if is_first {
            let due = "INSERT OR IGNORE INTO due (kind, at, no) VALUES (?, ?, ?)";
            run(&self.db, due, [SENDERS, device.latest, sender])?;
        }
        index.touch(sender);
        Ok(())
    }

    /// Forgets up to `most` submissions of a device that have ended at `at`. Returns how many, and when the first of
    /// the others ends.
    pub(super) fn forget_submissions(
        &mut self,
        sender: i64,
        at: i64,
        most: u32,
    ) -> Result<(u32, Option<i64>), Stop> {
        let (first, last) = (place(sender, 0)?, place(sender, LAST)?);
        let rows: Vec<(i64, [u8; 16], i64)> = all(
            &self.db,
            "SELECT place, message, expires FROM submissions WHERE place BETWEEN ? AND ?
             ORDER BY place LIMIT ?",
            [first, last, i64::from(most) + 1],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let ended = rows.iter().take(most).take_while(|(.., expires)| *expires <= at).count();
        let (ended, others) = rows.split_at(ended);
        if let Some((last, ..)) = ended.last() {
            let gone = "DELETE FROM submissions WHERE place BETWEEN ? AND ?";
            run(&self.db, gone, [first, *last])?;
        }
        let index = &mut self.cache.submissions;
        if let Some(device) = index.devices.get_mut(&sender) {
            for (place, message, _) in ended {
                let message = MessageId(*message);
                if device.rows.get(&message) == Some(&position(*place)) {
                    device.rows.remove(&message);
                    index.ids -= 1;
                }
            }
            if device.rows.is_empty() {
                device.latest = 0;
                device.next = 0;
            }
        }
        let next = others.first().map(|(.., expires)| *expires);
        Ok((u32::try_from(ended.len()).unwrap_or(u32::MAX), next))
    }

    fn load_submissions(&mut self, sender: i64) -> Result<(), Stop> {
        if self.cache.submissions.devices.contains_key(&sender) {
            return Ok(());
        }
        let rows: Vec<(i64, [u8; 16], i64)> = all(
            &self.db,
            "SELECT place, message, expires FROM submissions WHERE place BETWEEN ? AND ?
             ORDER BY place",
            [place(sender, 0)?, place(sender, LAST)?],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        let last = rows.last();
        let device = Device {
            next: last.map_or(0, |(place, ..)| position(*place) + 1),
            latest: last.map_or(0, |(.., expires)| *expires),
            used: 0,
            rows: rows
                .iter()
                .map(|(place, message, _)| (MessageId(*message), position(*place)))
                .collect(),
        };
        let index = &mut self.cache.submissions;
        index.ids += device.rows.len();
        index.devices.insert(sender, device);
        index.touch(sender);
        Ok(())
    }
}
