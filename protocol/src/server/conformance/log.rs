//! Cases of the channel log: submitting, reading, acknowledging.

use bytes::Bytes;

use super::Backend;
use super::bed::{
    Bed, LIFE, MOST, NOW, RESEND, ack, append, channel, commit, digest, fetch, later, message,
    revoke, sender,
};
use crate::delivery::chain;
use crate::error::ErrorCode;
use crate::id::{ChannelId, Digest, Sender};
use crate::limits::PAYLOAD_BYTES;
use crate::server::op::{Append, Commit, StoreOp, StoreReply};
use crate::wire::message::{EntryKind, Part};

/// `ChannelUnknown`, `NotMember`, `GenerationMismatch`, `FutureEpoch`, `StaleEpoch`, in this order.
pub fn submissions_are_checked_in_order(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let group = bed.group(2);
    let from = sender(1, 1);
    for epoch in 1..4 {
        bed.commit(commit(group, from, epoch, 100 + u8::try_from(epoch).unwrap_or(0)));
    }
    let op = |change: fn(&mut Append)| {
        let mut op = append(group, from, 4, 1);
        change(&mut op);
        StoreOp::Append(op)
    };
    bed.refused(
        op(|op| (op.channel, op.generation, op.epoch) = (channel(9), 9, 9)),
        ErrorCode::ChannelUnknown,
    );
    bed.refused(
        op(|op| (op.sender, op.generation, op.epoch) = (sender(3, 1), 9, 9)),
        ErrorCode::NotMember,
    );
    bed.refused(op(|op| (op.generation, op.epoch) = (2, 9)), ErrorCode::GenerationMismatch);
    bed.refused_at(op(|op| op.epoch = 5), ErrorCode::FutureEpoch, 4);
    bed.refused_at(op(|op| op.epoch = 1), ErrorCode::StaleEpoch, 4);
    bed.refused_at(op(|op| (op.epoch, op.past_epochs) = (3, 0)), ErrorCode::StaleEpoch, 4);
    bed.refused_at(op(|op| op.epoch = u64::MAX), ErrorCode::FutureEpoch, 4);
    assert_eq!(bed.info(group, from).head, 4);
    // A refused message id is free: the same intent is encrypted anew under it.
    assert_eq!(bed.append(append(group, from, 2, 1)).0, 5);
    assert_eq!(bed.append(append(group, from, 3, 2)).0, 6);
    assert_eq!(bed.append(append(group, sender(2, 1), 4, 2)).0, 7);
}

/// A resend gets its first answer, whatever has changed since.
pub fn duplicates_are_answered_before_anything_else(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let group = bed.group(3);
    let from = sender(2, 1);
    let first = Append { at: later(3), ..append(group, from, 1, 1) };
    let again = |of: (u64, Digest)| StoreReply::Appended {
        seq: of.0,
        chain: of.1,
        time: later(3),
        duplicate: true,
        inboxes: Vec::new(),
    };
    let sent = bed.append(first.clone());
    let ends = Commit { at: later(3), ..commit(group, from, 1, 2) };
    let committed = bed.commit(ends.clone());
    // The epoch has passed, and the sender is removed.
    bed.commit(Commit { removes: vec![from], ..commit(group, sender(1, 1), 2, 3) });
    let resent = Append { at: later(5), ..first.clone() };
    assert_eq!(bed.run(StoreOp::Append(resent.clone())), again(sent));
    let recommitted = Commit { at: later(5), ..ends };
    assert_eq!(bed.run(StoreOp::Commit(recommitted)), again(committed));
    // The same id for other bytes is refused, wherever they were to go.
    let other = Append { hash: digest(50), channel: channel(9), ..resent };
    bed.refused(StoreOp::Append(other), ErrorCode::MessageIdReused);
    let other = Commit { hash: digest(50), ..commit(channel(9), from, 8, 2) };
    bed.refused(StoreOp::Commit(other), ErrorCode::MessageIdReused);
    // Another device's id is another id.
    assert_eq!(bed.append(append(group, sender(3, 1), 3, 1)).0, 5);
    bed.told(revoke(from, 1));
    bed.0.reopen();
    assert_eq!(bed.run(StoreOp::Append(first)), again(sent));
}

/// The memory of a submission lasts [`RESEND_TIME`](crate::limits::RESEND_TIME) longer than its entry, and longer than
/// that of the one before.
pub fn submissions_are_remembered_until_their_end(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let group = bed.group(1);
    let from = sender(1, 1);
    let send = |n, at, expires| Append {
        at: later(at),
        expires: later(expires),
        ..append(group, from, 1, n)
    };
    assert_eq!(bed.append(send(1, 0, 2 * LIFE)).0, 2);
    // A clock that was set back does not shorten it.
    assert_eq!(bed.append(send(2, 0, LIFE)).0, 3);
    for n in [1, 2] {
        match bed.run(StoreOp::Append(send(n, 2 * LIFE + RESEND - 1, 9 * LIFE + RESEND))) {
            StoreReply::Appended { duplicate: true, .. } => {}
            other => panic!("{other:?}"),
        }
    }
    let reused = Append { hash: digest(70), ..send(1, 2 * LIFE + RESEND, 3 * LIFE + RESEND) };
    assert_eq!(bed.append(reused.clone()).0, 4);
    match bed.run(StoreOp::Append(reused)) {
        StoreReply::Appended { seq: 4, duplicate: true, .. } => {}
        other => panic!("{other:?}"),
    }
}

/// Entries come back as they were accepted, and each carries the chain on.
pub fn entries_chain(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let group = bed.group(2);
    let (one, two) = (sender(1, 1), sender(2, 1));
    let mut last = chain::start(group);
    let proposal = Append { kind: EntryKind::Proposal, at: later(7), ..append(group, two, 1, 1) };
    let blob = Append {
        payload: Part::Blob { hash: digest(77), len: u64::from(u32::MAX) + 1 },
        ..append(group, one, 1, 2)
    };
    let empty = Append { payload: Part::Inline(Bytes::new()), ..append(group, one, 0, 3) };
    let sent = [bed.append(proposal), bed.append(blob), bed.append(empty)];
    let (entries, head, first) = bed.entries(fetch(group, one, 0));
    assert_eq!((entries.len(), head, first), (4, 4, 1));
    let mut chains = Vec::new();
    for entry in &entries {
        last = chain::next(last, entry);
        chains.push((entry.seq, last));
    }
    assert_eq!(chains[1..], sent);
    let told: Vec<_> = entries
        .iter()
        .map(|e| (e.kind, e.epoch, e.generation, e.sender, e.message, e.time, e.payload.len()))
        .collect();
    assert_eq!(
        told,
        [
            (EntryKind::Commit, 0, 1, one, message(200), NOW, 200),
            (EntryKind::Proposal, 1, 1, two, message(1), later(7), 100),
            (EntryKind::Application, 1, 1, one, message(2), NOW, u64::from(u32::MAX) + 1),
            (EntryKind::Application, 0, 1, one, message(3), NOW, 0),
        ]
    );
    match bed.run(StoreOp::LoadGroupInfo { channel: group, reader: one }) {
        StoreReply::GroupInfo { seq: 4, chain, epoch: 1, .. } => assert_eq!(chain, last),
        other => panic!("{other:?}"),
    }
}

/// A page ends at its count or its bytes, but never before its first entry.
pub fn reading_stops_at_its_bounds(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let group = bed.group(2);
    let (one, two) = (sender(1, 1), sender(2, 1));
    for n in 1..=9 {
        bed.append(append(group, one, 1, n));
    }
    let read = |reader: Sender, after, most, bytes| StoreOp::Fetch {
        channel: group,
        reader,
        after,
        most,
        bytes,
        at: NOW,
    };
    assert_eq!(bed.seqs(read(one, 0, 3, u64::MAX)), (vec![1, 2, 3], 10, 1));
    assert_eq!(bed.seqs(read(one, 3, 100, 299)), (vec![4, 5], 10, 1));
    assert_eq!(bed.seqs(read(one, 3, 100, 300)), (vec![4, 5, 6], 10, 1));
    assert_eq!(bed.seqs(read(one, 3, 100, 0)), (vec![4], 10, 1));
    assert_eq!(bed.seqs(read(one, 3, 0, 500)), (vec![4], 10, 1));
    assert_eq!(bed.seqs(read(one, 9, u32::MAX, u64::MAX)), (vec![10], 10, 1));
    assert_eq!(bed.seqs(read(one, 10, 100, 500)), (vec![], 10, 1));
    bed.refused(read(one, 11, 100, 500), ErrorCode::CursorInvalid);
    bed.refused(read(one, u64::MAX, 100, 500), ErrorCode::CursorInvalid);
    // Who was added by the entry 1 reads from 2 on.
    assert_eq!(bed.seqs(read(two, 0, 2, 500)), (vec![2, 3], 10, 2));
    bed.refused(read(sender(3, 1), 99, 100, 500), ErrorCode::NotMember);
    bed.refused(fetch(channel(9), one, 0), ErrorCode::ChannelUnknown);
    bed.refused(ack(channel(9), one, 0), ErrorCode::ChannelUnknown);
    bed.refused(ack(group, sender(3, 1), 99), ErrorCode::NotMember);
    bed.refused(ack(group, one, 11), ErrorCode::CursorInvalid);
}

/// A payload may be as long as the protocol allows.
pub fn large_payloads_come_back_whole(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let group = bed.group(1);
    let from = sender(1, 1);
    let large: Bytes = (0..PAYLOAD_BYTES).map(|i| i.to_le_bytes()[0] ^ 0x5A).collect();
    let sent =
        bed.append(Append { payload: Part::Inline(large.clone()), ..append(group, from, 1, 1) });
    bed.append(append(group, from, 1, 2));
    bed.0.reopen();
    let (entries, ..) = bed.entries(fetch(group, from, 1));
    assert_eq!(entries[0].payload, Part::Inline(large));
    assert_eq!(sent.0, 2);
    let bounded =
        StoreOp::Fetch { channel: group, reader: from, after: 1, most: 9, bytes: 1_000, at: NOW };
    assert_eq!(bed.seqs(bounded), (vec![2], 3, 1));
}

/// Entries go when every present member has passed them, and when a removed one has read its removal.
pub fn acknowledged_entries_go(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let group = bed.group(3);
    let (one, two, three) = (sender(1, 1), sender(2, 1), sender(3, 1));
    for n in 1..=5 {
        bed.append(append(group, one, 1, n));
    }
    bed.done(ack(group, one, 4));
    bed.done(ack(group, two, 3));
    assert_eq!(bed.seqs(fetch(group, one, 0)), (vec![2, 3, 4, 5, 6], 6, 2));
    bed.done(ack(group, three, 2));
    assert_eq!(bed.seqs(fetch(group, one, 0)), (vec![3, 4, 5, 6], 6, 3));
    // Going back changes nothing.
    bed.done(ack(group, three, 1));
    assert_eq!(bed.info(group, three).cursor, 2);
    bed.0.reopen();
    bed.done(ack(group, three, 6));
    assert_eq!(bed.seqs(fetch(group, three, 0)), (vec![4, 5, 6], 6, 4));
    bed.done(ack(group, one, 6));
    bed.done(ack(group, two, 6));
    assert_eq!(bed.seqs(fetch(group, one, 0)), (vec![], 6, 7));
    assert_eq!(bed.seqs(fetch(group, one, 6)), (vec![], 6, 7));

    // Two is removed by entry 8 and holds the entries up to it.
    bed.append(append(group, one, 1, 6));
    bed.commit(Commit { removes: vec![two], ..commit(group, one, 1, 7) });
    bed.append(append(group, one, 2, 8));
    bed.done(ack(group, one, 9));
    bed.done(ack(group, three, 9));
    assert_eq!(bed.seqs(fetch(group, two, 6)), (vec![7, 8], 8, 7));
    bed.refused(ack(group, two, 9), ErrorCode::CursorInvalid);
    bed.done(ack(group, two, 7));
    assert_eq!(bed.seqs(fetch(group, one, 0)), (vec![8, 9], 9, 8));
    bed.done(ack(group, two, 8));
    assert_eq!(bed.seqs(fetch(group, one, 0)), (vec![], 9, 10));
    assert_eq!(bed.seqs(fetch(group, two, 8)), (vec![], 8, 9));
}

/// A device that is revoked or deleted does not keep entries from going.
pub fn gone_members_hold_nothing_back(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let group = bed.group(4);
    let one = sender(1, 1);
    for n in 1..=3 {
        bed.append(append(group, one, 1, n));
    }
    bed.done(ack(group, one, 2));
    bed.done(ack(group, sender(4, 1), 4));
    assert_eq!(bed.seqs(fetch(group, one, 0)).2, 2);
    bed.told(revoke(sender(2, 1), 1));
    bed.done(ack(group, one, 3));
    assert_eq!(bed.seqs(fetch(group, one, 0)).2, 2);
    bed.done(StoreOp::DeleteAccount { account: sender(3, 1).account, at: NOW });
    bed.done(ack(group, one, 4));
    assert_eq!(bed.seqs(fetch(group, one, 0)), (vec![5], 5, 5));
    bed.done(ack(group, one, 5));
    bed.done(ack(group, sender(4, 1), 5));
    assert_eq!(bed.seqs(fetch(group, one, 0)), (vec![], 5, 6));
}

/// At its end an entry is gone, swept or not, and none before it is left.
pub fn entries_end_in_their_order(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let group = bed.group(1);
    let from = sender(1, 1);
    let mut send = |n, expires| {
        let op = Append { expires: later(expires), ..append(group, from, 1, n) };
        bed.append(op).0
    };
    assert_eq!(send(1, 2 * LIFE), 2);
    assert_eq!(send(2, LIFE), 3);
    assert_eq!(send(3, 3 * LIFE), 4);
    let at = |after, at| StoreOp::Fetch {
        channel: group,
        reader: from,
        after,
        most: MOST,
        bytes: u64::MAX,
        at: later(at),
    };
    assert_eq!(bed.seqs(at(0, LIFE - 1)), (vec![1, 2, 3, 4], 4, 1));
    assert_eq!(bed.seqs(at(0, LIFE)), (vec![2, 3, 4], 4, 2));
    assert_eq!(bed.seqs(at(0, 2 * LIFE - 1)), (vec![2, 3, 4], 4, 2));
    assert_eq!(bed.seqs(at(2, 2 * LIFE)), (vec![4], 4, 4));
    assert_eq!(bed.seqs(at(0, 3 * LIFE)), (vec![], 4, 5));
    assert_eq!(bed.seqs(at(4, 3 * LIFE)), (vec![], 4, 5));
    // A later entry has the seq after the ones that are gone.
    assert_eq!(bed.run(StoreOp::Sweep { at: later(3 * LIFE), most: 100 }), StoreReply::Swept(4));
    let op = Append { expires: later(9 * LIFE), ..append(group, from, 1, 5) };
    assert_eq!(bed.append(op).0, 5);
    assert_eq!(bed.seqs(at(0, 3 * LIFE)), (vec![5], 5, 5));
    let inbox = ChannelId::inbox(from);
    assert_eq!(bed.seqs(fetch(inbox, from, 0)), (vec![], 0, 1));
}
