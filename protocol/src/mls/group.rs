//! A group as one of its members sees it.

use zeroize::Zeroizing;

use super::data::GroupData;
use super::key_package::KeyPackages;
use super::suite::Suite;
use super::{Context, MlsError};
use crate::crypto::Backend;
use crate::crypto::identity::{DeviceKey, DeviceRecord};
use crate::id::{GroupId, Sender};
use crate::store::batch::{Op, Records};

/// This device, as its groups know it: the key that signs and the record that its leaves carry.
#[derive(Clone, Debug)]
pub struct LocalDevice {
    /// Signs.
    pub key: DeviceKey,
    /// Goes into every leaf.
    pub record: DeviceRecord,
}

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

/// What a commit is to change. Proposals queued in the group are always included too.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Key packages (MLSMessages), checked before, of devices to add.
    pub adds: Vec<Vec<u8>>,
    /// Devices to remove.
    pub removes: Vec<Sender>,
    /// New group data.
    pub data: Option<GroupData>,
    /// A new device record and key for the own leaf.
    pub rotate: Option<LocalDevice>,
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
    /// Devices whose record changed.
    pub updated: Vec<DeviceRecord>,
    /// The group's data, if it changed.
    pub data: Option<GroupData>,
    /// Whether this device is out: the group's records may be deleted.
    pub evicted: bool,
}

/// What an entry of the log turned out to be.
#[derive(Debug)]
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

/// A group over its records.
#[derive(Debug)]
pub struct Group {
    _private: (),
}

#[expect(clippy::todo, unused_variables, missing_docs, reason = "skeleton")]
impl Group {
    /// Founds a group with this device as its only member.
    pub fn create(
        cx: Context<'_>,
        device: &LocalDevice,
        new: &NewGroup,
    ) -> Result<(Self, Founding), MlsError> {
        todo!()
    }

    /// Reads a group from its records (keys as [`Self::take_ops`] gave them).
    pub fn restore(backend: Backend, records: Records) -> Result<Self, MlsError> {
        todo!()
    }

    /// Joins from a welcome and the ratchet tree served beside it. The key package used is removed from
    /// `packages` (a last-resort one stays). The group's id is the caller's to check.
    pub fn join(
        cx: Context<'_>,
        device: &LocalDevice,
        packages: &mut KeyPackages,
        welcome: &[u8],
        tree: &[u8],
    ) -> Result<Self, MlsError> {
        todo!()
    }

    /// The changes of the records since the last call, to be made durable together with what depends on them.
    pub fn take_ops(&mut self) -> Vec<Op> {
        todo!()
    }

    /// Discards the changes since the last [`Self::take_ops`].
    pub fn rollback(&mut self) -> Result<(), MlsError> {
        todo!()
    }

    pub fn id(&self) -> GroupId {
        todo!()
    }
    pub fn suite(&self) -> Suite {
        todo!()
    }
    pub fn epoch(&self) -> u64 {
        todo!()
    }
    /// The epoch authenticator (RFC 9420 §8.7): equal for all members of an epoch, and only then.
    pub fn authenticator(&self) -> Vec<u8> {
        todo!()
    }
    pub fn data(&self) -> &GroupData {
        todo!()
    }
    /// Members in order of their leaves.
    pub fn members(&self) -> Vec<MemberLeaf> {
        todo!()
    }
    pub fn own_leaf(&self) -> u32 {
        todo!()
    }
    /// Whether a commit of ours waits for acceptance.
    pub fn has_pending(&self) -> bool {
        todo!()
    }
    /// Whether proposals wait for a commit.
    pub fn has_proposals(&self) -> bool {
        todo!()
    }

    /// A PrivateMessage for the present epoch.
    pub fn encrypt(
        &mut self,
        cx: Context<'_>,
        device: &LocalDevice,
        content: &[u8],
    ) -> Result<Vec<u8>, MlsError> {
        todo!()
    }

    /// Makes a commit; it stays pending.
    pub fn commit(
        &mut self,
        cx: Context<'_>,
        device: &LocalDevice,
        plan: &Plan,
    ) -> Result<Bundle, MlsError> {
        todo!()
    }

    /// The pending commit was accepted: merges it.
    pub fn merge_pending(&mut self, cx: Context<'_>) -> Result<Change, MlsError> {
        todo!()
    }

    /// Another commit won: drops the pending one.
    pub fn discard_pending(&mut self, cx: Context<'_>) -> Result<(), MlsError> {
        todo!()
    }

    /// A SelfRemove proposal as a PublicMessage.
    pub fn propose_leave(
        &mut self,
        cx: Context<'_>,
        device: &LocalDevice,
    ) -> Result<Vec<u8>, MlsError> {
        todo!()
    }

    /// Processes another member's message: content is decrypted, proposals are queued, commits are merged (a
    /// pending commit of ours is dropped then).
    pub fn receive(&mut self, cx: Context<'_>, payload: &[u8]) -> Result<Received, MlsError> {
        todo!()
    }
}
