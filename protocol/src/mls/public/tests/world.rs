//! Devices over plain OpenMLS, which does what it is told: members of ours would refuse to make most of what the
//! server has to refuse.

use openmls::prelude::*;
use openmls_traits::signatures::{Signer, SignerError};
use tls_codec::{Deserialize as _, Serialize as _};

use crate::crypto::identity::{AccountKey, DeviceKey, DeviceRecord};
use crate::crypto::portable;
use crate::env::{Entropy, UnixMillis};
use crate::id::{AccountId, DeviceId, Digest, GroupId, Sender};
use crate::mls::data::GroupData;
use crate::mls::overlay::Overlay;
use crate::mls::provider::Provider;
use crate::mls::public::{CheckedCommit, PublicState};
use crate::mls::suite::Suite;
use crate::mls::{MlsError, rules};
use crate::server::op::Member;
use crate::store::batch::{Op, Records};

/// When key packages end, and a moment before.
pub(super) const EXPIRES: UnixMillis = UnixMillis(1_800_000_000_000);
pub(super) const NOW: UnixMillis = UnixMillis(EXPIRES.0 - 60_000);

pub(super) struct Key(pub(super) DeviceKey);

impl Signer for Key {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.0.sign(portable(), payload).to_vec())
    }

    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// A bundle as it goes to the server.
#[derive(Clone)]
pub(super) struct Sent {
    pub(super) commit: Vec<u8>,
    pub(super) welcome: Option<Vec<u8>>,
    pub(super) group_info: Vec<u8>,
}

pub(super) struct Device {
    pub(super) key: Key,
    pub(super) record: DeviceRecord,
    pub(super) overlay: Overlay,
    pub(super) entropy: Entropy,
    pub(super) group: Option<MlsGroup>,
}

pub(super) fn account(number: u8) -> AccountKey {
    AccountKey::generate(portable(), &mut Entropy::from_seed([number; 32]))
}

pub(super) fn key(account: u8, device: u8, sequence: u8) -> DeviceKey {
    let mut seed = [account; 32];
    (seed[0], seed[1], seed[2]) = (b'k', device, sequence);
    DeviceKey::generate(portable(), &mut Entropy::from_seed(seed))
}

pub(super) fn record(by: &AccountKey, device: u8, sequence: u8, key: &DeviceKey) -> DeviceRecord {
    let id = DeviceId([device; 16]);
    DeviceRecord::sign(portable(), by, id, key.public(), sequence.into(), UnixMillis(0))
}

impl Device {
    pub(super) fn new(by: u8, device: u8) -> Self {
        Self::numbered(by, device, 1)
    }

    /// With the record of that sequence, and a device key of its own.
    pub(super) fn numbered(by: u8, device: u8, sequence: u8) -> Self {
        let key = key(by, device, sequence);
        let record = record(&account(by), device, sequence, &key);
        Self::with(key, record)
    }

    pub(super) fn with(key: DeviceKey, record: DeviceRecord) -> Self {
        let seed = Digest::of(&[&record.encode()]).0;
        let entropy = Entropy::from_seed(seed);
        Self { key: Key(key), record, overlay: Overlay::default(), entropy, group: None }
    }

    pub(super) fn sender(&self) -> Sender {
        self.record.sender()
    }

    pub(super) fn account(&self) -> AccountId {
        self.record.account
    }

    pub(super) fn member(&self) -> Member {
        Member { sender: self.sender(), device_key: self.record.device_key }
    }

    pub(super) fn credential(&self) -> CredentialWithKey {
        CredentialWithKey {
            credential: BasicCredential::new(self.record.encode()).into(),
            signature_key: self.key.0.public().to_vec().into(),
        }
    }

    pub(super) fn key_package(&mut self, suite: Suite) -> KeyPackage {
        let expiry = Some(EXPIRES.0.to_be_bytes().to_vec());
        self.key_package_as(suite, expiry, rules::capabilities(), Lifetime::init(0, u64::MAX))
    }

    pub(super) fn key_package_as(
        &mut self,
        suite: Suite,
        expiry: Option<Vec<u8>>,
        capabilities: Capabilities,
        lifetime: Lifetime,
    ) -> KeyPackage {
        let provider = Provider::new(portable(), &mut self.entropy, &self.overlay);
        let extensions =
            expiry.map(|end| Extension::Unknown(rules::EXPIRY_EXTENSION, UnknownExtension(end)));
        let credential = CredentialWithKey {
            credential: BasicCredential::new(self.record.encode()).into(),
            signature_key: self.key.0.public().to_vec().into(),
        };
        KeyPackage::builder()
            .key_package_lifetime(lifetime)
            .leaf_node_capabilities(capabilities)
            .key_package_extensions(Extensions::from_vec(extensions.into_iter().collect()).unwrap())
            .build(suite.ciphersuite(), &provider, &self.key, credential)
            .unwrap()
            .into_key_package()
    }

    /// Founds a group: GroupInfo and tree.
    pub(super) fn found(
        &mut self,
        suite: Ciphersuite,
        id: GroupId,
        extensions: Extensions<GroupContext>,
    ) -> (Vec<u8>, Vec<u8>) {
        let credential = self.credential();
        let provider = Provider::new(portable(), &mut self.entropy, &self.overlay);
        let capabilities = Capabilities::builder()
            .ciphersuites([&Suite::ALL.map(Suite::ciphersuite)[..], &[suite]].concat())
            .extensions(rules::capabilities().extensions().to_vec())
            .proposals(rules::capabilities().proposals().to_vec())
            .build();
        let group = MlsGroup::builder()
            .with_group_id(openmls::group::GroupId::from_slice(id.as_bytes()))
            .with_wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
            .lifetime(Lifetime::init(0, u64::MAX))
            .ciphersuite(suite)
            .with_group_context_extensions(extensions)
            .with_capabilities(capabilities)
            .build(&provider, &self.key, credential)
            .unwrap();
        let info = group.export_group_info(provider.crypto(), &self.key, false).unwrap();
        let tree = group.export_ratchet_tree();
        self.group = Some(group);
        (info.tls_serialize_detached().unwrap(), tree.tls_serialize_detached().unwrap())
    }

    pub(super) fn group(&self) -> &MlsGroup {
        self.group.as_ref().unwrap()
    }

    pub(super) fn leaf_of(&self, device: &Self) -> LeafNodeIndex {
        let credential = device.credential().credential;
        self.group().members().find(|member| member.credential == credential).unwrap().index
    }

    /// Makes a commit and leaves it pending.
    pub(super) fn commit(
        &mut self,
        plan: impl FnOnce(CommitBuilder<'_, Initial>) -> CommitBuilder<'_, Initial>,
    ) -> Sent {
        let provider = Provider::new(portable(), &mut self.entropy, &self.overlay);
        let group = self.group.as_mut().unwrap();
        let bundle = plan(group.commit_builder())
            .load_psks(provider.storage())
            .unwrap()
            .create_group_info(true)
            .build(provider.rand(), provider.crypto(), &self.key, |_| true)
            .unwrap()
            .stage_commit(&provider)
            .unwrap();
        Sent::of(bundle)
    }

    /// Commits a new record and key for the own leaf.
    pub(super) fn rotate(&mut self, to: &Self) -> Sent {
        let provider = Provider::new(portable(), &mut self.entropy, &self.overlay);
        let new = NewSignerBundle { signer: &to.key, credential_with_key: to.credential() };
        let group = self.group.as_mut().unwrap();
        let bundle = group
            .commit_builder()
            .load_psks(provider.storage())
            .unwrap()
            .create_group_info(true)
            .build_with_new_signer(provider.rand(), provider.crypto(), &self.key, new, |_| true)
            .unwrap()
            .stage_commit(&provider)
            .unwrap();
        Sent::of(bundle)
    }

    pub(super) fn update(&mut self) -> Sent {
        self.commit(|builder| builder.force_self_update(true))
    }

    pub(super) fn add(&mut self, packages: &[KeyPackage]) -> Sent {
        self.commit(|builder| builder.propose_adds(packages.iter().cloned()))
    }

    pub(super) fn remove(&mut self, leaves: &[LeafNodeIndex]) -> Sent {
        self.commit(|builder| builder.propose_removals(leaves.iter().copied()))
    }

    pub(super) fn change(&mut self, data: &GroupData) -> Sent {
        self.extend(rules::context_extensions(data).unwrap())
    }

    pub(super) fn extend(&mut self, extensions: Extensions<GroupContext>) -> Sent {
        self.commit(|builder| builder.propose_group_context_extensions(extensions).unwrap())
    }

    pub(super) fn propose(&mut self, what: Propose) -> Vec<u8> {
        let provider = Provider::new(portable(), &mut self.entropy, &self.overlay);
        let group = self.group.as_mut().unwrap();
        let (message, _) =
            group.propose(&provider, &self.key, what, ProposalOrRefType::Reference).unwrap();
        message.tls_serialize_detached().unwrap()
    }

    pub(super) fn leave(&mut self) -> Vec<u8> {
        let provider = Provider::new(portable(), &mut self.entropy, &self.overlay);
        let group = self.group.as_mut().unwrap();
        let message = group.leave_group_via_self_remove(&provider, &self.key).unwrap();
        message.tls_serialize_detached().unwrap()
    }

    pub(super) fn discard(&mut self) {
        let group = self.group.as_mut().unwrap();
        group.clear_pending_commit(&self.overlay).unwrap();
    }

    pub(super) fn forget_proposals(&mut self) {
        let group = self.group.as_mut().unwrap();
        group.clear_pending_proposals(&self.overlay).unwrap();
    }

    pub(super) fn merge(&mut self) {
        let provider = Provider::new(portable(), &mut self.entropy, &self.overlay);
        self.group.as_mut().unwrap().merge_pending_commit(&provider).unwrap();
    }

    pub(super) fn join(&mut self, welcome: &[u8], tree: &[u8]) {
        let provider = Provider::new(portable(), &mut self.entropy, &self.overlay);
        let MlsMessageBodyIn::Welcome(welcome) =
            MlsMessageIn::tls_deserialize_exact(welcome).unwrap().extract()
        else {
            panic!("no welcome");
        };
        let config = MlsGroupJoinConfig::builder()
            .wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
            .build();
        let tree = RatchetTreeIn::tls_deserialize_exact(tree).unwrap();
        let staged = StagedWelcome::new_from_welcome(&provider, &config, welcome, Some(tree));
        self.group = Some(staged.unwrap().into_group(&provider).unwrap());
    }

    /// As an honest member: processes a message of another.
    pub(super) fn receive(&mut self, payload: &[u8]) {
        let provider = Provider::new(portable(), &mut self.entropy, &self.overlay);
        let message = MlsMessageIn::tls_deserialize_exact(payload).unwrap();
        let message = message.try_into_protocol_message().unwrap();
        let group = self.group.as_mut().unwrap();
        match group.process_message(&provider, message).unwrap().into_content() {
            ProcessedMessageContent::StagedCommitMessage(staged) => {
                group.merge_staged_commit(&provider, *staged).unwrap();
            }
            ProcessedMessageContent::ProposalMessage(proposal) => {
                group.store_pending_proposal(provider.storage(), *proposal).unwrap();
            }
            _ => panic!("neither commit nor proposal"),
        }
    }

    /// Comes in by external commit, with whatever record this device has.
    pub(super) fn rejoin(&mut self, group_info: &[u8], tree: &[u8]) -> Sent {
        let credential = self.credential();
        let provider = Provider::new(portable(), &mut self.entropy, &self.overlay);
        let MlsMessageBodyIn::GroupInfo(info) =
            MlsMessageIn::tls_deserialize_exact(group_info).unwrap().extract()
        else {
            panic!("no group info");
        };
        let config = MlsGroupJoinConfig::builder()
            .wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
            .build();
        let parameters =
            LeafNodeParameters::builder().with_capabilities(rules::capabilities()).build();
        let (group, bundle) = MlsGroup::external_commit_builder()
            .with_ratchet_tree(RatchetTreeIn::tls_deserialize_exact(tree).unwrap())
            .with_config(config)
            .build_group(&provider, info, credential)
            .unwrap()
            .leaf_node_parameters(parameters)
            .load_psks(provider.storage())
            .unwrap()
            .create_group_info(true)
            .build(provider.rand(), provider.crypto(), &self.key, |_| true)
            .unwrap()
            .finalize(&provider)
            .unwrap();
        self.group = Some(group);
        Sent::of(bundle)
    }
}

impl Sent {
    fn of(bundle: CommitMessageBundle) -> Self {
        let (commit, welcome, info) = bundle.into_messages();
        Self {
            commit: commit.tls_serialize_detached().unwrap(),
            welcome: welcome.map(|welcome| welcome.tls_serialize_detached().unwrap()),
            group_info: info.unwrap().tls_serialize_detached().unwrap(),
        }
    }
}

/// The server's side, read anew from what is stored before every step.
pub(super) struct Stored {
    pub(super) records: Records,
}

impl Stored {
    pub(super) fn new(mut state: PublicState) -> Self {
        let mut stored = Self { records: Vec::new() };
        stored.apply(state.take_ops());
        stored
    }

    pub(super) fn state(&self) -> PublicState {
        PublicState::restore(portable(), self.records.clone()).unwrap()
    }

    fn apply(&mut self, ops: Vec<Op>) {
        let mut records: std::collections::BTreeMap<_, _> = self.records.drain(..).collect();
        for op in ops {
            match op {
                Op::Put(key, value) => drop(records.insert(key, value)),
                Op::Delete(key) => drop(records.remove(&key)),
                Op::DeletePrefix(prefix) => records.retain(|key, _| !key.starts_with(&prefix)),
            }
        }
        self.records = records.into_iter().collect();
    }

    pub(super) fn commit(&mut self, by: Sender, sent: &Sent) -> Result<CheckedCommit, MlsError> {
        let mut state = self.state();
        let result = state.commit(by, &sent.commit, sent.welcome.as_deref(), &sent.group_info);
        self.settle(state, result)
    }

    pub(super) fn propose(
        &mut self,
        by: Sender,
        payload: &[u8],
    ) -> Result<Option<Member>, MlsError> {
        let mut state = self.state();
        let result = state.propose(by, payload, NOW);
        self.settle(state, result)
    }

    /// After an error nothing may have changed: neither the records nor the state in memory.
    fn settle<T>(
        &mut self,
        mut state: PublicState,
        result: Result<T, MlsError>,
    ) -> Result<T, MlsError> {
        let ops = state.take_ops();
        if result.is_err() {
            assert_eq!(ops, Vec::new());
            assert_eq!(state.tree(), self.state().tree());
            assert_eq!(
                (state.epoch(), state.members()),
                (self.state().epoch(), self.state().members())
            );
        }
        self.apply(ops);
        result
    }

    /// All who are given agree with the server.
    pub(super) fn agree(&self, devices: &[&Device]) {
        let state = self.state();
        for device in devices {
            let group = device.group();
            assert_eq!(group.epoch().as_u64(), state.epoch());
            assert_eq!(group.public_group().group_context(), state.group.group_context());
            let first = devices[0].group().epoch_authenticator();
            assert_eq!(group.epoch_authenticator().as_slice(), first.as_slice());
            let tree = group.export_ratchet_tree().tls_serialize_detached().unwrap();
            assert_eq!(state.tree().unwrap(), tree);
        }
    }

    /// The commit is refused, and for that reason.
    #[track_caller]
    pub(super) fn refuses(&mut self, by: &Device, sent: &Sent, why: &str) {
        let error = self.commit(by.sender(), sent).expect_err("accepted");
        assert!(error.to_string().contains(why), "{error} is not: {why}");
    }

    #[track_caller]
    pub(super) fn refuses_proposal(&mut self, by: &Device, payload: &[u8], why: &str) {
        let error = self.propose(by.sender(), payload).expect_err("accepted");
        assert!(error.to_string().contains(why), "{error} is not: {why}");
    }
}

pub(super) fn group_id() -> GroupId {
    GroupId([7; 32])
}

pub(super) fn data(admins: &[&Device]) -> GroupData {
    let mut admins: Vec<_> = admins.iter().map(|device| device.account()).collect();
    admins.sort_unstable();
    admins.dedup();
    GroupData { version: 1, admins, open: false, metadata: Digest([0; 32]) }
}

/// A group with an admin (account 1), two plain members (2 and 3) and a second device of 2; and a stranger (9).
pub(super) struct World {
    pub(super) server: Stored,
    pub(super) alice: Device,
    pub(super) bob: Device,
    pub(super) bob2: Device,
    pub(super) carol: Device,
    pub(super) stranger: Device,
    /// The bundle that added the members.
    pub(super) added: Sent,
}

impl World {
    pub(super) fn new(suite: Suite) -> Self {
        let mut alice = Device::new(1, 1);
        let (mut bob, mut bob2) = (Device::new(2, 1), Device::new(2, 2));
        let mut carol = Device::new(3, 1);
        let extensions = rules::context_extensions(&data(&[&alice])).unwrap();
        let (info, tree) = alice.found(suite.ciphersuite(), group_id(), extensions);
        let state =
            PublicState::create(portable(), group_id(), &alice.member(), &info, &tree).unwrap();
        let mut server = Stored::new(state);
        let packages = [bob.key_package(suite), bob2.key_package(suite), carol.key_package(suite)];
        let added = alice.add(&packages);
        let checked = server.commit(alice.sender(), &added).unwrap();
        assert_eq!(checked.epoch, 1);
        assert_eq!(checked.adds, [bob.member(), bob2.member(), carol.member()]);
        assert_eq!(checked.removes, vec![]);
        assert_eq!(checked.expires, Some(EXPIRES));
        alice.merge();
        let (welcome, tree) = (added.welcome.clone().unwrap(), checked.tree.unwrap());
        for device in [&mut bob, &mut bob2, &mut carol] {
            device.join(&welcome, &tree);
        }
        let stranger = Device::new(9, 1);
        Self { server, alice, bob, bob2, carol, stranger, added }
    }
}
