//! The state of a device: ordered records in one SQLCipher file, each batch one durable transaction.

use core::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use data_encoding::HEXLOWER;
use qpc_protocol::error::{StoreFault, StoreFaultKind};
use qpc_protocol::io::Page;
use qpc_protocol::store::batch::{Batch, Op, Records};
use qpc_server::crash_point;
use qpc_smol::store::ClientStore;
use rusqlite::{Connection, ErrorCode, OpenFlags, params};
use zeroize::Zeroizing;

use crate::problem::{Local, Problem};

/// Bytes of a page, SQLCipher's default. Files are whole pages.
const PAGE: u64 = 4096;
/// "qpcc", in the file's header.
const APPLICATION: i64 = 0x7170_6363;
/// Applied in order; number n raises `user_version` to n. Never edit one that was released.
const MIGRATIONS: &[&str] =
    &["CREATE TABLE records(key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
     PRAGMA application_id = 0x71706363;"];
/// The home's lock keeps other processes out; this is for one that is just being killed.
const BUSY_TIME: Duration = Duration::from_secs(2);

/// A device's records in a SQLCipher file.
pub(crate) struct SqlStore {
    db: Connection,
}

impl fmt::Debug for SqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SqlStore")
    }
}

impl SqlStore {
    /// Opens the file, or makes it with mode 0600 if there is none, under a raw key of 32 random bytes.
    pub(crate) fn open(path: &Path, key: &[u8; 32]) -> Result<Self, Problem> {
        let explain = |error: rusqlite::Error| explain(path, &error);
        prepare_file(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut db = Connection::open_with_flags(path, flags).map_err(explain)?;
        db.busy_timeout(BUSY_TIME).map_err(explain)?;
        set_key(&db, key).map_err(explain)?;
        configure(&db).map_err(explain)?;
        migrate(&mut db, path)?;
        Ok(Self { db })
    }

    fn transact(&mut self, batch: &Batch) -> rusqlite::Result<()> {
        let transaction = self.db.transaction()?;
        {
            let mut put = transaction.prepare_cached(
                "INSERT INTO records VALUES (?1, ?2) ON CONFLICT(key) DO UPDATE SET value = ?2",
            )?;
            let mut delete = transaction.prepare_cached("DELETE FROM records WHERE key = ?1")?;
            for op in &batch.ops {
                match op {
                    Op::Put(key, value) => put.execute(params![key, value])?,
                    Op::Delete(key) => delete.execute(params![key])?,
                    Op::DeletePrefix(prefix) => match end_of(prefix) {
                        Some(end) => transaction
                            .prepare_cached("DELETE FROM records WHERE key >= ?1 AND key < ?2")?
                            .execute(params![prefix, end])?,
                        None => transaction
                            .prepare_cached("DELETE FROM records WHERE key >= ?1")?
                            .execute(params![prefix])?,
                    },
                };
            }
        }
        transaction.commit()
    }

    fn page(&self, page: &Page) -> rusqlite::Result<Records> {
        let Page { prefix, after, most } = page;
        // What comes after `after` and what starts with `prefix`: two lower bounds, SQLite takes the higher.
        let sql = match end_of(prefix) {
            Some(_) => {
                "SELECT key, value FROM records WHERE key >= ?1 AND (?2 IS NULL OR key > ?2) AND key < ?3
                 ORDER BY key LIMIT ?4"
            }
            None => {
                "SELECT key, value FROM records WHERE key >= ?1 AND (?2 IS NULL OR key > ?2) AND ?3 IS NULL
                 ORDER BY key LIMIT ?4"
            }
        };
        // With `after` as the first bound the scan starts there instead of at the prefix.
        let start = match after {
            Some(after) if after > prefix => after,
            _ => prefix,
        };
        let most = i64::try_from(*most).unwrap_or(i64::MAX);
        let mut statement = self.db.prepare_cached(sql)?;
        let rows = statement.query_map(params![start, after, end_of(prefix), most], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
        rows.collect()
    }
}

impl ClientStore for SqlStore {
    fn apply(&mut self, batch: &Batch) -> Result<(), StoreFault> {
        crash_point();
        let applied = self.transact(batch).map_err(|error| fault(&error));
        crash_point();
        applied
    }

    fn load(&mut self, page: &Page) -> Result<Records, StoreFault> {
        self.page(page).map_err(|error| fault(&error))
    }
}

/// The least key above all that start with `prefix`; `None` if there is none.
fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xFF)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// Makes the file if it is missing, durably under its name; refuses one that was cut off.
fn prepare_file(path: &Path) -> Result<(), Problem> {
    let failed = |error: io::Error| crate::home::file_problem(path, &error);
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            return File::open(parent.unwrap_or(Path::new(".")))
                .and_then(|directory| directory.sync_all())
                .map_err(failed);
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let about = fs::metadata(path).map_err(failed)?;
    if !about.is_file() || about.len() % PAGE != 0 {
        return Err(damaged(path, "the file was cut off: its length is no whole number of pages"));
    }
    Ok(())
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
    // What SQLCipher would print by itself is in the error already. The first key of a process sets the level anew.
    db.execute_batch("PRAGMA cipher_log_level = NONE")
}

fn configure(db: &Connection) -> rusqlite::Result<()> {
    // SQLCipher 4, stated so that a later library default changes nothing. An exclusive lock needs no
    // shared-memory file. Freed pages are overwritten: they held keys that MLS has deleted.
    db.execute_batch(
        "PRAGMA cipher_compatibility = 4;
         PRAGMA locking_mode = EXCLUSIVE;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA temp_store = MEMORY;
         PRAGMA secure_delete = ON;
         PRAGMA cache_size = -8192;
         PRAGMA journal_size_limit = 8388608;",
    )?;
    // The first read of the file: it is here that a wrong key shows. And the first lock.
    db.execute_batch("BEGIN IMMEDIATE; SELECT count(*) FROM sqlite_schema; COMMIT")
}

/// Applies what is missing, all of it or nothing.
fn migrate(db: &mut Connection, path: &Path) -> Result<(), Problem> {
    let explain = |error: rusqlite::Error| explain(path, &error);
    let number = |sql: &str| db.query_row(sql, (), |row| row.get::<_, i64>(0)).map_err(explain);
    let found = number("PRAGMA user_version")?;
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    if tables > 0 && number("PRAGMA application_id")? != APPLICATION {
        return Err(damaged(path, "this is a database of another program"));
    }
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(Problem::new(
            Local::HomeNewer,
            format!(
                "{}: its schema is version {found}, this program knows up to {known}",
                path.display()
            ),
        ));
    }
    if found == known {
        return Ok(());
    }
    let mut apply = || {
        let transaction = db.transaction()?;
        for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
            transaction.execute_batch(migration)?;
        }
        transaction.pragma_update(None, "user_version", known)?;
        transaction.commit()
    };
    crash_point();
    apply().map_err(|error| self::explain(path, &error))
}

fn damaged(path: &Path, why: &str) -> Problem {
    Problem::new(Local::HomeDamaged, format!("{}: {why}", path.display()))
}

fn explain(path: &Path, error: &rusqlite::Error) -> Problem {
    match error.sqlite_error_code() {
        // The key came out of the sealed key file, so it is the right one.
        Some(ErrorCode::NotADatabase) => {
            damaged(path, "the file is damaged, or does not belong to the key file beside it")
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Problem::new(
            Local::HomeInUse,
            format!("{}: another process has it open", path.display()),
        ),
        _ => {
            let fault = fault(error);
            let text = format!("{}: {}", path.display(), fault.detail);
            Problem::from(StoreFault { kind: fault.kind, detail: text })
        }
    }
}

fn fault(error: &rusqlite::Error) -> StoreFault {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreFaultKind::Full,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreFaultKind::Corrupt,
        _ if is_plain(error) => StoreFaultKind::Corrupt,
        _ => StoreFaultKind::Io,
    };
    // SQLite's messages name no values that were bound.
    StoreFault { kind, detail: error.to_string() }
}

/// An error without a reason. Our statements are sound: SQLCipher answers so behind a page whose tag does not hold.
fn is_plain(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_ERROR)
}

#[cfg(test)]
mod tests;
