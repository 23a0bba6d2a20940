//! Groups in memory: read from the store when they are needed, and let go when too many are.

use super::Client;
use super::channel::Slot;
use super::directory;
use super::event::{Event, Why};
use super::load::Reading;
use crate::id::ChannelId;
use crate::io::LoadId;
use crate::limits::WARM_GROUPS;
use crate::mls::Context;
use crate::mls::group::Group;
use crate::store::batch::Records;

impl Client {
    /// Whether a group is in memory.
    pub(super) fn is_warm(&self, id: ChannelId) -> bool {
        self.channels.get(&id).is_some_and(|channel| matches!(channel.slot, Slot::Warm(_)))
    }

    /// Reads a group, if it is not in memory.
    pub(super) fn load_group(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get(&id) else { return };
        if !channel.is_lost() {
            self.read_group(id);
        }
    }

    /// Reads a group, even if its log is of no use: who was in it is.
    pub(super) fn read_group(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get(&id) else { return };
        if !matches!(channel.slot, Slot::Cold) {
            return;
        }
        let prefix = directory::group_prefix(id, channel.row.generation);
        let read = self.read(Reading::Group(id), prefix);
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.slot = Slot::Loading(read);
        }
    }

    /// A group was read.
    pub(super) fn on_group_records(&mut self, id: ChannelId, read: LoadId, records: Records) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if !channel.slot.is_read_as(read) {
            return;
        }
        match Group::restore(self.config.backend, records) {
            Ok(group) => {
                self.uses += 1;
                channel.used = self.uses;
                channel.slot = Slot::Warm(Box::new(group));
            }
            Err(error) => {
                channel.slot = Slot::Cold;
                let why = error.to_string();
                let seq = channel.row.cursor.seq();
                self.event(Event::Unreadable { channel: id, seq, why });
                self.fall_out(id, Why::Damaged, true);
                self.fail_resets(id);
                self.fail_comparisons(id, "what is stored does not tell who is in the group");
            }
        }
        self.dirty.insert(id);
        self.wake_inboxes();
        self.wake_carriers();
    }

    /// Lets the groups used longest ago go, above the number that may be in memory; not the one that has to say who may
    /// take its place.
    pub(super) fn cool(&mut self) {
        let mut inboxes = self.channels.values().filter(|channel| channel.inbox);
        let joining = inboxes.find_map(|inbox| inbox.download.as_ref()?.entry.origin);
        let joining = joining.map(|origin| origin.channel);
        loop {
            let warm = self.channels.iter().filter(|(_, c)| matches!(c.slot, Slot::Warm(_)));
            let warm: Vec<_> = warm.map(|(id, channel)| (channel.used, *id)).collect();
            if warm.len() <= WARM_GROUPS {
                return;
            }
            let others = warm.into_iter().filter(|(_, id)| Some(*id) != joining);
            let Some((_, id)) = others.min() else { return };
            self.stage_channel(id);
            if let Some(channel) = self.channels.get_mut(&id) {
                channel.slot = Slot::Cold;
            }
        }
    }

    /// Runs something on a group in memory.
    pub(super) fn with_group<T>(
        &mut self,
        id: ChannelId,
        run: impl FnOnce(&mut Group, Context<'_>) -> T,
    ) -> Option<T> {
        let mut entropy = self.entropy.fork();
        let channel = self.channels.get_mut(&id)?;
        self.uses += 1;
        channel.used = self.uses;
        let cx =
            Context { backend: self.config.backend, entropy: &mut entropy, wall: self.now.wall };
        channel.group().map(|group| {
            group.confine(id);
            run(group, cx)
        })
    }
}
