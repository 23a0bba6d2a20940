//! Clocks: each machine has its own calendar.

use qpc_protocol::env::{Now, UnixMillis};

/// The calendar of a machine, against the world's. Set it at any time: that is a jump. Monotonic clocks are all the
/// same one: a machine measures spans by nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// How many milliseconds it is ahead; negative: behind.
    pub ahead: i64,
    /// It stands still and shows this.
    pub stands: Option<UnixMillis>,
}

impl Clock {
    /// What it shows when the world's clock shows `now`.
    pub fn of(self, now: Now) -> Now {
        let wall = now.wall.0.saturating_add_signed(self.ahead);
        Now { wall: self.stands.unwrap_or(UnixMillis(wall)), ..now }
    }
}
