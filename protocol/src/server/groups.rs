//! What the server follows of each group: its public state, kept for those in use, and a line of the work that
//! depends on it. One piece of work of a group is under way at a time, so that each check sees what the one
//! before it led to.
//!
//! A piece of work begins with a probe of the store: was it accepted before, is its sender a member, what is
//! the epoch? Only then is anything expensive done. The store decides again when the result is written, so a
//! probe that grew old can mislead nobody but itself.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::Server;
use super::channels::Resetting;
use super::commits::{Loaded, commit_job};
use super::connection::Call;
use super::job::ServerJob;
use super::stored::{Step, Task};
use super::turns::Turns;
use crate::error::{ErrorCode, StoreFault};
use crate::id::{ChannelId, Sender};
use crate::limits;
use crate::mls::MlsError;
use crate::mls::public::{CheckedCommit, PublicState};
use crate::server::audit::AuditKind;
use crate::server::op::{StoreOp, StoreReply};
use crate::wire::message::{CommitBundle, Reply, Submit};

/// The groups in use.
#[derive(Debug, Default)]
pub(super) struct Groups {
    slots: BTreeMap<ChannelId, Slot>,
    /// Slots without work, the longest unused first.
    idle: BTreeMap<u64, ChannelId>,
    used: u64,
    /// Room taken for blobs in all slots.
    room: usize,
}

#[derive(Debug)]
pub(super) struct Slot {
    /// Absent while not loaded, or while a job has it.
    state: Option<Box<PublicState>>,
    generation: u32,
    pub(super) stage: Stage,
    pub(super) queue: VecDeque<Work>,
    turns: Turns,
    /// Of the commit at the head: what was read of the blobs that it names, and the room that is taken for them.
    loaded: Loaded,
    room: usize,
    /// The key in `Groups::idle`.
    idle: Option<u64>,
}

/// What the work at the head of a line waits for.
#[derive(Debug, Default)]
pub(super) enum Stage {
    #[default]
    Rest,
    Probe,
    Load,
    /// The blobs that a commit names are on their way.
    Blobs,
    /// Reading the state, checking with it, or encoding it, in a job.
    Job,
    Write(Box<super::submit::Submitted>, Vec<Sender>),
    /// This many chunks of the tree are still to be stored.
    Tree(usize),
}

/// A piece of work on a group.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) call: Call,
    pub(super) sender: Sender,
    pub(super) kind: WorkKind,
}

#[derive(Debug)]
pub(super) enum WorkKind {
    Commit(CommitBundle),
    Propose(Submit),
    /// The next generation of the channel.
    Reset(Box<Resetting>),
    /// A member wants the GroupInfo and the tree that goes with it; the answer grows as it is found.
    GroupInfo(Option<Box<Reply>>),
}

/// What a check came to.
pub(super) enum Check {
    Propose(Result<(), MlsError>),
    Commit(Result<CheckedCommit, MlsError>),
    Tree(Result<Vec<u8>, MlsError>),
}

impl Work {
    fn generation(&self) -> u32 {
        match &self.kind {
            WorkKind::Commit(bundle) => bundle.generation,
            WorkKind::Propose(submit) => submit.generation,
            WorkKind::GroupInfo(Some(reply)) => match &**reply {
                Reply::GroupInfo { generation, .. } => *generation,
                _ => 0,
            },
            WorkKind::GroupInfo(None) | WorkKind::Reset(_) => 0,
        }
    }

    fn epoch(&self) -> u64 {
        match &self.kind {
            WorkKind::Commit(bundle) => bundle.epoch,
            WorkKind::Propose(submit) => submit.epoch,
            WorkKind::GroupInfo(Some(reply)) => match &**reply {
                Reply::GroupInfo { epoch, .. } => *epoch,
                _ => 0,
            },
            WorkKind::GroupInfo(None) | WorkKind::Reset(_) => 0,
        }
    }

    fn audit_kind(&self) -> Option<AuditKind> {
        match self.kind {
            WorkKind::Commit(_) => Some(AuditKind::Commit),
            WorkKind::Propose(_) => Some(AuditKind::Submit),
            WorkKind::Reset(_) => Some(AuditKind::ChannelCreate),
            WorkKind::GroupInfo(_) => None,
        }
    }

    /// The refusal of work from another epoch than the group's.
    fn epoch_code(&self, present: u64) -> ErrorCode {
        match self.kind {
            _ if self.epoch() > present => ErrorCode::FutureEpoch,
            WorkKind::Commit(_) => ErrorCode::EpochConflict,
            WorkKind::Propose(_) => ErrorCode::StaleEpoch,
            WorkKind::Reset(_) | WorkKind::GroupInfo(_) => ErrorCode::Unavailable,
        }
    }
}

impl Groups {
    fn rest(&mut self, channel: ChannelId) {
        let Some(slot) = self.slots.get_mut(&channel) else { return };
        if slot.state.is_none() {
            self.slots.remove(&channel);
            return;
        }
        self.used += 1;
        slot.idle = Some(self.used);
        self.idle.insert(self.used, channel);
        while self.idle.len() > limits::PUBLIC_GROUPS {
            let Some((_, oldest)) = self.idle.pop_first() else { return };
            self.slots.remove(&oldest);
        }
    }

    pub(super) fn slot(&mut self, channel: ChannelId) -> Option<&mut Slot> {
        self.slots.get_mut(&channel)
    }

    /// The state as it is once what was checked is written.
    pub(super) fn take_over(
        &mut self,
        channel: ChannelId,
        generation: u32,
        state: Box<PublicState>,
    ) {
        if let Some(slot) = self.slots.get_mut(&channel) {
            slot.state = Some(state);
            slot.generation = generation;
        }
    }

    /// The work at the head of a line.
    pub(super) fn head(&self, channel: ChannelId) -> Option<&Work> {
        self.slots.get(&channel)?.queue.front()
    }

    fn wake(&mut self, channel: ChannelId) -> &mut Slot {
        let slot = self.slots.entry(channel).or_insert_with(|| Slot {
            state: None,
            generation: 0,
            stage: Stage::Rest,
            queue: VecDeque::new(),
            turns: Turns::default(),
            loaded: Loaded::new(),
            room: 0,
            idle: None,
        });
        if let Some(key) = slot.idle.take() {
            self.idle.remove(&key);
        }
        slot
    }

    /// A new group's state, so that its first commit finds it.
    pub(super) fn founded(&mut self, channel: ChannelId, generation: u32, state: Box<PublicState>) {
        let slot = self.wake(channel);
        if slot.queue.is_empty() {
            slot.state = Some(state);
            slot.generation = generation;
            self.rest(channel);
        }
    }

    /// How many public states are held at rest.
    #[cfg(test)]
    pub(super) fn resting(&self) -> usize {
        self.idle.len()
    }
}

impl Server {
    /// Puts work in the line of its group.
    pub(super) fn enqueue(&mut self, channel: ChannelId, work: Work) {
        let slot = self.groups.wake(channel);
        if slot.queue.len() >= limits::GROUP_QUEUE {
            self.audit(
                AuditKind::Limit,
                Some(work.call.conn),
                Some(channel),
                Some(ErrorCode::Busy),
            );
            return self.fail(work.call, ErrorCode::Busy);
        }
        slot.queue.push_back(work);
        if slot.queue.len() == 1 {
            self.begin_work(channel);
        }
    }

    fn begin_work(&mut self, channel: ChannelId) {
        let Some(work) = self.head(channel) else { return };
        let op = match &work.kind {
            WorkKind::Commit(bundle) => StoreOp::Append(self.commit_probe(work.sender, bundle)),
            WorkKind::Propose(submit) => StoreOp::Append(self.proposal_probe(work.sender, submit)),
            WorkKind::Reset(reset) => self.reset_probe(reset),
            WorkKind::GroupInfo(_) => StoreOp::LoadGroupInfo { channel, reader: work.sender },
        };
        self.stage(channel, Stage::Probe);
        self.store(Step::Group(channel), op);
    }

    fn head(&self, channel: ChannelId) -> Option<&Work> {
        self.groups.head(channel)
    }

    pub(super) fn stage(&mut self, channel: ChannelId, stage: Stage) {
        if let Some(slot) = self.groups.slots.get_mut(&channel) {
            slot.stage = stage;
        }
    }

    /// Ends the work at the head of a line, and begins the next.
    pub(super) fn end_work(&mut self, channel: ChannelId) {
        let Some(slot) = self.groups.slots.get_mut(&channel) else { return };
        slot.stage = Stage::Rest;
        slot.queue.pop_front();
        slot.loaded.clear();
        self.groups.room -= core::mem::take(&mut slot.room);
        if slot.queue.is_empty() {
            self.groups.rest(channel);
        } else {
            self.begin_work(channel);
        }
    }

    /// Refuses the work at the head of a line.
    pub(super) fn refuse_work(
        &mut self,
        channel: ChannelId,
        code: ErrorCode,
        epoch: u64,
        detail: &str,
    ) {
        if let Some(work) = self.head(channel) {
            let call = work.call;
            if let Some(kind) = work.audit_kind() {
                self.audit(kind, Some(call.conn), Some(channel), Some(code));
            }
            if detail.is_empty() {
                self.fail_at(call, code, epoch);
            } else {
                self.fail_with(call, code, detail);
            }
        }
        self.end_work(channel);
    }

    /// What is known of a group may not be what the store has.
    fn forget_state(&mut self, channel: ChannelId) {
        if let Some(slot) = self.groups.slots.get_mut(&channel) {
            slot.state = None;
        }
    }

    pub(super) fn group_stored(
        &mut self,
        channel: ChannelId,
        result: Result<StoreReply, StoreFault>,
    ) {
        let Some(slot) = self.groups.slots.get_mut(&channel) else { return };
        let stage = core::mem::take(&mut slot.stage);
        let Ok(reply) = result else {
            if matches!(stage, Stage::Write(..)) {
                slot.state = None;
            }
            return self.refuse_work(channel, ErrorCode::Unavailable, 0, "");
        };
        match stage {
            Stage::Probe => self.group_probed(channel, reply),
            Stage::Load => self.group_loaded(channel, reply),
            Stage::Blobs => self.blob_loaded(channel, reply),
            Stage::Write(submitted, removed) => {
                self.group_written(channel, &submitted, &removed, reply);
            }
            Stage::Tree(left) => self.tree_stored(channel, left, &reply),
            Stage::Rest | Stage::Job => {}
        }
    }

    fn group_probed(&mut self, channel: ChannelId, reply: StoreReply) {
        let Some(slot) = self.groups.slots.get_mut(&channel) else { return };
        let Some(work) = slot.queue.front_mut() else { return };
        let present = match reply {
            // Accepted before: the first answer again, whatever has happened since.
            StoreReply::Appended { seq, chain, time, .. } => {
                let call = work.call;
                if let Some((message, payload)) = work.named() {
                    self.accept(call, channel, message, payload, seq, chain, time);
                }
                return self.end_work(channel);
            }
            StoreReply::Refused { code: ErrorCode::GenerationMismatch, .. }
                if matches!(work.kind, WorkKind::Reset(_)) =>
            {
                return self.reset_probed(channel);
            }
            // Nothing is refused for its epoch before it is known to be new, from a member, and of this generation.
            StoreReply::Refused { code: ErrorCode::FutureEpoch, epoch } => epoch,
            StoreReply::Refused { code, epoch } => {
                return self.refuse_work(channel, code, epoch, "");
            }
            StoreReply::GroupInfo { generation, epoch, group_info, seq, chain } => {
                let tree = crate::id::Digest([0; 32]);
                let reply = Reply::GroupInfo {
                    generation,
                    epoch,
                    group_info,
                    tree,
                    tree_len: 0,
                    seq,
                    chain,
                };
                work.kind = WorkKind::GroupInfo(Some(Box::new(reply)));
                epoch
            }
            _ => return self.refuse_work(channel, ErrorCode::Unavailable, 0, ""),
        };
        let changes = work.audit_kind().is_some();
        if work.epoch() != present {
            let code = work.epoch_code(present);
            if changes {
                slot.turns.lost(work.sender, self.now.mono);
            }
            return self.refuse_work(channel, code, present, "");
        }
        if changes && !slot.turns.may(work.sender, self.now.mono) {
            return self.refuse_work(channel, ErrorCode::Busy, 0, "");
        }
        let generation = work.generation();
        let held = slot
            .state
            .as_ref()
            .is_some_and(|state| state.epoch() == present && slot.generation == generation);
        if held {
            return self.check_work(channel);
        }
        self.forget_state(channel);
        self.stage(channel, Stage::Load);
        self.store(Step::Group(channel), StoreOp::LoadGroup { channel });
    }

    fn group_loaded(&mut self, channel: ChannelId, reply: StoreReply) {
        let Some(slot) = self.groups.slots.get_mut(&channel) else { return };
        let Some(work) = slot.queue.front() else { return };
        let StoreReply::Group { generation, epoch, records, .. } = reply else {
            return self.refuse_work(channel, ErrorCode::Unavailable, 0, "");
        };
        if matches!(work.kind, WorkKind::Reset(_)) {
            return self.check_reset(channel, generation, records);
        }
        if generation != work.generation() {
            return self.refuse_work(channel, ErrorCode::GenerationMismatch, 0, "");
        }
        if epoch != work.epoch() {
            let code = work.epoch_code(epoch);
            return self.refuse_work(channel, code, epoch, "");
        }
        slot.generation = generation;
        let backend = self.config.backend;
        self.work_job(channel, ServerJob::Restore { backend, records });
    }

    /// Runs a job for the work at the head of a line. A state that the job took along is read again if it cannot.
    pub(super) fn work_job(&mut self, channel: ChannelId, job: ServerJob) {
        self.stage(channel, Stage::Job);
        if !self.compute(Task::Group(channel), job) {
            self.refuse_work(channel, ErrorCode::Busy, 0, "");
        }
    }

    pub(super) fn group_restored(
        &mut self,
        channel: ChannelId,
        result: Result<Box<PublicState>, MlsError>,
    ) {
        let Some(slot) = self.groups.slots.get_mut(&channel) else { return };
        match result {
            Ok(state) => {
                slot.state = Some(state);
                self.check_work(channel);
            }
            Err(_) => self.refuse_work(channel, ErrorCode::Unavailable, 0, ""),
        }
    }

    /// Reads the next blob that the commit at the head of a line names; `false`: all are there.
    fn load_blob(&mut self, channel: ChannelId) -> bool {
        let Some(slot) = self.groups.slots.get_mut(&channel) else { return false };
        let Some(WorkKind::Commit(bundle)) = slot.queue.front().map(|work| &work.kind) else {
            return false;
        };
        let Some((hash, len)) = bundle.blobs().nth(slot.loaded.len()) else { return false };
        // A commit's parts are at most `COMMIT_BYTES` long.
        let room = usize::try_from(len).unwrap_or(usize::MAX);
        if self.groups.room.saturating_add(room) > limits::BUNDLE_BYTES {
            self.audit(AuditKind::Limit, None, Some(channel), Some(ErrorCode::Busy));
            self.refuse_work(channel, ErrorCode::Busy, 0, "");
            return true;
        }
        slot.room += room;
        self.groups.room += room;
        let at = self.now.wall;
        self.stage(channel, Stage::Blobs);
        self.store(Step::Group(channel), StoreOp::GetBlob { hash, offset: 0, most: len, at });
        true
    }

    /// A blob that the commit at the head of a line names.
    fn blob_loaded(&mut self, channel: ChannelId, reply: StoreReply) {
        let Some(slot) = self.groups.slots.get_mut(&channel) else { return };
        let Some(WorkKind::Commit(bundle)) = slot.queue.front().map(|work| &work.kind) else {
            return;
        };
        let said = bundle.blobs().nth(slot.loaded.len()).map(|(_, len)| len);
        match reply {
            StoreReply::Blob { total, chunk } if Some(total) == said => {
                slot.loaded.push(chunk);
                self.check_work(channel);
            }
            StoreReply::Blob { .. } => self.refuse_work(channel, ErrorCode::BlobMismatch, 0, ""),
            StoreReply::Refused { code, .. } => self.refuse_work(channel, code, 0, ""),
            _ => self.refuse_work(channel, ErrorCode::Unavailable, 0, ""),
        }
    }

    /// The state is at hand and of the right epoch: checks the work against it.
    fn check_work(&mut self, channel: ChannelId) {
        if self.load_blob(channel) {
            return;
        }
        let Some(slot) = self.groups.slots.get_mut(&channel) else { return };
        let (Some(mut state), Some(work)) = (slot.state.take(), slot.queue.front()) else { return };
        state.confine(channel);
        let sender = work.sender;
        let job = match &work.kind {
            WorkKind::Commit(bundle) => commit_job(state, sender, bundle, &slot.loaded),
            WorkKind::Propose(submit) => {
                ServerJob::Propose { state, sender, payload: submit.payload.clone() }
            }
            WorkKind::GroupInfo(_) => ServerJob::Tree { state },
            // Judged from the store's records alone.
            WorkKind::Reset(_) => return self.group_lost(channel),
        };
        self.work_job(channel, job);
    }

    pub(super) fn group_checked(
        &mut self,
        channel: ChannelId,
        state: Box<PublicState>,
        check: Check,
    ) {
        let Some(slot) = self.groups.slots.get_mut(&channel) else { return };
        slot.state = Some(state);
        let error = match check {
            Check::Propose(Ok(())) => return self.write_proposal(channel),
            Check::Commit(Ok(checked)) => return self.write_commit(channel, checked),
            Check::Tree(Ok(tree)) => return self.store_tree(channel, Bytes::from(tree)),
            Check::Propose(Err(error)) | Check::Commit(Err(error)) | Check::Tree(Err(error)) => {
                error
            }
        };
        let proposal = self.head(channel).is_some_and(|w| matches!(w.kind, WorkKind::Propose(_)));
        let code = match error {
            MlsError::Suite => ErrorCode::SuiteNotAllowed,
            MlsError::Record => ErrorCode::RecordInvalid,
            MlsError::NotMember => ErrorCode::NotMember,
            MlsError::NotAllowed(_) => ErrorCode::NotAllowed,
            MlsError::NoAdmin => ErrorCode::NotAllowed,
            MlsError::LeftOut => ErrorCode::ProposalLeftOut,
            MlsError::Damaged(_) | MlsError::Internal(_) => ErrorCode::Unavailable,
            _ if proposal => ErrorCode::BadRequest,
            _ => ErrorCode::CommitInvalid,
        };
        self.refuse_work(channel, code, 0, &error.to_string());
    }

    /// A job came back with the result of another.
    pub(super) fn group_lost(&mut self, channel: ChannelId) {
        self.forget_state(channel);
        self.refuse_work(channel, ErrorCode::Unavailable, 0, "");
    }

    /// The state as checked, to be written.
    pub(super) fn checked_state(
        &mut self,
        channel: ChannelId,
    ) -> Option<(&mut PublicState, &Work, &Loaded)> {
        let slot = self.groups.slots.get_mut(&channel)?;
        Some((slot.state.as_deref_mut()?, slot.queue.front()?, &slot.loaded))
    }

    /// Writes what was checked.
    pub(super) fn write_work(
        &mut self,
        channel: ChannelId,
        submitted: super::submit::Submitted,
        removed: Vec<Sender>,
        op: StoreOp,
    ) {
        self.stage(channel, Stage::Write(Box::new(submitted), removed));
        self.store(Step::Group(channel), op);
    }

    /// What was checked does not hold for a reason of ours: the state has moved on and is read again.
    pub(super) fn refuse_checked(&mut self, channel: ChannelId, code: ErrorCode, detail: &str) {
        self.forget_state(channel);
        self.refuse_work(channel, code, 0, detail);
    }

    fn group_written(
        &mut self,
        channel: ChannelId,
        submitted: &super::submit::Submitted,
        removed: &[Sender],
        reply: StoreReply,
    ) {
        let Some(call) = self.head(channel).map(|work| work.call) else { return };
        let StoreReply::Appended { seq, chain, time, duplicate, inboxes } = reply else {
            self.forget_state(channel);
            let (code, epoch) = match reply {
                StoreReply::Refused { code, epoch } => (code, epoch),
                _ => (ErrorCode::Unavailable, 0),
            };
            return self.refuse_work(channel, code, epoch, "");
        };
        if duplicate {
            self.forget_state(channel);
        }
        let message = submitted.entry.message;
        if !duplicate && let Some(kind) = self.head(channel).and_then(Work::audit_kind) {
            self.audit(kind, Some(call.conn), Some(channel), None);
        }
        self.accept(call, channel, message, submitted.payload, seq, chain, time);
        if !duplicate {
            if let Some(slot) = self.groups.slots.get_mut(&channel) {
                slot.turns.won(submitted.entry.sender);
            }
            self.end_readers(channel, removed, seq);
            let entry = crate::wire::message::Entry { seq, time, ..submitted.entry.clone() };
            self.appended(channel, seq, Some(entry));
            for (inbox, seq) in inboxes {
                self.appended(inbox, seq, None);
            }
        }
        self.end_work(channel);
    }
}
