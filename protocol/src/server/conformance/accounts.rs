//! Cases of accounts, devices, sessions and refresh tokens.

use super::Backend;
use super::bed::{
    Bed, LIFE, MOST, NOW, account, account_row, ack, append, channel, commit, create, device_key,
    digest, envelope_keys, fetch, later, member, package, put_device, put_packages, record,
    revocation, revoke, sender, username,
};
use crate::env::UnixMillis;
use crate::error::ErrorCode;
use crate::id::{ChannelId, Digest, Sender};
use crate::mls::suite::Suite;
use crate::server::op::{AccountRow, Commit, StoreOp, StoreReply};
use crate::wire::message::{DeviceEntry, EntryKind, Part};

const HOUR: u64 = 60 * 60 * 1000;

/// A username and an account key belong to the first who registers them.
pub fn accounts_are_taken_once(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let find = |n| StoreOp::FindAccount { username: username(n) };
    assert_eq!(bed.run(find(1)), StoreReply::Account(None));
    bed.done(StoreOp::CreateAccount(account_row(1)));
    assert_eq!(bed.run(find(1)), StoreReply::Account(Some(account_row(1))));
    assert_eq!(bed.run(find(2)), StoreReply::Account(None));

    let same_name = AccountRow { username: username(1), ..account_row(2) };
    bed.refused(StoreOp::CreateAccount(same_name), ErrorCode::UsernameTaken);
    let same_key = AccountRow { username: username(2), ..account_row(1) };
    bed.refused(StoreOp::CreateAccount(same_key), ErrorCode::AccountExists);
    bed.refused(StoreOp::CreateAccount(account_row(1)), ErrorCode::UsernameTaken);
    assert_eq!(bed.run(find(1)), StoreReply::Account(Some(account_row(1))));
    bed.done(StoreOp::CreateAccount(account_row(2)));
}

/// With an account goes all it had, but its name and its id cannot be taken by another.
pub fn deleted_accounts_are_gone_but_stay_taken(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let group = bed.group(3);
    let gone = sender(2, 1);
    bed.run(put_packages(gone, vec![package(1, Suite::Hybrid, later(LIFE))]));
    assert_eq!(bed.run(put_refresh(gone, 1, LIFE)), tokens_from(0));
    assert_eq!(bed.run(put_refresh(sender(2, 9), 2, LIFE)), tokens_from(0));
    let delete = StoreOp::DeleteAccount { account: account(2), at: NOW };
    bed.done(delete.clone());

    bed.refused(delete, ErrorCode::AccountUnknown);
    let find = StoreOp::FindAccount { username: username(2) };
    assert_eq!(bed.run(find), StoreReply::Account(None));
    bed.refused(StoreOp::CreateAccount(account_row(2)), ErrorCode::UsernameTaken);
    let other_name = AccountRow { username: username(9), ..account_row(2) };
    bed.refused(StoreOp::CreateAccount(other_name), ErrorCode::AccountExists);
    bed.refused(put_device(gone, 2), ErrorCode::AccountUnknown);
    bed.refused(put_refresh(gone, 3, LIFE), ErrorCode::AccountUnknown);
    let list = StoreOp::ListDevices { account: account(2) };
    assert_eq!(bed.run(list), StoreReply::Devices(Vec::new()));
    bed.refused(open_session(gone, NOW, 1, NOW), ErrorCode::DeviceUnknown);
    bed.refused(find_refresh(gone, 1, NOW), ErrorCode::TokenInvalid);
    bed.refused(find_refresh(sender(2, 9), 2, NOW), ErrorCode::TokenInvalid);
    bed.refused(
        StoreOp::ClaimKeyPackages {
            account: account(2),
            suite: Suite::Hybrid,
            device: None,
            at: NOW,
        },
        ErrorCode::AccountUnknown,
    );
    bed.refused(fetch(ChannelId::inbox(gone), gone, 0), ErrorCode::ChannelUnknown);
    bed.refused(fetch(group, gone, 0), ErrorCode::NotMember);
    assert_eq!(bed.info(group, sender(1, 1)).members, 2);
}

/// A device registers once, with an inbox; an account has only so many.
pub fn devices_are_registered_once_and_limited(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    bed.refused(put_device(sender(1, 1), 1), ErrorCode::AccountUnknown);
    bed.done(StoreOp::CreateAccount(account_row(1)));
    bed.told(put_device(sender(1, 2), 1));
    bed.told(put_device(sender(1, 1), 1));
    bed.told(put_device(sender(1, 1), 1));
    let entry = |of| DeviceEntry {
        record: record(of, 1),
        envelope_keys: envelope_keys(of, 1),
        revocation: None,
        last_seen: UnixMillis(NOW.0 - NOW.0 % HOUR),
    };
    let list = StoreOp::ListDevices { account: account(1) };
    let both = vec![entry(sender(1, 1)), entry(sender(1, 2))];
    assert_eq!(bed.run(list), StoreReply::Devices(both));
    let inbox = ChannelId::inbox(sender(1, 1));
    let info = bed.info(inbox, sender(1, 1));
    assert_eq!((info.generation, info.epoch, info.head, info.members), (0, 0, 0, 1));

    let third = |most| StoreOp::PutDevice {
        record: record(sender(1, 3), 1),
        envelope_keys: envelope_keys(sender(1, 3), 1),
        most,
        at: NOW,
        expires: later(LIFE),
    };
    bed.refused(third(2), ErrorCode::DeviceLimit);
    // A revoked device makes room.
    bed.told(revoke(sender(1, 2), 1));
    bed.told(third(2));
    bed.refused(put_device(sender(1, 2), 2), ErrorCode::DeviceRevoked);

    // An inbox has no other id than its own, and that may be taken.
    let inbox = ChannelId::inbox(sender(1, 4));
    let StoreOp::CreateChannel { kind, generation, group, group_info, .. } =
        create(1, sender(1, 1))
    else {
        panic!("an operation that creates a channel");
    };
    bed.done(StoreOp::CreateChannel {
        channel: inbox,
        kind,
        generation,
        creator: sender(1, 1),
        with: None,
        group,
        group_info,
        at: NOW,
    });
    bed.refused(put_device(sender(1, 4), 1), ErrorCode::ChannelExists);
    let list = StoreOp::ListDevices { account: account(1) };
    match bed.run(list) {
        StoreReply::Devices(devices) => assert_eq!(devices.len(), 3),
        other => panic!("{other:?}"),
    }
}

/// The record with the highest sequence holds; envelope keys change with it, or on their own.
pub fn newer_records_replace_older_ones(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    bed.people(1, 0);
    let of = sender(1, 1);
    let put = |sequence, key: u8, keys| {
        let mut record = record(of, sequence);
        record.device_key = [key; 32];
        StoreOp::PutDevice {
            record,
            envelope_keys: envelope_keys(of, keys),
            most: MOST,
            at: NOW,
            expires: later(LIFE),
        }
    };
    let stored = |bed: &mut Bed<'_>| match bed.run(StoreOp::ListDevices { account: account(1) }) {
        StoreReply::Devices(devices) => match devices.as_slice() {
            [only] => {
                (only.record.sequence, only.record.device_key[0], only.envelope_keys.sequence)
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    bed.told(put(2, 1, 5));
    bed.refused(put(2, 2, 6), ErrorCode::RecordStale);
    bed.refused(put(1, 1, 6), ErrorCode::RecordStale);
    assert_eq!(stored(&mut bed), (2, 1, 5));
    bed.told(put(2, 1, 4));
    assert_eq!(stored(&mut bed), (2, 1, 5));
    bed.told(put(2, 1, 6));
    assert_eq!(stored(&mut bed), (2, 1, 6));
    // With the key change what belonged to the one before: the refresh token is proved by the new one, and key packages
    // of the old one are not handed out any more.
    assert_eq!(bed.run(put_refresh(of, 1, LIFE)), tokens_from(0));
    bed.run(put_packages(of, vec![package(1, Suite::Hybrid, later(LIFE))]));
    bed.told(put(3, 1, 7));
    assert_eq!(bed.run(find_refresh(of, 1, NOW)), StoreReply::RefreshKey([1; 32]));
    bed.told(put(4, 9, 1));
    assert_eq!(stored(&mut bed), (4, 9, 1));
    assert_eq!(bed.run(find_refresh(of, 1, NOW)), StoreReply::RefreshKey([9; 32]));
    assert!(bed.claim(1, Suite::Hybrid, NOW).iter().all(|(package, _)| package.is_none()));
    bed.run(put_packages(of, vec![package(2, Suite::Hybrid, later(LIFE))]));
    bed.told(put(5, 9, 2));
    assert!(bed.claim(1, Suite::Hybrid, NOW).iter().any(|(package, _)| package.is_some()));
}

/// A revoked device keeps nothing, reads nothing, and counts as no member.
pub fn revocation_takes_what_a_device_holds(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let group = bed.group(2);
    let gone = sender(2, 1);
    bed.run(put_packages(gone, vec![package(1, Suite::Hybrid, later(LIFE))]));
    assert_eq!(bed.run(put_refresh(gone, 1, LIFE)), tokens_from(0));
    bed.refused(revoke(sender(2, 7), 1), ErrorCode::DeviceUnknown);
    bed.told(revoke(gone, 1));
    bed.told(revoke(gone, 2));

    match bed.run(StoreOp::ListDevices { account: account(2) }) {
        StoreReply::Devices(devices) => match devices.as_slice() {
            [only] => assert_eq!(only.revocation, Some(revocation(gone, 1))),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
    bed.refused(open_session(gone, NOW, 1, NOW), ErrorCode::DeviceRevoked);
    bed.refused(put_refresh(gone, 2, LIFE), ErrorCode::DeviceRevoked);
    bed.refused(find_refresh(gone, 1, NOW), ErrorCode::TokenInvalid);
    let rotate = StoreOp::RotateRefresh {
        sender: gone,
        old: digest(1),
        new: digest(2),
        expires: later(1),
        at: NOW,
    };
    bed.refused(rotate, ErrorCode::TokenInvalid);
    bed.refused(put_packages(gone, Vec::new()), ErrorCode::DeviceRevoked);
    assert_eq!(bed.claim(2, Suite::Hybrid, NOW), []);
    bed.refused(fetch(ChannelId::inbox(gone), gone, 0), ErrorCode::ChannelUnknown);
    bed.refused(fetch(group, gone, 0), ErrorCode::NotMember);
    bed.refused(ack(group, gone, 1), ErrorCode::NotMember);
    bed.refused(StoreOp::Append(append(group, gone, 1, 1)), ErrorCode::NotMember);
    bed.refused(StoreOp::ChannelInfo { channel: group, reader: gone }, ErrorCode::NotMember);
    bed.refused(StoreOp::LoadGroupInfo { channel: group, reader: gone }, ErrorCode::NotMember);
    bed.refused(create(5, gone), ErrorCode::DeviceRevoked);
    let list = StoreOp::ListChannels { reader: gone, after: None, most: MOST };
    assert_eq!(bed.run(list), StoreReply::Channels(Vec::new(), false));
    assert_eq!(bed.info(group, sender(1, 1)).members, 1);
    bed.refused(create(1, gone), ErrorCode::ChannelExists);
    assert_eq!(bed.info(channel(1), sender(1, 1)).head, 2);
}

/// A new device, and a new record of one, are told to the account's other devices, in their inboxes and nowhere else.
pub fn devices_are_told_of_each_other(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    bed.people(2, 1);
    let [first, second, third] = [1, 2, 3].map(|device| sender(1, device));
    assert_eq!(bed.told(put_device(first, 1)), []);
    assert_eq!(bed.told(put_device(second, 1)), [(ChannelId::inbox(first), 1)]);
    bed.told(put_device(third, 1));
    bed.told(revoke(second, 1));
    let told = bed.told(put_device(third, 2));
    assert_eq!(told, [(ChannelId::inbox(first), 4)]);
    assert_eq!(bed.told(put_device(third, 2)), []);
    bed.0.reopen();

    let inbox = ChannelId::inbox(first);
    let (entries, head, _) = bed.entries(fetch(inbox, first, 0));
    assert_eq!(head, 4);
    let expected = [
        (EntryKind::Device, second, record(second, 1).encode()),
        (EntryKind::Device, third, record(third, 1).encode()),
        (EntryKind::Revocation, first, revocation(second, 1).encode()),
        (EntryKind::Device, third, record(third, 2).encode()),
    ];
    for (entry, (kind, by, payload)) in entries.iter().zip(expected) {
        assert_eq!((entry.kind, entry.sender), (kind, by));
        assert_eq!((entry.generation, entry.epoch, entry.origin), (0, 0, None));
        assert_eq!(entry.message.0, Digest::of(&[&payload]).0[..16]);
        assert_eq!(entry.payload, Part::Inline(payload.into()));
    }
    assert_eq!(bed.seqs(fetch(ChannelId::inbox(third), third, 0)).0, [1]);
    let stranger = sender(2, 1);
    assert_eq!(bed.seqs(fetch(ChannelId::inbox(stranger), stranger, 0)).1, 0);
    // What is told lasts as long as other entries.
    let StoreOp::Fetch { channel, reader, after, most, bytes, .. } = fetch(inbox, first, 0) else {
        panic!("an operation that reads");
    };
    let late = StoreOp::Fetch { channel, reader, after, most, bytes, at: later(LIFE) };
    assert_eq!(bed.seqs(late), (vec![], 4, 5));
}

/// A revocation stands in the log of every channel that the device is in, however many they are; there its
/// membership ends.
pub fn revocations_are_told_to_groups(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let group = bed.group(3);
    let gone = sender(2, 1);
    bed.done(create(2, gone));
    bed.done(create(3, gone));
    bed.done(create(4, sender(1, 1)));
    // One that it was removed from before.
    let add = Commit { adds: vec![member(gone)], ..commit(channel(4), sender(1, 1), 0, 201) };
    bed.commit(add);
    bed.commit(Commit { removes: vec![gone], ..commit(channel(4), sender(1, 1), 1, 202) });
    bed.told(put_device(sender(2, 2), 1));

    let two = |signature| StoreOp::RevokeDevice {
        revocation: revocation(gone, signature),
        by: sender(2, 2),
        most: 2,
        at: NOW,
        expires: later(LIFE),
    };
    let inbox = ChannelId::inbox(sender(2, 2));
    let entries = vec![(inbox, 1), (group, 2), (channel(2), 1)];
    assert_eq!(bed.run(two(1)), StoreReply::Told { entries, more: true });
    bed.0.reopen();
    let entries = vec![(channel(3), 1)];
    assert_eq!(bed.run(two(2)), StoreReply::Told { entries, more: false });
    let none = StoreReply::Told { entries: Vec::new(), more: false };
    assert_eq!(bed.run(two(2)), none);

    let (entries, ..) = bed.entries(fetch(group, sender(1, 1), 1));
    match entries.as_slice() {
        [told] => {
            let first = Part::Inline(revocation(gone, 1).encode().into());
            assert_eq!((told.kind, told.sender), (EntryKind::Revocation, sender(2, 2)));
            assert_eq!((told.generation, told.epoch), (1, 1));
            assert_eq!(told.payload, first);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(bed.info(channel(4), sender(1, 1)).head, 2);
    // Its removal by a commit changes nothing more for it, and the log goes on.
    let removal = Commit { removes: vec![gone], ..commit(group, sender(3, 1), 1, 203) };
    assert_eq!(bed.commit(removal).0, 3);
    bed.refused(fetch(group, gone, 0), ErrorCode::NotMember);
    bed.done(ack(group, sender(1, 1), 3));
    bed.done(ack(group, sender(3, 1), 3));
    assert_eq!(bed.seqs(fetch(group, sender(1, 1), 3)), (vec![], 3, 4));
}

/// A session opens for a registered device with tokens that were not ended, and tells its highest state version.
pub fn sessions_need_an_active_device_and_fresh_tokens(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    bed.refused(open_session(sender(1, 1), NOW, 0, NOW), ErrorCode::DeviceUnknown);
    bed.people(1, 1);
    let of = sender(1, 1);
    let session = |state_version| StoreReply::Session {
        username: username(1),
        record: record(of, 1),
        state_version,
    };
    assert_eq!(bed.run(open_session(of, NOW, 5, NOW)), session(0));
    assert_eq!(bed.run(open_session(of, NOW, 3, NOW)), session(5));
    assert_eq!(bed.run(open_session(of, NOW, u64::MAX, later(2 * HOUR))), session(5));
    assert_eq!(bed.run(open_session(of, NOW, 6, later(2 * HOUR))), session(u64::MAX));
    match bed.run(StoreOp::ListDevices { account: account(1) }) {
        StoreReply::Devices(devices) => {
            let seen: Vec<_> = devices.iter().map(|device| device.last_seen.0).collect();
            assert_eq!(seen, [later(2 * HOUR).0 - later(2 * HOUR).0 % HOUR]);
        }
        other => panic!("{other:?}"),
    }

    assert_eq!(bed.run(put_refresh(of, 1, LIFE)), tokens_from(0));
    bed.done(StoreOp::EndTokens { sender: of, at: later(10) });
    bed.refused(open_session(of, later(10), 0, later(20)), ErrorCode::TokenInvalid);
    assert_eq!(bed.run(open_session(of, later(11), 0, later(20))), session(u64::MAX));
    bed.refused(find_refresh(of, 1, later(20)), ErrorCode::TokenInvalid);
    // A clock set back does not bring ended tokens back.
    bed.done(StoreOp::EndTokens { sender: of, at: NOW });
    bed.refused(open_session(of, later(10), 0, later(20)), ErrorCode::TokenInvalid);
    bed.done(StoreOp::EndTokens { sender: sender(8, 8), at: NOW });
    // Whoever issues the next ones is told from when they count.
    let from = tokens_from(later(12).0);
    assert_eq!(bed.run(put_refresh(of, 2, LIFE)), from);
    let rotate = StoreOp::RotateRefresh {
        sender: of,
        old: digest(2),
        new: digest(3),
        expires: later(LIFE),
        at: NOW,
    };
    assert_eq!(bed.run(rotate), from);
}

/// A device has one refresh token, until its end.
pub fn refresh_tokens_are_replaced_and_end(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    bed.refused(put_refresh(sender(1, 1), 1, LIFE), ErrorCode::AccountUnknown);
    bed.people(2, 0);
    let of = sender(1, 1);
    let rotate = |old, new, life, at| StoreOp::RotateRefresh {
        sender: of,
        old: digest(old),
        new: digest(new),
        expires: later(life),
        at,
    };
    bed.refused(find_refresh(of, 1, NOW), ErrorCode::TokenInvalid);
    assert_eq!(bed.run(put_refresh(of, 1, LIFE)), tokens_from(0));
    let key = StoreReply::RefreshKey(device_key(of));
    assert_eq!(bed.run(find_refresh(of, 1, later(LIFE - 1))), key);
    bed.refused(find_refresh(of, 1, later(LIFE)), ErrorCode::TokenExpired);
    bed.refused(find_refresh(of, 2, later(LIFE)), ErrorCode::TokenInvalid);
    bed.refused(find_refresh(sender(2, 1), 1, NOW), ErrorCode::TokenInvalid);
    bed.refused(find_refresh(sender(1, 2), 1, NOW), ErrorCode::TokenInvalid);
    bed.refused(rotate(2, 3, LIFE, NOW), ErrorCode::TokenInvalid);
    bed.refused(rotate(1, 3, 2 * LIFE, later(LIFE)), ErrorCode::TokenExpired);
    assert_eq!(bed.run(rotate(1, 3, 2 * LIFE, NOW)), tokens_from(0));
    bed.refused(rotate(1, 4, 2 * LIFE, NOW), ErrorCode::TokenInvalid);
    assert_eq!(bed.run(find_refresh(of, 3, later(LIFE))), key);
    assert_eq!(bed.run(put_refresh(of, 5, LIFE)), tokens_from(0));
    bed.refused(find_refresh(of, 3, NOW), ErrorCode::TokenInvalid);
    assert_eq!(bed.run(find_refresh(of, 5, NOW)), key);
}

fn open_session(of: Sender, issued: UnixMillis, state_version: u64, at: UnixMillis) -> StoreOp {
    StoreOp::OpenSession { sender: of, issued, state_version, at }
}

fn put_refresh(of: Sender, n: u8, life: u64) -> StoreOp {
    StoreOp::PutRefresh {
        sender: of,
        device_key: device_key(of),
        hash: digest(n),
        expires: later(life),
    }
}

fn tokens_from(at: u64) -> StoreReply {
    StoreReply::TokensFrom(UnixMillis(at))
}

fn find_refresh(of: Sender, n: u8, at: UnixMillis) -> StoreOp {
    StoreOp::FindRefresh { sender: of, hash: digest(n), at }
}
