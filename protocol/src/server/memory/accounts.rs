//! Accounts, devices, sessions, refresh tokens.

use core::time::Duration;

use bytes::Bytes;
use subtle::ConstantTimeEq as _;

use super::{Answer, MemoryStore};
use crate::crypto::identity::{DeviceRecord, EnvelopeKeys, Revocation};
use crate::env::UnixMillis;
use crate::error::ErrorCode;
use crate::id::{AccountId, ChannelId, DeviceId, Digest, Sender};
use crate::server::op::{AccountRow, StoreReply, notice};
use crate::wire::message::{ChannelKind, DeviceEntry, Entry, EntryKind, Username};

const HOUR: u64 = 60 * 60 * 1000;

#[derive(Clone)]
pub(super) struct Account {
    username: Username,
    opaque_record: Bytes,
    sealed_account_key: Bytes,
    created: UnixMillis,
}

#[derive(Clone)]
pub(super) struct Device {
    pub(super) record: DeviceRecord,
    envelope_keys: EnvelopeKeys,
    revocation: Option<Revocation>,
    tokens_from: UnixMillis,
    state_version: u64,
    last_seen: UnixMillis,
}

#[derive(Clone)]
pub(super) struct Refresh {
    device_key: [u8; 32],
    hash: Digest,
    pub(super) expires: UnixMillis,
}

/// When something is told, and until when it is kept.
#[derive(Clone, Copy)]
pub(super) struct Life {
    pub(super) at: UnixMillis,
    pub(super) expires: UnixMillis,
}

impl Refresh {
    fn check(&self, hash: Digest, at: UnixMillis) -> Result<(), ErrorCode> {
        if !bool::from(self.hash.0.ct_eq(&hash.0)) {
            return Err(ErrorCode::TokenInvalid);
        }
        if self.expires <= at {
            return Err(ErrorCode::TokenExpired);
        }
        Ok(())
    }
}

impl MemoryStore {
    pub(super) fn create_account(&mut self, row: &AccountRow) -> Answer {
        if self.usernames.contains_key(&row.username) {
            return Err(ErrorCode::UsernameTaken.into());
        }
        if self.accounts.contains_key(&row.account) {
            return Err(ErrorCode::AccountExists.into());
        }
        self.usernames.insert(row.username.clone(), row.account);
        let account = Account {
            username: row.username.clone(),
            opaque_record: row.opaque_record.clone(),
            sealed_account_key: row.sealed_account_key.clone(),
            created: row.created,
        };
        self.accounts.insert(row.account, Some(account));
        Ok(StoreReply::Done)
    }

    pub(super) fn find_account(&self, username: &Username) -> StoreReply {
        let row = self.usernames.get(username).and_then(|id| {
            let account = self.accounts.get(id)?.as_ref()?;
            Some(AccountRow {
                username: account.username.clone(),
                account: *id,
                opaque_record: account.opaque_record.clone(),
                sealed_account_key: account.sealed_account_key.clone(),
                created: account.created,
            })
        });
        StoreReply::Account(row)
    }

    pub(super) fn delete_account(&mut self, account: AccountId) -> Answer {
        match self.accounts.get_mut(&account) {
            Some(known @ Some(_)) => *known = None,
            _ => return Err(ErrorCode::AccountUnknown.into()),
        }
        for sender in self.devices_of(account) {
            self.drop_holdings(sender);
            self.devices.remove(&sender);
            for channel in self.channels_of(sender) {
                if let Some(channel) = self.channels.get_mut(&channel) {
                    channel.leave(sender, channel.head);
                }
            }
        }
        // A device may hold a refresh token before it is registered.
        self.refresh.retain(|sender, _| sender.account != account);
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
        let put = self.put_record(record, envelope_keys, most, life);
        if put.is_ok()
            && let Some(refresh) = self.refresh.get_mut(&sender)
        {
            refresh.device_key = record.device_key;
        }
        put
    }

    fn put_record(
        &mut self,
        record: &DeviceRecord,
        envelope_keys: &EnvelopeKeys,
        most: u32,
        life: Life,
    ) -> Answer {
        let sender = record.sender();
        if let Some(device) = self.devices.get_mut(&sender) {
            if device.revocation.is_some() {
                return Err(ErrorCode::DeviceRevoked.into());
            }
            if device.record == *record {
                if envelope_keys.sequence > device.envelope_keys.sequence {
                    device.envelope_keys = envelope_keys.clone();
                }
                return Ok(StoreReply::Told { entries: Vec::new(), more: false });
            }
            if record.sequence <= device.record.sequence {
                return Err(ErrorCode::RecordStale.into());
            }
            if device.record.device_key != record.device_key {
                self.keys.remove(&sender);
            }
            device.record = record.clone();
            device.envelope_keys = envelope_keys.clone();
            return Ok(self.tell_of_device(record, life));
        }
        let active =
            self.devices_of(record.account).into_iter().filter(|&other| self.is_active(other));
        if active.count() >= usize::try_from(most).unwrap_or(usize::MAX) {
            return Err(ErrorCode::DeviceLimit.into());
        }
        let inbox = ChannelId::inbox(sender);
        if self.channels.contains_key(&inbox) {
            return Err(ErrorCode::ChannelExists.into());
        }
        let device = Device {
            record: record.clone(),
            envelope_keys: envelope_keys.clone(),
            revocation: None,
            tokens_from: UnixMillis(0),
            state_version: 0,
            last_seen: to_the_hour(life.at),
        };
        self.devices.insert(sender, device);
        self.open_channel(inbox, sender, ChannelKind::Inbox, 0);
        Ok(self.tell_of_device(record, life))
    }

    fn tell_of_device(&mut self, record: &DeviceRecord, life: Life) -> StoreReply {
        let entry = notice(EntryKind::Device, record.sender(), record.encode(), life.at);
        let entries = self.tell_devices(record.sender(), &entry, life.expires);
        StoreReply::Told { entries, more: false }
    }

    /// Tells the other active devices of an account, in their inboxes.
    fn tell_devices(
        &mut self,
        about: Sender,
        entry: &Entry,
        expires: UnixMillis,
    ) -> Vec<(ChannelId, u64)> {
        let devices = self.devices_of(about.account).into_iter();
        let others: Vec<_> =
            devices.filter(|&other| other != about && self.is_active(other)).collect();
        let inboxes = others.into_iter().map(ChannelId::inbox);
        inboxes.filter_map(|inbox| self.tell(inbox, entry, expires)).collect()
    }

    pub(super) fn list_devices(&self, account: AccountId) -> StoreReply {
        let entries = self.devices_of(account).into_iter().filter_map(|sender| {
            let device = self.devices.get(&sender)?;
            Some(DeviceEntry {
                record: device.record.clone(),
                envelope_keys: device.envelope_keys.clone(),
                revocation: device.revocation.clone(),
                last_seen: device.last_seen,
            })
        });
        StoreReply::Devices(entries.collect())
    }

    pub(super) fn revoke_device(
        &mut self,
        revocation: &Revocation,
        by: Sender,
        most: u32,
        life: Life,
    ) -> Answer {
        let sender = Sender { account: revocation.account, device: revocation.device };
        let device = self.devices.get_mut(&sender).ok_or(ErrorCode::DeviceUnknown)?;
        let is_first = device.revocation.is_none();
        let revocation = device.revocation.get_or_insert_with(|| revocation.clone()).encode();
        let entry = notice(EntryKind::Revocation, by, revocation, life.at);
        let mut entries = Vec::new();
        if is_first {
            self.drop_holdings(sender);
            entries = self.tell_devices(sender, &entry, life.expires);
        }
        let mut channels = self.channels_of(sender);
        channels.retain(|id| self.channels.get(id).is_some_and(|channel| channel.has(sender)));
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let more = channels.len() > most;
        for id in channels.into_iter().take(most) {
            let told = self.tell(id, &entry, life.expires);
            if let (Some((_, seq)), Some(channel)) = (told, self.channels.get_mut(&id)) {
                channel.leave(sender, seq);
            }
            entries.extend(told);
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
        self.check_device(sender)?;
        let account = self.accounts.get(&sender.account).and_then(Option::as_ref);
        let username = account.ok_or(ErrorCode::DeviceUnknown)?.username.clone();
        let device = self.devices.get_mut(&sender).ok_or(ErrorCode::DeviceUnknown)?;
        if issued < device.tokens_from {
            return Err(ErrorCode::TokenInvalid.into());
        }
        let before = device.state_version;
        device.state_version = before.max(state_version);
        device.last_seen = to_the_hour(at);
        Ok(StoreReply::Session { username, record: device.record.clone(), state_version: before })
    }

    pub(super) fn put_refresh(
        &mut self,
        sender: Sender,
        device_key: [u8; 32],
        hash: Digest,
        expires: UnixMillis,
    ) -> Answer {
        self.known_account(sender.account)?;
        if self.devices.get(&sender).is_some_and(|device| device.revocation.is_some()) {
            return Err(ErrorCode::DeviceRevoked.into());
        }
        self.refresh.insert(sender, Refresh { device_key, hash, expires });
        Ok(self.tokens_from(sender))
    }

    pub(super) fn find_refresh(&self, sender: Sender, hash: Digest, at: UnixMillis) -> Answer {
        let refresh = self.refresh.get(&sender).ok_or(ErrorCode::TokenInvalid)?;
        refresh.check(hash, at)?;
        Ok(StoreReply::RefreshKey(refresh.device_key))
    }

    pub(super) fn rotate_refresh(
        &mut self,
        sender: Sender,
        old: Digest,
        new: Digest,
        expires: UnixMillis,
        at: UnixMillis,
    ) -> Answer {
        let refresh = self.refresh.get_mut(&sender).ok_or(ErrorCode::TokenInvalid)?;
        refresh.check(old, at)?;
        refresh.hash = new;
        refresh.expires = expires;
        Ok(self.tokens_from(sender))
    }

    fn tokens_from(&self, sender: Sender) -> StoreReply {
        let from = self.devices.get(&sender).map_or(UnixMillis(0), |device| device.tokens_from);
        StoreReply::TokensFrom(from)
    }

    pub(super) fn end_tokens(&mut self, sender: Sender, at: UnixMillis) -> StoreReply {
        self.refresh.remove(&sender);
        if let Some(device) = self.devices.get_mut(&sender) {
            device.tokens_from = device.tokens_from.max(at).plus(Duration::from_millis(1));
        }
        StoreReply::Done
    }

    pub(super) fn is_active(&self, sender: Sender) -> bool {
        self.devices.get(&sender).is_some_and(|device| device.revocation.is_none())
    }

    pub(super) fn check_device(&self, sender: Sender) -> Result<(), ErrorCode> {
        let device = self.devices.get(&sender).ok_or(ErrorCode::DeviceUnknown)?;
        match device.revocation {
            None => Ok(()),
            Some(_) => Err(ErrorCode::DeviceRevoked),
        }
    }

    pub(super) fn known_account(&self, account: AccountId) -> Result<(), ErrorCode> {
        match self.accounts.get(&account) {
            Some(Some(_)) => Ok(()),
            _ => Err(ErrorCode::AccountUnknown),
        }
    }

    /// The registered devices of an account, revoked ones included, in order of their ids.
    pub(super) fn devices_of(&self, account: AccountId) -> Vec<Sender> {
        let first = Sender { account, device: DeviceId([0; 16]) };
        let last = Sender { account, device: DeviceId([0xFF; 16]) };
        self.devices.range(first..=last).map(|(&sender, _)| sender).collect()
    }

    /// What goes when a device does.
    fn drop_holdings(&mut self, sender: Sender) {
        self.keys.remove(&sender);
        self.refresh.remove(&sender);
        let inbox = ChannelId::inbox(sender);
        self.channels.remove(&inbox);
        self.memberships.remove(&(sender, inbox));
    }
}

fn to_the_hour(at: UnixMillis) -> UnixMillis {
    UnixMillis(at.0 - at.0 % HOUR)
}
