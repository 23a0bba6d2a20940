//! Applications: one step is one command to one device's machine.

use qpc_protocol::client::{Client, ProfileChange, Role};
use qpc_protocol::env::Now;
use qpc_protocol::error::Refused;
use qpc_protocol::id::ChannelId;
use qpc_protocol::io::Ticket;
use qpc_protocol::mls::suite::Suite;

use super::Play;
use crate::oracle::{Asked, PLANTED};
use crate::scenario::Step;

impl Play<'_> {
    /// Gives a command; whether it was taken.
    fn give(
        &mut self,
        device: usize,
        asked: Asked,
        run: impl FnOnce(&mut Client, Now) -> Result<Ticket, Refused>,
    ) -> bool {
        if !self.is_on(device) {
            return false;
        }
        let given = self.world.ask(device, run);
        if let Ok(ticket) = given {
            self.oracle.borrow_mut().issued(device, ticket, asked);
        }
        given.is_ok()
    }

    pub(super) fn command(&mut self, step: Step) -> bool {
        match step {
            Step::Register { .. }
            | Step::Login { .. }
            | Step::Logout { .. }
            | Step::Lookup { .. }
            | Step::Devices { .. }
            | Step::Revoke { .. }
            | Step::Rotate { .. }
            | Step::Delete { .. }
            | Step::Verify { .. }
            | Step::Accept { .. }
            | Step::Forget { .. } => self.of_account(step),
            Step::Packages { .. }
            | Step::Refresh { .. }
            | Step::Ping { .. }
            | Step::Health { .. }
            | Step::Connect { .. }
            | Step::Disconnect { .. } => self.of_service(step),
            Step::Create { device, suite } => {
                let device = self.device(device);
                let suite = suite_of(suite);
                let name = format!("{PLANTED}-name");
                let asked = Asked::Create(name.clone(), suite);
                self.give(device, asked, |client, now| client.create_group(now, &name, suite))
            }
            Step::Direct { device, account } => {
                let (device, name) = (self.device(device), self.name(account));
                let asked = Asked::Direct(name.clone());
                self.give(device, asked, |client, now| client.open_direct(now, &name))
            }
            _ => self.of_group(step),
        }
    }

    fn password(&self, device: usize) -> (String, String) {
        let name = self.name(self.accounts[device].into());
        let password = format!("{PLANTED}-password of {name}");
        (name, password)
    }

    /// A device logs in with its own name and password.
    pub(super) fn log_in(&mut self, device: usize) -> bool {
        let (name, password) = self.password(device);
        let asked = Asked::Account(name.clone());
        self.give(device, asked, |client, now| client.login(now, &name, password.into()))
    }

    fn of_account(&mut self, step: Step) -> bool {
        let contact = |play: &Self, index| play.oracle.borrow().account(&play.name(index));
        match step {
            Step::Register { device } => {
                let device = self.device(device);
                let (name, password) = self.password(device);
                let asked = Asked::Account(name.clone());
                self.give(device, asked, |client, now| client.register(now, &name, password.into()))
            }
            Step::Login { device } => self.log_in(self.device(device)),
            Step::Logout { device } => {
                let device = self.device(device);
                self.give(device, Asked::Logout, |client, now| client.logout(now))
            }
            Step::Lookup { device, account } => {
                let (device, name) = (self.device(device), self.name(account));
                let asked = Asked::Lookup(name.clone());
                self.give(device, asked, |client, now| client.lookup(now, &name))
            }
            Step::Devices { device } => {
                let device = self.device(device);
                self.give(device, Asked::Devices, |client, now| client.devices(now))
            }
            Step::Revoke { device, other } => {
                let (device, other) = (self.device(device), self.device(other));
                let other = self.oracle.borrow().sender(other);
                let own = self.oracle.borrow().sender(device);
                let Some(other) = other.filter(|other| {
                    own.is_some_and(|own| own.account == other.account && own != *other)
                }) else {
                    return false;
                };
                let asked = Asked::Revoke(other.device);
                self.give(device, asked, |client, now| client.revoke(now, other.device))
            }
            Step::Rotate { device } => {
                let device = self.device(device);
                self.give(device, Asked::Rotate, |client, now| client.rotate(now))
            }
            Step::Delete { device } => {
                let device = self.device(device);
                self.give(device, Asked::Delete, |client, now| client.delete_account(now))
            }
            Step::Verify { device, account } => {
                let (device, contact) = (self.device(device), contact(self, account));
                let Some(contact) = contact else { return false };
                let asked = Asked::Verify(contact);
                self.give(device, asked, |client, now| client.mark_verified(now, contact))
            }
            Step::Accept { device, account } => {
                let (device, contact) = (self.device(device), contact(self, account));
                let Some(contact) = contact else { return false };
                let asked = Asked::Accept(contact);
                self.give(device, asked, |client, now| client.accept_change(now, contact))
            }
            Step::Forget { device, account } => {
                let (device, contact) = (self.device(device), contact(self, account));
                let Some(contact) = contact else { return false };
                let asked = Asked::Forget(contact);
                self.give(device, asked, |client, now| client.forget(now, contact))
            }
            _ => false,
        }
    }

    fn of_service(&mut self, step: Step) -> bool {
        match step {
            Step::Packages { device } => {
                let device = self.device(device);
                self.give(device, Asked::Packages, |client, now| client.key_packages(now))
            }
            Step::Refresh { device } => {
                let device = self.device(device);
                let asked = Asked::Packages;
                self.give(device, asked, |client, now| client.refresh_key_packages(now))
            }
            Step::Ping { device } => {
                let device = self.device(device);
                self.give(device, Asked::Ping, |client, now| client.ping(now))
            }
            Step::Health { device } => {
                let device = self.device(device);
                self.give(device, Asked::Health, |client, now| client.health(now))
            }
            Step::Connect { device } => {
                let device = self.device(device);
                self.is_on(device) && {
                    let now = self.world.now_of(device);
                    self.world.client(device).connect(now);
                    true
                }
            }
            Step::Disconnect { device } => {
                let device = self.device(device);
                self.is_on(device) && {
                    let now = self.world.now_of(device);
                    self.world.client(device).disconnect(now);
                    true
                }
            }
            _ => false,
        }
    }

    fn of_group(&mut self, step: Step) -> bool {
        let (Step::Send { device, group, .. }
        | Step::Ack { device, group }
        | Step::Prefer { device, group }
        | Step::Invite { device, group, .. }
        | Step::Remove { device, group, .. }
        | Step::Leave { device, group }
        | Step::Update { device, group }
        | Step::Rejoin { device, group }
        | Step::Reset { device, group, .. }
        | Step::Describe { device, group }
        | Step::Role { device, group, .. }
        | Step::Proofs { device, group }
        | Step::Members { device, group }
        | Step::Compare { device, group, .. }) = step
        else {
            return false;
        };
        let device = self.device(device);
        let Some(channel) = self.group(group) else { return false };
        match step {
            Step::Send { bytes, .. } => self.say(device, channel, bytes.into()),
            Step::Ack { .. } => self.acknowledge(device, channel),
            Step::Prefer { .. } => self.prefer(device, channel),
            Step::Compare { other, .. } => self.compare(device, channel, self.device(other)),
            Step::Invite { account, .. } => {
                let name = self.name(account);
                let asked = Asked::Invite(channel, name.clone());
                self.give(device, asked, |client, now| client.invite(now, channel, &name))
            }
            Step::Remove { account, .. } | Step::Role { account, .. } => {
                let account = self.oracle.borrow().account(&self.name(account));
                let Some(account) = account else { return false };
                match step {
                    Step::Role { admin, .. } => {
                        let role = if admin == 1 { Role::Admin } else { Role::Member };
                        let asked = Asked::Role(channel, account, admin == 1);
                        self.give(device, asked, |client, now| {
                            client.set_role(now, channel, account, role)
                        })
                    }
                    _ => {
                        let asked = Asked::Remove(channel, account);
                        self.give(device, asked, |client, now| client.remove(now, channel, account))
                    }
                }
            }
            Step::Leave { .. } => {
                let asked = Asked::Leave(channel);
                self.give(device, asked, |client, now| client.leave(now, channel))
            }
            Step::Update { .. } => {
                let asked = Asked::Update(channel);
                self.give(device, asked, |client, now| client.update(now, channel))
            }
            Step::Rejoin { .. } => {
                let asked = Asked::Rejoin(channel);
                self.give(device, asked, |client, now| client.rejoin(now, channel))
            }
            Step::Reset { suite, .. } => {
                let suite = (suite == 1).then_some(Suite::Hybrid);
                let asked = Asked::Reset(channel, suite);
                self.give(device, asked, |client, now| client.reset(now, channel, suite))
            }
            Step::Describe { .. } => {
                let name = format!("{PLANTED}-name again");
                let asked = Asked::Describe(channel, name.clone());
                let change = ProfileChange { name: Some(name), ..ProfileChange::default() };
                self.give(device, asked, |client, now| client.set_metadata(now, channel, change))
            }
            Step::Proofs { .. } => {
                let asked = Asked::Proofs(channel);
                self.give(device, asked, |client, now| client.proofs(now, channel, 0, 100))
            }
            Step::Members { .. } => {
                let asked = Asked::Members(channel);
                self.give(device, asked, |client, now| client.members(now, channel))
            }
            _ => false,
        }
    }

    /// Sends a text of about that length that nobody has sent before.
    pub(super) fn say(&mut self, device: usize, channel: ChannelId, bytes: usize) -> bool {
        if !self.is_on(device) {
            return false;
        }
        let body = self.oracle.borrow_mut().text(device, channel, bytes);
        let asked = Asked::Said(self.oracle.borrow().last_text());
        self.give(device, asked, |client, now| client.send(now, channel, &body))
    }

    fn acknowledge(&mut self, device: usize, channel: ChannelId) -> bool {
        let told = self.oracle.borrow().last_told(device, channel);
        let Some(seq) = told.filter(|_| self.is_on(device)) else { return false };
        let now = self.world.now_of(device);
        let done = self.world.client(device).ack(now, channel, seq).is_ok();
        if done {
            self.oracle.borrow_mut().acknowledged(device, channel, seq);
        }
        done
    }

    fn prefer(&mut self, device: usize, channel: ChannelId) -> bool {
        let now = self.world.now_of(device);
        self.is_on(device) && self.world.client(device).prefer(now, channel).is_ok()
    }

    /// The other device's checkpoint is compared with what this one has read.
    fn compare(&mut self, device: usize, channel: ChannelId, other: usize) -> bool {
        if device == other || !self.is_on(other) {
            return false;
        }
        let Ok(checkpoint) = self.world.client(other).checkpoint(channel) else { return false };
        let bytes = checkpoint.encode();
        self.give(device, Asked::Compare(channel), |client, now| {
            client.compare_checkpoint(now, channel, &bytes)
        })
    }
}

fn suite_of(number: u16) -> Suite {
    if number == 1 { Suite::Hybrid } else { Suite::Classical }
}
