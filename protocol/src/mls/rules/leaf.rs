//! What a leaf, a key package and a group's context have to be.

use openmls::prelude::{
    Capabilities, Ciphersuite, CredentialType, Extension, ExtensionType, Extensions, GroupContext,
    KeyPackage, LeafNode, ProposalType, ProtocolVersion, RequiredCapabilitiesExtension,
    UnknownExtension,
};
use openmls::treesync::LeafNodeSource;

use super::Added;
use crate::crypto::Backend;
use crate::crypto::hpke::{self, Kem};
use crate::crypto::identity::DeviceRecord;
use crate::env::UnixMillis;
use crate::mls::data::GroupData;
use crate::mls::public::outside::Reader;
use crate::mls::suite::Suite;
use crate::mls::{MlsError, encode};

/// Key package extension with the signed end of its life: milliseconds since 1970, 8 bytes, big endian.
pub(in crate::mls) const EXPIRY_EXTENSION: u16 = 0xF0A1;

const EXTENSIONS: [ExtensionType; 3] = [
    ExtensionType::Unknown(EXPIRY_EXTENSION),
    ExtensionType::Unknown(GroupData::EXTENSION),
    ExtensionType::LastResort,
];
const PROPOSALS: [ProposalType; 1] = [ProposalType::SelfRemove];
const CREDENTIALS: [CredentialType; 1] = [CredentialType::Basic];

pub(in crate::mls) fn invalid(why: &str) -> MlsError {
    MlsError::Invalid(why.to_owned())
}

impl Suite {
    /// OpenMLS's name of it.
    pub fn ciphersuite(self) -> Ciphersuite {
        match self {
            Self::Classical => Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
            Self::Hybrid => Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519,
        }
    }

    pub(in crate::mls) fn kem(self) -> Kem {
        match self {
            Self::Classical => Kem::X25519,
            Self::Hybrid => Kem::XWing,
        }
    }
}

/// The capabilities of every leaf of ours, from the first day on, so that groups can grow later.
pub(in crate::mls) fn capabilities() -> Capabilities {
    Capabilities::builder()
        .ciphersuites(Suite::ALL.map(Suite::ciphersuite).to_vec())
        .extensions(EXTENSIONS.to_vec())
        .proposals(PROPOSALS.to_vec())
        .credentials(CREDENTIALS.to_vec())
        .build()
}

/// What every group requires of its leaves, from its first epoch on.
pub(in crate::mls) fn required_capabilities() -> RequiredCapabilitiesExtension {
    RequiredCapabilitiesExtension::new(&EXTENSIONS, &PROPOSALS, &CREDENTIALS)
}

/// The extensions of a GroupContext.
pub(in crate::mls) fn context_extensions(
    data: &GroupData,
) -> Result<Extensions<GroupContext>, MlsError> {
    Extensions::from_vec(vec![
        Extension::RequiredCapabilities(required_capabilities()),
        Extension::Unknown(GroupData::EXTENSION, UnknownExtension(data.encode())),
    ])
    .map_err(|error| MlsError::Internal(error.to_string()))
}

/// The group data of a GroupContext that holds: the required capabilities as they have to be, the data sound,
/// nothing else.
pub(in crate::mls) fn check_context(
    extensions: &Extensions<GroupContext>,
) -> Result<GroupData, MlsError> {
    let required = extensions.required_capabilities();
    if required != Some(&required_capabilities()) || extensions.iter().count() != 2 {
        return Err(invalid("group context extensions are not as they have to be"));
    }
    extensions
        .unknown(GroupData::EXTENSION)
        .and_then(|data| GroupData::decode(&data.0))
        .ok_or_else(|| invalid("no sound group data"))
}

/// The device record in a leaf's credential, not verified.
pub(in crate::mls) fn record_in(leaf: &LeafNode) -> Result<DeviceRecord, MlsError> {
    let credential = leaf.credential();
    if credential.credential_type() != CredentialType::Basic {
        return Err(MlsError::Record);
    }
    DeviceRecord::decode(credential.serialized_content()).ok_or(MlsError::Record)
}

/// Checks a key that others are to encrypt to. One that nobody can encrypt to would fail every later commit whose path
/// leads to it: the group would stand still. OpenMLS does not look (RFC 9420 §7.2 leaves it to the KEM).
pub(in crate::mls) fn check_key(suite: Suite, key: &[u8]) -> Result<(), MlsError> {
    hpke::check_public_key(suite.kem(), key)
        .map_err(|_| invalid("a public key that nobody can encrypt to"))
}

/// The same for the key that comes first in an encoded leaf, parent or EncryptionKey.
pub(in crate::mls) fn check_first_key(
    suite: Suite,
    node: &impl tls_codec::Serialize,
) -> Result<(), MlsError> {
    check_key(suite, Reader::new(&encode(node)?).vector().unwrap_or_default())
}

/// Checks a leaf: its record signed by the account key and naming the leaf's own key, its capabilities all that
/// ours are, its encryption key one that can be encrypted to. What MLS itself demands of a leaf is OpenMLS's to check.
pub(in crate::mls) fn check_leaf(
    backend: Backend,
    suite: Suite,
    leaf: &LeafNode,
) -> Result<DeviceRecord, MlsError> {
    check_next_leaf(backend, suite, leaf, None)
}

/// The same for a leaf in the place of one whose record was verified when it came in. That very record, signature and
/// all, is not verified again.
pub(in crate::mls) fn check_next_leaf(
    backend: Backend,
    suite: Suite,
    leaf: &LeafNode,
    verified: Option<&DeviceRecord>,
) -> Result<DeviceRecord, MlsError> {
    let record = record_in(leaf)?;
    if leaf.signature_key().as_slice() != record.device_key {
        return Err(MlsError::Record);
    }
    if verified != Some(&record) {
        record.verify(backend).map_err(|_| MlsError::Record)?;
    }
    let has = leaf.capabilities();
    let suites = Suite::ALL.map(|suite| suite.ciphersuite().into());
    let able = has.versions().contains(&ProtocolVersion::Mls10)
        && suites.iter().all(|suite| has.ciphersuites().contains(suite))
        && EXTENSIONS.iter().all(|extension| has.extensions().contains(extension))
        && PROPOSALS.iter().all(|proposal| has.proposals().contains(proposal))
        && CREDENTIALS.iter().all(|credential| has.credentials().contains(credential));
    if !able {
        return Err(MlsError::Capabilities);
    }
    // RFC 9420 §7.2: only leaves from key packages have a lifetime. Ours is unlimited, so that no clock decides
    // whether a commit holds; the true end is in the key package's extension.
    if let LeafNodeSource::KeyPackage(lifetime) = leaf.leaf_node_source()
        && (lifetime.not_before() != 0 || lifetime.not_after() != u64::MAX)
    {
        return Err(invalid("leaf with a limited lifetime"));
    }
    check_first_key(suite, leaf.encryption_key())?;
    Ok(record)
}

/// Checks the key package of an Add: its leaf, its init key, that it has an end.
pub(super) fn check_package(
    backend: Backend,
    suite: Suite,
    package: &KeyPackage,
) -> Result<Added, MlsError> {
    let record = check_leaf(backend, suite, package.leaf_node())?;
    check_key(suite, package.hpke_init_key().as_slice())?;
    Ok(Added { record, expires: expiry(package)? })
}

/// The signed end of a key package's life.
pub(in crate::mls) fn expiry(package: &KeyPackage) -> Result<UnixMillis, MlsError> {
    let extension = package.extensions().unknown(EXPIRY_EXTENSION).ok_or(MlsError::Expired)?;
    let end = extension.0.as_slice().try_into().map_err(|_| MlsError::Expired)?;
    Ok(UnixMillis(u64::from_be_bytes(end)))
}
