//! Submissions of this device as the log shows them.

use super::Client;
use super::submission::{OutWhat, Says};
use crate::delivery::chain;
use crate::id::ChannelId;
use crate::mls::group::Received;
use crate::wire::message::{Entry, EntryKind, Part};

impl Client {
    /// Whether an entry is a submission of this device; if so, settles it.
    pub(super) fn own_echo(&mut self, id: ChannelId, entry: &Entry) -> bool {
        // A commit of ours is ours whomever the server says it is from: it has to be merged, not received.
        if Some(entry.sender) != self.me() && entry.kind != EntryKind::Commit {
            return false;
        }
        let found = self.outbox.iter().find(|(_, item)| {
            item.channel == id
                && item.message == entry.message
                && item.hash() == Some(entry.payload.hash())
        });
        let Some((ticket, item)) = found else { return false };
        let (ticket, accepted) = (*ticket, item.accepted.clone());
        if let Some(me) = self.me() {
            self.check_sender(id, entry, me);
        }
        let before = self.channels.get(&id).map(|channel| channel.row.cursor.chain());
        if let (Some(accepted), Some(before)) = (accepted, before) {
            let seq = entry.seq.min(accepted.seq);
            let same = (accepted.seq, accepted.chain) == (entry.seq, chain::next(before, entry));
            match same {
                true => self.note_agreed(id, None, seq),
                false => self.fork(id, seq, None),
            }
        }
        let Some(item) = self.outbox.get(&ticket) else { return true };
        match &item.what {
            OutWhat::Commit { .. } => self.win_pending(id, ticket),
            OutWhat::Rejoin { .. } => self.come_back(id, ticket),
            OutWhat::Application { says, sealed, .. } => {
                let told =
                    sealed.as_ref().filter(|_| *says == Says::Metadata).map(|submit| submit.epoch);
                if item.accepted.is_some() {
                    self.drop_item(ticket);
                }
                if let Some(epoch) = told {
                    self.check_told(id, epoch);
                }
            }
            OutWhat::Proposal { .. } => {
                if item.accepted.is_some() {
                    self.drop_item(ticket);
                }
                self.queue_own(id, entry);
            }
        }
        true
    }

    /// A proposal of this device came up in the log: it waits here as at everybody else's. Who is to leave does not
    /// commit it; all others are asked in turn, this device among them.
    fn queue_own(&mut self, id: ChannelId, entry: &Entry) {
        let Part::Inline(payload) = &entry.payload else { return };
        match self.with_group(id, |group, cx| group.receive(cx, payload)) {
            Some(Ok(Received::Proposal { leaves: false, .. })) => self.want_flush(id, true),
            Some(Err(error)) => self.unreadable(id, entry.seq, &error.to_string()),
            _ => {}
        }
    }

    /// The server signed that a submission of ours stands at a seq that was read by now. If it was not there, the
    /// log is another than it promised.
    pub(super) fn check_promises(&mut self, id: ChannelId) {
        let Some(cursor) = self.channels.get(&id).map(|channel| channel.row.cursor.seq()) else {
            return;
        };
        let broken = self.outbox.iter().filter(|(_, item)| {
            let promised = item.accepted.as_ref().is_some_and(|accepted| accepted.seq <= cursor);
            item.channel == id && promised && !matches!(item.what, OutWhat::Commit { .. })
        });
        let broken: Vec<_> = broken.map(|(ticket, _)| *ticket).collect();
        for ticket in broken {
            if let Some(seq) = self.drop_item(ticket).and_then(|item| Some(item.accepted?.seq)) {
                self.fork(id, seq, None);
            }
        }
    }
}
