//! Crash everywhere: a script is run once to count the batches of each device and the transactions of the server, and
//! then again for each of them, with a crash there, and another at the first one of the recovery. After each, all that
//! the script wants has come true, and every promise is kept: the oracle watches each run.

pub mod scripts;
mod watched;
mod wishes;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use qpc_protocol::client::Client;
use qpc_protocol::client::event::{Event, Failed};
use qpc_protocol::error::Refused;
use qpc_protocol::id::Digest;
use qpc_protocol::io::Ticket;

use crate::takeover;
use crate::world::{Moment, Rules, World};
use watched::{Past, Watched};

/// How often a person asks for the same thing.
const TRIES: u32 = 8;
/// Once nothing goes wrong any more, everything comes true in this time.
const CONVERGE: Duration = Duration::from_secs(2 * 60 * 60);

/// Something that a person wants of a device.
pub struct Wish {
    /// What, for people.
    name: &'static str,
    /// Whose.
    by: usize,
    /// Asks for it. `None`: nothing is told of it.
    ask: Ask,
    /// Whether it has come true; without it, only by being told.
    holds: Option<Holds>,
}

/// Gives a command.
type Ask = Box<dyn Fn(&mut Watched) -> Result<Option<Ticket>, Refused>>;
/// Looks at the world.
type Holds = Box<dyn Fn(&World) -> bool>;

/// A script: a world with a past, and what is wanted in it, one thing after the other.
pub struct Script {
    /// Its name.
    pub name: &'static str,
    /// The world that it begins in; everybody is on, nothing is under way.
    past: fn() -> Watched,
    /// What is wanted.
    wishes: fn(&World) -> Vec<Wish>,
}

impl Script {
    /// Its past, made once: each run has a thread of its own.
    fn made(&self, rules: Rules) -> Past {
        takeover::run(rules.seed, || {
            let mut world = (self.past)();
            world.until(all_rest);
            world.past()
        })
    }
}

/// Who crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// That device, at one of its batches.
    Device(usize),
    /// The server, at one of its transactions.
    Server,
}

/// One crash, or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Who.
    pub target: Target,
    /// At which batch or transaction, counted from 0.
    pub at: u64,
    /// When.
    pub moment: Moment,
    /// Once more at the first batch or transaction of the recovery.
    pub again: bool,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let again = if self.again { ", and again" } else { "" };
        write!(f, "{:?}, {:?} {}{again}", self.target, self.moment, self.at)
    }
}

/// What came of running a script at many points.
#[derive(Debug, Default)]
pub struct Tally {
    /// Runs, the one without a crash included.
    pub runs: u64,
    /// All points that there are.
    pub points: u64,
    /// What went wrong, one line each.
    pub bad: Vec<String>,
}

/// Runs a script without a crash, and with one at every `stride`-th point from the `offset`-th on, each twice: all
/// outputs are the same.
pub fn everywhere(rules: Rules, script: &Script, stride: usize, offset: usize) -> Tally {
    let past = script.made(rules);
    let mut tally = Tally { runs: 1, ..Tally::default() };
    let count = match twice(rules, script, &past, None) {
        Ok(count) => count,
        Err(why) => {
            tally.bad.push(format!("{}, no crash: {why}", script.name));
            return tally;
        }
    };
    let points = count.points();
    tally.points = points.len() as u64;
    for point in points.into_iter().skip(offset).step_by(stride) {
        tally.runs += 1;
        if let Err(why) = twice(rules, script, &past, Some(point)) {
            tally.bad.push(format!("{}, {point}: {why}", script.name));
        }
    }
    tally
}

/// Runs a script with a crash at one point.
///
/// # Errors
/// What did not hold.
pub fn at(rules: Rules, script: &Script, point: Point) -> Result<(), String> {
    let past = script.made(rules);
    guarded(rules, script, &past, Some(point)).map(drop)
}

/// How many batches each device made, and transactions the server.
struct Count {
    /// Over all outputs of all machines.
    trace: Digest,
    batches: Vec<u64>,
    transactions: u64,
}

impl Count {
    fn points(&self) -> Vec<Point> {
        let devices = self.batches.iter().enumerate();
        let devices = devices.map(|(device, count)| (Target::Device(device), *count));
        let mut points = Vec::new();
        for (target, count) in devices.chain([(Target::Server, self.transactions)]) {
            for at in 0..count {
                for again in [false, true] {
                    let point = |moment| Point { target, at, moment, again };
                    points.extend(Moment::ALL.map(point));
                }
            }
        }
        points
    }
}

fn twice(
    rules: Rules,
    script: &Script,
    past: &Past,
    point: Option<Point>,
) -> Result<Count, String> {
    let first = guarded(rules, script, past, point)?;
    match guarded(rules, script, past, point)?.trace {
        trace if trace == first.trace => Ok(first),
        _ => Err("not the same twice".to_owned()),
    }
}

fn guarded(
    rules: Rules,
    script: &Script,
    past: &Past,
    point: Option<Point>,
) -> Result<Count, String> {
    let run = || takeover::run(rules.seed, || Run::new(rules, past, point).play(script));
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(text.unwrap_or_else(|| "a panic".into()))
    })
}

/// A script that is being run.
struct Run {
    world: Watched,
    point: Option<Point>,
    /// The second crash is still to come.
    again: bool,
    /// Something has crashed: calls under way may have failed.
    crashed: bool,
}

impl Run {
    fn new(rules: Rules, past: &Past, point: Option<Point>) -> Self {
        let mut world = Watched::from(rules, past);
        for device in 0..world.devices.len() {
            world.start(device);
        }
        // Whoever just came on is let come to rest before it counts.
        world.until(all_rest);
        for device in &mut world.devices {
            device.batches = 0;
            device.crashes = 0;
        }
        world.storage.transactions = 0;
        let again = point.is_some_and(|point| point.again);
        let mut run = Self { world, point, again, crashed: false };
        if let Some(point) = point {
            run.arm(point, point.at);
        }
        run
    }

    fn arm(&mut self, point: Point, at: u64) {
        match point.target {
            Target::Device(device) => {
                self.world.devices[device].crash_in = Some(at);
                self.world.devices[device].crash_moment = point.moment;
            }
            Target::Server => {
                self.world.storage.crash_in = Some(at);
                self.world.storage.crash_moment = Some(point.moment);
            }
        }
    }

    fn play(mut self, script: &Script) -> Result<Count, String> {
        let wishes = (script.wishes)(&self.world);
        for (number, wish) in wishes.iter().enumerate() {
            self.world.begin(number);
            self.fulfil(wish).map_err(|why| format!("{}: {why}", wish.name))?;
        }
        self.calm()?;
        let count = Count {
            batches: self.world.devices.iter().map(|device| device.batches).collect(),
            transactions: self.world.storage.transactions,
            trace: Digest([0; 32]),
        };
        for device in &mut self.world.devices {
            device.crash_in = None;
        }
        self.world.storage.crash_in = None;
        self.calm()?;
        self.world.rest();
        self.world.kept()?;
        Ok(Count { trace: self.world.trace, ..count })
    }

    /// Asks for something until it has come true.
    fn fulfil(&mut self, wish: &Wish) -> Result<(), String> {
        let mut told = Vec::new();
        for _ in 0..TRIES {
            let by = wish.by;
            let crashes = self.world.devices[by].crashes;
            let from = self.world.devices[by].log.len();
            let given = (wish.ask)(&mut self.world);
            let Ok(Some(ticket)) = given else {
                let Err(refused) = given else { return Ok(()) };
                told.push(refused.to_string());
                self.calm()?;
                if wish.holds(&self.world) == Some(true) {
                    return Ok(());
                }
                continue;
            };
            // A ticket that a crash left nothing of is given again.
            let asked = Asked { by, ticket, from };
            self.go(|world| asked.answer(world).is_some() || world.devices[by].crashes > crashes)?;
            if wish.holds.is_none() && asked.answer(&self.world) == Some(Ok(())) {
                return Ok(());
            }
            self.calm()?;
            match (wish.holds(&self.world), asked.answer(&self.world)) {
                (Some(true), _) | (None, Some(Ok(()))) => return Ok(()),
                (Some(false), Some(Ok(()))) => return Err("told to be done, and is not".into()),
                (_, answer) if !self.crashed => return Err(format!("{answer:?}")),
                (_, answer) => told.push(format!("{answer:?}")),
            }
        }
        Err(format!("asked for it {TRIES} times: {told:?}"))
    }

    /// Whoever is off is switched on; whether anybody was.
    fn revive(&mut self) -> bool {
        let off = |device: &usize| self.world.devices[*device].client.is_none();
        let off: Vec<_> = (0..self.world.devices.len()).filter(off).collect();
        let server = self.world.server.is_none();
        if off.is_empty() && !server {
            return false;
        }
        self.crashed = true;
        for device in off {
            self.world.start(device);
        }
        if server {
            self.world.start_server();
        }
        if let Some(point) = self.point.filter(|_| core::mem::take(&mut self.again)) {
            self.arm(point, 0);
        }
        true
    }

    /// Goes on until something is true.
    fn go(&mut self, is: impl Fn(&World) -> bool) -> Result<(), String> {
        let end = self.world.now.mono + CONVERGE;
        loop {
            let wake = self.world.run();
            if self.revive() {
                continue;
            }
            if is(&self.world) {
                return Ok(());
            }
            let now = self.world.now.mono;
            match wake.filter(|wake| *wake <= end) {
                Some(wake) => {
                    self.world.advance(wake.saturating_sub(now).max(Duration::from_micros(1)));
                }
                None => {
                    let last = last(&self.world);
                    return Err(format!("the world does not converge: {last}"));
                }
            }
        }
    }

    /// Goes on until nothing is left to do, and does not come up either.
    fn calm(&mut self) -> Result<(), String> {
        let end = self.world.now.mono + CONVERGE;
        loop {
            self.go(all_rest)?;
            self.world.pass(Duration::from_secs(2));
            self.world.kept()?;
            let off = self.world.devices.iter().any(|device| device.client.is_none());
            if self.world.server.is_none() || off || !all_rest(&self.world) {
                continue;
            }
            match self.world.unsettled() {
                None => return Ok(()),
                Some(why) if self.world.now.mono > end => return Err(why),
                Some(_) => {}
            }
        }
    }
}

impl Wish {
    /// Whether it has come true, if that can be seen.
    fn holds(&self, world: &World) -> Option<bool> {
        self.holds.as_ref().map(|holds| holds(world))
    }
}

/// The last events of everybody, for a failure.
fn last(world: &World) -> String {
    let mut text = String::new();
    for (number, device) in world.devices.iter().enumerate() {
        let events: Vec<_> = device.log.iter().rev().take(6).collect();
        text.push_str(&format!("\n  device {number}: {:?} {events:?}", device.client));
    }
    text
}

/// Whether nobody who is on has anything left to do.
fn all_rest(world: &World) -> bool {
    world.devices.iter().filter_map(|device| device.client.as_ref()).all(at_rest)
}

/// A device that has no account, or none any more, has nothing to do.
fn at_rest(client: &Client) -> bool {
    client.is_idle() || client.may_connect().is_err()
}

/// A command that was given.
#[derive(Clone, Copy, Debug)]
struct Asked {
    by: usize,
    ticket: Ticket,
    /// How many events its device had told before.
    from: usize,
}

impl Asked {
    fn answer(&self, world: &World) -> Option<Result<(), Failed>> {
        world.devices[self.by].log[self.from..].iter().find_map(|event| match event {
            Event::Done(of, _) if *of == self.ticket => Some(Ok(())),
            Event::Failed(of, failed) if *of == self.ticket => Some(Err(failed.clone())),
            _ => None,
        })
    }
}
