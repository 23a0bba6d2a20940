//! The arguments, and what `--help` says of them.

mod account;
mod group;
mod trust;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use qpc_protocol::client::UpdatePolicy;

pub(super) use account::{DevicesVerb, KeysVerb};
pub(super) use group::{GroupProfile, GroupVerb, Invited, NewGroup, NewRole};
pub(super) use trust::{TrustVerb, Verified};

const ABOUT: &str = "End-to-end encrypted group messaging.

One home directory is one device of one account. Register once, invite people to groups, send and receive.";

const AFTER: &str = "\
Examples:
  qpc demo                                                  a whole conversation, checked
  qpc register alice --server qpc://127.0.0.1:7000#<pin>    an account, and this device
  qpc group create team                                     a group
  qpc group invite team bob                                 Bob's devices join it
  qpc send team \"hello\"                                     returns when the server has it on disk
  qpc send @bob \"hello\"                                     to Bob alone
  qpc recv --follow                                         what others write, as it comes

Passwords come from a prompt, from the first line of standard input (--password-stdin) or from the first line of the \
file that QPC_PASSWORD_FILE names; never from an argument. One password logs in (OPAQUE: the server never sees it) \
and opens the state of this device. For unattended use, --key-file opens the state instead.

With --json results are one object per line on standard output, each with a \"type\"; warnings and errors are objects on \
standard error (\"type\": \"warning\", \"note\" or \"error\"; errors with \"code\", \"name\", \"message\", \"next\", \"exit\", \
and \"candidates\" where a name or id may mean several things).
QPC_LOG=debug logs to standard error; no secret is ever logged. A variable that is empty counts as unset.

Older names: register-user, create-group, invite, join (receives invitations and lists groups), fetch-key (= verify), \
check-key (= keys status), refresh-keypackage and register-state (= keys refresh), demo-group (= demo).

Exit codes:
  0    done
  1    failed: the error says why
  2    wrong usage
  3    the server cannot be reached, does not answer in time, or is not the one that it should be
  4    password missing or wrong, login refused, logged out
  5    state of this device: none there, in use, damaged, of a newer version, disk full
  6    refused: by the server, by a group's rules, or because a name or log is not what it was
  7    queued: stored on this device, not yet accepted by the server; goes out with the next command that reaches it
  130  interrupted
  141  nobody reads the output";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "qpc", version, about = ABOUT, after_help = AFTER, max_term_width = 120, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

impl Cli {
    /// From these arguments and the environment; a variable that is empty counts as unset.
    pub(super) fn read(arguments: Vec<OsString>) -> Result<Self, clap::Error> {
        let mut command = qpc_server::without_empty_variables(Self::command());
        let matches = command.try_get_matches_from_mut(arguments)?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }
}

/// An environment variable, if it holds anything.
pub(super) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// What every verb takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every verb")]
pub(super) struct Global {
    /// Home directory of this device [default: the platform's data directory, as ~/.local/share/qpc].
    #[arg(long, global = true, value_name = "DIR", env = "QPC_HOME", hide_env_values = true)]
    pub(super) home: Option<PathBuf>,
    /// The server; remembered from register and login on.
    #[arg(
        long,
        global = true,
        value_name = "qpc://HOST:PORT#PIN",
        env = "QPC_SERVER",
        hide_env_values = true
    )]
    pub(super) server: Option<String>,
    /// PEM file of the authorities to trust when the server's address has no pin; remembered too.
    #[arg(long, global = true, value_name = "FILE", env = "QPC_CA", hide_env_values = true)]
    pub(super) ca: Option<PathBuf>,
    /// File with the key that opens this device's state instead of the password; register and login make it if there
    /// is none.
    #[arg(long, global = true, value_name = "FILE", env = "QPC_KEY_FILE", hide_env_values = true)]
    pub(super) key_file: Option<PathBuf>,
    /// Take the password from the first line of standard input.
    #[arg(long, global = true)]
    pub(super) password_stdin: bool,
    #[arg(skip = variable("QPC_PASSWORD_FILE").map(PathBuf::from))]
    pub(super) password_file: Option<PathBuf>,
    /// Seconds that the server gets for an answer, and another process for giving the home back.
    #[arg(long, global = true, value_name = "SECONDS", default_value = "15",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) timeout: u64,
    /// Days after which this device gives itself fresh keys in a group.
    #[arg(long, global = true, value_name = "DAYS", env = "QPC_UPDATE_DAYS", hide_env_values = true,
        default_value = "7", value_parser = clap::value_parser!(u64).range(1..=365))]
    pub(super) update_days: u64,
    /// Messages and other entries of a group's log after which it does so earlier; in a large group twice as many as it
    /// has devices, if that is more.
    #[arg(long, global = true, value_name = "COUNT", env = "QPC_UPDATE_ENTRIES", hide_env_values = true,
        default_value = "1000", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(super) update_entries: u64,
    /// Print JSON, one object per line.
    #[arg(long, global = true)]
    pub(super) json: bool,
}

impl Global {
    pub(super) fn update(&self) -> UpdatePolicy {
        let age = Duration::from_secs(self.update_days.saturating_mul(24 * 60 * 60));
        UpdatePolicy { age, entries: self.update_entries }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make an account and log this device in.
    #[command(
        alias = "register-user",
        after_help = "Examples:
  qpc register alice --server qpc://chat.example.org:7000#<pin>
  echo \"$PASSWORD\" | qpc register alice --server qpc://127.0.0.1:7000#<pin> --password-stdin --key-file /etc/qpc.key

JSON: {\"type\":\"account\",\"username\",\"account\",\"device\",\"server\",\"key_packages\"}"
    )]
    Register {
        /// The account's name, 1 to 64 bytes (RFC 8265).
        username: String,
    },
    /// Log in: as a new device of an account, or again on this one.
    #[command(after_help = "Examples:
  qpc login alice --home ~/second --server qpc://chat.example.org:7000#<pin>    a second device
  qpc login                                                                    again, after a logout

JSON: {\"type\":\"account\",\"username\",\"account\",\"device\",\"server\",\"key_packages\"}")]
    Login {
        /// The account's name; not needed again on a device that has one.
        username: Option<String>,
    },
    /// End this device's session; its state stays for a later login.
    #[command(after_help = "Example: qpc logout\n\nJSON: {\"type\":\"logged_out\"}")]
    Logout,
    /// Who this device is. Needs no connection.
    #[command(after_help = "Example: qpc whoami --json\n
JSON: {\"type\":\"account\",\"username\",\"account\",\"device\",\"server\",\"server_id\"}")]
    Whoami,
    /// Measure the round trip to the server. Needs no account.
    #[command(after_help = "Example: qpc ping --count 3 --server qpc://127.0.0.1:7000#<pin>\n
JSON, per ping: {\"type\":\"pong\",\"server\",\"micros\",\"key_exchange\",\"post_quantum\"}")]
    Ping {
        /// How often.
        #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1000))]
        count: u32,
    },
    /// Ask the server how it is. Needs no account.
    #[command(after_help = "Example: qpc health --server qpc://127.0.0.1:7000#<pin>\n
JSON: {\"type\":\"health\",\"server\",\"healthy\",\"version\",\"time\"} (time in Unix ms)")]
    Health,
    /// Groups: create, list, members, invite, remove, update, set, role, leave, rejoin, reset.
    #[command(subcommand, visible_alias = "groups")]
    Group(GroupVerb),
    /// Open the direct channel with another account: the one that the two of you have.
    #[command(after_help = "Examples:
  qpc direct bob
  qpc send @bob \"are you there?\"                            opens it first, if need be
  qpc recv @bob --follow

Everywhere a group is named, @bob is the direct channel with bob. Either of you may open it, even both at once; all \
devices of both are in it, and nobody else ever is. It is open from when the other's devices are in.

JSON: {\"type\":\"group\",\"group\",\"kind\":\"direct\",\"name\",\"suite\"}")]
    Direct {
        /// The other account's name, with or without @.
        username: String,
    },
    /// Send a message; returns when the server has it on disk.
    #[command(after_help = "Examples:
  qpc send team \"see you at nine\"
  qpc send @bob \"between us\"                                the direct channel; opened if there is none yet
  git log -1 | qpc send team -

Not reachable? The message stays in the outbox of this device, goes out with the next command that reaches the server, \
and the exit code is 7.

JSON: {\"type\":\"sent\",\"group\",\"seq\",\"message\",\"time\"} (time in Unix ms, the server's)")]
    Send {
        /// The group: its name, the first digits of its id, or @ and a username.
        group: String,
        /// The text; - takes it from standard input.
        text: String,
        /// Changes nothing: every message goes to all members. Older scripts say so.
        #[arg(long)]
        all: bool,
    },
    /// Print unread messages; each counts as read once it is printed.
    #[command(after_help = "Examples:
  qpc recv
  qpc recv team --follow --json
  qpc recv @bob

Text: time, group, sender with (verified) or (CHANGED) behind it, text; further lines of a message are set in.
JSON: {\"type\":\"message\",\"group\",\"group_name\",\"kind\",\"seq\",\"message\",\"epoch\",\"time\",\"username\",\"account\",\"device\",\"trust\",\"text\"}
(trust as in `trust list`; a direct channel's group_name is @ and the other's name; \"hex\" instead of \"text\" if it is no UTF-8; username null if the directory did not confirm one)")]
    Recv {
        /// One group only: its name, the first digits of its id, or @ and a username.
        group: Option<String>,
        /// Go on until interrupted.
        #[arg(long, short)]
        follow: bool,
    },
    /// Talk: lines from standard input are sent, what others write is printed.
    #[command(after_help = "Examples:
  qpc chat team
  qpc chat @bob\n
Ends with the end of the input, once everything sent is accepted. JSON as of send and recv.")]
    Chat {
        /// The group: its name, the first digits of its id, or @ and a username.
        group: String,
    },
    /// Show the safety number with another account, to compare by another way than qpc; mark the account as verified.
    #[command(after_help = "Examples:
  qpc verify bob                    sixty digits; on a terminal it asks whether they match
  qpc verify bob --mark             they did: the account that was shown is verified from now on
  qpc verify bob --qr               a QR code beside the digits; Bob's device shows the same one
  qpc verify bob --scanned AEAQ…    what was scanned from Bob's screen; verified if it is the same
  qpc verify --group team           a checkpoint: what this device read of the group's log, signed
  qpc verify --group team --with AEAQ…    whether the member who gave it read the same log

A checkpoint is sent to another member by any way but this server.

JSON: {\"type\":\"safety_number\",\"username\",\"account\",\"safety_number\",\"qr\",\"trust\"}
(safety_number: 60 digits, in twelve groups of five with a space between; qr: the QR code's text; both are the same on \
both sides; trust: seen, verified or changed)
With --mark or --scanned: {\"type\":\"verified\",\"username\",\"account\"}
With --group: {\"type\":\"checkpoint\",\"group\",\"epoch\",\"seq\",\"chain\",\"checkpoint\"}
With --group and --with: {\"type\":\"compared\",\"group\",\"result\",\"seq\",\"agreed\"} (result: same, up to seq; ahead: the \
other has read up to seq, the same log up to agreed; too_old: too far back to tell; differs, from seq on: exit code 6)")]
    Verify(Verified),
    /// Whom names stand for: list contacts, accept a changed one, forget one. Needs no connection.
    #[command(subcommand)]
    Trust(TrustVerb),
    /// Key packages, by which others add this device while it is away.
    #[command(subcommand)]
    Keys(KeysVerb),
    /// The devices of this account.
    #[command(subcommand)]
    Devices(DevicesVerb),
    /// Delete the account on the server, for good.
    #[command(after_help = "Example: qpc delete-account --yes\n\nJSON: {\"type\":\"deleted\"}")]
    DeleteAccount {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Show all of it: a real server, real devices, every claim checked.
    #[command(
        alias = "demo-group",
        after_help = "Example: qpc demo --members 8\n
Starts a server on a free port of this machine with a temporary store, runs a conversation that it kills the server \
in the middle of, checks every step, and removes everything again. Ends 0 only if every check held.
JSON: {\"type\":\"step\",\"number\",\"title\",\"proved\",\"millis\"} per step, then {\"type\":\"demo\",\"ok\",\"checks\",\"millis\"}"
    )]
    Demo {
        /// Members of the group, 3 to 64; Carol has two devices.
        #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(3..=64))]
        members: u32,
    },

    /// As `group create`.
    #[command(hide = true)]
    CreateGroup(NewGroup),
    /// As `group invite`.
    #[command(hide = true)]
    Invite(Invited),
    /// Receive invitations and list the groups.
    #[command(hide = true)]
    Join,
    /// As `verify`.
    #[command(hide = true)]
    FetchKey(Verified),
    /// As `keys status`.
    #[command(hide = true)]
    CheckKey,
    /// As `keys refresh`.
    #[command(hide = true, alias = "register-state")]
    RefreshKeypackage,
}

impl Verb {
    /// As others are told who holds a home.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Register { .. } => "register",
            Self::Login { .. } => "login",
            Self::Logout => "logout",
            Self::Whoami => "whoami",
            Self::Ping { .. } => "ping",
            Self::Health => "health",
            Self::Group(_) | Self::CreateGroup(_) | Self::Invite(_) | Self::Join => "group",
            Self::Direct { .. } => "direct",
            Self::Send { .. } => "send",
            Self::Recv { follow: true, .. } => "recv --follow",
            Self::Recv { .. } => "recv",
            Self::Chat { .. } => "chat",
            Self::Verify(_) | Self::FetchKey(_) => "verify",
            Self::Trust(_) => "trust",
            Self::Keys(_) | Self::CheckKey | Self::RefreshKeypackage => "keys",
            Self::Devices(_) => "devices",
            Self::DeleteAccount { .. } => "delete-account",
            Self::Demo { .. } => "demo",
        }
    }
}

#[cfg(test)]
mod tests;
