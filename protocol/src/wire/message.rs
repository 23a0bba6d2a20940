//! The messages of the wire as owned, checked values. `schemas/qpc.capnp` is the contract; this is how
//! the machines see it. Every bound named there has been checked by the time such a value exists.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::crypto::identity::{DeviceRecord, EnvelopeKeys, Revocation};
use crate::env::UnixMillis;
use crate::error::ErrorCode;
use crate::id::{AccountId, ChannelId, DeviceId, Digest, MessageId, Sender, ServerId};
use crate::io::LinkRole;
use crate::mls::suite::Suite;

/// One frame of a link.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Pairs a reply with its request; unique among a link's calls in flight. Zero where nothing is paired.
    pub call: u32,
    /// What it carries.
    pub body: Body,
}

/// The body of a frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// First frame of a link: what the link is for.
    Open(LinkRole),
    /// Client to server.
    Request(Request),
    /// Server to client: the answer to the request of the same call.
    Reply(Reply),
    /// Server to client: the request of the same call failed.
    Failure(Failure),
    /// Server to client, unasked.
    Push(Push),
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The stable code.
    pub code: ErrorCode,
    /// For people; at most [`ERROR_DETAIL_BYTES`](crate::limits::ERROR_DETAIL_BYTES).
    pub detail: String,
    /// When trying again makes sense, in milliseconds; 0 if it does not.
    pub retry_after_ms: u32,
    /// The channel's present epoch, with `StaleEpoch`, `FutureEpoch` and `EpochConflict`; else 0.
    pub epoch: u64,
}

impl Failure {
    /// Whether the same may go through later: the server has no room or no working store at present.
    pub fn is_transient(&self) -> bool {
        matches!(self.code, ErrorCode::Unavailable | ErrorCode::Busy | ErrorCode::RateLimited)
    }
}

impl From<ErrorCode> for Failure {
    fn from(code: ErrorCode) -> Self {
        Self { code, detail: String::new(), retry_after_ms: 0, epoch: 0 }
    }
}

/// A prepared username: PRECIS UsernameCaseMapped (RFC 8265), 1 to 64 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Username(String);

impl Username {
    /// Prepares and checks a name as a person typed it. `None`: not a valid username.
    ///
    /// The rules of a profile need not be idempotent; RFC 8264 §7 has them applied until nothing changes any
    /// more, and the name refused where that takes too long. So a prepared name prepares to itself.
    pub fn prepare(name: &str) -> Option<Self> {
        use precis_profiles::precis_core::profile::PrecisFastInvocation as _;
        // No rule shortens a name by more than a wide character's three bytes to one.
        if name.len() > 4 * crate::limits::USERNAME_BYTES {
            return None;
        }
        let mut name = name.to_owned();
        for _ in 0..4 {
            let prepared = precis_profiles::UsernameCaseMapped::enforce(name.as_str()).ok()?;
            if prepared == name {
                let fits = !name.is_empty() && name.len() <= crate::limits::USERNAME_BYTES;
                return fits.then_some(Self(name));
            }
            name = prepared.into_owned();
        }
        None
    }

    /// The prepared name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl core::fmt::Display for Username {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

/// An opaque token: compared in constant time, never printed.
#[derive(Clone, Serialize, Deserialize)]
pub struct Token(pub Zeroizing<Vec<u8>>);

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        use subtle::ConstantTimeEq as _;
        self.0.ct_eq(&other.0).into()
    }
}

impl core::fmt::Debug for Token {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What a client may ask.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "a variant names its fields; the line above it says what they are")]
pub enum Request {
    /// Are you there? The payload comes back. At most 64 bytes.
    Ping(Bytes),
    /// Is the server well?
    Health,
    /// First call of a connection: asks for the nonce that the session proof signs.
    Hello,
    /// OPAQUE registration, first step: `RegistrationRequest`, 32 bytes.
    RegisterStart { username: Username, request: Bytes },
    /// OPAQUE registration, last step: `RegistrationRecord`, 192 bytes; and the account itself.
    RegisterFinish {
        username: Username,
        upload: Bytes,
        account: AccountId,
        /// The account's secret key sealed under the export key; only its owner can open it.
        sealed_account_key: Bytes,
        /// The account key's signature over [`registration_statement`](crate::auth::device::registration_statement).
        proof: [u8; 64],
    },
    /// OPAQUE login, first step: `KE1`, 96 bytes.
    LoginStart { username: Username, ke1: Bytes },
    /// OPAQUE login, last step: `KE3`, 64 bytes; and the device that logs in, which signs as in `Resume`, with
    /// the hash of `ke3` in place of the token's and zeros in place of the account, which a new device does not
    /// know yet.
    LoginFinish { ke3: Bytes, device: DeviceId, device_key: [u8; 32], signature: [u8; 64] },
    /// Registers this device, or replaces its record, under the login or session of this connection.
    DeviceRegister { record: DeviceRecord, envelope_keys: EnvelopeKeys },
    /// Opens the session of this connection: an access token and the device's signature over
    /// [`session_statement`](crate::auth::device::session_statement).
    Resume { token: Token, sender: Sender, state_version: u64, signature: [u8; 64] },
    /// New tokens for a refresh token; signed like `Resume`.
    Refresh { token: Token, sender: Sender, signature: [u8; 64] },
    /// Ends the session and all tokens of this device.
    Logout,
    /// All devices of an account.
    DeviceList { account: AccountId },
    /// Revokes a device of one's own account.
    DeviceRevoke { revocation: Revocation },
    /// The account of a username.
    AccountLookup { username: Username },
    /// Deletes the own account: devices, key packages, inboxes. `proof` is the account key's signature
    /// over [`deletion_statement`](crate::auth::device::deletion_statement).
    AccountDelete { proof: [u8; 64] },
    /// Adds key packages of this device; its last-resort one replaces that of the same suite.
    KeyPackageUpload { packages: Vec<Bytes>, last_resort: Option<Bytes> },
    /// How many key packages of this device are left, of all suites or of the one.
    KeyPackageStatus { suite: Option<Suite> },
    /// One key package of every active device of an account, or of the one device, consumed.
    KeyPackageFetch { account: AccountId, suite: Suite, device: Option<DeviceId> },
    /// Creates a channel with its first group, or begins its next generation; `with` is the other account of a direct
    /// channel.
    ChannelCreate {
        channel: ChannelId,
        kind: ChannelKind,
        generation: u32,
        group_info: Bytes,
        tree: Bytes,
        with: Option<AccountId>,
    },
    /// What a member may know of a channel.
    ChannelInfo { channel: ChannelId },
    /// The channels that this device is a member of, its inbox included, in order of their ids.
    ChannelList { after: Option<ChannelId> },
    /// Appends to a channel's log.
    Submit(Submit),
    /// Appends a commit and all that belongs to it.
    Commit(CommitBundle),
    /// Reads a channel's log. With `wait_ms`, an empty answer is held back so long for a first entry.
    Fetch { channel: ChannelId, after: u64, limit: u16, wait_ms: u32 },
    /// Pushes what a channel's log has beyond `after`, now and from now on.
    Subscribe { channel: ChannelId, after: u64 },
    /// Ends a subscription.
    Unsubscribe { channel: ChannelId },
    /// Everything up to `seq` is durable here; it need not be kept for this device.
    Ack { channel: ChannelId, seq: u64 },
    /// The public state of a group one is a member of, for joining it anew.
    GroupInfoFetch { channel: ChannelId },
    /// A chunk of a blob; resumable at the offset that the reply names.
    BlobPut { hash: Digest, total: u64, offset: u64, chunk: Bytes },
    /// Up to a chunk of a blob.
    BlobGet { hash: Digest, offset: u64 },
}

/// What a submission is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SubmitKind {
    /// An MLS PrivateMessage with application content.
    Application,
    /// An MLS PublicMessage with a proposal.
    Proposal,
}

/// A message for a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submit {
    /// Where to.
    pub channel: ChannelId,
    /// The channel's generation that it was made in.
    pub generation: u32,
    /// The epoch that it was made in.
    pub epoch: u64,
    /// Names this submission across resends.
    pub message: MessageId,
    /// What the payload is.
    pub kind: SubmitKind,
    /// The MLSMessage.
    pub payload: Bytes,
}

/// A commit and all that belongs to it: accepted as a whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitBundle {
    /// Where to.
    pub channel: ChannelId,
    /// The channel's generation that it was made in.
    pub generation: u32,
    /// The epoch that it ends.
    pub epoch: u64,
    /// Names this submission across resends.
    pub message: MessageId,
    /// The MLSMessage with the commit, a PublicMessage.
    pub commit: Part,
    /// The MLSMessage with the welcome, if it adds anyone; without a ratchet tree, which the server
    /// serves beside it.
    pub welcome: Option<Part>,
    /// The MLSMessage with the GroupInfo of the new epoch, without a ratchet tree, with external_pub.
    pub group_info: Bytes,
}

impl CommitBundle {
    /// The blobs that it names, with their lengths: its commit before its welcome.
    pub fn blobs(&self) -> impl Iterator<Item = (Digest, u64)> {
        let parts = [Some(&self.commit), self.welcome.as_ref()];
        parts.into_iter().flatten().filter_map(|part| match part {
            Part::Inline(_) => None,
            Part::Blob { hash, len } => Some((*hash, *len)),
        })
    }
}

/// A payload that may be too large for its frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// The bytes themselves.
    Inline(Bytes),
    /// A blob uploaded before.
    Blob {
        /// SHA-256 of the bytes.
        hash: Digest,
        /// Their length.
        len: u64,
    },
}

/// What kind of channel it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ChannelKind {
    /// A group with a random id.
    Group,
    /// The group of two accounts, its id derived from them.
    Direct,
    /// A device's inbox; never created by a call.
    Inbox,
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "a variant names its fields; the line above it says what they are")]
pub enum Reply {
    /// Nothing to say but that it is done: `RegisterFinish`, `DeviceRegister`, `DeviceRevoke`, `Logout`,
    /// `AccountDelete`, `ChannelCreate` (of the first generation), `Unsubscribe`, `Ack`.
    Done,
    /// The ping's payload.
    Pong(Bytes),
    /// To `Health`.
    Health { healthy: bool, version: String, time: UnixMillis },
    /// To `Hello`.
    Hello { nonce: [u8; 32], server: ServerId, time: UnixMillis },
    /// `RegistrationResponse`, 64 bytes.
    RegisterStart { response: Bytes },
    /// `KE2`, 320 bytes.
    LoginStart { ke2: Bytes },
    /// To `LoginFinish`: the account, and the tokens of this device.
    LoginFinish { account: AccountId, sealed_account_key: Bytes, tokens: Tokens },
    /// To `Refresh`.
    Tokens(Tokens),
    /// To `Resume`: the session is open. `state_version` is the highest this device ever presented before.
    Session { username: Username, state_version: u64, time: UnixMillis, token_expires: UnixMillis },
    /// To `DeviceList`.
    Devices(Vec<DeviceEntry>),
    /// To `AccountLookup`; an unknown name is the error `AccountUnknown`, after the same time.
    Account { username: Username, account: AccountId },
    /// To `KeyPackageUpload` (of all suites) and `KeyPackageStatus`: how many are left, the last-resort ones not
    /// counted, and whether one of these is there that nobody was given.
    KeyPackages { available: u32, last_resort: bool },
    /// To `KeyPackageFetch`: an entry for every active device, `package` empty where it has none.
    ClaimedKeyPackages(Vec<ClaimedKeyPackage>),
    /// To `ChannelInfo`.
    Channel(ChannelInfo),
    /// To `ChannelList`: a page, and whether there are more.
    Channels { channels: Vec<ChannelInfo>, more: bool },
    /// To `Submit`, `Commit` and a `ChannelCreate` that resets, also when the same was accepted before.
    Accepted(Accepted),
    /// To `Fetch`.
    Entries(Entries),
    /// To `Subscribe`.
    Subscribed { head: u64 },
    /// To `GroupInfoFetch`. `tree` is a blob.
    GroupInfo {
        generation: u32,
        epoch: u64,
        group_info: Bytes,
        tree: Digest,
        tree_len: u64,
        seq: u64,
        chain: Digest,
    },
    /// To `BlobPut`: how many bytes the server has, contiguous from the start.
    BlobPut { received: u64 },
    /// To `BlobGet`: the bytes from the offset, and the blob's length.
    Blob { total: u64, chunk: Bytes },
}

/// Tokens of one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tokens {
    /// Opens sessions.
    pub access: Token,
    /// When it ends.
    pub access_expires: UnixMillis,
    /// Buys new tokens, once.
    pub refresh: Token,
    /// When it ends.
    pub refresh_expires: UnixMillis,
}

/// A device as the directory has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceEntry {
    /// Its record, signed by the account.
    pub record: DeviceRecord,
    /// Its envelope keys, signed by the device.
    pub envelope_keys: EnvelopeKeys,
    /// Its revocation, signed by the account, if it was revoked.
    pub revocation: Option<Revocation>,
    /// When the server last saw a session of it, to the hour.
    pub last_seen: UnixMillis,
}

/// A key package handed out for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimedKeyPackage {
    /// Whose.
    pub device: DeviceId,
    /// The MLSMessage, if the device has one.
    pub package: Option<Bytes>,
    /// Whether it is the last-resort one.
    pub last_resort: bool,
}

/// A channel as its members may see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelInfo {
    /// The channel.
    pub channel: ChannelId,
    /// What it is.
    pub kind: ChannelKind,
    /// The generation of its group; 0 for an inbox.
    pub generation: u32,
    /// The epoch of its group.
    pub epoch: u64,
    /// The seq of its last entry; 0 while empty.
    pub head: u64,
    /// What this device has acknowledged.
    pub cursor: u64,
    /// Members at present.
    pub members: u32,
}

/// What the server says of an accepted submission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Its place in the log.
    pub seq: u64,
    /// The log's chain up to and including it.
    pub chain: Digest,
    /// The server's time.
    pub time: UnixMillis,
    /// The server's signature over [`proof_statement`](crate::delivery::proof::proof_statement).
    #[serde(with = "crate::id::signature_bytes")]
    pub proof: [u8; 64],
}

/// A stretch of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries {
    /// The channel.
    pub channel: ChannelId,
    /// Entries in order of seq; contiguous.
    pub entries: Vec<Entry>,
    /// The log's last seq that this device may read.
    pub head: u64,
    /// How many readable entries follow these, if at least [`BEHIND`](crate::limits::BEHIND); else 0.
    pub behind: u64,
    /// The first seq still kept. Above `after + 1`, entries are gone and the device has to resync.
    pub first: u64,
}

/// What a log entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EntryKind {
    /// An MLS PrivateMessage.
    Application,
    /// An MLS PublicMessage with a proposal.
    Proposal,
    /// An MLS PublicMessage with a commit.
    Commit,
    /// An MLS Welcome, in an inbox.
    Welcome,
    /// A hybrid envelope from another device, in an inbox.
    Note,
    /// The record of a device of the own account, in an inbox: it is new, or has a new key.
    Device,
    /// The revocation of a member device.
    Revocation,
    /// The channel's group ends here: another generation begins.
    Reset,
}

impl EntryKind {
    /// The byte that is hashed and stored.
    pub fn number(self) -> u8 {
        match self {
            Self::Application => 1,
            Self::Proposal => 2,
            Self::Commit => 3,
            Self::Welcome => 4,
            Self::Note => 5,
            Self::Device => 6,
            Self::Revocation => 7,
            Self::Reset => 8,
        }
    }

    /// The kind of that number.
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Application,
            2 => Self::Proposal,
            3 => Self::Commit,
            4 => Self::Welcome,
            5 => Self::Note,
            6 => Self::Device,
            7 => Self::Revocation,
            8 => Self::Reset,
            _ => return None,
        })
    }
}

/// One entry of a channel's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place; contiguous from 1.
    pub seq: u64,
    /// What it is.
    pub kind: EntryKind,
    /// The channel's generation it belongs to.
    pub generation: u32,
    /// The epoch it was made in (of a commit: the one it ends; of a welcome: the one it leads into).
    pub epoch: u64,
    /// Which device submitted it, as the server says; MLS says so again and wins.
    pub sender: Sender,
    /// The submission's name.
    pub message: MessageId,
    /// The server's time of acceptance.
    pub time: UnixMillis,
    /// Where a welcome leads; `None` for other kinds.
    pub origin: Option<Origin>,
    /// The bytes.
    pub payload: Part,
}

/// What a welcome leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The group's channel.
    pub channel: ChannelId,
    /// The seq of the commit that adds.
    pub seq: u64,
    /// The log's chain up to and including that commit.
    pub chain: Digest,
    /// The blob with the ratchet tree of the epoch that the welcome leads into.
    pub tree: Digest,
    /// The tree's length in bytes.
    pub tree_len: u64,
}

/// What a server says unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "a variant names its fields; the line above it says what they are")]
pub enum Push {
    /// New entries of a subscribed channel.
    Entries(Entries),
    /// Few key packages of this device are left.
    KeyPackagesLow { available: u32 },
    /// The session of this connection ended: revoked, logged out elsewhere, account deleted.
    SessionEnded,
    /// The server is about to close: finish and reconnect.
    Draining,
}
