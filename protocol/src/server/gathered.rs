//! Frames that have arrived in part: memory that a peer fills at leisure, bounded for each connection and for all of
//! them together.

use super::Server;
use super::connection::Auth;
use crate::error::{CloseCode, ErrorCode, PeerFault};
use crate::io::{ConnId, LinkId};
use crate::limits;
use crate::server::audit::AuditKind;

/// Bytes that all links of somebody without a session may gather: one read each of the two links that such a client
/// has use for.
const STRANGER_GATHERED: usize = 2 * limits::READ_CHUNK;

impl Server {
    /// Counts what a link has gathered, once no frame in it can be taken. `false`: nothing more is to be read from the
    /// link until another one of its connection has got on.
    pub(super) fn count_gathered(&mut self, conn: ConnId, id: LinkId) -> bool {
        let Some(link) = self.links.get_mut(&id) else { return false };
        let before = link.gathered;
        link.count_gathered();
        let now = link.gathered;
        self.gathered = self.gathered - before + now;
        if now == 0 {
            return true;
        }
        let Some(connection) = self.conns.get(&conn) else { return false };
        let of_links = || {
            let links = connection.links.iter();
            links.filter_map(|id| Some((*id, self.links.get(id)?.gathered)))
        };
        let in_all: usize = of_links().map(|(_, bytes)| bytes).sum();
        if !matches!(connection.auth, Auth::Session(_)) && in_all > STRANGER_GATHERED {
            self.fault(conn, PeerFault::OverLimit("bytes before a session"));
            return false;
        }
        // What is small goes on beside what is large, and one large frame always does: so all get their turn.
        let first = of_links().find(|(_, bytes)| *bytes > limits::READ_CHUNK);
        let may_read = now <= limits::READ_CHUNK
            || in_all < limits::CONNECTION_BACKLOG_BYTES
            || first.is_none_or(|(first, _)| first == id);
        while self.gathered > self.config.gathered_bytes && self.close_greediest() {}
        may_read
    }

    /// Over the limit for all: the connection that has gathered most goes.
    fn close_greediest(&mut self) -> bool {
        let gathered = |conn: &ConnId| {
            let links = self.conns.get(conn).map(|connection| &connection.links);
            let links = links.into_iter().flatten().filter_map(|link| self.links.get(link));
            links.map(|link| link.gathered).sum::<usize>()
        };
        let Some(conn) = self.conns.keys().copied().max_by_key(gathered) else { return false };
        if gathered(&conn) == 0 {
            return false;
        }
        self.audit(AuditKind::Limit, Some(conn), None, Some(ErrorCode::Busy));
        let links = self.conns.get(&conn).map(|connection| &connection.links);
        for link in links.into_iter().flatten() {
            if let Some(link) = self.links.get_mut(link) {
                self.gathered -= link.gathered;
                link.drop_gathered();
            }
        }
        self.begin_close(conn, CloseCode::FULL);
        true
    }
}
