//! From settings to a running server, and from a signal to its end.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use async_signal::{Signal, Signals};
use qpc_protocol::crypto;
use qpc_protocol::error::{Fatal, StoreFault};
use qpc_protocol::id::{Digest, ServerId};
use qpc_protocol::server::audit::AuditEvent;
use qpc_protocol::server::memory::MemoryStore;
use qpc_protocol::server::op::{StoreOp, StoreReply};
use qpc_protocol::server::{Config, Server};
use qpc_smol::store::ServerStore;
use qpc_smol::{Address, ResetSecret, ServeOptions, ServerHandle, serve};
use serde_json::json;
use smol::future;
use smol::stream::StreamExt;
use tracing_subscriber::EnvFilter;
use zeroize::Zeroizing;

use crate::clock::clock;
use crate::crash::crash_point;
use crate::error::StartError;
use crate::files::DataDir;
use crate::settings::{LogFormat, Settings, SettingsError, StoreKind};
use crate::store::SqliteStore;
use crate::{database_key, identity, secrets};

/// Exit code of the second signal: 128 + SIGINT, as shells have it.
const AT_ONCE: i32 = 130;
/// The name of the database in the data directory.
const DATABASE: &str = "server.db";

/// A server that listens.
#[derive(Debug)]
pub struct Running {
    handle: ServerHandle,
    address: Address,
    id: ServerId,
    /// Held while the server works on it.
    _dir: DataDir,
}

/// Starts a server. `database_key` is what `QPC_DB_KEY` holds, if it is set.
///
/// # Errors
///
/// See [`StartError`].
pub fn start(
    settings: &Settings,
    database_key: Option<&Zeroizing<String>>,
) -> Result<Running, StartError> {
    if settings.production && settings.store_backend == StoreKind::Memory {
        return Err(StartError::Production(
            "the memory store forgets everything\nUse --store-backend sqlcipher.",
        ));
    }
    let dir = DataDir::open(&settings.data_dir)?;
    let identity = identity::obtain(settings, &dir)?;
    let backend = crypto::fast();
    let database = dir.join(DATABASE);
    // A key or secrets made anew beside what was stored under others would lock it away.
    let fresh = !secrets::exist(&dir) && !database.exists();
    let sources = database_key::Sources {
        text: database_key,
        file: settings.db_key_file.as_deref(),
        may_make: fresh && !settings.production,
    };
    let key = database_key::obtain(&dir, &sources)?;
    let server_secrets = secrets::obtain(&dir, backend, &key, fresh)?;
    let store: Box<dyn ServerStore> = match settings.store_backend {
        StoreKind::Memory => Box::new(InMemory(MemoryStore::default())),
        StoreKind::Sqlcipher => {
            crash_point();
            Box::new(OnDisk(SqliteStore::open(&database, key.clone())?))
        }
    };

    let clock = clock();
    let entropy = qpc_smol::entropy().map_err(StartError::System)?;
    let config = Config {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        connections: usize::try_from(settings.connections).unwrap_or(usize::MAX),
        retention: settings.retention.0,
        access_token_time: settings.access_token_time.0,
        refresh_token_time: settings.refresh_token_time.0,
        logins_per_account: settings.logins_per_account,
        logins_per_source: settings.logins_per_source,
        ..Config::new(backend)
    };
    let options = ServeOptions {
        listen: settings.listen,
        identity: identity.clone(),
        connections: config.connections,
        reset: Some(reset_secret(&key)),
    };
    let machine = Server::new(config, server_secrets, entropy, clock.now());
    let id = machine.id();
    let handle = serve(options, machine, store, clock, Box::new(audit))
        .map_err(|error| StartError::Listen { address: settings.listen, error })?;
    let address = Address {
        host: settings.public_host(),
        port: handle.local_addr().port(),
        pin: Some(identity.pin()),
    };
    tracing::info!(%address, listen = %handle.local_addr(), server = %id, "listening");
    Ok(Running { handle, address, id, _dir: dir })
}

impl Running {
    /// The address for clients, pin included.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The server's id: the key that signs its delivery proofs.
    pub fn id(&self) -> ServerId {
        self.id
    }

    /// The driver.
    pub fn handle(&self) -> &ServerHandle {
        &self.handle
    }

    /// How the server ended; waits for it.
    ///
    /// # Errors
    ///
    /// What broke it.
    pub fn join(self) -> Result<(), Fatal> {
        self.handle.join()
    }
}

/// Stays the same as long as the database's key does, and tells nothing of it.
fn reset_secret(key: &[u8; 32]) -> ResetSecret {
    ResetSecret::new(Zeroizing::new(Digest::of(&[b"qpc-server-reset-v1", key]).0))
}

/// The program; see [`crate::main`].
pub(crate) fn program(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(StartError::Settings(SettingsError::Cli(error))) => {
            // Help and version are "errors" of clap's too, with exit code 0.
            drop(error.print());
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
        Err(error) => {
            drop(writeln!(io::stderr(), "qpc-server: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(arguments: impl IntoIterator<Item = OsString>) -> Result<(), StartError> {
    let (cli, settings) = Settings::read(arguments)?;
    if cli.print_settings {
        let text = toml::to_string(&settings)
            .map_err(|error| StartError::System(io::Error::other(error)))?;
        return say(text.trim_end());
    }
    log(&settings)?;
    // What is no text is no key either, but it must not pass for none at all; nor must an empty one in production.
    let database_key = std::env::var_os(database_key::VARIABLE)
        .filter(|key| settings.production || !key.is_empty())
        .map(|key| Zeroizing::new(key.into_string().unwrap_or_default()));
    // Before anything listens, so that no signal is missed.
    let mut signals = Signals::new([Signal::Int, Signal::Term]).map_err(StartError::System)?;
    let running = start(&settings, database_key.as_ref())?;
    drop(database_key);
    if cli.json {
        let line = json!({
            "address": running.address().to_string(),
            "listen": running.handle().local_addr().to_string(),
            "pin": running.address().pin.map(|pin| pin.to_string()),
            "server": running.id().to_string(),
            "process": std::process::id(),
        });
        say(&line.to_string())?;
    } else {
        say(&running.address().to_string())?;
    }
    smol::block_on(async {
        let ended = async {
            running.handle().ended().await;
            false
        };
        let signalled = async {
            signals.next().await;
            true
        };
        if future::or(ended, signalled).await {
            tracing::info!(
                "told to end; calls in flight finish first, a second signal ends at once"
            );
            running.handle().drain().await;
            let again = async {
                signals.next().await;
                tracing::warn!("ended at once by a second signal");
                std::process::exit(AT_ONCE);
            };
            future::or(running.handle().ended(), again).await;
        }
    });
    running.join()?;
    tracing::info!("ended");
    Ok(())
}

/// A line on standard output.
fn say(line: &str) -> Result<(), StartError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(StartError::System)
}

fn log(settings: &Settings) -> Result<(), StartError> {
    let filter = EnvFilter::try_new(&settings.log).map_err(|_| {
        SettingsError::Bounds("the log filter must be as in info or info,qpc_smol=debug")
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // A second server in one process keeps the first one's log.
    let _already = match settings.log_format {
        LogFormat::Text => builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}

fn audit(event: AuditEvent) {
    let shown = |id: Option<String>| id.unwrap_or_default();
    tracing::info!(
        target: "qpc_audit",
        at = event.at.0,
        kind = ?event.kind,
        account = shown(event.account.map(|id| id.to_string())),
        device = shown(event.device.map(|id| id.to_string())),
        channel = shown(event.channel.map(|id| id.to_string())),
        error = event.error.map(qpc_protocol::error::ErrorCode::number),
    );
}

/// The store in the data directory.
struct OnDisk(SqliteStore);

impl ServerStore for OnDisk {
    fn apply(&mut self, ops: &[StoreOp]) -> Result<Vec<StoreReply>, StoreFault> {
        crash_point();
        let replies = self.0.apply(ops);
        crash_point();
        replies
    }
}

/// The store that forgets.
struct InMemory(MemoryStore);

impl ServerStore for InMemory {
    fn apply(&mut self, ops: &[StoreOp]) -> Result<Vec<StoreReply>, StoreFault> {
        Ok(self.0.apply(ops))
    }
}
