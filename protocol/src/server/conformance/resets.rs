//! Cases of generations that follow each other in one channel.

use bytes::Bytes;

use super::Backend;
use super::bed::{
    Bed, MOST, ack, append, channel, commit, digest, fetch, later, member, reset, revoke, sender,
};
use crate::error::ErrorCode;
use crate::id::Sender;
use crate::server::op::{Append, Commit, Reset, StoreOp, StoreReply, reset_payload};
use crate::store::batch::Op;
use crate::wire::message::EntryKind;

const ONE: (u8, u8) = (1, 1);
const TWO: (u8, u8) = (2, 1);
const THREE: (u8, u8) = (3, 1);

fn of((account, device): (u8, u8)) -> Sender {
    sender(account, device)
}

/// A reset is checked in the order of its doc: duplicates, the channel, its founder, the generation.
pub fn resets_are_checked_in_order(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let group = bed.group(3);
    let (one, two, three) = (of(ONE), of(TWO), of(THREE));
    let op = |of, founder, generation, n| StoreOp::ResetChannel(reset(of, founder, generation, n));
    bed.append(append(group, one, 1, 7));
    let reused = Reset { hash: digest(99), ..reset(channel(9), one, 9, 7) };
    bed.refused(StoreOp::ResetChannel(reused), ErrorCode::MessageIdReused);
    bed.refused(op(channel(9), one, 9, 1), ErrorCode::ChannelUnknown);
    bed.refused(op(group, sender(9, 9), 9, 1), ErrorCode::NotMember);
    bed.commit(Commit { removes: vec![three], ..commit(group, one, 1, 8) });
    bed.refused(op(group, three, 9, 1), ErrorCode::NotMember);
    for generation in [0, 1, 3, u32::MAX] {
        bed.refused(op(group, two, generation, 1), ErrorCode::GenerationMismatch);
    }
    let first = bed.run(op(group, two, 2, 1));
    let StoreReply::Appended { seq: 4, chain, time, duplicate: false, inboxes } = first else {
        panic!("{first:?}")
    };
    assert!(inboxes.is_empty());
    // The other admin comes too late, whatever it made.
    bed.refused(op(group, one, 2, 2), ErrorCode::GenerationMismatch);
    bed.0.reopen();
    let again = StoreReply::Appended { seq: 4, chain, time, duplicate: true, inboxes: Vec::new() };
    assert_eq!(bed.run(op(group, two, 2, 1)), again);
    let other = Reset { hash: digest(3), ..reset(group, two, 2, 1) };
    bed.refused(StoreOp::ResetChannel(other), ErrorCode::MessageIdReused);
}

/// Everything at once: an entry that tells of it, one member, other group records, and nothing of the old generation
/// taken any more.
pub fn resets_do_everything_at_once(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let group = bed.group(3);
    let (one, two, three) = (of(ONE), of(TWO), of(THREE));
    let put = |key: &[u8]| Op::Put(key.to_vec(), b"value".to_vec());
    bed.append(Append { group: vec![put(b"old")], ..append(group, one, 1, 1) });
    let op = Reset { group: vec![put(b"new")], ..reset(group, two, 2, 2) };
    assert_eq!(bed.reset(op), 3);
    bed.0.reopen();
    let (entries, head, _) = bed.entries(fetch(group, two, 2));
    assert_eq!((entries.len(), head), (1, 3));
    let entry = &entries[0];
    assert_eq!((entry.kind, entry.generation, entry.epoch), (EntryKind::Reset, 2, 0));
    assert_eq!(
        (entry.sender, entry.payload.clone()),
        (two, reset_payload(b"group info of generation 2"))
    );
    match bed.run(StoreOp::LoadGroup { channel: group }) {
        StoreReply::Group { generation: 2, epoch: 0, records } => {
            assert_eq!(records, [(b"new".to_vec(), b"value".to_vec())]);
        }
        other => panic!("{other:?}"),
    }
    match bed.run(StoreOp::LoadGroupInfo { channel: group, reader: two }) {
        StoreReply::GroupInfo { generation: 2, epoch: 0, group_info, seq: 3, .. } => {
            assert_eq!(group_info, Bytes::from_static(b"group info of generation 2"));
        }
        other => panic!("{other:?}"),
    }
    let info = bed.info(group, two);
    assert_eq!((info.generation, info.epoch, info.members, info.cursor), (2, 0, 1, 1));
    for out in [one, three] {
        bed.refused(StoreOp::ChannelInfo { channel: group, reader: out }, ErrorCode::NotMember);
        let info = StoreOp::LoadGroupInfo { channel: group, reader: out };
        bed.refused(info, ErrorCode::GenerationMismatch);
        bed.refused(StoreOp::Append(append(group, out, 1, 9)), ErrorCode::GenerationMismatch);
        bed.refused(StoreOp::Commit(commit(group, out, 1, 9)), ErrorCode::GenerationMismatch);
        let next = Append { generation: 2, ..append(group, out, 0, 9) };
        bed.refused(StoreOp::Append(next), ErrorCode::NotMember);
    }
    bed.refused(StoreOp::Append(append(group, two, 1, 9)), ErrorCode::GenerationMismatch);
    // What was accepted before is answered as it was.
    assert!(matches!(
        bed.run(StoreOp::Append(append(group, one, 1, 1))),
        StoreReply::Appended { seq: 2, duplicate: true, .. }
    ));
    assert_eq!(bed.append(Append { generation: 2, ..append(group, two, 0, 3) }).0, 4);
    // The others read to the end of their generation, and no further.
    assert_eq!(bed.seqs(fetch(group, one, 0)), (vec![1, 2, 3], 3, 1));
    assert_eq!(bed.seqs(fetch(group, three, 1)), (vec![2, 3], 3, 2));
}

/// Who comes back reads on where it was; who had been removed before begins anew.
pub fn members_of_before_a_reset_read_on(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let group = bed.group(4);
    let (one, two, three, four) = (of(ONE), of(TWO), of(THREE), sender(4, 1));
    bed.commit(Commit { removes: vec![four], ..commit(group, one, 1, 1) });
    bed.append(append(group, one, 2, 2));
    bed.done(ack(group, two, 2));
    assert_eq!(bed.reset(reset(group, one, 2, 3)), 4);
    let adds = [two, three, four].map(member).to_vec();
    let back = Commit { generation: 2, adds, ..commit(group, one, 0, 4) };
    assert_eq!(bed.commit(back).0, 5);
    bed.0.reopen();
    bed.append(Append { generation: 2, ..append(group, three, 1, 5) });
    assert_eq!(bed.seqs(fetch(group, two, 2)), (vec![3, 4, 5, 6], 6, 2));
    assert_eq!(bed.seqs(fetch(group, three, 1)), (vec![2, 3, 4, 5, 6], 6, 2));
    assert_eq!(bed.seqs(fetch(group, four, 0)), (vec![6], 6, 6));
    let cursors: Vec<_> = [two, three, four].map(|of| bed.info(group, of).cursor).into();
    assert_eq!(cursors, [2, 1, 5]);
    // They hold what they have not read.
    for of in [one, two, four] {
        bed.done(ack(group, of, 6));
    }
    assert_eq!(bed.seqs(fetch(group, three, 1)).0.len(), 5);
    bed.done(ack(group, three, 6));
    assert_eq!(bed.seqs(fetch(group, two, 6)), (vec![], 6, 7));
}

/// Whoever was a member until a reset may be the founder of the next one: the last founder may be gone for good.
pub fn resets_follow_each_other(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let group = bed.group(3);
    let (one, two, three) = (of(ONE), of(TWO), of(THREE));
    assert_eq!(bed.reset(reset(group, one, 2, 1)), 2);
    bed.done(ack(group, one, 2));
    bed.done(ack(group, two, 2));
    bed.told(revoke(one, 1));
    bed.0.reopen();
    let next = bed.reset(reset(group, two, 3, 2));
    assert_eq!(bed.info(group, two).generation, 3);
    bed.refused(StoreOp::ResetChannel(reset(group, one, 4, 3)), ErrorCode::NotMember);
    let back = Commit { generation: 3, adds: vec![member(three)], ..commit(group, two, 0, 4) };
    let added = bed.commit(back).0;
    assert_eq!(bed.seqs(fetch(group, three, 0)).0.last(), Some(&added));
    assert_eq!(bed.seqs(fetch(group, three, 1)).0.first(), Some(&2));
    // Removed since, one is removed.
    bed.commit(Commit { generation: 3, removes: vec![three], ..commit(group, two, 1, 5) });
    bed.refused(StoreOp::ResetChannel(reset(group, three, 4, 6)), ErrorCode::NotMember);
    assert!(added > next);
    // The memory of who was there does not end with the entries.
    let again = Commit { generation: 3, adds: vec![member(three)], ..commit(group, two, 2, 7) };
    bed.commit(again);
    bed.reset(reset(group, two, 4, 8));
    let swept = bed.run(StoreOp::Sweep { at: later(10_000), most: MOST });
    assert!(matches!(swept, StoreReply::Swept(count) if count > 0));
    let (at, expires) = (later(10_001), later(20_000));
    bed.reset(Reset { at, expires, ..reset(group, three, 5, 9) });
    assert_eq!(bed.info(group, three).members, 1);
}
