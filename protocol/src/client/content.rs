//! What an application message says: the plaintext inside an MLS PrivateMessage.
//!
//! ```text
//! format (1) = 1 || seen seq (8) || seen chain (32) || kind (1) || name length (1) || username ||
//! body length (4) || body || padding (zeros, any number)
//! ```
//!
//! Numbers are big endian. `seen` is the sender's last entry of the channel's log and its chain: two members
//! who are shown different logs find out with the first message between them. The username is the sender's
//! own claim; the receiver checks it against the directory before showing it.

use zeroize::Zeroizing;

use super::metadata::Metadata;
use crate::crypto::checkpoint::Checkpoint;
use crate::id::{AccountId, Digest};
use crate::limits::{CHECKPOINTS_PER_MESSAGE, CONTENT_BYTES};
use crate::wire::message::Username;

const FORMAT: u8 = 1;
const KIND_BODY: u8 = 0x01;
const KIND_METADATA: u8 = 0x40;
const KIND_CHECKPOINTS: u8 = 0x41;

/// A decoded application message.
#[derive(Debug)]
pub(super) struct Content {
    /// The last seq that the sender had read.
    pub seq: u64,
    /// The chain up to it.
    pub chain: Digest,
    /// Who the sender says it is called.
    pub username: Option<Username>,
    /// What it says.
    pub body: ContentBody,
}

/// What a message says.
pub(super) enum ContentBody {
    /// Bytes of the application.
    Body(Zeroizing<Vec<u8>>),
    /// The group's metadata and who is called what, for those who just joined.
    Metadata { metadata: Metadata, names: Vec<(AccountId, Username)> },
    /// What the sender signed of other logs: at most [`CHECKPOINTS_PER_MESSAGE`].
    Checkpoints(Vec<Checkpoint>),
    /// Of a later version: passed over.
    Unknown,
}

// Only the size of what people say is shown.
impl core::fmt::Debug for ContentBody {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Body(body) => write!(f, "Body({} bytes)", body.len()),
            Self::Metadata { names, .. } => write!(f, "Metadata({} names)", names.len()),
            Self::Checkpoints(checkpoints) => write!(f, "Checkpoints({})", checkpoints.len()),
            Self::Unknown => f.write_str("Unknown"),
        }
    }
}

impl Content {
    /// Encodes it.
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let (kind, body): (u8, Zeroizing<Vec<u8>>) = match &self.body {
            ContentBody::Body(body) => (KIND_BODY, body.clone()),
            ContentBody::Metadata { metadata, names } => {
                (KIND_METADATA, encode_metadata(metadata, names))
            }
            ContentBody::Checkpoints(checkpoints) => {
                let bytes = checkpoints.iter().flat_map(Checkpoint::encode).collect();
                (KIND_CHECKPOINTS, Zeroizing::new(bytes))
            }
            ContentBody::Unknown => (0, Zeroizing::new(Vec::new())),
        };
        let name = self.username.as_ref().map_or("", Username::as_str).as_bytes();
        let mut out = Zeroizing::new(Vec::with_capacity(48 + name.len() + body.len()));
        out.push(FORMAT);
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.extend_from_slice(&self.chain.0);
        out.push(kind);
        out.push(u8::try_from(name.len()).unwrap_or(0));
        out.extend_from_slice(name);
        out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(&body);
        out
    }

    /// Decodes it; `None` if another member sent nonsense.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut read = Reader(bytes);
        let [FORMAT] = read.array()? else { return None };
        let seq = u64::from_be_bytes(read.array()?);
        let chain = Digest(read.array()?);
        let [kind] = read.array()?;
        let [name_len] = read.array()?;
        let name = core::str::from_utf8(read.take(name_len.into())?).ok()?;
        let username = if name.is_empty() { None } else { Some(Username::prepare(name)?) };
        let len = usize::try_from(u32::from_be_bytes(read.array()?)).ok()?;
        if len > CONTENT_BYTES {
            return None;
        }
        let body = read.take(len)?;
        if read.0.iter().any(|byte| *byte != 0) {
            return None;
        }
        let body = match kind {
            KIND_BODY => ContentBody::Body(Zeroizing::new(body.to_vec())),
            KIND_METADATA => decode_metadata(body)?,
            KIND_CHECKPOINTS => ContentBody::Checkpoints(checkpoints(body)?),
            _ => ContentBody::Unknown,
        };
        Some(Self { seq, chain, username, body })
    }
}

/// Checkpoints, one after another; `None` for anything else, none or too many of them.
pub(super) fn checkpoints(bytes: &[u8]) -> Option<Vec<Checkpoint>> {
    let (each, rest) = (bytes.chunks_exact(Checkpoint::LEN), bytes.len() % Checkpoint::LEN);
    let possible = rest == 0 && (1..=CHECKPOINTS_PER_MESSAGE).contains(&each.len());
    each.map(Checkpoint::decode).collect::<Option<_>>().filter(|_| possible)
}

fn encode_metadata(metadata: &Metadata, names: &[(AccountId, Username)]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(metadata.key.to_vec());
    out.extend_from_slice(&u16::try_from(metadata.sealed.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(&metadata.sealed);
    for (account, name) in names {
        out.extend_from_slice(&account.0);
        out.push(u8::try_from(name.as_str().len()).unwrap_or(0));
        out.extend_from_slice(name.as_str().as_bytes());
    }
    out
}

fn decode_metadata(bytes: &[u8]) -> Option<ContentBody> {
    let mut read = Reader(bytes);
    let key = Zeroizing::new(read.array()?);
    let sealed_len = u16::from_be_bytes(read.array()?);
    let sealed = read.take(sealed_len.into())?.to_vec();
    let mut names = Vec::new();
    while !read.0.is_empty() {
        let account = AccountId(read.array()?);
        let [len] = read.array()?;
        let name = core::str::from_utf8(read.take(len.into())?).ok()?;
        names.push((account, Username::prepare(name)?));
    }
    Some(ContentBody::Metadata { metadata: Metadata { key, sealed }, names })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
}
