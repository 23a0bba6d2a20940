//! Fresh keys without being asked: whoever once read a device's memory is shut out again when its leaf gets new keys
//! (post-compromise security).
//!
//! A group's leaf is due by age or by what was written since its keys were made. Many members become due at the same
//! moment, so each waits a random while, longer in larger groups, before it commits, unless it is late already; and
//! only with the group read to its head. What a later commit of this device did anyway is not done again.

use core::time::Duration;

use super::directory::{self, Leaf};
use super::intent::{Intent, Want};
use super::{Channel, Client};
use crate::env::UnixMillis;
use crate::id::ChannelId;
use crate::limits::{UPDATE_AGE, UPDATE_ENTRIES, UPDATE_SPREAD, UPDATE_SPREAD_MOST};
use crate::mls::group::Change;
use crate::store::batch::Op;

/// When the keys of an own leaf are replaced without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdatePolicy {
    /// At this age. [`UPDATE_AGE`] by default.
    pub age: Duration,
    /// After this many further entries of the group's log, whoever wrote them, or twice as many as the group has
    /// members if that is more: `max(entries, 2 × members)`. [`UPDATE_ENTRIES`] by default.
    pub entries: u64,
}

impl Default for UpdatePolicy {
    fn default() -> Self {
        Self { age: UPDATE_AGE, entries: UPDATE_ENTRIES }
    }
}

impl UpdatePolicy {
    fn is_due(&self, channel: &Channel, wall: UnixMillis) -> bool {
        // Of unknown age: it may be any.
        let Some(leaf) = channel.leaf else { return true };
        let entries = channel.row.cursor.seq().saturating_sub(leaf.seq);
        // The others' new keys are entries too: below as many as there are members, each would make the next one due.
        let most = self.entries.max(2 * u64::from(channel.row.members));
        entries >= most || wall.since(leaf.since) >= self.age
    }

    /// Whether a leaf has been due for so long that the device was off whenever it was to be renewed.
    fn is_late(&self, channel: &Channel, wall: UnixMillis) -> bool {
        let age = self.age.saturating_add(UPDATE_SPREAD_MOST);
        let late = Self { age, entries: self.entries.saturating_add(self.entries / 8) };
        channel.leaf.is_some() && late.is_due(channel, wall)
    }
}

impl Channel {
    /// Whether this device may renew its leaf here now; alone there is nobody to keep up with.
    fn keeps_up(&self) -> bool {
        let member = self.row.member && !self.row.leaving && !self.stuck;
        self.ready && member && self.row.members > 1
    }
}

impl Client {
    /// The own leaf has keys made now.
    pub(super) fn leaf_is_fresh(&mut self, id: ChannelId) {
        let since = self.now.wall;
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let leaf = Leaf { since, seq: channel.row.cursor.seq() };
        channel.leaf = Some(leaf);
        channel.update_at = None;
        self.gate.stage(directory::put(directory::key(directory::LEAF, &[&id.0]), &leaf));
    }

    /// The server took no new keys. They stay due, and would be refused again at once.
    pub(super) fn renew_later(&mut self, id: ChannelId) {
        let at = self.now.mono + UPDATE_SPREAD_MOST;
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.update_at = Some(at);
        }
    }

    /// A commit of this device is merged.
    pub(super) fn note_own_commit(&mut self, id: ChannelId, change: &Change) {
        if change.rekeyed && !change.evicted {
            self.leaf_is_fresh(id);
        }
    }

    /// Forgets how old the own leaf of a group is.
    pub(super) fn forget_leaf(&mut self, id: ChannelId) {
        self.gate.stage(Op::Delete(directory::key(directory::LEAF, &[&id.0])));
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.leaf = None;
            channel.update_at = None;
        }
    }

    /// When the next leaf is to be renewed; `None` while that would have to wait for a connection.
    pub(super) fn update_deadline(&self) -> Option<Duration> {
        let due = |(id, channel): (&ChannelId, &Channel)| match channel.leaf {
            _ if !channel.keeps_up() => None,
            _ if self.config.update.is_due(channel, self.now.wall) => {
                channel.update_at.filter(|_| !self.is_renewing(*id))
            }
            Some(leaf) => {
                let left = leaf.since.plus(self.config.update.age).since(self.now.wall);
                Some(self.now.mono + left)
            }
            None => None,
        };
        self.channels.iter().filter_map(due).min()
    }

    /// Draws a moment for each leaf that is due, and renews those whose moment has come.
    pub(super) fn check_leaves(&mut self) {
        let (mono, wall, policy) = (self.now.mono, self.now.wall, self.config.update);
        let mut draw = Vec::new();
        let mut renew = Vec::new();
        for (id, channel) in &self.channels {
            if !channel.keeps_up() || !policy.is_due(channel, wall) || self.is_renewing(*id) {
                continue;
            }
            match channel.update_at {
                Some(at) if at <= mono => renew.push(*id),
                Some(_) => {}
                None if policy.is_late(channel, wall) => renew.push(*id),
                None => draw.push(*id),
            }
        }
        for id in draw {
            let random = self.entropy.u64();
            let Some(channel) = self.channels.get_mut(&id) else { continue };
            let spread = UPDATE_SPREAD.saturating_mul(channel.row.members).min(UPDATE_SPREAD_MOST);
            let spread = u64::try_from(spread.as_micros()).unwrap_or(u64::MAX).max(1);
            channel.update_at = Some(mono + Duration::from_micros(random % spread));
        }
        for id in renew {
            let ticket = self.next_ticket();
            self.store_intent(ticket, Intent { channel: id, want: Want::Renew, losses: 0 });
        }
    }

    /// Whether the intent is there that renews the own leaf.
    fn is_renewing(&self, id: ChannelId) -> bool {
        let renews = |intent: &Intent| intent.channel == id && matches!(intent.want, Want::Renew);
        self.intents.values().any(renews)
    }

    /// Whether a renewal is still wanted: the leaf may have got new keys meanwhile.
    pub(super) fn wants_renewal(&self, id: ChannelId) -> bool {
        let channel = self.channels.get(&id);
        channel.is_some_and(|channel| self.config.update.is_due(channel, self.now.wall))
    }
}
