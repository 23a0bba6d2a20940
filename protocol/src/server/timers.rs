//! Every deadline of the machine in one ordered table: the earliest is what `Idle` says.

use core::time::Duration;
use std::collections::BTreeMap;

use super::connection::Call;
use super::push::FetchKey;
use crate::error::CloseCode;
use crate::io::{ConnId, WakeReason};

/// What happens at a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// A connection has no session yet.
    Handshake(ConnId),
    /// A fetch has waited long enough.
    LongPoll(Call),
    /// An answer may leave now.
    Floor(Call),
    /// A subscription whose read failed is tried again.
    Retry(FetchKey),
    /// A connection has had the time to take what was sent on it.
    Close(ConnId, CloseCode),
    /// What expired is removed.
    Sweep,
    /// The drain is over.
    Drain,
}

impl Timer {
    fn reason(self) -> WakeReason {
        match self {
            Self::Handshake(_) => WakeReason::Handshake,
            Self::LongPoll(_) | Self::Retry(_) => WakeReason::LongPoll,
            Self::Floor(_) => WakeReason::Floor,
            Self::Sweep => WakeReason::Sweep,
            Self::Close(..) | Self::Drain => WakeReason::Drain,
        }
    }
}

/// Names one deadline, for cancelling it.
pub(super) type TimerKey = (Duration, u64);

/// The table.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeMap<TimerKey, Timer>,
    drawn: u64,
}

impl Timers {
    pub(super) fn set(&mut self, at: Duration, timer: Timer) -> TimerKey {
        self.drawn += 1;
        let key = (at, self.drawn);
        self.due.insert(key, timer);
        key
    }

    pub(super) fn cancel(&mut self, key: TimerKey) {
        self.due.remove(&key);
    }

    /// The next one that is due by `now`.
    pub(super) fn pop(&mut self, now: Duration) -> Option<Timer> {
        let entry = self.due.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    /// The earliest deadline and what it is for.
    pub(super) fn earliest(&self) -> (Option<Duration>, WakeReason) {
        match self.due.first_key_value() {
            Some(((at, _), timer)) => (Some(*at), timer.reason()),
            None => (None, WakeReason::Nothing),
        }
    }
}
