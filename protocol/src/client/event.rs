//! What a client's machine tells the application.

use zeroize::Zeroizing;

use super::metadata::Profile;
use crate::crypto::identity::{DeviceRecord, Revocation};
use crate::env::UnixMillis;
use crate::error::{ErrorCode, PeerFault};
use crate::id::{AccountId, ChannelId, Digest, MessageId, Sender};
use crate::io::{ConnId, Ticket};
use crate::mls::suite::Suite;
use crate::wire::message::{ChannelKind, Username};

mod outcome;

pub(super) use outcome::Contradiction;
pub use outcome::{Comparison, Failed, NameConflict, Outcome, Sent, Trust, TrustEntry};

/// Something for the application.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A session is open. From here on commands reach the server.
    Online {
        /// The connection.
        conn: ConnId,
    },
    /// Every log was read to the head that the server named when the session opened.
    Synced,
    /// The connection is gone; the machine tries again by itself unless `last`.
    Offline {
        /// Why, for people.
        why: String,
        /// Trying again cannot help: wrong certificate, revoked device, ended session.
        last: bool,
    },
    /// A command is done.
    Done(Ticket, Outcome),
    /// A command failed for good; what it changed is undone.
    Failed(Ticket, Failed),
    /// A message, or one not acknowledged before a restart. It comes again after each restart until
    /// [`Client::ack`](super::Client::ack).
    Message(Message),
    /// This device is in a new group.
    Joined {
        /// The group.
        channel: ChannelId,
        /// Who added it.
        by: Sender,
    },
    /// A group has moved to a new epoch.
    Changed(GroupChange),
    /// A group's sealed metadata arrived or changed.
    Metadata(GroupMetadata),
    /// This device is no member of that group any more.
    Evicted {
        /// The group.
        channel: ChannelId,
        /// Who did it, as far as known.
        by: Option<Sender>,
    },
    /// This device had left that group, its removal did not come true before it became its last admin, and so it is
    /// a member still: name another admin, and leave again.
    LeaveUndone {
        /// The group.
        channel: ChannelId,
    },
    /// An entry of a log could not be used, and why; it is passed over.
    Unreadable {
        /// The group.
        channel: ChannelId,
        /// The entry.
        seq: u64,
        /// Why, for people.
        why: String,
    },
    /// The log of this device contradicts another one of the same channel: the first entry that differs is behind
    /// `agreed`, and not behind `seq`.
    ForkDetected {
        /// The group.
        channel: ChannelId,
        /// The last seq up to which both are known to be the same: by what the same member, or the server, said of its
        /// log before, since this machine started. 0 if it said nothing that could be compared.
        agreed: u64,
        /// The first seq at which they are known to differ: of all that is known, not of all there is. One more than
        /// `agreed` names the entry.
        seq: u64,
        /// `None`: the server contradicts itself before this device, by entries it showed or answers it signed. A member's
        /// device: that one signed, in a message or a checkpoint, that it read another log. Then either the server
        /// shows members different logs, or that member does not tell the truth: nothing here can tell which, two more
        /// members who compare can.
        by: Option<Sender>,
    },
    /// The server's answer about a log does not hold, without proof of two different logs.
    ForkSuspected {
        /// The group.
        channel: ChannelId,
        /// The seq it is about.
        seq: u64,
    },
    /// The server has seen later state of this device than there is here: a backup was restored. Nothing is
    /// encrypted in any group before this device has come back to it by new keys: [`Event::Rejoined`].
    Restored {
        /// How many batches are missing.
        behind: u64,
    },
    /// A stored record of this device did not read, and is gone; the device goes on without it.
    RecordLost {
        /// The group that it was about, if it was about one.
        channel: Option<ChannelId>,
        /// What it held, for people.
        what: &'static str,
        /// What its loss costs, or what is to be done, for people.
        cost: &'static str,
    },
    /// A log has entries that this device is not going to read: they are gone, since it was away longer than they are
    /// kept; or it has reset a group whose log it could not read.
    Gap {
        /// The group.
        channel: ChannelId,
        /// First seq missed.
        from: u64,
        /// First seq behind them.
        to: u64,
    },
    /// This device cannot go on in a group with the state that it has. Nothing is sent there until it has come back,
    /// which it tries by itself, at most once an hour.
    FellOut {
        /// The group.
        channel: ChannelId,
        /// What it knows that by.
        why: Why,
    },
    /// The channel's group has ended: an admin began another one in its place. Who was in it is added anew; what was
    /// not sent yet goes out there. Of a reset by this device: its log has shown it.
    Reset {
        /// The group.
        channel: ChannelId,
        /// The generation that has begun.
        generation: u32,
        /// Who began it.
        by: Sender,
    },
    /// This device has replaced its own leaf by a new one and is in the group again. What was written between what it
    /// had read and its return stays unread, unless the log could be followed all the same.
    Rejoined {
        /// The group.
        channel: ChannelId,
        /// The epoch that it is back with.
        epoch: u64,
        /// Why it had to.
        why: Why,
    },
    /// A username now leads to another account than before: tell the person, do not go on silently.
    AccountChanged {
        /// The name.
        username: Username,
        /// The account it led to.
        before: AccountId,
        /// The account it leads to.
        now: AccountId,
        /// How far it is trusted: [`Trust::Changed`], or as before if the name leads back to where it did. Told
        /// again after every restart until the change is accepted.
        trust: Trust,
    },
    /// A member says that an account has a name which the directory, or what is known here, does not give it: that
    /// member or the server does not tell the truth. The name is not shown. Told once for each such claim since this
    /// machine started, and at most [`NAME_CONFLICTS_OF_MEMBER`](crate::limits::NAME_CONFLICTS_OF_MEMBER) times for
    /// each member.
    NameContradicted {
        /// The account that is said to be called so.
        account: AccountId,
        /// The name.
        claimed: Username,
        /// The member who says it: the account itself, or another, as whoever adds somebody says who is there.
        by: AccountId,
        /// What contradicts it.
        conflict: NameConflict,
    },
    /// A device of an account could not be added; the others of the invitation, or of the reset, were, if there are
    /// any. Before its `Done` or `Failed`. A device that a reset left out is tried again for a month. Of a direct
    /// channel: no device could be added yet, and they are tried again until one is.
    NotAdded {
        /// The invitation, the reset, or the opening.
        ticket: Ticket,
        /// The group.
        channel: ChannelId,
        /// The device.
        device: Sender,
        /// Why, for people.
        why: String,
    },
    /// The account has another device, by a record that the account key signed. It is being added to the groups here.
    DeviceAdded {
        /// Its record.
        record: DeviceRecord,
    },
    /// The account has revoked another device. It is being removed from the groups here.
    DeviceRevoked {
        /// The account's word on it.
        revocation: Revocation,
    },
    /// The server broke the protocol; its connection was closed.
    ServerFault {
        /// The connection.
        conn: ConnId,
        /// How.
        fault: PeerFault,
    },
    /// The session ended for good: logged out elsewhere, device revoked, account deleted.
    SessionEnded(ErrorCode),
}

/// Why a device cannot go on in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Why {
    /// Its state is an older one than it once had: keys may have been used since.
    Restored,
    /// Entries that it has not read are gone: it was away longer than they are kept.
    Gap,
    /// The group's stored records do not load.
    Damaged,
    /// A commit that a member signed does not open here.
    Unopened,
    /// The group has moved on by a commit that it could not use.
    Missed,
    /// The application asked for it.
    Asked,
    /// It was added by a key package that its state, an older one, does not know: it cannot open the welcome.
    Added,
    /// No commit gets through: the server insists on a proposal that is of no use here, or takes not even one of new
    /// keys for this device.
    Blocked,
}

/// What a group shows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMetadata {
    /// The group.
    pub channel: ChannelId,
    /// Its name and the rest.
    pub profile: Profile,
}

/// A received message.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// The group.
    pub channel: ChannelId,
    /// Its place in the log.
    pub seq: u64,
    /// Its name across resends.
    pub message: MessageId,
    /// Who sent it, by MLS and the device record.
    pub sender: Sender,
    /// The sender's username, if known.
    pub username: Option<Username>,
    /// How far it is trusted; `None` without a username, and for the own account.
    pub trust: Option<Trust>,
    /// When the server accepted it, by the server's clock.
    pub time: UnixMillis,
    /// The epoch it was sent in.
    pub epoch: u64,
    /// The content.
    pub body: Zeroizing<Vec<u8>>,
}

impl core::fmt::Debug for Message {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Message({:?} #{}, {} bytes)", self.channel, self.seq, self.body.len())
    }
}

/// A step of a group from one epoch to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupChange {
    /// The group.
    pub channel: ChannelId,
    /// The new epoch.
    pub epoch: u64,
    /// Who committed.
    pub by: Sender,
    /// Devices added.
    pub added: Vec<Sender>,
    /// Devices removed.
    pub removed: Vec<Sender>,
    /// Devices with a new device key.
    pub updated: Vec<Sender>,
    /// Who the admins are from now on, if the group's data changed.
    pub admins: Option<Vec<AccountId>>,
}

/// A group as this device knows it, for listing.
#[derive(Clone, PartialEq, Eq)]
pub struct GroupSummary {
    /// The group.
    pub channel: ChannelId,
    /// Whether it is a group, or the direct channel with another account.
    pub kind: ChannelKind,
    /// Its name, if its metadata arrived; of a direct channel: the other's username, if the directory confirmed it and
    /// it is no changed one that nobody has accepted.
    pub name: Option<String>,
    /// What it is about; empty if nothing is said of that, or its metadata did not arrive yet.
    pub description: String,
    /// SHA-256 of its picture.
    pub avatar: Option<Digest>,
    /// Its suite.
    pub suite: Suite,
    /// How many groups there have been in its channel: 1, and one more with every reset.
    pub generation: u32,
    /// Its epoch here.
    pub epoch: u64,
    /// Read up to here.
    pub cursor: u64,
    /// The log's chain up to there.
    pub chain: Digest,
    /// Whether this device still is a member.
    pub member: bool,
    /// The epoch authenticator: equal on all members of the epoch.
    pub authenticator: Vec<u8>,
    /// How many devices are members.
    pub members: u32,
    /// Messages stored here that the application has not acknowledged.
    pub unread: u32,
}

impl core::fmt::Debug for GroupSummary {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("GroupSummary")
            .field("channel", &self.channel)
            .field("kind", &self.kind)
            .field("suite", &self.suite)
            .field("generation", &self.generation)
            .field("epoch", &self.epoch)
            .field("cursor", &self.cursor)
            .field("chain", &self.chain)
            .field("member", &self.member)
            .field("members", &self.members)
            .field("unread", &self.unread)
            .finish_non_exhaustive()
    }
}

/// A member of a group, for listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Its leaf.
    pub leaf: u32,
    /// Who.
    pub sender: Sender,
    /// Its name, if known.
    pub username: Option<Username>,
    /// Whether it may change who is in the group.
    pub admin: bool,
}
