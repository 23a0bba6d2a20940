//! The second half of the way back into a group: what the log shows of the commit that this device made for it, and
//! what is done when it comes to nothing.

use core::time::Duration;

use super::Client;
use super::channel::Slot;
use super::directory::{self, Fall};
use super::event::Event;
use super::load::Reading;
use super::submission::{OutItem, OutWhat};
use crate::error::ErrorCode;
use crate::id::ChannelId;
use crate::io::{LoadId, Ticket};
use crate::limits::{BACKOFF_MOST, REJOIN_TIME};
use crate::mls::group::Group;
use crate::store::batch::{Op, Records};
use crate::wire::message::{Entry, EntryKind, Failure};

/// The first delay after a try that came to nothing; doubled each time, drawn at random below that.
const RETRY: Duration = Duration::from_millis(50);

impl Client {
    /// Whether the log's next entry can be worked on now; asks for what it takes if not.
    pub(super) fn may_read(&mut self, id: ChannelId) -> bool {
        let Some(channel) = self.channels.get_mut(&id) else { return false };
        if channel.inbox {
            return true;
        }
        if channel.fall.made && !matches!(channel.spare, Slot::Warm(_)) {
            self.load_spare(id);
            return false;
        }
        if channel.row.member && channel.fall.cut {
            return channel.fall.made;
        }
        if matches!(channel.slot, Slot::Warm(_)) {
            return true;
        }
        if channel.row.member {
            self.load_group(id);
        } else {
            channel.waiting.clear();
            channel.waiting_bytes = 0;
        }
        false
    }

    /// Passes over an entry of a log that is read for our own commit alone.
    pub(super) fn passes_over(&mut self, id: ChannelId, entry: &Entry) -> bool {
        let cut = self.channels.get(&id).is_some_and(|channel| channel.fall.cut);
        if cut && entry.kind == EntryKind::Commit {
            self.overtaken(id, entry.epoch.saturating_add(1));
        }
        cut
    }

    /// The group has moved into an epoch: a commit made for an earlier one is void.
    pub(super) fn overtaken(&mut self, id: ChannelId, epoch: u64) {
        if self.rejoin_item(id).is_some_and(|(_, _, of)| of < epoch) {
            self.lose_rejoin(id);
        }
    }

    fn load_spare(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if matches!(channel.spare, Slot::Cold) {
            let read = self.read(Reading::Spare(id), directory::spare_prefix(id));
            if let Some(channel) = self.channels.get_mut(&id) {
                channel.spare = Slot::Loading(read);
            }
        }
    }

    /// Records of the group to come back to.
    pub(super) fn on_spare_records(&mut self, id: ChannelId, read: LoadId, records: Records) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if !channel.spare.is_read_as(read) {
            return;
        }
        match Group::restore(self.config.backend, records) {
            Ok(group) => {
                channel.spare = Slot::Warm(Box::new(group));
                self.dirty.insert(id);
            }
            Err(_) => self.lose_rejoin(id),
        }
    }

    /// The log shows our commit: the new group takes the place of the old one.
    pub(super) fn come_back(&mut self, id: ChannelId, ticket: Ticket) {
        self.drop_item(ticket);
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let spare = core::mem::replace(&mut channel.spare, Slot::None);
        let (Slot::Warm(mut group), Some(why)) = (spare, channel.fall.why) else { return };
        // The old one has read the log up to here. What was sent before can still come, as after any commit.
        let kept = match &channel.slot {
            Slot::Warm(old) => group.keep_past(old),
            _ => Ok(()),
        };
        drop(group.take_ops());
        self.gate.stage(Op::DeletePrefix(directory::group_prefix(id, channel.row.generation)));
        channel.row.generation = channel.generation();
        channel.row.suite = group.suite();
        if channel.ended.take().is_some() {
            self.gate.stage(Op::Delete(directory::key(directory::ENDED, &[&id.0])));
        }
        let prefix = directory::group_prefix(id, channel.row.generation);
        self.gate.stage(Op::DeletePrefix(prefix.clone()));
        self.gate.stage(Op::DeletePrefix(directory::spare_prefix(id)));
        let records = group.records().into_iter().map(|(key, value)| Op::Put(key, value));
        self.gate.stage_all(directory::under(&prefix, records.collect()));
        let epoch = group.epoch();
        channel.row.epoch = epoch;
        channel.row.authenticator = group.authenticator();
        channel.row.members = u32::try_from(group.members().len()).unwrap_or(u32::MAX);
        channel.row_dirty = true;
        channel.enter(group.transcript());
        channel.slot = Slot::Warm(group);
        channel.fall = Fall { last: self.now.wall, ..Fall::default() };
        channel.rejoins = 0;
        channel.rejoin_off = false;
        let (leaving, seq) = (channel.row.leaving, channel.row.cursor.seq());
        self.store_fall(id);
        // A commit or proposal of the old leaf is of an epoch that is over.
        self.lose_pending(id);
        self.drop_proposals(id);
        if leaving {
            self.leave_again(id);
        }
        if self.key_for(id).is_some() {
            self.want_new_key(id);
        }
        self.leaf_is_fresh(id);
        self.note_other(id);
        self.hide_old_profile(id);
        self.doubt_claims(id);
        self.settle_rejoins(id, Ok(epoch));
        self.settle_blindness(id);
        self.stage_channel(id);
        self.wake_inboxes();
        self.forget_left(id);
        self.event(Event::Rejoined { channel: id, epoch, why });
        if let Err(error) = kept {
            self.unreadable(id, seq, &error.to_string());
        }
    }

    /// A proposal is of its epoch only: the intent makes another.
    pub(super) fn drop_proposals(&mut self, id: ChannelId) {
        let proposal = |item: &OutItem| matches!(item.what, OutWhat::Proposal { .. });
        for ticket in self.outbox_of(id) {
            if self.outbox.get(&ticket).is_some_and(proposal) {
                self.drop_item(ticket);
            }
        }
    }

    // ---- what the log does not show -----------------------------------------------------------

    /// The server takes nothing from this device, which it says is no member. The log has to show that: it is read
    /// anew.
    pub(super) fn look_for_removal(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if channel.row.member && channel.fall.why.is_none() && channel.ended.is_none() {
            channel.denied = true;
            channel.unsubscribe();
            self.dirty.insert(id);
        }
    }

    /// The log was read to its head: if this device is a member by it still, the server's word or its log is not true.
    pub(super) fn check_removal(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let doubted = channel.row.member && channel.fall.why.is_none();
        if doubted && core::mem::take(&mut channel.denied) {
            let seq = channel.row.cursor.seq();
            self.event(Event::ForkSuspected { channel: id, seq });
        }
    }

    // ---- when it comes to nothing -------------------------------------------------------------

    /// The server refused our commit.
    pub(super) fn on_rejoin_refused(&mut self, id: ChannelId, failure: &Failure) {
        if failure.is_transient() {
            return self.hold(id, failure.retry_after_ms);
        }
        let cut = self.channels.get(&id).is_some_and(|channel| channel.fall.cut);
        if failure.code == ErrorCode::NotMember && cut {
            return self.evict(id, None);
        }
        // Another commit was first, or a proposal has to go first: a newer GroupInfo tells.
        self.lose_rejoin(id);
    }

    /// What was made is void: another try later.
    pub(super) fn lose_rejoin(&mut self, id: ChannelId) {
        self.drop_rejoin(id);
        self.rejoin_later(id);
        self.settle_blindness(id);
    }

    /// Another try after a random while, longer each time.
    pub(super) fn rejoin_later(&mut self, id: ChannelId) {
        self.end_rejoining(id);
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.rejoins = channel.rejoins.saturating_add(1);
        let most = RETRY.saturating_mul(1 << channel.rejoins.min(16)).min(BACKOFF_MOST);
        let spread = u64::try_from(most.as_micros()).unwrap_or(u64::MAX).max(1);
        let wait = Duration::from_micros(self.entropy.u64() % spread);
        channel.rejoin_at = Some(self.now.mono + wait);
    }

    /// Only others can change what is in the way. Tried again after an hour, or on the next connection: they may have
    /// removed this device, and no log tells that to one that cannot read it. Not at all if there is nothing of the
    /// group but the word of the server, which does not stand by it.
    pub(super) fn give_rejoin_up(&mut self, id: ChannelId, why: &'static str) {
        self.end_rejoining(id);
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if channel.is_hearsay() {
            return self.evict(id, None);
        }
        channel.rejoin_at = Some(self.now.mono + REJOIN_TIME);
        let told = core::mem::replace(&mut channel.rejoin_off, true);
        let seq = channel.row.cursor.seq();
        self.settle_rejoins(id, Err(why));
        if !told {
            self.unreadable(id, seq, why);
        }
        self.dirty.insert(id);
    }

    /// Drops what was made to come back by, if anything was.
    pub(super) fn drop_rejoin(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id).filter(|channel| channel.fall.made) else {
            return;
        };
        channel.fall.made = false;
        channel.spare = Slot::None;
        self.gate.stage(Op::DeletePrefix(directory::spare_prefix(id)));
        self.store_fall(id);
        if let Some((ticket, ..)) = self.rejoin_item(id) {
            self.drop_item(ticket);
        }
    }

    /// This device is out of the group for another reason.
    pub(super) fn forget_fall(&mut self, id: ChannelId) {
        self.drop_rejoin(id);
        self.end_rejoining(id);
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.fall = Fall { last: channel.fall.last, ..Fall::default() };
            channel.rejoin_at = None;
            channel.rejoin_off = false;
            channel.rejoins = 0;
            channel.denied = false;
        }
        self.store_fall(id);
    }
}
