//! Coming back into a group that this device has [fallen](super::fall) out of.
//!
//! What the server has of the group, GroupInfo and tree, is held to what this device knows; from it a commit is made
//! that replaces its own leaf ([`Group::rejoin`]). The commit goes into the outbox and the group behind it *beside* the
//! old one, in one batch. The old one stays until the log shows that very commit; then the new one takes its place, in
//! the batch that reads it. If the log shows another commit, or the server refuses this one, what was made is dropped,
//! and a newer GroupInfo asked for after a random while.
//!
//! Who was added by a welcome that it cannot open comes in the same way, and who finds that its group has ended and
//! that it is in the next one already.
//!
//! A log that can be read is read to its head first, by the old group, and on from there. One that cannot is
//! read on from where the GroupInfo says that it stood; nothing before it could be used.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::channel::Slot;
use super::direct::is_direct;
use super::event::{Event, Failed, Outcome, Why};
use super::inbound::pause;
use super::incoming::Incoming;
use super::intent::{Intent, Want};
use super::load::Reading;
use super::net::Call;
use super::session::Phase;
use super::submission::{OutItem, OutWhat};
use super::{Client, directory};
use crate::delivery::window::Cursor;
use crate::env::Now;
use crate::error::{ErrorCode, Refused};
use crate::id::{AccountId, ChannelId, Digest, GroupId, MessageId, Sender};
use crate::io::{LoadId, Ticket};
use crate::limits::REJOINS;
use crate::mls::group::{Bundle, Group};
use crate::mls::rejoin::{Floor, devices, suite_of};
use crate::mls::{Context, MlsError};
use crate::store::batch::{Op, Records};
use crate::wire::message::{CommitBundle, Failure, Reply, Request};

const NO_LEAF: &str =
    "no leaf of this device's key is in the group: a member has to remove and add it";
/// What becomes of a wish to come back into a group that has ended.
pub(super) const ENDED: &str = "the group has ended; this device is to be added to the next one";
const UNKNOWABLE: &str =
    "what is stored does not tell whose group it is: a member has to remove and add this device";

/// What a commit to come back by is made from.
#[derive(Debug)]
pub(super) struct Rejoining {
    /// The read of the old group's records.
    old: LoadId,
    /// Read up to here when the server was asked: what it says of the log is no older.
    since: u64,
    /// Who was in the group, once that is read.
    known: Option<Known>,
    offer: Option<Offer>,
}

/// Who may have signed the server's GroupInfo.
#[derive(Debug)]
enum Known {
    /// Who was in the group, or in the one before: accounts, and devices of the own one.
    Members(BTreeSet<AccountId>, Vec<Sender>),
    /// Anybody: this device has never followed the group that it was added to.
    Anybody,
    /// Nobody: what is stored does not tell who was in it.
    Nobody,
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
    /// `NoAccount`, `LoggedOut`, `Busy`, `UnknownChannel`, `NotMember`; `Invalid` within an hour of the last time, and for
    /// a group that has ended by a reset.
    pub fn rejoin(&mut self, now: Now, channel: ChannelId) -> Result<Ticket, Refused> {
        self.begin(now)?;
        self.need_session()?;
        self.need_member(channel)?;
        if self.channels.get(&channel).is_some_and(|known| known.ended.is_some()) {
            return Err(Refused::Invalid(ENDED));
        }
        if self.rejoin_wait(channel).is_some() {
            return Err(Refused::Invalid("a device rejoins a group at most once an hour"));
        }
        let ticket = self.next_ticket();
        self.store_intent(ticket, Intent { channel, want: Want::Rejoin, losses: 0 });
        self.fall_out(channel, Why::Asked, false);
        if let Some(channel) = self.channels.get_mut(&channel)
            && core::mem::take(&mut channel.rejoin_off)
        {
            channel.rejoin_at = None;
        }
        Ok(ticket)
    }

    fn rejoin_wishes(&self, id: ChannelId) -> Vec<Ticket> {
        let wishes = |(_, intent): &(&Ticket, &Intent)| {
            intent.channel == id && matches!(intent.want, Want::Rejoin)
        };
        self.intents.iter().filter(wishes).map(|(ticket, _)| *ticket).collect()
    }

    pub(super) fn wants_rejoin(&self, id: ChannelId) -> bool {
        !self.rejoin_wishes(id).is_empty()
    }

    /// Whoever asked to come back has got what it asked for, by an epoch, or cannot get it any more.
    pub(super) fn settle_rejoins(&mut self, id: ChannelId, end: Result<u64, &'static str>) {
        for ticket in self.rejoin_wishes(id) {
            match end {
                Ok(epoch) => self.fulfil(ticket, Outcome::Epoch(epoch)),
                Err(why) => self.fail_intent(ticket, Failed::Obsolete(why)),
            }
        }
    }

    /// Moves the way back into a group on.
    pub(super) fn pump_rejoin(&mut self, id: ChannelId) {
        let wait = self.rejoin_wait(id);
        let (online, mono) = (self.phase() == Some(Phase::Online), self.now.mono);
        let other_way = self.founding.contains(&id) || self.waits_for_reset(id);
        let welcomed = self.channels.values().all(|channel| !channel.inbox || channel.at_head());
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
        // What can be read is read with the old group, as long as there is one; and a welcome to the next one first.
        let behind =
            (!channel.fall.cut && !channel.ready) || (channel.ended.is_some() && !welcomed);
        if busy || behind {
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
        let own = self.me().map(|me| me.account);
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let Some(rejoining) = channel.rejoining.as_mut().filter(|way| way.old == read) else {
            return;
        };
        let never = channel.fall.why == Some(Why::Added) && records.is_empty();
        rejoining.known = Some(match devices(records) {
            _ if never => Known::Anybody,
            None => Known::Nobody,
            Some(there) => {
                let accounts = there.iter().map(|device| device.account).collect();
                let own = there.into_iter().filter(|device| Some(device.account) == own);
                Known::Members(accounts, own.collect())
            }
        });
        self.try_rejoin(id);
    }

    /// What the server has of the group.
    pub(super) fn on_group_info(&mut self, id: ChannelId, reply: Reply) {
        let Reply::GroupInfo { generation, epoch, group_info, tree, tree_len, seq, chain } = reply
        else {
            return;
        };
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let Some(Rejoining { since, known, .. }) = &channel.rejoining else { return };
        let unknowable = matches!(known, Some(Known::Nobody)) && !is_direct(id);
        let since = *since;
        channel.denied = false;
        if unknowable {
            return self.give_rejoin_up(id, UNKNOWABLE);
        }
        let cursor = channel.row.cursor.seq();
        if generation > channel.generation() && channel.fall.cut {
            // The log would have shown it, if it could be read.
            self.pass_generation(id, generation);
        } else if generation != channel.generation() {
            return self.give_rejoin_up(id, "the group is in another generation");
        }
        self.note_added(id);
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
        let Some(channel) = self.channels.get_mut(&id).filter(|c| c.rejoining.is_some()) else {
            return;
        };
        let not_member = failure.code == ErrorCode::NotMember;
        // A reset may come between the server's looking for the group and for what it has of it.
        if failure.is_transient() || failure.code == ErrorCode::GenerationMismatch {
            let at = self.now.mono + pause(failure.retry_after_ms);
            self.rejoin_later(id);
            if let Some(channel) = self.channels.get_mut(&id) {
                channel.rejoin_at = channel.rejoin_at.max(Some(at));
            }
        } else if not_member && channel.ended.is_some_and(|ended| !ended.added) {
            // Not added yet: the welcome is waited for.
            self.forget_fall(id);
            self.settle_blindness(id);
        } else if channel.fall.cut && (not_member || failure.code == ErrorCode::ChannelUnknown) {
            // There is no log to show by whom; and of a group that it was never in nothing is kept.
            let never = channel.fall.why == Some(Why::Added) && channel.row.epoch == 0;
            self.evict(id, None);
            if never {
                self.forget_channel(id);
            }
        } else if not_member && !core::mem::replace(&mut channel.denied, true) {
            // A log that can be read says itself whether this device was removed: it is read to its head first.
            channel.unsubscribe();
            self.end_rejoining(id);
            self.dirty.insert(id);
        } else {
            self.give_rejoin_up(id, failure.code.text());
        }
    }

    /// Goes on with all groups that wait for the key packages.
    pub(super) fn try_rejoins(&mut self) {
        let under_way = self.channels.iter().filter(|(_, channel)| channel.rejoining.is_some());
        for id in under_way.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.try_rejoin(id);
        }
    }

    /// Makes the commit, once everything that it takes is here.
    fn try_rejoin(&mut self, id: ChannelId) {
        let devices = self.own_devices();
        // The one that this device was added by goes, if it is here.
        self.warm_packages();
        let (Some(channel), Some(_)) = (self.channels.get_mut(&id), self.packages.warm()) else {
            return;
        };
        let Some(Rejoining { known: Some(known), offer: Some(offer), .. }) = &channel.rejoining
        else {
            return;
        };
        let (known, siblings) = match known {
            // Not before the server has answered: this device may be out by now.
            Known::Nobody if !is_direct(id) => return self.give_rejoin_up(id, UNKNOWABLE),
            Known::Anybody | Known::Nobody => (None, Vec::new()),
            // Of a direct channel the id tells whose it is, though the other may not have been in yet.
            Known::Members(known, siblings) => {
                (Some(known).filter(|_| !is_direct(id)), siblings.clone())
            }
        };
        let Some(tree) = offer.tree.whole() else { return };
        let overtaken = offer.seq < channel.row.cursor.seq();
        // What makes this device believe that the group has moved on has to be so.
        let moved = matches!(channel.fall.why, Some(Why::Missed | Why::Unopened));
        let next = channel.ended.is_some();
        // The suite is the same all the time that this device knows the group.
        let offered = suite_of(&offer.group_info).filter(|suite| *suite >= channel.row.suite);
        let floor = Floor {
            id: GroupId::of(id, channel.generation()),
            suite: offered.filter(|_| next || known.is_none()).unwrap_or(channel.row.suite),
            epoch: if next { 0 } else { channel.row.epoch.saturating_add(u64::from(moved)) },
            known,
        };
        // The leaf may have a key of before: the present one follows by an ordinary commit.
        let mut made = Err(MlsError::NotMember);
        for device in devices {
            let mut entropy = self.entropy.fork();
            let (backend, wall) = (self.config.backend, self.now.wall);
            let cx = Context { backend, entropy: &mut entropy, wall };
            made = Group::rejoin(cx, &device, &offer.group_info, tree, &floor);
            if !matches!(made, Err(MlsError::NotMember)) {
                break;
            }
        }
        let seq = channel.row.cursor.seq();
        let made = made.and_then(|made| self.suits(id, &made.0).map(|()| made));
        match made {
            Ok((group, bundle)) => {
                self.note_gone(id, &siblings, &group);
                self.store_rejoin(id, group, bundle);
            }
            Err(MlsError::PastEpoch) if moved => self.fall_in(id),
            // Entries came while the tree was on its way.
            Err(MlsError::PastEpoch) if overtaken => self.rejoin_later(id),
            Err(MlsError::NotMember) => self.give_rejoin_up(id, NO_LEAF),
            Err(error) => {
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
        if let Some(packages) = self.packages.warm() {
            packages.forget_used(&group);
        }
        self.stage_packages();
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let spare = directory::spare_prefix(id);
        self.gate.stage(Op::DeletePrefix(spare.clone()));
        self.gate.stage_all(directory::under(&spare, group.take_ops()));
        // Read again when the log has something to show.
        channel.spare = Slot::Cold;
        channel.fall.made = true;
        let generation = channel.generation();
        if channel.fall.cut {
            channel.jump(Cursor::at(offer.seq, offer.chain));
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
        self.store_item(ticket, OutItem::new(id, message, what, true));
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

    pub(super) fn rejoin_item(&self, id: ChannelId) -> Option<(Ticket, &OutItem, u64)> {
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
}
