//! Makes a failing scenario smaller while the same promise stays broken: first whole actors, then stretches of steps,
//! then single steps, then what is special about the setting.

use qpc_protocol::io::Links;
use qpc_protocol::mls::suite::Suite;

use crate::run::{Report, run};
use crate::scenario::{Scenario, Step};

/// A smaller scenario.
#[derive(Clone, Debug)]
pub struct Minimised {
    /// The scenario.
    pub scenario: Scenario,
    /// What came of it.
    pub report: Report,
    /// How many runs it took.
    pub runs: usize,
}

struct Search<'a> {
    best: Minimised,
    rule: String,
    /// At most so many runs.
    most: usize,
    progress: &'a mut dyn FnMut(&Minimised),
}

/// The smallest scenario that was found within `most` runs and breaks the same promise first; `None` if this one breaks
/// none. `progress` is told of each smaller one.
pub fn minimise(
    scenario: &Scenario,
    most: usize,
    progress: &mut dyn FnMut(&Minimised),
) -> Option<Minimised> {
    let report = run(scenario);
    let rule = report.rule()?.to_owned();
    let best = Minimised { scenario: scenario.clone(), report, runs: 1 };
    let mut search = Search { best, rule, most, progress };
    // Nothing after the failure matters.
    let taken = search.best.report.taken;
    search.try_steps(scenario.steps.iter().copied().take(taken).collect());
    // Nor does a step look for what it applies to, once that is known.
    let found = search.best.report.steps.iter().copied();
    let mut settled = search.best.scenario.clone();
    settled.setting.seek = false;
    settled.steps =
        found.chain(settled.steps.iter().copied().skip(search.best.report.steps.len())).collect();
    settled.steps.truncate(taken);
    search.attempt(settled);
    loop {
        let before = search.size();
        search.drop_devices();
        search.drop_stretches();
        search.simplify();
        if search.size() == before || search.best.runs >= search.most {
            return Some(search.best);
        }
    }
}

impl Search<'_> {
    fn size(&self) -> (usize, usize) {
        let scenario = &self.best.scenario;
        (scenario.setting.accounts.len(), scenario.steps.len())
    }

    /// Takes this one if it fails as before.
    fn attempt(&mut self, scenario: Scenario) -> bool {
        if self.best.runs >= self.most || scenario == self.best.scenario {
            return false;
        }
        let report = run(&scenario);
        self.best.runs += 1;
        let same = report.rule() == Some(&self.rule);
        if same {
            self.best.scenario = scenario;
            self.best.report = report;
            (self.progress)(&self.best);
        }
        same
    }

    fn try_steps(&mut self, steps: Vec<Step>) -> bool {
        self.attempt(Scenario { steps, ..self.best.scenario.clone() })
    }

    /// Drops all that single devices do; those at the end go altogether.
    fn drop_devices(&mut self) {
        for device in (0..self.best.scenario.setting.accounts.len()).rev() {
            let scenario = &self.best.scenario;
            let count = scenario.setting.accounts.len();
            let of = |step: &Step| {
                let (kind, numbers) = step.parts();
                Step::KINDS[kind].args.first() == Some(&"device")
                    && numbers.first().is_some_and(|number| usize::from(*number) % count == device)
            };
            let steps: Vec<_> = scenario.steps.iter().copied().filter(|step| !of(step)).collect();
            let mut less = Scenario { steps, ..scenario.clone() };
            if device + 1 == count && count > 1 {
                // Fixed before the count changes, for indexes wrap around.
                less.steps = less.steps.iter().map(|step| unwrapped(*step, count)).collect();
                less.setting.accounts.pop();
                if self.attempt(less.clone()) {
                    continue;
                }
                less.setting.accounts = self.best.scenario.setting.accounts.clone();
            }
            self.attempt(less);
        }
    }

    /// Drops stretches of steps, long ones first.
    fn drop_stretches(&mut self) {
        let mut len = (self.best.scenario.steps.len() / 2).max(1);
        loop {
            let mut end = self.best.scenario.steps.len();
            while end > 0 {
                let from = end.saturating_sub(len);
                let mut steps = self.best.scenario.steps.clone();
                steps.drain(from..end);
                self.try_steps(steps);
                end = from.min(self.best.scenario.steps.len());
            }
            if len == 1 {
                return;
            }
            len /= 2;
        }
    }

    /// Takes away what is special about the setting.
    fn simplify(&mut self) {
        let plain: [fn(&mut Scenario); 6] = [
            |scenario| scenario.setting.seek = false,
            |scenario| scenario.setting.links = Links::Many,
            |scenario| scenario.setting.split = false,
            |scenario| scenario.setting.suite = Suite::Classical,
            |scenario| scenario.setting.update_entries = 0,
            |scenario| scenario.setting.latency = 0,
        ];
        for change in plain {
            let mut scenario = self.best.scenario.clone();
            change(&mut scenario);
            self.attempt(scenario);
        }
    }
}

/// The same step with its device's index as it is meant.
fn unwrapped(step: Step, count: usize) -> Step {
    let (kind, mut numbers) = step.parts();
    for (arg, number) in Step::KINDS[kind].args.iter().zip(&mut numbers) {
        if matches!(*arg, "device" | "other") {
            *number %= u16::try_from(count).unwrap_or(u16::MAX);
        }
    }
    Step::new(kind, &numbers).unwrap_or(step)
}
