//! MLS groups (RFC 9420). OpenMLS stays in here: what goes in and comes out is ours.
//!
//! * [`Group`](group::Group): a group as a member sees it, over its own records;
//! * [`PublicState`](public::PublicState): a group as the server sees it;
//! * [`KeyPackages`](key_package::KeyPackages): the private halves of a device's key packages;
//! * [`Provider`] with its [`Overlay`] of records and [`LeafSigner`]: our OpenMLS provider, usable with plain OpenMLS;
//!   [`provider`] opens with an example.
//!
//! All state is a map of records in memory; every change is also noted in a write set that the machine takes and
//! puts into its batch. After an error the write set is discarded and the group read again from its records.

mod ahead;
mod apply;
pub mod commit;
mod crypto;
pub mod data;
mod device;
pub mod group;
mod hashes;
mod join;
pub mod key_package;
pub mod overlay;
mod parallel;
mod path;
pub mod provider;
pub mod public;
pub mod rejoin;
mod rules;
mod signer;
pub mod suite;
pub mod taken;
#[cfg(test)]
mod tests;
mod verified;
mod welcome;

use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn};
use thiserror::Error;

pub use self::crypto::Crypto;
pub use self::overlay::Overlay;
pub use self::provider::Provider;
pub use self::signer::LeafSigner;
use crate::crypto::Backend;
use crate::env::{Entropy, UnixMillis};

/// What every operation needs from outside: primitives, randomness for this operation alone, the calendar.
#[derive(Debug)]
pub struct Context<'a> {
    /// Primitives.
    pub backend: Backend,
    /// Fresh randomness.
    pub entropy: &'a mut Entropy,
    /// The calendar.
    pub wall: UnixMillis,
}

/// Why something of MLS did not go through. Never carries secrets.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MlsError {
    /// Bytes that are no MLS message of the expected kind, or break a rule of MLS; the text says which.
    #[error("not acceptable: {0}")]
    Invalid(String),
    /// A suite that is not allowed.
    #[error("cipher suite not allowed")]
    Suite,
    /// A leaf that cannot do all that the groups need.
    #[error("leaf lacks capabilities")]
    Capabilities,
    /// A leaf's device record is missing, wrongly signed, or contradicts the leaf's key.
    #[error("device record does not hold")]
    Record,
    /// A key package past its signed expiry, or with none.
    #[error("key package expired")]
    Expired,
    /// A message of a later epoch: its commit has not been processed yet.
    #[error("message from a later epoch")]
    FutureEpoch,
    /// A message of an epoch whose keys are gone.
    #[error("message from an epoch too long ago")]
    PastEpoch,
    /// A message of another group or generation.
    #[error("message of another group")]
    WrongGroup,
    /// A change that whoever proposes it may not make; the text says why.
    #[error("not allowed: {0}")]
    NotAllowed(&'static str),
    /// A ciphertext that does not open under this epoch's keys, or was opened before.
    #[error("message does not decrypt")]
    Decrypt,
    /// A ciphertext or a commit of this device itself: whoever made it is to remember it.
    #[error("a message of this device itself")]
    OwnMessage,
    /// A commit that a member signed for this epoch and that holds as far as all can see, but its secrets do not open
    /// here: either they open for nobody, or this device's state is not what it should be.
    #[error("a member's commit that does not open here: {0}")]
    Unopened(String),
    /// This device is no member any more.
    #[error("no longer a member")]
    NotMember,
    /// A commit without a queued proposal that has to be in it.
    #[error("a queued proposal is left out")]
    LeftOut,
    /// A change after which nobody could add, remove, or change roles.
    #[error("a group keeps an admin: the last one names another before it goes")]
    NoAdmin,
    /// There is a pending commit, or there is none, against expectation.
    #[error("pending commit: {0}")]
    Pending(&'static str),
    /// The welcome is for none of our key packages.
    #[error("welcome for another device")]
    NotForUs,
    /// Stored state does not load.
    #[error("stored group state is damaged: {0}")]
    Damaged(String),
    /// OpenMLS failed where it must not.
    #[error("internal: {0}")]
    Internal(String),
}

/// Reads an MLSMessage to its last byte.
fn parse(message: &[u8]) -> Result<MlsMessageBodyIn, MlsError> {
    let message = <MlsMessageIn as tls_codec::Deserialize>::tls_deserialize_exact(message)
        .map_err(|error| MlsError::Invalid(error.to_string()))?;
    Ok(message.extract())
}

fn encode(value: &impl tls_codec::Serialize) -> Result<Vec<u8>, MlsError> {
    value.tls_serialize_detached().map_err(|error| MlsError::Internal(error.to_string()))
}
