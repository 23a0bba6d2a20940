//! The oracle: a small model of accounts, devices, channels and messages that is made from the outside, from commands,
//! their answers and what the store says, and from nothing that the machines think. What does not fit is a failure.

mod accounts;
mod answers;
mod calm;
mod limits;
mod log;
mod reader;
mod said;
mod secrets;
mod stored;
mod wire;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use qpc_protocol::client::event::{Event, Message, NameConflict, Why};
use qpc_protocol::id::{AccountId, ChannelId, Sender};
use qpc_protocol::io::{Output, Ticket};
use qpc_protocol::limits::UNREAD_EVENTS;
use qpc_protocol::server::op::{StoreOp, StoreReply};
use qpc_protocol::wire::message::Part;

use self::limits::Queues;
use self::log::{Broken, Logs, Place};
use self::reader::{At, Issued, Reader, is_alarm, subject};
use self::said::Said;
use self::wire::Wire;
use crate::recorder::{MessageKey, Recorder};
use crate::world::{Seen, World};

pub(crate) use self::answers::Asked;
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
#[derive(Clone)]
pub(crate) struct Oracle {
    /// What was found, in order.
    pub(crate) failures: Vec<Failure>,
    /// The step that is under way.
    step: usize,
    /// How many things were compared: a run that compares nothing proves nothing.
    pub(crate) checks: u64,
    /// What machines said in this step.
    outputs: u64,
    /// What machines were alarmed by: which, and how often.
    pub(crate) alarms: BTreeMap<String, BTreeMap<usize, usize>>,
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
    /// Who first had which authenticator in an epoch.
    authenticators: BTreeMap<(ChannelId, Place), (usize, Vec<u8>)>,
    /// Who rules a group from an epoch on, as members were told.
    admins: BTreeMap<(ChannelId, Place), BTreeSet<AccountId>>,
    wire: Wire,
    queues: Queues,
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
            authenticators: BTreeMap::new(),
            admins: BTreeMap::new(),
            wire: Wire::new(keys),
            queues: Queues::default(),
        }
    }

    /// What it knows, for another world that goes on from the same disks. `keys`: as in [`Self::new`].
    pub(crate) fn later(&self, keys: Option<&'static Recorder>) -> Self {
        Self { wire: self.wire.later(keys), queues: Queues::default(), ..self.clone() }
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
        let lost = self.readers[device].start();
        self.never_read(lost);
        self.wire.started(device);
    }

    /// A device's disk was put back to an older state.
    pub(crate) fn put_back(&mut self, device: usize, disk: &BTreeMap<Vec<u8>, Vec<u8>>) {
        let reader = &mut self.readers[device];
        let known =
            |id: &ChannelId| disk.contains_key([b"d/c/".as_slice(), &id.0].concat().as_slice());
        if let Some(of) = reader.sender {
            let was_in = self.logs.channels.iter().filter(|(_, log)| log.was_member(of));
            let lost: Vec<_> = was_in.map(|(id, _)| *id).filter(|id| !known(id)).collect();
            reader.rows.retain(|id, _| known(id));
            lost.into_iter().for_each(|id| reader.lose(id));
        }
        let again = reader.put_back(disk);
        let generations = reader.rows.iter().map(|(id, row)| (*id, row.generation));
        let now = |id| self.logs.channels.get(&id).map_or(0, |log| log.place.0);
        reader.forgot.extend(generations.filter(|(id, generation)| *generation < now(*id)));
        self.wire.forget_claim(device);
        self.sent_again(device, again);
    }

    /// A record of a device was torn while it was off; whether it began with that. How far it was with a channel is
    /// nothing it can be without; a record of a group costs no more than that group.
    pub(crate) fn torn(&mut self, device: usize, key: &[u8], begun: bool) {
        let group = key.strip_prefix(b"g/").and_then(|rest| rest.first_chunk::<16>());
        let what = || format!("device {device}: {}", key.escape_ascii());
        self.check(begun == group.is_some(), "a torn record is found", what);
        self.readers[device].torn.extend(group.map(|id| ChannelId(*id)));
    }

    /// Somebody lies to a device, or changes what it says.
    pub(crate) fn lied(&mut self, device: usize) {
        self.dishonest = true;
        self.readers[device].is_lied_to();
        self.spoil(device);
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
        let devices = self.readers[device].sender.map(|own| self.logs.devices_of(own.account));
        let issued = Issued::new(asked, devices.unwrap_or_default());
        let twice = self.readers[device].issued(ticket, issued);
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

    /// Devices that were lied to, or whose words were changed, and that are on and not whole again. Of those that have been
    /// in another history nobody knows.
    pub(crate) fn doubtful(&self, world: &World) -> Vec<usize> {
        let readers = self.readers.iter().zip(&world.devices).enumerate();
        let doubtful = readers.filter(|(_, (reader, device))| {
            reader.lied && !reader.forked && device.client.is_some()
        });
        doubtful.map(|(device, _)| device).collect()
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
        let broken = self.queues.see(seen);
        self.broken(broken);
        match seen {
            Seen::Output(who, Output::Event(event), _) => self.event(*who, event),
            Seen::Output(who, Output::Send { link, .. }, bytes) => {
                let (wire, queues) = (&mut self.wire, &mut self.queues);
                let broken = wire.sent(*who, *link, bytes, self.readers.get(*who), queues);
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
                self.persisted(*device, batch);
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
        if let (StoreOp::PutDevice { record, .. }, StoreReply::Told { .. }) = (op, reply) {
            self.registered(record.sender());
        }
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

    /// Whoever sent that record is that device, whether it hears of it or not.
    fn registered(&mut self, sender: Sender) {
        let devices = self.readers.iter_mut().enumerate();
        let nobody = devices.filter(|(_, reader)| reader.sender.is_none());
        for (device, reader) in nobody {
            reader.sender = self.wire.claims(device).filter(|claimed| *claimed == sender);
        }
    }

    fn event(&mut self, device: usize, event: &Event) {
        let cut_off = matches!(event, Event::Gap { .. } | Event::Evicted { by: None, .. });
        if is_alarm(event) || cut_off {
            let text = format!("{event:?}");
            let word = text.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
            *self.alarms.entry(word).or_default().entry(device).or_default() += 1;
            self.readers[device].alarmed.extend(subject(event));
        }
        let expected = match event {
            Event::Unreadable { channel, seq, .. } => {
                let reader = &self.readers[device];
                let gone = reader.sender.is_some_and(|sender| !self.logs.is_active(sender));
                let log = self.logs.channels.get(channel);
                let place = log.and_then(|log| log.entry(*seq)).map(|entry| entry.place);
                gone || reader.is_disturbed((*channel, *seq), place)
            }
            Event::AccountChanged { .. } => self.readers[device].misled,
            // Its name went with it.
            Event::NameContradicted { account, conflict: NameConflict::Unknown, .. } => {
                self.logs.deleted.contains(account)
            }
            _ => false,
        };
        let caused = self.is_caused(device, event);
        self.readers[device].misled |= caused && matches!(event, Event::AccountChanged { .. });
        let alarm = is_alarm(event) && !caused && !expected;
        self.check(!alarm, "no alarm without a cause", || format!("device {device}: {event:?}"));
        match event {
            Event::Message(message) => self.message(device, message),
            Event::Done(ticket, outcome) => {
                if let Some(issued) = self.answered(device, *ticket) {
                    self.done(device, *ticket, &issued, outcome);
                }
            }
            Event::Failed(ticket, failed) => {
                if let Some(issued) = self.answered(device, *ticket) {
                    self.failed(device, &issued, failed);
                }
            }
            Event::Changed(change) => self.changed(device, change),
            Event::Joined { channel, .. } => self.joined(device, *channel),
            Event::FellOut { channel, .. } => {
                self.fallen += 1;
                self.readers[device].fell_out(*channel);
            }
            Event::Rejoined { channel, epoch, why } => {
                self.came_in(device, *channel);
                let reader = &mut self.readers[device];
                let generation = reader.rows.get(channel).map_or(0, |row| row.generation);
                // A group that could be read till then is read on.
                if *why != Why::Asked || !reader.reads_on(*channel) {
                    reader.came_back(*channel, (generation, *epoch));
                }
            }
            Event::Gap { channel, from, to } => {
                let entries = || (*from..*to).all(|seq| self.logs.is_gone(*channel, seq));
                let reader = &self.readers[device];
                let own = reader.between.contains(channel) || reader.is_out_of(*channel);
                let gone = reader.lied || reader.restored || own || entries();
                self.check(gone, "what is told to be gone is", || format!("{device}: {event:?}"));
                self.readers[device].gap(*channel, *from, *to);
                self.inbox_lost(device, *channel);
            }
            // Nothing is left that says whose group it was.
            Event::Unreadable { channel, why, .. } if why.contains("a member has to remove") => {
                let reader = &mut self.readers[device];
                if reader.torn.contains(channel) {
                    reader.lose(*channel);
                }
            }
            Event::Reset { channel, by, .. } => {
                self.readers[device].between.insert(*channel);
                if self.readers[device].sender == Some(*by) {
                    self.came_in(device, *channel);
                }
            }
            Event::LeaveUndone { channel } => {
                self.readers[device].leaving.remove(channel);
            }
            // A server that says so to a device which cannot read the log keeps it out until a member acts.
            Event::Evicted { channel, by: None } if self.readers[device].lied => {
                self.readers[device].lose(*channel);
            }
            Event::Restored { .. } => {
                let expected = self.readers[device].restored || self.readers[device].lied;
                self.check(expected, "no alarm without a cause", || format!("{device}: {event:?}"));
            }
            Event::SessionEnded(code) => self.ended(device, *code),
            Event::Online { .. } => {
                let reader = &mut self.readers[device];
                (reader.ended, reader.closed) = (false, false);
            }
            _ => {}
        }
    }

    /// Whether somebody's dishonesty can be what an alarm is about: that to this device, or to somebody in the same
    /// group.
    fn is_caused(&self, device: usize, event: &Event) -> bool {
        let liars = || self.readers.iter().filter(|reader| reader.lied);
        let group = subject(event).and_then(|channel| self.logs.channels.get(&channel));
        let of_group = |log: &log::Log| {
            liars().any(|reader| reader.sender.is_some_and(|sender| log.was_member(sender)))
        };
        let of_anybody = matches!(event, Event::NameContradicted { .. } | Event::Done(..));
        let parted = subject(event).is_some_and(|channel| {
            self.readers.iter().any(|reader| reader.parted.contains(&channel))
        });
        self.readers[device].lied
            || parted
            || group.is_some_and(of_group)
            || (of_anybody && liars().next().is_some())
    }

    fn joined(&mut self, device: usize, channel: ChannelId) {
        let reader = &mut self.readers[device];
        reader.torn.remove(&channel);
        reader.parted.remove(&channel);
        if !reader.between.remove(&channel) {
            reader.leaving.remove(&channel);
        }
        let of = reader.sender;
        let since = |logs: &Logs| logs.channels.get(&channel)?.since(of?);
        let others = self.others.as_ref().filter(|_| reader.forked);
        let since = since(&self.logs).or_else(|| since(others?));
        let by = of.and_then(|of| self.logs.joined_by(channel, of));
        reader.joined_by.extend(by.map(|by| (channel, by.clone())));
        // What was before is not known to a backup that did not know of the group.
        let unread = reader.unwelcomed.remove(&channel);
        if let (true, Some(place)) = (reader.has_lost(channel) || unread, since) {
            reader.came_back(channel, place);
        }
        self.came_in(device, channel);
        self.check(since.is_some(), "who joins was added", || format!("{device} {channel}"));
    }

    /// A device knows of its membership.
    pub(super) fn came_in(&mut self, device: usize, channel: ChannelId) {
        let reader = &mut self.readers[device];
        let log = self.logs.channels.get(&channel);
        let since = reader.sender.zip(log).and_then(|(of, log)| log.since(of));
        reader.unwelcomed.remove(&channel);
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

    fn answered(&mut self, device: usize, ticket: Ticket) -> Option<Issued> {
        match self.readers[device].answered(ticket) {
            Ok(issued) => Some(issued),
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
}
