//! The clock of a process, which a test can set forward.

use std::time::Duration;

use qpc_smol::Clock;

/// A clock that starts now. In builds with debug assertions `QPC_DAYS_AHEAD` says how many days its wall time is ahead
/// of the system's, so that real processes see what takes days.
pub fn clock() -> Clock {
    let wanted = std::env::var("QPC_DAYS_AHEAD").ok().filter(|_| cfg!(debug_assertions));
    let days: u32 = wanted.and_then(|days| days.parse().ok()).unwrap_or(0);
    Clock::start().ahead(Duration::from_secs(24 * 60 * 60) * days)
}
