//! Changes of groups: an intent stays until it has come true, however many commits of others come first.
//!
//! A commit of ours is made only on a group read to its head, stays pending until the log shows it, and is
//! dropped only when the log shows another commit at its epoch; then its intents try again.

use core::time::Duration;

use super::Client;
use super::channel::Slot;
use super::directory;
use super::event::{Event, Failed, Outcome};
use super::intent::{Intent, Want};
use super::left::Left;
use super::metadata::last_admin;
use super::submission::{OutItem, OutWhat};
use crate::error::ErrorCode;
use crate::id::{ChannelId, MessageId, Sender};
use crate::io::Ticket;
use crate::mls::MlsError;
use crate::mls::commit::Wish;
use crate::store::batch::Op;
use crate::wire::message::{Submit, SubmitKind};

/// A spread of this long per leaf keeps members from committing the same thing at once.
pub(super) const STAGGER: Duration = Duration::from_millis(150);
/// Who lost a race is seldom the only one: this long others may add their proposals before all are committed together.
const GATHER: Duration = Duration::from_millis(200);

impl Client {
    pub(super) fn store_intent(&mut self, ticket: Ticket, intent: Intent) {
        self.gate.stage(directory::put(intent_key(ticket), &intent));
        self.dirty.insert(intent.channel);
        self.intents.insert(ticket, intent);
    }

    pub(super) fn drop_intent(&mut self, ticket: Ticket) -> Option<Intent> {
        let intent = self.intents.remove(&ticket)?;
        self.turns.remove(&ticket);
        self.gate.stage(Op::Delete(intent_key(ticket)));
        self.dirty.insert(intent.channel);
        self.drop_successor(&intent);
        Some(intent)
    }

    pub(super) fn fulfil(&mut self, ticket: Ticket, outcome: Outcome) {
        let Some(intent) = self.drop_intent(ticket) else { return };
        self.name_absent(&intent, None);
        if let Some(outcome) = self.outcome_of(&intent, outcome) {
            self.admit_missing(&intent);
            self.name_missing(ticket, intent);
            self.event(Event::Done(ticket, outcome));
        }
    }

    pub(super) fn fail_intent(&mut self, ticket: Ticket, failed: Failed) {
        if let Some(intent) = self.drop_intent(ticket) {
            self.name_absent(&intent, Some(&failed));
            let channel = intent.channel;
            if self.outcome_of(&intent, Outcome::Done).is_some() {
                self.name_missing(ticket, intent);
                self.event(Event::Failed(ticket, failed));
            }
            self.drop_own_add(channel);
        }
    }

    /// Names the devices that an invitation could not add.
    pub(super) fn name_missing(&mut self, ticket: Ticket, intent: Intent) {
        let Want::Add { account: Some(account), missing, .. } = intent.want else { return };
        for (device, why) in missing {
            let (channel, device) = (intent.channel, Sender { account, device });
            self.event(Event::NotAdded { ticket, channel, device, why });
        }
    }

    /// A commit for it was refused. What nobody asked for is tried again later, and what others wait for.
    pub(super) fn commit_failed(&mut self, ticket: Ticket, failed: Failed) {
        let packages = [ErrorCode::RecordInvalid, ErrorCode::KeyPackageInvalid];
        let packages = matches!(&failed, Failed::Server { code, .. } if packages.contains(code));
        let Some(Intent { channel, want, .. }) = self.intents.get(&ticket) else { return };
        match want {
            Want::Admit { .. } | Want::Expel { .. } => self.set_back(ticket),
            Want::Add { .. } if packages && self.owes_the_other(ticket) => {
                self.owe_the_other(ticket);
            }
            Want::Renew => {
                self.renew_later(*channel);
                self.drop_intent(ticket);
            }
            _ => self.fail_intent(ticket, failed),
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
        self.fail_comparisons(id, "no longer a member of the group");
    }

    /// This device is out of a group: by whom the log says, if it could be read.
    pub(super) fn evict(&mut self, id: ChannelId, by: Option<Sender>) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let hearsay = channel.is_hearsay();
        channel.row.member = false;
        channel.row.leaving = false;
        channel.row.authenticator.clear();
        channel.row_dirty = true;
        channel.ready = false;
        channel.slot = Slot::None;
        channel.left = Left::default();
        let prefix = directory::group_prefix(id, channel.row.generation);
        self.gate.stage(Op::DeletePrefix(prefix));
        self.abandon(id);
        self.forget_leaf(id);
        self.forget_fall(id);
        self.store_left(id);
        self.stage_channel(id);
        self.wake_inboxes();
        if hearsay {
            // There is nothing to keep of it, and no end of what a server can make up.
            self.erase(id);
        }
        if by.is_none() {
            // The server's word alone, which may be wrong: whether it stands by it, its list of memberships says.
            self.doubt_memberships();
        }
        self.event(Event::Evicted { channel: id, by });
    }

    pub(super) fn intents_of(&self, id: ChannelId) -> Vec<Ticket> {
        let of_channel = self.intents.iter().filter(|(_, intent)| intent.channel == id);
        of_channel.map(|(ticket, _)| *ticket).collect()
    }

    /// Queued proposals keep something back that this device wants: it commits them. Whoever is about to leave waits
    /// for the others: a commit of its own would end its wish.
    pub(super) fn clear_proposals(&mut self, id: ChannelId) {
        if self.channels.get(&id).is_some_and(|channel| !channel.row.leaving) {
            self.want_flush(id, false);
        }
    }

    /// Proposals wait in a group: somebody has to commit them. Members wait their turn, by leaf; what comes from losers
    /// of a race waits a little for more of its kind.
    pub(super) fn want_flush(&mut self, id: ChannelId, gather: bool) {
        let turn = self.rank(id, |_| true).unwrap_or(0);
        let waiting = self
            .intents
            .values()
            .any(|intent| intent.channel == id && matches!(intent.want, Want::Flush));
        if waiting {
            return;
        }
        let ticket = self.next_ticket();
        self.store_intent(ticket, Intent { channel: id, want: Want::Flush, losses: 0 });
        let first = if gather { GATHER } else { Duration::ZERO };
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.flush_at = Some(self.now.mono + first + STAGGER.saturating_mul(turn));
        }
    }

    // ---- proposals ----------------------------------------------------------------------------

    /// Whether a proposal of this device is on its way in a channel: what the log has not shown yet cannot be in a
    /// commit of ours, and the server takes none without it.
    pub(super) fn is_proposing(&self, id: ChannelId) -> bool {
        let mut items = self.outbox.values();
        items.any(|item| item.channel == id && matches!(item.what, OutWhat::Proposal { .. }))
    }

    /// Publishes what an intent wants as proposals, for whoever commits next: its own commits came too late.
    pub(super) fn propose(&mut self, id: ChannelId, ticket: Ticket, wishes: &[Wish<'_>]) {
        if self.is_proposing(id) {
            return;
        }
        for wish in wishes {
            match self.propose_one(id, ticket, *wish) {
                Ok(()) => {}
                // Somebody else proposed the same.
                Err(MlsError::Pending(_)) => {}
                Err(error) => {
                    let detail = format!("the proposal cannot be made: {error}");
                    let code = ErrorCode::CommitInvalid;
                    return self.fail_intent(ticket, Failed::Server { code, detail });
                }
            }
        }
    }

    fn propose_one(
        &mut self,
        id: ChannelId,
        ticket: Ticket,
        wish: Wish<'_>,
    ) -> Result<(), MlsError> {
        let Some(device) = self.device_in(id) else { return Ok(()) };
        let made = self.with_group(id, |group, cx| {
            let epoch = group.epoch();
            group.propose(cx, &device, wish).map(|payload| (epoch, payload))
        });
        let Some((epoch, payload)) = made.transpose()? else { return Ok(()) };
        let generation = self.channels.get(&id).map_or(0, |channel| channel.row.generation);
        let message = MessageId(self.entropy.array());
        let kind = SubmitKind::Proposal;
        let payload = payload.into();
        let submit = Submit { channel: id, generation, epoch, message, kind, payload };
        self.stage_channel(id);
        let item = self.next_ticket();
        let what = OutWhat::Proposal { submit, intent: ticket.0 };
        self.store_item(item, OutItem::new(id, message, what, true));
        Ok(())
    }

    /// The server did not take a proposal. What was to be changed is committed after all, or found to be true.
    pub(super) fn proposal_refused(&mut self, ticket: Ticket, failed: Failed) {
        let Some(mut intent) = self.intents.remove(&ticket) else { return };
        let (id, leaves) = (intent.channel, intent.leaves());
        intent.losses = 0;
        self.store_intent(ticket, intent);
        if leaves {
            return self.leave_refused(ticket, failed);
        }
        self.hold(id, 0);
    }

    // ---- leaving ------------------------------------------------------------------------------

    pub(super) fn propose_leave(&mut self, id: ChannelId, ticket: Ticket) {
        // It is the next group that is to be left, once all others are in it.
        if self.is_resetting(id) {
            return;
        }
        let proposed = self.outbox.values().any(
            |item| matches!(item.what, OutWhat::Proposal { intent, .. } if intent == ticket.0),
        );
        let alone = self.with_group(id, |group, _| group.members().len() == 1) == Some(true);
        // What was said before leaving goes out before: nothing can be sent while the proposal waits. Who is alone
        // leaves no group behind, nor what the server was asked and has not answered.
        let unsaid = self.outbox.values().any(|item| {
            let open = match &item.what {
                OutWhat::Application { sealed, .. } => alone || sealed.is_none(),
                _ => false,
            };
            item.channel == id && open && item.accepted.is_none()
        });
        if proposed || unsaid {
            return;
        }
        if alone {
            self.fulfil(ticket, Outcome::Done);
            return self.forget_channel(id);
        }
        match self.propose_one(id, ticket, Wish::Leave) {
            Ok(()) => {}
            Err(MlsError::NoAdmin) => self.leave_refused(ticket, last_admin()),
            Err(error) => {
                let detail = format!("the proposal cannot be made: {error}");
                let code = ErrorCode::CommitInvalid;
                self.leave_refused(ticket, Failed::Server { code, detail });
            }
        }
    }

    /// The server took our own removal: from here on it is the others' to commit.
    pub(super) fn on_leave_accepted(&mut self, intent: u64) {
        let leaving = self.intents.get(&Ticket(intent)).filter(|intent| intent.leaves());
        let Some(channel) = leaving.map(|intent| intent.channel) else { return };
        if let Some(channel) = self.channels.get_mut(&channel) {
            channel.row.leaving = true;
            channel.row_dirty = true;
        }
        self.fulfil(Ticket(intent), Outcome::Done);
        self.stage_channel(channel);
    }

    /// There is no group to leave before the next one is joined: that one is left then, without being asked again.
    pub(super) fn leave_ended(&mut self, id: ChannelId) {
        let mut wishes = self.intents_of(id);
        wishes.retain(|ticket| self.intents.get(ticket).is_some_and(Intent::leaves));
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if channel.ended.is_none() || wishes.is_empty() {
            return;
        }
        channel.row.leaving = true;
        channel.row_dirty = true;
        for ticket in wishes {
            self.fulfil(ticket, Outcome::Done);
        }
        self.stage_channel(id);
    }

    /// This device cannot leave, or not yet: it is a member as before. If the application was told otherwise, since
    /// a first proposal had been accepted, it hears of it.
    pub(super) fn leave_refused(&mut self, ticket: Ticket, failed: Failed) {
        let Some(id) = self.intents.get(&ticket).map(|intent| intent.channel) else { return };
        self.fail_intent(ticket, failed);
        if let Some(channel) = self.channels.get_mut(&id)
            && core::mem::take(&mut channel.row.leaving)
        {
            channel.row_dirty = true;
            self.stage_channel(id);
            self.event(Event::LeaveUndone { channel: id });
        }
    }

    /// A commit took the epoch that our own removal was proposed in, and left it out: proposed anew.
    pub(super) fn leave_again(&mut self, id: ChannelId) {
        let wanted = self.intents.values().any(|intent| intent.channel == id && intent.leaves());
        if !wanted {
            let ticket = self.next_ticket();
            self.store_intent(ticket, Intent { channel: id, want: Want::LeaveAgain, losses: 0 });
        }
    }
}

fn intent_key(ticket: Ticket) -> Vec<u8> {
    directory::key(directory::INTENT, &[&ticket.0.to_be_bytes()])
}
