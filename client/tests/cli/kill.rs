//! Real processes, killed at random moments: what a `send` returned for is there, once, in one order for all.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::support::{Device, Place};

/// How often the server is killed, and how often Bob is.
const KILLS: usize = 10;
/// Messages of the two that are never killed, and of Bob, in each round.
const BY_OTHERS: usize = 7;
const BY_BOB: usize = 6;
/// No step of a healthy system takes so long, whatever else the machine does.
const PATIENCE: Duration = Duration::from_secs(60);
/// Names a seed that is to be run again.
const SEED: &str = "QPC_KILL_SEED";

/// SplitMix64: a seed that fails can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (value ^ (value >> 31)) % bound
    }

    fn millis(&mut self, bound: u64) -> Duration {
        Duration::from_millis(self.below(bound))
    }
}

/// A process that is killed with the test.
struct Process(Child);

impl Process {
    /// `kill -9`.
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What a member's process is doing.
enum Life {
    None,
    /// `qpc chat`: reads and sends all the time.
    Chat(Process, ChildStdin),
    /// `qpc send`, once per message.
    Sends(Option<Process>),
}

/// A message as a member saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    message: String,
    sender: String,
    text: String,
}

struct Member {
    name: &'static str,
    device: Device,
    /// The device's id.
    id: String,
    life: Life,
    /// Of which life what comes is; what was read before a kill may come after it.
    number: usize,
    waiting: VecDeque<String>,
    fed: Vec<String>,
    /// What a send returned for: seq and message.
    sent: BTreeMap<u64, String>,
    seen: BTreeMap<u64, Seen>,
    /// The last seq that the present life printed.
    last: u64,
    replayed: usize,
}

/// Member, life, line.
type Line = (usize, usize, Value);

struct Stage {
    place: Place,
    members: [Member; 3],
    to: Sender<Line>,
    lines: Receiver<Line>,
    random: Random,
}

const BOB: usize = 2;

#[derive(Clone, Copy, Debug)]
enum Act {
    Feed(usize),
    KillServer,
    StartServer,
    KillBob,
    StartBob,
}

fn text_of(line: &Value, key: &str) -> String {
    line[key].as_str().unwrap_or_else(|| panic!("no {key} in {line}")).to_owned()
}

impl Member {
    fn new(name: &'static str, device: Device) -> Self {
        Self {
            name,
            id: text_of(&device.ok(&["whoami"])[0], "device"),
            device,
            life: Life::None,
            number: 0,
            waiting: VecDeque::new(),
            fed: Vec::new(),
            sent: BTreeMap::new(),
            seen: BTreeMap::new(),
            last: 0,
            replayed: 0,
        }
    }

    /// Takes a line that a process of this member printed.
    fn take(&mut self, line: &Value) {
        let seq = line["seq"].as_u64().unwrap_or_else(|| panic!("{line}"));
        if line["type"] == "sent" {
            let before = self.sent.insert(seq, text_of(line, "message"));
            assert_eq!(before, None, "{}: returned twice: {line}", self.name);
            return;
        }
        assert_eq!(line["type"], "message", "{line}");
        assert!(seq > self.last, "{}: {line} after #{}", self.name, self.last);
        self.last = seq;
        let seen = Seen {
            message: text_of(line, "message"),
            sender: text_of(line, "device"),
            text: text_of(line, "text"),
        };
        match self.seen.last_key_value() {
            // Printed and not yet acknowledged when the process was killed: told again, the same.
            Some((last, _)) if *last >= seq => {
                assert_eq!(self.seen.get(&seq), Some(&seen), "{}: {line}", self.name);
                self.replayed += 1;
            }
            _ => drop(self.seen.insert(seq, seen)),
        }
    }

    fn listed(&self) -> Value {
        let mut groups = self.device.ok(&["group", "list"]);
        assert_eq!(groups.len(), 1, "{groups:?}");
        groups.remove(0)
    }
}

impl Stage {
    fn new(seed: u64) -> Self {
        let place = Place::new();
        let alice = place.registered("alice");
        let bob = place.registered("bob");
        let carol = place.registered("carol");
        place.registered("dave");
        // Bob's, so that he may invite and remove.
        bob.ok(&["group", "create", "team"]);
        bob.ok(&["group", "invite", "team", "alice", "carol"]);
        let members = [("alice", alice), ("carol", carol), ("bob", bob)]
            .map(|(name, device)| Member::new(name, device));
        for member in &members {
            member.device.ok(&["recv"]);
        }
        let (to, lines) = channel();
        Self { place, members, to, lines, random: Random(seed) }
    }

    /// Follows what a process prints. A line cut off by a kill counts for nothing.
    fn follow(&self, who: usize, child: &mut Child) {
        let (to, number) = (self.to.clone(), self.members[who].number);
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let err = child.stderr.take().unwrap();
        thread::spawn(move || {
            let mut line = String::new();
            while out.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
                let value = serde_json::from_str(&line).expect(&line);
                if to.send((who, number, value)).is_err() {
                    return;
                }
                line.clear();
            }
        });
        let name = self.members[who].name;
        // Shown with the test's output if it fails.
        thread::spawn(move || {
            for line in BufReader::new(err).lines() {
                let Ok(line) = line else { return };
                eprintln!("{name} {number}: {line}");
            }
        });
    }

    fn chat(&mut self, who: usize) {
        self.members[who].number += 1;
        self.members[who].last = 0;
        let mut child = self.members[who].device.spawn(&["chat", "team", "--json"]);
        self.follow(who, &mut child);
        let stdin = child.stdin.take().unwrap();
        self.members[who].life = Life::Chat(Process(child), stdin);
    }

    /// Gives what waits to the processes that take it.
    fn feed(&mut self) {
        for who in 0..self.members.len() {
            let member = &mut self.members[who];
            match &mut member.life {
                Life::None => {}
                Life::Chat(_, stdin) => {
                    while let Some(text) = member.waiting.pop_front() {
                        writeln!(stdin, "{text}").unwrap();
                        member.fed.push(text);
                    }
                }
                Life::Sends(process) => {
                    if let Some(process) = process {
                        match process.0.try_wait().unwrap() {
                            None => continue,
                            Some(status) => assert!(status.success(), "{}: {status}", member.name),
                        }
                    }
                    let Some(text) = member.waiting.pop_front() else { continue };
                    member.number += 1;
                    let arguments = ["send", "team", &text, "--json", "--timeout", "60"];
                    let mut child = member.device.spawn(&arguments);
                    member.fed.push(text);
                    self.follow(who, &mut child);
                    self.members[who].life = Life::Sends(Some(Process(child)));
                }
            }
        }
    }

    /// Goes on until that moment, or until something that `wanted` likes was printed.
    fn run_until(&mut self, until: Instant, wanted: impl Fn(&Value) -> bool) -> bool {
        loop {
            self.feed();
            let step =
                until.saturating_duration_since(Instant::now()).min(Duration::from_millis(5));
            match self.lines.recv_timeout(step) {
                Ok((who, _, line)) => {
                    self.members[who].take(&line);
                    if wanted(&line) {
                        return true;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("this end holds a sender"),
            }
            if Instant::now() >= until {
                return false;
            }
        }
    }

    /// Hands out a message.
    fn give(&mut self, who: usize) {
        let member = &mut self.members[who];
        let number = member.fed.len() + member.waiting.len();
        member.waiting.push_back(format!("{} {number}", member.name));
    }

    fn act(&mut self, act: Act, round: usize) {
        match act {
            Act::Feed(who) => self.give(who),
            Act::KillServer => self.place.kill_server(),
            Act::StartServer => self.place.restart_server(),
            Act::KillBob => match std::mem::replace(&mut self.members[BOB].life, Life::None) {
                Life::Chat(mut process, _) | Life::Sends(Some(mut process)) => process.kill(),
                Life::None | Life::Sends(None) => {}
            },
            Act::StartBob => self.start_bob(round),
        }
    }

    /// Bob's next life: one that chats or one that sends message by message; in some rounds a commit first, killed too.
    fn start_bob(&mut self, round: usize) {
        let commit = match round % 4 {
            1 => Some("invite"),
            3 => Some("remove"),
            _ => None,
        };
        if let Some(verb) = commit {
            let child = self.members[BOB].device.spawn(&["group", verb, "team", "dave", "--json"]);
            let mut process = Process(child);
            let until = Instant::now() + Duration::from_millis(50) + self.random.millis(400);
            self.run_until(until, |_| false);
            process.kill();
        }
        if self.random.below(2) == 0 {
            self.chat(BOB);
        } else {
            self.members[BOB].life = Life::Sends(None);
        }
    }

    /// One kill of each, at random moments while messages go around.
    fn round(&mut self, round: usize) {
        // All at once, in a rush, at leisure.
        let span = [40, 200, 800][usize::try_from(self.random.below(3)).unwrap()];
        let mut plan = Vec::new();
        for (who, count) in [(0, BY_OTHERS), (1, BY_OTHERS), (BOB, BY_BOB - 1)] {
            plan.extend((0..count).map(|_| (self.random.millis(span), Act::Feed(who))));
        }
        let dead = self.random.millis(span);
        plan.push((dead, Act::KillServer));
        plan.push((dead + self.random.millis(300), Act::StartServer));
        let dead = self.random.millis(span);
        plan.push((dead, Act::KillBob));
        plan.push((dead + self.random.millis(200), Act::StartBob));
        plan.sort_by_key(|(when, _)| *when);
        // In half of the rounds Bob is at work by now, in the others he may still be starting.
        if self.random.below(2) == 0 {
            self.give(BOB);
            let sent = self.members[BOB].sent.len();
            let until = Instant::now() + PATIENCE / 10;
            while self.members[BOB].sent.len() == sent && Instant::now() < until {
                self.run_until(Instant::now() + Duration::from_millis(5), |_| false);
            }
        } else {
            plan.push((self.random.millis(span), Act::Feed(BOB)));
            plan.sort_by_key(|(when, _)| *when);
        }
        let begin = Instant::now();
        for (when, act) in plan {
            self.run_until(begin + when, |_| false);
            self.act(act, round);
        }
        // The next round kills what works, not what still looks for the server.
        let never_killed = &self.members[..BOB];
        if never_killed.iter().any(|member| member.sent.len() < member.fed.len()) {
            let moved = self.run_until(begin + PATIENCE, |line| line["type"] == "sent");
            assert!(moved, "nothing was sent for a minute after the server was back");
        }
    }

    /// Ends all processes in peace, once what they were given is sent.
    fn finish(&mut self) {
        let until = Instant::now() + PATIENCE;
        while self.members.iter().any(|member| !member.waiting.is_empty()) {
            assert!(Instant::now() < until, "not everything could be handed out");
            self.run_until(Instant::now() + Duration::from_millis(20), |_| false);
        }
        for who in 0..self.members.len() {
            let mut process = match std::mem::replace(&mut self.members[who].life, Life::None) {
                Life::Chat(process, stdin) => {
                    drop(stdin);
                    process
                }
                Life::Sends(Some(process)) => process,
                Life::None | Life::Sends(None) => continue,
            };
            let name = self.members[who].name;
            let status = loop {
                if let Some(status) = process.0.try_wait().unwrap() {
                    break status;
                }
                assert!(Instant::now() < until, "{name} does not end");
                self.run_until(Instant::now() + Duration::from_millis(5), |_| false);
            };
            assert!(status.success(), "{name}: {status}");
        }
        // The followers say their last lines.
        self.run_until(Instant::now() + Duration::from_millis(300), |_| false);
    }

    /// What Bob was killed over before it was stored is nowhere: he sends it again, as a person would.
    fn send_again(&mut self) -> usize {
        self.read_all();
        let bob = &self.members[BOB];
        let there = |text: &String| self.members[0].seen.values().any(|seen| seen.text == *text);
        let lost: Vec<_> = bob.fed.iter().filter(|text| !there(text)).cloned().collect();
        let bob = &mut self.members[BOB];
        for text in &lost {
            let line = bob.device.ok(&["send", "team", text]).remove(0);
            bob.take(&line);
        }
        self.read_all();
        lost.len()
    }

    fn read_all(&mut self) {
        // What Bob has queued, messages and commits, goes out first.
        self.members[BOB].listed();
        for member in &mut self.members {
            member.last = 0;
            for line in member.device.ok(&["recv"]) {
                member.take(&line);
            }
        }
    }
}

/// The log, put together from what all of them saw; whoever saw an entry saw the same.
fn log_of(members: &[Member]) -> BTreeMap<u64, Seen> {
    let mut log = BTreeMap::new();
    for member in members {
        for (seq, seen) in &member.seen {
            let before = log.insert(*seq, seen.clone());
            assert!(before.is_none_or(|before| before == *seen), "#{seq} differs: {seen:?}");
        }
    }
    log
}

fn check(members: &[Member; 3], again: usize) {
    let log = log_of(members);
    let handed_out: usize = members.iter().map(|member| member.fed.len()).sum();
    assert_eq!(handed_out, KILLS * (2 * BY_OTHERS + BY_BOB));
    for member in members {
        let name = member.name;
        // Everything of the others, each once, in the log's order (the keys of a map rise).
        let of_others = log.iter().filter(|(_, seen)| seen.sender != member.id);
        assert!(of_others.eq(member.seen.iter()), "{name} saw something else than the others");
        // Everything that a send returned for, where it said.
        let own: BTreeMap<_, _> = log.iter().filter(|(_, seen)| seen.sender == member.id).collect();
        for (seq, message) in &member.sent {
            let found = own.get(seq).unwrap_or_else(|| panic!("{name}: #{seq} is lost"));
            assert_eq!(found.message, *message, "{name}: #{seq} is another");
        }
        let mut texts: Vec<_> = own.values().map(|seen| &seen.text).collect();
        if name == "bob" {
            texts.truncate(texts.len() - again);
            let order: Vec<_> =
                texts.iter().map(|text| member.fed.iter().position(|fed| *fed == **text)).collect();
            assert!(order.is_sorted(), "Bob's messages are out of order: {texts:?}");
            texts = own.values().map(|seen| &seen.text).collect();
            texts.sort();
            let mut fed: Vec<_> = member.fed.iter().collect();
            fed.sort();
            assert_eq!(texts, fed);
        } else {
            assert_eq!(texts, member.fed.iter().collect::<Vec<_>>());
            assert_eq!(member.sent.len(), member.fed.len(), "{name} was never killed");
            assert_eq!(member.replayed, 0, "{name} was never killed");
        }
    }
}

/// Three homes, one server, ten kills of the server and ten of one client during 200 messages.
#[test]
fn nothing_is_lost_or_doubled_when_server_and_client_are_killed() {
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
    });
    eprintln!("{SEED}={seed} runs the same moments again");
    let begin = Instant::now();
    let mut stage = Stage::new(seed);
    let epoch = stage.members[0].listed()["epoch"].as_u64().unwrap();
    for who in 0..stage.members.len() {
        stage.chat(who);
    }
    for round in 0..KILLS {
        stage.round(round);
    }
    stage.finish();
    let again = stage.send_again();
    check(&stage.members, again);

    // One more commit at the end: Dave, invited by a process that was killed or by this one, is no member after it.
    let bob = &stage.members[BOB].device;
    let members = bob.ok(&["group", "members", "team"]);
    let verb = if members.len() == 3 { "invite" } else { "remove" };
    bob.ok(&["group", verb, "team", "dave"]);
    let all: Vec<_> = stage.members.iter().map(Member::listed).collect();
    for key in ["epoch", "authenticator", "cursor", "members", "unread"] {
        assert!(all.iter().all(|one| one[key] == all[0][key]), "{key}: {all:?}");
    }
    assert_eq!(all[0]["unread"], 0);
    assert!(all[0]["epoch"].as_u64().unwrap() > epoch);
    eprintln!(
        "{:.1} s, {again} sent again, {} told again, epoch {epoch} to {}",
        begin.elapsed().as_secs_f32(),
        stage.members[BOB].replayed,
        all[0]["epoch"],
    );
}
