//! From a welcome in the inbox to a group: the ratchet tree is fetched beside it, checked, and joined.

use super::channel::Slot;
use super::direct::is_direct;
use super::directory;
use super::event::Event;
use super::incoming::Incoming;
use super::left::Left;
use super::submission::{OutItem, OutWhat};
use super::{Channel, Client};
use crate::delivery::window::Cursor;
use crate::id::{ChannelId, GroupId, Sender};
use crate::mls::group::Group;
use crate::mls::{Context, MlsError};
use crate::store::batch::Op;
use crate::wire::message::{ChannelKind, Entry, EntryKind, Origin, Part};

/// What to do about a welcome.
enum Welcome {
    Join,
    /// First the group's own log has to say whether this device is still in it.
    Wait,
    /// Nothing; with a reason, if it should not have come.
    Pass(Option<&'static str>),
}

impl Client {
    /// One entry of the inbox; `false`: it waits, and what comes after it too.
    pub(super) fn read_inbox(&mut self, inbox: ChannelId, entry: Entry) -> bool {
        let Some(origin) = entry.origin.filter(|_| entry.kind == EntryKind::Welcome) else {
            self.read_notice(inbox, &entry);
            self.advance(inbox, &entry);
            return true;
        };
        match self.weigh_welcome(&entry, &origin) {
            Welcome::Join => {
                self.warm_packages();
                self.read_group(origin.channel);
                return self.download(inbox, entry, origin.tree, origin.tree_len);
            }
            Welcome::Wait => {
                if let Some(channel) = self.channels.get_mut(&inbox) {
                    channel.wait_first(entry);
                }
                return false;
            }
            Welcome::Pass(why) => {
                self.advance(inbox, &entry);
                if let Some(why) = why {
                    self.unreadable(origin.channel, entry.seq, why);
                }
            }
        }
        true
    }

    /// A welcome must not replace a group that this device is in and can follow: the log of that group has to show its
    /// removal first, or that it cannot be read on.
    fn weigh_welcome(&mut self, entry: &Entry, origin: &Origin) -> Welcome {
        if !Incoming::may_be_tree(origin.tree_len) {
            return Welcome::Pass(Some("a welcome without a tree of a possible size"));
        }
        if !matches!(origin.channel.kind(), Some(ChannelKind::Group | ChannelKind::Direct)) {
            return Welcome::Pass(Some("a welcome to a channel that has no group"));
        }
        let founding = self.founding.contains(&origin.channel);
        if founding && is_direct(origin.channel) {
            // Either account may have been first: the server's answer to our own founding is on its way.
            return Welcome::Wait;
        }
        if self.is_passed(entry, &origin.channel) {
            // Whoever comes back by itself, or resets the group once more, may overtake the welcome of one who has
            // added it anew.
            let known = self.channels.get(&origin.channel);
            let overtaken = |channel: &Channel| {
                channel.fall.last.0 > 0 || entry.generation < channel.row.generation
            };
            let by_itself =
                known.is_some_and(overtaken) || self.rejoin_item(origin.channel).is_some();
            return Welcome::Pass((!by_itself).then_some("a welcome to an epoch that is over"));
        }
        let Some(channel) = self.channels.get_mut(&origin.channel) else { return Welcome::Join };
        if founding || channel.inbox {
            return Welcome::Pass(Some("a welcome to a channel of this device's own"));
        }
        if !channel.row.member || !channel.followed() {
            return Welcome::Join;
        }
        if channel.checked_for == entry.seq {
            if channel.ready {
                return Welcome::Pass(Some("a welcome to a group that this device is in"));
            }
            return Welcome::Wait;
        }
        channel.checked_for = entry.seq;
        channel.unsubscribe();
        self.dirty.insert(origin.channel);
        Welcome::Wait
    }

    /// Whether a welcome leads to what this device has left behind, or is about to: it comes back from a later epoch.
    fn is_passed(&self, welcome: &Entry, to: &ChannelId) -> bool {
        let row = self.channels.get(to).map(|channel| &channel.row);
        let there = row.map(|row| (row.generation, row.epoch));
        let coming = self.rejoin_item(*to).and_then(|(_, item, _)| match &item.what {
            OutWhat::Rejoin { bundle } => Some((bundle.generation, bundle.epoch)),
            _ => None,
        });
        there.max(coming).is_some_and(|at| (welcome.generation, welcome.epoch) <= at)
    }

    /// Whether a welcome to a channel is here, and its tree on its way.
    pub(super) fn is_joining(&self, id: ChannelId) -> bool {
        let mut inboxes = self.channels.values().filter(|channel| channel.inbox);
        let to = |inbox: &Channel| inbox.download.as_ref()?.entry.origin.map(|at| at.channel);
        inboxes.any(|inbox| to(inbox) == Some(id))
    }

    /// Joins once the tree and the key packages are both at hand.
    pub(super) fn try_join(&mut self, inbox: ChannelId) {
        let Some(channel) = self.channels.get(&inbox).filter(|channel| channel.inbox) else {
            return;
        };
        let Some(join) = channel.download.as_ref().filter(|join| join.is_whole()) else { return };
        let Some(origin) = join.entry.origin else { return };
        if self.packages.warm().is_none() {
            return;
        }
        let before = self.channels.get(&origin.channel).map(|channel| &channel.slot);
        if matches!(before, Some(Slot::Loading(..))) {
            return;
        }
        if self.is_passed(&join.entry, &origin.channel) {
            // A reset of this device has begun while the tree was on its way.
            return self.end_join(inbox, None);
        }
        let generation = join.entry.generation;
        match self.join_now(inbox) {
            Ok(()) => self.end_join(inbox, None),
            Err(MlsError::NotForUs) if self.enter_unopened(origin.channel, generation) => {
                self.end_join(inbox, None);
            }
            Err(error) => self.end_join(inbox, Some(&error.to_string())),
        }
    }

    fn join_now(&mut self, inbox: ChannelId) -> Result<(), MlsError> {
        let devices = self.own_devices();
        let Some(join) = self.channels.get(&inbox).and_then(|channel| channel.download.as_ref())
        else {
            return Ok(());
        };
        let Some(origin) = join.entry.origin else { return Ok(()) };
        let Part::Inline(welcome) = &join.entry.payload else {
            return Err(MlsError::Invalid("the welcome is a blob".into()));
        };
        let (Some(packages), Some(tree)) = (self.packages.warm(), join.blob.whole()) else {
            return Ok(());
        };
        // The key package may have been made with a key of before.
        let mut joined = Err(MlsError::Record);
        for device in devices {
            let mut entropy = self.entropy.fork();
            let (backend, wall) = (self.config.backend, self.now.wall);
            let cx = Context { backend, entropy: &mut entropy, wall };
            joined = Group::join(cx, &device, packages, welcome, tree);
            if !matches!(joined, Err(MlsError::Record)) {
                break;
            }
        }
        let group = joined?;
        let generation = join.entry.generation;
        if group.id() != GroupId::of(origin.channel, generation) {
            return Err(MlsError::WrongGroup);
        }
        if group.epoch() != join.entry.epoch {
            return Err(MlsError::Invalid("another epoch than the server named".into()));
        }
        let Some(by) = group.added_by() else { return Err(MlsError::Record) };
        self.suits(origin.channel, &group)?;
        self.judge_successor(origin.channel, generation, by, &group)?;
        self.adopt(origin, generation, by, group);
        Ok(())
    }

    /// Takes a group just joined into the directory.
    fn adopt(&mut self, origin: Origin, generation: u32, by: Sender, group: Group) {
        let id = origin.channel;
        let mut row = directory::ChannelRow::fresh(id);
        row.generation = generation;
        row.suite = group.suite();
        row.epoch = group.epoch();
        row.cursor = Cursor::at(origin.seq, origin.chain);
        row.authenticator = group.authenticator();
        row.members = u32::try_from(group.members().len()).unwrap_or(u32::MAX);
        row.unread = self.channels.get(&id).map_or(0, |before| before.row.unread);
        let leaving = self.leaves_still(id, generation);
        row.leaving = leaving;
        let was_member = self.is_member(id);
        let before = self.channels.get(&id).map_or(0, |before| before.row.generation);
        let carried = self.profile_to_carry(id, false);
        let carried = carried.filter(|_| was_member && before < generation);
        let over = group.data().metadata;
        let mut channel = Channel::new(row, false);
        self.void_resets(id);
        self.drop_rejoin(id);
        self.end_rejoining(id);
        self.forget_arrived(id);
        // What was under way in the group before leads nowhere; what was wanted is wanted in the new one.
        self.lose_pending(id);
        self.drop_proposals(id);
        // What the server took before is not read again: the log is read on behind the welcome's commit.
        let accepted = |item: &OutItem| item.accepted.is_some();
        for ticket in self.outbox_of(id) {
            if self.outbox.get(&ticket).is_some_and(accepted) {
                self.drop_item(ticket);
            }
        }
        if let Some(before) = self.channels.remove(&id) {
            let prefix = directory::group_prefix(id, before.row.generation);
            self.gate.stage(Op::DeletePrefix(prefix));
            channel.told = before.told;
            channel.spilled_after = before.spilled_after;
            channel.fall.last = before.fall.last;
            channel.row.with = before.row.with;
            // The log is the same one.
            channel.ledger = before.ledger;
            let from = &before.row.cursor;
            channel.ledger.marks.keep(from.seq(), from.chain());
            channel.agreed = before.agreed;
            channel.left = before.left;
        }
        // Before the first commit the founder was alone: nobody can have left.
        let first = generation == 1 && channel.row.epoch <= 1;
        if !was_member && !first && self.me().is_some_and(|me| me.account == by.account) {
            channel.left = Left::unknown();
        }
        channel.enter(group.transcript());
        channel.slot = Slot::Warm(Box::new(group));
        channel.row_dirty = true;
        self.channels.insert(id, channel);
        self.note_other(id);
        self.doubt_claims(id);
        self.leaf_is_fresh(id);
        self.stage_packages();
        self.stage_channel(id);
        self.store_fall(id);
        self.store_left(id);
        self.forget_left(id);
        self.dirty.insert(id);
        if self.key_for(id).is_some() {
            self.want_new_key(id);
        }
        if let Some(last) = carried {
            self.carry_profile(id, last, over);
        }
        self.event(Event::Joined { channel: id, by });
        self.settle_joined(id, leaving);
        self.doubt_joined(id);
        self.admit_all(id);
    }

    pub(super) fn end_join(&mut self, inbox: ChannelId, trouble: Option<&str>) {
        let Some(channel) = self.channels.get_mut(&inbox) else { return };
        let Some(join) = channel.download.take() else { return };
        channel.advance(&join.entry);
        self.dirty.insert(inbox);
        self.dirty.extend(join.entry.origin.map(|origin| origin.channel));
        self.transfer_ended();
        if let Some(why) = trouble {
            let channel = join.entry.origin.map_or(inbox, |origin| origin.channel);
            self.unreadable(channel, join.entry.seq, why);
        }
    }
}
