//! Arbitrary frames that keep every bound, for property tests.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option::of as option;
use proptest::prelude::*;
use proptest::strategy::Union;
use zeroize::Zeroizing;

use super::message::*;
use crate::crypto::identity::{DeviceRecord, EnvelopeKeys, Revocation};
use crate::env::UnixMillis;
use crate::error::ErrorCode;
use crate::id::{AccountId, ChannelId, DeviceId, Digest, MessageId, Sender, ServerId};
use crate::io::LinkRole;
use crate::limits;
use crate::mls::suite::Suite;

/// Any frame: every kind as likely as any other.
pub(crate) fn frame() -> impl Strategy<Value = Frame> {
    let call = prop_oneof![Just(0), Just(1), Just(u32::MAX), any::<u32>()];
    let bodies = kinds().into_iter().map(|(_, kind)| kind);
    (call, Union::new(bodies)).prop_map(|(call, body)| {
        let paired = !matches!(body, Body::Open(_) | Body::Push(_));
        Frame { call: if paired { call } else { 0 }, body }
    })
}

/// Every kind of body by its name in the schema.
pub(crate) fn kinds() -> Vec<(String, BoxedStrategy<Body>)> {
    let mut kinds = vec![
        ("open".to_owned(), role().prop_map(Body::Open).boxed()),
        ("failure".to_owned(), failure().prop_map(Body::Failure).boxed()),
    ];
    for (name, kind) in requests() {
        kinds.push((format!("request.{name}"), kind.prop_map(Body::Request).boxed()));
    }
    for (name, kind) in replies() {
        kinds.push((format!("reply.{name}"), kind.prop_map(Body::Reply).boxed()));
    }
    for (name, kind) in pushes() {
        kinds.push((format!("push.{name}"), kind.prop_map(Body::Push).boxed()));
    }
    kinds
}

type Kinds<T> = Vec<(&'static str, BoxedStrategy<T>)>;

macro_rules! kinds {
    ($($name:ident: $strategy:expr => |$value:pat_param| $make:expr,)*) => {
        vec![$((stringify!($name), ($strategy).prop_map(|$value| $make).boxed()),)*]
    };
}

fn requests() -> Kinds<Request> {
    use Request as R;
    kinds! {
        ping: bytes(0, limits::PING_BYTES) => |payload| R::Ping(payload),
        health: Just(()) => |()| R::Health,
        hello: Just(()) => |()| R::Hello,
        registerStart: (username(), bytes(32, 32)) =>
            |(username, request)| R::RegisterStart { username, request },
        registerFinish: (username(), bytes(192, 192), account(), sealed(), signature()) =>
            |(username, upload, account, sealed_account_key, proof)|
            R::RegisterFinish { username, upload, account, sealed_account_key, proof },
        loginStart: (username(), bytes(96, 96)) => |(username, ke1)| R::LoginStart { username, ke1 },
        loginFinish: (bytes(64, 64), device(), any::<[u8; 32]>(), signature()) =>
            |(ke3, device, device_key, signature)|
            R::LoginFinish { ke3, device, device_key, signature },
        deviceRegister: (record(), envelope_keys()) =>
            |(record, envelope_keys)| R::DeviceRegister { record, envelope_keys },
        resume: (token(), sender(), any::<u64>(), signature()) =>
            |(token, sender, state_version, signature)|
            R::Resume { token, sender, state_version, signature },
        refresh: (token(), sender(), signature()) =>
            |(token, sender, signature)| R::Refresh { token, sender, signature },
        logout: Just(()) => |()| R::Logout,
        deviceList: account() => |account| R::DeviceList { account },
        deviceRevoke: revocation() => |revocation| R::DeviceRevoke { revocation },
        accountLookup: username() => |username| R::AccountLookup { username },
        accountDelete: signature() => |proof| R::AccountDelete { proof },
        keyPackageUpload: (vec(bytes(1, 90), 0..5), option(bytes(1, 90))) =>
            |(packages, last_resort)| R::KeyPackageUpload { packages, last_resort },
        keyPackageStatus: option(suite()) => |suite| R::KeyPackageStatus { suite },
        keyPackageFetch: (account(), suite(), option(device())) =>
            |(account, suite, device)| R::KeyPackageFetch { account, suite, device },
        channelCreate: (channel(), kind(), any::<u32>(), payload(), payload(), option(account())) =>
            |(channel, kind, generation, group_info, tree, with)|
            R::ChannelCreate { channel, kind, generation, group_info, tree, with },
        channelInfo: channel() => |channel| R::ChannelInfo { channel },
        channelList: option(channel()) => |after| R::ChannelList { after },
        submit: submit() => |submit| R::Submit(submit),
        commit: commit() => |bundle| R::Commit(bundle),
        fetch: (channel(), any::<u64>(), 1..=256u16, 0..=30_000u32) =>
            |(channel, after, limit, wait_ms)| R::Fetch { channel, after, limit, wait_ms },
        subscribe: (channel(), any::<u64>()) => |(channel, after)| R::Subscribe { channel, after },
        unsubscribe: channel() => |channel| R::Unsubscribe { channel },
        ack: (channel(), any::<u64>()) => |(channel, seq)| R::Ack { channel, seq },
        groupInfoFetch: channel() => |channel| R::GroupInfoFetch { channel },
        blobPut: (digest(), any::<u32>(), any::<u32>(), bytes(0, 300)) =>
            |(hash, offset, beyond, chunk)| {
                let offset = u64::from(offset);
                let total = offset + chunk.len() as u64 + u64::from(beyond);
                R::BlobPut { hash, total, offset, chunk }
            },
        blobGet: (digest(), any::<u64>()) => |(hash, offset)| R::BlobGet { hash, offset },
    }
}

fn replies() -> Kinds<Reply> {
    use Reply as R;
    kinds! {
        done: Just(()) => |()| R::Done,
        pong: bytes(0, limits::PING_BYTES) => |payload| R::Pong(payload),
        health: (any::<bool>(), text(limits::VERSION_BYTES), time()) =>
            |(healthy, version, time)| R::Health { healthy, version, time },
        hello: (any::<[u8; 32]>(), any::<[u8; 32]>(), time()) =>
            |(nonce, server, time)| R::Hello { nonce, server: ServerId(server), time },
        registerStart: bytes(64, 64) => |response| R::RegisterStart { response },
        loginStart: bytes(320, 320) => |ke2| R::LoginStart { ke2 },
        loginFinish: (account(), sealed(), tokens()) =>
            |(account, sealed_account_key, tokens)|
            R::LoginFinish { account, sealed_account_key, tokens },
        tokens: tokens() => |tokens| R::Tokens(tokens),
        session: (username(), any::<u64>(), time(), time()) =>
            |(username, state_version, time, token_expires)|
            R::Session { username, state_version, time, token_expires },
        devices: vec(device_entry(), 0..3) => |devices| R::Devices(devices),
        account: (username(), account()) => |(username, account)| R::Account { username, account },
        keyPackages: (any::<u32>(), any::<bool>()) =>
            |(available, last_resort)| R::KeyPackages { available, last_resort },
        claimedKeyPackages: vec(claimed(), 0..=limits::DEVICES_PER_ACCOUNT) =>
            |claimed| R::ClaimedKeyPackages(claimed),
        channel: channel_info() => |info| R::Channel(info),
        channels: (vec(channel_info(), 0..4), any::<bool>()) =>
            |(channels, more)| R::Channels { channels, more },
        accepted: (any::<u64>(), digest(), time(), signature()) =>
            |(seq, chain, time, proof)| R::Accepted(Accepted { seq, chain, time, proof }),
        entries: entries() => |entries| R::Entries(entries),
        subscribed: any::<u64>() => |head| R::Subscribed { head },
        groupInfo:
            (any::<u32>(), any::<u64>(), payload(), digest(), blob_len(), any::<u64>(), digest()) =>
            |(generation, epoch, group_info, tree, tree_len, seq, chain)|
            R::GroupInfo { generation, epoch, group_info, tree, tree_len, seq, chain },
        blobPut: any::<u64>() => |received| R::BlobPut { received },
        blob: (any::<u64>(), bytes(0, 300)) => |(total, chunk)| R::Blob { total, chunk },
    }
}

fn pushes() -> Kinds<Push> {
    kinds! {
        entries: entries() => |entries| Push::Entries(entries),
        keyPackagesLow: any::<u32>() => |available| Push::KeyPackagesLow { available },
        sessionEnded: Just(()) => |()| Push::SessionEnded,
        draining: Just(()) => |()| Push::Draining,
    }
}

fn role() -> impl Strategy<Value = LinkRole> {
    use LinkRole::{All, Bulk, Calls, Pushes};
    prop::sample::select(vec![All, Calls, Pushes, Bulk])
}

fn failure() -> impl Strategy<Value = Failure> {
    let code = prop::sample::select(ErrorCode::ALL);
    (code, text(limits::ERROR_DETAIL_BYTES), any::<u32>(), any::<u64>()).prop_map(
        |(code, detail, retry_after_ms, epoch)| Failure { code, detail, retry_after_ms, epoch },
    )
}

fn bytes(least: usize, most: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), least..=most).prop_map(Bytes::from)
}

fn payload() -> impl Strategy<Value = Bytes> {
    bytes(1, 300)
}

fn sealed() -> impl Strategy<Value = Bytes> {
    bytes(1, limits::SEALED_KEY_BYTES)
}

fn text(most: usize) -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..=most).prop_map(move |text| {
        crate::wire::write::shortened(&String::from_iter(text), most).to_owned()
    })
}

fn username() -> impl Strategy<Value = Username> {
    let names = prop_oneof![
        "[a-z][a-z0-9._-]{0,63}",
        prop::sample::select(vec![
            "ÅSTRÖM",
            "ｆｕｌｌｗｉｄｔｈ",
            "naïve",
            "дарья",
            "名前",
            "ﾊﾝｶｸ",
            "שלום"
        ])
        .prop_map(str::to_owned),
    ];
    names.prop_filter_map("a valid username", |name| Username::prepare(&name))
}

fn token() -> impl Strategy<Value = Token> {
    vec(any::<u8>(), 1..=limits::TOKEN_BYTES).prop_map(|bytes| Token(Zeroizing::new(bytes)))
}

fn tokens() -> impl Strategy<Value = Tokens> {
    (token(), time(), token(), time()).prop_map(
        |(access, access_expires, refresh, refresh_expires)| Tokens {
            access,
            access_expires,
            refresh,
            refresh_expires,
        },
    )
}

fn time() -> impl Strategy<Value = UnixMillis> {
    any::<u64>().prop_map(UnixMillis)
}

fn account() -> impl Strategy<Value = AccountId> {
    any::<[u8; 32]>().prop_map(AccountId)
}

fn device() -> impl Strategy<Value = DeviceId> {
    any::<[u8; 16]>().prop_map(DeviceId)
}

fn sender() -> impl Strategy<Value = Sender> {
    (account(), device()).prop_map(|(account, device)| Sender { account, device })
}

fn channel() -> impl Strategy<Value = ChannelId> {
    any::<[u8; 16]>().prop_map(ChannelId)
}

fn message() -> impl Strategy<Value = MessageId> {
    any::<[u8; 16]>().prop_map(MessageId)
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn signature() -> impl Strategy<Value = [u8; 64]> {
    any::<[[u8; 32]; 2]>().prop_map(|halves| core::array::from_fn(|i| halves[i / 32][i % 32]))
}

fn suite() -> impl Strategy<Value = Suite> {
    prop::sample::select(Suite::ALL.to_vec())
}

fn kind() -> impl Strategy<Value = ChannelKind> {
    prop::sample::select(vec![ChannelKind::Group, ChannelKind::Direct, ChannelKind::Inbox])
}

fn blob_len() -> impl Strategy<Value = u64> {
    prop_oneof![Just(1), Just(limits::BLOB_BYTES), 1..=limits::BLOB_BYTES]
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        payload().prop_map(Part::Inline),
        (digest(), blob_len()).prop_map(|(hash, len)| Part::Blob { hash, len }),
    ]
}

fn record() -> impl Strategy<Value = DeviceRecord> {
    (sender(), any::<[u8; 32]>(), any::<u32>(), time(), signature()).prop_map(
        |(sender, device_key, sequence, not_before, signature)| DeviceRecord {
            account: sender.account,
            device: sender.device,
            device_key,
            sequence,
            not_before,
            signature,
        },
    )
}

fn envelope_keys() -> impl Strategy<Value = EnvelopeKeys> {
    (sender(), any::<u32>(), time(), any::<[u8; 32]>(), any::<u8>(), signature()).prop_map(
        |(sender, sequence, not_before, x25519, fill, signature)| EnvelopeKeys {
            sender,
            sequence,
            not_before,
            x25519,
            mlkem768: Box::new([fill; 1184]),
            signature,
        },
    )
}

fn revocation() -> impl Strategy<Value = Revocation> {
    (sender(), time(), signature()).prop_map(|(sender, at, signature)| Revocation {
        account: sender.account,
        device: sender.device,
        at,
        signature,
    })
}

fn device_entry() -> impl Strategy<Value = DeviceEntry> {
    (record(), envelope_keys(), option(revocation()), time()).prop_map(
        |(record, envelope_keys, revocation, last_seen)| DeviceEntry {
            record,
            envelope_keys,
            revocation,
            last_seen,
        },
    )
}

fn claimed() -> impl Strategy<Value = ClaimedKeyPackage> {
    (device(), option(bytes(1, 90)), any::<bool>()).prop_map(|(device, package, last_resort)| {
        ClaimedKeyPackage { device, package, last_resort }
    })
}

fn channel_info() -> impl Strategy<Value = ChannelInfo> {
    (channel(), kind(), any::<u32>(), any::<[u64; 3]>(), any::<u32>()).prop_map(
        |(channel, kind, generation, [epoch, head, cursor], members)| ChannelInfo {
            channel,
            kind,
            generation,
            epoch,
            head,
            cursor,
            members,
        },
    )
}

fn submit() -> impl Strategy<Value = Submit> {
    let kind = prop::sample::select(vec![SubmitKind::Application, SubmitKind::Proposal]);
    (channel(), any::<u32>(), any::<u64>(), message(), kind, payload()).prop_map(
        |(channel, generation, epoch, message, kind, payload)| Submit {
            channel,
            generation,
            epoch,
            message,
            kind,
            payload,
        },
    )
}

fn commit() -> impl Strategy<Value = CommitBundle> {
    (channel(), any::<u32>(), any::<u64>(), message(), part(), option(part()), payload()).prop_map(
        |(channel, generation, epoch, message, commit, welcome, group_info)| CommitBundle {
            channel,
            generation,
            epoch,
            message,
            commit,
            welcome,
            group_info,
        },
    )
}

fn entries() -> impl Strategy<Value = Entries> {
    (channel(), vec(entry(), 0..5), any::<[u64; 3]>()).prop_map(
        |(channel, entries, [head, behind, first])| Entries {
            channel,
            entries,
            head,
            behind,
            first,
        },
    )
}

fn entry() -> impl Strategy<Value = Entry> {
    let kind = (1..=8u8).prop_filter_map("a kind", EntryKind::from_number);
    let place = (any::<u64>(), any::<u32>(), any::<u64>(), time());
    (place, kind, sender(), message(), option(origin()), part()).prop_map(
        |((seq, generation, epoch, time), kind, sender, message, origin, payload)| Entry {
            seq,
            kind,
            generation,
            epoch,
            sender,
            message,
            time,
            origin,
            payload,
        },
    )
}

fn origin() -> impl Strategy<Value = Origin> {
    (channel(), any::<u64>(), digest(), digest(), blob_len()).prop_map(
        |(channel, seq, chain, tree, tree_len)| Origin { channel, seq, chain, tree, tree_len },
    )
}
