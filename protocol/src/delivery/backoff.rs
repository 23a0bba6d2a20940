//! When to try to connect again: exponential, with full jitter, so that clients who lost a server together do not
//! come back together.

use core::time::Duration;

use crate::env::Entropy;
use crate::limits::{BACKOFF_FIRST, BACKOFF_MOST, BACKOFF_STEADY};

/// The delays between attempts to connect.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
    up_since: Option<Duration>,
}

impl Backoff {
    /// No failure so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// A session is open since `now` on the monotonic clock. That alone does not start the delays over: a server
    /// that takes sessions and drops them at once must not be hammered.
    pub fn opened(&mut self, now: Duration) {
        self.up_since = Some(now);
    }

    /// The connection is gone, or could not be made: how long to wait before the next attempt. Uniform between
    /// zero and a ceiling of [`BACKOFF_FIRST`], doubled with each failure in a row up to [`BACKOFF_MOST`]. A
    /// session that stood for [`BACKOFF_STEADY`] ends the row.
    pub fn lost(&mut self, now: Duration, entropy: &mut Entropy) -> Duration {
        let stood = self.up_since.take().map(|since| now.saturating_sub(since));
        if stood.is_some_and(|stood| stood >= BACKOFF_STEADY) {
            self.failures = 0;
        }
        let delay = uniform(self.ceiling(), entropy);
        self.failures = self.failures.saturating_add(1);
        delay
    }

    /// Somebody asked to connect now, or the network changed: the next delay is a first one.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The longest that the next delay can be.
    pub fn ceiling(&self) -> Duration {
        let doubled = 2u32.checked_pow(self.failures).map_or(Duration::MAX, |factor| {
            BACKOFF_FIRST.checked_mul(factor).unwrap_or(Duration::MAX)
        });
        doubled.min(BACKOFF_MOST)
    }
}

/// A uniformly drawn time from zero to `most`, in nanoseconds.
fn uniform(most: Duration, entropy: &mut Entropy) -> Duration {
    // The product's upper half: even to within 1 in 2^64 / most, and without a loop.
    let nanos = (u128::from(entropy.u64()) * (most.as_nanos() + 1)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
