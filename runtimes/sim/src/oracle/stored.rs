//! What devices have on their disks, read as anybody could who has the format: each state of a group that becomes
//! durable is held against the log, and against what others had in the same epoch.

use memchr::memmem;
use qpc_protocol::client::event::Trust;
use qpc_protocol::delivery::window::Cursor;
use qpc_protocol::env::UnixMillis;
use qpc_protocol::id::{AccountId, ChannelId};
use qpc_protocol::io::Ticket;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::store::batch::{Batch, Op};
use qpc_protocol::store::record;
use qpc_protocol::wire::message::Username;
use serde::Deserialize;

use super::Oracle;
use super::log::Place;

/// What follows [`PLANTED`](super::PLANTED) in every password.
const PASSWORD: &[u8] = b"planted-7c1e93ab-password";

/// A device's view of a channel.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Row {
    pub(super) generation: u32,
    pub(super) suite: Suite,
    pub(super) epoch: u64,
    cursor: Cursor,
    pub(super) member: bool,
    _leaving: bool,
    _metadata: Option<([u8; 32], Vec<u8>)>,
    pub(super) name: Option<String>,
    authenticator: Vec<u8>,
    members: u32,
    _unread: u32,
    _with: Option<AccountId>,
}

impl Row {
    /// Up to where it has read.
    pub(super) fn read_to(&self) -> u64 {
        self.cursor.seq()
    }

    /// It knows of the group, and is not in yet.
    pub(super) fn is_unopened(&self) -> bool {
        self.member && self.generation > 0 && self.authenticator.is_empty()
    }

    pub(super) fn place(&self) -> Place {
        (self.generation, self.epoch)
    }
}

/// What a device calls an account.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Contact {
    _username: Username,
    pub(super) trust: Trust,
    _since: UnixMillis,
}

/// A device key: secret, public, and the record that names it.
type Keys = (([u8; 32], [u8; 32]), Vec<u8>);

/// A device's keys beside its present one.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Rotation {
    next: Option<(Keys, u64)>,
    old: Vec<(Keys, UnixMillis)>,
}

impl Rotation {
    pub(super) fn read(value: &[u8]) -> Option<Self> {
        record::decode(b"d/rotation", value).ok()
    }

    /// Since when there is another key in the place of each of those before.
    pub(super) fn since(&self) -> impl Iterator<Item = UnixMillis> {
        self.old.iter().map(|(_, since)| *since)
    }

    /// Who asked for the key to come.
    pub(super) fn ticket(&self) -> Option<Ticket> {
        self.next.as_ref().map(|(_, ticket)| Ticket(*ticket))
    }
}

/// The channel that a record tells the state of.
pub(super) fn channel_of(key: &[u8]) -> Option<ChannelId> {
    ChannelId::from_slice(key.strip_prefix(b"d/c/")?)
}

/// The contact that a record is about.
pub(super) fn contact_of(key: &[u8]) -> Option<AccountId> {
    key.strip_prefix(b"d/a/")?.try_into().ok().map(AccountId)
}

impl Oracle {
    /// A batch became durable on a device.
    pub(super) fn persisted(&mut self, device: usize, batch: &Batch) {
        let Some(reader) = self.readers.get_mut(device) else { return };
        reader.persisted(batch);
        let open = batch.ops.iter().any(|op| match op {
            Op::Put(_, value) => memmem::find(value, PASSWORD).is_some(),
            _ => false,
        });
        self.check(!open, "no password is on a disk", || format!("device {device}"));
        for op in &batch.ops {
            if let Op::Put(key, value) = op
                && let Some(id) = channel_of(key)
            {
                self.moved(device, id, value);
            }
        }
    }

    /// A device stands somewhere else in a channel.
    fn moved(&mut self, device: usize, id: ChannelId, value: &[u8]) {
        let Ok(row) = record::decode::<Row>(b"d/c/", value) else {
            return self.fail("a channel's record reads", format!("device {device}, {id}"));
        };
        let place = row.place();
        // Another history has other epochs.
        if self.readers[device].forked {
            return;
        }
        // A group that the server does not know yet, or an inbox.
        let Some(log) = self.logs.channels.get(&id) else { return };
        let reader = &self.readers[device];
        let honest = !reader.lied;
        let who = || format!("device {device}, {id}, {place:?}: {row:?}");
        let seq = row.cursor.seq();
        let chain = log.chain_at(seq).is_none_or(|chain| chain == row.cursor.chain());
        let chain = chain || reader.parted.contains(&id);
        let read = seq <= log.head() && chain;
        // A member by the log: who founds a channel that another has founded before is none.
        let members = log.members_at(place).filter(|members| {
            // Who is about to come in from outside has no group yet.
            let has = row.member && !row.authenticator.is_empty();
            has && reader.sender.is_some_and(|sender| members.contains(&sender))
        });
        let count = members.map(|members| members.len());
        self.check(read || !honest, "a device stands where the log was", who);
        let Some(count) = count else { return };
        self.check(count == row.members as usize, "members are who was added", who);
        let first = self.authenticators.entry((id, place));
        let first = first.or_insert_with(|| (device, row.authenticator.clone())).clone();
        self.check(first.1 == row.authenticator, "an epoch has one authenticator", || {
            format!("device {} and {}", first.0, who())
        });
    }
}
