//! What both sides of OPAQUE (RFC 9807) share: the suite, key stretching, lengths, secrets, errors.
//!
//! OPRF(ristretto255, SHA-512), 3DH over ristretto255, HKDF-SHA-512, HMAC-SHA-512, Argon2id. The credential
//! identifier and the client identity are the prepared username, the server identity is the server's id, so
//! that a record made for one name or server opens nothing under another.

use core::fmt;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use opaque_ke::errors::{InternalError, ProtocolError};
use opaque_ke::generic_array::{ArrayLength, GenericArray};
use opaque_ke::rand::{CryptoRng, Error as RandError, RngCore};
use opaque_ke::{CipherSuite, Identifiers, Ristretto255, TripleDh};
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

use crate::client::Stretching;
use crate::env::Entropy;
use crate::id::ServerId;
use crate::wire::message::Username;

/// Length of a `RegistrationRequest` in bytes.
pub const REGISTRATION_REQUEST: usize = 32;
/// Length of a `RegistrationResponse` in bytes.
pub const REGISTRATION_RESPONSE: usize = 64;
/// Length of a `RegistrationRecord` in bytes, as uploaded and as stored.
pub const REGISTRATION_RECORD: usize = 192;
/// Length of `KE1` in bytes.
pub const KE1: usize = 96;
/// Length of `KE2` in bytes.
pub const KE2: usize = 320;
/// Length of `KE3` in bytes.
pub const KE3: usize = 64;

/// Why a step of OPAQUE failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpaqueError {
    /// A message of the other side has the wrong length, or holds no valid group element.
    #[error("malformed OPAQUE message")]
    Malformed,
    /// Unknown user, wrong password, or another username, server or connection on the other side. Which of
    /// them, nobody can tell.
    #[error("unknown username or wrong password")]
    Credentials,
    /// Argon2id refuses its parameters, or there is no memory for them.
    #[error("key stretching failed: bad parameters or no memory")]
    Stretching,
    /// The stored record is damaged (server only).
    #[error("the stored OPAQUE record is damaged")]
    Record,
}

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(pub Zeroizing<[u8; 64]>);

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                use subtle::ConstantTimeEq as _;
                self.0.ct_eq(&*other.0).into()
            }
        }

        impl Eq for $name {}

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    };
}

secret!(
    /// OPAQUE's export key: the same at registration and at every login with the right password, never known
    /// to the server. Opens the sealed account key.
    ExportKey
);
secret!(
    /// OPAQUE's session key: the same on both sides of one login.
    SessionKey
);

/// The suite.
pub(super) struct Suite;

impl CipherSuite for Suite {
    type OprfCs = Ristretto255;
    type KeyExchange = TripleDh<Ristretto255, sha2_opaque::Sha512>;
    type Ksf = Stretch;
}

/// Key stretching with the cost that the configuration asks for.
#[derive(Default)]
pub(super) enum Stretch {
    /// Nothing but the type's contract needs a default; no step uses it.
    #[default]
    Unset,
    /// RFC 9807 §7: Argon2id, 16 zero bytes of salt (the input is unique by itself), 64 bytes of output.
    Argon2id(Stretching),
    /// None: for the RFC's test vectors.
    #[cfg(test)]
    Identity,
}

impl opaque_ke::ksf::Ksf for Stretch {
    fn hash<L: ArrayLength<u8>>(
        &self,
        input: GenericArray<u8, L>,
    ) -> Result<GenericArray<u8, L>, InternalError> {
        let cost = match self {
            Self::Unset => return Err(InternalError::KsfError),
            Self::Argon2id(cost) => cost,
            #[cfg(test)]
            Self::Identity => return Ok(input),
        };
        let mut output = GenericArray::default();
        argon2id(cost, &input, &mut output).ok_or(InternalError::KsfError)?;
        Ok(output)
    }
}

/// Argon2id over memory that is asked for politely and erased afterwards.
fn argon2id(cost: &Stretching, input: &[u8], output: &mut [u8]) -> Option<()> {
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(output.len())).ok()?;
    let mut memory = Vec::new();
    memory.try_reserve_exact(params.block_count()).ok()?;
    memory.resize(params.block_count(), Block::new());
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let result = argon2.hash_password_into_with_memory(input, &[0; 16], output, &mut memory);
    memory.iter_mut().for_each(|block| block.zeroize());
    result.ok()
}

/// Our entropy as the generation of `rand` that `opaque-ke` speaks.
pub(super) struct Rng<'a>(pub(super) &'a mut Entropy);

impl RngCore for Rng<'_> {
    fn next_u32(&mut self) -> u32 {
        u32::from_le_bytes(self.0.array())
    }

    fn next_u64(&mut self) -> u64 {
        self.0.u64()
    }

    fn fill_bytes(&mut self, out: &mut [u8]) {
        self.0.fill(out);
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), RandError> {
        self.0.fill(out);
        Ok(())
    }
}

impl CryptoRng for Rng<'_> {}

/// The identities that both sides put under the envelope and the handshake.
pub(super) fn identities<'a>(username: &'a Username, server: &'a ServerId) -> Identifiers<'a> {
    Identifiers { client: Some(username.as_str().as_bytes()), server: Some(&server.0) }
}

/// The bytes, if there are exactly that many: `opaque-ke` would read over trailing ones.
pub(super) fn exactly<const N: usize>(bytes: &[u8]) -> Result<&[u8; N], OpaqueError> {
    bytes.try_into().map_err(|_| OpaqueError::Malformed)
}

/// Sorts the library's errors by what they mean to the caller.
pub(super) fn sort(error: ProtocolError) -> OpaqueError {
    match error {
        ProtocolError::InvalidLoginError => OpaqueError::Credentials,
        ProtocolError::LibraryError(InternalError::KsfError) => OpaqueError::Stretching,
        _ => OpaqueError::Malformed,
    }
}
