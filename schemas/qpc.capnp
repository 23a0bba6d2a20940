@0x9ea05f4b476258a2;

# The wire contract of quicprochat, version 1.
#
# A link is an ordered stream of bytes. It carries frames: Cap'n Proto messages in the standard stream framing
# (https://capnproto.org/encoding.html#serialization-over-a-stream), unpacked, one after another, nothing between
# them. The root of each message is a `Frame`.
#
# A receiver refuses, and closes the link: a frame of another version; one above 5,242,880 bytes, its segment table
# included, or above 64 segments; padding in the segment table that is not zero; a pointer out of bounds; nesting
# deeper than 16; words of a single-segment frame that no pointer reaches, or that two pointers reach; a field that
# breaks the bound given beside it; a union member or enumerant it does not know.
#
# Bounds: "n bytes" means exactly n, "1 to n bytes" at most n and not empty. Unless said otherwise a field must be
# present. Numbers have no bound but their type unless one is given. Times are milliseconds since
# 1970-01-01T00:00:00Z. Identifiers: account 32 bytes (its Ed25519 public key), device 16, channel 16, message 16,
# server 32 (the Ed25519 public key of its delivery proofs), SHA-256 digests 32, Ed25519 signatures 64.
#
# How it may grow: fields are added at the end, unions and enums gain members. A peer sends what is new only to one
# that is known to understand it. The version is raised only when old frames change their meaning. Set aside for what is to come:
#   Frame    `relay`, what servers say to each other (federation), with the origin server's id
#   Request  `submitSealed`, a submission without a named sender; `keyProof`, an account's place in the
#            key-transparency log; accounts of other servers as `username@server`
#   Entry    a null `sender`, for a sealed one
#   Reply    `keyProof`
# None of it needs a field of today to change.

# ---- errors and closes ------------------------------------------------------------------------------------------
#
# Codes of a `Failure`; the names are what programs show:
#
#    1  BadRequest          the request breaks a bound or a rule of the protocol
#    2  Unsupported         the server does not offer this
#    3  Unavailable         the server cannot do this now; try again later
#    4  Busy                the server has too much under way; try again later
#    5  RateLimited         too many requests; try again later
#    6  ShuttingDown        the server is shutting down; reconnect
#   10  NotLoggedIn         this call needs a session
#   11  LoginFailed         unknown username or wrong password
#   12  TokenInvalid        the token is unknown or belongs to another device
#   13  TokenExpired        the token has expired
#   14  ProofInvalid        the session proof does not verify
#   15  UsernameTaken       this username is taken
#   16  UsernameInvalid     this is no valid username
#   17  AccountUnknown      no such account
#   18  AccountExists       this account key is registered already
#   20  DeviceUnknown       no such device
#   21  SuiteNotAllowed     this cipher suite is not allowed here
#   22  DeviceLimit         the account has as many devices as it may
#   23  RecordInvalid       the device record is not signed by its account, or contradicts the session
#   24  RecordStale         a newer record of this device is known
#   25  DeviceRevoked       this device was revoked
#   30  KeyPackageInvalid   the key package is malformed, expired, or not of this device
#   31  KeyPackageQuota     more key packages at once than the server keeps for a device
#   33  NoKeyPackage        the account has no key package to claim
#   40  ChannelUnknown      no such channel
#   41  ChannelExists       this channel exists already
#   42  NotMember           not a member of this channel
#   43  NotAllowed          the member's role does not allow this
#   44  StaleEpoch          the message is from an epoch too old to be accepted
#   45  FutureEpoch         the message is from an epoch that does not exist yet
#   46  EpochConflict       another commit was accepted for this epoch
#   47  GenerationMismatch  the channel is in another generation
#   48  CommitInvalid       the commit, welcome or group info does not hold
#   49  MessageIdReused     this message id was used for other bytes
#   50  PayloadTooLarge     the payload is too large
#   51  CursorInvalid       the cursor is beyond the end of the log
#   52  ProposalLeftOut     the commit leaves out a proposal that waits in the group
#   60  BlobUnknown         no such blob
#   61  BlobMismatch        the bytes do not match the blob's hash
#   62  BlobTooLarge        the blob is too large
#
# Codes with which a link or connection is closed (QUIC application error codes):
#
#    0  DONE                done, nothing wrong
#    1  VERSION             unknown wire version
#    2  TOO_LARGE           frame too large
#    3  MALFORMED           malformed frame
#    4  UNEXPECTED          a well-formed frame at the wrong time
#    5  TOO_SLOW            no session in time
#    6  OVER_LIMIT          over a limit
#    7  SHUTDOWN            the server is shutting down; come back
#    8  FULL                the server holds as many connections as it may
#    9  SESSION_ENDED       logged out, revoked, or the account deleted
#   10  INTERNAL            the closing side's own store failed
#
# ---- what is signed and hashed -----------------------------------------------------------------------------------
#
# Byte strings put one after another, numbers big endian, lengths in bytes in parentheses; texts in quotes are ASCII.
# `binding` is the connection's: kind (1): 1 TLS exporter `EXPORTER-qpc-v1`, 2 Noise hash, 3 none; value (32).
#
#   device record       "qpc-device-record-v1" version (1) = 1, account (32), device (16), device key (32), sequence (4),
#                       not before (8); by the account key
#   revocation          "qpc-device-revocation-v1" account (32), device (16), at (8); by the account key
#   envelope keys       "qpc-envelope-keys-v1" account (32), device (16), sequence (4), not before (8), X25519 (32),
#                       ML-KEM-768 (1184); by the device key
#   registration        "qpc-register-v1" nonce (32), server (32), account (32), username; by the account key
#   session             "qpc-session-v1" nonce (32), binding (1 + 32), server (32), account (32), device (16),
#                       SHA-256(token) (32); by the device key. In a login: the account is zeros, the token is KE3
#   OPAQUE's context    "qpc-opaque-v1" nonce (32), binding (1 + 32), server (32)
#   deletion            "qpc-delete-v1" nonce (32), server (32), account (32), device (16); by the account key
#   delivery            "qpc-delivery-v1" channel (16), seq (8), chain (32), message (16), SHA-256(payload) (32),
#                       time (8); by the server's proof key
#   chain               chain[0] = SHA-256("qpc-log-v1" channel (16)); chain[seq] = SHA-256(chain[seq - 1] (32), seq (8),
#                       kind (1), generation (4), epoch (8), account (32), device (16), message (16), time (8), origin,
#                       SHA-256(payload) (32)). kind: 1 application, 2 proposal, 3 commit, 4 welcome, 5 note, 6 device,
#                       7 revocation, 8 reset. origin: one zero byte, or a one and channel (16), seq (8), chain (32),
#                       tree (32)
#   checkpoint          "qpc-checkpoint-v1" version (1) = 1, account (32), device (16), channel (16), generation (4),
#                       epoch (8), confirmed transcript hash (32; zeros in epoch 0), seq (8), chain[seq] (32), mark (8),
#                       chain[mark] (32); by the device key. mark: the last multiple of 16 up to seq whose chain that
#                       device knows, else seq. Between devices only: the server sees none of it
#   channel             its kind in the two highest bits of its first byte: 0 group, 1 direct, 2 inbox
#   group's channel     16 random bytes
#   direct channel      SHA-256("qpc-direct-v1" lower account (32), higher account (32)), its first 16 bytes
#   inbox's channel     SHA-256("qpc-inbox-v1" account (32), device (16)), its first 16 bytes
#   MLS group id        SHA-256("qpc-group-v1" channel (16), generation (4))

struct Frame {
  version @0 :UInt16;          # 1
  call @1 :UInt32;             # pairs a reply or failure with its request; unique among the link's calls in
                               # flight; 0 in `open` and `push`
  union {
    open @2 :LinkRole;         # first frame of a link, from the one who opened it
    request @3 :Request;       # client to server
    reply @4 :Reply;           # server to client: the call succeeded
    failure @5 :Failure;       # server to client: the call failed
    push @6 :Push;             # server to client, unasked
  }
}

enum LinkRole {
  all @0;                      # everything, on a transport with one link
  calls @1;                    # requests and their answers, pipelined
  pushes @2;                   # subscriptions, pushes, acks
  bulk @3;                     # one blob
}

struct Failure {
  code @0 :UInt16;             # stable number of the error; one that the receiver does not know reads as BadRequest
  detail @1 :Text;             # for people; at most 256 bytes, may be absent
  retryAfterMs @2 :UInt32;     # when trying again makes sense; 0 if it does not
  epoch @3 :UInt64;            # the channel's present epoch, with StaleEpoch, FutureEpoch, EpochConflict; else 0
}

# ---- requests -------------------------------------------------------------------------------------------------

struct Request {
  union {
    ping @0 :Data;             # at most 64 bytes, may be absent; they come back
    health @1 :Void;
    hello @2 :Void;            # first call of a connection: asks for the nonce that proofs sign

    registerStart :group {
      username @3 :Text;       # PRECIS UsernameCaseMapped, prepared (RFC 8265 §3.3), 1 to 64 bytes
      request @4 :Data;        # OPAQUE RegistrationRequest, 32 bytes
    }
    registerFinish @5 :RegisterFinish;
    loginStart :group {
      username @6 :Text;       # prepared, 1 to 64 bytes
      ke1 @7 :Data;            # OPAQUE KE1, 96 bytes
    }
    loginFinish :group {
      ke3 @8 :Data;            # OPAQUE KE3, 64 bytes
      device @9 :Data;         # 16 bytes
      deviceKey @10 :Data;     # Ed25519 public key, 32 bytes
      signature @11 :Data;     # by the device key over the session statement, with SHA-256(ke3) for the token's; 64 bytes
    }
    deviceRegister :group {
      record @12 :Data;        # DeviceRecord, 157 bytes: see below
      envelopeKeys @13 :Data;  # EnvelopeKeys, 1,340 bytes: see below
    }
    resume @14 :Resume;
    refresh :group {
      token @15 :Data;         # refresh token, 1 to 256 bytes
      sender @16 :Sender;
      signature @17 :Data;     # as in `resume`, 64 bytes
    }
    logout @18 :Void;

    deviceList :group {
      account @19 :Data;       # 32 bytes
    }
    deviceRevoke @20 :Data;    # Revocation, 120 bytes: see below
    accountLookup @21 :Text;   # username, prepared, 1 to 64 bytes
    accountDelete @22 :Data;   # signature by the account key over the deletion statement, 64 bytes

    keyPackageUpload :group {
      packages @23 :List(Data);  # at most 100, each 1 to 16,384 bytes; may be absent
      lastResort @24 :Data;      # replaces that of its suite, 1 to 16,384 bytes; absent if unchanged
    }
    keyPackageStatus @25 :UInt16;  # MLS cipher suite: 0x0001 or 0x004F; 0: of all
    keyPackageFetch :group {
      account @26 :Data;       # 32 bytes
      suite @27 :UInt16;       # MLS cipher suite: 0x0001 or 0x004F
      device @49 :Data;        # of this device only, 16 bytes; absent: of all
    }

    channelCreate @28 :ChannelCreate;
    channelInfo @29 :Data;     # channel, 16 bytes
    channelList @30 :Data;     # the channel after which to go on, 16 bytes; empty: from the first

    submit @31 :Submit;
    commit @32 :CommitBundle;
    fetch :group {
      channel @33 :Data;       # 16 bytes
      after @34 :UInt64;       # entries with a higher seq
      limit @35 :UInt16;       # 1 to 256 entries
      waitMs @36 :UInt32;      # at most 30,000: hold an empty answer back so long for a first entry
    }
    subscribe :group {
      channel @37 :Data;       # 16 bytes
      after @38 :UInt64;       # push entries with a higher seq, now and from now on
    }
    unsubscribe @39 :Data;     # channel, 16 bytes
    ack :group {
      channel @40 :Data;       # 16 bytes
      seq @41 :UInt64;         # everything up to it is durable at the device
    }
    groupInfoFetch @42 :Data;  # channel, 16 bytes

    blobPut :group {
      hash @43 :Data;          # SHA-256 of the whole blob, 32 bytes
      total @44 :UInt64;       # the blob's length
      offset @45 :UInt64;      # where the chunk begins; offset + chunk <= total
      chunk @46 :Data;         # at most 262,144 bytes; may be absent, to ask how far the server has it
    }
    blobGet :group {
      hash @47 :Data;          # 32 bytes
      offset @48 :UInt64;
    }
  }
}

# Statements that are signed travel as the bytes that were signed, numbers big endian:
#   DeviceRecord  version (1) = 1, account (32), device (16), device key (32), sequence (4), not before (8),
#                 signature by the account key (64)
#   EnvelopeKeys  account (32), device (16), sequence (4), not before (8), X25519 (32), ML-KEM-768 (1,184),
#                 signature by the device key (64)
#   Revocation    account (32), device (16), at (8), signature by the account key (64)

struct Sender {
  account @0 :Data;            # 32 bytes
  device @1 :Data;             # 16 bytes
}

struct RegisterFinish {
  username @0 :Text;           # prepared, 1 to 64 bytes
  upload @1 :Data;             # OPAQUE RegistrationRecord, 192 bytes
  account @2 :Data;            # 32 bytes
  sealedAccountKey @3 :Data;   # sealed under OPAQUE's export key, 1 to 256 bytes
  proof @4 :Data;              # by the account key over the registration statement, 64 bytes
}

struct Resume {
  token @0 :Data;              # access token, 1 to 256 bytes
  sender @1 :Sender;
  stateVersion @2 :UInt64;     # of the device's durable state; raised with every batch
  signature @3 :Data;          # by the device key over the session statement, 64 bytes
}

struct ChannelCreate {
  channel @0 :Data;            # 16 bytes
  kind @1 :ChannelKind;
  generation @2 :UInt32;       # 1 founds the channel; one above the present one resets it
  groupInfo @3 :Data;          # MLSMessage(GroupInfo) without a ratchet tree, 1 to 5,177,344 bytes
  tree @4 :Data;               # its ratchet tree, 1 to 5,177,344 bytes
  with @5 :Data;               # the other account of a direct channel, 32 bytes; absent in others
}

enum ChannelKind {
  group @0;                    # of those who were invited
  direct @1;                   # of two accounts, its id derived from them
  inbox @2;                    # of a device; never created by a call
}

struct Submit {
  channel @0 :Data;            # 16 bytes
  generation @1 :UInt32;       # that it was made in
  epoch @2 :UInt64;            # that it was made in
  message @3 :Data;            # 16 random bytes, the same in every resend
  kind @4 :SubmitKind;
  payload @5 :Data;            # MLSMessage, 1 to 5,177,344 bytes
}

enum SubmitKind {
  application @0;              # PrivateMessage with application content
  proposal @1;                 # PublicMessage with a proposal
}

struct CommitBundle {
  channel @0 :Data;            # 16 bytes
  generation @1 :UInt32;       # that it was made in
  epoch @2 :UInt64;            # that it ends
  message @3 :Data;            # 16 random bytes, the same in every resend
  commit @4 :Part;             # MLSMessage(PublicMessage) with the commit
  welcome @5 :Part;            # MLSMessage(Welcome) without a ratchet tree; absent if it adds no one
  groupInfo @6 :Data;          # MLSMessage(GroupInfo) of the new epoch, without a tree, with external_pub;
                               # 1 to 5,177,344 bytes
}

struct Part {
  union {
    inline @0 :Data;           # 1 to 5,177,344 bytes
    blob :group {
      hash @1 :Data;           # SHA-256 of a blob uploaded before, 32 bytes
      len @2 :UInt64;          # its length, 1 to 52,428,800; above 25,165,824 the bundle is refused
    }
  }
}

# ---- replies --------------------------------------------------------------------------------------------------

struct Reply {
  union {
    done @0 :Void;             # registerFinish, deviceRegister, logout, deviceRevoke, accountDelete, channelCreate
                               # (generation 1), unsubscribe, ack
    pong @1 :Data;             # the ping's bytes, at most 64; may be absent
    health :group {
      healthy @2 :Bool;
      version @3 :Text;        # of the server program, at most 64 bytes, may be absent
      time @4 :UInt64;
    }
    hello :group {
      nonce @5 :Data;          # 32 bytes, fresh for the connection
      server @6 :Data;         # 32 bytes
      time @7 :UInt64;
    }
    registerStart @8 :Data;    # OPAQUE RegistrationResponse, 64 bytes
    loginStart @9 :Data;       # OPAQUE KE2, 320 bytes
    loginFinish :group {
      account @10 :Data;           # 32 bytes
      sealedAccountKey @11 :Data;  # 1 to 256 bytes
      tokens @12 :Tokens;
    }
    tokens @13 :Tokens;        # to refresh
    session :group {
      username @14 :Text;      # prepared, 1 to 64 bytes
      stateVersion @15 :UInt64;  # the highest that this device presented before
      time @16 :UInt64;
      tokenExpires @17 :UInt64;
    }
    devices @18 :List(DeviceEntry);  # at most 1,024, revoked ones included; may be absent
    account :group {
      username @19 :Text;      # prepared, 1 to 64 bytes
      account @20 :Data;       # 32 bytes
    }
    keyPackages :group {
      available @21 :UInt32;   # left on the server, last-resort ones not counted
      lastResort @22 :Bool;    # whether there is one that nobody was given yet
    }
    claimedKeyPackages @23 :List(ClaimedKeyPackage);  # one per active device, at most 16; may be absent
    channel @24 :ChannelInfo;
    channels :group {
      channels @25 :List(ChannelInfo);  # in order of their ids, at most 1,024; may be absent
      more @26 :Bool;
    }
    accepted @27 :Accepted;    # to submit, commit and a channelCreate that resets, also when the same was accepted before
    entries @28 :Entries;      # to fetch
    subscribed @29 :UInt64;    # the log's head
    groupInfo @30 :GroupInfo;
    blobPut @31 :UInt64;       # bytes the server has, contiguous from the start
    blob :group {
      total @32 :UInt64;       # the blob's length
      chunk @33 :Data;         # from the offset asked for, at most 262,144 bytes; absent at the end
    }
  }
}

struct Tokens {
  access @0 :Data;             # 1 to 256 bytes
  accessExpires @1 :UInt64;
  refresh @2 :Data;            # 1 to 256 bytes
  refreshExpires @3 :UInt64;
}

struct DeviceEntry {
  record @0 :Data;             # DeviceRecord, 157 bytes
  envelopeKeys @1 :Data;       # EnvelopeKeys, 1,340 bytes
  revocation @2 :Data;         # Revocation, 120 bytes; absent if it was not revoked
  lastSeen @3 :UInt64;         # to the hour
}

struct ClaimedKeyPackage {
  device @0 :Data;             # 16 bytes
  package @1 :Data;            # MLSMessage(KeyPackage), 1 to 16,384 bytes; absent if the device has none
  lastResort @2 :Bool;         # whether it is the last-resort one
}

struct ChannelInfo {
  channel @0 :Data;            # 16 bytes
  kind @1 :ChannelKind;
  generation @2 :UInt32;       # 0 for an inbox
  epoch @3 :UInt64;
  head @4 :UInt64;             # seq of the last entry; 0 while empty
  cursor @5 :UInt64;           # what this device has acknowledged
  members @6 :UInt32;
}

struct Accepted {
  seq @0 :UInt64;
  chain @1 :Data;              # the log's chain up to and including it, 32 bytes
  time @2 :UInt64;
  proof @3 :Data;              # by the server's proof key over the delivery statement, 64 bytes
}

struct GroupInfo {
  generation @0 :UInt32;
  epoch @1 :UInt64;
  groupInfo @2 :Data;          # MLSMessage(GroupInfo), 1 to 5,177,344 bytes
  tree @3 :Data;               # SHA-256 of the blob with its ratchet tree, 32 bytes
  treeLen @4 :UInt64;          # the blob's length, 1 to 52,428,800; readers take up to 25,165,824
  seq @5 :UInt64;              # the log's head when this was read
  chain @6 :Data;              # the log's chain at that seq, 32 bytes
}

struct Entries {
  channel @0 :Data;            # 16 bytes
  entries @1 :List(Entry);     # contiguous, in order of seq, at most 256; may be absent
  head @2 :UInt64;             # the last seq that this device may read
  behind @3 :UInt64;           # readable entries after these if at least 1,000, else 0
  first @4 :UInt64;            # the first seq still kept; above after + 1, entries are gone
}

struct Entry {
  seq @0 :UInt64;              # contiguous from 1
  kind @1 :EntryKind;
  generation @2 :UInt32;
  epoch @3 :UInt64;            # that it was made in; of a commit: that it ends; of a welcome: that it leads into
  sender @4 :Sender;           # who submitted it, as the server says
  message @5 :Data;            # 16 bytes
  time @6 :UInt64;             # of acceptance
  origin @7 :Origin;           # where a welcome leads; absent for other kinds
  payload @8 :Part;
}

enum EntryKind {
  application @0;              # PrivateMessage
  proposal @1;                 # PublicMessage with a proposal
  commit @2;                   # PublicMessage with a commit
  welcome @3;                  # Welcome, in an inbox
  note @4;                     # hybrid envelope from another device, in an inbox
  device @5;                   # DeviceRecord of a device of the own account, in an inbox: it is new, or has a new key
  revocation @6;               # Revocation of a member device; in an inbox, of a device of the own account
  reset @7;                    # the channel's group ends here; a new generation begins. SHA-256 of its GroupInfo
}

struct Origin {
  channel @0 :Data;            # of the group, 16 bytes
  seq @1 :UInt64;              # of the commit that adds
  chain @2 :Data;              # the log's chain up to and including it, 32 bytes
  tree @3 :Data;               # SHA-256 of the blob with the ratchet tree, 32 bytes
  treeLen @4 :UInt64;          # the blob's length, 1 to 52,428,800; readers take up to 25,165,824
}

# ---- pushes ---------------------------------------------------------------------------------------------------

struct Push {
  union {
    entries @0 :Entries;         # of a subscribed channel
    keyPackagesLow @1 :UInt32;   # so few key packages of this device are left
    sessionEnded @2 :Void;       # logged out elsewhere, device revoked, account deleted
    draining @3 :Void;           # the server is about to close: finish and reconnect
  }
}
