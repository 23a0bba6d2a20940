//! Questions of the application that change nothing here: asked when the connection allows, and asked again on the next
//! one if their answers are lost.

use super::net::{Ask, Call};
use super::session::Phase;
use super::{Client, Event};
use crate::client::event::{Contradiction, Failed, Outcome};
use crate::crypto::identity::Revocation;
use crate::error::ErrorCode;
use crate::io::Ticket;
use crate::wire::message::{Failure, Reply, Request};

impl Client {
    pub(super) fn queue_ask(&mut self, ask: Ask) -> Ticket {
        let ticket = self.next_ticket();
        self.asks.push_back((ticket, ask));
        self.connect_soon();
        self.ask_waiting();
        ticket
    }

    /// Asks what waits, as far as the connection allows.
    pub(super) fn ask_waiting(&mut self) {
        let Some(phase) = self.phase() else { return };
        for (ticket, ask) in core::mem::take(&mut self.asks) {
            let anyone = matches!(ask, Ask::Ping(_) | Ask::Health);
            let may = phase == Phase::Online
                || (anyone && !matches!(phase, Phase::Connecting | Phase::Hello));
            let Some(request) = self.question(&ask).filter(|_| may) else {
                self.asks.push_back((ticket, ask));
                continue;
            };
            let ask = if matches!(ask, Ask::Ping(_)) { Ask::Ping(self.now.mono) } else { ask };
            self.call(Call::Ask(ticket, ask), request);
        }
    }

    fn question(&self, ask: &Ask) -> Option<Request> {
        Some(match ask {
            Ask::Ping(_) => Request::Ping(bytes::Bytes::from_static(b"ping")),
            Ask::Health => Request::Health,
            Ask::Lookup(username) => Request::AccountLookup { username: username.clone() },
            Ask::Devices => Request::DeviceList { account: self.me()?.account },
            Ask::Packages => Request::KeyPackageStatus { suite: None },
            Ask::Logout => Request::Logout,
            Ask::Revoke(device) => {
                let key = &self.identity.as_ref()?.account_key;
                let backend = self.config.backend;
                let revocation = Revocation::sign(backend, key, *device, self.now.wall);
                Request::DeviceRevoke { revocation }
            }
            Ask::Delete => {
                let me = self.me()?;
                let nonce = &self.net.conn.as_ref()?.nonce;
                let statement = crate::auth::device::deletion_statement(
                    nonce,
                    self.server?,
                    me.account,
                    me.device,
                );
                let key = &self.identity.as_ref()?.account_key;
                Request::AccountDelete { proof: key.sign(self.config.backend, &statement) }
            }
        })
    }

    pub(super) fn on_asked(
        &mut self,
        ticket: Ticket,
        ask: Ask,
        reply: Reply,
    ) -> Result<(), super::WrongReply> {
        let outcome = match (ask, reply) {
            (Ask::Ping(sent), Reply::Pong(_)) => Outcome::Pong(self.now.mono.saturating_sub(sent)),
            (Ask::Health, Reply::Health { healthy, version, time }) => {
                Outcome::Health { healthy, version, time }
            }
            (Ask::Lookup(asked), Reply::Account { username, account }) => {
                if asked != username {
                    return Err(super::WrongReply);
                }
                // What moved is shown: its numbers have to be compared before it is accepted.
                if let Err(lie @ Contradiction::SecondName) = self.learn(account, username.clone())
                {
                    self.event(Event::Failed(ticket, Failed::from(lie)));
                    return Ok(());
                }
                let Some(safety_number) = self.safety_number(account) else { return Ok(()) };
                Outcome::Lookup { username, account, safety_number, trust: self.trust(account) }
            }
            (Ask::Devices, Reply::Devices(devices)) => {
                let backend = self.config.backend;
                let mine = self.me().map(|me| me.account);
                let sound = devices.iter().all(|entry| {
                    Some(entry.record.account) == mine
                        && entry.record.verify(backend).is_ok()
                        && entry.revocation.as_ref().is_none_or(|revocation| {
                            revocation.device == entry.record.device
                                && Some(revocation.account) == mine
                                && revocation.verify(backend).is_ok()
                        })
                });
                if !sound {
                    let failed = Failed::Untrusted("a device record is not signed by this account");
                    self.event(Event::Failed(ticket, failed));
                    return Ok(());
                }
                Outcome::Devices(devices)
            }
            (Ask::Packages, Reply::KeyPackages { available, last_resort }) => {
                Outcome::KeyPackages { available, last_resort }
            }
            (Ask::Revoke(device), Reply::Done) => {
                if let Some(identity) = &self.identity {
                    let (key, wall) = (&identity.account_key, self.now.wall);
                    let revocation = Revocation::sign(self.config.backend, key, device, wall);
                    self.learn_revocation(&revocation, false);
                }
                Outcome::Done
            }
            (Ask::Logout | Ask::Delete, Reply::Done) => {
                self.event(Event::Done(ticket, Outcome::Done));
                self.end_quietly();
                self.fail_pointless_asks();
                return Ok(());
            }
            _ => return Err(super::WrongReply),
        };
        self.event(Event::Done(ticket, outcome));
        Ok(())
    }

    /// Without a session only strangers' questions can be answered.
    pub(super) fn fail_pointless_asks(&mut self) {
        if self.auth.is_some() || self.need_session().is_ok() {
            return;
        }
        for (ticket, ask) in core::mem::take(&mut self.asks) {
            if matches!(ask, Ask::Ping(_) | Ask::Health) {
                self.asks.push_back((ticket, ask));
            } else {
                let failed = Failed::from(&Failure::from(ErrorCode::NotLoggedIn));
                self.event(Event::Failed(ticket, failed));
            }
        }
    }

    /// Questions that can never be answered now.
    pub(super) fn fail_asks(&mut self, failed: &Failed) {
        for (ticket, ask) in core::mem::take(&mut self.asks) {
            // A session that is over is what a logout wanted; its answer was lost.
            let done = matches!((ask, failed), (Ask::Logout, Failed::Server { .. }));
            self.event(match done {
                true => Event::Done(ticket, Outcome::Done),
                false => Event::Failed(ticket, failed.clone()),
            });
        }
    }
}
