//! Frames made by hand to break a reader.

use super::*;

/// A struct pointer (<https://capnproto.org/encoding.html#structs>).
fn structure(offset: i32, data: u16, pointers: u16) -> u64 {
    u64::from((offset << 2) as u32) | u64::from(data) << 32 | u64::from(pointers) << 48
}

/// A list pointer: element size code and count (<https://capnproto.org/encoding.html#lists>).
fn list(offset: i32, size: u8, count: u32) -> u64 {
    u64::from((offset << 2) as u32 | 1) | u64::from(size) << 32 | u64::from(count) << 35
}

const BYTES: u8 = 2;
const POINTERS: u8 = 6;
const COMPOSITE: u8 = 7;

fn table(lengths: &[u32]) -> Vec<u8> {
    let mut table = Vec::new();
    for number in [lengths.len() as u32 - 1].iter().chain(lengths) {
        table.extend_from_slice(&number.to_le_bytes());
    }
    table.resize(table.len().next_multiple_of(8), 0);
    table
}

fn framed(segments: &[&[u64]]) -> Vec<u8> {
    let lengths = segments.iter().map(|segment| segment.len() as u32).collect::<Vec<_>>();
    let words = segments.iter().flat_map(|segment| segment.iter());
    [table(&lengths), words.flat_map(|word| word.to_le_bytes()).collect()].concat()
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
}

/// Key packages, all pointers of the list set to the first one's data and the others cut away: many pointers to one
/// place.
fn amplified(count: usize, len: usize) -> Vec<u64> {
    let upload = |count| Frame {
        call: 1,
        body: Body::Request(Request::KeyPackageUpload {
            packages: vec![vec![1; len].into(); count],
            last_resort: None,
        }),
    };
    let data = len.div_ceil(8);
    let mut words = words(&encoded(&upload(count))[8..]);
    words.truncate(words.len() - (count - 1) * data);
    let first = words.len() - data - count;
    for (index, word) in words[first..][..count].iter_mut().enumerate() {
        *word = list((count - 1 - index) as i32, BYTES, len as u32);
    }
    words
}

/// The reply `devices` with this list pointer and these words behind it.
fn devices(pointer: u64, behind: &[u64]) -> Vec<u64> {
    let frame = Frame { call: 1, body: Body::Reply(Reply::Devices(vec![])) };
    let mut words = words(&encoded(&frame)[8..]);
    // Written last: the tag of the empty list. The pointer to it is the only composite list's.
    words.pop();
    let at = words.iter().position(|word| word & 7 == 1 && word >> 32 & 7 == 7).unwrap();
    let offset = (words.len() - at - 1) as u64;
    words[at] = pointer | offset << 2;
    words.extend_from_slice(behind);
    words
}

/// Source: capnp CVE-2015-2312 and CVE-2015-2313: a tiny message, a huge traversal.
#[test]
fn regression_01_small_message_read_many_times_over() {
    assert_eq!(decoded(&framed(&[&amplified(1, 16_000)])).map(|frames| frames.len()), Ok(1));
    let too_much = Err(PeerFault::Malformed("more to read than the frame is long"));
    for count in [2, 3, 100] {
        let words = amplified(count, 16_000);
        assert_eq!(decoded(&framed(&[&words])), too_much, "{count} pointers");
        // Beside a second segment nothing is counted beforehand; the limit on reading holds as well.
        assert_eq!(decoded(&framed(&[&words, &[0]])), too_much, "{count} pointers, two segments");
    }
    // A list of half a billion structs of no size, in one word.
    let pointer = list(0, COMPOSITE, 0);
    let tag = structure((1 << 29) - 1, 0, 0);
    for frame in [framed(&[&devices(pointer, &[tag])]), framed(&[&devices(pointer, &[tag]), &[0]])]
    {
        assert!(matches!(decoded(&frame), Err(PeerFault::Malformed(_))));
    }
}

/// Source: capnp CVE-2022-46149: a list of pointers, taken for another kind of list, is read out of bounds.
#[test]
fn regression_02_lists_that_claim_what_is_not_there() {
    let past_the_end = PeerFault::Malformed("pointer");
    let device = structure(0, 1, 3);
    let record = structure(1 << 2, 1, 3);
    for (what, pointer, behind) in [
        ("composite longer than its segment", list(0, COMPOSITE, 8), vec![record, 0, 0, 0, 0]),
        (
            "elements longer than the list",
            list(0, COMPOSITE, 4),
            vec![structure(2, 1, 3), 0, 0, 0, 0],
        ),
        ("a tag that is no struct", list(0, COMPOSITE, 4), vec![list(1, BYTES, 4), 0, 0, 0, 0]),
        ("pointers past the end", list(0, POINTERS, (1 << 29) - 1), vec![device]),
        ("pointers for structs", list(0, POINTERS, 1), vec![structure(-1, 0xffff, 0xffff)]),
        ("bytes for structs", list(0, BYTES, 8), vec![0]),
        ("eight bytes each, past the end", list(0, 5, 2), vec![0]),
    ] {
        for frame in
            [framed(&[&devices(pointer, &behind)]), framed(&[&devices(pointer, &behind), &[0]])]
        {
            let refused = decoded(&frame).unwrap_err();
            assert!(matches!(refused, PeerFault::Malformed(_)), "{what}: {refused}");
        }
    }
    let words = devices(list(0, POINTERS, (1 << 29) - 1), &[device]);
    assert_eq!(decoded(&framed(&[&words])), Err(past_the_end));

    // Every word of every kind of frame, taken for every kind of pointer.
    for (name, frame) in one_of_each() {
        let good = words_of(&frame);
        for at in 0..good.len() {
            for pointer in hostile_pointers() {
                let mut bad = good.clone();
                bad[at] = pointer;
                let outcomes = [decoded(&framed(&[&bad])), decoded(&framed(&[&bad, &[0, 0]]))];
                for outcome in outcomes {
                    let quiet = matches!(
                        outcome,
                        Ok(_) | Err(PeerFault::Malformed(_) | PeerFault::Version(_))
                    );
                    assert!(quiet, "{name}: word {at} as {pointer:#x}: {outcome:?}");
                }
            }
        }
    }
}

fn words_of(frame: &Frame) -> Vec<u64> {
    words(&encoded(frame)[8..])
}

fn hostile_pointers() -> Vec<u64> {
    let far = |double: u64, word: u64, segment: u64| 2 | double << 2 | word << 3 | segment << 32;
    let mut pointers = vec![0, u64::MAX, 3, structure(-1, 0, 1), structure(-1, 0xffff, 0xffff)];
    pointers.extend([-2, 0, i32::MAX >> 2].into_iter().flat_map(|offset| {
        let lists =
            (0..8).flat_map(move |size| [1, (1 << 29) - 1].map(|count| list(offset, size, count)));
        lists.chain([structure(offset, 0, 0), structure(offset, 1, 1)])
    }));
    for double in [0, 1] {
        for word in [0, (1 << 29) - 1] {
            pointers
                .extend([0, 1, 2, u64::from(u32::MAX)].map(|segment| far(double, word, segment)));
        }
    }
    pointers
}

/// Source: capnproto's advisory of 2026-03-12: the count of segments overflows.
#[test]
fn regression_03_segment_tables_that_claim_too_much() {
    let count = |count: u32| count.to_le_bytes().to_vec();
    let limit = limits::FRAME_SEGMENTS as u32;
    let at_most = (limits::FRAME_BYTES / 8) as u32;
    let segments = Err(PeerFault::Malformed("segment count"));
    let too_large = Err(PeerFault::TooLarge);
    for (what, table, expected) in [
        ("one segment too many", count(limit), segments.clone()),
        ("the count overflows", count(u32::MAX), segments.clone()),
        ("the table's length overflows", count(u32::MAX / 4), segments),
        ("one word too many", table(&[at_most]), too_large.clone()),
        ("the longest segment", table(&[u32::MAX]), too_large.clone()),
        ("32 bits overflow", table(&[1 << 31, 1 << 31]), too_large.clone()),
        ("64 longest segments", table(&[u32::MAX; limits::FRAME_SEGMENTS]), too_large.clone()),
        ("many short ones", table(&[at_most / 63; limits::FRAME_SEGMENTS]), too_large),
        ("no root", table(&[0]), Err(PeerFault::Malformed("no root"))),
        ("no root in the first segment", table(&[0, 9]), Err(PeerFault::Malformed("no root"))),
        ("as much as is allowed", table(&[at_most - 1]), Ok(None)),
        ("as many as are allowed", table(&[1; limits::FRAME_SEGMENTS]), Ok(None)),
    ] {
        let mut decoder = Decoder::new();
        assert_eq!(decoder.next(&mut table.as_slice()), expected, "{what}");
        assert!(decoder.gathered.capacity() <= table.len(), "{what}");
        // And the same a byte at a time.
        let mut decoder = Decoder::new();
        let mut outcome = Ok(None);
        for byte in &table {
            outcome = outcome.and_then(|_| decoder.next(&mut [*byte].as_slice()));
        }
        assert_eq!(outcome, expected, "{what}");
        assert!(decoder.gathered.capacity() <= 2 * table.len(), "{what}");
    }
}

#[test]
fn padding_of_the_table_is_zero() {
    let mut bytes = framed(&[&words_of(&ping(1)), &[]]);
    assert_eq!(decoded(&bytes), Ok(vec![ping(1)]));
    bytes[12] = 1;
    assert_eq!(decoded(&bytes), Err(PeerFault::Malformed("segment table padding")));
}

#[test]
fn the_version_is_looked_at_first() {
    let unknown = Err(PeerFault::Version(2));
    let mut words = words_of(&ping(64));
    words[1] = words[1] & !0xffff | 2;
    let bytes = framed(&[&words]);
    // As soon as it is there, before the rest of the frame.
    assert_eq!(decoded(&bytes[..8 + 9]), Ok(vec![]));
    assert_eq!(decoded(&bytes[..8 + 10]), unknown);
    // Whatever else is wrong.
    words.truncate(2);
    assert_eq!(decoded(&framed(&[&words])), unknown);
    // Wherever the root lies.
    let mut elsewhere = words_of(&ping(64));
    elsewhere[1] = elsewhere[1] & !0xffff | 2;
    let pad = elsewhere[0];
    elsewhere[0] = 2 | 1 << 32;
    let root = elsewhere.split_off(1);
    let second = [[pad].as_slice(), &root].concat();
    assert_eq!(decoded(&framed(&[&elsewhere, &second])), unknown);
    // A root without data is of version zero.
    assert_eq!(decoded(&framed(&[&[0]])), Err(PeerFault::Version(0)));
}

#[test]
fn words_that_nothing_points_to_are_refused() {
    for (name, frame) in one_of_each() {
        let mut words = words_of(&frame);
        words.push(0);
        let refused = Err(PeerFault::Malformed("words that nothing points to"));
        assert_eq!(decoded(&framed(&[&words])), refused, "{name}");
    }
}

#[test]
fn what_follows_a_frame_is_the_next_one() {
    let mut decoder = Decoder::new();
    let stream = [encoded(&ping(5)), vec![0xff; 8]].concat();
    let mut input = stream.as_slice();
    assert_eq!(decoder.next(&mut input), Ok(Some(ping(5))));
    assert_eq!(decoder.next(&mut input), Err(PeerFault::Malformed("segment count")));
}

#[test]
fn nesting_is_bounded() {
    // A newer peer may send fields that this version does not know, but not a chain of them without end.
    let chain = |depth: usize| {
        let mut words = words_of(&Frame { call: 1, body: Body::Request(Request::Health) });
        let request = words.len();
        words[3] = structure(0, 1, 16);
        let tag = words[4];
        words.truncate(4);
        words.push(tag);
        words.extend([0; 15]);
        assert!(words.len() + 1 >= request);
        words.push(structure(0, 0, 1));
        words.extend((1..depth).map(|_| structure(0, 0, 1)));
        words.push(0);
        framed(&[&words])
    };
    assert_eq!(decoded(&chain(10)).map(|frames| frames.len()), Ok(1));
    assert_eq!(decoded(&chain(20)), Err(PeerFault::Malformed("nested too deeply")));
}

#[test]
fn unknown_members_are_refused() {
    let mut unknown = words_of(&Frame { call: 1, body: Body::Request(Request::Health) });
    let tag = unknown.iter().rposition(|word| *word != 0).unwrap();
    assert_eq!(unknown[tag], 1, "the tag of `health`");
    unknown[tag] = 0x7fff;
    assert_eq!(decoded(&framed(&[&unknown])), Err(PeerFault::Malformed("unknown request")));
    let mut unknown = words_of(&ping(1));
    unknown[2] = 77;
    assert_eq!(decoded(&framed(&[&unknown])), Err(PeerFault::Malformed("unknown body")));
}

proptest! {
    #[test]
    fn flipped_bits_never_panic(
        frame in arbitrary::frame(),
        segment_words in prop_oneof![Just(u32::MAX >> 4), 4..64u32],
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8u8), 1..8),
    ) {
        let mut bytes = if segment_words > 64 { encoded(&frame) } else { segmented(&frame, segment_words) };
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        let mut decoder = Decoder::new();
        let mut input = bytes.as_slice();
        while let Ok(Some(_)) = decoder.next(&mut input) {}
        prop_assert!(decoder.gathered.capacity() <= 2 * bytes.len());
    }

    #[test]
    fn garbage_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..400), plausible: bool) {
        if plausible && bytes.len() >= 24 {
            let words = (bytes.len() / 8 - 1) as u32;
            bytes[..8].copy_from_slice(&table(&[words]));
            bytes[8..16].copy_from_slice(&structure(0, 2, 1).to_le_bytes());
            bytes[16..18].copy_from_slice(&limits::WIRE_VERSION.to_le_bytes());
        }
        let mut decoder = Decoder::new();
        let mut input = bytes.as_slice();
        while let Ok(Some(_)) = decoder.next(&mut input) {}
        prop_assert!(decoder.gathered.capacity() <= 2 * bytes.len());
    }
}
