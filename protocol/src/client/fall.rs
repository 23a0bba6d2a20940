//! Falling out of a group: what a device takes as evidence that it cannot go on with the state that it has.
//!
//! | evidence | whose word it rests on | the log is read on |
//! |---|---|---|
//! | the server has seen a later state version | the server's: it can only make this device come back | yes |
//! | a commit of its own in the log that it does not remember | its own signature | no |
//! | a reset of its own that it does not remember | the server's, as above | no |
//! | a message of its own that it does not remember | the server's and a member's; one of them: this group only | yes |
//! | the entries that come next are gone, said twice | the server's, as above | no |
//! | the group's records do not load | its own disk's | no |
//! | a commit of this epoch, signed and tagged by a member, does not open | that member's | no |
//! | one from outside, signed by a device of the group, has path secrets that do not open | that device's | no |
//! | a welcome for a key package that is not here | the server's: it can only make this device ask for a group | no |
//! | a group is [listed](super::memberships) that a device does not know which was restored, whose inbox has lost entries, that was told it is out, or that a group which it has read is none | the server's, as above | no |
//! | an entry of a later epoch, no commit that leads there ([waited for](super::early)), and a GroupInfo of a later epoch | the member's who signed it | no |
//! | a commit refused for a proposal, again after the log was read anew and showed no other | the server's, as above: it queues what a member signed, and cannot check the tag | yes |
//! | a commit refused for a later epoch, again after the log was read anew, and such a GroupInfo | the same member's | no |
//!
//! A message that does not decrypt is none, nor is a chain that differs (docs/adr/0015): whoever can put an entry into
//! the log, or the server, can make one. If it is this device's own state that is wrong, the next commit shows it. What
//! a liar gets out of all this is one epoch per group and hour, [`REJOIN_TIME`].
//!
//! What is sealed already is sent all the same, once this device is back, byte for byte as it is. The ratchet had
//! moved on in the batch that stored it, here and in every copy of this state: nothing else was encrypted with that
//! key, and to send the same bytes once more tells nobody anything. (Nor is anything sealed between a restore and its
//! discovery: the log is read first, and shows it.) The server takes them for the submission that they
//! are: accepted before, or too old, and then they are encrypted anew. Intents stay; what they want may have come true
//! meanwhile. Key packages that are kept with them may have been used up, and are fetched again. A commit of ours that
//! is pending belongs to the old state and ends with it.

use core::time::Duration;

use super::channel::{Channel, Slot};
use super::directory::{self, ChannelRow, Fall, Restored};
use super::event::{Event, Why};
use super::intent::Want;
use super::left::Left;
use super::{Client, session::Phase};
use crate::id::ChannelId;
use crate::limits::{LAST_RESORT_GRACE, LAST_RESORT_TIME, REJOIN_TIME, UNOPENED_WELCOMES};
use crate::mls::suite::Suite;
use crate::store::batch::Op;
use crate::wire::message::{Entry, EntryKind};

impl Client {
    /// Takes note that this device cannot go on in a group; with `cut` it cannot read on either.
    pub(super) fn fall_out(&mut self, id: ChannelId, why: Why, cut: bool) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let before = channel.fall;
        // Where a group has ended only a welcome is missing, unless it was there before the backup or cannot be opened.
        let waits = channel.ended.is_some() && !(cut && matches!(why, Why::Restored | Why::Added));
        let out = !channel.row.member || waits;
        if channel.inbox || out || (before.why.is_some() && (before.cut || !cut)) {
            return;
        }
        // Who only wished to come back could read on until now.
        let falls = before.why.is_none_or(|before| before == Why::Asked);
        if falls {
            channel.fall.why = Some(why);
        }
        channel.fall.cut |= cut;
        // What was made on the way back rests on reading on.
        self.drop_rejoin(id);
        self.store_fall(id);
        self.settle_blindness(id);
        if cut {
            self.ask_reset_again(id);
        }
        if falls {
            self.event(Event::FellOut { channel: id, why });
        }
    }

    /// A welcome that this device cannot open, made for a key package that it has forgotten with a later state: it is a
    /// member all the same, and comes in from outside. Whether it is worth a try.
    pub(super) fn enter_unopened(&mut self, id: ChannelId, generation: u32) -> bool {
        let tries = self.channels.values().filter(|of| of.fall.why == Some(Why::Added)).count();
        let known = self.channels.get(&id).filter(|channel| channel.row.member);
        let next = known.is_none_or(|of| of.ended.is_some() && of.generation() <= generation);
        if tries >= UNOPENED_WELCOMES || !next {
            return false;
        }
        if known.is_none() {
            // The welcome is the server's word: where the group stands its GroupInfo says, which a member has signed.
            let fresh = || {
                let (generation, suite) = (1, Suite::Classical);
                Channel::new(ChannelRow { generation, suite, ..ChannelRow::fresh(id) }, false)
            };
            let channel = self.channels.entry(id).or_insert_with(fresh);
            channel.slot = Slot::Cold;
            channel.row.member = true;
            channel.left = Left::unknown();
            channel.row_dirty = true;
            self.stage_channel(id);
            self.store_left(id);
        }
        self.fall_out(id, Why::Added, true);
        true
    }

    /// The group has not moved on after all: the log is read on as before.
    pub(super) fn fall_in(&mut self, id: ChannelId) {
        let wanted = self.wants_rejoin(id);
        self.end_rejoining(id);
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let why = wanted.then_some(Why::Asked);
        channel.fall = Fall { why, last: channel.fall.last, ..Fall::default() };
        self.store_fall(id);
        self.settle_blindness(id);
    }

    /// A commit got through: what was in its way is over with the epoch.
    pub(super) fn note_unblocked(&mut self, id: ChannelId) {
        let why = self.channels.get(&id).and_then(|channel| channel.fall.why);
        if why == Some(Why::Blocked) {
            self.fall_in(id);
        }
    }

    /// A channel is followed unless its log is of no use to this device.
    pub(super) fn settle_blindness(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.stuck = channel.is_blind();
        if channel.stuck {
            channel.unsubscribe();
            self.forget_arrived(id);
            self.wake_inboxes();
        }
        self.dirty.insert(id);
    }

    pub(super) fn store_fall(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get(&id) else { return };
        let key = directory::key(directory::FALL, &[&id.0]);
        self.gate.stage(match channel.fall == Fall::default() {
            true => Op::Delete(key),
            false => directory::put(key, &channel.fall),
        });
    }

    /// Whether nothing may be encrypted in a group.
    pub(super) fn is_fallen(&self, id: ChannelId) -> bool {
        self.channels.get(&id).is_some_and(|channel| channel.fall.why.is_some())
    }

    /// How long this device still has to stay out of a group that it came back to before.
    pub(super) fn rejoin_wait(&self, id: ChannelId) -> Option<Duration> {
        let last = self.channels.get(&id)?.fall.last;
        let wait = REJOIN_TIME.saturating_sub(self.now.wall.since(last));
        (last.0 > 0 && !wait.is_zero()).then_some(wait)
    }

    // ---- a restored backup --------------------------------------------------------------------

    /// The state version that a session presents.
    pub(super) fn presented_version(&self) -> u64 {
        self.gate.version().saturating_add(self.restored.lead)
    }

    /// The server has seen more of this device than there is here.
    pub(super) fn note_seen(&mut self, version: u64) {
        let behind = version.saturating_sub(self.presented_version());
        if behind > 0 {
            self.restored.lead = self.restored.lead.saturating_add(behind);
            self.note_restored(behind);
        }
    }

    /// An entry that this device made, if it does not remember it: its state is an older one, whose keys are used up.
    pub(super) fn on_forgotten(&mut self, id: ChannelId, entry: &Entry) {
        let mut items = self.outbox.values();
        if items.any(|item| item.channel == id && item.message == entry.message) {
            return;
        }
        let commit = entry.kind == EntryKind::Commit;
        // A commit has this device's signature. Of a message only the place that it was made for is known, which every
        // member can name: the server has to say so too, or this group alone is doubted.
        if commit || Some(entry.sender) == self.me() {
            self.note_restored(1);
        }
        // The secrets of a commit are gone: what comes after it cannot be read.
        self.fall_out(id, Why::Restored, commit);
    }

    /// This device's state is older than what it once was: in every group keys may have been used since.
    pub(super) fn note_restored(&mut self, behind: u64) {
        let told = self.restored.open;
        self.restored = Restored { open: true, at: self.now.wall, ..self.restored };
        self.store_restored();
        if !told {
            self.event(Event::Restored { behind });
            self.relist_devices();
        }
        for id in self.channels.keys().copied().collect::<Vec<_>>() {
            // A commit to come back by may have been used too.
            self.drop_rejoin(id);
            let ended = self.channels.get(&id).is_some_and(|channel| channel.ended.is_some());
            self.fall_out(id, Why::Restored, ended);
        }
        for (ticket, mut intent) in core::mem::take(&mut self.intents) {
            match &mut intent.want {
                Want::Add { packages, .. } | Want::Return { packages, .. } => *packages = None,
                Want::Admit { package, .. } => *package = None,
                _ => {}
            }
            self.store_intent(ticket, intent);
        }
    }

    pub(super) fn store_restored(&mut self) {
        self.gate.stage(directory::put(directory::RESTORED.to_vec(), &self.restored));
    }

    /// A group joined by a key package of a backup may be one that was joined and written to before: a welcome can
    /// come twice.
    pub(super) fn doubt_joined(&mut self, id: ChannelId) {
        let Restored { open, at, .. } = self.restored;
        let age = self.now.wall.since(at);
        if open || (at.0 > 0 && age < LAST_RESORT_TIME + LAST_RESORT_GRACE) {
            self.fall_out(id, Why::Restored, false);
        }
    }

    /// All groups are come back to, and there is no welcome to another, nor does the server name one.
    pub(super) fn note_recovered(&mut self) {
        if !self.restored.open || self.phase() != Some(Phase::Online) {
            return;
        }
        let done = self.channels.values().all(|channel| match channel.inbox {
            true => channel.at_head(),
            false => !channel.row.member || channel.fall.why.is_none(),
        });
        if !self.asks_for_memberships() && done && self.knows_memberships() {
            self.restored.open = false;
            self.store_restored();
        }
    }
}
