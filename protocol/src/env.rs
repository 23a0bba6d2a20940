//! Time and randomness: handed in, never taken.

use core::fmt;
use core::time::Duration;

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Milliseconds since 1970-01-01T00:00:00Z, leap seconds ignored.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// This moment plus `span`, saturating.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// This moment minus `span`, saturating at the epoch.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to this moment; zero if that is in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// What time it is, in the two senses that matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Time since an arbitrary start, never going back: for timeouts, backoff, deadlines. A machine
    /// that is handed an earlier value than before takes the earlier one for the same.
    pub mono: Duration,
    /// The calendar: for expiry and for what people read. It may jump either way.
    pub wall: UnixMillis,
}

/// The only source of randomness of a machine: a ChaCha20 generator that erases its key as it goes
/// (a state stolen later tells nothing of bytes drawn before).
///
/// It is seeded once with 32 bytes from the operating system, or from a test. The seed is never
/// stored. Cloning is impossible on purpose: two generators with one state would draw one key twice.
pub struct Entropy {
    key: Zeroizing<[u8; 32]>,
}

impl Entropy {
    /// A generator from 32 bytes that nobody else knows and that were used for nothing else.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self { key: Zeroizing::new(seed) }
    }

    /// Overwrites `out` with fresh bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        let mut stream = ChaCha20::new((&*self.key).into(), &[0; 12].into());
        self.key.fill(0);
        stream.apply_keystream(&mut *self.key);
        out.fill(0);
        stream.apply_keystream(out);
    }

    /// `N` fresh bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// A uniformly drawn `u64`.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A generator of its own for one piece of work, independent of this one from here on.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::from_seed(self.array())
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy(…)")
    }
}
