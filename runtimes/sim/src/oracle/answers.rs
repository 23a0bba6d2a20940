//! What commands ask for, and whether it came true: each answer is held against the model.

use std::collections::BTreeSet;

use qpc_protocol::client::event::{Failed, GroupChange, Outcome, Sent, Trust};
use qpc_protocol::id::{AccountId, ChannelId, DeviceId, Sender};
use qpc_protocol::io::Ticket;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{ChannelKind, EntryKind};

use super::Oracle;
use super::log::{Entry, Log, Logs, Place};
use super::reader::Issued;

/// What a command asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// An account, or a session of one, by its name.
    Account(String),
    Logout,
    Delete,
    /// Another device of the account.
    Revoke(DeviceId),
    Rotate,
    Devices,
    Lookup(String),
    Verify(AccountId),
    Accept(AccountId),
    Forget(AccountId),
    /// How many key packages there are, fresh ones made or not.
    Packages,
    Ping,
    Health,
    /// A group: its name.
    Create(String, Suite),
    /// The direct channel with somebody: waits for the other.
    Direct(String),
    /// A message: its number in [`Oracle::said`](super::Oracle::said).
    Said(u32),
    Invite(ChannelId, String),
    Remove(ChannelId, AccountId),
    Leave(ChannelId),
    Update(ChannelId),
    Rejoin(ChannelId),
    Reset(ChannelId, Option<Suite>),
    /// Another name for a group.
    Describe(ChannelId, String),
    /// Whether an account is an admin.
    Role(ChannelId, AccountId, bool),
    Proofs(ChannelId),
    Members(ChannelId),
    /// Whether another device read the same.
    Compare(ChannelId),
}

impl Asked {
    /// The account whose trust it settles.
    fn judges(&self) -> Option<AccountId> {
        match self {
            Self::Verify(account) | Self::Accept(account) | Self::Forget(account) => Some(*account),
            _ => None,
        }
    }
}

/// The group of that epoch, in one generation or another: an answer names the epoch alone.
fn of_epoch(log: &Log, epoch: u64) -> impl Iterator<Item = &BTreeSet<Sender>> {
    log.memberships().filter(move |(place, _)| place.1 == epoch).map(|(_, members)| members)
}

/// Whether a commit of that device's, or a reset, began the epoch.
fn began(log: &Log, epoch: u64, by: Sender) -> bool {
    log.entries().any(|(_, entry)| {
        let begins = match entry.kind {
            EntryKind::Commit => entry.place.1 + 1,
            EntryKind::Reset => 0,
            _ => return false,
        };
        begins == epoch && entry.sender == by
    })
}

impl Oracle {
    /// A command was told to be done.
    pub(super) fn done(
        &mut self,
        device: usize,
        ticket: Ticket,
        issued: &Issued,
        outcome: &Outcome,
    ) {
        if let Outcome::Account { account, device: id, .. } = outcome {
            let sender = Sender { account: *account, device: *id };
            let reader = &mut self.readers[device];
            (reader.ended, reader.login_unheard) = (false, false);
            let before = reader.sender.replace(sender);
            let same = before.is_none_or(|before| before == sender);
            self.check(same, "a device stays itself", || format!("device {device}"));
        }
        let own = self.readers[device].sender;
        self.readers[device].logged_out_alone = issued.asked == Asked::Logout
            && own.is_some_and(|own| {
                !self.logs.logged_out.contains(&own) && self.logs.is_active(own)
            });
        let true_ = self.came_true(device, ticket, issued, outcome).is_some_and(|is| is);
        let excused = self.readers[device].lied;
        self.check(true_ || excused, "what is told to be done is done", || {
            format!("device {device}: {:?}, {outcome:?}", issued.asked)
        });
        match (&issued.asked, outcome) {
            (Asked::Said(number), Outcome::Sent(sent)) => self.placed(*number, sent.accepted.seq),
            (_, Outcome::Group(channel)) => self.came_in(device, *channel),
            (Asked::Describe(channel, name), _) if !excused => {
                let log = self.logs.channels.get(channel);
                let told = own.zip(log).map(|(by, log)| (name.clone(), by, log.head()));
                self.names.extend(told.map(|told| (*channel, told)));
            }
            (Asked::Logout | Asked::Delete, _) => self.readers[device].closed = true,
            (Asked::Leave(channel), _) => {
                self.readers[device].leaving.insert(*channel);
            }
            _ => {}
        }
    }

    /// A command was told to have failed.
    pub(super) fn failed(&mut self, device: usize, issued: &Issued, failed: &Failed) {
        let Asked::Said(number) = issued.asked else { return };
        let reader = &self.readers[device];
        // A backup sends again what was sent since: it hears that nobody can tell, or that it is out of the group.
        let again = match failed {
            Failed::Unclear(_) => reader.restored || self.is_long_ago(number),
            Failed::Obsolete(_) => reader.restored,
            _ => false,
        };
        let Some(said) = self.said.get_mut(number as usize) else { return };
        said.failed = !(reader.lied || again);
        let read = said.at.filter(|_| said.failed);
        self.check(read.is_none(), "what failed is not read", || format!("text {number}"));
    }

    /// Whether the model shows what is told. `None`: the answer is none to that command, or about nothing that is
    /// there.
    fn came_true(
        &self,
        device: usize,
        ticket: Ticket,
        issued: &Issued,
        outcome: &Outcome,
    ) -> Option<bool> {
        let reader = &self.readers[device];
        let logs = &self.logs;
        let log = |channel: &ChannelId| logs.channels.get(channel);
        if let (Asked::Account(name), Outcome::Account { username, account, device }) =
            (&issued.asked, outcome)
        {
            let sender = Sender { account: *account, device: *device };
            let known = logs.accounts.get(username) == Some(account);
            return Some(username.as_str() == name && known && logs.devices.contains_key(&sender));
        }
        // What anybody may ask, without an account too.
        if let (Asked::Ping, Outcome::Pong(_)) | (Asked::Health, Outcome::Health { .. }) =
            (&issued.asked, outcome)
        {
            return Some(true);
        }
        let own = reader.sender?;
        Some(match (&issued.asked, outcome) {
            (Asked::Logout, Outcome::Done) => {
                let gone = logs.logged_out.contains(&own) || !logs.is_active(own);
                gone || reader.logged_out_alone
            }
            (Asked::Delete, Outcome::Done) => logs.deleted.contains(&own.account),
            (Asked::Revoke(other), Outcome::Done) => {
                !logs.is_active(Sender { device: *other, ..own })
            }
            (Asked::Rotate, Outcome::Done) => {
                logs.devices.get(&own) != issued.devices.get(&own.device)
            }
            (Asked::Devices, Outcome::Devices(listed)) => {
                let is = |device: DeviceId| Sender { device, ..own };
                let told: BTreeSet<_> = listed.iter().map(|entry| entry.record.device).collect();
                let revoked = listed.iter().filter(|entry| entry.revocation.is_some());
                let all = issued.devices.keys().all(|device| told.contains(device));
                told.iter().all(|device| logs.devices.contains_key(&is(*device)))
                    && (all || logs.deleted.contains(&own.account))
                    && revoked.map(|entry| is(entry.record.device)).all(|of| !logs.is_active(of))
            }
            (Asked::Lookup(name), Outcome::Lookup { account, username, .. }) => {
                logs.accounts.get(username) == Some(account) && username.as_str() == name
            }
            (
                asked @ (Asked::Verify(of) | Asked::Accept(of) | Asked::Forget(of)),
                Outcome::Done,
            ) => {
                let trust = reader.contacts.get(of).map(|contact| contact.trust);
                let again = |(later, other): (&Ticket, &Issued)| {
                    *later > ticket
                        && other.life == reader.life
                        && other.asked.judges() == Some(*of)
                };
                let is = match asked {
                    Asked::Verify(_) => trust == Some(Trust::Verified),
                    Asked::Accept(_) => trust == Some(Trust::Seen),
                    // It may have been heard of anew.
                    _ => trust.is_none_or(|trust| trust == Trust::Seen),
                };
                is || reader.tickets.iter().any(again)
            }
            (Asked::Packages, Outcome::KeyPackages { available, last_resort }) => {
                let told = (*available, *last_resort);
                logs.packages.get(&own).is_some_and(|counts| counts.contains(&told))
            }
            (Asked::Create(name, suite), Outcome::Group(id)) => {
                let (row, log) = (reader.rows.get(id)?, log(id)?);
                log.kind == ChannelKind::Group
                    && log.creator() == own
                    && row.suite >= *suite
                    && row.name.as_ref() == Some(name)
            }
            (Asked::Direct(name), Outcome::Group(id)) => {
                let other = self.account(name)?;
                let both = |members: &BTreeSet<Sender>| {
                    let of = |account| members.iter().any(|member| member.account == account);
                    of(own.account) && of(other)
                };
                let log = log(id)?;
                log.kind == ChannelKind::Direct
                    && *id == ChannelId::direct(own.account, other)
                    && log.memberships().any(|(_, members)| both(members))
            }
            (Asked::Said(_), Outcome::Sent(sent)) => {
                logs.find(sent.channel, sent.message) == Some(sent.accepted.seq)
            }
            (Asked::Invite(id, name), Outcome::Epoch(epoch) | Outcome::Unchanged(epoch)) => {
                let account = self.account(name)?;
                let mut groups = of_epoch(log(id)?, *epoch);
                groups.any(|members| members.iter().any(|member| member.account == account))
            }
            (Asked::Remove(id, account), Outcome::Epoch(epoch)) => {
                let log = log(id)?;
                let mut places = log.memberships().filter(|(place, _)| place.1 == *epoch);
                // Of its own account it removes all others; a new device of it may come in with the same commit.
                places.any(|((generation, _), members)| {
                    let before = log.members_at((*generation, epoch.saturating_sub(1)));
                    let new = |member: &Sender| before.is_some_and(|of| !of.contains(member));
                    let gone = |of: &Sender| of.account != *account || *of == own || new(of);
                    members.iter().all(gone)
                })
            }
            (Asked::Leave(id), Outcome::Done) => {
                // Who is alone leaves without a word to the log.
                let members = log(id)?.members();
                let asks = |(_, entry): (u64, &Entry)| {
                    entry.kind == EntryKind::Proposal && entry.sender == own
                };
                // Where the group has ended, the next one is left without another word from the application.
                let ended = reader.rows.get(id).map(|row| row.generation) < Some(log(id)?.place.0);
                // Or somebody has removed it, and it was added again before it told.
                let place = reader.rows.get(id).map(|row| row.place());
                let anew = log(id)?.since(own) > place;
                !members.contains(&own)
                    || members.len() == 1
                    || ended
                    || anew
                    || log(id)?.entries().any(asks)
            }
            (Asked::Update(id) | Asked::Describe(id, _), Outcome::Epoch(epoch)) => {
                began(log(id)?, *epoch, own)
            }
            // Somebody else may have brought it back, by a reset.
            (Asked::Rejoin(id), Outcome::Epoch(epoch)) => {
                of_epoch(log(id)?, *epoch).any(|members| members.contains(&own))
            }
            (Asked::Role(id, account, admin), Outcome::Epoch(epoch)) => {
                let places = log(id)?.memberships().map(|(place, _)| *place);
                let mut places = places.filter(|place| place.1 == *epoch);
                places.any(|place| self.is_admin(*id, place, *account) == Some(*admin))
            }
            (Asked::Reset(id, suite), Outcome::Reset { generation, epoch }) => {
                // Who is alone may have left it in the same moment.
                let row = reader.rows.get(id);
                let alone = log(id)?.members().iter().all(|member| *member == own);
                let suits = |suite: &Suite| row.map_or(alone, |row| row.suite >= *suite);
                let mut entries = log(id)?.entries();
                let made = entries.any(|(_, entry)| {
                    entry.kind == EntryKind::Reset && entry.place.0 == *generation
                });
                made && log(id)?.place >= (*generation, *epoch) && suite.as_ref().is_none_or(suits)
            }
            (Asked::Proofs(id), Outcome::Proofs(sent)) => {
                let ordered = sent.is_sorted_by_key(|sent| sent.accepted.seq);
                let is = |sent: &Sent| {
                    sent.channel == *id && logs.find(*id, sent.message) == Some(sent.accepted.seq)
                };
                ordered && sent.iter().all(is)
            }
            (Asked::Members(id), Outcome::Members(members)) => {
                let told: BTreeSet<Sender> = members.iter().map(|member| member.sender).collect();
                log(id)?.memberships().any(|(_, members)| *members == told)
            }
            (Asked::Compare(_), Outcome::Compared(_)) => true,
            _ => return None,
        })
    }

    /// Whether an account is an admin in an epoch, as far as members were told: whoever founded a group is one.
    fn is_admin(&self, id: ChannelId, place: Place, account: AccountId) -> Option<bool> {
        let told = self.admins.range(..=(id, place)).next_back();
        match told.filter(|((of, _), _)| *of == id) {
            Some((_, admins)) => Some(admins.contains(&account)),
            // A direct channel is ruled by both.
            None => {
                let log = self.logs.channels.get(&id)?;
                let creator = log.creator().account;
                Some(creator == account || ChannelId::direct(creator, account) == id)
            }
        }
    }

    /// A group was told to have moved to another epoch.
    pub(super) fn changed(&mut self, device: usize, change: &GroupChange) {
        let before = change.epoch.saturating_sub(1);
        let generations = |logs: &Logs| -> Vec<u32> {
            let entries = logs.channels.get(&change.channel).into_iter().flat_map(Log::entries);
            let commits = entries.filter(|(_, entry)| {
                let at = entry.kind == EntryKind::Commit && entry.place.1 == before;
                at && entry.sender == change.by
            });
            commits.map(|(_, entry)| entry.place.0).collect()
        };
        let logs = self.logs_of(device, |logs| !generations(logs).is_empty());
        let mut generations = generations(logs);
        // Of two that have such an epoch it is the one that the device is in, unless it has read on to a further one.
        let row = self.readers[device].rows.get(&change.channel);
        if let Some(present) = row.map(|row| row.place().0).filter(|of| generations.contains(of)) {
            generations.retain(|generation| *generation == present);
        }
        let what = || format!("device {device}: {change:?}");
        // Its generation is not told: where it is clear, all else is compared.
        let mut alike = true;
        let mut admins = None;
        let forked = self.readers[device].forked;
        if let ([generation], false) = (&generations[..], forked) {
            let generation = *generation;
            let place = (generation, change.epoch);
            let log = &logs.channels[&change.channel];
            let of = |place| log.members_at(place).cloned().unwrap_or_default();
            let mut members = of((generation, before));
            change.removed.iter().for_each(|gone| _ = members.remove(gone));
            members.extend(&change.added);
            alike = members == of(place);
            let now: Option<BTreeSet<_>> =
                change.admins.as_ref().map(|admins| admins.iter().copied().collect());
            admins = now.map(|now| ((change.channel, place), now));
        }
        self.check(!generations.is_empty(), "an epoch is made by its commit", what);
        self.check(alike, "members are who was added", what);
        if let Some((at, now)) = admins {
            let known = self.admins.entry(at).or_insert_with(|| now.clone()).clone();
            self.check(known == now, "members of an epoch have the same admins", what);
        }
    }
}
