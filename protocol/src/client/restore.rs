//! From durable records to a machine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::channel::Slot;
use super::checkpoint::{Claim, Ledger};
use super::damage::Lost;
use super::directory::{
    self, ChannelRow, Contact, Ended, Fall, Fleet, Identity, Leaf, PackagePlan, Restored, Sweep,
    Unwelcomed,
};
use super::envelope::Envelopes;
use super::event::Failed;
use super::intent::{Intent, Want};
use super::keys::Packages;
use super::left::Left;
use super::net::Net;
use super::rotation::Rotation;
use super::submission::OutItem;
use super::{Channel, Client, Config};
use crate::crypto::identity::DeviceRecord;
use crate::delivery::backoff::Backoff;
use crate::env::{Entropy, Now};
use crate::error::RestoreError;
use crate::id::{AccountId, ChannelId, Sender};
use crate::io::Ticket;
use crate::store::batch::{Op, Records};
use crate::store::gate::{Gate, VERSION_KEY};
use crate::store::record::decode;
use crate::wire::message::Tokens;

/// Each start draws its tickets from a range of its own, so many bits wide, so that they stay unique.
const TICKETS_OF_A_START: u32 = 20;
/// More batches than any device can have stored: whoever says so is damaged.
const STATE_VERSIONS: u64 = 1 << 40;

/// What the directory holds.
#[derive(Default)]
struct Directory {
    version: Option<u64>,
    lost: Vec<(Vec<u8>, Lost)>,
    identity: Option<Identity>,
    tokens: Option<Tokens>,
    plan: PackagePlan,
    sweep: Option<Sweep>,
    restored: Restored,
    unwelcomed: bool,
    rotation: Rotation,
    envelopes: Envelopes,
    fleet: Fleet,
    contacts: BTreeMap<AccountId, Contact>,
    channels: BTreeMap<ChannelId, ChannelRow>,
    leaves: BTreeMap<ChannelId, Leaf>,
    falls: BTreeMap<ChannelId, Fall>,
    ended: BTreeMap<ChannelId, Ended>,
    left: BTreeMap<ChannelId, Left>,
    ledgers: BTreeMap<ChannelId, Ledger>,
    claims: BTreeMap<(ChannelId, Sender), Claim>,
    intents: BTreeMap<Ticket, Intent>,
    outbox: BTreeMap<Ticket, OutItem>,
}

impl Directory {
    fn read(records: &Records) -> Result<Self, RestoreError> {
        let mut directory = Self::default();
        for (key, value) in records {
            directory.take(key, value)?;
        }
        directory.complete()?;
        Ok(directory)
    }

    /// Takes a record, or takes note that it is lost.
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        match (self.take_sound(key, value), Lost::of(key)) {
            (Err(RestoreError::Damaged(_)), Some(lost)) => {
                self.lost.push((key.to_vec(), lost));
                Ok(())
            }
            (taken, _) => taken,
        }
    }

    /// Every batch stores the version, and there is nothing without an identity but what its first batch holds.
    fn complete(&mut self) -> Result<(), RestoreError> {
        if self.identity.is_none() && !self.channels.is_empty() {
            let missing = directory::IDENTITY.escape_ascii().to_string();
            return Err(RestoreError::Damaged(missing));
        }
        if self.identity.is_some() && self.version.is_none() {
            // No ticket of before is drawn again: each start has a range of its own, told by the version.
            let tickets = self.intents.keys().chain(self.outbox.keys());
            self.version = tickets.max().map(|ticket| ticket.0 >> TICKETS_OF_A_START);
            if !self.lost.iter().any(|(_, lost)| *lost == Lost::Version) {
                self.lost.push((VERSION_KEY.to_vec(), Lost::Version));
            }
        }
        Ok(())
    }

    fn take_sound(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        let damaged = || RestoreError::Damaged(key.escape_ascii().to_string());
        if key == VERSION_KEY {
            let version = u64::from_be_bytes(value.try_into().map_err(|_| damaged())?);
            if version > STATE_VERSIONS {
                return Err(damaged());
            }
            self.version = Some(version);
        } else if key == directory::IDENTITY {
            let identity: Identity = decode(key, value)?;
            DeviceRecord::decode(&identity.record).ok_or_else(damaged)?;
            self.identity = Some(identity);
        } else if key == directory::TOKENS {
            self.tokens = Some(decode(key, value)?);
        } else if key == directory::ROTATION {
            self.rotation = decode(key, value)?;
        } else if key == directory::ENVELOPES {
            self.envelopes = decode(key, value)?;
        } else if key == directory::RESTORED {
            self.restored = decode(key, value)?;
        } else if key == directory::UNWELCOMED {
            let Unwelcomed = decode(key, value)?;
            self.unwelcomed = true;
        } else if key == directory::FLEET {
            self.fleet = decode(key, value)?;
        } else if key == directory::PACKAGES {
            self.plan = decode(key, value)?;
        } else if key == directory::SWEEP {
            self.sweep = Some(decode(key, value)?);
        } else if let Some(id) = key.strip_prefix(directory::CONTACT) {
            let account = AccountId::from_slice(id).ok_or_else(damaged)?;
            self.contacts.insert(account, decode(key, value)?);
        } else if let Some(id) = key.strip_prefix(directory::CHANNEL) {
            let channel = ChannelId::from_slice(id).ok_or_else(damaged)?;
            self.channels.insert(channel, decode(key, value)?);
        } else if let Some(id) = key.strip_prefix(directory::LEAF) {
            let channel = ChannelId::from_slice(id).ok_or_else(damaged)?;
            self.leaves.insert(channel, decode(key, value)?);
        } else if let Some(id) = key.strip_prefix(directory::FALL) {
            let channel = ChannelId::from_slice(id).ok_or_else(damaged)?;
            self.falls.insert(channel, decode(key, value)?);
        } else if let Some(id) = key.strip_prefix(directory::ENDED) {
            let channel = ChannelId::from_slice(id).ok_or_else(damaged)?;
            self.ended.insert(channel, decode(key, value)?);
        } else if let Some(id) = key.strip_prefix(directory::LEFT) {
            let channel = ChannelId::from_slice(id).ok_or_else(damaged)?;
            self.left.insert(channel, decode(key, value)?);
        } else if let Some(id) = key.strip_prefix(directory::LEDGER) {
            let channel = ChannelId::from_slice(id).ok_or_else(damaged)?;
            self.ledgers.insert(channel, decode(key, value)?);
        } else if key.starts_with(directory::CLAIM) {
            let claim = Claim::read(decode(key, value)?).ok_or_else(damaged)?;
            self.claims.insert((claim.checkpoint.channel, claim.checkpoint.by), claim);
        } else if let Some(id) = key.strip_prefix(directory::INTENT) {
            self.intents.insert(directory::ticket(id).ok_or_else(damaged)?, decode(key, value)?);
        } else if let Some(id) = key.strip_prefix(directory::OUTBOX) {
            self.outbox.insert(directory::ticket(id).ok_or_else(damaged)?, decode(key, value)?);
        } else {
            return Err(damaged());
        }
        Ok(())
    }

    /// Groups that the server is yet to be told of.
    fn founding(&self) -> BTreeSet<ChannelId> {
        let founding = self.intents.values();
        let founding = founding.filter(|intent| matches!(intent.want, Want::Found { .. }));
        founding.map(|intent| intent.channel).collect()
    }

    /// Each channel with all that is stored of it; its group is cold.
    fn take_channels(&mut self) -> BTreeMap<ChannelId, Channel> {
        let inbox = self.identity.as_ref().and_then(Identity::device_record);
        let inbox = inbox.map(|record| ChannelId::inbox(record.sender()));
        let rows = core::mem::take(&mut self.channels).into_iter();
        let restored = |(id, row)| {
            let mut channel = Channel::new(row, Some(id) == inbox);
            channel.leaf = self.leaves.remove(&id);
            channel.fall = self.falls.remove(&id).unwrap_or_default();
            channel.ended = self.ended.remove(&id);
            channel.stuck = channel.is_blind();
            if channel.fall.made {
                channel.spare = Slot::Cold;
            }
            channel.left = self.left.remove(&id).unwrap_or_default();
            channel.ledger = self.ledgers.remove(&id).unwrap_or_default();
            (id, channel)
        };
        rows.map(restored).collect()
    }
}

impl Client {
    /// A machine from its durable directory records: all records whose key starts with
    /// [`DIRECTORY`](super::DIRECTORY); none for a new device.
    ///
    /// # Errors
    /// A record that is damaged, of a kind that a device cannot be without (its account, how far it is with a channel,
    /// its account's devices), or of a newer version.
    pub fn restore(
        config: Config,
        directory: Records,
        entropy: Entropy,
        now: Now,
    ) -> Result<Self, RestoreError> {
        let mut stored = Directory::read(&directory)?;
        let version = stored.version.unwrap_or(0);
        let channels = stored.take_channels();
        let spilled = channels.iter().filter(|(_, channel)| channel.spilled_after.is_some());
        let compared = stored.claims.keys().map(|(id, _)| *id);
        let dirty = spilled.map(|(id, _)| *id).chain(compared).collect();
        let under_way = stored.outbox.iter().filter(|(_, item)| item.is_under_way());
        let refused = under_way.map(|(ticket, _)| *ticket).collect();
        let identity = stored.identity.as_ref();
        let known = identity.is_some_and(|identity| !identity.ended);
        let connect_at = (config.auto_connect && known).then_some(now.mono);
        let mut client = Self {
            config,
            entropy,
            now,
            stopped: false,
            gate: Gate::new(version),
            out: VecDeque::new(),
            last_handle: 0,
            last_ticket: (version + 1) << TICKETS_OF_A_START,
            net: Net { conn: None, backoff: Backoff::new(), connect_at },
            server: identity.map(|identity| identity.server),
            founding: stored.founding(),
            identity: stored.identity,
            tokens: stored.tokens,
            auth: None,
            greeting: None,
            asks: VecDeque::new(),
            contacts: stored.contacts,
            conflicts: VecDeque::new(),
            channels,
            intents: stored.intents,
            fleet: stored.fleet,
            turns: BTreeMap::new(),
            outbox: stored.outbox,
            inflight: BTreeSet::new(),
            refused,
            rotation: stored.rotation,
            rotation_retry: None,
            tries_next: false,
            envelopes: stored.envelopes,
            envelope_retry: None,
            uploads: BTreeMap::new(),
            partial: BTreeMap::new(),
            packages: Packages::Cold,
            plan: stored.plan,
            sweep: stored.sweep,
            wanted_packages: BTreeMap::new(),
            packages_low: false,
            packages_taken: None,
            package_tickets: Vec::new(),
            packages_retry: None,
            member_tickets: Vec::new(),
            claims: stored.claims,
            comparisons: Vec::new(),
            loads: BTreeMap::new(),
            jobs: BTreeSet::new(),
            dirty,
            crowded: BTreeSet::new(),
            told: 0,
            preferred: None,
            uses: 0,
            synced: false,
            restored: stored.restored,
            unwelcomed: stored.unwelcomed,
            listed: None,
        };
        client.remind();
        client.go_without(stored.lost);
        Ok(client)
    }

    /// Whether a ticket was drawn since this machine started.
    pub(super) fn is_of_this_start(&self, ticket: Ticket) -> bool {
        ticket.0 >> TICKETS_OF_A_START == self.last_ticket >> TICKETS_OF_A_START
    }

    /// This device's inbox, from the first login on.
    pub(super) fn ensure_inbox(&mut self) {
        let Some(me) = self.me() else { return };
        let id = ChannelId::inbox(me);
        if self.channels.contains_key(&id) {
            return;
        }
        let mut channel = Channel::new(ChannelRow::fresh(id), true);
        channel.row_dirty = true;
        self.channels.insert(id, channel);
        self.stage_channel(id);
    }

    /// A channel that came to nothing, or was left: all of it goes.
    pub(super) fn forget_channel(&mut self, id: ChannelId) {
        self.abandon(id);
        self.forget_fall(id);
        for ticket in self.outbox_of(id) {
            self.fail_item(ticket, Failed::Obsolete("the group is not there any more"));
        }
        self.erase(id);
    }

    /// Leaves no record of a channel itself.
    pub(super) fn erase(&mut self, id: ChannelId) {
        self.forget_arrived(id);
        if let Some(channel) = self.channels.remove(&id) {
            self.told = self.told.saturating_sub(channel.told.len());
        }
        self.claims.retain(|(of, _), _| *of != id);
        for prefix in directory::prefixes_of(id) {
            self.gate.stage(Op::DeletePrefix(prefix));
        }
        self.wake_inboxes();
    }
}
