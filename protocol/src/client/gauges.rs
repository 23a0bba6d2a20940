//! How full the client's queues are.

use super::Client;
use super::channel::Slot;
use crate::gauge::Gauge;
use crate::limits::*;

impl Client {
    /// How full everything is that a limit bounds: what is in memory, and what is stored and counted there.
    pub fn gauges(&self) -> Vec<Gauge> {
        let links = self.net.conn.as_ref().map_or(0, |conn| conn.links.len());
        let warm = self.channels.values().filter(|channel| matches!(channel.slot, Slot::Warm(_)));
        vec![
            Gauge::kept("LINKS_PER_CONNECTION", links, LINKS_PER_CONNECTION),
            // A keep-alive may be among them.
            Gauge::kept("CALLS_IN_FLIGHT", self.calls(), CALLS_IN_FLIGHT),
            Gauge::drains("TICKETS", self.asks.len() + self.comparisons.len(), TICKETS),
            Gauge::kept("OUTBOX", self.outbox.values().filter(|item| !item.silent).count(), OUTBOX),
            Gauge::drains("TRANSFERS", self.transfers(), TRANSFERS),
            Gauge::drains("TRANSFERS", self.partial.len(), TRANSFERS),
            Gauge::kept("WARM_GROUPS", warm.count(), WARM_GROUPS + 1),
            Gauge::kept("CONTACTS", self.contacts.len(), CONTACTS),
            Gauge::kept("NAME_CONFLICTS_KEPT", self.conflicts.len(), NAME_CONFLICTS_KEPT),
            Gauge::kept("CHECKPOINTS_KEPT", self.claims.len(), CHECKPOINTS_KEPT),
        ]
    }
}
