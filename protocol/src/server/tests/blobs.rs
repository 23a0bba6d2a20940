//! Bundles whose parts are blobs, and those who send what is none.

use bytes::Bytes;

use super::channels::{CHANNEL, pair};
use super::device::*;
use super::harness::*;
use crate::error::{CloseCode, ErrorCode};
use crate::id::{ChannelId, Digest, MessageId};
use crate::io::LinkId;
use crate::limits::{BLOB_CHUNK, BUNDLE_BYTES, COMMIT_BYTES};
use crate::mls::group::{Plan, Received};
use crate::wire::message::{CommitBundle, Part, Reply, Request};

fn bundle(request: Request) -> CommitBundle {
    match request {
        Request::Commit(bundle) => bundle,
        other => panic!("{other:?}"),
    }
}

fn bytes(part: &Part) -> &Bytes {
    match part {
        Part::Inline(bytes) => bytes,
        Part::Blob { .. } => panic!("a blob"),
    }
}

/// The same bytes as a blob.
fn blob(part: &Part) -> Part {
    Part::Blob { hash: part.hash(), len: part.len() }
}

fn put(world: &mut World, link: LinkId, content: &Bytes, end: usize) {
    let (hash, total) = (Digest::of(&[content]), content.len() as u64);
    let request = Request::BlobPut { hash, total, offset: 0, chunk: content.slice(..end) };
    let reply = world.call(link, request).unwrap();
    assert_eq!(reply, Reply::BlobPut { received: end as u64 });
}

#[test]
fn a_bundle_of_blobs_is_checked_as_one_of_bytes() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    let mut bob = Device::new(&mut world, "bob");
    bob.upload(&mut world, 3);
    alice.found(&mut world, CHANNEL);
    let adds = alice.claim(&mut world, bob.id()).iter().map(|p| p.to_vec()).collect();
    let inline = bundle(alice.commit_request(&world, CHANNEL, &Plan { adds, ..Plan::default() }));
    let welcome = inline.welcome.clone().unwrap();
    put(&mut world, alice.link, bytes(&inline.commit), bytes(&inline.commit).len());
    put(&mut world, alice.link, bytes(&welcome), bytes(&welcome).len());
    let blobs = CommitBundle {
        commit: blob(&inline.commit),
        welcome: Some(blob(&welcome)),
        ..inline.clone()
    };
    let first = accepted(world.call(alice.link, Request::Commit(blobs)));
    alice.merge(&world);
    // It needs no blob, so the log has it itself; and it is the same submission either way.
    assert_eq!(alice.read(&mut world, CHANNEL, 0)[0].payload, inline.commit);
    assert_eq!(accepted(world.call(alice.link, Request::Commit(inline))), first);
    bob.join(&mut world);
    bob.say(&mut world, CHANNEL, "here");
}

#[test]
fn blobs_that_are_not_what_they_should_be_change_nothing() {
    let mut world = World::new();
    let (mut alice, mut bob) = pair(&mut world);
    let good = bundle(alice.commit_request(&world, CHANNEL, &Plan::default()));
    let content = bytes(&good.commit).clone();
    let with = |commit: Part| Request::Commit(CommitBundle { commit, ..good.clone() });
    let named = |len: u64| Part::Blob { hash: Digest::of(&[&content]), len };
    let len = content.len() as u64;
    // Missing, begun only, of another length.
    assert_eq!(world.fails(alice.link, with(named(len))), ErrorCode::BlobUnknown);
    put(&mut world, alice.link, &content, 20);
    assert_eq!(world.fails(alice.link, with(named(len))), ErrorCode::BlobUnknown);
    // Who uploaded it does not matter.
    put(&mut world, bob.link, &content, content.len());
    assert_eq!(world.fails(alice.link, with(named(len + 1))), ErrorCode::BlobMismatch);
    assert_eq!(world.fails(alice.link, with(named(len - 1))), ErrorCode::BlobMismatch);
    let too_long = with(named(COMMIT_BYTES as u64 + 1));
    assert_eq!(world.fails(alice.link, too_long), ErrorCode::PayloadTooLarge);
    // Of other bytes: no commit at all, or one that was bent.
    let mut bent = content.to_vec();
    bent[content.len() / 2] ^= 1;
    for other in [Bytes::from_static(b"no commit"), bent.into()] {
        put(&mut world, bob.link, &other, other.len());
        let other = with(blob(&Part::Inline(other)));
        assert_eq!(world.fails(alice.link, other), ErrorCode::CommitInvalid);
    }
    let welcome = Some(Part::Blob { hash: Digest([9; 32]), len: 7 });
    let unknown = Request::Commit(CommitBundle { welcome, ..good.clone() });
    assert_eq!(world.fails(alice.link, unknown), ErrorCode::BlobUnknown);
    // The server knows bob: he names the blob as a commit of his.
    assert_eq!(world.fails(bob.link, with(named(len))), ErrorCode::CommitInvalid);
    accepted(world.call(alice.link, with(named(len))));
    alice.merge(&world);
    let entry = bob.read(&mut world, CHANNEL, 1).remove(0);
    assert!(matches!(bob.receive(&world, &entry.payload), Received::Commit(_)));
}

/// Blobs are read only as far as there is room for them in memory, and room comes back.
#[test]
fn commits_that_name_more_than_there_is_room_for_wait() {
    let mut world = World::new();
    let mut alice = Device::new(&mut world, "alice");
    let fit = BUNDLE_BYTES / COMMIT_BYTES;
    let mut named = Vec::new();
    for n in 0..=fit {
        let channel = ChannelId([u8::try_from(n).unwrap(); 16]);
        alice.found(&mut world, channel);
        named.push(Request::Commit(CommitBundle {
            commit: Part::Blob { hash: Digest([1; 32]), len: COMMIT_BYTES as u64 },
            message: MessageId([u8::try_from(n).unwrap(); 16]),
            ..bundle(alice.commit_request(&world, channel, &Plan::default()))
        }));
    }
    for _ in 0..2 {
        world.disk = Disk::Waits;
        let calls: Vec<_> =
            named.iter().map(|request| world.ask(alice.link, request.clone())).collect();
        world.settle();
        // Now the probes, then the reads of blobs.
        world.flush_once();
        world.flush();
        world.disk = Disk::Works;
        let answers = calls.into_iter().map(|call| world.answer(alice.link, call).unwrap());
        let codes: Vec<_> = answers.map(code).collect();
        let busy = codes.iter().filter(|code| **code == ErrorCode::Busy).count();
        let unknown = codes.iter().filter(|code| **code == ErrorCode::BlobUnknown).count();
        assert_eq!((unknown, busy), (fit, 1));
    }
}

#[test]
fn blobs_are_put_in_chunks_and_read_back() {
    let mut world = World::new();
    let alice = Device::new(&mut world, "alice");
    let bytes: Vec<u8> = (0..600_000u32).map(|at| at as u8).collect();
    let (hash, total) = (Digest::of(&[&bytes]), bytes.len() as u64);
    let put = |offset: usize, end: usize, hash, total| Request::BlobPut {
        hash,
        total,
        offset: offset as u64,
        chunk: Bytes::copy_from_slice(&bytes[offset..end]),
    };
    let step = BLOB_CHUNK;
    let mut offset = 0;
    while offset < bytes.len() {
        let end = bytes.len().min(offset + step);
        let reply = world.call(alice.link, put(offset, end, hash, total)).unwrap();
        assert_eq!(reply, Reply::BlobPut { received: end as u64 });
        offset = end;
    }
    let get = |offset| Request::BlobGet { hash, offset };
    match world.call(alice.link, get(step as u64)).unwrap() {
        Reply::Blob { total: length, chunk } => {
            assert_eq!((length, &chunk[..]), (total, &bytes[step..2 * step]));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(world.fails(alice.link, get(total + 1)), ErrorCode::CursorInvalid);
    let unknown = Request::BlobGet { hash: Digest([1; 32]), offset: 0 };
    assert_eq!(world.fails(alice.link, unknown), ErrorCode::BlobUnknown);
    let other = put(0, 100, Digest([2; 32]), 100);
    assert_eq!(world.fails(alice.link, other), ErrorCode::BlobMismatch);
    world.ask(alice.link, put(0, 100, hash, 99));
    world.settle();
    assert_eq!(world.close_code(alice.link), Some(CloseCode::MALFORMED));
}
