//! Accounts, devices, sessions, refresh tokens.

use core::time::Duration;

use qpc_protocol::crypto::identity::{DeviceRecord, EnvelopeKeys, Revocation};
use qpc_protocol::env::UnixMillis;
use qpc_protocol::error::ErrorCode;
use qpc_protocol::id::{AccountId, ChannelId, DeviceId, Digest, Sender};
use qpc_protocol::server::op::{AccountRow, StoreReply, notice};
use qpc_protocol::wire::message::{ChannelKind, DeviceEntry, Entry, EntryKind, Username};
use rusqlite::params;
use subtle::ConstantTimeEq as _;

use super::row::{bytes, ordered};
use super::{Answer, SqliteStore, Stop, all, one, run};

const HOUR: u64 = 60 * 60 * 1000;
/// Sender numbers held in memory; at most a few MB.
const SENDERS_CACHED: usize = 65_536;

/// Record, envelope keys, revocation, last seen.
type ListedColumns = (Vec<u8>, Vec<u8>, Option<Vec<u8>>, i64);
/// Record, envelope keys, whether revoked, tokens from, state version, last seen.
type DeviceColumns = (Vec<u8>, Vec<u8>, bool, i64, i64, i64);

/// When something is told, and until when it is kept.
#[derive(Clone, Copy)]
pub(super) struct Life {
    pub(super) at: UnixMillis,
    pub(super) expires: UnixMillis,
}

struct Device {
    record: DeviceRecord,
    envelope_keys: EnvelopeKeys,
    revoked: bool,
    tokens_from: UnixMillis,
    state_version: u64,
    last_seen: UnixMillis,
}

impl SqliteStore {
    pub(super) fn create_account(&mut self, row: &AccountRow) -> Answer {
        let name = row.username.as_str();
        if one(&self.db, "SELECT 1 FROM accounts WHERE username = ?", [name], |_| Ok(()))?.is_some()
        {
            return Err(ErrorCode::UsernameTaken.into());
        }
        let known = "SELECT 1 FROM accounts WHERE account = ?";
        if one(&self.db, known, [row.account.0], |_| Ok(()))?.is_some() {
            return Err(ErrorCode::AccountExists.into());
        }
        run(
            &self.db,
            "INSERT INTO accounts (account, username, created, opaque_record, sealed_account_key)
             VALUES (?, ?, ?, ?, ?)",
            params![
                row.account.0,
                name,
                row.created.0.cast_signed(),
                &row.opaque_record[..],
                &row.sealed_account_key[..]
            ],
        )?;
        Ok(StoreReply::Done)
    }

    pub(super) fn find_account(&mut self, username: &Username) -> Answer {
        let row = one(
            &self.db,
            "SELECT account, created, opaque_record, sealed_account_key FROM accounts
             WHERE username = ? AND opaque_record IS NOT NULL",
            [username.as_str()],
            |row| {
                Ok(AccountRow {
                    username: username.clone(),
                    account: AccountId(row.get(0)?),
                    created: UnixMillis(row.get::<_, i64>(1)?.cast_unsigned()),
                    opaque_record: bytes(row.get(2)?),
                    sealed_account_key: bytes(row.get(3)?),
                })
            },
        )?;
        Ok(StoreReply::Account(row))
    }

    pub(super) fn delete_account(&mut self, account: AccountId) -> Answer {
        self.known_account(account)?;
        // The statement below reads the heads.
        self.write_channels()?;
        for (no, device, _) in self.devices_of(account)? {
            self.drop_holdings(no, Sender { account, device })?;
            run(&self.db, "DELETE FROM devices WHERE sender = ?", [no])?;
            run(
                &self.db,
                "UPDATE members SET gone = 1, left_at =
                     coalesce(left_at, (SELECT head FROM channels WHERE no = members.channel))
                 WHERE sender = ?",
                [no],
            )?;
        }
        self.cache.holding.clear();
        self.cache.rows.forget_members();
        // A device may hold a refresh token before it is registered.
        run(
            &self.db,
            "DELETE FROM refresh_tokens WHERE sender IN (SELECT no FROM senders WHERE account = ?)",
            [account.0],
        )?;
        run(
            &self.db,
            "UPDATE accounts SET opaque_record = NULL, sealed_account_key = NULL WHERE account = ?",
            [account.0],
        )?;
        Ok(StoreReply::Done)
    }

    pub(super) fn put_device(
        &mut self,
        record: &DeviceRecord,
        envelope_keys: &EnvelopeKeys,
        most: u32,
        life: Life,
    ) -> Answer {
        self.known_account(record.account)?;
        let sender = record.sender();
        if let Some((no, device)) = self.device(sender)? {
            if device.revoked {
                return Err(ErrorCode::DeviceRevoked.into());
            }
            let same = device.record == *record;
            if !same && record.sequence <= device.record.sequence {
                return Err(ErrorCode::RecordStale.into());
            }
            if device.record.device_key != record.device_key {
                self.drop_key_packages(no)?;
            }
            run(
                &self.db,
                "UPDATE refresh_tokens SET device_key = ? WHERE sender = ?",
                params![record.device_key, no],
            )?;
            if !same || envelope_keys.sequence > device.envelope_keys.sequence {
                run(
                    &self.db,
                    "UPDATE devices SET record = ?, envelope_keys = ? WHERE sender = ?",
                    params![record.encode(), envelope_keys.encode(), no],
                )?;
            }
            return match same {
                true => Ok(StoreReply::Told { entries: Vec::new(), more: false }),
                false => self.tell_of_device(record, life),
            };
        }
        let active =
            self.devices_of(record.account)?.iter().filter(|(_, _, revoked)| !revoked).count();
        if active >= usize::try_from(most).unwrap_or(usize::MAX) {
            return Err(ErrorCode::DeviceLimit.into());
        }
        let inbox = ChannelId::inbox(sender);
        if self.find_channel(inbox)?.is_some() {
            return Err(ErrorCode::ChannelExists.into());
        }
        let no = self.number_sender(sender)?;
        run(
            &self.db,
            "INSERT INTO devices
                 (sender, record, envelope_keys, tokens_from, state_version, last_seen)
             VALUES (?, ?, ?, 0, 0, ?)",
            params![
                no,
                record.encode(),
                envelope_keys.encode(),
                to_the_hour(life.at).0.cast_signed()
            ],
        )?;
        run(
            &self.db,
            "UPDATE refresh_tokens SET device_key = ? WHERE sender = ?",
            params![record.device_key, no],
        )?;
        self.open_channel(inbox, no, ChannelKind::Inbox, 0)?;
        self.tell_of_device(record, life)
    }

    fn tell_of_device(&mut self, record: &DeviceRecord, life: Life) -> Answer {
        let entry = notice(EntryKind::Device, record.sender(), record.encode(), life.at);
        let entries = self.tell_devices(record.sender(), &entry, life.expires)?;
        Ok(StoreReply::Told { entries, more: false })
    }

    /// Tells the other active devices of an account, in their inboxes.
    fn tell_devices(
        &mut self,
        about: Sender,
        entry: &Entry,
        expires: UnixMillis,
    ) -> Result<Vec<(ChannelId, u64)>, Stop> {
        let mut entries = Vec::new();
        for (_, device, revoked) in self.devices_of(about.account)? {
            if !revoked && device != about.device {
                let inbox = ChannelId::inbox(Sender { device, ..about });
                entries.push(self.tell(inbox, entry, expires)?);
            }
        }
        Ok(entries)
    }

    pub(super) fn list_devices(&mut self, account: AccountId) -> Answer {
        let rows: Vec<ListedColumns> = all(
            &self.db,
            "SELECT record, envelope_keys, revocation, last_seen
             FROM senders JOIN devices ON sender = no WHERE account = ? ORDER BY device",
            [account.0],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )?;
        let entries = rows.into_iter().map(|(record, envelope_keys, revocation, last_seen)| {
            let revocation = match revocation {
                Some(bytes) => Some(Revocation::decode(&bytes).ok_or_else(damaged_device)?),
                None => None,
            };
            Ok(DeviceEntry {
                record: DeviceRecord::decode(&record).ok_or_else(damaged_device)?,
                envelope_keys: EnvelopeKeys::decode(&envelope_keys).ok_or_else(damaged_device)?,
                revocation,
                last_seen: UnixMillis(last_seen.cast_unsigned()),
            })
        });
        Ok(StoreReply::Devices(entries.collect::<Result<_, Stop>>()?))
    }

    pub(super) fn revoke_device(
        &mut self,
        revocation: &Revocation,
        by: Sender,
        most: u32,
        life: Life,
    ) -> Answer {
        let sender = Sender { account: revocation.account, device: revocation.device };
        let (no, device) = self.device(sender)?.ok_or(ErrorCode::DeviceUnknown)?;
        let mut entries = Vec::new();
        if !device.revoked {
            run(
                &self.db,
                "UPDATE devices SET revocation = ? WHERE sender = ?",
                params![revocation.encode(), no],
            )?;
            self.drop_holdings(no, sender)?;
            run(&self.db, "UPDATE members SET gone = 1 WHERE sender = ?", [no])?;
            self.cache.holding.clear();
            self.cache.rows.forget_members();
        }
        let first = "SELECT revocation FROM devices WHERE sender = ?";
        let revoked = one(&self.db, first, [no], |row| row.get(0))?.unwrap_or_default();
        let entry = notice(EntryKind::Revocation, by, revoked, life.at);
        if !device.revoked {
            entries = self.tell_devices(sender, &entry, life.expires)?;
        }
        let mut channels: Vec<[u8; 16]> = all(
            &self.db,
            "SELECT id FROM members CROSS JOIN channels ON no = channel
             WHERE sender = ? AND left_at IS NULL ORDER BY id LIMIT ?",
            params![no, u64::from(most) + 1],
            |row| row.get(0),
        )?;
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let more = channels.len() > most;
        channels.truncate(most);
        for id in channels.into_iter().map(ChannelId) {
            let told = self.tell(id, &entry, life.expires)?;
            let channel = self.channel(id)?.no;
            self.leave(channel, sender, told.1)?;
            entries.push(told);
        }
        Ok(StoreReply::Told { entries, more })
    }

    pub(super) fn open_session(
        &mut self,
        sender: Sender,
        issued: UnixMillis,
        state_version: u64,
        at: UnixMillis,
    ) -> Answer {
        let (no, device) = self.active_device(sender)?;
        let name = "SELECT username FROM accounts WHERE account = ?";
        let name: Option<String> = one(&self.db, name, [sender.account.0], |row| row.get(0))?;
        // A name is stored as it was prepared, and preparing it again might change it: it is read back as it is.
        let username = name
            .and_then(|name| serde_json::from_value(serde_json::Value::String(name)).ok())
            .ok_or_else(|| Stop::corrupt("a device without an account"))?;
        if issued < device.tokens_from {
            return Err(ErrorCode::TokenInvalid.into());
        }
        let raised = device.state_version.max(state_version);
        let seen = to_the_hour(at);
        if raised != device.state_version || seen != device.last_seen {
            run(
                &self.db,
                "UPDATE devices SET state_version = ?, last_seen = ? WHERE sender = ?",
                [raised.cast_signed(), seen.0.cast_signed(), no],
            )?;
        }
        Ok(StoreReply::Session {
            username,
            record: device.record,
            state_version: device.state_version,
        })
    }

    pub(super) fn put_refresh(
        &mut self,
        sender: Sender,
        device_key: &[u8; 32],
        hash: Digest,
        expires: UnixMillis,
    ) -> Answer {
        self.known_account(sender.account)?;
        if self.device(sender)?.is_some_and(|(_, device)| device.revoked) {
            return Err(ErrorCode::DeviceRevoked.into());
        }
        let no = self.number_sender(sender)?;
        run(
            &self.db,
            "INSERT OR REPLACE INTO refresh_tokens (sender, expires, hash, device_key)
             VALUES (?, ?, ?, ?)",
            params![no, ordered(expires), hash.0, device_key],
        )?;
        self.tokens_from(sender)
    }

    pub(super) fn find_refresh(&mut self, sender: Sender, hash: Digest, at: UnixMillis) -> Answer {
        let (_, device_key) = self.refresh_token(sender, hash, at)?;
        Ok(StoreReply::RefreshKey(device_key))
    }

    pub(super) fn rotate_refresh(
        &mut self,
        sender: Sender,
        old: Digest,
        new: Digest,
        expires: UnixMillis,
        at: UnixMillis,
    ) -> Answer {
        let (no, _) = self.refresh_token(sender, old, at)?;
        run(
            &self.db,
            "UPDATE refresh_tokens SET hash = ?, expires = ? WHERE sender = ?",
            params![new.0, ordered(expires), no],
        )?;
        self.tokens_from(sender)
    }

    fn tokens_from(&mut self, sender: Sender) -> Answer {
        let device = self.device(sender)?;
        let from = device.map_or(UnixMillis(0), |(_, device)| device.tokens_from);
        Ok(StoreReply::TokensFrom(from))
    }

    pub(super) fn end_tokens(&mut self, sender: Sender, at: UnixMillis) -> Answer {
        if let Some(no) = self.sender(sender)? {
            run(&self.db, "DELETE FROM refresh_tokens WHERE sender = ?", [no])?;
        }
        if let Some((no, device)) = self.device(sender)? {
            let from = device.tokens_from.max(at).plus(Duration::from_millis(1));
            run(
                &self.db,
                "UPDATE devices SET tokens_from = ? WHERE sender = ?",
                [from.0.cast_signed(), no],
            )?;
        }
        Ok(StoreReply::Done)
    }

    /// The number of a device, if it ever appeared.
    pub(super) fn sender(&mut self, sender: Sender) -> Result<Option<i64>, Stop> {
        if let Some(&no) = self.cache.senders.get(&sender) {
            return Ok(Some(no));
        }
        let known = "SELECT no FROM senders WHERE account = ? AND device = ?";
        let no = one(&self.db, known, (sender.account.0, sender.device.0), |row| row.get(0))?;
        if let Some(no) = no {
            if self.cache.senders.len() >= SENDERS_CACHED {
                self.cache.senders.clear();
            }
            self.cache.senders.insert(sender, no);
        }
        Ok(no)
    }

    pub(super) fn number_sender(&mut self, sender: Sender) -> Result<i64, Stop> {
        if let Some(no) = self.sender(sender)? {
            return Ok(no);
        }
        let new = "INSERT INTO senders (account, device) VALUES (?, ?)";
        run(&self.db, new, (sender.account.0, sender.device.0))?;
        Ok(self.db.last_insert_rowid())
    }

    pub(super) fn known_account(&self, account: AccountId) -> Result<(), Stop> {
        let known = "SELECT 1 FROM accounts WHERE account = ? AND opaque_record IS NOT NULL";
        one(&self.db, known, [account.0], |_| Ok(()))?.ok_or(ErrorCode::AccountUnknown.into())
    }

    /// The number of an active device, `DeviceUnknown` or `DeviceRevoked`.
    pub(super) fn check_device(&mut self, sender: Sender) -> Result<i64, Stop> {
        let no = self.sender(sender)?.ok_or(ErrorCode::DeviceUnknown)?;
        let state = "SELECT revocation IS NOT NULL FROM devices WHERE sender = ?";
        match one(&self.db, state, [no], |row| row.get(0))? {
            None => Err(ErrorCode::DeviceUnknown.into()),
            Some(true) => Err(ErrorCode::DeviceRevoked.into()),
            Some(false) => Ok(no),
        }
    }

    /// The number and device key of a device, if it is active.
    pub(super) fn active_key(&mut self, sender: Sender) -> Result<Option<(i64, [u8; 32])>, Stop> {
        let device = self.device(sender)?.filter(|(_, device)| !device.revoked);
        Ok(device.map(|(no, device)| (no, device.record.device_key)))
    }

    /// The registered devices of an account in order of their ids: number, id, whether revoked.
    pub(super) fn devices_of(
        &self,
        account: AccountId,
    ) -> rusqlite::Result<Vec<(i64, DeviceId, bool)>> {
        all(
            &self.db,
            "SELECT no, device, revocation IS NOT NULL FROM senders JOIN devices ON sender = no
             WHERE account = ? ORDER BY device",
            [account.0],
            |row| Ok((row.get(0)?, DeviceId(row.get(1)?), row.get(2)?)),
        )
    }

    fn active_device(&mut self, sender: Sender) -> Result<(i64, Device), Stop> {
        let (no, device) = self.device(sender)?.ok_or(ErrorCode::DeviceUnknown)?;
        if device.revoked {
            return Err(ErrorCode::DeviceRevoked.into());
        }
        Ok((no, device))
    }

    fn device(&mut self, sender: Sender) -> Result<Option<(i64, Device)>, Stop> {
        let Some(no) = self.sender(sender)? else { return Ok(None) };
        let row: Option<DeviceColumns> = one(
            &self.db,
            "SELECT record, envelope_keys, revocation IS NOT NULL, tokens_from, state_version, last_seen
             FROM devices WHERE sender = ?",
            [no],
            |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
            },
        )?;
        let Some((record, envelope_keys, revoked, from, version, seen)) = row else {
            return Ok(None);
        };
        let device = Device {
            record: DeviceRecord::decode(&record).ok_or_else(damaged_device)?,
            envelope_keys: EnvelopeKeys::decode(&envelope_keys).ok_or_else(damaged_device)?,
            revoked,
            tokens_from: UnixMillis(from.cast_unsigned()),
            state_version: version.cast_unsigned(),
            last_seen: UnixMillis(seen.cast_unsigned()),
        };
        Ok(Some((no, device)))
    }

    /// The device's number and key, if this is its refresh token and has not ended.
    fn refresh_token(
        &mut self,
        sender: Sender,
        hash: Digest,
        at: UnixMillis,
    ) -> Result<(i64, [u8; 32]), Stop> {
        let no = self.sender(sender)?.ok_or(ErrorCode::TokenInvalid)?;
        let token: Option<([u8; 32], [u8; 32], i64)> = one(
            &self.db,
            "SELECT hash, device_key, expires FROM refresh_tokens WHERE sender = ?",
            [no],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        let (stored, device_key, expires) = token.ok_or(ErrorCode::TokenInvalid)?;
        if !bool::from(stored.ct_eq(&hash.0)) {
            return Err(ErrorCode::TokenInvalid.into());
        }
        if expires <= ordered(at) {
            return Err(ErrorCode::TokenExpired.into());
        }
        Ok((no, device_key))
    }

    /// Removes what goes when a device does.
    fn drop_key_packages(&mut self, no: i64) -> Result<(), Stop> {
        run(&self.db, "DELETE FROM key_packages WHERE sender = ?", [no])?;
        run(&self.db, "DELETE FROM last_resorts WHERE sender = ?", [no])?;
        Ok(())
    }

    fn drop_holdings(&mut self, no: i64, sender: Sender) -> Result<(), Stop> {
        self.drop_key_packages(no)?;
        run(&self.db, "DELETE FROM refresh_tokens WHERE sender = ?", [no])?;
        self.drop_channel(ChannelId::inbox(sender))
    }
}

fn damaged_device() -> Stop {
    Stop::corrupt("a device's record does not decode")
}

fn to_the_hour(at: UnixMillis) -> UnixMillis {
    UnixMillis(at.0 - at.0 % HOUR)
}
