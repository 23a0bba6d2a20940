//! How full a machine's queues are, beside what bounds them: for who watches a server, and for tests.

/// A queue, or what else a limit bounds. Of queues of which there are many, one for each connection, link or group, it
/// is the fullest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauge {
    /// The limit's name in [`limits`](crate::limits).
    pub limit: &'static str,
    /// How much there is: things, or bytes if the limit is one of bytes.
    pub is: usize,
    /// How much there may be.
    pub most: usize,
    /// Whether there is nothing left once all that was asked for is answered.
    pub drains: bool,
}

impl Gauge {
    /// Of what is kept.
    pub(crate) fn kept(limit: &'static str, is: usize, most: usize) -> Self {
        Self { limit, is, most, drains: false }
    }

    /// Of what is under way.
    pub(crate) fn drains(limit: &'static str, is: usize, most: usize) -> Self {
        Self { limit, is, most, drains: true }
    }
}
