//! What may be in a group and who may change it: one set of rules, by which the server judges a
//! commit before it accepts it and every member judges it again.

mod leaf;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use openmls::prelude::{
    KeyPackage, LeafNode, LeafNodeIndex, Proposal, QueuedProposal, Sender as MlsSender,
    StagedCommit,
};

use super::data::GroupData;
use super::suite::Suite;
use super::{MlsError, parallel};
use crate::crypto::Backend;
use crate::crypto::identity::{DeviceRecord, Revocation};
use crate::env::UnixMillis;
use crate::id::{AccountId, ChannelId, Sender};
use crate::limits;
use leaf::check_package;
#[cfg(test)]
pub(super) use leaf::required_capabilities;
pub(super) use leaf::{
    EXPIRY_EXTENSION, capabilities, check_context, check_first_key, check_key, check_leaf,
    check_next_leaf, context_extensions, expiry, invalid, record_in,
};

fn package_in(proposal: &QueuedProposal) -> Option<&KeyPackage> {
    match proposal.proposal() {
        Proposal::Add(add) => Some(add.key_package()),
        _ => None,
    }
}

/// An epoch before a commit, and what the commit brings along.
#[derive(Clone, Debug)]
pub(super) struct Before<'a> {
    /// Primitives.
    pub(super) backend: Backend,
    /// The group's suite.
    pub(super) suite: Suite,
    /// Verified records by leaf.
    pub(super) records: &'a BTreeMap<u32, DeviceRecord>,
    /// The group's data.
    pub(super) data: &'a GroupData,
    /// The channel, if it is a direct one.
    pub(super) direct: Option<ChannelId>,
    /// Devices that their accounts have revoked: anybody may remove them (docs/adr/0011).
    pub(super) revoked: BTreeSet<Sender>,
}

/// A device that a commit adds.
#[derive(Clone, Debug)]
pub(super) struct Added {
    /// Its record, verified.
    pub(super) record: DeviceRecord,
    /// The end of the key package used.
    pub(super) expires: UnixMillis,
}

/// What a commit that holds changes.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    /// The committer's record after the commit.
    pub(super) committer: DeviceRecord,
    /// Whether it came from outside: the committer took the place of its own leaf.
    pub(super) external: bool,
    /// Devices added, in order of their proposals.
    pub(super) added: Vec<Added>,
    /// Leaves removed, self-removals included; not the old leaf of a device that comes back by external commit.
    pub(super) removed: Vec<u32>,
    /// Those of them that left by their own wish.
    pub(super) left: Vec<u32>,
    /// New records of devices whose leaf was replaced by one with another record.
    pub(super) updated: Vec<DeviceRecord>,
    /// The group's data, if it changed.
    pub(super) data: Option<GroupData>,
}

/// A direct channel is for the two accounts that its id is derived from, and neither can put the other out: whoever
/// was put out could not make another. `by` is of the two, for it is a member.
fn may_change_direct(
    channel: ChannelId,
    by: AccountId,
    whose: AccountId,
    adds: bool,
) -> Result<(), MlsError> {
    if by == whose {
        return Ok(());
    }
    match (adds, ChannelId::direct(by, whose) == channel) {
        (true, true) => Ok(()),
        (true, false) => Err(MlsError::NotAllowed("a direct channel is for its two accounts")),
        (false, _) => Err(MlsError::NotAllowed("nobody puts the other out of a direct channel")),
    }
}

/// The authenticated data of a commit that removes these devices.
pub(super) fn evidence(revocations: &[Revocation]) -> Vec<u8> {
    revocations.iter().flat_map(Revocation::encode).collect()
}

/// The devices that a commit's authenticated data shows to be revoked: each revocation signed by the account's key,
/// nothing else among them.
fn read_evidence(backend: Backend, data: &[u8]) -> Result<BTreeSet<Sender>, MlsError> {
    if data.len() > limits::DEVICES_LISTED * Revocation::LEN {
        return Err(invalid("too many revocations"));
    }
    let read = |bytes: &[u8]| {
        let revocation = Revocation::decode(bytes)?;
        revocation.verify(backend).ok()?;
        Some(revocation.sender())
    };
    let revoked: Option<BTreeSet<_>> = data.chunks(Revocation::LEN).map(read).collect();
    revoked.ok_or_else(|| invalid("authenticated data that is no revocation"))
}

impl Before<'_> {
    /// With what a commit brings along in its authenticated data. Error: [`MlsError::Invalid`].
    pub(super) fn given(self, data: &[u8]) -> Result<Self, MlsError> {
        Ok(Self { revoked: read_evidence(self.backend, data)?, ..self })
    }

    fn record(&self, leaf: LeafNodeIndex) -> Result<&DeviceRecord, MlsError> {
        self.records.get(&leaf.u32()).ok_or_else(|| invalid("no such leaf"))
    }

    /// Judges a commit that MLS itself found valid. Errors: [`MlsError::Record`], [`MlsError::Expired`] (a key package
    /// without an end), [`MlsError::NotAllowed`] (a third account in a direct channel, or the other one put out of it),
    /// else [`MlsError::Invalid`].
    pub(super) fn judge(
        &self,
        sender: &MlsSender,
        commit: &StagedCommit,
    ) -> Result<Verdict, MlsError> {
        let path = commit.update_path_leaf_node();
        let (own, record) = match sender {
            MlsSender::Member(leaf) => {
                let old = self.record(*leaf)?;
                (*leaf, path.map_or_else(|| Ok(old.clone()), |new| self.successor(old, new))?)
            }
            MlsSender::NewMemberCommit => self.rejoined(commit)?,
            _ => return Err(invalid("commit from outside")),
        };
        let external = *sender == MlsSender::NewMemberCommit;
        let mut verdict = Verdict {
            committer: record,
            external,
            added: Vec::new(),
            removed: Vec::new(),
            left: Vec::new(),
            updated: Vec::new(),
            data: None,
        };
        let mut changed_by = None;
        if self.records.get(&own.u32()) != Some(&verdict.committer) {
            verdict.updated.push(verdict.committer.clone());
        }
        let proposals = commit.queued_proposals();
        let packages: Vec<_> = proposals.filter_map(|proposal| package_in(proposal)).collect();
        let added =
            parallel::each(&packages, |package| check_package(self.backend, self.suite, package));
        let mut added = added.into_iter();
        for proposal in commit.queued_proposals() {
            match proposal.proposal() {
                Proposal::ExternalInit(_) if external => {}
                Proposal::Remove(remove) if external && remove.removed() == own => {}
                Proposal::GroupContextExtensions(change) => {
                    verdict.data = Some(check_context(change.extensions())?);
                    changed_by = Some(self.proposer(proposal)?.1.account);
                }
                _ => self.apply(own, proposal, &mut added, &mut verdict)?,
            }
        }
        if let (Some(data), Some(by)) = (&verdict.data, changed_by) {
            self.check_data(data, by, &verdict)?;
        }
        self.check_result(&verdict)?;
        self.check_revoked(&verdict)?;
        Ok(verdict)
    }

    /// Whether a proposal may be made: by whom it is made, and what it would do on its own.
    pub(super) fn judge_proposal(&self, proposal: &QueuedProposal) -> Result<(), MlsError> {
        match proposal.proposal() {
            Proposal::Add(add) => {
                let added = check_package(self.backend, self.suite, add.key_package())?;
                self.may_change(proposal, added.record.account)
            }
            Proposal::Remove(remove) => {
                self.may_change(proposal, self.record(remove.removed())?.account)
            }
            Proposal::SelfRemove => self.proposer(proposal).map(drop),
            _ => Err(invalid("a proposal of this kind is not made on its own")),
        }
    }

    /// What is queued to go has to go. A committer cannot remove itself (RFC 9420 §12.2): one that wants to leave may
    /// still commit others' wishes, one that others want removed may not commit at all. Whether an Add may be left out
    /// is a matter of its end, and so of the calendar: see [`adds_left_out`]. A commit from outside refers to no
    /// proposal (RFC 9420 §12.4.3.2): what it leaves out is proposed again, as after any epoch.
    pub(super) fn check_queued<'p>(
        &self,
        mut queued: impl Iterator<Item = &'p QueuedProposal>,
        verdict: &Verdict,
    ) -> Result<(), MlsError> {
        if verdict.external {
            return Ok(());
        }
        let committer = verdict.committer.sender();
        let is_own =
            |leaf: &u32| self.records.get(leaf).is_some_and(|record| record.sender() == committer);
        let kept = queued.any(|proposal| {
            let leaves = matches!(proposal.proposal(), Proposal::SelfRemove);
            removes(proposal)
                .is_some_and(|leaf| !(verdict.removed.contains(&leaf) || leaves && is_own(&leaf)))
        });
        if kept { Err(MlsError::LeftOut) } else { Ok(()) }
    }

    /// Whether somebody who may add and remove is left when a queued removal and those queued before it come true: a
    /// commit has to include them all, so none may be queued that no commit could. In an open group everyone may, and
    /// who leaves by its own wish still commits the others'.
    pub(super) fn keeps_an_admin<'p>(
        &self,
        queued: impl Iterator<Item = &'p QueuedProposal>,
    ) -> Result<(), MlsError> {
        let counts = |proposal: &&QueuedProposal| {
            !(self.data.open && matches!(proposal.proposal(), Proposal::SelfRemove))
        };
        let gone: BTreeSet<_> = queued.filter(counts).filter_map(removes).collect();
        let stays = |(leaf, record): (&u32, &DeviceRecord)| {
            self.data.may_change(record.account) && !gone.contains(leaf)
        };
        if gone.is_empty() || self.records.iter().any(stays) {
            Ok(())
        } else {
            Err(MlsError::NoAdmin)
        }
    }

    fn proposer(
        &self,
        proposal: &QueuedProposal,
    ) -> Result<(LeafNodeIndex, &DeviceRecord), MlsError> {
        match proposal.sender() {
            MlsSender::Member(leaf) => Ok((*leaf, self.record(*leaf)?)),
            _ => Err(invalid("proposal from outside")),
        }
    }

    /// Everyone may add and remove devices of the own account; others' takes the right to.
    fn may_change(&self, proposal: &QueuedProposal, whose: AccountId) -> Result<(), MlsError> {
        let by = self.proposer(proposal)?.1.account;
        if let Some(channel) = self.direct {
            let adds = matches!(proposal.proposal(), Proposal::Add(_));
            return may_change_direct(channel, by, whose, adds);
        }
        if by == whose || self.data.may_change(by) {
            Ok(())
        } else {
            Err(invalid("the proposer's role does not allow this change"))
        }
    }

    fn apply(
        &self,
        committer: LeafNodeIndex,
        proposal: &QueuedProposal,
        added: &mut impl Iterator<Item = Result<Added, MlsError>>,
        verdict: &mut Verdict,
    ) -> Result<(), MlsError> {
        match proposal.proposal() {
            Proposal::Add(_) => {
                let added = added.next().ok_or(MlsError::Record)??;
                self.may_change(proposal, added.record.account)?;
                verdict.added.push(added);
            }
            Proposal::Remove(remove) => {
                let record = self.record(remove.removed())?;
                if !self.revoked.contains(&record.sender()) {
                    self.may_change(proposal, record.account)?;
                }
                verdict.removed.push(remove.removed().u32());
            }
            Proposal::SelfRemove => {
                let (leaf, _) = self.proposer(proposal)?;
                verdict.removed.push(leaf.u32());
                verdict.left.push(leaf.u32());
            }
            _ => return Err(invalid("a proposal of this kind is not allowed in a commit")),
        }
        // RFC 9420 §12.2: a commit does not remove its committer.
        if verdict.removed.last() == Some(&committer.u32()) {
            return Err(invalid("a commit that removes its committer"));
        }
        Ok(())
    }

    /// Admins change the group's data. Who is none may name an heir, and nothing else.
    fn check_data(
        &self,
        data: &GroupData,
        by: AccountId,
        verdict: &Verdict,
    ) -> Result<(), MlsError> {
        let removed = verdict.removed.iter().copied().collect();
        let added = verdict.added.iter().map(|added| added.record.account);
        if !self.data.is_admin(by) && self.succession(&removed, added).as_ref() != Some(data) {
            return Err(invalid("group data changed by one who is no admin"));
        }
        if self.direct.is_some() && (&data.admins, data.open) != (&self.data.admins, self.data.open)
        {
            return Err(MlsError::NotAllowed("a direct channel has no roles"));
        }
        if data.version <= self.data.version {
            return Err(invalid("group data changed without raising its version"));
        }
        Ok(())
    }

    /// The group's data once revocations have taken the last device of an admin: the account of the lowest leaf that
    /// stays becomes one too. `None` while an admin is left, and where no revocation is the reason: nobody else is
    /// removed who is the last (docs/adr/0011).
    pub(super) fn succession(
        &self,
        removed: &BTreeSet<u32>,
        mut added: impl Iterator<Item = AccountId>,
    ) -> Option<GroupData> {
        let is_admin = |account| self.data.is_admin(account);
        let gone = removed.iter().filter_map(|leaf| self.records.get(leaf));
        let mut revoked = gone.filter(|record| self.revoked.contains(&record.sender()));
        let stay = self.records.iter().filter(|(leaf, _)| !removed.contains(leaf));
        let mut stay = stay.map(|(_, record)| record.account);
        let heir = stay.next()?;
        let led = self.data.open || is_admin(heir) || stay.any(is_admin) || added.any(is_admin);
        if led || !revoked.any(|record| is_admin(record.account)) {
            return None;
        }
        let mut data = self.data.clone();
        data.version = data.version.checked_add(1)?;
        data.admins.push(heir);
        data.admins.sort_unstable();
        Some(data)
    }

    /// The record of a leaf that replaces one of the same device: the same record, which was verified when it came in,
    /// or a later one.
    fn successor(&self, old: &DeviceRecord, new: &LeafNode) -> Result<DeviceRecord, MlsError> {
        let new = check_next_leaf(self.backend, self.suite, new, Some(old))?;
        let same = (new.account, new.device) == (old.account, old.device);
        if same && (new == *old || new.sequence > old.sequence) {
            Ok(new)
        } else {
            Err(MlsError::Record)
        }
    }

    /// An external commit has to take the place of a leaf of the same device: a rejoin.
    fn rejoined(&self, commit: &StagedCommit) -> Result<(LeafNodeIndex, DeviceRecord), MlsError> {
        let leaf = commit.update_path_leaf_node();
        let mut removes = commit.remove_proposals();
        match (leaf, removes.next(), removes.next()) {
            (Some(leaf), Some(remove), None) => {
                let old = remove.remove_proposal().removed();
                Ok((old, self.successor(self.record(old)?, leaf)?))
            }
            _ => Err(invalid("external commit that replaces no leaf of its own")),
        }
    }

    /// What a commit shows to be revoked it removes.
    fn check_revoked(&self, verdict: &Verdict) -> Result<(), MlsError> {
        let removed = verdict.removed.iter().filter_map(|leaf| self.records.get(leaf));
        let removed: BTreeSet<_> = removed.map(DeviceRecord::sender).collect();
        let added =
            |device: &Sender| verdict.added.iter().any(|added| added.record.sender() == *device);
        if self.revoked.iter().any(|device| !removed.contains(device) || added(device)) {
            return Err(invalid("a revocation of a device that is not removed"));
        }
        Ok(())
    }

    /// One leaf per device and per device key; within the limits; each leaf removed once.
    fn check_result(&self, verdict: &Verdict) -> Result<(), MlsError> {
        let removed: BTreeSet<_> = verdict.removed.iter().copied().collect();
        if removed.len() != verdict.removed.len() {
            return Err(invalid("a leaf removed twice"));
        }
        if verdict.added.len() > limits::ADDS_PER_COMMIT {
            return Err(invalid("too many adds"));
        }
        let committer = verdict.committer.sender();
        let stay = self
            .records
            .iter()
            .filter(|(leaf, record)| !removed.contains(leaf) && record.sender() != committer)
            .map(|(_, record)| record);
        let after = stay.chain(verdict.added.iter().map(|added| &added.record));
        let (mut devices, mut keys) = (BTreeSet::new(), BTreeSet::new());
        let data = verdict.data.as_ref().unwrap_or(self.data);
        let mut led = data.open;
        for record in after.chain([&verdict.committer]) {
            led |= data.is_admin(record.account);
            if !devices.insert(record.sender()) || !keys.insert(record.device_key) {
                return Err(invalid("a device with two leaves"));
            }
        }
        if devices.len() > limits::MEMBERS {
            return Err(invalid("too many members"));
        }
        if !led {
            return Err(MlsError::NoAdmin);
        }
        Ok(())
    }
}

/// The leaf that a proposal takes away.
pub(super) fn removes(proposal: &QueuedProposal) -> Option<u32> {
    match (proposal.proposal(), proposal.sender()) {
        (Proposal::Remove(remove), _) => Some(remove.removed().u32()),
        (Proposal::SelfRemove, MlsSender::Member(leaf)) => Some(leaf.u32()),
        _ => None,
    }
}

/// The latest end of the key packages of those who are queued to be added and are not; `None` for a commit from
/// outside, which can include nobody.
pub(super) fn adds_left_out<'p>(
    queued: impl Iterator<Item = &'p QueuedProposal>,
    verdict: &Verdict,
) -> Option<UnixMillis> {
    if verdict.external {
        return None;
    }
    let left_out = |proposal: &QueuedProposal| {
        let Proposal::Add(add) = proposal.proposal() else { return None };
        let whom = record_in(add.key_package().leaf_node()).ok()?.sender();
        let added = verdict.added.iter().any(|added| added.record.sender() == whom);
        if added { None } else { expiry(add.key_package()).ok() }
    };
    queued.filter_map(left_out).max()
}
