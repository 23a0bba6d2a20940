//! Stateless resets (RFC 9000 §10.3): how a server that was killed tells its former connections that it knows nothing
//! of them any more, so that they come again at once instead of after their idle time.
//!
//! That takes a key that outlives the process. It is derived from the certificate's private key: a server that
//! proves the same identity resets the same connections.

use std::sync::Arc;

use qpc_protocol::crypto;
use quinn::EndpointConfig;
use quinn_proto::HashedConnectionIdGenerator;
use quinn_proto::crypto::{CryptoError, HmacKey};
use rustls::pki_types::PrivateKeyDer;
use zeroize::Zeroizing;

const DOMAIN: &[u8] = b"qpc-stateless-reset-v1";
const PLACE_DOMAIN: &[u8] = b"qpc-connection-id-v1";

/// The key of a server's stateless resets.
#[derive(Clone)]
pub(crate) struct ResetKey(Arc<Zeroizing<[u8; 32]>>);

impl ResetKey {
    /// The key that belongs to a certificate's private key.
    pub(crate) fn of(key: &PrivateKeyDer<'_>) -> Self {
        Self(Arc::new(crypto::fast().hmac_sha256(key.secret_der(), &[DOMAIN])))
    }

    /// An endpoint that resets with this key, and that knows connection ids of its former lives: resets are
    /// answers to those only.
    pub(crate) fn endpoint_config(&self) -> EndpointConfig {
        let ids = crypto::fast().hmac_sha256(self.0.as_slice(), &[PLACE_DOMAIN]);
        let mut number = [0; 8];
        number.copy_from_slice(&ids[..8]);
        let number = u64::from_le_bytes(number);
        let mut config = EndpointConfig::new(Arc::new(self.clone()));
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(number)));
        config
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out
            .copy_from_slice(crypto::fast().hmac_sha256(self.0.as_slice(), &[data]).as_slice());
    }

    fn signature_len(&self) -> usize {
        self.0.len()
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // Nothing in quinn asks for this of a reset key; tokens of resets are compared by the other side.
        let expected = crypto::fast().hmac_sha256(self.0.as_slice(), &[data]);
        if subtle::ConstantTimeEq::ct_eq(expected.as_slice(), signature).into() {
            Ok(())
        } else {
            Err(CryptoError)
        }
    }
}
