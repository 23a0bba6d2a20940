//! Those who do what a scenario says: applications that give their devices commands, whoever breaks and mends things, and
//! those who are not honest.

mod command;
mod fault;
mod hostile;

use core::ops::Range;
use core::time::Duration;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic;
use std::rc::Rc;

use qpc_protocol::crypto::portable;
use qpc_protocol::id::ChannelId;

use crate::insecure;
use crate::oracle::{Oracle, PLANTED};
use crate::scenario::{Class, Crypto, Scenario, Step};
use crate::trace::Trace;
use crate::world::{Rules, World};
use hostile::Liars;

pub use hostile::{OF_MEMBERS, OF_SERVERS, Way};

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
    /// Steps that applied.
    pub(crate) applied: usize,
    /// Of them, all but those that let time pass.
    pub(crate) operations: usize,
}

impl<'a> Play<'a> {
    /// The world of a scenario before its first step.
    pub(crate) fn new(scenario: &'a Scenario, trace: Option<Trace>) -> Self {
        let setting = &scenario.setting;
        let real = setting.crypto == Crypto::Portable;
        let backend = if real { portable() } else { insecure::quick() };
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
        let applied = match step.kind().class {
            Class::Command => self.command(step),
            Class::Fault => self.fault(step),
            Class::Hostile => self.hostile(step),
            Class::Time => self.time(step),
        };
        for device in &mut self.world.devices {
            // The oracle has seen them.
            device.events.clear();
            device.log.clear();
        }
        self.applied += usize::from(applied);
        self.operations += usize::from(applied && step.kind().class != Class::Time);
        applied
    }

    fn time(&mut self, step: Step) -> bool {
        match step {
            Step::Run {} => drop(self.world.run()),
            Step::Pass { ms } => self.world.pass(Duration::from_millis(ms.into())),
            Step::Hours { hours } => {
                // As for devices that sleep meanwhile.
                self.world.advance(Duration::from_secs(3_600 * u64::from(hours)));
                self.world.run();
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
