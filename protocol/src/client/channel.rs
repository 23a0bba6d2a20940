//! One channel of a device: reading its log in order, loading its group when needed, and what is waiting.

use core::time::Duration;
use std::collections::{BTreeSet, VecDeque};

use super::blobs::Download;
use super::checkpoint::Ledger;
use super::directory::{self, ChannelRow, Ended, Fall, Leaf};
use super::early::Early;
use super::left::Left;
use super::metadata::Metadata;
use super::rejoin::Rejoining;
use crate::delivery::agreed::Agreed;
use crate::delivery::window::Cursor;
use crate::id::{AccountId, ChannelId, Digest};
use crate::io::LoadId;
use crate::mls::group::Group;
use crate::wire::message::{Entry, Part};

/// Bytes that may wait in one channel; beyond, its subscription is given up and taken anew.
pub(super) const WAITING_BYTES: u64 = 4 * 1024 * 1024;

/// What an entry counts for: its payload, unless that is a blob, and about what surrounds it.
pub(super) fn cost(entry: &Entry) -> u64 {
    256 + match &entry.payload {
        Part::Inline(bytes) => bytes.len() as u64,
        Part::Blob { .. } => 0,
    }
}

/// A channel's group.
#[derive(Debug)]
pub(super) enum Slot {
    /// Not in memory.
    Cold,
    /// Being read.
    Loading(LoadId),
    /// In memory.
    Warm(Box<Group>),
    /// There is none: an inbox, or this device is out.
    None,
}

impl Slot {
    /// Whether it is that read whose records are awaited.
    pub(super) fn is_read_as(&self, read: LoadId) -> bool {
        matches!(self, Self::Loading(awaited) if *awaited == read)
    }
}

/// A channel's subscription on the present connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subscription {
    /// None.
    None,
    /// Asked for.
    Asked,
    /// Confirmed.
    Active,
    /// Refused, or of no use: not asked for again on this connection.
    Refused,
}

/// What is done about those whom others have queued to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueuedAdds {
    /// A commit takes them along.
    Include,
    /// No commit goes through with them: it is made without.
    LeaveOut,
    /// The server insists on them.
    Insisted,
}

/// Tries to come back that a device which waits for its groups waits for too.
const PATIENT: u32 = 5;

/// A channel of this device.
#[derive(Debug)]
pub(super) struct Channel {
    pub row: ChannelRow,
    pub row_dirty: bool,
    /// How old the own leaf's keys are; `None` for an inbox.
    pub leaf: Option<Leaf>,
    /// They are due: when they are replaced.
    pub update_at: Option<Duration>,
    /// Devices of the own account that are not added unasked.
    pub left: Left,
    pub ledger: Ledger,
    pub ledger_dirty: bool,
    /// How far others are known to have read the same log, since this machine started.
    pub agreed: Agreed,
    /// The next entry, if it waits for its commit.
    pub early: Early,
    /// Channels whose checkpoints are to be sent in this one.
    pub carrying: Vec<ChannelId>,
    /// The group cannot be followed any further; tried again with the next session.
    pub stuck: bool,
    pub inbox: bool,
    pub slot: Slot,
    pub subscription: Subscription,
    /// The head that the server named when the subscription began.
    pub head: Option<u64>,
    /// Read up to here when the subscription was asked for: the head is no lower.
    pub asked_after: u64,
    /// Read to the head on this connection: encryption is allowed.
    pub ready: bool,
    /// Entries that arrived and wait for the group, in order.
    pub waiting: VecDeque<Entry>,
    pub waiting_bytes: u64,
    /// What the server was told to be durable here.
    pub acked: u64,
    /// The entry before those that wait, if it waits for a blob itself.
    pub download: Option<Download>,
    /// Nothing is encrypted or committed before this epoch.
    pub need_epoch: u64,
    /// The epoch in which the server refused a commit for another one.
    pub refused_in: Option<u64>,
    /// The log was read up to here when the server refused a commit for a proposal that it lacked.
    pub lacked_at: Option<u64>,
    /// Of which epoch it is known whether a commit can take queued Adds along, and whether it cannot.
    pub adds: (u64, QueuedAdds),
    /// In this epoch each wish has a commit of its own: one for all did not work.
    pub apart: Option<u64>,
    /// Nothing is committed or resent before this time.
    pub hold_until: Option<Duration>,
    /// Queued proposals are committed at this time, unless somebody else has done it.
    pub flush_at: Option<Duration>,
    /// The members are told at this time what the group shows of itself, unless somebody else has done it in this epoch
    /// or later.
    pub tell_at: Option<(Duration, u64)>,
    /// What the server could not do is not asked again before this time: the subscription, a blob.
    pub retry_at: Option<Duration>,
    /// Entries that the server left out since the last progress.
    pub gaps: u32,
    /// Entries were left out since the subscription was asked for, before it was confirmed.
    pub left_out: bool,
    /// They were since, too, and nothing else has come: how long it is waited for.
    pub left_out_until: Option<Duration>,
    /// How often the blob that is waited for was another one than the server named.
    pub wrong_blobs: u32,
    /// The inbox's entry with a welcome to this channel for which the log was asked for anew.
    pub checked_for: u64,
    /// Messages told to the application and not acknowledged.
    pub told: BTreeSet<u64>,
    /// Messages after this seq are stored but not told yet; `None`: all are told.
    pub spilled_after: Option<u64>,
    pub spill_load: bool,
    pub used: u64,
    /// Whether this device is out of the group, and since when it may come back.
    pub fall: Fall,
    /// Its group has ended by a reset: this device waits for a welcome to the next.
    pub ended: Option<Ended>,
    /// What the server shows behind that end was looked at on this connection.
    pub end_checked: bool,
    /// The group as it is once the log shows the commit that this device comes back by.
    pub spare: Slot,
    /// What such a commit is made from, as far as it is here.
    pub rejoining: Option<Rejoining>,
    /// Coming back is not tried before this time.
    pub rejoin_at: Option<Duration>,
    /// How often it came to nothing.
    pub rejoins: u32,
    /// Only others can change what is in the way, and the application was told so.
    pub rejoin_off: bool,
    /// The server said that this device is no member, of which the log had shown nothing: it is read anew.
    pub denied: bool,
    /// The server said once already of what comes next in the log that it is gone, or what cannot be.
    pub gap_told: bool,
}

impl Channel {
    /// A channel as stored.
    pub(super) fn new(row: ChannelRow, inbox: bool) -> Self {
        let slot = if inbox || !row.member { Slot::None } else { Slot::Cold };
        let spilled_after = (row.unread > 0).then_some(0);
        Self {
            row,
            row_dirty: false,
            leaf: None,
            update_at: None,
            left: Left::default(),
            ledger: Ledger::default(),
            ledger_dirty: false,
            agreed: Agreed::default(),
            early: Early::default(),
            carrying: Vec::new(),
            stuck: false,
            inbox,
            slot,
            subscription: Subscription::None,
            head: None,
            asked_after: 0,
            ready: false,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            acked: 0,
            download: None,
            need_epoch: 0,
            refused_in: None,
            lacked_at: None,
            adds: (0, QueuedAdds::Include),
            apart: None,
            hold_until: None,
            flush_at: None,
            tell_at: None,
            retry_at: None,
            gaps: 0,
            left_out: false,
            left_out_until: None,
            wrong_blobs: 0,
            checked_for: 0,
            told: BTreeSet::new(),
            spilled_after,
            spill_load: false,
            used: 0,
            fall: Fall::default(),
            ended: None,
            end_checked: false,
            spare: Slot::None,
            rejoining: None,
            rejoin_at: None,
            rejoins: 0,
            rejoin_off: false,
            denied: false,
            gap_told: false,
        }
    }

    /// What is done about queued Adds in the present epoch.
    pub(super) fn queued_adds(&self) -> QueuedAdds {
        let (epoch, adds) = self.adds;
        if epoch == self.row.epoch { adds } else { QueuedAdds::Include }
    }

    /// Whether each wish has a commit of its own in the present epoch.
    pub(super) fn commits_apart(&self) -> bool {
        self.apart == Some(self.row.epoch)
    }

    /// The group, if it is in memory.
    pub(super) fn group(&mut self) -> Option<&mut Group> {
        match &mut self.slot {
            Slot::Warm(group) => Some(group),
            _ => None,
        }
    }

    /// The accounts of its members, as far as the group is in memory.
    pub(super) fn group_members(&self) -> BTreeSet<AccountId> {
        match &self.slot {
            Slot::Warm(group) => group.members().iter().map(|m| m.record.account).collect(),
            _ => BTreeSet::new(),
        }
    }

    /// The profile, if it is the one that the group's context names. Anything else is out of date.
    pub(super) fn present_profile(&self) -> Option<&Metadata> {
        let Slot::Warm(group) = &self.slot else { return None };
        self.row.metadata.as_ref().filter(|known| known.hash() == group.data().metadata)
    }

    /// Moves the cursor past an entry that was dealt with.
    pub(super) fn advance(&mut self, entry: &Entry) {
        // Entries are queued in order behind the cursor, so this is always the next one.
        let _ = self.row.cursor.advance(entry);
        self.row_dirty = true;
        let (seq, chain) = (self.row.cursor.seq(), self.row.cursor.chain());
        self.ledger_dirty |= !self.inbox && self.ledger.marks.note(seq, chain);
        self.gaps = 0;
        self.gap_told = false;
    }

    /// The log is read on from elsewhere. Where it was read to is remembered: others may have read another one up to
    /// there.
    pub(super) fn jump(&mut self, to: Cursor) {
        let from = core::mem::replace(&mut self.row.cursor, to);
        self.ledger.marks.keep(from.seq(), from.chain());
        (self.row_dirty, self.ledger_dirty) = (true, true);
    }

    /// Takes over what the group of a new epoch says of itself.
    pub(super) fn enter(&mut self, transcript: Digest) {
        self.ledger.transcript = Some(transcript);
        self.ledger_dirty = true;
    }

    /// Whether this device was never in the group: the server has only said that it was added.
    pub(super) fn is_hearsay(&self) -> bool {
        let entered = self.row.epoch > 0 || self.ledger.transcript.is_some();
        !self.inbox && !entered && self.row.unread == 0
    }

    /// Whether the log was read to the head that the server named.
    pub(super) fn at_head(&self) -> bool {
        self.waiting.is_empty()
            && self.download.is_none()
            && self.head.is_some_and(|head| self.row.cursor.seq() >= head)
    }

    /// Whether nothing that arrived waits to be worked on.
    pub(super) fn is_through(&self) -> bool {
        self.waiting.is_empty() && self.download.is_none() && self.retry_at.is_none()
    }

    /// A new connection: everything about the old one is void. Transfers are interrupted before.
    pub(super) fn disconnected(&mut self) {
        self.unsubscribe();
        self.forget_waiting();
        self.acked = 0;
        self.hold_until = None;
        self.retry_at = None;
        self.update_at = None;
        self.flush_at = None;
        self.gaps = 0;
        self.rejoining = None;
        self.rejoin_at = None;
        self.rejoin_off = false;
        self.denied = false;
        self.stuck = self.is_blind();
        self.end_checked = false;
        self.checked_for = 0;
        // The log itself says which epoch it is, once it was read to its head.
        self.need_epoch = 0;
        self.refused_in = None;
        self.lacked_at = None;
    }

    /// Gives a subscription up; entries that are still on their way are not taken.
    pub(super) fn unsubscribe(&mut self) {
        self.subscription = Subscription::None;
        self.ready = false;
        self.head = None;
        self.left_out = false;
        self.left_out_until = None;
    }

    /// Whether nothing of the log is of use.
    pub(super) fn is_blind(&self) -> bool {
        (self.ended.is_some() && !self.fall.made) || self.fall.is_blind()
    }

    /// Whether the log is asked for only to see whether it goes on without the end of the group.
    pub(super) fn checks_end(&self) -> bool {
        self.waits_for_welcome() && !self.end_checked
    }

    /// Whether its group has ended and only a welcome leads on: whoever comes in from outside reads the next one's log.
    pub(super) fn waits_for_welcome(&self) -> bool {
        self.ended.is_some() && self.fall.why.is_none()
    }

    /// Whether the group's log cannot be read on with the state that is here.
    pub(super) fn is_lost(&self) -> bool {
        self.stuck || self.fall.cut
    }

    /// The generation that the channel is in, as far as this device knows.
    pub(super) fn generation(&self) -> u32 {
        self.ended.map_or(self.row.generation, |ended| ended.generation)
    }

    /// Whether this device can follow the log on this connection.
    pub(super) fn followed(&self) -> bool {
        let wanted = self.inbox || (self.row.member && !self.stuck);
        wanted && self.subscription != Subscription::Refused
    }

    /// Whether this device is on its way back into the group.
    pub(super) fn comes_back(&self) -> bool {
        let waits = self.fall.made || self.rejoining.is_some();
        let tries = !self.rejoin_off && self.rejoins < PATIENT;
        let soon = tries && (self.rejoin_at.is_none() || self.rejoins > 0);
        self.row.member && self.fall.why.is_some() && (waits || soon)
    }

    /// Puts an entry behind those that wait.
    pub(super) fn wait(&mut self, entry: Entry) {
        self.left_out_until = None;
        self.waiting_bytes += cost(&entry);
        self.waiting.push_back(entry);
    }

    /// Puts an entry back before those that wait.
    pub(super) fn wait_first(&mut self, entry: Entry) {
        self.waiting_bytes += cost(&entry);
        self.waiting.push_front(entry);
    }

    /// The last seq that arrived, read or not.
    pub(super) fn last_seq(&self) -> u64 {
        let last = self.waiting.back().or(self.download.as_ref().map(|download| &download.entry));
        last.map_or(self.row.cursor.seq(), |last| last.seq)
    }

    /// Forgets the entries that wait.
    pub(super) fn forget_waiting(&mut self) {
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.early.until = None;
    }

    /// Forgets the newest entries that wait, above that many bytes.
    pub(super) fn forget_newest(&mut self, above: u64) {
        while self.waiting_bytes > above && self.waiting.len() > 1 {
            if let Some(last) = self.waiting.pop_back() {
                self.waiting_bytes = self.waiting_bytes.saturating_sub(cost(&last));
            }
        }
    }

    /// Takes the next waiting entry.
    pub(super) fn next_waiting(&mut self) -> Option<Entry> {
        let entry = self.waiting.pop_front()?;
        self.waiting_bytes = self.waiting_bytes.saturating_sub(cost(&entry));
        Some(entry)
    }

    /// The changes of the group's records and of the row since the last call.
    pub(super) fn take_ops(&mut self, id: ChannelId) -> Vec<crate::store::batch::Op> {
        let mut ops = Vec::new();
        let prefix = directory::group_prefix(id, self.row.generation);
        if let Some(group) = self.group() {
            ops.extend(directory::under(&prefix, group.take_ops()));
        }
        if core::mem::take(&mut self.row_dirty) {
            ops.push(directory::put(directory::key(directory::CHANNEL, &[&id.0]), &self.row));
        }
        if core::mem::take(&mut self.ledger_dirty) {
            ops.push(directory::put(directory::key(directory::LEDGER, &[&id.0]), &self.ledger));
        }
        ops
    }
}
