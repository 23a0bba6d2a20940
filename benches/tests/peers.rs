//! mls-rs and ours in one group: over plain OpenMLS with our provider, and in a group as our devices found it, whose
//! server follows it and checks every commit.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test fails by panicking")]

#[path = "../../protocol/tests/peers/mod.rs"]
mod peers;

use core::time::Duration;

use mls_rs::extension::ExtensionType;
use mls_rs::group::proposal::ProposalType;
use mls_rs::group::{CommitEffect, CommitOutput, ExportedTree, ReceivedMessage};
use mls_rs::time::MlsTime;
use mls_rs::{CipherSuite, CryptoProvider, Extension, ExtensionList, MlsMessage};
use mls_rs_crypto_rustcrypto::RustCryptoProvider;
use openmls::prelude::{MIXED_PLAINTEXT_WIRE_FORMAT_POLICY, PURE_CIPHERTEXT_WIRE_FORMAT_POLICY};
use qpc_benches::mls::mls_rs::{Config, MlsRs, Setup};
use qpc_protocol::crypto::identity::{AccountKey, DeviceKey, DeviceRecord};
use qpc_protocol::crypto::{Backend, fast, portable};
use qpc_protocol::env::{Entropy, UnixMillis};
use qpc_protocol::id::{DeviceId, Digest, GroupId, Sender};
use qpc_protocol::mls::data::GroupData;
use qpc_protocol::mls::group::{Bundle, Group, LocalDevice, NewGroup, Plan, Received};
use qpc_protocol::mls::key_package::{self, KeyPackages};
use qpc_protocol::mls::public::PublicState;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::mls::{Context, MlsError};
use qpc_protocol::server::op::Member as ServerMember;

use self::peers::openmls::ours;
use self::peers::{Committed, Peer, live_together};

/// The one suite that both do.
const SUITE: CipherSuite = CipherSuite::CURVE25519_AES128;

/// A member over mls-rs.
struct Theirs {
    member: MlsRs<RustCryptoProvider>,
    name: Vec<u8>,
    inside: bool,
}

fn theirs(name: &str, private_handshakes: bool) -> Theirs {
    let crypto = RustCryptoProvider::default();
    let name = name.as_bytes().to_vec();
    let identity = MlsRs::draw(&crypto, SUITE, name.clone()).unwrap();
    let setup = Setup { tree_in_welcome: true, private_handshakes, ..Setup::new(crypto) };
    Theirs { member: MlsRs::with_identity(setup, SUITE, identity), name, inside: false }
}

fn message(bytes: &[u8]) -> MlsMessage {
    MlsMessage::from_bytes(bytes).unwrap()
}

/// What a commit gave, as bytes.
fn committed(output: &CommitOutput) -> Committed {
    let welcome = output.welcome_messages().first();
    Committed {
        commit: output.commit_message().to_bytes().unwrap(),
        welcome: welcome.map(|welcome| welcome.to_bytes().unwrap()),
    }
}

impl Theirs {
    fn group(&mut self) -> &mut mls_rs::Group<Config<RustCryptoProvider>> {
        self.member.group().unwrap()
    }

    fn merged(&mut self, output: &CommitOutput) -> Committed {
        self.group().apply_pending_commit().unwrap();
        committed(output)
    }
}

impl Peer for Theirs {
    fn kind(&self) -> String {
        format!("mls-rs, {}", self.name.escape_ascii())
    }

    fn identity(&self) -> Vec<u8> {
        self.name.clone()
    }

    fn found(&mut self) {
        self.member.group = Some(self.member.client.group_builder().unwrap().build().unwrap());
        self.inside = true;
    }

    fn key_package(&mut self) -> Vec<u8> {
        let (none, time) = (ExtensionList::new, None);
        let package = self.member.client.generate_key_package_message(none(), none(), time);
        package.unwrap().to_bytes().unwrap()
    }

    fn join(&mut self, welcome: &[u8]) {
        self.member.leave_behind();
        let joined = self.member.client.join_group(None, &message(welcome), None).unwrap();
        self.member.group = Some(joined.0);
        self.inside = true;
    }

    fn add(&mut self, packages: &[Vec<u8>]) -> Committed {
        let mut builder = self.group().commit_builder();
        for package in packages {
            builder = builder.add_member(message(package)).unwrap();
        }
        let output = builder.build().unwrap();
        self.merged(&output)
    }

    fn update(&mut self) -> Committed {
        let output = self.group().commit(Vec::new()).unwrap();
        self.merged(&output)
    }

    fn remove(&mut self, identity: &[u8]) -> Committed {
        let leaf = self.group().member_with_identity(identity).unwrap().index;
        let output = self.group().commit_builder().remove_member(leaf).unwrap().build().unwrap();
        self.merged(&output)
    }

    fn propose_update(&mut self) -> Vec<u8> {
        self.group().propose_update(Vec::new()).unwrap().to_bytes().unwrap()
    }

    fn commit_proposals(&mut self) -> Committed {
        assert_eq!(self.group().get_cached_proposals().len(), 1);
        let output = self.group().commit(Vec::new()).unwrap();
        assert!(output.unused_proposals().is_empty());
        self.merged(&output)
    }

    fn send(&mut self, text: &[u8]) -> Vec<u8> {
        let sent = self.group().encrypt_application_message(text, Vec::new());
        sent.unwrap().to_bytes().unwrap()
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<peers::Received, String> {
        let processed = self.group().process_incoming_message(message(bytes));
        Ok(match processed.map_err(|error| error.to_string())? {
            ReceivedMessage::ApplicationMessage(text) => {
                peers::Received::Text(text.data().to_vec())
            }
            ReceivedMessage::Proposal(_) => peers::Received::Proposal,
            ReceivedMessage::Commit(commit) => {
                self.inside = !matches!(commit.effect, CommitEffect::Removed { .. });
                peers::Received::Commit
            }
            other => panic!("{other:?}"),
        })
    }

    fn is_member(&self) -> bool {
        self.inside
    }

    fn epoch(&self) -> u64 {
        self.member.group.as_ref().unwrap().current_epoch()
    }

    fn authenticator(&self) -> Vec<u8> {
        let group = self.member.group.as_ref().unwrap();
        group.epoch_authenticator().unwrap().as_bytes().to_vec()
    }

    fn members(&self) -> Vec<Vec<u8>> {
        let members = self.member.group.as_ref().unwrap().roster().members();
        let identity = |member: &mls_rs::group::Member| {
            member.signing_identity.credential.as_basic().unwrap().identifier.clone()
        };
        members.iter().map(identity).collect()
    }

    fn restart(&mut self) {
        self.member.persist().unwrap();
        self.member.restart().unwrap();
    }
}

#[test]
fn mls_rs_and_ours_in_a_group_of_either() {
    let suite = Suite::Classical.ciphersuite();
    for backend in [portable(), fast()] {
        for (private, wire) in [
            (false, MIXED_PLAINTEXT_WIRE_FORMAT_POLICY),
            (true, PURE_CIPHERTEXT_WIRE_FORMAT_POLICY),
        ] {
            let mut our = ["alice", "bob"].map(|name| ours(backend, name, suite, wire));
            let mut their = ["carol", "dave"].map(|name| theirs(name, private));
            let ([alice, bob], [carol, dave]) = (our.each_mut(), their.each_mut());
            live_together([alice, carol, bob, dave]);

            let mut our = ["alice", "bob"].map(|name| ours(backend, name, suite, wire));
            let mut their = ["carol", "dave"].map(|name| theirs(name, private));
            let ([alice, bob], [carol, dave]) = (our.each_mut(), their.each_mut());
            let founder: &mut dyn Peer = carol;
            live_together([founder, alice, dave, bob]);
        }
    }
}

const WALL: UnixMillis = UnixMillis(1_800_000_000_000);
const GROUP: GroupId = GroupId([7; 32]);
/// Extension 0xF0A1: the signed end of a key package's life.
const EXPIRY: ExtensionType = ExtensionType::new(0xF0A1);
/// Extension 0xF0A2: the group's data.
const DATA: ExtensionType = ExtensionType::new(GroupData::EXTENSION);
/// draft-ietf-mls-extensions: last_resort, and SelfRemove; both have that number.
const LAST_RESORT: ExtensionType = ExtensionType::new(0x000A);
const SELF_REMOVE: ProposalType = ProposalType::new(0x000A);

/// A device of ours without its machine.
struct Device {
    backend: Backend,
    entropy: Entropy,
    local: LocalDevice,
    packages: KeyPackages,
    group: Option<Group>,
}

fn record(backend: Backend, entropy: &mut Entropy, device_key: [u8; 32]) -> DeviceRecord {
    let account = AccountKey::generate(backend, entropy);
    DeviceRecord::sign(backend, &account, DeviceId(entropy.array()), device_key, 1, WALL)
}

impl Device {
    fn new(backend: Backend, seed: u8) -> Self {
        let mut entropy = Entropy::from_seed([seed; 32]);
        let key = DeviceKey::generate(backend, &mut entropy);
        let record = record(backend, &mut entropy, key.public());
        let packages = KeyPackages::restore(Vec::new()).unwrap();
        Self { backend, entropy, local: LocalDevice::new(key, record), packages, group: None }
    }

    fn sender(&self) -> Sender {
        self.local.record.sender()
    }

    fn run<T>(
        &mut self,
        operation: impl FnOnce(&mut Group, Context<'_>, &LocalDevice) -> Result<T, MlsError>,
    ) -> T {
        let cx = Context { backend: self.backend, entropy: &mut self.entropy, wall: WALL };
        operation(self.group.as_mut().unwrap(), cx, &self.local).unwrap()
    }

    fn package(&mut self) -> Vec<u8> {
        let cx = Context { backend: self.backend, entropy: &mut self.entropy, wall: WALL };
        self.packages.generate(cx, &self.local, Suite::Classical, false).unwrap()
    }

    fn join(&mut self, welcome: &[u8], tree: &[u8]) {
        let cx = Context { backend: self.backend, entropy: &mut self.entropy, wall: WALL };
        let joined = Group::join(cx, &self.local, &mut self.packages, welcome, tree);
        self.group = Some(joined.unwrap());
    }

    fn commit(&mut self, plan: &Plan) -> Bundle {
        self.run(|group, cx, local| group.commit(cx, local, plan))
    }

    fn send(&mut self, text: &[u8]) -> Vec<u8> {
        self.run(|group, cx, local| group.encrypt(cx, local, text))
    }

    fn receive(&mut self, payload: &[u8]) -> Received {
        self.run(|group, cx, _| group.receive(cx, payload))
    }

    fn authenticator(&self) -> Vec<u8> {
        self.group.as_ref().unwrap().authenticator()
    }
}

/// An mls-rs client with one of our device records in its credential and all that our groups require of a leaf.
fn guest(backend: Backend) -> (Theirs, DeviceRecord) {
    let hybrid = CipherSuite::new(Suite::Hybrid.number()); // named, as every leaf of ours does, not done
    let crypto = RustCryptoProvider::with_enabled_cipher_suites(vec![SUITE, hybrid]);
    assert!(crypto.cipher_suite_provider(hybrid).is_none());
    let mut identity = MlsRs::draw(&crypto, SUITE, Vec::new()).unwrap();
    let device_key = identity.public.as_bytes().try_into().unwrap();
    let record = record(backend, &mut Entropy::from_seed([9; 32]), device_key);
    identity.credential = record.encode();
    let name = identity.credential.clone();
    let setup = Setup {
        group_info: true,
        extensions: vec![EXPIRY, DATA, LAST_RESORT],
        proposals: vec![SELF_REMOVE],
        // From the time that a package is made with, 0 below, to 2^64 - 1, as ours.
        life: Some(Duration::from_secs(u64::MAX)),
        ..Setup::new(crypto)
    };
    (Theirs { member: MlsRs::with_identity(setup, SUITE, identity), name, inside: false }, record)
}

#[test]
fn mls_rs_is_a_member_of_a_group_of_our_devices() {
    let backend = fast();
    let (mut alice, mut carol) = (Device::new(backend, 1), Device::new(backend, 2));
    let (mut bob, bob_record) = guest(backend);

    // Alice founds a group in which everyone may add and remove; the server follows it.
    let admins = vec![alice.sender().account];
    let data = GroupData { version: 1, admins, open: true, metadata: Digest([0; 32]) };
    let new = NewGroup { id: GROUP, suite: Suite::Classical, data };
    let cx = Context { backend, entropy: &mut alice.entropy, wall: WALL };
    let (group, founding) = Group::create(cx, &alice.local, &new).unwrap();
    alice.group = Some(group);
    let founder =
        ServerMember { sender: alice.sender(), device_key: alice.local.record.device_key };
    let (info, tree) = (&founding.group_info, &founding.tree);
    let mut server = PublicState::create(backend, GROUP, &founder, info, tree).unwrap();

    // A key package of mls-rs that our own check finds right.
    let end = Extension::new(EXPIRY, (WALL.0 + 1000).to_be_bytes().to_vec());
    let (extensions, time) = (ExtensionList::from(vec![end]), Some(MlsTime::from(0)));
    let package =
        bob.member.client.generate_key_package_message(extensions, ExtensionList::new(), time);
    let package = package.unwrap().to_bytes().unwrap();
    let checked = key_package::check(backend, &package, WALL).unwrap();
    assert_eq!((checked.record, checked.suite), (bob_record.clone(), Suite::Classical));

    // Alice adds Bob.
    let bundle = alice.commit(&Plan { adds: vec![package], ..Plan::default() });
    let welcome = bundle.welcome.as_deref();
    server.commit(alice.sender(), &bundle.commit, welcome, &bundle.group_info).unwrap();
    alice.run(|group, cx, _| group.merge_pending(cx));
    let tree = ExportedTree::from_bytes(&server.tree().unwrap()).unwrap();
    let joined = bob.member.client.join_group(Some(tree), &message(welcome.unwrap()), None);
    bob.member.group = Some(joined.unwrap().0);
    assert_eq!(bob.authenticator(), alice.authenticator());
    talk(&mut bob, &mut [&mut alice]);

    // Bob adds Carol.
    let package = message(&carol.package());
    let output = bob.group().commit_builder().add_member(package).unwrap().build().unwrap();
    let (commit, welcome) = accept(&mut server, &mut bob, &bob_record, &output);
    assert!(matches!(alice.receive(&commit), Received::Commit(_)));
    carol.join(&welcome.unwrap(), &server.tree().unwrap());
    assert_eq!(carol.group.as_ref().unwrap().added_by(), Some(bob_record.sender()));
    talk(&mut bob, &mut [&mut alice, &mut carol]);

    // Each updates its leaf.
    let output = bob.group().commit(Vec::new()).unwrap();
    let (commit, _) = accept(&mut server, &mut bob, &bob_record, &output);
    for device in [&mut alice, &mut carol] {
        assert!(matches!(device.receive(&commit), Received::Commit(_)));
    }
    talk(&mut bob, &mut [&mut alice, &mut carol]);
    let bundle = carol.commit(&Plan::default());
    server.commit(carol.sender(), &bundle.commit, None, &bundle.group_info).unwrap();
    carol.run(|group, cx, _| group.merge_pending(cx));
    assert_eq!(bob.receive(&bundle.commit), Ok(peers::Received::Commit));
    assert!(matches!(alice.receive(&bundle.commit), Received::Commit(_)));
    talk(&mut bob, &mut [&mut alice, &mut carol]);

    // Bob removes Carol; Alice removes Bob.
    let output = bob.group().commit_builder().remove_member(2).unwrap().build().unwrap();
    let (commit, _) = accept(&mut server, &mut bob, &bob_record, &output);
    assert!(matches!(alice.receive(&commit), Received::Commit(_)));
    let Received::Commit(change) = carol.receive(&commit) else { panic!("a commit") };
    assert!(change.evicted);
    talk(&mut bob, &mut [&mut alice]);
    let bundle = alice.commit(&Plan { removes: vec![bob_record.sender()], ..Plan::default() });
    server.commit(alice.sender(), &bundle.commit, None, &bundle.group_info).unwrap();
    alice.run(|group, cx, _| group.merge_pending(cx));
    bob.inside = true;
    assert_eq!(bob.receive(&bundle.commit), Ok(peers::Received::Commit));
    assert!(!bob.is_member());
    assert!(bob.receive(&alice.send(b"alone")).is_err());
    assert_eq!(server.members().len(), 1);
}

/// The server accepts a commit of mls-rs, which merges it.
fn accept(
    server: &mut PublicState,
    bob: &mut Theirs,
    record: &DeviceRecord,
    output: &CommitOutput,
) -> (Vec<u8>, Option<Vec<u8>>) {
    let info = output.external_commit_group_info().unwrap().to_bytes().unwrap();
    let Committed { commit, welcome } = bob.merged(output);
    server.commit(record.sender(), &commit, welcome.as_deref(), &info).unwrap();
    (commit, welcome)
}

/// All are in the same epoch, and everybody reads everybody.
fn talk(bob: &mut Theirs, devices: &mut [&mut Device]) {
    let read = |device: &mut Device, message: &[u8]| match device.receive(message) {
        Received::Application { content, .. } => content.to_vec(),
        other => panic!("{other:?}"),
    };
    let message = bob.send(b"from mls-rs");
    for device in &mut *devices {
        assert_eq!(device.authenticator(), bob.authenticator());
        assert_eq!(read(device, &message), b"from mls-rs");
    }
    for from in 0..devices.len() {
        let text = vec![b'0' + u8::try_from(from).unwrap(); 20];
        let message = devices[from].send(&text);
        assert_eq!(bob.receive(&message), Ok(peers::Received::Text(text.clone())));
        for (to, device) in devices.iter_mut().enumerate() {
            if to != from {
                assert_eq!(read(device, &message), text);
            }
        }
    }
    bob.restart();
}
