//! What members say they are called: claims, checked against the directory before they are shown. One that the
//! directory, or what is known here, contradicts is told.

use super::Client;
use super::event::{Contradiction, Event, NameConflict};
use super::net::Call;
use crate::error::ErrorCode;
use crate::id::AccountId;
use crate::limits::{CALLS_IN_FLIGHT, CONTACTS, NAME_CONFLICTS_KEPT, NAME_CONFLICTS_OF_MEMBER};
use crate::wire::message::{Failure, Request, Username};

/// A member's word on what an account is called: its own, or another of the same group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NameClaim {
    pub by: AccountId,
    pub account: AccountId,
    pub username: Username,
}

impl Client {
    /// A member says what an account is called: the directory is asked before it is believed.
    pub(super) fn hear_name(&mut self, claim: NameClaim) {
        if let Some(known) = self.contacts.get(&claim.account) {
            let known = known.username.clone();
            if known != claim.username {
                // An account has one name for good.
                self.tell_conflict(claim, NameConflict::KnownAs(known));
            }
            return;
        }
        let same = |of: &NameClaim| (of.by, of.account) == (claim.by, claim.account);
        let asked = self.net.conn.as_ref().is_some_and(|conn| {
            let mut calls = conn.calls.values();
            calls.any(|pending| matches!(&pending.what, Call::Confirm(of) if same(of)))
        });
        // What is not confirmed is heard, and asked, again. With as many contacts no name is shown that would be asked
        // for.
        let full = self.contacts.len() >= CONTACTS;
        if asked || full || self.calls() >= CALLS_IN_FLIGHT / 2 {
            return;
        }
        let username = claim.username.clone();
        self.call(Call::Confirm(claim), Request::AccountLookup { username });
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
        claim: NameClaim,
        username: &Username,
        account: AccountId,
    ) -> Result<(), super::WrongReply> {
        if *username != claim.username {
            return Err(super::WrongReply);
        }
        if account != claim.account {
            self.tell_conflict(claim, NameConflict::LeadsTo(account));
            return Ok(());
        }
        // A name that moved was told as that; of one that there is no room for nothing is known.
        if self.learn(account, claim.username.clone()) == Err(Contradiction::SecondName) {
            let known = self.username(account).cloned().map(NameConflict::KnownAs);
            let own = self.me().map(|me| NameConflict::LeadsTo(me.account));
            if let Some(conflict) = known.or(own) {
                self.tell_conflict(claim, conflict);
            }
        }
        Ok(())
    }

    /// The directory gives no account for a name that a member claimed.
    pub(super) fn on_not_confirmed(&mut self, claim: NameClaim, failure: &Failure) {
        if failure.code == ErrorCode::AccountUnknown {
            self.tell_conflict(claim, NameConflict::Unknown);
        }
    }

    /// Tells a conflict, once for each claim that is remembered. Who claims names without end is told of a few times:
    /// by then it is known what its word is worth.
    fn tell_conflict(&mut self, claim: NameClaim, conflict: NameConflict) {
        let told = &mut self.conflicts;
        let by_member = told.iter().filter(|of| of.by == claim.by).count();
        if told.contains(&claim) || by_member >= NAME_CONFLICTS_OF_MEMBER {
            return;
        }
        if told.len() >= NAME_CONFLICTS_KEPT {
            told.pop_front();
        }
        told.push_back(claim.clone());
        let NameClaim { by, account, username: claimed } = claim;
        self.event(Event::NameContradicted { account, claimed, by, conflict });
    }
}

#[cfg(test)]
mod tests;
