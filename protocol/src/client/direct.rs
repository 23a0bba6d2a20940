//! Direct channels: the one channel between two accounts.
//!
//! Both derive the same id, so either may found it, and the server takes the first. Opening is an intent to add the
//! other account. It waits in this device's inbox until the account of the name is known and every welcome was read;
//! then in the channel, until the other is a member. The channel is founded once there are key packages of the other:
//! who cannot add it leaves the channel for it to found. Once it is founded the wish stays until the other is in:
//! nobody else can take the place. Whoever comes second is told `ChannelExists`, drops what it founded, and is open
//! when the other's welcome was joined. Nothing can be sent before: a message to a group that came to nothing would be
//! lost, and one from before the other joined would never be read.
//!
//! Both accounts come in with one commit, with all their devices; each adds devices of either, and removes none of the
//! other's ([`Before::judge`](crate::mls)): no device is ever alone in a channel that it cannot make again.

use super::Client;
use super::channel::Channel;
use super::command::prepare;
use super::directory::ChannelRow;
use super::event::{Failed, Outcome};
use super::intent::{Intent, Want};
use crate::env::Now;
use crate::error::{ErrorCode, Refused};
use crate::id::{AccountId, ChannelId, Sender};
use crate::io::Ticket;
use crate::mls::MlsError;
use crate::mls::group::{Founding, Group, Plan};
use crate::mls::suite::Suite;
use crate::wire::message::ChannelKind;

/// Whether a channel is a direct one.
pub(super) fn is_direct(id: ChannelId) -> bool {
    id.kind() == Some(ChannelKind::Direct)
}

/// Whether the application knows a channel: a group at once, a direct channel from when the other was in it.
pub(super) fn is_open(id: ChannelId, row: &ChannelRow) -> bool {
    !is_direct(id) || row.with.is_some()
}

/// Whether all of these accounts are the own one or the one that the channel is shared with.
fn is_between(
    id: ChannelId,
    own: AccountId,
    mut accounts: impl Iterator<Item = AccountId>,
) -> bool {
    accounts.all(|account| account == own || ChannelId::direct(own, account) == id)
}

impl Client {
    /// Whether a group may be a channel's: a direct channel is for its two accounts, and both are its admins.
    pub(super) fn suits(&self, id: ChannelId, group: &Group) -> Result<(), MlsError> {
        group.data().check_for(id)?;
        let members = group.members();
        let accounts = members.iter().map(|member| member.record.account);
        let own = self.me().map(|me| me.account);
        if is_direct(id) && !own.is_some_and(|own| is_between(id, own, accounts)) {
            return Err(MlsError::NotAllowed("a direct channel is for its two accounts"));
        }
        Ok(())
    }

    /// Opens the direct channel with another account: answers at once if this device is in it, else founds it and
    /// adds all devices of both accounts. Of two who open it at once one founds it, and the other is done when it has
    /// joined. Until then the channel is unknown here, and nothing can be sent to it. If the other account founded it
    /// and adds nobody, this is not done until it does; nor, if this one founded it and finds then that it can add no
    /// device of the other, until it can: [`Event::NotAdded`](super::event::Event::NotAdded). → [`Outcome::Group`]
    ///
    /// # Errors
    /// `NoAccount`, `LoggedOut`, `Busy`, `Invalid` for a name out of bounds or the own one.
    pub fn open_direct(&mut self, now: Now, username: &str) -> Result<Ticket, Refused> {
        let username = prepare(username)?;
        self.begin(now)?;
        self.need_session()?;
        if self.identity.as_ref().is_some_and(|identity| identity.username == username) {
            return Err(Refused::Invalid("a direct channel is with another account"));
        }
        let channel = ChannelId::inbox(self.me().ok_or(Refused::NoAccount)?);
        let want = Want::add(username, None);
        let ticket = self.next_ticket();
        self.store_intent(ticket, Intent { channel, want, losses: 0 });
        Ok(ticket)
    }

    /// Moves an intent that opens a direct channel on, as far as this device can by itself; whether the server is to be
    /// asked now for what an intent lacks.
    pub(super) fn direct_asks(&mut self, ticket: Ticket) -> bool {
        let Some(intent) = self.intents.get(&ticket) else { return false };
        let Want::Add { account: Some(account), packages, .. } = &intent.want else { return true };
        let (id, account, lacks) = (intent.channel, *account, packages.is_none());
        match id.kind() {
            Some(ChannelKind::Inbox) => {
                self.place(ticket, account);
                false
            }
            Some(ChannelKind::Direct) if !self.channels.contains_key(&id) => {
                self.may_found(ticket, id, account, lacks)
            }
            Some(ChannelKind::Direct) => lacks && self.may_claim(ticket, id, account),
            _ => true,
        }
    }

    /// Of a channel that is not here: whether key packages of an account are to be claimed for it now. Once they are
    /// here, and those of the own account, it is founded.
    fn may_found(
        &mut self,
        ticket: Ticket,
        id: ChannelId,
        account: AccountId,
        lacks: bool,
    ) -> bool {
        let here = || self.intents.values().filter(|intent| intent.channel == id);
        // Founded by the other: its welcome is on its way.
        let lost = here().any(|intent| intent.losses > 0);
        // Whoever asked first asks for all.
        let first = self.adds_in(id).find(|(_, of)| *of == account);
        if lost || self.is_joining(id) || first.is_none_or(|(first, _)| first != ticket) {
            return false;
        }
        let ready = |of: AccountId| {
            let of = |intent: &&Intent| matches!(&intent.want, Want::Add { account, .. } if *account == Some(of));
            here().find(of).is_none_or(|intent| intent.want.has_packages())
        };
        let Some(own) = self.me().map(|me| me.account) else { return false };
        if !lacks && account != own && ready(own) {
            self.found_direct(ticket, id, own, account);
        }
        lacks
    }

    /// The account is known: the intent moves from the inbox to the channel.
    fn place(&mut self, ticket: Ticket, account: AccountId) {
        let Some(me) = self.me() else { return };
        // The other's welcome may be waiting.
        let inbox = self.channels.get(&ChannelId::inbox(me));
        if !inbox.is_some_and(|inbox| inbox.ready && inbox.at_head()) {
            return;
        }
        // Or the inbox has lost it, and the server is about to say where this device is a member.
        if self.asks_for_memberships() {
            return;
        }
        if account == me.account {
            let why = "the name leads to this device's own account";
            return self.fail_intent(ticket, Failed::Untrusted(why));
        }
        let id = ChannelId::direct(me.account, account);
        match self.channels.get(&id) {
            Some(channel) if !channel.row.member || channel.row.leaving => {
                let why = "this device left the channel: only who is in it can open it again";
                return self.fail_intent(ticket, Failed::Obsolete(why));
            }
            Some(_) if !self.founding.contains(&id) => match self.is_in(id, account) {
                Some(true) => return self.fulfil(ticket, Outcome::Group(id)),
                Some(false) => {}
                None => return,
            },
            _ => {}
        }
        self.settle_in(ticket, id);
        self.want_own_devices(id);
    }

    /// From here on the intent is the channel's.
    fn settle_in(&mut self, ticket: Ticket, id: ChannelId) {
        if let Some(mut intent) = self.intents.remove(&ticket) {
            intent.channel = id;
            self.store_intent(ticket, intent);
        }
    }

    fn found_direct(&mut self, wish: Ticket, id: ChannelId, own: AccountId, other: AccountId) {
        let mut both = vec![own, other];
        both.sort_unstable();
        match self.make_group(id, Suite::default(), both, "") {
            Ok(Founding { group_info, tree }) => {
                let ticket = self.next_ticket();
                let want = Want::Found { group_info, tree };
                self.store_intent(ticket, Intent { channel: id, want, losses: 0 });
            }
            Err(refused) => {
                let (code, detail) = (ErrorCode::CommitInvalid, refused.to_string());
                self.fail_intent(wish, Failed::Server { code, detail });
            }
        }
    }

    /// The devices of the own account go in together with the other's.
    fn want_own_devices(&mut self, id: ChannelId) {
        let Some(own) = self.me().map(|me| me.account) else { return };
        let Some(identity) = &self.identity else { return };
        if self.adds_in(id).any(|(_, account)| account == own) {
            return;
        }
        let username = identity.username.clone();
        let want = Want::add(username, Some(own));
        let ticket = self.next_ticket();
        self.store_intent(ticket, Intent { channel: id, want, losses: 0 });
    }

    /// Intents to add an account to a channel.
    fn adds_in(&self, id: ChannelId) -> impl Iterator<Item = (Ticket, AccountId)> + '_ {
        self.intents.iter().filter(move |(_, intent)| intent.channel == id).filter_map(
            |(ticket, intent)| match intent.want {
                Want::Add { account: Some(account), .. } => Some((*ticket, account)),
                _ => None,
            },
        )
    }

    /// The account that a direct channel is being opened with.
    pub(super) fn wanted_with(&self, id: ChannelId) -> Option<AccountId> {
        let own = self.me()?.account;
        self.adds_in(id)
            .map(|(_, account)| account)
            .find(|account| *account != own && is_direct(id))
    }

    /// Whether an account has a device in a group; `None` while the group is not in memory.
    fn is_in(&mut self, id: ChannelId, account: AccountId) -> Option<bool> {
        if !self.is_warm(id) {
            self.load_group(id);
        }
        self.with_group(id, |group, _| {
            group.members().iter().any(|member| member.record.account == account)
        })
    }

    /// Whether key packages of an account are to be claimed for a direct channel now.
    fn may_claim(&mut self, ticket: Ticket, id: ChannelId, account: AccountId) -> bool {
        let Some(own) = self.me().map(|me| me.account) else { return false };
        // Not founded yet.
        if self.founding.contains(&id)
            || self.channels.get(&id).is_none_or(|channel| !channel.row.member)
        {
            return false;
        }
        match self.is_in(id, account) {
            Some(true) if account != own => {
                self.fulfil(ticket, Outcome::Group(id));
                false
            }
            // Whoever asked first asks for all.
            Some(_) => self.adds_in(id).find(|(_, of)| *of == account) == Some((ticket, account)),
            None => false,
        }
    }

    /// Both accounts of a direct channel come in with one commit: whose packages are here waits for the other's.
    pub(super) fn waits_for_the_other(
        &self,
        id: ChannelId,
        account: Option<AccountId>,
        members: &[Sender],
        plan: &Plan,
    ) -> bool {
        let Some(own) = self.me().map(|me| me.account).filter(|_| is_direct(id)) else {
            return false;
        };
        if account == Some(own) {
            return plan.adds.is_empty() && members.iter().all(|member| member.account == own);
        }
        self.intents.values().any(|intent| {
            let lacks = matches!(intent.want, Want::Add { account, packages: None, .. } if account == Some(own));
            intent.channel == id && lacks
        })
    }

    /// Whether an intent adds the other account to a direct channel that this device is in and the other never was: the
    /// place is taken, and who else opens the channel waits for this device.
    pub(super) fn owes_the_other(&self, ticket: Ticket) -> bool {
        let Some(intent) = self.intents.get(&ticket) else { return false };
        let id = intent.channel;
        let own = self.me().map(|me| me.account);
        let adds = matches!(intent.want, Want::Add { account, .. } if account != own);
        let founded = |channel: &Channel| channel.row.member && channel.row.with.is_none();
        let there = self.channels.get(&id).is_some_and(founded) && !self.founding.contains(&id);
        adds && is_direct(id) && there
    }

    /// The other account cannot be added yet: tried again later, and told once which devices have no key package.
    pub(super) fn owe_the_other(&mut self, ticket: Ticket) {
        if self.tells_first(ticket)
            && let Some(intent) = self.intents.get(&ticket).cloned()
        {
            self.name_missing(ticket, intent);
        }
        self.claim_again(ticket);
        self.set_back(ticket);
    }

    /// Devices of the other account that could not be added to a direct channel are added later. Those that are in it
    /// would do so, but may never come online again; and who opens the channel from outside waits.
    pub(super) fn admit_missing(&mut self, intent: &Intent) {
        let Want::Add { account: Some(account), missing, .. } = &intent.want else { return };
        if is_direct(intent.channel) && self.is_member(intent.channel) {
            for (device, _) in missing {
                self.admit_later(intent.channel, Sender { account: *account, device: *device });
            }
        }
    }

    /// What the application is told of an intent that came true; `None` for one that it did not ask for.
    pub(super) fn outcome_of(&self, intent: &Intent, outcome: Outcome) -> Option<Outcome> {
        let own = self.me().map(|me| me.account);
        match &intent.want {
            _ if !intent.is_asked_for() => None,
            Want::Found { .. } if is_direct(intent.channel) => None,
            Want::Add { account, .. } if is_direct(intent.channel) => {
                (*account != own).then_some(Outcome::Group(intent.channel))
            }
            _ => Some(outcome),
        }
    }

    /// Nobody wants the other in a direct channel any more: the own devices do not go in alone.
    pub(super) fn drop_own_add(&mut self, id: ChannelId) {
        let Some(own) = self.me().map(|me| me.account).filter(|_| is_direct(id)) else { return };
        if self.adds_in(id).all(|(_, account)| account == own) {
            let left: Vec<_> = self.adds_in(id).map(|(ticket, _)| ticket).collect();
            for ticket in left {
                self.drop_intent(ticket);
            }
        }
    }

    /// The other account, or another device of the own one, founded the channel first: what was founded here is
    /// dropped, and its welcome awaited.
    fn lose_founding(&mut self, id: ChannelId) {
        self.founding.remove(&id);
        let own = self.me().map(|me| me.account);
        for ticket in self.intents_of(id) {
            let waits = self.intents.get(&ticket).is_some_and(
                |intent| matches!(intent.want, Want::Add { account, .. } if account != own),
            );
            if let Some(mut intent) = self.drop_intent(ticket).filter(|_| waits) {
                intent.losses += 1;
                self.store_intent(ticket, intent);
            }
        }
        self.erase(id);
    }

    /// The place of a direct channel is taken, maybe by this device itself: a backup may not know that its founding
    /// came true. Who asks for it since this machine started would know.
    pub(super) fn place_is_taken(&mut self, id: ChannelId, ticket: Ticket) {
        self.lose_founding(id);
        if !self.is_of_this_start(ticket) {
            self.miss_welcomes();
        }
    }

    /// Takes note of the other account of a direct channel, from when it is a member: the channel is open.
    pub(super) fn note_other(&mut self, id: ChannelId) {
        if !is_direct(id) || self.channels.get(&id).is_none_or(|channel| channel.row.with.is_some())
        {
            return;
        }
        let Some(own) = self.me().map(|me| me.account) else { return };
        let other = self.with_group(id, |group, _| {
            let accounts = group.members().into_iter().map(|member| member.record.account);
            accounts.into_iter().find(|account| *account != own)
        });
        if let (Some(Some(_)), Some(channel)) = (other, self.channels.get_mut(&id)) {
            channel.row.with = other.flatten();
            channel.row_dirty = true;
            // Who had no key package yet, or came since.
            self.admit_all(id);
        }
    }
}
