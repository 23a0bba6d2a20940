//! A place whose disks can be put back, and which can be had several times over.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Device, Done, Place, copy, finish, put_back};

/// Names the moment at which a process dies, see `qpc_server::crash_point`.
const DIES_AT: &str = "QPC_KILL_AT";
/// What a process killed by a signal has for an exit code here.
const KILLED: i32 = -1;
/// Makes a process propose who is to be added or removed, as one does whose commits have lost three races.
const PROPOSES: &str = "QPC_PROPOSE_FIRST";
/// The log of a server goes on whatever is put back.
const LOG: &str = "server.log";

/// Of Carol's, in the team.
pub(super) const UNREAD: &str = "unread when it happened";

/// Alice is the admin of `team`, and `second` a second device of hers; Bob and Carol are members; Dave and Erin are in
/// no group. A message of Carol's is unread by the others.
pub(super) struct World {
    place: Place,
    kept: Arc<Kept>,
    proposes: bool,
    /// The messages that each device has printed since the disks were put back.
    heard: Mutex<BTreeMap<String, Vec<Heard>>>,
}

/// All disks of a world as they once were.
pub(super) struct Kept {
    dir: TempDir,
    /// Where its server was.
    address: String,
    start: Start,
}

/// How things stood when they were kept.
#[derive(Default)]
pub(super) struct Start {
    /// The team's id; it may be called otherwise later.
    pub(super) team: String,
    pub(super) epoch: u64,
    pub(super) generation: u64,
    /// Since when Alice's first device has its key.
    pub(super) since: u64,
    /// The id of her second.
    second: String,
}

struct Heard {
    text: String,
    /// By a process that was killed: whether it could note that is not known.
    surely: bool,
}

/// How a command went that a kill was in the way of.
pub(super) struct Struck {
    pub(super) done: Done,
    /// Whether there was such a moment at all.
    pub(super) killed: bool,
}

impl Kept {
    fn nothing() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), address: String::new(), start: Start::default() }
    }
}

impl World {
    /// The one that all others come from.
    pub(super) fn first() -> Arc<Kept> {
        let place = Place::new();
        let alice = place.registered("alice");
        for name in ["bob", "carol", "dave", "erin"] {
            place.registered(name);
        }
        alice.ok(&["group", "create", "team"]);
        alice.ok(&["group", "invite", "team", "bob", "carol"]);
        let mut world = Self::of(place, Arc::new(Kept::nothing()));
        world.device("second").ok(&["login", "alice", "--server", world.address()]);
        // Alice's first device adds the second when it hears of it.
        while world.listed("alice")[0]["members"] != 4 {}
        for name in ["second", "bob", "carol", "dave", "erin"] {
            world.device(name).ok(&["recv"]);
        }
        world.device("carol").send("team", UNREAD);
        world.keep()
    }

    /// One with nothing in it yet.
    pub(super) fn empty(kept: &Arc<Kept>) -> Self {
        Self::of(Place::unstarted(), Arc::clone(kept))
    }

    fn of(place: Place, kept: Arc<Kept>) -> Self {
        Self { place, kept, proposes: false, heard: Mutex::default() }
    }

    /// What it is put back to from here on, how many days later, and whether commands propose instead of committing.
    pub(super) fn begin(&mut self, kept: &Arc<Kept>, days: u32, proposes: bool) {
        self.kept = Arc::clone(kept);
        self.place.days = days;
        self.proposes = proposes;
    }

    /// The home of a device is as it was when the disks were last put back.
    pub(super) fn restore(&self, name: &str) {
        put_back(&self.device(name), &self.kept.dir.path().join(name));
        self.readdress();
    }

    /// How things are now.
    pub(super) fn keep(&mut self) -> Arc<Kept> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        // What was known before is not looked up again, nor does anybody connect: that might set something going.
        let (since, second) = match self.start() {
            Start { since: 0, .. } => {
                (self.since(), text(&self.device("second").ok(&["whoami"])[0]["device"]))
            }
            known => (known.since, known.second.clone()),
        };
        // Carol has read everything.
        let team = &self.device("carol").ok(&["group", "list", "--offline"])[0];
        let start = Start {
            team: text(&team["group"]),
            epoch: team["epoch"].as_u64().unwrap(),
            generation: team["generation"].as_u64().unwrap(),
            since,
            second,
        };
        self.place.kill_server();
        let dir = tempfile::tempdir().unwrap();
        copy(self.place.dir.path(), dir.path());
        drop(fs::remove_file(dir.path().join(LOG)));
        Arc::new(Kept { dir, address: self.place.address.clone(), start })
    }

    /// All disks are as they were when it began; the server dies at that moment of its life.
    pub(super) fn put_back(&mut self, server_dies_at: Option<u64>) {
        self.heard.lock().unwrap().clear();
        self.place.kill_server();
        clear(self.place.dir.path());
        copy(self.kept.dir.path(), self.place.dir.path());
        self.place.extra = server_dies_at.map(|at| (DIES_AT, at.to_string()));
        self.place.restart_server();
        self.place.extra = None;
        self.readdress();
    }

    /// Homes remember where their server was when they were kept.
    fn readdress(&self) {
        for entry in fs::read_dir(self.place.dir.path()).unwrap() {
            let file = entry.unwrap().path().join("config.toml");
            if let Ok(text) = fs::read_to_string(&file) {
                fs::write(&file, text.replace(&self.kept.address, &self.place.address)).unwrap();
            }
        }
    }

    pub(super) fn start(&self) -> &Start {
        &self.kept.start
    }

    pub(super) fn address(&self) -> &str {
        &self.place.address
    }

    pub(super) fn device(&self, name: &str) -> Device {
        let mut device = self.place.device(name);
        // Devices of Alice's account.
        if ["second", "third"].contains(&name) {
            device.password = self.place.device("alice").password;
        }
        device
    }

    /// Runs a command whose process dies at that moment.
    pub(super) fn killed(&self, by: &str, arguments: &[&str], at: u64) -> Struck {
        let mut command = self.command(by, arguments);
        let done = finish(command.env(DIES_AT, at.to_string()).spawn().unwrap());
        self.take(by, &done);
        Struck { killed: done.code == KILLED, done }
    }

    /// Runs a command whose server dies at the moment that it was started for; it is started again at once.
    pub(super) fn abandoned(&mut self, by: &str, arguments: &[&str]) -> Struck {
        let mut child = self.command(by, arguments).args(["--timeout", "30"]).spawn().unwrap();
        let mut killed = false;
        while is_running(&mut child) {
            killed |= self.revive();
            thread::sleep(Duration::from_millis(2));
        }
        killed |= self.revive();
        if !killed {
            // It was to die later: what comes now shall not be disturbed.
            self.place.kill_server();
            self.place.restart_server();
        }
        let done = finish(child);
        self.take(by, &done);
        Struck { done, killed }
    }

    /// Runs a command undisturbed.
    pub(super) fn run(&self, by: &str, arguments: &[&str]) -> Done {
        let done = finish(self.command(by, arguments).spawn().unwrap());
        self.take(by, &done);
        done
    }

    fn command(&self, by: &str, arguments: &[&str]) -> Command {
        let mut command = self.device(by).command(&self.filled(arguments));
        if self.proposes {
            command.env(PROPOSES, "1");
        }
        command.arg("--json");
        command
    }

    fn filled<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        let fill = |word: &&'a str| match *word {
            "<server>" => self.address(),
            "<second>" => self.start().second.as_str(),
            word => word,
        };
        arguments.iter().map(fill).collect()
    }

    /// Notes the messages that a command printed. What was printed by a process that was killed may be told again.
    fn take(&self, by: &str, done: &Done) {
        let surely = done.code != KILLED;
        let mut heard = self.heard.lock().unwrap();
        let heard = heard.entry(by.to_owned()).or_default();
        for line in done.out.lines() {
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            let Some(text) = line["text"].as_str().filter(|_| line["type"] == "message") else {
                continue;
            };
            match heard.iter_mut().find(|other| other.text == text) {
                None => heard.push(Heard { text: text.to_owned(), surely }),
                Some(other) => {
                    assert!(!other.surely, "{by}: told twice: {text}");
                    other.surely = surely;
                }
            }
        }
    }

    /// Reads what is unread, and returns all that this device was told so far.
    pub(super) fn hear(&self, name: &str) -> Vec<String> {
        let done = self.run(name, &["recv"]);
        assert_eq!(done.code, 0, "{name}: {}", done.err);
        self.heard.lock().unwrap()[name].iter().map(|heard| heard.text.clone()).collect()
    }

    /// Starts the server again if it has died.
    fn revive(&mut self) -> bool {
        let died = !self.place.server.as_mut().is_some_and(is_running);
        if died {
            self.place.restart_server();
        }
        died
    }

    /// What `by` lists, once what it had queued has gone out.
    pub(super) fn listed(&self, by: &str) -> Vec<Value> {
        self.device(by).ok(&["group", "list"])
    }

    /// Since when Alice's first device has its key.
    pub(super) fn since(&self) -> u64 {
        let id = &self.device("alice").ok(&["whoami"])[0]["device"];
        let devices = self.device("second").ok(&["devices", "list"]);
        let first = devices.iter().find(|device| device["device"] == *id).unwrap();
        first["since"].as_u64().unwrap()
    }

    /// The team, as `by` has it now.
    pub(super) fn team(&self, by: &str) -> Value {
        let listed = self.listed(by);
        let team = listed.iter().find(|group| group["group"] == self.start().team.as_str());
        team.unwrap_or_else(|| panic!("{by}: {listed:?}")).clone()
    }
}

fn is_running(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_none()
}

fn clear(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => fs::remove_dir_all(&path).unwrap(),
            false if path.ends_with(LOG) => {}
            false => fs::remove_file(&path).unwrap(),
        }
    }
}
