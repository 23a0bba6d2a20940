//! Fields: presence, length, form.

use bytes::Bytes;
use capnp::{ErrorKind, text};
use zeroize::Zeroizing;

use super::super::generated::qpc_capnp as schema;
use super::super::message::{ChannelKind, Part, Token, Username};
use crate::env::UnixMillis;
use crate::error::PeerFault;
use crate::id::{AccountId, ChannelId, DeviceId, Digest, MessageId, Sender};
use crate::limits;

/// What Cap'n Proto makes of a `Data` field.
pub(super) type Field<'a> = capnp::Result<&'a [u8]>;

pub(super) fn malformed(what: &'static str) -> PeerFault {
    PeerFault::Malformed(what)
}

/// The fault behind a Cap'n Proto error.
pub(in crate::wire) fn unreadable(error: capnp::Error) -> PeerFault {
    malformed(match error.kind {
        ErrorKind::ReadLimitExceeded => "more to read than the frame is long",
        ErrorKind::MessageIsTooDeeplyNested => "nested too deeply",
        _ => "pointer",
    })
}

/// Exactly `N` bytes.
pub(super) fn array<const N: usize>(
    field: Field<'_>,
    what: &'static str,
) -> Result<[u8; N], PeerFault> {
    field.map_err(unreadable)?.try_into().map_err(|_| malformed(what))
}

pub(super) fn account(field: Field<'_>) -> Result<AccountId, PeerFault> {
    array(field, "account").map(AccountId)
}

pub(super) fn device(field: Field<'_>) -> Result<DeviceId, PeerFault> {
    array(field, "device").map(DeviceId)
}

pub(super) fn channel(field: Field<'_>) -> Result<ChannelId, PeerFault> {
    array(field, "channel").map(ChannelId)
}

pub(super) fn message(field: Field<'_>) -> Result<MessageId, PeerFault> {
    array(field, "message id").map(MessageId)
}

pub(super) fn digest(field: Field<'_>, what: &'static str) -> Result<Digest, PeerFault> {
    array(field, what).map(Digest)
}

pub(super) fn signature(field: Field<'_>) -> Result<[u8; 64], PeerFault> {
    array(field, "signature")
}

/// Exactly `len` bytes.
pub(super) fn exact(field: Field<'_>, len: usize, what: &'static str) -> Result<Bytes, PeerFault> {
    let field = field.map_err(unreadable)?;
    if field.len() == len { Ok(Bytes::copy_from_slice(field)) } else { Err(malformed(what)) }
}

/// 1 to `most` bytes.
pub(super) fn some(field: Field<'_>, most: usize, what: &'static str) -> Result<Bytes, PeerFault> {
    let bytes = any(field, most, what)?;
    if bytes.is_empty() { Err(malformed(what)) } else { Ok(bytes) }
}

/// At most `most` bytes.
pub(super) fn any(field: Field<'_>, most: usize, what: &'static str) -> Result<Bytes, PeerFault> {
    let field = field.map_err(unreadable)?;
    if field.len() <= most { Ok(Bytes::copy_from_slice(field)) } else { Err(malformed(what)) }
}

/// An MLS message in a frame of its own.
pub(super) fn payload(field: Field<'_>, what: &'static str) -> Result<Bytes, PeerFault> {
    some(field, limits::PAYLOAD_BYTES, what)
}

pub(super) fn token(field: Field<'_>) -> Result<Token, PeerFault> {
    let field = field.map_err(unreadable)?;
    if field.is_empty() || field.len() > limits::TOKEN_BYTES {
        return Err(malformed("token"));
    }
    Ok(Token(Zeroizing::new(field.to_vec())))
}

/// At most `most` bytes of UTF-8.
pub(super) fn text(
    field: capnp::Result<text::Reader<'_>>,
    most: usize,
    what: &'static str,
) -> Result<String, PeerFault> {
    let field = field.map_err(unreadable)?;
    if field.len() > most {
        return Err(malformed(what));
    }
    field.to_str().map(str::to_owned).map_err(|_| malformed(what))
}

/// A username in its prepared form, and no other.
pub(super) fn username(field: capnp::Result<text::Reader<'_>>) -> Result<Username, PeerFault> {
    let text = text(field, limits::USERNAME_BYTES, "username")?;
    Username::prepare(&text).filter(|name| name.as_str() == text).ok_or(malformed("username"))
}

pub(super) fn sender(from: capnp::Result<schema::sender::Reader<'_>>) -> Result<Sender, PeerFault> {
    let from = from.map_err(unreadable)?;
    Ok(Sender { account: account(from.get_account())?, device: device(from.get_device())? })
}

pub(super) fn channel_kind(
    kind: Result<schema::ChannelKind, capnp::NotInSchema>,
) -> Result<ChannelKind, PeerFault> {
    Ok(match kind.map_err(|_| malformed("unknown channel kind"))? {
        schema::ChannelKind::Group => ChannelKind::Group,
        schema::ChannelKind::Direct => ChannelKind::Direct,
        schema::ChannelKind::Inbox => ChannelKind::Inbox,
    })
}

/// The length of a blob: 1 to [`limits::BLOB_BYTES`].
pub(super) fn blob_len(len: u64) -> Result<u64, PeerFault> {
    if (1..=limits::BLOB_BYTES).contains(&len) { Ok(len) } else { Err(malformed("blob length")) }
}

pub(super) fn part(
    from: capnp::Result<schema::part::Reader<'_>>,
    what: &'static str,
) -> Result<Part, PeerFault> {
    use schema::part::Which;
    Ok(match from.map_err(unreadable)?.which().map_err(|_| malformed("unknown part"))? {
        Which::Inline(bytes) => Part::Inline(payload(bytes, what)?),
        Which::Blob(blob) => {
            Part::Blob { hash: digest(blob.get_hash(), what)?, len: blob_len(blob.get_len())? }
        }
    })
}

/// A list that holds no more than it may.
pub(super) fn bounded(len: u32, most: usize, what: &'static str) -> Result<(), PeerFault> {
    if len as usize <= most { Ok(()) } else { Err(malformed(what)) }
}

pub(super) fn time(millis: u64) -> UnixMillis {
    UnixMillis(millis)
}
