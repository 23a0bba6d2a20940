//! How values of the protocol stand in a transcript.

use core::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use qpc_protocol::crypto::identity::{DeviceRecord, EnvelopeKeys, Revocation};
use qpc_protocol::env::{Now, UnixMillis};
use qpc_protocol::error::{CloseCode, ErrorCode};
use qpc_protocol::id::{AccountId, ChannelId, DeviceId, Digest, MessageId, Sender, ServerId};
use qpc_protocol::io::{BatchId, ConnId, JobId, LinkId, LoadId, OpId, Ticket};
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{
    Accepted, ChannelInfo, ChannelKind, ClaimedKeyPackage, DeviceEntry, Entry, EntryKind, Origin,
    Part, Username,
};
use serde_json::{Map, Value};

/// Longer strings of bytes stand as length and SHA-256, but for what is sent.
const IN_FULL: usize = 1024;

/// Something that a transcript can state.
pub(crate) trait Json {
    fn json(&self) -> Value;
}

/// An object of the named values, which are in scope by these names.
macro_rules! fields {
    ($($name:ident),* $(,)?) => {
        $crate::transcript::json::object([
            $((stringify!($name), $crate::transcript::json::Json::json($name))),*
        ])
    };
}

/// An object of these fields of a value.
macro_rules! fields_of {
    ($of:expr, $($name:ident),* $(,)?) => {
        $crate::transcript::json::object([
            $((stringify!($name), $crate::transcript::json::Json::json(&$of.$name))),*
        ])
    };
}

pub(super) use {fields, fields_of};

/// An object whose names are written as in the schema of the wire.
pub(super) fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Object(fields.map(|(name, value)| (camel(name), value)).into_iter().collect())
}

/// An object of one field.
pub(super) fn named(name: &str, value: Value) -> Value {
    object([(name, value)])
}

/// Puts the fields of an object behind those of another.
pub(super) fn with(mut fields: Map<String, Value>, more: Value) -> Value {
    if let Value::Object(more) = more {
        fields.extend(more);
    }
    fields.into()
}

/// `likeThis`, of `like_this` or `LikeThis`.
pub(super) fn camel(name: &str) -> String {
    let mut out = String::new();
    let mut up = false;
    for letter in name.chars() {
        match letter {
            '_' => up = true,
            _ if up => {
                out.push(letter.to_ascii_uppercase());
                up = false;
            }
            _ if out.is_empty() => out.push(letter.to_ascii_lowercase()),
            _ => out.push(letter),
        }
    }
    out
}

/// The name of an enum's variant, by its `Debug`.
pub(super) fn variant(of: &impl core::fmt::Debug) -> String {
    let text = format!("{of:?}");
    let end = text.find(|letter: char| !letter.is_alphanumeric()).unwrap_or(text.len());
    camel(&text[..end])
}

/// Bytes in full.
pub(super) fn hex(bytes: &[u8]) -> Value {
    HEXLOWER.encode(bytes).into()
}

/// Bytes that stood in full.
pub(super) fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_else(|| panic!("no hex: {value}"));
    HEXLOWER.decode(text.as_bytes()).unwrap_or_else(|why| panic!("{why}: {text}"))
}

/// A time of the monotonic clock in nanoseconds.
pub(super) fn nanos(time: Duration) -> Value {
    u64::try_from(time.as_nanos()).unwrap().into()
}

macro_rules! as_hex {
    ($($name:ident)*) => {$(
        impl Json for $name {
            fn json(&self) -> Value {
                hex(&self.0)
            }
        }
    )*};
}

macro_rules! as_number {
    ($($name:ident)*) => {$(
        impl Json for $name {
            fn json(&self) -> Value {
                self.0.into()
            }
        }
    )*};
}

macro_rules! as_encoded {
    ($($name:ident)*) => {$(
        impl Json for $name {
            fn json(&self) -> Value {
                self.encode().json()
            }
        }
    )*};
}

macro_rules! plain {
    ($($name:ty)*) => {$(
        impl Json for $name {
            fn json(&self) -> Value {
                (*self).into()
            }
        }
    )*};
}

as_hex!(AccountId ChannelId DeviceId Digest MessageId ServerId);
as_number!(BatchId ConnId JobId LinkId LoadId OpId Ticket UnixMillis CloseCode);
as_encoded!(DeviceRecord EnvelopeKeys Revocation);
plain!(bool u16 u32 u64 usize &str);

impl Json for [u8] {
    fn json(&self) -> Value {
        if self.len() <= IN_FULL {
            return hex(self);
        }
        object([("len", self.len().into()), ("sha256", Digest::of(&[self]).json())])
    }
}

impl Json for Vec<u8> {
    fn json(&self) -> Value {
        self.as_slice().json()
    }
}

impl Json for Bytes {
    fn json(&self) -> Value {
        self[..].json()
    }
}

impl<const N: usize> Json for [u8; N] {
    fn json(&self) -> Value {
        hex(self)
    }
}

impl Json for String {
    fn json(&self) -> Value {
        self.as_str().into()
    }
}

impl Json for Username {
    fn json(&self) -> Value {
        self.as_str().into()
    }
}

impl<T: Json> Json for Option<T> {
    fn json(&self) -> Value {
        self.as_ref().map(Json::json).unwrap_or_default()
    }
}

// Bytes are no list of numbers: `u8` itself has no form here.
impl<T: Json> Json for Vec<T> {
    fn json(&self) -> Value {
        self.iter().map(Json::json).collect()
    }
}

impl<A: Json, B: Json> Json for (A, B) {
    fn json(&self) -> Value {
        Value::Array(vec![self.0.json(), self.1.json()])
    }
}

impl Json for Now {
    fn json(&self) -> Value {
        object([("mono", nanos(self.mono)), ("wall", self.wall.json())])
    }
}

impl Json for Duration {
    fn json(&self) -> Value {
        nanos(*self)
    }
}

impl Json for Suite {
    fn json(&self) -> Value {
        self.number().into()
    }
}

impl Json for ErrorCode {
    fn json(&self) -> Value {
        self.name().into()
    }
}

impl Json for ChannelKind {
    fn json(&self) -> Value {
        variant(self).into()
    }
}

impl Json for EntryKind {
    fn json(&self) -> Value {
        variant(self).into()
    }
}

impl Json for Sender {
    fn json(&self) -> Value {
        fields_of!(self, account, device)
    }
}

impl Json for Part {
    fn json(&self) -> Value {
        match self {
            Self::Inline(bytes) => named("inline", bytes.json()),
            Self::Blob { hash, len } => named("blob", fields!(hash, len)),
        }
    }
}

impl Json for Origin {
    fn json(&self) -> Value {
        fields_of!(self, channel, seq, chain, tree, tree_len)
    }
}

impl Json for Entry {
    fn json(&self) -> Value {
        fields_of!(self, seq, kind, generation, epoch, sender, message, time, origin, payload)
    }
}

impl Json for Accepted {
    fn json(&self) -> Value {
        fields_of!(self, seq, chain, time, proof)
    }
}

impl Json for DeviceEntry {
    fn json(&self) -> Value {
        fields_of!(self, record, envelope_keys, revocation, last_seen)
    }
}

impl Json for ClaimedKeyPackage {
    fn json(&self) -> Value {
        fields_of!(self, device, package, last_resort)
    }
}

impl Json for ChannelInfo {
    fn json(&self) -> Value {
        fields_of!(self, channel, kind, generation, epoch, head, cursor, members)
    }
}
