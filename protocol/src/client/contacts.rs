//! What members say they are called: claims, checked against the directory before they are shown.

use super::Client;
use super::net::Call;
use crate::id::AccountId;
use crate::limits::{CALLS_IN_FLIGHT, CONTACTS};
use crate::wire::message::{Request, Username};

impl Client {
    /// A member says what an account is called: the directory is asked before it is believed.
    pub(super) fn hear_name(&mut self, account: AccountId, username: Username) {
        let conn = self.net.conn.as_ref();
        let asked = conn.is_some_and(|conn| {
            conn.calls.values().any(|pending| pending.what == Call::Confirm(account))
        });
        // What is not confirmed is heard, and asked, again.
        let known = self.contacts.contains_key(&account) || self.contacts.len() >= CONTACTS;
        if asked || known || self.calls() >= CALLS_IN_FLIGHT / 2 {
            return;
        }
        self.call(Call::Confirm(account), Request::AccountLookup { username });
    }

    /// Whether the directory is being asked what an account is called: its name may be known in a moment.
    pub fn is_confirming(&self) -> bool {
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
            // A contradiction was told.
            let _ = self.learn(account, username);
        }
    }
}
