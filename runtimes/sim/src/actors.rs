//! Those who do what a scenario says: applications that give their devices commands, whoever breaks and mends things,
//! and those who are not honest.

mod command;
mod fault;
mod hostile;
mod ways;

use core::ops::Range;
use core::time::Duration;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic;
use std::rc::Rc;

use qpc_protocol::crypto::Backend;
use qpc_protocol::id::ChannelId;

use crate::oracle::{Oracle, PLANTED};
use crate::scenario::{Class, Scenario, Step};
use crate::trace::Trace;
use crate::world::{Rules, World};
use hostile::Liars;

pub use ways::{OF_MEMBERS, OF_SERVERS, Way};

/// How often in a day devices wake up where days pass.
const WAKES_A_DAY: u32 = 3;
/// For how long.
const AWAKE: Duration = Duration::from_secs(60);
/// And for how long they are asleep then.
const ASLEEP: Duration = Duration::from_secs(86_400 / WAKES_A_DAY as u64 - AWAKE.as_secs());

/// The records of a device.
type Disk = BTreeMap<Vec<u8>, Vec<u8>>;

/// A scenario under way.
pub(crate) struct Play<'a> {
    scenario: &'a Scenario,
    pub(crate) world: World,
    pub(crate) oracle: Rc<RefCell<Oracle>>,
    backups: Vec<Option<Disk>>,
    /// The account of each device, thieves included.
    accounts: Vec<u8>,
    liars: Rc<RefCell<Liars>>,
    /// The steps that were taken, as they were.
    pub(crate) steps: Vec<Step>,
    /// Steps that applied.
    pub(crate) applied: usize,
    /// Of them, all but those that let time pass.
    pub(crate) operations: usize,
}

impl<'a> Play<'a> {
    /// The world of a scenario before its first step.
    pub(crate) fn new(scenario: &'a Scenario, backend: Backend, trace: Option<Trace>) -> Self {
        let setting = &scenario.setting;
        let rules = Rules {
            links: setting.links,
            split: setting.split,
            backend,
            update: setting.update(),
            ..Rules::new(scenario.seed)
        };
        let mut world = World::new(rules);
        world.plant(PLANTED.as_bytes());
        let oracle = Rc::new(RefCell::new(Oracle::new(world.key_keeper())));
        let (model, mut trace) = (oracle.clone(), trace);
        world.watch = Some(Box::new(move |now, seen| {
            if let Some(trace) = &mut trace {
                trace.see(now, seen);
            }
            let ended = model.borrow_mut().see(now, seen).err();
            if let Some(endless) = ended {
                // Nothing but the end of the run ends such a step.
                panic::resume_unwind(Box::new(endless));
            }
        }));
        let liars = Rc::default();
        let mut play = Self {
            scenario,
            world,
            oracle,
            backups: Vec::new(),
            accounts: Vec::new(),
            liars,
            steps: Vec::new(),
            applied: 0,
            operations: 0,
        };
        for account in &setting.accounts {
            play.oracle.borrow_mut().device();
            play.add_device(*account);
        }
        play
    }

    /// A further device, switched on.
    fn add_device(&mut self, account: u8) -> usize {
        self.backups.push(None);
        self.accounts.push(account);
        let device = self.world.device();
        let latency = Duration::from_millis(self.scenario.setting.latency.into());
        self.world.devices[device].latency = latency;
        device
    }

    /// Takes a step; whether it applied.
    pub(crate) fn step(&mut self, number: usize, step: Step) -> bool {
        self.oracle.borrow_mut().begin(number);
        let taken = match self.take(number, step) {
            false if self.scenario.setting.seek => self.seek(number, step),
            applied => applied.then_some(step),
        };
        let applied = taken.is_some();
        self.steps.push(taken.unwrap_or(step));
        for device in &mut self.world.devices {
            // The oracle has seen them.
            device.events.clear();
            device.log.clear();
        }
        self.applied += usize::from(applied);
        self.operations += usize::from(applied && step.kind().class != Class::Time);
        applied
    }

    fn take(&mut self, number: usize, step: Step) -> bool {
        match step.kind().class {
            Class::Command => self.command(step),
            Class::Fault => self.fault(step),
            Class::Hostile => self.hostile(step),
            Class::Time => self.time(number, step),
        }
    }

    /// Takes a step for the next device, group or account that it applies to.
    fn seek(&mut self, number: usize, step: Step) -> Option<Step> {
        let (kind, numbers) = step.parts();
        let counts = Step::KINDS[kind].args.iter().map(|arg| match *arg {
            "device" | "other" => Some(self.world.devices.len()),
            "group" => Some(self.oracle.borrow().channel_count().max(1)),
            "account" => Some(self.scenario.setting.account_count().max(1)),
            _ => None,
        });
        let counts: Vec<Option<usize>> = counts.collect();
        let all: usize = counts.iter().flatten().product();
        (1..all).find_map(|offset| {
            let (mut rest, mut numbers) = (offset, numbers.clone());
            // The last one is changed first: whose step it is changes last.
            for (number, count) in numbers.iter_mut().zip(&counts).rev() {
                if let Some(count) = count {
                    *number = ((usize::from(*number) + rest) % count) as u16;
                    rest /= count;
                }
            }
            let step = Step::new(kind, &numbers)?;
            self.take(number, step).then_some(step)
        })
    }

    fn time(&mut self, number: usize, step: Step) -> bool {
        match step {
            Step::Run {} => drop(self.world.run()),
            Step::Pass { ms } => self.world.pass(Duration::from_millis(ms.into())),
            Step::Hours { hours } => {
                // As for devices that sleep meanwhile.
                self.world.advance(Duration::from_secs(3_600 * u64::from(hours)));
                self.world.run();
            }
            Step::Days { days } => {
                for _ in 0..u32::from(days) * WAKES_A_DAY {
                    // Each of them has to come to an end.
                    self.oracle.borrow_mut().begin(number);
                    self.world.advance(ASLEEP);
                    self.world.pass(AWAKE);
                }
            }
            Step::Calm {} => self.calm(),
            _ => return false,
        }
        true
    }

    /// A device by its index.
    fn device(&self, index: u16) -> usize {
        usize::from(index) % self.world.devices.len()
    }

    /// The devices that go on from a stolen disk.
    fn thieves(&self) -> Range<usize> {
        self.scenario.setting.accounts.len()..self.accounts.len()
    }

    /// Whether a device's machine takes commands.
    fn is_on(&self, device: usize) -> bool {
        let device = &self.world.devices[device];
        device.client.is_some() && device.fatal.is_none()
    }

    /// A group by its index.
    fn group(&self, index: u16) -> Option<ChannelId> {
        self.oracle.borrow().channel(index)
    }

    /// An account's name, by its index.
    fn name(&self, index: u16) -> String {
        let count = self.scenario.setting.account_count().max(1);
        format!("account{}", usize::from(index) % count)
    }
}
