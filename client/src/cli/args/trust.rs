//! What can be done about whom names stand for.

use clap::{Args, Subcommand};

/// What to do with contacts.
#[derive(Clone, Debug, Subcommand)]
pub(in crate::cli) enum TrustVerb {
    /// List contacts: their accounts, and how far they are trusted.
    #[command(after_help = "Example: qpc trust list --json\n
JSON, per contact: {\"type\":\"contact\",\"username\",\"account\",\"trust\",\"since\",\"before\"}
(trust: seen, at first use; verified, by comparing; changed, the name stood for account \"before\": it is neither invited \
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
pub(in crate::cli) struct Verified {
    /// Whose.
    #[arg(required_unless_present = "group")]
    pub(in crate::cli) username: Option<String>,
    /// Draw a QR code too.
    #[arg(long, conflicts_with_all = ["scanned", "mark", "with"])]
    pub(in crate::cli) qr: bool,
    /// The text of the QR code that the other's device shows.
    #[arg(long, value_name = "TEXT", conflicts_with = "mark")]
    pub(in crate::cli) scanned: Option<String>,
    /// The digits shown before were compared and match.
    #[arg(long)]
    pub(in crate::cli) mark: bool,
    /// Instead of an account: whether the server shows other members of this group the same log.
    #[arg(long, value_name = "GROUP", conflicts_with_all = ["username", "scanned", "mark"])]
    pub(in crate::cli) group: Option<String>,
    /// The checkpoint that another member's device printed for the group.
    #[arg(long, value_name = "TEXT", requires = "group")]
    pub(in crate::cli) with: Option<String>,
}
