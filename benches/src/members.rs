//! A group of many members: made, joined, changed, talked in, and caught up with after a long time away.
//!
//! Every member is a device of its own with a real machine, which registers and uploads key packages; those that are
//! not online are switched off after that. Everyone's state follows from the same seed, so runs differ in time only.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use qpc_protocol::client::Role;
use qpc_protocol::client::event::{Event, Outcome};
use qpc_protocol::env::Entropy;
use qpc_protocol::id::{AccountId, ChannelId};
use qpc_protocol::io::Ticket;
use qpc_protocol::limits::{DEVICES_PER_ACCOUNT, TICKETS};
use qpc_protocol::mls::suite::Suite;
use qpc_smol::store::ServerStore;
use serde_json::{Value, json};

use crate::Error;
use crate::town::{Spent, Town};

/// Who founds the group.
const FOUNDER: usize = 0;
/// Invitations under way at once.
const INVITED_AT_ONCE: usize = TICKETS / 2;
/// How many of those who are online may add and remove, the founder among them.
const ADMINS: usize = 5;
/// Commits that the one who is away misses.
const AWAY: usize = 50;

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Members once the group is made, those online included.
    pub members: usize,
    /// Of them, how many are online: the founder, and others who join, talk and renew their keys.
    pub online: usize,
    /// Devices added one by one.
    pub adds: usize,
    /// Devices removed one by one.
    pub removes: usize,
    /// Renewals of keys by members that are online.
    pub updates: usize,
    /// Messages of members that are online.
    pub messages: usize,
    /// The group's suite.
    pub suite: Suite,
}

/// What one step took.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it was.
    pub name: &'static str,
    /// How much of it there was: members, commits, messages.
    pub count: usize,
    /// What it took in all.
    pub spent: Spent,
}

impl Step {
    /// With stable names; times in milliseconds.
    pub fn json(&self) -> Value {
        let ms = |time: Duration| (time.as_secs_f64() * 1e3 * 10.0).round() / 10.0;
        json!({
            "step": self.name,
            "count": self.count,
            "ms": ms(self.spent.time),
            "server_ms": ms(self.spent.server),
            "up_bytes": self.spent.up,
            "down_bytes": self.spent.down,
            "persisted_bytes": self.spent.persisted,
        })
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Done {
    /// Steps in order.
    pub steps: Vec<Step>,
    /// How many commits the group was created by.
    pub created_in: u64,
    /// The epoch that all who are online ended in.
    pub epoch: u64,
    /// Members at the end.
    pub members: u32,
    /// Messages that every one of them has, its own included.
    pub messages: usize,
}

/// A change of the group, or a message.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Add,
    Remove,
    Update,
    Message,
}

struct Run {
    plan: Plan,
    town: Town,
    channel: ChannelId,
    /// Those who are online, the founder first.
    online: Vec<usize>,
    /// Those of them who may add and remove.
    admins: Vec<usize>,
    /// Names of accounts of one device that are to be added.
    outside: Vec<String>,
    /// Accounts of one device that may be removed.
    inside: Vec<AccountId>,
    /// Bodies by their seq in the log.
    said: BTreeMap<u64, Vec<u8>>,
    /// What each device was told, by seq.
    heard: BTreeMap<usize, BTreeMap<u64, Vec<u8>>>,
    steps: Vec<Step>,
    created_in: u64,
}

/// Does it, and checks that all who are online end in the same epoch with all messages.
///
/// # Errors
/// What did not come out as it has to.
pub fn measure(plan: Plan, store: Box<dyn ServerStore>) -> Result<Done, Error> {
    if plan.online < 2 || plan.members < plan.online + plan.removes {
        return Err("at least two online, and members for all who are removed".into());
    }
    let mut run = Run {
        plan,
        town: Town::new(store),
        channel: ChannelId([0; 16]),
        online: Vec::new(),
        admins: vec![FOUNDER],
        outside: Vec::new(),
        inside: Vec::new(),
        said: BTreeMap::new(),
        heard: BTreeMap::new(),
        steps: Vec::new(),
        created_in: 0,
    };
    let begun = run.town.spent();
    let names = run.register()?;
    run.step("register", plan.members + plan.adds, begun);
    run.create(&names)?;
    run.join()?;
    run.make_admins()?;
    run.live()?;
    run.check()
}

impl Run {
    fn step(&mut self, name: &'static str, count: usize, before: Spent) {
        let spent = self.town.spent().since(before);
        self.steps.push(Step { name, count, spent });
    }

    // ---- accounts -----------------------------------------------------------------------------

    /// Everybody registers; returns the names of those to invite at the start.
    fn register(&mut self) -> Result<Vec<String>, Error> {
        let Plan { members, online, adds, removes, .. } = self.plan;
        let mut names = Vec::new();
        for number in 0..online {
            let name = format!("online{number}");
            let device = self.enrol(&name, true)?;
            self.online.push(device);
            names.push(name);
        }
        for number in 0..removes {
            let name = format!("leaver{number}");
            let device = self.enrol(&name, true)?;
            self.inside.push(self.account(device)?);
            self.town.stop(device)?;
            names.push(name);
        }
        for number in 0..adds {
            let name = format!("newcomer{number}");
            let device = self.enrol(&name, true)?;
            self.town.stop(device)?;
            self.outside.push(name);
        }
        // The rest in accounts of many devices: invitations are by account, and looking accounts up is rationed.
        for number in 0..members - online - removes {
            let name = format!("crowd{}", number / DEVICES_PER_ACCOUNT);
            let first = number % DEVICES_PER_ACCOUNT == 0;
            let device = self.enrol(&name, first)?;
            self.town.stop(device)?;
            if first {
                names.push(name);
            }
        }
        // Those who join do so later, so that it can be measured.
        for &device in &self.online[1..] {
            self.town.stop(device)?;
        }
        Ok(names.split_off(1))
    }

    fn enrol(&mut self, name: &str, first: bool) -> Result<usize, Error> {
        let device = self.town.device()?;
        let password = format!("password of {name}");
        if first {
            self.town.done(device, |client, now| client.register(now, name, password.into()))?;
        } else {
            self.town.done(device, |client, now| client.login(now, name, password.into()))?;
        }
        let client = self.town.client(device)?;
        if client.is_idle() {
            return Ok(device);
        }
        self.town.until(|town| town.client(device).is_ok_and(|client| client.is_idle()))?;
        Ok(device)
    }

    fn account(&self, device: usize) -> Result<AccountId, Error> {
        let (_, sender, _) = self.town.client(device)?.whoami().ok_or("no account")?;
        Ok(sender.account)
    }

    // ---- the group ----------------------------------------------------------------------------

    fn create(&mut self, names: &[String]) -> Result<(), Error> {
        let before = self.town.spent();
        let suite = self.plan.suite;
        let made =
            self.town.done(FOUNDER, |client, now| client.create_group(now, "many", suite))?;
        let Outcome::Group(channel) = made else { return Err("no group".into()) };
        self.channel = channel;
        for names in names.chunks(INVITED_AT_ONCE) {
            let mut tickets = Vec::new();
            for name in names {
                let invite = |client: &mut qpc_protocol::client::Client, now| {
                    client.invite(now, channel, name)
                };
                tickets.push(self.town.command(FOUNDER, invite)?);
            }
            self.all_done(FOUNDER, tickets)?;
        }
        self.town.settle()?;
        self.created_in = self.summary(FOUNDER)?.0;
        self.step("create", self.plan.members, before);
        Ok(())
    }

    fn all_done(&mut self, device: usize, tickets: Vec<Ticket>) -> Result<(), Error> {
        let mut open: BTreeSet<_> = tickets.into_iter().collect();
        while !open.is_empty() {
            let ends = |event: &Event| match event {
                Event::Done(of, _) | Event::Failed(of, _) => open.contains(of),
                _ => false,
            };
            self.town.until(|town| town.devices[device].events.iter().any(ends))?;
            for event in core::mem::take(&mut self.town.devices[device].events) {
                match event {
                    Event::Done(of, _) => drop(open.remove(&of)),
                    Event::Failed(of, why) if open.contains(&of) => {
                        return Err(format!("{of:?}: {why:?}").into());
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Those who are online come, one after the other.
    fn join(&mut self) -> Result<(), Error> {
        let before = self.town.spent();
        for device in self.online.clone().split_off(1) {
            self.town.start(device)?;
            let channel = self.channel;
            let joined = |event: &Event| matches!(event, Event::Joined { channel: of, .. } if *of == channel);
            self.town.until(|town| town.devices[device].events.iter().any(joined))?;
        }
        self.town.settle()?;
        self.step("join", self.online.len() - 1, before);
        Ok(())
    }

    /// Some of those who are online may add and remove; the last of them, who will be away, is not among these.
    fn make_admins(&mut self) -> Result<(), Error> {
        let before = self.town.spent();
        let admins = self.online[1..self.online.len() - 1].iter().take(ADMINS - 1);
        let admins: Vec<_> = admins.copied().collect();
        for &admin in &admins {
            let (channel, account) = (self.channel, self.account(admin)?);
            self.town
                .done(FOUNDER, |client, now| client.set_role(now, channel, account, Role::Admin))?;
            self.admins.push(admin);
        }
        self.town.settle()?;
        self.step("make an admin", admins.len(), before);
        Ok(())
    }

    /// Changes and messages, mixed; for a while one of those online is away.
    fn live(&mut self) -> Result<(), Error> {
        let deeds = self.deeds();
        let changes = deeds.iter().filter(|deed| !matches!(deed, Deed::Message)).count();
        let away = *self.online.last().ok_or("nobody is online")?;
        let first = changes.saturating_sub(AWAY) / 2;
        let (mut done, mut is_away) = (0, false);
        let mut spent: BTreeMap<&'static str, (usize, Spent)> = BTreeMap::new();
        for deed in deeds {
            let before = self.town.spent();
            let change = !matches!(deed, Deed::Message);
            if change && done == first && self.online.len() > 2 {
                self.town.stop(away)?;
                is_away = true;
            }
            let name = self.act(deed, is_away)?;
            self.listen()?;
            done += usize::from(change);
            let (count, sum) = spent.entry(name).or_default();
            *count += 1;
            *sum = sum.plus(self.town.spent().since(before));
            if change && is_away && done == first + AWAY {
                is_away = false;
                self.back(away, AWAY)?;
            }
        }
        if is_away {
            self.back(away, done - first)?;
        }
        let named = spent.into_iter();
        self.steps.extend(named.map(|(name, (count, spent))| Step { name, count, spent }));
        Ok(())
    }

    /// Who was away reads all that it missed.
    fn back(&mut self, away: usize, missed: usize) -> Result<(), Error> {
        let before = self.town.spent();
        let from = self.summary(FOUNDER)?.0;
        self.town.start(away)?;
        self.listen()?;
        if self.summary(away)?.0 != from {
            return Err("who was away did not catch up".into());
        }
        self.step("catch up", missed, before);
        Ok(())
    }

    /// What is to be done, in random order.
    fn deeds(&mut self) -> Vec<Deed> {
        let Plan { adds, removes, updates, messages, .. } = self.plan;
        let kinds = [
            (Deed::Add, adds),
            (Deed::Remove, removes),
            (Deed::Update, updates),
            (Deed::Message, messages),
        ];
        let mut deeds: Vec<_> =
            kinds.into_iter().flat_map(|(deed, count)| core::iter::repeat_n(deed, count)).collect();
        for last in (1..deeds.len()).rev() {
            deeds.swap(last, below(self.town.rng(), last + 1));
        }
        deeds
    }

    /// Does one thing; returns what it counts as.
    fn act(&mut self, deed: Deed, one_is_away: bool) -> Result<&'static str, Error> {
        let channel = self.channel;
        let here = self.online.len() - usize::from(one_is_away);
        let who = self.online[below(self.town.rng(), here)];
        let admin = self.admins[below(self.town.rng(), self.admins.len())];
        match deed {
            Deed::Add => {
                let at = below(self.town.rng(), self.outside.len());
                let name = self.outside.swap_remove(at);
                self.town.done(admin, |client, now| client.invite(now, channel, &name))?;
                Ok("add")
            }
            Deed::Remove => {
                let at = below(self.town.rng(), self.inside.len());
                let account = self.inside.swap_remove(at);
                self.town.done(admin, |client, now| client.remove(now, channel, account))?;
                Ok("remove")
            }
            Deed::Update => {
                self.town.done(who, |client, now| client.update(now, channel))?;
                Ok("update")
            }
            Deed::Message => {
                let mut body = String::new();
                write!(body, "message {} of device {who}", self.said.len())?;
                let sent = self
                    .town
                    .done(who, |client, now| client.send(now, channel, body.as_bytes()))?;
                let Outcome::Sent(sent) = sent else { return Err("not sent".into()) };
                self.said.insert(sent.accepted.seq, body.clone().into_bytes());
                self.heard.entry(who).or_default().insert(sent.accepted.seq, body.into_bytes());
                Ok("message")
            }
        }
    }

    /// Everybody who is on reads to the end, and acknowledges what it was told.
    fn listen(&mut self) -> Result<(), Error> {
        self.town.settle()?;
        let channel = self.channel;
        for device in self.online.clone() {
            for event in core::mem::take(&mut self.town.devices[device].events) {
                match event {
                    Event::Message(message) => {
                        self.town
                            .command(device, |client, now| client.ack(now, channel, message.seq))?;
                        let heard = self.heard.entry(device).or_default();
                        heard.insert(message.seq, message.body.to_vec());
                    }
                    Event::Unreadable { .. }
                    | Event::Gap { .. }
                    | Event::ForkDetected { .. }
                    | Event::ForkSuspected { .. }
                    | Event::ServerFault { .. } => {
                        return Err(format!("device {device}: {event:?}").into());
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Epoch, epoch authenticator and number of members, as a device has them.
    fn summary(&self, device: usize) -> Result<(u64, Vec<u8>, u32), Error> {
        let groups = self.town.client(device)?.groups();
        let group = groups.into_iter().find(|group| group.channel == self.channel);
        let group = group.filter(|group| group.member).ok_or("not in the group")?;
        Ok((group.epoch, group.authenticator, group.members))
    }

    fn check(mut self) -> Result<Done, Error> {
        self.listen()?;
        let first = self.summary(FOUNDER)?;
        for &device in &self.online {
            if self.summary(device)? != first {
                return Err(format!("device {device} is in another state").into());
            }
            let heard = self.heard.remove(&device).unwrap_or_default();
            if heard != self.said {
                return Err(format!("device {device} has not all messages, or others").into());
            }
        }
        let (epoch, _, members) = first;
        let expected = self.plan.members + self.plan.adds - self.plan.removes;
        if usize::try_from(members)? != expected {
            return Err(format!("{members} members, and {expected} were expected").into());
        }
        let (created_in, messages) = (self.created_in, self.said.len());
        Ok(Done { steps: self.steps, created_in, epoch, members, messages })
    }
}

fn below(rng: &mut Entropy, most: usize) -> usize {
    usize::try_from(rng.u64() % (most.max(1) as u64)).unwrap_or(0)
}
