//! The reference server: settings, keys and certificates, the store, and the driver of `qpc-smol` together.
//!
//! The binary is [`main`] and nothing else, so that other programs can run the same server.
#![forbid(unsafe_code)]

mod clock;
mod crash;
mod database_key;
mod error;
mod files;
mod identity;
mod run;
mod secrets;
mod settings;
pub mod store;

use std::ffi::OsString;
use std::process::ExitCode;

pub use clock::clock;
pub use crash::crash_point;
pub use error::StartError;
pub use run::{Running, start};
pub use settings::{Settings, SettingsError, StoreKind, without_empty_variables};

/// Runs the server program with these arguments (the first is the program's name) until a signal ends it.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    run::program(arguments)
}
