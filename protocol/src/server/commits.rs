//! Commits and proposals: what is asked of the store about them, before and after their check.

use bytes::Bytes;

use super::Server;
use super::connection::Call;
use super::job::ServerJob;
use super::line::{Work, WorkKind};
use super::submit::{Submitted, outside_holds, submission_hash};
use crate::env::UnixMillis;
use crate::error::ErrorCode;
use crate::id::{ChannelId, Digest, MessageId, Sender};
use crate::limits;
use crate::mls::public::{CheckedCommit, PublicState};
use crate::server::op::{Append, Commit, StoreOp};
use crate::wire::message::{CommitBundle, Entry, EntryKind, Part, Submit};

impl Server {
    pub(super) fn commit(&mut self, call: Call, sender: Sender, bundle: CommitBundle) {
        let CommitBundle { channel, generation, epoch, .. } = bundle;
        if !fits(&bundle.commit) || bundle.welcome.as_ref().is_some_and(|part| !fits(part)) {
            return self.fail(call, ErrorCode::PayloadTooLarge);
        }
        if bundle.group_info.len() > limits::PAYLOAD_BYTES {
            return self.fail(call, ErrorCode::PayloadTooLarge);
        }
        if let Part::Inline(commit) = &bundle.commit
            && !outside_holds(commit, false, EntryKind::Commit, channel, generation, epoch)
        {
            return self.fail_with(call, ErrorCode::BadRequest, "not the message it is said to be");
        }
        self.enqueue(channel, Work { call, sender, kind: WorkKind::Commit(bundle) });
    }

    /// Asks whether a commit was accepted before, whether its sender is a member, and for the epoch, without a
    /// chance of being appended: its epoch never comes.
    pub(super) fn commit_probe(&self, sender: Sender, bundle: &CommitBundle) -> Append {
        let CommitBundle { channel, generation, message, .. } = *bundle;
        let at = self.now.wall;
        Append {
            channel,
            generation,
            epoch: NEVER,
            past_epochs: 0,
            sender,
            message,
            hash: commit_hash(bundle),
            kind: EntryKind::Commit,
            payload: Part::Inline(Bytes::new()),
            group: Vec::new(),
            at,
            expires: at,
        }
    }

    /// The same for a proposal.
    pub(super) fn proposal_probe(&self, sender: Sender, submit: &Submit) -> Append {
        let (_, op) = self.append(sender, submit, EntryKind::Proposal);
        Append { epoch: NEVER, payload: Part::Inline(Bytes::new()), ..op }
    }

    pub(super) fn write_proposal(&mut self, channel: ChannelId) {
        let Some((state, work, _)) = self.checked_state(channel) else { return };
        let WorkKind::Propose(submit) = &work.kind else { return };
        let (sender, submit) = (work.sender, submit.clone());
        let group = state.take_ops();
        let (submitted, op) = self.append(sender, &submit, EntryKind::Proposal);
        let op = StoreOp::Append(Append { group, ..op });
        self.write_work(channel, submitted, Vec::new(), op);
    }

    pub(super) fn write_commit(&mut self, channel: ChannelId, checked: CheckedCommit) {
        let Some((state, work, fetched)) = self.checked_state(channel) else { return };
        let WorkKind::Commit(bundle) = &work.kind else { return };
        let (sender, bundle, commit) = (work.sender, bundle.clone(), logged(bundle, fetched));
        let group = state.take_ops();
        let at = self.now.wall;
        if checked.expires.is_some_and(|end| at >= end) {
            let detail = "a key package has expired";
            self.waive_adds(channel);
            return self.refuse_checked(channel, ErrorCode::KeyPackageInvalid, detail);
        }
        let insisted = |end: UnixMillis| end.minus(limits::ADD_INSISTED) > at;
        let insists = self.groups.slot(channel).is_some_and(|slot| {
            slot.insists(bundle.generation, bundle.epoch) && checked.left_out.is_some_and(insisted)
        });
        if insists {
            return self.refuse_checked(channel, ErrorCode::ProposalLeftOut, "");
        }
        let CommitBundle { generation, epoch, message, .. } = bundle;
        let entry = Entry {
            seq: 0,
            kind: EntryKind::Commit,
            generation,
            epoch,
            sender,
            message,
            time: at,
            origin: None,
            payload: commit.clone(),
        };
        let hash = commit_hash(&bundle);
        let submitted = Submitted { channel, payload: bundle.commit.hash(), entry };
        let CheckedCommit { adds, removes, welcomes, tree, .. } = checked;
        // Who is removed and added anew reads on.
        let stays = |sender: &Sender| adds.iter().any(|add| add.sender == *sender);
        let removed = removes.iter().filter(|sender| !stays(sender)).copied().collect();
        let op = StoreOp::Commit(Commit {
            channel,
            generation,
            epoch,
            sender,
            message,
            hash,
            commit,
            group_info: bundle.group_info,
            tree: tree.map(Bytes::from),
            group,
            adds,
            welcomes,
            removes,
            at,
            expires: at.plus(self.config.retention),
        });
        self.write_work(channel, submitted, removed, op);
    }
}

/// An epoch that no group reaches, and that any store can compare with.
const NEVER: u64 = i64::MAX as u64;

impl Work {
    /// The message id of a submission and the payload hash of its delivery proof.
    pub(super) fn named(&self) -> Option<(MessageId, Digest)> {
        match &self.kind {
            WorkKind::Commit(bundle) => Some((bundle.message, bundle.commit.hash())),
            WorkKind::Propose(submit) => Some((submit.message, Digest::of(&[&submit.payload]))),
            WorkKind::Reset(reset) => Some(reset.named()),
            WorkKind::GroupInfo(_) => None,
        }
    }
}

/// What of a bundle was read from blobs, in the order of [`CommitBundle::blobs`].
pub(super) type Fetched = Vec<Bytes>;

/// The job that checks a bundle, once all the blobs that it names are fetched.
pub(super) fn commit_job(
    state: Box<PublicState>,
    sender: Sender,
    bundle: &CommitBundle,
    fetched: &Fetched,
) -> ServerJob {
    let mut fetched = fetched.iter();
    let mut bytes = |part: &Part| match part {
        Part::Inline(bytes) => bytes.clone(),
        Part::Blob { .. } => fetched.next().cloned().unwrap_or_default(),
    };
    ServerJob::Commit {
        state,
        sender,
        commit: bytes(&bundle.commit),
        welcome: bundle.welcome.as_ref().map(bytes),
        group_info: bundle.group_info.clone(),
    }
}

/// The commit as it stands in the log: one that needs no blob stands there itself, so that no reader has to ask again.
fn logged(bundle: &CommitBundle, fetched: &Fetched) -> Part {
    match (&bundle.commit, fetched.first()) {
        (Part::Blob { .. }, Some(bytes)) if bytes.len() <= limits::INLINE_BYTES => {
            Part::Inline(bytes.clone())
        }
        (part, _) => part.clone(),
    }
}

fn fits(part: &Part) -> bool {
    let most = match part {
        Part::Inline(_) => limits::PAYLOAD_BYTES,
        Part::Blob { .. } => limits::COMMIT_BYTES,
    };
    part.len() <= most as u64
}

fn commit_hash(bundle: &CommitBundle) -> Digest {
    let CommitBundle { channel, generation, epoch, .. } = *bundle;
    // No welcome and a welcome are told apart: the hash of nothing is not zeros.
    let welcome = bundle.welcome.as_ref().map_or(Digest([0; 32]), Part::hash);
    let parts = [bundle.commit.hash(), welcome, Digest::of(&[&bundle.group_info])];
    submission_hash(channel, generation, epoch, EntryKind::Commit, &parts)
}
