//! A group as one of its members sees it.
//!
//! Every operation either goes through or changes nothing: after an error the step is undone in the records, and the
//! group read again from them.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};

use openmls::group::{GroupContext, GroupId as MlsGroupId, MlsGroup};
use openmls::prelude::Proposal;
use openmls_traits::storage::StorageProvider as _;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::data::GroupData;
pub use super::device::{LocalDevice, Parts};
use super::overlay::Overlay;
use super::rules::{self, Before, Verdict};
use super::suite::Suite;
use super::{MlsError, encode};
use crate::crypto::Backend;
use crate::crypto::identity::{DeviceRecord, Revocation};
use crate::id::{ChannelId, Digest, GroupId, Sender};
use crate::store::batch::{Op, Records};
use crate::store::record;
use crate::wire::message::ChannelKind;

/// A new group.
#[derive(Clone, Debug)]
pub struct NewGroup {
    /// Its id.
    pub id: GroupId,
    /// Its suite.
    pub suite: Suite,
    /// Its data.
    pub data: GroupData,
}

/// What the server needs to follow a new group from its first epoch on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founding {
    /// MLSMessage with the GroupInfo, without a tree, with external_pub.
    pub group_info: Vec<u8>,
    /// The ratchet tree.
    pub tree: Vec<u8>,
}

/// What a commit is to change. Proposals queued in the group are included too.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Key packages (MLSMessages), checked before, of devices to add.
    pub adds: Vec<Vec<u8>>,
    /// Devices to remove.
    pub removes: Vec<Sender>,
    /// Devices to remove because their accounts have revoked them, verified before: any member may.
    pub revoked: Vec<Revocation>,
    /// New group data.
    pub data: Option<GroupData>,
    /// Fresh keys in the own leaf, whatever else is to change. A plan of nothing brings them too.
    pub update: bool,
    /// A new device record and key for the own leaf.
    pub rotate: Option<LocalDevice>,
    /// Queued Adds are left out: with them there would be no commit.
    pub leave_adds_out: bool,
}

/// A commit made and pending: merged when accepted, discarded when another one won.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// MLSMessage, PublicMessage.
    pub commit: Vec<u8>,
    /// MLSMessage, if anyone is added; without a ratchet tree.
    pub welcome: Option<Vec<u8>>,
    /// MLSMessage; without a ratchet tree, with external_pub.
    pub group_info: Vec<u8>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberLeaf {
    /// Index of its leaf.
    pub leaf: u32,
    /// Its device record, verified.
    pub record: DeviceRecord,
}

/// What a merged commit changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The epoch that it led into.
    pub epoch: u64,
    /// Who committed.
    pub committer: Sender,
    /// Devices added.
    pub added: Vec<DeviceRecord>,
    /// Devices removed, self-removals included.
    pub removed: Vec<Sender>,
    /// Those of them that left by their own wish.
    pub left: Vec<Sender>,
    /// Devices whose record changed.
    pub updated: Vec<DeviceRecord>,
    /// The group's data, if it changed.
    pub data: Option<GroupData>,
    /// Whether the committer's leaf and its path have fresh keys.
    pub rekeyed: bool,
    /// Whether the committer came back by it, from outside.
    pub rejoined: bool,
    /// Whether this device is out: the group's records may be deleted.
    pub evicted: bool,
}

/// What an entry of the log turned out to be.
pub enum Received {
    /// Application content.
    Application {
        /// The sender's record as of the message's epoch.
        sender: DeviceRecord,
        /// The message's epoch.
        epoch: u64,
        /// The content.
        content: Zeroizing<Vec<u8>>,
    },
    /// A proposal, queued for the next commit.
    Proposal {
        /// Who proposes.
        sender: Sender,
        /// Whether it is the proposer's own removal.
        leaves: bool,
    },
    /// A commit of another member, merged.
    Commit(Change),
}

// Content is what people say to each other: only its size is shown.
impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Application { sender, epoch, content } => {
                let (sender, len) = (sender.sender(), content.len());
                write!(f, "Application({sender:?}, epoch {epoch}, {len} bytes)")
            }
            Self::Proposal { sender, leaves } => {
                write!(f, "Proposal({sender:?}, leaves: {leaves})")
            }
            Self::Commit(change) => write!(f, "Commit({change:?})"),
        }
    }
}

/// A group over its records.
pub struct Group {
    pub(super) backend: Backend,
    pub(super) overlay: Overlay,
    pub(super) mls: MlsGroup,
    pub(super) meta: Meta,
    /// There may be keys from this epoch on.
    pub(super) reads_from: u64,
    /// This device may have been a member from this epoch on.
    pub(super) member_from: u64,
    pub(super) data: GroupData,
    /// Device records by leaf, verified when the leaf came in.
    pub(super) records: BTreeMap<u32, DeviceRecord>,
    /// Who welcomed this device, right after it joined.
    pub(super) added_by: Option<Sender>,
    /// The encoded key of the leaf that this device replaced, right after it made the external commit.
    pub(super) replaced: Option<Vec<u8>>,
    /// How the pending commit was judged when it was made here; `None` after a restart.
    pub(super) judged: Option<Verdict>,
    direct: Option<ChannelId>,
}

/// What we know of a group beside OpenMLS.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) id: GroupId,
    /// The epoch that the own leaf came in with. There are no keys of earlier ones, but those that were kept from
    /// before this device came back.
    pub(super) first_epoch: u64,
    /// This device was added by a last-resort key package, whose keys others may have been sent to as well: its next
    /// commit replaces its own leaf's key.
    pub(super) stale_leaf: bool,
}

const META: &[u8] = b"M";
/// The epoch from which on there are keys, if that is an earlier one than the own leaf's first.
pub(super) const READS_FROM: &[u8] = b"F";
/// The epoch from which on this device may have been a member, if that is an earlier one than the own leaf's first.
pub(super) const MEMBER_FROM: &[u8] = b"A";
/// The authenticated data of the pending commit.
pub(super) const EVIDENCE: &[u8] = b"E";

impl Group {
    /// Reads a group from its records (keys as [`Self::take_ops`] gave them). Error: [`MlsError::Damaged`].
    pub fn restore(backend: Backend, records: Records) -> Result<Self, MlsError> {
        let overlay = Overlay::new(records);
        let (meta, mls) = load(&overlay)?;
        Self::assemble(backend, overlay, mls, meta)
    }

    /// The changes of the records since the last call, to be made durable together with what depends on them.
    pub fn take_ops(&mut self) -> Vec<Op> {
        self.overlay.take_ops()
    }

    /// Discards the changes since the last [`Self::take_ops`]. Error: [`MlsError::Damaged`], for a group that was never
    /// taken.
    pub fn rollback(&mut self) -> Result<(), MlsError> {
        self.overlay.rollback();
        self.reload()
    }

    /// Its id.
    pub fn id(&self) -> GroupId {
        self.meta.id
    }

    /// Its suite.
    pub fn suite(&self) -> Suite {
        // It was checked when the group was created, joined or restored, and never changes.
        Suite::from_number(u16::from(self.mls.ciphersuite())).unwrap_or_default()
    }

    /// Who signed the welcome that this device joined by; `None` for a group founded here or read from its records.
    pub fn added_by(&self) -> Option<Sender> {
        self.added_by
    }

    /// What was written in an earlier epoch than this one was never meant for this device: it was added later.
    pub fn member_from(&self) -> u64 {
        self.member_from
    }

    /// The present epoch.
    pub fn epoch(&self) -> u64 {
        self.mls.epoch().as_u64()
    }

    /// The epoch authenticator (RFC 9420 §8.7): equal for all members of an epoch, and only then.
    pub fn authenticator(&self) -> Vec<u8> {
        self.mls.epoch_authenticator().as_slice().to_vec()
    }

    /// The confirmed transcript hash of the present epoch (RFC 9420 §8.2); zeros in epoch 0, which has none.
    pub fn transcript(&self) -> Digest {
        let context: Option<GroupContext> =
            self.overlay.group_context(self.mls.group_id()).unwrap_or_default();
        let hash = context.and_then(|context| context.confirmed_transcript_hash().try_into().ok());
        Digest(hash.unwrap_or_default())
    }

    /// Holds the group to the rules of its channel's kind. Not stored: to be said again after [`Self::restore`].
    pub fn confine(&mut self, channel: ChannelId) {
        self.direct = (channel.kind() == Some(ChannelKind::Direct)).then_some(channel);
    }

    /// What all members agree on.
    pub fn data(&self) -> &GroupData {
        &self.data
    }

    /// Members in order of their leaves.
    pub fn members(&self) -> Vec<MemberLeaf> {
        let records = self.records.iter();
        records.map(|(leaf, record)| MemberLeaf { leaf: *leaf, record: record.clone() }).collect()
    }

    /// The ratchet tree of the present epoch, as [`Self::join`] reads it. The server serves its own of these; this one
    /// is for groups without such a server.
    ///
    /// Error: [`MlsError::Internal`].
    pub fn ratchet_tree(&self) -> Result<Vec<u8>, MlsError> {
        encode(&self.mls.export_ratchet_tree())
    }

    /// Index of the own leaf.
    pub fn own_leaf(&self) -> u32 {
        self.mls.own_leaf_index().u32()
    }

    /// The device key in the own leaf; `None` once this device is out.
    pub fn own_key(&self) -> Option<[u8; 32]> {
        Some(self.records.get(&self.own_leaf())?.device_key)
    }

    /// Whether a commit of ours waits for acceptance.
    pub fn has_pending(&self) -> bool {
        self.mls.pending_commit().is_some()
    }

    /// Whether proposals wait for a commit. Until then nothing can be sent: see [`Self::encrypt`].
    pub fn has_proposals(&self) -> bool {
        self.mls.has_pending_proposals()
    }

    /// Whether Adds are among them.
    pub fn has_queued_adds(&self) -> bool {
        let mut queued = self.mls.pending_proposals();
        queued.any(|queued| matches!(queued.proposal(), Proposal::Add(_)))
    }

    pub(super) fn assemble(
        backend: Backend,
        overlay: Overlay,
        mls: MlsGroup,
        meta: Meta,
    ) -> Result<Self, MlsError> {
        Suite::from_number(u16::from(mls.ciphersuite())).ok_or(MlsError::Suite)?;
        let data = rules::check_context(mls.extensions())?;
        let records = records_of(&mls)?;
        let reads_from = epoch_in(&overlay, READS_FROM, &meta)?;
        let member_from = epoch_in(&overlay, MEMBER_FROM, &meta)?;
        let (added_by, replaced, judged, direct) = (None, None, None, None);
        Ok(Self {
            backend,
            overlay,
            mls,
            meta,
            reads_from,
            member_from,
            data,
            records,
            added_by,
            replaced,
            judged,
            direct,
        })
    }

    pub(super) fn save_meta(&self) {
        self.overlay.put_raw(META, record::encode(&self.meta));
    }

    /// Runs an operation as one step: it goes through, or nothing happened.
    pub(super) fn step<T>(
        &mut self,
        operation: impl FnOnce(&mut Self) -> Result<T, MlsError>,
    ) -> Result<T, MlsError> {
        let result = operation(self);
        match result {
            Ok(_) => self.overlay.settle(),
            Err(_) => {
                self.overlay.revert();
                self.reload()?;
            }
        }
        result
    }

    pub(super) fn reload(&mut self) -> Result<(), MlsError> {
        (self.meta, self.mls) = load(&self.overlay)?;
        self.reads_from = epoch_in(&self.overlay, READS_FROM, &self.meta)?;
        self.member_from = epoch_in(&self.overlay, MEMBER_FROM, &self.meta)?;
        self.refresh()
    }

    /// Takes over what OpenMLS's state says.
    pub(super) fn refresh(&mut self) -> Result<(), MlsError> {
        self.judged = None;
        self.data = rules::check_context(self.mls.extensions())?;
        self.records = records_of(&self.mls)?;
        Ok(())
    }

    pub(super) fn own_record(&self) -> Result<&DeviceRecord, MlsError> {
        self.records.get(&self.own_leaf()).ok_or(MlsError::NotMember)
    }

    pub(super) fn before(&self) -> Before<'_> {
        Before {
            backend: self.backend,
            suite: self.suite(),
            records: &self.records,
            data: &self.data,
            direct: self.direct,
            revoked: BTreeSet::new(),
        }
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group({:?}, epoch {}, leaf {})", self.id(), self.epoch(), self.own_leaf())
    }
}

fn load(overlay: &Overlay) -> Result<(Meta, MlsGroup), MlsError> {
    let damaged = |what: &str| MlsError::Damaged(what.to_owned());
    let meta = overlay.get_raw(META).ok_or_else(|| damaged("no group"))?;
    let meta: Meta = record::decode(META, &meta).map_err(|error| damaged(&error.to_string()))?;
    let mls = MlsGroup::load(overlay, &MlsGroupId::from_slice(meta.id.as_bytes()))
        .map_err(|error| damaged(&error.to_string()))?
        .ok_or_else(|| damaged("incomplete"))?;
    Ok((meta, mls))
}

/// The epoch in a record; without one, the own leaf's first.
fn epoch_in(overlay: &Overlay, key: &[u8], meta: &Meta) -> Result<u64, MlsError> {
    let Some(epoch) = overlay.get_raw(key) else { return Ok(meta.first_epoch) };
    record::decode(key, &epoch).map_err(|error| MlsError::Damaged(error.to_string()))
}

fn records_of(mls: &MlsGroup) -> Result<BTreeMap<u32, DeviceRecord>, MlsError> {
    let leaves = mls.treesync().full_leaves();
    leaves.map(|(leaf, node)| Ok((leaf.u32(), rules::record_in(node)?))).collect()
}
