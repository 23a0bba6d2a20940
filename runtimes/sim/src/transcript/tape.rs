//! Writes down what machines are given and put out.

use std::collections::{BTreeMap, VecDeque};

use qpc_protocol::env::Now;
use qpc_protocol::io::{Input, LinkId, Output, Ticket};
use qpc_protocol::wire::frame::Decoder;
use qpc_protocol::wire::message::{Body, Frame};
use serde_json::{Map, Value};

use super::command::Command;
use super::io;
use super::json::{Json, camel, hex, named, object, with};
use crate::world::{STRETCHING, Seen};

/// The server, where machines are numbered.
const SERVER: usize = usize::MAX;

/// The steps so far.
#[derive(Default)]
pub(super) struct Tape {
    pub(super) steps: Vec<Value>,
    /// What the devices are called, in order of their numbers.
    pub(super) names: Vec<&'static str>,
    /// What the other end of a link calls it.
    others: BTreeMap<(usize, LinkId), (usize, LinkId)>,
    /// What is on its way on each link: who reads it may be told of it in other pieces.
    sent: BTreeMap<(usize, LinkId), VecDeque<u8>>,
    /// What frames are in what is sent, for readers.
    decoders: BTreeMap<(usize, LinkId), Decoder>,
    /// A tick of which nothing came yet.
    ticks: BTreeMap<usize, Value>,
    /// What a machine said last, while it is idle.
    idle: BTreeMap<usize, Value>,
}

impl Tape {
    /// Something happened.
    pub(super) fn see(&mut self, seen: &Seen<'_>) {
        match seen {
            Seen::Started(who, now, seed, secrets) => {
                let mut start = vec![("seed", hex(seed))];
                match secrets {
                    Some(secrets) => start.push(("secrets", hex(secrets))),
                    None => start.push(("stretching", stretching())),
                }
                let start = start.into_iter().map(|(name, value)| (name.to_owned(), value));
                let start = Value::Object(start.collect());
                self.ticks.remove(who);
                self.step(*who, Some(*now), named("start", start));
            }
            Seen::Input(who, now, input) => self.input(*who, *now, input),
            Seen::Output(who, output, bytes) => self.output(*who, output, bytes),
            Seen::Idle(who, output, _) => self.idle(*who, output),
            Seen::Opened(device, link, at_server) => {
                self.others.insert((*device, *link), (SERVER, *at_server));
                self.others.insert((SERVER, *at_server), (*device, *link));
            }
            Seen::Persisted(..)
            | Seen::Stored(..)
            | Seen::StoredElsewhere(..)
            | Seen::NotStored => {}
        }
    }

    /// An application gave a command.
    pub(super) fn command(&mut self, who: usize, now: Now, what: &Command, ticket: Option<Ticket>) {
        let given = object([("command", what.json()), ("ticket", ticket.json())]);
        self.step(who, Some(now), given);
    }

    fn input(&mut self, who: usize, now: Now, input: &Input<'_>) {
        let stated = match input {
            Input::Bytes(link, bytes) => {
                let (other, other_link) = self.others[&(who, *link)];
                let sent = self.sent.entry((other, other_link)).or_default();
                let taken: Vec<u8> = sent.drain(..bytes.len()).collect();
                assert_eq!(taken, *bytes, "what arrives is what was sent");
                named(
                    "bytes",
                    object([
                        ("link", link.json()),
                        ("len", bytes.len().into()),
                        ("from", self.name(other).into()),
                        ("fromLink", other_link.json()),
                    ]),
                )
            }
            other => io::input(other),
        };
        let given = named("in", stated);
        if matches!(input, Input::Tick) {
            // Most come to nothing, and are left out then.
            let at = object([("at", now.json())]);
            let Value::Object(at) = at else { return };
            self.flush(who);
            self.ticks.insert(who, with(at, given));
            return;
        }
        self.step(who, Some(now), given);
    }

    fn output(&mut self, who: usize, output: &Output, bytes: &[u8]) {
        let Output::Send { link, .. } = output else {
            return self.step(who, None, named("out", io::output(output)));
        };
        self.sent.entry((who, *link)).or_default().extend(bytes);
        let decoder = self.decoders.entry((who, *link)).or_default();
        let (mut left, mut frames) = (bytes, Vec::new());
        while let Some(frame) = decoder.next(&mut left).unwrap() {
            frames.push(Value::from(word(&frame)));
        }
        let stated = io::sent(output, bytes);
        self.step(who, None, object([("out", stated), ("frames", frames.into())]));
    }

    fn idle(&mut self, who: usize, output: &Output) {
        let idle = io::output(output);
        if self.idle.get(&who) == Some(&idle) {
            self.ticks.remove(&who);
            return;
        }
        self.step(who, None, named("out", idle.clone()));
        self.idle.insert(who, idle);
    }

    fn flush(&mut self, who: usize) {
        if let Some(tick) = self.ticks.remove(&who) {
            self.push(who, tick);
        }
    }

    fn step(&mut self, who: usize, at: Option<Now>, what: Value) {
        self.flush(who);
        self.idle.remove(&who);
        let at = at.map(|now| ("at".to_owned(), now.json()));
        let step = with(at.into_iter().collect::<Map<_, _>>(), what);
        self.push(who, step);
    }

    fn push(&mut self, who: usize, step: Value) {
        let machine = ("machine".to_owned(), self.name(who).into());
        self.steps.push(with([machine].into_iter().collect::<Map<_, _>>(), step));
    }

    fn name(&self, who: usize) -> &'static str {
        if who == SERVER { "server" } else { self.names[who] }
    }
}

/// A frame by its names in the schema, with its call if it has one.
fn word(frame: &Frame) -> String {
    let text = format!("{:?}", frame.body);
    let mut words = text.split(|letter: char| !letter.is_alphanumeric()).map(camel);
    let body = words.next().unwrap_or_default();
    match frame.body {
        Body::Open(_) | Body::Push(_) => format!("{body}.{}", words.next().unwrap_or_default()),
        Body::Failure(_) => format!("{body} #{}", frame.call),
        Body::Request(_) | Body::Reply(_) => {
            format!("{body}.{} #{}", words.next().unwrap_or_default(), frame.call)
        }
    }
}

fn stretching() -> Value {
    object([
        ("memoryKib", STRETCHING.memory_kib.into()),
        ("passes", STRETCHING.passes.into()),
        ("lanes", STRETCHING.lanes.into()),
    ])
}
