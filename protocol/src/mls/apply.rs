//! Taking in what others sent: content, proposals, commits.

use core::fmt;

use openmls::group::{ProcessMessageError, StageCommitError, ValidationError};
use openmls::prelude::{
    BasicCredential, Credential, MlsMessageBodyIn, OpenMlsProvider as _, ProcessedMessageContent,
    Proposal, ProtocolMessage, QueuedProposal, Sender as MlsSender, StagedCommit,
};
use openmls::treesync::errors::ApplyUpdatePathError;
use zeroize::Zeroizing;

use super::group::{Change, Group, Received};
use super::path::Path;
use super::provider::Provider;
use super::public::{Peeked, PublicState};
use super::rules::{Verdict, invalid};
use super::verified::Verified;
use super::{Context, MlsError, parse};
use crate::crypto::identity::DeviceRecord;
use crate::env::UnixMillis;
use crate::limits;
use crate::wire::message::EntryKind;

impl Group {
    /// Processes another member's message: content is decrypted, proposals are queued, commits are merged (a
    /// pending commit of ours is dropped then). Own messages are an error.
    ///
    /// Errors: [`MlsError::WrongGroup`]; [`MlsError::NotMember`]; [`MlsError::FutureEpoch`] and
    /// [`MlsError::PastEpoch`] (content older than [`limits::PAST_EPOCHS`] epochs or than our joining, a proposal or
    /// commit of any epoch but the present one); [`MlsError::Decrypt`]; [`MlsError::Pending`] for the own pending
    /// commit, which is to be merged instead; [`MlsError::Record`] and [`MlsError::Expired`] for changes that rest on
    /// such leaves; [`MlsError::NoAdmin`]; else [`MlsError::Invalid`].
    pub fn receive(&mut self, cx: Context<'_>, payload: &[u8]) -> Result<Received, MlsError> {
        let peeked = PublicState::peek(payload)?;
        self.check_outside(&peeked)?;
        let message: ProtocolMessage = match parse(payload)? {
            MlsMessageBodyIn::PublicMessage(message) => message.into(),
            MlsMessageBodyIn::PrivateMessage(message) => message.into(),
            _ => return Err(invalid("not a message to a group")),
        };
        self.step(|group| group.receive_in_step(cx, message, payload))
    }

    /// What the outside tells before anything is decrypted. Handshakes are PublicMessages, so that the server, which
    /// judges them too, sees the same as the members.
    fn check_outside(&self, peeked: &Peeked) -> Result<(), MlsError> {
        let content = peeked.kind == EntryKind::Application;
        if peeked.group != self.id() {
            return Err(MlsError::WrongGroup);
        }
        if !self.mls.is_active() {
            return Err(MlsError::NotMember);
        }
        if peeked.private != content {
            return Err(invalid("a handshake message has to be a PublicMessage"));
        }
        let epoch = self.epoch();
        let oldest = epoch.saturating_sub(limits::PAST_EPOCHS).max(self.reads_from);
        if peeked.epoch > epoch {
            Err(MlsError::FutureEpoch)
        } else if peeked.epoch < if content { oldest } else { epoch } {
            Err(MlsError::PastEpoch)
        } else {
            Ok(())
        }
    }

    fn receive_in_step(
        &mut self,
        cx: Context<'_>,
        message: ProtocolMessage,
        payload: &[u8],
    ) -> Result<Received, MlsError> {
        let provider = Provider::new(cx.backend, cx.entropy, &self.overlay);
        if matches!(message, ProtocolMessage::PublicMessage(_)) {
            provider.crypto().know(Verified::of_commit(cx.backend, payload));
            provider.crypto().remember_tree(self.records.len());
        }
        // Signed by a member and tagged under this epoch's keys; or from outside, and signed by whoever made it.
        let member = matches!(&message, ProtocolMessage::PublicMessage(public)
            if matches!(public.sender(), MlsSender::Member(_)));
        let processed = self.mls.process_message(&provider, message).map_err(|e| match e {
            ProcessMessageError::InvalidCommit(why)
                if is_unopened(&why)
                    && (member || (is_signed(&why) && self.made_here(payload))) =>
            {
                self.unopened(payload, &why)
            }
            error => process_error(error),
        })?;
        let (by, epoch) = (processed.sender().clone(), processed.epoch().as_u64());
        // Who it was then: the leaf may have been given another record, or another device, since (openmls #1944).
        let credential = processed.credential().clone();
        let evidence = processed.aad().to_vec();
        match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(message) => Ok(Received::Application {
                sender: record_of(&credential)?,
                epoch,
                content: Zeroizing::new(message.into_bytes()),
            }),
            ProcessedMessageContent::ProposalMessage(proposal) => self.queue(*proposal),
            ProcessedMessageContent::StagedCommitMessage(staged) => {
                self.merge(cx, &by, *staged, &evidence, payload).map(Received::Commit)
            }
            ProcessedMessageContent::OwnPendingCommit => {
                Err(MlsError::Pending("the own commit, to be merged"))
            }
            // Of the leaf that this device has replaced since: that it has forgotten something is known.
            ProcessedMessageContent::OwnPrivateMessage if epoch < self.meta.first_epoch => {
                Err(MlsError::PastEpoch)
            }
            ProcessedMessageContent::OwnPrivateMessage => Err(MlsError::OwnMessage),
            ProcessedMessageContent::ExternalJoinProposalMessage(_) => {
                Err(invalid("a proposal from outside"))
            }
        }
    }

    /// Whether a device of the group made a commit's path.
    fn made_here(&self, payload: &[u8]) -> bool {
        let maker = Path::read(payload).ok().flatten().and_then(|path| path.maker(self.backend));
        maker.is_some_and(|maker| {
            let of_maker = |known: &&DeviceRecord| known.sender() == maker.sender();
            let known = self.records.values().find(of_maker);
            known.is_some_and(|known| *known == maker || known.sequence < maker.sequence)
        })
    }

    /// A commit that failed by its secrets. An honest server lets no key through that nobody can encrypt to: then it is
    /// refused for that.
    fn unopened(&self, payload: &[u8], why: &StageCommitError) -> MlsError {
        let path = Path::read(payload).and_then(|path| match path {
            Some(path) => path.check_keys(self.suite()),
            None => Ok(()),
        });
        path.map_or_else(|refused| refused, |()| MlsError::Unopened(why.to_string()))
    }

    fn queue(&mut self, proposal: QueuedProposal) -> Result<Received, MlsError> {
        self.before().judge_proposal(&proposal)?;
        self.before().keeps_an_admin(self.mls.pending_proposals().chain([&proposal]))?;
        let reference = proposal.proposal_reference_ref();
        if self.mls.pending_proposals().count() >= limits::PROPOSALS {
            return Err(invalid("too many proposals in this epoch"));
        }
        if self.mls.pending_proposals().any(|queued| queued.proposal_reference_ref() == reference) {
            return Err(invalid("a proposal that is queued already"));
        }
        let MlsSender::Member(leaf) = proposal.sender() else {
            return Err(invalid("a proposal from outside"));
        };
        let sender = self.records.get(&leaf.u32()).ok_or(MlsError::Record)?.sender();
        let leaves = matches!(proposal.proposal(), Proposal::SelfRemove);
        self.mls
            .store_pending_proposal(&self.overlay, proposal)
            .map_err(|error| MlsError::Internal(error.to_string()))?;
        Ok(Received::Proposal { sender, leaves })
    }

    fn merge(
        &mut self,
        cx: Context<'_>,
        by: &MlsSender,
        staged: StagedCommit,
        evidence: &[u8],
        payload: &[u8],
    ) -> Result<Change, MlsError> {
        let verdict = self.before().given(evidence)?.judge(by, &staged)?;
        // What this device commits it remembers, and merges: this was made by a later or another state of it.
        if verdict.committer.sender() == self.own_record()?.sender() {
            return Err(MlsError::OwnMessage);
        }
        self.before().check_queued(self.mls.pending_proposals(), &verdict)?;
        if let Some(path) = Path::read(payload)? {
            path.check_keys(self.suite())?;
        }
        check_ends(&verdict, cx.wall)?;
        let change = self.change(&verdict, &staged);
        let provider = Provider::new(cx.backend, cx.entropy, &self.overlay);
        self.mls
            .merge_staged_commit(&provider, staged)
            .map_err(|error| MlsError::Internal(error.to_string()))?;
        self.refresh()?;
        Ok(change)
    }

    /// What a commit that was judged is about to change.
    pub(super) fn change(&self, verdict: &Verdict, staged: &StagedCommit) -> Change {
        let of = |leaves: &[u32]| {
            let records = leaves.iter().filter_map(|leaf| self.records.get(leaf));
            records.map(DeviceRecord::sender).collect()
        };
        Change {
            epoch: staged.epoch().as_u64(),
            committer: verdict.committer.sender(),
            added: verdict.added.iter().map(|added| added.record.clone()).collect(),
            removed: of(&verdict.removed),
            left: of(&verdict.left),
            updated: verdict.updated.clone(),
            data: verdict.data.clone(),
            rekeyed: staged.update_path_leaf_node().is_some(),
            rejoined: verdict.external,
            evicted: staged.self_removed(),
        }
    }
}

/// A key package's end is the inviter's and the server's to enforce to the moment. A member may read the commit as late
/// as entries live; older still, somebody let an expired one through.
fn check_ends(verdict: &Verdict, wall: UnixMillis) -> Result<(), MlsError> {
    let oldest = wall.minus(limits::ENTRY_TIME).minus(limits::CLOCK_SKEW);
    if verdict.added.iter().any(|added| added.expires < oldest) {
        return Err(MlsError::Expired);
    }
    Ok(())
}

fn record_of(credential: &Credential) -> Result<DeviceRecord, MlsError> {
    let basic = BasicCredential::try_from(credential.clone()).map_err(|_| MlsError::Record)?;
    DeviceRecord::decode(basic.identity()).ok_or(MlsError::Record)
}

/// Whether a commit failed where only its secrets can be the reason, or what this device has to open them with.
fn is_unopened(error: &StageCommitError) -> bool {
    matches!(
        error,
        StageCommitError::ConfirmationTagMismatch
            | StageCommitError::UpdatePathError(
                ApplyUpdatePathError::UnableToDecrypt
                    | ApplyUpdatePathError::PathMismatch
                    // What OpenMLS says if a key of this device is not stored: the sender's leaf was found before.
                    | ApplyUpdatePathError::MissingSender
            )
            | StageCommitError::MissingDecryptionKey
            | StageCommitError::OwnKeyNotFound
    )
}

/// Whether what an unopened commit failed by is signed by who made it, as its path is; the tag is not (RFC 9420 §6.1).
fn is_signed(error: &StageCommitError) -> bool {
    !matches!(error, StageCommitError::ConfirmationTagMismatch)
}

fn process_error<E: fmt::Display>(error: ProcessMessageError<E>) -> MlsError {
    match error {
        ProcessMessageError::ValidationError(error) => match error {
            ValidationError::UnableToDecrypt(_) => MlsError::Decrypt,
            ValidationError::NoPastEpochData => MlsError::PastEpoch,
            ValidationError::WrongGroupId => MlsError::WrongGroup,
            error => MlsError::Invalid(error.to_string()),
        },
        ProcessMessageError::InvalidCommit(StageCommitError::OwnCommitMismatch) => {
            MlsError::OwnMessage
        }
        ProcessMessageError::StorageError(error) => MlsError::Damaged(error.to_string()),
        error => MlsError::Invalid(error.to_string()),
    }
}
