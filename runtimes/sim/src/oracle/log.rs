//! The channels as the store's own answers tell them: entries, epochs, who is in, and that all of it follows the rules.

use std::collections::{BTreeMap, BTreeSet};

use qpc_protocol::id::{AccountId, ChannelId, DeviceId, Digest, MessageId, Sender};
use qpc_protocol::limits::PAST_EPOCHS;
use qpc_protocol::server::op::{Append, Commit, Reset, StoreOp, StoreReply};
use qpc_protocol::wire::message::{self as wire, ChannelKind, EntryKind, Username};

use super::secrets::package_of;

/// A generation of a channel and an epoch of it: in this order.
pub(super) type Place = (u32, u64);

/// An entry of a log.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) kind: EntryKind,
    pub(super) place: Place,
    pub(super) sender: Sender,
    pub(super) message: MessageId,
}

/// A stretch in which a device was a member: of a generation, over epochs, and over seqs.
#[derive(Clone, Debug)]
struct Span {
    device: Sender,
    generation: u32,
    epochs: (u64, Option<u64>),
    seqs: (u64, Option<u64>),
}

/// One channel.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub(super) kind: ChannelKind,
    pub(super) place: Place,
    /// After each entry; not known of one that the store wrote itself.
    chains: Vec<Option<Digest>>,
    creator: Sender,
    /// The seq of the last reset; 0 if there was none.
    reset: u64,
    entries: Vec<Entry>,
    /// Who has a leaf in each epoch.
    members: BTreeMap<Place, BTreeSet<Sender>>,
    spans: Vec<Span>,
}

/// What an answer of the store contradicts.
pub(super) type Broken = (&'static str, String);

impl Log {
    pub(super) fn head(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(super) fn entry(&self, seq: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(seq.checked_sub(1)?).ok()?)
    }

    /// Entries with their seqs.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u64, &Entry)> {
        (1..).zip(&self.entries)
    }

    /// Who was in before the last reset, and is not back, if whoever made it has no leaf any more or is none of
    /// `present`: nobody else asks them back.
    pub(super) fn is_left_behind(&self, device: Sender, present: &BTreeSet<Sender>) -> bool {
        let Some(reset) = self.entry(self.reset) else { return false };
        let founder = reset.sender;
        let asks = self.members().contains(&founder) && present.contains(&founder);
        let until = |span: &Span| span.device == device && span.seqs.1 == Some(self.reset);
        !asks && !self.members().contains(&device) && self.spans.iter().any(until)
    }

    /// Who has a leaf now.
    pub(super) fn members(&self) -> &BTreeSet<Sender> {
        &self.members[&self.place]
    }

    /// Whether the last commit is by an account that a device which stands at `place` does not know for a member: by
    /// the server's word alone it goes nowhere.
    pub(super) fn is_moved_by_a_stranger(&self, place: Place) -> bool {
        let last = self.entries.iter().rfind(|entry| entry.kind == EntryKind::Commit);
        let known = self.members.get(&place);
        last.zip(known).is_some_and(|(last, known)| {
            place < self.place && known.iter().all(|member| member.account != last.sender.account)
        })
    }

    /// Who had a leaf in an epoch.
    pub(super) fn members_at(&self, place: Place) -> Option<&BTreeSet<Sender>> {
        self.members.get(&place)
    }

    /// Every membership there was.
    pub(super) fn memberships(&self) -> impl Iterator<Item = (&Place, &BTreeSet<Sender>)> {
        self.members.iter()
    }

    /// The chain up to an entry, if it is known.
    pub(super) fn chain_at(&self, seq: u64) -> Option<Digest> {
        *self.chains.get(usize::try_from(seq.checked_sub(1)?).ok()?)?
    }

    /// Who made it.
    pub(super) fn creator(&self) -> Sender {
        self.creator
    }

    /// Whether the device has the keys of an epoch.
    pub(super) fn is_member(&self, device: Sender, (generation, epoch): Place) -> bool {
        self.spans.iter().any(|span| span.device == device && span.has(generation, epoch))
    }

    /// Whether the device is handed an entry, and has the keys of its epoch.
    pub(super) fn is_for(&self, device: Sender, seq: u64) -> bool {
        let Some(entry) = self.entry(seq) else { return false };
        let (generation, epoch) = entry.place;
        let mut spans = self.spans.iter().filter(|span| span.device == device);
        spans.any(|span| {
            let (joined, left) = span.seqs;
            span.has(generation, epoch) && joined < seq && left.is_none_or(|left| seq <= left)
        })
    }

    /// Whether the device may be handed an entry, whatever it can do with it.
    pub(super) fn is_handed(&self, device: Sender, seq: u64) -> bool {
        let mut spans = self.spans.iter().filter(|span| span.device == device);
        spans.any(|span| span.seqs.0 < seq && span.seqs.1.is_none_or(|left| seq <= left))
    }

    /// Where it became a member, the last time.
    pub(super) fn since(&self, device: Sender) -> Option<Place> {
        let last = self.spans.iter().rfind(|span| span.device == device);
        last.map(|span| (span.generation, span.epochs.0))
    }

    /// The last entry that the device is handed, if it was removed.
    pub(super) fn left(&self, device: Sender) -> Option<u64> {
        self.spans.iter().rfind(|span| span.device == device)?.seqs.1
    }

    /// Whether it was a member once.
    pub(super) fn was_member(&self, device: Sender) -> bool {
        self.spans.iter().any(|span| span.device == device)
    }

    fn push(&mut self, entry: Entry, chain: Option<Digest>) {
        self.entries.push(entry);
        self.chains.push(chain);
    }

    fn join(&mut self, device: Sender, seq: u64) {
        let (generation, epoch) = self.place;
        let last = self.spans.iter().rfind(|span| span.device == device).map(|span| span.seqs);
        // Who was in until the last reset reads on where it was.
        let until = last.filter(|(_, left)| self.reset > 0 && *left == Some(self.reset));
        let seqs = (until.map_or(seq, |(joined, _)| joined), None);
        self.spans.push(Span { device, generation, epochs: (epoch, None), seqs });
    }

    /// The device is handed nothing after `seq`. Its keys stay those of its epochs.
    fn leave(&mut self, device: Sender, seq: u64) {
        let spans = self.spans.iter_mut().filter(|span| span.device == device);
        for span in spans.filter(|span| span.seqs.1.is_none()) {
            span.seqs.1 = Some(seq);
        }
    }

    /// The device's leaf is gone from the epoch that begins now.
    fn prune(&mut self, device: Sender) {
        let (generation, epoch) = self.place;
        let of = |span: &&mut Span| span.device == device && span.generation == generation;
        for span in self.spans.iter_mut().filter(of).filter(|span| span.epochs.1.is_none()) {
            span.epochs.1 = Some(epoch);
        }
    }
}

impl Span {
    fn has(&self, generation: u32, epoch: u64) -> bool {
        let (from, to) = self.epochs;
        self.generation == generation && from <= epoch && to.is_none_or(|to| epoch < to)
    }
}

/// All channels, accounts and devices.
#[derive(Clone, Debug, Default)]
pub(super) struct Logs {
    pub(super) channels: BTreeMap<ChannelId, Log>,
    pub(super) accounts: BTreeMap<Username, AccountId>,
    /// The devices that were registered, and their keys.
    pub(super) devices: BTreeMap<Sender, [u8; 32]>,
    /// Those whose tokens were ended.
    pub(super) logged_out: BTreeSet<Sender>,
    /// What was counted of whose key packages.
    pub(super) packages: BTreeMap<Sender, BTreeSet<(u32, bool)>>,
    /// Revoked, or of a deleted account.
    pub(super) gone: BTreeSet<DeviceId>,
    /// By which key package each device came in, the last time.
    joined_by: BTreeMap<(ChannelId, Sender), Vec<u8>>,
    /// The entry of its inbox that told it so.
    welcomed: BTreeMap<(ChannelId, Sender), (ChannelId, u64)>,
    /// Up to where entries of a channel are gone.
    gone_to: BTreeMap<ChannelId, u64>,
    /// Key packages that were handed out, but for those of last resort.
    pub(super) claimed: BTreeSet<Digest>,
    pub(super) deleted: BTreeSet<AccountId>,
}

impl Logs {
    /// The key package by which a device was added to a channel last.
    pub(super) fn joined_by(&self, channel: ChannelId, device: Sender) -> Option<&Vec<u8>> {
        self.joined_by.get(&(channel, device))
    }

    /// The welcome by which a device was added to a channel last: its inbox, and where it is there.
    pub(super) fn welcomed(&self, channel: ChannelId, device: Sender) -> Option<(ChannelId, u64)> {
        self.welcomed.get(&(channel, device)).copied()
    }

    /// Whether the store has let an entry go.
    pub(super) fn is_gone(&self, channel: ChannelId, seq: u64) -> bool {
        self.gone_to.get(&channel).is_some_and(|gone| seq <= *gone)
    }

    /// The entry of a submission.
    pub(super) fn find(&self, channel: ChannelId, message: MessageId) -> Option<u64> {
        let mut entries = self.channels.get(&channel)?.entries();
        entries.find(|(_, entry)| entry.message == message).map(|(seq, _)| seq)
    }

    /// One operation was executed.
    pub(super) fn executed(&mut self, op: &StoreOp, reply: &StoreReply) -> Result<(), Broken> {
        self.of_accounts(op, reply)?;
        match (op, reply) {
            (StoreOp::DeleteAccount { account, .. }, StoreReply::Done) => {
                self.deleted.insert(*account);
                for log in self.channels.values_mut() {
                    let head = log.head();
                    let of: Vec<_> = log.members().iter().copied().collect();
                    of.iter().filter(|member| member.account == *account).for_each(|member| {
                        log.leave(*member, head);
                    });
                }
            }
            (
                StoreOp::CreateChannel { channel, kind, generation, creator, .. },
                StoreReply::Done,
            ) => {
                self.create(*channel, *kind, *generation, *creator);
            }
            (StoreOp::RevokeDevice { revocation, by, .. }, StoreReply::Told { entries, .. }) => {
                self.gone.insert(revocation.device);
                for (channel, seq) in entries {
                    self.revoked(*channel, *seq, revocation.device, *by)?;
                }
            }
            (StoreOp::Append(append), StoreReply::Appended { seq, chain, duplicate, .. }) => {
                self.append(append, *seq, *chain, *duplicate)?;
            }
            (
                StoreOp::Commit(commit),
                StoreReply::Appended { seq, chain, duplicate, inboxes, .. },
            ) => {
                for added in &commit.adds {
                    let to = ChannelId::inbox(added.sender);
                    let told = inboxes.iter().find(|(inbox, _)| *inbox == to);
                    let at = (commit.channel, added.sender);
                    self.welcomed.extend(told.map(|inbox| (at, *inbox)));
                }
                for (added, welcome) in commit.adds.iter().zip(&commit.welcomes) {
                    let at = (commit.channel, added.sender);
                    self.joined_by.extend(package_of(welcome).map(|by| (at, by.to_vec())));
                }
                self.commit(commit, *seq, *chain, *duplicate)?;
            }
            (StoreOp::ResetChannel(reset), StoreReply::Appended { seq, chain, duplicate, .. }) => {
                // Who makes a group is added by nobody.
                self.joined_by.remove(&(reset.channel, reset.founder));
                self.reset(reset, *seq, *chain, *duplicate)?;
            }
            (
                StoreOp::Fetch { channel, reader, .. },
                StoreReply::Entries { entries, first, .. },
            ) => {
                let gone = self.gone_to.entry(*channel).or_default();
                *gone = (*gone).max(first.saturating_sub(1));
                self.fetched(*channel, *reader, entries)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Entries are handed to those who were there.
    fn fetched(
        &self,
        id: ChannelId,
        reader: Sender,
        entries: &[wire::Entry],
    ) -> Result<(), Broken> {
        let Some(log) = self.channels.get(&id) else { return Ok(()) };
        let foreign = entries.iter().find(|entry| !log.is_handed(reader, entry.seq));
        match foreign {
            Some(entry) => {
                Err(("entries are for those who were there", format!("{id} {}", entry.seq)))
            }
            None => Ok(()),
        }
    }

    fn create(&mut self, id: ChannelId, kind: ChannelKind, generation: u32, creator: Sender) {
        let place = (generation, 0);
        let mut log = Log {
            kind,
            place,
            chains: Vec::new(),
            creator,
            reset: 0,
            entries: Vec::new(),
            members: BTreeMap::from([(place, BTreeSet::from([creator]))]),
            spans: Vec::new(),
        };
        log.join(creator, 0);
        self.channels.insert(id, log);
    }

    fn revoked(
        &mut self,
        id: ChannelId,
        seq: u64,
        device: DeviceId,
        by: Sender,
    ) -> Result<(), Broken> {
        // Inboxes are not followed.
        let Some(log) = self.channels.get_mut(&id) else { return Ok(()) };
        in_order(log, seq)?;
        let (kind, place, message) = (EntryKind::Revocation, log.place, MessageId([0; 16]));
        log.push(Entry { kind, place, sender: by, message }, None);
        log.leave(Sender { account: by.account, device }, seq);
        Ok(())
    }

    /// The log of a submission, and whether it is a new entry.
    fn submitted(
        &mut self,
        id: ChannelId,
        sender: Sender,
        message: MessageId,
        seq: u64,
        duplicate: bool,
    ) -> Result<Option<&mut Log>, Broken> {
        let active = self.is_active(sender);
        let Some(log) = self.channels.get_mut(&id) else {
            return Err(("a channel exists before its entries", id.to_string()));
        };
        if duplicate {
            let first = log.entry(seq);
            let same = first.is_some_and(|e| e.sender == sender && e.message == message);
            return match same {
                true => Ok(None),
                false => Err(("a resend is answered by its first answer", format!("{id} {seq}"))),
            };
        }
        in_order(log, seq)?;
        let again = |entry: &Entry| entry.message == message && entry.sender == sender;
        if message != MessageId([0; 16]) && log.entries.iter().any(again) {
            return Err(("a submission is accepted once", format!("{id} {seq}")));
        }
        if !active {
            return Err(("only active devices submit", format!("{id} {seq}")));
        }
        Ok(Some(log))
    }

    fn append(
        &mut self,
        op: &Append,
        seq: u64,
        chain: Digest,
        duplicate: bool,
    ) -> Result<(), Broken> {
        let Some(log) = self.submitted(op.channel, op.sender, op.message, seq, duplicate)? else {
            return Ok(());
        };
        let (generation, epoch) = log.place;
        if op.generation != generation
            || op.epoch > epoch
            || (op.kind == EntryKind::Application && op.epoch + PAST_EPOCHS < epoch)
            || (op.kind != EntryKind::Application && op.epoch != epoch)
        {
            let what = format!("{} {seq}: {:?} in {:?}", op.channel, op.epoch, log.place);
            return Err(("an entry is of an epoch that is open", what));
        }
        if !log.members().contains(&op.sender) {
            return Err(("only members submit", format!("{} {seq}", op.channel)));
        }
        let place = (op.generation, op.epoch);
        log.push(
            Entry { kind: op.kind, place, sender: op.sender, message: op.message },
            Some(chain),
        );
        Ok(())
    }

    fn commit(
        &mut self,
        op: &Commit,
        seq: u64,
        chain: Digest,
        duplicate: bool,
    ) -> Result<(), Broken> {
        let gone = op.adds.iter().map(|add| add.sender).find(|added| !self.is_active(*added));
        let Some(log) = self.submitted(op.channel, op.sender, op.message, seq, duplicate)? else {
            return Ok(());
        };
        if let Some(added) = gone {
            return Err((
                "only active devices are added",
                format!("{} {seq}: {added:?}", op.channel),
            ));
        }
        let place = (op.generation, op.epoch);
        if place != log.place {
            let what = format!("{} {seq}: {place:?} in {:?}", op.channel, log.place);
            return Err(("one commit per epoch", what));
        }
        if !log.members().contains(&op.sender) {
            return Err(("only members commit", format!("{} {seq}", op.channel)));
        }
        log.push(
            Entry { kind: EntryKind::Commit, place, sender: op.sender, message: op.message },
            Some(chain),
        );
        let mut members = log.members().clone();
        log.place.1 += 1;
        for device in &op.removes {
            members.remove(device);
            log.leave(*device, seq);
            log.prune(*device);
        }
        for added in &op.adds {
            members.insert(added.sender);
            log.join(added.sender, seq);
        }
        log.members.insert(log.place, members);
        Ok(())
    }

    fn reset(
        &mut self,
        op: &Reset,
        seq: u64,
        chain: Digest,
        duplicate: bool,
    ) -> Result<(), Broken> {
        let Some(log) = self.submitted(op.channel, op.founder, op.message, seq, duplicate)? else {
            return Ok(());
        };
        if op.generation != log.place.0 + 1 {
            let what = format!("{}: {} after {:?}", op.channel, op.generation, log.place);
            return Err(("generations follow one another", what));
        }
        let before: Vec<_> = log.members().iter().copied().collect();
        let place = (op.generation, 0);
        let (kind, sender, message) = (EntryKind::Reset, op.founder, op.message);
        log.push(Entry { kind, place, sender, message }, Some(chain));
        before.iter().for_each(|device| log.leave(*device, seq));
        // Who waits since the reset before reads on to this one.
        let last = Some(log.reset).filter(|reset| *reset > 0);
        for span in log.spans.iter_mut().filter(|span| last.is_some() && span.seqs.1 == last) {
            span.seqs.1 = Some(seq);
        }
        log.place = place;
        log.reset = seq;
        log.members.insert(place, BTreeSet::from([op.founder]));
        log.join(op.founder, seq);
        Ok(())
    }
}

fn in_order(log: &Log, seq: u64) -> Result<(), Broken> {
    match log.head() + 1 {
        next if next == seq => Ok(()),
        next => Err(("seqs are contiguous", format!("{seq} in place of {next}"))),
    }
}
