//! Key packages: made by a device, checked by everyone who uses them.

use super::group::LocalDevice;
use super::suite::Suite;
use super::{Context, MlsError};
use crate::crypto::Backend;
use crate::crypto::identity::DeviceRecord;
use crate::env::UnixMillis;
use crate::id::Digest;
use crate::store::batch::{Op, Records};

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
}

/// Checks a key package at this time of the calendar.
#[expect(clippy::todo, unused_variables, reason = "skeleton")]
pub fn check(
    backend: Backend,
    package: &[u8],
    wall: UnixMillis,
) -> Result<CheckedKeyPackage, MlsError> {
    todo!()
}

/// The private halves of this device's key packages, over their records.
#[derive(Debug)]
pub struct KeyPackages {
    _private: (),
}

#[expect(clippy::todo, unused_variables, reason = "skeleton")]
impl KeyPackages {
    /// Reads them from their records.
    pub fn restore(backend: Backend, records: Records) -> Result<Self, MlsError> {
        todo!()
    }

    /// A fresh key package as an MLSMessage.
    pub fn generate(
        &mut self,
        cx: Context<'_>,
        device: &LocalDevice,
        suite: Suite,
        last_resort: bool,
    ) -> Result<Vec<u8>, MlsError> {
        todo!()
    }

    /// Deletes private keys that nobody can need any more: of packages expired for longer than the life of a log
    /// entry, and of last-resort ones superseded for [`LAST_RESORT_GRACE`](crate::limits::LAST_RESORT_GRACE).
    pub fn sweep(&mut self, wall: UnixMillis) {
        todo!()
    }

    /// The changes since the last call.
    pub fn take_ops(&mut self) -> Vec<Op> {
        todo!()
    }
}
