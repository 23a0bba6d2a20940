//! Whether a stranger can tell by the time of an answer which accounts exist: logins and lookups of known and unknown
//! names in random order, compared by Welch's t.

use std::time::{Duration, Instant};

use qpc_protocol::env::{Entropy, UnixMillis};
use qpc_protocol::error::ErrorCode;
use qpc_protocol::id::DeviceId;
use qpc_protocol::io::Binding;
use qpc_protocol::limits::LOOKUP_TIME;
use qpc_protocol::wire::message::{Reply, Request, Username};
use serde_json::{Value, json};

use crate::Error;
use crate::account::{Account, Caller, PASSWORD, login_start};
use crate::welch::{self, Compared};
use crate::window::Bounds;

/// As long as the right one.
const WRONG: &str = "of another person";
/// Names of each sort.
const NAMES: usize = 16;

/// What counts as a difference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// |t| has to be above this.
    pub threshold: f64,
    /// And the medians this many nanoseconds apart.
    pub least: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { threshold: welch::THRESHOLD, least: welch::LEAST }
    }
}

/// One comparison.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which call was timed.
    pub call: &'static str,
    /// What the call was made with, left and right.
    pub sides: [&'static str; 2],
    /// What came of it.
    pub compared: Compared,
    /// Of a call with a floor time: that, and the earliest answer. Its answers say themselves what is known, and one is
    /// longer than the other: a difference counts from ten times the least.
    pub floor: Option<(Duration, Duration)>,
}

impl Row {
    /// Whether the two sides can be told apart: by a difference that counts, or by an answer before its floor time.
    pub fn told_apart(&self, limits: Limits) -> bool {
        self.differs(limits) || self.is_early()
    }

    fn differs(&self, limits: Limits) -> bool {
        self.compared.t.abs() > limits.threshold && self.compared.difference() >= self.least(limits)
    }

    fn least(&self, limits: Limits) -> f64 {
        limits.least * if self.floor.is_some() { 10.0 } else { 1.0 }
    }

    fn is_early(&self) -> bool {
        self.floor.is_some_and(|(floor, earliest)| earliest < floor)
    }

    /// The verdict in words.
    pub fn verdict(&self, limits: Limits) -> String {
        let Compared { t, error, .. } = self.compared;
        let (difference, how) =
            (self.compared.difference(), if t > 0.0 { "slower" } else { "faster" });
        if self.is_early() {
            "answered before the floor time".to_owned()
        } else if self.differs(limits) {
            format!("told apart: {} is {how} by {difference:.0} ns", self.sides[0])
        } else if t.abs() > limits.threshold {
            let least = self.least(limits);
            format!("not told apart: {how} by {difference:.0} ns, and {least:.0} would count")
        } else {
            format!("not told apart: {:.0} ns would have been found", error * limits.threshold)
        }
    }

    /// With stable names; times in nanoseconds.
    pub fn json(&self, limits: Limits) -> Value {
        let Compared { counts, medians, t, error } = self.compared;
        json!({
            "call": self.call,
            "left": self.sides[0],
            "right": self.sides[1],
            "left_count": counts[0],
            "right_count": counts[1],
            "left_p50_ns": medians[0],
            "right_p50_ns": medians[1],
            "median_ratio": self.compared.ratio(),
            "t": t,
            "would_find_ns": error * limits.threshold,
            "least_ns": self.least(limits),
            "earliest_ns": self.floor.map(|(_, earliest)| earliest.as_nanos() as f64),
            "told_apart": self.told_apart(limits),
            "verdict": self.verdict(limits),
        })
    }
}

/// Who is tried.
struct People {
    known: Vec<Username>,
    unknown: Vec<Username>,
    entropy: Entropy,
}

impl People {
    fn draw(&mut self, known: bool) -> Username {
        let names = if known { &self.known } else { &self.unknown };
        // In range: a remainder.
        names[(self.entropy.u64() % names.len() as u64) as usize].clone()
    }

    /// In random order, of so many sorts, so many of each on average; none after the time.
    fn sorts(&mut self, sorts: u64, bounds: Bounds) -> impl Iterator<Item = usize> + use<> {
        let mut entropy = self.entropy.fork();
        let begun = Instant::now();
        (0..sorts * bounds.count as u64)
            .take_while(move |_| begun.elapsed() < bounds.time)
            .map(move |_| (entropy.u64() % sorts) as usize)
    }
}

/// Times logins and lookups, `bounds` for either. The caller's connection must admit so many.
///
/// # Errors
/// What the server refuses; too few of a kind within the time.
pub fn measure(
    caller: &mut impl Caller,
    wall: UnixMillis,
    binding: Binding,
    logins: Bounds,
    lookups: Bounds,
) -> Result<Vec<Row>, Error> {
    let mut watcher = Account::new("watcher", [4; 32], wall, binding, caller)?;
    watcher.register(caller)?;
    watcher.open(caller)?;
    let mut people = register(caller, wall, binding)?;
    let mut rows = self::logins(caller, &mut people, logins)?;
    rows.push(self::lookups(caller, &mut people, lookups)?);
    Ok(rows)
}

/// Registers half of the names, which ones is drawn: they lie among the others in every order.
fn register(caller: &mut impl Caller, wall: UnixMillis, binding: Binding) -> Result<People, Error> {
    let mut entropy = Entropy::from_seed([5; 32]);
    let mut names: Vec<_> = (0..2 * NAMES).map(|index| format!("user-{index:02}")).collect();
    let mut known = Vec::with_capacity(NAMES);
    while known.len() < NAMES {
        let name = names.swap_remove((entropy.u64() % names.len() as u64) as usize);
        let mut account = Account::new(&name, entropy.array(), wall, binding, caller)?;
        account.register(caller)?;
        known.push(account.username().clone());
    }
    let prepare = |name: &String| Username::prepare(name).ok_or("not a username");
    let unknown = names.iter().map(prepare).collect::<Result<_, _>>()?;
    Ok(People { known, unknown, entropy })
}

const RIGHT: &str = "a known user's right password";
const GUESSED: &str = "a known user's wrong password";
const UNKNOWN: &str = "an unknown user";

fn logins(
    caller: &mut impl Caller,
    people: &mut People,
    bounds: Bounds,
) -> Result<Vec<Row>, Error> {
    let (mut starts, mut finishes) = <([Vec<Duration>; 3], [Vec<Duration>; 3])>::default();
    for sort in people.sorts(3, bounds) {
        let username = people.draw(sort < 2);
        let text = if sort == 0 { PASSWORD } else { WRONG };
        let (_, start) = login_start(&username, text, &mut people.entropy)?;
        let (answer, took) = caller.ask(start)?;
        let Ok(Reply::LoginStart { .. }) = answer else {
            return Err(format!("no login: {answer:?}").into());
        };
        starts[sort].push(took);
        // Who does not know the password can only make something up.
        let finish = Request::LoginFinish {
            ke3: people.entropy.array::<64>().to_vec().into(),
            device: DeviceId(people.entropy.array()),
            device_key: people.entropy.array(),
            signature: people.entropy.array(),
        };
        let (answer, took) = caller.ask(finish)?;
        match answer {
            Err(failure) if failure.code == ErrorCode::LoginFailed => finishes[sort].push(took),
            other => return Err(format!("not a failed login: {other:?}").into()),
        }
    }
    let [right, guessed, unknown] = &starts;
    let [_, refused, nobody] = &finishes;
    [
        ("login start", [GUESSED, UNKNOWN], [guessed, unknown]),
        ("login start", [RIGHT, UNKNOWN], [right, unknown]),
        ("login start", [RIGHT, GUESSED], [right, guessed]),
        ("login finish, made up", ["a known user", UNKNOWN], [refused, nobody]),
    ]
    .into_iter()
    .map(|(call, sides, [left, right])| {
        let compared = Compared::of(left, right).ok_or("too few logins")?;
        Ok(Row { call, sides, compared, floor: None })
    })
    .collect()
}

fn lookups(caller: &mut impl Caller, people: &mut People, bounds: Bounds) -> Result<Row, Error> {
    let mut times = <[Vec<Duration>; 2]>::default();
    for sort in people.sorts(2, bounds) {
        let username = people.draw(sort == 0);
        let (answer, took) = caller.ask(Request::AccountLookup { username })?;
        match (sort, answer) {
            (0, Ok(Reply::Account { .. })) => {}
            (1, Err(failure)) if failure.code == ErrorCode::AccountUnknown => {}
            (_, answer) => return Err(format!("not what is known: {answer:?}").into()),
        }
        times[sort].push(took);
    }
    let [known, unknown] = &times;
    let compared = Compared::of(known, unknown).ok_or("too few lookups")?;
    let earliest = times.iter().flatten().min().copied().unwrap_or_default();
    let floor = Some((LOOKUP_TIME, earliest));
    Ok(Row { call: "account lookup", sides: ["a known user", UNKNOWN], compared, floor })
}
