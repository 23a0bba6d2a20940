//! The default store of a server: one SQLCipher file.
//!
//! Everything in the file is encrypted and authenticated page by page (AES-256-CBC, HMAC-SHA512). Each
//! [`ServerStore::apply`] is one transaction in a write-ahead log that is synced before it returns
//! (`synchronous=FULL`). What it answers is measured against
//! [`MemoryStore`](qpc_protocol::server::memory::MemoryStore).

mod accounts;
mod blobs;
mod channels;
mod keys;
mod log;
mod open;
mod row;
mod submissions;
mod sweep;

#[cfg(test)]
mod tests;

use core::fmt;
use std::collections::HashMap;

use qpc_protocol::error::{ErrorCode, StoreFault, StoreFaultKind};
use qpc_protocol::id::Sender;
use qpc_protocol::server::op::{StoreOp, StoreReply};
use qpc_smol::store::ServerStore;
use rusqlite::{Connection, OptionalExtension as _, Params, Row};

pub use open::OpenError;

/// A server's store in one SQLCipher file.
pub struct SqliteStore {
    db: Connection,
    cache: Cache,
}

/// What is kept in memory beside SQLite's pages. All of it can be read again; after a failed transaction it is
/// dropped, because it may hold what was rolled back.
#[derive(Default)]
struct Cache {
    senders: HashMap<Sender, i64>,
    submissions: submissions::Index,
    rows: channels::Rows,
    /// Of a channel (by number): how many members hold back entries at its floor. Absent: not counted.
    holding: HashMap<i64, u64>,
    hashing: HashMap<i64, blobs::Hashing>,
}

/// Why an operation did not go through.
enum Stop {
    /// An answer: nothing was written for this operation.
    Refused { code: ErrorCode, epoch: u64 },
    /// The whole transaction fails.
    Fault(StoreFault),
}

type Answer = Result<StoreReply, Stop>;

impl From<ErrorCode> for Stop {
    fn from(code: ErrorCode) -> Self {
        Self::Refused { code, epoch: 0 }
    }
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Fault(fault(&error))
    }
}

impl Stop {
    fn corrupt(detail: &str) -> Self {
        Self::Fault(StoreFault { kind: StoreFaultKind::Corrupt, detail: detail.to_owned() })
    }
}

impl ServerStore for SqliteStore {
    fn apply(&mut self, ops: &[StoreOp]) -> Result<Vec<StoreReply>, StoreFault> {
        let outcome = self.transact(ops);
        if let Err(fault) = &outcome {
            self.give_up(fault)?;
        }
        outcome
    }
}

impl SqliteStore {
    fn transact(&mut self, ops: &[StoreOp]) -> Result<Vec<StoreReply>, StoreFault> {
        run(&self.db, "BEGIN IMMEDIATE", ()).map_err(|error| fault(&error))?;
        let mut replies = Vec::with_capacity(ops.len());
        for op in ops {
            replies.push(match self.execute(op) {
                Ok(reply) => reply,
                Err(Stop::Refused { code, epoch }) => StoreReply::Refused { code, epoch },
                Err(Stop::Fault(fault)) => return Err(fault),
            });
        }
        self.write_channels().map_err(|error| fault(&error))?;
        run(&self.db, "COMMIT", ()).map_err(|error| fault(&error))?;
        Ok(replies)
    }

    /// Ends a transaction that failed, so that the next one finds the store as it was before.
    fn give_up(&mut self, why: &StoreFault) -> Result<(), StoreFault> {
        self.cache = Cache::default();
        // Some failures end the transaction by themselves; then there is nothing to roll back.
        if !self.db.is_autocommit() {
            run(&self.db, "ROLLBACK", ()).map_err(|error| fault(&error))?;
        }
        if why.kind == StoreFaultKind::Full {
            // What the log holds twice may be the room that is missing. If that fails too, nothing is lost by it.
            let _ = one(&self.db, "PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()));
        }
        Ok(())
    }

    fn execute(&mut self, op: &StoreOp) -> Answer {
        use StoreOp as Op;
        match op {
            Op::CreateAccount(row) => self.create_account(row),
            Op::FindAccount { username } => self.find_account(username),
            Op::DeleteAccount { account, at: _ } => self.delete_account(*account),
            Op::PutDevice { record, envelope_keys, most, at, expires } => {
                let life = accounts::Life { at: *at, expires: *expires };
                self.put_device(record, envelope_keys, *most, life)
            }
            Op::ListDevices { account } => self.list_devices(*account),
            Op::RevokeDevice { revocation, by, most, at, expires } => {
                let life = accounts::Life { at: *at, expires: *expires };
                self.revoke_device(revocation, *by, *most, life)
            }
            Op::OpenSession { sender, issued, state_version, at } => {
                self.open_session(*sender, *issued, *state_version, *at)
            }
            Op::PutRefresh { sender, device_key, hash, expires } => {
                self.put_refresh(*sender, device_key, *hash, *expires)
            }
            Op::FindRefresh { sender, hash, at } => self.find_refresh(*sender, *hash, *at),
            Op::RotateRefresh { sender, old, new, expires, at } => {
                self.rotate_refresh(*sender, *old, *new, *expires, *at)
            }
            Op::EndTokens { sender, at } => self.end_tokens(*sender, *at),
            Op::PutKeyPackages { sender, packages, last_resort, most, at } => {
                self.put_key_packages(*sender, packages, last_resort.as_ref(), *most, *at)
            }
            Op::CountKeyPackages { sender, suite, at } => {
                self.count_key_packages(*sender, *suite, *at)
            }
            Op::ClaimKeyPackages { account, suite, device, at } => {
                self.claim_key_packages(*account, *suite, *device, *at)
            }
            Op::CreateChannel {
                channel,
                kind,
                generation,
                creator,
                with,
                group,
                group_info,
                at: _,
            } => {
                let (kind, generation, with) = (*kind, *generation, *with);
                let new = channels::New { kind, generation, with, group, group_info };
                self.create_channel(*channel, *creator, &new)
            }
            Op::ResetChannel(reset) => self.reset_channel(reset),
            Op::ChannelInfo { channel, reader } => self.channel_info(*channel, *reader),
            Op::ListChannels { reader, after, most } => self.list_channels(*reader, *after, *most),
            Op::LoadGroup { channel } => self.load_group(*channel),
            Op::LoadGroupInfo { channel, reader } => self.load_group_info(*channel, *reader),
            Op::Append(append) => self.append(append),
            Op::Commit(commit) => self.commit(commit),
            Op::Fetch { channel, reader, after, most, bytes, at } => {
                let span = log::Span { after: *after, most: *most, bytes: *bytes };
                self.fetch(*channel, *reader, &span, *at)
            }
            Op::Ack { channel, reader, seq } => self.ack(*channel, *reader, *seq),
            Op::PutBlob { sender, hash, total, offset, chunk, most, uploads, expires } => {
                let sender = self.number_sender(*sender)?;
                let put = blobs::Put {
                    sender: Some(sender),
                    hash: *hash,
                    total: *total,
                    offset: *offset,
                    chunk,
                };
                let bounds = blobs::Bounds { most: *most, uploads: *uploads };
                self.put_blob(&put, &bounds, *expires)
            }
            Op::GetBlob { hash, offset, most, at } => self.get_blob(*hash, *offset, *most, *at),
            Op::Sweep { at, most } => self.sweep(*at, *most),
        }
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SqliteStore(…)")
    }
}

/// Runs a statement for its effect, and returns how many rows changed.
fn run(db: &Connection, sql: &str, params: impl Params) -> rusqlite::Result<usize> {
    db.prepare_cached(sql)?.execute(params)
}

/// The first row that a statement finds.
fn one<T>(
    db: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Option<T>> {
    db.prepare_cached(sql)?.query_row(params, read).optional()
}

/// All rows that a statement finds.
fn all<T>(
    db: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    db.prepare_cached(sql)?.query_map(params, read)?.collect()
}

/// SQLite's errors as the protocol sees them. Its messages name tables and columns, never values.
fn fault(error: &rusqlite::Error) -> StoreFault {
    use rusqlite::ErrorCode as Sqlite;
    let kind = match error {
        rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
            Sqlite::DiskFull => StoreFaultKind::Full,
            Sqlite::DatabaseCorrupt | Sqlite::NotADatabase => StoreFaultKind::Corrupt,
            _ => StoreFaultKind::Io,
        },
        // A column that does not hold what our own schema says.
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..) => StoreFaultKind::Corrupt,
        _ => StoreFaultKind::Io,
    };
    StoreFault { kind, detail: error.to_string() }
}
