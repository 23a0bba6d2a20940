//! Whom a name stands for: seen at first use, verified by people who compared, or another account than before.
//!
//! The directory is the server's, so its first word on a name is taken on trust and kept. A later word that contradicts
//! it is told, again after every restart, and is not acted upon until the application says so.

use super::Client;
use super::directory::{self, Contact};
use super::event::{Contradiction, Event, Outcome, Trust, TrustEntry};
use crate::crypto::safety_number::{self, QR_BYTES};
use crate::env::Now;
use crate::error::Refused;
use crate::id::AccountId;
use crate::io::Ticket;
use crate::limits::CONTACTS;
use crate::store::batch::Op;
use crate::wire::message::Username;

const STRANGER: Refused = Refused::Invalid("no contact of this device has that account");

impl Client {
    /// People compared the safety number of an account (or scanned it) and it was the same. Settles a change of the
    /// name too. → [`Outcome::Done`]
    ///
    /// # Errors
    /// `Busy`, `Stopped`, `Invalid` for an account that is no contact, or the own one.
    pub fn mark_verified(&mut self, now: Now, account: AccountId) -> Result<Ticket, Refused> {
        self.begin(now)?;
        self.judge(account, Trust::Verified)
    }

    /// Takes the account that a name leads to now for that person, without a comparison: as if it were seen for the
    /// first time. → [`Outcome::Done`]
    ///
    /// # Errors
    /// `Busy`, `Stopped`, `Invalid` for an account that is no contact, or whose name did not change.
    pub fn accept_change(&mut self, now: Now, account: AccountId) -> Result<Ticket, Refused> {
        self.begin(now)?;
        match self.trust(account) {
            Some(Trust::Changed { .. }) => self.judge(account, Trust::Seen),
            _ => Err(Refused::Invalid("the name of that account did not change")),
        }
    }

    /// Forgets what a contact is called and whether it was verified: its name is taken on trust again when it is next
    /// heard. → [`Outcome::Done`]
    ///
    /// # Errors
    /// `Busy`, `Stopped`, `Invalid` for an account that is no contact, or the own one.
    pub fn forget(&mut self, now: Now, account: AccountId) -> Result<Ticket, Refused> {
        self.begin(now)?;
        self.trust(account).ok_or(STRANGER)?;
        self.drop_contact(account);
        Ok(self.settle_trust())
    }

    /// How far a contact is trusted to be who it is called; `None` for an account without a confirmed name, and the
    /// own. At most [`CONTACTS`] are kept.
    pub fn trust(&self, account: AccountId) -> Option<Trust> {
        let contact = self.contacts.get(&account).filter(|_| !self.is_own(account))?;
        Some(contact.trust)
    }

    /// All contacts, by name; the own account is none.
    pub fn trust_list(&self) -> Vec<TrustEntry> {
        let others = self.contacts.iter().filter(|(account, _)| !self.is_own(**account));
        let entry = |(account, contact): (&AccountId, &Contact)| TrustEntry {
            username: contact.username.clone(),
            account: *account,
            trust: contact.trust,
            since: contact.since,
        };
        let mut entries: Vec<_> = others.map(entry).collect();
        entries.sort_by(|one, other| one.username.as_str().cmp(other.username.as_str()));
        entries
    }

    /// What a QR code shows in place of the safety number: see [`safety_number::qr`].
    pub fn safety_qr(&self, other: AccountId) -> Option<[u8; QR_BYTES]> {
        Some(safety_number::qr(self.me()?.account, other))
    }

    fn is_own(&self, account: AccountId) -> bool {
        self.me().is_some_and(|me| me.account == account)
    }

    fn judge(&mut self, account: AccountId, trust: Trust) -> Result<Ticket, Refused> {
        self.trust(account).ok_or(STRANGER)?;
        let username = self.username(account).cloned().ok_or(STRANGER)?;
        self.keep_contact(account, username, trust);
        Ok(self.settle_trust())
    }

    /// Done once it is durable.
    fn settle_trust(&mut self) -> Ticket {
        let ticket = self.next_ticket();
        self.event(Event::Done(ticket, Outcome::Done));
        ticket
    }

    /// The directory's word on a name. One that contradicts what is known is told.
    ///
    /// # Errors
    /// The name is not to be followed.
    pub(super) fn learn(
        &mut self,
        account: AccountId,
        username: Username,
    ) -> Result<(), Contradiction> {
        if let Some(known) = self.contacts.get(&account) {
            return match known.trust {
                // An account has one name for good. Were a second one taken, the first could be given away unnoticed.
                _ if known.username != username => Err(Contradiction::SecondName),
                Trust::Changed { .. } => Err(Contradiction::Moved),
                Trust::Seen | Trust::Verified => Ok(()),
            };
        }
        let holder = self.contacts.iter().find(|(_, known)| known.username == username);
        let Some((held, trust)) = holder.map(|(held, known)| (*held, known.trust)) else {
            // Nobody known is let go for somebody new: a name would be taken on trust a second time.
            if self.contacts.len() >= CONTACTS {
                return Err(Contradiction::Full);
            }
            self.keep_contact(account, username, Trust::Seen);
            return Ok(());
        };
        if self.is_own(held) {
            return Err(Contradiction::SecondName);
        }
        let trust = match trust {
            Trust::Changed { before, verified: true } if before == account => Trust::Verified,
            Trust::Changed { before, verified: false } if before == account => Trust::Seen,
            // What counts is the last one that was accepted.
            Trust::Changed { before, verified } => Trust::Changed { before, verified },
            Trust::Seen => Trust::Changed { before: held, verified: false },
            Trust::Verified => Trust::Changed { before: held, verified: true },
        };
        self.drop_contact(held);
        self.keep_contact(account, username.clone(), trust);
        let before = match trust {
            Trust::Changed { before, .. } => before,
            Trust::Seen | Trust::Verified => held,
        };
        self.event(Event::AccountChanged { username, before, now: account, trust });
        match trust {
            Trust::Changed { .. } => Err(Contradiction::Moved),
            Trust::Seen | Trust::Verified => Ok(()),
        }
    }

    /// After a restart: changes that nobody has accepted are told again.
    pub(super) fn remind(&mut self) {
        for TrustEntry { username, account: now, trust, .. } in self.trust_list() {
            if let Trust::Changed { before, .. } = trust {
                self.event(Event::AccountChanged { username, before, now, trust });
            }
        }
    }

    fn keep_contact(&mut self, account: AccountId, username: Username, trust: Trust) {
        let contact = Contact { username, trust, since: self.now.wall };
        let key = directory::key(directory::CONTACT, &[&account.0]);
        self.gate.stage(directory::put(key, &contact));
        self.contacts.insert(account, contact);
    }

    fn drop_contact(&mut self, account: AccountId) {
        self.contacts.remove(&account);
        self.gate.stage(Op::Delete(directory::key(directory::CONTACT, &[&account.0])));
    }
}

#[cfg(test)]
mod tests;
