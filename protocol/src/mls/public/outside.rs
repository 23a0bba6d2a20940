//! What can be read of an MLSMessage (RFC 9420 §6) without any key or state, straight from the bytes: nothing is
//! allocated, every length is checked against what is there.

use crate::crypto::Backend;
use crate::id::GroupId;
use crate::mls::MlsError;
use crate::mls::rules::{check_key, invalid};
use crate::mls::suite::Suite;
use crate::wire::message::EntryKind;

use super::Peeked;

pub(in crate::mls) const MLS10: u16 = 1;
const PUBLIC_MESSAGE: u16 = 1;
const PRIVATE_MESSAGE: u16 = 2;
const GROUP_INFO: u16 = 4;
const EXTERNAL_PUB: u16 = 4;
/// HMAC-SHA-256, with either suite.
const TAG_LEN: usize = 32;

/// Takes fields of the TLS presentation language off the front of a slice.
pub(in crate::mls) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(in crate::mls) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(in crate::mls) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(in crate::mls) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(in crate::mls) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A vector with its length in front, in the shortest form (RFC 9420 §2.1.2).
    pub(in crate::mls) fn vector(&mut self) -> Option<&'a [u8]> {
        let first = *self.0.first()?;
        let length = match first >> 6 {
            0 => usize::from(self.u8()?),
            1 => usize::from(self.u16()? & 0x3FFF),
            2 => usize::try_from(self.u32()? & 0x3FFF_FFFF).ok()?,
            _ => return None,
        };
        let shortest = match length {
            0..0x40 => 0,
            0x40..0x4000 => 1,
            _ => 2,
        };
        if first >> 6 == shortest { self.take(length) } else { None }
    }

    pub(in crate::mls) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is still to be read.
    pub(in crate::mls) fn rest(&self) -> &'a [u8] {
        self.0
    }
}

/// Reads the outside of a PublicMessage or PrivateMessage.
pub(super) fn peek(payload: &[u8]) -> Result<Peeked, MlsError> {
    let mut reader = Reader::new(payload);
    read_framing(&mut reader).ok_or_else(|| invalid("not a PublicMessage or PrivateMessage"))
}

/// To behind the content type.
pub(in crate::mls) fn read_framing(reader: &mut Reader<'_>) -> Option<Peeked> {
    let (version, format) = (reader.u16()?, reader.u16()?);
    let group = GroupId::from_slice(reader.vector()?);
    let epoch = reader.u64()?;
    let private = match (version, format) {
        (MLS10, PUBLIC_MESSAGE) => false,
        (MLS10, PRIVATE_MESSAGE) => true,
        _ => return None,
    };
    if !private {
        // Sender: a member and an external one with an index, a newcomer without.
        match reader.u8()? {
            1 | 2 => drop(reader.u32()?),
            3 | 4 => {}
            _ => return None,
        }
        reader.vector()?;
    }
    let kind = match reader.u8()? {
        1 if private => EntryKind::Application,
        2 => EntryKind::Proposal,
        3 => EntryKind::Commit,
        _ => return None,
    };
    if private {
        // authenticated_data, encrypted_sender_data, ciphertext, and nothing behind (RFC 9420 §6.3)
        for _ in 0..3 {
            reader.vector()?;
        }
        if !reader.is_empty() {
            return None;
        }
    } else if reader.is_empty() {
        return None;
    }
    Some(Peeked { private, group: group?, epoch, kind })
}

/// What a GroupInfo has to be.
pub(in crate::mls) struct Expected<'a> {
    pub(in crate::mls) suite: Suite,
    /// The GroupContext after the commit, encoded.
    pub(in crate::mls) context: &'a [u8],
    /// The commit's confirmation tag; `None` for a group's first epoch, where nothing else names it.
    pub(in crate::mls) tag: Option<&'a [u8]>,
    /// The committer's leaf.
    pub(in crate::mls) signer: u32,
    /// The committer's device key after the commit.
    pub(in crate::mls) key: &'a [u8; 32],
}

/// Checks a GroupInfo (RFC 9420 §12.4.3): this epoch's context byte for byte, external_pub and nothing else, the
/// commit's confirmation tag, signed by the committer.
pub(in crate::mls) fn check_group_info(
    backend: Backend,
    message: &[u8],
    expected: &Expected<'_>,
) -> Result<(), MlsError> {
    let mut reader = Reader::new(message);
    if reader.u16() != Some(MLS10) || reader.u16() != Some(GROUP_INFO) {
        return Err(invalid("not a GroupInfo"));
    }
    let signed = reader.rest();
    if reader.take(expected.context.len()) != Some(expected.context) {
        return Err(invalid("GroupInfo of another state of the group"));
    }
    let info = read_group_info(&mut reader).ok_or_else(|| invalid("malformed GroupInfo"))?;
    if !external_pub_only(info.extensions, expected.suite) {
        return Err(invalid("GroupInfo has to carry external_pub and nothing else"));
    }
    if info.tag.len() != TAG_LEN {
        return Err(invalid("a confirmation tag of another length"));
    }
    if expected.tag.is_some_and(|tag| tag != info.tag) {
        return Err(invalid("GroupInfo with another confirmation tag than the commit"));
    }
    if info.signer != expected.signer {
        return Err(invalid("GroupInfo not signed by the committer"));
    }
    let signed = &signed[..signed.len() - info.tail];
    let content = sign_content(b"MLS 1.0 GroupInfoTBS", signed);
    let signature = info.signature.try_into().map_err(|_| invalid("GroupInfo signature"))?;
    backend
        .ed25519_verify(expected.key, &content, signature)
        .map_err(|_| invalid("GroupInfo signature"))
}

/// The leaf that a GroupInfo with that GroupContext says signed it.
pub(in crate::mls) fn group_info_signer(message: &[u8], context: &[u8]) -> Option<u32> {
    let mut reader = Reader::new(message);
    let named = (reader.u16()?, reader.u16()?, reader.take(context.len())?);
    if named != (MLS10, GROUP_INFO, context) {
        return None;
    }
    read_group_info(&mut reader).map(|info| info.signer)
}

struct Info<'a> {
    extensions: &'a [u8],
    tag: &'a [u8],
    signer: u32,
    signature: &'a [u8],
    /// Bytes of the signature field, which is last and not signed.
    tail: usize,
}

fn read_group_info<'a>(reader: &mut Reader<'a>) -> Option<Info<'a>> {
    let (extensions, tag, signer) = (reader.vector()?, reader.vector()?, reader.u32()?);
    let tail = reader.rest().len();
    let signature = reader.vector()?;
    reader.is_empty().then_some(Info { extensions, tag, signer, signature, tail })
}

fn external_pub_only(extensions: &[u8], suite: Suite) -> bool {
    let mut reader = Reader::new(extensions);
    let (kind, content) = (reader.u16(), reader.vector());
    let mut key = Reader::new(content.unwrap_or_default());
    kind == Some(EXTERNAL_PUB)
        && reader.is_empty()
        && key.vector().is_some_and(|key| check_key(suite, key).is_ok())
        && key.is_empty()
}

/// SignContent (RFC 9420 §5.1.2).
pub(super) fn sign_content(label: &[u8], content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(label.len() + content.len() + 8);
    write_vector(&mut out, label);
    write_vector(&mut out, content);
    out
}

/// A vector with its length in front, as [`Reader::vector`] reads it.
pub(in crate::mls) fn write_vector(out: &mut Vec<u8>, field: &[u8]) {
    match field.len() {
        length @ 0..0x40 => out.push(length as u8),
        length @ 0x40..0x4000 => out.extend_from_slice(&(0x4000 | length as u16).to_be_bytes()),
        length => out.extend_from_slice(&(0x8000_0000 | length as u32).to_be_bytes()),
    }
    out.extend_from_slice(field);
}
