//! Checkpoints: what this device and others signed of the logs that they read, carried where the log's own entries do
//! not decide what arrives.
//!
//! With a message of its own to a channel a device sends, at most once in [`CHECKPOINT_TIME`], checkpoints of other
//! channels, least recently considered ones first; of those only in which every account of this channel is, so that
//! nobody learns of a channel that is not theirs. A person carries one by [`Client::checkpoint`] and
//! [`Client::compare_checkpoint`].
//!
//! What a checkpoint contradicts is a member's word against the server's: the event names the member. Nothing stops on
//! it.

use core::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::Client;
use super::channel::{Channel, Slot};
use super::directory;
use super::event::{Comparison, Event, Failed, Outcome};
use super::submission::{OutItem, OutWhat, Says};
use crate::crypto::checkpoint::Checkpoint;
use crate::crypto::identity::DeviceRecord;
use crate::delivery::marks::Marks;
use crate::env::{Now, UnixMillis};
use crate::error::Refused;
use crate::id::{AccountId, ChannelId, Digest, MessageId, Sender};
use crate::io::Ticket;
use crate::limits::{CHECKPOINT_TIME, CHECKPOINTS_KEPT, CHECKPOINTS_PER_MESSAGE};
use crate::store::batch::Op;
use std::collections::BTreeSet;

/// What a device remembers of a log beside its cursor.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Ledger {
    pub marks: Marks,
    /// The confirmed transcript hash of the group's epoch.
    pub transcript: Option<Digest>,
    /// When checkpoints of other logs were last sent in this one.
    pub carries: UnixMillis,
    /// When this log was last considered for being sent in another.
    pub considered: UnixMillis,
}

/// A checkpoint of another device, kept until this one has read as far.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub checkpoint: Checkpoint,
    /// Its device is a member of the group that it is about.
    pub vetted: bool,
}

impl Claim {
    fn put(&self) -> Op {
        let value = (self.vetted, self.checkpoint.encode());
        directory::put(claim_key(self.checkpoint.channel, self.checkpoint.by), &value)
    }

    /// Reads what was put.
    pub(super) fn read((vetted, bytes): (bool, Vec<u8>)) -> Option<Self> {
        Some(Self { checkpoint: Checkpoint::decode(&bytes)?, vetted })
    }
}

fn claim_key(channel: ChannelId, by: Sender) -> Vec<u8> {
    directory::key(directory::CLAIM, &[&channel.0, &by.account.0, &by.device.0])
}

impl Channel {
    /// What somebody else's checkpoint is to the log that was read here.
    fn weigh(&self, theirs: &Checkpoint) -> Comparison {
        let cursor = &self.row.cursor;
        let at_mark = self.agrees(theirs.mark, theirs.mark_chain);
        let at_head = self.agrees(theirs.seq, theirs.chain);
        let same_epoch = (theirs.generation, theirs.epoch) == (self.row.generation, self.row.epoch);
        let lower = theirs.seq.min(cursor.seq());
        if at_mark == Some(false) {
            Comparison::Differs { seq: theirs.mark }
        } else if at_head == Some(false) {
            Comparison::Differs { seq: theirs.seq }
        } else if same_epoch && self.ledger.transcript.is_some_and(|own| own != theirs.transcript) {
            Comparison::Differs { seq: lower }
        } else if theirs.seq > cursor.seq() {
            let agreed = at_mark.map(|_| theirs.mark);
            Comparison::Ahead { seq: theirs.seq, agreed }
        } else if at_head.or(at_mark).is_some() {
            Comparison::Same { seq: if at_head.is_some() { theirs.seq } else { theirs.mark } }
        } else {
            Comparison::TooOld { seq: theirs.seq }
        }
    }

    /// What a checkpoint is that its device has not signed by the key which the group has of it here: in another epoch
    /// it may have another key.
    fn weigh_unproven(&self, theirs: &Checkpoint) -> Comparison {
        let seq = theirs.seq;
        match (theirs.generation, theirs.epoch).cmp(&(self.row.generation, self.row.epoch)) {
            Ordering::Less => Comparison::TooOld { seq },
            Ordering::Equal => Comparison::Forged,
            Ordering::Greater => Comparison::Ahead { seq, agreed: None },
        }
    }
}

impl Client {
    /// This device's checkpoint of a channel, as it stands: for another member to compare, by whatever way there is
    /// beside the server. [`Checkpoint::encode`] makes bytes of it.
    ///
    /// # Errors
    /// `NoAccount`, `UnknownChannel`, `NotMember`; `Busy` while this device changes its key twice and the group does not know
    /// of the first.
    pub fn checkpoint(&self, channel: ChannelId) -> Result<Checkpoint, Refused> {
        self.need_member(channel)?;
        let known = self.channels.get(&channel).ok_or(Refused::UnknownChannel)?;
        let by = self.me().ok_or(Refused::NoAccount)?;
        // Who compares it knows this device by its leaf.
        let key = self.key_in(channel).ok_or(Refused::Busy)?;
        let (row, ledger) = (&known.row, &known.ledger);
        let (seq, chain) = (row.cursor.seq(), row.cursor.chain());
        let (mark, mark_chain) = ledger.marks.last().unwrap_or((seq, chain));
        let (generation, epoch) = (row.generation, row.epoch);
        let transcript = ledger.transcript.ok_or(Refused::UnknownChannel)?;
        let signature = [0; 64];
        let unsigned = Checkpoint {
            by,
            channel,
            generation,
            epoch,
            transcript,
            seq,
            chain,
            mark,
            mark_chain,
            signature,
        };
        Ok(unsigned.signed(self.config.backend, key))
    }

    /// Compares another member's [`Checkpoint`], encoded, with what was read here. → [`Outcome::Compared`]; what
    /// differs is told by [`Event::ForkDetected`] too.
    ///
    /// # Errors
    /// `Busy`, `Stopped`, `UnknownChannel`, `NotMember`, `Invalid` for bytes that are no checkpoint of that channel.
    pub fn compare_checkpoint(
        &mut self,
        now: Now,
        channel: ChannelId,
        theirs: &[u8],
    ) -> Result<Ticket, Refused> {
        self.begin(now)?;
        self.need_member(channel)?;
        let theirs = Checkpoint::decode(theirs).ok_or(Refused::Invalid("not a checkpoint"))?;
        if theirs.channel != channel {
            return Err(Refused::Invalid("a checkpoint of another group"));
        }
        let ticket = self.next_ticket();
        self.comparisons.push((ticket, theirs));
        self.dirty.insert(channel);
        Ok(ticket)
    }

    /// Everything about checkpoints that can be done in a channel now.
    pub(super) fn pump_checkpoints(&mut self, id: ChannelId) {
        self.weigh_claims(id);
        self.answer_comparisons(id);
        self.carry_checkpoints(id);
    }

    // ---- what others say ----------------------------------------------------------------------

    /// Checkpoints that came in a message of that device. Whether it is a member of their groups is seen when one
    /// matters.
    pub(super) fn on_checkpoints(&mut self, sender: &DeviceRecord, checkpoints: Vec<Checkpoint>) {
        for checkpoint in checkpoints {
            let (id, by) = (checkpoint.channel, checkpoint.by);
            let followed = self.channels.get(&id).is_some_and(|c| !c.inbox && c.row.member);
            let signed = by == sender.sender()
                && checkpoint.verify(self.config.backend, &sender.device_key).is_ok();
            let known = self.claims.contains_key(&(id, by));
            if !followed || !signed || (!known && self.claims.len() >= CHECKPOINTS_KEPT) {
                continue;
            }
            // A later one covers what an earlier one does.
            let claim = Claim { checkpoint, vetted: false };
            self.gate.stage(claim.put());
            self.claims.insert((id, by), claim);
            self.dirty.insert(id);
        }
    }

    /// Compares what others said of a log with what was read of it meanwhile.
    fn weigh_claims(&mut self, id: ChannelId) {
        let of_channel = self.claims.range((id, LOWEST)..).take_while(|((of, _), _)| *of == id);
        let claims: Vec<_> = of_channel.map(|(_, claim)| claim.clone()).collect();
        for claim in claims {
            let Some(channel) = self.channels.get(&id).filter(|channel| channel.row.member) else {
                self.drop_claim(&claim);
                continue;
            };
            match channel.weigh(&claim.checkpoint) {
                Comparison::Ahead { .. } if claim.vetted => {}
                // Who is in the group shows once this device is back in it.
                Comparison::Ahead { .. } | Comparison::Differs { .. }
                    if channel.is_lost() && matches!(channel.slot, Slot::Cold) => {}
                found @ (Comparison::Ahead { .. } | Comparison::Differs { .. }) => {
                    match self.member_in(id, claim.checkpoint.by).map(|found| found.is_some()) {
                        Some(true) => self.note_claim(claim, found),
                        Some(false) => self.drop_claim(&claim),
                        // The group is being read.
                        None => return,
                    }
                }
                _ => self.drop_claim(&claim),
            }
        }
    }

    fn note_claim(&mut self, mut claim: Claim, found: Comparison) {
        let (channel, by) = (claim.checkpoint.channel, claim.checkpoint.by);
        self.note_links(&claim.checkpoint);
        if let Comparison::Differs { seq } = found {
            self.fork(channel, seq, Some(by));
            return self.drop_claim(&claim);
        }
        claim.vetted = true;
        self.gate.stage(claim.put());
        self.claims.insert((channel, by), claim);
    }

    /// Where a member's log is the same as the one read here.
    fn note_links(&mut self, theirs: &Checkpoint) {
        let id = theirs.channel;
        for (seq, chain) in [(theirs.mark, theirs.mark_chain), (theirs.seq, theirs.chain)] {
            if self.channels.get(&id).and_then(|channel| channel.agrees(seq, chain)) == Some(true) {
                self.note_agreed(id, Some(theirs.by), seq);
            }
        }
    }

    /// Devices that are out of a group have nothing to say of it any more.
    pub(super) fn forget_claims(&mut self, id: ChannelId, of: &[Sender]) {
        for by in of {
            if let Some(claim) = self.claims.get(&(id, *by)).cloned() {
                self.drop_claim(&claim);
            }
        }
    }

    /// Who is in a group is another matter than before: who was known to be may be out.
    pub(super) fn doubt_claims(&mut self, id: ChannelId) {
        for ((of, _), claim) in &mut self.claims {
            if *of == id && core::mem::take(&mut claim.vetted) {
                self.gate.stage(claim.put());
            }
        }
    }

    fn drop_claim(&mut self, claim: &Claim) {
        let (channel, by) = (claim.checkpoint.channel, claim.checkpoint.by);
        self.claims.remove(&(channel, by));
        self.gate.stage(Op::Delete(claim_key(channel, by)));
    }

    /// The record of a member's device; `None` while the group is being read. Of a group that cannot be read, nobody is
    /// known to be a member.
    fn member_in(&mut self, id: ChannelId, of: Sender) -> Option<Option<DeviceRecord>> {
        if self.is_being_read(id) {
            return None;
        }
        let found = self.with_group(id, |group, _| {
            let members = group.members().into_iter();
            members.map(|member| member.record).find(|record| record.sender() == of)
        });
        Some(found.flatten())
    }

    /// Whether a group is on its way from the store, or is from now on.
    fn is_being_read(&mut self, id: ChannelId) -> bool {
        self.load_group(id);
        self.channels.get(&id).is_some_and(|channel| matches!(channel.slot, Slot::Loading(..)))
    }

    fn answer_comparisons(&mut self, id: ChannelId) {
        if !self.comparisons.iter().any(|(_, theirs)| theirs.channel == id) {
            return;
        }
        for (ticket, theirs) in core::mem::take(&mut self.comparisons) {
            let device = if theirs.channel == id {
                // Who was in the group is known even if its log cannot be read on.
                self.read_group(id);
                self.member_in(id, theirs.by)
            } else {
                None
            };
            let Some(device) = device else {
                self.comparisons.push((ticket, theirs));
                continue;
            };
            let backend = self.config.backend;
            let key = device.as_ref().map(|device| device.device_key);
            let proven = key.is_some_and(|key| theirs.verify(backend, &key).is_ok());
            if proven {
                self.note_links(&theirs);
            }
            let found = match (device, self.channels.get(&id)) {
                (_, None) => {
                    let failed = Failed::Obsolete("no longer a member of the group");
                    self.event(Event::Failed(ticket, failed));
                    continue;
                }
                (None, _) => Comparison::Stranger,
                (_, Some(channel)) if proven => channel.weigh(&theirs),
                (_, Some(channel)) => channel.weigh_unproven(&theirs),
            };
            if let Comparison::Differs { seq } = found {
                self.fork(id, seq, Some(theirs.by));
            }
            self.event(Event::Done(ticket, Outcome::Compared(found)));
        }
    }

    /// What was to be compared with a group cannot be.
    pub(super) fn fail_comparisons(&mut self, id: ChannelId, why: &'static str) {
        for (ticket, theirs) in core::mem::take(&mut self.comparisons) {
            if theirs.channel == id {
                self.event(Event::Failed(ticket, Failed::Obsolete(why)));
            } else {
                self.comparisons.push((ticket, theirs));
            }
        }
    }

    // ---- what this device says ----------------------------------------------------------------

    /// This device writes to a channel: checkpoints of others go along, if it is time for some.
    pub(super) fn may_carry(&mut self, id: ChannelId) {
        let wall = self.now.wall;
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if channel.ledger.carries.plus(CHECKPOINT_TIME) > wall && channel.ledger.carries <= wall {
            return;
        }
        channel.ledger.carries = wall;
        channel.ledger_dirty = true;
        let known = |(of, other): &(&ChannelId, &Channel)| {
            **of != id && !other.inbox && other.row.member && other.row.cursor.seq() > 0
        };
        let others = self.channels.iter().filter(known);
        let mut others: Vec<_> = others.map(|(of, other)| (other.ledger.considered, *of)).collect();
        others.sort_unstable();
        others.truncate(CHECKPOINTS_PER_MESSAGE);
        for (_, of) in &others {
            if let Some(other) = self.channels.get_mut(of) {
                other.ledger.considered = wall;
                other.ledger_dirty = true;
            }
            self.stage_channel(*of);
        }
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.carrying = others.into_iter().map(|(_, of)| of).collect();
        }
        self.dirty.insert(id);
    }

    /// Sends the checkpoints that are to go along, once the groups are read.
    fn carry_checkpoints(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get(&id) else { return };
        if channel.carrying.is_empty() {
            return;
        }
        let of = channel.carrying.clone();
        let waits = of.iter().chain([&id]).filter(|of| self.is_being_read(**of)).count();
        if waits > 0 {
            return;
        }
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.carrying.clear();
        }
        let Some(here) = self.accounts_in(id) else { return };
        let mut body = Vec::new();
        for of in of {
            let theirs = self.accounts_in(of).is_some_and(|there| here.is_subset(&there));
            if let (true, Ok(checkpoint)) = (theirs, self.checkpoint(of)) {
                body.extend(checkpoint.encode());
            }
        }
        if body.is_empty() {
            return;
        }
        let message = MessageId(self.entropy.array());
        let what =
            OutWhat::Application { body: body.into(), says: Says::Checkpoints, sealed: None };
        let ticket = self.next_ticket();
        self.store_item(ticket, OutItem::new(id, message, what, true));
    }

    fn accounts_in(&mut self, id: ChannelId) -> Option<BTreeSet<AccountId>> {
        self.with_group(id, |group, _| {
            group.members().iter().map(|member| member.record.account).collect()
        })
    }

    /// A group was read: whoever waits for it to say something of it goes on.
    pub(super) fn wake_carriers(&mut self) {
        let carriers = self.channels.iter().filter(|(_, channel)| !channel.carrying.is_empty());
        self.dirty.extend(carriers.map(|(id, _)| *id));
    }
}

/// Before every other.
const LOWEST: Sender = Sender { account: AccountId([0; 32]), device: crate::id::DeviceId([0; 16]) };

#[cfg(test)]
pub(super) mod tests;
