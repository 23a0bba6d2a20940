//! Leaves that nobody may have: of devices that no account signed, without an end, of another device than before.

use openmls::prelude::{
    Extension, Extensions, KeyPackage, Lifetime, MlsMessageOut, OpenMlsProvider as _,
    UnknownExtension,
};
use tls_codec::Serialize as _;

use super::guards::{forge, refused, three};
use super::world::{Device, START, adding};
use crate::crypto::identity::{AccountKey, DeviceKey, DeviceRecord};
use crate::id::DeviceId;
use crate::mls::group::{Bundle, LocalDevice};
use crate::mls::key_package::check;
use crate::mls::overlay::Overlay;
use crate::mls::suite::Suite;
use crate::mls::{Crypto, Provider};
use crate::mls::{MlsError, key_package, rules, signer};

/// A key package with this record and this key, past our own checks.
fn forge_package(
    device: &mut Device,
    key: &DeviceKey,
    record: &DeviceRecord,
    lifetime: Lifetime,
    end: Option<u64>,
) -> KeyPackage {
    let overlay = Overlay::default();
    let provider = Provider::new(device.backend, &mut device.entropy, &overlay);
    let local = LocalDevice::new(key.clone(), record.clone());
    let mut credential = signer::credential(record);
    credential.signature_key = key.public().to_vec().into();
    let mut builder = KeyPackage::builder()
        .key_package_lifetime(lifetime)
        .leaf_node_capabilities(rules::capabilities());
    if let Some(end) = end {
        let end = UnknownExtension(end.to_be_bytes().to_vec());
        let end = Extension::Unknown(rules::EXPIRY_EXTENSION, end);
        builder = builder.key_package_extensions(Extensions::single(end).unwrap());
    }
    let suite = Suite::Classical.ciphersuite();
    let bundle =
        builder.build(suite, &provider, &local.signer(device.backend), credential).unwrap();
    bundle.key_package().clone()
}

const FOREVER: (u64, u64) = (0, u64::MAX);

fn forever() -> Lifetime {
    Lifetime::init(FOREVER.0, FOREVER.1)
}

#[test]
fn invented_devices_get_in_nowhere() {
    let (mut world, mut devices) = three();
    let mut mallory = Device::new(9);
    let backend = mallory.backend;
    let key = DeviceKey::generate(backend, &mut mallory.entropy);
    let other = AccountKey::generate(backend, &mut mallory.entropy);
    let victim = devices[2].account_id();
    let signed = |account: &AccountKey, key: &DeviceKey| {
        DeviceRecord::sign(backend, account, DeviceId([5; 16]), key.public(), 1, START)
    };
    // A device of the victim that only the server's word, or Mallory's, stands for.
    let mut invented = signed(&other, &key);
    invented.account = victim;
    // A wrong signature; a record for another key than the leaf's; a record of a real device, copied.
    let mut spoilt = signed(&other, &key);
    spoilt.signature[10] ^= 1;
    let for_another_key = signed(&other, &DeviceKey::generate(backend, &mut mallory.entropy));
    let copied = devices[2].local.record.clone();
    let end = Some(START.0 + 1_000);
    for record in [invented, spoilt, for_another_key, copied] {
        let package = forge_package(&mut mallory, &key, &record, forever(), end);
        let bytes = MlsMessageOut::from(package.clone()).to_bytes().unwrap();
        assert_eq!(check(backend, &bytes, START), Err(MlsError::Record));
        assert_eq!(devices[0].commit(&adding(&[bytes])), Err(MlsError::Record));
        let forged = forge(&mut devices[0], |commit| commit.propose_adds([package]));
        assert_eq!(refused(&mut world, &mut devices, 0, &forged), MlsError::Record);
        // Who is invited by such a group does not join it either: see `a_tree_with_an_invented_device`.
    }
}

#[test]
fn a_tree_with_an_invented_device_is_not_joined() {
    let mut devices = [Device::new(1), Device::new(2), Device::new(3)];
    devices[0].found(Suite::Classical);
    let backend = devices[0].backend;
    let key = DeviceKey::generate(backend, &mut devices[0].entropy);
    let mut record =
        DeviceRecord::sign(backend, &devices[0].account, DeviceId([5; 16]), key.public(), 1, START);
    record.account = devices[2].account_id();
    let end = Some(START.0 + 1_000);
    let invented = forge_package(&mut devices[0], &key, &record, forever(), end);
    let package = devices[1].package(Suite::Classical, false);
    let package = key_package::validate(&Crypto::verifier(backend), &package).unwrap();
    let bundle = forge(&mut devices[0], |commit| commit.propose_adds([invented, package]));
    let group = devices[0].group.as_mut().unwrap();
    let provider = Provider::new(backend, &mut devices[0].entropy, &group.overlay);
    group.mls.merge_pending_commit(&provider).unwrap();
    let tree = group.mls.export_ratchet_tree().tls_serialize_detached().unwrap();
    let joined = devices[1].join(bundle.welcome.as_ref().unwrap(), &tree);
    assert_eq!(joined, Err(MlsError::Record));
}

#[test]
fn adds_without_an_end_or_with_a_limited_lifetime_are_refused() {
    let (mut world, mut devices) = three();
    let mut dave = Device::new(4);
    let local = dave.local.clone();
    let endless = forge_package(&mut dave, &local.key, &local.record, forever(), None);
    let forged = forge(&mut devices[0], |commit| commit.propose_adds([endless]));
    assert_eq!(refused(&mut world, &mut devices, 0, &forged), MlsError::Expired);
    // Whether it held would depend on the clock of whoever looks.
    let limited = Lifetime::init(0, u64::MAX - 1);
    let end = Some(START.0 + 1_000);
    let limited = forge_package(&mut dave, &local.key, &local.record, limited, end);
    let forged = forge(&mut devices[0], |commit| commit.propose_adds([limited]));
    assert!(matches!(refused(&mut world, &mut devices, 0, &forged), MlsError::Invalid(_)));
}

#[test]
fn a_leaf_stays_with_its_device() {
    let (mut world, mut devices) = three();
    let backend = devices[1].backend;
    let (mine, theirs) = (devices[1].local.clone(), devices[2].local.record.clone());
    // Another device's record; an own one that goes back; one more device in the place of this one; a later one that
    // the account did not sign.
    let key = DeviceKey::generate(backend, &mut devices[1].entropy);
    let sign = |device, sequence| {
        DeviceRecord::sign(backend, &devices[1].account, device, key.public(), sequence, START)
    };
    let mut unsigned = sign(mine.record.device, 9);
    unsigned.signature[0] ^= 1;
    let records = [
        unsigned,
        theirs,
        sign(mine.record.device, 0),
        sign(mine.record.device, 1),
        sign(DeviceId([8; 16]), 9),
    ];
    for record in records {
        let forged = {
            let next = LocalDevice::new(key.clone(), record.clone());
            forge_rotation(&mut devices[1], &next)
        };
        assert_eq!(refused(&mut world, &mut devices, 1, &forged), MlsError::Record);
    }
}

fn forge_rotation(device: &mut Device, next: &LocalDevice) -> Bundle {
    use openmls::prelude::NewSignerBundle;
    let backend = device.backend;
    let group = device.group.as_mut().unwrap();
    let provider = Provider::new(backend, &mut device.entropy, &group.overlay);
    let new_signer = next.signer(backend);
    let mut credential_with_key = signer::credential(&next.record);
    credential_with_key.signature_key = next.key.public().to_vec().into();
    let bundle = NewSignerBundle { signer: &new_signer, credential_with_key };
    let signer = device.local.signer(backend);
    let (commit, _, group_info) = group
        .mls
        .commit_builder()
        .load_psks(&group.overlay)
        .unwrap()
        .create_group_info(true)
        .build_with_new_signer(provider.rand(), provider.crypto(), &signer, bundle, |_| true)
        .unwrap()
        .stage_commit(&provider)
        .unwrap()
        .into_messages();
    Bundle {
        commit: commit.to_bytes().unwrap(),
        welcome: None,
        group_info: group_info.unwrap().to_bytes().unwrap(),
    }
}

#[test]
fn a_device_has_one_leaf() {
    let (mut world, mut devices) = three();
    let backend = devices[2].backend;
    let key = DeviceKey::generate(backend, &mut devices[2].entropy);
    let device = devices[2].local.record.device;
    let record = DeviceRecord::sign(backend, &devices[2].account, device, key.public(), 2, START);
    let end = Some(START.0 + 1_000);
    let again = forge_package(&mut devices[2], &key, &record, forever(), end);
    let bytes = MlsMessageOut::from(again.clone()).to_bytes().unwrap();
    assert!(matches!(devices[0].commit(&adding(&[bytes])), Err(MlsError::Invalid(_))));
    let forged = forge(&mut devices[0], |commit| commit.propose_adds([again]));
    assert!(matches!(refused(&mut world, &mut devices, 0, &forged), MlsError::Invalid(_)));
}
