//! What arrives in channels: subscriptions, entries in order, welcomes; one entry after the other becomes a
//! change of state and an event, in one batch.

use super::channel::{Join, Slot, Subscription, WAITING_BYTES};
use super::content::{Content, ContentBody};
use super::directory::{self, OutWhat, StoredMessage};
use super::event::{Event, GroupChange, Message};
use super::net::Call;
use super::{Channel, Client, ClientContext};
use crate::crypto::identity::DeviceRecord;
use crate::delivery::chain;
use crate::delivery::window::Cursor;
use crate::error::ErrorCode;
use crate::id::{ChannelId, Digest, GroupId, Sender};
use crate::limits::{BLOB_CHUNK, FETCH_ENTRIES, UNREAD_EVENTS};
use crate::mls::group::{Change, Group, Received};
use crate::mls::{Context, MlsError};
use crate::store::batch::Op;
use crate::wire::message::{Entries, Entry, EntryKind, Failure, Origin, Part, Request};

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
        if !online || !wanted || channel.row.stuck || channel.subscription != Subscription::None {
            return;
        }
        channel.subscription = Subscription::Asked;
        let after = channel.row.cursor.seq();
        self.call(Call::Subscribe(id), Request::Subscribe { channel: id, after });
    }

    pub(super) fn on_subscribed(&mut self, id: ChannelId, head: u64) {
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.subscription = Subscription::Active;
            channel.head = Some(head);
            self.dirty.insert(id);
        }
    }

    /// The server does not let this device read a channel.
    pub(super) fn on_subscribe_refused(&mut self, id: ChannelId, failure: &Failure) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.subscription = Subscription::None;
        match failure.code {
            ErrorCode::Unavailable | ErrorCode::Busy | ErrorCode::RateLimited => {
                self.hold(id, failure.retry_after_ms);
            }
            _ => {
                channel.row.stuck = true;
                channel.row_dirty = true;
                self.stage_channel(id);
                let seq = self.channels.get(&id).map_or(0, |channel| channel.row.cursor.seq());
                self.unreadable(id, seq, failure.code.text());
            }
        }
    }

    /// Entries of a subscribed channel: queued behind what waits already.
    pub(super) fn on_entries(&mut self, entries: Entries) {
        let id = entries.channel;
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if channel.subscription == Subscription::None {
            return;
        }
        self.dirty.insert(id);
        let expected = channel.waiting.back().map_or(channel.row.cursor.seq(), |last| last.seq) + 1;
        let from = entries.entries.first().map_or(entries.first, |entry| entry.seq);
        if from > expected {
            return self.on_gap(id, expected, from, entries.first);
        }
        let mut expected = expected;
        for entry in entries.entries {
            if entry.seq < expected {
                continue;
            }
            expected = entry.seq + 1;
            channel.waiting_bytes += entry.payload.len();
            channel.waiting.push_back(entry);
        }
        if channel.waiting_bytes > WAITING_BYTES && channel.waiting.len() > 1 {
            // Too much for now: forget what cannot be used yet and ask for it again later.
            while channel.waiting_bytes > WAITING_BYTES / 2 && channel.waiting.len() > 1 {
                if let Some(last) = channel.waiting.pop_back() {
                    channel.waiting_bytes -= last.payload.len();
                }
            }
            channel.subscription = Subscription::None;
            self.call(Call::Tell, Request::Unsubscribe { channel: id });
        }
    }

    /// Entries before `from` did not come. If the server still has them it left them out, and is asked again; if
    /// they are gone this device was away too long.
    fn on_gap(&mut self, id: ChannelId, expected: u64, from: u64, first: u64) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if first <= expected {
            channel.subscription = Subscription::None;
            self.call(Call::Tell, Request::Unsubscribe { channel: id });
            return;
        }
        let inbox = channel.inbox;
        if inbox {
            // Notes that were missed are gone; the chain starts over from what the server says next.
            channel.row.cursor = Cursor::at(from - 1, Digest([0; 32]));
        } else {
            channel.row.stuck = true;
        }
        channel.row_dirty = true;
        channel.subscription = Subscription::None;
        self.call(Call::Tell, Request::Unsubscribe { channel: id });
        if !inbox {
            self.stage_channel(id);
            self.event(Event::Gap { channel: id, from: expected, to: from });
        }
    }

    /// Works on what waits in a channel, as far as it goes now.
    pub(super) fn read_waiting(&mut self, id: ChannelId) {
        loop {
            let Some(channel) = self.channels.get_mut(&id) else { return };
            if channel.join.is_some() || channel.waiting.is_empty() {
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
            if channel.inbox { self.read_inbox(id, entry) } else { self.read_entry(id, &entry) }
        }
        self.finish_reading(id);
    }

    fn finish_reading(&mut self, id: ChannelId) {
        self.stage_channel(id);
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if channel.subscription == Subscription::Active && channel.at_head() {
            channel.ready = true;
        }
        if channel.row.cursor.seq() > channel.acked && channel.subscription != Subscription::None {
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
        if entry.kind == EntryKind::Commit
            && let Some(channel) = self.channels.get_mut(&id)
            && entry.epoch >= channel.row.epoch
        {
            // Without this commit nothing later can be read.
            channel.row.stuck = true;
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
        if Some(entry.sender) != self.me() {
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
            channel.ready = false;
            channel.slot = Slot::None;
            channel.row.authenticator.clear();
            let prefix = directory::group_prefix(id, channel.row.generation);
            self.gate.stage(Op::DeletePrefix(prefix));
            self.abandon(id);
            self.stage_channel(id);
            self.event(Event::Evicted { channel: id, by: Some(change.committer) });
            return;
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
            self.unreadable(
                id,
                entry.seq,
                "the server named another sender than the one who signed",
            );
            return;
        }
        let Some(content) = Content::decode(content) else {
            return self.unreadable(id, entry.seq, "its content is malformed");
        };
        if let Some(channel) = self.channels.get(&id)
            && channel.row.cursor.compare(content.seq, content.chain).is_err()
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
                    sender: entry.sender,
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
                        self.event(Event::Metadata { channel: id, name });
                    }
                }
                for (account, username) in names {
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
        let full = records.len() == FETCH_ENTRIES;
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
            // A message stored while the page was under way lies behind it: look again.
            if !full && channel.told.len() < channel.row.unread as usize {
                channel.spilled_after = Some(last);
            }
        }
        self.dirty.insert(id);
    }

    // ---- welcomes -----------------------------------------------------------------------------

    fn read_inbox(&mut self, inbox: ChannelId, entry: Entry) {
        match entry.origin {
            Some(origin)
                if entry.kind == EntryKind::Welcome && self.wants_welcome(&entry, &origin) =>
            {
                self.begin_join(inbox, entry, origin);
            }
            _ => self.advance(inbox, &entry),
        }
    }

    /// Not if this device is in that group already, at that epoch or later.
    fn wants_welcome(&self, entry: &Entry, origin: &Origin) -> bool {
        self.channels.get(&origin.channel).is_none_or(|channel| {
            !channel.row.member
                || (entry.generation, entry.epoch) > (channel.row.generation, channel.row.epoch)
        })
    }

    fn begin_join(&mut self, inbox: ChannelId, entry: Entry, origin: Origin) {
        self.warm_packages();
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
            && (join.tree.len() + chunk.len()) as u64 <= total
            && total <= crate::limits::BLOB_BYTES;
        if !sound {
            return self.end_join(inbox, Some("the server sent another tree than it named"));
        }
        join.tree.extend_from_slice(chunk);
        if (join.tree.len() as u64) < total {
            return self.ask_tree(inbox, origin);
        }
        if Digest::of(&[&join.tree]) != origin.tree {
            return self.end_join(inbox, Some("the server sent another tree than it named"));
        }
        self.dirty.insert(inbox);
        self.try_join(inbox);
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
        if group.id() != GroupId::of(origin.channel, join.entry.generation) {
            return Err(MlsError::WrongGroup);
        }
        let by = join.entry.sender;
        let generation = join.entry.generation;
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
        if let Some(before) = self.channels.remove(&id) {
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
