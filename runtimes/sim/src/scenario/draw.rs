//! Scenarios drawn from a seed, each with its own mix: what a world has none of at all shows other faults than what it
//! has a little of everything of ("swarm testing", Groce et al., ISSTA 2012).

use qpc_protocol::env::Entropy;
use qpc_protocol::io::Links;
use qpc_protocol::mls::suite::Suite;

use super::{Class, Crypto, DEVICES, DEVICES_LEAST, Scenario, Setting, Step};

/// How long a drawn world lasts at most, in hours: long enough for a session to end unused, and not so long that a
/// server forgets what it was sent before a device comes back to send it again ([`RESEND_TIME`] after [`ENTRY_TIME`]).
///
/// [`RESEND_TIME`]: qpc_protocol::limits::RESEND_TIME
/// [`ENTRY_TIME`]: qpc_protocol::limits::ENTRY_TIME
const HOURS: u64 = 33 * 24;

/// What is of use only after something else: what it mends, or goes on from.
const AFTER: &[(&str, &[&str])] = &[
    ("start", &["crash", "crash-at", "disk-fails"]),
    ("back", &["away"]),
    ("heal", &["part"]),
    ("heal-server", &["part-server"]),
    ("restore", &["backup"]),
    ("clock-right", &["clock", "clock-stops"]),
    ("server-clock-right", &["server-clock"]),
    ("serve", &["kill", "kill-at"]),
    ("honest", &["lie", "misbehave", "forge", "fork", "steal"]),
    ("accept", &["lie", "delete"]),
    ("register", &["delete"]),
];

/// How often each word of [`AFTER`] is of use.
#[derive(Default)]
struct Broken([usize; AFTER.len()]);

impl Broken {
    /// Takes a step, unless it is of no use.
    fn take(&mut self, step: Step) -> bool {
        let word = step.kind().word;
        for ((after, before), left) in AFTER.iter().zip(&mut self.0) {
            if *after == word {
                let Some(less) = left.checked_sub(1) else { return false };
                *left = less;
            }
            *left += usize::from(before.contains(&word));
        }
        true
    }
}

/// A source of choices.
struct Dice(Entropy);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0.u64() % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    fn byte(&mut self) -> u8 {
        self.0.array::<1>()[0]
    }
}

impl Scenario {
    /// The scenario of a seed, with so many operations after its beginning.
    pub fn draw(seed: u64, operations: usize, crypto: Crypto) -> Self {
        let mut start = [0x5C; 32];
        start[..8].copy_from_slice(&seed.to_be_bytes());
        let mut dice = Dice(Entropy::from_seed(start));
        let setting = setting(&mut dice, crypto);
        let weights = weights(&mut dice);
        let groups = 1 + dice.roll(3) as u16;
        let mut steps = beginning(&setting, groups);
        let mut broken = Broken::default();
        let (mut left, mut lasts) = (operations, 0);
        while left > 0 {
            let step = draw(&mut dice, &weights);
            let hours = step.hours();
            if !broken.take(step) || lasts + hours > HOURS {
                continue;
            }
            lasts += hours;
            left -= usize::from(step.kind().class != Class::Time);
            steps.push(step);
        }
        tear(seed, &mut steps, operations);
        Self { seed, setting, steps }
    }
}

/// In some of the worlds with faults a disk is damaged, once or twice; drawn apart, so that all else is as it was
/// before there was this.
fn tear(seed: u64, steps: &mut Vec<Step>, operations: usize) {
    let mut start = [0x7D; 32];
    start[..8].copy_from_slice(&seed.to_be_bytes());
    let mut dice = Dice(Entropy::from_seed(start));
    let faults = steps.iter().any(|step| step.kind().class == Class::Fault);
    if !faults || !dice.one_in(4) {
        return;
    }
    for _ in 0..=dice.roll(2) {
        let (device, part) = (dice.roll(16) as u16, dice.roll(3) as u16);
        let at = steps.len().saturating_sub(dice.roll(operations.max(1) as u64) as usize);
        steps.insert(at, Step::Damage { device, part });
    }
}

fn setting(dice: &mut Dice, crypto: Crypto) -> Setting {
    let span = (DEVICES - DEVICES_LEAST + 1) as u64;
    let devices = DEVICES_LEAST + dice.roll(span) as usize;
    let most = 2 + dice.roll(devices as u64 - 1) as u8;
    let mut accounts: Vec<u8> = Vec::new();
    for _ in 0..devices {
        let known = accounts.iter().copied().max().map_or(0, |last| last + 1);
        let new = known < 2 || (known < most && dice.roll(3) > 0);
        accounts.push(if new { known } else { dice.roll(known.into()) as u8 });
    }
    Setting {
        links: if dice.one_in(3) { Links::One } else { Links::Many },
        split: dice.one_in(4),
        crypto,
        suite: if dice.one_in(6) { Suite::Hybrid } else { Suite::Classical },
        update_entries: if dice.one_in(3) { 5 + dice.roll(40) as u16 } else { 0 },
        latency: if dice.one_in(2) { 0 } else { 1 + dice.roll(150) as u16 },
        seek: true,
        accounts,
    }
}

/// How often each kind of step is drawn.
fn weights(dice: &mut Dice) -> Vec<u64> {
    // Few go without, so that what is broken without a fault is known for that.
    let faults = !dice.one_in(40);
    let hostile = dice.one_in(4);
    let deletes = dice.one_in(8);
    let mut weigh = |kind: &super::Kind| {
        if kind.word == "damage" {
            return 0;
        }
        let base = match kind.word {
            "delete" => u64::from(deletes),
            _ => kind.weight.into(),
        };
        // In sixteenths: absent, rare, as it is, often.
        let factor = [0, 4, 16, 16, 16, 40][dice.roll(6) as usize];
        let factor = match (kind.class, kind.word) {
            (Class::Fault, _) if !faults => 0,
            (Class::Hostile, _) if !hostile => 0,
            // What mends has to come after what breaks, and time has to pass.
            (Class::Time, "days") => factor,
            (Class::Time, _) => factor.max(16),
            (_, "start" | "serve" | "back" | "heal" | "heal-server" | "server-disk") => {
                factor.max(16)
            }
            (_, "clock-right" | "server-clock-right") => factor.max(16),
            _ => factor,
        };
        base * factor
    };
    let mut weights: Vec<u64> = Step::KINDS.iter().map(&mut weigh).collect();
    if weights.iter().all(|weight| *weight == 0) {
        weights.fill(1);
    }
    weights
}

fn draw(dice: &mut Dice, weights: &[u64]) -> Step {
    let mut at = dice.roll(weights.iter().sum());
    let mut kind = 0;
    while at >= weights[kind] {
        at -= weights[kind];
        kind += 1;
    }
    let args = Step::KINDS[kind].args;
    let numbers: Vec<_> = args.iter().map(|arg| Step::number(arg, dice.byte())).collect();
    Step::new(kind, &numbers).unwrap_or(Step::Run {}).fitted()
}

/// Everybody has an account, and most are in groups.
pub(super) fn beginning(setting: &Setting, groups: u16) -> Vec<Step> {
    let mut steps = Vec::new();
    for device in 0..setting.accounts.len() {
        let at = device as u16;
        steps.push(match setting.is_first(device) {
            true => Step::Register { device: at },
            false => Step::Login { device: at },
        });
        steps.push(Step::Pass { ms: 500 });
    }
    let suite = u16::from(setting.suite == Suite::Hybrid);
    for group in 0..groups {
        let device = group % setting.accounts.len() as u16;
        steps.push(Step::Create { device, suite });
        steps.push(Step::Pass { ms: 500 });
        for account in 0..setting.account_count() as u16 {
            // The last group is smaller.
            if group > 0 && group + 1 == groups && account % 2 == 1 {
                continue;
            }
            steps.push(Step::Invite { device, group, account });
            steps.push(Step::Pass { ms: 1_000 });
        }
    }
    steps
}
