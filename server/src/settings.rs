//! Settings: defaults, then the TOML file, then `QPC_*` variables, then flags; each overrides the one before.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Command, CommandFactory as _, FromArgMatches as _, Parser, ValueEnum};
use qpc_protocol::limits;
use serde::{Deserialize, Serialize};
use thiserror::Error;

const EXAMPLES: &str = "\
Settings come from defaults, then --config, then QPC_* variables, then flags; the later wins. The file is TOML with \
the names of the flags, with - or _, as in: store_backend = \"sqlcipher\". The database's key comes from QPC_DB_KEY (64 hexadecimal \
digits) or from the file of mode 0600 that db-key-file names, never from a flag or the settings themselves. A \
variable that is empty counts as unset; only in production an empty QPC_DB_KEY is refused.

Examples:
  qpc-server                                   develop: 127.0.0.1:7000, state in ./qpc-data
  qpc-server --listen 127.0.0.1:0              a free port; the printed line says which
  qpc-server --production --listen [::]:7000 --public-host chat.example.org \\
      --cert chain.pem --key key.pem --data-dir /var/lib/qpc --db-key-file /etc/qpc/db.key

Once listening, one line on standard output: qpc://127.0.0.1:7000#<pin>, the address for clients. Logs go to standard \
error. SIGINT or SIGTERM: calls in flight finish (at most 30 s), then all connections close; a second signal ends at \
once.

Exit codes:
  0  ended by a signal, everything closed
  1  broke while running, or the system lacks something
  2  flags, variables or the settings file do not hold
  3  cannot listen on the address
  4  certificate or key unusable, or refused in production mode
  5  the database or its key: missing, wrong, newer than this program
  6  the data directory is in use, or a file cannot be read or written
  130  ended at once by a second signal";

/// The reference server of quicprochat.
#[derive(Debug, Parser)]
#[command(name = "qpc-server", version, about, after_help = EXAMPLES, max_term_width = 120)]
pub(crate) struct Cli {
    /// A TOML file with settings.
    #[arg(long, value_name = "FILE", env = "QPC_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// Print the settings that would hold, as TOML, and end.
    #[arg(long)]
    pub(crate) print_settings: bool,
    /// Print the address as a JSON object instead of a plain line.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    layer: Layer,
}

macro_rules! layer {
    ($($(#[$attribute:meta])* $name:ident: $kind:ty,)*) => {
        /// Settings that one place may give.
        #[derive(Clone, Debug, Default, Args, Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        struct Layer {
            $($(#[$attribute])* $name: Option<$kind>,)*
        }

        impl Layer {
            /// This one's where it has any, else those of `below`.
            fn over(self, below: Self) -> Self {
                Self { $($name: self.$name.or(below.$name),)* }
            }
        }
    };
}

layer! {
    /// UDP address to listen on; port 0 takes a free one [default: 127.0.0.1:7000].
    #[arg(long, value_name = "ADDR", env = "QPC_LISTEN", hide_env_values = true)]
    listen: SocketAddr,
    /// Name or address that clients reach this server by, for the printed address [default: the one listened on].
    #[arg(long, value_name = "HOST", env = "QPC_PUBLIC_HOST", hide_env_values = true)]
    #[serde(alias = "public_host")]
    public_host: String,
    /// Directory of everything stored; made with mode 0700 [default: qpc-data].
    #[arg(long, value_name = "DIR", env = "QPC_DATA_DIR", hide_env_values = true)]
    #[serde(alias = "data_dir")]
    data_dir: PathBuf,
    /// PEM file with the certificate chain.
    #[arg(long, value_name = "FILE", env = "QPC_CERT", hide_env_values = true)]
    cert: PathBuf,
    /// PEM file with the certificate's private key.
    #[arg(long, value_name = "FILE", env = "QPC_KEY", hide_env_values = true)]
    key: PathBuf,
    /// File of mode 0600 with the database's key [default: db.key in the data directory].
    #[arg(long, value_name = "FILE", env = "QPC_DB_KEY_FILE", hide_env_values = true)]
    #[serde(alias = "db_key_file")]
    db_key_file: PathBuf,
    /// Refuse what is for development only: made certificates, made database keys, the memory store.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
        env = "QPC_PRODUCTION", hide_env_values = true)]
    production: bool,
    /// Where to store [default: sqlcipher].
    #[arg(long, alias = "store", env = "QPC_STORE_BACKEND", hide_env_values = true)]
    #[serde(alias = "store_backend")]
    store_backend: StoreKind,
    /// How long log entries are kept at most, as 90s, 15m, 12h or 7d [default: 7d].
    #[arg(long, value_name = "TIME", env = "QPC_RETENTION", hide_env_values = true)]
    retention: Span,
    /// Connections at once [default: 10000].
    #[arg(long, value_name = "N", env = "QPC_CONNECTIONS", hide_env_values = true)]
    connections: u32,
    /// Life of an access token [default: 1h].
    #[arg(long, value_name = "TIME", env = "QPC_ACCESS_TOKEN_TIME", hide_env_values = true)]
    #[serde(alias = "access_token_time")]
    access_token_time: Span,
    /// Life of a refresh token [default: 30d].
    #[arg(long, value_name = "TIME", env = "QPC_REFRESH_TOKEN_TIME", hide_env_values = true)]
    #[serde(alias = "refresh_token_time")]
    refresh_token_time: Span,
    /// Failed logins of one account within ten minutes [default: 10].
    #[arg(long, value_name = "N", env = "QPC_LOGINS_PER_ACCOUNT", hide_env_values = true)]
    #[serde(alias = "logins_per_account")]
    logins_per_account: u32,
    /// Logins and registrations from one source within ten minutes [default: 200].
    #[arg(long, value_name = "N", env = "QPC_LOGINS_PER_SOURCE", hide_env_values = true)]
    #[serde(alias = "logins_per_source")]
    logins_per_source: u32,
    /// What is logged, as in info or info,qpc_smol=debug; the audit log is qpc_audit [default: info].
    #[arg(long, value_name = "FILTER", env = "QPC_LOG", hide_env_values = true)]
    log: String,
    /// How it is logged [default: text].
    #[arg(long, env = "QPC_LOG_FORMAT", hide_env_values = true)]
    #[serde(alias = "log_format")]
    log_format: LogFormat,
}

/// All settings of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// UDP address to listen on.
    pub listen: SocketAddr,
    /// Host in the printed address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_host: Option<String>,
    /// Directory of everything stored.
    pub data_dir: PathBuf,
    /// PEM file with the certificate chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// PEM file with the certificate's private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// File with the database's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub db_key_file: Option<PathBuf>,
    /// Refuse what is for development only.
    pub production: bool,
    /// Where to store.
    pub store_backend: StoreKind,
    /// Life of log entries.
    pub retention: Span,
    /// Connections at once.
    pub connections: u32,
    /// Life of an access token.
    pub access_token_time: Span,
    /// Life of a refresh token.
    pub refresh_token_time: Span,
    /// Failed logins per account and window.
    pub logins_per_account: u32,
    /// Logins and registrations per source and window.
    pub logins_per_source: u32,
    /// Log filter.
    pub log: String,
    /// Log format.
    pub log_format: LogFormat,
}

/// Where a server stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreKind {
    /// SQLite, encrypted by SQLCipher, in the data directory.
    Sqlcipher,
    /// In memory: gone when the server ends.
    Memory,
}

/// How a server logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// A length of time in whole seconds, written as `90s`, `15m`, `12h` or `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

/// Settings that do not hold.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The flags or variables do not parse, or help was asked for.
    #[error(transparent)]
    Cli(#[from] clap::Error),
    /// The settings file cannot be read.
    #[error("cannot read settings from {}: {error}\nCheck the path given by --config or QPC_CONFIG.", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The settings file does not parse.
    #[error("settings in {}: {error}{}", path.display(), parse_advice(error))]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why, with the line.
        error: Box<toml::de::Error>,
    },
    /// A certificate without key, or a key without certificate.
    #[error(
        "--cert and --key belong together: give both, or neither for a development certificate"
    )]
    CertWithoutKey,
    /// A value out of its bounds.
    #[error("{0}")]
    Bounds(&'static str),
}

/// A command line whose arguments do not take an environment variable that is empty: it counts as unset, as in a
/// unit file or a compose file that names all of them.
pub fn without_empty_variables(command: Command) -> Command {
    command.mut_args(|argument| {
        let value = argument.get_env().and_then(std::env::var_os);
        if value.is_some_and(|value| value.is_empty()) { argument.env(None) } else { argument }
    })
}

impl Settings {
    /// From these arguments (the first is the program's name), the environment, and the file they name.
    pub(crate) fn read(
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<(Cli, Self), SettingsError> {
        let mut command = without_empty_variables(Cli::command());
        let matches = command.try_get_matches_from_mut(arguments)?;
        let cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        let file = match &cli.config {
            Some(path) => Layer::read(path)?,
            None => Layer::default(),
        };
        let settings = Self::of(cli.layer.clone().over(file))?;
        Ok((cli, settings))
    }

    fn of(layer: Layer) -> Result<Self, SettingsError> {
        let number = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
        let settings = Self {
            listen: layer.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7000))),
            public_host: layer.public_host,
            data_dir: layer.data_dir.unwrap_or_else(|| PathBuf::from("qpc-data")),
            cert: layer.cert,
            key: layer.key,
            db_key_file: layer.db_key_file,
            production: layer.production.unwrap_or(false),
            store_backend: layer.store_backend.unwrap_or(StoreKind::Sqlcipher),
            retention: layer.retention.unwrap_or(Span(limits::ENTRY_TIME)),
            connections: layer.connections.unwrap_or(number(limits::CONNECTIONS)),
            access_token_time: layer.access_token_time.unwrap_or(Span(limits::ACCESS_TOKEN_TIME)),
            refresh_token_time: layer
                .refresh_token_time
                .unwrap_or(Span(limits::REFRESH_TOKEN_TIME)),
            logins_per_account: layer.logins_per_account.unwrap_or(limits::LOGINS_PER_ACCOUNT),
            logins_per_source: layer.logins_per_source.unwrap_or(limits::LOGINS_PER_SOURCE),
            log: layer.log.unwrap_or_else(|| "info".to_owned()),
            log_format: layer.log_format.unwrap_or(LogFormat::Text),
        };
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), SettingsError> {
        let minute = Duration::from_secs(60);
        let year = Duration::from_secs(366 * 24 * 60 * 60);
        let within = |span: Span| (minute..=year).contains(&span.0);
        if self.cert.is_some() != self.key.is_some() {
            return Err(SettingsError::CertWithoutKey);
        }
        if !within(self.retention)
            || !within(self.access_token_time)
            || !within(self.refresh_token_time)
        {
            return Err(SettingsError::Bounds(
                "retention, access-token-time and refresh-token-time must be from 1m to 366d",
            ));
        }
        if self.connections == 0 || self.logins_per_account == 0 || self.logins_per_source == 0 {
            return Err(SettingsError::Bounds(
                "connections, logins-per-account and logins-per-source must be at least 1",
            ));
        }
        let host = self.public_host();
        let is_name = || {
            let address: Result<qpc_smol::Address, _> = format!("qpc://{host}:1").parse();
            address.is_ok_and(|address| address.host == host)
        };
        if host.parse::<std::net::IpAddr>().is_err() && !is_name() {
            return Err(SettingsError::Bounds(
                "public-host must be a host name or an address without brackets and port",
            ));
        }
        Ok(())
    }

    /// The host for the printed address: as set, else where the server listens; a server that listens
    /// everywhere is reached on the loopback at least.
    pub fn public_host(&self) -> String {
        match (&self.public_host, self.listen) {
            (Some(host), _) => host.clone(),
            (None, SocketAddr::V4(listen)) if listen.ip().is_unspecified() => {
                "127.0.0.1".to_owned()
            }
            (None, SocketAddr::V6(listen)) if listen.ip().is_unspecified() => "::1".to_owned(),
            (None, listen) => listen.ip().to_string(),
        }
    }
}

impl Layer {
    fn read(path: &Path) -> Result<Self, SettingsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| SettingsError::Read { path: path.to_owned(), error })?;
        toml::from_str(&text)
            .map_err(|error| SettingsError::Parse { path: path.to_owned(), error: Box::new(error) })
    }
}

/// A key in a settings file is refused; who wrote one there wants to know where it belongs.
fn parse_advice(error: &toml::de::Error) -> &'static str {
    if error.message().starts_with("unknown field `db_key`")
        || error.message().starts_with("unknown field `db-key`")
    {
        "The database's key has no place among the settings: give it in QPC_DB_KEY, or its file by db-key-file."
    } else {
        ""
    }
}

const UNITS: [(char, u64); 4] = [('d', 24 * 60 * 60), ('h', 60 * 60), ('m', 60), ('s', 1)];

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        UNITS
            .into_iter()
            .find_map(|(unit, seconds)| {
                let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
                count.checked_mul(seconds).map(|seconds| Self(Duration::from_secs(seconds)))
            })
            .ok_or("a time is a whole number with a unit: 90s, 15m, 12h or 7d")
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (unit, size) =
            UNITS.into_iter().find(|(_, size)| seconds.is_multiple_of(*size)).unwrap_or(('s', 1));
        write!(f, "{}{unit}", seconds / size)
    }
}

impl TryFrom<String> for Span {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

#[cfg(test)]
mod tests;
