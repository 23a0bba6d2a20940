//! A group as the server sees it: everything but its secrets.

use super::MlsError;
use super::suite::Suite;
use crate::crypto::Backend;
use crate::id::{GroupId, Sender};
use crate::server::op::Member;
use crate::store::batch::{Op, Records};

/// The public state of a group over its records.
#[derive(Debug)]
pub struct PublicState {
    _private: (),
}

/// A commit that holds, merged into the public state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedCommit {
    /// The epoch that it leads into.
    pub epoch: u64,
    /// Devices added, in order of their leaves.
    pub adds: Vec<Member>,
    /// Devices removed.
    pub removes: Vec<Sender>,
    /// Devices whose device key changed.
    pub updates: Vec<Member>,
    /// The new ratchet tree, if there is a welcome.
    pub tree: Option<Vec<u8>>,
}

#[expect(clippy::todo, unused_variables, missing_docs, reason = "skeleton")]
impl PublicState {
    /// Follows a new group from its founding: one member, `creator`, with required capabilities and group data as they
    /// have to be, GroupInfo signed by it.
    pub fn create(
        backend: Backend,
        id: GroupId,
        creator: &Member,
        group_info: &[u8],
        tree: &[u8],
    ) -> Result<Self, MlsError> {
        todo!()
    }

    /// Reads it from its records.
    pub fn restore(backend: Backend, records: Records) -> Result<Self, MlsError> {
        todo!()
    }

    pub fn epoch(&self) -> u64 {
        todo!()
    }
    pub fn suite(&self) -> Suite {
        todo!()
    }
    /// Members in order of their leaves.
    pub fn members(&self) -> Vec<Member> {
        todo!()
    }
    /// The ratchet tree, encoded.
    pub fn tree(&self) -> Result<Vec<u8>, MlsError> {
        todo!()
    }

    /// Checks a proposal from `sender` and queues it.
    pub fn propose(&mut self, sender: Sender, payload: &[u8]) -> Result<(), MlsError> {
        todo!()
    }

    /// Checks a bundle from `sender`: a PublicMessage commit of this epoch by that device, verified by MLS;
    /// changes allowed by its role; every added or changed leaf with a verified record; queued self-removals
    /// included; a welcome exactly if it adds, for exactly the added key packages; a GroupInfo of the new epoch that
    /// matches the new public state and is signed by the committer. Merges it.
    pub fn commit(
        &mut self,
        sender: Sender,
        commit: &[u8],
        welcome: Option<&[u8]>,
        group_info: &[u8],
    ) -> Result<CheckedCommit, MlsError> {
        todo!()
    }

    /// The epoch and group of an MLSMessage, from its outside: whether it is a PrivateMessage and of which group.
    pub fn peek(payload: &[u8]) -> Result<Peeked, MlsError> {
        todo!()
    }

    /// The changes since the last call.
    pub fn take_ops(&mut self) -> Vec<Op> {
        todo!()
    }
}

/// The outside of an MLSMessage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peeked {
    /// Whether it is a PrivateMessage (else a PublicMessage).
    pub private: bool,
    /// Its group.
    pub group: GroupId,
    /// Its epoch.
    pub epoch: u64,
    /// Whether its content is an application message, a proposal or a commit.
    pub kind: crate::wire::message::EntryKind,
}
