//! Channels: their founding, the generations that follow, and what members may know of them.

use bytes::Bytes;

use super::Server;
use super::connection::{Call, Peer};
use super::groups::refusal_of;
use super::job::ServerJob;
use super::line::{Work, WorkKind};
use super::stored::{Step, Task};
use super::submit::{Submitted, submission_hash};
use crate::env::UnixMillis;
use crate::error::ErrorCode;
use crate::id::{AccountId, ChannelId, Digest, GroupId, MessageId, Sender};
use crate::limits;
use crate::mls::MlsError;
use crate::mls::public::PublicState;
use crate::server::audit::AuditKind;
use crate::server::op::{self, Member, Reset, StoreOp, StoreReply};
use crate::store::batch::{Op, Records};
use crate::wire::message::{ChannelKind, EntryKind};

/// A channel whose group is being checked.
#[derive(Debug)]
pub(super) struct Creation {
    pub(super) channel: ChannelId,
    pub(super) kind: ChannelKind,
    pub(super) generation: u32,
    pub(super) creator: Sender,
    /// The other account of a direct channel.
    pub(super) with: Option<AccountId>,
    pub(super) group_info: Bytes,
}

impl Creation {
    /// Whether the channel is one that its creator may make: of the kind that its id says, and if it is a direct one,
    /// between the creator's own account and another. Inboxes come with their devices.
    fn is_due(&self) -> bool {
        let own = self.creator.account;
        self.channel.kind() == Some(self.kind)
            && match (self.kind, self.with) {
                (ChannelKind::Group, None) => true,
                (ChannelKind::Direct, Some(with)) => {
                    with != own && ChannelId::direct(own, with) == self.channel
                }
                _ => false,
            }
    }
}

/// A generation that no channel reaches.
const NEVER: u32 = u32::MAX;

/// The next generation of a channel, in its group's line.
#[derive(Debug)]
pub(super) struct Resetting {
    creation: Creation,
    founder: Member,
    tree: Bytes,
}

impl Resetting {
    /// The operation that begins the generation, but for the new group's records.
    fn op(&self, generation: u32, group: Vec<Op>, at: UnixMillis, expires: UnixMillis) -> Reset {
        let Creation { channel, creator: founder, group_info, .. } = &self.creation;
        let parts = [Digest::of(&[group_info]), Digest::of(&[&self.tree])];
        let asked = self.creation.generation;
        Reset {
            channel: *channel,
            generation,
            founder: *founder,
            message: op::reset_message(group_info),
            hash: submission_hash(*channel, asked, 0, EntryKind::Reset, &parts),
            group,
            group_info: group_info.clone(),
            at,
            expires,
        }
    }

    /// The message id and the payload hash of its delivery proof.
    pub(super) fn named(&self) -> (MessageId, Digest) {
        let group_info = &self.creation.group_info;
        (op::reset_message(group_info), op::reset_payload(group_info).hash())
    }
}

impl Server {
    pub(super) fn channel_create(
        &mut self,
        call: Call,
        peer: Peer,
        creation: Creation,
        tree: Bytes,
    ) {
        let Creation { channel, generation, .. } = creation;
        if !creation.is_due() {
            return self.create_refused(call, channel, ErrorCode::BadRequest, "no such channel");
        }
        let founder = Member { sender: peer.sender, device_key: peer.device_key };
        match generation {
            1 => {}
            0 | NEVER => {
                let detail = "a channel begins with its first generation";
                return self.create_refused(call, channel, ErrorCode::GenerationMismatch, detail);
            }
            _ => {
                let kind = WorkKind::Reset(Box::new(Resetting { creation, founder, tree }));
                return self.enqueue(channel, Work { call, sender: peer.sender, kind });
            }
        }
        let job = ServerJob::Create {
            backend: self.config.backend,
            id: GroupId::of(channel, generation),
            creator: founder,
            group_info: creation.group_info.clone(),
            tree,
        };
        if !self.compute(Task::ChannelCreate(call, Box::new(creation)), job) {
            self.too_busy(call);
        }
    }

    fn create_refused(&mut self, call: Call, channel: ChannelId, code: ErrorCode, detail: &str) {
        self.audit(AuditKind::ChannelCreate, Some(call.conn), Some(channel), Some(code));
        self.fail_with(call, code, detail);
    }

    pub(super) fn channel_checked(
        &mut self,
        call: Call,
        creation: Creation,
        result: Result<Box<PublicState>, MlsError>,
    ) {
        let channel = creation.channel;
        let roles = |state: Box<PublicState>| state.check_roles(channel).map(|()| state);
        let mut state = match result.and_then(roles) {
            Ok(state) => state,
            Err(error) => {
                let refused = (refusal_of(&error), error.to_string());
                return self.look_for_channel(call, Box::new(creation), refused);
            }
        };
        if !self.config.suites.contains(&state.suite()) {
            return self.create_refused(call, channel, ErrorCode::SuiteNotAllowed, "");
        }
        let op = StoreOp::CreateChannel {
            channel,
            kind: creation.kind,
            generation: creation.generation,
            creator: creation.creator,
            with: creation.with,
            group: state.take_ops(),
            group_info: creation.group_info.clone(),
            at: self.now.wall,
        };
        self.store(Step::ChannelCreate(call, Box::new(creation), state), op);
    }

    pub(super) fn channel_created(
        &mut self,
        call: Call,
        creation: Box<Creation>,
        state: Box<PublicState>,
        reply: StoreReply,
    ) {
        let Creation { channel, generation, .. } = *creation;
        if reply == StoreReply::refused(ErrorCode::ChannelExists) {
            let refused = (ErrorCode::ChannelExists, String::new());
            return self.look_for_channel(call, creation, refused);
        }
        if reply != StoreReply::Done {
            return self.refusal(call, Some(AuditKind::ChannelCreate), Some(channel), &reply);
        }
        self.audit(AuditKind::ChannelCreate, Some(call.conn), Some(channel), None);
        self.groups.founded(channel, generation, state);
        self.plain(call, reply);
    }

    /// Not founded: perhaps this very founding is there, and is sent again since its answer was lost. The founder may
    /// have another key by now.
    fn look_for_channel(
        &mut self,
        call: Call,
        creation: Box<Creation>,
        refused: (ErrorCode, String),
    ) {
        let op = StoreOp::LoadGroupInfo { channel: creation.channel, reader: creation.creator };
        self.store(Step::ChannelAgain(call, creation, refused), op);
    }

    pub(super) fn channel_found(
        &mut self,
        call: Call,
        creation: &Creation,
        refused: (ErrorCode, String),
        reply: StoreReply,
    ) {
        let Creation { channel, generation, group_info, .. } = creation;
        let (code, detail) = match &reply {
            StoreReply::GroupInfo { generation: of, group_info: found, .. }
                if (of, found) == (generation, group_info) =>
            {
                return self.plain(call, StoreReply::Done);
            }
            _ if reply == StoreReply::refused(ErrorCode::ChannelUnknown) => refused,
            _ => (ErrorCode::ChannelExists, String::new()),
        };
        self.create_refused(call, *channel, code, &detail);
    }

    pub(super) fn channel_list(&mut self, call: Call, reader: Sender, after: Option<ChannelId>) {
        let op = StoreOp::ListChannels { reader, after, most: limits::CHANNELS_LISTED as u32 };
        self.store(Step::ChannelList(call), op);
    }

    // ---- another generation -------------------------------------------------------------------

    /// Asks whether a reset was accepted before and whether its founder may ask for one, without a chance of being
    /// accepted.
    pub(super) fn reset_probe(&self, reset: &Resetting) -> StoreOp {
        StoreOp::ResetChannel(reset.op(NEVER, Vec::new(), self.now.wall, self.now.wall))
    }

    /// The public state of the present group is here: checks the one that is to follow it.
    pub(super) fn check_reset(&mut self, channel: ChannelId, present: u32, records: Records) {
        let Some(reset) = self.resetting(channel) else { return };
        let generation = reset.creation.generation;
        if present.checked_add(1) != Some(generation) {
            return self.refuse_work(channel, ErrorCode::GenerationMismatch, 0, "");
        }
        let job = ServerJob::Reset {
            backend: self.config.backend,
            records,
            id: GroupId::of(channel, generation),
            founder: reset.founder.clone(),
            group_info: reset.creation.group_info.clone(),
            tree: reset.tree.clone(),
        };
        self.work_job(channel, job);
    }

    /// A generation was checked: who was in the one before, and the new one's public state.
    pub(super) fn reset_checked(
        &mut self,
        channel: ChannelId,
        result: Result<(Vec<Sender>, Box<PublicState>), MlsError>,
    ) {
        let (mut before, mut state) = match result {
            Ok((_, state)) if !self.config.suites.contains(&state.suite()) => {
                return self.refuse_work(channel, ErrorCode::SuiteNotAllowed, 0, "");
            }
            Ok(checked) => checked,
            Err(error) => {
                return self.refuse_work(channel, refusal_of(&error), 0, &error.to_string());
            }
        };
        let at = self.now.wall;
        let expires = at.plus(self.config.retention);
        let Some(reset) = self.resetting(channel) else { return };
        let generation = reset.creation.generation;
        let op = reset.op(generation, state.take_ops(), at, expires);
        let entry = op.entry(0);
        let submitted = Submitted { channel, payload: entry.payload.hash(), entry };
        before.retain(|member| *member != op.founder);
        self.groups.take_over(channel, generation, state);
        self.write_work(channel, submitted, before, StoreOp::ResetChannel(op));
    }

    fn resetting(&self, channel: ChannelId) -> Option<&Resetting> {
        match &self.groups.head(channel)?.kind {
            WorkKind::Reset(reset) => Some(reset),
            _ => None,
        }
    }
}
