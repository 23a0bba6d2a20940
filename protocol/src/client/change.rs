//! Changes of groups: an intent stays until it has come true, however many commits of others come first.
//!
//! A commit of ours is made only on a group read to its head, stays pending until the log shows it, and is
//! dropped only when the log shows another commit at its epoch; then its intents try again.

use core::time::Duration;

use super::directory::{self, Intent, OutItem, OutWhat, Want};
use super::event::{Event, Failed, Outcome};
use super::inbound::pause;
use super::net::Call;
use super::{Client, WrongReply, session::Phase};
use crate::error::ErrorCode;
use crate::id::{AccountId, ChannelId, MessageId, Sender};
use crate::io::Ticket;
use crate::limits::ADDS_PER_COMMIT;
use crate::mls::MlsError;
use crate::mls::group::{Change, Group, Plan};
use crate::mls::key_package::check;
use crate::store::batch::Op;
use crate::wire::message::{
    ChannelKind, ClaimedKeyPackage, CommitBundle, Failure, Part, Request, Submit, SubmitKind,
    Username,
};

/// A spread of this long per leaf keeps members from committing the same thing at once.
const STAGGER: Duration = Duration::from_millis(150);
/// The first delay after a lost commit; grows with every loss, drawn at random below that.
const RETRY: Duration = Duration::from_millis(20);
/// Pause in milliseconds before a commit that could not be made is tried again.
const UNMADE: u32 = 1_000;
/// Pause in milliseconds before a commit goes out again that the server refused for another one, which its log does
/// not show.
pub(super) const CONTRADICTED: u32 = 1_000;

impl Client {
    pub(super) fn store_intent(&mut self, ticket: Ticket, intent: Intent) {
        self.gate.stage(directory::put(intent_key(ticket), &intent));
        self.dirty.insert(intent.channel);
        self.intents.insert(ticket, intent);
    }

    fn drop_intent(&mut self, ticket: Ticket) -> Option<Intent> {
        let intent = self.intents.remove(&ticket)?;
        self.gate.stage(Op::Delete(intent_key(ticket)));
        self.dirty.insert(intent.channel);
        Some(intent)
    }

    fn fulfil(&mut self, ticket: Ticket, outcome: Outcome) {
        if let Some(intent) = self.drop_intent(ticket)
            && intent.is_asked_for()
        {
            self.event(Event::Done(ticket, outcome));
        }
    }

    pub(super) fn fail_intent(&mut self, ticket: Ticket, failed: Failed) {
        if let Some(intent) = self.drop_intent(ticket)
            && intent.is_asked_for()
        {
            self.event(Event::Failed(ticket, failed));
        }
    }

    /// This device is out of a group: nothing it wanted there can come true. What may have reached the server before
    /// it was removed is asked about again, so that nobody is told it failed when others have read it.
    pub(super) fn abandon(&mut self, id: ChannelId) {
        for ticket in self.intents_of(id) {
            let leaves = self.intents.get(&ticket).is_some_and(|intent| intent.leaves());
            if leaves {
                self.fulfil(ticket, Outcome::Done);
            } else {
                self.fail_intent(ticket, Failed::Obsolete("no longer a member of the group"));
            }
        }
        let open = |item: &OutItem| {
            let sealed = matches!(item.what, OutWhat::Application { sealed: Some(_), .. });
            sealed && item.accepted.is_none()
        };
        for ticket in self.outbox_of(id) {
            if !self.outbox.get(&ticket).is_some_and(open) {
                self.fail_item(ticket, Failed::Obsolete("no longer a member of the group"));
            }
        }
        self.fail_members(id);
    }

    fn intents_of(&self, id: ChannelId) -> Vec<Ticket> {
        let of_channel = self.intents.iter().filter(|(_, intent)| intent.channel == id);
        of_channel.map(|(ticket, _)| *ticket).collect()
    }

    /// Proposals wait in a group: somebody has to commit them. Members wait their turn, by leaf.
    pub(super) fn want_flush(&mut self, id: ChannelId) {
        let turn = self.with_group(id, |group, _| {
            let own = group.own_leaf();
            group.members().iter().filter(|member| member.leaf < own).count()
        });
        let turn = u32::try_from(turn.unwrap_or(0)).unwrap_or(u32::MAX);
        let waiting = self
            .intents
            .values()
            .any(|intent| intent.channel == id && matches!(intent.want, Want::Flush));
        if waiting {
            return;
        }
        let ticket = self.next_ticket();
        self.store_intent(ticket, Intent { channel: id, want: Want::Flush, losses: 0 });
        let at = self.now.mono + STAGGER.saturating_mul(turn.min(200));
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.hold_until = channel.hold_until.max(Some(at));
        }
    }

    // ---- preparing ----------------------------------------------------------------------------

    /// Moves the intents of a channel on: asks for what they lack, commits what is ready.
    pub(super) fn pump_intents(&mut self, id: ChannelId) {
        if self.phase() != Some(Phase::Online) {
            return;
        }
        let held = self.channels.get(&id).and_then(|channel| channel.hold_until);
        if held.is_none_or(|at| at <= self.now.mono) {
            for ticket in self.intents_of(id) {
                self.prepare(ticket);
            }
        }
        self.commit_ready(id);
    }

    fn prepare(&mut self, ticket: Ticket) {
        if self.inflight.contains(&ticket) {
            return;
        }
        let Some(intent) = self.intents.get(&ticket) else { return };
        let channel = intent.channel;
        let (call, request) = match &intent.want {
            Want::Found { group_info, tree } => {
                let (group_info, tree) = (group_info.clone().into(), tree.clone().into());
                let kind = ChannelKind::Group;
                let request =
                    Request::ChannelCreate { channel, kind, generation: 1, group_info, tree };
                (Call::Found(ticket), request)
            }
            Want::Add { username, account: None, .. } => {
                (Call::Resolve(ticket), Request::AccountLookup { username: username.clone() })
            }
            Want::Add { account: Some(account), packages: None, .. } => {
                let Some(row) = self.channels.get(&channel).map(|channel| &channel.row) else {
                    return;
                };
                let request = Request::KeyPackageFetch { account: *account, suite: row.suite };
                (Call::Claim(ticket), request)
            }
            _ => return,
        };
        self.inflight.insert(ticket);
        self.call(call, request);
    }

    /// The group is founded on the server.
    pub(super) fn on_founded(&mut self, ticket: Ticket) {
        let Some(channel) = self.intents.get(&ticket).map(|intent| intent.channel) else { return };
        self.founding.remove(&channel);
        self.fulfil(ticket, Outcome::Group(channel));
    }

    /// The account of a name to invite.
    ///
    /// A name that led to another account before is not followed: the application hears of it and decides, by
    /// asking again or not.
    pub(super) fn on_resolved(
        &mut self,
        ticket: Ticket,
        named: &Username,
        account: AccountId,
    ) -> Result<(), WrongReply> {
        let Some(mut intent) = self.intents.remove(&ticket) else { return Ok(()) };
        let mut moved = false;
        let mut wrong = false;
        if let Want::Add { username, account: wanted, .. } = &mut intent.want {
            wrong = username != named;
            if !wrong {
                *wanted = Some(account);
                let contact = directory::Contact { username: username.clone(), verified: true };
                moved = self.learn(account, contact);
            }
        }
        self.store_intent(ticket, intent);
        if wrong {
            return Err(WrongReply);
        }
        if moved {
            let why = "the name leads to another account than before";
            self.fail_intent(ticket, Failed::Untrusted(why));
        }
        Ok(())
    }

    /// Key packages of an account to invite: those that hold are kept with the intent, until it has come true.
    pub(super) fn on_claimed(&mut self, ticket: Ticket, claimed: Vec<ClaimedKeyPackage>) {
        let Some(mut intent) = self.intents.remove(&ticket) else { return };
        let Want::Add { account: Some(account), packages, .. } = &mut intent.want else { return };
        let account = *account;
        let suite = self.channels.get(&intent.channel).map(|channel| channel.row.suite);
        let mut sound = Vec::new();
        let mut why = String::new();
        let mut forged = false;
        for ClaimedKeyPackage { device, package, .. } in claimed {
            let checked = match &package {
                None => Err("it has no key package".to_owned()),
                Some(bytes) => check(self.config.backend, bytes, self.now.wall)
                    .map_err(|error| {
                        // The server checks what it takes; what does not hold now, it made up.
                        forged |= error != MlsError::Expired;
                        error.to_string()
                    })
                    .and_then(|checked| {
                        let of = Sender { account, device };
                        if checked.record.sender() != of {
                            forged = true;
                            Err("its key package is of another device".to_owned())
                        } else if Some(checked.suite) != suite {
                            Err("its key package is of another cipher suite".to_owned())
                        } else {
                            Ok(())
                        }
                    }),
            };
            match (checked, package) {
                (Ok(()), Some(bytes)) => sound.push(bytes.to_vec()),
                (Err(reason), _) => why = format!("device {device}: {reason}"),
                (Ok(()), None) => {}
            }
        }
        if forged {
            let why = "a key package that the account's own device did not make";
            self.intents.insert(ticket, intent);
            return self.fail_intent(ticket, Failed::Untrusted(why));
        }
        if sound.is_empty() {
            let why = if why.is_empty() { "it has no device".into() } else { why };
            self.intents.insert(ticket, intent);
            return self.fail_intent(ticket, Failed::NotAdded { account, why });
        }
        *packages = Some(sound);
        self.store_intent(ticket, intent);
    }

    /// The server refused what an intent asked.
    pub(super) fn on_intent_refused(&mut self, ticket: Ticket, failure: &Failure) {
        let Some(intent) = self.intents.get(&ticket) else { return };
        let founding = matches!(intent.want, Want::Found { .. });
        let channel = intent.channel;
        match failure.code {
            // The answer to a first try was lost: nobody else can have drawn this id.
            ErrorCode::ChannelExists if founding => self.on_founded(ticket),
            ErrorCode::Unavailable | ErrorCode::Busy | ErrorCode::RateLimited => {
                self.hold(channel, failure.retry_after_ms);
            }
            _ => {
                self.fail_intent(ticket, Failed::from(failure));
                if founding {
                    self.founding.remove(&channel);
                    self.forget_channel(channel);
                }
            }
        }
    }

    /// Does nothing in a channel for a while.
    pub(super) fn hold(&mut self, id: ChannelId, retry_after_ms: u32) {
        let at = self.now.mono + pause(retry_after_ms);
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.hold_until = channel.hold_until.max(Some(at));
        }
    }

    // ---- committing ---------------------------------------------------------------------------

    /// Whether a commit or proposal may be made in a channel now.
    fn may_commit(&mut self, id: ChannelId) -> bool {
        let (restored, mono) = (self.restored, self.now.mono);
        let pending = self
            .outbox
            .values()
            .any(|item| item.channel == id && matches!(item.what, OutWhat::Commit { .. }));
        let Some(channel) = self.channels.get_mut(&id) else { return false };
        if channel.hold_until.is_some_and(|at| at > mono) {
            return false;
        }
        channel.ready
            && !pending
            && !restored
            && channel.row.member
            && !channel.stuck
            && channel.row.epoch >= channel.need_epoch
    }

    fn commit_ready(&mut self, id: ChannelId) {
        if self.intents_of(id).is_empty() || !self.may_commit(id) {
            return;
        }
        if !self.is_warm(id) {
            return self.load_group(id);
        }
        self.drop_orphan(id);
        let mut plan = Plan::default();
        let mut intents = Vec::new();
        for ticket in self.intents_of(id) {
            if self.plan_intent(id, ticket, &mut plan) {
                intents.push(ticket);
            }
        }
        if !intents.is_empty() {
            self.commit(id, &plan, intents);
        }
    }

    /// A commit that the server refused for good while its group was not in memory is still pending there.
    pub(super) fn drop_orphan(&mut self, id: ChannelId) {
        let ours = self
            .outbox
            .values()
            .any(|item| item.channel == id && matches!(item.what, OutWhat::Commit { .. }));
        let discarded = self.with_group(id, |group, cx| match group.has_pending() && !ours {
            true => group.discard_pending(cx),
            false => Ok(()),
        });
        self.stage_channel(id);
        if let Some(Err(error)) = discarded {
            let why = error.to_string();
            self.event(Event::Unreadable { channel: id, seq: 0, why });
        }
    }

    /// Adds what an intent wants to a plan. What is true already is done; what cannot come true fails.
    fn plan_intent(&mut self, id: ChannelId, ticket: Ticket, plan: &mut Plan) -> bool {
        let (Some(intent), Some(me)) = (self.intents.get(&ticket).cloned(), self.me()) else {
            return false;
        };
        let Some((epoch, members, may_change, proposals)) = self.with_group(id, |group, _| {
            let members: Vec<_> = group.members().iter().map(|m| m.record.sender()).collect();
            (group.epoch(), members, group.data().may_change(me.account), group.has_proposals())
        }) else {
            return false;
        };
        match intent.want {
            Want::Add { packages: Some(packages), .. } => {
                if !may_change {
                    self.fail_intent(ticket, Failed::from(&Failure::from(ErrorCode::NotAllowed)));
                    return false;
                }
                let backend = self.config.backend;
                let wall = self.now.wall;
                let before = plan.adds.len();
                let mut expired = false;
                for package in packages {
                    let Ok(checked) = check(backend, &package, wall) else {
                        expired = true;
                        continue;
                    };
                    let twice = plan.adds.contains(&package);
                    if !members.contains(&checked.record.sender()) && !twice {
                        plan.adds.push(package);
                    }
                }
                if plan.adds.len() > ADDS_PER_COMMIT {
                    plan.adds.truncate(before);
                    return false;
                }
                if plan.adds.len() == before && expired {
                    self.claim_again(ticket);
                    return false;
                }
                if plan.adds.len() == before {
                    self.fulfil(ticket, Outcome::Epoch(epoch));
                    return false;
                }
                true
            }
            Want::Remove { account } => {
                if !may_change && account != me.account {
                    self.fail_intent(ticket, Failed::from(&Failure::from(ErrorCode::NotAllowed)));
                    return false;
                }
                let gone: Vec<_> =
                    members.into_iter().filter(|m| m.account == account && *m != me).collect();
                if gone.is_empty() {
                    self.fulfil(ticket, Outcome::Epoch(epoch));
                    return false;
                }
                plan.removes.extend(
                    gone.iter().filter(|m| !plan.removes.contains(m)).copied().collect::<Vec<_>>(),
                );
                true
            }
            Want::Update => true,
            Want::Flush if !proposals => {
                self.fulfil(ticket, Outcome::Epoch(epoch));
                false
            }
            Want::Flush => true,
            Want::Leave | Want::LeaveAgain => {
                self.propose_leave(id, ticket);
                false
            }
            Want::Add { .. } | Want::Found { .. } => false,
        }
    }

    /// Key packages kept with an intent ended before a commit came through: others are needed.
    fn claim_again(&mut self, ticket: Ticket) {
        if let Some(mut intent) = self.intents.remove(&ticket) {
            if let Want::Add { packages, .. } = &mut intent.want {
                *packages = None;
            }
            self.store_intent(ticket, intent);
        }
    }

    fn commit(&mut self, id: ChannelId, plan: &Plan, intents: Vec<Ticket>) {
        let Some(device) = self.identity.as_ref().and_then(|identity| identity.local()) else {
            return;
        };
        let made = self.with_group(id, |group, cx| {
            let epoch = group.epoch();
            group.commit(cx, &device, plan).map(|bundle| (epoch, bundle))
        });
        let (epoch, bundle) = match made {
            Some(Ok(made)) => made,
            Some(Err(error)) => {
                let why = format!("the commit cannot be made: {error}");
                for ticket in intents {
                    let failed =
                        Failed::Server { code: ErrorCode::CommitInvalid, detail: why.clone() };
                    self.fail_intent(ticket, failed);
                }
                // What waits behind queued proposals wants them committed again; not at once.
                return self.hold(id, UNMADE);
            }
            None => return,
        };
        let Some(generation) = self.channels.get(&id).map(|channel| channel.row.generation) else {
            return;
        };
        let message = MessageId(self.entropy.array());
        let bundle = CommitBundle {
            channel: id,
            generation,
            epoch,
            message,
            commit: Part::Inline(bundle.commit.into()),
            welcome: bundle.welcome.map(|welcome| Part::Inline(welcome.into())),
            group_info: bundle.group_info.into(),
        };
        let intents = intents.into_iter().map(|ticket| ticket.0).collect();
        let ticket = self.next_ticket();
        let what = OutWhat::Commit { bundle, intents };
        self.stage_channel(id);
        self.store_item(
            ticket,
            OutItem { channel: id, message, what, accepted: None, silent: true },
        );
    }

    /// Our pending commit came up in the log: it is merged, and what it was for is true.
    pub(super) fn win_pending(&mut self, id: ChannelId, ticket: Ticket) {
        let merged = self.with_group(id, Group::merge_pending);
        let Some(item) = self.drop_item(ticket) else { return };
        let OutWhat::Commit { intents, .. } = item.what else { return };
        match merged {
            Some(Ok(change)) => {
                self.on_change(id, &change);
                for ticket in intents {
                    self.fulfil(Ticket(ticket), Outcome::Epoch(change.epoch));
                }
                self.introduce(id, &change);
            }
            Some(Err(error)) => {
                if let Some(channel) = self.channels.get_mut(&id) {
                    channel.stuck = true;
                }
                let why = error.to_string();
                let seq = self.channels.get(&id).map_or(0, |channel| channel.row.cursor.seq());
                let seq = seq.saturating_add(1);
                self.event(Event::Unreadable { channel: id, seq, why });
            }
            None => {}
        }
    }

    /// Another commit took our epoch: the pending one is void, its intents try again after a random while.
    pub(super) fn lose_pending(&mut self, id: ChannelId) {
        let lost: Vec<_> = self
            .outbox
            .iter()
            .filter(|(_, item)| item.channel == id && matches!(item.what, OutWhat::Commit { .. }))
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in lost {
            let Some(item) = self.drop_item(ticket) else { continue };
            let OutWhat::Commit { intents, .. } = item.what else { continue };
            let mut most = 0;
            for ticket in intents {
                if let Some(mut intent) = self.intents.remove(&Ticket(ticket)) {
                    intent.losses += 1;
                    most = most.max(intent.losses);
                    self.store_intent(Ticket(ticket), intent);
                }
            }
            let spread = RETRY.saturating_mul(1 << most.min(5)).as_micros();
            let spread = u64::try_from(spread).unwrap_or(u64::MAX).max(1);
            let wait = Duration::from_micros(self.entropy.u64() % spread);
            if let Some(channel) = self.channels.get_mut(&id) {
                channel.hold_until = Some(self.now.mono + wait);
            }
        }
    }

    /// The server refused our commit for another reason than a race.
    pub(super) fn on_commit_refused(&mut self, ticket: Ticket, failure: &Failure) {
        let Some(item) = self.outbox.get(&ticket) else { return };
        let id = item.channel;
        match failure.code {
            // A hint only: the log decides.
            ErrorCode::EpochConflict
            | ErrorCode::StaleEpoch
            | ErrorCode::FutureEpoch
            | ErrorCode::GenerationMismatch => {
                if let Some(channel) = self.channels.get_mut(&id) {
                    channel.need_epoch = channel.need_epoch.max(failure.epoch);
                    channel.unsubscribe();
                }
                // If the log shows no other commit, the same is not refused again at once.
                self.hold(id, CONTRADICTED);
                self.dirty.insert(id);
            }
            ErrorCode::Unavailable | ErrorCode::Busy | ErrorCode::RateLimited => {
                self.hold(id, failure.retry_after_ms);
            }
            _ => {
                let discarded = self.with_group(id, Group::discard_pending);
                let Some(item) = self.drop_item(ticket) else { return };
                self.stage_channel(id);
                let OutWhat::Commit { intents, .. } = item.what else { return };
                for ticket in intents {
                    self.fail_intent(Ticket(ticket), Failed::from(failure));
                }
                if let Some(Err(error)) = discarded {
                    let why = error.to_string();
                    self.event(Event::Unreadable { channel: id, seq: 0, why });
                }
            }
        }
    }

    // ---- leaving ------------------------------------------------------------------------------

    fn propose_leave(&mut self, id: ChannelId, ticket: Ticket) {
        let proposed = self.outbox.values().any(
            |item| matches!(item.what, OutWhat::Proposal { intent, .. } if intent == ticket.0),
        );
        let Some(device) = self.identity.as_ref().and_then(|identity| identity.local()) else {
            return;
        };
        // What was said before leaving goes out before: nothing can be sent while the proposal waits.
        let unsaid = self.outbox.values().any(|item| {
            let unsealed = matches!(item.what, OutWhat::Application { sealed: None, .. });
            item.channel == id && unsealed && item.accepted.is_none()
        });
        if proposed || unsaid {
            return;
        }
        let alone = self.with_group(id, |group, _| group.members().len() == 1);
        if alone == Some(true) {
            self.fulfil(ticket, Outcome::Done);
            return self.forget_channel(id);
        }
        let made = self.with_group(id, |group, cx| {
            let epoch = group.epoch();
            group.propose_leave(cx, &device).map(|payload| (epoch, payload))
        });
        let (epoch, payload) = match made {
            Some(Ok(made)) => made,
            Some(Err(error)) => {
                let failed = Failed::Server {
                    code: ErrorCode::CommitInvalid,
                    detail: format!("the proposal cannot be made: {error}"),
                };
                return self.fail_intent(ticket, failed);
            }
            None => return,
        };
        let Some(generation) = self.channels.get(&id).map(|channel| channel.row.generation) else {
            return;
        };
        let message = MessageId(self.entropy.array());
        let submit = Submit {
            channel: id,
            generation,
            epoch,
            message,
            kind: SubmitKind::Proposal,
            payload: payload.into(),
        };
        self.stage_channel(id);
        let item = self.next_ticket();
        let what = OutWhat::Proposal { submit, intent: ticket.0 };
        self.store_item(item, OutItem { channel: id, message, what, accepted: None, silent: true });
    }

    /// The server took our own removal: from here on it is the others' to commit.
    pub(super) fn on_leave_accepted(&mut self, intent: u64) {
        let Some(channel) = self.intents.get(&Ticket(intent)).map(|intent| intent.channel) else {
            return;
        };
        if let Some(channel) = self.channels.get_mut(&channel) {
            channel.row.leaving = true;
            channel.row_dirty = true;
        }
        self.fulfil(Ticket(intent), Outcome::Done);
        self.stage_channel(channel);
    }

    /// A commit took the epoch that our own removal was proposed in, and left it out: proposed anew.
    pub(super) fn leave_again(&mut self, id: ChannelId) {
        let wanted = self.intents.values().any(|intent| intent.channel == id && intent.leaves());
        if !wanted {
            let ticket = self.next_ticket();
            self.store_intent(ticket, Intent { channel: id, want: Want::LeaveAgain, losses: 0 });
        }
    }

    // ---- names --------------------------------------------------------------------------------

    /// Tells those who were just added what the group and its members are called.
    fn introduce(&mut self, id: ChannelId, change: &Change) {
        if change.added.is_empty() {
            return;
        }
        let has = self.channels.get(&id).is_some_and(|channel| channel.row.metadata.is_some());
        if !has {
            return;
        }
        let message = MessageId(self.entropy.array());
        let what = OutWhat::Application { body: Vec::new().into(), metadata: true, sealed: None };
        let ticket = self.next_ticket();
        self.store_item(
            ticket,
            OutItem { channel: id, message, what, accepted: None, silent: true },
        );
    }
}

fn intent_key(ticket: Ticket) -> Vec<u8> {
    directory::key(directory::INTENT, &[&ticket.0.to_be_bytes()])
}
