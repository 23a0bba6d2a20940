//! What arrives in channels: subscriptions, entries in order, welcomes; one entry after the other becomes a
//! change of state and an event, in one batch.

use super::Client;
use super::blobs::Download;
use super::channel::{Channel, Subscription, WAITING_BYTES};
use super::contacts::NameClaim;
use super::content::{Content, ContentBody};
use super::early::Fate;
use super::event::{Event, GroupChange, Why};
use super::net::Call;
use super::submission::StoredMessage;
use crate::crypto::identity::DeviceRecord;
use crate::delivery::window::Cursor;
use crate::error::ErrorCode;
use crate::id::{ChannelId, Digest};
use crate::limits::{BACKOFF_MOST, COMMIT_BYTES, PAST_EPOCHS};
use crate::mls::MlsError;
use crate::mls::group::{Change, Received};
use crate::wire::message::{Entries, Entry, EntryKind, Failure, Part, Request};
use core::time::Duration;

/// How often a server may leave out entries without any progress in between.
const GAPS: u32 = 8;

/// How long to wait before a log is asked for again of which the server said what may not be true, or left out what may
/// be on its way still.
pub(super) const GAP_PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait before asking again; a server does not get to say "next year".
pub(super) fn pause(retry_after_ms: u32) -> Duration {
    Duration::from_millis(u64::from(retry_after_ms.max(50))).min(BACKOFF_MOST)
}

impl Client {
    /// A session began: every log is read on from its cursor, and what is wanted is asked for again.
    pub(super) fn begin_sync(&mut self) {
        self.synced = false;
        self.dirty.extend(self.channels.keys().copied());
        // A direct channel is wanted before it is there.
        self.dirty.extend(self.intents.values().map(|intent| intent.channel));
        self.begin_packages();
        self.begin_devices();
    }

    pub(super) fn subscribe(&mut self, id: ChannelId) {
        let online = self.phase() == Some(super::session::Phase::Online);
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let wanted = channel.inbox || (channel.row.member && !self.founding.contains(&id));
        let of_no_use = channel.stuck && !channel.checks_end();
        let given_up = of_no_use || channel.subscription != Subscription::None;
        // What waits is used up first: the server would send it again.
        let later = !channel.is_through();
        if !online || !wanted || given_up || later {
            return;
        }
        channel.subscription = Subscription::Asked;
        let after = channel.row.cursor.seq();
        channel.asked_after = after;
        self.call(Call::Subscribe(id, after), Request::Subscribe { channel: id, after });
    }

    pub(super) fn on_subscribed(&mut self, id: ChannelId, after: u64, head: u64) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        // What was pushed may have overtaken the answer, and the log been asked for anew from behind it.
        if channel.subscription != Subscription::Asked || channel.asked_after != after {
            return;
        }
        channel.subscription = Subscription::Active;
        channel.head = Some(head);
        let left_out = core::mem::take(&mut channel.left_out);
        let last = channel.last_seq();
        self.dirty.insert(id);
        if head < after {
            self.event(Event::ForkSuspected { channel: id, seq: after });
        }
        if left_out && last < head {
            let expected = last.saturating_add(1);
            self.on_gap(id, expected, expected, expected);
        }
    }

    /// The server does not let this device read a channel.
    pub(super) fn on_subscribe_refused(&mut self, id: ChannelId, failure: &Failure) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.subscription = Subscription::None;
        if failure.is_transient() {
            channel.retry_at = Some(self.now.mono + pause(failure.retry_after_ms));
            return;
        }
        if channel.waits_for_welcome() {
            // There is nothing to see before the welcome.
            channel.end_checked = true;
            return;
        }
        let seq = channel.row.cursor.seq();
        if channel.inbox && failure.code == ErrorCode::CursorInvalid && seq > 0 {
            // The server's log ends before what it showed once: welcomes are looked for from the start.
            channel.row.cursor = Cursor::start(id);
            channel.row_dirty = true;
            self.stage_channel(id);
            self.dirty.insert(id);
            return self.event(Event::ForkSuspected { channel: id, seq });
        }
        // On this connection; the next one asks again.
        channel.subscription = Subscription::Refused;
        if failure.code == ErrorCode::NotLoggedIn {
            // The session ended while this was on its way: nothing is said of the log.
            return;
        }
        if failure.code == ErrorCode::ChannelUnknown && !channel.inbox {
            // Another history than it has shown: what its inbox held there, this one may hold something else in place
            // of.
            self.doubt_memberships();
        }
        self.wake_inboxes();
        if failure.code == ErrorCode::CursorInvalid {
            self.event(Event::ForkSuspected { channel: id, seq });
            // Who is out of the group cannot read up to here first, and comes back without.
            if let Some(why) = self.channels.get(&id).and_then(|channel| channel.fall.why) {
                self.fall_out(id, why, true);
            }
        }
        self.unreadable(id, seq, failure.code.text());
    }

    /// Entries of a subscribed channel: queued behind what waits already.
    pub(super) fn on_entries(&mut self, entries: Entries) {
        let id = entries.channel;
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if !matches!(channel.subscription, Subscription::Asked | Subscription::Active) {
            return;
        }
        if channel.waits_for_welcome() {
            return self.check_end(&entries);
        }
        self.dirty.insert(id);
        let mut last = channel.last_seq();
        let (mut forked, mut gap) = (None, None);
        if entries.entries.is_empty() && entries.first > last.saturating_add(1) {
            gap = Some(entries.first);
        }
        for entry in entries.entries {
            if entry.seq <= last {
                // Read before, or waiting; what was read has to be the same again.
                if entry.seq <= channel.row.cursor.seq()
                    && channel.row.cursor.advance(&entry).is_err()
                {
                    forked.get_or_insert(entry.seq);
                }
                continue;
            }
            if entry.seq - last > 1 {
                gap = Some(entry.seq);
                break;
            }
            last = entry.seq;
            channel.wait(entry);
        }
        if channel.waiting_bytes > WAITING_BYTES {
            // Too much for now: forget what cannot be used yet and ask for it again later.
            channel.forget_newest(WAITING_BYTES / 2);
            channel.unsubscribe();
            self.call(Call::Tell, Request::Unsubscribe { channel: id });
        } else if let Some(from) = gap {
            self.on_gap(id, last.saturating_add(1), from, entries.first);
        }
        if let Some(seq) = forked {
            self.fork_at(id, seq);
        }
    }

    /// Entries before `from` did not come. If the server still has them it left them out, and is asked again; if
    /// they are gone this device was away too long.
    fn on_gap(&mut self, id: ChannelId, expected: u64, from: u64, first: u64) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if first <= expected && channel.subscription == Subscription::Asked {
            // Of a subscription just given up, as many as were on their way: the answer comes behind them.
            channel.left_out = true;
            return;
        }
        if first <= expected && channel.last_seq() == channel.asked_after {
            // Nothing of this subscription yet: on another link those before it come first, and it behind them.
            channel.left_out_until.get_or_insert(self.now.mono + GAP_PATIENCE);
            return;
        }
        channel.unsubscribe();
        self.call(Call::Tell, Request::Unsubscribe { channel: id });
        if first <= expected {
            return self.count_gap(id, expected);
        }
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let inbox = channel.inbox;
        let first_time = !core::mem::replace(&mut channel.gap_told, true);
        if first_time {
            // Said once, it may be a slip: asked again, after a while.
            channel.retry_at = Some(self.now.mono + GAP_PATIENCE);
        }
        // Of a group it is told at once, of the inbox once it is believed.
        if first_time != inbox {
            self.event(Event::Gap { channel: id, from: expected, to: from });
        }
        if first_time {
            return;
        }
        if inbox {
            return self.pass_over_inbox(id, from - 1);
        }
        self.drop_rejoin(id);
        self.fall_out(id, Why::Gap, true);
        self.settle_blindness(id);
    }

    /// The entries that were left out have not come behind what came instead of them: the log is asked for again.
    pub(super) fn check_left_out(&mut self, id: ChannelId) {
        let mono = self.now.mono;
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if channel.left_out_until.take_if(|at| *at <= mono).is_none() {
            return;
        }
        let expected = channel.last_seq().saturating_add(1);
        channel.unsubscribe();
        self.call(Call::Tell, Request::Unsubscribe { channel: id });
        self.count_gap(id, expected);
    }

    /// Entries were left out once more since the last progress; not again and again.
    fn count_gap(&mut self, id: ChannelId, expected: u64) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.gaps += 1;
        if channel.gaps > GAPS {
            self.event(Event::ForkSuspected { channel: id, seq: expected });
            self.drop_connection("the server leaves out entries of a log".into());
        }
    }

    /// Notes that were missed are gone, and welcomes; the chain starts over from what the server says next.
    fn pass_over_inbox(&mut self, id: ChannelId, seq: u64) {
        if let Some(inbox) = self.channels.get_mut(&id) {
            inbox.row.cursor = Cursor::at(seq, Digest([0; 32]));
            inbox.row_dirty = true;
            inbox.gap_told = false;
        }
        self.relist_devices();
        self.miss_welcomes();
    }

    /// Works on what waits in a channel, as far as it goes now.
    pub(super) fn read_waiting(&mut self, id: ChannelId) {
        loop {
            let Some(channel) = self.channels.get_mut(&id) else { return };
            let inbox = channel.inbox;
            let whole = !inbox && channel.download.as_ref().is_some_and(Download::is_whole);
            let next = !channel.waiting.is_empty() && channel.download.is_none();
            if channel.retry_at.is_some() || !(whole || next) {
                break;
            }
            if !self.may_read(id) {
                return;
            }
            let Some(channel) = self.channels.get_mut(&id) else { return };
            if let Some(Download { entry, blob }) = channel.download.take_if(|_| whole)
                && let Some(payload) = blob.whole()
            {
                self.transfer_ended();
                self.read_payload(id, &entry, payload);
                continue;
            }
            let Some(entry) = channel.next_waiting() else { break };
            let read = if inbox { self.read_inbox(id, entry) } else { self.read_entry(id, entry) };
            if !read {
                break;
            }
        }
        self.finish_reading(id);
    }

    fn finish_reading(&mut self, id: ChannelId) {
        self.check_promises(id);
        self.stage_channel(id);
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let ended = channel.waits_for_welcome();
        if channel.subscription == Subscription::Active
            && channel.at_head()
            && !channel.ready
            && !ended
        {
            channel.ready = true;
            if channel.checked_for > 0 {
                self.wake_inboxes();
            }
            self.check_removal(id);
        }
        if self.channels.get(&id).is_some_and(|channel| channel.inbox && channel.at_head()) {
            // There was no welcome to the next generation: who has to come into that waits no longer.
            let ended = self.channels.iter().filter(|(_, of)| of.ended.is_some());
            self.dirty.extend(ended.filter(|(_, of)| of.fall.why.is_some()).map(|(id, _)| *id));
        }
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let reading = matches!(channel.subscription, Subscription::Asked | Subscription::Active);
        if channel.row.cursor.seq() > channel.acked && reading {
            channel.acked = channel.row.cursor.seq();
            let seq = channel.acked;
            self.call(Call::Tell, Request::Ack { channel: id, seq });
        }
        // A subscription that was given up for its volume is taken again once there is room.
        self.subscribe(id);
    }

    /// One entry of a group's log; `false`: it waits, and what comes after it too.
    pub(super) fn read_entry(&mut self, id: ChannelId, entry: Entry) -> bool {
        if entry.kind == EntryKind::Reset {
            return self.read_reset(id, &entry);
        }
        if self.own_echo(id, &entry) || self.passes_over(id, &entry) {
            self.advance(id, &entry);
            return true;
        }
        if entry.kind == EntryKind::Revocation {
            self.read_revocation(id, &entry);
            self.advance(id, &entry);
            return true;
        }
        match entry.payload.clone() {
            Part::Inline(payload) => return self.read_payload(id, &entry, &payload),
            Part::Blob { len, .. } if len > COMMIT_BYTES as u64 => {
                self.unreadable(id, entry.seq, "longer than a commit may be");
                self.advance(id, &entry);
            }
            Part::Blob { hash, len } => return self.download(id, entry, hash, len),
        }
        true
    }

    /// `false`: the entry waits.
    fn read_payload(&mut self, id: ChannelId, entry: &Entry, payload: &[u8]) -> bool {
        let fate = self.take_in(id, entry, payload);
        if matches!(fate, None | Some(Fate::Aside)) {
            self.advance(id, entry);
        }
        fate != Some(Fate::Waits)
    }

    /// What an entry says to the group; what becomes of it, if its epoch is still to come.
    pub(super) fn take_in(&mut self, id: ChannelId, entry: &Entry, payload: &[u8]) -> Option<Fate> {
        let received = self.with_group(id, |group, cx| group.receive(cx, payload));
        match received {
            Some(Ok(Received::Application { sender, epoch, content })) => {
                self.on_content(id, entry, &sender, epoch, &content);
            }
            Some(Ok(Received::Proposal { sender, leaves })) => {
                self.check_sender(id, entry, sender);
                self.want_flush(id, !leaves);
            }
            Some(Ok(Received::Commit(change))) => {
                self.check_sender(id, entry, change.committer);
                self.lose_pending(id);
                self.on_change(id, &change);
            }
            Some(Err(error)) => {
                let early = error == MlsError::FutureEpoch;
                let fate = early.then(|| self.read_early(id, entry));
                if let Some(Fate::Waits | Fate::Read | Fate::Aside) = fate {
                    return fate;
                }
                self.on_unreadable(id, entry, &error);
            }
            None => {}
        }
        None
    }

    fn on_unreadable(&mut self, id: ChannelId, entry: &Entry, error: &MlsError) {
        // Written before this device was added and accepted after: meant for those who were there then.
        let present = self.channels.get(&id).map_or(0, |channel| channel.row.epoch);
        if *error == MlsError::PastEpoch
            && entry.kind == EntryKind::Application
            && entry.epoch.saturating_add(PAST_EPOCHS) >= present
            && self.with_group(id, |group, _| entry.epoch < group.member_from()) == Some(true)
        {
            return;
        }
        self.unreadable(id, entry.seq, &error.to_string());
        if entry.kind == EntryKind::Commit && *error != MlsError::PastEpoch {
            self.channels.get_mut(&id).into_iter().for_each(Channel::note_unusable);
        }
        match error {
            MlsError::OwnMessage => self.on_forgotten(id, entry),
            // All members have the keys of this epoch, and each opens once.
            MlsError::Decrypt if entry.epoch == present => {
                self.event(Event::ForkSuspected { channel: id, seq: entry.seq });
            }
            MlsError::Unopened(_) => self.fall_out(id, Why::Unopened, true),
            // The commit that leads there could not be used: nothing later can be read. A commit that cannot be used
            // is no proof yet, since the server may have made it up; nor is this entry.
            MlsError::FutureEpoch => self.fall_out(id, Why::Missed, true),
            _ => {}
        }
    }

    /// Asks for the log again, at once or after a while, from the cursor on: what arrived was not taken.
    pub(super) fn ask_again(&mut self, id: ChannelId, wait: Option<Duration>) {
        let at = wait.map(|wait| self.now.mono + wait);
        self.forget_arrived(id);
        self.dirty.insert(id);
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.unsubscribe();
            channel.retry_at = at;
            self.call(Call::Tell, Request::Unsubscribe { channel: id });
        }
    }

    pub(super) fn unreadable(&mut self, id: ChannelId, seq: u64, why: &str) {
        self.event(Event::Unreadable { channel: id, seq, why: why.into() });
    }

    pub(super) fn advance(&mut self, id: ChannelId, entry: &Entry) {
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.advance(entry);
            self.settle_shown(id);
        }
    }

    /// A merged commit, ours or another's.
    pub(super) fn on_change(&mut self, id: ChannelId, change: &Change) {
        let summary = self.with_group(id, |group, _| {
            (group.authenticator(), group.members().len(), group.transcript())
        });
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.row.epoch = change.epoch;
        channel.flush_at = None;
        channel.row_dirty = true;
        if let Some((authenticator, members, transcript)) = summary {
            channel.enter(transcript);
            channel.row.authenticator = authenticator;
            channel.row.members = u32::try_from(members).unwrap_or(u32::MAX);
        }
        if change.evicted {
            return self.evict(id, Some(change.committer));
        }
        if channel.row.leaving {
            self.leave_again(id);
        }
        self.note_other(id);
        self.forget_claims(id, &change.removed);
        self.note_left(id, &change.left);
        if !change.added.is_empty() {
            self.forget_left(id);
        }
        if change.rejoined || !change.added.is_empty() {
            self.tell_in_turn(id, change);
        }
        self.overtaken(id, change.epoch);
        self.note_unblocked(id);
        self.stage_channel(id);
        self.event(Event::Changed(GroupChange {
            channel: id,
            epoch: change.epoch,
            by: change.committer,
            added: change.added.iter().map(DeviceRecord::sender).collect(),
            removed: change.removed.clone(),
            updated: change.updated.iter().map(DeviceRecord::sender).collect(),
            admins: change.data.as_ref().map(|data| data.admins.clone()),
        }));
    }

    /// Application content of another member.
    fn on_content(
        &mut self,
        id: ChannelId,
        entry: &Entry,
        sender: &DeviceRecord,
        epoch: u64,
        content: &[u8],
    ) {
        self.check_sender(id, entry, sender.sender());
        let Some(content) = Content::decode(content) else {
            return self.unreadable(id, entry.seq, "its content is malformed");
        };
        self.compare_views(id, entry, sender.sender(), (content.seq, content.chain));
        if let Some(username) = content.username {
            let by = sender.account;
            self.hear_name(NameClaim { by, account: by, username });
        }
        match content.body {
            ContentBody::Body(body) => {
                let message = StoredMessage {
                    message: entry.message,
                    sender: sender.sender(),
                    time: entry.time,
                    epoch,
                    body,
                };
                self.deliver(id, entry.seq, message);
            }
            ContentBody::Metadata { metadata, names } => {
                if self.take_metadata(id, metadata) {
                    self.note_told(id, epoch);
                }
                let members =
                    self.channels.get(&id).map(Channel::group_members).unwrap_or_default();
                // Names of others are none of its business, and there is no end of them.
                for (account, username) in names.into_iter().filter(|(of, _)| members.contains(of))
                {
                    self.hear_name(NameClaim { by: sender.account, account, username });
                }
            }
            ContentBody::Checkpoints(checkpoints) => self.on_checkpoints(sender, checkpoints),
            ContentBody::Unknown => {}
        }
    }
}
