//! Whom a commit adds: key packages that hold and go together.
//!
//! Which keys are in a key package is for its maker to say. Two that share one, or one that has a key of a member, are
//! refused together with all that is in the same commit. So whose keys are taken is left out and named. Two wishes that
//! share one have a commit each (`commit_apart`), and the second is named then.

use std::collections::BTreeSet;

use super::Client;
use super::channel::{Channel, QueuedAdds};
use super::commit::Present;
use super::direct::is_direct;
use super::event::{Failed, Outcome};
use super::intent::Want;
use super::submission::OutWhat;
use crate::error::ErrorCode;
use crate::id::{ChannelId, Sender};
use crate::io::Ticket;
use crate::limits::{ADDS_PER_COMMIT, COMMIT_BYTES, COMMIT_LOSSES};
use crate::mls::commit::Wish;
use crate::mls::group::Plan;
use crate::mls::key_package::{CheckedKeyPackage, check};
use crate::mls::suite::Suite;
use crate::mls::taken::{PackageKeys, Taken};
use crate::wire::message::Failure;

/// Bytes of key packages in one commit: the rest of it is for its path.
const ADDS_BYTES: usize = COMMIT_BYTES / 3 * 2;

const SHARED: &str = "its key package has a key that another device has";

/// What a commit is to change, as it comes together.
#[derive(Default)]
pub(super) struct Draft {
    pub plan: Plan,
    /// Who comes in by it. Two intents may want the same device, with a key package each.
    devices: BTreeSet<Sender>,
    /// Keys that members have, once they are asked for.
    taken: Option<Taken>,
}

/// A key package that holds.
struct Candidate {
    device: Sender,
    keys: PackageKeys,
    package: Vec<u8>,
}

impl Draft {
    /// Adds these, if there is room for all of them.
    fn add(&mut self, mut candidates: Vec<Candidate>) -> bool {
        candidates.retain(|candidate| !self.devices.contains(&candidate.device));
        let adds = || candidates.iter().map(|candidate| &candidate.package);
        let bytes: usize = self.plan.adds.iter().chain(adds()).map(Vec::len).sum();
        let fits =
            self.plan.adds.len() + candidates.len() <= ADDS_PER_COMMIT && bytes <= ADDS_BYTES;
        if fits {
            self.devices.extend(candidates.iter().map(|candidate| candidate.device));
            self.plan.adds.extend(candidates.into_iter().map(|candidate| candidate.package));
        }
        fits
    }
}

impl Client {
    pub(super) fn plan_admission(
        &mut self,
        (id, ticket): (ChannelId, Ticket),
        (device, package): (Sender, Vec<u8>),
        present: &Present,
        draft: &mut Draft,
    ) -> bool {
        if present.members.contains(&device) {
            self.fulfil(ticket, Outcome::Epoch(present.epoch));
            return false;
        }
        let Some(candidate) = self.candidate(package, present.suite) else {
            self.claim_again(ticket);
            return false;
        };
        let taken = draft.taken.get_or_insert_with(|| self.keys_in(id));
        if taken.has(&candidate.keys) {
            self.refuse_admission(ticket, Some(SHARED));
            return false;
        }
        draft.add(vec![candidate])
    }

    pub(super) fn plan_add(
        &mut self,
        (id, ticket, losses): (ChannelId, Ticket, u32),
        packages: Vec<Vec<u8>>,
        present: &Present,
        draft: &mut Draft,
    ) -> bool {
        if !present.may_change && !is_direct(id) {
            self.fail_intent(ticket, Failed::from(&Failure::from(ErrorCode::NotAllowed)));
            return false;
        }
        let candidates = packages.into_iter().map(|package| self.candidate(package, present.suite));
        let Some(mut adds) = candidates.collect::<Option<Vec<_>>>() else {
            self.claim_again(ticket);
            return false;
        };
        adds.retain(|candidate| !present.members.contains(&candidate.device));
        let taken = draft.taken.get_or_insert_with(|| self.keys_in(id));
        let mut own = Taken::default();
        let (adds, shared): (Vec<_>, Vec<_>) = adds.into_iter().partition(|candidate| {
            let free = !taken.has(&candidate.keys) && !own.has(&candidate.keys);
            if free {
                own.take(&candidate.keys);
            }
            free
        });
        if !shared.is_empty() && !self.go_without_shared(ticket, &shared) {
            return false;
        }
        if adds.is_empty() {
            // Who has lost so often has proposed it.
            let unchanged = losses < COMMIT_LOSSES;
            let outcome = if unchanged { Outcome::Unchanged } else { Outcome::Epoch };
            self.fulfil(ticket, outcome(present.epoch));
            return false;
        }
        if losses >= COMMIT_LOSSES {
            let wishes: Vec<_> = adds.iter().map(|add| Wish::Add(&add.package)).collect();
            self.propose(id, ticket, &wishes);
            return false;
        }
        draft.add(adds)
    }

    /// A key package that holds for a group of a suite.
    fn candidate(&self, package: Vec<u8>, suite: Suite) -> Option<Candidate> {
        let checked = check(self.config.backend, &package, self.now.wall).ok()?;
        let CheckedKeyPackage { record, keys, .. } = checked;
        let device = record.sender();
        (checked.suite == suite).then_some(Candidate { device, keys, package })
    }

    /// The keys that members of a group have.
    fn keys_in(&mut self, id: ChannelId) -> Taken {
        let group = self.channels.get_mut(&id).and_then(Channel::group);
        group.map(|group| group.taken()).unwrap_or_default()
    }

    /// Leaves those out of an intent whose key packages share a key with others; whether anybody is left.
    fn go_without_shared(&mut self, ticket: Ticket, shared: &[Candidate]) -> bool {
        let Some(mut intent) = self.intents.get(&ticket).cloned() else { return false };
        let (Want::Add { packages: Some(packages), missing, .. }
        | Want::Return { packages: Some(packages), missing, .. }) = &mut intent.want
        else {
            return false;
        };
        packages.retain(|package| shared.iter().all(|shared| shared.package != *package));
        let named = shared.iter().map(|shared| (shared.device.device, SHARED.to_owned()));
        missing.extend(named);
        let left = !packages.is_empty();
        self.store_intent(ticket, intent);
        if let (false, Some(last)) = (left, shared.last()) {
            let Sender { account, device } = last.device;
            let why = format!("device {device}: {SHARED}");
            self.fail_intent(ticket, Failed::NotAdded { account, why });
        }
        left
    }

    /// Key packages kept with an intent ended before a commit came through, or are of the suite of a group before:
    /// others are needed.
    pub(super) fn claim_again(&mut self, ticket: Ticket) {
        if let Some(mut intent) = self.intents.remove(&ticket) {
            match &mut intent.want {
                Want::Add { packages, missing, .. } | Want::Return { packages, missing, .. } => {
                    *packages = None;
                    missing.clear();
                }
                Want::Admit { package, .. } => *package = None,
                _ => {}
            }
            self.store_intent(ticket, intent);
        }
    }

    /// Whether a commit was refused for key packages that others can take the place of; those it used are forgotten.
    /// A few times only: a server that refuses them all is believed in the end.
    pub(super) fn may_claim_again(&mut self, ticket: Ticket) -> bool {
        let Some(OutWhat::Commit { intents, .. }) = self.outbox.get(&ticket).map(|i| &i.what)
        else {
            return false;
        };
        let adds = |ticket: &Ticket| {
            self.intents.get(ticket).is_some_and(|intent| {
                let adds = matches!(intent.want, Want::Add { .. } | Want::Return { .. });
                adds && intent.losses < COMMIT_LOSSES
            })
        };
        let adds: Vec<_> = intents.iter().copied().map(Ticket).filter(adds).collect();
        for ticket in &adds {
            self.claim_again(*ticket);
        }
        !adds.is_empty()
    }

    /// What is queued to be added may keep a commit from being made, or (`refused`) from being accepted: whether one
    /// without is worth a try. One member's wish must not stop the group.
    pub(super) fn leave_adds_out(&mut self, id: ChannelId, refused: bool) -> bool {
        let queued = self.with_group(id, |group, _| group.has_queued_adds());
        let Some(channel) = self.channels.get_mut(&id) else { return false };
        let worth = match channel.queued_adds() {
            QueuedAdds::Include => queued != Some(false),
            QueuedAdds::Insisted => refused,
            QueuedAdds::LeaveOut => false,
        };
        if worth {
            channel.adds = (channel.row.epoch, QueuedAdds::LeaveOut);
        }
        worth
    }
}
