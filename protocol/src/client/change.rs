//! Changes of groups: an intent stays until it has come true, however many commits of others come first.
//!
//! A commit of ours is made only on a group read to its head, stays pending until the log shows it, and is
//! dropped only when the log shows another commit at its epoch; then its intents try again.

use core::time::Duration;

use super::Client;
use super::directory::{self, Intent, OutItem, OutWhat, Says, Want};
use super::event::{Event, Failed, Outcome};
use crate::error::ErrorCode;
use crate::id::{ChannelId, MessageId};
use crate::io::Ticket;
use crate::mls::group::Change;
use crate::store::batch::Op;
use crate::wire::message::{Submit, SubmitKind};

/// A spread of this long per leaf keeps members from committing the same thing at once.
const STAGGER: Duration = Duration::from_millis(150);

impl Client {
    pub(super) fn store_intent(&mut self, ticket: Ticket, intent: Intent) {
        self.gate.stage(directory::put(intent_key(ticket), &intent));
        self.dirty.insert(intent.channel);
        self.intents.insert(ticket, intent);
    }

    pub(super) fn drop_intent(&mut self, ticket: Ticket) -> Option<Intent> {
        let intent = self.intents.remove(&ticket)?;
        self.gate.stage(Op::Delete(intent_key(ticket)));
        self.dirty.insert(intent.channel);
        Some(intent)
    }

    pub(super) fn fulfil(&mut self, ticket: Ticket, outcome: Outcome) {
        if let Some(intent) = self.drop_intent(ticket)
            && let Some(outcome) = self.outcome_of(&intent, outcome)
        {
            self.event(Event::Done(ticket, outcome));
        }
    }

    pub(super) fn fail_intent(&mut self, ticket: Ticket, failed: Failed) {
        if let Some(intent) = self.drop_intent(ticket) {
            if self.outcome_of(&intent, Outcome::Done).is_some() {
                self.event(Event::Failed(ticket, failed));
            }
            self.drop_own_add(intent.channel);
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

    pub(super) fn intents_of(&self, id: ChannelId) -> Vec<Ticket> {
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

    // ---- leaving ------------------------------------------------------------------------------

    pub(super) fn propose_leave(&mut self, id: ChannelId, ticket: Ticket) {
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
    pub(super) fn introduce(&mut self, id: ChannelId, change: &Change) {
        if change.added.is_empty() {
            return;
        }
        let has = self.channels.get(&id).is_some_and(|channel| channel.row.metadata.is_some());
        if !has {
            return;
        }
        let message = MessageId(self.entropy.array());
        let what =
            OutWhat::Application { body: Vec::new().into(), says: Says::Metadata, sealed: None };
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
