//! The client's steps of OPAQUE (RFC 9807), and the account key sealed under what comes out.
//!
//! Each `start` is cheap; each `finish` stretches the password (tenths of a second) and belongs into a job.

use core::fmt;

use bytes::Bytes;
use opaque_ke::rand::{CryptoRng, RngCore};
use opaque_ke::{
    ClientLogin, ClientLoginFinishParameters, ClientRegistration,
    ClientRegistrationFinishParameters, CredentialResponse, Identifiers, RegistrationResponse,
};
use zeroize::{Zeroize as _, Zeroizing};

use super::opaque::{
    ExportKey, KE2, OpaqueError, REGISTRATION_RESPONSE, Rng, SessionKey, Stretch, Suite, exactly,
    identities, sort,
};
use crate::client::Stretching;
use crate::crypto::identity::AccountKey;
use crate::crypto::{Aead, Backend, CryptoError, kdf};
use crate::env::Entropy;
use crate::id::{AccountId, ServerId};
use crate::limits::PASSWORD_BYTES;
use crate::wire::message::Username;

/// A prepared password: PRECIS OpaqueString (RFC 8265 §4), 1 to [`PASSWORD_BYTES`] bytes, so that it is the same
/// bytes whatever keyboard it was typed on.
#[derive(Clone)]
pub struct Password(pub(super) Zeroizing<String>);

impl Password {
    /// Prepares and checks a password as a person typed it. `None`: empty, too long, or with characters that no
    /// password may have (control characters, unassigned ones).
    pub fn prepare(password: &str) -> Option<Self> {
        use precis_profiles::precis_core::profile::PrecisFastInvocation as _;
        // Preparation may make it longer, but not by much: do not even look at what is far too long.
        if password.len() > 4 * PASSWORD_BYTES {
            return None;
        }
        let password = precis_profiles::OpaqueString::enforce(password).ok()?;
        let password = Zeroizing::new(password.into_owned());
        let fits = !password.is_empty() && password.len() <= PASSWORD_BYTES;
        fits.then_some(Self(password))
    }

    fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// A registration under way: waits for the server's response.
pub struct Registration {
    state: ClientRegistration<Suite>,
    password: Password,
}

/// What a registration came to.
#[derive(Debug)]
pub struct Registered {
    /// `RegistrationRecord` for the server, 192 bytes.
    pub upload: Bytes,
    /// Seals the account key.
    pub export_key: ExportKey,
}

impl Registration {
    /// First step: the state to keep and the `RegistrationRequest`, 32 bytes.
    ///
    /// # Errors
    /// [`OpaqueError::Malformed`] if the password hashes to no group element: never seen.
    pub fn start(entropy: &mut Entropy, password: Password) -> Result<(Self, Bytes), OpaqueError> {
        Self::start_with(&mut Rng(entropy), password)
    }

    pub(super) fn start_with(
        rng: &mut (impl RngCore + CryptoRng),
        password: Password,
    ) -> Result<(Self, Bytes), OpaqueError> {
        let start = ClientRegistration::start(rng, password.as_bytes()).map_err(sort)?;
        let request = Bytes::copy_from_slice(&start.message.serialize());
        Ok((Self { state: start.state, password }, request))
    }

    /// Last step, slow: from the server's `RegistrationResponse` to the record that it will keep.
    ///
    /// # Errors
    /// [`OpaqueError::Malformed`] for a response of the wrong length, of no valid points, or that is our own
    /// request sent back; [`OpaqueError::Stretching`].
    pub fn finish(
        self,
        response: &[u8],
        username: &Username,
        server: ServerId,
        stretching: Stretching,
        entropy: &mut Entropy,
    ) -> Result<Registered, OpaqueError> {
        let names = identities(username, &server);
        self.finish_with(&mut Rng(entropy), response, names, &Stretch::Argon2id(stretching))
    }

    pub(super) fn finish_with(
        self,
        rng: &mut (impl RngCore + CryptoRng),
        response: &[u8],
        names: Identifiers<'_>,
        stretch: &Stretch,
    ) -> Result<Registered, OpaqueError> {
        let response = exactly::<REGISTRATION_RESPONSE>(response)?;
        let response = RegistrationResponse::deserialize(response).map_err(sort)?;
        let parameters = ClientRegistrationFinishParameters::new(names, Some(stretch));
        let mut finish =
            self.state.finish(rng, self.password.as_bytes(), response, parameters).map_err(sort)?;
        Ok(Registered {
            upload: Bytes::copy_from_slice(&finish.message.serialize()),
            export_key: ExportKey(take(finish.export_key.as_mut_slice())?),
        })
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registration(…)")
    }
}

/// A login under way: waits for the server's `KE2`.
pub struct Login {
    state: ClientLogin<Suite>,
    password: Password,
}

/// What a login came to.
#[derive(Debug)]
pub struct LoggedIn {
    /// `KE3` for the server, 64 bytes.
    pub ke3: Bytes,
    /// Opens the account key.
    pub export_key: ExportKey,
    /// The same on both sides.
    pub session_key: SessionKey,
}

impl Login {
    /// First step: the state to keep and `KE1`, 96 bytes.
    ///
    /// # Errors
    /// [`OpaqueError::Malformed`] if the password hashes to no group element: never seen.
    pub fn start(entropy: &mut Entropy, password: Password) -> Result<(Self, Bytes), OpaqueError> {
        Self::start_with(&mut Rng(entropy), password)
    }

    pub(super) fn start_with(
        rng: &mut (impl RngCore + CryptoRng),
        password: Password,
    ) -> Result<(Self, Bytes), OpaqueError> {
        let start = ClientLogin::start(rng, password.as_bytes()).map_err(sort)?;
        let ke1 = Bytes::copy_from_slice(&start.message.serialize());
        Ok((Self { state: start.state, password }, ke1))
    }

    /// Last step, slow: checks the server's `KE2` and answers it. `context` is
    /// [`opaque_context`](super::device::opaque_context) of this connection.
    ///
    /// # Errors
    /// [`OpaqueError::Credentials`] for a wrong password, an unknown user, another server, connection or username;
    /// [`OpaqueError::Malformed`] for a `KE2` of the wrong length or of no valid points;
    /// [`OpaqueError::Stretching`].
    pub fn finish(
        self,
        ke2: &[u8],
        username: &Username,
        server: ServerId,
        context: &[u8],
        stretching: Stretching,
    ) -> Result<LoggedIn, OpaqueError> {
        let names = identities(username, &server);
        self.finish_with(ke2, names, context, &Stretch::Argon2id(stretching))
    }

    pub(super) fn finish_with(
        self,
        ke2: &[u8],
        names: Identifiers<'_>,
        context: &[u8],
        stretch: &Stretch,
    ) -> Result<LoggedIn, OpaqueError> {
        let ke2 = CredentialResponse::deserialize(exactly::<KE2>(ke2)?).map_err(sort)?;
        let parameters = ClientLoginFinishParameters::new(Some(context), names, Some(stretch));
        // 3DH draws nothing in its last step; the type asks for a generator all the same.
        let mut unused = Entropy::from_seed([0; 32]);
        let mut finish = self
            .state
            .finish(&mut Rng(&mut unused), self.password.as_bytes(), ke2, parameters)
            .map_err(sort)?;
        Ok(LoggedIn {
            ke3: Bytes::copy_from_slice(&finish.message.serialize()),
            export_key: ExportKey(take(finish.export_key.as_mut_slice())?),
            session_key: SessionKey(take(finish.session_key.as_mut_slice())?),
        })
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

/// Moves a secret out of the library's plain array and erases it there.
pub(super) fn take(from: &mut [u8]) -> Result<Zeroizing<[u8; 64]>, OpaqueError> {
    let mut secret = Zeroizing::new([0; 64]);
    let fits = from.len() == secret.len();
    if fits {
        secret.copy_from_slice(from);
    }
    from.zeroize();
    fits.then_some(secret).ok_or(OpaqueError::Malformed)
}

const SEAL_DOMAIN: &[u8] = b"qpc-account-key-v1";
const SEAL_VERSION: u8 = 1;

/// Seals the account key under OPAQUE's export key: version (1) || ChaCha20-Poly1305 of the seed (32 + 16), 49
/// bytes; `"qpc-account-key-v1" || version || account id` is authenticated.
///
/// The sealing key is `HKDF-SHA256(export key, "qpc-account-key-v1" || account id)`. The account id fixes the only
/// plaintext there is for it, so the key never meets a second one and the nonce is zero.
///
/// # Errors
/// None with a backend that keeps its contract.
pub fn seal_account_key(
    backend: Backend,
    export_key: &ExportKey,
    key: &AccountKey,
) -> Result<Bytes, CryptoError> {
    let account = key.account();
    let sealed = backend.aead_seal(
        Aead::ChaCha20Poly1305,
        &*sealing_key(backend, export_key, account)?,
        &[0; 12],
        &sealing_aad(account),
        key.seed(),
    )?;
    Ok([[SEAL_VERSION].as_slice(), &sealed].concat().into())
}

/// Opens what [`seal_account_key`] sealed, and checks that it is the key of that account: the server, which
/// says which account it is, cannot hand out another.
///
/// # Errors
/// Another export key, another account, another version, or tampered bytes.
pub fn open_account_key(
    backend: Backend,
    export_key: &ExportKey,
    account: AccountId,
    sealed: &[u8],
) -> Result<AccountKey, CryptoError> {
    let Some((&SEAL_VERSION, sealed)) = sealed.split_first() else { return Err(CryptoError) };
    let seed = backend.aead_open(
        Aead::ChaCha20Poly1305,
        &*sealing_key(backend, export_key, account)?,
        &[0; 12],
        &sealing_aad(account),
        sealed,
    )?;
    let mut exact = Zeroizing::new([0; 32]);
    if seed.len() != exact.len() {
        return Err(CryptoError);
    }
    exact.copy_from_slice(&seed);
    let key = AccountKey::from_seed(backend, exact);
    if key.account() == account { Ok(key) } else { Err(CryptoError) }
}

fn sealing_key(
    backend: Backend,
    export_key: &ExportKey,
    account: AccountId,
) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
    let mut key = Zeroizing::new([0; 32]);
    let prk = kdf::extract(backend, &[], &[&*export_key.0]);
    kdf::expand(backend, &*prk, &[SEAL_DOMAIN, &account.0], &mut *key)?;
    Ok(key)
}

fn sealing_aad(account: AccountId) -> Vec<u8> {
    [SEAL_DOMAIN, &[SEAL_VERSION], &account.0].concat()
}
