//! Cases of what stays and what goes: restarts and sweeping.

use bytes::Bytes;

use super::Backend;
use super::bed::{
    Bed, LIFE, MOST, NOW, RESEND, account, ack, append, channel, commit, create, device_key,
    digest, fetch, later, member, package, put_device, revoke, sender, username,
};
use crate::env::UnixMillis;
use crate::error::ErrorCode;
use crate::id::{ChannelId, Digest};
use crate::mls::suite::Suite;
use crate::server::op::{Append, Commit, StoreOp, StoreReply};
use crate::store::batch::Op;

/// Some of everything that ends, all of it at `later(LIFE)` but for submissions (`RESEND` later): entries,
/// submissions, key packages (one claimed, one last resort), blobs, refresh tokens. Returns how much of each kind.
fn fill(bed: &mut Bed<'_>) -> [u32; 5] {
    let group = bed.group(2);
    let one = sender(1, 1);
    for n in 1..=6 {
        bed.append(append(group, one, 1, n));
    }
    for n in 1..=3 {
        bed.append(append(group, sender(2, 1), 1, n));
    }
    bed.commit(Commit {
        tree: Some(Bytes::from_static(b"tree")),
        adds: vec![member(sender(2, 1))],
        welcomes: vec![Bytes::from_static(b"welcome")],
        ..commit(group, one, 1, 7)
    });
    bed.run(StoreOp::PutKeyPackages {
        sender: one,
        packages: (1..=5).map(|n| package(n, Suite::Hybrid, later(LIFE))).collect(),
        last_resort: Some(package(9, Suite::Hybrid, later(LIFE))),
        most: MOST,
        at: NOW,
    });
    bed.claim(1, Suite::Hybrid, NOW);
    for n in 1..=4 {
        bed.run(StoreOp::PutBlob {
            sender: one,
            hash: if n == 4 { digest(1) } else { Digest::of(&[&[n; 10]]) },
            total: 10,
            offset: 0,
            chunk: Bytes::from(vec![n; if n == 4 { 4 } else { 10 }]),
            most: 10,
            uploads: 9,
            expires: later(LIFE),
        });
    }
    for n in 1..=3 {
        let put = StoreOp::PutRefresh {
            sender: sender(1, n),
            device_key: [n; 32],
            hash: digest(n),
            expires: later(LIFE),
        };
        assert_eq!(bed.run(put), StoreReply::TokensFrom(UnixMillis(0)));
    }
    // Commit 200 and its six, three, and the second commit; the welcome in an inbox.
    [1 + 6 + 3 + 1 + 1, 1 + 6 + 3 + 1, 5 + 1, 4 + 1, 3]
}

/// Not more than asked for goes at once, nothing goes early, and in the end everything does.
pub fn sweeping_stops_at_its_bound(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let mut left = fill(&mut bed);
    let submissions = core::mem::take(&mut left[1]);
    let sweep = |at, most| StoreOp::Sweep { at: later(at), most };
    assert_eq!(bed.run(sweep(LIFE - 1, MOST)), StoreReply::Swept(0));
    assert_eq!(bed.run(sweep(LIFE, 0)), StoreReply::Swept(0));
    for _ in 0..4 {
        let goes: u32 = left.iter().map(|&kind| kind.min(4)).sum();
        assert_eq!(bed.run(sweep(LIFE, 4)), StoreReply::Swept(goes));
        left = left.map(|kind| kind.saturating_sub(4));
        bed.0.reopen();
    }
    assert_eq!(left, [0; 5]);
    assert_eq!(bed.run(sweep(LIFE + RESEND - 1, MOST)), StoreReply::Swept(0));
    assert_eq!(bed.run(sweep(LIFE + RESEND, 4)), StoreReply::Swept(4));
    assert_eq!(bed.run(sweep(LIFE + RESEND, MOST)), StoreReply::Swept(submissions - 4));
    assert_eq!(bed.run(sweep(u64::MAX / 2, MOST)), StoreReply::Swept(0));
    // Channels stay, and go on where they were.
    let group = channel(1);
    assert_eq!(bed.seqs(fetch(group, sender(1, 1), 0)), (vec![], 11, 12));
    let next = Append { expires: later(2 * LIFE), ..append(group, sender(1, 1), 2, 1) };
    assert_eq!(bed.append(next).0, 12);
    assert_eq!(bed.seqs(fetch(group, sender(1, 1), 11)), (vec![12], 12, 12));
    assert_eq!(bed.run(sweep(2 * LIFE, MOST)), StoreReply::Swept(1));
    assert_eq!(bed.run(sweep(2 * LIFE + RESEND, MOST)), StoreReply::Swept(1));
}

/// What has ended is gone for every reader before anything is swept.
pub fn sweeping_is_not_needed_for_ending(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    fill(&mut bed);
    let at = later(LIFE);
    let one = sender(1, 1);
    let read = StoreOp::Fetch {
        channel: channel(1),
        reader: one,
        after: 0,
        most: MOST,
        bytes: u64::MAX,
        at,
    };
    assert_eq!(bed.seqs(read), (vec![], 11, 12));
    assert_eq!(bed.claim(1, Suite::Hybrid, at), [(None, false)]);
    bed.refused(StoreOp::FindRefresh { sender: one, hash: digest(1), at }, ErrorCode::TokenExpired);
    let hash = Digest::of(&[&[1; 10]]);
    bed.refused(StoreOp::GetBlob { hash, offset: 0, most: 9, at }, ErrorCode::BlobUnknown);
    let at = later(LIFE + RESEND);
    let expires = later(2 * LIFE + RESEND);
    let again = Append { at, expires, ..append(channel(1), one, 2, 1) };
    assert_eq!(bed.append(again).0, 12);
}

/// Whatever was answered before two restarts is so after them (regression 28: what is lost only by the second).
pub fn restarts_lose_nothing(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    fill(&mut bed);
    let (one, two) = (sender(1, 1), sender(2, 1));
    let group = channel(1);
    bed.told(put_device(sender(1, 2), 1));
    bed.told(put_device(sender(1, 3), 1));
    bed.told(revoke(sender(1, 2), 1));
    bed.run(StoreOp::OpenSession { sender: one, issued: NOW, state_version: 77, at: NOW });
    bed.done(StoreOp::EndTokens { sender: sender(1, 3), at: later(50) });
    bed.done(create(2, two));
    bed.commit(Commit {
        group: vec![Op::Put(b"a".to_vec(), b"1".to_vec()), Op::Put(b"b".to_vec(), vec![3; 9_000])],
        removes: vec![two],
        ..commit(group, one, 2, 8)
    });
    bed.done(ack(group, one, 5));
    bed.done(ack(group, two, 11));

    let questions = [
        StoreOp::FindAccount { username: username(1) },
        StoreOp::ListDevices { account: account(1) },
        StoreOp::OpenSession { sender: one, issued: NOW, state_version: 1, at: NOW },
        StoreOp::OpenSession { sender: sender(1, 3), issued: later(50), state_version: 1, at: NOW },
        StoreOp::FindRefresh { sender: one, hash: digest(1), at: NOW },
        StoreOp::CountKeyPackages { sender: one, suite: None, at: NOW },
        StoreOp::ChannelInfo { channel: group, reader: one },
        StoreOp::ListChannels { reader: two, after: None, most: MOST },
        StoreOp::LoadGroup { channel: group },
        StoreOp::LoadGroupInfo { channel: group, reader: one },
        fetch(group, one, 0),
        fetch(group, two, 0),
        fetch(ChannelId::inbox(two), two, 0),
        StoreOp::GetBlob { hash: Digest::of(&[b"tree"]), offset: 0, most: 99, at: NOW },
        StoreOp::Append(append(group, one, 1, 1)),
        StoreOp::Commit(commit(group, one, 1, 7)),
    ];
    let before = bed.batch(&questions);
    assert!(matches!(before[1], StoreReply::Devices(ref devices) if devices.len() == 3));
    assert!(matches!(before[3], StoreReply::Refused { code: ErrorCode::TokenInvalid, .. }));
    assert_eq!(before[4], StoreReply::RefreshKey([1; 32]));
    assert_ne!(before[4], StoreReply::RefreshKey(device_key(one)));
    for reply in &before[14..] {
        assert!(matches!(reply, StoreReply::Appended { duplicate: true, .. }), "{reply:?}");
    }
    for restart in 1..=2 {
        bed.0.reopen();
        assert_eq!(bed.batch(&questions), before, "after restart {restart}");
    }
}
