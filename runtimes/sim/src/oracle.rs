//! The oracle: a small model of accounts, devices, channels and messages that is made from the outside, from commands,
//! their answers and what the store says, and from nothing that the machines think. What does not fit is a failure.

mod calm;
mod log;
mod reader;
mod said;
mod wire;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use qpc_protocol::client::event::{Event, GroupChange, Message, NameConflict, Outcome, Why};
use qpc_protocol::id::{AccountId, ChannelId, Sender};
use qpc_protocol::io::{Output, Ticket};
use qpc_protocol::limits::{KEY_PACKAGES_PER_DEVICE, UNREAD_EVENTS};
use qpc_protocol::server::op::{StoreOp, StoreReply};
use qpc_protocol::wire::message::{EntryKind, Part};

use self::log::{Broken, Logs};
use self::reader::{At, Reader, is_alarm};
use self::said::Said;
use self::wire::Wire;
use crate::recorder::{MessageKey, Recorder};
use crate::world::Seen;

pub(crate) use self::reader::Asked;
pub(crate) use self::wire::PLANTED;

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which one: the same words for the same promise. Of a panic: where it was.
    pub rule: String,
    /// What happened in its place.
    pub what: String,
    /// When.
    pub at: Duration,
    /// In which step of the scenario, from 0.
    pub step: usize,
}

/// The model, and what it found.
pub(crate) struct Oracle {
    /// What was found, in order.
    pub(crate) failures: Vec<Failure>,
    /// The step that is under way.
    step: usize,
    /// How many things were compared: a run that compares nothing proves nothing.
    pub(crate) checks: u64,
    /// What machines said in this step.
    outputs: u64,
    /// What machines were alarmed by, and how often.
    pub(crate) alarms: BTreeMap<String, usize>,
    /// How often a device said that it fell out of a group.
    pub(crate) fallen: usize,
    /// Somebody was dishonest: alarms are as they should be.
    dishonest: bool,
    now: Duration,
    logs: Logs,
    /// The logs of the other history, once the server has had two.
    others: Option<Logs>,
    readers: Vec<Reader>,
    said: Vec<Said>,
    /// What made the messages of the logs.
    keys: BTreeMap<At, MessageKey>,
    /// Channels in the order in which they came to be.
    channels: Vec<ChannelId>,
    wire: Wire,
}

/// More failures than these are not kept: they follow from the first ones.
const FAILURES: usize = 16;
/// Twenty times as many outputs as any step of 200 drawn worlds had, the calm of two virtual hours included.
const OUTPUTS: u64 = 100_000;

impl Oracle {
    /// A model of nothing yet. `keys`: who knows what made a ciphertext.
    pub(crate) fn new(keys: Option<&'static Recorder>) -> Self {
        Self {
            failures: Vec::new(),
            step: 0,
            outputs: 0,
            checks: 0,
            alarms: BTreeMap::new(),
            fallen: 0,
            dishonest: false,
            now: Duration::ZERO,
            logs: Logs::default(),
            others: None,
            readers: Vec::new(),
            said: Vec::new(),
            keys: BTreeMap::new(),
            channels: Vec::new(),
            wire: Wire::new(keys),
        }
    }

    fn fail(&mut self, rule: &str, what: String) {
        if self.failures.len() < FAILURES {
            let (at, step) = (self.now, self.step);
            self.failures.push(Failure { rule: rule.to_owned(), what, at, step });
        }
    }

    fn check(&mut self, holds: bool, rule: &str, what: impl FnOnce() -> String) {
        self.checks += 1;
        if !holds {
            self.fail(rule, what());
        }
    }

    fn broken(&mut self, broken: impl IntoIterator<Item = Broken>) {
        self.checks += 1;
        broken.into_iter().for_each(|(rule, what)| self.fail(rule, what));
    }

    // ---- what the scenario does ---------------------------------------------------------------

    /// A step begins.
    pub(crate) fn begin(&mut self, step: usize) {
        (self.step, self.outputs) = (step, 0);
    }

    /// A further device, switched on.
    pub(crate) fn device(&mut self) {
        self.readers.push(Reader::default());
    }

    /// A device was switched on again.
    pub(crate) fn started(&mut self, device: usize) {
        self.readers[device].start();
        self.wire.started(device);
    }

    /// A device's disk was put back to an older state.
    pub(crate) fn put_back(&mut self, device: usize, disk: &BTreeMap<Vec<u8>, Vec<u8>>) {
        let reader = &mut self.readers[device];
        let known =
            |id: &ChannelId| disk.contains_key([b"d/c/".as_slice(), &id.0].concat().as_slice());
        if let Some(of) = reader.sender {
            let was_in = self.logs.channels.iter().filter(|(_, log)| log.was_member(of));
            reader.lost = was_in.map(|(id, _)| *id).filter(|id| !known(id)).collect();
        }
        reader.put_back(disk);
        self.forget_order(device);
    }

    /// A record of a device was torn while it was off; whether it began with that. How far it was with a channel is nothing
    /// it can be without; a record of a group costs no more than that group.
    pub(crate) fn torn(&mut self, device: usize, key: &[u8], begun: bool) {
        let group = key.strip_prefix(b"g/").and_then(|rest| rest.first_chunk::<16>());
        let what = || format!("device {device}: {}", key.escape_ascii());
        self.check(begun == group.is_some(), "a torn record is found", what);
        self.readers[device].torn.extend(group.map(|id| ChannelId(*id)));
    }

    /// Somebody lies to a device, or changes what it says.
    pub(crate) fn lied(&mut self, device: usize) {
        self.dishonest = true;
        self.readers[device].lied = true;
    }

    /// From now on the server leads these devices into another history.
    pub(crate) fn forked(&mut self, devices: &[usize]) {
        self.others = Some(self.logs.clone());
        for device in devices {
            self.lied(*device);
            self.readers[*device].forked = true;
        }
    }

    /// Whether the server has, or had, two histories: one more would be a third.
    pub(crate) fn is_forked(&self) -> bool {
        self.others.is_some()
    }

    /// The logs in which something is to be found that a device was told.
    fn logs_of(&self, device: usize, has: impl Fn(&Logs) -> bool) -> &Logs {
        let others = self.others.as_ref().filter(|_| self.readers[device].forked);
        others.filter(|others| !has(&self.logs) && has(others)).unwrap_or(&self.logs)
    }

    /// From now on the path secrets of a device's commits are forged.
    pub(crate) fn forges(&mut self, device: usize) {
        self.lied(device);
        self.readers[device].forger = true;
    }

    /// A further device goes on from the disk of this one, and so is who it is.
    pub(crate) fn stolen(&mut self, device: usize) {
        self.lied(device);
        self.readers[device].stolen = true;
        let mut thief = self.readers[device].clone();
        thief.start();
        self.readers.push(thief);
    }

    /// The application acknowledged what it was told up to there.
    pub(crate) fn acknowledged(&mut self, device: usize, channel: ChannelId, seq: u64) {
        self.readers[device].read.insert(channel, seq);
    }

    /// A command was accepted.
    pub(crate) fn issued(&mut self, device: usize, ticket: Ticket, asked: Asked) {
        let twice = self.readers[device].issued(ticket, asked);
        self.broken(twice.map(|what| ("a ticket is given once", what)));
    }

    /// A channel, by the order in which they came to be.
    pub(crate) fn channel(&self, number: u16) -> Option<ChannelId> {
        let count = self.channels.len().max(1);
        self.channels.get(usize::from(number) % count).copied()
    }

    /// How many there are.
    pub(crate) fn channel_count(&self) -> usize {
        self.channels.len()
    }

    /// The account of a name.
    pub(crate) fn account(&self, name: &str) -> Option<AccountId> {
        let mut accounts = self.logs.accounts.iter();
        accounts.find(|(username, _)| username.as_str() == name).map(|(_, account)| *account)
    }

    /// The last message of a channel that a device was told in this life.
    pub(crate) fn last_told(&self, device: usize, channel: ChannelId) -> Option<u64> {
        self.readers[device].last.get(&channel).copied()
    }

    /// Whether a device's session ended for good though the account wants it.
    pub(crate) fn is_logged_out(&self, device: usize) -> bool {
        let reader = &self.readers[device];
        reader.ended && reader.sender.is_some_and(|sender| self.logs.is_active(sender))
    }

    /// Where a device is in the model, by its place in the world.
    pub(crate) fn sender(&self, device: usize) -> Option<Sender> {
        self.readers[device].sender
    }

    // ---- what the world shows -----------------------------------------------------------------

    /// Something happened. The failure is that the step does not come to an end.
    pub(crate) fn see(&mut self, now: Duration, seen: &Seen<'_>) -> Result<(), Failure> {
        self.now = now;
        self.outputs += u64::from(matches!(seen, Seen::Output(..)));
        if self.outputs > OUTPUTS {
            let rule = "the world comes to rest".to_owned();
            let what = format!("{OUTPUTS} outputs in one step");
            return Err(Failure { rule, what, at: now, step: self.step });
        }
        match seen {
            Seen::Output(who, Output::Event(event), _) => self.event(*who, event),
            Seen::Output(who, Output::Send { link, .. }, bytes) => {
                let broken = self.wire.sent(*who, *link, bytes, self.readers.get(*who));
                self.broken(broken);
            }
            Seen::Output(..)
            | Seen::Started(..)
            | Seen::Input(..)
            | Seen::Idle(..)
            | Seen::Opened(..) => {}
            Seen::StoredElsewhere(ops, replies) => {
                let others = self.others.get_or_insert_default();
                let executed =
                    ops.iter().zip(*replies).map(|(op, reply)| others.executed(op, reply));
                let broken: Vec<_> = executed.filter_map(Result::err).collect();
                self.broken(broken);
            }
            Seen::NotStored => self.server_has_room(),
            Seen::Persisted(device, batch) => {
                if let Some(reader) = self.readers.get_mut(*device) {
                    reader.persisted(batch);
                }
            }
            Seen::Stored(ops, replies) => {
                for (op, reply) in ops.iter().zip(*replies) {
                    self.stored(op, reply);
                }
            }
        }
        Ok(())
    }

    fn stored(&mut self, op: &StoreOp, reply: &StoreReply) {
        let broken = self.logs.executed(op, reply).err();
        self.broken(broken);
        match (op, reply) {
            (StoreOp::CreateChannel { channel, .. }, StoreReply::Done) => {
                self.channels.push(*channel);
            }
            (StoreOp::Append(append), StoreReply::Appended { seq, .. }) => {
                if let Part::Inline(payload) = &append.payload {
                    self.remember_key(append.channel, *seq, payload);
                }
            }
            _ => {}
        }
    }

    fn event(&mut self, device: usize, event: &Event) {
        let cut_off = matches!(event, Event::Gap { .. } | Event::Evicted { by: None, .. });
        if is_alarm(event) || cut_off {
            let text = format!("{event:?}");
            let word = text.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
            *self.alarms.entry(word).or_default() += 1;
            self.readers[device].alarmed = true;
        }
        let expected = match event {
            Event::Unreadable { channel, .. } => {
                let reader = &self.readers[device];
                let gone = reader.sender.is_some_and(|sender| !self.logs.is_active(sender));
                gone || reader.is_disturbed(*channel)
            }
            // Its name went with it.
            Event::NameContradicted { account, conflict: NameConflict::Unknown, .. } => {
                self.logs.deleted.contains(account)
            }
            _ => false,
        };
        let alarm = is_alarm(event) && !self.dishonest && !expected;
        self.check(!alarm, "no alarm without a cause", || format!("device {device}: {event:?}"));
        match event {
            Event::Message(message) => self.message(device, message),
            Event::Done(ticket, outcome) => {
                if let Some(asked) = self.answered(device, *ticket) {
                    self.done(device, &asked, outcome);
                }
            }
            Event::Failed(ticket, _) => {
                if let Some(Asked::Said(number)) = self.answered(device, *ticket)
                    && let Some(said) = self.said.get_mut(number as usize)
                {
                    said.failed = !self.readers[device].lied;
                    let read = said.at.filter(|_| said.failed);
                    self.check(read.is_none(), "what failed is not read", || format!("{number}"));
                }
            }
            Event::Changed(change) => self.changed(device, change),
            Event::Joined { channel, .. } => self.joined(device, *channel),
            Event::FellOut { channel, .. } => {
                self.fallen += 1;
                self.readers[device].out.insert(*channel);
            }
            Event::Rejoined { channel, epoch, why } => {
                self.came_in(device, *channel);
                let generation = self.logs.channels.get(channel).map_or(0, |log| log.place.0);
                let reader = &mut self.readers[device];
                reader.out.remove(channel);
                reader.lost.remove(channel);
                let torn = reader.torn.remove(channel);
                let gap = reader.gaps.iter().any(|(of, ..)| of == channel);
                // A group that could be read till then is read on.
                if *why != Why::Asked || torn || gap || reader.alarmed {
                    reader.back.insert(*channel, (generation, *epoch));
                }
            }
            Event::Gap { channel, from, to } => {
                self.readers[device].gaps.push((*channel, *from, *to));
                self.inbox_lost(device, *channel);
            }
            // Nothing is left that says whose group it was.
            Event::Unreadable { channel, why, .. } if why.contains("a member has to remove") => {
                let reader = &mut self.readers[device];
                reader.lost.extend(reader.torn.contains(channel).then_some(*channel));
            }
            Event::Reset { channel, by, .. } => {
                self.readers[device].between.insert(*channel);
                if self.readers[device].sender == Some(*by) {
                    self.came_in(device, *channel);
                }
            }
            Event::Unreadable { channel, .. } if self.has_forger(*channel) => {
                self.readers[device].unopened.insert(*channel);
            }
            Event::LeaveUndone { channel } => {
                self.readers[device].leaving.remove(channel);
            }
            // A server that says so to a device which cannot read the log keeps it out until a member acts.
            Event::Evicted { channel, by: None } if self.readers[device].lied => {
                self.readers[device].lost.insert(*channel);
            }
            Event::Restored { .. } => {
                let expected = self.readers[device].restored || self.dishonest;
                self.check(expected, "no alarm without a cause", || format!("{device}: {event:?}"));
            }
            Event::SessionEnded(_) => self.readers[device].ended = true,
            Event::Online { .. } => self.readers[device].ended = false,
            _ => {}
        }
    }

    fn joined(&mut self, device: usize, channel: ChannelId) {
        let reader = &mut self.readers[device];
        reader.torn.remove(&channel);
        if !reader.between.remove(&channel) {
            reader.leaving.remove(&channel);
        }
        let of = reader.sender;
        let since = |logs: &Logs| logs.channels.get(&channel)?.since(of?);
        let others = self.others.as_ref().filter(|_| reader.forked);
        let since = since(&self.logs).or_else(|| since(others?));
        // What was before is not known to a backup that did not know of the group.
        let unread = reader.unwelcomed.remove(&channel) | reader.unopened.remove(&channel);
        let lost = reader.lost.remove(&channel) | unread;
        if let (true, Some(place)) = (lost, since) {
            reader.back.insert(channel, place);
        }
        self.came_in(device, channel);
        self.check(since.is_some(), "who joins was added", || format!("{device} {channel}"));
    }

    /// Whether somebody was in a group who forges path secrets: a commit from outside with such ones brings nobody back.
    fn has_forger(&self, channel: ChannelId) -> bool {
        let Some(log) = self.logs.channels.get(&channel) else { return false };
        let forgers = self.readers.iter().filter(|reader| reader.forger);
        forgers.filter_map(|reader| reader.sender).any(|of| log.was_member(of))
    }

    /// A device knows of its membership.
    fn came_in(&mut self, device: usize, channel: ChannelId) {
        let reader = &mut self.readers[device];
        let log = self.logs.channels.get(&channel);
        let since = reader.sender.zip(log).and_then(|(of, log)| log.since(of));
        reader.unwelcomed.remove(&channel);
        reader.unopened.remove(&channel);
        reader.joined.extend(since.map(|since| (channel, since)));
    }

    /// Entries of an inbox are gone, which is told: nothing else says who was added where meanwhile.
    fn inbox_lost(&mut self, device: usize, channel: ChannelId) {
        let reader = &mut self.readers[device];
        let Some(of) = reader.sender.filter(|of| ChannelId::inbox(*of) == channel) else { return };
        let memberships =
            self.logs.channels.iter().filter_map(|(id, log)| Some((id, log.since(of)?)));
        let unknown = memberships.filter(|(id, since)| reader.joined.get(id) != Some(since));
        reader.unwelcomed.extend(unknown.map(|(id, _)| *id));
    }

    fn answered(&mut self, device: usize, ticket: Ticket) -> Option<Asked> {
        match self.readers[device].answered(ticket) {
            Ok(asked) => asked,
            Err(what) => {
                self.fail("a command is answered once", format!("device {device}: {what}"));
                None
            }
        }
    }

    fn message(&mut self, device: usize, message: &Message) {
        let at = (message.channel, message.seq);
        let Some(number) = self.recognise(device, message) else { return };
        let reader = &mut self.readers[device];
        reader.unread += 1;
        let (life, unread, stored) = (reader.life, reader.unread, reader.stored.contains(&at));
        let before = reader.told.insert(at, life);
        let text = *reader.texts.entry(number).or_insert(at);
        let acked = reader.acked.contains(&at);
        let last = reader.last.insert(message.channel, message.seq).unwrap_or(0);
        let (lied, forked) = (reader.lied, reader.forked);
        let who = || format!("device {device}, text {number}, seq {}", message.seq);
        // Another message of another history has the same seq.
        let once = (forked || before != Some(life)) && text == at;
        self.check(once, "a message is read once", who);
        self.check(forked || !acked, "an acknowledged message does not come again", who);
        self.check(stored, "what is told is durable", who);
        self.check(last < message.seq || lied, "messages come in the order of the log", who);
        // A channel that is preferred has as many of its own.
        self.check(unread <= 2 * UNREAD_EVENTS + 1, "limits::UNREAD_EVENTS", who);
    }

    /// Which text this is, if all of it is as it was sent: by whom, where, and to whom.
    fn recognise(&mut self, device: usize, message: &Message) -> Option<u32> {
        let body = message.body.as_slice();
        let hex = body.get(PLANTED.len() + 1..PLANTED.len() + 9);
        let number =
            hex.and_then(|hex| u32::from_str_radix(core::str::from_utf8(hex).ok()?, 16).ok());
        let said = number.and_then(|number| self.said.get(number as usize)).cloned();
        let (Some(number), Some(said)) = (number, said.filter(|said| said.body == body)) else {
            self.fail("what is read was sent", format!("device {device}: {message:?}"));
            return None;
        };
        let who = || format!("device {device}, text {number}, {message:?}");
        let sender = self.readers[said.device].sender;
        self.check(said.channel == message.channel, "a message stays in its channel", who);
        self.check(sender == Some(message.sender), "a message is its sender's", who);
        self.check(!said.failed, "what failed is not read", who);
        // Where it really is: to a device that is lied to the server may count otherwise.
        let logs =
            self.logs_of(device, |logs| logs.find(message.channel, message.message).is_some());
        let seq = logs.find(message.channel, message.message);
        let Some(seq) = seq.filter(|seq| *seq == message.seq || self.readers[device].lied) else {
            self.fail("a message has its place in the log", who());
            return Some(number);
        };
        let log = logs.channels.get(&message.channel)?;
        let entry = log.entry(seq)?.clone();
        let reader = self.readers[device].sender;
        let may = reader.is_some_and(|reader| log.is_for(reader, seq));
        let lied = self.readers[device].lied;
        let had = reader.is_some_and(|reader| log.is_member(reader, entry.place));
        let (generation, epoch) = entry.place;
        let same = epoch == message.epoch && entry.sender == message.sender;
        self.check(same, "a message has its place in the log", || {
            format!("{}, generation {generation}", who())
        });
        self.check(may || (lied && had), "only members of its epoch read a message", who);
        self.placed(number, seq);
        Some(number)
    }

    fn done(&mut self, device: usize, asked: &Asked, outcome: &Outcome) {
        match (asked, outcome) {
            (Asked::Said(number), Outcome::Sent(sent)) => {
                let seq = sent.accepted.seq;
                let found = self.logs.find(sent.channel, sent.message) == Some(seq);
                let what = || format!("device {device}, text {number}, seq {seq}");
                self.check(found || self.dishonest, "what is told to be sent is in the log", what);
                self.placed(*number, seq);
            }
            (_, Outcome::Account { account, device: id, .. }) => {
                let sender = Sender { account: *account, device: *id };
                let reader = &mut self.readers[device];
                reader.ended = false;
                let before = reader.sender.replace(sender);
                let same = before.is_none_or(|before| before == sender);
                self.check(same, "a device stays itself", || format!("device {device}"));
            }
            (Asked::Leave(channel), Outcome::Done) => {
                self.readers[device].leaving.insert(*channel);
            }
            (Asked::Lookup(name), Outcome::Lookup { account, username, .. }) => {
                let known = self.logs.accounts.get(username);
                let right = known == Some(account) && username.as_str() == name;
                self.check(right || self.dishonest, "a name leads to its account", || name.clone());
            }
            (Asked::Members(channel), Outcome::Members(members)) => {
                let told: BTreeSet<Sender> = members.iter().map(|member| member.sender).collect();
                let known = |logs: &Logs| {
                    let log = logs.channels.get(channel);
                    log.is_some_and(|log| log.memberships().any(|set| *set == told))
                };
                let known = known(self.logs_of(device, known));
                self.check(known, "members are who was added", || format!("device {device}"));
            }
            (_, Outcome::Group(channel)) => {
                let is = |logs: &Logs| logs.channels.contains_key(channel);
                let made = is(self.logs_of(device, is));
                self.check(made, "a group that was made is there", || format!("{channel}"));
                self.came_in(device, *channel);
            }
            (_, Outcome::KeyPackages { available, .. }) => {
                let fits = *available as usize <= KEY_PACKAGES_PER_DEVICE;
                self.check(fits, "limits::KEY_PACKAGES_PER_DEVICE", || available.to_string());
            }
            _ => {}
        }
    }

    fn changed(&mut self, device: usize, change: &GroupChange) {
        let before = change.epoch.saturating_sub(1);
        let made = |logs: &Logs| {
            let log = logs.channels.get(&change.channel);
            log.is_some_and(|log| {
                log.entries().any(|(_, entry)| {
                    let at = entry.kind == EntryKind::Commit && entry.place.1 == before;
                    at && entry.sender == change.by
                })
            })
        };
        let made = made(self.logs_of(device, made));
        self.check(made, "an epoch is made by its commit", || format!("{device}: {change:?}"));
    }
}
