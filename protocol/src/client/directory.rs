//! The durable records of a device: their keys, and what is in them.
//!
//! | key | record |
//! |---|---|
//! | `d/version` | state version, `u64` big endian (the gate's) |
//! | `d/identity` | [`Identity`] |
//! | `d/tokens` | [`Tokens`](crate::wire::message::Tokens) |
//! | `d/rotation` | [`Rotation`](super::rotation::Rotation) |
//! | `d/envelopes` | [`Envelopes`](super::envelope::Envelopes) |
//! | `d/packages` | [`PackagePlan`] |
//! | `d/sweep` | [`Sweep`] |
//! | `d/devices` | [`Fleet`] |
//! | `d/restored` | [`Restored`] |
//! | `d/a/` account | [`Contact`] |
//! | `d/c/` channel | [`ChannelRow`] |
//! | `d/l/` channel | [`Leaf`] |
//! | `d/f/` channel | [`Fall`] |
//! | `d/e/` channel | [`Ended`] |
//! | `d/w/` channel | [`Left`](super::left::Left) |
//! | `d/g/` channel | [`Ledger`](super::checkpoint::Ledger) |
//! | `d/k/` channel account device | a [`Claim`](super::checkpoint::Claim): vetted, [`Checkpoint`](crate::crypto::checkpoint) |
//! | `d/i/` ticket | [`Intent`](super::intent::Intent) |
//! | `d/o/` ticket | [`OutItem`](super::submission::OutItem) |
//! | `g/` channel generation | the group's own records |
//! | `r/` channel | the records of the group that this device is about to come back to |
//! | `k/` | private halves of key packages |
//! | `p/` channel seq | [`StoredProof`](super::submission::StoredProof), the server's signed word on a message of this device |
//! | `b/` hash offset | a chunk of a blob that a commit in the outbox names, until the commit is through |
//! | `m/` channel seq | [`StoredMessage`](super::submission::StoredMessage), until the application acknowledges it |
//!
//! Everything under `d/` is small and read at start; the rest is loaded when used.

use core::fmt;
use core::time::Duration;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::event::{Trust, Why};
use super::metadata::Metadata;
use crate::crypto::hybrid::EnvelopeSecrets;
use crate::crypto::identity::{AccountKey, DeviceKey, DeviceRecord};
use crate::delivery::window::Cursor;
use crate::env::UnixMillis;
use crate::id::{AccountId, ChannelId, DeviceId, Digest, ServerId};
use crate::io::Ticket;
use crate::limits::KEY_PACKAGE_TIME;
use crate::mls::group::LocalDevice;
use crate::mls::suite::Suite;
use crate::store::batch::Op;
use crate::store::record;
use crate::wire::message::Username;

/// The prefix of the records that [`Client::restore`](super::Client::restore) needs; all others are loaded on demand.
pub const DIRECTORY: &[u8] = b"d/";

pub(super) const IDENTITY: &[u8] = b"d/identity";
pub(super) const TOKENS: &[u8] = b"d/tokens";
pub(super) const RESTORED: &[u8] = b"d/restored";
pub(super) const UNWELCOMED: &[u8] = b"d/unwelcomed";
pub(super) const ROTATION: &[u8] = b"d/rotation";
pub(super) const ENVELOPES: &[u8] = b"d/envelopes";
pub(super) const FLEET: &[u8] = b"d/devices";
pub(super) const PACKAGES: &[u8] = b"d/packages";
pub(super) const SWEEP: &[u8] = b"d/sweep";
pub(super) const CONTACT: &[u8] = b"d/a/";
pub(super) const CHANNEL: &[u8] = b"d/c/";
pub(super) const LEAF: &[u8] = b"d/l/";
pub(super) const FALL: &[u8] = b"d/f/";
pub(super) const ENDED: &[u8] = b"d/e/";
pub(super) const LEFT: &[u8] = b"d/w/";
pub(super) const LEDGER: &[u8] = b"d/g/";
pub(super) const CLAIM: &[u8] = b"d/k/";
pub(super) const INTENT: &[u8] = b"d/i/";
pub(super) const OUTBOX: &[u8] = b"d/o/";
pub(super) const PACKAGE_KEYS: &[u8] = b"k/";

/// A key: a prefix and what follows it.
pub(super) fn key(prefix: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut key = prefix.to_vec();
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// The ticket that a key ends with.
pub(super) fn ticket(bytes: &[u8]) -> Option<Ticket> {
    bytes.try_into().ok().map(|bytes| Ticket(u64::from_be_bytes(bytes)))
}

/// The prefixes of everything that is stored of a channel itself.
pub(super) fn prefixes_of(channel: ChannelId) -> [Vec<u8>; 11] {
    let kinds: [&[u8]; 11] =
        [b"g/", b"r/", b"p/", b"m/", CHANNEL, LEAF, FALL, ENDED, LEFT, LEDGER, CLAIM];
    kinds.map(|kind| key(kind, &[&channel.0]))
}

/// The prefix of a group's records.
pub(super) fn group_prefix(channel: ChannelId, generation: u32) -> Vec<u8> {
    key(b"g/", &[&channel.0, &generation.to_be_bytes()])
}

/// The prefix of the records of the group that this device is about to come back to.
pub(super) fn spare_prefix(channel: ChannelId) -> Vec<u8> {
    key(b"r/", &[&channel.0])
}

/// The prefix of a channel's delivery proofs.
pub(super) fn proof_prefix(channel: ChannelId) -> Vec<u8> {
    key(b"p/", &[&channel.0])
}

/// The key of a delivery proof.
pub(super) fn proof_key(channel: ChannelId, seq: u64) -> Vec<u8> {
    key(b"p/", &[&channel.0, &seq.to_be_bytes()])
}

/// The prefix of the chunks of a blob to upload.
pub(super) fn chunk_prefix(hash: Digest) -> Vec<u8> {
    key(b"b/", &[&hash.0])
}

/// The key of a chunk of a blob to upload, by its offset.
pub(super) fn chunk_key(hash: Digest, offset: u64) -> Vec<u8> {
    key(b"b/", &[&hash.0, &offset.to_be_bytes()])
}

/// The prefix of a channel's unread messages.
pub(super) fn message_prefix(channel: ChannelId) -> Vec<u8> {
    key(b"m/", &[&channel.0])
}

/// The key of an unread message.
pub(super) fn message_key(channel: ChannelId, seq: u64) -> Vec<u8> {
    key(b"m/", &[&channel.0, &seq.to_be_bytes()])
}

/// The change that stores a record.
pub(super) fn put<T: Serialize>(key: Vec<u8>, value: &T) -> Op {
    Op::Put(key, record::encode(value))
}

/// Prefixes the keys of changes that a component made over records of its own.
pub(super) fn under(prefix: &[u8], ops: Vec<Op>) -> impl Iterator<Item = Op> {
    ops.into_iter().map(move |op| match op {
        Op::Put(k, v) => Op::Put(key(prefix, &[&k]), v),
        Op::Delete(k) => Op::Delete(key(prefix, &[&k])),
        Op::DeletePrefix(k) => Op::DeletePrefix(key(prefix, &[&k])),
    })
}

/// Who this device is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Identity {
    pub username: Username,
    pub server: ServerId,
    pub account_key: AccountKey,
    pub device_key: DeviceKey,
    /// [`DeviceRecord::encode`].
    pub record: Vec<u8>,
    pub envelope: EnvelopeSecrets,
    pub envelope_sequence: u32,
    /// The server knows the record.
    pub registered: bool,
    /// The session ended for good; only a login helps.
    pub ended: bool,
}

impl Identity {
    /// The record, decoded. It was encoded by us; a damaged one was refused at restore.
    pub(super) fn device_record(&self) -> Option<DeviceRecord> {
        DeviceRecord::decode(&self.record)
    }

    pub(super) fn local(&self) -> Option<LocalDevice> {
        Some(LocalDevice::new(self.device_key.clone(), self.device_record()?))
    }
}

/// What is known of this state having been an older one than the device once had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Restored {
    /// Not all groups are come back to yet.
    pub open: bool,
    /// By how many batches the server has seen more than there are here: sessions add them to the state version.
    pub lead: u64,
    /// When it was last found out.
    pub at: UnixMillis,
}

/// The inbox has lost entries, or this device was out of a group by the server's word, and the list of memberships was
/// not read to its end since. Absent, there is nothing to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unwelcomed;

/// Whether this device is out of a group that it is a member of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fall {
    /// Why, if it is.
    pub why: Option<Why>,
    /// The log cannot be followed with the state that is here.
    pub cut: bool,
    /// The commit that it comes back by is in the outbox, and the group behind it in `r/`.
    pub made: bool,
    /// When it came back last, by its own calendar.
    pub last: UnixMillis,
}

impl Fall {
    /// Whether nothing of the log is of use: not even the commit that it would come back by.
    pub(super) fn is_blind(&self) -> bool {
        self.cut && !self.made
    }
}

/// The group of a channel has ended by a reset, and there is no welcome to the next one yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    /// The generation that has begun.
    pub generation: u32,
    /// This device was added to it: the server, which tells only members, has told what it has of it.
    pub added: bool,
}

/// What this device knows of the account's other devices. It grows only by what the account key signed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Fleet {
    pub listing: Listing,
    pub devices: BTreeMap<DeviceId, OwnDevice>,
}

/// Whether the server's list of the account's devices was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Listing {
    /// Not yet: what is in it is no news.
    #[default]
    Never,
    /// It was, and may have missed something since.
    Due,
    Done,
}

/// Another device of the account.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct OwnDevice {
    /// Of its record.
    pub sequence: u32,
    /// For good.
    pub revoked: bool,
}

/// When key packages were last made, by suite.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PackagePlan(pub BTreeMap<Suite, Issued>);

impl PackagePlan {
    pub(super) fn of(&self, suite: Suite) -> Issued {
        self.0.get(&suite).copied().unwrap_or_default()
    }
}

/// When key packages of a suite were last made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Issued {
    pub at: UnixMillis,
    pub last_resort: UnixMillis,
}

impl Issued {
    /// When they have to be replaced: well before they end.
    pub(super) fn due(&self) -> UnixMillis {
        self.at.plus(KEY_PACKAGE_TIME.saturating_sub(Duration::from_secs(4 * 60 * 60)))
    }
}

/// When private halves of key packages are to be deleted first; `None` if there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sweep {
    pub at: Option<UnixMillis>,
}

/// What an account is called, as the directory confirmed it, and how far that is trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Contact {
    pub username: Username,
    pub trust: Trust,
    /// When it came to be trusted so.
    pub since: UnixMillis,
}

/// A channel of this device.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct ChannelRow {
    pub generation: u32,
    pub suite: Suite,
    pub epoch: u64,
    /// Read up to here.
    pub cursor: Cursor,
    pub member: bool,
    /// Our own removal is proposed.
    pub leaving: bool,
    pub metadata: Option<Metadata>,
    pub name: Option<String>,
    pub authenticator: Vec<u8>,
    pub members: u32,
    /// Messages stored and not acknowledged by the application.
    pub unread: u32,
    /// The other account of a direct channel, once it has been a member: until then the channel is not open.
    pub with: Option<AccountId>,
}

// The name is sealed everywhere else.
impl fmt::Debug for ChannelRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelRow")
            .field("generation", &self.generation)
            .field("suite", &self.suite)
            .field("epoch", &self.epoch)
            .field("cursor", &self.cursor.seq())
            .field("member", &self.member)
            .field("leaving", &self.leaving)
            .field("named", &self.name.is_some())
            .field("members", &self.members)
            .field("unread", &self.unread)
            .finish_non_exhaustive()
    }
}

impl ChannelRow {
    /// A channel read from its start: an inbox, or a group just founded.
    pub(super) fn fresh(channel: ChannelId) -> Self {
        Self {
            generation: 0,
            suite: Suite::default(),
            epoch: 0,
            cursor: Cursor::start(channel),
            member: true,
            leaving: false,
            metadata: None,
            name: None,
            authenticator: Vec::new(),
            members: 0,
            unread: 0,
            with: None,
        }
    }
}

/// How old the keys of this device's own leaf in a group are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Leaf {
    /// When they were made.
    pub since: UnixMillis,
    /// How far the group's log had been read then.
    pub seq: u64,
}

#[cfg(test)]
mod tests;
