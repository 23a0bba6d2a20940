//! Blobs on their way, on a bulk link each: down comes what an entry of a log waits for, up goes what is too long for a
//! commit's frame.
//!
//! Both go on where they stopped, on the next connection too. What comes down is taken only if it hashes to what was
//! named. What goes up is stored in chunks of its own beside the outbox until the commit is through, and read from
//! there chunk by chunk.

use bytes::Bytes;

use super::Client;
use super::directory;
use super::event::Event;
use super::inbound::pause;
use super::incoming::Incoming;
use super::load::Loading;
use super::net::Call;
use super::submission::{OutItem, OutWhat};
use crate::error::ErrorCode;
use crate::id::{ChannelId, Digest};
use crate::io::{LinkId, Page, Ticket};
use crate::limits::{BLOB_CHUNK, INLINE_BYTES, TRANSFER_TRIES, TRANSFERS};
use crate::store::batch::{Op, Records};
use crate::store::record::decode;
use crate::wire::message::{CommitBundle, Entry, Failure, Part, Request};

/// An entry that waits for a blob: a welcome for its tree, another one for its payload.
#[derive(Debug)]
pub(super) struct Download {
    pub entry: Entry,
    pub blob: Incoming,
}

impl Download {
    /// Whether all of the blob is there.
    pub(super) fn is_whole(&self) -> bool {
        self.blob.whole().is_some()
    }
}

/// The blobs of a commit, on this connection.
#[derive(Debug, Default)]
pub(super) struct Upload {
    /// The bulk link, while there is something to upload and on a transport with many.
    link: Option<LinkId>,
    /// How many of the commit's blobs the server has.
    done: usize,
    /// What the server last said to have of the next one.
    received: Option<u64>,
    /// How often it had no more than before.
    tries: u32,
}

impl Client {
    /// How many blobs are on their way.
    pub(super) fn transfers(&self) -> usize {
        let down = self.channels.values().filter(|channel| channel.download.is_some()).count();
        let up = self.uploads.iter().filter(|(ticket, _)| !self.is_uploaded(**ticket)).count();
        down + up
    }

    /// Whether as many are as may be.
    fn transfers_full(&self) -> bool {
        self.transfers() >= TRANSFERS
    }

    /// There is room for another: those that wait for it go on.
    pub(super) fn transfer_ended(&mut self) {
        self.dirty.append(&mut self.crowded);
    }

    // ---- down ---------------------------------------------------------------------------------

    /// Begins to fetch the blob that an entry waits for; `false`: the entry has to wait for its turn.
    pub(super) fn download(&mut self, id: ChannelId, entry: Entry, hash: Digest, len: u64) -> bool {
        if self.transfers_full() {
            if let Some(channel) = self.channels.get_mut(&id) {
                channel.wait_first(entry);
            }
            self.crowded.insert(id);
            return false;
        }
        let bytes = self.partial.remove(&hash).filter(|bytes| bytes.len() as u64 <= len);
        let mut blob = Incoming::new(hash, len, bytes.unwrap_or_default(), None);
        // All of it may have come before the last connection broke.
        let whole = blob.whole().is_some();
        if !whole {
            blob.link = self.open_bulk();
        }
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.download = Some(Download { entry, blob });
        }
        if whole {
            self.dirty.insert(id);
        } else {
            self.ask_chunk(id);
        }
        true
    }

    fn ask_chunk(&mut self, id: ChannelId) {
        let download = self.channels.get(&id).and_then(|channel| channel.download.as_ref());
        let Some(Download { blob, .. }) = download else { return };
        let (link, request) = (blob.link, blob.request());
        let hash = blob.hash();
        self.call_on(link, Call::Blob(id, hash), request);
    }

    /// A chunk of a blob, if it is the one that a channel waits for still.
    pub(super) fn on_chunk(&mut self, id: ChannelId, hash: Digest, total: u64, chunk: &[u8]) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let download = channel.download.as_mut().filter(|waits| waits.blob.hash() == hash);
        let Some(download) = download else { return };
        if download.blob.take(total, chunk).is_err() {
            return self.on_wrong_blob(id);
        }
        if !download.is_whole() {
            return self.ask_chunk(id);
        }
        channel.wrong_blobs = 0;
        let link = download.blob.link.take();
        self.finish_bulk(link);
        self.dirty.insert(id);
    }

    /// Another blob than was named: asked for again on another connection, a few times.
    fn on_wrong_blob(&mut self, id: ChannelId) {
        const WHY: &str = "the server sent another blob than it named";
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let Some(download) = &channel.download else { return };
        let about =
            download.entry.origin.map_or((id, download.entry.seq), |at| (at.channel, at.seq));
        channel.wrong_blobs += 1;
        let again = channel.wrong_blobs < TRANSFER_TRIES;
        self.event(Event::ForkSuspected { channel: about.0, seq: about.1 });
        if again { self.drop_connection(WHY.into()) } else { self.give_up_blob(id, WHY) }
    }

    /// The blob is not to be had: for now, or at all.
    pub(super) fn on_blob_refused(&mut self, id: ChannelId, hash: Digest, failure: &Failure) {
        let waits = self.channels.get(&id).and_then(|channel| channel.download.as_ref());
        if waits.is_none_or(|waits| waits.blob.hash() != hash) {
            return;
        }
        // Where the session ended while this was on its way, nothing is said of the blob.
        if !failure.is_transient() && failure.code != ErrorCode::NotLoggedIn {
            return self.give_up_blob(id, failure.code.text());
        }
        let at = self.now.mono + pause(failure.retry_after_ms);
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let Some(download) = channel.download.take() else { return };
        channel.retry_at = Some(at);
        let Download { entry, mut blob } = download;
        channel.wait_first(entry);
        let link = blob.link.take();
        self.keep_partial(blob);
        self.finish_bulk(link);
    }

    /// A welcome is passed over; it is in a group all the same, and asks for that later. A group's log cannot be read
    /// past an entry that is not to be had: the next session tries again.
    fn give_up_blob(&mut self, id: ChannelId, why: &str) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.wrong_blobs = 0;
        let link = channel.download.as_mut().and_then(|download| download.blob.link.take());
        if channel.inbox {
            self.finish_bulk(link);
            self.doubt_memberships();
            return self.end_join(id, Some(why));
        }
        let Some(seq) = channel.download.as_ref().map(|download| download.entry.seq) else {
            return;
        };
        channel.stuck = true;
        channel.unsubscribe();
        self.finish_bulk(link);
        self.forget_arrived(id);
        self.call(Call::Tell, Request::Unsubscribe { channel: id });
        self.wake_inboxes();
        self.unreadable(id, seq, why);
    }

    /// What arrived in a channel and was not read is of no use: the entries that wait, and the blob that one waits for.
    pub(super) fn forget_arrived(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.forget_waiting();
        if let Some(download) = channel.download.take() {
            self.finish_bulk(download.blob.link);
            self.transfer_ended();
        }
    }

    /// Keeps what there is of a blob for the next try.
    fn keep_partial(&mut self, blob: Incoming) {
        let (hash, bytes) = blob.into_part();
        self.partial.insert(hash, bytes);
        while self.partial.len() > TRANSFERS {
            self.partial.pop_first();
        }
    }

    /// The connection or the session is gone: what has come so far is kept.
    pub(super) fn interrupt_transfers(&mut self) {
        for upload in core::mem::take(&mut self.uploads).into_values() {
            self.finish_bulk(upload.link);
        }
        for id in self.channels.keys().copied().collect::<Vec<_>>() {
            self.end_rejoining(id);
            let Some(channel) = self.channels.get_mut(&id) else { continue };
            if let Some(Download { blob, .. }) = channel.download.take() {
                self.finish_bulk(blob.link);
                self.keep_partial(blob);
            }
        }
    }

    // ---- up -----------------------------------------------------------------------------------

    /// A part of a commit: if it is too long for a frame its chunks are staged for the upload.
    pub(super) fn part(&mut self, bytes: Vec<u8>) -> Part {
        if bytes.len() <= INLINE_BYTES {
            return Part::Inline(bytes.into());
        }
        let (hash, len) = (Digest::of(&[&bytes]), bytes.len() as u64);
        let bytes = Bytes::from(bytes);
        for start in (0..bytes.len()).step_by(BLOB_CHUNK) {
            let chunk = bytes.slice(start..bytes.len().min(start + BLOB_CHUNK));
            self.gate.stage(directory::put(directory::chunk_key(hash, start as u64), &chunk));
        }
        Part::Blob { hash, len }
    }

    /// Whether the server has all that a submission names.
    pub(super) fn is_uploaded(&self, ticket: Ticket) -> bool {
        let Some(item) = self.outbox.get(&ticket) else { return true };
        let done = self.uploads.get(&ticket).map_or(0, |upload| upload.done);
        blobs_of(item).nth(done).is_none()
    }

    /// Begins to upload what a commit names; it goes out itself when all of it is there.
    pub(super) fn upload(&mut self, id: ChannelId, ticket: Ticket) {
        let known = self.uploads.contains_key(&ticket);
        if !known && self.transfers_full() {
            self.crowded.insert(id);
            return;
        }
        let link = self.open_bulk();
        self.uploads.entry(ticket).or_default().link = link;
        self.inflight.insert(ticket);
        self.put_chunk(ticket, 0, Bytes::new());
    }

    /// Sends a chunk of the next blob; an empty one asks how much of it the server has.
    fn put_chunk(&mut self, ticket: Ticket, offset: u64, chunk: Bytes) {
        let (Some(upload), Some(item)) = (self.uploads.get(&ticket), self.outbox.get(&ticket))
        else {
            return;
        };
        let Some((hash, total)) = blobs_of(item).nth(upload.done) else { return };
        let request = Request::BlobPut { hash, total, offset, chunk };
        self.call_on(upload.link, Call::Upload(ticket), request);
    }

    /// So much of the blob the server has.
    pub(super) fn on_received(&mut self, ticket: Ticket, received: u64) {
        let Some(item) = self.outbox.get(&ticket) else { return };
        let Some(upload) = self.uploads.get_mut(&ticket) else { return };
        let Some((hash, len)) = blobs_of(item).nth(upload.done) else { return };
        if received >= len {
            (upload.done, upload.received) = (upload.done + 1, None);
            if self.is_uploaded(ticket) {
                return self.stop_upload(ticket);
            }
            return self.put_chunk(ticket, 0, Bytes::new());
        }
        if upload.received.is_some_and(|before| received <= before) {
            upload.tries += 1;
            if upload.tries >= TRANSFER_TRIES {
                return self.fail_commit(ticket, &ErrorCode::BlobMismatch.into());
            }
        }
        upload.received = Some(received);
        let before = (received / BLOB_CHUNK as u64).checked_sub(1);
        let after = before.map(|n| directory::chunk_key(hash, n * BLOB_CHUNK as u64));
        let page = Page { prefix: directory::chunk_prefix(hash), after, most: 1 };
        self.load(Loading::Chunk(ticket, received), page);
    }

    /// The stored chunk with that offset in it.
    pub(super) fn on_stored_chunk(&mut self, ticket: Ticket, offset: u64, records: &Records) {
        if self.uploads.get(&ticket).is_none_or(|upload| upload.received != Some(offset)) {
            return;
        }
        let chunk = records.first().and_then(|(key, value)| decode::<Bytes>(key, value).ok());
        let skip = usize::try_from(offset % BLOB_CHUNK as u64).unwrap_or(usize::MAX);
        match chunk.filter(|chunk| chunk.len() > skip) {
            Some(chunk) => self.put_chunk(ticket, offset, chunk.slice(skip..)),
            None => self.fail_commit(ticket, &ErrorCode::BlobUnknown.into()),
        }
    }

    /// The server does not take a chunk: for now, or at all.
    pub(super) fn on_upload_refused(&mut self, ticket: Ticket, failure: &Failure) {
        if failure.is_transient() {
            let channel = self.outbox.get(&ticket).map(|item| item.channel);
            self.stop_upload(ticket);
            self.uploads.remove(&ticket);
            return channel.into_iter().for_each(|id| self.hold(id, failure.retry_after_ms));
        }
        self.upload_again(ticket, failure);
    }

    /// The server has not, or not any more, what a commit names: it is uploaded again, a few times.
    pub(super) fn upload_again(&mut self, ticket: Ticket, failure: &Failure) {
        let Some(item) = self.outbox.get(&ticket) else { return };
        let named = blobs_of(item).next().is_some();
        let upload = self.uploads.entry(ticket).or_default();
        (upload.done, upload.received, upload.tries) = (0, None, upload.tries + 1);
        let lost = matches!(failure.code, ErrorCode::BlobUnknown | ErrorCode::BlobMismatch);
        if upload.tries >= TRANSFER_TRIES || !lost || !named {
            return self.fail_commit(ticket, failure);
        }
        self.stop_upload(ticket);
    }

    /// Nothing more goes up for now; what is wanted next, the outbox knows.
    fn stop_upload(&mut self, ticket: Ticket) {
        let link = self.uploads.get_mut(&ticket).and_then(|upload| upload.link.take());
        self.finish_bulk(link);
        self.inflight.remove(&ticket);
        self.dirty.extend(self.outbox.get(&ticket).map(|item| item.channel));
    }

    /// A submission is through or void: what was to be uploaded for it goes.
    pub(super) fn forget_upload(&mut self, ticket: Ticket, item: &OutItem) {
        for (hash, _) in blobs_of(item) {
            self.gate.stage(Op::DeletePrefix(directory::chunk_prefix(hash)));
        }
        if let Some(upload) = self.uploads.remove(&ticket) {
            self.finish_bulk(upload.link);
            self.transfer_ended();
        }
    }

    pub(super) fn finish_bulk(&mut self, link: Option<LinkId>) {
        if let Some(link) = link {
            self.finish_link(link);
        }
    }
}

/// The blobs that a submission names, with their lengths.
fn blobs_of(item: &OutItem) -> impl Iterator<Item = (Digest, u64)> {
    let bundle = match &item.what {
        OutWhat::Commit { bundle, .. } | OutWhat::Rejoin { bundle } => Some(bundle),
        OutWhat::Application { .. } | OutWhat::Proposal { .. } => None,
    };
    bundle.into_iter().flat_map(CommitBundle::blobs)
}
