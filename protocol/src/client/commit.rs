//! Commits of ours: made on a group read to its head, pending until the log shows them, dropped only when the log
//! shows another.

use core::time::Duration;

use super::Client;
use super::directory::{OutItem, OutWhat, Want};
use super::event::{Event, Failed, Outcome};
use crate::error::ErrorCode;
use crate::id::{ChannelId, MessageId};
use crate::io::Ticket;
use crate::limits::{ADDS_PER_COMMIT, COMMIT_BYTES};
use crate::mls::group::{Group, Plan};
use crate::mls::key_package::check;
use crate::wire::message::{CommitBundle, Failure};

/// The first delay after a lost commit; grows with every loss, drawn at random below that.
const RETRY: Duration = Duration::from_millis(20);
/// Bytes of key packages in one commit: the rest of it is for its path.
const ADDS_BYTES: usize = COMMIT_BYTES / 3 * 2;
/// Pause in milliseconds before a commit that could not be made is tried again.
const UNMADE: u32 = 1_000;
/// Pause in milliseconds before a commit goes out again that the server refused for another one, which its log does
/// not show.
pub(super) const CONTRADICTED: u32 = 1_000;

impl Client {
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

    pub(super) fn commit_ready(&mut self, id: ChannelId) {
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
                let bytes: usize = plan.adds.iter().map(Vec::len).sum();
                if plan.adds.len() > ADDS_PER_COMMIT || bytes > ADDS_BYTES {
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
            commit: self.part(bundle.commit),
            welcome: bundle.welcome.map(|welcome| self.part(welcome)),
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
            ErrorCode::BlobUnknown | ErrorCode::BlobMismatch => self.upload_again(ticket, failure),
            _ => self.fail_commit(ticket, failure),
        }
    }

    /// A commit of ours cannot come through: what it was for has failed.
    pub(super) fn fail_commit(&mut self, ticket: Ticket, failure: &Failure) {
        let Some(id) = self.outbox.get(&ticket).map(|item| item.channel) else { return };
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
