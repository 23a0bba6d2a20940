//! Who has left a group stays out of it.
//!
//! The account's devices add each other to their groups unasked ([`devices`](super::devices)): when a group is founded,
//! joined or reset, whoever is not in it. A device that left by its own wish is not meant by that. Its siblings
//! remember it when they read the commit that lets it go, or find it gone when they come back from outside, and do not
//! add it: neither after a reset, by whomever, nor later. It is in again if somebody asks for it: who invites the
//! account adds all its devices. Then its siblings forget that it was gone. They forget it too when they are out
//! themselves, for the way back in is such an invitation. A device that was removed is not remembered: it is out with
//! its account, and asked back with it, or revoked.
//!
//! Who comes into a group by a sibling's hand, or by a welcome that it has forgotten all about, cannot tell who left
//! before. It adds only devices that are news to it, and leaves the others to the siblings who were there.

use serde::{Deserialize, Serialize};

use super::Client;
use super::directory;
use super::intent::Want;
use crate::id::{ChannelId, DeviceId, Sender};
use crate::limits::DEVICES_PER_ACCOUNT;
use crate::mls::group::Group;
use crate::store::batch::Op;

/// Devices of the own account that are not added to a group unasked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Left {
    /// Who left before this device came in only others know.
    pub unknown: bool,
    /// Who has left since; an account has no more than [`DEVICES_PER_ACCOUNT`].
    devices: Vec<DeviceId>,
}

impl Left {
    /// Of a group that this device came into without knowing who had left it.
    pub(super) fn unknown() -> Self {
        Self { unknown: true, ..Self::default() }
    }

    /// Who left first is forgotten first, if more are said to have left than an account can have.
    pub(super) fn note(&mut self, device: DeviceId) {
        self.devices.retain(|known| *known != device);
        self.devices.push(device);
        let surplus = self.devices.len().saturating_sub(DEVICES_PER_ACCOUNT);
        self.devices.drain(..surplus);
    }

    /// Whether a device has left, as far as this one knows.
    pub(super) fn has(&self, device: DeviceId) -> bool {
        self.devices.contains(&device)
    }
}

impl Client {
    /// Devices have left a group by their own wish: nobody wants them back there.
    pub(super) fn note_left(&mut self, id: ChannelId, left: &[Sender]) {
        for device in left {
            self.forget_admission(id, *device);
        }
        let Some(me) = self.me() else { return };
        let siblings = left.iter().filter(|one| one.account == me.account && **one != me);
        let siblings: Vec<_> = siblings.map(|sibling| sibling.device).collect();
        let Some(channel) = self.channels.get_mut(&id).filter(|_| !siblings.is_empty()) else {
            return;
        };
        siblings.into_iter().for_each(|device| channel.left.note(device));
        self.store_left(id);
    }

    /// Of siblings that were in a group before, those who are not in the one that this device comes back to have left
    /// it unseen.
    pub(super) fn note_gone(&mut self, id: ChannelId, before: &[Sender], group: &Group) {
        let members = group.members();
        let stays = |of: &Sender| members.iter().any(|member| member.record.sender() == *of);
        let gone: Vec<_> = before.iter().copied().filter(|of| !stays(of)).collect();
        self.note_left(id, &gone);
    }

    /// Who is in the group again was asked for.
    pub(super) fn forget_left(&mut self, id: ChannelId) {
        if self.channels.get(&id).is_none_or(|channel| channel.left.devices.is_empty()) {
            return;
        }
        let present = self.with_group(id, |group, _| {
            let members = group.members().into_iter();
            members.map(|member| member.record.sender()).collect::<Vec<_>>()
        });
        let (Some(present), Some(me)) = (present, self.me()) else { return };
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let before = channel.left.devices.len();
        let is_out = |device: &DeviceId| !present.contains(&Sender { device: *device, ..me });
        channel.left.devices.retain(is_out);
        if channel.left.devices.len() < before {
            self.store_left(id);
        }
    }

    pub(super) fn store_left(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get(&id) else { return };
        let key = directory::key(directory::LEFT, &[&id.0]);
        self.gate.stage(match channel.left == Left::default() {
            true => Op::Delete(key),
            false => directory::put(key, &channel.left),
        });
    }

    /// One device is not to be added any more.
    fn forget_admission(&mut self, channel: ChannelId, of: Sender) {
        for ticket in self.intents_of(channel) {
            let want = self.intents.get(&ticket).map(|intent| &intent.want);
            if matches!(want, Some(Want::Admit { device, .. }) if *device == of) {
                self.drop_intent(ticket);
            }
        }
    }
}

#[cfg(test)]
mod tests;
