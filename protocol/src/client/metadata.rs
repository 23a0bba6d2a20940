//! What a group is called and who may do what in it: the part of a group that its context speaks of.
//!
//! The context, which the server can read, holds the admins and the hash of the sealed metadata. Name, description and
//! avatar travel in application messages, sealed, with the key beside them: to everybody when they change, and to those
//! who join. What does not match the hash of the present context is not shown, so nothing older comes after
//! something newer.

use core::time::Duration;

use zeroize::Zeroizing;

use super::change::STAGGER;
use super::direct::is_direct;
use super::event::{Event, Failed, GroupMetadata, Outcome};
use super::intent::{Intent, Want};
use super::submission::{OutItem, OutWhat, Says};
use super::{Channel, Client, Ticket};
use crate::crypto::{Aead, Backend};
use crate::env::{Entropy, Now};
use crate::error::{ErrorCode, Refused};
use crate::id::{AccountId, ChannelId, Digest, MessageId, Sender};
use crate::limits::{GROUP_DESCRIPTION_BYTES, GROUP_NAME_BYTES};
use crate::mls::data::GroupData;
use crate::mls::group::{Change, Plan};
use crate::wire::message::Failure;

/// The word on a profile follows the commit that names it at once, from whoever made that: this long a change waits for
/// it.
const WORD_PATIENCE: Duration = Duration::from_secs(10);

/// What a group shows of itself, to its members alone.
#[derive(Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Profile {
    /// Its name, at most [`GROUP_NAME_BYTES`]; empty only in a direct channel.
    pub name: String,
    /// What it is about, at most [`GROUP_DESCRIPTION_BYTES`].
    pub description: String,
    /// SHA-256 of its picture; how the picture itself is fetched is the application's.
    pub avatar: Option<Digest>,
}

// It is sealed everywhere else: it must not get into a log by way of an event.
impl core::fmt::Debug for Profile {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (name, description) = (self.name.len(), self.description.len());
        write!(f, "Profile({name} + {description} bytes, avatar: {})", self.avatar.is_some())
    }
}

impl Profile {
    pub(super) fn is_sound(&self) -> bool {
        self.name.len() <= GROUP_NAME_BYTES && self.description.len() <= GROUP_DESCRIPTION_BYTES
    }

    /// name length (2) || name || description length (2) || description || avatar (0 or 32), big endian.
    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::new());
        for text in [&self.name, &self.description] {
            out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        if let Some(avatar) = self.avatar {
            out.extend_from_slice(&avatar.0);
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let text = |bytes| -> Option<(String, &[u8])> {
            let (len, rest) = <[u8]>::split_first_chunk::<2>(bytes)?;
            let (text, rest) = rest.split_at_checked(u16::from_be_bytes(*len).into())?;
            Some((core::str::from_utf8(text).ok()?.to_owned(), rest))
        };
        let (name, rest) = text(bytes)?;
        let (description, rest) = text(rest)?;
        let avatar = match rest {
            [] => None,
            avatar => Some(Digest(avatar.try_into().ok()?)),
        };
        let profile = Self { name, description, avatar };
        profile.is_sound().then_some(profile)
    }
}

/// What is to change in a [`Profile`]; `None` leaves a part as it is.
#[derive(Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProfileChange {
    /// Another name.
    pub name: Option<String>,
    /// Another description; empty for none.
    pub description: Option<String>,
    /// Another avatar; `Some(None)` takes it away.
    pub avatar: Option<Option<Digest>>,
}

impl core::fmt::Debug for ProfileChange {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ProfileChange")
            .field("name", &self.name.is_some())
            .field("description", &self.description.is_some())
            .field("avatar", &self.avatar.is_some())
            .finish()
    }
}

impl ProfileChange {
    fn apply(&self, mut profile: Profile) -> Profile {
        let Self { name, description, avatar } = self.clone();
        profile.name = name.unwrap_or(profile.name);
        profile.description = description.unwrap_or(profile.description);
        profile.avatar = avatar.unwrap_or(profile.avatar);
        profile
    }
}

/// What an account may do in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Role {
    /// Adds, removes, changes roles and metadata.
    Admin,
    /// Sends, leaves, adds and removes devices of its own account.
    Member,
}

/// A group's profile, sealed under a key that only members have; the group's context holds the hash of the
/// sealed form, so that a joiner knows it is the group's own.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Metadata {
    pub(super) key: Zeroizing<[u8; 32]>,
    pub(super) sealed: Vec<u8>,
}

impl core::fmt::Debug for Metadata {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Metadata({} bytes)", self.sealed.len())
    }
}

impl Metadata {
    const AAD: &'static [u8] = b"qpc-metadata-v1";

    /// Seals a profile under a fresh key, used once: the nonce is zero.
    pub(super) fn seal(backend: Backend, entropy: &mut Entropy, profile: &Profile) -> Option<Self> {
        let key = Zeroizing::new(entropy.array());
        let plain = Some(profile).filter(|profile| profile.is_sound())?.encode();
        let sealed =
            backend.aead_seal(Aead::ChaCha20Poly1305, &*key, &[0; 12], Self::AAD, &plain).ok()?;
        Some(Self { key, sealed })
    }

    /// Opens it.
    pub(super) fn open(&self, backend: Backend) -> Option<Profile> {
        let plain = backend
            .aead_open(Aead::ChaCha20Poly1305, &*self.key, &[0; 12], Self::AAD, &self.sealed)
            .ok()?;
        Profile::decode(&plain)
    }

    /// What the group's context holds.
    pub(super) fn hash(&self) -> Digest {
        Digest::of(&[&self.sealed])
    }
}

impl Client {
    /// Changes what a group shows of itself; for its admins. → [`Outcome::Epoch`]
    ///
    /// # Errors
    /// `NoAccount`, `LoggedOut`, `Busy`, `UnknownChannel`, `NotMember`, `Invalid` for a name that is empty or above
    /// 256 bytes and for a description above 2 KiB.
    pub fn set_metadata(
        &mut self,
        now: Now,
        channel: ChannelId,
        change: ProfileChange,
    ) -> Result<Ticket, Refused> {
        let named = Profile { name: "-".into(), ..Profile::default() };
        let named = change.apply(named);
        if !named.is_sound() || named.name.is_empty() {
            return Err(Refused::Invalid(
                "a group's name has 1 to 256 bytes, its description at most 2048",
            ));
        }
        self.want(now, channel, Want::Describe { change, sealed: None })
    }

    /// Gives an account of a group another role; for its admins. The last admin stays one.
    /// → [`Outcome::Epoch`]
    ///
    /// # Errors
    /// `NoAccount`, `LoggedOut`, `Busy`, `UnknownChannel`, `NotMember`.
    pub fn set_role(
        &mut self,
        now: Now,
        channel: ChannelId,
        account: AccountId,
        role: Role,
    ) -> Result<Ticket, Refused> {
        self.want(now, channel, Want::SetRole { account, role })
    }

    // ---- into a commit ------------------------------------------------------------------------

    /// The group's data, if this device may change it.
    fn data_to_change(&mut self, id: ChannelId, ticket: Ticket) -> Option<GroupData> {
        let me = self.me()?.account;
        let data = self.with_group(id, |group, _| group.data().clone())?;
        if data.is_admin(me) {
            return Some(data);
        }
        self.fail_intent(ticket, Failed::from(&Failure::from(ErrorCode::NotAllowed)));
        None
    }

    /// What a change of the profile is made from: the profile that the group's context names. While the word on it is
    /// on its way the change waits; if it does not come, nobody can tell it, and there is nothing to start from.
    fn profile_to_change(&mut self, id: ChannelId, ticket: Ticket) -> Option<Profile> {
        let backend = self.config.backend;
        let named = self.with_group(id, |group, _| group.data().metadata != Digest([0; 32]))?;
        let known = self.channels.get(&id).and_then(Channel::present_profile);
        let known = known.and_then(|metadata| metadata.open(backend));
        if known.is_none() && named && !self.has_waited(ticket, WORD_PATIENCE) {
            return None;
        }
        Some(known.unwrap_or_default())
    }

    /// What a group shows of itself is known: changes that waited for it go on.
    fn wake_profile_changes(&mut self, id: ChannelId) {
        for ticket in self.intents_of(id) {
            let intent = self.intents.get(&ticket);
            let changes = |want: &Want| matches!(want, Want::Describe { .. } | Want::Carry { .. });
            if intent.is_some_and(|intent| changes(&intent.want)) {
                self.turns.remove(&ticket);
                self.dirty.insert(id);
            }
        }
    }

    /// Adds another profile to a plan, sealed anew with every try. One change of the group's data goes with one commit.
    pub(super) fn plan_profile(
        &mut self,
        id: ChannelId,
        ticket: Ticket,
        change: &ProfileChange,
        plan: &mut Plan,
    ) -> bool {
        // While a proposal of ours is on its way there is no commit: nothing is sealed in vain.
        if plan.data.is_some() || self.is_proposing(id) {
            return false;
        }
        let Some(mut data) = self.data_to_change(id, ticket) else { return false };
        let Some(before) = self.profile_to_change(id, ticket) else { return false };
        let profile = change.apply(before);
        let named = !profile.name.is_empty() || is_direct(id);
        let sealed = Metadata::seal(self.config.backend, &mut self.entropy, &profile);
        let Some(sealed) = sealed.filter(|_| named) else {
            // Its name has not arrived here, and no other is given.
            self.fail_intent(ticket, Failed::Obsolete("the group needs a name"));
            return false;
        };
        data.version += 1;
        data.metadata = sealed.hash();
        plan.data = Some(data);
        if let Some(mut intent) = self.intents.remove(&ticket) {
            if let Want::Describe { sealed: made, .. } | Want::Carry { sealed: made, .. } =
                &mut intent.want
            {
                *made = Some(sealed);
            }
            self.store_intent(ticket, intent);
        }
        true
    }

    // ---- into the next generation -------------------------------------------------------------

    /// The profile of the group before, if this device is the one to carry it over: who begins the next one has read
    /// it, and had made that before; or it has changed it, and the word on that has not come into the log.
    pub(super) fn profile_to_carry(&self, id: ChannelId, begins: bool) -> Option<Profile> {
        let mut items = self.outbox.values().filter(|item| item.channel == id);
        let untold = items.any(|item| {
            let says = matches!(item.what, OutWhat::Application { says: Says::Metadata, .. });
            says && item.accepted.is_none()
        });
        let known = self.channels.get(&id).filter(|_| begins || untold)?.present_profile()?;
        known.open(self.config.backend)
    }

    /// The next generation is here, with what its maker knew: of `over`, the hash.
    pub(super) fn carry_profile(&mut self, id: ChannelId, profile: Profile, over: Digest) {
        let Profile { name, description, avatar } = profile;
        let name = Some(name).filter(|_| !is_direct(id));
        let change = ProfileChange { name, description: Some(description), avatar: Some(avatar) };
        let ticket = self.next_ticket();
        let want = Want::Carry { change, over, sealed: None };
        self.store_intent(ticket, Intent { channel: id, want, losses: 0 });
    }

    pub(super) fn is_carrying(&self, id: ChannelId) -> bool {
        let mut intents = self.intents.values().filter(|intent| intent.channel == id);
        intents.any(|intent| matches!(intent.want, Want::Carry { .. }))
    }

    /// Adds the profile of the group before to a plan, if this one has not got it, nor another since.
    pub(super) fn plan_carried(
        &mut self,
        (id, ticket): (ChannelId, Ticket),
        (change, over): (&ProfileChange, Digest),
        plan: &mut Plan,
    ) -> bool {
        let present = self.with_group(id, |group, _| group.data().metadata);
        if present != Some(over) {
            self.drop_intent(ticket);
            return false;
        }
        let Some(before) = self.profile_to_change(id, ticket) else { return false };
        if change.apply(before.clone()) == before {
            self.drop_intent(ticket);
            return false;
        }
        self.plan_profile(id, ticket, change, plan)
    }

    /// Adds another role to a plan. It goes on its own, so that what else is to change can neither fail nor be
    /// judged by it.
    pub(super) fn plan_role(
        &mut self,
        id: ChannelId,
        ticket: Ticket,
        (account, role): (AccountId, Role),
        plan: &mut Plan,
    ) -> bool {
        let waits = self.with_group(id, |group, _| group.has_proposals());
        if waits == Some(true) {
            self.clear_proposals(id);
        }
        if waits != Some(false) || plan.data.is_some() || !plan.removes.is_empty() {
            return false;
        }
        let Some(mut data) = self.data_to_change(id, ticket) else { return false };
        let Some((epoch, present)) = self.with_group(id, |group, _| {
            let of = |member: crate::mls::group::MemberLeaf| member.record.account;
            (group.epoch(), group.members().into_iter().map(of).collect::<Vec<_>>())
        }) else {
            return false;
        };
        match (role, data.admins.binary_search(&account)) {
            (Role::Admin, Ok(_)) | (Role::Member, Err(_)) => {
                self.fulfil(ticket, Outcome::Epoch(epoch));
                return false;
            }
            (Role::Admin, Err(_)) if !present.contains(&account) => {
                self.fail_intent(ticket, Failed::Obsolete("not a member of the group"));
                return false;
            }
            (Role::Admin, Err(at)) => data.admins.insert(at, account),
            (Role::Member, Ok(at)) => drop(data.admins.remove(at)),
        }
        if !present.iter().any(|account| data.is_admin(*account)) {
            self.fail_intent(ticket, last_admin());
            return false;
        }
        data.version += 1;
        plan.data = Some(data);
        true
    }

    // ---- into the log and out of it -----------------------------------------------------------

    /// A commit of this device came true: if it changed the profile, all members are told the new one.
    pub(super) fn publish_profile(&mut self, id: ChannelId, ticket: Ticket) {
        let sealed = match self.intents.get(&ticket).map(|intent| &intent.want) {
            Some(Want::Describe { sealed, .. } | Want::Carry { sealed, .. }) => sealed.clone(),
            _ => None,
        };
        let Some(sealed) = sealed else { return };
        if self.take_metadata(id, sealed) {
            self.tell_metadata(id);
        }
    }

    /// Takes metadata over, if the present context names it; whether it did.
    pub(super) fn take_metadata(&mut self, id: ChannelId, metadata: Metadata) -> bool {
        let expected = self.with_group(id, |group, _| group.data().metadata);
        let Some(profile) = metadata.open(self.config.backend) else { return false };
        if profile.name.is_empty() && !is_direct(id) {
            return false;
        }
        let Some(channel) = self.channels.get_mut(&id) else { return false };
        if expected != Some(metadata.hash()) {
            return false;
        }
        // A direct channel is called as the other account is, whatever that one says.
        let new = !is_direct(id) && channel.row.metadata.as_ref() != Some(&metadata);
        if new {
            channel.row.name = Some(profile.name.clone());
        }
        channel.row.metadata = Some(metadata);
        channel.row_dirty = true;
        self.wake_profile_changes(id);
        if new {
            self.stage_channel(id);
            self.event(Event::Metadata(GroupMetadata { channel: id, profile }));
        }
        true
    }

    /// Whom a commit brings into the group, or back, may not know what the group shows of itself. Members tell it in
    /// turn, unless one before them has: whose leaf comes first may be off for good. Who has added somebody tells it at
    /// once, and is waited for.
    pub(super) fn tell_in_turn(&mut self, id: ChannelId, change: &Change) {
        let is_new = |member: Sender| {
            let mut added = change.added.iter();
            added.any(|record| record.sender() == member)
                || (change.rejoined && member == change.committer)
        };
        let first = if change.rejoined { Duration::ZERO } else { WORD_PATIENCE };
        let Some(turn) = self.members_before(id, |member| !is_new(member)) else { return };
        let at = self.now.mono + first + STAGGER.saturating_mul(turn);
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.tell_at = Some((at, change.epoch));
        }
    }

    /// The group's profile was told in that epoch: whoever was in it then knows it.
    pub(super) fn note_told(&mut self, id: ChannelId, epoch: u64) {
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.tell_at.take_if(|(_, for_those_of)| *for_those_of <= epoch);
        }
    }

    /// Tells the profile if it is this device's turn, and nobody else has in what was read so far.
    pub(super) fn pump_profile(&mut self, id: ChannelId) {
        let mono = self.now.mono;
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if channel.ready && channel.tell_at.take_if(|(at, _)| *at <= mono).is_some() {
            self.tell_metadata(id);
        }
    }

    /// This device may have missed another profile: one that the present context does not name is not shown, nor taken
    /// for what the next one is made from.
    pub(super) fn hide_old_profile(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if channel.present_profile().is_none() && channel.row.metadata.take().is_some() {
            channel.row.name = None;
            channel.row_dirty = true;
        }
    }

    /// Tells the members what the group and its members are called, as far as it is known here.
    pub(super) fn tell_metadata(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.tell_at = None;
        if channel.row.metadata.is_none() {
            return;
        }
        let message = MessageId(self.entropy.array());
        let what =
            OutWhat::Application { body: Vec::new().into(), says: Says::Metadata, sealed: None };
        let ticket = self.next_ticket();
        self.store_item(ticket, OutItem::new(id, message, what, true));
    }

    /// Metadata of this device came up in the log. Whoever was added since it was sealed cannot read it, and who added
    /// them had not read it: they are told again.
    pub(super) fn check_told(&mut self, id: ChannelId, sealed_in: u64) {
        if self.channels.get(&id).is_some_and(|channel| channel.row.epoch > sealed_in) {
            self.tell_metadata(id);
        }
    }
}

/// Somebody has to be left who can add and remove.
pub(super) fn last_admin() -> Failed {
    let detail = "the last admin of a group stays until it has named another".to_owned();
    Failed::Server { code: ErrorCode::NotAllowed, detail }
}
