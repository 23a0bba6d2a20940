//! What machines tell their applications, against what happened.

use qpc_protocol::client::event::{Event, Message, NameConflict, Why};
use qpc_protocol::id::ChannelId;
use qpc_protocol::io::Ticket;
use qpc_protocol::limits::UNREAD_EVENTS;
use qpc_protocol::wire::message::EntryKind;

use super::answers::Asked;
use super::log::{Log, Logs};
use super::reader::{Issued, is_alarm, subject};
use super::{Oracle, PLANTED};

impl Oracle {
    /// A machine told its application something.
    pub(super) fn event(&mut self, device: usize, event: &Event) {
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
                self.saw_own_leaf(device, *channel);
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
        let compared = |ticket| match self.readers[device].tickets.get(ticket)?.asked {
            Asked::Compare(channel) => Some(channel),
            _ => None,
        };
        let about = match event {
            Event::Done(ticket, _) => compared(ticket),
            event => subject(event),
        };
        let group = about.and_then(|channel| self.logs.channels.get(&channel));
        let of_group = |log: &Log| {
            liars().any(|reader| reader.sender.is_some_and(|sender| log.was_member(sender)))
        };
        let of_anybody = matches!(event, Event::NameContradicted { .. } | Event::Done(..));
        let parted = about.is_some_and(|channel| {
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

    /// A device came back from outside: the tree has shown it the key package that it was added by, unless a commit of
    /// its own had replaced that leaf before.
    fn saw_own_leaf(&mut self, device: usize, channel: ChannelId) {
        let Some(of) = self.readers[device].sender else { return };
        let Some(log) = self.logs.channels.get(&channel) else { return };
        let since = log.since(of);
        let commits = log.entries().filter(|(_, entry)| {
            entry.kind == EntryKind::Commit && entry.sender == of && Some(entry.place) >= since
        });
        let by = self.logs.joined_by(channel, of).filter(|_| commits.count() == 1);
        self.readers[device].joined_by.extend(by.map(|by| (channel, by.clone())));
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
