//! What the server follows of each group: its public state, kept for those in use, by which the work in the group's
//! [line](super::line) is checked.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::Server;
use super::commits::{Fetched, commit_job};
use super::job::ServerJob;
use super::line::{Work, WorkKind};
use super::stored::{Step, Task};
use super::turns::Turns;
use crate::error::{ErrorCode, StoreFault};
use crate::gauge::Gauge;
use crate::id::{ChannelId, Sender};
use crate::limits;
use crate::mls::MlsError;
use crate::mls::public::{CheckedCommit, PublicState};
use crate::server::audit::AuditKind;
use crate::server::op::{Member, StoreOp, StoreReply};
use crate::wire::message::Failure;

/// The groups in use.
#[derive(Debug)]
pub(super) struct Groups {
    /// Most bytes of states at rest.
    most: usize,
    slots: BTreeMap<ChannelId, Slot>,
    /// Slots without work, the longest unused first, and the bytes of their states.
    idle: BTreeMap<u64, (ChannelId, usize)>,
    idle_bytes: usize,
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
    /// The generation and epoch in which a commit may leave out who is queued to be added: see [`Slot::insists`].
    waived: Option<(u32, u64)>,
    /// Of the commit at the head: what was read of the blobs that it names, and the room that is taken for them.
    fetched: Fetched,
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
    /// Whether its account has the device that a proposal would add.
    Directory(Member),
    Write(Box<super::submit::Submitted>, Vec<Sender>),
    /// This many chunks of the tree are still to be stored.
    Tree(usize),
}

/// What a check came to.
pub(super) enum Check {
    /// With the device that it would add.
    Propose(Result<Option<Member>, MlsError>),
    Commit(Result<CheckedCommit, MlsError>),
    Tree(Result<Vec<u8>, MlsError>),
}

impl Slot {
    /// Whether a commit of an epoch has to include whom queued proposals would add. A device may have been revoked, or
    /// its key package have ended, since it was queued: once a commit was refused for that, the next may do without.
    /// Else there would be none.
    pub(super) fn insists(&self, generation: u32, epoch: u64) -> bool {
        self.waived != Some((generation, epoch))
    }
}

impl Groups {
    pub(super) fn new(most: usize) -> Self {
        let (slots, idle) = (BTreeMap::new(), BTreeMap::new());
        Self { most, slots, idle, idle_bytes: 0, used: 0, room: 0 }
    }

    pub(super) fn gauges(&self) -> [Gauge; 4] {
        let line = self.slots.values().map(|slot| slot.queue.len()).max();
        [
            Gauge::kept("PUBLIC_GROUPS", self.idle.len(), limits::PUBLIC_GROUPS),
            Gauge::kept("PUBLIC_GROUP_BYTES", self.idle_bytes, self.most),
            Gauge::drains("BUNDLE_BYTES", self.room, limits::BUNDLE_BYTES),
            Gauge::drains("GROUP_QUEUE", line.unwrap_or_default(), limits::GROUP_QUEUE),
        ]
    }

    fn rest(&mut self, channel: ChannelId) {
        let Some(slot) = self.slots.get_mut(&channel) else { return };
        self.used += 1;
        slot.idle = Some(self.used);
        // Without its state a group still has turns to remember.
        let bytes = slot.state.as_ref().map_or(0, |state| state.bytes());
        self.idle.insert(self.used, (channel, bytes));
        self.idle_bytes += bytes;
        while self.idle.len() > limits::PUBLIC_GROUPS || self.idle_bytes > self.most {
            let Some((_, (oldest, bytes))) = self.idle.pop_first() else { return };
            self.idle_bytes -= bytes;
            self.slots.remove(&oldest);
        }
    }

    /// Ends the present piece of work; whether there is another.
    pub(super) fn clear(&mut self, channel: ChannelId) -> bool {
        let Some(slot) = self.slots.get_mut(&channel) else { return false };
        slot.stage = Stage::Rest;
        slot.fetched.clear();
        self.room -= core::mem::take(&mut slot.room);
        let more = !slot.queue.is_empty();
        if !more {
            self.rest(channel);
        }
        more
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

    /// The slot of a group that there is work for.
    pub(super) fn wake(&mut self, channel: ChannelId) -> &mut Slot {
        let slot = self.slots.entry(channel).or_insert_with(|| Slot {
            state: None,
            generation: 0,
            stage: Stage::Rest,
            queue: VecDeque::new(),
            turns: Turns::default(),
            waived: None,
            fetched: Fetched::new(),
            room: 0,
            idle: None,
        });
        if let Some((_, bytes)) = slot.idle.take().and_then(|key| self.idle.remove(&key)) {
            self.idle_bytes -= bytes;
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

    /// How many bytes they have.
    #[cfg(test)]
    pub(super) fn resting_bytes(&self) -> usize {
        self.idle_bytes
    }
}

/// The refusal of a group, a commit or a proposal that does not hold.
pub(super) fn refusal_of(error: &MlsError) -> ErrorCode {
    match error {
        MlsError::Suite => ErrorCode::SuiteNotAllowed,
        MlsError::Record => ErrorCode::RecordInvalid,
        MlsError::Expired => ErrorCode::KeyPackageInvalid,
        MlsError::NotMember => ErrorCode::NotMember,
        MlsError::NotAllowed(_) | MlsError::NoAdmin => ErrorCode::NotAllowed,
        MlsError::LeftOut => ErrorCode::ProposalLeftOut,
        MlsError::Damaged(_) | MlsError::Internal(_) => ErrorCode::Unavailable,
        _ => ErrorCode::CommitInvalid,
    }
}

impl Server {
    fn head(&self, channel: ChannelId) -> Option<&Work> {
        self.groups.head(channel)
    }

    pub(super) fn stage(&mut self, channel: ChannelId, stage: Stage) {
        if let Some(slot) = self.groups.slots.get_mut(&channel) {
            slot.stage = stage;
        }
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
            if matches!(stage, Stage::Directory(_) | Stage::Write(..)) {
                slot.state = None;
            }
            return self.refuse_work(channel, ErrorCode::Unavailable, 0, "");
        };
        match stage {
            Stage::Probe => self.head_probed(channel, reply),
            Stage::Load => self.group_loaded(channel, reply),
            Stage::Blobs => self.blob_loaded(channel, reply),
            Stage::Directory(member) => self.directory_read(channel, &member, &reply),
            Stage::Write(submitted, removed) => {
                self.group_written(channel, &submitted, &removed, reply);
            }
            Stage::Tree(left) => self.tree_stored(channel, left, &reply),
            Stage::Rest | Stage::Job => {}
        }
    }

    /// The work at the head of a line is new, from a member, and the group in that epoch.
    pub(super) fn work_is_due(&mut self, channel: ChannelId, present: u64) {
        let Some(slot) = self.groups.slots.get_mut(&channel) else { return };
        let Some(work) = slot.queue.front() else { return };
        if matches!(work.kind, WorkKind::Reset(_)) {
            return self.load_state(channel);
        }
        let changes = work.audit_kind().is_some();
        if work.epoch() != present {
            let code = work.epoch_code(present);
            // Who is ahead has lost nothing.
            if changes && work.epoch() < present {
                slot.turns.lost(work.sender.account, self.now.mono);
            }
            return self.refuse_work(channel, code, present, "");
        }
        if changes && !slot.turns.may(work.sender.account, self.now.mono) {
            return self.wait_for_turn(channel);
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
        self.load_state(channel);
    }

    /// It is somebody else's turn, and over soon as a rule.
    fn wait_for_turn(&mut self, channel: ChannelId) {
        if let Some(work) = self.head(channel) {
            let (call, kind) = (work.call, work.audit_kind());
            let busy = ErrorCode::Busy;
            if let Some(kind) = kind {
                self.audit(kind, Some(call.conn), Some(channel), Some(busy));
            }
            let retry_after_ms = limits::COMMIT_TURN_RETRY.as_millis() as u32;
            self.refuse(call, Failure { retry_after_ms, ..busy.into() });
        }
        self.end_work(channel);
    }

    fn load_state(&mut self, channel: ChannelId) {
        self.stage(channel, Stage::Load);
        self.store(Step::Group(channel), StoreOp::LoadGroup { channel });
    }

    fn group_loaded(&mut self, channel: ChannelId, reply: StoreReply) {
        let Some(slot) = self.groups.slots.get_mut(&channel) else { return };
        let Some(work) = slot.queue.front() else { return };
        let StoreReply::Group { generation, epoch, records } = reply else {
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
        let Some((hash, len)) = bundle.blobs().nth(slot.fetched.len()) else { return false };
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
        let said = bundle.blobs().nth(slot.fetched.len()).map(|(_, len)| len);
        match reply {
            StoreReply::Blob { total, chunk } if Some(total) == said => {
                slot.fetched.push(chunk);
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
            WorkKind::Commit(bundle) => commit_job(state, sender, bundle, &slot.fetched),
            WorkKind::Propose(submit) => {
                let (payload, wall) = (submit.payload.clone(), self.now.wall);
                ServerJob::Propose { state, sender, payload, wall }
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
            Check::Propose(Ok(None)) => return self.write_proposal(channel),
            Check::Propose(Ok(Some(member))) => return self.read_directory(channel, member),
            Check::Commit(Ok(checked)) => return self.write_commit(channel, checked),
            Check::Tree(Ok(tree)) => return self.store_tree(channel, Bytes::from(tree)),
            Check::Propose(Err(error)) | Check::Commit(Err(error)) | Check::Tree(Err(error)) => {
                error
            }
        };
        let proposal = self.head(channel).is_some_and(|w| matches!(w.kind, WorkKind::Propose(_)));
        let code = match refusal_of(&error) {
            ErrorCode::CommitInvalid if proposal => ErrorCode::BadRequest,
            code => code,
        };
        self.refuse_work(channel, code, 0, &error.to_string());
    }

    /// A proposal would add a device: nobody could commit it if the account does not have it.
    fn read_directory(&mut self, channel: ChannelId, member: Member) {
        let account = member.sender.account;
        self.stage(channel, Stage::Directory(member));
        self.store(Step::Group(channel), StoreOp::ListDevices { account });
    }

    fn directory_read(&mut self, channel: ChannelId, member: &Member, reply: &StoreReply) {
        let StoreReply::Devices(devices) = reply else { return self.group_lost(channel) };
        let has = devices.iter().any(|device| {
            let record = &device.record;
            let same = (record.sender(), record.device_key) == (member.sender, member.device_key);
            same && device.revocation.is_none()
        });
        if has {
            return self.write_proposal(channel);
        }
        let detail = "the account has no such device";
        self.refuse_checked(channel, ErrorCode::RecordInvalid, detail);
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
    ) -> Option<(&mut PublicState, &Work, &Fetched)> {
        let slot = self.groups.slots.get_mut(&channel)?;
        Some((slot.state.as_deref_mut()?, slot.queue.front()?, &slot.fetched))
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

    /// A commit was refused for whom it adds: the next one of its epoch may do without those who are queued.
    pub(super) fn waive_adds(&mut self, channel: ChannelId) {
        if let Some(slot) = self.groups.slots.get_mut(&channel)
            && let Some(work) = slot.queue.front()
        {
            slot.waived = Some((work.generation(), work.epoch()));
        }
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
            if code == ErrorCode::RecordInvalid {
                self.waive_adds(channel);
            }
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
                slot.turns.won(submitted.entry.sender.account, self.now.mono);
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
