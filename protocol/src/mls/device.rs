//! This device, as its groups know it.

use core::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

use super::MlsError;
use super::signer::LeafSigner;
use crate::crypto::Backend;
use crate::crypto::identity::{DeviceKey, DeviceRecord};

/// This device, as its groups know it: the key that signs and the record that its leaves carry. That they belong
/// together is found out once, for all clones: not again before one of them is changed.
#[derive(Clone, Debug)]
pub struct LocalDevice(Arc<Parts>);

/// What a [`LocalDevice`] is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Signs.
    pub key: DeviceKey,
    /// Goes into every leaf.
    pub record: DeviceRecord,
    holds: OnceLock<bool>,
}

impl LocalDevice {
    /// A device with this key and this record, which are compared when they are first used.
    pub fn new(key: DeviceKey, record: DeviceRecord) -> Self {
        Self(Arc::new(Parts { key, record, holds: OnceLock::new() }))
    }

    pub(super) fn signer(&self, backend: Backend) -> LeafSigner<'_> {
        LeafSigner::new(backend, &self.key)
    }

    /// The key and the record must belong together, or every member would refuse the leaf. All backends find the same.
    pub(super) fn check(&self, backend: Backend) -> Result<(), MlsError> {
        let belong =
            || self.record.device_key == self.key.public() && self.record.verify(backend).is_ok();
        if *self.0.holds.get_or_init(belong) { Ok(()) } else { Err(MlsError::Record) }
    }
}

impl Deref for LocalDevice {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl DerefMut for LocalDevice {
    fn deref_mut(&mut self) -> &mut Parts {
        let parts = Arc::make_mut(&mut self.0);
        parts.holds = OnceLock::new();
        parts
    }
}
