//! What accounts are called: claims of members, checked against the directory before they are shown.

use super::directory::{self};
use super::{Client, Event};
use crate::id::AccountId;
use crate::limits::CALLS_IN_FLIGHT;
use crate::store::batch::Op;
use crate::wire::message::Username;

impl Client {
    /// Takes note of an account's name; a name that moved to another account is told. Returns whether it did.
    pub(super) fn learn(&mut self, account: AccountId, contact: directory::Contact) -> bool {
        let mut moved = false;
        if contact.verified {
            let before = self.contacts.iter().find(|(other, known)| {
                **other != account && known.verified && known.username == contact.username
            });
            if let Some((before, _)) = before {
                let before = *before;
                let username = contact.username.clone();
                self.contacts.remove(&before);
                self.gate.stage(Op::Delete(directory::key(directory::CONTACT, &[&before.0])));
                self.event(Event::AccountChanged { username, before, now: account });
                moved = true;
            }
        }
        if self.contacts.get(&account) != Some(&contact) {
            let key = directory::key(directory::CONTACT, &[&account.0]);
            self.gate.stage(directory::put(key, &contact));
            self.contacts.insert(account, contact);
        }
        moved
    }

    /// A member says what an account is called: the directory is asked before it is believed.
    pub(super) fn hear_name(&mut self, account: AccountId, username: Username) {
        // A claim that the directory did not confirm gives way to another one.
        let known = self.contacts.get(&account);
        if known.is_some_and(|known| known.verified || known.username == username) {
            return;
        }
        if self.calls() >= CALLS_IN_FLIGHT / 2 {
            // It will be heard again.
            return;
        }
        let contact = directory::Contact { username: username.clone(), verified: false };
        self.learn(account, contact);
        self.call(
            super::net::Call::Confirm(account),
            crate::wire::message::Request::AccountLookup { username },
        );
    }

    /// The directory's word on a name that a member claimed.
    pub(super) fn on_confirmed(
        &mut self,
        claimed: AccountId,
        username: Username,
        account: AccountId,
    ) {
        if claimed == account {
            self.learn(account, directory::Contact { username, verified: true });
        }
    }
}
