//! A group as the server sees it: everything but its secrets.
//!
//! The server follows each group so that it accepts only what honest members will accept (docs/adr/0006). Everything is
//! checked before anything changes: after an error the state is as it was. What takes the group's secrets stays for
//! the members to check: membership and confirmation tags, and whether path secrets and welcomes open.

pub(super) mod outside;
mod queue;
#[cfg(test)]
mod tests;

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openmls::group::GroupId as MlsGroupId;
use openmls::prelude::{
    KeyPackageRef, LeafNodeIndex, MlsMessageBodyIn, ProcessedMessageContent, ProposalStore,
    ProtocolMessage, PublicGroup, RatchetTreeIn, Sender as MlsSender, StagedCommit,
};
use tls_codec::Deserialize as _;

use super::data::GroupData;
use super::overlay::Overlay;
use super::path::Path;
use super::rules::{self, Before, Verdict, invalid};
use super::suite::Suite;
use super::welcome::WelcomeOutside;
use super::{Crypto, MlsError, encode, parse};
use crate::crypto::Backend;
use crate::crypto::identity::DeviceRecord;
use crate::env::UnixMillis;
use crate::id::{ChannelId, GroupId, Sender};
use crate::server::op::Member;
use crate::store::batch::{Op, Records};
use crate::wire::message::{ChannelKind, EntryKind};
use outside::Expected;

/// The record that names the group, beside those of OpenMLS.
const GROUP_RECORD: &[u8] = b"G";

/// The public state of a group over its records.
pub struct PublicState {
    backend: Backend,
    crypto: Crypto,
    overlay: Overlay,
    group: PublicGroup,
    suite: Suite,
    data: GroupData,
    /// Device records by leaf, verified when the leaf came in.
    records: BTreeMap<u32, DeviceRecord>,
    direct: Option<ChannelId>,
}

/// A commit that holds, merged into the public state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedCommit {
    /// The epoch that it leads into.
    pub epoch: u64,
    /// Devices added, in order of their leaves.
    pub adds: Vec<Member>,
    /// Devices removed. One that is in `adds` too was removed and added anew: its removal comes first.
    pub removes: Vec<Sender>,
    /// The welcome of each device added, with its own secret alone, in the order of `adds`.
    pub welcomes: Vec<Bytes>,
    /// The new ratchet tree, if there is a welcome.
    pub tree: Option<Vec<u8>>,
    /// The earliest end of the key packages used: from then on the commit is not to be accepted any more. `None` if
    /// it adds nobody.
    pub expires: Option<UnixMillis>,
    /// The latest end of a key package that was queued to be added and is not: until
    /// [`ADD_INSISTED`](crate::limits::ADD_INSISTED) before that, the commit is not to be accepted.
    pub left_out: Option<UnixMillis>,
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
    pub kind: EntryKind,
}

impl PublicState {
    /// Follows a new group from its founding: one member, `creator`, with required capabilities and group data as they
    /// have to be, GroupInfo signed by it.
    ///
    /// Errors: [`MlsError::Suite`], [`MlsError::WrongGroup`], [`MlsError::Record`], else [`MlsError::Invalid`].
    pub fn create(
        backend: Backend,
        id: GroupId,
        creator: &Member,
        group_info: &[u8],
        tree: &[u8],
    ) -> Result<Self, MlsError> {
        let MlsMessageBodyIn::GroupInfo(info) = parse(group_info)? else {
            return Err(invalid("not a GroupInfo"));
        };
        let suite = Suite::from_number(u16::from(info.ciphersuite())).ok_or(MlsError::Suite)?;
        let context = info.group_context().clone();
        if context.group_id().as_slice() != id.as_bytes() {
            return Err(MlsError::WrongGroup);
        }
        // RFC 9420 §11: a new group has an empty transcript.
        if context.epoch().as_u64() != 0 || !context.confirmed_transcript_hash().is_empty() {
            return Err(invalid("not a first epoch"));
        }
        let data = rules::check_context(context.extensions())?;
        if !data.may_change(creator.sender.account) {
            return Err(invalid("a founder that may not change its group"));
        }
        let tree = RatchetTreeIn::tls_deserialize_exact(tree)
            .map_err(|error| MlsError::Invalid(error.to_string()))?;
        if tree.nodes().count() != 1 {
            return Err(invalid("a new group has one member"));
        }
        let expected = Expected {
            suite,
            context: &encode(&context)?,
            tag: None,
            signer: 0,
            key: &creator.device_key,
        };
        outside::check_group_info(backend, group_info, &expected)?;
        let (crypto, overlay) = (Crypto::verifier(backend), Overlay::default());
        let (group, _) =
            PublicGroup::from_external(&crypto, &overlay, tree, info, ProposalStore::new())
                .map_err(|error| MlsError::Invalid(error.to_string()))?;
        overlay.put_raw(GROUP_RECORD, id.as_bytes().to_vec());
        let mut records = BTreeMap::new();
        for (leaf, node) in group.treesync().full_leaves() {
            records.insert(leaf.u32(), rules::check_leaf(backend, suite, node)?);
        }
        let founder = records.values().map(member_of).next();
        if founder.as_ref() != Some(creator) {
            return Err(MlsError::Record);
        }
        Ok(Self { backend, crypto, overlay, group, suite, data, records, direct: None })
    }

    /// Follows the group that takes the place of this one, from its founding: by an admin of this one, of no weaker
    /// suite, with the same roles.
    ///
    /// Errors: [`MlsError::NotAllowed`] for anything else; as [`Self::create`].
    pub fn successor(
        &self,
        id: GroupId,
        founder: &Member,
        group_info: &[u8],
        tree: &[u8],
    ) -> Result<Self, MlsError> {
        if !self.data.is_admin(founder.sender.account) {
            return Err(MlsError::NotAllowed("only an admin resets a group"));
        }
        let next = Self::create(self.backend, id, founder, group_info, tree)?;
        if next.suite < self.suite {
            return Err(MlsError::Suite);
        }
        if (&next.data.admins, next.data.open) != (&self.data.admins, self.data.open) {
            return Err(MlsError::NotAllowed("a reset changes no roles"));
        }
        Ok(next)
    }

    /// Reads it from its records. Error: [`MlsError::Damaged`].
    pub fn restore(backend: Backend, records: Records) -> Result<Self, MlsError> {
        let overlay = Overlay::new(records);
        let Loaded { group, suite, data, records } = Loaded::from(&overlay)?;
        Ok(Self {
            backend,
            crypto: Crypto::verifier(backend),
            overlay,
            group,
            suite,
            data,
            records,
            direct: None,
        })
    }

    /// Whether the group's roles are those of its channel's kind. Error: [`MlsError::NotAllowed`].
    pub fn check_roles(&self, channel: ChannelId) -> Result<(), MlsError> {
        self.data.check_for(channel)
    }

    /// Holds the group to the rules of its channel's kind. Not stored: to be said again after [`Self::restore`].
    pub fn confine(&mut self, channel: ChannelId) {
        self.direct = (channel.kind() == Some(ChannelKind::Direct)).then_some(channel);
    }

    /// The present epoch.
    pub fn epoch(&self) -> u64 {
        self.group.group_context().epoch().as_u64()
    }

    /// The suite; it never changes.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Members in order of their leaves.
    pub fn members(&self) -> Vec<Member> {
        self.records.values().map(member_of).collect()
    }

    /// The bytes of its records.
    pub fn bytes(&self) -> usize {
        self.overlay.bytes()
    }

    /// The ratchet tree, encoded (RFC 9420 §12.4.3.3).
    pub fn tree(&self) -> Result<Vec<u8>, MlsError> {
        encode(&self.group.export_ratchet_tree())
    }

    /// Checks a bundle from `sender`: a PublicMessage commit of this epoch by that device, verified by MLS; changes
    /// allowed by its role, or by the revocations that it brings along; every added or changed leaf with a verified
    /// record; every new key one that can be encrypted to, and the path's secrets sealed for as many as need them;
    /// queued removals included; a welcome exactly if it adds, with one secret for each of the added key packages; a
    /// GroupInfo of the new epoch that matches the new public state and is signed by the committer. Merges it, and cuts
    /// the welcome.
    ///
    /// The calendar is the caller's: see [`CheckedCommit::expires`].
    ///
    /// Errors: [`MlsError::WrongGroup`]; [`MlsError::PastEpoch`], [`MlsError::FutureEpoch`]; [`MlsError::NotMember`]
    /// (`sender` has no leaf); [`MlsError::Record`]; [`MlsError::Expired`] (a key package without an end); else
    /// [`MlsError::Invalid`].
    pub fn commit(
        &mut self,
        sender: Sender,
        commit: &[u8],
        welcome: Option<&[u8]>,
        group_info: &[u8],
    ) -> Result<CheckedCommit, MlsError> {
        let message = self.message(sender, commit, EntryKind::Commit)?;
        let ProtocolMessage::PublicMessage(public) = &message else {
            return Err(invalid("a commit has to be a PublicMessage"));
        };
        let tag = public.confirmation_tag().map(encode).transpose()?.unwrap_or_default();
        let tag = outside::Reader::new(&tag).vector();
        let tag = tag.ok_or_else(|| invalid("a commit without a confirmation tag"))?;
        let by = public.sender().clone();
        let processed = self
            .group
            .process_message(&self.crypto, message)
            .map_err(|error| MlsError::Invalid(error.to_string()))?;
        let before = self.before().given(processed.aad())?;
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            return Err(invalid("not a commit of a member"));
        };
        let verdict = before.judge(&by, &staged)?;
        if verdict.committer.sender() != sender {
            return Err(invalid("a commit of another device"));
        }
        let queued = self.queued()?;
        self.before().check_queued(queued.iter(), &verdict)?;
        let left_out = rules::adds_left_out(queued.iter(), &verdict);
        let path = Path::read(commit)?;
        if let Some(path) = &path {
            path.check_keys(self.suite)?;
        }
        let welcomes = self.check_welcome(&staged, welcome, group_info)?;
        let signer = self.signer(&by, &staged)?.u32();
        let expected = Expected {
            suite: self.suite,
            context: &encode(staged.group_context())?,
            tag: Some(tag),
            signer,
            key: &verdict.committer.device_key,
        };
        outside::check_group_info(self.backend, group_info, &expected)?;
        let path = path.as_ref().map(|path| (signer, path));
        self.change(|state| {
            let checked = state.merge(*staged, verdict, path, welcomes)?;
            Ok(CheckedCommit { left_out, ..checked })
        })
    }

    /// The epoch and group of an MLSMessage, from its outside: whether it is a PrivateMessage and of which group.
    /// Nothing inside is looked at. Error: [`MlsError::Invalid`].
    pub fn peek(payload: &[u8]) -> Result<Peeked, MlsError> {
        outside::peek(payload)
    }

    /// The changes since the last call.
    pub fn take_ops(&mut self) -> Vec<Op> {
        self.overlay.take_ops()
    }

    /// Does something that changes the state, wholly or not at all.
    fn change<T>(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<T, MlsError>,
    ) -> Result<T, MlsError> {
        self.overlay.settle();
        let result = step(self);
        if result.is_err() {
            self.overlay.revert();
            let before = Loaded::from(&self.overlay)?;
            (self.group, self.data, self.records) = (before.group, before.data, before.records);
        }
        result
    }

    fn before(&self) -> Before<'_> {
        Before {
            backend: self.backend,
            suite: self.suite,
            records: &self.records,
            data: &self.data,
            direct: self.direct,
            revoked: BTreeSet::new(),
        }
    }

    /// A PublicMessage of this group and epoch that claims to be of `sender`'s leaf, or of a newcomer.
    fn message(
        &self,
        sender: Sender,
        payload: &[u8],
        kind: EntryKind,
    ) -> Result<ProtocolMessage, MlsError> {
        let peeked = outside::peek(payload)?;
        if peeked.group.as_bytes() != self.group.group_id().as_slice() {
            return Err(MlsError::WrongGroup);
        }
        if peeked.epoch < self.epoch() {
            return Err(MlsError::PastEpoch);
        }
        if peeked.epoch > self.epoch() {
            return Err(MlsError::FutureEpoch);
        }
        if peeked.private || peeked.kind != kind {
            return Err(invalid("not a PublicMessage of the expected kind"));
        }
        if !self.records.values().any(|record| record.sender() == sender) {
            return Err(MlsError::NotMember);
        }
        let MlsMessageBodyIn::PublicMessage(message) = parse(payload)? else {
            return Err(invalid("not a PublicMessage"));
        };
        let claimed = match message.sender() {
            MlsSender::Member(leaf) => self.records.get(&leaf.u32()).map(DeviceRecord::sender),
            MlsSender::NewMemberCommit if kind == EntryKind::Commit => Some(sender),
            _ => None,
        };
        if claimed != Some(sender) {
            return Err(invalid("a message of another device"));
        }
        Ok(message.into())
    }

    /// A welcome is for exactly those who are added: what each of them gets.
    fn check_welcome(
        &self,
        staged: &StagedCommit,
        welcome: Option<&[u8]>,
        group_info: &[u8],
    ) -> Result<BTreeMap<Sender, Bytes>, MlsError> {
        let mut added = BTreeMap::new();
        for add in staged.add_proposals() {
            let package = add.add_proposal().key_package();
            let reference: KeyPackageRef = package
                .hash_ref(&self.crypto)
                .map_err(|error| MlsError::Internal(error.to_string()))?;
            let whom = rules::record_in(package.leaf_node())?.sender();
            added.insert(reference.as_slice().to_vec(), whom);
        }
        let Some(welcome) = welcome else {
            let none = added.is_empty();
            return if none {
                Ok(BTreeMap::new())
            } else {
                Err(invalid("a commit that adds has to welcome"))
            };
        };
        if added.is_empty() {
            return Err(invalid("a welcome for nobody"));
        }
        let welcome = WelcomeOutside::read(welcome)?;
        welcome.check(self.suite, added.keys().map(Vec::as_slice), group_info)?;
        let cuts = added.iter();
        let cuts = cuts.filter_map(|(reference, whom)| Some((*whom, welcome.cut(reference)?)));
        Ok(cuts.collect())
    }

    /// The leaf that signs the GroupInfo.
    fn signer(&self, by: &MlsSender, staged: &StagedCommit) -> Result<LeafNodeIndex, MlsError> {
        match by {
            MlsSender::Member(leaf) => Ok(*leaf),
            _ => self
                .group
                .ext_commit_sender_index(staged)
                .map_err(|error| MlsError::Internal(error.to_string())),
        }
    }

    fn merge(
        &mut self,
        staged: StagedCommit,
        verdict: Verdict,
        path: Option<(u32, &Path<'_>)>,
        mut welcomes: BTreeMap<Sender, Bytes>,
    ) -> Result<CheckedCommit, MlsError> {
        self.group
            .merge_commit(&self.overlay, staged)
            .map_err(|error| MlsError::Internal(error.to_string()))?;
        let before = core::mem::replace(&mut self.records, records_of(&self.group)?);
        if let Some(data) = verdict.data {
            self.data = data;
        }
        let added: BTreeSet<_> = verdict.added.iter().map(|added| added.record.sender()).collect();
        if let Some((committer, path)) = path {
            let leaves = self.records.iter();
            let new = leaves.filter(|(_, record)| added.contains(&record.sender()));
            let new = new.map(|(leaf, _)| *leaf).collect();
            path.check_lengths(self.group.treesync(), committer, &new)?;
        }
        let removed = verdict.removed.iter().filter_map(|leaf| before.get(leaf));
        let adds = self.records.values().filter(|record| added.contains(&record.sender()));
        let adds: Vec<_> = adds.map(member_of).collect();
        let welcomed = !welcomes.is_empty();
        let of = |add: &Member| {
            let welcome = welcomes.remove(&add.sender);
            welcome.ok_or_else(|| invalid("a device that is not welcomed"))
        };
        // Who comes back by a commit of its own needs none.
        let welcomed = adds.iter().filter(|_| welcomed).map(of);
        let welcomes: Vec<_> = welcomed.collect::<Result<_, _>>()?;
        Ok(CheckedCommit {
            epoch: self.epoch(),
            adds,
            removes: removed.map(DeviceRecord::sender).collect(),
            tree: (!welcomes.is_empty()).then(|| self.tree()).transpose()?,
            welcomes,
            expires: verdict.added.iter().map(|added| added.expires).min(),
            left_out: None,
        })
    }
}

impl fmt::Debug for PublicState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (epoch, members) = (self.epoch(), self.records.len());
        write!(f, "PublicState({:?}, epoch {epoch}, {members} members)", self.suite)
    }
}

/// What a state in memory has beside its records.
struct Loaded {
    group: PublicGroup,
    suite: Suite,
    data: GroupData,
    records: BTreeMap<u32, DeviceRecord>,
}

impl Loaded {
    fn from(overlay: &Overlay) -> Result<Self, MlsError> {
        let id = overlay.get_raw(GROUP_RECORD).ok_or_else(|| damaged("no group id"))?;
        let id = MlsGroupId::from_slice(&id);
        let group = PublicGroup::load(overlay, &id)
            .map_err(|error| MlsError::Damaged(error.to_string()))?
            .ok_or_else(|| damaged("incomplete"))?;
        let suite = Suite::from_number(u16::from(group.ciphersuite()))
            .ok_or_else(|| damaged("unknown suite"))?;
        let data = rules::check_context(group.group_context().extensions())
            .map_err(|_| damaged("group data"))?;
        let records = records_of(&group)?;
        Ok(Self { group, suite, data, records })
    }
}

fn damaged(what: &str) -> MlsError {
    MlsError::Damaged(what.to_owned())
}

fn member_of(record: &DeviceRecord) -> Member {
    Member { sender: record.sender(), device_key: record.device_key }
}

fn records_of(group: &PublicGroup) -> Result<BTreeMap<u32, DeviceRecord>, MlsError> {
    let leaves = group.treesync().full_leaves();
    let records = leaves.map(|(leaf, node)| Ok((leaf.u32(), rules::record_in(node)?)));
    records.collect::<Result<_, MlsError>>().map_err(|_| damaged("a leaf without a record"))
}
