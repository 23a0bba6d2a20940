//! Key packages: made by a device, checked by everyone who uses them.
//!
//! MLS's own lifetime of them is unlimited, because every member that processes an Add would compare it with the
//! clock of its operating system, even one that was away for long. The true end is signed inside, in extension
//! 0xF0A1, and compared with the calendar that the machine is given.

use core::fmt;
use core::time::Duration;

use openmls::prelude::{
    Extension, Extensions, KeyPackage, KeyPackageBundle, KeyPackageRef, Lifetime, MlsMessageBodyIn,
    MlsMessageOut, ProtocolVersion, UnknownExtension,
};
use openmls_traits::storage::StorageProvider as _;
use serde::{Deserialize, Serialize};

use super::group::{Group, LocalDevice};
use super::overlay::Overlay;
use super::rules::{self, invalid};
use super::suite::Suite;
use super::taken::PackageKeys;
use super::{Context, Crypto, MlsError, Provider, encode, parse, signer};
use crate::crypto::Backend;
use crate::crypto::identity::DeviceRecord;
use crate::env::UnixMillis;
use crate::id::Digest;
use crate::limits;
use crate::store::batch::{Op, Records};
use crate::store::record;

/// A key package that holds: well-formed, signed, of a verified device, of an allowed suite, with our
/// capabilities, not expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedKeyPackage {
    /// Whose.
    pub record: DeviceRecord,
    /// Its suite.
    pub suite: Suite,
    /// Its end, from extension 0xF0A1.
    pub expires: UnixMillis,
    /// SHA-256 of the MLSMessage.
    pub hash: Digest,
    /// Whether it is marked last-resort.
    pub last_resort: bool,
    /// Its public keys.
    pub keys: PackageKeys,
}

/// Checks a key package at this time of the calendar.
///
/// Errors: [`MlsError::Suite`]; [`MlsError::Record`]; [`MlsError::Capabilities`]; [`MlsError::Expired`] for one that is
/// past its end, has none, or whose end is further away than it may be; else [`MlsError::Invalid`].
pub fn check(
    backend: Backend,
    package: &[u8],
    wall: UnixMillis,
) -> Result<CheckedKeyPackage, MlsError> {
    let valid = validate(&Crypto::verifier(backend), package)?;
    let suite = Suite::from_number(u16::from(valid.ciphersuite())).ok_or(MlsError::Suite)?;
    let (record, expires) = check_present(backend, suite, &valid, wall)?;
    let (hash, last_resort) = (Digest::of(&[package]), valid.last_resort());
    let keys = PackageKeys::of(&valid)?;
    Ok(CheckedKeyPackage { record, suite, expires, hash, last_resort, keys })
}

/// What we demand beyond that: whose a valid key package is, and its end. Errors: as [`check`].
pub(super) fn check_present(
    backend: Backend,
    suite: Suite,
    valid: &KeyPackage,
    wall: UnixMillis,
) -> Result<(DeviceRecord, UnixMillis), MlsError> {
    let record = rules::check_leaf(backend, suite, valid.leaf_node())?;
    let last_resort = valid.last_resort();
    let extensions = 1 + usize::from(last_resort);
    if valid.extensions().iter().count() > extensions
        || valid.leaf_node().extensions().iter().count() > 0
    {
        return Err(invalid("key package with unknown extensions"));
    }
    let expires = rules::expiry(valid)?;
    if expires <= wall || expires > latest_end(last_resort, wall) {
        return Err(MlsError::Expired);
    }
    Ok((record, expires))
}

/// What MLS itself demands of a key package (RFC 9420 §10.1), and that its keys can be encrypted to.
pub(super) fn validate(crypto: &Crypto, package: &[u8]) -> Result<KeyPackage, MlsError> {
    if package.len() > limits::KEY_PACKAGE_BYTES {
        return Err(invalid("key package too long"));
    }
    // MLSMessage: version, wire format; KeyPackage: version, cipher suite; each two bytes (RFC 9420 §6, §10). A suite
    // that OpenMLS does not know would look malformed otherwise.
    if let [0, 1, 0, 5, _, _, high, low, ..] = package {
        Suite::from_number(u16::from_be_bytes([*high, *low])).ok_or(MlsError::Suite)?;
    }
    let MlsMessageBodyIn::KeyPackage(package) = parse(package)? else {
        return Err(invalid("not a key package"));
    };
    let package = package
        .validate(crypto, ProtocolVersion::Mls10)
        .map_err(|error| MlsError::Invalid(error.to_string()))?;
    let suite = Suite::from_number(u16::from(package.ciphersuite())).ok_or(MlsError::Suite)?;
    rules::check_key(suite, package.hpke_init_key().as_slice())?;
    rules::check_first_key(suite, package.leaf_node().encryption_key())?;
    Ok(package)
}

/// The furthest end that a key package may have at this time of the calendar. One that ends later was made by a clock
/// that is ahead: nobody takes it before its time.
pub fn latest_end(last_resort: bool, wall: UnixMillis) -> UnixMillis {
    wall.plus(life(last_resort)).plus(limits::CLOCK_SKEW)
}

fn life(last_resort: bool) -> Duration {
    if last_resort { limits::LAST_RESORT_TIME } else { limits::KEY_PACKAGE_TIME }
}

/// The private halves of this device's key packages, over their records.
pub struct KeyPackages {
    pub(super) overlay: Overlay,
}

/// What is known of a key package whose private keys are here; stored under `P || reference`.
#[derive(Serialize, Deserialize)]
struct Entry {
    reference: KeyPackageRef,
    suite: Suite,
    expires: UnixMillis,
    last_resort: bool,
    /// When another last-resort package took its place.
    superseded: Option<UnixMillis>,
}

const ENTRY: &[u8] = b"P";

impl Entry {
    /// Until then its private keys may be needed: a welcome by it may be on its way for as long as a log entry lives,
    /// and after another took its place for [`LAST_RESORT_GRACE`](limits::LAST_RESORT_GRACE).
    fn end(&self) -> UnixMillis {
        let end = self.expires.plus(limits::ENTRY_TIME);
        self.superseded.map_or(end, |at| end.min(at.plus(limits::LAST_RESORT_GRACE)))
    }
}

impl KeyPackages {
    /// Reads them from their records. Error: [`MlsError::Damaged`].
    pub fn restore(records: Records) -> Result<Self, MlsError> {
        let packages = Self { overlay: Overlay::new(records) };
        packages.entries()?;
        Ok(packages)
    }

    /// None at all.
    pub fn empty() -> Self {
        Self { overlay: Overlay::new(Records::new()) }
    }

    /// A fresh key package as an MLSMessage. It lives for [`limits::KEY_PACKAGE_TIME`], a last-resort one for
    /// [`limits::LAST_RESORT_TIME`]; a last-resort one supersedes those of its suite.
    ///
    /// Errors: [`MlsError::Record`] if the device's record does not hold; [`MlsError::Internal`].
    pub fn generate(
        &mut self,
        cx: Context<'_>,
        device: &LocalDevice,
        suite: Suite,
        last_resort: bool,
    ) -> Result<Vec<u8>, MlsError> {
        device.check(cx.backend)?;
        let made = self.generate_in_step(cx, device, suite, last_resort);
        match made {
            Ok(_) => self.overlay.settle(),
            Err(_) => self.overlay.revert(),
        }
        made
    }

    fn generate_in_step(
        &mut self,
        cx: Context<'_>,
        device: &LocalDevice,
        suite: Suite,
        last_resort: bool,
    ) -> Result<Vec<u8>, MlsError> {
        let internal = |error: &dyn fmt::Display| MlsError::Internal(error.to_string());
        let expires = cx.wall.plus(life(last_resort));
        let end = UnknownExtension(expires.0.to_be_bytes().to_vec());
        let extensions =
            Extensions::from_vec(vec![Extension::Unknown(rules::EXPIRY_EXTENSION, end)])
                .map_err(|error| internal(&error))?;
        let mut builder = KeyPackage::builder()
            .key_package_lifetime(Lifetime::init(0, u64::MAX))
            .leaf_node_capabilities(rules::capabilities())
            .key_package_extensions(extensions);
        if last_resort {
            builder = builder.mark_as_last_resort();
            self.supersede(suite, cx.wall)?;
        }
        let provider = Provider::new(cx.backend, cx.entropy, &self.overlay);
        let bundle = builder
            .build(
                suite.ciphersuite(),
                &provider,
                &device.signer(cx.backend),
                signer::credential(&device.record),
            )
            .map_err(|error| internal(&error))?;
        let package = bundle.key_package();
        let reference = reference(package, cx.backend)?;
        let entry =
            Entry { reference: reference.clone(), suite, expires, last_resort, superseded: None };
        self.overlay.put_raw(&entry_key(&reference), record::encode(&entry));
        MlsMessageOut::from(package.clone()).to_bytes().map_err(|error| internal(&error))
    }

    /// Deletes private keys that nobody can need any more: of packages expired for longer than the life of a log entry,
    /// and of last-resort ones superseded for [`LAST_RESORT_GRACE`](crate::limits::LAST_RESORT_GRACE). Of all other
    /// ordinary ones the [`KEY_PACKAGES_KEPT`](crate::limits::KEY_PACKAGES_KEPT) that end last are kept, of all other
    /// superseded ones the [`LAST_RESORTS_KEPT`](crate::limits::LAST_RESORTS_KEPT) that were superseded last.
    pub fn sweep(&mut self, wall: UnixMillis) {
        let (mut ordinary, mut spares) = (Vec::new(), Vec::new());
        for (_, entry) in self.entries().unwrap_or_default() {
            if entry.end() < wall {
                self.remove(&entry.reference);
            } else if !entry.last_resort {
                ordinary.push((entry.expires, entry.reference));
            } else if let Some(at) = entry.superseded {
                spares.push((at, entry.reference));
            }
        }
        self.remove_above(limits::KEY_PACKAGES_KEPT, ordinary);
        self.remove_above(limits::LAST_RESORTS_KEPT, spares);
        self.overlay.settle();
    }

    /// When there is something for [`Self::sweep`] to delete; `None` if there is nothing at all.
    pub fn sweep_at(&self) -> Option<UnixMillis> {
        let entries = self.entries().unwrap_or_default().into_iter();
        let end = entries.map(|(_, entry)| entry.end()).min()?;
        Some(end.plus(Duration::from_millis(1)))
    }

    /// Removes all but the newest.
    fn remove_above(&self, most: usize, mut packages: Vec<(UnixMillis, KeyPackageRef)>) {
        packages.sort_by_key(|(at, _)| *at);
        let above = packages.len().saturating_sub(most);
        for (_, reference) in packages.iter().take(above) {
            self.remove(reference);
        }
    }

    /// The changes since the last call.
    pub fn take_ops(&mut self) -> Vec<Op> {
        self.overlay.take_ops()
    }

    /// Forgets a package that was used. OpenMLS deletes the private keys of an ordinary one itself.
    pub(super) fn used(&self, package: &KeyPackage, backend: Backend) -> Result<(), MlsError> {
        if !package.last_resort() {
            self.remove(&reference(package, backend)?);
        }
        Ok(())
    }

    /// Removes the ordinary package by which this device was added to a group that it comes back to from outside, if
    /// its private keys are here: the leaf that is replaced is the package's. A backup brings them back, and so does a
    /// welcome that was never read.
    pub fn forget_used(&mut self, group: &Group) {
        let Some(replaced) = &group.replaced else { return };
        let is_used = |entry: &Entry| {
            let bundle: Option<KeyPackageBundle> =
                self.overlay.key_package(&entry.reference).ok().flatten();
            let key =
                bundle.map(|bundle| encode(bundle.key_package().leaf_node().encryption_key()));
            !entry.last_resort && key.is_some_and(|key| key.as_ref() == Ok(replaced))
        };
        for (_, entry) in self.entries().unwrap_or_default() {
            if is_used(&entry) {
                self.remove(&entry.reference);
            }
        }
        self.overlay.settle();
    }

    fn remove(&self, reference: &KeyPackageRef) {
        self.overlay.delete_raw(&entry_key(reference));
        // It fails only for a key that postcard cannot encode; a byte string it can.
        let _ = self.overlay.delete_key_package(reference);
    }

    fn supersede(&self, suite: Suite, wall: UnixMillis) -> Result<(), MlsError> {
        for (key, mut entry) in self.entries()? {
            if entry.last_resort && entry.suite == suite && entry.superseded.is_none() {
                entry.superseded = Some(wall);
                self.overlay.put_raw(&key, record::encode(&entry));
            }
        }
        Ok(())
    }

    fn entries(&self) -> Result<Vec<(Vec<u8>, Entry)>, MlsError> {
        let keys = self.overlay.keys(ENTRY).into_iter();
        let entries = keys.filter_map(|key| {
            let value = self.overlay.get_raw(&key)?;
            let entry = record::decode(&key, &value);
            Some(entry.map(|entry| (key, entry)))
        });
        entries.collect::<Result<_, _>>().map_err(|error| MlsError::Damaged(error.to_string()))
    }
}

impl fmt::Debug for KeyPackages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPackages({})", self.overlay.keys(ENTRY).len())
    }
}

fn reference(package: &KeyPackage, backend: Backend) -> Result<KeyPackageRef, MlsError> {
    package
        .hash_ref(&Crypto::verifier(backend))
        .map_err(|error| MlsError::Internal(error.to_string()))
}

fn entry_key(reference: &KeyPackageRef) -> Vec<u8> {
    [ENTRY, reference.as_slice()].concat()
}
