//! What an application is told.

use qpc_protocol::client::Profile;
use qpc_protocol::client::event::{
    Comparison, Event, Failed, GroupChange, GroupMember, GroupMetadata, Message, NameConflict,
    Outcome, Sent, Trust, Why,
};
use qpc_protocol::error::PeerFault;
use serde_json::Value;

use super::json::{Json, camel, fields, fields_of, named, object, variant};

impl Json for Event {
    fn json(&self) -> Value {
        match self {
            Self::Online { conn } => named("online", fields!(conn)),
            Self::Synced => named("synced", Value::Null),
            Self::Offline { why, last } => named("offline", fields!(why, last)),
            Self::Done(ticket, outcome) => named("done", fields!(ticket, outcome)),
            Self::Failed(ticket, failed) => named("failed", fields!(ticket, failed)),
            Self::Message(message) => named("message", message.json()),
            Self::Joined { channel, by } => named("joined", fields!(channel, by)),
            Self::Changed(change) => named("changed", change.json()),
            Self::Metadata(metadata) => named("metadata", metadata.json()),
            Self::Evicted { channel, by } => named("evicted", fields!(channel, by)),
            Self::LeaveUndone { channel } => named("leaveUndone", fields!(channel)),
            Self::Unreadable { channel, seq, why } => {
                named("unreadable", fields!(channel, seq, why))
            }
            Self::ForkDetected { channel, agreed, seq, by } => {
                named("forkDetected", fields!(channel, agreed, seq, by))
            }
            Self::ForkSuspected { channel, seq } => named("forkSuspected", fields!(channel, seq)),
            Self::Restored { behind } => named("restored", fields!(behind)),
            Self::RecordLost { channel, what, cost } => {
                named("recordLost", fields!(channel, what, cost))
            }
            Self::Gap { channel, from, to } => named("gap", fields!(channel, from, to)),
            Self::FellOut { channel, why } => named("fellOut", fields!(channel, why)),
            Self::Reset { channel, generation, by } => {
                named("reset", fields!(channel, generation, by))
            }
            Self::Rejoined { channel, epoch, why } => {
                named("rejoined", fields!(channel, epoch, why))
            }
            Self::AccountChanged { username, before, now, trust } => {
                named("accountChanged", fields!(username, before, now, trust))
            }
            Self::NameContradicted { account, claimed, by, conflict } => {
                named("nameContradicted", fields!(account, claimed, by, conflict))
            }
            Self::NotAdded { ticket, channel, device, why } => {
                named("notAdded", fields!(ticket, channel, device, why))
            }
            Self::DeviceAdded { record } => named("deviceAdded", fields!(record)),
            Self::DeviceRevoked { revocation } => named("deviceRevoked", fields!(revocation)),
            Self::ServerFault { conn, fault } => named("serverFault", fields!(conn, fault)),
            Self::SessionEnded(code) => named("sessionEnded", code.json()),
            other => panic!("an event that transcripts do not know: {other:?}"),
        }
    }
}

impl Json for Outcome {
    fn json(&self) -> Value {
        match self {
            Self::Done => "done".into(),
            Self::Account { username, account, device } => {
                named("account", fields!(username, account, device))
            }
            Self::Group(channel) => named("group", channel.json()),
            Self::Epoch(epoch) => named("epoch", epoch.json()),
            Self::Unchanged(epoch) => named("unchanged", epoch.json()),
            Self::Reset { generation, epoch } => named("reset", fields!(generation, epoch)),
            Self::Sent(sent) => named("sent", sent.json()),
            Self::Lookup { username, account, safety_number, trust } => {
                named("lookup", fields!(username, account, safety_number, trust))
            }
            Self::Proofs(proofs) => named("proofs", proofs.json()),
            Self::Compared(comparison) => named("compared", comparison.json()),
            Self::Members(members) => named("members", members.json()),
            Self::Devices(devices) => named("devices", devices.json()),
            Self::KeyPackages { available, last_resort } => {
                named("keyPackages", fields!(available, last_resort))
            }
            Self::Pong(time) => named("pong", time.json()),
            Self::Health { healthy, version, time } => {
                named("health", fields!(healthy, version, time))
            }
            other => panic!("an outcome that transcripts do not know: {other:?}"),
        }
    }
}

impl Json for Failed {
    fn json(&self) -> Value {
        match self {
            Self::Server { code, detail } => named("server", fields!(code, detail)),
            Self::NotAdded { account, why } => named("notAdded", fields!(account, why)),
            Self::Obsolete(why) => named("obsolete", why.json()),
            Self::Unclear(why) => named("unclear", why.json()),
            Self::Untrusted(why) => named("untrusted", why.json()),
            Self::NameChanged(why) => named("nameChanged", why.json()),
            Self::SealedKey => "sealedKey".into(),
            Self::Unreachable(why) => named("unreachable", why.json()),
            other => panic!("a failure that transcripts do not know: {other:?}"),
        }
    }
}

impl Json for Message {
    fn json(&self) -> Value {
        let body = &self.body.to_vec();
        let Self { channel, seq, message, sender, username, trust, time, epoch, .. } = self;
        fields!(channel, seq, message, sender, username, trust, time, epoch, body)
    }
}

impl Json for GroupChange {
    fn json(&self) -> Value {
        fields_of!(self, channel, epoch, by, added, removed, updated, admins)
    }
}

impl Json for GroupMetadata {
    fn json(&self) -> Value {
        fields_of!(self, channel, profile)
    }
}

impl Json for Profile {
    fn json(&self) -> Value {
        fields_of!(self, name, description, avatar)
    }
}

impl Json for GroupMember {
    fn json(&self) -> Value {
        fields_of!(self, leaf, sender, username, admin)
    }
}

impl Json for Sent {
    fn json(&self) -> Value {
        fields_of!(self, channel, message, hash, accepted)
    }
}

impl Json for Comparison {
    fn json(&self) -> Value {
        match self {
            Self::Same { seq } => named("same", fields!(seq)),
            Self::Ahead { seq, agreed } => named("ahead", fields!(seq, agreed)),
            Self::TooOld { seq } => named("tooOld", fields!(seq)),
            Self::Differs { seq } => named("differs", fields!(seq)),
            Self::Stranger | Self::Forged => variant(self).into(),
        }
    }
}

impl Json for Trust {
    fn json(&self) -> Value {
        match self {
            Self::Changed { before, verified } => named("changed", fields!(before, verified)),
            Self::Seen | Self::Verified => variant(self).into(),
        }
    }
}

impl Json for NameConflict {
    fn json(&self) -> Value {
        match self {
            Self::LeadsTo(account) => named("leadsTo", account.json()),
            Self::Unknown => variant(self).into(),
            Self::KnownAs(username) => named("knownAs", username.json()),
        }
    }
}

impl Json for Why {
    fn json(&self) -> Value {
        variant(self).into()
    }
}

impl Json for PeerFault {
    fn json(&self) -> Value {
        object([(&camel("code"), self.code().json()), ("text", self.to_string().into())])
    }
}
