//! What accounts are called: claims of members, checked against the directory before they are shown.

use super::directory;
use super::net::Call;
use super::{Client, Event};
use crate::id::AccountId;
use crate::limits::CALLS_IN_FLIGHT;
use crate::store::batch::Op;
use crate::wire::message::{Request, Username};

impl Client {
    /// Takes note of an account's name; a name that moved to another account is told. Returns whether it did.
    pub(super) fn learn(&mut self, account: AccountId, contact: directory::Contact) -> bool {
        let before = self
            .contacts
            .iter()
            .find(|(other, known)| **other != account && known.username == contact.username)
            .map(|(before, _)| *before);
        if let Some(before) = before {
            let username = contact.username.clone();
            self.contacts.remove(&before);
            self.gate.stage(Op::Delete(directory::key(directory::CONTACT, &[&before.0])));
            self.event(Event::AccountChanged { username, before, now: account });
        }
        if self.contacts.get(&account) != Some(&contact) {
            let key = directory::key(directory::CONTACT, &[&account.0]);
            self.gate.stage(directory::put(key, &contact));
            self.contacts.insert(account, contact);
        }
        before.is_some()
    }

    /// A member says what an account is called: the directory is asked before it is believed.
    pub(super) fn hear_name(&mut self, account: AccountId, username: Username) {
        let conn = self.net.conn.as_ref();
        let asked = conn.is_some_and(|conn| {
            conn.calls.values().any(|pending| pending.what == Call::Confirm(account))
        });
        // What is not confirmed is heard, and asked, again.
        if asked || self.contacts.contains_key(&account) || self.calls() >= CALLS_IN_FLIGHT / 2 {
            return;
        }
        self.call(Call::Confirm(account), Request::AccountLookup { username });
    }

    /// Whether the directory is asked about a name.
    pub(super) fn is_confirming(&self) -> bool {
        self.net.conn.as_ref().is_some_and(|conn| {
            conn.calls.values().any(|pending| matches!(pending.what, Call::Confirm(_)))
        })
    }

    /// The directory's word on a name that a member claimed.
    pub(super) fn on_confirmed(
        &mut self,
        claimed: AccountId,
        username: Username,
        account: AccountId,
    ) {
        if claimed == account {
            self.learn(account, directory::Contact { username });
        }
    }
}
