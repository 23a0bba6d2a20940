//! The secrets of a server.

use core::fmt;

use zeroize::Zeroizing;

use crate::auth::server::OpaqueServer;
use crate::env::Entropy;

/// The secrets of a server, made once and kept for its life.
pub struct ServerSecrets {
    /// OPAQUE's seed and static key.
    pub opaque_setup: OpaqueServer,
    /// Seed of the Ed25519 key that signs delivery proofs; its public key is the server's id.
    pub proof_key: Zeroizing<[u8; 32]>,
    /// Key of the MACs in access tokens.
    pub token_key: Zeroizing<[u8; 32]>,
}

const VERSION: u8 = 1;

impl ServerSecrets {
    /// Fresh secrets.
    pub fn generate(entropy: &mut Entropy) -> Self {
        Self {
            opaque_setup: OpaqueServer::generate(entropy),
            proof_key: Zeroizing::new(entropy.array()),
            token_key: Zeroizing::new(entropy.array()),
        }
    }

    /// All of them in one versioned encoding, to be kept where only the server can read:
    /// version (1) || proof key (32) || token key (32) || OPAQUE's setup.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let setup = self.opaque_setup.encode();
        let mut out = Zeroizing::new(Vec::with_capacity(65 + setup.len()));
        out.push(VERSION);
        out.extend_from_slice(&*self.proof_key);
        out.extend_from_slice(&*self.token_key);
        out.extend_from_slice(&setup);
        out
    }

    /// Reads what [`Self::encode`] wrote; `None` if it is damaged or of a newer version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[version], rest) = bytes.split_first_chunk()?;
        let (proof_key, rest) = rest.split_first_chunk()?;
        let (token_key, setup) = rest.split_first_chunk()?;
        let opaque_setup = OpaqueServer::decode(setup)?;
        (version == VERSION).then(|| Self {
            opaque_setup,
            proof_key: Zeroizing::new(*proof_key),
            token_key: Zeroizing::new(*token_key),
        })
    }
}

impl fmt::Debug for ServerSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerSecrets(…)")
    }
}
