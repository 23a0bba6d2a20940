//! Cases of commits.

use bytes::Bytes;

use super::Backend;
use super::bed::{
    Bed, LIFE, ack, append, channel, commit, create, device_key, fetch, later, member, message,
    revoke, sender,
};
use crate::error::ErrorCode;
use crate::id::{ChannelId, Digest, Sender};
use crate::server::op::{Commit, Member, StoreOp, StoreReply};
use crate::store::batch::Op;
use crate::wire::message::{Entry, EntryKind, Origin, Part};

/// The welcome of the device added as number `n`.
fn welcome(n: u8, len: usize) -> Bytes {
    Bytes::from(vec![0xE0 + n; len])
}

fn put(content: &Bytes, at: u64) -> StoreOp {
    StoreOp::PutBlob {
        sender: sender(1, 1),
        hash: Digest::of(&[content]),
        total: content.len() as u64,
        offset: 0,
        chunk: content.clone(),
        most: 1_000_000,
        uploads: 1,
        expires: later(at),
    }
}

fn get(content: &Bytes, at: u64) -> StoreOp {
    StoreOp::GetBlob { hash: Digest::of(&[content]), offset: 0, most: 9, at: later(at) }
}

fn group_info(bed: &mut Bed<'_>, of: ChannelId, reader: Sender) -> (u64, Bytes, u64, Digest) {
    match bed.run(StoreOp::LoadGroupInfo { channel: of, reader }) {
        StoreReply::GroupInfo { generation: 1, epoch, group_info, seq, chain } => {
            (epoch, group_info, seq, chain)
        }
        other => panic!("{other:?}"),
    }
}

/// Log, epoch, group records, GroupInfo, tree, members and welcomes change together.
pub fn commits_do_everything_at_once(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    bed.people(3, 1);
    let (one, two, three) = (sender(1, 1), sender(2, 1), sender(3, 1));
    let group = channel(1);
    bed.done(create(1, one));
    bed.append(append(group, one, 0, 1));
    let tree = Bytes::from(vec![0xAB; 300_000]);
    let op = Commit {
        welcomes: vec![welcome(0, 500), welcome(1, 70_000)],
        tree: Some(tree.clone()),
        group: vec![Op::Put(b"tree".to_vec(), b"new".to_vec())],
        adds: vec![member(three), member(two)],
        at: later(4),
        ..commit(group, one, 0, 2)
    };
    let (chain, inboxes) = match bed.run(StoreOp::Commit(op)) {
        StoreReply::Appended { seq: 2, chain, time, duplicate: false, inboxes } => {
            assert_eq!(time, later(4));
            (chain, inboxes)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(inboxes, [(ChannelId::inbox(three), 1), (ChannelId::inbox(two), 1)]);
    assert_eq!(
        group_info(&mut bed, group, two),
        (1, Bytes::from_static(b"group info 1"), 2, chain)
    );
    match bed.run(StoreOp::LoadGroup { channel: group }) {
        StoreReply::Group { epoch: 1, records, .. } => {
            assert_eq!(records, [(b"tree".to_vec(), b"new".to_vec())]);
        }
        other => panic!("{other:?}"),
    }
    for (reader, payload) in [(three, welcome(0, 500)), (two, welcome(1, 70_000))] {
        let info = bed.info(group, reader);
        assert_eq!((info.head, info.cursor, info.members, info.epoch), (2, 2, 3, 1));
        assert_eq!(bed.seqs(fetch(group, reader, 0)), (vec![], 2, 3));
        let (entries, ..) = bed.entries(fetch(ChannelId::inbox(reader), reader, 0));
        let origin =
            Origin { channel: group, seq: 2, chain, tree: Digest::of(&[&tree]), tree_len: 300_000 };
        let expected = Entry {
            seq: 1,
            kind: EntryKind::Welcome,
            generation: 1,
            epoch: 1,
            sender: one,
            message: message(2),
            time: later(4),
            origin: Some(origin),
            payload: Part::Inline(payload),
        };
        assert_eq!(entries, [expected]);
    }
    let blob = |at| StoreOp::GetBlob { hash: Digest::of(&[&tree]), offset: 299_990, most: 99, at };
    match bed.run(blob(later(LIFE - 1))) {
        StoreReply::Blob { total: 300_000, chunk } => assert_eq!(chunk, tree[299_990..]),
        other => panic!("{other:?}"),
    }
    bed.refused(blob(later(LIFE)), ErrorCode::BlobUnknown);
    let (entries, ..) = bed.entries(fetch(group, one, 1));
    assert_eq!(entries[0].kind, EntryKind::Commit);
    assert_eq!((entries[0].epoch, entries[0].origin), (0, None));
}

/// `ChannelUnknown`, `NotMember`, `GenerationMismatch`, the epoch, `RecordInvalid`, in this order.
pub fn commits_are_checked_in_order(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let group = bed.group(3);
    let from = sender(1, 1);
    bed.told(revoke(sender(3, 1), 1));
    let stranger = Member { sender: sender(9, 9), device_key: [1; 32] };
    let op = |change: fn(&mut Commit)| {
        let mut op = Commit { adds: vec![stranger.clone()], ..commit(group, from, 1, 1) };
        change(&mut op);
        StoreOp::Commit(op)
    };
    bed.refused(
        op(|op| (op.channel, op.generation, op.epoch) = (channel(9), 9, 9)),
        ErrorCode::ChannelUnknown,
    );
    bed.refused(
        op(|op| (op.sender, op.generation, op.epoch) = (sender(9, 9), 9, 9)),
        ErrorCode::NotMember,
    );
    bed.refused(op(|op| (op.generation, op.epoch) = (2, 9)), ErrorCode::GenerationMismatch);
    bed.refused_at(op(|op| op.epoch = 2), ErrorCode::FutureEpoch, 1);
    bed.refused_at(op(|op| op.epoch = 0), ErrorCode::EpochConflict, 1);
    bed.refused(op(|_| ()), ErrorCode::RecordInvalid);
    let wrong_key = Member { sender: sender(2, 1), device_key: [1; 32] };
    let add = |who| Commit { adds: vec![who], ..commit(group, from, 1, 1) };
    bed.refused(StoreOp::Commit(add(wrong_key)), ErrorCode::RecordInvalid);
    bed.refused(StoreOp::Commit(add(member(sender(3, 1)))), ErrorCode::RecordInvalid);
    assert_eq!(bed.commit(add(member(sender(2, 1)))).0, 3);
}

/// Of the commits for one epoch the first is accepted, the others learn of it.
pub fn one_commit_wins_an_epoch(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let group = bed.group(8);
    let ops: Vec<_> = (1..=8).map(|n| StoreOp::Commit(commit(group, sender(n, 1), 1, n))).collect();
    let replies = bed.batch(&ops);
    assert!(matches!(replies[0], StoreReply::Appended { seq: 2, duplicate: false, .. }));
    for reply in &replies[1..] {
        let lost = StoreReply::Refused { code: ErrorCode::EpochConflict, epoch: 2 };
        assert_eq!(*reply, lost);
    }
    let (epoch, info, seq, _) = group_info(&mut bed, group, sender(8, 1));
    assert_eq!((epoch, info, seq), (2, Bytes::from_static(b"group info 2"), 2));
    // The loser's next try goes through under the same message id.
    assert_eq!(bed.commit(commit(group, sender(8, 1), 2, 8)).0, 3);
}

/// A refused commit leaves no trace, in whatever it was refused.
pub fn refused_commits_change_nothing(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let group = bed.group(2);
    let from = sender(1, 1);
    let before = group_info(&mut bed, group, from);
    let tree = Bytes::from_static(b"a tree that must not stay");
    let op = Commit {
        welcomes: vec![welcome(0, 10), welcome(1, 10)],
        tree: Some(tree.clone()),
        group: vec![Op::Put(b"key".to_vec(), b"value".to_vec())],
        adds: vec![
            member(sender(2, 1)),
            Member { sender: sender(9, 9), device_key: device_key(sender(9, 9)) },
        ],
        removes: vec![from],
        ..commit(group, from, 1, 1)
    };
    bed.refused(StoreOp::Commit(op.clone()), ErrorCode::RecordInvalid);
    bed.refused_at(StoreOp::Commit(Commit { epoch: 0, ..op }), ErrorCode::EpochConflict, 1);
    assert_eq!(group_info(&mut bed, group, from), before);
    let info = bed.info(group, from);
    assert_eq!((info.head, info.epoch, info.members), (1, 1, 2));
    match bed.run(StoreOp::LoadGroup { channel: group }) {
        StoreReply::Group { records, .. } => assert_eq!(records, []),
        other => panic!("{other:?}"),
    }
    bed.refused(get(&tree, 0), ErrorCode::BlobUnknown);
    let inbox = ChannelId::inbox(sender(2, 1));
    assert_eq!(bed.seqs(fetch(inbox, sender(2, 1), 0)), (vec![], 0, 1));
    // Nor is it remembered: the id is free.
    assert_eq!(bed.append(append(group, from, 1, 1)).0, 2);
}

/// Who was removed reads its removal, and nothing after it.
pub fn removed_members_read_up_to_their_removal(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let group = bed.group(2);
    let (one, two) = (sender(1, 1), sender(2, 1));
    bed.append(append(group, one, 1, 1));
    bed.commit(Commit { removes: vec![two, sender(7, 7)], ..commit(group, one, 1, 2) });
    bed.append(append(group, one, 2, 3));
    // Removing it once more does not open the log further.
    bed.commit(Commit { removes: vec![two], ..commit(group, one, 2, 4) });
    assert_eq!(bed.seqs(fetch(group, two, 1)), (vec![2, 3], 3, 2));
    assert_eq!(bed.seqs(fetch(group, two, 3)), (vec![], 3, 2));
    bed.refused(fetch(group, two, 4), ErrorCode::CursorInvalid);
    bed.refused(StoreOp::Append(append(group, two, 1, 9)), ErrorCode::NotMember);
    bed.refused(StoreOp::Commit(commit(group, two, 3, 9)), ErrorCode::NotMember);
    bed.refused(StoreOp::ChannelInfo { channel: group, reader: two }, ErrorCode::NotMember);
    bed.refused(StoreOp::LoadGroupInfo { channel: group, reader: two }, ErrorCode::NotMember);
    match bed.run(StoreOp::ListChannels { reader: two, after: None, most: 9 }) {
        StoreReply::Channels(page, false) => {
            let ids: Vec<_> = page.iter().map(|info| info.channel).collect();
            assert_eq!(ids, [ChannelId::inbox(two)]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(bed.info(group, one).members, 1);
}

/// Who is added again, or joins anew in one commit, starts at that commit.
pub fn members_who_return_begin_anew(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let group = bed.group(2);
    let (one, two) = (sender(1, 1), sender(2, 1));
    bed.commit(Commit { removes: vec![two], ..commit(group, one, 1, 1) });
    bed.append(append(group, one, 2, 2));
    bed.commit(Commit { adds: vec![member(two)], ..commit(group, one, 2, 3) });
    bed.append(append(group, one, 3, 4));
    assert_eq!(bed.seqs(fetch(group, two, 0)), (vec![5], 5, 5));
    assert_eq!(bed.info(group, two).cursor, 4);
    let rejoin = Commit { adds: vec![member(two)], removes: vec![two], ..commit(group, two, 3, 5) };
    assert_eq!(bed.commit(rejoin).0, 6);
    bed.append(append(group, two, 4, 6));
    assert_eq!(bed.seqs(fetch(group, two, 0)), (vec![7], 7, 7));
    assert_eq!(bed.info(group, one).members, 2);
    bed.done(ack(group, one, 7));
    assert_eq!(bed.seqs(fetch(group, one, 0)), (vec![7], 7, 7));
    // By another member, with a welcome, because its leaf key is lost; and twice, for it may happen again.
    for (n, seq) in [(7, 8), (8, 10)] {
        let epoch = n - 3;
        let swap = Commit {
            welcomes: vec![welcome(0, 30)],
            adds: vec![member(two)],
            removes: vec![two],
            ..commit(group, one, epoch.into(), n)
        };
        assert_eq!(bed.commit(swap).0, seq);
        bed.append(append(group, two, u64::from(epoch) + 1, 100 + n));
        bed.0.reopen();
        assert_eq!(bed.seqs(fetch(group, two, 0)), (vec![seq + 1], seq + 1, seq + 1));
        assert_eq!(bed.info(group, two).cursor, seq);
    }
    assert_eq!(bed.seqs(fetch(ChannelId::inbox(two), two, 0)).1, 2);
    assert_eq!(bed.info(group, one).members, 2);
}

/// Each inbox has its own welcome until its own device has read it.
pub fn each_inbox_gets_its_own_welcome(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    bed.people(4, 1);
    let one = sender(1, 1);
    let added = [sender(2, 1), sender(3, 1), sender(4, 1)];
    let mut add = |n: u8, len: usize| {
        bed.done(create(n, one));
        bed.commit(Commit {
            welcomes: (0..3).map(|i| welcome(i, len)).collect(),
            adds: added.map(member).to_vec(),
            ..commit(channel(n), one, 0, n)
        });
    };
    add(1, 70_000);
    add(2, 10);
    let read = |bed: &mut Bed<'_>, reader: Sender| {
        bed.0.reopen();
        let (entries, head, first) = bed.entries(fetch(ChannelId::inbox(reader), reader, 0));
        let payloads: Vec<_> = entries.into_iter().map(|entry| entry.payload).collect();
        (payloads, head, first)
    };
    let all = |i| vec![Part::Inline(welcome(i, 70_000)), Part::Inline(welcome(i, 10))];
    for (i, reader) in (0..).zip(added) {
        assert_eq!(read(&mut bed, reader), (all(i), 2, 1));
    }
    bed.done(ack(ChannelId::inbox(added[0]), added[0], 1));
    assert_eq!(read(&mut bed, added[0]), (all(0)[1..].to_vec(), 2, 2));
    bed.told(revoke(added[1], 1));
    assert_eq!(read(&mut bed, added[2]), (all(2), 2, 1));
    bed.done(ack(ChannelId::inbox(added[2]), added[2], 2));
    assert_eq!(read(&mut bed, added[2]), (vec![], 2, 3));
}

/// A commit in a blob needs the blob whole, of the length it names, and keeps it as long as its entry lives.
pub fn large_commits_name_their_blob(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let group = bed.group(2);
    let one = sender(1, 1);
    let content = Bytes::from(vec![3; 90]);
    let (hash, len) = (Digest::of(&[&content]), 90);
    let op = |len, at| Commit {
        commit: Part::Blob { hash, len },
        at: later(at),
        expires: later(at + LIFE),
        ..commit(group, one, 1, 1)
    };
    bed.refused(StoreOp::Commit(op(len, 0)), ErrorCode::BlobUnknown);
    let half = StoreOp::PutBlob {
        sender: one,
        hash,
        total: len,
        offset: 0,
        chunk: content.slice(..50),
        most: 1_000,
        uploads: 1,
        expires: later(LIFE),
    };
    assert_eq!(bed.run(half), StoreReply::BlobPut(50));
    bed.refused(StoreOp::Commit(op(len, 0)), ErrorCode::BlobUnknown);
    // Anybody's upload will do.
    let StoreOp::PutBlob { hash, total, offset, chunk, most, uploads, expires, .. } =
        put(&content, 20)
    else {
        panic!("an operation that puts a blob");
    };
    let sender = sender(2, 1);
    let op_put = StoreOp::PutBlob { sender, hash, total, offset, chunk, most, uploads, expires };
    assert_eq!(bed.run(op_put), StoreReply::BlobPut(len));
    bed.refused(StoreOp::Commit(op(len + 1, 0)), ErrorCode::BlobUnknown);
    bed.refused(StoreOp::Commit(op(len, 20)), ErrorCode::BlobUnknown);
    // Nothing was changed by the refusals.
    assert_eq!(bed.info(group, one).epoch, 1);
    assert_eq!(bed.commit(op(len, 10)).0, 2);
    bed.0.reopen();
    let (entries, ..) = bed.entries(fetch(group, one, 1));
    assert_eq!(entries[0].payload, Part::Blob { hash, len });
    assert!(matches!(bed.run(get(&content, 10 + LIFE - 1)), StoreReply::Blob { total: 90, .. }));
    bed.refused(get(&content, 10 + LIFE), ErrorCode::BlobUnknown);
}
