//! What arrives in channels: subscriptions, entries in order, welcomes; one entry after the other becomes a
//! change of state and an event, in one batch.

use super::channel::{Join, Slot, Subscription, WAITING_BYTES};
use super::content::{Content, ContentBody};
use super::directory::{self, OutItem, OutWhat, StoredMessage};
use super::event::{Event, GroupChange, GroupMetadata, Message};
use super::net::Call;
use super::{Channel, Client, ClientContext};
use crate::crypto::identity::DeviceRecord;
use crate::delivery::chain;
use crate::delivery::window::{Agreement, Cursor};
use crate::error::ErrorCode;
use crate::id::{ChannelId, Digest, GroupId, Sender};
use crate::limits::{
    BACKOFF_MOST, BLOB_CHUNK, FETCH_ENTRIES, PAST_EPOCHS, TREE_BYTES, UNREAD_EVENTS,
};
use crate::mls::group::{Change, Group, Received};
use crate::mls::{Context, MlsError};
use crate::store::batch::Op;
use crate::wire::message::{Entries, Entry, EntryKind, Failure, Origin, Part, Request};
use core::time::Duration;
use std::collections::BTreeSet;

/// How often a server may leave out entries without any progress in between.
const GAPS: u32 = 8;
/// How often a welcome's tree is asked for again when it is another one than was named.
const TREES: u32 = 3;

/// How long to wait before asking again; a server does not get to say "next year".
pub(super) fn pause(retry_after_ms: u32) -> Duration {
    Duration::from_millis(u64::from(retry_after_ms.max(50))).min(BACKOFF_MOST)
}

/// What to do about a welcome.
enum Welcome {
    Join,
    /// First the group's own log has to say whether this device is still in it.
    Wait,
    /// Nothing; with a reason, if it should not have come.
    Pass(Option<&'static str>),
}

impl Client {
    /// A session began: every log is read on from its cursor.
    pub(super) fn begin_sync(&mut self) {
        self.synced = false;
        self.dirty.extend(self.channels.keys().copied());
        self.begin_packages();
    }

    pub(super) fn subscribe(&mut self, id: ChannelId) {
        let online = self.phase() == Some(super::session::Phase::Online);
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let wanted = channel.inbox || (channel.row.member && !self.founding.contains(&id));
        let given_up = channel.stuck || channel.subscription != Subscription::None;
        // What waits is used up first: the server would send it again.
        let later = !channel.waiting.is_empty() || channel.retry_at.is_some();
        if !online || !wanted || given_up || later {
            return;
        }
        channel.subscription = Subscription::Asked;
        let after = channel.row.cursor.seq();
        self.call(Call::Subscribe(id), Request::Subscribe { channel: id, after });
    }

    pub(super) fn on_subscribed(&mut self, id: ChannelId, head: u64) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if channel.subscription != Subscription::Asked {
            return;
        }
        channel.subscription = Subscription::Active;
        channel.head = Some(head);
        self.dirty.insert(id);
        let seq = channel.row.cursor.seq();
        if head < seq {
            self.event(Event::ForkSuspected { channel: id, seq });
        }
    }

    /// The server does not let this device read a channel.
    pub(super) fn on_subscribe_refused(&mut self, id: ChannelId, failure: &Failure) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.subscription = Subscription::None;
        if failure.is_transient() {
            channel.retry_at = Some(self.now.mono + pause(failure.retry_after_ms));
            return;
        }
        let seq = channel.row.cursor.seq();
        if channel.inbox && failure.code == ErrorCode::CursorInvalid && seq > 0 {
            // The server's log ends before what it showed once: welcomes are looked for from the start.
            channel.row.cursor = Cursor::start(id);
            channel.row_dirty = true;
            self.stage_channel(id);
            self.dirty.insert(id);
            return self.event(Event::ForkSuspected { channel: id, seq });
        }
        // On this connection; the next one asks again.
        channel.subscription = Subscription::Refused;
        self.wake_inboxes();
        if failure.code == ErrorCode::CursorInvalid {
            self.event(Event::ForkSuspected { channel: id, seq });
        }
        self.unreadable(id, seq, failure.code.text());
    }

    /// Entries of a subscribed channel: queued behind what waits already.
    pub(super) fn on_entries(&mut self, entries: Entries) {
        let id = entries.channel;
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if !matches!(channel.subscription, Subscription::Asked | Subscription::Active) {
            return;
        }
        self.dirty.insert(id);
        let mut last = channel.waiting.back().map_or(channel.row.cursor.seq(), |last| last.seq);
        let (mut forked, mut gap) = (None, None);
        if entries.entries.is_empty() && entries.first > last.saturating_add(1) {
            gap = Some(entries.first);
        }
        for entry in entries.entries {
            if entry.seq <= last {
                // Read before, or waiting; what was read has to be the same again.
                if entry.seq <= channel.row.cursor.seq()
                    && channel.row.cursor.advance(&entry).is_err()
                {
                    forked.get_or_insert(entry.seq);
                }
                continue;
            }
            if entry.seq - last > 1 {
                gap = Some(entry.seq);
                break;
            }
            last = entry.seq;
            channel.wait(entry);
        }
        if channel.waiting_bytes > WAITING_BYTES {
            // Too much for now: forget what cannot be used yet and ask for it again later.
            channel.forget_newest(WAITING_BYTES / 2);
            channel.unsubscribe();
            self.call(Call::Tell, Request::Unsubscribe { channel: id });
        } else if let Some(from) = gap {
            self.on_gap(id, last.saturating_add(1), from, entries.first);
        }
        if let Some(seq) = forked {
            self.event(Event::ForkDetected { channel: id, seq });
        }
    }

    /// Entries before `from` did not come. If the server still has them it left them out, and is asked again; if
    /// they are gone this device was away too long.
    fn on_gap(&mut self, id: ChannelId, expected: u64, from: u64, first: u64) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.unsubscribe();
        self.call(Call::Tell, Request::Unsubscribe { channel: id });
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if first <= expected {
            // Pushes of a subscription just given up may still arrive; but not again and again.
            channel.gaps += 1;
            if channel.gaps > GAPS {
                self.event(Event::ForkSuspected { channel: id, seq: expected });
                self.drop_connection("the server leaves out entries of a log".into());
            }
            return;
        }
        if channel.inbox {
            // Notes that were missed are gone; the chain starts over from what the server says next.
            channel.row.cursor = Cursor::at(from - 1, Digest([0; 32]));
            channel.row_dirty = true;
        } else {
            channel.stuck = true;
            self.wake_inboxes();
            self.event(Event::Gap { channel: id, from: expected, to: from });
        }
    }

    /// Works on what waits in a channel, as far as it goes now.
    pub(super) fn read_waiting(&mut self, id: ChannelId) {
        loop {
            let Some(channel) = self.channels.get_mut(&id) else { return };
            if channel.join.is_some() || channel.waiting.is_empty() || channel.retry_at.is_some() {
                break;
            }
            if !channel.inbox && !matches!(channel.slot, Slot::Warm(_)) {
                if channel.row.member {
                    self.load_group(id);
                } else if let Some(channel) = self.channels.get_mut(&id) {
                    channel.waiting.clear();
                    channel.waiting_bytes = 0;
                }
                return;
            }
            let Some(entry) = channel.next_waiting() else { break };
            if !channel.inbox {
                self.read_entry(id, &entry);
            } else if !self.read_inbox(id, entry) {
                break;
            }
        }
        self.finish_reading(id);
    }

    fn finish_reading(&mut self, id: ChannelId) {
        self.check_promises(id);
        self.stage_channel(id);
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if channel.subscription == Subscription::Active && channel.at_head() && !channel.ready {
            channel.ready = true;
            if channel.checked_for > 0 {
                self.wake_inboxes();
            }
        }
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let reading = matches!(channel.subscription, Subscription::Asked | Subscription::Active);
        if channel.row.cursor.seq() > channel.acked && reading {
            channel.acked = channel.row.cursor.seq();
            let seq = channel.acked;
            self.call(Call::Tell, Request::Ack { channel: id, seq });
        }
        // A subscription that was given up for its volume is taken again once there is room.
        self.subscribe(id);
    }

    /// One entry of a group's log.
    fn read_entry(&mut self, id: ChannelId, entry: &Entry) {
        if self.own_echo(id, entry) {
            return self.advance(id, entry);
        }
        let Part::Inline(payload) = &entry.payload else {
            self.unreadable(id, entry.seq, "its payload is a blob");
            return self.advance(id, entry);
        };
        let received = self.with_group(id, |group, cx| group.receive(cx, payload));
        match received {
            Some(Ok(Received::Application { sender, epoch, content })) => {
                self.on_content(id, entry, &sender, epoch, &content);
            }
            Some(Ok(Received::Proposal { leaves: true, .. })) => self.want_flush(id),
            Some(Ok(Received::Proposal { .. })) => {}
            Some(Ok(Received::Commit(change))) => {
                self.lose_pending(id);
                self.on_change(id, &change);
            }
            Some(Err(error)) => self.on_unreadable(id, entry, &error),
            None => {}
        }
        self.advance(id, entry);
    }

    fn on_unreadable(&mut self, id: ChannelId, entry: &Entry, error: &MlsError) {
        // Written before this device was added and accepted after: meant for those who were there then.
        let present = self.channels.get(&id).map_or(0, |channel| channel.row.epoch);
        if *error == MlsError::PastEpoch
            && entry.kind == EntryKind::Application
            && entry.epoch.saturating_add(PAST_EPOCHS) >= present
        {
            return;
        }
        if *error == MlsError::FutureEpoch
            && let Some(channel) = self.channels.get_mut(&id)
        {
            // The commit that leads there could not be used: nothing later can be read. A commit that cannot be used
            // is no proof yet, since the server may have made it up.
            channel.stuck = true;
            self.wake_inboxes();
        }
        self.unreadable(id, entry.seq, &error.to_string());
    }

    fn unreadable(&mut self, id: ChannelId, seq: u64, why: &str) {
        self.event(Event::Unreadable { channel: id, seq, why: why.into() });
    }

    fn advance(&mut self, id: ChannelId, entry: &Entry) {
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.advance(entry);
        }
    }

    /// Whether an entry is a submission of this device; if so, settles it.
    fn own_echo(&mut self, id: ChannelId, entry: &Entry) -> bool {
        // A commit of ours is ours whomever the server says it is from: it has to be merged, not received.
        if Some(entry.sender) != self.me() && entry.kind != EntryKind::Commit {
            return false;
        }
        let found = self.outbox.iter().find(|(_, item)| {
            item.channel == id
                && item.message == entry.message
                && item.hash() == Some(entry.payload.hash())
        });
        let Some((ticket, item)) = found else { return false };
        let ticket = *ticket;
        let before = self.channels.get(&id).map(|channel| channel.row.cursor.chain());
        if let (Some(accepted), Some(before)) = (&item.accepted, before)
            && (accepted.seq != entry.seq || accepted.chain != chain::next(before, entry))
        {
            self.event(Event::ForkDetected { channel: id, seq: entry.seq.min(accepted.seq) });
        }
        let Some(item) = self.outbox.get(&ticket) else { return true };
        match &item.what {
            OutWhat::Commit { .. } => self.win_pending(id, ticket),
            OutWhat::Application { .. } | OutWhat::Proposal { .. } => {
                if item.accepted.is_some() {
                    self.drop_item(ticket);
                }
            }
        }
        true
    }

    /// The server signed that a submission of ours stands at a seq that was read by now. If it was not there, the
    /// log is another than it promised.
    fn check_promises(&mut self, id: ChannelId) {
        let Some(cursor) = self.channels.get(&id).map(|channel| channel.row.cursor.seq()) else {
            return;
        };
        let broken = self.outbox.iter().filter(|(_, item)| {
            let promised = item.accepted.as_ref().is_some_and(|accepted| accepted.seq <= cursor);
            item.channel == id && promised && !matches!(item.what, OutWhat::Commit { .. })
        });
        let broken: Vec<_> = broken.map(|(ticket, _)| *ticket).collect();
        for ticket in broken {
            if let Some(seq) = self.drop_item(ticket).and_then(|item| Some(item.accepted?.seq)) {
                self.event(Event::ForkDetected { channel: id, seq });
            }
        }
    }

    /// A merged commit, ours or another's.
    pub(super) fn on_change(&mut self, id: ChannelId, change: &Change) {
        let summary = self.with_group(id, |group, _| {
            (group.authenticator(), group.members().len(), group.data().metadata)
        });
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.row.epoch = change.epoch;
        channel.row_dirty = true;
        if let Some((authenticator, members, _)) = summary {
            channel.row.authenticator = authenticator;
            channel.row.members = u32::try_from(members).unwrap_or(u32::MAX);
        }
        if change.evicted {
            channel.row.member = false;
            channel.row.leaving = false;
            channel.ready = false;
            channel.slot = Slot::None;
            channel.row.authenticator.clear();
            let prefix = directory::group_prefix(id, channel.row.generation);
            self.gate.stage(Op::DeletePrefix(prefix));
            self.abandon(id);
            self.stage_channel(id);
            self.wake_inboxes();
            self.event(Event::Evicted { channel: id, by: Some(change.committer) });
            return;
        }
        if channel.row.leaving {
            self.leave_again(id);
        }
        self.stage_channel(id);
        self.event(Event::Changed(GroupChange {
            channel: id,
            epoch: change.epoch,
            by: change.committer,
            added: change.added.iter().map(DeviceRecord::sender).collect(),
            removed: change.removed.clone(),
        }));
    }

    /// Application content of another member.
    fn on_content(
        &mut self,
        id: ChannelId,
        entry: &Entry,
        sender: &DeviceRecord,
        epoch: u64,
        content: &[u8],
    ) {
        if sender.sender() != entry.sender {
            // The server named another sender than the one who signed: MLS wins, the lie is told.
            self.event(Event::ForkSuspected { channel: id, seq: entry.seq });
        }
        let Some(content) = Content::decode(content) else {
            return self.unreadable(id, entry.seq, "its content is malformed");
        };
        // Whoever wrote this had read less than stands before it; else something was left out before it.
        if let Some(channel) = self.channels.get(&id)
            && !matches!(
                channel.row.cursor.compare(content.seq, content.chain),
                Ok(Agreement::Same | Agreement::TooOld)
            )
        {
            self.event(Event::ForkDetected { channel: id, seq: content.seq });
        }
        if let Some(username) = content.username {
            self.hear_name(sender.account, username);
        }
        match content.body {
            ContentBody::Body(body) => {
                let message = StoredMessage {
                    message: entry.message,
                    sender: sender.sender(),
                    time: entry.time,
                    epoch,
                    body,
                };
                self.deliver(id, entry.seq, message);
            }
            ContentBody::Metadata { metadata, names } => {
                let expected = self.with_group(id, |group, _| group.data().metadata);
                let name = expected.and_then(|hash| metadata.open(self.config.backend, hash));
                if let (Some(name), Some(channel)) = (name, self.channels.get_mut(&id)) {
                    let new = channel.row.name.as_ref() != Some(&name);
                    channel.row.name = Some(name.clone());
                    channel.row.metadata = Some(metadata);
                    channel.row_dirty = true;
                    if new {
                        self.stage_channel(id);
                        self.event(Event::Metadata(GroupMetadata { channel: id, name }));
                    }
                }
                let members = self.with_group(id, |group, _| {
                    group
                        .members()
                        .iter()
                        .map(|member| member.record.account)
                        .collect::<BTreeSet<_>>()
                });
                // Names of others are none of its business, and there is no end of them.
                let members = members.unwrap_or_default();
                for (account, username) in names.into_iter().filter(|(of, _)| members.contains(of))
                {
                    self.hear_name(account, username);
                }
            }
            ContentBody::Unknown => {}
        }
    }

    // ---- messages for the application ---------------------------------------------------------

    /// Stores a message; tells it at once if the application keeps up.
    fn deliver(&mut self, id: ChannelId, seq: u64, stored: StoredMessage) {
        self.gate.stage(directory::put(directory::message_key(id, seq), &stored));
        let busy = self.told >= UNREAD_EVENTS;
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.row.unread += 1;
        channel.row_dirty = true;
        if channel.spilled_after.is_none() && busy {
            channel.spilled_after = Some(seq - 1);
        }
        if channel.spilled_after.is_none() {
            self.stage_channel(id);
            self.tell(id, seq, stored);
        }
    }

    fn tell(&mut self, id: ChannelId, seq: u64, stored: StoredMessage) {
        if let Some(channel) = self.channels.get_mut(&id)
            && channel.told.insert(seq)
        {
            self.told += 1;
            let username = self
                .contacts
                .get(&stored.sender.account)
                .filter(|contact| contact.verified)
                .map(|contact| contact.username.clone());
            self.event(Event::Message(Message {
                channel: id,
                seq,
                message: stored.message,
                sender: stored.sender,
                username,
                time: stored.time,
                epoch: stored.epoch,
                body: stored.body,
            }));
        }
    }

    /// Reads on in the stored messages of a channel that were not told yet.
    pub(super) fn refill(&mut self, id: ChannelId) {
        if self.told >= UNREAD_EVENTS / 2 {
            return;
        }
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let Some(after) = channel.spilled_after else { return };
        if channel.spill_load {
            return;
        }
        channel.spill_load = true;
        self.load(
            super::Loading::Messages(id),
            directory::message_prefix(id),
            Some(directory::message_key(id, after)),
            FETCH_ENTRIES,
        );
    }

    /// Stored messages arrived.
    pub(super) fn on_messages(&mut self, id: ChannelId, records: crate::store::batch::Records) {
        let (full, empty) = (records.len() == FETCH_ENTRIES, records.is_empty());
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.spill_load = false;
        let mut last = channel.spilled_after.unwrap_or(0);
        for (key, value) in records {
            let Some(seq) = key.last_chunk::<8>().map(|seq| u64::from_be_bytes(*seq)) else {
                continue;
            };
            last = seq;
            if let Ok(stored) = crate::store::record::decode::<StoredMessage>(&key, &value) {
                self.tell(id, seq, stored);
            }
        }
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.spilled_after = full.then_some(last);
            let told = u32::try_from(channel.told.len()).unwrap_or(u32::MAX);
            if !full && told < channel.row.unread {
                if empty {
                    // There is no such record: damaged, or miscounted.
                    channel.row.unread = told;
                    channel.row_dirty = true;
                } else {
                    // A message stored while the page was under way lies behind it: look again.
                    channel.spilled_after = Some(last);
                }
            }
        }
        self.dirty.insert(id);
    }

    // ---- welcomes -----------------------------------------------------------------------------

    /// One entry of the inbox; `false`: it waits, and what comes after it too.
    fn read_inbox(&mut self, inbox: ChannelId, entry: Entry) -> bool {
        let Some(origin) = entry.origin.filter(|_| entry.kind == EntryKind::Welcome) else {
            self.advance(inbox, &entry);
            return true;
        };
        match self.weigh_welcome(&entry, &origin) {
            Welcome::Join => self.begin_join(inbox, entry, origin),
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
        if origin.tree_len == 0 || origin.tree_len > TREE_BYTES as u64 {
            return Welcome::Pass(Some("a welcome without a tree of a possible size"));
        }
        let founding = self.founding.contains(&origin.channel);
        let Some(channel) = self.channels.get_mut(&origin.channel) else { return Welcome::Join };
        if (entry.generation, entry.epoch) <= (channel.row.generation, channel.row.epoch) {
            return Welcome::Pass(None);
        }
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

    fn begin_join(&mut self, inbox: ChannelId, entry: Entry, origin: Origin) {
        self.warm_packages();
        self.load_group(origin.channel);
        let link = self.open_bulk();
        if let Some(channel) = self.channels.get_mut(&inbox) {
            channel.join = Some(Join { entry, tree: Vec::new(), link });
        }
        self.ask_tree(inbox, origin);
    }

    fn ask_tree(&mut self, inbox: ChannelId, origin: Origin) {
        let Some(join) = self.channels.get(&inbox).and_then(|channel| channel.join.as_ref()) else {
            return;
        };
        let offset = join.tree.len() as u64;
        let link = join.link;
        self.call_on(link, Call::Blob(inbox), Request::BlobGet { hash: origin.tree, offset });
    }

    /// A chunk of the tree.
    pub(super) fn on_tree(&mut self, inbox: ChannelId, total: u64, chunk: &[u8]) {
        let Some(channel) = self.channels.get_mut(&inbox) else { return };
        let Some(join) = &mut channel.join else { return };
        let Some(origin) = join.entry.origin else { return };
        let sound = total == origin.tree_len
            && !chunk.is_empty()
            && chunk.len() <= BLOB_CHUNK
            && (join.tree.len() + chunk.len()) as u64 <= total;
        if !sound {
            return self.on_wrong_tree(inbox, origin);
        }
        join.tree.extend_from_slice(chunk);
        if (join.tree.len() as u64) < total {
            return self.ask_tree(inbox, origin);
        }
        if Digest::of(&[&join.tree]) != origin.tree {
            return self.on_wrong_tree(inbox, origin);
        }
        self.dirty.insert(inbox);
        self.try_join(inbox);
    }

    /// Another tree than was named: asked for again on another connection, a few times.
    fn on_wrong_tree(&mut self, inbox: ChannelId, origin: Origin) {
        const WHY: &str = "the server sent another tree than it named";
        self.event(Event::ForkSuspected { channel: origin.channel, seq: origin.seq });
        let Some(channel) = self.channels.get_mut(&inbox) else { return };
        channel.wrong_trees += 1;
        if channel.wrong_trees >= TREES {
            return self.end_join(inbox, Some(WHY));
        }
        self.drop_connection(WHY.into());
    }

    /// The tree is not to be had: for now, or at all.
    pub(super) fn on_tree_refused(&mut self, inbox: ChannelId, failure: &Failure) {
        if !failure.is_transient() {
            return self.end_join(inbox, Some(failure.code.text()));
        }
        let at = self.now.mono + pause(failure.retry_after_ms);
        let Some(channel) = self.channels.get_mut(&inbox) else { return };
        let Some(join) = channel.join.take() else { return };
        channel.wait_first(join.entry);
        channel.retry_at = Some(at);
        if let Some(link) = join.link {
            self.finish_link(link);
        }
    }

    /// Joins once the tree and the key packages are both at hand.
    pub(super) fn try_join(&mut self, inbox: ChannelId) {
        let Some(join) = self.channels.get(&inbox).and_then(|channel| channel.join.as_ref()) else {
            return;
        };
        let Some(origin) = join.entry.origin else { return };
        if (join.tree.len() as u64) < origin.tree_len || self.packages.warm().is_none() {
            return;
        }
        let before = self.channels.get(&origin.channel).map(|channel| &channel.slot);
        if matches!(before, Some(Slot::Loading(..))) {
            return;
        }
        match self.join_now(inbox) {
            Ok(()) => self.end_join(inbox, None),
            Err(error) => self.end_join(inbox, Some(&error.to_string())),
        }
    }

    fn join_now(&mut self, inbox: ChannelId) -> Result<(), MlsError> {
        let Some(join) = self.channels.get(&inbox).and_then(|channel| channel.join.as_ref()) else {
            return Ok(());
        };
        let (Some(origin), Some(device)) =
            (join.entry.origin, self.identity.as_ref().and_then(|identity| identity.local()))
        else {
            return Ok(());
        };
        let Part::Inline(welcome) = &join.entry.payload else {
            return Err(MlsError::Invalid("the welcome is a blob".into()));
        };
        let Some(packages) = self.packages.warm() else { return Ok(()) };
        let mut entropy = self.entropy.fork();
        let cx =
            Context { backend: self.config.backend, entropy: &mut entropy, wall: self.now.wall };
        let group = Group::join(cx, &device, packages, welcome, &join.tree)?;
        let generation = join.entry.generation;
        if group.id() != GroupId::of(origin.channel, generation) {
            return Err(MlsError::WrongGroup);
        }
        if group.epoch() != join.entry.epoch {
            return Err(MlsError::Invalid("another epoch than the server named".into()));
        }
        let Some(by) = group.added_by() else { return Err(MlsError::Record) };
        // Whoever makes a server hide a group's log must not be able to put a group of their own in its place.
        let strange = self.with_group(origin.channel, |before, _| {
            !before.members().iter().any(|member| member.record.account == by.account)
        });
        if strange == Some(true) {
            return Err(MlsError::Invalid("a stranger's welcome to a group of this device".into()));
        }
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
        let mut channel = Channel::new(row, false);
        // What was under way in the group before leads nowhere; what was wanted is wanted in the new one.
        self.lose_pending(id);
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
        }
        channel.slot = Slot::Warm(Box::new(group));
        channel.row_dirty = true;
        self.channels.insert(id, channel);
        self.stage_packages();
        self.stage_channel(id);
        self.dirty.insert(id);
        self.event(Event::Joined { channel: id, by });
    }

    pub(super) fn end_join(&mut self, inbox: ChannelId, trouble: Option<&str>) {
        let Some(channel) = self.channels.get_mut(&inbox) else { return };
        let Some(join) = channel.join.take() else { return };
        channel.advance(&join.entry);
        channel.wrong_trees = 0;
        self.dirty.insert(inbox);
        if let Some(link) = join.link {
            self.finish_link(link);
        }
        if let Some(why) = trouble {
            let channel = join.entry.origin.map_or(inbox, |origin| origin.channel);
            self.unreadable(channel, join.entry.seq, why);
        }
    }

    // ---- groups in memory ---------------------------------------------------------------------

    /// Runs something on a group in memory.
    pub(super) fn with_group<T>(
        &mut self,
        id: ChannelId,
        run: impl FnOnce(&mut Group, ClientContext<'_>) -> T,
    ) -> Option<T> {
        let mut entropy = self.entropy.fork();
        let channel = self.channels.get_mut(&id)?;
        self.uses += 1;
        channel.used = self.uses;
        let cx =
            Context { backend: self.config.backend, entropy: &mut entropy, wall: self.now.wall };
        channel.group().map(|group| run(group, cx))
    }

    /// Stages what changed in a channel.
    pub(super) fn stage_channel(&mut self, id: ChannelId) {
        if let Some(channel) = self.channels.get_mut(&id) {
            self.gate.stage_all(channel.take_ops(id));
        }
    }
}
