//! Whose turn it is to change a group. Whoever is first wins, and a member on a slow link never is while others go on:
//! after some losses in a row, everybody else is asked to wait a moment for it. Accounts take turns, however many
//! devices they have.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use crate::id::AccountId;
use crate::limits::{COMMIT_LOSSES, COMMIT_TURN, COMMIT_TURN_PAUSE, COMMIT_TURNS};

/// The turns of one group. Nothing of it is durable: a restart costs a slow member a few losses more.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Changes in a row that came too late.
    losses: BTreeMap<AccountId, u32>,
    /// Whom the others wait for, and until when.
    turn: Option<(AccountId, Duration)>,
    /// Whose turns come after that, and since when they are due.
    due: VecDeque<(AccountId, Duration)>,
    /// Who let its turn pass gets no other before that time.
    passed: BTreeMap<AccountId, Duration>,
}

impl Turns {
    /// Whether a member may change the group now.
    pub(super) fn may(&mut self, account: AccountId, now: Duration) -> bool {
        self.advance(now);
        self.turn.is_none_or(|(holder, _)| holder == account)
    }

    /// A change came too late.
    pub(super) fn lost(&mut self, account: AccountId, now: Duration) {
        self.advance(now);
        if self.losses.len() >= COMMIT_TURNS && !self.losses.contains_key(&account) {
            return;
        }
        let losses = self.losses.entry(account).or_default();
        *losses += 1;
        if *losses >= COMMIT_LOSSES && !self.passed.contains_key(&account) {
            self.losses.remove(&account);
            let has = self.turn.is_some_and(|(holder, _)| holder == account);
            let waits = self.due.iter().any(|(other, _)| *other == account);
            if !has && !waits && self.due.len() < COMMIT_TURNS {
                self.due.push_back((account, now));
            }
            self.advance(now);
        }
    }

    /// A change was accepted.
    pub(super) fn won(&mut self, account: AccountId, now: Duration) {
        self.losses.remove(&account);
        self.due.retain(|(other, _)| *other != account);
        if self.turn.is_some_and(|(holder, _)| holder == account) {
            self.turn = None;
        }
        self.advance(now);
    }

    /// Ends a turn that is over, and begins the next one. One that is due for so long is not needed any more.
    fn advance(&mut self, now: Duration) {
        self.passed.retain(|_, until| *until > now);
        if let Some((holder, until)) = self.turn
            && until <= now
        {
            self.turn = None;
            if self.passed.len() < COMMIT_TURNS {
                self.passed.insert(holder, now + COMMIT_TURN_PAUSE);
            }
        }
        self.due.retain(|(_, since)| *since + COMMIT_TURN_PAUSE > now);
        if self.turn.is_none()
            && let Some((next, _)) = self.due.pop_front()
        {
            self.turn = Some((next, now + COMMIT_TURN));
        }
    }
}

#[cfg(test)]
mod tests;
