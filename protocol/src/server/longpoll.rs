//! Fetching, and waiting for the first entry.

use core::time::Duration;

use super::Server;
use super::connection::Call;
use super::push::stretch;
use super::stored::Step;
use super::timers::{Timer, TimerKey};
use crate::id::{ChannelId, Sender};
use crate::io::{ConnId, LinkId};
use crate::limits;
use crate::server::op::{StoreOp, StoreReply};
use crate::wire::message::{Entry, Reply};

/// Payload bytes of the answer to a fetch that waited, or that comes with a subscription: many of these may be
/// under way at once.
pub(super) const WOKEN_BYTES: usize = 64 * 1024;

/// A fetch that waits for a first entry.
#[derive(Debug)]
pub(super) struct Poll {
    reader: Sender,
    channel: ChannelId,
    after: u64,
    most: u32,
    timer: TimerKey,
    /// A read is under way.
    reading: bool,
    /// The channel has grown since that read was emitted.
    again: bool,
    /// Its time is over: the read under way is its answer.
    over: bool,
    /// From the last read.
    head: u64,
    first: u64,
}

impl Server {
    pub(super) fn fetch(
        &mut self,
        call: Call,
        reader: Sender,
        channel: ChannelId,
        after: u64,
        limit: u16,
        wait_ms: u32,
    ) {
        let most = u32::from(limit).clamp(1, limits::FETCH_ENTRIES as u32);
        let at = self.now.wall;
        if wait_ms == 0 {
            let bytes = limits::FETCH_BYTES as u64;
            let op = StoreOp::Fetch { channel, reader, after, most, bytes, at };
            return self.store(Step::Fetch(call, channel), op);
        }
        let wait = Duration::from_millis(wait_ms.into()).min(limits::FETCH_WAIT);
        let timer = self.timers.set(self.now.mono + wait, Timer::LongPoll(call));
        let (reading, again, over) = (false, false, false);
        let (head, first) = (after, after + 1);
        let poll = Poll { reader, channel, after, most, timer, reading, again, over, head, first };
        self.polls.insert(call, poll);
        self.watches.entry(channel).or_default().polls.insert(call);
        self.read_poll(call);
    }

    fn read_poll(&mut self, call: Call) {
        let at = self.now.wall;
        let Some(poll) = self.polls.get_mut(&call) else { return };
        poll.reading = true;
        poll.again = false;
        let Poll { channel, reader, after, most, .. } = *poll;
        let bytes = WOKEN_BYTES as u64;
        let op = StoreOp::Fetch { channel, reader, after, most, bytes, at };
        self.store(Step::Poll(call), op);
    }

    pub(super) fn fetched(&mut self, call: Call, channel: ChannelId, reply: StoreReply) {
        match reply {
            StoreReply::Entries { entries, head, first } => {
                self.reply(call, Reply::Entries(stretch(channel, entries, head, first)));
            }
            reply => self.refusal(call, None, Some(channel), &reply),
        }
    }

    pub(super) fn polled(&mut self, call: Call, reply: StoreReply) {
        let Some(poll) = self.polls.get_mut(&call) else { return };
        poll.reading = false;
        let StoreReply::Entries { entries, head, first } = reply else {
            let channel = poll.channel;
            self.end_poll(call);
            return self.refusal(call, None, Some(channel), &reply);
        };
        poll.head = head;
        poll.first = first;
        if !entries.is_empty() || first > poll.after + 1 || poll.over {
            self.answer_poll(call, entries);
        } else if poll.again {
            self.read_poll(call);
        }
    }

    /// The channel of a waiting fetch has grown.
    pub(super) fn wake_poll(&mut self, call: Call) {
        let Some(poll) = self.polls.get_mut(&call) else { return };
        if poll.reading {
            poll.again = true;
        } else {
            self.read_poll(call);
        }
    }

    /// The time of a waiting fetch is over.
    pub(super) fn poll_over(&mut self, call: Call) {
        let Some(poll) = self.polls.get_mut(&call) else { return };
        if poll.reading {
            poll.over = true;
        } else {
            self.answer_poll(call, Vec::new());
        }
    }

    fn answer_poll(&mut self, call: Call, entries: Vec<Entry>) {
        let Some(poll) = self.end_poll(call) else { return };
        let Poll { channel, head, first, .. } = poll;
        self.reply(call, Reply::Entries(stretch(channel, entries, head, first)));
    }

    /// Forgets a waiting fetch.
    pub(super) fn end_poll(&mut self, call: Call) -> Option<Poll> {
        let poll = self.polls.remove(&call)?;
        self.timers.cancel(poll.timer);
        if let Some(watch) = self.watches.get_mut(&poll.channel) {
            watch.polls.remove(&call);
        }
        self.tidy_watch(poll.channel);
        Some(poll)
    }

    /// The waiting fetches of a connection.
    pub(super) fn polls_of(&self, conn: ConnId) -> Vec<Call> {
        let first = Call { conn, link: LinkId(0), id: 0 };
        let last = Call { conn, link: LinkId(u64::MAX), id: u32::MAX };
        self.polls.range(first..=last).map(|(call, _)| *call).collect()
    }
}
