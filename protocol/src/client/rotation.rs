//! Another device key for the same device: a new record signed by the account key, first on the server, then in every
//! group.
//!
//! | step | durable before it | after a crash |
//! |---|---|---|
//! | the key is drawn | the key | it is offered to the server with the next session |
//! | the server takes the record | – | the old key's proof fails, which says that the new one holds |
//! | the new key is this device's | both keys, an intent for every group | the intents go on |
//! | each group's leaf gets it, by a commit signed with the old one | the pending commit | as for every commit |
//!
//! The old key stays until no group has it, no welcome can come any more for a key package made with it, and the device
//! has heard after that where it was added: a welcome that its inbox has lost leaves no other way in.

use serde::{Deserialize, Serialize};

use super::channel::Slot;
use super::directory;
use super::event::{Event, Failed, Outcome};
use super::intent::{Intent, Want};
use super::keys::LastResort;
use super::net::Call;
use super::session::Phase;
use super::{Client, Ticket};
use crate::crypto::identity::{DeviceKey, DeviceRecord};
use crate::env::{Now, UnixMillis};
use crate::error::Refused;
use crate::id::ChannelId;
use crate::limits::{OLD_DEVICE_KEY_TIME, OLD_DEVICE_KEYS};
use crate::mls::group::LocalDevice;
use crate::wire::message::{Failure, Request};

/// The keys of this device beside its present one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Rotation {
    /// The one to come, and the ticket of who asked for it.
    next: Option<(Keys, u64)>,
    /// Those before, and since when they are.
    old: Vec<(Keys, UnixMillis)>,
}

/// A device key and the record that names it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Keys {
    key: DeviceKey,
    /// [`DeviceRecord::encode`].
    record: Vec<u8>,
}

impl Keys {
    fn local(&self) -> Option<LocalDevice> {
        Some(LocalDevice::new(self.key.clone(), DeviceRecord::decode(&self.record)?))
    }
}

impl Rotation {
    /// Whether there is a key to come.
    pub(super) fn is_under_way(&self) -> bool {
        self.next.is_some()
    }
}

impl Client {
    /// Gives this device a new key: in its record, its key packages, its envelope keys, and every group. Done when the
    /// server has the record; the groups follow by themselves. → [`Outcome::Done`]
    ///
    /// # Errors
    /// `NoAccount`, `LoggedOut`, `Busy` while another rotation is under way or 8 keys of before are still needed.
    pub fn rotate(&mut self, now: Now) -> Result<Ticket, Refused> {
        self.begin(now)?;
        self.need_session()?;
        self.forget_old_keys();
        if self.rotation.next.is_some() || self.rotation.old.len() >= OLD_DEVICE_KEYS {
            return Err(Refused::Busy);
        }
        let backend = self.config.backend;
        let identity = self.identity.as_ref().ok_or(Refused::NoAccount)?;
        let before = identity.device_record().ok_or(Refused::NoAccount)?;
        let key = DeviceKey::generate(backend, &mut self.entropy);
        let (sequence, wall) = (before.sequence.saturating_add(1), self.now.wall);
        let account = &identity.account_key;
        let record =
            DeviceRecord::sign(backend, account, before.device, key.public(), sequence, wall);
        let ticket = self.next_ticket();
        self.rotation.next = Some((Keys { key, record: record.encode() }, ticket.0));
        self.store_rotation();
        self.offer_key();
        Ok(ticket)
    }

    fn store_rotation(&mut self) {
        self.gate.stage(directory::put(directory::ROTATION.to_vec(), &self.rotation));
    }

    /// Shows the server the key to come, if there is one.
    pub(super) fn offer_key(&mut self) {
        let online = self.phase() == Some(Phase::Online);
        let asked =
            self.net.conn.as_ref().is_some_and(|conn| {
                conn.calls.values().any(|pending| pending.what == Call::Rotate)
            });
        if online
            && !asked
            && let Some(request) = self.next_registration()
        {
            self.rotation_retry = None;
            self.call(Call::Rotate, request);
        }
    }

    /// The record of the key to come.
    fn next_registration(&mut self) -> Option<Request> {
        let next = self.rotation.next.as_ref().and_then(|(keys, _)| keys.local())?;
        let sequence = self.identity.as_ref().map(|identity| identity.envelope_sequence)?;
        let envelope_keys = self.next_envelope().publish(
            self.config.backend,
            &next.key,
            next.record.sender(),
            sequence.saturating_add(1),
            self.now.wall,
        );
        Some(Request::DeviceRegister { record: next.record.clone(), envelope_keys })
    }

    /// The proof of the present key does not hold: if the answer to a rotation was lost, the next one's does. Whether
    /// that is to be tried; should it not hold either, the next login shows its record anew.
    pub(super) fn try_next_key(&mut self) -> bool {
        self.tries_next = !self.tries_next && self.rotation.is_under_way();
        self.tries_next
    }

    /// The key that a session is proved by.
    pub(super) fn session_key(&self) -> Option<&DeviceKey> {
        match &self.rotation.next {
            Some((next, _)) if self.tries_next => Some(&next.key),
            _ => Some(&self.identity.as_ref()?.device_key),
        }
    }

    /// What a login shows the server, if that is the next key's record.
    pub(super) fn tried_registration(&mut self) -> Option<Request> {
        if self.tries_next { self.next_registration() } else { None }
    }

    /// The key that was tried holds.
    pub(super) fn on_tried(&mut self) {
        if core::mem::take(&mut self.tries_next) {
            self.on_rotated();
        }
    }

    /// The server did not take the record of the key that was tried.
    pub(super) fn on_tried_refused(&mut self, failure: &Failure) {
        if core::mem::take(&mut self.tries_next) {
            self.on_rotation_refused(failure);
        }
    }

    /// The server has the new record.
    pub(super) fn on_rotated(&mut self) {
        let Some((next, ticket)) = self.rotation.next.take() else { return };
        let Some(mut identity) = self.identity.take() else { return };
        let key = core::mem::replace(&mut identity.device_key, next.key);
        let record = core::mem::replace(&mut identity.record, next.record);
        self.take_next_envelope(&mut identity);
        identity.registered = true;
        self.store_identity(identity);
        self.rotation.old.push((Keys { key, record }, self.now.wall));
        self.store_rotation();
        let groups = self.channels.iter().filter(|(_, channel)| !channel.inbox);
        let groups: Vec<_> = groups.filter(|(_, c)| c.row.member).map(|(id, _)| *id).collect();
        for id in groups {
            self.want_new_key(id);
        }
        // What was to be founded by a key of before waits for this.
        self.dirty.extend(self.founding.iter().copied());
        // Those of the old key are gone on the server.
        self.make_packages(LastResort::Renew);
        self.event(Event::Done(Ticket(ticket), Outcome::Done));
    }

    /// The server did not take the new record.
    pub(super) fn on_rotation_refused(&mut self, failure: &Failure) {
        if failure.is_transient() {
            self.rotation_retry =
                Some(self.now.mono + super::inbound::pause(failure.retry_after_ms));
            return;
        }
        if let Some((_, ticket)) = self.rotation.next.take() {
            self.store_rotation();
            self.dirty.extend(self.founding.iter().copied());
            self.event(Event::Failed(Ticket(ticket), Failed::from(failure)));
        }
    }

    /// A group has a key of before.
    pub(super) fn want_new_key(&mut self, id: ChannelId) {
        let wanted = |intent: &Intent| intent.channel == id && matches!(intent.want, Want::Rotate);
        if !self.intents.values().any(wanted) {
            let ticket = self.next_ticket();
            self.store_intent(ticket, Intent { channel: id, want: Want::Rotate, losses: 0 });
        }
    }

    /// This device as a group knows it: by the key of its leaf there.
    pub(super) fn device_in(&mut self, id: ChannelId) -> Option<LocalDevice> {
        let key = self.with_group(id, |group, _| group.own_key())??;
        self.own_devices().into_iter().find(|device| device.key.public() == key)
    }

    /// The device key that a group knows this device by; `None` if that takes reading the group.
    pub(super) fn key_in(&self, id: ChannelId) -> Option<&DeviceKey> {
        let present = &self.identity.as_ref()?.device_key;
        let old = &self.rotation.old;
        if let Slot::Warm(group) = &self.channels.get(&id)?.slot {
            let leaf = group.own_key()?;
            let mut keys = old.iter().map(|(keys, _)| &keys.key).chain([present]);
            return keys.find(|key| key.public() == leaf);
        }
        let waits = |intent: &Intent| intent.channel == id && matches!(intent.want, Want::Rotate);
        match (self.intents.values().any(waits), old.as_slice()) {
            (false, _) => Some(present),
            (true, [(only, _)]) => Some(&only.key),
            (true, _) => None,
        }
    }

    /// This device under its present key, and under those before, the latest first.
    pub(super) fn own_devices(&self) -> Vec<LocalDevice> {
        let present = self.identity.as_ref().and_then(|identity| identity.local());
        let old = self.rotation.old.iter().rev().filter_map(|(keys, _)| keys.local());
        present.into_iter().chain(old).collect()
    }

    /// The present key, if a group has another: every commit brings it along.
    pub(super) fn key_for(&mut self, id: ChannelId) -> Option<LocalDevice> {
        let present = self.identity.as_ref().and_then(|identity| identity.local())?;
        let key = self.with_group(id, |group, _| group.own_key())??;
        (key != present.key.public()).then_some(present)
    }

    /// Forgets keys that nothing needs any more.
    pub(super) fn forget_old_keys(&mut self) {
        let wall = self.now.wall;
        if self.old_keys_end().is_some_and(|at| at <= wall) {
            self.rotation.old.retain(|(_, since)| wall.since(*since) < OLD_DEVICE_KEY_TIME);
            self.store_rotation();
        }
    }

    /// When the first of them are to go. `None` while a group has the key of before, or may have it: until all logs are
    /// read to their heads.
    pub(super) fn old_keys_end(&self) -> Option<UnixMillis> {
        let wanted = |intent: &Intent| matches!(intent.want, Want::Rotate);
        let ends = self.rotation.old.iter().map(|(_, since)| since.plus(OLD_DEVICE_KEY_TIME));
        ends.min().filter(|_| self.synced && !self.intents.values().any(wanted))
    }
}
