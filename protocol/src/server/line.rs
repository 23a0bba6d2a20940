//! The line of work on a group: who gets into it, and how a piece of work begins and ends. One piece of work of a group
//! is under way at a time, so that each check sees what the one before it led to.
//!
//! The store is asked about each piece first: was it accepted before, is its sender a member, what is the epoch?
//! Whoever is no member does not get into the line, and so takes no member's place. What had to wait is asked about
//! again when its turn comes. The store decides once more when the result is written, so an answer that grew old can
//! mislead nobody but the one who asked.

use super::Server;
use super::channels::Resetting;
use super::connection::Call;
use super::groups::Stage;
use super::stored::Step;
use crate::env::UnixMillis;
use crate::error::{ErrorCode, StoreFault};
use crate::id::{ChannelId, Digest, Sender};
use crate::limits;
use crate::server::audit::AuditKind;
use crate::server::op::{StoreOp, StoreReply};
use crate::wire::message::{CommitBundle, Reply, Submit};

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

/// What the store says of a piece of work before it is done.
enum Probed {
    /// It was accepted before: the first answer again, whatever has happened since.
    Again(u64, Digest, UnixMillis),
    Refused(ErrorCode, u64),
    /// It is new, from a member, and of this generation; the group is in that epoch.
    Present(u64),
}

impl Work {
    pub(super) fn generation(&self) -> u32 {
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

    pub(super) fn epoch(&self) -> u64 {
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

    /// Whether it changes the group, and how that is audited.
    pub(super) fn audit_kind(&self) -> Option<AuditKind> {
        match self.kind {
            WorkKind::Commit(_) => Some(AuditKind::Commit),
            WorkKind::Propose(_) => Some(AuditKind::Submit),
            WorkKind::Reset(_) => Some(AuditKind::ChannelCreate),
            WorkKind::GroupInfo(_) => None,
        }
    }

    /// The refusal of work from another epoch than the group's.
    pub(super) fn epoch_code(&self, present: u64) -> ErrorCode {
        match self.kind {
            _ if self.epoch() > present => ErrorCode::FutureEpoch,
            WorkKind::Commit(_) => ErrorCode::EpochConflict,
            WorkKind::Propose(_) => ErrorCode::StaleEpoch,
            WorkKind::Reset(_) | WorkKind::GroupInfo(_) => ErrorCode::Unavailable,
        }
    }

    /// Takes in the store's answer to a probe.
    fn probed(&mut self, reply: StoreReply) -> Probed {
        match reply {
            StoreReply::Appended { seq, chain, time, .. } => Probed::Again(seq, chain, time),
            // A reset is asked about with a generation that never comes.
            StoreReply::Refused { code: ErrorCode::GenerationMismatch, .. }
                if matches!(self.kind, WorkKind::Reset(_)) =>
            {
                Probed::Present(0)
            }
            // The others with an epoch that never comes: nothing is refused for its epoch before all else is right.
            StoreReply::Refused { code: ErrorCode::FutureEpoch, epoch } => Probed::Present(epoch),
            StoreReply::Refused { code, epoch } => Probed::Refused(code, epoch),
            StoreReply::GroupInfo { generation, epoch, group_info, seq, chain } => {
                let tree = Digest([0; 32]);
                let reply = Reply::GroupInfo {
                    generation,
                    epoch,
                    group_info,
                    tree,
                    tree_len: 0,
                    seq,
                    chain,
                };
                self.kind = WorkKind::GroupInfo(Some(Box::new(reply)));
                Probed::Present(epoch)
            }
            _ => Probed::Refused(ErrorCode::Unavailable, 0),
        }
    }
}

impl Server {
    /// Takes in work on a group. It gets into the line once the store has nothing against it.
    pub(super) fn enqueue(&mut self, channel: ChannelId, work: Work) {
        let op = self.probe(channel, &work);
        self.store(Step::Line(channel, Box::new(work)), op);
    }

    fn probe(&self, channel: ChannelId, work: &Work) -> StoreOp {
        match &work.kind {
            WorkKind::Commit(bundle) => StoreOp::Append(self.commit_probe(work.sender, bundle)),
            WorkKind::Propose(submit) => StoreOp::Append(self.proposal_probe(work.sender, submit)),
            WorkKind::Reset(reset) => self.reset_probe(reset),
            WorkKind::GroupInfo(_) => StoreOp::LoadGroupInfo { channel, reader: work.sender },
        }
    }

    /// The store has answered for work that is to get into a line.
    pub(super) fn line_probed(
        &mut self,
        channel: ChannelId,
        mut work: Work,
        result: Result<StoreReply, StoreFault>,
    ) {
        let probed = match result {
            Ok(reply) => work.probed(reply),
            Err(_) => Probed::Refused(ErrorCode::Unavailable, 0),
        };
        match probed {
            Probed::Again(seq, chain, time) => self.answer_again(channel, &work, seq, chain, time),
            Probed::Refused(code, epoch) => self.turn_away(channel, &work, code, epoch, ""),
            Probed::Present(present) => {
                let line = &mut self.groups.wake(channel).queue;
                let account = work.sender.account;
                let own = line.iter().filter(|other| other.sender.account == account).count();
                if line.len() >= limits::GROUP_QUEUE || own >= limits::GROUP_QUEUE_OF_ACCOUNT {
                    self.audit_limit(channel, &work);
                    return self.fail(work.call, ErrorCode::Busy);
                }
                line.push_back(work);
                if line.len() == 1 {
                    self.work_is_due(channel, present);
                }
            }
        }
    }

    fn audit_limit(&mut self, channel: ChannelId, work: &Work) {
        let busy = Some(ErrorCode::Busy);
        self.audit(AuditKind::Limit, Some(work.call.conn), Some(channel), busy);
    }

    /// The work that is at the head of a line now: what was known of it when it came may hold no more.
    fn begin_work(&mut self, channel: ChannelId) {
        let Some(work) = self.groups.head(channel) else { return };
        let op = self.probe(channel, work);
        self.stage(channel, Stage::Probe);
        self.store(Step::Group(channel), op);
    }

    /// The store has answered for the work at the head of a line.
    pub(super) fn head_probed(&mut self, channel: ChannelId, reply: StoreReply) {
        let Some(slot) = self.groups.slot(channel) else { return };
        let Some(work) = slot.queue.front_mut() else { return };
        match work.probed(reply) {
            Probed::Again(seq, chain, time) => {
                if let Some(work) = slot.queue.pop_front() {
                    self.answer_again(channel, &work, seq, chain, time);
                }
                self.next_work(channel);
            }
            Probed::Refused(code, epoch) => self.refuse_work(channel, code, epoch, ""),
            Probed::Present(present) => self.work_is_due(channel, present),
        }
    }

    fn answer_again(
        &mut self,
        channel: ChannelId,
        work: &Work,
        seq: u64,
        chain: Digest,
        time: UnixMillis,
    ) {
        if let Some((message, payload)) = work.named() {
            self.accept(work.call, channel, message, payload, seq, chain, time);
        }
    }

    fn turn_away(
        &mut self,
        channel: ChannelId,
        work: &Work,
        code: ErrorCode,
        epoch: u64,
        detail: &str,
    ) {
        if let Some(kind) = work.audit_kind() {
            self.audit(kind, Some(work.call.conn), Some(channel), Some(code));
        }
        if detail.is_empty() {
            self.fail_at(work.call, code, epoch);
        } else {
            self.fail_with(work.call, code, detail);
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
        let Some(slot) = self.groups.slot(channel) else { return };
        if let Some(work) = slot.queue.pop_front() {
            self.turn_away(channel, &work, code, epoch, detail);
        }
        self.next_work(channel);
    }

    /// Ends the work at the head of a line, and begins the next.
    pub(super) fn end_work(&mut self, channel: ChannelId) {
        if let Some(slot) = self.groups.slot(channel) {
            slot.queue.pop_front();
        }
        self.next_work(channel);
    }

    fn next_work(&mut self, channel: ChannelId) {
        if self.groups.clear(channel) {
            self.begin_work(channel);
        }
    }
}
