//! Every bound of the protocol, named, with its reason. Nothing grows past a number on this page.

use core::time::Duration;

// ---- wire -------------------------------------------------------------------------------------

/// The wire version this crate speaks; any other is refused before anything else is looked at.
pub const WIRE_VERSION: u16 = 1;
/// Longest frame in bytes, segment table included. What is longer travels as a blob.
pub const FRAME_BYTES: usize = 5 * 1024 * 1024;
/// Most segments in a frame. Our encoder writes one; other libraries grow by doubling, so few.
pub const FRAME_SEGMENTS: usize = 64;
/// Deepest nesting of pointers in a frame; our schema needs eight.
pub const FRAME_NESTING: i32 = 16;
/// Most bytes handed to a machine in one `Bytes` input; the runtime reads no more at once.
pub const READ_CHUNK: usize = 64 * 1024;
/// Longest username in bytes after preparation (RFC 8265).
pub const USERNAME_BYTES: usize = 64;
/// Longest human-readable detail of an error on the wire, in bytes.
pub const ERROR_DETAIL_BYTES: usize = 256;
/// Longest payload of a ping in bytes.
pub const PING_BYTES: usize = 64;
/// Longest token in bytes.
pub const TOKEN_BYTES: usize = 256;
/// Longest version text of a server program in bytes.
pub const VERSION_BYTES: usize = 64;
/// Devices in one reply to a device list, revoked ones included.
pub const DEVICES_LISTED: usize = 1_024;
/// Channels in one reply to a channel list.
pub const CHANNELS_LISTED: usize = 1_024;
/// Size of a blob's chunk in bytes.
pub const BLOB_CHUNK: usize = 256 * 1024;
/// Largest blob in bytes (50 MB).
pub const BLOB_BYTES: u64 = 50 * 1024 * 1024;
/// Unfinished uploads of one device: one more ends the one that rested longest.
pub const UPLOADS: u32 = 4;
/// How long a server keeps an upload, whole or not, that no entry names.
pub const UPLOAD_TIME: Duration = Duration::from_secs(24 * 60 * 60);

// ---- connections ------------------------------------------------------------------------------

/// Calls that a connection may have in flight; the next one waits unread.
pub const CALLS_IN_FLIGHT: usize = 512;
/// Links that one connection may hold open: calls, pushes and bulk.
pub const LINKS_PER_CONNECTION: usize = 18;
/// Connections that one server machine holds by default.
pub const CONNECTIONS: usize = 10_000;
/// Bytes waiting to be sent on a link before the machine stops reading the requests behind them.
pub const LINK_BACKLOG_BYTES: usize = 8 * 1024 * 1024;
/// The same over all links of a connection, payloads of calls in flight included: two links' worth.
pub const CONNECTION_BACKLOG_BYTES: usize = 2 * LINK_BACKLOG_BYTES;
/// Bytes of frames not yet complete that a server holds over all connections: above, the one with most is closed.
pub const GATHERED_BYTES: usize = 512 * 1024 * 1024;
/// Time a connection may take from `Connected` to a proven session.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(20);
/// Time a call may take before its caller gives the connection up.
pub const CALL_TIME: Duration = Duration::from_secs(30);
/// A connection without traffic is pinged after this long.
pub const KEEP_ALIVE: Duration = Duration::from_secs(25);
/// Longest time a fetch may wait for the first entry.
pub const FETCH_WAIT: Duration = Duration::from_secs(30);
/// Time that calls in flight get to finish when a server drains.
pub const DRAIN_TIME: Duration = Duration::from_secs(30);

/// Memory in bytes that a connection costs a server's machine before login, if it behaves (1.7 KB measured): a machine
/// full of them ([`CONNECTIONS`]) needs 40 MB at most.
pub const STRANGER_MEMORY: usize = 4 * 1024;
/// The same of one that does its worst until [`HANDSHAKE_TIME`] ends it (130 KB measured): answers that it does not
/// read, and frames that it does not finish.
pub const HOSTILE_STRANGER_MEMORY: usize = 256 * 1024;
/// Memory in bytes that a connection with a session costs a server's machine while nothing happens on it (8.3 KB
/// measured).
pub const SESSION_MEMORY: usize = 16 * 1024;
/// The same of one that does its worst (27 MB measured): answers that it does not read, and frames that it does not
/// finish, [`CONNECTION_BACKLOG_BYTES`] each, with room for buffers that grow by doubling.
pub const HOSTILE_SESSION_MEMORY: usize = 3 * CONNECTION_BACKLOG_BYTES;

// ---- accounts and sessions --------------------------------------------------------------------

/// Devices of one account.
pub const DEVICES_PER_ACCOUNT: usize = 16;
/// Life of an access token.
pub const ACCESS_TOKEN_TIME: Duration = Duration::from_secs(60 * 60);
/// Life of a refresh token.
pub const REFRESH_TOKEN_TIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Longest password in bytes after preparation (RFC 8265); the OPRF takes up to 65,535.
pub const PASSWORD_BYTES: usize = 1024;
/// Longest sealed account key in bytes.
pub const SEALED_KEY_BYTES: usize = 256;
/// Failed logins that one account, known or unknown, may have within [`LOGIN_WINDOW`].
pub const LOGINS_PER_ACCOUNT: u32 = 10;
/// Logins and registrations that one source may start within [`LOGIN_WINDOW`].
pub const LOGINS_PER_SOURCE: u32 = 200;
/// Logins and registrations that a server starts in all within [`LOGIN_WINDOW`].
pub const LOGINS_IN_ALL: u32 = 20_000;
/// The window of the login budgets.
pub const LOGIN_WINDOW: Duration = Duration::from_secs(10 * 60);
/// Account lookups that one account may make per minute, against enumeration.
pub const LOOKUPS_PER_MINUTE: u32 = 100;
/// A lookup takes at least this long whatever it finds.
pub const LOOKUP_TIME: Duration = Duration::from_millis(5);

// ---- key packages -----------------------------------------------------------------------------

/// Key packages a server keeps per device, the last-resort one not counted; above, the oldest go.
pub const KEY_PACKAGES_PER_DEVICE: usize = 100;
/// Key packages a device tries to keep on the server.
pub const KEY_PACKAGES_WANTED: usize = 20;
/// Below this many of a suite (of the classical one, a [`CLASSICAL_SHARE`] of it) a device uploads new ones.
pub const KEY_PACKAGES_LOW: usize = 8;
/// One classical key package is made for this many hybrid ones.
pub const CLASSICAL_SHARE: usize = 4;
/// The window of the budgets of key package claims.
pub const CLAIM_WINDOW: Duration = Duration::from_secs(10 * 60);
/// Claims that one account may make within [`CLAIM_WINDOW`]: enough to found a group of [`MEMBERS`].
pub const CLAIMS_BY_CALLER: u32 = 6_000;
/// Claims that one account may make of one other's key packages within [`CLAIM_WINDOW`]: fewer than a device keeps
/// there, so that nobody alone uses them up before the device has noticed.
pub const CLAIMS_BETWEEN: u32 = 12;
/// Claims of one account's key packages by all others within [`CLAIM_WINDOW`].
pub const CLAIMS_OF_TARGET: u32 = 120;
/// Counters of claims, shared by accounts that happen to meet in one: so many that none is ever
/// forgotten to make room, whoever claims how much of whomever; one counter for each 16-bit hash.
pub const CLAIM_COUNTERS: usize = 1 << 16;
/// Longest encoded key package in bytes (a hybrid one is about 3 KB).
pub const KEY_PACKAGE_BYTES: usize = 16 * 1024;
/// Life of a key package, signed inside it in extension 0xF0A1.
pub const KEY_PACKAGE_TIME: Duration = Duration::from_secs(24 * 60 * 60);
/// Life of a last-resort key package.
pub const LAST_RESORT_TIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How long a superseded last-resort private key is kept.
pub const LAST_RESORT_GRACE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How far another device's clock may be ahead or behind before its signed times are refused.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

// ---- channels ---------------------------------------------------------------------------------

/// Longest payload of a log entry in bytes, so that a frame holds it with room to spare.
pub const PAYLOAD_BYTES: usize = FRAME_BYTES - 64 * 1024;
/// Longest commit or welcome in bytes that travels in its frame and stands in the log; a longer one travels as a blob,
/// and the log names it. One chunk: what is longer would hold up the messages behind it.
pub const INLINE_BYTES: usize = BLOB_CHUNK;
/// Longest commit or welcome in bytes: [`ADDS_PER_COMMIT`] hybrid key packages are about 15 MB. Reading takes some
/// twenty times as much memory at worst.
pub const COMMIT_BYTES: usize = 24 * 1024 * 1024;
/// Longest application content in bytes.
pub const CONTENT_BYTES: usize = 4 * 1024 * 1024;
/// Life of a log entry.
pub const ENTRY_TIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How much longer than its entry a submission is remembered, for answering its resend: as long as a device can be away
/// and go on with its session. Once the entry is gone, nothing else can tell it whether what it sent last has arrived.
pub const RESEND_TIME: Duration = REFRESH_TOKEN_TIME;
/// Entries in one reply to a fetch or in one push.
pub const FETCH_ENTRIES: usize = 256;
/// Payload bytes in one reply to a fetch or in one push; one larger entry still goes alone.
pub const FETCH_BYTES: usize = 1024 * 1024;
/// From this many unread entries on, a reader is told how far behind it is.
pub const BEHIND: u64 = 1_000;
/// Subscriptions of one connection.
pub const SUBSCRIPTIONS: usize = 4_096;
/// Past epochs from which application messages are accepted and decrypted.
pub const PAST_EPOCHS: u64 = 2;
/// Messages that a device has under way to a group at once. One that the server had no room for comes in the log behind
/// those that were under way with it, and is read all the same: keys skipped are kept for as many.
pub const MESSAGES_AHEAD: usize = 32;
/// Longest encoded ratchet tree in bytes that a joiner reads: of [`MEMBERS`] hybrid leaves and all their parents it is
/// about 15 MB. Reading takes some twenty times as much memory at worst.
pub const TREE_BYTES: usize = 24 * 1024 * 1024;
/// Leaves of one group.
pub const MEMBERS: usize = 5_000;
/// Members that one commit may add.
pub const ADDS_PER_COMMIT: usize = 5_000;
/// Longest encrypted secret of one joiner in a welcome, in bytes; a hybrid one is about 1.3 KB.
pub const WELCOME_SECRET_BYTES: usize = 4 * 1024;
/// Proposals queued in one epoch of a group; the next commit clears them.
pub const PROPOSALS: usize = 256;
/// Longest group name in bytes.
pub const GROUP_NAME_BYTES: usize = 256;
/// Longest group description in bytes: it is sent anew to everybody who joins.
pub const GROUP_DESCRIPTION_BYTES: usize = 2_048;

// ---- client -----------------------------------------------------------------------------------

/// Commands accepted and not yet finished.
pub const TICKETS: usize = 4_096;
/// Unacknowledged submissions of one device.
pub const OUTBOX: usize = 4_096;
/// Private halves of ordinary key packages that a device keeps; above, those that end first go, and a welcome by one of
/// them cannot be followed. More than all others together may claim in an hour.
pub const KEY_PACKAGES_KEPT: usize = 1_024;
/// Superseded last-resort key packages whose private halves a device keeps within [`LAST_RESORT_GRACE`]; above, those
/// superseded first go: whoever claims a suite empty again and again has a new one made each time.
pub const LAST_RESORTS_KEPT: usize = 256;
/// Contacts of a device: all of them are read at start. With as many, nobody new is looked up for a name or invited by
/// one before some are forgotten.
pub const CONTACTS: usize = 16_384;
/// Names that one member claimed and that were contradicted, of which the application is told; one who claims names
/// without end is to cost no more than this.
pub const NAME_CONFLICTS_OF_MEMBER: usize = 4;
/// Such names of all members, remembered so that each is told once.
pub const NAME_CONFLICTS_KEPT: usize = 1_024;
/// Groups kept in memory at once; the others are read from the store when used.
pub const WARM_GROUPS: usize = 32;
/// Received messages told to the application and not acknowledged, across all groups; the one that it reads now
/// counts apart. The rest waits in the store.
pub const UNREAD_EVENTS: usize = 1_024;
/// Blobs that a device fetches or uploads at once; further ones wait.
pub const TRANSFERS: usize = 4;
/// How often a blob is asked for again that was another than the one named, or uploaded again that the server lost.
pub const TRANSFER_TRIES: u32 = 3;
/// First delay before a reconnect; doubled each time, full jitter.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest delay before a reconnect.
pub const BACKOFF_MOST: Duration = Duration::from_secs(60);
/// A session that stood this long starts the backoff over; a shorter one counts as one more failure.
pub const BACKOFF_STEADY: Duration = Duration::from_secs(1);
/// Entries of an epoch to come that are kept until the commit is shown which leads there, those between them counted
/// in. An honest server shows none: more would be kept for a liar only.
pub const EARLY_ENTRIES: usize = 64;
/// Bytes of them, as long as the commit does not follow.
pub const EARLY_BYTES: u64 = 1024 * 1024;
/// How often a log is asked for again of which the server shows such entries.
pub const EARLY_TRIES: u32 = 3;
/// How long the commit is waited for before the first of these tries; doubled each time, 15 s in all.
pub const EARLY_PATIENCE: Duration = Duration::from_secs(1);
/// Links of a log's chain that a reader remembers behind its cursor, to compare with what others saw.
pub const CHAINS_KEPT: usize = 256;
/// How many of them are stored with the cursor; each costs 32 bytes per batch.
pub const CHAINS_STORED: usize = 8;
/// How long a device key of before is kept at least: as long as a welcome may come for a key package made with it.
pub const OLD_DEVICE_KEY_TIME: Duration =
    Duration::from_secs(KEY_PACKAGE_TIME.as_secs() + ENTRY_TIME.as_secs());
/// Device keys of before that are kept at once.
pub const OLD_DEVICE_KEYS: usize = 8;
/// Age at which a device replaces its envelope keys: who takes them opens what was sealed to them in that time, and in
/// the grace before it.
pub const ENVELOPE_KEY_TIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How long envelope keys of before are kept: as long as a note waits in an inbox.
pub const ENVELOPE_KEY_GRACE: Duration = ENTRY_TIME;
/// A device comes back into a group by itself at most once in this time: whoever could make it fall out again and
/// again must not make the whole group work for it.
pub const REJOIN_TIME: Duration = Duration::from_secs(60 * 60);
/// Groups that a device asks for at once to come back to: each holds a tree, and a bulk link.
pub const REJOINS: usize = 4;
/// Groups that a device tries to enter at once of whose welcomes it could open none: a server can make them up.
pub const UNOPENED_WELCOMES: usize = 64;
/// Links of a log at multiples of this are remembered by every reader, for comparing what is further back.
pub const MARK_EVERY: u64 = 16;
/// How many of those: 1,024 entries back, 2.5 KB per channel, stored once per [`MARK_EVERY`] entries.
pub const MARKS_KEPT: usize = 64;
/// A channel carries checkpoints of others at most this often.
pub const CHECKPOINT_TIME: Duration = Duration::from_secs(60 * 60);
/// Checkpoints in one message: 2 KB.
pub const CHECKPOINTS_PER_MESSAGE: usize = 8;
/// Members of whom a device remembers how far they had read the same log: 4 KB per channel.
pub const AGREEMENTS_KEPT: usize = 64;
/// Checkpoints of others that wait until their log was read as far; further ones are not kept.
pub const CHECKPOINTS_KEPT: usize = 1_024;
/// Losses of an intent's commit before it is published as a proposal.
pub const COMMIT_LOSSES: u32 = 3;
/// Age at which a device replaces the keys of its leaf: as long as log entries live, so that a device which was away
/// for longer than that, and has to rejoin, gets fresh keys by it anyway.
pub const UPDATE_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Entries of a group's log after which a device replaces the keys of its leaf, however young they are; in a group of
/// more than half as many members, twice its members.
pub const UPDATE_ENTRIES: u64 = 1_000;
/// Members who become due at once spread their updates over this long for each device of the group: above the time
/// in which a commit reaches everybody, so that most find the way free.
pub const UPDATE_SPREAD: Duration = Duration::from_millis(500);
/// The longest such spread: that of the largest groups.
pub const UPDATE_SPREAD_MOST: Duration = Duration::from_secs(60 * 60);

// ---- server -----------------------------------------------------------------------------------

/// Store operations under way; requests behind them wait unread.
pub const STORE_OPS: usize = 16_384;
/// Jobs under way; requests that need one behind them are refused as busy.
pub const JOBS: usize = 1_024;
/// Groups whose public state is kept in memory while nothing is done in them.
pub const PUBLIC_GROUPS: usize = 1_024;
/// Bytes of the records of all of them: the records of one group of [`MEMBERS`] may have some [`TREE_BYTES`].
pub const PUBLIC_GROUP_BYTES: usize = 256 * 1024 * 1024;
/// How long the others are asked to wait for a member whose changes of a group came too late
/// [`COMMIT_LOSSES`] times in a row: above the round trip of the slowest link that people would use.
pub const COMMIT_TURN: Duration = Duration::from_secs(2);
/// When whoever is asked to wait is to try again: such a turn lasts a round trip or two as a rule.
pub const COMMIT_TURN_RETRY: Duration = Duration::from_millis(200);
/// Who let such a turn pass gets no other for this long: a sixth of the time at most is lost to one that is gone.
pub const COMMIT_TURN_PAUSE: Duration = Duration::from_secs(10);
/// Accounts in a group whose losses are counted.
pub const COMMIT_TURNS: usize = 64;
/// A queued Add is insisted on while its key package has longer than this: a committer whose clock is ahead by
/// [`CLOCK_SKEW`] leaves out what would be refused by one that is ahead of it by as much.
pub const ADD_INSISTED: Duration = Duration::from_secs(2 * CLOCK_SKEW.as_secs());
/// Bytes of blobs that a server has in memory for commits being checked, over all groups; more are refused as busy.
pub const BUNDLE_BYTES: usize = 256 * 1024 * 1024;
/// Commits, proposals, resets and reads of the GroupInfo that wait for one group, all of them by members.
pub const GROUP_QUEUE: usize = 64;
/// How many of them one account may have there: one for each of its devices.
pub const GROUP_QUEUE_OF_ACCOUNT: usize = DEVICES_PER_ACCOUNT;
