//! Operations on a whole world, with its oracle.

use crate::run;
use crate::scenario::Scenario;

/// Most steps of one execution: what goes wrong, goes wrong with few.
const STEPS: usize = 96;
/// Most devices: each that registers costs OPAQUE's real work.
const DEVICES: usize = 5;

/// The bytes are a scenario ([`Scenario::decode`]).
pub(super) fn world(data: &[u8]) {
    let mut scenario = Scenario::decode(data);
    scenario.steps.truncate(STEPS);
    scenario.setting.accounts.truncate(DEVICES);
    let report = run(&scenario);
    assert!(report.failures.is_empty(), "{report}\n{scenario}");
}
