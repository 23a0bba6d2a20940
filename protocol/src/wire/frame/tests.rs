mod bounds;
mod hostile;
mod vectors;

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;
use crate::error::ErrorCode;
use crate::wire::arbitrary;
use crate::wire::message::{Body, Failure, Reply, Request, Username};

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(frame, &mut bytes);
    bytes
}

/// Everything that a fresh decoder makes of these bytes in one chunk.
fn decoded(mut bytes: &[u8]) -> Result<Vec<Frame>, PeerFault> {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next(&mut bytes)? {
        frames.push(frame);
    }
    Ok(frames)
}

fn ping(len: usize) -> Frame {
    Frame { call: 9, body: Body::Request(Request::Ping(vec![7; len].into())) }
}

/// One frame of every kind, always the same.
pub(crate) fn one_of_each() -> Vec<(String, Frame)> {
    let mut runner = TestRunner::deterministic();
    let kinds = arbitrary::kinds().into_iter().map(|(name, kind)| {
        let body = kind.new_tree(&mut runner).unwrap().current();
        let call = if matches!(body, Body::Open(_) | Body::Push(_)) { 0 } else { 5 };
        (name, Frame { call, body })
    });
    kinds.collect()
}

/// The frame as another library may write it: cut into many segments.
fn segmented(frame: &Frame, segment_words: u32) -> Vec<u8> {
    let allocator = HeapAllocator::new()
        .first_segment_words(segment_words)
        .allocation_strategy(capnp::message::AllocationStrategy::FixedSize);
    let mut builder = Builder::new(allocator);
    write::frame(frame, builder.init_root::<schema::frame::Builder<'_>>());
    let mut bytes = Vec::new();
    capnp::serialize::write_message(&mut bytes, &builder).unwrap();
    bytes
}

#[test]
fn the_kinds_are_all_there() {
    let names = arbitrary::kinds().into_iter().map(|(name, _)| name);
    // Every member of the four unions in the schema, `request`, `reply` and `push` of the frame's own replaced
    // by theirs.
    let mut schema = BTreeSet::from(["open".to_owned(), "failure".to_owned()]);
    for (union, introspected) in [
        ("request", schema_of::<schema::request::Owned>()),
        ("reply", schema_of::<schema::reply::Owned>()),
        ("push", schema_of::<schema::push::Owned>()),
    ] {
        for field in introspected.get_union_fields().unwrap() {
            let name = field.get_proto().get_name().unwrap().to_str().unwrap();
            schema.insert(format!("{union}.{name}"));
        }
    }
    assert_eq!(names.collect::<BTreeSet<_>>(), schema);
}

fn schema_of<T: capnp::introspect::Introspect>() -> capnp::schema::StructSchema {
    let capnp::introspect::TypeVariant::Struct(schema) = T::introspect().which() else { panic!() };
    schema.into()
}

proptest! {
    #[test]
    fn any_frame_comes_back(frame in arbitrary::frame()) {
        let bytes = encoded(&frame);
        prop_assert_eq!(bytes.len(), encoded_len(&frame));
        prop_assert_eq!(&bytes[..4], &[0; 4], "one segment");
        prop_assert_eq!(decoded(&bytes), Ok(vec![frame]));
    }

    #[test]
    fn encoding_appends(frame in arbitrary::frame(), before in prop::collection::vec(any::<u8>(), 0..20)) {
        let mut bytes = before.clone();
        encode(&frame, &mut bytes);
        prop_assert_eq!(&bytes[..before.len()], before.as_slice());
        prop_assert_eq!(&bytes[before.len()..], encoded(&frame));
    }

    #[test]
    fn any_split_gives_the_same_frames(
        frames in prop::collection::vec(arbitrary::frame(), 1..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        stops in prop::collection::vec(any::<bool>(), 64),
    ) {
        let stream = frames.iter().flat_map(encoded).collect::<Vec<_>>();
        let mut cuts = cuts.into_iter().map(|cut| cut.index(stream.len() + 1)).collect::<Vec<_>>();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let mut stops = stops.into_iter().cycle();

        let mut decoder = Decoder::new();
        let mut got = Vec::new();
        for chunk in cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]) {
            let mut chunk = chunk;
            loop {
                // A machine that is busy in the middle of a chunk keeps the rest and comes back to it.
                if stops.next().unwrap() {
                    decoder.push(chunk);
                    chunk = &[];
                }
                match decoder.next(&mut chunk).unwrap() {
                    Some(frame) => got.push(frame),
                    None => break,
                }
            }
            prop_assert!(chunk.is_empty());
        }
        prop_assert_eq!(got, frames);
        prop_assert_eq!(decoder.held(), 0);
    }

    #[test]
    fn frames_in_many_segments_are_read(frame in arbitrary::frame(), words in 1..40u32) {
        let bytes = segmented(&frame, words);
        let segments = u32::from_le_bytes(*bytes.first_chunk().unwrap()) as usize + 1;
        let expected = if segments > limits::FRAME_SEGMENTS {
            Err(PeerFault::Malformed("segment count"))
        } else {
            Ok(vec![frame])
        };
        prop_assert_eq!(decoded(&bytes), expected);
    }
}

#[test]
fn a_byte_at_a_time() {
    for (name, frame) in one_of_each() {
        let mut decoder = Decoder::new();
        let bytes = encoded(&frame);
        let (last, most) = bytes.split_last().unwrap();
        for (at, byte) in most.iter().enumerate() {
            assert_eq!(decoder.next(&mut [*byte].as_slice()), Ok(None), "{name}");
            assert_eq!(decoder.held(), at + 1);
        }
        assert_eq!(decoder.next(&mut [*last].as_slice()), Ok(Some(frame)), "{name}");
        assert_eq!(decoder.held(), 0);
    }
}

#[test]
fn every_truncation_is_not_yet() {
    for (name, frame) in one_of_each() {
        let bytes = encoded(&frame);
        for len in 0..bytes.len() {
            let mut decoder = Decoder::new();
            assert_eq!(decoder.next(&mut &bytes[..len]), Ok(None), "{name} cut at {len}");
            assert_eq!(decoder.held(), len);
        }
    }
}

#[test]
fn a_whole_frame_is_read_in_place() {
    let mut decoder = Decoder::new();
    let stream = [encoded(&ping(64)), encoded(&ping(1))].concat();
    let mut input = stream.as_slice();
    assert_eq!(decoder.next(&mut input), Ok(Some(ping(64))));
    assert_eq!(input, encoded(&ping(1)));
    assert_eq!(decoder.next(&mut input), Ok(Some(ping(1))));
    assert_eq!(decoder.next(&mut input), Ok(None));
    assert_eq!(decoder.gathered.capacity(), 0);
}

#[test]
fn memory_follows_the_bytes_that_arrived_and_is_given_back() {
    let largest = Frame {
        call: 1,
        body: Body::Request(Request::ChannelCreate {
            channel: crate::id::ChannelId([1; 16]),
            kind: crate::wire::message::ChannelKind::Group,
            generation: 1,
            group_info: vec![2; 1].into(),
            tree: vec![3; limits::PAYLOAD_BYTES].into(),
            with: None,
        }),
    };
    let bytes = encoded(&largest);
    assert!(bytes.len() <= limits::FRAME_BYTES);
    let mut decoder = Decoder::new();
    let mut fed = 0;
    for chunk in bytes.chunks(1000) {
        fed += chunk.len();
        match decoder.next(&mut { chunk }).unwrap() {
            None => assert!(decoder.gathered.capacity() <= 2 * fed),
            Some(frame) => assert_eq!(frame, largest),
        }
    }
    assert_eq!(fed, bytes.len());
    assert_eq!(decoder.gathered.capacity(), 0);
}

#[test]
fn strangers_may_be_held_to_small_frames() {
    let mut decoder = Decoder::new();
    decoder.limit(encoded_len(&ping(8)));
    assert_eq!(decoder.next(&mut encoded(&ping(8)).as_slice()), Ok(Some(ping(8))));
    let large = encoded(&ping(9));
    assert_eq!(decoder.next(&mut &large[..8]), Err(PeerFault::TooLarge));
    let mut decoder = Decoder::new();
    decoder.limit(usize::MAX);
    let claim = [[0; 4], (limits::FRAME_BYTES as u32 / 8).to_le_bytes()].concat();
    assert_eq!(decoder.next(&mut claim.as_slice()), Err(PeerFault::TooLarge));
}

/// It is not gathered to its end, however long it claims to be.
#[test]
fn another_version_is_refused_as_soon_as_it_shows_however_the_stream_is_cut() {
    let mut other = encoded(&ping(30_000));
    other[16] = 9;
    for cut in 1..=18 {
        let mut decoder = Decoder::new();
        let mut pieces = other[..18].chunks(cut).map(|mut piece| decoder.next(&mut piece));
        assert_eq!(pieces.find(Result::is_err), Some(Err(PeerFault::Version(9))), "{cut}");
    }
}

#[test]
fn a_fault_stays() {
    let mut decoder = Decoder::new();
    let mut bad = encoded(&ping(3));
    bad[16] = 9;
    assert_eq!(decoder.next(&mut bad.as_slice()), Err(PeerFault::Version(9)));
    assert_eq!(decoder.next(&mut encoded(&ping(3)).as_slice()), Err(PeerFault::Version(9)));
    decoder.push(&encoded(&ping(3)));
    assert_eq!(decoder.next(&mut &[][..]), Err(PeerFault::Version(9)));
    assert_eq!(decoder.held(), 0);
}

#[test]
fn texts_for_people_are_cut_between_characters() {
    let failure = |detail: String| Frame {
        call: 1,
        body: Body::Failure(Failure { detail, ..Failure::from(ErrorCode::Busy) }),
    };
    let long = failure("é".repeat(200));
    let cut = failure("é".repeat(limits::ERROR_DETAIL_BYTES / 2));
    assert_eq!(encoded(&long).len(), encoded_len(&long));
    assert_eq!(decoded(&encoded(&long)), Ok(vec![cut]));

    let health = |version: String| Frame {
        call: 1,
        body: Body::Reply(Reply::Health { healthy: true, version, time: Default::default() }),
    };
    let long = health(format!("{}é", "v".repeat(limits::VERSION_BYTES - 1)));
    let cut = health("v".repeat(limits::VERSION_BYTES - 1));
    assert_eq!(decoded(&encoded(&long)), Ok(vec![cut]));
}

#[test]
fn usernames_cross_only_in_prepared_form() {
    let name = Username::prepare("ＡＬＩＣＥ").unwrap();
    assert_eq!(name.as_str(), "alice");
    assert_eq!(Username::prepare(&"a".repeat(64)).unwrap().as_str().len(), 64);
    assert_eq!(Username::prepare(&"a".repeat(65)), None);
    assert_eq!(Username::prepare(""), None);
    let frame = Frame { call: 1, body: Body::Request(Request::AccountLookup { username: name }) };
    let bytes = encoded(&frame);
    let at = bytes.windows(5).position(|five| five == b"alice").unwrap();
    for other in ["Alice", "al ce", "al\u{0}ce", "\u{fb01}xy"] {
        let mut bytes = bytes.clone();
        bytes[at..at + 5].copy_from_slice(&other.as_bytes()[..5]);
        assert_eq!(decoded(&bytes), Err(PeerFault::Malformed("username")), "{other}");
    }
}

proptest! {
    #[test]
    fn a_prepared_name_prepares_to_itself(name in "\\PC{1,12}") {
        if let Some(prepared) = Username::prepare(&name) {
            prop_assert_eq!(Username::prepare(prepared.as_str()), Some(prepared));
        }
    }
}
