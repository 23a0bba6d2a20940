//! Another generation: an admin begins a new group in a channel's place, because a malicious commit broke the old one,
//! or for a stronger suite (docs/adr/0014).
//!
//! Who resets makes the new group beside the old one, in the batch that notes it with the wish, and asks the server to
//! begin it. It begins for everybody with the log's entry of it. From there this device adds who was in the old group,
//! by ordinary commits; what is to be sent waits until all are back. The others stop at that entry and wait for the
//! welcome, with what they have not sent. They follow it only if it comes from an admin of the group that they know, or
//! from their own account: an entry of a reset is the server's word alone.
//!
//! Of two resets the log shows one. Whoever made the other drops it, and is content with the first once it is in.

use core::cmp::Reverse;
use std::collections::BTreeMap;

use super::Client;
use super::channel::{Channel, Slot};
use super::commit::CONTRADICTED;
use super::direct::is_direct;
use super::directory;
use super::event::{Event, Failed, Outcome};
use super::intent::{Intent, Successor, Want};
use super::metadata::Metadata;
use super::net::Call;
use super::session::Phase;
use crate::delivery::window::Cursor;
use crate::env::Now;
use crate::error::{ErrorCode, Refused};
use crate::id::{AccountId, ChannelId, DeviceId, Digest, GroupId, Sender};
use crate::io::Ticket;
use crate::mls::data::GroupData;
use crate::mls::group::{Founding, Group, NewGroup};
use crate::mls::suite::Suite;
use crate::mls::{Context, MlsError};
use crate::server::op::{reset_message, reset_payload};
use crate::store::batch::Op;
use crate::wire::message::{Accepted, ChannelKind, Failure, Request};

/// Accounts that are asked back at once.
const RETURNS: usize = 64;

const UNREADABLE: &str = "what is stored does not tell who is in the group";

impl Client {
    /// Begins a new group in the place of a channel's, with the same admins and profile, of `suite` (`None`: of the
    /// same one), and adds everybody who was in it: for a group that does not work any more, or to another suite.
    /// Devices that cannot be added are named by [`Event::NotAdded`]. Of two resets at once one comes true, which is
    /// enough for both if its suite is. → [`Outcome::Reset`]
    ///
    /// # Errors
    /// `NoAccount`, `LoggedOut`, `Busy`, `UnknownChannel`, `NotMember`; `Invalid` for a weaker suite than the group's.
    pub fn reset(
        &mut self,
        now: Now,
        channel: ChannelId,
        suite: Option<Suite>,
    ) -> Result<Ticket, Refused> {
        self.begin(now)?;
        self.need_session()?;
        self.need_member(channel)?;
        let known = self.channels.get(&channel).ok_or(Refused::UnknownChannel)?;
        if suite.is_some_and(|suite| suite < known.row.suite) {
            return Err(Refused::Invalid("a group never moves to a weaker cipher suite"));
        }
        let want = Want::Reset { from: known.generation(), suite, next: None };
        let ticket = self.next_ticket();
        self.store_intent(ticket, Intent { channel, want, losses: 0 });
        Ok(ticket)
    }

    // ---- the one who resets -------------------------------------------------------------------

    /// The reset of a channel that this device is at: one that has begun or is made before one that is not; of those
    /// the one that has seen most, since what was asked for in a group before waits for the next one.
    pub(super) fn reset_of(&self, id: ChannelId) -> Option<(Ticket, &Intent)> {
        let resets = self.intents.iter().filter(|(_, intent)| intent.channel == id);
        let resets = resets.filter_map(|(ticket, intent)| match &intent.want {
            Want::Reset { from, next, .. } => {
                Some(((next.is_none(), Reverse(*from), *ticket), intent))
            }
            _ => None,
        });
        let first = resets.min_by_key(|(order, _)| *order);
        first.map(|((.., ticket), intent)| (ticket, intent))
    }

    /// Whether this device is about to reset a channel, by what it has of the group.
    pub(super) fn is_resetting(&self, id: ChannelId) -> bool {
        self.reset_of(id).is_some()
    }

    /// Whether its reset of a channel is not in the log yet, and does not wait for this device to come back first, or
    /// into the generation that another one began before it.
    pub(super) fn waits_for_reset(&self, id: ChannelId) -> bool {
        let comes_back = self.comes_back_first(id);
        let generation = self.channels.get(&id).map_or(0, Channel::generation);
        self.reset_of(id).is_some_and(|(_, intent)| match &intent.want {
            Want::Reset { next: Some(next), .. } => !next.begun,
            Want::Reset { from, .. } => !comes_back && generation <= *from,
            _ => false,
        })
    }

    /// Whether who is in a channel is not known here, its log being gone, and will be soon: the first try is waited
    /// for.
    fn comes_back_first(&self, id: ChannelId) -> bool {
        let first = |channel: &Channel| channel.comes_back() && channel.rejoins == 0;
        self.channels.get(&id).is_some_and(|channel| channel.fall.cut && first(channel))
    }

    fn successor(&self, ticket: Ticket) -> Option<(ChannelId, &Successor)> {
        let intent = self.intents.get(&ticket)?;
        match &intent.want {
            Want::Reset { next: Some(next), .. } => Some((intent.channel, next)),
            _ => None,
        }
    }

    /// Moves a reset on.
    pub(super) fn pump_reset(&mut self, id: ChannelId) {
        let mono = self.now.mono;
        let Some((ticket, intent)) = self.reset_of(id) else { return };
        let held = self.channels.get(&id).and_then(|channel| channel.hold_until);
        let waits = held.is_some_and(|at| at > mono) || self.is_put_off(ticket);
        if self.phase() != Some(Phase::Online) || waits || self.inflight.contains(&ticket) {
            return;
        }
        let Want::Reset { from, suite, next } = &intent.want else { return };
        match next {
            Some(next) if next.begun => self.bring_back(id, ticket),
            Some(_) => self.ask_reset(id, ticket),
            None => self.begin_reset(id, ticket, *from, *suite),
        }
    }

    fn begin_reset(&mut self, id: ChannelId, ticket: Ticket, from: u32, suite: Option<Suite>) {
        let founding = self.founding.contains(&id);
        let Some(channel) = self.channels.get(&id) else { return };
        let row = &channel.row;
        if row.generation > from {
            // Another reset was first.
            let (generation, epoch) = (row.generation, row.epoch);
            if suite.is_none_or(|suite| suite <= row.suite) {
                return self.fulfil(ticket, Outcome::Reset { generation, epoch });
            }
            let want = Want::Reset { from: generation, suite, next: None };
            return self.store_intent(ticket, Intent { channel: id, want, losses: 0 });
        }
        let suite = suite.unwrap_or(row.suite).max(row.suite);
        // What can be read is read first; a welcome is waited for. Who cannot read on comes back first, if that goes:
        // others may have been added since.
        let overtaken = channel.generation() > from;
        let read = channel.ready || (channel.is_lost() && !self.comes_back_first(id));
        if founding || overtaken || !read {
            return;
        }
        let profile = row.metadata.as_ref().and_then(|known| known.open(self.config.backend));
        let Some(me) = self.me() else { return };
        let before = self.with_group(id, |group, _| (group.data().clone(), members(group)));
        let Some((data, members)) = before else { return self.read_group(id) };
        if !data.is_admin(me.account) {
            return self.fail_intent(ticket, Failed::from(&Failure::from(ErrorCode::NotAllowed)));
        }
        let backend = self.config.backend;
        let metadata = profile.and_then(|it| Metadata::seal(backend, &mut self.entropy, &it));
        let data = GroupData {
            version: 1,
            metadata: metadata.as_ref().map_or(Digest([0; 32]), Metadata::hash),
            ..data
        };
        let generation = from.saturating_add(1);
        match self.make_successor(id, generation, suite, data) {
            Ok((authenticator, Founding { group_info, tree })) => {
                let absent = absent(members, me);
                let next = Successor {
                    generation,
                    suite,
                    group_info,
                    tree,
                    metadata,
                    authenticator,
                    begun: false,
                    absent,
                };
                let want = Want::Reset { from, suite: Some(suite), next: Some(Box::new(next)) };
                self.store_intent(ticket, Intent { channel: id, want, losses: 0 });
            }
            Err(error) => {
                let detail = format!("the group cannot be made: {error}");
                let code = ErrorCode::CommitInvalid;
                self.fail_intent(ticket, Failed::Server { code, detail });
            }
        }
    }

    /// Makes the next group, on records of its own.
    fn make_successor(
        &mut self,
        id: ChannelId,
        generation: u32,
        suite: Suite,
        data: GroupData,
    ) -> Result<(Vec<u8>, Founding), MlsError> {
        let device = self.identity.as_ref().and_then(|identity| identity.local());
        let device = device.ok_or(MlsError::Record)?;
        let new = NewGroup { id: GroupId::of(id, generation), suite, data };
        let mut entropy = self.entropy.fork();
        let (backend, wall) = (self.config.backend, self.now.wall);
        let cx = Context { backend, entropy: &mut entropy, wall };
        let (mut group, founding) = Group::create(cx, &device, &new)?;
        let prefix = directory::group_prefix(id, generation);
        self.gate.stage(Op::DeletePrefix(prefix.clone()));
        self.gate.stage_all(directory::under(&prefix, group.take_ops()));
        Ok((group.authenticator(), founding))
    }

    fn ask_reset(&mut self, id: ChannelId, ticket: Ticket) {
        let Some((_, next)) = self.successor(ticket) else { return };
        let request = Request::ChannelCreate {
            channel: id,
            kind: id.kind().unwrap_or(ChannelKind::Group),
            generation: next.generation,
            group_info: next.group_info.clone().into(),
            tree: next.tree.clone().into(),
            with: self.channels.get(&id).and_then(|channel| channel.row.with),
        };
        self.inflight.insert(ticket);
        self.call(Call::Reset(ticket), request);
    }

    /// The server has begun the generation. The log says so too, where it can be read: until then nothing more is
    /// asked.
    pub(super) fn on_reset_accepted(&mut self, ticket: Ticket, accepted: &Accepted) {
        let Some((id, next)) = self.successor(ticket).filter(|(_, next)| !next.begun) else {
            return;
        };
        let (message, hash) =
            (reset_message(&next.group_info), reset_payload(&next.group_info).hash());
        if !self.proves(id, message, hash, accepted) {
            return;
        }
        self.inflight.insert(ticket);
        let Some(channel) = self.channels.get(&id) else { return };
        if channel.is_lost() {
            let at = Cursor::at(accepted.seq, accepted.chain);
            return self.begin_generation(id, ticket, Some(at));
        }
        if accepted.seq <= channel.row.cursor.seq() {
            self.fork(id, accepted.seq, None);
        }
    }

    /// The log's entry of a reset cannot be read any more: the server is asked once more, and its answer says where
    /// that is.
    pub(super) fn ask_reset_again(&mut self, id: ChannelId) {
        let made =
            |want: &Want| matches!(want, Want::Reset { next: Some(next), .. } if !next.begun);
        let waits = self.reset_of(id).filter(|(_, intent)| made(&intent.want));
        if let Some(ticket) = waits.map(|(ticket, _)| ticket) {
            self.inflight.remove(&ticket);
        }
    }

    /// The server does not begin the generation, or not now.
    pub(super) fn on_reset_refused(&mut self, ticket: Ticket, failure: &Failure) {
        let Some((id, _)) = self.successor(ticket).filter(|(_, next)| !next.begun) else {
            return;
        };
        let lost = self.channels.get(&id).is_some_and(Channel::is_lost);
        match failure.code {
            ErrorCode::RateLimited => self.put_off(ticket, failure.retry_after_ms),
            _ if failure.is_transient() => self.hold(id, failure.retry_after_ms),
            // Another one was first; or this one, long ago. The log tells.
            ErrorCode::GenerationMismatch if !lost => self.look_again(id),
            _ => self.fail_intent(ticket, Failed::from(failure)),
        }
    }

    /// The log is read anew, and nothing done until then.
    pub(super) fn look_again(&mut self, id: ChannelId) {
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.unsubscribe();
        }
        self.hold(id, CONTRADICTED);
        self.dirty.insert(id);
    }

    /// The group's records do not load: it cannot be told who was in it.
    pub(super) fn fail_resets(&mut self, id: ChannelId) {
        while let Some((ticket, _)) = self
            .reset_of(id)
            .filter(|(_, intent)| matches!(intent.want, Want::Reset { next: None, .. }))
        {
            self.fail_intent(ticket, Failed::Obsolete(UNREADABLE));
        }
    }

    /// A wish is gone: so is the group that was made for it, unless it is the channel's.
    pub(super) fn drop_successor(&mut self, intent: &Intent) {
        if let Want::Reset { next: Some(next), .. } = &intent.want
            && !next.begun
        {
            let prefix = directory::group_prefix(intent.channel, next.generation);
            self.gate.stage(Op::DeletePrefix(prefix));
        }
    }

    /// What this device made came too late.
    pub(super) fn void_resets(&mut self, id: ChannelId) {
        for ticket in self.intents_of(id) {
            let Some(mut intent) = self.intents.get(&ticket).cloned() else { continue };
            if let Want::Reset { next, .. } = &mut intent.want
                && next.as_ref().is_some_and(|next| !next.begun)
            {
                let made = next.take();
                let want = Want::Reset { from: 0, suite: None, next: made };
                self.drop_successor(&Intent { channel: id, want, losses: 0 });
                self.inflight.remove(&ticket);
                self.store_intent(ticket, intent);
            }
        }
    }

    /// The group that this device made is the channel's. Where the log cannot be read it goes on at `at`.
    pub(super) fn begin_generation(&mut self, id: ChannelId, ticket: Ticket, at: Option<Cursor>) {
        let Some(me) = self.me() else { return };
        let members = self.with_group(id, |group, _| members(group));
        let Some(mut intent) = self.intents.get(&ticket).cloned() else { return };
        let Want::Reset { next: Some(next), .. } = &mut intent.want else { return };
        if let Some(members) = members {
            next.absent = absent(members, me);
        }
        next.begun = true;
        (next.group_info, next.tree) = (Vec::new(), Vec::new());
        let (generation, suite) = (next.generation, next.suite);
        let (metadata, authenticator) =
            (next.metadata.take(), core::mem::take(&mut next.authenticator));
        self.store_intent(ticket, intent);
        self.inflight.remove(&ticket);
        self.leave_generation(id);
        self.forget_fall(id);
        if let Some(at) = &at {
            self.forget_accepted(id, at.seq());
            self.forget_arrived(id);
        }
        let profile = metadata.as_ref().and_then(|known| known.open(self.config.backend));
        let over = metadata.as_ref().map_or(Digest([0; 32]), Metadata::hash);
        let carried = self.profile_to_carry(id, true).filter(|last| profile.as_ref() != Some(last));
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let before = directory::group_prefix(id, channel.row.generation);
        // What it was called when it was made: what the group before was given since follows.
        if let (Some(profile), false) = (profile, is_direct(id)) {
            channel.row.name = Some(profile.name.clone());
        }
        channel.slot = Slot::Cold;
        channel.ended = None;
        channel.row.generation = generation;
        channel.row.suite = suite;
        channel.row.epoch = 0;
        channel.row.members = 1;
        channel.row.metadata = metadata;
        channel.row.authenticator = authenticator;
        channel.row_dirty = true;
        // A first epoch has none.
        channel.enter(Digest([0; 32]));
        let mut missed = None;
        if let Some(at) = at {
            let (from, to) = (channel.row.cursor.seq().saturating_add(1), at.seq());
            missed = (from < to).then_some(Event::Gap { channel: id, from, to });
            channel.jump(at);
            channel.unsubscribe();
        }
        let leaving = channel.row.leaving;
        self.gate.stage(Op::DeletePrefix(before));
        self.gate.stage(Op::Delete(directory::key(directory::ENDED, &[&id.0])));
        if leaving {
            self.leave_again(id);
        }
        if let Some(last) = carried {
            self.carry_profile(id, last, over);
        }
        self.settle_blindness(id);
        self.leaf_is_fresh(id);
        self.doubt_claims(id);
        self.settle_rejoins(id, Ok(0));
        self.stage_channel(id);
        self.wake_inboxes();
        if let Some(missed) = missed {
            self.event(missed);
        }
        self.event(Event::Reset { channel: id, generation, by: me });
    }

    // ---- all back -----------------------------------------------------------------------------

    /// Asks those back who were in the group before, some at once; done when nobody is left to ask.
    fn bring_back(&mut self, id: ChannelId, ticket: Ticket) {
        let returns =
            |intent: &&Intent| intent.channel == id && matches!(intent.want, Want::Return { .. });
        let under_way = self.intents.values().filter(returns).count();
        let Some(mut intent) = self.intents.get(&ticket).cloned() else { return };
        let Want::Reset { next: Some(next), .. } = &mut intent.want else { return };
        let mut asked = Vec::new();
        while under_way + asked.len() < RETURNS
            && let Some(next) = next.absent.pop_first()
        {
            asked.push(next);
        }
        if !asked.is_empty() {
            self.store_intent(ticket, intent);
        } else if under_way == 0 {
            let Some(row) = self.channels.get(&id).map(|channel| &channel.row) else { return };
            let (generation, epoch) = (row.generation, row.epoch);
            self.fulfil(ticket, Outcome::Reset { generation, epoch });
            return self.admit_all(id);
        }
        for (account, devices) in asked {
            let want = Want::Return { account, devices, packages: None, missing: Vec::new() };
            let ticket = self.next_ticket();
            self.store_intent(ticket, Intent { channel: id, want, losses: 0 });
        }
    }

    /// Whether key packages of those asked back are on their way: all who can come come in with one commit.
    pub(super) fn is_asking_back(&self, id: ChannelId) -> bool {
        self.intents.iter().any(|(ticket, intent)| {
            let lacks = matches!(intent.want, Want::Return { packages: None, .. });
            intent.channel == id && lacks && !self.is_put_off(*ticket)
        })
    }

    /// An account was asked back, or could not be: names those of its devices that are not.
    pub(super) fn name_absent(&mut self, intent: &Intent, failed: Option<&Failed>) {
        let Want::Return { account, devices, missing, .. } = &intent.want else { return };
        let (channel, account) = (intent.channel, *account);
        let Some((ticket, _)) = self.reset_of(channel) else { return };
        let why = match failed {
            None => None,
            Some(Failed::Server { detail: why, .. } | Failed::NotAdded { why, .. }) => {
                Some(why.clone())
            }
            Some(Failed::Obsolete(why) | Failed::Untrusted(why) | Failed::NameChanged(why)) => {
                Some((*why).to_owned())
            }
            Some(other) => Some(format!("{other:?}")),
        };
        let others = devices.iter().filter(|device| missing.iter().all(|(of, _)| of != *device));
        let failed = why.iter().flat_map(|why| others.clone().map(|device| (*device, why.clone())));
        let named: Vec<_> = missing.iter().cloned().chain(failed).collect();
        for (device, why) in named {
            let device = Sender { account, device };
            self.event(Event::NotAdded { ticket, channel, device, why });
            if self.is_member(channel) {
                self.admit_later(channel, device);
            }
        }
    }

    pub(super) fn is_member(&self, id: ChannelId) -> bool {
        self.channels.get(&id).is_some_and(|channel| channel.row.member)
    }
}

fn members(group: &Group) -> Vec<Sender> {
    group.members().iter().map(|member| member.record.sender()).collect()
}

/// Those of a group's members that are to be asked back, by account.
fn absent(members: Vec<Sender>, me: Sender) -> BTreeMap<AccountId, Vec<DeviceId>> {
    let mut absent = BTreeMap::<_, Vec<_>>::new();
    for member in members.into_iter().filter(|member| *member != me) {
        absent.entry(member.account).or_default().push(member.device);
    }
    absent
}
