//! From a welcome in the inbox to a group: the ratchet tree is fetched beside it, checked, and joined.

use super::channel::{Join, Slot};
use super::direct::{is_between, is_direct};
use super::directory::{self, OutItem};
use super::event::Event;
use super::inbound::pause;
use super::net::Call;
use super::{Channel, Client};
use crate::delivery::window::Cursor;
use crate::id::{ChannelId, Digest, GroupId, Sender};
use crate::limits::{BLOB_CHUNK, TREE_BYTES};
use crate::mls::group::Group;
use crate::mls::{Context, MlsError};
use crate::store::batch::Op;
use crate::wire::message::{ChannelKind, Entry, EntryKind, Failure, Origin, Part, Request};

/// How often a welcome's tree is asked for again when it is another one than was named.
const TREES: u32 = 3;

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
        if !matches!(origin.channel.kind(), Some(ChannelKind::Group | ChannelKind::Direct)) {
            return Welcome::Pass(Some("a welcome to a channel that has no group"));
        }
        let founding = self.founding.contains(&origin.channel);
        if founding && is_direct(origin.channel) {
            // Either account may have been first: the server's answer to our own founding is on its way.
            return Welcome::Wait;
        }
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
        if is_direct(origin.channel) {
            let members = group.members();
            let accounts = members.iter().map(|member| member.record.account);
            if !is_between(origin.channel, device.record.account, accounts) {
                return Err(MlsError::NotAllowed("a direct channel is for its two accounts"));
            }
        }
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
        channel.enter(group.transcript());
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
        self.note_other(id);
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
}
