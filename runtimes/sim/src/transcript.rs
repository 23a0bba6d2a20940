//! Whole conversations pinned byte for byte: every input that each machine was given and every output that it made of
//! them, as JSON (`vectors/README.md` describes the format).
//!
//! A conversation is played once in a world and written down ([`record`]). From then on fresh machines are given the
//! same inputs, on every backend, and what they put out is compared ([`replay`]).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failure is a panic")]

mod command;
mod conversations;
mod event;
mod io;
pub(crate) mod json;
mod replay;
mod stage;
mod store;
mod tape;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::takeover;

pub use conversations::CONVERSATIONS;
pub use replay::replay;

/// What makes the vectors anew.
pub const BLESS: &str = "cargo test -p qpc-protocol -p qpc-sim -- --ignored bless";

/// A conversation to be written down.
pub struct Conversation {
    /// Its name, which is its file's too.
    pub name: &'static str,
    /// What happens in it.
    pub about: &'static str,
    play: fn(&mut stage::Stage),
}

impl Conversation {
    /// Where it stands.
    pub fn path(&self) -> PathBuf {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors/qpc/transcripts");
        Path::new(folder).join(format!("{}.json", self.name))
    }
}

/// Plays a conversation: its transcript, one step a line.
pub fn record(conversation: &Conversation) -> String {
    takeover::run(SEED, || {
        let mut stage = stage::Stage::new(SEED);
        (conversation.play)(&mut stage);
        let steps = stage.steps();
        let [name, about] = [conversation.name, conversation.about].map(Value::from);
        let head = format!("\"format\": \"qpc-vectors-1\",\n\"name\": {name},\n\"about\": {about}");
        let steps: Vec<_> = steps.iter().map(line).collect();
        format!("{{\n{head},\n\"steps\": [\n{}\n]\n}}\n", steps.join(",\n"))
    })
}

/// A step as people read it: who and when before what.
fn line(step: &Value) -> String {
    let fields = ["machine", "at", "start", "command", "ticket", "in", "out", "frames"];
    let there = fields.iter().filter_map(|name| Some((name, step.get(name)?)));
    let there: Vec<_> = there.map(|(name, value)| format!("{name:?}:{value}")).collect();
    format!("{{{}}}", there.join(","))
}

/// What all randomness of the recorded worlds is drawn from.
const SEED: u64 = 0x7163_0001;
