//! What crosses the network: whole frames within their limits, and of every message key one ciphertext.

use std::collections::BTreeMap;

use memchr::memmem;
use qpc_protocol::id::{Digest, Sender};
use qpc_protocol::io::LinkId;
use qpc_protocol::limits::FRAME_BYTES;
use qpc_protocol::wire::frame::Decoder;
use qpc_protocol::wire::message::{Body, Request, SubmitKind};

use super::limits::Queues;
use super::log::Broken;
use super::reader::Reader;
use crate::recorder::{MessageKey, Recorder};

/// What every planted secret begins with: contents, names of groups, passwords. The world looks for it.
pub(crate) const PLANTED: &str = "planted-7c1e93ab";

/// What was seen of the links.
#[derive(Default)]
pub(super) struct Wire {
    links: BTreeMap<(usize, LinkId), Decoder>,
    /// By message key: the ciphertext that left.
    used: BTreeMap<[u8; 16], Digest>,
    /// The last device record that each machine asked the server to take: whose.
    claims: BTreeMap<usize, Sender>,
    keys: Option<&'static Recorder>,
}

impl Wire {
    /// Nothing seen yet. `keys`: who knows what made a ciphertext.
    pub(super) fn new(keys: Option<&'static Recorder>) -> Self {
        Self { keys, ..Self::default() }
    }

    /// The same for other links.
    pub(super) fn later(&self, keys: Option<&'static Recorder>) -> Self {
        Self { keys, ..self.clone() }
    }

    /// Who a machine said that it is.
    pub(super) fn claims(&self, who: usize) -> Option<Sender> {
        self.claims.get(&who).copied()
    }

    /// A machine is another one.
    pub(super) fn forget_claim(&mut self, who: usize) {
        self.claims.remove(&who);
    }

    /// A machine begins anew: what it has sent of a frame is not continued.
    pub(super) fn started(&mut self, who: usize) {
        self.links.retain(|(of, _), _| *of != who);
    }

    /// The key that made the content of an MLSMessage.
    pub(super) fn key_of(&self, message: &[u8]) -> Option<MessageKey> {
        self.keys?.key_of(ciphertext(message)?)
    }

    /// Bytes leave a machine (`usize::MAX`: the server).
    pub(super) fn sent(
        &mut self,
        who: usize,
        link: LinkId,
        bytes: &[u8],
        reader: Option<&Reader>,
        queues: &mut Queues,
    ) -> Vec<Broken> {
        let mut broken = Vec::new();
        let mut left = bytes;
        loop {
            let decoder = self.links.entry((who, link)).or_default();
            let frame = match decoder.next(&mut left) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(fault) => {
                    broken.push(("machines send frames", fault.to_string()));
                    break;
                }
            };
            broken.extend(queues.sent(who, link, &frame));
            match &frame.body {
                Body::Request(Request::Submit(submit))
                    if submit.kind == SubmitKind::Application =>
                {
                    broken.extend(self.submitted(&submit.payload, reader));
                }
                Body::Request(Request::DeviceRegister { record, .. }) => {
                    self.claims.insert(who, record.sender());
                }
                _ => {}
            }
        }
        if bytes.len() > FRAME_BYTES {
            broken.push(("limits::FRAME_BYTES", bytes.len().to_string()));
        }
        broken
    }

    /// A ciphertext leaves a device: it is durable there, and the only one of its key.
    fn submitted(&mut self, payload: &[u8], reader: Option<&Reader>) -> Vec<Broken> {
        let mut broken = Vec::new();
        let finder = memmem::Finder::new(payload);
        let kept = |reader: &Reader| reader.outbox.values().any(|item| finder.find(item).is_some());
        if reader.is_some_and(|reader| !kept(reader)) {
            broken.push(("what leaves is durable", format!("{} bytes", payload.len())));
        }
        let Some(key) = self.key_of(payload) else { return broken };
        let digest = Digest::of(&[payload]);
        let first = *self.used.entry(key.key).or_insert(digest);
        // Who shares its keys with a thief cannot know which of them are used.
        if first != digest && !reader.is_some_and(|reader| reader.stolen) {
            broken.push(("a key makes one ciphertext", format!("{first} and {digest}")));
        }
        broken
    }
}

/// A copy is of another world: its links are others.
impl Clone for Wire {
    fn clone(&self) -> Self {
        let (used, claims) = (self.used.clone(), self.claims.clone());
        Self { links: BTreeMap::new(), used, claims, keys: self.keys }
    }
}

/// The ciphertext of an MLSMessage with a PrivateMessage (RFC 9420 §6, §6.3).
fn ciphertext(message: &[u8]) -> Option<&[u8]> {
    let rest = message.strip_prefix(&[0, 1, 0, 2])?;
    let (_group, rest) = vector(rest)?;
    let rest = rest.get(9..)?;
    let (_authenticated, rest) = vector(rest)?;
    let (_sender, rest) = vector(rest)?;
    Some(vector(rest)?.0)
}

/// A vector with a variable-size length (RFC 9420 §2.1.2).
pub(super) fn vector(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let first = *bytes.first()?;
    let size = 1 << (first >> 6);
    let (head, rest) = bytes.split_at_checked(size)?;
    let len = head.iter().fold(0_usize, |len, byte| len << 8 | usize::from(*byte));
    rest.split_at_checked(len & !(0b11 << (8 * size - 2)))
}
