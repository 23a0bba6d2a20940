//! What a device knows without asking anybody.

use super::direct::{is_direct, is_open};
use super::event::{GroupSummary, Trust};
use super::metadata::Profile;
use super::{Channel, Client};
use crate::crypto::safety_number::SafetyNumber;
use crate::error::Refused;
use crate::id::{AccountId, ChannelId, Sender, ServerId};
use crate::wire::message::{ChannelKind, Username};

impl Client {
    /// This device's account, if it has one: its name, its ids, and its server.
    pub fn whoami(&self) -> Option<(Username, Sender, ServerId)> {
        let identity = self.identity.as_ref()?;
        Some((identity.username.clone(), self.me()?, identity.server))
    }

    /// Whether commands that need an account and a session would be taken.
    ///
    /// # Errors
    /// `NoAccount`, `LoggedOut`.
    pub fn may_connect(&self) -> Result<(), Refused> {
        self.need_session()
    }

    /// The groups and direct channels of this device, from the directory: cheap, nothing is loaded. A direct channel
    /// is among them once it is open.
    pub fn groups(&self) -> Vec<GroupSummary> {
        let known =
            |id: &ChannelId, channel: &Channel| !channel.inbox && is_open(*id, &channel.row);
        let groups = self.channels.iter().filter(|(id, channel)| known(id, channel));
        let profile = |channel: &Channel| channel.row.metadata.as_ref()?.open(self.config.backend);
        let summary = |(id, channel): (&ChannelId, &Channel)| {
            let Profile { description, avatar, .. } = profile(channel).unwrap_or_default();
            GroupSummary {
                channel: *id,
                kind: if is_direct(*id) { ChannelKind::Direct } else { ChannelKind::Group },
                name: match channel.row.with {
                    Some(with) => self.accepted_name(with).map(|name| name.as_str().to_owned()),
                    None => channel.row.name.clone(),
                },
                description,
                avatar,
                suite: channel.row.suite,
                generation: channel.row.generation,
                epoch: channel.row.epoch,
                cursor: channel.row.cursor.seq(),
                chain: channel.row.cursor.chain(),
                member: channel.row.member && !channel.row.leaving,
                authenticator: channel.row.authenticator.clone(),
                members: channel.row.members,
                unread: channel.row.unread,
            }
        };
        groups.map(summary).collect()
    }

    /// What an account is called, as far as the directory confirmed it.
    pub fn username(&self, account: AccountId) -> Option<&Username> {
        self.contacts.get(&account).map(|contact| &contact.username)
    }

    /// The same, if it is not a changed one that nobody has accepted.
    pub(super) fn accepted_name(&self, account: AccountId) -> Option<&Username> {
        let changed = matches!(self.trust(account), Some(Trust::Changed { .. }));
        self.username(account).filter(|_| !changed)
    }

    /// The safety number between this account and another: 60 digits.
    pub fn safety_number(&self, other: AccountId) -> Option<String> {
        let me = self.me()?;
        Some(SafetyNumber::of(self.config.backend, me.account, other).to_string())
    }

    /// How many messages and changes of groups are stored here that the server has not accepted yet.
    pub fn pending(&self) -> usize {
        let unsent = self.outbox.values().filter(|item| item.accepted.is_none() && !item.silent);
        unsent.count() + self.intents.values().filter(|intent| intent.is_asked_for()).count()
    }

    /// Whether every log was read to its head and nothing waits to be sent, answered or persisted. Messages that
    /// the application has not acknowledged do not count, nor do devices of the account that cannot be added yet.
    pub fn is_idle(&self) -> bool {
        let sent = self.outbox.values().all(|item| item.accepted.is_some());
        self.synced
            && sent
            && self.channels.values().all(|channel| {
                (!channel.followed() || channel.is_through()) && !channel.comes_back()
            })
            && self.gate.is_idle()
            && self.intents.keys().all(|ticket| self.is_set_back(*ticket))
            && self.auth.is_none()
            && self.greeting.is_none()
            && self.wanted_packages.is_empty()
            && self.asks.is_empty()
            && !self.is_confirming()
    }
}
