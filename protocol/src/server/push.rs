//! Subscriptions: a cursor per subscriber, pulled when its link has credit. Nothing queues up behind a slow one.

use core::time::Duration;
use std::collections::{BTreeSet, VecDeque};

use super::Server;
use super::connection::Call;
use super::longpoll::WOKEN_BYTES;
use super::stored::Step;
use super::timers::Timer;
use crate::error::{ErrorCode, PeerFault};
use crate::id::{ChannelId, Sender};
use crate::io::{ConnId, LinkId, LinkRole};
use crate::limits;
use crate::server::op::{StoreOp, StoreReply};
use crate::wire::message::{Body, Entries, Entry, EntryKind, Frame, Push, Reply};

/// Bytes of pushes encoded ahead of what the transport has taken.
const PUSH_AHEAD: usize = 256 * 1024;
/// Reads for pushes that one connection may have under way.
const PUSH_FETCHES: usize = 4;
/// Entries of a watched channel kept at hand, so that subscribers at its head cost no read.
const RECENT_ENTRIES: usize = 64;
/// Payload bytes of them, per channel and in all.
const RECENT_BYTES: usize = 256 * 1024;
const RECENT_BYTES_IN_ALL: usize = 32 * 1024 * 1024;
/// Pause before a failed read is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Who waits for entries of a channel.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub(super) subscribers: BTreeSet<ConnId>,
    pub(super) polls: BTreeSet<Call>,
    /// The newest entries, contiguous.
    recent: VecDeque<Entry>,
    bytes: usize,
}

/// One subscription of a connection.
#[derive(Debug)]
pub(super) struct Subscription {
    /// Tells it from an earlier one of the same channel.
    id: u64,
    sender: Sender,
    /// Pushed up to here.
    after: u64,
    /// The channel's head as far as known.
    head: u64,
    /// `head` when the read under way was emitted.
    asked: u64,
    /// The last seq that the device may read, once it was removed.
    until: Option<u64>,
    /// The store has said that the device may read the channel.
    open: bool,
    /// A read is under way, or waits to be retried.
    busy: bool,
    /// Listed in the connection's `due`.
    listed: bool,
    /// Entries at hand may follow the last one: no removal can lie between that this machine has not seen.
    seamless: bool,
}

/// Names a subscription's read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FetchKey {
    conn: ConnId,
    channel: ChannelId,
    id: u64,
}

/// What a subscription does next.
enum Next {
    Nothing,
    Push(Vec<Entry>, u64),
    Read(StoreOp),
}

impl Server {
    pub(super) fn subscribe(&mut self, call: Call, sender: Sender, channel: ChannelId, after: u64) {
        let Some(connection) = self.conns.get_mut(&call.conn) else { return };
        let known = connection.subscriptions.contains_key(&channel);
        if !known && connection.subscriptions.len() >= limits::SUBSCRIPTIONS {
            return self.fault(call.conn, PeerFault::OverLimit("subscriptions"));
        }
        self.last_watch += 1;
        let key = FetchKey { conn: call.conn, channel, id: self.last_watch };
        let subscription = Subscription {
            id: key.id,
            sender,
            after,
            head: 0,
            asked: 0,
            until: None,
            open: false,
            busy: true,
            listed: false,
            seamless: false,
        };
        connection.subscriptions.insert(channel, subscription);
        connection.due.retain(|due| *due != channel);
        // From here on appends are noticed, so that none falls between the read and the answer.
        self.watches.entry(channel).or_default().subscribers.insert(call.conn);
        let op = self.read(channel, sender, after, WOKEN_BYTES as u64);
        self.store(Step::Subscribe(call, key), op);
    }

    pub(super) fn unsubscribe(&mut self, call: Call, channel: ChannelId) {
        if let Some(connection) = self.conns.get_mut(&call.conn) {
            connection.subscriptions.remove(&channel);
            connection.due.retain(|due| *due != channel);
        }
        self.unwatch(channel, call.conn);
        self.reply(call, Reply::Done);
    }

    fn read(&self, channel: ChannelId, reader: Sender, after: u64, bytes: u64) -> StoreOp {
        let most = limits::FETCH_ENTRIES as u32;
        StoreOp::Fetch { channel, reader, after, most, bytes, at: self.now.wall }
    }

    fn subscription(&mut self, key: FetchKey) -> Option<&mut Subscription> {
        let connection = self.conns.get_mut(&key.conn)?;
        connection.subscriptions.get_mut(&key.channel).filter(|s| s.id == key.id)
    }

    pub(super) fn subscribed(&mut self, call: Call, key: FetchKey, reply: StoreReply) {
        let StoreReply::Entries { entries, head, first } = reply else {
            self.drop_subscription(key);
            // Of a session that has ended meanwhile, the account deleted: nothing is said of the channel.
            if self.peer(key.conn).is_none() {
                return self.fail(call, ErrorCode::NotLoggedIn);
            }
            return self.refusal(call, None, None, &reply);
        };
        self.reply(call, Reply::Subscribed { head });
        let link = self.conns.get(&key.conn).and_then(|connection| connection.push_link);
        let room = link
            .and_then(|link| self.links.get(&link))
            .is_some_and(|link| link.backlog() < PUSH_AHEAD);
        let Some(subscription) = self.subscription(key) else { return };
        subscription.open = true;
        subscription.busy = false;
        subscription.head = subscription.head.max(head);
        if room {
            self.push_read(key, entries, head, first);
        } else {
            self.list(key);
        }
    }

    pub(super) fn drop_subscription(&mut self, key: FetchKey) {
        if self.subscription(key).is_none() {
            return;
        }
        if let Some(connection) = self.conns.get_mut(&key.conn) {
            connection.subscriptions.remove(&key.channel);
            connection.due.retain(|due| *due != key.channel);
        }
        self.unwatch(key.channel, key.conn);
    }

    /// All subscriptions of a connection end.
    pub(super) fn end_subscriptions(&mut self, conn: ConnId) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        connection.due.clear();
        for channel in core::mem::take(&mut connection.subscriptions).into_keys() {
            self.unwatch(channel, conn);
        }
    }

    /// A connection waits for a channel's entries no more.
    pub(super) fn unwatch(&mut self, channel: ChannelId, conn: ConnId) {
        if let Some(watch) = self.watches.get_mut(&channel) {
            watch.subscribers.remove(&conn);
        }
        self.tidy_watch(channel);
    }

    /// Forgets a watch that nobody holds.
    pub(super) fn tidy_watch(&mut self, channel: ChannelId) {
        let Some(watch) = self.watches.get(&channel) else { return };
        if watch.subscribers.is_empty() && watch.polls.is_empty() {
            self.recent_bytes -= watch.bytes;
            self.watches.remove(&channel);
        }
    }

    /// A channel has grown up to `seq`; `entry` is the one there, if it was appended by this machine.
    pub(super) fn appended(&mut self, channel: ChannelId, seq: u64, entry: Option<Entry>) {
        let Some(watch) = self.watches.get_mut(&channel) else { return };
        if let Some(entry) = entry {
            let before = watch.bytes;
            watch.keep(entry, self.recent_bytes);
            self.recent_bytes = self.recent_bytes - before + watch.bytes;
        }
        let polls: Vec<_> = watch.polls.iter().copied().collect();
        let subscribers: Vec<_> = watch.subscribers.iter().copied().collect();
        for call in polls {
            self.wake_poll(call);
        }
        for conn in subscribers {
            let Some(connection) = self.conns.get_mut(&conn) else { continue };
            let Some(subscription) = connection.subscriptions.get_mut(&channel) else { continue };
            subscription.head = subscription.head.max(seq);
            let key = FetchKey { conn, channel, id: subscription.id };
            self.list(key);
        }
    }

    /// These devices read no further than `seq`, the entry that removed them.
    pub(super) fn end_readers(&mut self, channel: ChannelId, removed: &[Sender], seq: u64) {
        for sender in removed {
            for conn in self.sessions.get(sender).into_iter().flatten() {
                if let Some(connection) = self.conns.get_mut(conn)
                    && let Some(subscription) = connection.subscriptions.get_mut(&channel)
                {
                    subscription.until = Some(seq);
                }
            }
        }
    }

    /// Puts a subscription in line for its turn, if it has anything to look for.
    fn list(&mut self, key: FetchKey) {
        let Some(subscription) = self.subscription(key) else { return };
        let idle = subscription.open && !subscription.busy && !subscription.listed;
        if !idle || subscription.after >= subscription.head {
            return;
        }
        subscription.listed = true;
        if let Some(connection) = self.conns.get_mut(&key.conn) {
            connection.due.push_back(key.channel);
            if let Some(link) = connection.push_link {
                self.make_ready(link);
            }
        }
    }

    /// Turns what is due into frames on a link for pushes, as far as its credit goes.
    pub(super) fn pull(&mut self, id: LinkId) {
        loop {
            let Some(link) = self.links.get(&id) else { return };
            let pushes = matches!(link.role, Some(LinkRole::All | LinkRole::Pushes));
            if !pushes || link.backlog() >= link.credit.min(PUSH_AHEAD) {
                return;
            }
            let conn = link.conn;
            let Some(connection) = self.conns.get_mut(&conn) else { return };
            if connection.closing || self.draining {
                return;
            }
            if let Some(available) = connection.low.take() {
                self.push_now(conn, Push::KeyPackagesLow { available });
                continue;
            }
            let Some(channel) = connection.due.pop_front() else { return };
            match self.next_push(conn, channel) {
                Next::Nothing => {}
                Next::Push(entries, head) => {
                    // They follow the last push: nothing is gone in between. A larger number would be read as a loss by
                    // a client that forgot what was pushed before, and is about to ask for it anew.
                    self.push_entries(conn, channel, entries, head, 1);
                }
                Next::Read(op) => {
                    let Some(connection) = self.conns.get_mut(&conn) else { return };
                    let Some(subscription) = connection.subscriptions.get_mut(&channel) else {
                        return;
                    };
                    let starved = self.ops.len() >= limits::STORE_OPS;
                    if starved || connection.fetches >= PUSH_FETCHES {
                        subscription.listed = true;
                        connection.due.push_front(channel);
                        if starved {
                            self.starved.push_back(id);
                        }
                        return;
                    }
                    connection.fetches += 1;
                    subscription.busy = true;
                    subscription.asked = subscription.head;
                    let id = subscription.id;
                    self.store(Step::Push(FetchKey { conn, channel, id }), op);
                }
            }
        }
    }

    fn next_push(&mut self, conn: ConnId, channel: ChannelId) -> Next {
        let Some(connection) = self.conns.get_mut(&conn) else { return Next::Nothing };
        let Some(subscription) = connection.subscriptions.get_mut(&channel) else {
            return Next::Nothing;
        };
        subscription.listed = false;
        let key = FetchKey { conn, channel, id: subscription.id };
        let (after, head, sender) = (subscription.after, subscription.head, subscription.sender);
        if subscription.until.is_some_and(|until| after >= until) {
            self.drop_subscription(key);
            return Next::Nothing;
        }
        if subscription.busy || after >= head {
            return Next::Nothing;
        }
        let until = subscription.until.unwrap_or(u64::MAX);
        let watch = self.watches.get(&channel).filter(|_| subscription.seamless);
        let entries = watch.map_or_else(Vec::new, |watch| watch.following(after, until));
        let Some(last) = entries.last().map(|entry| entry.seq) else {
            return Next::Read(self.read(channel, sender, after, limits::FETCH_BYTES as u64));
        };
        subscription.after = last;
        self.list(key);
        self.finish_subscription(key);
        Next::Push(entries, head.min(until))
    }

    pub(super) fn push_fetched(&mut self, key: FetchKey, reply: StoreReply) {
        let Some(connection) = self.conns.get_mut(&key.conn) else { return };
        connection.fetches -= 1;
        if let Some(link) = connection.push_link {
            // Others may have waited for this place.
            self.make_ready(link);
        }
        let Some(subscription) = self.subscription(key) else { return };
        subscription.busy = false;
        match reply {
            StoreReply::Entries { entries, head, first } => {
                self.push_read(key, entries, head, first);
            }
            // Removed, and its entries gone; or the channel is.
            _ => self.drop_subscription(key),
        }
    }

    /// What the store has for a subscription goes out.
    fn push_read(&mut self, key: FetchKey, entries: Vec<Entry>, head: u64, first: u64) {
        let Some(subscription) = self.subscription(key) else { return };
        let lost = first > subscription.after + 1;
        if head < subscription.asked {
            // The log goes on, but not for this reader.
            subscription.until = Some(head);
        }
        match entries.last() {
            Some(last) => {
                subscription.after = last.seq;
                // After a commit accepted elsewhere only the store knows who may read on.
                subscription.seamless = !matches!(last.kind, EntryKind::Commit | EntryKind::Reset);
            }
            None if lost => {
                subscription.after = first - 1;
                subscription.seamless = false;
            }
            None => {
                // A removed device that has read up to its removal looks the same: the store says next time.
                subscription.head = subscription.after;
                subscription.seamless = false;
            }
        }
        if lost || !entries.is_empty() {
            self.push_entries(key.conn, key.channel, entries, head, first);
        }
        self.list(key);
        self.finish_subscription(key);
    }

    /// Ends the subscription of a removed device once its removal was pushed.
    fn finish_subscription(&mut self, key: FetchKey) {
        let over =
            self.subscription(key).is_some_and(|s| s.until.is_some_and(|until| s.after >= until));
        if over {
            self.drop_subscription(key);
        }
    }

    fn push_entries(
        &mut self,
        conn: ConnId,
        channel: ChannelId,
        entries: Vec<Entry>,
        head: u64,
        first: u64,
    ) {
        let Some(link) = self.conns.get(&conn).and_then(|connection| connection.push_link) else {
            return;
        };
        let entries = stretch(channel, entries, head, first);
        self.write(link, &Frame { call: 0, body: Body::Push(Push::Entries(entries)) });
    }

    pub(super) fn push_failed(&mut self, key: FetchKey) {
        let Some(connection) = self.conns.get_mut(&key.conn) else { return };
        connection.fetches -= 1;
        let at = self.now.mono + RETRY_AFTER;
        self.timers.set(at, Timer::Retry(key));
    }

    pub(super) fn retry(&mut self, key: FetchKey) {
        if let Some(subscription) = self.subscription(key) {
            subscription.busy = false;
            self.list(key);
        }
    }
}

/// A stretch of a log as it goes over the wire.
pub(super) fn stretch(channel: ChannelId, entries: Vec<Entry>, head: u64, first: u64) -> Entries {
    let last = entries.last().map_or(head, |entry| entry.seq);
    let rest = head.saturating_sub(last);
    let behind = if rest >= limits::BEHIND { rest } else { 0 };
    Entries { channel, entries, head, behind, first }
}

impl Watch {
    /// Keeps an entry at hand, if there is room for it.
    fn keep(&mut self, entry: Entry, in_all: usize) {
        let size = size(&entry);
        if self.recent.back().is_some_and(|last| last.seq + 1 != entry.seq) {
            self.recent.clear();
            self.bytes = 0;
        }
        if in_all + size > RECENT_BYTES_IN_ALL || size > limits::FETCH_BYTES {
            self.recent.clear();
            self.bytes = 0;
            return;
        }
        self.recent.push_back(entry);
        self.bytes += size;
        while self.recent.len() > RECENT_ENTRIES
            || (self.recent.len() > 1 && self.bytes > RECENT_BYTES)
        {
            if let Some(oldest) = self.recent.pop_front() {
                self.bytes -= self::size(&oldest);
            }
        }
    }

    /// The entries at hand that follow `after` without a gap, up to `until`.
    fn following(&self, after: u64, until: u64) -> Vec<Entry> {
        let Some(first) = self.recent.front().map(|entry| entry.seq) else { return Vec::new() };
        let Some(skip) = (after + 1).checked_sub(first) else { return Vec::new() };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let following = self.recent.iter().skip(skip);
        following.take_while(|entry| entry.seq <= until).cloned().collect()
    }
}

/// What an entry counts for: its payload and about what surrounds it.
fn size(entry: &Entry) -> usize {
    256 + usize::try_from(entry.payload.len()).unwrap_or(usize::MAX / 2)
}
