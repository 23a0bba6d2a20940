//! Two views of one log: what others say of it, and what the server signed, beside what was read here. Where they part
//! is told ([`Event::ForkDetected`]); nothing stops on it.

use super::Client;
use super::channel::Channel;
use super::event::Event;
use crate::delivery::window::Agreement;
use crate::id::{ChannelId, Digest, Sender};
use crate::wire::message::Entry;

impl Channel {
    /// Whether the log that was read here has this chain at `seq`; `None` if that is ahead, or too far back to tell.
    pub(super) fn agrees(&self, seq: u64, chain: Digest) -> Option<bool> {
        match self.row.cursor.compare(seq, chain) {
            Ok(Agreement::Same) => Some(true),
            Ok(Agreement::TooOld) => self.ledger.marks.at(seq).map(|own| own == chain),
            Ok(Agreement::Ahead) => None,
            Err(_) => Some(false),
        }
    }
}

impl Client {
    /// The log differs from what a member has read, or from what the server signed: at `seq` at the latest.
    pub(super) fn fork(&mut self, id: ChannelId, seq: u64, by: Option<Sender>) {
        let agreed = self.channels.get(&id).map_or(0, |channel| channel.agreed.before(by, seq));
        self.event(Event::ForkDetected { channel: id, agreed, seq, by });
    }

    /// The server shows another entry at `seq` than before.
    pub(super) fn fork_at(&mut self, id: ChannelId, seq: u64) {
        let agreed = seq.saturating_sub(1);
        self.event(Event::ForkDetected { channel: id, agreed, seq, by: None });
    }

    /// The server may name another sender than the one who signed: the signature counts, and the lie is told.
    pub(super) fn check_sender(&mut self, id: ChannelId, entry: &Entry, signed: Sender) {
        if signed != entry.sender {
            self.event(Event::ForkSuspected { channel: id, seq: entry.seq });
        }
    }

    /// What the author of an entry had read when it wrote that.
    pub(super) fn compare_views(
        &mut self,
        id: ChannelId,
        entry: &Entry,
        by: Sender,
        (seq, chain): (u64, Digest),
    ) {
        let Some(channel) = self.channels.get(&id) else { return };
        // It had read less than stands before its entry. If not, that place was taken in its log, by another one.
        let ahead = seq >= entry.seq;
        match channel.agrees(seq, chain) {
            Some(true) if !ahead => self.note_agreed(id, Some(by), seq),
            None if !ahead => {}
            _ => self.fork(id, seq.min(entry.seq), Some(by)),
        }
    }

    /// The log was the same up to there for a member, or in what the server signed.
    pub(super) fn note_agreed(&mut self, id: ChannelId, by: Option<Sender>, seq: u64) {
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.agreed.note(by, seq);
        }
    }
}
