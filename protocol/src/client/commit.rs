//! Commits of ours: made on a group read to its head, pending until the log shows them, dropped only when the log
//! shows another.

use core::time::Duration;

use super::Client;
use super::additions::Draft;
use super::channel::{Channel, QueuedAdds};
use super::direct::is_direct;
use super::event::{Event, Failed, Outcome, Why};
use super::intent::Want;
use super::submission::{OutItem, OutWhat};
use crate::crypto::identity::Revocation;
use crate::error::ErrorCode;
use crate::id::{AccountId, ChannelId, MessageId, Sender};
use crate::io::Ticket;
use crate::limits::COMMIT_LOSSES;
use crate::mls::commit::Wish;
use crate::mls::group::{Group, Plan};
use crate::mls::suite::Suite;
use crate::wire::message::{CommitBundle, Failure};

/// The first delay after a lost commit; grows with every loss, drawn at random below that.
const RETRY: Duration = Duration::from_millis(20);
/// Pause in milliseconds before a commit that could not be made is tried again.
const UNMADE: u32 = 1_000;
/// Pause in milliseconds before a commit goes out again that the server refused for another one, which its log does
/// not show.
pub(super) const CONTRADICTED: u32 = 1_000;

/// A group as a plan finds it.
pub(super) struct Present {
    pub epoch: u64,
    pub suite: Suite,
    pub members: Vec<Sender>,
    pub may_change: bool,
    proposals: bool,
}

impl Client {
    /// Whether a commit of this device is on its way in a channel.
    fn has_commit(&self, id: ChannelId) -> bool {
        let mut items = self.outbox.values();
        items.any(|item| item.channel == id && matches!(item.what, OutWhat::Commit { .. }))
    }

    /// Whether a commit or proposal may be made in a channel now.
    fn may_commit(&mut self, id: ChannelId) -> bool {
        let (fallen, mono) = (self.is_fallen(id), self.now.mono);
        let pending = self.has_commit(id);
        let Some(channel) = self.channels.get_mut(&id) else { return false };
        if channel.hold_until.is_some_and(|at| at > mono) {
            return false;
        }
        channel.ready
            && !pending
            && !fallen
            && channel.row.member
            && !channel.stuck
            && channel.row.epoch >= channel.need_epoch
    }

    pub(super) fn commit_ready(&mut self, id: ChannelId) {
        if self.intents_of(id).is_empty() || !self.may_commit(id) {
            return;
        }
        if !self.is_warm(id) {
            return self.load_group(id);
        }
        self.drop_orphan(id);
        let apart = self.channels.get(&id).is_some_and(Channel::commits_apart);
        let mut draft = Draft::default();
        let mut intents = Vec::new();
        for ticket in self.intents_of(id) {
            if self.plan_intent(id, ticket, &mut draft) {
                intents.push(ticket);
                if apart {
                    break;
                }
            }
        }
        if !intents.is_empty() && !self.is_proposing(id) {
            self.commit(id, draft.plan, intents);
        }
    }

    /// A commit that the server refused for good while its group was not in memory is still pending there.
    pub(super) fn drop_orphan(&mut self, id: ChannelId) {
        let ours = self.has_commit(id);
        let discarded = self.with_group(id, |group, _| match group.has_pending() && !ours {
            true => group.discard_pending(),
            false => Ok(()),
        });
        self.stage_channel(id);
        if let Some(Err(error)) = discarded {
            let why = error.to_string();
            self.event(Event::Unreadable { channel: id, seq: 0, why });
        }
    }

    fn present(&mut self, id: ChannelId, account: AccountId) -> Option<Present> {
        self.with_group(id, |group, _| Present {
            epoch: group.epoch(),
            suite: group.suite(),
            members: group.members().iter().map(|m| m.record.sender()).collect(),
            may_change: group.data().may_change(account),
            proposals: group.has_proposals(),
        })
    }

    /// Adds what an intent wants to a draft; whether it did. What is true already is done; what cannot come true fails.
    fn plan_intent(&mut self, id: ChannelId, ticket: Ticket, draft: &mut Draft) -> bool {
        if self.is_put_off(ticket) {
            return false;
        }
        let (Some(intent), Some(me)) = (self.intents.get(&ticket).cloned(), self.me()) else {
            return false;
        };
        let Some(present) = self.present(id, me.account) else { return false };
        let of = (id, ticket, intent.losses);
        let plan = &mut draft.plan;
        match intent.want {
            Want::Add { account, packages: Some(packages), .. } => {
                !self.waits_for_the_other(id, account, &present.members, plan)
                    && self.plan_add(of, packages, &present, draft)
            }
            // Never published as a proposal: a welcome by one who is no admin is not followed.
            Want::Return { packages: Some(packages), .. } => {
                !self.is_asking_back(id)
                    && self.plan_add((id, ticket, 0), packages, &present, draft)
            }
            Want::Admit { device, .. }
                if device.account != me.account && !present.may_change && !is_direct(id) =>
            {
                self.drop_intent(ticket);
                false
            }
            Want::Admit { device, package: Some(package) } => {
                self.plan_admission((id, ticket), (device, package), &present, draft)
            }
            Want::Expel { revocation } => {
                self.plan_expulsion(id, ticket, &revocation, &present, plan)
            }
            // A change of roles goes first, and alone: it may decide whether this one is allowed.
            Want::Remove { .. } if plan.data.is_some() => false,
            Want::Remove { account } => self.plan_remove(of, (account, me), present, plan),
            // What the group was called goes first: what follows begins with that, and may end this device's right to
            // it.
            Want::Describe { .. } | Want::SetRole { .. } if self.is_carrying(id) => false,
            Want::Describe { change, .. } => self.plan_profile(id, ticket, &change, plan),
            Want::Carry { change, over, .. } => {
                self.plan_carried((id, ticket), (&change, over), plan)
            }
            Want::SetRole { account, role } => self.plan_role(id, ticket, (account, role), plan),
            Want::Update => {
                plan.update = true;
                true
            }
            Want::Renew if self.wants_renewal(id) => {
                plan.update = true;
                true
            }
            Want::Rotate if self.key_for(id).is_some() => true,
            // Others' proposals have their turn; but whoever has something else to commit takes them along.
            Want::Flush if present.proposals => {
                self.channels.get(&id).is_none_or(|channel| channel.flush_at.is_none())
            }
            Want::Renew | Want::Rotate | Want::Flush => {
                self.fulfil(ticket, Outcome::Epoch(present.epoch));
                false
            }
            Want::Leave | Want::LeaveAgain => {
                self.propose_leave(id, ticket);
                false
            }
            Want::Add { .. }
            | Want::Admit { .. }
            | Want::Found { .. }
            | Want::Rejoin
            | Want::Reset { .. }
            | Want::Return { .. } => false,
        }
    }

    fn plan_expulsion(
        &mut self,
        id: ChannelId,
        ticket: Ticket,
        revocation: &[u8],
        present: &Present,
        plan: &mut Plan,
    ) -> bool {
        let revoked = Revocation::decode(revocation);
        let is_another = |of: &Revocation| {
            present.members.contains(&of.sender()) && Some(of.sender()) != self.me()
        };
        let Some(revocation) = revoked.filter(is_another) else {
            self.fulfil(ticket, Outcome::Epoch(present.epoch));
            return false;
        };
        let turn = self.has_turn(id, ticket);
        if turn {
            plan.revoked.push(revocation);
        }
        turn
    }

    fn plan_remove(
        &mut self,
        (id, ticket, losses): (ChannelId, Ticket, u32),
        (account, me): (AccountId, Sender),
        present: Present,
        plan: &mut Plan,
    ) -> bool {
        if !present.may_change && account != me.account {
            self.fail_intent(ticket, Failed::from(&Failure::from(ErrorCode::NotAllowed)));
            return false;
        }
        self.forget_admissions(id, account);
        let of_account = |member: &Sender| member.account == account && *member != me;
        let mut gone: Vec<_> = present.members.into_iter().filter(of_account).collect();
        if gone.is_empty() {
            self.fulfil(ticket, Outcome::Epoch(present.epoch));
            return false;
        }
        if losses >= COMMIT_LOSSES {
            let wishes: Vec<_> = gone.into_iter().map(Wish::Remove).collect();
            self.propose(id, ticket, &wishes);
            return false;
        }
        gone.retain(|member| !plan.removes.contains(member));
        plan.removes.append(&mut gone);
        true
    }

    /// One of several wishes keeps a commit from being made, or accepted, and nothing says which: in this epoch each
    /// has a commit of its own, so that it fails alone.
    fn commit_apart(&mut self, id: ChannelId, wishes: usize) -> bool {
        if wishes < 2 {
            return false;
        }
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.apart = Some(channel.row.epoch);
        }
        true
    }

    /// How many wishes a commit is for.
    fn wishes_behind(&self, ticket: Ticket) -> usize {
        match self.outbox.get(&ticket).map(|item| &item.what) {
            Some(OutWhat::Commit { intents, .. }) => intents.len(),
            _ => 0,
        }
    }

    /// Whether a commit is for new keys in the own leaf, and for nothing else.
    fn renews_only(&self, ticket: Ticket) -> bool {
        let Some(OutWhat::Commit { intents, .. }) = self.outbox.get(&ticket).map(|item| &item.what)
        else {
            return false;
        };
        let mut wants = intents.iter().filter_map(|of| self.intents.get(&Ticket(*of)));
        wants.all(|intent| matches!(intent.want, Want::Update | Want::Renew | Want::Rotate))
    }

    fn commit(&mut self, id: ChannelId, mut plan: Plan, intents: Vec<Ticket>) {
        plan.rotate = self.key_for(id);
        plan.leave_adds_out =
            self.channels.get(&id).map(Channel::queued_adds) == Some(QueuedAdds::LeaveOut);
        let Some(device) = self.device_in(id) else { return };
        let made = self.with_group(id, |group, cx| {
            let epoch = group.epoch();
            group.commit(cx, &device, &plan).map(|bundle| (epoch, bundle))
        });
        let (epoch, bundle) = match made {
            Some(Ok(made)) => made,
            Some(Err(_)) if self.leave_adds_out(id, false) => {
                return self.commit(id, plan, intents);
            }
            Some(Err(_)) if self.commit_apart(id, intents.len()) => return self.commit_ready(id),
            Some(Err(error)) => {
                let why = format!("the commit cannot be made: {error}");
                for ticket in intents {
                    let failed =
                        Failed::Server { code: ErrorCode::CommitInvalid, detail: why.clone() };
                    self.commit_failed(ticket, failed);
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
            commit: self.part(bundle.commit),
            welcome: bundle.welcome.map(|welcome| self.part(welcome)),
            group_info: bundle.group_info.into(),
        };
        let intents = intents.into_iter().map(|ticket| ticket.0).collect();
        let ticket = self.next_ticket();
        let what = OutWhat::Commit { bundle, intents };
        self.stage_channel(id);
        self.store_item(ticket, OutItem::new(id, message, what, true));
    }

    /// Our pending commit came up in the log: it is merged, and what it was for is true.
    pub(super) fn win_pending(&mut self, id: ChannelId, ticket: Ticket) {
        let merged = self.with_group(id, Group::merge_pending);
        let Some(item) = self.drop_item(ticket) else { return };
        let OutWhat::Commit { intents, .. } = item.what else { return };
        match merged {
            Some(Ok(change)) => {
                self.on_change(id, &change);
                self.note_own_commit(id, &change);
                for ticket in intents.into_iter().map(Ticket) {
                    self.publish_profile(id, ticket);
                    self.fulfil(ticket, Outcome::Epoch(change.epoch));
                }
                if !change.added.is_empty() {
                    self.tell_metadata(id);
                }
            }
            Some(Err(error)) => {
                let why = error.to_string();
                let seq = self.channels.get(&id).map_or(0, |channel| channel.row.cursor.seq());
                let seq = seq.saturating_add(1);
                self.event(Event::Unreadable { channel: id, seq, why });
                self.fall_out(id, Why::Unopened, true);
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
            self.lose(id, ticket);
        }
    }

    fn lose(&mut self, id: ChannelId, ticket: Ticket) {
        let Some(item) = self.drop_item(ticket) else { return };
        let OutWhat::Commit { intents, .. } = item.what else { return };
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

    /// The server refused our commit for another reason than a race.
    pub(super) fn on_commit_refused(&mut self, ticket: Ticket, failure: &Failure) {
        let Some(item) = self.outbox.get(&ticket) else { return };
        let id = item.channel;
        if matches!(item.what, OutWhat::Rejoin { .. }) {
            return self.on_rejoin_refused(id, failure);
        }
        match failure.code {
            // A hint only: the log decides.
            ErrorCode::EpochConflict
            | ErrorCode::StaleEpoch
            | ErrorCode::FutureEpoch
            | ErrorCode::GenerationMismatch => {
                let Some(channel) = self.channels.get_mut(&id) else { return };
                let present = channel.row.epoch;
                let told = channel.refused_in.take() == Some(present);
                if told && channel.ready && failure.epoch > present {
                    // Read anew since, the log does not lead there: a commit in it was of no use here.
                    self.hold(id, CONTRADICTED);
                    return self.fall_out(id, Why::Missed, true);
                }
                channel.refused_in = Some(present);
                channel.need_epoch = channel.need_epoch.max(failure.epoch);
                channel.unsubscribe();
                // If the log shows no other commit, the same is not refused again at once.
                self.hold(id, CONTRADICTED);
                self.dirty.insert(id);
            }
            // Somebody proposed something that this device had not read yet: with it, the next try is as good as any.
            ErrorCode::ProposalLeftOut => {
                self.lose(id, ticket);
                self.drop_orphan(id);
                let Some(channel) = self.channels.get_mut(&id) else { return };
                channel.unsubscribe();
                let read = Some(channel.row.cursor.seq());
                if channel.queued_adds() == QueuedAdds::LeaveOut {
                    channel.adds.1 = QueuedAdds::Insisted;
                } else if core::mem::replace(&mut channel.lacked_at, read) == read {
                    // Read anew since, the log shows none of use: only a commit from outside gets through.
                    self.fall_out(id, Why::Blocked, false);
                }
            }
            // A device that was to be added is revoked, has another key by now, or its key package has ended. If it is
            // one that others want, they may be left out now; if it is one of ours, other key packages are needed.
            ErrorCode::RecordInvalid | ErrorCode::KeyPackageInvalid
                if self.leave_adds_out(id, true) || self.may_claim_again(ticket) =>
            {
                self.lose(id, ticket);
                self.drop_orphan(id);
            }
            ErrorCode::Unavailable | ErrorCode::Busy | ErrorCode::RateLimited => {
                self.hold(id, failure.retry_after_ms);
            }
            ErrorCode::BlobUnknown | ErrorCode::BlobMismatch => self.upload_again(ticket, failure),
            ErrorCode::RecordInvalid | ErrorCode::KeyPackageInvalid | ErrorCode::CommitInvalid
                if self.commit_apart(id, self.wishes_behind(ticket)) =>
            {
                self.drop_item(ticket);
                self.drop_orphan(id);
            }
            _ => {
                // Of the own leaf alone nothing can be wrong but this device's view of the group.
                let strayed = failure.code == ErrorCode::CommitInvalid && self.renews_only(ticket);
                self.fail_commit(ticket, failure);
                if failure.code == ErrorCode::NotMember {
                    self.look_for_removal(id);
                }
                if strayed {
                    self.fall_out(id, Why::Blocked, false);
                }
            }
        }
    }

    /// A commit of ours cannot come through: what it was for has failed.
    pub(super) fn fail_commit(&mut self, ticket: Ticket, failure: &Failure) {
        let Some(item) = self.outbox.get(&ticket) else { return };
        let id = item.channel;
        if matches!(item.what, OutWhat::Rejoin { .. }) {
            return self.lose_rejoin(id);
        }
        let discarded = self.with_group(id, |group, _| group.discard_pending());
        let Some(item) = self.drop_item(ticket) else { return };
        self.stage_channel(id);
        let OutWhat::Commit { intents, .. } = item.what else { return };
        let wants = |ticket: &u64| self.intents.get(&Ticket(*ticket)).map(|intent| &intent.want);
        if intents.iter().any(|ticket| matches!(wants(ticket), Some(Want::Flush))) {
            // Whoever waits behind the queued proposals wants them committed again; not at once.
            self.hold(id, UNMADE);
        }
        for ticket in intents {
            self.commit_failed(Ticket(ticket), Failed::from(failure));
        }
        if let Some(Err(error)) = discarded {
            let why = error.to_string();
            self.event(Event::Unreadable { channel: id, seq: 0, why });
        }
    }
}
