//! What may wait for a commit. A commit has to include all that waits, so nothing is queued that no commit could
//! include: else one member could stop the group.

use openmls::ciphersuite::hash_ref::ProposalRef;
use openmls::prelude::{
    KeyPackage, ProcessedMessageContent, Proposal, QueuedProposal, Sender as MlsSender,
};

use super::{PublicState, member_of};
use crate::env::UnixMillis;
use crate::id::Sender;
use crate::limits;
use crate::mls::rules::{self, invalid};
use crate::mls::taken::{PackageKeys, Taken};
use crate::mls::{MlsError, key_package};
use crate::server::op::Member;
use crate::wire::message::EntryKind;

impl PublicState {
    /// Checks a proposal from `sender` and queues it: an Add, a Remove or a SelfRemove, by the leaf of that device,
    /// within its role, of a device that no queued proposal names yet; at most [`limits::PROPOSALS`] in an epoch. An
    /// Add by a key package that holds now, whose keys nobody has, as long as there is room in the group.
    ///
    /// Returns the device of an Add. Whether its account has that device is the caller's to check.
    ///
    /// Errors: [`MlsError::Expired`] for a key package past its end, or with one too far away; else as
    /// [`Self::commit`].
    pub fn propose(
        &mut self,
        sender: Sender,
        payload: &[u8],
        wall: UnixMillis,
    ) -> Result<Option<Member>, MlsError> {
        let message = self.message(sender, payload, EntryKind::Proposal)?;
        let processed = self
            .group
            .process_message(&self.crypto, message)
            .map_err(|error| MlsError::Invalid(error.to_string()))?;
        let ProcessedMessageContent::ProposalMessage(proposal) = processed.into_content() else {
            return Err(invalid("not a proposal of a member"));
        };
        self.before().judge_proposal(&proposal)?;
        let queued = self.queued()?;
        if queued.len() >= limits::PROPOSALS {
            return Err(invalid("too many proposals in this epoch"));
        }
        let whom = self.subject(&proposal)?;
        for other in &queued {
            if self.subject(other)? == whom {
                return Err(invalid("a proposal for this device is queued already"));
            }
        }
        self.before().keeps_an_admin(queued.iter().chain([&*proposal]))?;
        let adds = matches!(proposal.proposal(), Proposal::Add(_));
        if adds == self.records.values().any(|record| record.sender() == whom) {
            return Err(invalid("a proposal that changes nothing"));
        }
        let added = match proposal.proposal() {
            Proposal::Add(add) => Some(self.check_add(add.key_package(), &queued, wall)?),
            _ => None,
        };
        self.change(|state| {
            state
                .group
                .add_proposal(&state.overlay, *proposal)
                .map_err(|error| MlsError::Internal(error.to_string()))
        })?;
        Ok(added)
    }

    pub(super) fn queued(&self) -> Result<Vec<QueuedProposal>, MlsError> {
        let queued: Vec<(ProposalRef, QueuedProposal)> = self
            .group
            .queued_proposals(&self.overlay)
            .map_err(|error| MlsError::Damaged(error.to_string()))?;
        Ok(queued.into_iter().map(|(_, proposal)| proposal).collect())
    }

    /// Whom a proposal would add or remove.
    fn subject(&self, proposal: &QueuedProposal) -> Result<Sender, MlsError> {
        let leaf = match (proposal.proposal(), proposal.sender()) {
            (Proposal::Add(add), _) => {
                return Ok(rules::record_in(add.key_package().leaf_node())?.sender());
            }
            (Proposal::Remove(remove), _) => remove.removed(),
            (Proposal::SelfRemove, MlsSender::Member(leaf)) => *leaf,
            _ => return Err(invalid("a proposal of this kind is not made on its own")),
        };
        let record = self.records.get(&leaf.u32()).ok_or_else(|| invalid("no such leaf"))?;
        Ok(record.sender())
    }

    /// Whether a commit can include an Add beside all that is queued.
    fn check_add(
        &self,
        package: &KeyPackage,
        queued: &[QueuedProposal],
        wall: UnixMillis,
    ) -> Result<Member, MlsError> {
        let (record, _) = key_package::check_present(self.backend, self.suite, package, wall)?;
        let queued: Vec<_> = queued.iter().filter_map(key_package_of).collect();
        // Whoever is queued to go counts still: a full group is rare.
        if self.records.len() + queued.len() >= limits::MEMBERS {
            return Err(invalid("too many members"));
        }
        let mut taken = Taken::by(self.group.members());
        for other in queued {
            taken.take(&PackageKeys::of(other)?);
        }
        let keys = PackageKeys::of(package)?;
        if taken.has(&keys) {
            return Err(invalid("a key package with a key that is taken"));
        }
        Ok(member_of(&record))
    }
}

fn key_package_of(proposal: &QueuedProposal) -> Option<&KeyPackage> {
    match proposal.proposal() {
        Proposal::Add(add) => Some(add.key_package()),
        _ => None,
    }
}
