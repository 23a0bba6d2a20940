//! The wire pinned by bytes, ours and those of Cap'n Proto's C++ implementation.

#![expect(clippy::disallowed_methods, reason = "a test that is ignored rewrites the vectors")]

use super::*;

const OURS: &[u8] = include_bytes!("../../../../../vectors/wire/v1.bin");
const THEIRS: &[u8] = include_bytes!("../../../../../vectors/wire/v1-cpp.bin");

#[test]
fn the_pinned_bytes_are_read_and_written() {
    let frames = decoded(OURS).unwrap();
    assert_eq!(frames.iter().flat_map(encoded).collect::<Vec<_>>(), OURS);
    assert_eq!(frames.len(), one_of_each().len());
    for (frame, (name, other)) in frames.iter().zip(one_of_each()) {
        assert_eq!(kind(&frame.body), kind(&other.body), "{name}");
    }
}

#[test]
fn the_cpp_implementation_writes_the_same_frames() {
    assert_eq!(decoded(THEIRS), decoded(OURS));
    assert_ne!(THEIRS, [] as [u8; 0]);
}

/// The kind as `Debug` names it.
fn kind(body: &Body) -> String {
    let debug = format!("{body:?}");
    debug.split(|c: char| !c.is_alphanumeric()).take(2).collect::<Vec<_>>().join(".")
}

#[test]
#[ignore = "writes the vectors; run by hand when a kind is new"]
fn rewrite_the_vectors() {
    let pinned = decoded(OURS).unwrap_or_default();
    let frames = one_of_each().into_iter().map(|(_, frame)| {
        let same = |other: &&Frame| kind(&other.body) == kind(&frame.body);
        pinned.iter().find(same).cloned().unwrap_or(frame)
    });
    let bytes = frames.flat_map(|frame| encoded(&frame)).collect::<Vec<_>>();
    std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/../vectors/wire/v1.bin"), bytes).unwrap();
}

#[test]
fn messages_of_other_schemas_are_refused() {
    let all_types = include_bytes!("../../../../../vectors/capnp/all-types");
    let segmented = include_bytes!("../../../../../vectors/capnp/all-types-segmented");
    assert!(matches!(decoded(all_types), Err(PeerFault::Version(_))));
    assert_eq!(decoded(segmented), Err(PeerFault::Malformed("segment count")));
    // The same with our version written over theirs, and one byte after another of theirs turned.
    for at in 18..all_types.len() {
        let mut bytes = all_types.to_vec();
        bytes[16..18].copy_from_slice(&limits::WIRE_VERSION.to_le_bytes());
        bytes[at] = !bytes[at];
        let outcome = decoded(&bytes);
        assert!(matches!(outcome, Err(PeerFault::Malformed(_))), "{at}: {outcome:?}");
    }
}
