//! Envelope keys: what others seal notes to this device with. New ones with every new device key, and every
//! [`ENVELOPE_KEY_TIME`].
//!
//! | step | durable before it | after a crash |
//! |---|---|---|
//! | secrets are drawn | the secrets | offered with the next session |
//! | the server takes their public halves, under the next sequence | – | offered again: the same, under the same sequence |
//! | they are this device's | both, those before among the old ones | |
//!
//! A restored backup may have keys that others came after, and offer new ones under a sequence that was used: the
//! server keeps what it has, and says nothing. Its list of devices shows that, and is asked for by a backup and after
//! each offer; new ones are offered from there on.
//!
//! Those before are kept for [`ENVELOPE_KEY_GRACE`], so that notes on their way open, then erased. No more of them come
//! together than there are old device keys and weeks in that time.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use super::Client;
use super::directory::{self, Identity};
use super::net::Call;
use super::session::Phase;
use crate::crypto::hybrid::EnvelopeSecrets;
use crate::crypto::identity::EnvelopeKeys;
use crate::env::UnixMillis;
use crate::limits::{ENVELOPE_KEY_GRACE, ENVELOPE_KEY_TIME};
use crate::wire::message::{Failure, Request};

/// The envelope keys of this device beside its present ones, which its [`Identity`] has.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Envelopes {
    /// Since when the present ones are.
    since: UnixMillis,
    /// Those to come.
    next: Option<EnvelopeSecrets>,
    /// Those before, and since when they are.
    old: Vec<(EnvelopeSecrets, UnixMillis)>,
}

impl Client {
    /// This device has its first ones.
    pub(super) fn begin_envelopes(&mut self) {
        self.envelopes = Envelopes { since: self.now.wall, ..Envelopes::default() };
        self.store_envelopes();
    }

    fn store_envelopes(&mut self) {
        self.gate.stage(directory::put(directory::ENVELOPES.to_vec(), &self.envelopes));
    }

    /// Those to come: the ones that were offered already, if no answer came.
    pub(super) fn next_envelope(&mut self) -> EnvelopeSecrets {
        if let Some(next) = &self.envelopes.next {
            return next.clone();
        }
        let next = EnvelopeSecrets::generate(&mut self.entropy);
        self.envelopes.next = Some(next.clone());
        self.store_envelopes();
        next
    }

    /// The server has those to come, if it was not told so before: they are this device's. `identity` is to be stored.
    pub(super) fn take_next_envelope(&mut self, identity: &mut Identity) {
        let Some(next) = self.envelopes.next.take() else { return };
        let before = core::mem::replace(&mut identity.envelope, next);
        identity.envelope_sequence = identity.envelope_sequence.saturating_add(1);
        self.envelopes.old.push((before, self.now.wall));
        self.envelopes.since = self.now.wall;
        self.store_envelopes();
    }

    /// Whether the server has yet to answer an offer.
    pub(super) fn offers_envelope(&self) -> bool {
        let of_keys = |what: &Call| matches!(what, Call::Envelope | Call::Rotate);
        let conn = self.net.conn.as_ref();
        conn.is_some_and(|conn| conn.calls.values().any(|pending| of_keys(&pending.what)))
    }

    /// Whether something else has to come first: an answer, a new device key, the time to try again.
    fn envelopes_wait(&self) -> bool {
        self.offers_envelope() || self.rotation.is_under_way() || self.envelope_retry.is_some()
    }

    /// What the server gives out as this device's, with no offer on its way. If it is of another state of this device,
    /// and no earlier, nobody's notes open here: new ones follow it at once.
    pub(super) fn on_envelope_listed(&mut self, listed: &EnvelopeKeys) {
        if !self.is_passed_by(listed) {
            return;
        }
        if let Some(mut identity) = self.identity.take() {
            identity.envelope_sequence = listed.sequence;
            self.store_identity(identity);
        }
        self.envelopes.since = UnixMillis(0);
        self.store_envelopes();
        self.check_envelopes();
    }

    /// Whether these are this device's, but neither its present ones nor those to come.
    fn is_passed_by(&self, listed: &EnvelopeKeys) -> bool {
        let backend = self.config.backend;
        let Some(identity) = &self.identity else { return false };
        if self.me() != Some(listed.sender) || listed.sequence < identity.envelope_sequence {
            return false;
        }
        let mut own = self.envelopes.next.iter().chain([&identity.envelope]);
        own.all(|own| own.public(backend) != (listed.x25519, listed.mlkem768.clone()))
            && listed.verify(backend, &identity.device_key.public()).is_ok()
    }

    /// When envelope keys are to be replaced.
    pub(super) fn envelope_deadline(&self) -> Option<Duration> {
        let renew = self.envelopes.since.plus(ENVELOPE_KEY_TIME);
        (!self.envelopes_wait()).then(|| self.now.mono + renew.since(self.now.wall))
    }

    /// When the first of those before are to go, online or not.
    pub(super) fn old_envelopes_end(&self) -> Option<UnixMillis> {
        self.envelopes.old.iter().map(|(_, since)| since.plus(ENVELOPE_KEY_GRACE)).min()
    }

    /// Erases those whose grace is over.
    pub(super) fn forget_old_envelopes(&mut self) {
        let wall = self.now.wall;
        if self.old_envelopes_end().is_some_and(|at| at <= wall) {
            self.envelopes.old.retain(|(_, since)| wall.since(*since) < ENVELOPE_KEY_GRACE);
            self.store_envelopes();
        }
    }

    /// Offers new ones if it is time. For an open session.
    pub(super) fn check_envelopes(&mut self) {
        let (mono, wall) = (self.now.mono, self.now.wall);
        if self.envelope_retry.is_some_and(|at| at <= mono) {
            self.envelope_retry = None;
        }
        if wall.since(self.envelopes.since) >= ENVELOPE_KEY_TIME && !self.envelopes_wait() {
            self.offer_envelope();
        }
    }

    fn offer_envelope(&mut self) {
        if self.phase() != Some(Phase::Online) {
            return;
        }
        let next = self.next_envelope();
        let Some(identity) = &self.identity else { return };
        let Some(record) = identity.device_record() else { return };
        let envelope_keys = next.publish(
            self.config.backend,
            &identity.device_key,
            record.sender(),
            identity.envelope_sequence.saturating_add(1),
            self.now.wall,
        );
        self.call(Call::Envelope, Request::DeviceRegister { record, envelope_keys });
    }

    /// The server has the new ones.
    pub(super) fn on_envelope_taken(&mut self) {
        let Some(mut identity) = self.identity.take() else { return };
        self.take_next_envelope(&mut identity);
        self.store_identity(identity);
        self.relist_devices();
    }

    /// The server did not take the new ones: they are offered again, soon if it only could not now.
    pub(super) fn on_envelope_refused(&mut self, failure: &Failure) {
        if failure.is_transient() {
            let pause = super::inbound::pause(failure.retry_after_ms);
            self.envelope_retry = Some(self.now.mono + pause);
        } else {
            self.envelopes.since = self.now.wall;
            self.store_envelopes();
        }
    }

    /// What was stored of them is lost. Others may have been offered already: their sequence is not used again.
    pub(super) fn lose_envelopes(&mut self) {
        if let Some(mut identity) = self.identity.take() {
            identity.envelope_sequence = identity.envelope_sequence.saturating_add(1);
            self.store_identity(identity);
        }
    }
}
