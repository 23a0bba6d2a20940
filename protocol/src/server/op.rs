//! Everything that a server's store must be able to do, as values.
//!
//! A runtime executes all operations that are ready as **one transaction**, in the order they came out,
//! and hands each its [`StoreReply`]. An operation sees the effects of those before it. A reply of
//! [`StoreReply::Refused`] is an ordinary answer: that operation changed nothing, the others stand.
//! [`MemoryStore`](crate::server::memory::MemoryStore) is the reference: a backend is right if it
//! answers every sequence of operations as that one does.
//!
//! Rules that hold for all of them:
//!
//! * Time comes in the operation (`at`); a store has no clock. What `expires` at a moment is gone from that
//!   moment on, swept or not.
//! * A revoked or deleted device counts as no member and has no session, and its inbox is gone. It holds back
//!   no entries either.
//! * Reasons to refuse are looked for in the order in which they are listed.
//! * The memory of a submission goes [`RESEND_TIME`](crate::limits::RESEND_TIME) after its entry `expires`.
//! * Order in time is kept where clocks are not: an entry never ends before the one it follows in its channel,
//!   nor the memory of a submission before that of the device's submission before; a shorter `expires` is raised.
//! * A key package holds if it has not ended, and its end is no further away than
//!   [`latest_end`]. One that does not hold yet is neither counted nor handed out.
//! * Lists come back in ascending order of their ids (key packages in order of upload).

use bytes::Bytes;

use crate::crypto::identity::{DeviceRecord, EnvelopeKeys, Revocation};
use crate::env::UnixMillis;
use crate::error::ErrorCode;
use crate::id::{AccountId, ChannelId, DeviceId, Digest, MessageId, Sender};
use crate::mls::key_package::latest_end;
use crate::mls::suite::Suite;
use crate::store::batch::Op;
use crate::wire::message::{
    ChannelInfo, ChannelKind, ClaimedKeyPackage, DeviceEntry, Entry, EntryKind, Part, Username,
};

/// One operation.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "a variant names its fields; the line above it says what they are")]
pub enum StoreOp {
    /// → `Done`, or `UsernameTaken`, `AccountExists`.
    CreateAccount(AccountRow),
    /// → `Account`.
    FindAccount { username: Username },
    /// Deletes the account, its devices, inboxes, key packages, refresh tokens and memberships (each `left_seq` =
    /// head). The username and the account id stay taken. → `Done`, or `AccountUnknown`.
    DeleteAccount { account: AccountId, at: UnixMillis },

    /// Registers a device, with its inbox, or replaces its record and envelope keys, and tells the account's other
    /// active devices: one `Device` entry ([`notice`], from that device) to the inbox of each. The same record again
    /// tells nobody, and replaces envelope keys of a lower sequence. The device's refresh token is its new key's from
    /// then on, and key packages made with another key go. → `Told`, or `AccountUnknown`, `DeviceRevoked`,
    /// `RecordStale` (sequence not above the stored one's, and not the same record), `DeviceLimit` (above `most`
    /// active ones), `ChannelExists` (another channel has the inbox's id).
    PutDevice {
        record: DeviceRecord,
        envelope_keys: EnvelopeKeys,
        most: u32,
        at: UnixMillis,
        expires: UnixMillis,
    },
    /// → `Devices`, revoked ones included; empty for an unknown account.
    ListDevices { account: AccountId },
    /// Revokes: key packages, refresh token and inbox go, and the account's other active devices are told: one
    /// `Revocation` entry ([`notice`], from `by`) to the inbox of each. Then the groups: the same entry, in the
    /// channel's generation and epoch, to up to `most` channels, in order of their ids, in which the device has no
    /// `left_seq`; the entry's seq becomes it. Again: the first revocation stays, and the next `most` channels are
    /// told. → `Told`, or `DeviceUnknown`.
    RevokeDevice {
        revocation: Revocation,
        by: Sender,
        most: u32,
        at: UnixMillis,
        expires: UnixMillis,
    },
    /// Opens a session: the device has to be active and its tokens issued at or after its
    /// `tokens_from`. Raises its `state_version` to the maximum of both and sets `last_seen` to the hour that has
    /// begun. → `Session`, or `DeviceUnknown`, `DeviceRevoked`, `TokenInvalid`.
    OpenSession { sender: Sender, issued: UnixMillis, state_version: u64, at: UnixMillis },
    /// Stores a device's only refresh token in place of any before; the device need not be registered yet.
    /// → `TokensFrom`, or `AccountUnknown`, `DeviceRevoked`.
    PutRefresh { sender: Sender, device_key: [u8; 32], hash: Digest, expires: UnixMillis },
    /// The device key stored beside the refresh token of that hash. → `RefreshKey`, or `TokenInvalid` (no such
    /// token of this device), `TokenExpired`.
    FindRefresh { sender: Sender, hash: Digest, at: UnixMillis },
    /// Replaces a refresh token by its successor. → `TokensFrom`, or `TokenInvalid` (also if the device is
    /// revoked), `TokenExpired`.
    RotateRefresh { sender: Sender, old: Digest, new: Digest, expires: UnixMillis, at: UnixMillis },
    /// Ends all tokens of a device: drops the refresh token, raises `tokens_from` to 1 ms above `at` and above what it
    /// was (if the device is registered). → `Done`.
    EndTokens { sender: Sender, at: UnixMillis },

    /// Adds key packages and, if given, replaces the last-resort one of the same suite (which stays given to somebody
    /// if it is the same package). All or nothing; the same package again is ignored, also when it was claimed
    /// meanwhile (a resend must not have it handed out twice), and so is an expired one. Above `most` unexpired ones
    /// the oldest are given up: a device may always refresh what others add it by. → `KeyPackages`, or `DeviceUnknown`,
    /// `DeviceRevoked`, `KeyPackageQuota` (more than `most` new ones at once).
    PutKeyPackages {
        sender: Sender,
        packages: Vec<KeyPackageRow>,
        last_resort: Option<KeyPackageRow>,
        most: u32,
        at: UnixMillis,
    },
    /// Those that hold at `at`, of all suites or of the one, and whether there is such a last-resort one that nobody
    /// was given yet. → `KeyPackages`.
    CountKeyPackages { sender: Sender, suite: Option<Suite>, at: UnixMillis },
    /// For each active device of the account, or for the one: the oldest package of the suite that holds, removed; else
    /// the last-resort one of that suite if it holds, kept; else none. → `Claimed`, or `AccountUnknown`.
    ClaimKeyPackages { account: AccountId, suite: Suite, device: Option<DeviceId>, at: UnixMillis },

    /// Creates a channel with its first member; a direct one `with` another account. → `Done`, or `ChannelExists`,
    /// `DeviceUnknown`, `DeviceRevoked`, `AccountUnknown` (the other).
    CreateChannel {
        channel: ChannelId,
        kind: ChannelKind,
        generation: u32,
        creator: Sender,
        with: Option<AccountId>,
        group: Vec<Op>,
        group_info: Bytes,
        at: UnixMillis,
    },
    /// Ends a channel's group and begins the next generation. → `Appended`; see [`Reset`].
    ResetChannel(Reset),
    /// → `Channel`, or `ChannelUnknown`, `NotMember`.
    ChannelInfo { channel: ChannelId, reader: Sender },
    /// Channels that the device is a present member of, its inbox included, ids above `after`. → `Channels`.
    ListChannels { reader: Sender, after: Option<ChannelId>, most: u32 },
    /// The public group state. → `Group`, or `ChannelUnknown`.
    LoadGroup { channel: ChannelId },
    /// The GroupInfo for joining anew. → `GroupInfo`, or `ChannelUnknown`, `GenerationMismatch` (a member until the
    /// last reset), `NotMember`.
    LoadGroupInfo { channel: ChannelId, reader: Sender },

    /// Appends one entry. Checks, in this order: the same (sender, message id) remembered: the same hash →
    /// the first answer with `duplicate` and no `inboxes`, another → `MessageIdReused`; `ChannelUnknown`; `NotMember`
    /// (never was one); `GenerationMismatch`; `NotMember` (not any more); `FutureEpoch`; `StaleEpoch` (more than
    /// `past_epochs` behind). → `Appended`.
    Append(Append),
    /// Accepts a commit. Checks as `Append` with `past_epochs` 0, but a passed epoch is `EpochConflict`; then
    /// every added device must be active and registered with that device key, else `RecordInvalid`; then a commit in a
    /// blob must be a whole, unexpired one of that length, else `BlobUnknown`. It is kept as long as the entry.
    /// Then at once: entry appended (kind `Commit`), epoch raised by one, group records changed, GroupInfo
    /// replaced, tree kept as a blob, removed devices' `left_seq` and added devices' `joined_seq` set to its
    /// seq, the new members' cursors too, one `Welcome` entry appended to the inbox of each added device (the first of
    /// `adds` gets the first of `welcomes`, and so on; its `tree` is zeros if there is no tree). Removals come first: a
    /// device in both lists, or one that had left before, begins anew and reads nothing from before; but one whose
    /// `left_seq` is that of the last [`Reset`] reads on where it was. → `Appended`.
    Commit(Commit),
    /// Entries after `after` that the reader may read: those with `joined_seq` < seq ≤ `left_seq`, unexpired at
    /// `at`. Stops before exceeding `most` entries or `bytes` inline payload bytes, but returns at least one if there
    /// is one. → `Entries`, or `ChannelUnknown`, `NotMember` (never was one), `CursorInvalid` (after > the reader's
    /// head: its `left_seq` if it was removed).
    Fetch { channel: ChannelId, reader: Sender, after: u64, most: u32, bytes: u64, at: UnixMillis },
    /// Raises the reader's cursor; then entries that every present member and every removed one short of its
    /// `left_seq` has passed go. A lower seq changes nothing. → `Done`, or `ChannelUnknown`, `NotMember` (never was
    /// one), `CursorInvalid` (seq > the reader's head).
    Ack { channel: ChannelId, reader: Sender, seq: u64 },

    /// Appends a chunk to the sender's own upload of that hash, at `offset`, which must be what the store has of it;
    /// else only tells, and so does an empty chunk. What others upload under the same hash is theirs: nobody can spoil
    /// it. Of an upload with another `total` the store has nothing, and its first chunk takes the other's place. A
    /// sender has at most `uploads` unfinished ones: one more ends those whose `expires` come first (of equal ones that
    /// of the lower hash). A whole blob is everyone's: it is only told, and kept until the later `expires`. The last
    /// chunk checks the hash, and ends all uploads of it. → `BlobPut`, or `BlobTooLarge` (total above `most`),
    /// `BlobMismatch` (also beyond `total`; what was received is dropped).
    PutBlob {
        sender: Sender,
        hash: Digest,
        total: u64,
        offset: u64,
        chunk: Bytes,
        most: u64,
        uploads: u32,
        expires: UnixMillis,
    },
    /// → `Blob` of a complete, unexpired blob, or `BlobUnknown`, `CursorInvalid` (offset > total).
    GetBlob { hash: Digest, offset: u64, most: u64, at: UnixMillis },

    /// Removes up to `most` each of what has expired at `at`, in no promised order: entries, remembered submissions,
    /// key packages (also the memory of claimed ones), blobs, refresh tokens. → `Swept`.
    Sweep { at: UnixMillis, most: u32 },
}

/// An account as stored.
#[derive(Clone, PartialEq, Eq)]
pub struct AccountRow {
    /// Its name.
    pub username: Username,
    /// Itself.
    pub account: AccountId,
    /// The OPAQUE password file, 192 bytes.
    pub opaque_record: Bytes,
    /// The sealed account key.
    pub sealed_account_key: Bytes,
    /// When it was made.
    pub created: UnixMillis,
}

// A password file is what an attacker needs for guessing offline: it never reaches a log line.
impl core::fmt::Debug for AccountRow {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "AccountRow({}, {:?})", self.username, self.account)
    }
}

/// A key package as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPackageRow {
    /// SHA-256 of the package.
    pub hash: Digest,
    /// Its suite.
    pub suite: Suite,
    /// When it ends.
    pub expires: UnixMillis,
    /// The MLSMessage.
    pub package: Bytes,
}

impl KeyPackageRow {
    /// Whether it holds, in the place of an ordinary one or of the last resort.
    pub(super) fn holds(&self, last_resort: bool, at: UnixMillis) -> bool {
        self.expires > at && self.expires <= latest_end(last_resort, at)
    }
}

/// A device of a group as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub sender: Sender,
    /// The device key in its leaf.
    pub device_key: [u8; 32],
}

/// See [`StoreOp::Append`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Where to.
    pub channel: ChannelId,
    /// The generation it was made in.
    pub generation: u32,
    /// The epoch it was made in.
    pub epoch: u64,
    /// How many epochs behind the present one are accepted.
    pub past_epochs: u64,
    /// Who submits.
    pub sender: Sender,
    /// The submission's name.
    pub message: MessageId,
    /// SHA-256 of everything the duplicate check compares.
    pub hash: Digest,
    /// What it is.
    pub kind: EntryKind,
    /// The bytes.
    pub payload: Part,
    /// Changes of the group's public state that go with it (a queued proposal).
    pub group: Vec<Op>,
    /// The server's time.
    pub at: UnixMillis,
    /// When the entry may go.
    pub expires: UnixMillis,
}

/// See [`StoreOp::Commit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Where to.
    pub channel: ChannelId,
    /// The generation it was made in.
    pub generation: u32,
    /// The epoch that it ends.
    pub epoch: u64,
    /// Who submits.
    pub sender: Sender,
    /// The submission's name.
    pub message: MessageId,
    /// SHA-256 of everything the duplicate check compares.
    pub hash: Digest,
    /// The MLSMessage with the commit.
    pub commit: Part,
    /// The new epoch's GroupInfo.
    pub group_info: Bytes,
    /// The new epoch's ratchet tree, if a welcome needs it.
    pub tree: Option<Bytes>,
    /// Changes of the group's public state.
    pub group: Vec<Op>,
    /// Devices added, in order of their leaves.
    pub adds: Vec<Member>,
    /// The welcome (an MLSMessage) of each of them; empty without welcomes.
    pub welcomes: Vec<Bytes>,
    /// Devices removed.
    pub removes: Vec<Sender>,
    /// The server's time.
    pub at: UnixMillis,
    /// When the entries and the tree may go.
    pub expires: UnixMillis,
}

/// A new generation of a channel. Checks, in this order: duplicates as [`StoreOp::Append`]; `ChannelUnknown`;
/// `NotMember`, unless the founder is a member or was one until the last reset; `GenerationMismatch` if `generation` is
/// not the one after the present one.
///
/// Then at once: entry appended (kind `Reset`, of the new generation, epoch 0, its payload the SHA-256 of the
/// GroupInfo), its seq made the `left_seq` of everybody who is a member or was one until the last reset, but for the
/// founder, who is a member as before; group records and GroupInfo replaced, epoch 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Where.
    pub channel: ChannelId,
    /// The generation that begins.
    pub generation: u32,
    /// Its only member.
    pub founder: Sender,
    /// The submission's name.
    pub message: MessageId,
    /// SHA-256 of everything the duplicate check compares.
    pub hash: Digest,
    /// The new group's public state.
    pub group: Vec<Op>,
    /// Its GroupInfo.
    pub group_info: Bytes,
    /// The server's time.
    pub at: UnixMillis,
    /// When the entry may go.
    pub expires: UnixMillis,
}

impl Reset {
    /// The entry that tells of it.
    pub fn entry(&self, seq: u64) -> Entry {
        Entry {
            seq,
            kind: EntryKind::Reset,
            generation: self.generation,
            epoch: 0,
            sender: self.founder,
            message: self.message,
            time: self.at,
            origin: None,
            payload: reset_payload(&self.group_info),
        }
    }
}

/// What an entry tells of a new generation: the SHA-256 of its GroupInfo.
pub fn reset_payload(group_info: &[u8]) -> Part {
    Part::Inline(Digest::of(&[group_info]).0.to_vec().into())
}

/// The message id of a reset, the same in every resend: the beginning of the GroupInfo's SHA-256.
pub fn reset_message(group_info: &[u8]) -> MessageId {
    let mut message = MessageId([0; 16]);
    message.0.copy_from_slice(&Digest::of(&[group_info]).0[..16]);
    message
}

/// The answer to a [`StoreOp`].
#[derive(Clone, Debug, PartialEq)]
pub enum StoreReply {
    /// Done.
    Done,
    /// Not done, for this reason; nothing changed. `epoch` is the channel's, where an epoch was the reason.
    Refused {
        /// Why.
        code: ErrorCode,
        /// The channel's epoch, else 0.
        epoch: u64,
    },
    /// To `FindAccount`.
    Account(Option<AccountRow>),
    /// To `ListDevices`.
    Devices(Vec<DeviceEntry>),
    /// To `OpenSession`; `state_version` is the highest presented before.
    Session {
        /// The account's name.
        username: Username,
        /// The device's record.
        record: DeviceRecord,
        /// Highest state version before this session.
        state_version: u64,
    },
    /// To `FindRefresh`.
    RefreshKey([u8; 32]),
    /// To `PutRefresh` and `RotateRefresh`: the device's `tokens_from`, 0 if it is not registered. An access token that
    /// goes with the refresh token is dated no earlier.
    TokensFrom(UnixMillis),
    /// To `PutDevice` and `RevokeDevice`.
    Told {
        /// Entries appended: channel and seq.
        entries: Vec<(ChannelId, u64)>,
        /// There are channels left to tell.
        more: bool,
    },
    /// To `PutKeyPackages` and `CountKeyPackages`.
    KeyPackages {
        /// How many, the last-resort one not counted.
        available: u32,
        /// Whether there is a last-resort one that nobody was given.
        last_resort: bool,
    },
    /// To `ClaimKeyPackages`.
    Claimed(Vec<ClaimedKeyPackage>),
    /// To `ChannelInfo`.
    Channel(ChannelInfo),
    /// To `ListChannels`: a page, and whether there are more.
    Channels(Vec<ChannelInfo>, bool),
    /// To `LoadGroup`.
    Group {
        /// The generation.
        generation: u32,
        /// The epoch.
        epoch: u64,
        /// The public state, in key order.
        records: Vec<(Vec<u8>, Vec<u8>)>,
    },
    /// To `LoadGroupInfo`.
    GroupInfo {
        /// The generation.
        generation: u32,
        /// The epoch.
        epoch: u64,
        /// The MLSMessage.
        group_info: Bytes,
        /// The log's last seq.
        seq: u64,
        /// The log's chain up to it.
        chain: Digest,
    },
    /// To `Append`, `Commit` and `ResetChannel`.
    Appended {
        /// The entry's seq.
        seq: u64,
        /// The chain up to and including it.
        chain: Digest,
        /// The time it was accepted at: of the first submission, if this is a duplicate.
        time: UnixMillis,
        /// Whether it had been accepted before.
        duplicate: bool,
        /// Inboxes that got a welcome, with the seq of it there.
        inboxes: Vec<(ChannelId, u64)>,
    },
    /// To `Fetch`.
    Entries {
        /// The entries.
        entries: Vec<Entry>,
        /// The last seq that this reader may read.
        head: u64,
        /// The first seq still kept for this reader; `head + 1` if none.
        first: u64,
    },
    /// To `PutBlob`: bytes received, contiguous from the start.
    BlobPut(u64),
    /// To `GetBlob`.
    Blob {
        /// The blob's length.
        total: u64,
        /// The bytes from the offset.
        chunk: Bytes,
    },
    /// To `Sweep`: how many things went, all kinds together. From `most` on there may be more.
    Swept(u32),
}

impl StoreReply {
    /// A refusal for a reason that has nothing to do with epochs.
    pub fn refused(code: ErrorCode) -> Self {
        Self::Refused { code, epoch: 0 }
    }
}

/// An entry by which a store itself tells what it was told, but for its place: seq, generation and epoch are zero. Its
/// message id is the beginning of the payload's SHA-256.
pub fn notice(kind: EntryKind, sender: Sender, payload: Vec<u8>, time: UnixMillis) -> Entry {
    let mut message = MessageId([0; 16]);
    message.0.copy_from_slice(&Digest::of(&[&payload]).0[..16]);
    let payload = Part::Inline(payload.into());
    let (seq, generation, epoch, origin) = (0, 0, 0, None);
    Entry { seq, kind, generation, epoch, sender, message, time, origin, payload }
}
