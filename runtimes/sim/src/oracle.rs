//! The oracle: a small model of accounts, devices, channels and messages that is made from the outside, from commands,
//! their answers and what the store says, and from nothing that the machines think. What does not fit is a failure.

mod accounts;
mod answers;
mod calm;
mod heard;
mod limits;
mod log;
mod reader;
mod said;
mod secrets;
mod stored;
mod wire;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use qpc_protocol::id::{AccountId, ChannelId, Sender};
use qpc_protocol::io::{Output, Ticket};
use qpc_protocol::server::op::{StoreOp, StoreReply};
use qpc_protocol::wire::message::Part;

use self::limits::Queues;
use self::log::{Broken, Logs, Place};
use self::reader::{At, Issued, Reader};
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
    /// What groups are called, as whoever called them so was told, and where their logs ended then. No world gives one
    /// group two names beside its first.
    names: BTreeMap<ChannelId, (String, Sender, u64)>,
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
            names: BTreeMap::new(),
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

    /// A copy of a device's disk was made.
    pub(crate) fn backed_up(&mut self, device: usize) {
        self.readers[device].backed_up();
    }

    /// A device's disk was put back to that copy.
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
        // A membership after the one that the backup has seen the end of.
        let later = reader.rows.iter().filter(|(id, row)| {
            let since = reader.sender.zip(self.logs.channels.get(id));
            let since = since.and_then(|(of, log)| log.since(of));
            !row.member && since > Some(row.place())
        });
        let later: Vec<_> = later.map(|(id, _)| *id).collect();
        later.into_iter().for_each(|id| reader.lose(id));
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

    /// Devices that were lied to, or whose words were changed, and that are on and not whole again. Of those that
    /// have been in another history nobody knows.
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
}
