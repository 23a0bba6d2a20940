//! The reference store: everything in memory.

mod accounts;
mod blobs;
mod channels;
mod keys;
mod log;
mod sweep;

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};

use super::op::{StoreOp, StoreReply};
use crate::error::ErrorCode;
use crate::id::{AccountId, ChannelId, Digest, Sender};
use crate::wire::message::Username;

/// A store in memory; the meaning of [`StoreOp`] in code.
///
/// It never fails and keeps nothing on a disk: for tests, simulations, and as the measure of other backends. Its
/// `Clone` is a snapshot.
#[derive(Clone, Default)]
pub struct MemoryStore {
    usernames: BTreeMap<Username, AccountId>,
    /// `None`: deleted; its id and its name stay taken.
    accounts: BTreeMap<AccountId, Option<accounts::Account>>,
    devices: BTreeMap<Sender, accounts::Device>,
    refresh: BTreeMap<Sender, accounts::Refresh>,
    keys: BTreeMap<Sender, keys::Keys>,
    channels: BTreeMap<ChannelId, channels::Channel>,
    /// Every membership there ever was, by device.
    memberships: BTreeSet<(Sender, ChannelId)>,
    submissions: BTreeMap<Sender, log::Submissions>,
    blobs: BTreeMap<Digest, blobs::Blob>,
    uploads: BTreeMap<(Digest, Sender), blobs::Upload>,
}

/// Why an operation was refused.
struct Refusal {
    code: ErrorCode,
    epoch: u64,
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self { code, epoch: 0 }
    }
}

type Answer = Result<StoreReply, Refusal>;

impl MemoryStore {
    /// Executes operations in order, as one transaction.
    pub fn apply(&mut self, ops: &[StoreOp]) -> Vec<StoreReply> {
        ops.iter()
            .map(|op| {
                self.execute(op)
                    .unwrap_or_else(|Refusal { code, epoch }| StoreReply::Refused { code, epoch })
            })
            .collect()
    }

    fn execute(&mut self, op: &StoreOp) -> Answer {
        use StoreOp as Op;
        match op {
            Op::CreateAccount(row) => self.create_account(row),
            Op::FindAccount { username } => Ok(self.find_account(username)),
            Op::DeleteAccount { account, at: _ } => self.delete_account(*account),
            Op::PutDevice { record, envelope_keys, most, at, expires } => {
                let life = accounts::Life { at: *at, expires: *expires };
                self.put_device(record, envelope_keys, *most, life)
            }
            Op::ListDevices { account } => Ok(self.list_devices(*account)),
            Op::RevokeDevice { revocation, by, most, at, expires } => {
                let life = accounts::Life { at: *at, expires: *expires };
                self.revoke_device(revocation, *by, *most, life)
            }
            Op::OpenSession { sender, issued, state_version, at } => {
                self.open_session(*sender, *issued, *state_version, *at)
            }
            Op::PutRefresh { sender, device_key, hash, expires } => {
                self.put_refresh(*sender, *device_key, *hash, *expires)
            }
            Op::FindRefresh { sender, hash, at } => self.find_refresh(*sender, *hash, *at),
            Op::RotateRefresh { sender, old, new, expires, at } => {
                self.rotate_refresh(*sender, *old, *new, *expires, *at)
            }
            Op::EndTokens { sender, at } => Ok(self.end_tokens(*sender, *at)),
            Op::PutKeyPackages { sender, packages, last_resort, most, at } => {
                self.put_key_packages(*sender, packages, last_resort.as_ref(), *most, *at)
            }
            Op::CountKeyPackages { sender, suite, at } => {
                Ok(self.count_key_packages(*sender, *suite, *at))
            }
            Op::ClaimKeyPackages { account, suite, device, at } => {
                self.claim_key_packages(*account, *suite, *device, *at)
            }
            Op::CreateChannel {
                channel,
                kind,
                generation,
                creator,
                with,
                group,
                group_info,
                at: _,
            } => {
                let (kind, generation, with) = (*kind, *generation, *with);
                let new = channels::New { kind, generation, with, group, group_info };
                self.create_channel(*channel, *creator, &new)
            }
            Op::ResetChannel(reset) => self.reset_channel(reset),
            Op::ChannelInfo { channel, reader } => self.channel_info(*channel, *reader),
            Op::ListChannels { reader, after, most } => {
                Ok(self.list_channels(*reader, *after, *most))
            }
            Op::LoadGroup { channel } => self.load_group(*channel),
            Op::LoadGroupInfo { channel, reader } => self.load_group_info(*channel, *reader),
            Op::Append(append) => self.append(append),
            Op::Commit(commit) => self.commit(commit),
            Op::Fetch { channel, reader, after, most, bytes, at } => {
                let span = log::Span { after: *after, most: *most, bytes: *bytes };
                self.fetch(*channel, *reader, &span, *at)
            }
            Op::Ack { channel, reader, seq } => self.ack(*channel, *reader, *seq),
            Op::PutBlob { sender, hash, total, offset, chunk, most, uploads, expires } => {
                let upload = (*hash, *sender);
                let bounds = blobs::Bounds { most: *most, uploads: *uploads };
                self.put_blob(upload, *total, *offset, chunk, &bounds, *expires)
            }
            Op::GetBlob { hash, offset, most, at } => self.get_blob(*hash, *offset, *most, *at),
            Op::Sweep { at, most } => Ok(StoreReply::Swept(self.sweep(*at, *most))),
        }
    }
}

// What is stored includes password files: only sizes are shown.
impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("accounts", &self.accounts.len())
            .field("devices", &self.devices.len())
            .field("channels", &self.channels.len())
            .field("blobs", &self.blobs.len())
            .finish()
    }
}
