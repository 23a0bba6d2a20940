//! Removing what has ended.

use qpc_protocol::env::UnixMillis;
use qpc_protocol::server::op::StoreReply;
use rusqlite::Connection;

use super::row::{ordered, place};
use super::{Answer, SqliteStore, Stop, all, one, run};

/// `due` rows of channels.
pub(super) const CHANNELS: i64 = 1;
/// `due` rows of senders.
pub(super) const SENDERS: i64 = 2;

impl SqliteStore {
    pub(super) fn sweep(&mut self, at: UnixMillis, most: u32) -> Answer {
        let at = ordered(at);
        let swept = self.sweep_entries(at, most)?
            + self.sweep_submissions(at, most)?
            + self.sweep_key_packages(at, most)?
            + self.sweep_blobs(at, most)?
            + self.sweep_refresh_tokens(at, most)?;
        Ok(StoreReply::Swept(swept))
    }

    fn sweep_entries(&mut self, at: i64, most: u32) -> Result<u32, Stop> {
        let mut swept = 0;
        while swept < most {
            let Some((due, no)) = next_due(&self.db, CHANNELS, at)? else { break };
            let mut channel =
                self.channel_of_number(no)?.ok_or_else(|| Stop::corrupt("no such channel"))?;
            let ended = self.first_kept(&channel, at)? - channel.floor - 1;
            let ended = u32::try_from(ended).unwrap_or(u32::MAX).min(most - swept);
            if ended > 0 {
                let last = channel.floor + u64::from(ended);
                self.delete_entries(&channel, last)?;
                channel.floor = last;
                self.cache.holding.remove(&no);
                swept += ended;
            }
            channel.due = if channel.floor < channel.head {
                let ends = "SELECT expires FROM entries WHERE place = ?";
                one(&self.db, ends, [place(no, channel.floor + 1)?], |row| row.get(0))?
            } else {
                None
            };
            settle(&self.db, CHANNELS, due, no, channel.due)?;
            self.set_channel(&channel);
        }
        Ok(swept)
    }

    fn sweep_submissions(&mut self, at: i64, most: u32) -> Result<u32, Stop> {
        let mut swept = 0;
        while swept < most {
            let Some((due, no)) = next_due(&self.db, SENDERS, at)? else { break };
            let (ended, next) = self.forget_submissions(no, at, most - swept)?;
            swept += ended;
            settle(&self.db, SENDERS, due, no, next)?;
        }
        Ok(swept)
    }

    fn sweep_key_packages(&mut self, at: i64, most: u32) -> Result<u32, Stop> {
        let ended = "SELECT no FROM key_packages WHERE expires <= ? ORDER BY expires LIMIT ?";
        let packages = ended_rows(&self.db, ended, at, most)?;
        for no in &packages {
            run(&self.db, "DELETE FROM key_packages WHERE no = ?", [no])?;
        }
        let swept = u32::try_from(packages.len()).unwrap_or(u32::MAX);
        let ended = "SELECT rowid FROM last_resorts WHERE expires <= ? ORDER BY expires LIMIT ?";
        let last_resorts = ended_rows(&self.db, ended, at, most - swept)?;
        for row in &last_resorts {
            run(&self.db, "DELETE FROM last_resorts WHERE rowid = ?", [row])?;
        }
        Ok(swept + u32::try_from(last_resorts.len()).unwrap_or(u32::MAX))
    }

    fn sweep_blobs(&mut self, at: i64, most: u32) -> Result<u32, Stop> {
        let ended = "SELECT no FROM blobs WHERE expires <= ? ORDER BY expires LIMIT ?";
        let blobs = ended_rows(&self.db, ended, at, most)?;
        for &no in &blobs {
            self.drop_blob(no)?;
        }
        Ok(u32::try_from(blobs.len()).unwrap_or(u32::MAX))
    }

    fn sweep_refresh_tokens(&mut self, at: i64, most: u32) -> Result<u32, Stop> {
        let ended = "SELECT sender FROM refresh_tokens WHERE expires <= ? ORDER BY expires LIMIT ?";
        let tokens = ended_rows(&self.db, ended, at, most)?;
        for sender in &tokens {
            run(&self.db, "DELETE FROM refresh_tokens WHERE sender = ?", [sender])?;
        }
        Ok(u32::try_from(tokens.len()).unwrap_or(u32::MAX))
    }
}

/// The number of the next thing to look at.
fn next_due(db: &Connection, kind: i64, at: i64) -> rusqlite::Result<Option<(i64, i64)>> {
    let next = "SELECT at, no FROM due WHERE kind = ? AND at <= ? ORDER BY at, no LIMIT 1";
    one(db, next, [kind, at], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// It was looked at; `next` says when to look again.
fn settle(
    db: &Connection,
    kind: i64,
    due: i64,
    no: i64,
    next: Option<i64>,
) -> rusqlite::Result<()> {
    run(db, "DELETE FROM due WHERE kind = ? AND at = ? AND no = ?", [kind, due, no])?;
    if let Some(next) = next {
        run(db, "INSERT INTO due (kind, at, no) VALUES (?, ?, ?)", [kind, next, no])?;
    }
    Ok(())
}

fn ended_rows(db: &Connection, sql: &str, at: i64, most: u32) -> rusqlite::Result<Vec<i64>> {
    all(db, sql, [at, i64::from(most)], |row| row.get(0))
}
