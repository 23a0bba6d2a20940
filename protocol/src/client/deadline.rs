//! The one deadline of the machine, derived from its state, and what happens when it has come.

use core::time::Duration;

use super::keys::PACKAGES_RETRY;
use super::net::{Call, Connection};
use super::session::Phase;
use super::{Client, Packages};
use crate::io::{Output, WakeReason};
use crate::limits::KEEP_ALIVE;
use crate::wire::message::Request;

/// Nothing to do, ever.
pub(super) fn never() -> Output {
    Output::Idle { wake_at: None, reason: WakeReason::Nothing }
}

impl Client {
    /// The earliest deadline of all, and what it is for.
    pub(super) fn idle(&self) -> Output {
        let (wake_at, reason) = self
            .deadlines()
            .into_iter()
            .filter_map(|(at, reason)| at.map(|at| (at, reason)))
            .min()
            .map_or((None, WakeReason::Nothing), |(at, reason)| (Some(at), reason));
        Output::Idle { wake_at, reason }
    }

    fn deadlines(&self) -> [(Option<Duration>, WakeReason); 11] {
        let conn = self.net.conn.as_ref();
        let online = conn.is_some_and(Connection::online);
        let handshake = conn.filter(|conn| !settled(conn.phase)).map(|conn| conn.handshake_by);
        let call = conn.and_then(Connection::call_deadline);
        // Once asked, the call's own deadline counts: this one would lie in the past until the answer is here.
        let keep_alive = conn
            .filter(|conn| settled(conn.phase) && !pinging(conn))
            .map(|conn| conn.heard + KEEP_ALIVE);
        let renew = conn.and_then(|conn| conn.renew_at).filter(|_| online);
        let packages = online.then(|| {
            self.now.mono + self.packages_due().since(self.now.wall).max(Duration::from_secs(60))
        });
        let sweep = [self.sweep_due(), self.old_keys_end(), self.old_envelopes_end()];
        let sweep = sweep.into_iter().flatten().min();
        let sweep = sweep.map(|at| self.now.mono + at.since(self.now.wall));
        let held =
            self.channels.values().flat_map(|channel| [channel.hold_until, channel.flush_at]);
        let told = self.channels.values().filter(|channel| channel.ready);
        let told = told.filter_map(|channel| channel.tell_at.map(|(at, _)| at));
        let held = held.flatten().chain(told).min().filter(|_| online);
        let retries = self.channels.values().filter_map(|channel| channel.retry_at);
        let early = self.channels.values().filter(|channel| channel.retry_at.is_none());
        let early = early.filter_map(|channel| channel.early.until);
        let left_out = self.channels.values().filter_map(|channel| channel.left_out_until);
        let rejoins = self.channels.values().filter_map(|channel| channel.rejoin_at);
        let others = [self.packages_retry, self.rotation_retry, self.envelope_retry];
        let others = others.into_iter().flatten();
        let retry = retries
            .chain(early)
            .chain(left_out)
            .chain(rejoins)
            .chain(others)
            .min()
            .filter(|_| online);
        let update = self.update_deadline().into_iter().chain(self.envelope_deadline()).min();
        [
            (self.net.connect_at.filter(|_| conn.is_none()), WakeReason::Reconnect),
            (handshake, WakeReason::Handshake),
            (call, WakeReason::Call),
            (keep_alive, WakeReason::KeepAlive),
            (renew, WakeReason::Token),
            (packages, WakeReason::KeyPackages),
            (sweep, WakeReason::KeyPackages),
            (held, WakeReason::Commit),
            (self.next_turn().filter(|_| online), WakeReason::Commit),
            (retry, WakeReason::Retry),
            (update.filter(|_| online), WakeReason::Update),
        ]
    }

    /// Does what time alone makes due. Too early is harmless: nothing is due then.
    pub(super) fn check_deadlines(&mut self) {
        let mono = self.now.mono;
        if self.net.conn.is_none() && self.net.connect_at.is_some_and(|at| at <= mono) {
            self.connect_now();
        }
        self.sweep_packages();
        self.forget_old_keys();
        self.forget_old_envelopes();
        let Some(conn) = &self.net.conn else { return };
        if !settled(conn.phase) && conn.handshake_by <= mono {
            return self.drop_connection("the server did not answer in time".into());
        }
        if conn.call_deadline().is_some_and(|at| at <= mono) {
            return self.drop_connection("the server did not answer in time".into());
        }
        let quiet = conn.heard + KEEP_ALIVE <= mono;
        if settled(conn.phase) && quiet && !pinging(conn) {
            self.call(Call::KeepAlive, Request::Ping(bytes::Bytes::new()));
        }
        if conn_online(self) {
            self.check_tokens();
            self.check_packages();
            self.check_envelopes();
        }
        if self.rotation_retry.is_some_and(|at| at <= mono) {
            self.rotation_retry = None;
            self.offer_key();
        }
        self.check_leaves();
        self.take_turns();
        for (id, channel) in &mut self.channels {
            if channel.hold_until.is_some_and(|at| at <= mono) {
                channel.hold_until = None;
                self.dirty.insert(*id);
            }
            if channel.flush_at.is_some_and(|at| at <= mono) {
                channel.flush_at = None;
                self.dirty.insert(*id);
            }
            if channel.ready && channel.tell_at.is_some_and(|(at, _)| at <= mono) {
                self.dirty.insert(*id);
            }
            if channel.left_out_until.is_some_and(|at| at <= mono) {
                self.dirty.insert(*id);
            }
            if channel.early.until.is_some_and(|at| at <= mono) {
                self.dirty.insert(*id);
            }
            if channel.retry_at.is_some_and(|at| at <= mono) {
                channel.retry_at = None;
                self.dirty.insert(*id);
            }
            if channel.rejoin_at.is_some_and(|at| at <= mono) {
                channel.rejoin_at = None;
                self.dirty.insert(*id);
            }
        }
    }

    /// Asks how many key packages there are, if the server could not say before, or they end soon.
    fn check_packages(&mut self) {
        let mono = self.now.mono;
        let retry = self.packages_retry.is_some_and(|at| at <= mono);
        let busy = self.asked_for_packages() || matches!(self.packages, Packages::Loading(..));
        let ends = self.packages_retry.is_none() && self.packages_due() <= self.now.wall;
        match busy {
            // What is under way may fail, too.
            true if retry => self.packages_retry = Some(mono + PACKAGES_RETRY),
            false if retry || (ends && self.wanted_packages.is_empty()) => self.begin_packages(),
            _ => {}
        }
    }
}

fn conn_online(client: &Client) -> bool {
    client.phase() == Some(Phase::Online)
}

/// Whether the other side was asked for a sign of life.
fn pinging(conn: &Connection) -> bool {
    conn.calls.values().any(|pending| pending.what == Call::KeepAlive)
}

/// Phases that may last.
fn settled(phase: Phase) -> bool {
    matches!(phase, Phase::Anonymous | Phase::Online)
}
