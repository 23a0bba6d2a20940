//! Channels, who is in them, and the public state of their groups.

use core::ops::Bound;
use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Answer, MemoryStore};
use crate::delivery::chain;
use crate::env::UnixMillis;
use crate::error::ErrorCode;
use crate::id::{AccountId, ChannelId, Digest, Sender};
use crate::server::op::StoreReply;
use crate::store::batch::Op;
use crate::wire::message::{ChannelInfo, ChannelKind, Entry};

#[derive(Clone)]
pub(super) struct Channel {
    kind: ChannelKind,
    pub(super) generation: u32,
    pub(super) epoch: u64,
    pub(super) head: u64,
    pub(super) chain: Digest,
    /// The seq of the last reset; 0 if there was none.
    pub(super) reset: u64,
    /// Entries up to this seq are gone.
    pub(super) floor: u64,
    /// The last entry's end; no later entry ends earlier.
    pub(super) latest: UnixMillis,
    pub(super) entries: BTreeMap<u64, Kept>,
    pub(super) members: BTreeMap<Sender, Membership>,
    group: BTreeMap<Vec<u8>, Vec<u8>>,
    group_info: Bytes,
}

#[derive(Clone)]
pub(super) struct Kept {
    pub(super) entry: Entry,
    pub(super) expires: UnixMillis,
}

#[derive(Clone, Copy)]
pub(super) struct Membership {
    /// Entries above this seq may be read.
    pub(super) joined: u64,
    /// Entries up to this one, if the device was removed.
    pub(super) left: Option<u64>,
    pub(super) cursor: u64,
}

impl Membership {
    /// Whether the device was a member until a reset, and was not taken in again.
    pub(super) fn was_in_until(&self, reset: u64) -> bool {
        reset > 0 && self.left == Some(reset)
    }
}

/// What a new channel starts with.
pub(super) struct New<'a> {
    pub(super) kind: ChannelKind,
    pub(super) generation: u32,
    pub(super) with: Option<AccountId>,
    pub(super) group: &'a [Op],
    pub(super) group_info: &'a Bytes,
}

impl Channel {
    fn new(id: ChannelId, kind: ChannelKind, generation: u32) -> Self {
        Self {
            kind,
            generation,
            epoch: 0,
            head: 0,
            chain: chain::start(id),
            reset: 0,
            floor: 0,
            latest: UnixMillis(0),
            entries: BTreeMap::new(),
            members: BTreeMap::new(),
            group: BTreeMap::new(),
            group_info: Bytes::new(),
        }
    }

    pub(super) fn join(&mut self, sender: Sender, seq: u64) {
        match self.members.get_mut(&sender) {
            Some(member) if member.was_in_until(self.reset) => member.left = None,
            _ => {
                self.members.insert(sender, Membership { joined: seq, left: None, cursor: seq });
            }
        }
    }

    /// Begins the next generation, with one member, at the entry of that seq.
    pub(super) fn begin(&mut self, generation: u32, founder: Sender, seq: u64) {
        for (&sender, member) in &mut self.members {
            if sender == founder {
                member.left = None;
            } else if member.left.is_none() || member.was_in_until(self.reset) {
                member.left = Some(seq);
            }
        }
        (self.generation, self.epoch, self.reset) = (generation, 0, seq);
        self.group.clear();
    }

    pub(super) fn leave(&mut self, sender: Sender, seq: u64) {
        if let Some(member) = self.members.get_mut(&sender) {
            member.left.get_or_insert(seq);
        }
    }

    /// Whether the device has come and was not removed.
    pub(super) fn has(&self, sender: Sender) -> bool {
        self.members.get(&sender).is_some_and(|member| member.left.is_none())
    }

    pub(super) fn change_group(&mut self, ops: &[Op]) {
        for op in ops {
            match op {
                Op::Put(key, value) => {
                    self.group.insert(key.clone(), value.clone());
                }
                Op::Delete(key) => {
                    self.group.remove(key);
                }
                Op::DeletePrefix(prefix) => self.group.retain(|key, _| !key.starts_with(prefix)),
            }
        }
    }

    pub(super) fn set_group_info(&mut self, group_info: &Bytes) {
        self.group_info = group_info.clone();
    }
}

impl MemoryStore {
    pub(super) fn open_channel(
        &mut self,
        id: ChannelId,
        creator: Sender,
        kind: ChannelKind,
        generation: u32,
    ) -> &mut Channel {
        self.memberships.insert((creator, id));
        let channel = self.channels.entry(id).or_insert_with(|| Channel::new(id, kind, generation));
        channel.join(creator, 0);
        channel
    }

    pub(super) fn create_channel(
        &mut self,
        id: ChannelId,
        creator: Sender,
        new: &New<'_>,
    ) -> Answer {
        if self.channels.contains_key(&id) {
            return Err(ErrorCode::ChannelExists.into());
        }
        self.check_device(creator)?;
        if let Some(with) = new.with {
            self.known_account(with)?;
        }
        let channel = self.open_channel(id, creator, new.kind, new.generation);
        channel.change_group(new.group);
        channel.set_group_info(new.group_info);
        Ok(StoreReply::Done)
    }

    pub(super) fn channel_info(&self, id: ChannelId, reader: Sender) -> Answer {
        let channel = self.channel(id)?;
        let info = self.describe(id, channel, reader).ok_or(ErrorCode::NotMember)?;
        Ok(StoreReply::Channel(info))
    }

    pub(super) fn list_channels(
        &self,
        reader: Sender,
        after: Option<ChannelId>,
        most: u32,
    ) -> StoreReply {
        let start = match after {
            Some(after) => Bound::Excluded((reader, after)),
            None => Bound::Included((reader, ChannelId([0; 16]))),
        };
        let end = Bound::Included((reader, ChannelId([0xFF; 16])));
        let mut infos = self.memberships.range((start, end)).filter_map(|&(_, id)| {
            self.channels.get(&id).and_then(|channel| self.describe(id, channel, reader))
        });
        let page = infos.by_ref().take(usize::try_from(most).unwrap_or(usize::MAX)).collect();
        StoreReply::Channels(page, infos.next().is_some())
    }

    pub(super) fn load_group(&self, id: ChannelId) -> Answer {
        let channel = self.channel(id)?;
        Ok(StoreReply::Group {
            generation: channel.generation,
            epoch: channel.epoch,
            records: channel.group.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        })
    }

    pub(super) fn load_group_info(&self, id: ChannelId, reader: Sender) -> Answer {
        let (channel, member) = self.readable(id, reader)?;
        if member.left.is_some() {
            let until = member.was_in_until(channel.reset);
            let code = if until { ErrorCode::GenerationMismatch } else { ErrorCode::NotMember };
            return Err(code.into());
        }
        Ok(StoreReply::GroupInfo {
            generation: channel.generation,
            epoch: channel.epoch,
            group_info: channel.group_info.clone(),
            seq: channel.head,
            chain: channel.chain,
        })
    }

    pub(super) fn channel(&self, id: ChannelId) -> Result<&Channel, ErrorCode> {
        self.channels.get(&id).ok_or(ErrorCode::ChannelUnknown)
    }

    pub(super) fn is_present(&self, channel: &Channel, sender: Sender) -> bool {
        channel.has(sender) && self.is_active(sender)
    }

    /// Channels that the device is or was a member of.
    pub(super) fn channels_of(&self, sender: Sender) -> Vec<ChannelId> {
        let all = (sender, ChannelId([0; 16]))..=(sender, ChannelId([0xFF; 16]));
        self.memberships.range(all).map(|&(_, channel)| channel).collect()
    }

    fn describe(&self, id: ChannelId, channel: &Channel, reader: Sender) -> Option<ChannelInfo> {
        if !self.is_present(channel, reader) {
            return None;
        }
        let present = channel.members.keys().filter(|&&member| self.is_present(channel, member));
        Some(ChannelInfo {
            channel: id,
            kind: channel.kind,
            generation: channel.generation,
            epoch: channel.epoch,
            head: channel.head,
            cursor: channel.members.get(&reader)?.cursor,
            members: u32::try_from(present.count()).unwrap_or(u32::MAX),
        })
    }
}
