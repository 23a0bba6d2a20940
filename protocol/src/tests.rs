//! The files of our own vectors (`vectors/README.md`), read and rewritten by the tests of what they pin.

#![expect(clippy::disallowed_methods, reason = "vectors are files")]

mod values;

use data_encoding::HEXLOWER;
use serde_json::Value;

pub(crate) use values::values;

/// What makes the vectors anew.
const BLESS: &str = "cargo test -p qpc-protocol -p qpc-sim -- --ignored bless";

fn if_that_is_meant() -> String {
    format!("If that is meant: {BLESS}\nand a commit of its own that says why.")
}

/// One vector: its fields in the order in which they are written.
pub(crate) type Vector = Vec<(&'static str, Value)>;

fn path(file: &str) -> String {
    format!("{}/../vectors/qpc/{file}", env!("CARGO_MANIFEST_DIR"))
}

/// The vectors of a file: what stands in its `list`. None, if there is no such file.
pub(crate) fn read(file: &str, list: &str) -> Vec<Value> {
    let Ok(text) = std::fs::read_to_string(path(file)) else { return Vec::new() };
    let mut whole: Value =
        serde_json::from_str(&text).unwrap_or_else(|why| panic!("{file}: {why}"));
    match whole[list].take() {
        Value::Array(vectors) => vectors,
        other => panic!("{file}: no {list} but {other}"),
    }
}

/// Writes a file: one vector a line.
pub(crate) fn write(file: &str, list: &str, vectors: &[Vector]) {
    let mut text = format!("{{\n\"format\": \"qpc-vectors-1\",\n\"{list}\": [\n");
    for (number, vector) in vectors.iter().enumerate() {
        let fields = vector.iter().map(|(name, value)| format!("{name:?}: {value}"));
        let fields = fields.collect::<Vec<_>>().join(", ");
        let end = if number + 1 == vectors.len() { "" } else { "," };
        text.push_str(&format!("{{{fields}}}{end}\n"));
    }
    text.push_str("]\n}\n");
    std::fs::write(path(file), text).unwrap();
}

/// Bytes as they stand in a file.
pub(crate) fn hex(bytes: &[u8]) -> Value {
    HEXLOWER.encode(bytes).into()
}

/// Bytes from a file.
pub(crate) fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_else(|| panic!("no hex: {value}"));
    HEXLOWER.decode(text.as_bytes()).unwrap_or_else(|why| panic!("{why}: {text}"))
}

/// A vector is what the program makes of it.
pub(crate) fn same(file: &str, name: &str, pinned: &Value, made: &Value) {
    if pinned == made {
        return;
    }
    let texts = [pinned, made].map(|value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    let [one, other] = texts.each_ref().map(String::as_bytes);
    let at = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    let place = match (pinned, made) {
        // Two digits a byte.
        (Value::String(_), Value::String(_)) => format!("byte {}", at / 2),
        _ => format!("character {at}"),
    };
    let [pinned, made] = texts.each_ref().map(|text| {
        let from = at.saturating_sub(24);
        text.chars().skip(from).take(80).collect::<String>()
    });
    panic!(
        "vectors/qpc/{file}: {name} differs from {place} on\n  pinned …{pinned}…\n  made   …{made}…\n\
         {}",
        if_that_is_meant()
    );
}

/// What was read from the bytes of a vector.
pub(crate) fn readable<T, E: core::fmt::Debug>(file: &str, name: &str, read: Result<T, E>) -> T {
    read.unwrap_or_else(|why| {
        panic!("vectors/qpc/{file}: {name} is not read any more: {why:?}\n{}", if_that_is_meant())
    })
}

#[test]
#[should_panic(expected = "vectors/qpc/file.json: a name differs from byte 2 on")]
fn a_difference_is_named() {
    same("file.json", "a name", &"000102".into(), &"000103".into());
}
