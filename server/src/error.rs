//! Why the server did not start or did not go on, each with what to do about it, and its exit code.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use qpc_protocol::error::{Fatal, StoreFaultKind};
use qpc_smol::IdentityError;
use thiserror::Error;

use crate::settings::SettingsError;
use crate::store::OpenError;

/// Why the server did not start, or did not go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings do not hold.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}\n{}", listen_advice(error))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error(
        "{file}: {error}\nGive a PEM certificate chain with --cert and its unencrypted PEM key with --key."
    )]
    Identity {
        /// Where it came from.
        file: String,
        /// Why.
        error: IdentityError,
    },
    /// Production mode wants more than is there.
    #[error("production mode: {0}")]
    Production(&'static str),
    /// The database's key is missing or malformed, or its file may be read by others.
    #[error("{0}")]
    DatabaseKey(String),
    /// The database does not open.
    #[error("{error}{}", database_advice(error))]
    Database {
        /// Why.
        #[from]
        error: OpenError,
    },
    /// The server's sealed secrets do not open.
    #[error("{0}")]
    Secrets(String),
    /// Another process works on the data directory.
    #[error(
        "{} is in use by another qpc-server\nStop that one, or give this one its own --data-dir.",
        .0.display()
    )]
    InUse(PathBuf),
    /// A file or directory cannot be read or written.
    #[error("{}: {error}\n{}", path.display(), file_advice(error))]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The system refuses threads, randomness or signals.
    #[error("the system refuses what every program needs: {0}")]
    System(io::Error),
    /// It ran, and broke.
    #[error("the server broke and has to be started again: {0}")]
    Fatal(#[from] Fatal),
}

impl StartError {
    /// The exit code of the program, stable.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::System(_) | Self::Fatal(_) => 1,
            Self::Settings(_) => 2,
            Self::Listen { .. } => 3,
            Self::Identity { .. } | Self::Production(_) => 4,
            Self::Database { error: OpenError::InUse(_) | OpenError::File { .. } } => 6,
            Self::DatabaseKey(_) | Self::Database { .. } | Self::Secrets(_) => 5,
            Self::InUse(_) | Self::File { .. } => 6,
        }
    }
}

const FULL: &str = "The disk is full: make room and start again.";

fn listen_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "Another program uses this UDP port: stop it, or choose another with --listen (port 0 takes a free one)."
        }
        io::ErrorKind::AddrNotAvailable => {
            "This machine does not have that address: see `ip address`."
        }
        io::ErrorKind::PermissionDenied => {
            "Ports below 1024 need a privilege: choose a higher one with --listen."
        }
        _ => "Choose another address with --listen.",
    }
}

fn database_advice(error: &OpenError) -> String {
    let advice = match error {
        OpenError::WrongKey(_) => {
            "Give the key that it was made with in QPC_DB_KEY or --db-key-file."
        }
        OpenError::InUse(_) => "Stop that one, or give this one its own --data-dir.",
        OpenError::File { error, .. } => file_advice(error),
        OpenError::Fault(_, fault) if fault.kind == StoreFaultKind::Full => FULL,
        _ => return String::new(),
    };
    format!("\n{advice}")
}

fn file_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "This user may not use it: change its owner, or choose another place."
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FULL,
        io::ErrorKind::NotFound => "It does not exist: check the path.",
        _ => "Check the path and the disk.",
    }
}
