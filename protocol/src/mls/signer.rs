//! A device's key and record in OpenMLS's terms.

use openmls::prelude::{BasicCredential, CredentialWithKey};
use openmls_traits::signatures::{Signer, SignerError};
use openmls_traits::types::SignatureScheme;

use crate::crypto::Backend;
use crate::crypto::identity::{DeviceKey, DeviceRecord};

/// Signs MLS content with a device key: OpenMLS's [`Signer`] for suites with Ed25519.
#[derive(Clone, Copy, Debug)]
pub struct LeafSigner<'a> {
    backend: Backend,
    key: &'a DeviceKey,
}

impl<'a> LeafSigner<'a> {
    /// A signer with this key.
    pub fn new(backend: Backend, key: &'a DeviceKey) -> Self {
        Self { backend, key }
    }
}

impl Signer for LeafSigner<'_> {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.key.sign(self.backend, payload).to_vec())
    }

    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// A leaf's credential: the signed device record.
pub(super) fn credential(record: &DeviceRecord) -> CredentialWithKey {
    CredentialWithKey {
        credential: BasicCredential::new(record.encode()).into(),
        signature_key: record.device_key.to_vec().into(),
    }
}
