//! Errors by who is at fault: the peer ([`PeerFault`]: its link closes, an event tells), the caller
//! ([`Refused`]: nothing changed) or us ([`StoreFault`], [`Fatal`]: drop the machine and restore it).

use thiserror::Error;

/// A command that was not taken: the caller's fault or a full queue. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refused {
    /// A bounded queue is full: poll, wait for events, try again.
    #[error("busy: too much is under way; poll and try again")]
    Busy,
    /// The command needs an account and this device has none yet.
    #[error("no account on this device yet; register or log in first")]
    NoAccount,
    /// The device already has an account.
    #[error("this device already belongs to an account")]
    HasAccount,
    /// The command needs a login and the session was ended for good.
    #[error("logged out; log in again")]
    LoggedOut,
    /// The device does not know this channel.
    #[error("no such group on this device")]
    UnknownChannel,
    /// The device is no member of that group any more.
    #[error("no longer a member of this group")]
    NotMember,
    /// An argument is out of its bounds; the text names it.
    #[error("{0}")]
    Invalid(&'static str),
    /// The machine had a fatal error before.
    #[error("the machine stopped after a fatal error; restore it")]
    Stopped,
}

/// Something that the other side of a connection did wrong. Its link or connection closes with
/// [`PeerFault::code`], an event tells; it is never an `Err` of `handle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PeerFault {
    /// Unknown wire version.
    #[error("unknown wire version {0}")]
    Version(u16),
    /// A frame above [`FRAME_BYTES`](crate::limits::FRAME_BYTES).
    #[error("frame too large")]
    TooLarge,
    /// Not a Cap'n Proto frame, or one that breaks the schema or a field's bound.
    #[error("malformed frame: {0}")]
    Malformed(&'static str),
    /// A well-formed frame at the wrong time: a second role, a reply to no call, a request as a push.
    #[error("unexpected frame: {0}")]
    Unexpected(&'static str),
    /// No proof of a session within [`HANDSHAKE_TIME`](crate::limits::HANDSHAKE_TIME).
    #[error("too slow")]
    TooSlow,
    /// More links, calls or subscriptions than allowed.
    #[error("over a limit: {0}")]
    OverLimit(&'static str),
}

impl PeerFault {
    /// The close code on the wire, stable.
    pub fn code(self) -> CloseCode {
        match self {
            Self::Version(_) => CloseCode::VERSION,
            Self::TooLarge => CloseCode::TOO_LARGE,
            Self::Malformed(_) => CloseCode::MALFORMED,
            Self::Unexpected(_) => CloseCode::UNEXPECTED,
            Self::TooSlow => CloseCode::TOO_SLOW,
            Self::OverLimit(_) => CloseCode::OVER_LIMIT,
        }
    }
}

/// Why a link or connection is closed, as the number that crosses the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(pub u32);

impl CloseCode {
    /// Done, nothing wrong.
    pub const DONE: Self = Self(0);
    /// See [`PeerFault::Version`].
    pub const VERSION: Self = Self(1);
    /// See [`PeerFault::TooLarge`].
    pub const TOO_LARGE: Self = Self(2);
    /// See [`PeerFault::Malformed`].
    pub const MALFORMED: Self = Self(3);
    /// See [`PeerFault::Unexpected`].
    pub const UNEXPECTED: Self = Self(4);
    /// See [`PeerFault::TooSlow`].
    pub const TOO_SLOW: Self = Self(5);
    /// See [`PeerFault::OverLimit`].
    pub const OVER_LIMIT: Self = Self(6);
    /// The server is shutting down; come back.
    pub const SHUTDOWN: Self = Self(7);
    /// The server holds as many connections as it may.
    pub const FULL: Self = Self(8);
    /// The session behind the connection was ended: logout, revocation, deletion.
    pub const SESSION_ENDED: Self = Self(9);
    /// Our own store failed.
    pub const INTERNAL: Self = Self(10);
}

/// The store could not do what was asked. On a client the machine stops; on a server the calls that
/// depend on it are answered `Unavailable` and may be tried again.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("store: {kind:?}: {detail}")]
pub struct StoreFault {
    /// What went wrong, for programs.
    pub kind: StoreFaultKind,
    /// What went wrong, for people; no secrets.
    pub detail: String,
}

/// Kinds of [`StoreFault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreFaultKind {
    /// No room on the disk.
    Full,
    /// Input or output failed.
    Io,
    /// What is stored is damaged.
    Corrupt,
}

/// The machine cannot go on: drop it, and restore a new one from what is durable.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Fatal {
    /// The store failed; nothing that depended on the lost batch was sent or told.
    #[error(transparent)]
    Store(#[from] StoreFault),
    /// The runtime broke the contract of [`Input`](crate::io::Input): the text says how.
    #[error("runtime: {0}")]
    Misuse(&'static str),
    /// An invariant of ours is broken: a bug.
    #[error("bug: {0}")]
    Bug(&'static str),
}

/// Stored records that a machine cannot start from.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// A record does not decode: damaged, or tampered with.
    #[error("stored record {0} is damaged")]
    Damaged(String),
    /// A record was written by a newer version.
    #[error("stored state is of version {found}, newer than {known}; use a newer program")]
    Newer {
        /// Version found.
        found: u16,
        /// Newest version this program knows.
        known: u16,
    },
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// Why a call failed: stable numbers and names, the same in every language.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $(
                #[doc = concat!("E", stringify!($code), ": ", $text, ".")]
                $(#[$doc])*
                $name = $code,
            )*
        }

        impl ErrorCode {
            /// Every code, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The number on the wire.
            pub fn number(self) -> u16 {
                self as u16
            }

            /// The code of that number, if this version knows it.
            pub fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The stable name, as programs print it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// One sentence for people.
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

error_codes! {
    BadRequest = 1, "the request breaks a bound or a rule of the protocol";
    Unsupported = 2, "the server does not offer this";
    Unavailable = 3, "the server cannot do this now; try again later";
    Busy = 4, "the server has too much under way; try again later";
    RateLimited = 5, "too many requests; try again later";
    ShuttingDown = 6, "the server is shutting down; reconnect";

    NotLoggedIn = 10, "this call needs a session";
    LoginFailed = 11, "unknown username or wrong password";
    TokenInvalid = 12, "the token is unknown or belongs to another device";
    TokenExpired = 13, "the token has expired";
    ProofInvalid = 14, "the session proof does not verify";
    UsernameTaken = 15, "this username is taken";
    UsernameInvalid = 16, "this is no valid username";
    AccountUnknown = 17, "no such account";
    AccountExists = 18, "this account key is registered already";

    DeviceUnknown = 20, "no such device";
    SuiteNotAllowed = 21, "this cipher suite is not allowed here";
    DeviceLimit = 22, "the account has as many devices as it may";
    RecordInvalid = 23, "the device record is not signed by its account, or contradicts the session";
    RecordStale = 24, "a newer record of this device is known";
    DeviceRevoked = 25, "this device was revoked";

    KeyPackageInvalid = 30, "the key package is malformed, expired, or not of this device";
    KeyPackageQuota = 31, "more key packages at once than the server keeps for a device";
    NoKeyPackage = 33, "the account has no key package to claim";

    ChannelUnknown = 40, "no such channel";
    ChannelExists = 41, "this channel exists already";
    NotMember = 42, "not a member of this channel";
    NotAllowed = 43, "the member's role does not allow this";
    StaleEpoch = 44, "the message is from an epoch too old to be accepted";
    FutureEpoch = 45, "the message is from an epoch that does not exist yet";
    EpochConflict = 46, "another commit was accepted for this epoch";
    GenerationMismatch = 47, "the channel is in another generation";
    CommitInvalid = 48, "the commit, welcome or group info does not hold";
    MessageIdReused = 49, "this message id was used for other bytes";
    PayloadTooLarge = 50, "the payload is too large";
    CursorInvalid = 51, "the cursor is beyond the end of the log";
    ProposalLeftOut = 52, "the commit leaves out a proposal that waits in the group";

    BlobUnknown = 60, "no such blob";
    BlobMismatch = 61, "the bytes do not match the blob's hash";
    BlobTooLarge = 62, "the blob is too large";
}
