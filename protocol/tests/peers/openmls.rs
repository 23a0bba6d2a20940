//! A member over plain OpenMLS, with whatever provider.

use openmls::prelude::*;
use openmls_traits::signatures::{Signer, SignerError};
use openmls_traits::types::SignatureScheme;
use qpc_protocol::crypto::Backend;
use qpc_protocol::crypto::identity::DeviceKey;
use qpc_protocol::env::Entropy;
use qpc_protocol::mls::{LeafSigner, Overlay, Provider};
use tls_codec::{Deserialize as _, Serialize as _};

use super::{Committed, Peer, Received};

/// A member whose provider is `P` and whose key is `S`.
pub(crate) struct OpenMls<P, S> {
    kind: String,
    identity: Vec<u8>,
    suite: Ciphersuite,
    wire: WireFormatPolicy,
    provider: P,
    signer: S,
    public: Vec<u8>,
    group: Option<MlsGroup>,
    id: Option<GroupId>,
}

/// A device key that knows its backend.
pub(crate) struct OurKey(Backend, DeviceKey);

impl Signer for OurKey {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        LeafSigner::new(self.0, &self.1).sign(payload)
    }

    fn signature_scheme(&self) -> SignatureScheme {
        LeafSigner::new(self.0, &self.1).signature_scheme()
    }
}

/// A member over our provider; all it draws comes from its name.
pub(crate) fn ours(
    backend: Backend,
    name: &str,
    suite: Ciphersuite,
    wire: WireFormatPolicy,
) -> OpenMls<Provider, OurKey> {
    let mut entropy = Entropy::from_seed(backend.sha256(&[name.as_bytes()]));
    let key = DeviceKey::generate(backend, &mut entropy);
    let public = key.public().to_vec();
    let provider = Provider::new(backend, &mut entropy, Overlay::default());
    let kind = format!("ours ({}), {name}", backend.name());
    OpenMls::new(kind, name, suite, wire, provider, OurKey(backend, key), public)
}

impl<P: OpenMlsProvider, S: Signer> OpenMls<P, S> {
    /// A member that is in no group yet.
    pub(crate) fn new(
        kind: String,
        name: &str,
        suite: Ciphersuite,
        wire: WireFormatPolicy,
        provider: P,
        signer: S,
        public: Vec<u8>,
    ) -> Self {
        let identity = name.as_bytes().to_vec();
        Self { kind, identity, suite, wire, provider, signer, public, group: None, id: None }
    }

    fn credential(&self) -> CredentialWithKey {
        CredentialWithKey {
            credential: BasicCredential::new(self.identity.clone()).into(),
            signature_key: self.public.clone().into(),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::builder().ciphersuites(vec![self.suite]).build()
    }

    fn group(&self) -> &MlsGroup {
        self.group.as_ref().unwrap()
    }

    fn enter(&mut self, group: MlsGroup) {
        self.id = Some(group.group_id().clone());
        self.group = Some(group);
    }

    /// Makes a commit of the proposals given and of those stored, and merges it at once.
    fn commit(
        &mut self,
        plan: impl for<'a> FnOnce(
            CommitBuilder<'a, Initial, &'a mut MlsGroup>,
        ) -> CommitBuilder<'a, Initial, &'a mut MlsGroup>,
    ) -> Committed {
        let group = self.group.as_mut().unwrap();
        let messages = plan(group.commit_builder())
            .load_psks(self.provider.storage())
            .unwrap()
            .build(self.provider.rand(), self.provider.crypto(), &self.signer, |_| true)
            .unwrap()
            .stage_commit(&self.provider)
            .unwrap();
        let (commit, welcome, _) = messages.into_messages();
        group.merge_pending_commit(&self.provider).unwrap();
        Committed { commit: bytes(&commit), welcome: welcome.as_ref().map(bytes) }
    }
}

impl<P: OpenMlsProvider, S: Signer> Peer for OpenMls<P, S> {
    fn kind(&self) -> String {
        self.kind.clone()
    }

    fn identity(&self) -> Vec<u8> {
        self.identity.clone()
    }

    fn found(&mut self) {
        let group = MlsGroup::builder()
            .ciphersuite(self.suite)
            .with_capabilities(self.capabilities())
            .with_wire_format_policy(self.wire)
            .use_ratchet_tree_extension(true)
            .build(&self.provider, &self.signer, self.credential())
            .unwrap();
        self.enter(group);
    }

    fn key_package(&mut self) -> Vec<u8> {
        let bundle = KeyPackage::builder()
            .leaf_node_capabilities(self.capabilities())
            .build(self.suite, &self.provider, &self.signer, self.credential())
            .unwrap();
        bytes(&MlsMessageOut::from(bundle.into_key_package()))
    }

    fn join(&mut self, welcome: &[u8]) {
        // One who was here before and comes back has the old group still.
        if let Some(mut old) = self.group.take() {
            old.delete(self.provider.storage()).unwrap();
        }
        let MlsMessageBodyIn::Welcome(welcome) = parse(welcome).extract() else { panic!() };
        let config = MlsGroupJoinConfig::builder()
            .wire_format_policy(self.wire)
            .use_ratchet_tree_extension(true)
            .build();
        let joining =
            StagedWelcome::new_from_welcome(&self.provider, &config, welcome, None).unwrap();
        self.enter(joining.into_group(&self.provider).unwrap());
    }

    fn add(&mut self, packages: &[Vec<u8>]) -> Committed {
        let validated = packages.iter().map(|package| {
            let MlsMessageBodyIn::KeyPackage(package) = parse(package).extract() else { panic!() };
            package.validate(self.provider.crypto(), ProtocolVersion::Mls10).unwrap()
        });
        let packages: Vec<_> = validated.collect();
        self.commit(|builder| builder.propose_adds(packages))
    }

    fn update(&mut self) -> Committed {
        self.commit(|builder| builder.force_self_update(true))
    }

    fn remove(&mut self, identity: &[u8]) -> Committed {
        let is_it = |member: &Member| member.credential.serialized_content() == identity;
        let leaf = self.group().members().find(is_it).unwrap().index;
        self.commit(|builder| builder.propose_removals([leaf]))
    }

    fn propose_update(&mut self) -> Vec<u8> {
        let group = self.group.as_mut().unwrap();
        let parameters = LeafNodeParameters::default();
        let (proposal, _) =
            group.propose_self_update(&self.provider, &self.signer, parameters).unwrap();
        bytes(&proposal)
    }

    fn commit_proposals(&mut self) -> Committed {
        assert!(self.group().has_pending_proposals());
        self.commit(|builder| builder)
    }

    fn send(&mut self, text: &[u8]) -> Vec<u8> {
        let group = self.group.as_mut().unwrap();
        bytes(&group.create_message(&self.provider, &self.signer, text).unwrap())
    }

    fn receive(&mut self, message: &[u8]) -> Result<Received, String> {
        let message = parse(message).try_into_protocol_message().unwrap();
        let (group, provider) = (self.group.as_mut().unwrap(), &self.provider);
        let processed =
            group.process_message(provider, message).map_err(|error| error.to_string())?;
        Ok(match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(text) => Received::Text(text.into_bytes()),
            ProcessedMessageContent::ProposalMessage(proposal) => {
                group.store_pending_proposal(provider.storage(), *proposal).unwrap();
                Received::Proposal
            }
            ProcessedMessageContent::StagedCommitMessage(commit) => {
                group.merge_staged_commit(provider, *commit).unwrap();
                Received::Commit
            }
            other => panic!("{other:?}"),
        })
    }

    fn is_member(&self) -> bool {
        self.group().is_active()
    }

    fn epoch(&self) -> u64 {
        self.group().epoch().as_u64()
    }

    fn authenticator(&self) -> Vec<u8> {
        self.group().epoch_authenticator().as_slice().to_vec()
    }

    fn members(&self) -> Vec<Vec<u8>> {
        let members = self.group().members();
        members.map(|member| member.credential.serialized_content().to_vec()).collect()
    }

    fn restart(&mut self) {
        let stored = MlsGroup::load(self.provider.storage(), self.id.as_ref().unwrap()).unwrap();
        self.group = Some(stored.unwrap());
    }
}

fn parse(message: &[u8]) -> MlsMessageIn {
    MlsMessageIn::tls_deserialize_exact(message).unwrap()
}

fn bytes(message: &MlsMessageOut) -> Vec<u8> {
    message.tls_serialize_detached().unwrap()
}
