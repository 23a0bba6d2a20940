//! Making commits: staged, pending until the server has accepted them, then merged or dropped.

use core::fmt;
use std::collections::BTreeSet;

use openmls::ciphersuite::hash_ref::ProposalRef;
use openmls::prelude::{
    KeyPackage, LeafNodeIndex, NewSignerBundle, OpenMlsProvider as _, Proposal, ProposalOrRefType,
    QueuedProposal, Sender as MlsSender,
};

use super::data::GroupData;
use super::group::{Bundle, Change, EVIDENCE, Group, LocalDevice, Plan};
use super::rules::{self, Before, Verdict, invalid};
use super::taken::Taken;
use super::{Context, Crypto, MlsError, Provider, encode, key_package, parallel, signer};
use crate::crypto::identity::Revocation;
use crate::env::UnixMillis;
use crate::id::Sender;
use crate::limits;

impl Group {
    /// A PrivateMessage for the present epoch.
    ///
    /// Errors: [`MlsError::NotMember`]; [`MlsError::Record`] if `device` is not the one in the own leaf;
    /// [`MlsError::Pending`] while proposals wait for a commit, which has to be made first (RFC 9420 §12.4: else a
    /// device that wants to be gone, or is to be, would still be written to).
    pub fn encrypt(
        &mut self,
        cx: Context<'_>,
        device: &LocalDevice,
        content: &[u8],
    ) -> Result<Vec<u8>, MlsError> {
        self.check_device(device)?;
        if self.has_proposals() {
            return Err(MlsError::Pending("proposals wait for a commit"));
        }
        self.step(|group| {
            let provider = Provider::new(cx.backend, cx.entropy, &group.overlay);
            let message = group
                .mls
                .create_message(&provider, &device.signer(cx.backend), content)
                .map_err(internal)?;
            encode(&message)
        })
    }

    /// Makes a commit; it stays pending. Proposals queued in the group are included, but for those that have become
    /// pointless: what the plan does already, what is expired, and the own wish to leave, which only another member can
    /// commit. Who removes the last admin because it was revoked names another in the same commit. A plan of nothing
    /// replaces the keys of the own leaf.
    ///
    /// Errors: [`MlsError::NotMember`]; [`MlsError::Pending`] if there is a pending commit; [`MlsError::Record`],
    /// [`MlsError::Expired`], [`MlsError::Suite`] for a key package or device that does not hold;
    /// [`MlsError::Invalid`] for what others would refuse.
    pub fn commit(
        &mut self,
        cx: Context<'_>,
        device: &LocalDevice,
        plan: &Plan,
    ) -> Result<Bundle, MlsError> {
        self.check_device(device)?;
        if self.has_pending() {
            return Err(MlsError::Pending("there is a pending commit"));
        }
        self.step(|group| group.commit_in_step(cx, device, plan))
    }

    fn commit_in_step(
        &mut self,
        cx: Context<'_>,
        device: &LocalDevice,
        plan: &Plan,
    ) -> Result<Bundle, MlsError> {
        let queued = self.select_queued(cx.wall, plan.leave_adds_out)?;
        let crypto = Crypto::verifier(cx.backend);
        let mut adds = Vec::new();
        for package in parallel::each(&plan.adds, |add| key_package::validate(&crypto, add)) {
            let package = package?;
            if !queued.adds.contains(&rules::record_in(package.leaf_node())?.sender()) {
                adds.push(package);
            }
        }
        let is_member = |revocation: &&Revocation| {
            self.records.values().any(|record| record.sender() == revocation.sender())
        };
        let revoked: Vec<_> = plan.revoked.iter().filter(is_member).cloned().collect();
        let gone = plan.removes.iter().copied();
        let gone: Vec<_> = gone.chain(revoked.iter().map(Revocation::sender)).collect();
        let mut removes = self.leaves_of(&gone)?;
        removes.retain(|leaf| !queued.removes.contains(leaf));
        let nothing = adds.is_empty()
            && removes.is_empty()
            && plan.data.is_none()
            && queued.references.is_empty();
        let evidence = rules::evidence(&revoked);
        let heir = self.heir(&evidence, &adds, &removes, &queued)?;
        match evidence.is_empty() {
            true => self.overlay.delete_raw(EVIDENCE),
            false => self.overlay.put_raw(EVIDENCE, evidence.clone()),
        }
        self.mls.set_aad(evidence);
        let provider = Provider::new(cx.backend, cx.entropy, &self.overlay);
        provider.crypto().remember_tree(self.records.len() + adds.len());
        let joining: Vec<_> = adds.iter().map(|add| add.hpke_init_key().as_slice()).collect();
        provider.crypto().encapsulate_ahead(self.suite().kem(), &joining);
        let mut builder = self
            .mls
            .commit_builder()
            .force_self_update(
                nothing || plan.update || plan.rotate.is_some() || self.meta.stale_leaf,
            )
            .propose_adds(adds)
            .propose_removals(removes.into_iter().map(LeafNodeIndex::new));
        if let Some(data) = plan.data.as_ref().or(heir.as_ref()) {
            builder = builder
                .propose_group_context_extensions(rules::context_extensions(data)?)
                .map_err(refused)?;
        }
        let builder = builder.load_psks(&self.overlay).map_err(refused)?.create_group_info(true);
        let (rand, signer) = (provider.rand(), device.signer(cx.backend));
        let select = |proposal: &QueuedProposal| queued.includes(proposal);
        let built = match &plan.rotate {
            None => builder.build(rand, provider.crypto(), &signer, select),
            Some(next) => {
                next.check(cx.backend)?;
                let next_signer = next.signer(cx.backend);
                let bundle = NewSignerBundle {
                    signer: &next_signer,
                    credential_with_key: signer::credential(&next.record),
                };
                builder.build_with_new_signer(rand, provider.crypto(), &signer, bundle, select)
            }
        };
        let messages = built.map_err(refused)?.stage_commit(&provider).map_err(refused)?;
        let (commit, welcome, group_info) = messages.into_messages();
        let group_info = group_info.ok_or_else(|| MlsError::Internal("no GroupInfo".to_owned()))?;
        self.judged = Some(self.judge_own(cx.wall)?);
        Ok(Bundle {
            commit: encode(&commit)?,
            welcome: welcome.as_ref().map(encode).transpose()?,
            group_info: encode(&group_info)?,
        })
    }

    /// The pending commit was accepted: merges it.
    ///
    /// Errors: [`MlsError::Pending`] if there is none; [`MlsError::Internal`].
    pub fn merge_pending(&mut self, cx: Context<'_>) -> Result<Change, MlsError> {
        let no_commit = MlsError::Pending("there is no pending commit");
        self.step(|group| {
            let staged = group.mls.pending_commit().ok_or(no_commit)?;
            // The commit and what it is judged by are what they were when it was made, if it was made since the last
            // restart.
            let verdict = match group.judged.take() {
                Some(verdict) => verdict,
                None => group.before_pending()?.judge(&group.own_sender(), staged)?,
            };
            if staged.update_path_leaf_node().is_some() && group.meta.stale_leaf {
                group.meta.stale_leaf = false;
                group.save_meta();
            }
            let change = group.change(&verdict, staged);
            let provider = Provider::new(cx.backend, cx.entropy, &group.overlay);
            group.mls.merge_pending_commit(&provider).map_err(internal)?;
            group.refresh()?;
            Ok(change)
        })
    }

    /// Another commit won: drops the pending one. Nothing happens if there is none.
    pub fn discard_pending(&mut self) -> Result<(), MlsError> {
        self.judged = None;
        self.step(|group| group.mls.clear_pending_commit(&group.overlay).map_err(internal))
    }

    /// A proposal as a PublicMessage, for whoever commits next. It waits in the own queue as in all others' once the
    /// log has shown it: then it is to be received as any other.
    ///
    /// Errors: [`MlsError::NotMember`]; [`MlsError::Record`]; [`MlsError::Pending`] if there is a pending commit;
    /// [`MlsError::NoAdmin`]; else as [`Self::commit`].
    pub fn propose(
        &mut self,
        cx: Context<'_>,
        device: &LocalDevice,
        wish: Wish<'_>,
    ) -> Result<Vec<u8>, MlsError> {
        self.check_device(device)?;
        if self.has_pending() {
            return Err(MlsError::Pending("there is a pending commit"));
        }
        let package = match wish {
            Wish::Add(package) => {
                Some(key_package::validate(&Crypto::verifier(cx.backend), package)?)
            }
            _ => None,
        };
        let whom = match (&package, wish) {
            (Some(package), _) => rules::record_in(package.leaf_node())?.sender(),
            (None, Wish::Remove(other)) => other,
            (None, _) => device.record.sender(),
        };
        if self.proposed().contains(&whom) {
            return Err(MlsError::Pending("a proposal for this device is queued already"));
        }
        let leaf = match wish {
            Wish::Remove(other) => self.leaves_of(&[other])?.first().copied(),
            _ => None,
        };
        self.step(|group| {
            let before = group.queued_references();
            let provider = Provider::new(cx.backend, cx.entropy, &group.overlay);
            let signer = device.signer(cx.backend);
            let mls = &mut group.mls;
            let message = match (&package, leaf.map(LeafNodeIndex::new)) {
                (Some(package), _) => {
                    mls.propose_add_member(&provider, &signer, package).map_err(refused)?.0
                }
                (None, Some(leaf)) => {
                    mls.propose_remove_member(&provider, &signer, leaf).map_err(refused)?.0
                }
                (None, None) => {
                    mls.leave_group_via_self_remove(&provider, &signer).map_err(refused)?
                }
            };
            group.before().keeps_an_admin(group.mls.pending_proposals())?;
            for proposal in group.mls.pending_proposals() {
                group.before().judge_proposal(proposal)?;
            }
            for reference in group.queued_references().difference(&before) {
                group.mls.remove_pending_proposal(&group.overlay, reference).map_err(internal)?;
            }
            encode(&message)
        })
    }

    /// The devices that queued proposals would add or remove.
    pub fn proposed(&self) -> BTreeSet<Sender> {
        let whom = |proposal: &QueuedProposal| match proposal.proposal() {
            Proposal::Add(add) => {
                rules::record_in(add.key_package().leaf_node()).ok().map(|record| record.sender())
            }
            _ => rules::removes(proposal).and_then(|leaf| Some(self.records.get(&leaf)?.sender())),
        };
        self.mls.pending_proposals().filter_map(whom).collect()
    }

    /// The keys of the members.
    pub fn taken(&self) -> Taken {
        Taken::by(self.mls.members())
    }

    fn queued_references(&self) -> BTreeSet<ProposalRef> {
        let queued = self.mls.pending_proposals();
        queued.map(|proposal| proposal.proposal_reference_ref().clone()).collect()
    }

    /// Whether this device is a member still, and `device` what its leaf says.
    fn check_device(&self, device: &LocalDevice) -> Result<(), MlsError> {
        if !self.mls.is_active() {
            return Err(MlsError::NotMember);
        }
        if self.own_record()?.device_key == device.key.public() {
            Ok(())
        } else {
            Err(MlsError::Record)
        }
    }

    /// The present epoch, with what the pending commit brings along.
    fn before_pending(&self) -> Result<Before<'_>, MlsError> {
        self.before().given(&self.overlay.get_raw(EVIDENCE).unwrap_or_default())
    }

    fn own_sender(&self) -> MlsSender {
        MlsSender::Member(self.mls.own_leaf_index())
    }

    /// Leaves of devices to remove, in order: OpenMLS keeps it where it can.
    fn leaves_of(&self, devices: &[Sender]) -> Result<Vec<u32>, MlsError> {
        let leaf_of = |device: &Sender| {
            let mut leaves = self.records.iter();
            let leaf = leaves.find(|(_, record)| record.sender() == *device);
            leaf.map(|(leaf, _)| *leaf).ok_or_else(|| invalid("to remove: not a member"))
        };
        let leaves = devices.iter().map(leaf_of).collect::<Result<BTreeSet<_>, _>>()?;
        if leaves.contains(&self.own_leaf()) {
            return Err(invalid("a device cannot commit its own removal"));
        }
        Ok(leaves.into_iter().collect())
    }

    /// The group's data if a revocation takes its last admin away.
    fn heir(
        &self,
        evidence: &[u8],
        adds: &[KeyPackage],
        removes: &[u32],
        queued: &Queued,
    ) -> Result<Option<GroupData>, MlsError> {
        let of = |package: &KeyPackage| Ok(rules::record_in(package.leaf_node())?.account);
        let adds = adds.iter().map(of).collect::<Result<Vec<_>, MlsError>>()?;
        let added = queued.adds.iter().map(|device| device.account).chain(adds);
        let removed = queued.removes.iter().chain(removes).copied().collect();
        Ok(self.before().given(evidence)?.succession(&removed, added))
    }

    fn select_queued(&self, wall: UnixMillis, no_adds: bool) -> Result<Queued, MlsError> {
        let mut selected = Queued::default();
        for proposal in self.mls.pending_proposals() {
            let include = match (proposal.proposal(), proposal.sender()) {
                (Proposal::Add(_), _) if no_adds => false,
                (Proposal::Add(add), _) => {
                    let package = add.key_package();
                    rules::expiry(package)? > wall.plus(limits::CLOCK_SKEW)
                        && selected.adds.insert(rules::record_in(package.leaf_node())?.sender())
                }
                (Proposal::Remove(remove), _) if remove.removed().u32() == self.own_leaf() => {
                    return Err(MlsError::Pending("this device is to be removed by others"));
                }
                (Proposal::Remove(remove), _) => selected.removes.insert(remove.removed().u32()),
                (Proposal::SelfRemove, MlsSender::Member(leaf)) => {
                    leaf.u32() != self.own_leaf() && selected.removes.insert(leaf.u32())
                }
                _ => false,
            };
            if include {
                selected.references.insert(proposal.proposal_reference_ref().clone());
            }
        }
        Ok(selected)
    }

    /// Judges the pending commit as the others will, so that what they would refuse is never sent.
    fn judge_own(&self, wall: UnixMillis) -> Result<Verdict, MlsError> {
        let staged = self.mls.pending_commit();
        let staged = staged.ok_or_else(|| MlsError::Internal("no pending commit".to_owned()))?;
        let verdict = self.before_pending()?.judge(&self.own_sender(), staged)?;
        if verdict.added.iter().any(|added| added.expires <= wall) {
            return Err(MlsError::Expired);
        }
        Ok(verdict)
    }
}

/// What is proposed.
#[derive(Clone, Copy, Debug)]
pub enum Wish<'a> {
    /// To add the device of this key package (an MLSMessage).
    Add(&'a [u8]),
    /// To remove a device.
    Remove(Sender),
    /// To be removed oneself.
    Leave,
}

/// Which queued proposals a commit includes, and what they do already.
#[derive(Default)]
struct Queued {
    references: BTreeSet<ProposalRef>,
    adds: BTreeSet<Sender>,
    removes: BTreeSet<u32>,
}

impl Queued {
    fn includes(&self, proposal: &QueuedProposal) -> bool {
        match proposal.proposal_or_ref_type() {
            ProposalOrRefType::Proposal => true,
            ProposalOrRefType::Reference => {
                self.references.contains(proposal.proposal_reference_ref())
            }
        }
    }
}

/// OpenMLS found the plan to break a rule of MLS.
fn refused(error: impl fmt::Display) -> MlsError {
    MlsError::Invalid(error.to_string())
}

fn internal(error: impl fmt::Display) -> MlsError {
    MlsError::Internal(error.to_string())
}
