//! The wire pinned by bytes, ours and those of Cap'n Proto's C++ implementation.

use capnp::dynamic_value::Reader;
use serde_json::{Map, Value};

use super::*;
use crate::tests::{Vector, hex, read, readable, same, unhex, write};

const OURS: &str = "wire.json";
const THEIRS: &str = "wire-cpp.json";
const LIST: &str = "frames";

#[test]
fn the_pinned_bytes_are_read_and_written() {
    let pinned = read(OURS, LIST);
    let names: Vec<_> = pinned.iter().map(|vector| vector["name"].as_str().unwrap()).collect();
    let kinds = frames();
    assert_eq!(names, kinds.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), "{OURS}");
    for (vector, (name, other)) in pinned.iter().zip(kinds) {
        let bytes = unhex(&vector["bytes"]);
        let frames = readable(OURS, &name, decoded(&bytes));
        assert_eq!(frames.len(), 1, "{OURS}: {name}");
        assert_eq!(kind(&frames[0].body), kind(&other.body), "{OURS}: {name}");
        same(OURS, &name, &vector["bytes"], &hex(&encoded(&frames[0])));
        same(OURS, &format!("{name} (its values)"), &vector["values"], &values(&bytes));
    }
}

#[test]
fn the_cpp_implementation_writes_the_same_frames() {
    let (ours, theirs) = (read(OURS, LIST), read(THEIRS, LIST));
    assert_eq!(ours.len(), theirs.len(), "{THEIRS}: see .ci/schema");
    let mut differing = 0;
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let name = ours["name"].as_str().unwrap();
        assert_eq!(theirs["name"], name, "{THEIRS}");
        let [ours, theirs] = [ours, theirs].map(|vector| unhex(&vector["bytes"]));
        assert_eq!(decoded(&theirs), decoded(&ours), "{THEIRS}: {name}");
        differing += usize::from(ours != theirs);
    }
    assert!(differing > 0, "{THEIRS} has another way to lay frames out");
}

/// One frame of every kind, and another one of those of which the first shows too little.
fn frames() -> Vec<(String, Frame)> {
    let mut frames = one_of_each();
    for poor in ["reply.devices", "reply.claimedKeyPackages", "push.entries"] {
        let (_, kind) = arbitrary::kinds().into_iter().find(|(name, _)| name == poor).unwrap();
        let mut runner = TestRunner::deterministic();
        let mut drawn = core::iter::repeat_with(|| {
            let body = kind.new_tree(&mut runner).unwrap().current();
            Frame { call: if matches!(body, Body::Push(_)) { 0 } else { 6 }, body }
        });
        let richer = drawn.find(|frame| {
            let text = values(&encoded(frame)).to_string();
            text.len() < 9_000 && !text.contains("[]") && !text.contains("\"package\":null")
        });
        frames.push((format!("{poor} again"), richer.unwrap()));
    }
    frames
}

/// The kind as `Debug` names it.
fn kind(body: &Body) -> String {
    let debug = format!("{body:?}");
    debug.split(|c: char| !c.is_alphanumeric()).take(2).collect::<Vec<_>>().join(".")
}

/// What is in a frame, by the names of the schema.
fn values(bytes: &[u8]) -> Value {
    let options = ReaderOptions::new();
    let message = capnp::serialize::read_message(bytes, options).unwrap();
    value(message.get_root::<schema::frame::Reader<'_>>().unwrap().into())
}

fn value(reader: Reader<'_>) -> Value {
    match reader {
        Reader::Void => Value::Null,
        Reader::Bool(is) => is.into(),
        Reader::UInt16(number) => number.into(),
        Reader::UInt32(number) => number.into(),
        // A double, which is what many read numbers as, is exact up to 2^53 only.
        Reader::UInt64(number) => number.to_string().into(),
        Reader::Text(text) => text.to_str().unwrap().into(),
        Reader::Data(bytes) => hex(bytes),
        Reader::Enum(member) => {
            let member = member.get_enumerant().unwrap().unwrap();
            member.get_proto().get_name().unwrap().to_str().unwrap().into()
        }
        Reader::List(list) => list.iter().map(|item| value(item.unwrap())).collect(),
        Reader::Struct(of) => {
            let schema = of.get_schema();
            let plain = schema.get_non_union_fields().unwrap().iter();
            let mut fields = Map::new();
            for field in plain.chain(of.which().unwrap()) {
                let name = field.get_proto().get_name().unwrap().to_str().unwrap();
                let is_there = !is_pointer(&field) || of.has(field).unwrap();
                let there = is_there.then(|| value(of.get(field).unwrap()));
                fields.insert(name.to_owned(), there.unwrap_or_default());
            }
            fields.into()
        }
        other => panic!("no kind of field that the schema has: {other:?}"),
    }
}

/// Whether a field can be absent.
fn is_pointer(field: &capnp::schema::Field) -> bool {
    use capnp::introspect::TypeVariant::{Data, List, Struct, Text};
    let is_group = matches!(field.get_proto().which(), Ok(capnp::schema_capnp::field::Group(_)));
    !is_group && matches!(field.get_type().which(), Data | List(_) | Struct(_) | Text)
}

#[test]
#[ignore = "rewrites vectors/qpc/wire.json; what is pinned stays, new kinds are added"]
fn bless_the_wire() {
    let pinned = read(OURS, LIST);
    let frames = frames().into_iter().map(|(name, frame)| {
        let known = pinned.iter().find(|vector| vector["name"] == name.as_str());
        let known = known.and_then(|vector| decoded(&unhex(&vector["bytes"])).ok()?.pop());
        let bytes = encoded(&known.unwrap_or(frame));
        vec![("name", name.into()), ("values", values(&bytes)), ("bytes", hex(&bytes))]
    });
    write(OURS, LIST, &frames.collect::<Vec<Vector>>());
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
