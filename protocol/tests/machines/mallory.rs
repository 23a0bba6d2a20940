//! Accounts with programs of their own: their devices are in the server's directory, and their key packages are what
//! the test makes of them.

use bytes::Bytes;
use openmls::prelude::{
    BasicCredential, Capabilities, Credential, CredentialType, CredentialWithKey, KeyPackage,
    Lifetime, MlsMessageOut, SignaturePublicKey,
};
use qpc_protocol::crypto::hybrid::EnvelopeSecrets;
use qpc_protocol::crypto::identity::{AccountKey, DeviceKey, DeviceRecord};
use qpc_protocol::crypto::portable;
use qpc_protocol::env::{Entropy, UnixMillis};
use qpc_protocol::id::{DeviceId, Digest, Sender};
use qpc_protocol::limits::KEY_PACKAGE_TIME;
use qpc_protocol::mls::group::LocalDevice;
use qpc_protocol::mls::key_package::KeyPackages;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::mls::{Context, LeafSigner, Overlay, Provider};
use qpc_protocol::server::op::{AccountRow, KeyPackageRow, StoreOp, StoreReply};
use qpc_protocol::wire::message::Username;
use qpc_sim::world::World;
use tls_codec::Serialize as _;

/// An account, with devices that never connect.
pub(crate) struct Mallory {
    devices: Vec<LocalDevice>,
}

impl Mallory {
    /// Devices with a key each.
    pub(crate) fn new(world: &mut World, name: &str, devices: u8) -> Self {
        let mut entropy = Entropy::from_seed(Digest::of(&[name.as_bytes()]).0);
        let keys = (0..devices).map(|_| DeviceKey::generate(portable(), &mut entropy)).collect();
        Self::with_keys(world, name, keys)
    }

    /// Devices with these keys.
    pub(crate) fn with_keys(world: &mut World, name: &str, keys: Vec<DeviceKey>) -> Self {
        let (backend, wall) = (portable(), world.now.wall);
        let mut entropy = Entropy::from_seed(Digest::of(&[b"account", name.as_bytes()]).0);
        let account = AccountKey::generate(backend, &mut entropy);
        let mut devices: Vec<LocalDevice> = Vec::new();
        for (number, key) in (1..).zip(keys) {
            let id = DeviceId([number; 16]);
            let record = DeviceRecord::sign(backend, &account, id, key.public(), 1, wall);
            let sender = record.sender();
            let secrets = EnvelopeSecrets::generate(&mut entropy);
            let envelope_keys = secrets.publish(backend, &key, sender, 1, wall);
            if devices.is_empty() {
                let row = AccountRow {
                    username: Username::prepare(name).unwrap(),
                    account: sender.account,
                    opaque_record: Bytes::from_static(b"record"),
                    sealed_account_key: Bytes::from_static(b"sealed"),
                    created: wall,
                };
                let replies = world.store.apply(&[StoreOp::CreateAccount(row)]);
                assert!(matches!(replies.as_slice(), [StoreReply::Done]), "{replies:?}");
            }
            let (record, expires) = (record.clone(), wall);
            let local = LocalDevice::new(key, record.clone());
            let put = StoreOp::PutDevice { record, envelope_keys, most: 16, at: wall, expires };
            let replies = world.store.apply(&[put]);
            assert!(matches!(replies.as_slice(), [StoreReply::Told { .. }]), "{replies:?}");
            devices.push(local);
        }
        Self { devices }
    }

    /// A device as others name it.
    pub(crate) fn device(&self, number: usize) -> Sender {
        self.devices[number].record.sender()
    }

    /// A key package of a device. With equal seeds all have the same keys to be encrypted to.
    pub(crate) fn package(
        &self,
        number: usize,
        suite: Suite,
        seed: u8,
        made: UnixMillis,
    ) -> Vec<u8> {
        let mut entropy = Entropy::from_seed([seed; 32]);
        let cx = Context { backend: portable(), entropy: &mut entropy, wall: made };
        KeyPackages::empty().generate(cx, &self.devices[number], suite, false).unwrap()
    }

    /// A key package that OpenMLS makes when nobody asks it for capabilities.
    pub(crate) fn incapable(&self, number: usize, suite: Suite) -> Vec<u8> {
        let (backend, device) = (portable(), &self.devices[number]);
        let provider =
            Provider::new(backend, &mut Entropy::from_seed([77; 32]), Overlay::default());
        let credential = BasicCredential::new(device.record.encode());
        let credential = CredentialWithKey {
            credential: Credential::from(credential),
            signature_key: SignaturePublicKey::from(device.key.public().to_vec()),
        };
        let able = Capabilities::builder()
            .ciphersuites(vec![suite.ciphersuite()])
            .credentials(vec![CredentialType::Basic])
            .build();
        let bundle = KeyPackage::builder()
            .leaf_node_capabilities(able)
            .key_package_lifetime(Lifetime::init(0, u64::MAX))
            .build(
                suite.ciphersuite(),
                &provider,
                &LeafSigner::new(backend, &device.key),
                credential,
            );
        let package = MlsMessageOut::from(bundle.unwrap().key_package().clone());
        package.tls_serialize_detached().unwrap()
    }

    /// What the server hands out next as a device's key package of a suite, whatever it is.
    pub(crate) fn put(&self, world: &mut World, number: usize, suite: Suite, package: Vec<u8>) {
        let wall = world.now.wall;
        let (hash, expires) = (Digest::of(&[&package]), wall.plus(KEY_PACKAGE_TIME));
        let row = KeyPackageRow { hash, suite, expires, package: package.into() };
        let sender = self.device(number);
        let op = StoreOp::PutKeyPackages {
            sender,
            packages: vec![row],
            last_resort: None,
            most: 100,
            at: wall,
        };
        let replies = world.store.apply(&[op]);
        assert!(matches!(replies.as_slice(), [StoreReply::KeyPackages { .. }]), "{replies:?}");
    }

    /// A key package of each device, by its seed.
    pub(crate) fn upload(&self, world: &mut World, suite: Suite, seeds: &[u8]) {
        for (number, seed) in seeds.iter().enumerate() {
            let package = self.package(number, suite, *seed, world.now.wall);
            self.put(world, number, suite, package);
        }
    }
}
