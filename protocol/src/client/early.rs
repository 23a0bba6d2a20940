//! Entries of an epoch to come, shown before the commit that leads there.
//!
//! No honest server shows one: it takes nothing of an epoch before its commit, and the log has one order. So it is told
//! ([`Event::ForkSuspected`]). The entry waits, and the cursor before it, so that a crash loses nothing. What is shown
//! behind it is looked through for the commits that it lacks. Are they there, all up to the last of them is read in one
//! go: as it was shown, but for those that wait, which are read when their epoch has come. The chain goes by the order
//! shown. All other members have another, and the next word of one of them tells of the fork.
//!
//! Are they not there, the log is asked for again a few times. Another entry in that place then is a fork too: the
//! server contradicts itself, and the log is read as it is now. If all that does not help, or if it is too much to
//! keep, the commit is taken for missed, and this device falls out ([`fall`](super::fall)). It is not waited for at all
//! if it was shown and was of no use, and a commit that is too long for its frame is not looked for.
//!
//! Nothing is encrypted meanwhile: there is an epoch that this device has not read of.

use core::time::Duration;

use super::Client;
use super::channel::{Channel, cost};
use super::event::{Event, Why};
use crate::delivery::chain;
use crate::id::{ChannelId, Digest};
use crate::limits::{EARLY_BYTES, EARLY_ENTRIES, EARLY_PATIENCE, EARLY_TRIES};
use crate::mls::MlsError;
use crate::wire::message::{Entry, EntryKind, Part};

/// What is known of an entry that waits for its commit.
#[derive(Debug, Default)]
pub(super) struct Early {
    /// Its place in the log, and the chain with it as it was shown.
    shown: Option<(u64, Digest)>,
    /// How often the log was asked for again.
    tries: u32,
    /// When it is, the next time.
    pub until: Option<Duration>,
    /// While all up to its commit is read: what has to wait for that.
    aside: Option<Vec<Entry>>,
    /// The epoch of a commit that was shown and could not be used.
    unusable: Option<u64>,
}

/// What becomes of an entry of an epoch to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is the next one still.
    Waits,
    /// It was read, and what stood between it and its commit.
    Read,
    /// The cursor passes it; it is read later on.
    Aside,
    /// Its commit was missed.
    Lost,
}

/// Where the last commit is that an entry lacks.
enum Reach {
    /// So many entries behind it.
    At(usize),
    /// Not among those that have arrived.
    Ahead,
    /// Further than is waited for.
    TooFar,
}

impl Channel {
    /// A commit for the present epoch was shown and is of no use here.
    pub(super) fn note_unusable(&mut self) {
        self.early.unusable = Some(self.row.epoch);
    }

    fn reach(&self, entry: &Entry) -> Reach {
        let (mut epoch, mut bytes) = (self.row.epoch, cost(entry));
        for (at, behind) in self.waiting.iter().enumerate() {
            bytes = bytes.saturating_add(cost(behind));
            if at >= EARLY_ENTRIES || bytes > EARLY_BYTES {
                return Reach::TooFar;
            }
            // What cannot be read in the same go ends the search.
            if behind.kind == EntryKind::Reset || matches!(behind.payload, Part::Blob { .. }) {
                return Reach::Ahead;
            }
            if behind.kind == EntryKind::Commit && behind.epoch == epoch {
                epoch = epoch.saturating_add(1);
                if epoch >= entry.epoch {
                    return Reach::At(at + 1);
                }
            }
        }
        Reach::Ahead
    }
}

impl Client {
    /// An entry of an epoch to come is the next one in the log.
    pub(super) fn read_early(&mut self, id: ChannelId, entry: &Entry) -> Fate {
        let Some(channel) = self.channels.get_mut(&id) else { return Fate::Lost };
        if let Some(aside) = &mut channel.early.aside {
            aside.push(entry.clone());
            return Fate::Aside;
        }
        let present = channel.row.epoch;
        let blob = matches!(entry.payload, Part::Blob { .. });
        if blob || channel.early.unusable == Some(present) {
            return Fate::Lost;
        }
        self.note_shown(id, entry);
        match self.channels.get(&id).map(|channel| channel.reach(entry)) {
            Some(Reach::At(behind)) => {
                self.put_back(id, entry);
                self.read_ahead(id, behind + 1);
                Fate::Read
            }
            Some(Reach::Ahead) => self.wait_for_commit(id, entry),
            Some(Reach::TooFar) | None => Fate::Lost,
        }
    }

    fn put_back(&mut self, id: ChannelId, entry: &Entry) {
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.wait_first(entry.clone());
        }
    }

    /// Remembers what stood in a place of the log that is not read yet.
    fn note_shown(&mut self, id: ChannelId, entry: &Entry) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let shown = (entry.seq, chain::next(channel.row.cursor.chain(), entry));
        let before = channel.early.shown.replace(shown);
        if before == Some(shown) {
            return;
        }
        if before.is_some_and(|(seq, _)| seq == entry.seq) {
            return self.fork_at(id, entry.seq);
        }
        (channel.early.tries, channel.early.until) = (0, None);
        self.event(Event::ForkSuspected { channel: id, seq: entry.seq });
    }

    /// A place of the log is read: whether it is as it was shown before.
    pub(super) fn settle_shown(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let (seq, chain) = (channel.row.cursor.seq(), channel.row.cursor.chain());
        let Some((at, shown)) = channel.early.shown.take_if(|(at, _)| *at <= seq) else { return };
        (channel.early.tries, channel.early.until) = (0, None);
        if at == seq && shown != chain {
            self.fork_at(id, seq);
        }
    }

    fn wait_for_commit(&mut self, id: ChannelId, entry: &Entry) -> Fate {
        let mono = self.now.mono;
        let Some(channel) = self.channels.get_mut(&id) else { return Fate::Lost };
        channel.ready = false;
        let early = &mut channel.early;
        match early.until {
            Some(at) if at <= mono => {
                if early.tries >= EARLY_TRIES {
                    return Fate::Lost;
                }
                (early.tries, early.until) = (early.tries + 1, None);
                self.ask_again(id, None);
            }
            _ => {
                let patience = EARLY_PATIENCE.saturating_mul(1 << early.tries);
                early.until.get_or_insert(mono + patience);
                self.put_back(id, entry);
            }
        }
        Fate::Waits
    }

    /// Reads so many entries in one go, and those of an epoch to come when it has come.
    fn read_ahead(&mut self, id: ChannelId, entries: usize) {
        self.set_aside(id, Some(Vec::new()));
        for _ in 0..entries {
            if !self.may_read(id) {
                break;
            }
            let Some(entry) = self.channels.get_mut(&id).and_then(Channel::next_waiting) else {
                break;
            };
            if !self.read_entry(id, entry) {
                break;
            }
            self.read_aside(id);
        }
        // The commits were of no use: what waits for them was passed, and cannot be read.
        for entry in self.set_aside(id, None).into_iter().flatten() {
            self.unreadable(id, entry.seq, &MlsError::FutureEpoch.to_string());
            self.fall_out(id, Why::Missed, true);
        }
    }

    fn set_aside(&mut self, id: ChannelId, to: Option<Vec<Entry>>) -> Option<Vec<Entry>> {
        let channel = self.channels.get_mut(&id)?;
        core::mem::replace(&mut channel.early.aside, to)
    }

    /// Reads what was passed, in its order, as far as its epoch has come; the rest waits on.
    fn read_aside(&mut self, id: ChannelId) {
        let epoch = self.channels.get(&id).map_or(0, |channel| channel.row.epoch);
        let aside = self.channels.get(&id).and_then(|channel| channel.early.aside.as_ref());
        if !aside.is_some_and(|aside| aside.iter().any(|entry| entry.epoch <= epoch)) {
            return;
        }
        for entry in self.set_aside(id, Some(Vec::new())).into_iter().flatten() {
            if let Part::Inline(payload) = &entry.payload {
                self.take_in(id, &entry, payload);
            }
        }
    }
}
