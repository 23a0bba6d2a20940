//! Coming back into a group that this device has [fallen](super::fall) out of.
//!
//! What the server has of the group, GroupInfo and tree, is held to what this device knows; from it a commit is made
//! that replaces its own leaf ([`Group::rejoin`]). The commit goes into the outbox and the group behind it *beside* the
//! old one, in one batch. The old one stays until the log shows that very commit; then the new one takes its place, in
//! the batch that reads it. If the log shows another commit, or the server refuses this one, what was made is dropped,
//! and a newer GroupInfo asked for after a random while.
//!
//! A log that can be read is read to its head first, by the old group, and on from there. One that cannot is
//! read on from where the GroupInfo says that it stood; nothing before it could be used.

use core::time::Duration;
use std::collections::BTreeSet;

use bytes::Bytes;

use super::channel::Slot;
use super::directory::{self, Fall, OutItem, OutWhat, Want};
use super::event::{Event, Failed, Outcome, Why};
use super::inbound::pause;
use super::incoming::Incoming;
use super::load::Reading;
use super::net::Call;
use super::{Client, session::Phase};
use crate::delivery::window::Cursor;
use crate::env::Now;
use crate::error::{ErrorCode, Refused};
use crate::id::{AccountId, ChannelId, Digest, GroupId, MessageId};
use crate::io::{LoadId, Ticket};
use crate::limits::{BACKOFF_MOST, REJOINS};
use crate::mls::group::{Bundle, Group};
use crate::mls::rejoin::{Floor, accounts};
use crate::mls::{Context, MlsError};
use crate::store::batch::{Op, Records};
use crate::wire::message::{CommitBundle, Entry, EntryKind, Failure, Reply, Request};

/// The first delay after a try that came to nothing; doubled each time, drawn at random below that.
const RETRY: Duration = Duration::from_millis(50);
const NO_LEAF: &str =
    "no leaf of this device's key is in the group: a member has to remove and add it";
const UNKNOWABLE: &str =
    "what is stored does not tell whose group it is: a member has to remove and add this device";

/// What a commit to come back by is made from.
#[derive(Debug)]
pub(super) struct Rejoining {
    /// The read of the old group's records.
    old: LoadId,
    /// Read up to here when the server was asked: what it says of the log is no older.
    since: u64,
    /// Who was in the group.
    known: Option<BTreeSet<AccountId>>,
    offer: Option<Offer>,
}

/// The server's GroupInfo, and where the log stood.
#[derive(Debug)]
pub(super) struct Offer {
    group_info: Bytes,
    epoch: u64,
    seq: u64,
    chain: Digest,
    tree: Incoming,
}

impl Client {
    /// Replaces this device's own leaf in a group by a new one, from outside: for a group that it cannot read or write
    /// any more, or doubts. The log is read to its head first, if it can be. → [`Outcome::Epoch`]
    ///
    /// # Errors
    /// `NoAccount`, `LoggedOut`, `Busy`, `UnknownChannel`, `NotMember`; `Invalid` within an hour of the last time.
    pub fn rejoin(&mut self, now: Now, channel: ChannelId) -> Result<Ticket, Refused> {
        self.begin(now)?;
        self.need_session()?;
        self.need_member(channel)?;
        if self.rejoin_wait(channel).is_some() {
            return Err(Refused::Invalid("a device rejoins a group at most once an hour"));
        }
        let ticket = self.next_ticket();
        self.store_intent(ticket, directory::Intent { channel, want: Want::Rejoin, losses: 0 });
        self.fall_out(channel, Why::Asked, false);
        Ok(ticket)
    }

    pub(super) fn wants_rejoin(&self, id: ChannelId) -> bool {
        let mut intents = self.intents.values();
        intents.any(|intent| intent.channel == id && matches!(intent.want, Want::Rejoin))
    }

    /// This device is in the group anew: all that was asked for.
    pub(super) fn fulfil_rejoins(&mut self, id: ChannelId, epoch: u64) {
        for ticket in self.intents_of(id) {
            if matches!(self.intents.get(&ticket).map(|intent| &intent.want), Some(Want::Rejoin)) {
                self.fulfil(ticket, Outcome::Epoch(epoch));
            }
        }
    }

    /// Moves the way back into a group on.
    pub(super) fn pump_rejoin(&mut self, id: ChannelId) {
        let wait = self.rejoin_wait(id);
        let (online, mono) = (self.phase() == Some(Phase::Online), self.now.mono);
        let other_way = self.founding.contains(&id) || self.is_resetting(id);
        let under_way = self.channels.values().filter(|channel| channel.rejoining.is_some());
        let crowded = under_way.count() >= REJOINS;
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if !online || other_way || !channel.row.member || channel.fall.why.is_none() {
            return;
        }
        if channel.fall.made {
            return self.send_rejoin(id);
        }
        let busy = channel.rejoining.is_some() || channel.rejoin_at.is_some() || crowded;
        // What can be read is read with the old group, as long as there is one.
        let behind = !channel.fall.cut && !channel.ready;
        if busy || behind || channel.rejoin_off {
            return;
        }
        if let Some(wait) = wait {
            channel.rejoin_at = Some(mono + wait);
            // A clock that was set back must not keep this device out for longer.
            if channel.fall.last > self.now.wall {
                channel.fall.last = self.now.wall;
                self.store_fall(id);
            }
            return;
        }
        let prefix = directory::group_prefix(id, channel.row.generation);
        let since = channel.row.cursor.seq();
        let old = self.read(Reading::Old(id), prefix);
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.rejoining = Some(Rejoining { old, since, known: None, offer: None });
        }
        self.call(Call::GroupInfo(id), Request::GroupInfoFetch { channel: id });
    }

    /// The old group's records: its tree tells who was in it.
    pub(super) fn on_old_records(&mut self, id: ChannelId, read: LoadId, records: Records) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let Some(rejoining) = channel.rejoining.as_mut().filter(|way| way.old == read) else {
            return;
        };
        rejoining.known = accounts(records);
        if rejoining.known.is_none() {
            return self.give_rejoin_up(id, UNKNOWABLE);
        }
        self.try_rejoin(id);
    }

    /// What the server has of the group.
    pub(super) fn on_group_info(&mut self, id: ChannelId, reply: Reply) {
        let Reply::GroupInfo { generation, epoch, group_info, tree, tree_len, seq, chain } = reply
        else {
            return;
        };
        let Some(channel) = self.channels.get(&id) else { return };
        let Some(Rejoining { since, .. }) = channel.rejoining else { return };
        let cursor = channel.row.cursor.seq();
        if generation != channel.row.generation {
            return self.give_rejoin_up(id, "the group is in another generation");
        }
        if seq < since || !Incoming::may_be_tree(tree_len) {
            self.event(Event::ForkSuspected { channel: id, seq: cursor });
            return self.rejoin_later(id);
        }
        if seq < cursor {
            // Entries have overtaken it.
            return self.rejoin_later(id);
        }
        let tree = Incoming::new(tree, tree_len, Vec::new(), self.open_bulk());
        if let Some(channel) = self.channels.get_mut(&id)
            && let Some(rejoining) = &mut channel.rejoining
        {
            rejoining.offer = Some(Offer { group_info, epoch, seq, chain, tree });
        }
        self.ask_rejoin_tree(id);
    }

    fn offer(&mut self, id: ChannelId) -> Option<&mut Offer> {
        self.channels.get_mut(&id)?.rejoining.as_mut()?.offer.as_mut()
    }

    fn ask_rejoin_tree(&mut self, id: ChannelId) {
        let Some(Offer { tree, .. }) = self.offer(id) else { return };
        let (link, request) = (tree.link, tree.request());
        self.call_on(link, Call::RejoinTree(id), request);
    }

    /// A chunk of the tree.
    pub(super) fn on_rejoin_tree(&mut self, id: ChannelId, total: u64, chunk: &[u8]) {
        let Some(Offer { tree, seq, .. }) = self.offer(id) else { return };
        let seq = *seq;
        if tree.take(total, chunk).is_err() {
            self.event(Event::ForkSuspected { channel: id, seq });
            return self.rejoin_later(id);
        }
        if tree.whole().is_none() {
            return self.ask_rejoin_tree(id);
        }
        self.try_rejoin(id);
    }

    /// The server does not give out what it has of the group.
    pub(super) fn on_group_info_refused(&mut self, id: ChannelId, failure: &Failure) {
        let Some(channel) = self.channels.get(&id).filter(|c| c.rejoining.is_some()) else {
            return;
        };
        if failure.is_transient() {
            let at = self.now.mono + pause(failure.retry_after_ms);
            self.rejoin_later(id);
            if let Some(channel) = self.channels.get_mut(&id) {
                channel.rejoin_at = channel.rejoin_at.max(Some(at));
            }
        } else if failure.code == ErrorCode::NotMember && channel.fall.cut {
            self.evicted_unseen(id);
        } else {
            // A log that can be read says itself whether this device was removed.
            self.give_rejoin_up(id, failure.code.text());
        }
    }

    /// Removed while it could not read: there is no log to show by whom.
    fn evicted_unseen(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.row.member = false;
        channel.row.leaving = false;
        channel.row.authenticator.clear();
        channel.row_dirty = true;
        channel.slot = Slot::None;
        let prefix = directory::group_prefix(id, channel.row.generation);
        self.gate.stage(Op::DeletePrefix(prefix));
        self.forget_fall(id);
        self.abandon(id);
        self.stage_channel(id);
        self.event(Event::Evicted { channel: id, by: None });
    }

    /// Makes the commit, once everything that it takes is here.
    fn try_rejoin(&mut self, id: ChannelId) {
        // The leaf may be older than the present key: what comes back under an old one follows by an update.
        let devices = self.own_devices();
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let Some(Rejoining { known: Some(known), offer: Some(offer), .. }) = &channel.rejoining
        else {
            return;
        };
        let Some(tree) = offer.tree.whole() else { return };
        // What makes this device believe that the group has moved on has to be so.
        let moved = matches!(channel.fall.why, Some(Why::Missed | Why::Unopened));
        let floor = Floor {
            id: GroupId::of(id, channel.row.generation),
            suite: channel.row.suite,
            epoch: channel.row.epoch.saturating_add(u64::from(moved)),
            known,
        };
        let mut entropy = self.entropy.fork();
        let (backend, wall) = (self.config.backend, self.now.wall);
        let mut made = Err(MlsError::NotMember);
        for device in &devices {
            let cx = Context { backend, entropy: &mut entropy, wall };
            made = Group::rejoin(cx, device, &offer.group_info, tree, &floor);
            if !matches!(made, Err(MlsError::NotMember)) {
                break;
            }
        }
        match made {
            Ok((group, bundle)) => self.store_rejoin(id, group, bundle),
            Err(MlsError::PastEpoch) if moved => self.fall_in(id),
            Err(MlsError::NotMember) => self.give_rejoin_up(id, NO_LEAF),
            Err(error) => {
                let seq = channel.row.cursor.seq();
                self.unreadable(id, seq, &format!("the server's GroupInfo: {error}"));
                self.rejoin_later(id);
            }
        }
    }

    /// What a commit was to be made from is done with; others may have waited for their turn.
    pub(super) fn end_rejoining(&mut self, id: ChannelId) -> Option<Offer> {
        let Rejoining { offer, .. } = self.channels.get_mut(&id)?.rejoining.take()?;
        if let Some(link) = offer.as_ref().and_then(|offer| offer.tree.link) {
            self.finish_link(link);
        }
        let fallen = self.channels.iter().filter(|(_, channel)| channel.fall.why.is_some());
        self.dirty.extend(fallen.map(|(id, _)| *id));
        offer
    }

    /// The commit and the group behind it, beside the old one.
    fn store_rejoin(&mut self, id: ChannelId, mut group: Group, bundle: Bundle) {
        let Some(offer) = self.end_rejoining(id) else { return };
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let spare = directory::spare_prefix(id);
        self.gate.stage(Op::DeletePrefix(spare.clone()));
        self.gate.stage_all(directory::under(&spare, group.take_ops()));
        // Read again when the log has something to show.
        channel.spare = Slot::Cold;
        channel.fall.made = true;
        let generation = channel.row.generation;
        if channel.fall.cut {
            channel.row.cursor = Cursor::at(offer.seq, offer.chain);
            channel.row_dirty = true;
            self.forget_accepted(id, offer.seq);
        }
        let message = MessageId(self.entropy.array());
        let bundle = CommitBundle {
            channel: id,
            generation,
            epoch: offer.epoch,
            message,
            commit: self.part(bundle.commit),
            welcome: None,
            group_info: bundle.group_info.into(),
        };
        let ticket = self.next_ticket();
        let what = OutWhat::Rejoin { bundle };
        let item = OutItem { channel: id, message, what, accepted: None, silent: true };
        self.store_item(ticket, item);
        self.store_fall(id);
        self.settle_blindness(id);
        self.stage_channel(id);
    }

    /// What the server took before the log is read on is not read again.
    pub(super) fn forget_accepted(&mut self, id: ChannelId, seq: u64) {
        let passed = |item: &OutItem| item.accepted.as_ref().is_some_and(|a| a.seq <= seq);
        for ticket in self.outbox_of(id) {
            if self.outbox.get(&ticket).is_some_and(passed) {
                self.drop_item(ticket);
            }
        }
    }

    fn rejoin_item(&self, id: ChannelId) -> Option<(Ticket, &OutItem, u64)> {
        self.outbox.iter().find_map(|(ticket, item)| match &item.what {
            OutWhat::Rejoin { bundle } if item.channel == id => Some((*ticket, item, bundle.epoch)),
            _ => None,
        })
    }

    fn send_rejoin(&mut self, id: ChannelId) {
        let Some((ticket, item, _)) = self.rejoin_item(id) else {
            return self.lose_rejoin(id);
        };
        let open = item.accepted.is_none() && !self.inflight.contains(&ticket);
        let mono = self.now.mono;
        let held = self.channels.get(&id).and_then(|channel| channel.hold_until);
        if open && held.is_none_or(|at| at <= mono) {
            self.send_item(ticket);
        }
    }

    // ---- what the log shows -------------------------------------------------------------------

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
        drop(group.take_ops());
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
        let leaving = channel.row.leaving;
        self.store_fall(id);
        // A commit or proposal of the old leaf is of an epoch that is over.
        self.lose_pending(id);
        self.drop_proposals(id);
        if leaving {
            self.leave_again(id);
        }
        self.fulfil_rejoins(id, epoch);
        self.settle_blindness(id);
        self.stage_channel(id);
        self.event(Event::Rejoined { channel: id, epoch, why });
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

    // ---- when it comes to nothing -------------------------------------------------------------

    /// The server refused our commit.
    pub(super) fn on_rejoin_refused(&mut self, id: ChannelId, failure: &Failure) {
        if failure.is_transient() {
            return self.hold(id, failure.retry_after_ms);
        }
        let cut = self.channels.get(&id).is_some_and(|channel| channel.fall.cut);
        if failure.code == ErrorCode::NotMember && cut {
            return self.evicted_unseen(id);
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
    fn rejoin_later(&mut self, id: ChannelId) {
        self.end_rejoining(id);
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.rejoins = channel.rejoins.saturating_add(1);
        let most = RETRY.saturating_mul(1 << channel.rejoins.min(16)).min(BACKOFF_MOST);
        let spread = u64::try_from(most.as_micros()).unwrap_or(u64::MAX).max(1);
        let wait = Duration::from_micros(self.entropy.u64() % spread);
        channel.rejoin_at = Some(self.now.mono + wait);
    }

    /// Not again on this connection.
    fn give_rejoin_up(&mut self, id: ChannelId, why: &'static str) {
        self.end_rejoining(id);
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.rejoin_off = true;
        let seq = channel.row.cursor.seq();
        for ticket in self.intents_of(id) {
            if matches!(self.intents.get(&ticket).map(|intent| &intent.want), Some(Want::Rejoin)) {
                self.fail_intent(ticket, Failed::Obsolete(why));
            }
        }
        self.unreadable(id, seq, why);
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
        }
        self.store_fall(id);
    }
}
