//! What a town's work took.

use core::time::Duration;

/// What was done, in all or since some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Real time.
    pub time: Duration,
    /// Of it, in the server: its machine, its jobs, its store.
    pub server: Duration,
    /// Bytes to the server and from it, on all links.
    pub up: u64,
    /// See `up`.
    pub down: u64,
    /// Bytes that devices made durable.
    pub persisted: u64,
}

impl Spent {
    /// What was spent since then.
    pub fn since(self, before: Self) -> Self {
        Self {
            time: self.time - before.time,
            server: self.server - before.server,
            up: self.up - before.up,
            down: self.down - before.down,
            persisted: self.persisted - before.persisted,
        }
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            time: self.time + other.time,
            server: self.server + other.server,
            up: self.up + other.up,
            down: self.down + other.down,
            persisted: self.persisted + other.persisted,
        }
    }
}
