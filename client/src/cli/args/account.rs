//! What can be done with key packages and devices.

use clap::Subcommand;

/// What to do with key packages.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(in crate::cli) enum KeysVerb {
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
pub(in crate::cli) enum DevicesVerb {
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
