//! What one device is told, against what it may be told.

use std::collections::{BTreeMap, BTreeSet};

use qpc_protocol::client::event::{Event, Failed, Outcome};
use qpc_protocol::id::{ChannelId, Sender};
use qpc_protocol::io::Ticket;
use qpc_protocol::store::batch::{Batch, Op};

use super::log::Place;

/// What a command asked for, as far as its answer can be held against anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A message: its number in [`Oracle::said`](super::Oracle::said).
    Said(u32),
    /// The direct channel with somebody: waits for the other.
    Direct,
    /// To leave a group.
    Leave(ChannelId),
    /// Somebody's account.
    Lookup(String),
    /// Who is in a group.
    Members(ChannelId),
    /// Whether another device read the same.
    Compare,
    /// Something else.
    Other(&'static str),
}

/// A command that was accepted.
#[derive(Clone, Debug)]
pub(super) struct Issued {
    pub(super) life: u32,
    pub(super) asked: Asked,
    pub(super) answered: bool,
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
    /// Came back to a group at this place; what is before it may be missed.
    pub(super) back: BTreeMap<ChannelId, Place>,
    /// Fell out of these, and is not back.
    pub(super) out: BTreeSet<ChannelId>,
    /// Entries that were gone before it read them.
    pub(super) gaps: Vec<(ChannelId, u64, u64)>,
    /// It was lied to, or its own words were changed.
    pub(super) lied: bool,
    /// Somebody else goes on from a copy of its disk.
    pub(super) stolen: bool,
    /// The path secrets of its commits were forged.
    pub(super) forger: bool,
    /// Groups of a forger of which it has said that it cannot read them on: it does not come back by what is from outside.
    pub(super) unopened: BTreeSet<ChannelId>,
    /// It was led into another history.
    pub(super) forked: bool,
    /// It said that something is wrong with what it was told.
    pub(super) alarmed: bool,
    /// Its disk was put back to an older state.
    pub(super) restored: bool,
    /// Groups of which a record was torn.
    pub(super) torn: BTreeSet<ChannelId>,
    /// Groups that it is kept out of: added to after the backup that it was restored from.
    pub(super) lost: BTreeSet<ChannelId>,
    /// Where it was told that it became a member, the last time.
    pub(super) joined: BTreeMap<ChannelId, Place>,
    /// Groups whose welcome may have gone from its inbox before it was read, which it was told: it comes in from outside,
    /// if it still is a member.
    pub(super) unwelcomed: BTreeSet<ChannelId>,
    /// Wishes to leave that were taken.
    pub(super) leaving: BTreeSet<ChannelId>,
    /// Groups that are over, and whose next generation it has not joined: a wish to leave goes for that one too.
    pub(super) between: BTreeSet<ChannelId>,
    /// Its session ended for good, until it logs in again.
    pub(super) ended: bool,
}

impl Reader {
    /// It was switched on again.
    pub(super) fn start(&mut self) {
        self.life += 1;
        self.last.clear();
        self.read.clear();
        self.unread = 0;
    }

    /// Its disk is an older one: what it was told and what it asked for may come again.
    pub(super) fn put_back(&mut self, disk: &BTreeMap<Vec<u8>, Vec<u8>>) {
        self.restored = true;
        if !disk.contains_key(b"d/identity".as_slice()) {
            self.sender = None;
        }
        self.acked.clear();
        self.told.clear();
        self.tickets.clear();
        self.leaving.clear();
        self.stored = disk.keys().filter_map(|key| message_key(key)).collect();
        let outbox = disk.iter().filter(|(key, _)| key.starts_with(b"d/o/"));
        self.outbox = outbox.map(|(key, value)| (key.clone(), value.clone())).collect();
    }

    /// A batch became durable.
    pub(super) fn persisted(&mut self, batch: &Batch) {
        for op in &batch.ops {
            match op {
                Op::Put(key, value) => {
                    self.stored.extend(message_key(key));
                    if key.starts_with(b"d/o/") {
                        self.outbox.insert(key.clone(), value.clone());
                    }
                }
                Op::Delete(key) => {
                    if let Some(at) = message_key(key)
                        && self.stored.remove(&at)
                    {
                        self.unread = self.unread.saturating_sub(1);
                        self.acked.extend(self.told.contains_key(&at).then_some(at));
                    }
                    self.outbox.remove(key);
                }
                Op::DeletePrefix(_) => {}
            }
        }
    }

    /// A message that was acknowledged, and is on the disk still.
    pub(super) fn kept_for_nothing(&self) -> Option<At> {
        let is_read = |(channel, seq): &&At| self.read.get(channel).is_some_and(|read| seq <= read);
        self.stored.iter().find(is_read).copied()
    }

    /// A command was accepted under this ticket.
    pub(super) fn issued(&mut self, ticket: Ticket, asked: Asked) -> Option<String> {
        let issued = Issued { life: self.life, asked, answered: false };
        let before = self.tickets.insert(ticket, issued);
        // One that comes again after a restart is of a command that a crash left nothing of.
        let twice = before.is_some_and(|before| before.life == self.life);
        twice.then(|| format!("{ticket:?}"))
    }

    /// A command was answered: what it had asked for.
    pub(super) fn answered(&mut self, ticket: Ticket) -> Result<Option<Asked>, String> {
        match self.tickets.get_mut(&ticket) {
            Some(issued) if issued.answered && !self.restored => Err(format!("{ticket:?} again")),
            Some(issued) => {
                issued.answered = true;
                Ok(Some(issued.asked.clone()))
            }
            None if self.restored => Ok(None),
            None => Err(format!("{ticket:?}, which nobody has")),
        }
    }

    /// Whether it has told, or has reason, that it cannot read all of a group.
    pub(super) fn is_disturbed(&self, channel: ChannelId) -> bool {
        let out = self.out.contains(&channel) || self.back.contains_key(&channel);
        self.lied || self.restored || out || self.torn.contains(&channel)
    }

    /// Whether this device may miss an entry: it was not there, or was lied to.
    pub(super) fn may_miss(&self, (channel, seq): At, place: Place) -> bool {
        self.lied
            || self.lost.contains(&channel)
            || self.unwelcomed.contains(&channel)
            || self.unopened.contains(&channel)
            || self.out.contains(&channel)
            || self.back.get(&channel).is_some_and(|back| place < *back)
            || self.gaps.iter().any(|(of, from, to)| *of == channel && (*from..*to).contains(&seq))
    }
}

/// What a stored message's key says.
fn message_key(key: &[u8]) -> Option<At> {
    let rest = key.strip_prefix(b"m/")?;
    let (channel, seq) = rest.split_first_chunk::<16>()?;
    Some((ChannelId(*channel), u64::from_be_bytes(seq.try_into().ok()?)))
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
