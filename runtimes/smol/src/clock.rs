//! The only place where a driver asks the system for time and randomness.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use qpc_protocol::env::{Entropy, Now, UnixMillis};

/// The clocks of a process, as a machine wants them. Machine and driver must share one.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    ahead: Duration,
}

impl Clock {
    /// A clock whose monotonic time starts now.
    pub fn start() -> Self {
        Self { start: Instant::now(), ahead: Duration::ZERO }
    }

    /// The same with a wall clock that is ahead of the system's: for tests of what takes days.
    #[must_use]
    pub fn ahead(self, by: Duration) -> Self {
        Self { ahead: by, ..self }
    }

    /// What time it is.
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = wall.saturating_add(self.ahead);
        Now {
            mono: self.start.elapsed(),
            wall: UnixMillis(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// The moment at which the monotonic time is `mono`; `None` if it lies beyond all clocks.
    pub(crate) fn instant(&self, mono: Duration) -> Option<Instant> {
        self.start.checked_add(mono)
    }
}

/// A generator seeded by the operating system.
///
/// # Errors
///
/// If the operating system has no randomness to give.
pub fn entropy() -> std::io::Result<Entropy> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(std::io::Error::from)?;
    Ok(Entropy::from_seed(seed))
}
