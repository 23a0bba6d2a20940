//! A scenario: everything that happens in a world, as plain data.
//!
//! There are three ways to one: drawn from a seed ([`Scenario::draw`]), decoded from any bytes ([`Scenario::decode`],
//! so that a fuzzer's input is one), and read from text ([`str::parse`]; printed by `Display`).

mod draw;
mod step;
mod text;

use qpc_protocol::client::UpdatePolicy;
use qpc_protocol::crypto::{Backend, portable};
use qpc_protocol::io::Links;
use qpc_protocol::mls::suite::Suite;

use crate::insecure;

pub use step::{Class, Kind, Step};
pub use text::Misread;

/// Most devices of a world.
pub const DEVICES: usize = 12;
/// Fewest devices of a drawn world.
pub const DEVICES_LEAST: usize = 5;
/// Most steps that bytes decode to.
pub const STEPS: usize = 4_096;

/// Which primitives the machines use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crypto {
    /// The real ones, in pure Rust.
    Portable,
    /// Quick ones that keep nothing secret.
    Insecure,
}

impl Crypto {
    /// The primitives.
    pub fn backend(self) -> Backend {
        match self {
            Self::Portable => portable(),
            Self::Insecure => insecure::quick(),
        }
    }
}

/// How a world is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// One link for each connection, or many.
    pub links: Links,
    /// Bytes arrive in pieces of random size.
    pub split: bool,
    /// The primitives.
    pub crypto: Crypto,
    /// The suite of the groups that say nothing else.
    pub suite: Suite,
    /// Leaves are replaced after this many entries; 0: by the default policy.
    pub update_entries: u16,
    /// How long everything is under way, in milliseconds.
    pub latency: u16,
    /// A step that does not apply to its device, group or account is taken for the next one that it applies to.
    pub seek: bool,
    /// The account of each device; at most [`DEVICES`].
    pub accounts: Vec<u8>,
}

impl Setting {
    /// The policy that goes with it.
    pub fn update(&self) -> UpdatePolicy {
        match self.update_entries {
            0 => UpdatePolicy::default(),
            entries => UpdatePolicy { entries: entries.into(), ..UpdatePolicy::default() },
        }
    }

    /// Whether a device is the first of its account.
    pub fn is_first(&self, device: usize) -> bool {
        let account = self.accounts[device];
        self.accounts.iter().position(|of| *of == account) == Some(device)
    }

    /// How many accounts there are.
    pub fn account_count(&self) -> usize {
        self.accounts.iter().copied().max().map_or(0, |last| usize::from(last) + 1)
    }
}

/// Everything that happens in a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// What everything random in the world follows from: keys, splits, jitter.
    pub seed: u64,
    /// How it is set up.
    pub setting: Setting,
    /// What happens, in this order.
    pub steps: Vec<Step>,
}

impl Scenario {
    /// The scenario that bytes stand for; any do.
    ///
    /// Bytes: seed (8), a byte for each part of the setting, a byte for the first steps (odd: everybody has an account
    /// and is in a group, as in a drawn one), then the steps: a byte for the kind, one for each number. What is missing
    /// is 0.
    pub fn decode(bytes: &[u8]) -> Self {
        let mut bytes = bytes.iter().copied();
        let mut next = || bytes.next().unwrap_or(0);
        let mut seed = [0; 8];
        seed.fill_with(&mut next);
        let mut setting = Setting {
            links: if next() % 2 == 0 { Links::Many } else { Links::One },
            split: next() % 2 == 1,
            crypto: Crypto::Insecure,
            suite: if next() % 4 == 3 { Suite::Hybrid } else { Suite::Classical },
            update_entries: next().into(),
            latency: next().into(),
            seek: true,
            accounts: Vec::new(),
        };
        let count = 1 + usize::from(next()) % DEVICES;
        let mut accounts = 0;
        for _ in 0..count {
            let account = next() % (accounts + 1);
            accounts = accounts.max(account + 1);
            setting.accounts.push(account);
        }
        let mut steps = match next() % 2 {
            0 => Vec::new(),
            _ => draw::beginning(&setting, 1),
        };
        while let Some(kind) = bytes.next() {
            let kind = usize::from(kind) % Step::KINDS.len();
            let numbers = Step::KINDS[kind].args.iter();
            let numbers: Vec<_> =
                numbers.map(|arg| Step::number(arg, bytes.next().unwrap_or(0))).collect();
            steps.extend(Step::new(kind, &numbers).map(Step::fitted));
            if steps.len() >= STEPS {
                break;
            }
        }
        Self { seed: u64::from_be_bytes(seed), setting, steps }
    }

    /// How many of its steps are operations: all but those that let time pass.
    pub fn operations(&self) -> usize {
        self.steps.iter().filter(|step| step.kind().class != Class::Time).count()
    }
}

#[cfg(test)]
mod tests;
