//! Our OpenMLS provider over the crate's primitives: no clock, no ambient randomness, the same bytes with every
//! backend. Usable with plain OpenMLS:
//!
//! ```
//! use openmls::prelude::*;
//! use qpc_protocol::crypto::{identity::DeviceKey, portable};
//! use qpc_protocol::env::Entropy;
//! use qpc_protocol::mls::{LeafSigner, Overlay, Provider};
//! use tls_codec::{Deserialize as _, Serialize as _};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let suite = Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519; // 0x004F; 0x0001 works as well
//!
//! // Each seed comes from the operating system and is used once; each member has its records to itself.
//! let member = |name: &str, seed| {
//!     let mut entropy = Entropy::from_seed(seed);
//!     let key = DeviceKey::generate(portable(), &mut entropy);
//!     let credential = CredentialWithKey {
//!         credential: BasicCredential::new(name.into()).into(),
//!         signature_key: key.public().to_vec().into(),
//!     };
//!     (Provider::new(portable(), &mut entropy, Overlay::default()), key, credential)
//! };
//! let (alice, alice_key, alice_credential) = member("alice", [1; 32]);
//! let (bob, bob_key, bob_credential) = member("bob", [2; 32]);
//! let alice_signer = LeafSigner::new(portable(), &alice_key);
//! let bob_signer = LeafSigner::new(portable(), &bob_key);
//!
//! // OpenMLS advertises no hybrid suite of its own accord.
//! let able = Capabilities::builder().ciphersuites(vec![suite]).build();
//! let package = KeyPackage::builder()
//!     .leaf_node_capabilities(able.clone())
//!     .build(suite, &bob, &bob_signer, bob_credential)?;
//!
//! let mut group = MlsGroup::builder()
//!     .ciphersuite(suite)
//!     .with_capabilities(able)
//!     .use_ratchet_tree_extension(true)
//!     .build(&alice, &alice_signer, alice_credential)?;
//! let added = group.add_members(&alice, &alice_signer, &[package.key_package().clone()])?;
//! group.merge_pending_commit(&alice)?;
//!
//! let welcome = MlsMessageIn::tls_deserialize_exact(added.1.tls_serialize_detached()?)?;
//! let MlsMessageBodyIn::Welcome(welcome) = welcome.extract() else { panic!("a welcome") };
//! let joining = StagedWelcome::new_from_welcome(&bob, &MlsGroupJoinConfig::default(), welcome, None)?;
//! let mut joined = joining.into_group(&bob)?;
//! assert_eq!(joined.epoch_authenticator().as_slice(), group.epoch_authenticator().as_slice());
//!
//! let sent = joined.create_message(&bob, &bob_signer, b"hello")?.tls_serialize_detached()?;
//! let sent = MlsMessageIn::tls_deserialize_exact(sent)?.try_into_protocol_message()?;
//! let read = group.process_message(&alice, sent)?.into_content();
//! let ProcessedMessageContent::ApplicationMessage(text) = read else { panic!("a text") };
//! assert_eq!(text.into_bytes(), b"hello");
//!
//! // What changed since the last call, to be made durable before anything that depends on it leaves.
//! let changes = alice.storage().take_ops();
//! assert!(!changes.is_empty());
//! let id = group.group_id().clone();
//! let again = Overlay::new(alice.storage().records());
//! assert_eq!(MlsGroup::load(&again, &id)?.map(|group| group.epoch()), Some(group.epoch()));
//! # Ok(())
//! # }
//! ```

use core::borrow::Borrow;

use openmls_traits::OpenMlsProvider;

use super::Crypto;
use super::overlay::Overlay;
use crate::crypto::Backend;
use crate::env::Entropy;

/// All that OpenMLS asks for: [`Crypto`] and a storage, owned or borrowed.
///
/// Our own groups make one for each operation, so that a seed is no longer in memory than what came of it. One for long
/// is as sound, for one group or many: draws are counted, and no two encapsulations share their randomness.
#[derive(Debug)]
pub struct Provider<S = Overlay> {
    crypto: Crypto,
    storage: S,
}

impl<S: Borrow<Overlay>> Provider<S> {
    /// A provider whose randomness all comes from a seed drawn here.
    pub fn new(backend: Backend, entropy: &mut Entropy, storage: S) -> Self {
        Self { crypto: Crypto::new(backend, entropy), storage }
    }
}

impl<S: Borrow<Overlay>> OpenMlsProvider for Provider<S> {
    type CryptoProvider = Crypto;
    type RandProvider = Crypto;
    type StorageProvider = Overlay;

    fn storage(&self) -> &Overlay {
        self.storage.borrow()
    }

    fn crypto(&self) -> &Crypto {
        &self.crypto
    }

    fn rand(&self) -> &Crypto {
        &self.crypto
    }
}
