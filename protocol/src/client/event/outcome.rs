//! What commands come to.

use serde::{Deserialize, Serialize};

use super::GroupMember;
use crate::env::UnixMillis;
use crate::error::ErrorCode;
use crate::id::{AccountId, ChannelId, DeviceId, Digest, MessageId};
use crate::wire::message::{Accepted, DeviceEntry, Failure, Username};

/// What a finished command came to.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// Nothing more to say.
    Done,
    /// `register`, `login`.
    Account {
        /// The name.
        username: Username,
        /// The account.
        account: AccountId,
        /// This device.
        device: DeviceId,
    },
    /// `create_group`, `open_direct`.
    Group(ChannelId),
    /// `invite`, `remove`, `update`, `rejoin`, `set_metadata`, `set_role`: the epoch that made it true.
    Epoch(u64),
    /// `invite`: every device that it could add is in the group already, as of this epoch, by somebody else's doing
    /// perhaps while this one was asked for. Nothing was changed by it.
    Unchanged(u64),
    /// `reset`: everybody who can be added is back.
    Reset {
        /// The generation.
        generation: u32,
        /// The epoch that it is in.
        epoch: u64,
    },
    /// `send`: accepted and durable on the server.
    Sent(Sent),
    /// `lookup`.
    Lookup {
        /// The name.
        username: Username,
        /// The account.
        account: AccountId,
        /// 60 digits to compare with that person by another way.
        safety_number: String,
        /// How far it is trusted; `None` for the own account, and for one that there was no room to keep.
        trust: Option<Trust>,
    },
    /// `proofs`, in order of their seqs.
    Proofs(Vec<Sent>),
    /// `compare_checkpoint`.
    Compared(Comparison),
    /// `members`, in order of their leaves.
    Members(Vec<GroupMember>),
    /// `devices`.
    Devices(Vec<DeviceEntry>),
    /// `key_packages`, `refresh_key_packages`.
    KeyPackages {
        /// How many the server holds, of all suites, last-resort ones not counted.
        available: u32,
        /// Whether there is a last-resort one that nobody was given.
        last_resort: bool,
    },
    /// `ping`: the round trip.
    Pong(core::time::Duration),
    /// `health`.
    Health {
        /// Whether the server calls itself healthy.
        healthy: bool,
        /// Its version.
        version: String,
        /// Its clock.
        time: UnixMillis,
    },
}

/// What `send` came to: the delivery proof with all it takes to check it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The group.
    pub channel: ChannelId,
    /// The submission.
    pub message: MessageId,
    /// SHA-256 of the payload.
    pub hash: Digest,
    /// Seq, chain, time, signature.
    pub accepted: Accepted,
}

/// What another member's checkpoint is to the log that was read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The same log.
    Same {
        /// Up to here: as far as the other had read, or up to the last of its links that is remembered here.
        seq: u64,
    },
    /// The other has read further: compare again once this device has, too.
    Ahead {
        /// As far as the other had read.
        seq: u64,
        /// The same log up to here, if there is anything to compare. Without it the signature may be by a key that this
        /// device does not know yet: it is not held against anything.
        agreed: Option<u64>,
    },
    /// Too far back for this device to remember, or signed by a key that the other device had before.
    TooOld {
        /// As far as the other had read.
        seq: u64,
    },
    /// Another log, or another history of the group in the same epoch.
    Differs {
        /// The first seq known to differ.
        seq: u64,
    },
    /// By a device that is no member of the group here.
    Stranger,
    /// Of the same epoch, and not signed by the device that it names.
    Forged,
}

/// How far an account is trusted to be whom its name says. Devices that the account adds or revokes change nothing: its
/// key signs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trust {
    /// The directory said so first, and has not contradicted itself.
    Seen,
    /// People compared safety numbers.
    Verified,
    /// The directory gave this account a name that stood for another. It is neither invited nor written to by that name
    /// until the change is accepted.
    Changed {
        /// The account that the name stood for.
        before: AccountId,
        /// Whether that one was verified.
        verified: bool,
    },
}

/// A contact, for listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustEntry {
    /// Its name.
    pub username: Username,
    /// Its account.
    pub account: AccountId,
    /// How far it is trusted.
    pub trust: Trust,
    /// Since when, by this device's clock.
    pub since: UnixMillis,
}

/// Why a name is not followed: the directory contradicts what it said before, or nothing more is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::client) enum Contradiction {
    /// The name stood for another account.
    Moved,
    /// The account has another name.
    SecondName,
    /// As many contacts are kept as may be: what would contradict it could not be told.
    Full,
}

impl From<Contradiction> for Failed {
    fn from(contradiction: Contradiction) -> Self {
        match contradiction {
            Contradiction::Moved => Self::NameChanged(
                "the name leads to another account than before, which nobody has accepted",
            ),
            Contradiction::SecondName => Self::Untrusted(
                "the directory gives that account, or that name, to somebody else as well",
            ),
            Contradiction::Full => {
                Self::Obsolete("this device keeps no more contacts: forget some first")
            }
        }
    }
}

/// What contradicts a name that a member claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameConflict {
    /// The directory: the name is that account's.
    LeadsTo(AccountId),
    /// The directory: there is no such name. It may have gone with its account.
    Unknown,
    /// The account is a contact of this device by this name, and has one for good.
    KnownAs(Username),
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failed {
    /// The server refused.
    Server {
        /// The stable code.
        code: ErrorCode,
        /// For people.
        detail: String,
    },
    /// No device of an account could be added. The text names the reason of one; each has an
    /// [`Event::NotAdded`](super::Event::NotAdded) of its own.
    NotAdded {
        /// The account.
        account: AccountId,
        /// Why, for people.
        why: String,
    },
    /// What the command asked for cannot come true any more: the group changed, the device was removed.
    Obsolete(&'static str),
    /// Whether a message is in the log cannot be told, and it is not sent again: it might be read twice. The text says
    /// why: its answer is missing for longer than [`RESEND_TIME`](crate::limits::RESEND_TIME), or a later state of this
    /// device may have sent it, of which this is a backup.
    Unclear(&'static str),
    /// The server's answer does not hold: a record wrongly signed, a proof that does not verify.
    Untrusted(&'static str),
    /// The name stands for another account than it did: see [`Trust::Changed`].
    NameChanged(&'static str),
    /// The account's own sealed key does not open: wrong password, or a server that lies.
    SealedKey,
    /// The connection cannot be made, and trying again cannot help.
    Unreachable(String),
}

impl From<&Failure> for Failed {
    fn from(failure: &Failure) -> Self {
        let detail = match failure.detail.as_str() {
            "" => failure.code.text().to_owned(),
            detail => detail.to_owned(),
        };
        Self::Server { code: failure.code, detail }
    }
}
