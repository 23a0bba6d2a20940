//! Received messages on their way to the application: stored first, told while it keeps up, told again after a
//! restart, forgotten when it has read them.

use super::Client;
use super::directory;
use super::event::{Event, Message};
use super::load::Loading;
use super::submission::StoredMessage;
use crate::env::Now;
use crate::error::Refused;
use crate::id::ChannelId;
use crate::io::Page;
use crate::limits::{FETCH_ENTRIES, UNREAD_EVENTS};
use crate::store::batch::Op;

impl Client {
    /// The application reads this group now: its unread messages are told even if it has left too many of other
    /// groups unread. So at most twice [`UNREAD_EVENTS`] messages are told and not acknowledged. It holds until the
    /// next call or restart.
    ///
    /// # Errors
    /// `UnknownChannel`.
    pub fn prefer(&mut self, now: Now, channel: ChannelId) -> Result<(), Refused> {
        self.set_now(now);
        if !self.channels.contains_key(&channel) {
            return Err(Refused::UnknownChannel);
        }
        self.preferred = Some(channel);
        self.dirty.insert(channel);
        Ok(())
    }

    /// How many told messages count against telling another one of this group.
    fn told_against(&self, id: ChannelId) -> usize {
        match self.channels.get(&id) {
            Some(channel) if self.preferred == Some(id) => channel.told.len(),
            _ => self.told,
        }
    }

    /// Stores a message; tells it at once if the application keeps up.
    pub(super) fn deliver(&mut self, id: ChannelId, seq: u64, stored: StoredMessage) {
        self.gate.stage(directory::put(directory::message_key(id, seq), &stored));
        let busy = self.told_against(id) >= UNREAD_EVENTS;
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
            let username =
                self.contacts.get(&stored.sender.account).map(|contact| contact.username.clone());
            let trust = self.trust(stored.sender.account);
            self.event(Event::Message(Message {
                channel: id,
                seq,
                message: stored.message,
                sender: stored.sender,
                username,
                trust,
                time: stored.time,
                epoch: stored.epoch,
                body: stored.body,
            }));
        }
    }

    /// Reads on in the stored messages of a channel that were not told yet.
    pub(super) fn refill(&mut self, id: ChannelId) {
        if self.told_against(id) >= UNREAD_EVENTS / 2 {
            return;
        }
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let Some(after) = channel.spilled_after else { return };
        if channel.spill_load {
            return;
        }
        channel.spill_load = true;
        let page = Page {
            prefix: directory::message_prefix(id),
            after: Some(directory::message_key(id, after)),
            most: FETCH_ENTRIES,
        };
        self.load(Loading::Messages(id), page);
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
            match crate::store::record::decode::<StoredMessage>(&key, &value) {
                Ok(stored) => self.tell(id, seq, stored),
                Err(_) => {
                    self.gate.stage(Op::Delete(key));
                    self.tell_lost(Some(id), "an unread message", "ask for it to be sent again");
                }
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
}
