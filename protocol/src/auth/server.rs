//! The server's steps of OPAQUE (RFC 9807). Pure functions of tenths of a millisecond: jobs.
//!
//! An unknown user is answered like a known one (RFC 9807 §10.9): the same steps, the same lengths, and the
//! same work, down to the parsing of a record.

use core::fmt;
use std::sync::Arc;

use bytes::Bytes;
use opaque_ke::rand::{CryptoRng, RngCore};
use opaque_ke::{
    CredentialFinalization, CredentialRequest, Identifiers, RegistrationRequest,
    RegistrationUpload, ServerLogin, ServerLoginParameters, ServerRegistration, ServerSetup,
};
use zeroize::{Zeroize as _, Zeroizing};

use super::client::take;
use super::opaque::{
    KE1, KE3, OpaqueError, REGISTRATION_RECORD, REGISTRATION_REQUEST, Rng, SessionKey, Suite,
    exactly, identities, sort,
};
use crate::env::Entropy;
use crate::id::ServerId;
use crate::wire::message::Username;

/// The server's OPAQUE secrets: the OPRF seed and the static key. One for the server's life: losing it locks
/// every account out, leaking it lets records be guessed at offline. Cloning shares it.
#[derive(Clone)]
pub struct OpaqueServer {
    setup: Arc<ServerSetup<Suite>>,
    /// A well-formed record that is parsed in place of an unknown user's.
    decoy: [u8; REGISTRATION_RECORD],
}

const VERSION: u8 = 1;
/// OPRF seed (64) || static secret key (32) || public key of unknown users (32).
const SETUP: usize = 64 + 32 + 32;

impl OpaqueServer {
    /// Fresh secrets.
    pub fn generate(entropy: &mut Entropy) -> Self {
        Self::from_setup(ServerSetup::new(&mut Rng(entropy)))
    }

    /// version (1) || OPRF seed (64) || static secret key (32) || public key of unknown users (32).
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut setup = self.setup.serialize();
        let mut out = Zeroizing::new(Vec::with_capacity(1 + SETUP));
        out.push(VERSION);
        out.extend_from_slice(&setup);
        setup.as_mut_slice().zeroize();
        out
    }

    /// Reads what [`Self::encode`] wrote; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&VERSION, setup) = bytes.split_first()? else { return None };
        let setup = exactly::<SETUP>(setup).ok()?;
        Some(Self::from_setup(ServerSetup::deserialize(setup).ok()?))
    }

    pub(super) fn from_setup(setup: ServerSetup<Suite>) -> Self {
        let mut encoded = setup.serialize();
        let mut decoy = [0; REGISTRATION_RECORD];
        for (to, from) in decoy.iter_mut().zip(&encoded[SETUP - 32..]) {
            *to = *from;
        }
        encoded.as_mut_slice().zeroize();
        Self { setup: Arc::new(setup), decoy }
    }

    /// First step of a registration: the `RegistrationResponse`, 64 bytes.
    ///
    /// # Errors
    /// [`OpaqueError::Malformed`] for a request of the wrong length or of no valid point.
    pub fn register_start(
        &self,
        username: &Username,
        request: &[u8],
    ) -> Result<Bytes, OpaqueError> {
        self.register_start_with(username.as_str().as_bytes(), request)
    }

    pub(super) fn register_start_with(
        &self,
        credential: &[u8],
        request: &[u8],
    ) -> Result<Bytes, OpaqueError> {
        let request = exactly::<REGISTRATION_REQUEST>(request)?;
        let request = RegistrationRequest::deserialize(request).map_err(sort)?;
        let start =
            ServerRegistration::<Suite>::start(&self.setup, request, credential).map_err(sort)?;
        Ok(Bytes::copy_from_slice(&start.message.serialize()))
    }

    /// Last step of a registration: the record to store, 192 bytes.
    ///
    /// # Errors
    /// [`OpaqueError::Malformed`] for an upload of the wrong length or of no valid key.
    pub fn register_finish(upload: &[u8]) -> Result<Bytes, OpaqueError> {
        let upload = exactly::<REGISTRATION_RECORD>(upload)?;
        let upload = RegistrationUpload::<Suite>::deserialize(upload).map_err(sort)?;
        Ok(Bytes::copy_from_slice(&ServerRegistration::finish(upload).serialize()))
    }

    /// First step of a login: the state to keep and `KE2`, 320 bytes. `record` is what
    /// [`Self::register_finish`] returned, `None` for an unknown user. `context` is
    /// [`opaque_context`](super::device::opaque_context) of the connection.
    ///
    /// # Errors
    /// [`OpaqueError::Malformed`] for a `KE1` of the wrong length or of no valid points, looked at before the
    /// record; [`OpaqueError::Record`] if the store is damaged.
    pub fn login_start(
        &self,
        record: Option<&[u8]>,
        username: &Username,
        server: ServerId,
        ke1: &[u8],
        context: &[u8],
        entropy: &mut Entropy,
    ) -> Result<(LoginState, Bytes), OpaqueError> {
        let names = identities(username, &server);
        let credential = username.as_str().as_bytes();
        self.login_start_with(&mut Rng(entropy), record, credential, names, ke1, context)
    }

    pub(super) fn login_start_with(
        &self,
        rng: &mut (impl RngCore + CryptoRng),
        record: Option<&[u8]>,
        credential: &[u8],
        identifiers: Identifiers<'_>,
        ke1: &[u8],
        context: &[u8],
    ) -> Result<(LoginState, Bytes), OpaqueError> {
        let ke1 = CredentialRequest::deserialize(exactly::<KE1>(ke1)?).map_err(sort)?;
        // The decoy costs the point decompression that a real record costs. What follows does the same for
        // `Some` and `None`: the library makes a fake record in either case.
        let known = record.is_some();
        let record = exactly::<REGISTRATION_RECORD>(record.unwrap_or(&self.decoy))
            .map_err(|_| OpaqueError::Record)?;
        let record =
            ServerRegistration::<Suite>::deserialize(record).map_err(|_| OpaqueError::Record)?;
        let start = ServerLogin::start(
            rng,
            &self.setup,
            known.then_some(record),
            ke1,
            credential,
            ServerLoginParameters { context: Some(context), identifiers },
        )
        .map_err(sort)?;
        let ke2 = Bytes::copy_from_slice(&start.message.serialize());
        Ok((LoginState { state: start.state }, ke2))
    }
}

impl fmt::Debug for OpaqueServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpaqueServer(…)")
    }
}

/// A login under way on the server: waits for the client's `KE3`. Good for one answer.
pub struct LoginState {
    state: ServerLogin<Suite>,
}

impl LoginState {
    /// Last step of a login: checks `KE3`, which only who knows the password could make.
    ///
    /// # Errors
    /// [`OpaqueError::Malformed`] for a `KE3` of the wrong length; [`OpaqueError::Credentials`] for any that is
    /// not the one, and always for an unknown user.
    pub fn finish(self, ke3: &[u8]) -> Result<SessionKey, OpaqueError> {
        let ke3 = CredentialFinalization::deserialize(exactly::<KE3>(ke3)?).map_err(sort)?;
        // The expected MAC was computed in the first step over context and identities: 3DH reads no parameters here.
        let mut finish = self.state.finish(ke3, ServerLoginParameters::default()).map_err(sort)?;
        Ok(SessionKey(take(finish.session_key.as_mut_slice())?))
    }
}

impl fmt::Debug for LoginState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoginState(…)")
    }
}
