//! What can be done with groups.

use clap::{Args, Subcommand};

/// What to do with groups.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum GroupVerb {
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
JSON, per account: {\"type\":\"invited\",\"group\",\"username\",\"epoch\",\"changed\"} (changed: false if all its devices that can be \
added were in it)")]
    Invite(Invited),
    /// Remove all devices of an account. They read nothing that is sent later.
    #[command(after_help = "Example: qpc group remove team bob\n
JSON: {\"type\":\"removed\",\"group\",\"account\",\"epoch\"}")]
    Remove {
        /// The group: its name, or the first digits of its id.
        group: String,
        /// The member's name, or the first digits of its account id.
        username: String,
    },
    /// Fresh keys for this device in a group. It gets them by itself, too: every 7 days, or after 1,000 entries of the
    /// group's log (--update-entries), or twice as many as it has devices if that is more.
    #[command(after_help = "Example: qpc group update team\n
JSON: {\"type\":\"updated\",\"group\",\"epoch\"}")]
    Update {
        /// The group: its name, the first digits of its id, or @ and a username.
        group: String,
    },
    /// Change a group's name, description or picture. For its admins; the server never learns any of it.
    #[command(
        after_help = "Example: qpc group set team --name harbour --description \"who sails when\" --avatar boat.png\n
JSON: {\"type\":\"group_set\",\"group\",\"epoch\"}"
    )]
    Set(GroupProfile),
    /// Make a member an admin, who invites, removes and sets, or a plain member again. For admins; the last one stays
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
    /// Replace this device's keys in a group from outside, if it cannot go on there with those that it has.
    ///
    /// A device does this by itself when it finds out; at most once an hour.
    #[command(after_help = "Example: qpc group rejoin team\n
JSON: {\"type\":\"rejoined\",\"group\",\"epoch\"}")]
    Rejoin {
        /// The group: its name, the first digits of its id, or @ and a username.
        group: String,
    },
    /// Begin a group anew in its place, with the same members, admins and name: for a group that does not work any
    /// more, or to make it post-quantum. For its admins.
    ///
    /// What was said stays; what is on its way goes out in the new one. A device that cannot be added is named, and can
    /// be invited later. Nothing moves to a weaker cipher suite.
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

/// What a group shows of itself; what is not named stays.
#[derive(Debug, Args)]
pub(in crate::cli) struct GroupProfile {
    /// The group: its name, or the first digits of its id.
    pub(in crate::cli) group: String,
    /// Its name, 1 to 256 bytes.
    #[arg(long, required_unless_present_any = ["description", "avatar"])]
    pub(in crate::cli) name: Option<String>,
    /// What it is about, at most 2048 bytes; empty for nothing.
    #[arg(long)]
    pub(in crate::cli) description: Option<String>,
    /// Its picture: a file, of which the members get the SHA-256, or that in 64 digits; empty for none.
    #[arg(long, value_name = "FILE or SHA-256")]
    pub(in crate::cli) avatar: Option<String>,
}

/// What a member may do.
#[derive(Debug, Args)]
pub(in crate::cli) struct NewRole {
    /// The group: its name, or the first digits of its id.
    pub(in crate::cli) group: String,
    /// The member's name, or the first digits of its account id.
    pub(in crate::cli) username: String,
    /// admin or member.
    #[arg(value_parser = ["admin", "member"])]
    pub(in crate::cli) role: String,
}

/// A group to make.
#[derive(Debug, Args)]
pub(in crate::cli) struct NewGroup {
    /// Its name, 1 to 256 bytes.
    pub(in crate::cli) name: String,
    /// Without the post-quantum part.
    #[arg(long)]
    pub(in crate::cli) classical: bool,
}

/// Accounts to add to a group.
#[derive(Debug, Args)]
pub(in crate::cli) struct Invited {
    /// The group: its name, or the first digits of its id.
    pub(in crate::cli) group: String,
    /// Whom to add.
    #[arg(required = true)]
    pub(in crate::cli) usernames: Vec<String>,
}
