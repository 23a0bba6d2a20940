//! Opening the file: who may read it, its key, its settings, its migrations.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::HEXLOWER;
use qpc_protocol::error::StoreFault;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use thiserror::Error;
use zeroize::Zeroizing;

use super::{Cache, SqliteStore, fault};

/// Bytes of a page, SQLCipher's default. Files are whole pages.
const PAGE: u64 = 4096;
/// "qpcs", set by the first migration.
const APPLICATION: i64 = 0x7170_6373;
/// Applied in order; number n raises `user_version` to n. Never edit one that was released.
const MIGRATIONS: &[&str] = &[include_str!("../../migrations/0001_first.sql")];
/// How long to wait for another process that is just closing the file.
const BUSY_TIME: Duration = Duration::from_secs(1);
/// Every statement of this store fits with room to spare.
const STATEMENTS: usize = 128;

/// Why a store could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The key is not the one that the file was made with. (A damaged first page looks the same: only the right key
    /// could tell.)
    #[error("{0}: the database key does not open this file")]
    WrongKey(PathBuf),
    /// The file is damaged, or is no database of a qpc server.
    #[error("{0}: {1}; restore it from a backup")]
    Damaged(PathBuf, String),
    /// The file was written by a newer program.
    #[error(
        "{path}: the schema is version {found}, this program knows up to {known}; use a newer program"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that this program knows.
        known: u32,
    },
    /// Another process has the file open.
    #[error("{0}: another process is using this database")]
    InUse(PathBuf),
    /// The file or its directory cannot be made or read.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The store failed while it was opened: no room, an I/O error.
    #[error("{0}: {1}")]
    Fault(PathBuf, StoreFault),
}

impl SqliteStore {
    /// Opens a store, or makes it (mode 0600; missing directories 0700) if there is none, and brings its schema up to
    /// date. `key` is the raw key of the file's encryption: 32 uniformly random bytes.
    ///
    /// The file stays locked: a second process gets [`OpenError::InUse`].
    pub fn open(path: &Path, key: Zeroizing<[u8; 32]>) -> Result<Self, OpenError> {
        let is_new = prepare_file(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let explain = |error: &rusqlite::Error| explain(path, error);
        let mut db = Connection::open_with_flags(path, flags).map_err(|e| explain(&e))?;
        db.busy_timeout(BUSY_TIME).map_err(|e| explain(&e))?;
        set_key(&db, &key).map_err(|e| explain(&e))?;
        drop(key);
        configure(&db).map_err(|e| explain(&e))?;
        if !is_new {
            check_origin(&db, path)?;
        }
        migrate(&mut db, path, MIGRATIONS)?;
        db.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(Self { db, cache: Cache::default() })
    }
}

/// Makes the file and its directory if they are missing; true if the file has no content yet.
fn prepare_file(path: &Path) -> Result<bool, OpenError> {
    let failed = |path: &Path, error| OpenError::File { path: path.to_owned(), error };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| failed(directory, error))?;
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match created {
        Ok(_) => {
            // The name has to be as durable as what is written under it.
            File::open(directory)
                .and_then(|directory| directory.sync_all())
                .map_err(|error| failed(directory, error))?;
            return Ok(true);
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(path, error)),
    }
    let about = fs::metadata(path).map_err(|error| failed(path, error))?;
    if !about.is_file() {
        return Err(OpenError::Damaged(path.to_owned(), "not a file".to_owned()));
    }
    if about.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o600))
            .map_err(|error| failed(path, error))?;
    }
    if about.len() % PAGE != 0 {
        let detail = "the file was cut off: its length is no whole number of pages";
        return Err(OpenError::Damaged(path.to_owned(), detail.to_owned()));
    }
    Ok(about.len() == 0)
}

fn set_key(db: &Connection, key: &[u8; 32]) -> rusqlite::Result<()> {
    let hex = Zeroizing::new(HEXLOWER.encode(key));
    // Room for all of it from the start: a string that grows leaves copies behind.
    let mut pragma = Zeroizing::new(String::with_capacity(96));
    for part in ["PRAGMA key = \"x'", &hex, "'\""] {
        pragma.push_str(part);
    }
    // SQLite's message for a statement that fails would quote it.
    db.execute_batch(&pragma).map_err(|_| {
        rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR),
            Some("the key could not be set".to_owned()),
        )
    })?;
    // What SQLCipher would print to stderr, the errors say. The first key of a process sets the level anew.
    db.execute_batch("PRAGMA cipher_log_level = NONE")
}

fn configure(db: &Connection) -> rusqlite::Result<()> {
    // SQLCipher 4: pages of 4096 bytes, AES-256-CBC, HMAC-SHA512. Stated, so that a later library default
    // changes nothing. An exclusive lock needs no shared-memory file. A WAL of 2,048 pages is 8 MiB: seldom
    // enough for the checkpoint's sync, little enough to leave room on a small disk.
    db.execute_batch(
        "PRAGMA cipher_compatibility = 4;
         PRAGMA locking_mode = EXCLUSIVE;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA temp_store = MEMORY;
         PRAGMA foreign_keys = ON;
         PRAGMA cache_size = -65536;
         PRAGMA wal_autocheckpoint = 2048;
         PRAGMA journal_size_limit = 16777216;",
    )?;
    // The first read of the file: it is here that a wrong key shows. And the first lock.
    db.execute_batch("BEGIN IMMEDIATE; SELECT count(*) FROM sqlite_schema; COMMIT")
}

fn check_origin(db: &Connection, path: &Path) -> Result<(), OpenError> {
    let application: i64 = pragma(db, path, "PRAGMA application_id")?;
    let tables: i64 = pragma(db, path, "SELECT count(*) FROM sqlite_schema")?;
    if application != APPLICATION && tables > 0 {
        let detail = "this is a database of another program";
        return Err(OpenError::Damaged(path.to_owned(), detail.to_owned()));
    }
    Ok(())
}

/// Applies what is missing, all of it or nothing.
pub(super) fn migrate(
    db: &mut Connection,
    path: &Path,
    migrations: &[&str],
) -> Result<(), OpenError> {
    let found: u32 = pragma(db, path, "PRAGMA user_version")?;
    let known = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
    if found > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    if found == known {
        return Ok(());
    }
    let missing = migrations.iter().skip(usize::try_from(found).unwrap_or(usize::MAX));
    let apply = || -> rusqlite::Result<()> {
        let transaction = db.transaction()?;
        for migration in missing {
            transaction.execute_batch(migration)?;
        }
        transaction.pragma_update(None, "user_version", known)?;
        transaction.commit()
    };
    apply().map_err(|error| explain(path, &error))
}

fn pragma<T: rusqlite::types::FromSql>(
    db: &Connection,
    path: &Path,
    sql: &str,
) -> Result<T, OpenError> {
    db.query_row(sql, (), |row| row.get(0)).map_err(|error| explain(path, &error))
}

fn explain(path: &Path, error: &rusqlite::Error) -> OpenError {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::WrongKey(path.to_owned()),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            OpenError::InUse(path.to_owned())
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            OpenError::Damaged(path.to_owned(), fault(error).detail)
        }
        _ => OpenError::Fault(path.to_owned(), fault(error)),
    }
}
