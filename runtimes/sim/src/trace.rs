//! A trace that people read: who did what, when, with which bytes.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use qpc_protocol::crypto::portable;
use qpc_protocol::io::{LinkId, Output};
use qpc_protocol::server::op::StoreReply;
use qpc_protocol::wire::frame::Decoder;
use qpc_protocol::wire::message::{Body, Entries, Frame, Push, Reply};

use crate::world::Seen;

/// The lines of a run, shared with whoever prints them: what a run said before it broke off is there too.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    lines: Arc<Mutex<Vec<String>>>,
    links: Arc<Mutex<BTreeMap<(usize, LinkId), Decoder>>>,
}

impl Trace {
    /// Adds a line.
    pub fn say(&self, line: String) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// Takes the lines so far.
    pub fn take(&self) -> Vec<String> {
        core::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the bytes complete.
    fn frames(&self, who: usize, link: LinkId, mut bytes: &[u8]) -> String {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let decoder = links.entry((who, link)).or_default();
        let mut frames = Vec::new();
        while let Ok(Some(frame)) = decoder.next(&mut bytes) {
            frames.push(word(&frame));
        }
        frames.join(", ")
    }

    /// Something happened.
    pub(crate) fn see(&mut self, now: Duration, seen: &Seen<'_>) {
        let line = match seen {
            Seen::Output(_, Output::Read(_) | Output::Idle { .. } | Output::Persist(_), _)
            | Seen::Started(..)
            | Seen::Input(..)
            | Seen::Idle(..)
            | Seen::Opened(..) => return,
            Seen::NotStored => "store    refuses a transaction".to_owned(),
            Seen::Output(who, Output::Send { link, len, fin }, bytes) => {
                let end = if *fin { ", the last" } else { "" };
                let frames = self.frames(*who, *link, bytes);
                let who = name(*who);
                format!("{who} sends {len} bytes {} on {}{end}: {frames}", hash(bytes), link.0)
            }
            Seen::Output(who, Output::Event(event), _) => format!("{} tells {event:?}", name(*who)),
            Seen::Output(who, Output::Store(_, op), _) => {
                let op = format!("{op:?}");
                let word = op.split([' ', '(']).next().unwrap_or_default();
                format!("{} stores {word} {}", name(*who), hash(op.as_bytes()))
            }
            Seen::Output(who, output, _) => format!("{} {output:?}", name(*who)),
            Seen::Persisted(who, batch) => {
                let text = format!("{batch:?}");
                let (id, count) = (batch.id.0, batch.ops.len());
                format!("{} has batch {id}, {count} changes {}", name(*who), hash(text.as_bytes()))
            }
            Seen::Stored(ops, replies) | Seen::StoredElsewhere(ops, replies) => {
                let refused = replies.iter().filter_map(|reply| match reply {
                    StoreReply::Refused { code, .. } => Some(code.name()),
                    _ => None,
                });
                let refused: Vec<_> = refused.collect();
                format!("store    does {} operations, refuses {refused:?}", ops.len())
            }
        };
        self.say(format!("{:>14} {line}", format!("{now:.6?}")));
    }
}

/// What a frame is, in a word, and the entries that it brings.
fn word(frame: &Frame) -> String {
    let entries = |entries: &Entries| {
        let seqs = entries.entries.iter().map(|entry| format!("{}{:?}", entry.seq, entry.kind));
        let seqs: Vec<_> = seqs.collect();
        format!(
            "{:?} {} of {}, from {}",
            entries.channel,
            seqs.join(" "),
            entries.head,
            entries.first
        )
    };
    match &frame.body {
        Body::Push(Push::Entries(pushed)) => format!("push {}", entries(pushed)),
        Body::Reply(Reply::Entries(read)) => format!("reply {}", entries(read)),
        Body::Failure(failure) => format!("#{} {:?}", frame.call, failure.code),
        body => {
            let text = format!("{body:?}");
            let end = text.find(" {").unwrap_or(text.len()).min(60);
            let end = text.floor_char_boundary(end);
            format!("#{} {}", frame.call, &text[..end])
        }
    }
}

fn name(who: usize) -> String {
    if who == usize::MAX { "server  ".into() } else { format!("device {who}") }
}

/// The beginning of the SHA-256 of bytes.
fn hash(bytes: &[u8]) -> String {
    let digest = portable().sha256(&[bytes]);
    digest[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}
