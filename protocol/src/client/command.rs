//! Commands about groups, and what every command is checked for: each is staged, and answered later by an event with
//! its ticket.

use zeroize::Zeroizing;

use super::channel::Slot;
use super::direct::{is_direct, is_open};
use super::directory::{self, ChannelRow};
use super::event::{Failed, GroupMember, Outcome};
use super::intent::{Intent, Want};
use super::load::{LOAD_PAGE, Loading};
use super::metadata::{Metadata, Profile};
use super::submission::{OutItem, OutWhat, Says};
use super::{Channel, Client, Event};
use crate::env::Now;
use crate::error::Refused;
use crate::id::{AccountId, ChannelId, GroupId, MessageId};
use crate::io::{Page, Ticket};
use crate::limits::{COMMIT_LOSSES, CONTENT_BYTES, GROUP_NAME_BYTES, OUTBOX, TICKETS};
use crate::mls::Context;
use crate::mls::data::GroupData;
use crate::mls::group::{Founding, Group, NewGroup};
use crate::mls::suite::Suite;
use crate::store::batch::Op;
use crate::wire::message::Username;

impl Client {
    /// Founds a group with this device as its only member. The name is sealed: the server never sees it.
    /// → [`Outcome::Group`]
    ///
    /// # Errors
    /// `NoAccount`, `LoggedOut`, `Busy`, `Invalid` for a name that is empty or above 256 bytes.
    pub fn create_group(&mut self, now: Now, name: &str, suite: Suite) -> Result<Ticket, Refused> {
        self.begin(now)?;
        self.need_session()?;
        if name.is_empty() || name.len() > GROUP_NAME_BYTES {
            return Err(Refused::Invalid("a group's name has 1 to 256 bytes"));
        }
        let id = ChannelId::group(self.entropy.array());
        let own = self.me().ok_or(Refused::NoAccount)?.account;
        let Founding { group_info, tree } = self.make_group(id, suite, vec![own], name)?;
        let ticket = self.next_ticket();
        let want = Want::Found { group_info, tree };
        self.store_intent(ticket, Intent { channel: id, want, losses: 0 });
        Ok(ticket)
    }

    /// Makes a group with this device as its only member; the server does not know it yet. `admins` are sorted.
    pub(super) fn make_group(
        &mut self,
        id: ChannelId,
        suite: Suite,
        admins: Vec<AccountId>,
        name: &str,
    ) -> Result<Founding, Refused> {
        let generation = 1;
        let device = self.identity.as_ref().and_then(|identity| identity.local());
        let device = device.ok_or(Refused::NoAccount)?;
        let profile = Profile { name: name.to_owned(), ..Profile::default() };
        let metadata = Metadata::seal(self.config.backend, &mut self.entropy, &profile);
        let metadata = metadata.ok_or(Refused::Invalid("a group's name has 1 to 256 bytes"))?;
        let data = GroupData { version: 1, admins, open: false, metadata: metadata.hash() };
        let new = NewGroup { id: GroupId::of(id, generation), suite, data };
        let mut entropy = self.entropy.fork();
        let cx =
            Context { backend: self.config.backend, entropy: &mut entropy, wall: self.now.wall };
        let (group, founding) = Group::create(cx, &device, &new)
            .map_err(|_| Refused::Invalid("the group cannot be made with this cipher suite"))?;
        let mut row = ChannelRow::fresh(id);
        row.generation = generation;
        row.suite = suite;
        row.epoch = group.epoch();
        row.name = (!name.is_empty()).then(|| name.to_owned());
        row.metadata = Some(metadata);
        row.authenticator = group.authenticator();
        row.members = 1;
        let mut channel = Channel::new(row, false);
        channel.enter(group.transcript());
        channel.slot = Slot::Warm(Box::new(group));
        channel.row_dirty = true;
        self.channels.insert(id, channel);
        self.founding.insert(id);
        self.leaf_is_fresh(id);
        self.stage_channel(id);
        Ok(founding)
    }

    /// Adds all devices of an account in one commit. → [`Outcome::Epoch`], or [`Outcome::Unchanged`] if they are in it
    ///
    /// # Errors
    /// `NoAccount`, `LoggedOut`, `Busy`, `Invalid` for a name out of bounds and in a direct channel, `UnknownChannel`,
    /// `NotMember`.
    pub fn invite(
        &mut self,
        now: Now,
        channel: ChannelId,
        username: &str,
    ) -> Result<Ticket, Refused> {
        let username = prepare(username)?;
        if is_direct(channel) {
            return Err(Refused::Invalid("a direct channel is for its two accounts"));
        }
        self.want(now, channel, Want::add(username, None))
    }

    /// Removes all devices of an account in one commit. → [`Outcome::Epoch`]
    ///
    /// # Errors
    /// `NoAccount`, `LoggedOut`, `Busy`, `Invalid` for the other account of a direct channel, `UnknownChannel`,
    /// `NotMember`.
    pub fn remove(
        &mut self,
        now: Now,
        channel: ChannelId,
        account: AccountId,
    ) -> Result<Ticket, Refused> {
        if is_direct(channel) && self.me().is_some_and(|me| me.account != account) {
            return Err(Refused::Invalid("nobody puts the other out of a direct channel"));
        }
        self.want(now, channel, Want::Remove { account })
    }

    /// Leaves a group: proposes the own removal, which another member commits. Done when the server has the
    /// proposal; of a group that has ended by a reset at once: the next one is left as soon as it is joined.
    /// → [`Outcome::Done`]
    ///
    /// # Errors
    /// `NoAccount`, `LoggedOut`, `Busy`, `UnknownChannel`, `NotMember`.
    pub fn leave(&mut self, now: Now, channel: ChannelId) -> Result<Ticket, Refused> {
        let ticket = self.want(now, channel, Want::Leave)?;
        self.leave_ended(channel);
        Ok(ticket)
    }

    /// Fresh keys for the own leaf. → [`Outcome::Epoch`]
    ///
    /// # Errors
    /// `NoAccount`, `LoggedOut`, `Busy`, `UnknownChannel`, `NotMember`.
    pub fn update(&mut self, now: Now, channel: ChannelId) -> Result<Ticket, Refused> {
        self.want(now, channel, Want::Update)
    }

    pub(super) fn want(
        &mut self,
        now: Now,
        channel: ChannelId,
        want: Want,
    ) -> Result<Ticket, Refused> {
        self.begin(now)?;
        self.need_session()?;
        self.need_member(channel)?;
        let ticket = self.next_ticket();
        let proposed = matches!(want, Want::Add { .. } | Want::Remove { .. });
        let losses = if proposed && self.config.propose_first { COMMIT_LOSSES } else { 0 };
        self.store_intent(ticket, Intent { channel, want, losses });
        Ok(ticket)
    }

    /// Sends content to a group, now or when the connection and the group are ready. → [`Outcome::Sent`]
    ///
    /// # Errors
    /// `NoAccount`, `LoggedOut`, `Busy`, `Invalid` above 4 MiB, `UnknownChannel`, `NotMember`.
    pub fn send(&mut self, now: Now, channel: ChannelId, body: &[u8]) -> Result<Ticket, Refused> {
        self.begin(now)?;
        self.need_session()?;
        self.need_member(channel)?;
        if body.len() > CONTENT_BYTES {
            return Err(Refused::Invalid("a message has at most 4 MiB"));
        }
        if self.outbox.len() >= OUTBOX {
            return Err(Refused::Busy);
        }
        let message = MessageId(self.entropy.array());
        let ticket = self.next_ticket();
        let body = Zeroizing::new(body.to_vec());
        let what = OutWhat::Application { body, says: Says::Body, sealed: None };
        self.store_item(ticket, OutItem::new(channel, message, what, false));
        self.may_carry(channel);
        Ok(ticket)
    }

    /// The application has read all messages of a group up to `seq`: they are forgotten here.
    ///
    /// # Errors
    /// `UnknownChannel`.
    pub fn ack(&mut self, now: Now, channel: ChannelId, seq: u64) -> Result<(), Refused> {
        self.set_now(now);
        let known = self.channels.get_mut(&channel).ok_or(Refused::UnknownChannel)?;
        let later = known.told.split_off(&(seq.saturating_add(1)));
        let read = core::mem::replace(&mut known.told, later);
        if read.is_empty() {
            return Ok(());
        }
        self.told -= read.len();
        known.row.unread =
            known.row.unread.saturating_sub(u32::try_from(read.len()).unwrap_or(u32::MAX));
        known.row_dirty = true;
        for seq in read {
            self.gate.stage(Op::Delete(directory::message_key(channel, seq)));
        }
        self.stage_channel(channel);
        let spilled = self.channels.iter().filter(|(_, c)| c.spilled_after.is_some());
        self.dirty.extend(spilled.map(|(id, _)| *id));
        Ok(())
    }

    /// The delivery proofs of what this device sent to a group: those after `after`, at most `most` of them, 1,024
    /// at once. → [`Outcome::Proofs`]
    ///
    /// # Errors
    /// `Busy`, `UnknownChannel`.
    pub fn proofs(
        &mut self,
        now: Now,
        channel: ChannelId,
        after: u64,
        most: usize,
    ) -> Result<Ticket, Refused> {
        self.begin(now)?;
        if self.channels.get(&channel).is_none_or(|known| known.inbox) {
            return Err(Refused::UnknownChannel);
        }
        let ticket = self.next_ticket();
        let page = Page {
            prefix: directory::proof_prefix(channel),
            after: Some(directory::proof_key(channel, after)),
            most: most.min(LOAD_PAGE),
        };
        self.load(Loading::Proofs(ticket, channel), page);
        Ok(ticket)
    }

    /// The members of a group. → [`Outcome::Members`]
    ///
    /// # Errors
    /// `UnknownChannel`, `NotMember`.
    pub fn members(&mut self, now: Now, channel: ChannelId) -> Result<Ticket, Refused> {
        self.begin(now)?;
        self.need_member(channel)?;
        let ticket = self.next_ticket();
        self.member_tickets.push((ticket, channel));
        self.dirty.insert(channel);
        Ok(ticket)
    }

    /// Answers those who asked for the members of a group in memory.
    pub(super) fn answer_members(&mut self, id: ChannelId) {
        if !self.member_tickets.iter().any(|(_, channel)| *channel == id) {
            return;
        }
        if !self.is_warm(id) {
            let readable = self.channels.get(&id).is_some_and(|channel| {
                !channel.is_lost() && matches!(channel.slot, Slot::Cold | Slot::Loading(..))
            });
            if !readable {
                return self.fail_members(id);
            }
            return self.load_group(id);
        }
        let Some(members) = self.with_group(id, |group, _| {
            let data = group.data().clone();
            let member = |m: crate::mls::group::MemberLeaf| GroupMember {
                leaf: m.leaf,
                sender: m.record.sender(),
                username: None,
                admin: data.may_change(m.record.account),
            };
            group.members().into_iter().map(member).collect::<Vec<_>>()
        }) else {
            return;
        };
        let named: Vec<_> = members
            .into_iter()
            .map(|mut member| {
                let contact = self.contacts.get(&member.sender.account);
                member.username = contact.map(|contact| contact.username.clone());
                member
            })
            .collect();
        let tickets = core::mem::take(&mut self.member_tickets);
        for (ticket, channel) in tickets {
            if channel == id {
                self.event(Event::Done(ticket, Outcome::Members(named.clone())));
            } else {
                self.member_tickets.push((ticket, channel));
            }
        }
    }

    /// The members of a group that is not here, or not readable, cannot be told.
    pub(super) fn fail_members(&mut self, id: ChannelId) {
        for (ticket, channel) in core::mem::take(&mut self.member_tickets) {
            if channel == id {
                let failed = Failed::Obsolete("no longer a member of the group");
                self.event(Event::Failed(ticket, failed));
            } else {
                self.member_tickets.push((ticket, channel));
            }
        }
    }

    // ---- checks -------------------------------------------------------------------------------

    pub(super) fn begin(&mut self, now: Now) -> Result<(), Refused> {
        self.set_now(now);
        if self.stopped {
            return Err(Refused::Stopped);
        }
        let asked = self.intents.values().filter(|intent| intent.is_asked_for()).count();
        let open = asked + self.asks.len() + self.calls();
        let open = open + self.member_tickets.len() + self.package_tickets.len();
        let open = open + self.comparisons.len();
        if open >= TICKETS { Err(Refused::Busy) } else { Ok(()) }
    }

    pub(super) fn need_session(&self) -> Result<(), Refused> {
        match &self.identity {
            None => Err(Refused::NoAccount),
            Some(identity) if identity.ended => Err(Refused::LoggedOut),
            Some(_) => Ok(()),
        }
    }

    pub(super) fn need_member(&self, channel: ChannelId) -> Result<(), Refused> {
        match self.channels.get(&channel) {
            Some(known) if known.inbox || !is_open(channel, &known.row) => {
                Err(Refused::UnknownChannel)
            }
            None => Err(Refused::UnknownChannel),
            Some(known) if !known.row.member || known.row.leaving => Err(Refused::NotMember),
            Some(_) => Ok(()),
        }
    }
}

pub(super) fn prepare(username: &str) -> Result<Username, Refused> {
    Username::prepare(username).ok_or(Refused::Invalid(
        "a username has 1 to 64 bytes of letters, digits and plain signs (RFC 8265)",
    ))
}
