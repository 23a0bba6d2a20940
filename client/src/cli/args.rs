//! The arguments, and what `--help` says of them.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

const ABOUT: &str = "End-to-end encrypted group messaging.

One home directory is one device of one account. Register once, invite people to groups, send and receive.";

const AFTER: &str = "\
Examples:
  qpc demo                                                  a whole conversation, checked, in a few seconds
  qpc register alice --server qpc://127.0.0.1:7000#<pin>    an account, and this device
  qpc group create team                                     a group
  qpc group invite team bob                                 Bob's devices join it
  qpc send team \"hello\"                                     returns when the server has it on disk
  qpc send @bob \"hello\"                                     to Bob alone
  qpc recv --follow                                         what others write, as it comes

Passwords come from a prompt, from the first line of standard input (--password-stdin) or from the first line of the
file that QPC_PASSWORD_FILE names; never from an argument. One password logs in (OPAQUE: the server never sees it)
and opens the state of this device. For unattended use, --key-file opens the state instead.

With --json results are one object per line on standard output, each with a \"type\"; warnings and errors are objects on
standard error (\"type\": \"warning\", \"note\" or \"error\"; errors with \"code\", \"name\", \"message\", \"next\", \"exit\").
QPC_LOG=debug logs to standard error; no secret is ever logged. A variable that is empty counts as unset.

Older names: register-user, create-group, invite, join (receives invitations and lists groups), fetch-key (= verify),
check-key (= keys status), refresh-keypackage and register-state (= keys refresh), demo-group (= demo).

Exit codes:
  0    done
  1    failed: the error says why
  2    wrong usage
  3    the server cannot be reached, does not answer in time, or is not the one that it should be
  4    password missing or wrong, login refused, logged out
  5    state of this device: none there, in use, damaged, of a newer version, disk full
  6    refused by the server
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
    /// Print JSON, one object per line.
    #[arg(long, global = true)]
    pub(super) json: bool,
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
    /// Groups: create, list, members, invite, remove, update, set, role, leave, reset.
    #[command(subcommand, visible_alias = "groups")]
    Group(GroupVerb),
    /// Open the direct channel with another account: the one that the two of you have.
    #[command(after_help = "Examples:
  qpc direct bob
  qpc send @bob \"are you there?\"                            opens it first, if need be
  qpc recv @bob --follow

Everywhere a group is named, @bob is the direct channel with bob. Either of you may open it, even both at once; all
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

Not reachable? The message stays in the outbox of this device, goes out with the next command that reaches the server,
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
  qpc verify bob --scanned AEAQ…    compares what was scanned from Bob's screen; verified if it is the same
  qpc verify --group team           a checkpoint: what this device read of the group's log, signed; send it to another member
                                    by any way but this server
  qpc verify --group team --with AEAQ…    whether that member read the same log

JSON: {\"type\":\"safety_number\",\"username\",\"account\",\"safety_number\",\"qr\",\"trust\"}
(safety_number: 60 digits, in twelve groups of five with a space between; qr: the QR code's text; both are the same on
both sides; trust: seen, verified or changed)
With --mark or --scanned: {\"type\":\"verified\",\"username\",\"account\"}
With --group: {\"type\":\"checkpoint\",\"group\",\"epoch\",\"seq\",\"chain\",\"checkpoint\"}
With --group and --with: {\"type\":\"compared\",\"group\",\"result\",\"seq\",\"agreed\"} (result: same, up to seq; ahead: the
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
Starts a server on a free port of this machine with a temporary store, runs a conversation that it kills the server
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

/// What to do with groups.
#[derive(Debug, Subcommand)]
pub(super) enum GroupVerb {
    /// Make a group with this device as its only member. The server never learns its name.
    #[command(after_help = "Example: qpc group create \"the quiet harbour\"\n
JSON: {\"type\":\"group\",\"group\",\"kind\":\"group\",\"name\",\"suite\"}")]
    Create(NewGroup),
    /// List the groups of this device, after receiving new invitations.
    #[command(after_help = "Example: qpc group list --json\n
JSON, per group: {\"type\":\"group\",\"group\",\"kind\",\"name\",\"suite\",\"generation\",\"epoch\",\"members\",\"unread\",\"member\",\"description\",\"avatar\",\"cursor\",\"authenticator\"}
(authenticator: the same on all members of the epoch, in hexadecimal; null if this device has left or was removed)")]
    List {
        /// Do not ask the server.
        #[arg(long)]
        offline: bool,
    },
    /// List the devices in a group.
    #[command(after_help = "Examples:
  qpc group members team
  qpc group members @bob\n
JSON, per device: {\"type\":\"member\",\"username\",\"account\",\"device\",\"admin\",\"self\",\"trust\"}
(trust as in `trust list`; null for the own account, and without a confirmed name)")]
    Members {
        /// The group: its name, the first digits of its id, or @ and a username.
        group: String,
    },
    /// Add all devices of one or several accounts.
    #[command(after_help = "Example: qpc group invite team bob carol\n
JSON, per account: {\"type\":\"invited\",\"group\",\"username\",\"epoch\"}")]
    Invite(Invited),
    /// Remove all devices of an account. They read nothing that is sent later.
    #[command(after_help = "Example: qpc group remove team bob\n
JSON: {\"type\":\"removed\",\"group\",\"account\",\"epoch\"}")]
    Remove {
        /// The group: its name, the first digits of its id, or @ and a username.
        group: String,
        /// The member's name, or the first digits of its account id.
        username: String,
    },
    /// Fresh keys for this device in a group. It gets them by itself, too: every 7 days, or after 1,000 entries of the
    /// group's log.
    #[command(after_help = "Example: qpc group update team\n
JSON: {\"type\":\"updated\",\"group\",\"epoch\"}")]
    Update {
        /// The group: its name, or the first digits of its id.
        group: String,
    },
    /// Change what a group shows of itself, for its admins. The server never learns any of it.
    #[command(
        after_help = "Example: qpc group set team --name harbour --description \"who sails when\" --avatar boat.png\n
JSON: {\"type\":\"group_set\",\"group\",\"epoch\"}"
    )]
    Set(GroupProfile),
    /// Make a member an admin, who adds, removes and sets, or a plain member again, for admins. The last admin stays
    /// one.
    #[command(after_help = "Example: qpc group role team bob admin\n
JSON: {\"type\":\"role\",\"group\",\"account\",\"role\",\"epoch\"}")]
    Role(NewRole),
    /// Leave a group. Its last admin names another one first.
    #[command(after_help = "Example: qpc group leave team\n\nJSON: {\"type\":\"left\",\"group\"}")]
    Leave {
        /// The group: its name, the first digits of its id, or @ and a username.
        group: String,
    },
    /// Replace this device's keys in a group from outside, if it can not go on there with those that it has.
    ///
    /// A device does this by itself when it finds out; at most once an hour.
    #[command(after_help = "Example: qpc group rejoin team\n
JSON: {\"type\":\"rejoined\",\"group\",\"epoch\"}")]
    Rejoin {
        /// The group: its name, or the first digits of its id.
        group: String,
    },
    /// Begin a group anew in its place, with the same members, admins and name: for a group that does not work any more,
    /// or to make it post-quantum. For its admins.
    ///
    /// What was said stays; what is on its way goes out in the new one. A device that cannot be added is named, and can be
    /// invited later. Nothing moves to a weaker cipher suite.
    #[command(after_help = "Examples:
  qpc group reset team
  qpc group reset team --suite hybrid
  qpc group reset @bob                                     either of you may

JSON: {\"type\":\"reset\",\"group\",\"generation\",\"epoch\",\"suite\"}")]
    Reset {
        /// The group: its name, the first digits of its id, or @ and a username.
        group: String,
        /// The cipher suite; without it, the one that the group has.
        #[arg(long, value_parser = ["hybrid", "classical"])]
        suite: Option<String>,
    },
}

/// What to do with key packages.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(super) enum KeysVerb {
    /// How many the server holds for this device.
    #[command(after_help = "Example: qpc keys status\n
JSON: {\"type\":\"key_packages\",\"available\",\"last_resort\"}")]
    Status,
    /// Upload fresh ones now. The server keeps 100 per device; above that they take the place of the oldest.
    #[command(after_help = "Example: qpc keys refresh\n
JSON: {\"type\":\"key_packages\",\"available\",\"last_resort\"}")]
    Refresh,
}

/// What to do with devices.
#[derive(Debug, Subcommand)]
pub(super) enum DevicesVerb {
    /// List them.
    #[command(after_help = "Example: qpc devices list\n
JSON, per device: {\"type\":\"device\",\"device\",\"self\",\"revoked\",\"since\",\"last_seen\"} (Unix ms)")]
    List,
    /// Give this device a new key, in its record and in every group.
    #[command(
        after_help = "Example: qpc devices rotate\n\nJSON: {\"type\":\"rotated\",\"device\"}"
    )]
    Rotate,
    /// Revoke one for good.
    #[command(
        after_help = "Example: qpc devices revoke 3f9a02\n\nJSON: {\"type\":\"revoked\",\"device\"}"
    )]
    Revoke {
        /// The first digits of its id.
        device: String,
    },
}

/// What a group shows of itself; what is not named stays.
#[derive(Debug, Args)]
pub(super) struct GroupProfile {
    /// The group: its name, or the first digits of its id.
    pub(super) group: String,
    /// Its name, 1 to 256 bytes.
    #[arg(long, required_unless_present_any = ["description", "avatar"])]
    pub(super) name: Option<String>,
    /// What it is about, at most 2048 bytes; empty for nothing.
    #[arg(long)]
    pub(super) description: Option<String>,
    /// Its picture: a file, of which the members get the SHA-256, or that in 64 digits; empty for none.
    #[arg(long, value_name = "FILE or SHA-256")]
    pub(super) avatar: Option<String>,
}

/// What a member may do.
#[derive(Debug, Args)]
pub(super) struct NewRole {
    /// The group: its name, or the first digits of its id.
    pub(super) group: String,
    /// The member's name, or the first digits of its account id.
    pub(super) username: String,
    /// admin or member.
    #[arg(value_parser = ["admin", "member"])]
    pub(super) role: String,
}

/// What to do with contacts.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum TrustVerb {
    /// List contacts: their accounts, and how far they are trusted.
    #[command(after_help = "Example: qpc trust list --json\n
JSON, per contact: {\"type\":\"contact\",\"username\",\"account\",\"trust\",\"since\",\"before\"}
(trust: seen, at first use; verified, by comparing; changed, the name stood for account \"before\": it is neither invited
nor written to by that name until that is accepted; before is null otherwise; since in Unix ms)")]
    List,
    /// Take the account that a changed name leads to now for that person, without comparing.
    #[command(after_help = "Example: qpc trust accept bob\n
JSON: {\"type\":\"accepted\",\"username\",\"account\"}")]
    Accept {
        /// Whose.
        username: String,
    },
    /// Forget a contact: its name is taken on trust again when it is next heard.
    #[command(after_help = "Example: qpc trust forget bob\n
JSON: {\"type\":\"forgotten\",\"username\",\"account\"}")]
    Forget {
        /// Whose.
        username: String,
    },
}

/// What to verify.
#[derive(Debug, Args)]
pub(super) struct Verified {
    /// Whose.
    #[arg(required_unless_present = "group")]
    pub(super) username: Option<String>,
    /// Draw a QR code too.
    #[arg(long, conflicts_with_all = ["scanned", "mark", "with"])]
    pub(super) qr: bool,
    /// The text of the QR code that the other's device shows.
    #[arg(long, value_name = "TEXT", conflicts_with = "mark")]
    pub(super) scanned: Option<String>,
    /// The digits shown before were compared and match.
    #[arg(long)]
    pub(super) mark: bool,
    /// Instead of an account: whether the server shows other members of this group the same log.
    #[arg(long, value_name = "GROUP", conflicts_with_all = ["username", "scanned", "mark"])]
    pub(super) group: Option<String>,
    /// The checkpoint that another member's device printed for the group.
    #[arg(long, value_name = "TEXT", requires = "group")]
    pub(super) with: Option<String>,
}

/// A group to make.
#[derive(Debug, Args)]
pub(super) struct NewGroup {
    /// Its name, 1 to 256 bytes.
    pub(super) name: String,
    /// Without the post-quantum part.
    #[arg(long)]
    pub(super) classical: bool,
}

/// Accounts to add to a group.
#[derive(Debug, Args)]
pub(super) struct Invited {
    /// The group: its name, the first digits of its id, or @ and a username.
    pub(super) group: String,
    /// Whom to add.
    #[arg(required = true)]
    pub(super) usernames: Vec<String>,
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
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed_and_every_verb_has_an_example() {
        let command = Cli::command();
        command.clone().debug_assert();
        let mut open: Vec<_> = command.get_subcommands().cloned().collect();
        let mut leaves = 0;
        while let Some(verb) = open.pop() {
            if verb.is_hide_set() {
                continue;
            }
            if verb.has_subcommands() {
                open.extend(verb.get_subcommands().cloned());
                continue;
            }
            leaves += 1;
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example") && help.contains("JSON"), "{}", verb.get_name());
        }
        assert!(leaves > 20);
    }

    #[test]
    fn older_names_still_work() {
        for (line, name) in [
            ("register-user alice", "register"),
            ("create-group team", "group"),
            ("invite team bob", "group"),
            ("join", "group"),
            ("fetch-key bob", "verify"),
            ("check-key", "keys"),
            ("refresh-keypackage", "keys"),
            ("register-state", "keys"),
            ("demo-group", "demo"),
            ("whoami", "whoami"),
            ("send team hello --all", "send"),
        ] {
            let words = std::iter::once("qpc").chain(line.split(' '));
            assert_eq!(Cli::try_parse_from(words).unwrap().verb.name(), name, "{line}");
        }
    }
}
