//! Cases of blobs.

use bytes::Bytes;

use super::Backend;
use super::bed::{Bed, LIFE, NOW, digest, later, sender};
use crate::env::UnixMillis;
use crate::error::ErrorCode;
use crate::id::{Digest, Sender};
use crate::limits::{BLOB_BYTES, BLOB_CHUNK, UPLOADS};
use crate::server::op::{StoreOp, StoreReply};

fn put(hash: Digest, total: usize, offset: usize, chunk: &[u8]) -> StoreOp {
    put_by(sender(1, 1), hash, total, offset, chunk)
}

fn put_by(sender: Sender, hash: Digest, total: usize, offset: usize, chunk: &[u8]) -> StoreOp {
    StoreOp::PutBlob {
        sender,
        hash,
        total: total as u64,
        offset: offset as u64,
        chunk: Bytes::copy_from_slice(chunk),
        most: BLOB_BYTES,
        uploads: UPLOADS,
        expires: later(LIFE),
    }
}

fn get(hash: Digest, offset: u64, most: u64, at: UnixMillis) -> StoreOp {
    StoreOp::GetBlob { hash, offset, most, at }
}

fn received(bytes: usize) -> StoreReply {
    StoreReply::BlobPut(bytes as u64)
}

/// A blob is there when its last chunk is; an upload goes on where it stopped.
pub fn blobs_come_in_chunks(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let content: Vec<u8> = (0..=99).collect();
    let hash = Digest::of(&[&content]);
    let chunk = |from: usize, to: usize| put(hash, 100, from, &content[from..to]);
    bed.refused(get(hash, 0, 10, NOW), ErrorCode::BlobUnknown);
    assert_eq!(bed.run(put(hash, 100, 0, &[])), received(0));
    assert_eq!(bed.run(chunk(40, 70)), received(0));
    assert_eq!(bed.run(chunk(0, 40)), received(40));
    assert_eq!(bed.run(chunk(0, 40)), received(40));
    assert_eq!(bed.run(put(hash, 100, 40, &[])), received(40));
    bed.refused(get(hash, 0, 10, NOW), ErrorCode::BlobUnknown);
    bed.0.reopen();
    assert_eq!(bed.run(chunk(40, 70)), received(70));
    assert_eq!(bed.run(chunk(70, 100)), received(100));
    assert_eq!(bed.run(chunk(0, 40)), received(100));
    assert_eq!(bed.run(put(hash, 7, 3, &[1])), received(100));
    let whole = |from: usize, to: usize| StoreReply::Blob {
        total: 100,
        chunk: Bytes::copy_from_slice(&content[from..to]),
    };
    assert_eq!(bed.run(get(hash, 0, 1_000, NOW)), whole(0, 100));
    assert_eq!(bed.run(get(hash, 35, 10, NOW)), whole(35, 45));
    assert_eq!(bed.run(get(hash, 40, 30, NOW)), whole(40, 70));
    assert_eq!(bed.run(get(hash, 35, 60, NOW)), whole(35, 95));
    assert_eq!(bed.run(get(hash, 99, u64::MAX, NOW)), whole(99, 100));
    assert_eq!(bed.run(get(hash, 100, 10, NOW)), whole(100, 100));
    assert_eq!(bed.run(get(hash, 10, 0, NOW)), whole(10, 10));
    bed.refused(get(hash, 101, 10, NOW), ErrorCode::CursorInvalid);

    let empty = Digest::of(&[]);
    assert_eq!(bed.run(put(empty, 0, 0, &[])), received(0));
    let nothing = StoreReply::Blob { total: 0, chunk: Bytes::new() };
    assert_eq!(bed.run(get(empty, 0, 10, NOW)), nothing);
}

/// What does not match its hash or its length is dropped, and the upload may begin again.
pub fn wrong_blobs_are_dropped(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let content = [5_u8; 20];
    let hash = Digest::of(&[&content]);
    assert_eq!(bed.run(put(hash, 20, 0, &content[..10])), received(10));
    bed.refused(put(hash, 20, 10, &[6; 10]), ErrorCode::BlobMismatch);
    bed.refused(get(hash, 0, 10, NOW), ErrorCode::BlobUnknown);
    assert_eq!(bed.run(put(hash, 20, 10, &content[10..])), received(0));
    assert_eq!(bed.run(put(hash, 20, 0, &content[..15])), received(15));
    bed.refused(put(hash, 20, 15, &content[10..]), ErrorCode::BlobMismatch);
    assert_eq!(bed.run(put(hash, 20, 15, &content[15..])), received(0));
    bed.refused(put(digest(1), 4, 0, &[1; 4]), ErrorCode::BlobMismatch);
    bed.refused(put(digest(1), 0, 0, &[]), ErrorCode::BlobMismatch);

    // Somebody who claims another length does not stand in the way.
    assert_eq!(bed.run(put(hash, 30, 0, &content)), received(20));
    assert_eq!(bed.run(put(hash, 20, 20, &[])), received(0));
    assert_eq!(bed.run(put(hash, 30, 20, &[])), received(20));
    assert_eq!(bed.run(put(hash, 20, 0, &content)), received(20));
    assert_eq!(bed.run(put(hash, 30, 20, &[])), received(20));

    let StoreOp::PutBlob { sender, hash, total, offset, chunk, expires, .. } =
        put(digest(3), 11, 0, &[1])
    else {
        panic!("an operation that puts a blob");
    };
    let large = StoreOp::PutBlob {
        sender,
        hash,
        total,
        offset,
        chunk,
        most: 10,
        uploads: UPLOADS,
        expires,
    };
    bed.refused(large, ErrorCode::BlobTooLarge);
}

/// Who knows a hash cannot get in the way of those who have the content.
pub fn uploads_are_ones_own(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let (one, two, stranger) = (sender(1, 1), sender(1, 2), sender(9, 9));
    let content: Vec<u8> = (0..60).collect();
    let hash = Digest::of(&[&content]);
    let chunk =
        |by, from: usize, to: usize| put_by(by, hash, content.len(), from, &content[from..to]);
    let told = |by| put_by(by, hash, content.len(), 0, &[]);
    assert_eq!(bed.run(put_by(stranger, hash, 60, 0, &[9; 20])), received(20));
    assert_eq!(bed.run(told(one)), received(0));
    assert_eq!(bed.run(chunk(one, 0, 20)), received(20));
    assert_eq!(bed.run(chunk(two, 0, 10)), received(10));
    // Rubbish, another length, and more than the length: each ends the stranger's own upload only.
    bed.refused(put_by(stranger, hash, 60, 20, &[9; 40]), ErrorCode::BlobMismatch);
    assert_eq!(bed.run(put_by(stranger, hash, 61, 0, &[9; 20])), received(20));
    bed.refused(put_by(stranger, hash, 61, 20, &[9; 42]), ErrorCode::BlobMismatch);
    assert_eq!(bed.run(put_by(stranger, hash, 60, 0, &[9; 30])), received(30));
    bed.0.reopen();
    assert_eq!(bed.run(chunk(one, 20, 40)), received(40));
    assert_eq!(bed.run(told(two)), received(10));
    bed.refused(get(hash, 0, 10, NOW), ErrorCode::BlobUnknown);
    assert_eq!(bed.run(chunk(one, 40, 60)), received(60));
    // It is everyone's now, and nobody's upload of it goes on.
    for by in [one, two, stranger] {
        assert_eq!(bed.run(told(by)), received(60));
    }
    let end = StoreReply::Blob { total: 60, chunk: Bytes::copy_from_slice(&content[50..]) };
    assert_eq!(bed.run(get(hash, 50, 99, NOW)), end);
    assert_eq!(bed.run(StoreOp::Sweep { at: later(LIFE), most: 9 }), StoreReply::Swept(1));
    assert_eq!(bed.run(told(two)), received(0));
}

/// A blob ends, and whoever puts it again keeps it longer.
pub fn blobs_end(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let content = b"a blob";
    let hash = Digest::of(&[content]);
    let put = |life| StoreOp::PutBlob {
        sender: sender(1, 1),
        hash,
        total: 6,
        offset: 0,
        chunk: Bytes::from_static(content),
        most: 6,
        uploads: UPLOADS,
        expires: later(life),
    };
    assert_eq!(bed.run(put(10)), received(6));
    bed.refused(get(hash, 0, 9, later(10)), ErrorCode::BlobUnknown);
    assert_eq!(bed.run(put(20)), received(6));
    assert_eq!(bed.run(put(15)), received(6));
    let whole = StoreReply::Blob { total: 6, chunk: Bytes::from_static(content) };
    assert_eq!(bed.run(get(hash, 0, 9, later(19))), whole);
    bed.refused(get(hash, 0, 9, later(20)), ErrorCode::BlobUnknown);
    assert_eq!(bed.run(StoreOp::Sweep { at: later(19), most: 9 }), StoreReply::Swept(0));
    assert_eq!(bed.run(StoreOp::Sweep { at: later(20), most: 9 }), StoreReply::Swept(1));
    bed.refused(get(hash, 0, 9, NOW), ErrorCode::BlobUnknown);
}

/// A device that begins uploads without end loses those that rested longest; nobody else's, and no whole blob.
pub fn unfinished_uploads_are_few(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let (one, two) = (sender(1, 1), sender(1, 2));
    let content = |n: u8| vec![n; 40];
    let part = |by, n: u8, from: usize, at: u64| StoreOp::PutBlob {
        sender: by,
        hash: Digest::of(&[&content(n)]),
        total: 40,
        offset: from as u64,
        chunk: Bytes::from(vec![n; 10]),
        most: BLOB_BYTES,
        uploads: 3,
        expires: later(at),
    };
    let told = |by, n: u8| put_by(by, Digest::of(&[&content(n)]), 40, 0, &[]);
    assert_eq!(bed.run(put_by(one, Digest::of(&[&content(9)]), 40, 0, &content(9))), received(40));
    assert_eq!(bed.run(part(two, 8, 0, 1)), received(10));
    for n in 1..=3 {
        assert_eq!(bed.run(part(one, n, 0, 10 + u64::from(n))), received(10));
    }
    // What is gone on with has not rested.
    assert_eq!(bed.run(part(one, 1, 10, 20)), received(20));
    assert_eq!(bed.run(part(one, 4, 0, 15)), received(10));
    bed.0.reopen();
    for (n, left) in [(1, 20), (2, 0), (3, 10), (4, 10), (9, 40)] {
        assert_eq!(bed.run(told(one, n)), received(left), "{n}");
    }
    assert_eq!(bed.run(told(two, 8)), received(10));
    // Of those that end together the lower hash goes.
    assert_eq!(bed.run(part(one, 3, 10, 15)), received(20));
    assert_eq!(bed.run(part(one, 5, 0, 30)), received(10));
    let lower = if Digest::of(&[&content(3)]) < Digest::of(&[&content(4)]) { 3 } else { 4 };
    assert_eq!(bed.run(told(one, lower)), received(0));
    // One that begins anew with another length takes its own place.
    let StoreOp::PutBlob { sender, hash, offset, chunk, most, uploads, expires, .. } =
        part(one, 1, 0, 40)
    else {
        panic!("an operation that puts a blob");
    };
    let other = StoreOp::PutBlob { sender, hash, total: 41, offset, chunk, most, uploads, expires };
    assert_eq!(bed.run(other), received(10));
    assert_eq!(bed.run(told(one, 5)), received(10));
    assert_eq!(bed.run(told(one, 7 - lower)), received(if lower == 3 { 10 } else { 20 }));
}

/// The largest blob there may be, in chunks as they travel, with a restart on the way.
pub fn large_blobs_come_back_whole(store: &mut dyn Backend) {
    let mut bed = Bed(store);
    let total = usize::try_from(BLOB_BYTES).unwrap_or(usize::MAX);
    let content: Bytes =
        (0..total).map(|i| i.to_le_bytes()[0] ^ i.to_le_bytes()[2].wrapping_mul(31)).collect();
    let hash = Digest::of(&[&content]);
    let mut offset = 0;
    while offset < total {
        let end = total.min(offset + BLOB_CHUNK);
        let op = StoreOp::PutBlob {
            sender: sender(1, 1),
            hash,
            total: BLOB_BYTES,
            offset: offset as u64,
            chunk: content.slice(offset..end),
            most: BLOB_BYTES,
            uploads: UPLOADS,
            expires: later(LIFE),
        };
        assert_eq!(bed.run(op), received(end));
        if offset / BLOB_CHUNK == 100 {
            bed.0.reopen();
        }
        offset = end;
    }
    let mut offset = 0;
    while offset < total {
        match bed.run(get(hash, offset as u64, BLOB_CHUNK as u64, NOW)) {
            StoreReply::Blob { total: BLOB_BYTES, chunk } => {
                assert!(!chunk.is_empty());
                assert!(chunk == content[offset..offset + chunk.len()], "at {offset}");
                offset += chunk.len();
            }
            other => panic!("{other:?}"),
        }
    }
}
