//! What another generation is to everybody: the end of the group before, and a welcome to the next that comes from one
//! who may have made it.

use super::Client;
use super::directory::{self, Ended};
use super::event::{Event, Failed, Why};
use super::inbound::GAP_PATIENCE;
use super::intent::Want;
use super::net::Call;
use super::rejoin::ENDED;
use super::submission::{OutWhat, Says};
use crate::id::{ChannelId, Sender};
use crate::io::Ticket;
use crate::mls::MlsError;
use crate::mls::group::Group;
use crate::server::op::reset_payload;
use crate::store::batch::Op;
use crate::wire::message::{Entries, Entry, EntryKind, Request};

impl Client {
    /// An entry of the log that tells of another generation; `false`: it is not believed, and asked for again.
    pub(super) fn read_reset(&mut self, id: ChannelId, entry: &Entry) -> bool {
        let made = self.reset_of(id).and_then(|(ticket, intent)| match &intent.want {
            Want::Reset { next: Some(next), .. } if !next.begun => {
                let same = entry.payload == reset_payload(&next.group_info);
                (entry.generation == next.generation).then_some((ticket, same))
            }
            _ => None,
        });
        let own = made.filter(|(_, same)| *same).map(|(ticket, _)| ticket);
        let present = self.channels.get(&id).map_or(0, |channel| channel.row.generation);
        let next = present.checked_add(1) == Some(entry.generation);
        let named = own.is_none() && Some(entry.sender) == self.me();
        if named && next && made.is_none() {
            // It says that this device made it, which does not remember that.
            self.note_restored(1);
        } else if named && !self.restored.open {
            // It made another, or is not here again.
            self.event(Event::ForkSuspected { channel: id, seq: entry.seq });
        }
        if let (Some((ticket, false)), true) = (made, named) {
            let Some(channel) = self.channels.get_mut(&id) else { return true };
            if !core::mem::replace(&mut channel.gap_told, true) {
                self.ask_again(id, Some(GAP_PATIENCE));
                return false;
            }
            self.fail_intent(ticket, Failed::Untrusted("the server shows another reset than ours"));
        }
        let by = entry.sender;
        let admin = self.with_group(id, |group, _| group.data().is_admin(by.account));
        self.advance(id, entry);
        if let Some(ticket) = own {
            self.begin_generation(id, ticket, None);
        } else if !next {
            self.unreadable(id, entry.seq, "a reset to another generation than the next");
        } else if admin == Some(false) {
            self.unreadable(id, entry.seq, "a reset by one who is no admin");
        } else {
            self.end_generation(id, entry.generation, by);
        }
        true
    }

    /// The group is over: this device waits for a welcome to the next.
    fn end_generation(&mut self, id: ChannelId, generation: u32, by: Sender) {
        self.forget_fall(id);
        self.pass_generation(id, generation);
        self.settle_rejoins(id, Err(ENDED));
        self.leave_ended(id);
        self.settle_blindness(id);
        self.stage_channel(id);
        self.event(Event::Reset { channel: id, generation, by });
        if self.restored.open {
            // The welcome may have been read before the backup was put back.
            self.fall_out(id, Why::Restored, true);
        }
    }

    /// The group is not that of its channel any more.
    pub(super) fn pass_generation(&mut self, id: ChannelId, generation: u32) {
        self.void_resets(id);
        self.leave_generation(id);
        self.store_ended(id, Ended { generation, added: false });
    }

    fn store_ended(&mut self, id: ChannelId, ended: Ended) {
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.ended = Some(ended);
            self.gate.stage(directory::put(directory::key(directory::ENDED, &[&id.0]), &ended));
        }
    }

    /// This device is a member of the generation that follows its group. Once it is none any more it waits for no
    /// welcome.
    pub(super) fn note_added(&mut self, id: ChannelId) {
        let ended = self.channels.get(&id).and_then(|channel| channel.ended);
        if let Some(ended) = ended.filter(|ended| !ended.added) {
            self.store_ended(id, Ended { added: true, ..ended });
        }
    }

    /// What the server shows behind the end of a group. That is not read before there is a welcome; but if the log goes
    /// on in the group that is over, or ends it once more, the end was made up, or this is: one of the two is no log of
    /// all.
    pub(super) fn check_end(&mut self, entries: &Entries) {
        let id = entries.channel;
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let (Some(ended), end) = (channel.ended, channel.row.cursor.seq()) else { return };
        let Some(next) = entries.entries.iter().find(|entry| entry.seq > end) else { return };
        let contradicted = match next.kind {
            EntryKind::Reset => next.generation <= ended.generation,
            _ => next.generation < ended.generation,
        };
        channel.end_checked = true;
        channel.unsubscribe();
        self.call(Call::Tell, Request::Unsubscribe { channel: id });
        if contradicted {
            self.fork_at(id, end);
        }
    }

    /// What was under way in the group before leads nowhere; what was wanted is wanted in the next. Content that was
    /// sealed there goes out as it is until the server says that it has not taken it.
    pub(super) fn leave_generation(&mut self, id: ChannelId) {
        self.lose_pending(id);
        self.drop_proposals(id);
        if let Some(channel) = self.channels.get_mut(&id) {
            (channel.flush_at, channel.update_at, channel.hold_until) = (None, None, None);
            channel.tell_at = None;
            channel.need_epoch = 0;
        }
    }

    /// Whether a group may take the place of what this device knows of a channel. Whoever makes a server hide a log, or
    /// make up a reset, must not be able to put a group of their own there.
    pub(super) fn judge_successor(
        &mut self,
        id: ChannelId,
        generation: u32,
        by: Sender,
        group: &Group,
    ) -> Result<(), MlsError> {
        let own = self.me().is_some_and(|me| me.account == by.account);
        let Some(row) = self.channels.get(&id).map(|channel| &channel.row) else { return Ok(()) };
        if group.suite() < row.suite {
            return Err(MlsError::Suite);
        }
        let next = generation > row.generation;
        let known = self.with_group(id, |before, _| match next {
            true => own || before.data().is_admin(by.account),
            false => before.members().iter().any(|member| member.record.account == by.account),
        });
        match (known, next) {
            (Some(false), true) => Err(MlsError::Invalid(
                "a welcome to another generation by one who was no admin of the group".into(),
            )),
            (Some(false), false) => {
                Err(MlsError::Invalid("a stranger's welcome to a group of this device".into()))
            }
            _ => Ok(()),
        }
    }

    /// Whether this device was about to leave the group that another generation now follows.
    pub(super) fn leaves_still(&self, id: ChannelId, generation: u32) -> bool {
        self.channels.get(&id).is_some_and(|channel| {
            channel.row.member && channel.row.leaving && channel.row.generation < generation
        })
    }

    /// A welcome was followed: what was asked for in the group before, and is not true by that, is asked for again.
    pub(super) fn settle_joined(&mut self, id: ChannelId, leaving: bool) {
        self.gate.stage(Op::Delete(directory::key(directory::ENDED, &[&id.0])));
        if leaving {
            self.leave_again(id);
        }
        let epoch = self.channels.get(&id).map_or(0, |channel| channel.row.epoch);
        self.settle_rejoins(id, Ok(epoch));
    }

    /// Whether content waits before it is sealed: for the next group, or for those who are not in it yet. What tells
    /// them what it is called does not.
    pub(super) fn waits_for_others(&self, id: ChannelId, ticket: Ticket) -> bool {
        let what = self.outbox.get(&ticket).map(|item| &item.what);
        let Some(OutWhat::Application { says, sealed: None, .. }) = what else { return false };
        let ended = self.channels.get(&id).is_some_and(|channel| channel.ended.is_some());
        let begun = self.reset_of(id).is_some_and(|(_, intent)| {
            matches!(&intent.want, Want::Reset { next: Some(next), .. } if next.begun)
        });
        ended || (begun && !matches!(says, Says::Metadata))
    }

    /// The server has not taken a submission because of its generation. It is encrypted anew in the next, once the log
    /// has shown that there is one.
    pub(super) fn generation_passed(&mut self, ticket: Ticket) {
        let Some(item) = self.outbox.get(&ticket) else { return };
        let id = item.channel;
        let sent_in = item.submit().map_or(0, |submit| submit.generation);
        let present = self.channels.get(&id).map_or(0, super::Channel::generation);
        if present > sent_in {
            self.reseal(ticket);
        } else {
            self.look_again(id);
        }
    }
}
