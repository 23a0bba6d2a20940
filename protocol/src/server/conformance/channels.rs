//! Cases of channels and group records.

use bytes::Bytes;

use super::Backend;
use super::bed::{
    Bed, MOST, NOW, account, account_row, append, channel, commit, create, member, put_device,
    sender,
};
use crate::delivery::chain;
use crate::error::ErrorCode;
use crate::id::{ChannelId, Sender};
use crate::server::op::{Commit, StoreOp, StoreReply};
use crate::store::batch::Op;
use crate::wire::message::{ChannelInfo, ChannelKind};

fn list(reader: Sender, after: Option<ChannelId>, most: u32) -> StoreOp {
    StoreOp::ListChannels { reader, after, most }
}

/// A channel belongs to whoever creates it first.
pub fn channels_are_created_once(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    bed.refused(create(1, sender(1, 1)), ErrorCode::DeviceUnknown);
    bed.people(2, 1);
    let (owner, other) = (sender(1, 1), sender(2, 1));
    bed.done(create(1, owner));
    bed.refused(create(1, other), ErrorCode::ChannelExists);
    bed.refused(create(1, owner), ErrorCode::ChannelExists);
    bed.refused(create(1, sender(9, 9)), ErrorCode::ChannelExists);
    let info = ChannelInfo {
        channel: channel(1),
        kind: ChannelKind::Group,
        generation: 1,
        epoch: 0,
        head: 0,
        cursor: 0,
        members: 1,
    };
    assert_eq!(bed.info(channel(1), owner), info);
    let ask = |n, reader| StoreOp::ChannelInfo { channel: channel(n), reader };
    bed.refused(ask(1, other), ErrorCode::NotMember);
    bed.refused(ask(1, sender(9, 9)), ErrorCode::NotMember);
    bed.refused(ask(2, owner), ErrorCode::ChannelUnknown);

    let load = |n, reader| StoreOp::LoadGroupInfo { channel: channel(n), reader };
    let group_info = StoreReply::GroupInfo {
        generation: 1,
        epoch: 0,
        group_info: Bytes::from_static(b"group info 0"),
        seq: 0,
        chain: chain::start(channel(1)),
    };
    assert_eq!(bed.run(load(1, owner)), group_info);
    bed.refused(load(1, other), ErrorCode::NotMember);
    bed.refused(load(2, owner), ErrorCode::ChannelUnknown);
}

/// A direct channel is made with an account that there is.
pub fn direct_channels_are_with_accounts_that_there_are(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    bed.people(3, 1);
    let between = |n: u8, m: u8| {
        let (one, other) = (sender(n, 1), account(m));
        let StoreOp::CreateChannel { generation, creator, group, group_info, at, .. } =
            create(1, one)
        else {
            panic!("an operation that creates a channel");
        };
        let channel = ChannelId::direct(one.account, other);
        let (kind, with) = (ChannelKind::Direct, Some(other));
        StoreOp::CreateChannel { channel, kind, generation, creator, with, group, group_info, at }
    };
    bed.refused(between(1, 9), ErrorCode::AccountUnknown);
    let nobody = StoreOp::ChannelInfo {
        channel: ChannelId::direct(account(1), account(9)),
        reader: sender(1, 1),
    };
    bed.refused(nobody, ErrorCode::ChannelUnknown);
    bed.done(StoreOp::DeleteAccount { account: account(3), at: NOW });
    bed.refused(between(1, 3), ErrorCode::AccountUnknown);
    bed.refused(between(3, 1), ErrorCode::DeviceUnknown);
    bed.done(between(1, 2));
    // Whoever comes second hears so, whether or not the other is still there.
    bed.refused(between(2, 1), ErrorCode::ChannelExists);
    bed.done(StoreOp::DeleteAccount { account: account(1), at: NOW });
    bed.refused(between(2, 1), ErrorCode::ChannelExists);
}

/// A device lists the channels it is in, in order of their ids, its inbox among them.
pub fn channels_are_listed_in_pages(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    assert_eq!(bed.run(list(sender(1, 1), None, 5)), StoreReply::Channels(Vec::new(), false));
    bed.people(2, 1);
    let (reader, other) = (sender(1, 1), sender(2, 1));
    for n in [200, 5, 9] {
        bed.done(create(n, reader));
    }
    bed.done(create(7, other));
    bed.append(append(channel(9), reader, 0, 1));
    let mut expected = vec![channel(5), channel(9), channel(200), ChannelId::inbox(reader)];
    expected.sort_unstable();

    let mut page = |after, most| match bed.run(list(reader, after, most)) {
        StoreReply::Channels(page, more) => (page, more),
        other => panic!("{other:?}"),
    };
    let (all, more) = page(None, 4);
    assert!(!more);
    let ids: Vec<_> = all.iter().map(|info| info.channel).collect();
    assert_eq!(ids, expected);
    for info in &all {
        assert_eq!(info.head, u64::from(info.channel == channel(9)));
        assert_eq!(info.members, 1);
    }
    let (first, more) = page(None, 3);
    assert!(more);
    assert_eq!(first, all[..3]);
    let (rest, more) = page(Some(expected[2]), 3);
    assert!(!more);
    assert_eq!(rest, all[3..]);
    assert_eq!(page(Some(expected[3]), 3), (Vec::new(), false));
    assert_eq!(page(None, 0), (Vec::new(), true));
}

/// Group records change in the order of the operations, whole prefixes at once, also at the end of the key space.
pub fn group_records_change_in_order(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    bed.done(StoreOp::CreateAccount(account_row(1)));
    bed.told(put_device(sender(1, 1), 1));
    bed.refused(StoreOp::LoadGroup { channel: channel(1) }, ErrorCode::ChannelUnknown);
    let put = |key: &[u8], value: &[u8]| Op::Put(key.to_vec(), value.to_vec());
    let founding = vec![
        put(b"b", b"1"),
        put(b"a/1", b"2"),
        put(b"a/2", b""),
        put(b"a0", b"3"),
        put(&[0xFF, 0xFF], b"4"),
        put(&[0xFF, 0xFF, 0], b"5"),
        put(&[0xFF, 0xFE], b"6"),
        put(b"", b"7"),
        put(b"b", b"8"),
    ];
    let StoreOp::CreateChannel { channel: id, kind, generation, creator, group_info, at, .. } =
        create(1, sender(1, 1))
    else {
        panic!("an operation that creates a channel");
    };
    let group = founding;
    bed.done(StoreOp::CreateChannel {
        channel: id,
        kind,
        generation,
        creator,
        with: None,
        group,
        group_info,
        at,
    });
    let records = |bed: &mut Bed<'_>| match bed.run(StoreOp::LoadGroup { channel: id }) {
        StoreReply::Group { generation: 1, epoch, records } => {
            let keys: Vec<_> = records.iter().map(|(key, _)| key.clone()).collect();
            assert!(keys.is_sorted());
            (epoch, records)
        }
        other => panic!("{other:?}"),
    };
    let (epoch, all) = records(&mut bed);
    assert_eq!((epoch, all.len()), (0, 8));
    assert_eq!(all[0], (Vec::new(), b"7".to_vec()));
    assert!(all.contains(&(b"b".to_vec(), b"8".to_vec())));

    let proposal = crate::server::op::Append {
        group: vec![Op::DeletePrefix(b"a/".to_vec()), put(b"a/3", b"9"), Op::Delete(b"b".to_vec())],
        ..append(id, sender(1, 1), 0, 1)
    };
    bed.append(proposal);
    let ends = Commit {
        group: vec![Op::DeletePrefix(vec![0xFF, 0xFF]), Op::Delete(b"not there".to_vec())],
        ..commit(id, sender(1, 1), 0, 2)
    };
    bed.commit(ends);
    let (epoch, left) = records(&mut bed);
    let keys: Vec<_> = left.into_iter().map(|(key, _)| key).collect();
    assert_eq!(epoch, 1);
    assert_eq!(keys, [b"".to_vec(), b"a/3".to_vec(), b"a0".to_vec(), vec![0xFF, 0xFE]]);
    bed.commit(Commit {
        group: vec![Op::DeletePrefix(Vec::new())],
        ..commit(id, sender(1, 1), 1, 3)
    });
    assert_eq!(records(&mut bed), (2, Vec::new()));
}

/// A batch is one sequence: each operation sees those before it, and a refused one harms no other.
pub fn operations_see_those_before_them(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let of = sender(1, 1);
    let replies = bed.batch(&[
        create(1, of),
        StoreOp::CreateAccount(account_row(1)),
        put_device(of, 1),
        create(1, of),
        StoreOp::Append(append(channel(1), of, 0, 1)),
        StoreOp::Append(append(channel(1), of, 0, 1)),
        StoreOp::Append(append(channel(1), of, 7, 2)),
        StoreOp::Commit(Commit { removes: vec![of], ..commit(channel(1), of, 0, 3) }),
        StoreOp::Append(append(channel(1), of, 1, 4)),
        StoreOp::Commit(Commit { adds: vec![member(of)], ..commit(channel(1), of, 1, 5) }),
    ]);
    let tell = |reply: &StoreReply| match reply {
        StoreReply::Done | StoreReply::Told { .. } => "done".to_owned(),
        StoreReply::Refused { code, epoch } => format!("{} {epoch}", code.name()),
        StoreReply::Appended { seq, duplicate, .. } => format!("{seq} {duplicate}"),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        replies.iter().map(tell).collect::<Vec<_>>(),
        [
            "DeviceUnknown 0",
            "done",
            "done",
            "done",
            "1 false",
            "1 true",
            "FutureEpoch 0",
            "2 false",
            "NotMember 0",
            "NotMember 0",
        ]
    );
    assert_eq!(bed.batch(&[]), []);
    let fetch = StoreOp::Fetch {
        channel: channel(1),
        reader: of,
        after: 0,
        most: MOST,
        bytes: 9_999,
        at: NOW,
    };
    assert_eq!(bed.seqs(fetch), (vec![1, 2], 2, 1));
}
