//! Channels: their founding, and what members may know of them.

use bytes::Bytes;

use super::Server;
use super::connection::{Call, Peer};
use super::job::ServerJob;
use super::stored::{Step, Task};
use crate::error::ErrorCode;
use crate::id::{AccountId, ChannelId, GroupId, Sender};
use crate::limits;
use crate::mls::MlsError;
use crate::mls::public::PublicState;
use crate::server::audit::AuditKind;
use crate::server::op::{Member, StoreOp, StoreReply};
use crate::wire::message::ChannelKind;

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
        if generation > 1 {
            let detail = "a channel begins with its first generation";
            return self.create_refused(call, channel, ErrorCode::GenerationMismatch, detail);
        }
        let job = ServerJob::Create {
            backend: self.config.backend,
            id: GroupId::of(channel, generation),
            creator: Member { sender: peer.sender, device_key: peer.device_key },
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
        let mut state = match result {
            Ok(state) => state,
            Err(error) => {
                let code = match error {
                    MlsError::Suite => ErrorCode::SuiteNotAllowed,
                    MlsError::Record => ErrorCode::RecordInvalid,
                    _ => ErrorCode::CommitInvalid,
                };
                return self.create_refused(call, channel, code, &error.to_string());
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
        let Creation { channel, generation, creator, .. } = *creation;
        if reply == StoreReply::refused(ErrorCode::ChannelExists) {
            // Perhaps this very founding, sent again after its answer was lost.
            let op = StoreOp::LoadGroupInfo { channel, reader: creator };
            return self.store(Step::ChannelAgain(call, creation), op);
        }
        if reply != StoreReply::Done {
            return self.refusal(call, Some(AuditKind::ChannelCreate), Some(channel), &reply);
        }
        self.audit(AuditKind::ChannelCreate, Some(call.conn), Some(channel), None);
        self.groups.founded(channel, generation, state);
        self.plain(call, reply);
    }

    pub(super) fn channel_found(&mut self, call: Call, creation: &Creation, reply: StoreReply) {
        let same = matches!(reply, StoreReply::GroupInfo { generation, group_info, .. }
            if generation == creation.generation && group_info == creation.group_info);
        if same {
            return self.plain(call, StoreReply::Done);
        }
        self.create_refused(call, creation.channel, ErrorCode::ChannelExists, "");
    }

    pub(super) fn channel_list(&mut self, call: Call, reader: Sender, after: Option<ChannelId>) {
        let op = StoreOp::ListChannels { reader, after, most: limits::CHANNELS_LISTED as u32 };
        self.store(Step::ChannelList(call), op);
    }
}
