//! How full the server's queues are.

use super::Server;
use crate::gauge::Gauge;
use crate::limits::*;

impl Server {
    /// How full everything is that a limit bounds. It looks at every connection, link and group in memory.
    pub fn gauges(&self) -> Vec<Gauge> {
        let links = self.conns.values().map(|conn| conn.links.len()).max();
        let calls = self.conns.values().map(|conn| conn.in_flight).max();
        let subscriptions = self.conns.values().map(|conn| conn.subscriptions.len()).max();
        let load = self.links.values().map(|link| link.load()).max();
        let fullest = Option::unwrap_or_default;
        let mut gauges = vec![
            Gauge::kept("CONNECTIONS", self.conns.len(), self.config.connections),
            Gauge::kept("LINKS_PER_CONNECTION", fullest(links), LINKS_PER_CONNECTION),
            Gauge::drains("CALLS_IN_FLIGHT", fullest(calls), CALLS_IN_FLIGHT),
            Gauge::kept("SUBSCRIPTIONS", fullest(subscriptions), SUBSCRIPTIONS),
            // One more answer may be the largest.
            Gauge::drains("LINK_BACKLOG_BYTES", fullest(load), LINK_BACKLOG_BYTES + FRAME_BYTES),
            Gauge::drains("GATHERED_BYTES", self.gathered, self.config.gathered_bytes),
            Gauge::drains("STORE_OPS", self.ops.len(), STORE_OPS),
            Gauge::drains("JOBS", self.jobs.len(), JOBS),
        ];
        gauges.extend(self.groups.gauges());
        gauges
    }
}
