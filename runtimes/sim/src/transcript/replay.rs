//! Gives fresh machines what a transcript says, and compares what they put out.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use qpc_protocol::client::{Client, Config, DIRECTORY, Stretching, UpdatePolicy};
use qpc_protocol::crypto::Backend;
use qpc_protocol::env::{Entropy, Now, UnixMillis};
use qpc_protocol::io::{Input, JobId, LinkId, LoadId, OpId, Output, Page, Target};
use qpc_protocol::job::Job;
use qpc_protocol::server::memory::MemoryStore;
use qpc_protocol::server::op::StoreOp;
use qpc_protocol::server::{Config as ServerConfig, Server, ServerSecrets};
use qpc_protocol::store::batch::Batch;
use serde_json::Value;

use super::command::Command;
use super::json::{Json, unhex};
use super::{BLESS, Conversation, io};
use crate::takeover;
use crate::world::Disk;

/// Replays a transcript on fresh machines that compute with this backend, on a thread of its own: how many steps it
/// had.
///
/// # Errors
/// Where, and by what, the machines differ from it, for people.
pub fn replay(conversation: &Conversation, text: &str, backend: Backend) -> Result<usize, String> {
    let whole: Value = serde_json::from_str(text).unwrap_or_else(|why| panic!("{why}"));
    let steps = whole["steps"].as_array().unwrap();
    takeover::run(0, || {
        let mut play = Play::new(backend);
        for (number, step) in steps.iter().enumerate() {
            play.step(step).map_err(|difference| {
                let (file, machine) = (conversation.name, &step["machine"]);
                format!(
                    "vectors/qpc/transcripts/{file}.json: step {number} ({machine}): {difference}\n\
                     If that is meant: {BLESS}\nand a commit of its own that says why."
                )
            })?;
        }
        Ok(steps.len())
    })
}

enum Machine {
    Client(Box<Client>),
    Server(Box<Server>),
}

/// A machine, and what its runtime has to keep for it.
struct Player {
    machine: Machine,
    loads: BTreeMap<LoadId, Page>,
    ops: BTreeMap<OpId, StoreOp>,
    jobs: BTreeMap<JobId, Job>,
    /// Batches that are not durable yet.
    batches: VecDeque<Batch>,
}

struct Play {
    backend: Backend,
    players: BTreeMap<String, Player>,
    disks: BTreeMap<String, Disk>,
    store: MemoryStore,
    /// What is on its way, by who sent it and on which link.
    sent: BTreeMap<(String, LinkId), VecDeque<u8>>,
}

impl Play {
    fn new(backend: Backend) -> Self {
        Self {
            backend,
            players: BTreeMap::new(),
            disks: BTreeMap::new(),
            store: MemoryStore::default(),
            sent: BTreeMap::new(),
        }
    }

    fn step(&mut self, step: &Value) -> Result<(), String> {
        let name = step["machine"].as_str().unwrap();
        let now = step.get("at").map(read_now);
        if let Some(now) = now {
            takeover::stand_at(now);
        }
        match (step.get("start"), step.get("command"), step.get("in"), step.get("out")) {
            (Some(start), ..) => self.start(name, now.unwrap(), start),
            (_, Some(command), ..) => self.command(name, now.unwrap(), command, &step["ticket"]),
            (_, _, Some(input), _) => self.input(name, now.unwrap(), input),
            (_, _, _, Some(output)) => self.output(name, output),
            _ => Err("no step".into()),
        }
    }

    fn start(&mut self, name: &str, now: Now, start: &Value) -> Result<(), String> {
        let entropy = Entropy::from_seed(unhex(&start["seed"]).try_into().unwrap());
        let machine = if start.get("secrets").is_some() {
            let secrets = ServerSecrets::decode(&unhex(&start["secrets"])).ok_or("secrets")?;
            let config = ServerConfig::new(self.backend);
            Machine::Server(Box::new(Server::new(config, secrets, entropy, now)))
        } else {
            let number = |name: &str| u32::try_from(start["stretching"][name].as_u64().unwrap());
            let stretching = Stretching {
                memory_kib: number("memoryKib").unwrap(),
                passes: number("passes").unwrap(),
                lanes: number("lanes").unwrap(),
            };
            let config = Config {
                backend: self.backend,
                server: Target("server".into()),
                stretching,
                insecure_plain: false,
                auto_connect: true,
                update: UpdatePolicy::default(),
                propose_first: false,
            };
            let page = Page { prefix: DIRECTORY.to_vec(), after: None, most: usize::MAX };
            let directory = page.read(self.disks.entry(name.to_owned()).or_default());
            let client = Client::restore(config, directory, entropy, now);
            Machine::Client(Box::new(client.map_err(|why| why.to_string())?))
        };
        let player = Player {
            machine,
            loads: BTreeMap::new(),
            ops: BTreeMap::new(),
            jobs: BTreeMap::new(),
            batches: VecDeque::new(),
        };
        self.players.insert(name.to_owned(), player);
        Ok(())
    }

    fn command(
        &mut self,
        name: &str,
        now: Now,
        command: &Value,
        ticket: &Value,
    ) -> Result<(), String> {
        let Some(Player { machine: Machine::Client(client), .. }) = self.players.get_mut(name)
        else {
            return Err("a command to no client".into());
        };
        let command = Command::read(command).ok_or("no command that transcripts know")?;
        let given = command.give(client, now).map_err(|refused| refused.to_string())?;
        same("the ticket", ticket, &given.json())
    }

    fn input(&mut self, name: &str, now: Now, stated: &Value) -> Result<(), String> {
        if let Some(of) = stated.get("bytes") {
            let from = of["from"].as_str().unwrap().to_owned();
            let from = (from, LinkId(number(&of["fromLink"])));
            let len = usize::try_from(number(&of["len"])).unwrap();
            let sent = self.sent.entry(from).or_default();
            if sent.len() < len {
                return Err(format!("{} bytes were sent, not {len}", sent.len()));
            }
            let bytes: Vec<u8> = sent.drain(..len).collect();
            return self.handle(name, now, Input::Bytes(LinkId(number(&of["link"])), &bytes));
        }
        let input = match io::read_input(stated) {
            Some(input) => input,
            None => self.answer(name, stated)?,
        };
        if let (Input::Persisted(..), Some(player)) = (&input, self.players.get_mut(name)) {
            let batch = player.batches.pop_front().ok_or("nothing is to be persisted")?;
            let disk = self.disks.entry(name.to_owned()).or_default();
            batch.ops.into_iter().for_each(|op| op.apply(disk));
        }
        same("the input", stated, &io::input(&input))?;
        self.handle(name, now, input)
    }

    /// An input that answers what the machine has asked for.
    fn answer(&mut self, name: &str, stated: &Value) -> Result<Input<'static>, String> {
        let player = self.players.get_mut(name).ok_or("no such machine")?;
        let asked = "an answer to what the machine did not ask";
        if let Some(of) = stated.get("loaded") {
            let load = LoadId(number(&of["load"]));
            let page = player.loads.remove(&load).ok_or(asked)?;
            let disk = self.disks.entry(name.to_owned()).or_default();
            Ok(Input::Loaded(load, Ok(page.read(disk))))
        } else if let Some(of) = stated.get("stored") {
            let id = OpId(number(&of["op"]));
            let op = player.ops.remove(&id).ok_or(asked)?;
            let reply = self.store.apply(&[op]).pop().ok_or("the store does not answer")?;
            Ok(Input::Stored(id, Ok(reply)))
        } else if let Some(of) = stated.get("computed") {
            let id = JobId(number(&of["job"]));
            let job = player.jobs.remove(&id).ok_or(asked)?;
            Ok(Input::Computed(id, job.run()))
        } else {
            Err(format!("no input that transcripts know: {stated}"))
        }
    }

    fn handle(&mut self, name: &str, now: Now, input: Input<'_>) -> Result<(), String> {
        let player = self.players.get_mut(name).ok_or("no such machine")?;
        let handled = match &mut player.machine {
            Machine::Client(client) => client.handle(now, input),
            Machine::Server(server) => server.handle(now, input),
        };
        handled.map_err(|fatal| fatal.to_string())
    }

    fn output(&mut self, name: &str, stated: &Value) -> Result<(), String> {
        let player = self.players.get_mut(name).ok_or("no such machine")?;
        let mut bytes = Vec::new();
        let output = match &mut player.machine {
            Machine::Client(client) => client.poll(&mut bytes),
            Machine::Server(server) => server.poll(&mut bytes),
        };
        let made = match &output {
            Output::Send { .. } => io::sent(&output, &bytes),
            output => io::output(output),
        };
        same("the output", &comparable(stated), &comparable(&made))?;
        match output {
            Output::Send { link, .. } => {
                self.sent.entry((name.to_owned(), link)).or_default().extend(bytes);
            }
            Output::Load(id, page) => drop(player.loads.insert(id, page)),
            Output::Store(id, op) => drop(player.ops.insert(id, op)),
            Output::Compute(id, job) => drop(player.jobs.insert(id, job)),
            Output::Persist(batch) => player.batches.push_back(batch),
            _ => {}
        }
        Ok(())
    }
}

/// OpenMLS stamps past epochs with the clock of the process, in a group's own records (`g/`, `r/`): they count where
/// that clock is the transcript's.
fn comparable(output: &Value) -> Cow<'_, Value> {
    if takeover::is_active() || output.get("persist").is_none() {
        return Cow::Borrowed(output);
    }
    let mut output = output.clone();
    for op in output["persist"]["ops"].as_array_mut().into_iter().flatten() {
        let key = op["put"].as_str().unwrap_or_default();
        if key.starts_with("672f") || key.starts_with("722f") {
            op["value"] = Value::Null;
        }
    }
    Cow::Owned(output)
}

fn number(of: &Value) -> u64 {
    of.as_u64().unwrap_or_else(|| panic!("no number: {of}"))
}

fn read_now(at: &Value) -> Now {
    let mono = Duration::from_nanos(number(&at["mono"]));
    Now { mono, wall: UnixMillis(number(&at["wall"])) }
}

/// What stands there is what was made.
fn same(what: &str, pinned: &Value, made: &Value) -> Result<(), String> {
    match difference(what, pinned, made) {
        Some(difference) => Err(difference),
        None => Ok(()),
    }
}

/// The first place where two values differ.
fn difference(place: &str, pinned: &Value, made: &Value) -> Option<String> {
    if pinned == made {
        return None;
    }
    match (pinned, made) {
        (Value::Object(one), Value::Object(other)) if one.keys().eq(other.keys()) => one
            .iter()
            .find_map(|(name, one)| difference(&format!("{place}.{name}"), one, &other[name])),
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            let mut pairs = one.iter().zip(other).enumerate();
            pairs.find_map(|(at, (one, other))| difference(&format!("{place}[{at}]"), one, other))
        }
        (Value::String(one), Value::String(other)) => {
            let same = one.bytes().zip(other.bytes()).take_while(|(one, other)| one == other);
            // Two digits a byte.
            let at = same.count() / 2;
            let [one, other] = [one, other].map(|text| {
                text.chars().skip(2 * at.saturating_sub(8)).take(64).collect::<String>()
            });
            Some(format!("{place} differs from byte {at} on\n  pinned …{one}…\n  made   …{other}…"))
        }
        _ => {
            let [one, other] =
                [pinned, made].map(|value| value.to_string().chars().take(300).collect::<String>());
            Some(format!("{place} differs\n  pinned {one}\n  made   {other}"))
        }
    }
}
