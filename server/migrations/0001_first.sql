-- Times are milliseconds since 1970; u64 values that are only carried are stored by their bits.
--
-- Channels and devices have small numbers of their own, so that the hot tables (entries, submissions) need one
-- clustered integer key and no index: place = number << 35 | position. Such rows lie side by side in the order in
-- which they were written. They are rowid tables because a row without rowid that is longer than a quarter of a
-- page spills to overflow pages, and messages are about that long.

PRAGMA application_id = 0x71706373;

CREATE TABLE accounts (
    no                 INTEGER PRIMARY KEY,
    account            BLOB NOT NULL UNIQUE,
    username           TEXT NOT NULL UNIQUE,
    created            INTEGER NOT NULL,
    -- Both NULL once the account is deleted: its id and its name stay taken.
    opaque_record      BLOB,
    sealed_account_key BLOB
) STRICT;

-- Every device that ever appeared, registered or not. Rows stay: old entries name them.
CREATE TABLE senders (
    no      INTEGER PRIMARY KEY,
    account BLOB NOT NULL,
    device  BLOB NOT NULL,
    UNIQUE (account, device)
) STRICT;

CREATE TABLE devices (
    sender        INTEGER PRIMARY KEY REFERENCES senders,
    record        BLOB NOT NULL,
    envelope_keys BLOB NOT NULL,
    revocation    BLOB,
    tokens_from   INTEGER NOT NULL,
    state_version INTEGER NOT NULL,
    last_seen     INTEGER NOT NULL
) STRICT;

CREATE TABLE refresh_tokens (
    sender     INTEGER PRIMARY KEY REFERENCES senders,
    expires    INTEGER NOT NULL,
    hash       BLOB NOT NULL,
    device_key BLOB NOT NULL
) STRICT;
CREATE INDEX refresh_tokens_by_end ON refresh_tokens (expires);

CREATE TABLE key_packages (
    no      INTEGER PRIMARY KEY,
    sender  INTEGER NOT NULL REFERENCES senders,
    hash    BLOB NOT NULL,
    suite   INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    -- NULL once claimed: the row remembers that this package is not to be handed out again.
    package BLOB,
    UNIQUE (sender, hash)
) STRICT;
CREATE INDEX key_packages_in_order ON key_packages (sender, suite, no, expires) WHERE package IS NOT NULL;
CREATE INDEX key_packages_by_end ON key_packages (expires);

CREATE TABLE last_resorts (
    sender  INTEGER NOT NULL REFERENCES senders,
    suite   INTEGER NOT NULL,
    hash    BLOB NOT NULL,
    expires INTEGER NOT NULL,
    -- 1 once somebody was given it.
    claimed INTEGER NOT NULL DEFAULT 0,
    package BLOB NOT NULL,
    PRIMARY KEY (sender, suite)
) STRICT;
CREATE INDEX last_resorts_by_end ON last_resorts (expires);

CREATE TABLE channels (
    no         INTEGER PRIMARY KEY,
    id         BLOB NOT NULL UNIQUE,
    kind       INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    epoch      INTEGER NOT NULL,
    head       INTEGER NOT NULL,
    -- Entries up to this seq are gone.
    floor      INTEGER NOT NULL,
    -- The last entry's end; no later entry ends earlier.
    latest     INTEGER NOT NULL,
    -- When to look for entries that have ended: the key of this channel's row in `due`.
    due        INTEGER,
    chain      BLOB NOT NULL,
    -- The seq of the last reset, 0 if there was none: who was a member until then is told from who was removed.
    reset      INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE group_infos (
    channel    INTEGER PRIMARY KEY REFERENCES channels,
    group_info BLOB NOT NULL
) STRICT;

CREATE TABLE group_records (
    channel INTEGER NOT NULL REFERENCES channels,
    key     BLOB NOT NULL,
    value   BLOB NOT NULL,
    PRIMARY KEY (channel, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE members (
    channel INTEGER NOT NULL REFERENCES channels,
    sender  INTEGER NOT NULL REFERENCES senders,
    joined  INTEGER NOT NULL,
    -- The seq of its removal.
    left_at INTEGER,
    cursor  INTEGER NOT NULL,
    -- Revoked or deleted: counts as no member.
    gone    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (channel, sender)
) STRICT, WITHOUT ROWID;
CREATE INDEX members_by_sender ON members (sender, channel);

CREATE TABLE entries (
    place      INTEGER PRIMARY KEY, -- channel << 35 | seq
    kind       INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    epoch      INTEGER NOT NULL,
    sender     INTEGER NOT NULL,
    time       INTEGER NOT NULL,
    expires    INTEGER NOT NULL,
    message    BLOB NOT NULL,
    origin     BLOB,
    -- NULL: the payload itself; else its length, and the payload column holds the hash of a blob.
    blob_len   INTEGER,
    payload    BLOB NOT NULL
) STRICT;

CREATE TABLE submissions (
    place   INTEGER PRIMARY KEY, -- sender << 35 | a count
    expires INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    time    INTEGER NOT NULL,
    message BLOB NOT NULL,
    hash    BLOB NOT NULL,
    chain   BLOB NOT NULL
) STRICT;

-- What to look at for things that have ended: channels (kind 1) and senders (kind 2) whose first entry or
-- submission ends no earlier than `at`. One row for each that has any, written once per life of an entry instead of
-- an index row per message.
CREATE TABLE due (
    kind INTEGER NOT NULL,
    at   INTEGER NOT NULL,
    no   INTEGER NOT NULL,
    PRIMARY KEY (kind, at, no)
) STRICT, WITHOUT ROWID;

CREATE TABLE blobs (
    no       INTEGER PRIMARY KEY,
    hash     BLOB NOT NULL,
    -- Whose upload it is; NULL once it is whole.
    sender   INTEGER REFERENCES senders,
    total    INTEGER NOT NULL,
    received INTEGER NOT NULL,
    expires  INTEGER NOT NULL,
    UNIQUE (hash, sender)
) STRICT;
CREATE UNIQUE INDEX blobs_whole ON blobs (hash) WHERE sender IS NULL;
CREATE INDEX blobs_by_end ON blobs (expires);
CREATE INDEX uploads_by_sender ON blobs (sender, expires) WHERE sender IS NOT NULL;

CREATE TABLE blob_chunks (
    place INTEGER PRIMARY KEY, -- blob << 35 | offset
    bytes BLOB NOT NULL
) STRICT;
