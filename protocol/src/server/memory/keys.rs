//! Key packages.

use std::collections::{BTreeMap, BTreeSet};

use super::{Answer, MemoryStore};
use crate::env::UnixMillis;
use crate::error::ErrorCode;
use crate::id::{AccountId, DeviceId, Digest, Sender};
use crate::mls::suite::Suite;
use crate::server::op::{KeyPackageRow, StoreReply};
use crate::wire::message::ClaimedKeyPackage;

/// The key packages of one device.
#[derive(Clone, Default)]
pub(super) struct Keys {
    /// In order of upload.
    pub(super) packages: Vec<KeyPackageRow>,
    pub(super) last_resorts: BTreeMap<Suite, LastResort>,
    /// Handed out before, with their end: the same package uploaded again must not be handed out twice.
    pub(super) claimed: BTreeMap<Digest, UnixMillis>,
}

/// The last-resort package of a suite.
#[derive(Clone)]
pub(super) struct LastResort {
    pub(super) row: KeyPackageRow,
    /// Somebody was given it.
    claimed: bool,
}

impl Keys {
    fn count(&self, suite: Option<Suite>, at: UnixMillis) -> StoreReply {
        let counts = |row: &KeyPackageRow, last_resort| {
            row.holds(last_resort, at) && suite.is_none_or(|suite| suite == row.suite)
        };
        let available = self.packages.iter().filter(|row| counts(row, false)).count();
        let mut last_resorts = self.last_resorts.values().filter(|last| !last.claimed);
        StoreReply::KeyPackages {
            available: u32::try_from(available).unwrap_or(u32::MAX),
            last_resort: last_resorts.any(|last| counts(&last.row, true)),
        }
    }

    fn unexpired(&self, at: UnixMillis) -> usize {
        self.packages.iter().filter(|row| row.expires > at).count()
    }

    /// Gives up the oldest unexpired ones.
    fn drop_oldest(&mut self, mut count: usize, at: UnixMillis) {
        self.packages.retain(|row| {
            let goes = count > 0 && row.expires > at;
            count -= usize::from(goes);
            !goes
        });
    }

    fn knows(&self, hash: Digest) -> bool {
        self.claimed.contains_key(&hash) || self.packages.iter().any(|row| row.hash == hash)
    }

    fn claim(&mut self, suite: Suite, at: UnixMillis) -> Option<(KeyPackageRow, bool)> {
        let fits =
            |row: &KeyPackageRow, last_resort| row.suite == suite && row.holds(last_resort, at);
        if let Some(place) = self.packages.iter().position(|row| fits(row, false)) {
            let row = self.packages.remove(place);
            self.claimed.insert(row.hash, row.expires);
            return Some((row, false));
        }
        let last = self.last_resorts.get_mut(&suite).filter(|last| fits(&last.row, true))?;
        last.claimed = true;
        Some((last.row.clone(), true))
    }

    fn put_last_resort(&mut self, row: &KeyPackageRow) {
        let before = self.last_resorts.get(&row.suite).filter(|last| last.row.hash == row.hash);
        let claimed = before.is_some_and(|last| last.claimed);
        self.last_resorts.insert(row.suite, LastResort { row: row.clone(), claimed });
    }
}

impl MemoryStore {
    pub(super) fn put_key_packages(
        &mut self,
        sender: Sender,
        packages: &[KeyPackageRow],
        last_resort: Option<&KeyPackageRow>,
        most: u32,
        at: UnixMillis,
    ) -> Answer {
        self.check_device(sender)?;
        let keys = self.keys.entry(sender).or_default();
        let mut seen = BTreeSet::new();
        let new: Vec<_> = packages
            .iter()
            .filter(|row| row.expires > at && !keys.knows(row.hash) && seen.insert(row.hash))
            .cloned()
            .collect();
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        if new.len() > most {
            return Err(ErrorCode::KeyPackageQuota.into());
        }
        keys.drop_oldest((keys.unexpired(at) + new.len()).saturating_sub(most), at);
        keys.packages.extend(new);
        if let Some(row) = last_resort {
            keys.put_last_resort(row);
        }
        Ok(keys.count(None, at))
    }

    pub(super) fn count_key_packages(
        &self,
        sender: Sender,
        suite: Option<Suite>,
        at: UnixMillis,
    ) -> StoreReply {
        match self.keys.get(&sender) {
            Some(keys) => keys.count(suite, at),
            None => StoreReply::KeyPackages { available: 0, last_resort: false },
        }
    }

    pub(super) fn claim_key_packages(
        &mut self,
        account: AccountId,
        suite: Suite,
        device: Option<DeviceId>,
        at: UnixMillis,
    ) -> Answer {
        self.known_account(account)?;
        let mut claimed = Vec::new();
        for sender in self.devices_of(account) {
            if !self.is_active(sender) || device.is_some_and(|only| only != sender.device) {
                continue;
            }
            let found = self.keys.get_mut(&sender).and_then(|keys| keys.claim(suite, at));
            let (package, last_resort) = match found {
                Some((row, last_resort)) => (Some(row.package), last_resort),
                None => (None, false),
            };
            claimed.push(ClaimedKeyPackage { device: sender.device, package, last_resort });
        }
        Ok(StoreReply::Claimed(claimed))
    }
}
