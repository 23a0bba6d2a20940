//! Each bound of the schema: kept is read, broken is refused by name. The encoder does not look at them.

use bytes::Bytes;
use zeroize::Zeroizing;

use super::*;
use crate::env::UnixMillis;
use crate::id::{AccountId, ChannelId, DeviceId, Digest, MessageId, Sender};
use crate::wire::message::*;

fn bytes(len: usize) -> Bytes {
    vec![1; len].into()
}

fn name() -> Username {
    Username::prepare("alice").unwrap()
}

const CHANNEL: ChannelId = ChannelId([1; 16]);
const ACCOUNT: AccountId = AccountId([2; 32]);
const SENDER: Sender = Sender { account: ACCOUNT, device: DeviceId([3; 16]) };

fn request(request: Request) -> Body {
    Body::Request(request)
}

fn reply(reply: Reply) -> Body {
    Body::Reply(reply)
}

/// `make(kept)` crosses, `make(broken)` is refused with that word.
fn bound<T: Copy + core::fmt::Debug>(
    what: &'static str,
    kept: &[T],
    broken: &[T],
    make: impl Fn(T) -> Body,
) {
    for value in kept {
        let frame = Frame { call: 1, body: make(*value) };
        assert_eq!(decoded(&encoded(&frame)), Ok(vec![frame]), "{what}: {value:?}");
    }
    for value in broken {
        let frame = Frame { call: 1, body: make(*value) };
        let refused = Err(PeerFault::Malformed(what));
        assert_eq!(decoded(&encoded(&frame)), refused, "{what}: {value:?}");
    }
}

#[test]
fn of_the_entrance() {
    bound("ping", &[0, 64], &[65], |len| request(Request::Ping(bytes(len))));
    bound("ping", &[0, 64], &[65], |len| reply(Reply::Pong(bytes(len))));
    bound("OPAQUE registration request", &[32], &[0, 31, 33], |len| {
        request(Request::RegisterStart { username: name(), request: bytes(len) })
    });
    let register = |upload, sealed| {
        request(Request::RegisterFinish {
            username: name(),
            upload: bytes(upload),
            account: ACCOUNT,
            sealed_account_key: bytes(sealed),
            proof: [4; 64],
        })
    };
    bound("OPAQUE registration record", &[192], &[0, 191, 193], |len| register(len, 1));
    bound("sealed account key", &[1, 256], &[0, 257], |len| register(192, len));
    bound("OPAQUE registration response", &[64], &[0, 63, 65], |len| {
        reply(Reply::RegisterStart { response: bytes(len) })
    });
    bound("OPAQUE KE1", &[96], &[0, 95, 97], |len| {
        request(Request::LoginStart { username: name(), ke1: bytes(len) })
    });
    bound("OPAQUE KE2", &[320], &[0, 319, 321], |len| reply(Reply::LoginStart { ke2: bytes(len) }));
    bound("OPAQUE KE3", &[64], &[0, 63, 65], |len| {
        request(Request::LoginFinish {
            ke3: bytes(len),
            device: SENDER.device,
            device_key: [5; 32],
            signature: [6; 64],
        })
    });
    bound("token", &[1, 256], &[0, 257], |len| {
        let token = Token(Zeroizing::new(vec![7; len]));
        request(Request::Refresh { token, sender: SENDER, signature: [6; 64] })
    });
    let tokens = |access, refresh| {
        let token = |len| Token(Zeroizing::new(vec![7; len]));
        reply(Reply::LoginFinish {
            account: ACCOUNT,
            sealed_account_key: bytes(1),
            tokens: Tokens {
                access: token(access),
                access_expires: UnixMillis(1),
                refresh: token(refresh),
                refresh_expires: UnixMillis(2),
            },
        })
    };
    bound("token", &[1, 256], &[0, 257], |len| tokens(len, 1));
    bound("token", &[1, 256], &[0, 257], |len| tokens(1, len));
}

#[test]
fn of_key_packages() {
    let upload = |count: usize, len: usize, last: Option<usize>| {
        request(Request::KeyPackageUpload {
            packages: vec![bytes(len); count],
            last_resort: last.map(bytes),
        })
    };
    bound("key packages", &[0, 1, 100], &[101, 70_000], |count| upload(count, 1, None));
    bound("key package", &[1, 16_384], &[0, 16_385], |len| upload(2, len, None));
    bound("key package", &[None, Some(1), Some(16_384)], &[Some(0), Some(16_385)], |last| {
        upload(0, 1, last)
    });
    let claimed = |count: usize, len: Option<usize>| {
        let one = |device| ClaimedKeyPackage {
            device: DeviceId([device; 16]),
            package: len.map(bytes),
            last_resort: false,
        };
        reply(Reply::ClaimedKeyPackages((0..count).map(|device| one(device as u8)).collect()))
    };
    bound("key packages", &[0, 16], &[17], |count| claimed(count, None));
    bound("key package", &[None, Some(16_384)], &[Some(0), Some(16_385)], |len| claimed(1, len));
}

fn entry(payload: Part, tree_len: u64) -> Entry {
    Entry {
        seq: 1,
        kind: EntryKind::Welcome,
        generation: 1,
        epoch: 1,
        sender: SENDER,
        message: MessageId([8; 16]),
        time: UnixMillis(9),
        origin: Some(Origin {
            channel: CHANNEL,
            seq: 1,
            chain: Digest([1; 32]),
            tree: Digest([2; 32]),
            tree_len,
        }),
        payload,
    }
}

fn entries(entries: Vec<Entry>) -> Body {
    let entries = Entries { channel: CHANNEL, entries, head: 1, behind: 0, first: 1 };
    reply(Reply::Entries(entries))
}

#[test]
fn of_channels() {
    let most = limits::PAYLOAD_BYTES;
    let blob = |len| Part::Blob { hash: Digest([1; 32]), len };
    bound("payload", &[1, most], &[0, most + 1], |len| {
        request(Request::Submit(Submit {
            channel: CHANNEL,
            generation: 1,
            epoch: 2,
            message: MessageId([8; 16]),
            kind: SubmitKind::Proposal,
            payload: bytes(len),
        }))
    });
    let commit = |commit: Part, welcome: Option<Part>, group_info| {
        request(Request::Commit(CommitBundle {
            channel: CHANNEL,
            generation: 1,
            epoch: 2,
            message: MessageId([8; 16]),
            commit,
            welcome,
            group_info: bytes(group_info),
        }))
    };
    let inline = |len| Part::Inline(bytes(len));
    bound("commit", &[1, 9], &[0, most + 1], |len| commit(inline(len), None, 1));
    bound("welcome", &[1, 9], &[0, most + 1], |len| commit(inline(1), Some(inline(len)), 1));
    bound("group info", &[1, most], &[0, most + 1], |len| commit(inline(1), None, len));
    bound("blob length", &[1, 52_428_800], &[0, 52_428_801, u64::MAX], |len| {
        commit(blob(len), None, 1)
    });
    bound("payload", &[1, most], &[0, most + 1], |len| entries(vec![entry(inline(len), 1)]));
    bound("blob length", &[1, 52_428_800], &[0, 52_428_801], |len| {
        entries(vec![entry(inline(1), len)])
    });
    bound("entries", &[0, 256], &[257, 2_000], |count| entries(vec![entry(blob(1), 1); count]));
    bound("fetch limit", &[1, 256], &[0, 257, u16::MAX], |limit| {
        request(Request::Fetch { channel: CHANNEL, after: 0, limit, wait_ms: 0 })
    });
    bound("fetch wait", &[0, 30_000], &[30_001, u32::MAX], |wait_ms| {
        request(Request::Fetch { channel: CHANNEL, after: 0, limit: 1, wait_ms })
    });
    let create = |group_info, tree| {
        request(Request::ChannelCreate {
            channel: CHANNEL,
            kind: ChannelKind::Group,
            generation: 1,
            group_info: bytes(group_info),
            tree: bytes(tree),
            with: None,
        })
    };
    bound("group info", &[1, most], &[0, most + 1], |len| create(len, 1));
    bound("tree", &[1, most], &[0, most + 1], |len| create(1, len));
    let info = ChannelInfo {
        channel: CHANNEL,
        kind: ChannelKind::Inbox,
        generation: 0,
        epoch: 0,
        head: 0,
        cursor: 0,
        members: 1,
    };
    bound("channels", &[0, 1_024], &[1_025], |count| {
        reply(Reply::Channels { channels: vec![info.clone(); count], more: true })
    });
}

#[test]
fn of_blobs() {
    let put = |total, offset, chunk| {
        request(Request::BlobPut { hash: Digest([1; 32]), total, offset, chunk: bytes(chunk) })
    };
    bound("blob chunk", &[0, 262_144], &[262_145], |len| put(1 << 30, 0, len));
    bound("blob chunk", &[0, 262_144], &[262_145], |len| {
        reply(Reply::Blob { total: 1, chunk: bytes(len) })
    });
    let past = "blob chunk past the blob's end";
    bound(past, &[(10, 0, 10), (10, 7, 3), (10, 10, 0)], &[(10, 8, 3), (10, 11, 0)], |at| {
        put(at.0, at.1, at.2)
    });
    bound(past, &[(u64::MAX, 1, 1)], &[(u64::MAX, u64::MAX, 1)], |at| put(at.0, at.1, at.2));
}

#[test]
fn of_calls() {
    bound("call of what is no call", &[], &[()], |()| Body::Open(crate::io::LinkRole::All));
    bound("call of what is no call", &[], &[()], |()| Body::Push(Push::Draining));
}

#[test]
fn of_device_lists() {
    let mut runner = TestRunner::deterministic();
    let (_, devices) =
        arbitrary::kinds().into_iter().find(|(name, _)| name == "reply.devices").unwrap();
    let one = core::iter::repeat_with(|| devices.new_tree(&mut runner).unwrap().current());
    let one = one.into_iter().find_map(|body| match body {
        Body::Reply(Reply::Devices(devices)) => devices.into_iter().next(),
        _ => None,
    });
    let one = one.unwrap();
    bound("devices", &[0, 1_024], &[1_025], |count| {
        reply(Reply::Devices(vec![one.clone(); count]))
    });
}

/// What our encoder cannot be made to write.
#[test]
fn of_texts_and_numbers() {
    let written = |fill: &dyn Fn(schema::frame::Builder<'_>)| {
        let mut builder = Builder::new_default();
        let mut root = builder.init_root::<schema::frame::Builder<'_>>();
        root.set_version(limits::WIRE_VERSION);
        fill(root);
        let mut bytes = Vec::new();
        capnp::serialize::write_message(&mut bytes, &builder).unwrap();
        decoded(&bytes)
    };
    let failure = |code: u16, detail: &[u8]| {
        written(&|frame| {
            let mut failure = frame.init_failure();
            failure.set_code(code);
            failure.set_detail(capnp::text::Reader(detail));
        })
    };
    let detail = Err(PeerFault::Malformed("error detail"));
    assert_eq!(failure(4, &[b'a'; 257]), detail);
    assert_eq!(failure(4, &[0xc3, 0x28]), detail);
    let known = |code, detail: &str| {
        let failure = Failure { detail: detail.to_owned(), ..Failure::from(code) };
        Ok(vec![Frame { call: 0, body: Body::Failure(failure) }])
    };
    assert_eq!(failure(4, b"full"), known(ErrorCode::Busy, "full"));
    // A code of a newer server: the call failed all the same.
    assert_eq!(failure(999, b"new"), known(ErrorCode::BadRequest, "new"));

    let version = written(&|frame| {
        frame.init_reply().init_health().set_version(capnp::text::Reader(&[b'1'; 65]));
    });
    assert_eq!(version, Err(PeerFault::Malformed("version text")));
    let suite = written(&|frame| {
        let mut fetch = frame.init_request().init_key_package_fetch();
        fetch.set_account(&ACCOUNT.0);
        fetch.set_suite(2);
    });
    assert_eq!(suite, Err(PeerFault::Malformed("unknown suite")));
}

/// Fields that are missing read as empty, and no identifier, key or signature is empty.
#[test]
fn a_request_without_its_fields_is_refused() {
    use capnp::traits::HasStructSize;
    let size = schema::request::Builder::<'static>::STRUCT_SIZE;
    for tag in 0..31u8 {
        let mut builder = Builder::new_default();
        let mut root = builder.init_root::<schema::frame::Builder<'_>>();
        root.set_version(limits::WIRE_VERSION);
        root.init_request();
        let mut bytes = Vec::new();
        capnp::serialize::write_message(&mut bytes, &builder).unwrap();
        let request = bytes.len() - 8 * size.total() as usize;
        let at = (0..4 * usize::from(size.data)).find(|at| {
            let mut bytes = bytes.clone();
            bytes[request + 2 * at] = 1;
            matches!(
                decoded(&bytes).as_deref(),
                Ok([Frame { body: Body::Request(Request::Health), .. }])
            )
        });
        bytes[request + 2 * at.unwrap()] = tag;
        match decoded(&bytes) {
            Ok(frames) => assert!(
                matches!(
                    &frames[0].body,
                    Body::Request(
                        Request::Ping(_)
                            | Request::Health
                            | Request::Hello
                            | Request::Logout
                            | Request::KeyPackageStatus { .. }
                            | Request::KeyPackageUpload { .. }
                            | Request::ChannelList { after: None }
                    )
                ),
                "{frames:?}"
            ),
            Err(refused) => {
                assert!(matches!(refused, PeerFault::Malformed(_)));
            }
        }
    }
}
