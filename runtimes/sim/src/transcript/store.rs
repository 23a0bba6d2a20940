//! What the server's machine asks of its store, and is answered.

use qpc_protocol::server::op::{
    AccountRow, Append, Commit, KeyPackageRow, Member, Reset, StoreOp, StoreReply,
};
use qpc_protocol::store::batch::Op;
use serde_json::Value;

use super::json::{Json, fields, fields_of, hex, named, object};

impl Json for Op {
    fn json(&self) -> Value {
        match self {
            Self::Put(key, value) => object([("put", hex(key)), ("value", value.json())]),
            Self::Delete(key) => named("delete", hex(key)),
            Self::DeletePrefix(prefix) => named("deletePrefix", hex(prefix)),
        }
    }
}

impl Json for StoreOp {
    fn json(&self) -> Value {
        match self {
            Self::CreateAccount(row) => named("createAccount", row.json()),
            Self::FindAccount { username } => named("findAccount", fields!(username)),
            Self::DeleteAccount { account, at } => named("deleteAccount", fields!(account, at)),
            Self::PutDevice { record, envelope_keys, most, at, expires } => {
                named("putDevice", fields!(record, envelope_keys, most, at, expires))
            }
            Self::ListDevices { account } => named("listDevices", fields!(account)),
            Self::RevokeDevice { revocation, by, most, at, expires } => {
                named("revokeDevice", fields!(revocation, by, most, at, expires))
            }
            Self::OpenSession { sender, issued, state_version, at } => {
                named("openSession", fields!(sender, issued, state_version, at))
            }
            Self::PutRefresh { sender, device_key, hash, expires } => {
                named("putRefresh", fields!(sender, device_key, hash, expires))
            }
            Self::FindRefresh { sender, hash, at } => {
                named("findRefresh", fields!(sender, hash, at))
            }
            Self::RotateRefresh { sender, old, new, expires, at } => {
                named("rotateRefresh", fields!(sender, old, new, expires, at))
            }
            Self::EndTokens { sender, at } => named("endTokens", fields!(sender, at)),
            Self::PutKeyPackages { sender, packages, last_resort, most, at } => {
                named("putKeyPackages", fields!(sender, packages, last_resort, most, at))
            }
            Self::CountKeyPackages { sender, suite, at } => {
                named("countKeyPackages", fields!(sender, suite, at))
            }
            Self::ClaimKeyPackages { account, suite, device, at } => {
                named("claimKeyPackages", fields!(account, suite, device, at))
            }
            other => of_channels(other),
        }
    }
}

/// The other half: channels, their logs, blobs.
fn of_channels(op: &StoreOp) -> Value {
    use StoreOp as S;
    match op {
        S::CreateChannel { channel, kind, generation, creator, with, group, group_info, at } => {
            named(
                "createChannel",
                fields!(channel, kind, generation, creator, with, group, group_info, at),
            )
        }
        S::ResetChannel(reset) => named("resetChannel", reset.json()),
        S::ChannelInfo { channel, reader } => named("channelInfo", fields!(channel, reader)),
        S::ListChannels { reader, after, most } => {
            named("listChannels", fields!(reader, after, most))
        }
        S::LoadGroup { channel } => named("loadGroup", fields!(channel)),
        S::LoadGroupInfo { channel, reader } => named("loadGroupInfo", fields!(channel, reader)),
        S::Append(append) => named("append", append.json()),
        S::Commit(commit) => named("commit", commit.json()),
        S::Fetch { channel, reader, after, most, bytes, at } => {
            named("fetch", fields!(channel, reader, after, most, bytes, at))
        }
        S::Ack { channel, reader, seq } => named("ack", fields!(channel, reader, seq)),
        S::PutBlob { sender, hash, total, offset, chunk, most, uploads, expires } => {
            named("putBlob", fields!(sender, hash, total, offset, chunk, most, uploads, expires))
        }
        S::GetBlob { hash, offset, most, at } => named("getBlob", fields!(hash, offset, most, at)),
        S::Sweep { at, most } => named("sweep", fields!(at, most)),
        other => panic!("an operation that transcripts do not know: {other:?}"),
    }
}

impl Json for StoreReply {
    fn json(&self) -> Value {
        match self {
            Self::Done => "done".into(),
            Self::Refused { code, epoch } => named("refused", fields!(code, epoch)),
            Self::Account(row) => named("account", row.json()),
            Self::Devices(devices) => named("devices", devices.json()),
            Self::Session { username, record, state_version } => {
                named("session", fields!(username, record, state_version))
            }
            Self::RefreshKey(key) => named("refreshKey", key.json()),
            Self::TokensFrom(from) => named("tokensFrom", from.json()),
            Self::Told { entries, more } => named("told", fields!(entries, more)),
            Self::KeyPackages { available, last_resort } => {
                named("keyPackages", fields!(available, last_resort))
            }
            Self::Claimed(claimed) => named("claimed", claimed.json()),
            Self::Channel(info) => named("channel", info.json()),
            Self::Channels(channels, more) => named("channels", fields!(channels, more)),
            Self::Group { generation, epoch, records } => {
                named("group", fields!(generation, epoch, records))
            }
            Self::GroupInfo { generation, epoch, group_info, seq, chain } => {
                named("groupInfo", fields!(generation, epoch, group_info, seq, chain))
            }
            Self::Appended { seq, chain, time, duplicate, inboxes } => {
                named("appended", fields!(seq, chain, time, duplicate, inboxes))
            }
            Self::Entries { entries, head, first } => {
                named("entries", fields!(entries, head, first))
            }
            Self::BlobPut(received) => named("blobPut", received.json()),
            Self::Blob { total, chunk } => named("blob", fields!(total, chunk)),
            Self::Swept(removed) => named("swept", removed.json()),
        }
    }
}

impl Json for AccountRow {
    fn json(&self) -> Value {
        fields_of!(self, username, account, opaque_record, sealed_account_key, created)
    }
}

impl Json for KeyPackageRow {
    fn json(&self) -> Value {
        fields_of!(self, hash, suite, expires, package)
    }
}

impl Json for Member {
    fn json(&self) -> Value {
        fields_of!(self, sender, device_key)
    }
}

impl Json for Append {
    fn json(&self) -> Value {
        fields_of!(
            self,
            channel,
            generation,
            epoch,
            past_epochs,
            sender,
            message,
            hash,
            kind,
            payload,
            group,
            at,
            expires
        )
    }
}

impl Json for Commit {
    fn json(&self) -> Value {
        fields_of!(
            self, channel, generation, epoch, sender, message, hash, commit, group_info, tree,
            group, adds, welcomes, removes, at, expires
        )
    }
}

impl Json for Reset {
    fn json(&self) -> Value {
        fields_of!(
            self, channel, generation, founder, message, hash, group, group_info, at, expires
        )
    }
}
