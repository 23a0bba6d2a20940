//! The account's devices: they come and go by what the account key signed, told by the logs.
//!
//! A device that is new to this one becomes a member of every group here, and a group that is new to this one gets
//! every device known, but for those that have left it ([`left`](super::left)). What an account has revoked goes from
//! every group. Nobody asks for it, and all who could do it want the same: whose leaf comes first goes first
//! (docs/adr/0011). A turn is not stored: a device that is switched on for shorter than it has to wait for its own
//! leaves the change to the others, or to a longer run.

use core::time::Duration;

use super::change::STAGGER;
use super::directory::{self, Listing, OwnDevice};
use super::event::{Event, Outcome};
use super::inbound::pause;
use super::intent::{Intent, Want};
use super::net::Call;
use super::{Client, session::Phase};
use crate::crypto::identity::{DeviceRecord, Revocation};
use crate::id::{AccountId, ChannelId, Sender};
use crate::io::Ticket;
use crate::mls::key_package::check;
use crate::wire::message::{ClaimedKeyPackage, DeviceEntry, Entry, EntryKind, Part, Request};

/// Turns that are told apart: beyond, the random delay after a lost commit does.
const TURNS: u32 = 200;
/// The first delay after a change that nobody asked for could not be made; doubled each time.
const SET_BACK_FIRST: Duration = Duration::from_secs(1);
/// The longest.
const SET_BACK_MOST: Duration = Duration::from_secs(60 * 60);
/// How often a device of another account is tried, that a reset left out: for about a month.
const ADMISSIONS: u32 = 750;

pub(super) const ANOTHERS: &str = "its key package is of another device";
const UNSIGNED: &str = "a statement about a device that its account did not sign";

/// When an intent is looked at again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// `None`: the time has come.
    pub at: Option<Duration>,
    /// How often it could not be done.
    pub tries: u32,
    /// Whether the application knows why it cannot be done.
    pub told: bool,
}

impl Turn {
    fn first(at: Option<Duration>) -> Self {
        Self { at, tries: 0, told: false }
    }
}

impl Client {
    // ---- what is told -------------------------------------------------------------------------

    /// An entry of the inbox that tells of a device of the own account.
    pub(super) fn read_notice(&mut self, inbox: ChannelId, entry: &Entry) {
        let Part::Inline(payload) = &entry.payload else {
            return self.unreadable(inbox, entry.seq, UNSIGNED);
        };
        let holds = match entry.kind {
            EntryKind::Device => {
                DeviceRecord::decode(payload).is_some_and(|record| self.learn_device(&record))
            }
            EntryKind::Revocation => Revocation::decode(payload)
                .is_some_and(|revoked| self.learn_revocation(&revoked, true)),
            _ => true,
        };
        if !holds {
            self.unreadable(inbox, entry.seq, UNSIGNED);
        }
    }

    /// An entry of a group's log that tells of a revoked member.
    pub(super) fn read_revocation(&mut self, id: ChannelId, entry: &Entry) {
        let revocation = match &entry.payload {
            Part::Inline(payload) => Revocation::decode(payload),
            Part::Blob { .. } => None,
        };
        let backend = self.config.backend;
        let sound = revocation.filter(|revocation| revocation.verify(backend).is_ok());
        let Some(revocation) = sound else {
            return self.unreadable(id, entry.seq, UNSIGNED);
        };
        if Some(revocation.account) == self.me().map(|me| me.account) {
            self.learn_revocation(&revocation, true);
        }
        if self.has_member(id, revocation.sender()) == Some(true) {
            self.expel(id, &revocation);
        }
    }

    /// A device of the own account; `false`: its record does not hold.
    fn learn_device(&mut self, record: &DeviceRecord) -> bool {
        let Some(me) = self.me() else { return true };
        if record.account != me.account || record.verify(self.config.backend).is_err() {
            return false;
        }
        let known = self.fleet.devices.get(&record.device);
        if record.device == me.device
            || known.is_some_and(|known| known.revoked || known.sequence >= record.sequence)
        {
            return true;
        }
        let is_new = known.is_none();
        let device = OwnDevice { sequence: record.sequence, revoked: false };
        self.fleet.devices.insert(record.device, device);
        self.store_fleet();
        if is_new {
            let is_news = self.fleet.listing != Listing::Never;
            for id in self.own_groups() {
                if is_news || !self.left_unknown(id) {
                    self.admit(id, record.sender());
                }
            }
            if is_news {
                self.event(Event::DeviceAdded { record: record.clone() });
            }
        }
        true
    }

    /// A revocation by the own account, news or not; `false`: it does not hold.
    pub(super) fn learn_revocation(&mut self, revocation: &Revocation, is_news: bool) -> bool {
        let Some(me) = self.me() else { return true };
        if revocation.account != me.account || revocation.verify(self.config.backend).is_err() {
            return false;
        }
        let known = self.fleet.devices.get(&revocation.device);
        if revocation.device == me.device || known.is_some_and(|known| known.revoked) {
            return true;
        }
        let sequence = known.map_or(0, |known| known.sequence);
        self.fleet.devices.insert(revocation.device, OwnDevice { sequence, revoked: true });
        self.store_fleet();
        let admits = |intent: &Intent| matches!(&intent.want, Want::Admit { device, .. } if *device == revocation.sender());
        let void = self.intents.iter().filter(|(_, intent)| admits(intent));
        for ticket in void.map(|(ticket, _)| *ticket).collect::<Vec<_>>() {
            self.fulfil(ticket, Outcome::Done);
        }
        for id in self.own_groups() {
            self.expel(id, revocation);
        }
        if is_news && self.fleet.listing != Listing::Never {
            self.event(Event::DeviceRevoked { revocation: revocation.clone() });
        }
        true
    }

    /// The list of the own account's devices: asked for by a new device, after the inbox lost entries, by a backup, and
    /// for its envelope keys.
    pub(super) fn begin_devices(&mut self) {
        let account = self.me().map(|me| me.account);
        let online = self.phase() == Some(Phase::Online);
        if let (Some(account), true) = (account, online && self.fleet.listing != Listing::Done) {
            self.call(Call::OwnDevices, Request::DeviceList { account });
        }
    }

    /// The inbox lost entries, or this is a backup: what they told, or was done since, is in the list.
    pub(super) fn relist_devices(&mut self) {
        if self.fleet.listing == Listing::Done {
            self.fleet.listing = Listing::Due;
            self.store_fleet();
        }
        self.begin_devices();
    }

    pub(super) fn on_own_devices(&mut self, listed: &[DeviceEntry]) {
        let inbox = self.me().map(ChannelId::inbox);
        let offers = self.offers_envelope();
        for DeviceEntry { record, revocation, envelope_keys, .. } in listed {
            if !offers {
                self.on_envelope_listed(envelope_keys);
            }
            let holds = match revocation {
                Some(revocation) => self.learn_revocation(revocation, true),
                None => self.learn_device(record),
            };
            if let (false, Some(inbox)) = (holds, inbox) {
                self.unreadable(inbox, 0, UNSIGNED);
            }
        }
        // An offer that was on its way may have changed it: asked again when that is answered.
        self.fleet.listing = if offers { Listing::Due } else { Listing::Done };
        self.store_fleet();
    }

    fn left_unknown(&self, id: ChannelId) -> bool {
        self.channels.get(&id).is_some_and(|channel| channel.left.unknown)
    }

    /// This device is new in a group, or founded it, or the group is another one: the account's other devices belong
    /// there too, unless they have left.
    pub(super) fn admit_all(&mut self, id: ChannelId) {
        let Some(me) = self.me() else { return };
        let left = self.channels.get(&id).map(|channel| channel.left.clone()).unwrap_or_default();
        let active = self
            .fleet
            .devices
            .iter()
            .filter(|(device, known)| !known.revoked && !left.unknown && !left.has(**device));
        for device in active.map(|(device, _)| Sender { device: *device, ..me }).collect::<Vec<_>>()
        {
            if self.has_member(id, device) != Some(true) {
                self.admit(id, device);
            }
        }
    }

    fn store_fleet(&mut self) {
        self.gate.stage(directory::put(directory::FLEET.to_vec(), &self.fleet));
    }

    fn own_groups(&self) -> Vec<ChannelId> {
        let own = self.channels.iter().filter(|(id, channel)| {
            let there = channel.row.member && !channel.row.leaving;
            there && !channel.inbox && !self.founding.contains(id)
        });
        own.map(|(id, _)| *id).collect()
    }

    /// Whether a device is in a group; `None` if the group is not in memory.
    fn has_member(&mut self, id: ChannelId, device: Sender) -> Option<bool> {
        self.with_group(id, |group, _| {
            group.members().iter().any(|member| member.record.sender() == device)
        })
    }

    // ---- what follows from it -----------------------------------------------------------------

    fn admit(&mut self, channel: ChannelId, device: Sender) {
        self.want_once(channel, Want::Admit { device, package: None });
    }

    /// A device that was in the group before a reset, or belongs in a direct channel, could not be added, which was
    /// told. It is when it has key packages again, for it waits for that.
    pub(super) fn admit_later(&mut self, channel: ChannelId, device: Sender) {
        self.admit(channel, device);
        for ticket in self.intents_of(channel) {
            let want = self.intents.get(&ticket).map(|intent| &intent.want);
            if matches!(want, Some(Want::Admit { device: of, .. }) if *of == device) {
                self.turns.entry(ticket).or_insert(Turn::first(None)).told = true;
                self.set_back(ticket);
            }
        }
    }

    /// No device of an account is to be added any more.
    pub(super) fn forget_admissions(&mut self, channel: ChannelId, account: AccountId) {
        for ticket in self.intents_of(channel) {
            let want = self.intents.get(&ticket).map(|intent| &intent.want);
            if matches!(want, Some(Want::Admit { device, .. }) if device.account == account) {
                self.drop_intent(ticket);
            }
        }
    }

    fn expel(&mut self, channel: ChannelId, revocation: &Revocation) {
        self.want_once(channel, Want::Expel { revocation: revocation.encode() });
    }

    fn want_once(&mut self, channel: ChannelId, want: Want) {
        let same = |other: &Want| match (&want, other) {
            (Want::Admit { device: one, .. }, Want::Admit { device: other, .. }) => one == other,
            (Want::Expel { revocation: one }, Want::Expel { revocation: other }) => {
                // Account and device, not when.
                one.get(..48) == other.get(..48)
            }
            _ => false,
        };
        if !self.intents.values().any(|intent| intent.channel == channel && same(&intent.want)) {
            let ticket = self.next_ticket();
            self.store_intent(ticket, Intent { channel, want, losses: 0 });
        }
    }

    /// Whether it is time for a change that every sibling, or every member, wants alike: in order of their leaves.
    pub(super) fn has_turn(&mut self, id: ChannelId, ticket: Ticket) -> bool {
        if let Some(turn) = self.turns.get(&ticket) {
            return turn.at.is_none();
        }
        let want = self.intents.get(&ticket).map(|intent| &intent.want);
        let siblings_only = matches!(want, Some(Want::Admit { .. }));
        let Some(me) = self.me() else { return false };
        let counts = |member: Sender| !siblings_only || member.account == me.account;
        let Some(rank) = self.rank(id, counts) else { return false };
        let at = (rank > 0).then(|| self.now.mono + STAGGER.saturating_mul(rank));
        self.turns.insert(ticket, Turn::first(at));
        rank == 0
    }

    /// Whether an intent has waited for what others are about to say; from the first call on it waits.
    pub(super) fn has_waited(&mut self, ticket: Ticket, patience: Duration) -> bool {
        let at = Some(self.now.mono + patience);
        self.turns.entry(ticket).or_insert(Turn::first(at)).at.is_none()
    }

    /// How many of a group's members that count come before this device, in order of their leaves; at most [`TURNS`].
    /// `None` while the group is not in memory.
    pub(super) fn rank(&mut self, id: ChannelId, counts: impl Fn(Sender) -> bool) -> Option<u32> {
        self.members_before(id, counts).map(|before| before.min(TURNS))
    }

    /// The same, however many they are.
    pub(super) fn members_before(
        &mut self,
        id: ChannelId,
        counts: impl Fn(Sender) -> bool,
    ) -> Option<u32> {
        let before = self.with_group(id, |group, _| {
            let (own, members) = (group.own_leaf(), group.members());
            members.iter().filter(|m| m.leaf < own && counts(m.record.sender())).count()
        })?;
        Some(u32::try_from(before).unwrap_or(u32::MAX))
    }

    /// Asks for a key package of a device to be admitted, once it is this device's turn.
    pub(super) fn prepare_admission(&mut self, ticket: Ticket, id: ChannelId, of: Sender) {
        if !self.is_warm(id) {
            return self.load_group(id);
        }
        if self.has_member(id, of) == Some(true) {
            return self.fulfil(ticket, Outcome::Done);
        }
        let ready = self.channels.get(&id).is_some_and(|channel| channel.ready);
        let Some(suite) = self.channels.get(&id).map(|channel| channel.row.suite) else { return };
        if ready && self.has_turn(id, ticket) {
            let Sender { account, device } = of;
            self.inflight.insert(ticket);
            let request = Request::KeyPackageFetch { account, suite, device: Some(device) };
            self.call(Call::Claim(ticket), request);
        }
    }

    /// A key package of a device to be admitted, if it holds.
    pub(super) fn on_admission(&mut self, ticket: Ticket, claimed: Vec<ClaimedKeyPackage>) {
        let Some(mut intent) = self.intents.remove(&ticket) else { return };
        let Want::Admit { device, package } = &mut intent.want else { return };
        let of = *device;
        let suite = self.channels.get(&intent.channel).map(|channel| channel.row.suite);
        let (backend, wall) = (self.config.backend, self.now.wall);
        let mut packages = claimed.into_iter().filter(|claim| claim.device == of.device);
        let claimed = packages.find_map(|claim| claim.package).map(|bytes| bytes.to_vec());
        let checked = claimed.as_ref().and_then(|bytes| check(backend, bytes, wall).ok());
        let is_anothers = checked.as_ref().is_some_and(|checked| checked.record.sender() != of);
        let of_suite = checked.is_some_and(|checked| Some(checked.suite) == suite);
        *package = claimed.filter(|_| of_suite && !is_anothers);
        let found = package.is_some();
        self.store_intent(ticket, intent);
        if !found {
            self.refuse_admission(ticket, is_anothers.then_some(ANOTHERS));
        }
    }

    /// A device cannot be admitted by the key package that it has. What is wrong with it is told once.
    pub(super) fn refuse_admission(&mut self, ticket: Ticket, why: Option<&str>) {
        let Some(Intent { channel, want: Want::Admit { device, .. }, .. }) =
            self.intents.get(&ticket)
        else {
            return;
        };
        let (channel, device) = (*channel, *device);
        if let Some(why) = why
            && self.tells_first(ticket)
        {
            self.event(Event::NotAdded { ticket, channel, device, why: why.to_owned() });
        }
        self.set_back(ticket);
    }

    /// Whether the application is to be told for the first time why an intent cannot come true yet.
    pub(super) fn tells_first(&mut self, ticket: Ticket) -> bool {
        let turn = self.turns.entry(ticket).or_insert(Turn::first(None));
        !core::mem::replace(&mut turn.told, true)
    }

    /// A change could not be made: later again. What it waits for may be a device that is off.
    pub(super) fn set_back(&mut self, ticket: Ticket) {
        let me = self.me().map(|me| me.account);
        let Some(intent) = self.intents.get_mut(&ticket) else { return };
        let mut foreign = false;
        if let Want::Admit { device, package } = &mut intent.want {
            *package = None;
            foreign = Some(device.account) != me;
        }
        let turn = self.turns.entry(ticket).or_insert(Turn::first(None));
        turn.tries += 1;
        let tries = turn.tries;
        if foreign && tries > ADMISSIONS {
            self.drop_intent(ticket);
            return;
        }
        let most = SET_BACK_FIRST.saturating_mul(1 << (tries - 1).min(12)).min(SET_BACK_MOST);
        // Siblings that fail together do not try again together.
        let spread = u64::try_from(most.as_micros() / 4).unwrap_or(u64::MAX).max(1);
        let wait = most + Duration::from_micros(self.entropy.u64() % spread);
        turn.at = Some(self.now.mono + wait);
    }

    /// The server has no time for what an intent asks: that one waits, and nothing else in its channel.
    pub(super) fn put_off(&mut self, ticket: Ticket, retry_after_ms: u32) {
        let at = Some(self.now.mono + pause(retry_after_ms));
        self.turns.entry(ticket).or_insert(Turn::first(None)).at = at;
    }

    /// Whether an intent waits for a later time.
    pub(super) fn is_put_off(&self, ticket: Ticket) -> bool {
        self.turns.get(&ticket).is_some_and(|turn| turn.at.is_some())
    }

    /// Whether an intent waits for what only others can bring about.
    pub(super) fn is_set_back(&self, ticket: Ticket) -> bool {
        self.turns.get(&ticket).is_some_and(|turn| turn.at.is_some() && turn.tries > 0)
    }

    /// The earliest of the turns to come.
    pub(super) fn next_turn(&self) -> Option<Duration> {
        self.turns.values().filter_map(|turn| turn.at).min()
    }

    /// Whose turn has come is looked at again.
    pub(super) fn take_turns(&mut self) {
        for (ticket, turn) in &mut self.turns {
            if turn.at.is_some_and(|at| at <= self.now.mono) {
                turn.at = None;
                self.dirty.extend(self.intents.get(ticket).map(|intent| intent.channel));
            }
        }
    }
}
