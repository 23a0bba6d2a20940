//! What can go wrong, each with a stable code, an exit code, and what to do about it.

use core::fmt;

use qpc_protocol::client::event::Failed;
use qpc_protocol::error::{ErrorCode, Fatal, Refused, StoreFault, StoreFaultKind};

/// Exit codes of the program, stable.
pub(crate) mod exit {
    pub(crate) const FAILED: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const UNREACHABLE: u8 = 3;
    pub(crate) const LOGIN: u8 = 4;
    pub(crate) const LOCAL: u8 = 5;
    pub(crate) const REFUSED: u8 = 6;
    pub(crate) const QUEUED: u8 = 7;
    pub(crate) const INTERRUPTED: u8 = 130;
    pub(crate) const BROKEN_PIPE: u8 = 141;
}

macro_rules! local_codes {
    ($($name:ident = $code:literal, $exit:ident, $next:literal;)*) => {
        /// Problems on this side; the server's codes are below 100 ([`ErrorCode`]).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Local {
            $($name = $code,)*
        }

        impl Local {
            /// Every code, in the order of their numbers.
            #[cfg(test)]
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name),*];

            fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            fn exit(self) -> u8 {
                match self { $(Self::$name => exit::$exit,)* }
            }

            fn next(self) -> &'static str {
                match self { $(Self::$name => $next,)* }
            }
        }
    };
}

local_codes! {
    Usage = 100, USAGE, "See `qpc --help`.";
    Invalid = 101, USAGE, "See the verb's `--help`.";
    Unreachable = 102, UNREACHABLE, "Check that the server runs, that its address is right, and that UDP gets through.";
    Untrusted = 103, UNREACHABLE, "Ask who runs the server for its present address; do not go on if nobody can explain it.";
    Timeout = 104, UNREACHABLE, "Try again, or give it more time with --timeout.";
    NoServer = 105, USAGE, "Name one with --server qpc://host:port#pin; a server prints its address when it starts.";

    PasswordMissing = 110, LOGIN, "Run it on a terminal, or use --password-stdin or QPC_PASSWORD_FILE.";
    PasswordWrong = 111, LOGIN, "Try again with the password that this device was registered or logged in with.";
    PasswordMismatch = 112, LOGIN, "Type the same password twice.";
    LoggedOut = 113, LOGIN, "Log in again with `qpc login`; a deleted account cannot.";
    SealedKey = 114, LOGIN, "Check the password. If it is right, do not trust this server: it gave out a wrong account key.";
    PasswordInvalid = 115, LOGIN, "Choose another: 1 to 1024 bytes, no control characters.";
    AccountDeleted = 116, LOGIN, "Its state on this device is of no use any more; with a fresh --home you can register another.";

    NoAccount = 120, LOCAL, "Register with `qpc register <username>`, or log in with `qpc login <username>`.";
    HasAccount = 121, LOCAL, "Use another --home for another account.";
    HomeInUse = 122, LOCAL, "Wait for the other process to end, or stop it; one device is one process at a time.";
    HomeDamaged = 123, LOCAL, "Restore the home from a backup, or log in with a fresh --home as a new device.";
    HomeNewer = 124, LOCAL, "Use the newer program that wrote it.";
    HomeFile = 125, LOCAL, "Check the path, its owner and the disk.";
    HomeFull = 126, LOCAL, "Make room on the disk; nothing was lost.";
    KeyFile = 127, LOCAL, "Give the key file that this home was made with by --key-file or QPC_KEY_FILE.";

    GroupUnknown = 130, FAILED, "See `qpc group list`.";
    GroupAmbiguous = 131, FAILED, "Name it by more digits of its id.";
    NotMember = 132, FAILED, "Ask a member to invite you.";
    MemberUnknown = 133, FAILED, "See `qpc group members <group>`.";
    Obsolete = 134, FAILED, "See how things stand, and ask again if it is still wanted.";
    NotAdded = 135, FAILED, "Its devices have to come online once; then invite again.";
    DeviceUnknown = 136, FAILED, "See `qpc devices list`.";
    ContactUnknown = 138, FAILED, "See `qpc trust list`; `qpc verify <username>` asks the server.";

    Queued = 140, QUEUED, "It stays stored on this device and goes out with the next command that reaches the server.";
    Unclear = 141, FAILED, "Ask a member whether it has arrived before you send it again.";
    Busy = 142, FAILED, "Try again in a moment.";

    ServerLies = 150, REFUSED, "Do not trust this server before somebody can explain it.";
    SafetyNumber = 151, REFUSED, "Somebody may stand between the two of you: do not send secrets before the two devices show the same.";
    NameChanged = 152, REFUSED, "Compare anew: `qpc verify <username>`, then --scanned, or `qpc trust accept <username>` and --mark.";
    LogsDiffer = 153, REFUSED, "The server shows different logs, or one of the two devices lies: compare with a third member, outside of this server.";
    Declined = 160, FAILED, "Nothing was changed.";
    Input = 161, FAILED, "Check what is piped in.";
    Output = 162, FAILED, "Make room where the output goes; a message that was not printed stays unread.";
    CheckFailed = 170, FAILED, "This is a defect: please report it with the output.";
    Internal = 190, FAILED, "This is a defect: please report it.";
}

/// A problem, as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    code: Code,
    text: String,
    /// Overrides the code's next step.
    next: Option<String>,
    /// The server's detail, or other lines that belong to it.
    candidates: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    Server(ErrorCode),
    Local(Local),
    /// Ctrl-C or SIGTERM.
    Interrupted,
    /// Nobody reads our output any more.
    BrokenPipe,
}

impl Problem {
    pub(crate) fn new(code: Local, text: impl Into<String>) -> Self {
        Self::of(Code::Local(code), text.into())
    }

    fn of(code: Code, text: String) -> Self {
        Self { code, text, next: None, candidates: Vec::new() }
    }

    pub(crate) fn server(code: ErrorCode, detail: impl Into<String>) -> Self {
        // Revoked devices are remembered; only with its account does the server forget one.
        if code == ErrorCode::DeviceUnknown {
            return Self::new(Local::AccountDeleted, "the account was deleted");
        }
        Self::of(Code::Server(code), detail.into())
    }

    pub(crate) fn interrupted() -> Self {
        Self::of(Code::Interrupted, "interrupted".to_owned())
    }

    pub(crate) fn broken_pipe() -> Self {
        Self::of(Code::BrokenPipe, "nobody reads the output".to_owned())
    }

    #[must_use]
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    #[must_use]
    pub(crate) fn candidates(mut self, candidates: Vec<String>) -> Self {
        self.candidates = candidates;
        self
    }

    /// Whether there is nothing to print.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self.code, Code::BrokenPipe)
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.code == Code::Interrupted
    }

    pub(crate) fn is(&self, code: Local) -> bool {
        self.code == Code::Local(code)
    }

    pub(crate) fn is_server(&self, code: ErrorCode) -> bool {
        self.code == Code::Server(code)
    }

    /// Whether the server could not be reached, or not in time.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.is(Local::Unreachable) || self.is(Local::Timeout)
    }

    /// Whether what else a command was to do cannot be done now either.
    pub(crate) fn ends_all(&self) -> bool {
        let stopped = matches!(self.code, Code::Interrupted | Code::BrokenPipe);
        stopped || self.is_unreachable() || self.is(Local::Queued)
    }

    pub(crate) fn exit(&self) -> u8 {
        match self.code {
            Code::Local(code) => code.exit(),
            Code::Server(code) => server_exit(code),
            Code::Interrupted => exit::INTERRUPTED,
            Code::BrokenPipe => exit::BROKEN_PIPE,
        }
    }

    /// As in `E015`.
    pub(crate) fn number(&self) -> String {
        match self.code {
            Code::Server(code) => format!("E{:03}", code.number()),
            Code::Local(code) => format!("E{:03}", code as u16),
            Code::Interrupted => "E199".to_owned(),
            Code::BrokenPipe => "E198".to_owned(),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self.code {
            Code::Server(code) => code.name(),
            Code::Local(code) => code.name(),
            Code::Interrupted => "Interrupted",
            Code::BrokenPipe => "BrokenPipe",
        }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn next_step(&self) -> &str {
        match (&self.next, self.code) {
            (Some(next), _) => next,
            (None, Code::Local(code)) => code.next(),
            (None, Code::Server(code)) => server_next(code),
            (None, Code::Interrupted | Code::BrokenPipe) => "",
        }
    }

    pub(crate) fn candidate_list(&self) -> &[String] {
        &self.candidates
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.number(), self.name(), self.text)
    }
}

fn server_exit(code: ErrorCode) -> u8 {
    match code {
        ErrorCode::NotLoggedIn
        | ErrorCode::LoginFailed
        | ErrorCode::TokenInvalid
        | ErrorCode::TokenExpired
        | ErrorCode::ProofInvalid
        | ErrorCode::DeviceRevoked => exit::LOGIN,
        _ => exit::REFUSED,
    }
}

fn server_next(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::UsernameTaken => {
            "Choose another name, or use `qpc login` if the account is yours."
        }
        ErrorCode::UsernameInvalid => {
            "A username has 1 to 64 bytes of letters, digits and plain signs."
        }
        ErrorCode::LoginFailed => {
            "Check the name and the password; too many failures make the account rest for ten minutes."
        }
        ErrorCode::RateLimited
        | ErrorCode::Busy
        | ErrorCode::Unavailable
        | ErrorCode::ShuttingDown => "Try again later.",
        ErrorCode::TokenInvalid | ErrorCode::TokenExpired | ErrorCode::NotLoggedIn => {
            "Log in again with `qpc login`."
        }
        ErrorCode::ProofInvalid => {
            "This home is older than its device's key: use a newer copy of it, or log in with a fresh --home as a new \
             device and revoke this one there, by `qpc devices list` and `qpc devices revoke`. Groups in which you have \
             no other device invite you again."
        }
        ErrorCode::DeviceRevoked => "Log in with a fresh --home as a new device.",
        ErrorCode::DeviceLimit => "Revoke a device that is not used any more: `qpc devices list`.",
        ErrorCode::AccountUnknown => "Check the spelling of the name.",
        ErrorCode::NoKeyPackage => "Its devices have to come online once; then invite again.",
        ErrorCode::NotAllowed => {
            "See who is an admin: `qpc group members <group>`. An admin names another by `qpc group role`."
        }
        ErrorCode::NotMember => "Ask a member to invite you.",
        _ => "Try again; if it stays, ask who runs the server.",
    }
}

impl From<Failed> for Problem {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Server { code, detail } => Self::server(code, detail),
            Failed::NotAdded { account, why } => Self::new(
                Local::NotAdded,
                format!("a device of account {account} could not be added: {why}"),
            ),
            Failed::Obsolete(why) => Self::new(Local::Obsolete, why),
            Failed::Unclear(why) => Self::new(Local::Unclear, why),
            Failed::Untrusted(why) => Self::new(Local::ServerLies, why),
            Failed::NameChanged(why) => Self::new(Local::NameChanged, why),
            Failed::SealedKey => {
                Self::new(Local::SealedKey, "the account's sealed key does not open")
            }
            Failed::Unreachable(why) => Self::new(Local::Untrusted, why),
            other => Self::new(Local::Internal, format!("{other:?}")),
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let code = match refused {
            Refused::Busy => Local::Busy,
            Refused::NoAccount => Local::NoAccount,
            Refused::HasAccount => Local::HasAccount,
            Refused::LoggedOut => Local::LoggedOut,
            Refused::UnknownChannel => Local::GroupUnknown,
            Refused::NotMember => Local::NotMember,
            Refused::Invalid(_) => Local::Invalid,
            _ => Local::Internal,
        };
        Self::new(code, refused.to_string())
    }
}

impl From<StoreFault> for Problem {
    fn from(fault: StoreFault) -> Self {
        let code = match fault.kind {
            StoreFaultKind::Full => Local::HomeFull,
            StoreFaultKind::Corrupt => Local::HomeDamaged,
            _ => Local::HomeFile,
        };
        Self::new(code, fault.detail)
    }
}

impl From<Fatal> for Problem {
    fn from(fatal: Fatal) -> Self {
        match fatal {
            Fatal::Store(fault) => fault.into(),
            other => Self::new(Local::Internal, other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
