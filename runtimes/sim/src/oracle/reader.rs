//! What one device is told, against what it may be told.

use std::collections::{BTreeMap, BTreeSet};

use qpc_protocol::client::event::{Event, Failed, Outcome};
use qpc_protocol::id::{AccountId, ChannelId, DeviceId, Sender};
use qpc_protocol::io::Ticket;
use qpc_protocol::store::batch::{Batch, Op};
use qpc_protocol::store::record;

use super::answers::Asked;
use super::log::{Log, Place};
use super::secrets::Joined;
use super::stored::{Contact, Rotation, Row, channel_of, contact_of};

/// A command that was accepted.
#[derive(Clone, Debug)]
pub(super) struct Issued {
    pub(super) asked: Asked,
    /// The devices of its account then, and their keys.
    pub(super) devices: BTreeMap<DeviceId, [u8; 32]>,
    /// The life of the device in which it has to be answered: in which it was given, or in which what is stored of it
    /// was found.
    pub(super) life: u32,
    /// Something of it was on the disk.
    durable: bool,
    /// What became of it was on the disk: whoever goes off before telling it never does.
    settled: bool,
    pub(super) answered: bool,
}

impl Issued {
    pub(super) fn new(asked: Asked, devices: BTreeMap<DeviceId, [u8; 32]>) -> Self {
        Self { asked, devices, life: 0, durable: false, settled: false, answered: false }
    }
}

/// Entries that a device cannot read: those of a channel behind the seq, up to there.
#[derive(Clone, Copy, Debug)]
struct Missed {
    channel: ChannelId,
    after: u64,
    until: Until,
}

/// Where a device is whole again.
#[derive(Clone, Copy, Debug)]
enum Until {
    /// At that entry, which it has.
    Seq(u64),
    /// In that epoch.
    Epoch(Place),
}

impl Missed {
    fn is(&self, (channel, seq): At, place: Place) -> bool {
        let before = match self.until {
            Until::Seq(until) => seq < until,
            Until::Epoch(epoch) => place < epoch,
        };
        self.channel == channel && seq > self.after && before
    }
}

/// Where a message is: channel and seq.
pub(super) type At = (ChannelId, u64);

/// What is known of one device.
#[derive(Clone, Debug, Default)]
pub(super) struct Reader {
    pub(super) sender: Option<Sender>,
    /// How often it was switched on.
    pub(super) life: u32,
    /// Messages on its disk.
    pub(super) stored: BTreeSet<At>,
    /// Messages that it acknowledged, for good: they were told, and are on its disk no more.
    pub(super) acked: BTreeSet<At>,
    /// Up to where its application acknowledged in this life.
    pub(super) read: BTreeMap<ChannelId, u64>,
    /// Messages that it was told, and in which life last.
    pub(super) told: BTreeMap<At, u32>,
    /// The last seq told in this life.
    pub(super) last: BTreeMap<ChannelId, u64>,
    /// By text: where it was read.
    pub(super) texts: BTreeMap<u32, At>,
    /// Messages told in this life and not acknowledged.
    pub(super) unread: usize,
    pub(super) tickets: BTreeMap<Ticket, Issued>,
    /// The outbox as it is on its disk.
    pub(super) outbox: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Commands that are on its disk.
    queued: BTreeSet<Ticket>,
    /// Of them, those that were settled when its last backup was made.
    settled_before: BTreeSet<Ticket>,
    /// The change of its key that is on its disk.
    rotating: Option<Ticket>,
    /// What it has stored of its channels.
    pub(super) rows: BTreeMap<ChannelId, Row>,
    /// What it has stored of others.
    pub(super) contacts: BTreeMap<AccountId, Contact>,
    /// What it missed, for good.
    missed: Vec<Missed>,
    /// Fell out of these when it had read so far, and is not back.
    out: BTreeMap<ChannelId, u64>,
    /// It was lied to, or its own words were changed, and it is not whole again.
    pub(super) lied: bool,
    /// How far it had read when that began.
    honest_to: BTreeMap<ChannelId, u64>,
    /// Somebody else goes on from a copy of its disk.
    pub(super) stolen: bool,
    /// It was led into another history.
    pub(super) forked: bool,
    /// The groups of which it said that something is wrong with what it was told.
    pub(super) alarmed: BTreeSet<ChannelId>,
    /// Groups whose log it has read otherwise than others, which it said: that stays so until it comes in anew.
    pub(super) parted: BTreeSet<ChannelId>,
    /// It was told that a name leads to another account than it did, and is told so again after each start.
    pub(super) misled: bool,
    /// The key packages by which it came in, and knows that it did: a backup may bring one back that was used since.
    pub(super) joined_by: Vec<Joined>,
    /// Its disk was put back to an older state, and it is not whole again.
    pub(super) restored: bool,
    /// Its tokens are those of a backup.
    old_tokens: bool,
    /// Generations that its backup was in, of groups that were in another one then.
    pub(super) forgot: BTreeMap<ChannelId, u32>,
    /// Groups of which a record was torn.
    pub(super) torn: BTreeSet<ChannelId>,
    /// Where it was told that it became a member, the last time.
    pub(super) joined: BTreeMap<ChannelId, Place>,
    /// Groups whose welcome may have gone from its inbox before it was read, which it was told: it comes in from
    /// outside, if it still is a member.
    pub(super) unwelcomed: BTreeSet<ChannelId>,
    /// Groups that it is kept out of, and how far it had read them: added to after the backup that it was restored
    /// from.
    lost: BTreeMap<ChannelId, u64>,
    /// Wishes to leave that were taken.
    pub(super) leaving: BTreeSet<ChannelId>,
    /// Groups that are over, and whose next generation it has not joined: a wish to leave goes for that one too.
    pub(super) between: BTreeSet<ChannelId>,
    /// It asked for a login and was not told that it is logged in: one that it does not hear of takes the tokens of the
    /// one before.
    pub(super) login_unheard: bool,
    /// It was told that it is logged out, and the server has not heard of that: its session has to have ended
    /// otherwise.
    pub(super) logged_out_alone: bool,
    /// Its session ended for good, until it logs in again.
    pub(super) ended: bool,
    /// The same, or it was told that it is logged out.
    pub(super) closed: bool,
}

impl Reader {
    /// It was switched on again: what is on its disk of a command has to be answered in this life. Returns the texts of
    /// which there is nothing.
    pub(super) fn start(&mut self) -> Vec<u32> {
        self.life += 1;
        self.last.clear();
        self.read.clear();
        self.unread = 0;
        let mut lost = Vec::new();
        self.tickets.retain(|ticket, issued| {
            let owed = self.queued.contains(ticket) && !issued.settled;
            if owed || self.rotating == Some(*ticket) {
                issued.life = self.life;
            }
            let nothing = !issued.answered && !issued.durable;
            match issued.asked {
                Asked::Said(number) if nothing => lost.push(number),
                // It was alone there, and is not told that it has left.
                Asked::Leave(channel) if issued.settled && !self.rows.contains_key(&channel) => {
                    self.leaving.insert(channel);
                }
                _ => {}
            }
            !nothing
        });
        lost
    }

    /// A backup of its disk is made. A message that the server has stays queued until the log has shown it, and is
    /// settled there.
    pub(super) fn backed_up(&mut self) {
        let settled = |ticket: &&Ticket| self.tickets.get(ticket).is_some_and(|of| of.settled);
        self.settled_before = self.queued.iter().filter(settled).copied().collect();
    }

    /// Its disk is an older one: what it was told and what it asked for may come again, but for what was settled then.
    /// Returns the texts that are queued on it.
    pub(super) fn put_back(&mut self, disk: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<u32> {
        self.restored = true;
        if !disk.contains_key(b"d/identity".as_slice()) {
            self.sender = None;
        }
        self.acked.clear();
        self.told.clear();
        self.joined_by.clear();
        self.leaving.clear();
        self.stored.clear();
        self.outbox.clear();
        self.queued.clear();
        self.rotating = None;
        self.contacts.clear();
        self.rows.clear();
        disk.iter().for_each(|(key, value)| self.put(key, value));
        self.old_tokens = true;
        let queued =
            |ticket: &Ticket| self.queued.contains(ticket) || self.rotating == Some(*ticket);
        self.tickets.retain(|ticket, _| queued(ticket));
        for (ticket, issued) in &mut self.tickets {
            issued.settled = self.settled_before.contains(ticket);
            issued.answered &= issued.settled;
        }
        let texts = self.tickets.values().filter_map(|issued| match issued.asked {
            Asked::Said(number) => Some(number),
            _ => None,
        });
        texts.collect()
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.stored.extend(message_key(key));
        if key.starts_with(b"d/o/") {
            self.outbox.insert(key.to_vec(), value.to_vec());
        }
        self.queued.extend(ticket_key(key));
        if let Some((of, row)) = channel_of(key).zip(record::decode(key, value).ok()) {
            self.rows.insert(of, row);
        }
        self.old_tokens &= key != b"d/tokens";
        if key == b"d/rotation" {
            self.rotating = Rotation::read(value).and_then(|rotation| rotation.ticket());
        }
        for ticket in ticket_key(key).into_iter().chain(self.rotating) {
            // The machine gives tickets to itself, too: those that a crash left nothing of.
            let issued = self.tickets.get_mut(&ticket).filter(|issued| issued.life == self.life);
            if let Some(issued) = issued {
                issued.durable = true;
            }
        }
        if let Some((of, contact)) = contact_of(key).zip(record::decode(key, value).ok()) {
            self.contacts.insert(of, contact);
        }
    }

    /// A batch became durable.
    pub(super) fn persisted(&mut self, batch: &Batch) {
        for op in &batch.ops {
            match op {
                Op::Put(key, value) => self.put(key, value),
                Op::Delete(key) => {
                    if let Some(at) = message_key(key)
                        && self.stored.remove(&at)
                    {
                        self.unread = self.unread.saturating_sub(1);
                        self.acked.extend(self.told.contains_key(&at).then_some(at));
                    }
                    self.outbox.remove(key);
                    if let Some(ticket) = ticket_key(key) {
                        self.queued.remove(&ticket);
                        if let Some(issued) = self.tickets.get_mut(&ticket) {
                            issued.settled = true;
                        }
                    }
                    contact_of(key).map(|of| self.contacts.remove(&of));
                    channel_of(key).map(|id| self.rows.remove(&id));
                }
                Op::DeletePrefix(prefix) => {
                    channel_of(prefix).map(|id| self.rows.remove(&id));
                }
            }
        }
    }

    /// A message that was acknowledged, and is on the disk still.
    pub(super) fn kept_for_nothing(&self) -> Option<At> {
        let is_read = |(channel, seq): &&At| self.read.get(channel).is_some_and(|read| seq <= read);
        self.stored.iter().find(is_read).copied()
    }

    /// A command was accepted under this ticket.
    pub(super) fn issued(&mut self, ticket: Ticket, issued: Issued) -> Option<String> {
        self.login_unheard |= matches!(issued.asked, Asked::Account(_));
        let before = self.tickets.insert(ticket, Issued { life: self.life, ..issued });
        // One that comes again after a restart is of a command that a crash left nothing of.
        let twice = before.is_some_and(|before| before.life == self.life || before.durable);
        twice.then(|| format!("{ticket:?}"))
    }

    /// A command was answered: what it had asked for.
    pub(super) fn answered(&mut self, ticket: Ticket) -> Result<Issued, String> {
        match self.tickets.get_mut(&ticket) {
            Some(issued) if issued.answered => Err(format!("{ticket:?} again")),
            Some(issued) => {
                issued.answered = true;
                Ok(issued.clone())
            }
            None => Err(format!("{ticket:?}, which nobody has")),
        }
    }

    /// How far it has read a channel, by its disk.
    pub(super) fn read_to(&self, channel: ChannelId) -> u64 {
        self.rows.get(&channel).map_or(0, Row::read_to)
    }

    /// Groups that it knows of and is not in yet.
    pub(super) fn unopened(&self) -> usize {
        self.rows.values().filter(|row| row.is_unopened()).count()
    }

    /// Whether its tokens may be older than those that the server gave it.
    pub(super) fn may_have_old_tokens(&self) -> bool {
        self.restored || self.old_tokens || self.login_unheard
    }

    // ---- excuses: of one device, in one channel, from one entry to another ----------------------

    /// Somebody lies to it, or changes what it says.
    pub(super) fn is_lied_to(&mut self) {
        if !self.lied {
            self.lied = true;
            self.honest_to = self.rows.iter().map(|(id, row)| (*id, row.read_to())).collect();
        }
    }

    /// Whether it fell out of a group and is not back.
    pub(super) fn is_out_of(&self, channel: ChannelId) -> bool {
        self.out.contains_key(&channel)
    }

    /// It fell out of a group.
    pub(super) fn fell_out(&mut self, channel: ChannelId) {
        let read = self.read_to(channel);
        self.out.entry(channel).or_insert(read);
    }

    /// It is kept out of a group.
    pub(super) fn lose(&mut self, channel: ChannelId) {
        let read = self.read_to(channel);
        self.lost.entry(channel).or_insert(read);
    }

    /// Whether it is kept out of a group.
    pub(super) fn has_lost(&self, channel: ChannelId) -> bool {
        self.lost.contains_key(&channel)
    }

    /// Whether a server has begun a reset of this device's and denied that: it waits in the group that is over, and has
    /// said that something is wrong. Another reset helps.
    pub(super) fn is_denied(&self, channel: ChannelId) -> bool {
        let asked = |issued: &Issued| matches!(issued.asked, Asked::Reset(of, _) if of == channel);
        self.lied && self.alarmed.contains(&channel) && self.tickets.values().any(asked)
    }

    /// Whether what it was told keeps it where it is until somebody writes, and it has said that something is wrong: it
    /// has read further than the log goes, or passed over a commit of which no entry has shown yet that it was one.
    pub(super) fn is_kept(&self, channel: ChannelId, log: &Log) -> bool {
        let Some(row) = self.rows.get(&channel) else { return false };
        // Whoever passed over its own removal is shown nothing further.
        let shown = |seq| self.sender.is_none_or(|sender| log.is_handed(sender, seq));
        let last = log.entries().all(|(seq, entry)| entry.place <= row.place() || !shown(seq));
        let doubts = self.lied && self.alarmed.contains(&channel);
        doubts && (self.forked || row.read_to() > log.head() || last)
    }

    /// It is in a group again, from an epoch on.
    pub(super) fn came_back(&mut self, channel: ChannelId, epoch: Place) {
        let (out, lost) = (self.out.remove(&channel), self.lost.remove(&channel));
        let after = out.into_iter().chain(lost).min().unwrap_or_default();
        self.torn.remove(&channel);
        self.parted.remove(&channel);
        self.missed.push(Missed { channel, after, until: Until::Epoch(epoch) });
    }

    /// It is in a group again that it could read till then: whether it can read on all that is for it.
    pub(super) fn reads_on(&mut self, channel: ChannelId) -> bool {
        let out = self.out.remove(&channel);
        let disturbed = self.has_missed(channel)
            || self.has_lost(channel)
            || self.torn.contains(&channel)
            || self.alarmed.contains(&channel);
        if disturbed {
            self.out.extend(out.map(|read| (channel, read)));
        }
        !disturbed
    }

    /// Entries were gone before it read them: from one up to another.
    pub(super) fn gap(&mut self, channel: ChannelId, from: u64, to: u64) {
        let after = from.saturating_sub(1);
        self.missed.push(Missed { channel, after, until: Until::Seq(to) });
    }

    /// It is where everybody is in all its groups, which end there: no excuse goes on.
    pub(super) fn is_whole(&mut self, heads: impl Iterator<Item = (ChannelId, u64)>) {
        // What it read in another history comes up again and again.
        if self.forked {
            return;
        }
        if core::mem::take(&mut self.lied) {
            let missed = heads.map(|(channel, head)| Missed {
                channel,
                after: self.honest_to.get(&channel).copied().unwrap_or_default(),
                until: Until::Seq(head + 1),
            });
            self.missed.extend(missed);
        }
        self.alarmed.clear();
        self.restored = false;
    }

    /// Whether it has told, or has reason, that it cannot read an entry.
    pub(super) fn is_disturbed(&self, at: At, place: Option<Place>) -> bool {
        let missed = place.is_none_or(|place| self.may_miss(at, place));
        self.lied || self.restored || missed || self.is_out_of(at.0) || self.torn.contains(&at.0)
    }

    /// Whether this device may miss an entry: it was not there, or was lied to.
    pub(super) fn may_miss(&self, at: At, place: Place) -> bool {
        let (channel, seq) = at;
        let behind = |places: &BTreeMap<ChannelId, u64>| {
            places.get(&channel).is_some_and(|read| seq > *read)
        };
        let lied = self.lied && seq > self.honest_to.get(&channel).copied().unwrap_or_default();
        lied || behind(&self.lost)
            || self.unwelcomed.contains(&channel)
            || behind(&self.out)
            || self.missed.iter().any(|missed| missed.is(at, place))
    }

    /// Whether it has missed nothing that it could have keys of still.
    pub(super) fn has_missed(&self, channel: ChannelId) -> bool {
        let missed = self.missed.iter().any(|missed| missed.channel == channel);
        self.lied || self.restored || missed || self.out.contains_key(&channel)
    }
}

/// The ticket of a command that a record is stored of.
fn ticket_key(key: &[u8]) -> Option<Ticket> {
    let rest = key.strip_prefix(b"d/i/").or_else(|| key.strip_prefix(b"d/o/"))?;
    rest.try_into().ok().map(|rest| Ticket(u64::from_be_bytes(rest)))
}

/// What a stored message's key says.
fn message_key(key: &[u8]) -> Option<At> {
    let rest = key.strip_prefix(b"m/")?;
    let (channel, seq) = rest.split_first_chunk::<16>()?;
    Some((ChannelId(*channel), u64::from_be_bytes(seq.try_into().ok()?)))
}

/// The group that an alarm is about.
pub(super) fn subject(event: &Event) -> Option<ChannelId> {
    match event {
        Event::ForkDetected { channel, .. }
        | Event::ForkSuspected { channel, .. }
        | Event::Unreadable { channel, .. }
        | Event::Gap { channel, .. }
        | Event::Evicted { channel, .. } => Some(*channel),
        _ => None,
    }
}

/// What an honest server and honest members never cause.
pub(super) fn is_alarm(event: &Event) -> bool {
    match event {
        Event::ForkDetected { .. }
        | Event::ForkSuspected { .. }
        | Event::ServerFault { .. }
        | Event::Unreadable { .. }
        | Event::AccountChanged { .. }
        | Event::NameContradicted { .. } => true,
        Event::Done(_, Outcome::Compared(comparison)) => {
            use qpc_protocol::client::event::Comparison;
            matches!(comparison, Comparison::Differs { .. } | Comparison::Forged)
        }
        Event::Failed(_, failed) => matches!(failed, Failed::Untrusted(_)),
        _ => false,
    }
}
