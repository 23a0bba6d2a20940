//! Key packages.

use std::collections::BTreeSet;

use qpc_protocol::env::UnixMillis;
use qpc_protocol::error::ErrorCode;
use qpc_protocol::id::{AccountId, DeviceId, Sender};
use qpc_protocol::mls::key_package::latest_end;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::server::op::{KeyPackageRow, StoreReply};
use qpc_protocol::wire::message::ClaimedKeyPackage;
use rusqlite::params;

use super::row::{bytes, ordered};
use super::{Answer, SqliteStore, Stop, one, run};

impl SqliteStore {
    pub(super) fn put_key_packages(
        &mut self,
        sender: Sender,
        packages: &[KeyPackageRow],
        last_resort: Option<&KeyPackageRow>,
        most: u32,
        at: UnixMillis,
    ) -> Answer {
        let no = self.check_device(sender)?;
        let mut seen = BTreeSet::new();
        let mut new = Vec::new();
        for row in packages {
            if ordered(row.expires) > ordered(at)
                && seen.insert(row.hash)
                && !self.knows(no, row)?
            {
                new.push(row);
            }
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        if new.len() > most {
            return Err(ErrorCode::KeyPackageQuota.into());
        }
        let unexpired = self.end_until(no, None, at, UnixMillis(u64::MAX))?;
        let unexpired = usize::try_from(unexpired).unwrap_or(usize::MAX);
        self.drop_oldest(no, unexpired.saturating_add(new.len()).saturating_sub(most), at)?;
        for row in new {
            run(
                &self.db,
                "INSERT INTO key_packages (sender, hash, suite, expires, package)
                 VALUES (?, ?, ?, ?, ?)",
                params![no, row.hash.0, row.suite.number(), ordered(row.expires), &row.package[..]],
            )?;
        }
        if let Some(row) = last_resort {
            self.put_last_resort(no, row)?;
        }
        self.count(no, None, at)
    }

    pub(super) fn count_key_packages(
        &mut self,
        sender: Sender,
        suite: Option<Suite>,
        at: UnixMillis,
    ) -> Answer {
        match self.sender(sender)? {
            Some(no) => self.count(no, suite, at),
            None => Ok(StoreReply::KeyPackages { available: 0, last_resort: false }),
        }
    }

    pub(super) fn claim_key_packages(
        &mut self,
        account: AccountId,
        suite: Suite,
        only: Option<DeviceId>,
        at: UnixMillis,
    ) -> Answer {
        self.known_account(account)?;
        let mut claimed = Vec::new();
        for (no, device, revoked) in self.devices_of(account)? {
            if revoked || only.is_some_and(|only| only != device) {
                continue;
            }
            let (package, last_resort) = match self.claim(no, suite, at)? {
                Some((package, last_resort)) => (Some(bytes(package)), last_resort),
                None => (None, false),
            };
            claimed.push(ClaimedKeyPackage { device, package, last_resort });
        }
        Ok(StoreReply::Claimed(claimed))
    }

    /// The package, and whether it is the last-resort one.
    fn claim(
        &self,
        sender: i64,
        suite: Suite,
        at: UnixMillis,
    ) -> Result<Option<(Vec<u8>, bool)>, Stop> {
        let oldest: Option<(i64, Vec<u8>)> = one(
            &self.db,
            "SELECT no, package FROM key_packages
             WHERE sender = ? AND suite = ? AND expires > ? AND expires <= ? AND package IS NOT NULL
             ORDER BY no LIMIT 1",
            params![sender, suite.number(), ordered(at), ordered(latest_end(false, at))],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        if let Some((no, package)) = oldest {
            run(&self.db, "UPDATE key_packages SET package = NULL WHERE no = ?", [no])?;
            return Ok(Some((package, false)));
        }
        let last_resort = one(
            &self.db,
            "UPDATE last_resorts SET claimed = 1
             WHERE sender = ? AND suite = ? AND expires > ? AND expires <= ?
             RETURNING package",
            params![sender, suite.number(), ordered(at), ordered(latest_end(true, at))],
            |row| row.get(0),
        )?;
        Ok(last_resort.map(|package| (package, true)))
    }

    /// One that was handed out and is uploaded again stays handed out.
    fn put_last_resort(&self, sender: i64, row: &KeyPackageRow) -> rusqlite::Result<()> {
        run(
            &self.db,
            "INSERT INTO last_resorts (sender, suite, hash, expires, package) VALUES (?, ?, ?, ?, ?)
             ON CONFLICT (sender, suite) DO UPDATE SET
                 claimed = claimed AND hash = excluded.hash,
                 hash = excluded.hash, expires = excluded.expires, package = excluded.package",
            params![
                sender,
                row.suite.number(),
                row.hash.0,
                ordered(row.expires),
                &row.package[..]
            ],
        )?;
        Ok(())
    }

    /// Gives up the oldest unexpired ones.
    fn drop_oldest(&self, sender: i64, count: usize, at: UnixMillis) -> rusqlite::Result<()> {
        if count > 0 {
            run(
                &self.db,
                "DELETE FROM key_packages WHERE no IN (
                     SELECT no FROM key_packages
                     WHERE sender = ? AND expires > ? AND package IS NOT NULL
                     ORDER BY no LIMIT ?)",
                params![sender, ordered(at), i64::try_from(count).unwrap_or(i64::MAX)],
            )?;
        }
        Ok(())
    }

    fn knows(&self, sender: i64, row: &KeyPackageRow) -> rusqlite::Result<bool> {
        let known = "SELECT 1 FROM key_packages WHERE sender = ? AND hash = ?";
        Ok(one(&self.db, known, params![sender, row.hash.0], |_| Ok(()))?.is_some())
    }

    /// How many of all suites, or of the one, have not ended and do so no later than at `latest`.
    fn end_until(
        &self,
        sender: i64,
        suite: Option<Suite>,
        at: UnixMillis,
        latest: UnixMillis,
    ) -> rusqlite::Result<u32> {
        let count = one(
            &self.db,
            "SELECT count(*) FROM key_packages
             WHERE sender = ?1 AND expires > ?2 AND expires <= ?3 AND package IS NOT NULL
                 AND (?4 IS NULL OR suite = ?4)",
            params![sender, ordered(at), ordered(latest), suite.map(Suite::number)],
            |row| row.get(0),
        )?;
        Ok(count.unwrap_or(0))
    }

    fn count(&self, sender: i64, suite: Option<Suite>, at: UnixMillis) -> Answer {
        let last_resort = one(
            &self.db,
            "SELECT 1 FROM last_resorts
             WHERE sender = ?1 AND expires > ?2 AND expires <= ?3 AND (?4 IS NULL OR suite = ?4)
                 AND NOT claimed",
            params![sender, ordered(at), ordered(latest_end(true, at)), suite.map(Suite::number)],
            |_| Ok(()),
        )?;
        Ok(StoreReply::KeyPackages {
            available: self.end_until(sender, suite, at, latest_end(false, at))?,
            last_resort: last_resort.is_some(),
        })
    }
}
