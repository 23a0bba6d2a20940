//! Scenarios as text: a line for each part of the setting, then one for each step. `#` begins a comment.

use core::fmt;
use core::str::FromStr;

use qpc_protocol::io::Links;
use qpc_protocol::mls::suite::Suite;

use super::{Crypto, DEVICES, Scenario, Setting, Step};

/// A text that is no scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misread {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for Misread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

impl std::error::Error for Misread {}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, numbers) = self.parts();
        f.write_str(Self::KINDS[kind].word)?;
        for (arg, number) in Self::KINDS[kind].args.iter().zip(numbers) {
            write!(f, " {arg}={number}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let setting = &self.setting;
        let links = if setting.links == Links::One { "one" } else { "many" };
        let crypto = if setting.crypto == Crypto::Portable { "portable" } else { "insecure" };
        let suite = if setting.suite == Suite::Hybrid { "hybrid" } else { "classical" };
        writeln!(f, "seed {}", self.seed)?;
        writeln!(f, "links {links}")?;
        writeln!(f, "split {}", if setting.split { "yes" } else { "no" })?;
        writeln!(f, "crypto {crypto}")?;
        writeln!(f, "suite {suite}")?;
        writeln!(f, "update-entries {}", setting.update_entries)?;
        writeln!(f, "latency {}", setting.latency)?;
        if setting.seek {
            writeln!(f, "seek yes")?;
        }
        f.write_str("accounts")?;
        for account in &setting.accounts {
            write!(f, " {account}")?;
        }
        writeln!(f)?;
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let word = words.next().unwrap_or_default();
        let kind = Self::KINDS.iter().position(|kind| kind.word == word);
        let kind = kind.ok_or_else(|| format!("no step is called `{word}`"))?;
        let args = Self::KINDS[kind].args;
        let mut numbers = vec![0; args.len()];
        for word in words {
            let (name, value) =
                word.split_once('=').ok_or_else(|| format!("`{word}`: name=number"))?;
            let at = args.iter().position(|arg| *arg == name);
            let at = at.ok_or_else(|| format!("`{name}` is none of {args:?}"))?;
            numbers[at] = number(value)?;
        }
        Self::new(kind, &numbers).ok_or_else(|| "no such step".to_owned())
    }
}

impl FromStr for Scenario {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        let setting = Setting {
            links: Links::Many,
            split: false,
            crypto: Crypto::Portable,
            suite: Suite::Classical,
            update_entries: 0,
            latency: 0,
            seek: false,
            accounts: Vec::new(),
        };
        let mut scenario = Self { seed: 0, setting, steps: Vec::new() };
        for (at, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                scenario.read(line).map_err(|why| Misread { line: at + 1, why })?;
            }
        }
        match scenario.setting.accounts.is_empty() {
            true => Err(Misread { line: text.lines().count(), why: "no `accounts`".into() }),
            false => Ok(scenario),
        }
    }
}

impl Scenario {
    fn read(&mut self, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let setting = &mut self.setting;
        match word {
            "seed" => self.seed = number(rest)?,
            "links" => setting.links = one_of(rest, &[("one", Links::One), ("many", Links::Many)])?,
            "split" => setting.split = one_of(rest, &[("yes", true), ("no", false)])?,
            "crypto" => {
                let known = [("portable", Crypto::Portable), ("insecure", Crypto::Insecure)];
                setting.crypto = one_of(rest, &known)?;
            }
            "suite" => {
                let known = [("classical", Suite::Classical), ("hybrid", Suite::Hybrid)];
                setting.suite = one_of(rest, &known)?;
            }
            "update-entries" => setting.update_entries = number(rest)?,
            "latency" if !rest.contains('=') => setting.latency = number(rest)?,
            "seek" => setting.seek = one_of(rest, &[("yes", true), ("no", false)])?,
            "accounts" => {
                let accounts: Result<Vec<u8>, _> = rest.split_whitespace().map(number).collect();
                setting.accounts = accounts?;
                if !sound(&setting.accounts) {
                    return Err(format!("1 to {DEVICES} devices; accounts count up from 0"));
                }
            }
            _ => self.steps.push(line.parse()?),
        }
        Ok(())
    }
}

/// Whether every account comes after those with lower numbers.
fn sound(accounts: &[u8]) -> bool {
    let mut known = 0;
    accounts.iter().all(|account| {
        let next = *account <= known;
        known = known.max(account.saturating_add(1));
        next
    }) && (1..=DEVICES).contains(&accounts.len())
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|_| format!("`{text}` is no number in bounds"))
}

fn one_of<T: Copy>(word: &str, known: &[(&str, T)]) -> Result<T, String> {
    let found = known.iter().find(|(name, _)| *name == word.trim());
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        format!("`{word}` is none of {}", names.join(", "))
    })
}
