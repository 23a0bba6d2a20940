//! Runs a scenario, in a thread of its own, and says what came of it.

use core::fmt;
use core::time::Duration;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;

use qpc_protocol::crypto::Backend;
use qpc_protocol::id::Digest;

use crate::actors::Play;
use crate::oracle::Failure;
use crate::scenario::{Scenario, Step};
use crate::takeover;
use crate::trace::Trace;

/// Threads of worlds have this name; what they panic with is a failure and printed by nobody.
const THREAD: &str = "qpc-sim world";
/// Room for the recursion of trees and of decoders.
const STACK: usize = 16 * 1024 * 1024;

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The scenario's seed.
    pub seed: u64,
    /// Over all outputs of all machines, in order.
    pub hash: Digest,
    /// Steps that were taken.
    pub taken: usize,
    /// They as they were taken: with the device, group or account that they applied to.
    pub steps: Vec<Step>,
    /// Of them, those that applied.
    pub applied: usize,
    /// Of them, all but those that let time pass.
    pub operations: usize,
    /// How many things the oracle compared.
    pub checks: u64,
    /// How much time passed in the world.
    pub time: Duration,
    /// Bytes that machines sent.
    pub sent: u64,
    /// Frames that were told otherwise than they were meant.
    pub lies: usize,
    /// What machines were alarmed by: which devices, and how often.
    pub alarms: BTreeMap<String, BTreeMap<usize, usize>>,
    /// How often a device said that it fell out of a group.
    pub fallen: usize,
    /// Devices that were lied to and are not back where everybody is.
    pub doubtful: Vec<usize>,
    /// Promises that were not kept.
    pub failures: Vec<Failure>,
}

impl Report {
    /// The rule of the first failure.
    pub fn rule(&self) -> Option<&str> {
        self.failures.first().map(|failure| failure.rule.as_str())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, hash, taken, applied, operations, checks, time, sent, .. } = self;
        write!(
            f,
            "seed {seed}: {operations} operations ({applied} of {taken} steps), {checks} checks, {time:.1?} virtual, {sent} bytes, {hash:?}"
        )?;
        if self.lies > 0 || !self.alarms.is_empty() {
            write!(f, ", {} lies, alarms: {:?}", self.lies, self.alarms)?;
        }
        for Failure { rule, what, at, step } in &self.failures {
            write!(f, "\n  step {step} at {at:.6?}: NOT KEPT: {rule}: {what}")?;
        }
        Ok(())
    }
}

/// Why a run broke off.
enum Broken {
    /// A panic: where, and with what.
    Panic((String, String)),
    /// A step that comes to no end.
    Rule(Failure),
}

/// Runs a scenario, and at its end the calm after it.
pub fn run(scenario: &Scenario) -> Report {
    run_traced(scenario, None)
}

/// The same, with a trace.
pub fn run_traced(scenario: &Scenario, trace: Option<Trace>) -> Report {
    run_in_thread(scenario, scenario.setting.crypto.backend(), trace)
}

/// The same over the caller's primitives.
pub fn run_over(backend: Backend, scenario: &Scenario) -> Report {
    run_in_thread(scenario, backend, None)
}

/// The same on this thread, which is a fresh one that was [taken over](takeover::enter).
pub fn run_here(backend: Backend, scenario: &Scenario) -> Report {
    hear_panics();
    let under_way = Mutex::new(empty(scenario.seed));
    let ended = guarded(scenario, backend, None, &under_way);
    report(ended, &under_way)
}

fn run_in_thread(scenario: &Scenario, backend: Backend, trace: Option<Trace>) -> Report {
    hear_panics();
    let under_way = Mutex::new(empty(scenario.seed));
    let ended = thread::scope(|scope| {
        let body = || {
            takeover::enter(scenario.seed);
            guarded(scenario, backend, trace, &under_way)
        };
        let thread = thread::Builder::new().name(THREAD.into()).stack_size(STACK);
        thread.spawn_scoped(scope, body).ok().and_then(|thread| thread.join().ok())
    });
    report(ended.unwrap_or_else(|| Some(Broken::Panic(Default::default()))), &under_way)
}

fn guarded(
    scenario: &Scenario,
    backend: Backend,
    trace: Option<Trace>,
    under_way: &Mutex<Report>,
) -> Option<Broken> {
    let played = AssertUnwindSafe(|| play(scenario, backend, trace, under_way));
    panic::catch_unwind(played).err().map(|payload| {
        payload
            .downcast::<Failure>()
            .map_or_else(|_| Broken::Panic(PANIC.take()), |failure| Broken::Rule(*failure))
    })
}

fn report(ended: Option<Broken>, under_way: &Mutex<Report>) -> Report {
    let mut report = under_way.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match ended {
        Some(Broken::Panic((at, what))) => {
            let (rule, step) = (format!("no panic: {at}"), report.taken);
            report.failures.push(Failure { rule, what, at: report.time, step });
        }
        Some(Broken::Rule(endless)) => {
            // The step that did not end is the last one that was taken.
            report.taken = endless.step + 1;
            report.failures.push(endless);
        }
        None => {}
    }
    report
}

fn empty(seed: u64) -> Report {
    Report {
        seed,
        hash: Digest([0; 32]),
        taken: 0,
        steps: Vec::new(),
        applied: 0,
        operations: 0,
        checks: 0,
        time: Duration::ZERO,
        sent: 0,
        lies: 0,
        alarms: BTreeMap::new(),
        fallen: 0,
        doubtful: Vec::new(),
        failures: Vec::new(),
    }
}

fn play(scenario: &Scenario, backend: Backend, trace: Option<Trace>, shared: &Mutex<Report>) {
    let mut play = Play::new(scenario, backend, trace.clone());
    let steps = scenario.steps.iter().copied().chain([Step::Calm {}]);
    for (number, step) in steps.enumerate() {
        if let Some(trace) = &trace {
            trace
                .say(format!("{:>14} -- {number}: {step}", format!("{:.6?}", play.world.now.mono)));
        }
        let applied = play.step(number, step);
        if let Some(trace) = trace.as_ref().filter(|_| !applied) {
            trace.say(format!("{:>14}    passed over", ""));
        }
        let mut report = sum(scenario.seed, number + 1, &play);
        let over = !report.failures.is_empty();
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        report.steps = core::mem::take(&mut shared.steps);
        report.steps.append(&mut play.steps);
        *shared = report;
        if over {
            break;
        }
    }
}

fn sum(seed: u64, taken: usize, play: &Play<'_>) -> Report {
    let oracle = play.oracle.borrow();
    Report {
        seed,
        hash: play.world.trace,
        taken,
        steps: Vec::new(),
        applied: play.applied,
        operations: play.operations,
        checks: oracle.checks,
        time: play.world.now.mono,
        sent: play.world.sent_bytes,
        lies: play.lies(),
        alarms: oracle.alarms.clone(),
        fallen: oracle.fallen,
        doubtful: oracle.doubtful(&play.world),
        failures: oracle.failures.clone(),
    }
}

thread_local! {
    /// Where this thread panicked, and with what.
    static PANIC: RefCell<(String, String)> = RefCell::default();
}

/// Takes what worlds panic with; all other threads panic as before.
fn hear_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if thread::current().name() != Some(THREAD) {
                return before(info);
            }
            let at = info.location().map(|at| format!("{}:{}", at.file(), at.line()));
            let what = info.payload_as_str().unwrap_or("?").to_owned();
            PANIC.set((at.unwrap_or_default(), what));
        }));
    });
}
