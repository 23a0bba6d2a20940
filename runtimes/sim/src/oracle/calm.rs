//! What has to be true when all faults have ended, everybody is on and honest, and the world has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use memchr::memmem;
use qpc_protocol::client::Client;
use qpc_protocol::client::event::GroupSummary;
use qpc_protocol::id::{ChannelId, Sender};
use qpc_protocol::limits::UNREAD_EVENTS;
use qpc_protocol::wire::message::{ChannelKind, EntryKind};

use super::Oracle;
use super::answers::Asked;
use super::limits;
use super::log::{Broken, Log};
use super::reader::{Issued, Reader};
use super::secrets::left_over;
use crate::world::{Device, World};

/// What is not true yet, if anything: a promise, and what is there in its place.
pub(crate) type Converging = Option<Broken>;

/// A device that takes part: its number, its machine, and who it is.
type Present<'a> = (usize, &'a Client, Sender);

impl Oracle {
    /// The devices that can have a session.
    fn present<'a>(&'a self, world: &'a World) -> impl Iterator<Item = Present<'a>> {
        self.readers.iter().zip(&world.devices).enumerate().filter_map(
            |(index, (reader, device))| {
                let client = device.client.as_ref()?;
                let sender = reader.sender.filter(|sender| self.logs.is_active(*sender))?;
                client.may_connect().is_ok().then_some((index, client, sender))
            },
        )
    }

    /// The first thing that is not as it has to be in the end.
    pub(crate) fn unsettled(&self, world: &World) -> Converging {
        let writing = world.devices.iter().position(Device::is_writing);
        if let Some(device) = writing {
            return Some(("the world comes to rest", format!("device {device} writes")));
        }
        for (device, client, sender) in self.present(world) {
            let mut logs = self.logs.channels.iter();
            let behind =
                logs.any(|(id, log)| log.is_left_behind(sender, &self.faithful(world, *id)));
            let reader = &self.readers[device];
            // Who founded a direct channel and was kept from adding the other waits, and the other too. So it does if
            // the founder does not come back, and the founder as long as there is nobody to be added.
            let asks =
                |issued: &Issued| matches!(issued.asked, Asked::Direct(_)) && !issued.answered;
            let unmet = reader.tickets.values().any(asks)
                && (self.dishonest
                    || self.is_founded_and_left(world, sender)
                    || self.was_put_out(sender)
                    || self.is_founded_for_nobody(world, sender));
            let kept_out = |id: &ChannelId| {
                let log = self.logs.channels.get(id);
                log.is_some_and(|log| log.members().contains(&sender))
            };
            let stays = |(id, log): (&ChannelId, &Log)| {
                let lost = reader.has_lost(*id) && kept_out(id);
                lost || reader.is_denied(*id) || reader.is_kept(*id, log)
            };
            let mut groups = client.groups().into_iter();
            let strange = groups.any(|group| self.waits_for_a_member(reader, &group));
            let elsewhere = reader.forked && !reader.alarmed.is_empty();
            let waits =
                elsewhere || behind || unmet || strange || self.logs.channels.iter().any(stays);
            if !waits && (!client.is_idle() || client.pending() > 0) {
                return Some(("the world comes to rest", format!("device {device}: {client:?}")));
            }
            let open = reader.tickets.iter().find(|(_, issued)| {
                let waits = waits || matches!(issued.asked, Asked::Direct(_));
                issued.life == reader.life && !issued.answered && !waits
            });
            if let Some((ticket, issued)) = open {
                let what = format!("device {device}: {ticket:?} {:?}", issued.asked);
                return Some(("a command is answered", what));
            }
        }
        let mut logs = self.logs.channels.iter();
        logs.find_map(|(id, log)| self.disagreement(world, *id, log))
            .or_else(|| self.missing(&self.senders(world)))
    }

    fn senders(&self, world: &World) -> BTreeMap<usize, Sender> {
        self.present(world).map(|(device, _, sender)| (device, sender)).collect()
    }

    /// Those who are present and have not left the channel: who is alone in a group leaves it without a word to the
    /// log.
    fn staying(&self, world: &World, id: ChannelId) -> BTreeSet<Sender> {
        let stays = |device: &usize| !self.readers[*device].leaving.contains(&id);
        let present = self.present(world).filter(|(device, ..)| stays(device));
        present.map(|(.., sender)| sender).collect()
    }

    /// Those of them who bring others back into a group that they have reset: a backup may not know that it has.
    fn faithful(&self, world: &World, id: ChannelId) -> BTreeSet<Sender> {
        let now = self.logs.channels.get(&id).map_or(0, |log| log.place.0);
        let forgot = |reader: &&Reader| reader.forgot.get(&id).is_some_and(|of| *of < now);
        let restored = self.readers.iter().filter(forgot);
        let restored: BTreeSet<_> = restored.filter_map(|reader| reader.sender).collect();
        self.staying(world, id).difference(&restored).copied().collect()
    }

    /// Whether a device that cannot read the log on, since it was restored or away for too long, does not know who
    /// moved the group last: it says so, and waits until somebody does whom it knows.
    fn waits_for_a_member(&self, reader: &Reader, group: &GroupSummary) -> bool {
        let log = self.logs.channels.get(&group.channel);
        (reader.restored || reader.is_out_of(group.channel))
            && log.is_some_and(|log| log.is_moved_by_a_stranger((group.generation, group.epoch)))
    }

    /// Whether a direct channel of this account's is there in which nobody is who could add a device to it.
    fn is_founded_and_left(&self, world: &World, device: Sender) -> bool {
        self.logs.channels.iter().any(|(id, log)| {
            let own = |member: &Sender| {
                let between = ChannelId::direct(device.account, member.account);
                member.account == device.account || between == *id
            };
            let staying = self.staying(world, *id);
            log.kind == ChannelKind::Direct
                && log.members().iter().all(|member| own(member) && !staying.contains(member))
        })
    }

    /// Whether this device was in a direct channel and is none of its members any more. A backup from before may not
    /// know that only who is in it can open it again, and waits for that.
    fn was_put_out(&self, device: Sender) -> bool {
        self.logs.channels.values().any(|log| {
            let direct = log.kind == ChannelKind::Direct;
            direct && log.was_member(device) && !log.members().contains(&device)
        })
    }

    /// Whether this device's account is alone in a direct channel, and no device of the other one can have a session.
    fn is_founded_for_nobody(&self, world: &World, device: Sender) -> bool {
        self.logs.channels.iter().any(|(id, log)| {
            let other = |of: &Sender| ChannelId::direct(device.account, of.account) == *id;
            let members = log.members();
            log.kind == ChannelKind::Direct
                && members.contains(&device)
                && members.iter().all(|member| member.account == device.account)
                && !self.present(world).any(|(.., sender)| other(&sender))
        })
    }

    /// Members who do not stand where the log ends, or not in the same epoch.
    fn disagreement(&self, world: &World, id: ChannelId, log: &Log) -> Converging {
        let mut said: Option<(usize, GroupSummary)> = None;
        for (device, client, sender) in self.present(world) {
            let group = client.groups().into_iter().find(|group| group.channel == id);
            let reader = &self.readers[device];
            // Whose records of a group do not even tell whose it was has said so, and waits for a member.
            let mut unknown = reader.torn.contains(&id) && reader.has_lost(id);
            unknown |= reader.is_denied(id) || reader.is_kept(id, log);
            // A backup from between two memberships.
            let put_out = group.as_ref().is_some_and(|group| !group.member);
            // Or it was put out in another history.
            unknown |= (reader.restored || reader.forked) && put_out;
            if reader.leaving.contains(&id) || unknown {
                continue;
            }
            // Up to where it has read another history: no entry of this one shows what is before that.
            let other = |group: &&GroupSummary| {
                let same = log.chain_at(group.cursor) == Some(group.chain);
                !same && self.is_elsewhere(reader, group)
            };
            let elsewhere = group.as_ref().filter(other).map(|group| group.cursor);
            if !log.members().contains(&sender) {
                let waits = log.is_left_behind(sender, &self.faithful(world, id))
                    || log.left(sender).is_some_and(|left| elsewhere >= Some(left));
                if group.is_some_and(|group| group.member) && !waits {
                    return Some(("who was removed is out", format!("device {device}, {id}")));
                }
                continue;
            }
            let Some(group) = group else {
                let alone = log.members().iter().all(|member| member.account == sender.account);
                // What a thief did with the device's own keys, the device does not know.
                let kept_out =
                    reader.stolen || reader.has_lost(id) || self.is_passed_over(reader, id);
                if (log.kind == ChannelKind::Direct && alone) || kept_out {
                    continue;
                }
                return Some(("who was added joins", format!("device {device}, {id}")));
            };
            if self.waits_for_a_member(reader, &group) || elsewhere >= Some(log.head()) {
                continue;
            }
            let difference = difference(log, &group);
            let difference = difference.or_else(|| {
                let told = reader.lied && reader.alarmed.contains(&id);
                let told = told || reader.parted.contains(&id) || self.is_elsewhere(reader, &group);
                let another = parts(log, &group) && !told;
                another.then(|| "another chain".into())
            });
            if let Some(what) = difference {
                let what = format!("device {device}, {id}: {what}");
                return Some(("members stand where the log ends", what));
            }
            let told = self.name_of(id, log).filter(|_| log.kind == ChannelKind::Group);
            if told.is_some() && group.name.is_some() && told != group.name.as_ref() {
                return Some(("a group is called as was told", format!("device {device}, {id}")));
            }
            match &said {
                None => said = Some((device, group)),
                Some((other, first)) => {
                    let what = || format!("devices {device} and {other}, {id}, {:?}", log.place);
                    if first.authenticator != group.authenticator {
                        return Some(("an epoch has one authenticator", what()));
                    }
                    // Whoever has heard no name yet says none.
                    let named = log.kind == ChannelKind::Group
                        && group.name.is_some()
                        && first.name.is_some();
                    if named && first.name != group.name {
                        return Some(("members call a group the same", what()));
                    }
                }
            }
        }
        None
    }

    /// Whether all that a device has read of a group is another history, as long as this one: nobody who has read this
    /// one has written to it since, and nothing else shows what was withheld.
    fn is_elsewhere(&self, reader: &Reader, group: &GroupSummary) -> bool {
        let other = self.others.as_ref().filter(|_| reader.forked);
        let other = other.and_then(|logs| logs.channels.get(&group.channel));
        other.is_some_and(|log| log.chain_at(group.cursor) == Some(group.chain))
    }

    /// What a group is called, unless whoever called it so was out before it could say so to anybody.
    fn name_of(&self, id: ChannelId, log: &Log) -> Option<&String> {
        let (name, by, since) = self.names.get(&id)?;
        let spoke = log.entries().any(|(seq, entry)| {
            seq > *since && entry.sender == *by && entry.kind == EntryKind::Application
        });
        (spoke || log.members().contains(by)).then_some(name)
    }

    /// Whether the welcome to a group is at a place of this history's inbox that the device has passed in another.
    fn is_passed_over(&self, reader: &Reader, id: ChannelId) -> bool {
        let welcomed = reader.sender.and_then(|of| self.logs.welcomed(id, of));
        reader.forked && welcomed.is_some_and(|(inbox, seq)| reader.read_to(inbox) >= seq)
    }

    /// The time for coming to rest is over.
    pub(crate) fn unsettled_for_good(&mut self, what: Converging) {
        let other = ("the world comes to rest", "just not for long enough".to_owned());
        self.broken([what.unwrap_or(other)]);
    }

    /// Everything that can only be said in the end.
    pub(crate) fn rest(&mut self, world: &World) {
        let present = self.senders(world);
        let missing = self.missing(&present);
        let kept = self.kept(world, &present);
        let unread = self.unread_for_nothing(&present);
        let over = self.left_over(world);
        let left = self.undrained(world);
        self.checks += self.said.len() as u64;
        self.broken(missing);
        self.broken(kept);
        self.broken(unread);
        self.broken(over);
        self.broken(left);
        self.excuses_end(world);
    }

    /// A queue in which something is left.
    fn undrained(&self, world: &World) -> Option<Broken> {
        let of_server =
            world.server.as_ref().and_then(|server| limits::undrained(&server.gauges()));
        let mut idle = self.present(world).filter(|(_, client, _)| client.is_idle());
        of_server.or_else(|| {
            idle.find_map(|(device, client, _)| {
                let (rule, what) = limits::undrained(&client.gauges())?;
                Some((rule, format!("device {device}: {what}")))
            })
        })
    }

    /// What is on a disk and should be gone, or is too much.
    fn left_over(&self, world: &World) -> Option<Broken> {
        let devices = self.readers.iter().zip(&world.devices).enumerate();
        let mut honest = devices.filter(|(_, (reader, _))| !reader.lied && !reader.restored);
        honest.find_map(|(device, (reader, at))| {
            let ended = at.client.as_ref()?.may_connect().is_err();
            // Until it is told, it is on its way to the disk.
            if ended && !reader.closed {
                return None;
            }
            if reader.logged_out_alone {
                return Some((
                    "what is told to be done is done",
                    format!("device {device}: logout"),
                ));
            }
            limits::kept(reader, &at.disk)
                .or_else(|| left_over(reader, &at.disk, world.now_of(device).wall, ended))
                .map(|(rule, what)| (rule, format!("device {device}: {what}")))
        })
    }

    /// Who stands where everybody stands, in all its groups, is not excused any more.
    fn excuses_end(&mut self, world: &World) {
        let mut whole = Vec::new();
        for (device, client, sender) in self.present(world) {
            let groups = client.groups();
            let stands = |(id, log): (&ChannelId, &Log)| {
                let group = groups.iter().find(|group| group.channel == *id);
                let member = log.members().contains(&sender);
                match group.filter(|group| group.member) {
                    Some(group) => difference(log, group).is_none(),
                    None => !member || self.readers[device].leaving.contains(id),
                }
            };
            let parts = |group: &&GroupSummary| {
                let log = self.logs.channels.get(&group.channel);
                group.member && log.is_some_and(|log| parts(log, group))
            };
            let parted: BTreeSet<_> = groups.iter().filter(parts).map(|g| g.channel).collect();
            let reader = &self.readers[device];
            let told = |id| reader.alarmed.contains(id) || reader.parted.contains(id);
            let whole_again = parted.iter().all(told) && self.logs.channels.iter().all(stands);
            if client.is_idle() && whole_again {
                whole.push((device, parted));
            }
        }
        for (device, parted) in whole {
            self.readers[device].parted = parted;
            let heads = self.logs.channels.iter().map(|(id, log)| (*id, log.head()));
            self.readers[device].is_whole(heads);
        }
    }

    /// Messages that a device should have read and did not.
    fn missing(&self, present: &BTreeMap<usize, Sender>) -> Option<Broken> {
        for (number, said) in (0_u32..).zip(&self.said) {
            let (Some(seq), false) = (said.at, said.spoilt) else { continue };
            let Some(log) = self.logs.channels.get(&said.channel) else { continue };
            let Some(entry) = log.entry(seq) else { continue };
            for (device, sender) in present {
                let reader = &self.readers[*device];
                // Or its application has not acknowledged as many as may wait.
                let full = reader.unread >= UNREAD_EVENTS;
                let read = full || reader.texts.contains_key(&number);
                if *device != said.device
                    && !read
                    && log.is_for(*sender, seq)
                    && !reader.may_miss((said.channel, seq), entry.place)
                {
                    let what = format!(
                        "device {device}, text {number} of device {}, {} seq {seq}, {:?}",
                        said.device, said.channel, entry.place
                    );
                    return Some(("every member reads every message", what));
                }
            }
        }
        None
    }

    /// A message that was acknowledged, and is on a disk still.
    fn unread_for_nothing(&self, present: &BTreeMap<usize, Sender>) -> Option<Broken> {
        let honest = present.keys().filter(|device| !self.readers[**device].lied);
        let kept = |device: &usize| Some((*device, self.readers[*device].kept_for_nothing()?));
        honest.filter_map(kept).next().map(|(device, (channel, seq))| {
            let what = format!("device {device}, {channel} seq {seq}");
            ("what was acknowledged is on no disk", what)
        })
    }

    /// Keys of messages that were read, or sent, and are still on a disk.
    fn kept(&self, world: &World, present: &BTreeMap<usize, Sender>) -> Option<Broken> {
        for (device, sender) in present {
            let reader = &self.readers[*device];
            let disk = &world.devices[*device].disk;
            let records: Vec<u8> = disk
                .iter()
                .filter(|(key, _)| key.starts_with(b"g/"))
                .flat_map(|(_, value)| value.iter().copied())
                .collect();
            for ((channel, seq), key) in &self.keys {
                let Some(log) = self.logs.channels.get(channel) else { continue };
                let own = log.entry(*seq).is_some_and(|entry| entry.sender == *sender);
                let missed = reader.has_missed(*channel);
                if missed || !(own || log.is_for(*sender, *seq)) || !log.members().contains(sender)
                {
                    continue;
                }
                let found = memmem::find(&records, &key.key).is_some()
                    || key.secret.is_some_and(|secret| memmem::find(&records, &secret).is_some());
                if found {
                    let what = format!("device {device}, {channel} seq {seq}");
                    return Some(("used keys are gone", what));
                }
            }
        }
        None
    }

    /// The keys that made an accepted message.
    pub(super) fn remember_key(&mut self, channel: ChannelId, seq: u64, payload: &[u8]) {
        if let Some(key) = self.wire.key_of(payload) {
            self.keys.insert((channel, seq), key);
        }
    }
}

fn difference(log: &Log, group: &GroupSummary) -> Option<String> {
    let ours = (group.generation, group.epoch);
    if !group.member || ours != log.place {
        return Some(format!("{ours:?}, member: {}; the log: {:?}", group.member, log.place));
    }
    if group.cursor != log.head() {
        return Some(format!("read up to {}; the log: {}", group.cursor, log.head()));
    }
    if group.members as usize != log.members().len() {
        return Some(format!("{} members; the log: {}", group.members, log.members().len()));
    }
    None
}

/// Whether a device has read another log than there is.
fn parts(log: &Log, group: &GroupSummary) -> bool {
    let chain = log.chain_at(log.head());
    group.cursor == log.head() && chain.is_some_and(|chain| chain != group.chain)
}
