//! What a member, or a server, must not get away with. The attacker drives OpenMLS itself, past our own checks; the
//! honest members and the server each refuse by their own.

use core::mem::discriminant;

use openmls::group::MlsGroup;
use openmls::prelude::{
    CommitBuilder, Extension, Extensions, Initial, KeyPackage, LeafNodeIndex, LeafNodeParameters,
    Lifetime, MlsMessageOut, OpenMlsProvider as _, UnknownExtension,
};
use tls_codec::Serialize as _;

use super::world::{Device, START, World, adding, removing};
use crate::crypto::identity::{AccountKey, DeviceKey, DeviceRecord, Revocation};
use crate::id::{ChannelId, DeviceId};
use crate::limits;
use crate::mls::data::GroupData;
use crate::mls::group::{Bundle, LocalDevice, Plan, Received};
use crate::mls::key_package::check;
use crate::mls::overlay::Overlay;
use crate::mls::provider::{Crypto, Provider};
use crate::mls::suite::Suite;
use crate::mls::{MlsError, key_package, rules, signer};

/// A commit that our own code would not make.
pub(super) fn forge(
    device: &mut Device,
    build: impl FnOnce(CommitBuilder<'_, Initial>) -> CommitBuilder<'_, Initial>,
) -> Bundle {
    let group = device.group.as_mut().unwrap();
    let provider = Provider::new(device.backend, &mut device.entropy, &group.overlay);
    let (commit, welcome, group_info) = build(group.mls.commit_builder())
        .load_psks(&group.overlay)
        .unwrap()
        .create_group_info(true)
        .build(provider.rand(), provider.crypto(), &device.local.signer(device.backend), |_| true)
        .unwrap()
        .stage_commit(&provider)
        .unwrap()
        .into_messages();
    let bytes = |message: MlsMessageOut| message.to_bytes().unwrap();
    Bundle {
        commit: bytes(commit),
        welcome: welcome.map(bytes),
        group_info: bytes(group_info.unwrap()),
    }
}

/// Server and members refuse it, and go on as before.
pub(super) fn refused(
    world: &mut World,
    devices: &mut [Device],
    by: usize,
    bundle: &Bundle,
) -> MlsError {
    let by_server = world.accept_error(&devices[by], bundle);
    for (index, device) in devices.iter_mut().enumerate() {
        if index != by {
            let by_member = device.receive(&bundle.commit).unwrap_err();
            assert_eq!(discriminant(&by_member), discriminant(&by_server), "{by_member}");
        }
    }
    devices[by].run(|group, cx, _| group.discard_pending(cx)).unwrap();
    world.agree(&devices.iter().collect::<Vec<_>>());
    by_server
}

fn three() -> (World, [Device; 3]) {
    let mut devices = [Device::new(1), Device::new(2), Device::new(3)];
    (World::new(Suite::Classical, &mut devices), devices)
}

/// A plain member's commit that removes leaf 2 and brings that along.
fn removal_with(device: &mut Device, data: Vec<u8>) -> Bundle {
    device.group.as_mut().unwrap().mls.set_aad(data);
    forge(device, |commit| commit.propose_removals([LeafNodeIndex::new(2)]))
}

#[test]
fn any_member_removes_a_device_that_its_account_has_revoked() {
    let (mut world, mut devices) = three();
    let gone = devices[2].sender();
    let key = &devices[2].account;
    let revocation = Revocation::sign(devices[2].backend, key, gone.device, START);
    let plan = Plan { revoked: vec![revocation.clone()], ..Plan::default() };
    let bundle = world.turn(&mut devices, 1, &plan);
    assert!(bundle.commit.windows(Revocation::LEN).any(|part| part == revocation.encode()));
    assert!(!devices[0].group().members().iter().any(|member| member.record.sender() == gone));
    // Once it is gone there is nothing to show.
    let bundle = world.turn(&mut devices[..2], 1, &plan);
    assert!(!bundle.commit.windows(Revocation::LEN).any(|part| part == revocation.encode()));
}

#[test]
fn nobody_is_removed_by_what_is_no_revocation() {
    let (mut world, mut devices) = three();
    let backend = devices[2].backend;
    let gone = devices[2].sender();
    let honest = Revocation::sign(backend, &devices[2].account, gone.device, START);
    // By another account's key, in the name of this one.
    let mut stolen = Revocation::sign(backend, &devices[1].account, gone.device, START);
    stolen.account = gone.account;
    let other = devices[2].account.clone();
    let sibling = Revocation::sign(backend, &other, DeviceId([0x77; 16]), START);
    let foreign = Revocation::sign(backend, &devices[1].account, DeviceId([0x77; 16]), START);
    let mut late = honest.clone();
    late.at.0 += 1;
    let cut = honest.encode()[..Revocation::LEN - 1].to_vec();
    let bad = [
        stolen.encode(),
        sibling.encode(),
        foreign.encode(),
        late.encode(),
        cut,
        vec![0; Revocation::LEN],
        b"because".to_vec(),
        [honest.encode(), sibling.encode()].concat(),
        [honest.encode(), vec![1]].concat(),
        honest.encode().repeat(limits::DEVICES_LISTED + 1),
    ];
    for data in bad {
        let forged = removal_with(&mut devices[1], data);
        assert!(matches!(refused(&mut world, &mut devices, 1, &forged), MlsError::Invalid(_)));
    }
    // Nor does a revocation stand in a commit that removes somebody else, or nobody.
    devices[1].group.as_mut().unwrap().mls.set_aad(honest.encode());
    let forged = forge(&mut devices[1], |commit| commit.force_self_update(true));
    assert!(matches!(refused(&mut world, &mut devices, 1, &forged), MlsError::Invalid(_)));
}

#[test]
fn a_plain_member_cannot_remove_others() {
    let (mut world, mut devices) = three();
    let target = devices[2].sender();
    assert!(matches!(devices[1].commit(&removing(&[target])), Err(MlsError::Invalid(_))));
    assert!(!devices[1].group().has_pending());
    let forged = forge(&mut devices[1], |commit| commit.propose_removals([LeafNodeIndex::new(2)]));
    assert!(matches!(refused(&mut world, &mut devices, 1, &forged), MlsError::Invalid(_)));
    // The admin neither.
    let forged = forge(&mut devices[1], |commit| commit.propose_removals([LeafNodeIndex::new(0)]));
    assert!(matches!(refused(&mut world, &mut devices, 1, &forged), MlsError::Invalid(_)));
}

#[test]
fn a_plain_member_cannot_propose_what_it_may_not_do() {
    let (mut world, mut devices) = three();
    let mut data = devices[1].group().data().clone();
    data.version += 1;
    let extensions = rules::context_extensions(&data).unwrap();
    let mut dave = Device::new(4);
    let package = dave.package(Suite::Classical, false);
    let package = key_package::validate(&Crypto::verifier(dave.backend), &package).unwrap();
    let leaf = LeafNodeIndex::new(2);
    let forged: [(usize, Vec<u8>); 4] = [
        (1, propose(&mut devices[1], |mls, by, sign| mls.propose_remove_member(by, sign, leaf))),
        (1, propose(&mut devices[1], |mls, by, sign| mls.propose_add_member(by, sign, &package))),
        // Not on its own, not even by an admin.
        (
            0,
            propose(&mut devices[0], |mls, by, sign| {
                mls.propose_group_context_extensions(by, extensions, sign)
            }),
        ),
        (
            1,
            propose(&mut devices[1], |mls, by, sign| {
                mls.propose_self_update(by, sign, LeafNodeParameters::default())
            }),
        ),
    ];
    for (by, proposal) in forged {
        let sender = devices[by].sender();
        assert!(matches!(world.server.propose(sender, &proposal), Err(MlsError::Invalid(_))));
        for other in (0..3).filter(|other| *other != by) {
            assert!(matches!(devices[other].receive(&proposal), Err(MlsError::Invalid(_))));
        }
    }
    let stays = devices[2].commit(&Plan::default()).unwrap();
    world.accept(&mut devices[2], &stays).unwrap();
    assert_eq!(devices[0].follow(&stays.commit).unwrap().removed, []);
}

/// A proposal that our own code would not make.
fn propose<T, E: core::fmt::Debug>(
    device: &mut Device,
    make: impl FnOnce(
        &mut MlsGroup,
        &Provider<&Overlay>,
        &signer::LeafSigner<'_>,
    ) -> Result<(MlsMessageOut, T), E>,
) -> Vec<u8> {
    let group = device.group.as_mut().unwrap();
    let provider = Provider::new(device.backend, &mut device.entropy, &group.overlay);
    let signer = device.local.signer(device.backend);
    make(&mut group.mls, &provider, &signer).unwrap().0.to_bytes().unwrap()
}

#[test]
fn a_plain_member_cannot_add_others_unless_the_group_is_open() {
    let (mut world, mut devices) = three();
    let mut dave = Device::new(4);
    let package = dave.package(Suite::Classical, false);
    let refusal = devices[1].commit(&adding(core::slice::from_ref(&package)));
    assert!(matches!(refusal, Err(MlsError::Invalid(_))));
    let crypto = Crypto::verifier(dave.backend);
    let package = key_package::validate(&crypto, &package).unwrap();
    let forged = forge(&mut devices[1], |commit| commit.propose_adds([package]));
    assert!(matches!(refused(&mut world, &mut devices, 1, &forged), MlsError::Invalid(_)));

    let mut founder = Device::new(5);
    let data = GroupData {
        version: 1,
        admins: vec![founder.account_id()],
        open: true,
        metadata: crate::id::Digest([0; 32]),
    };
    founder.found_with(Suite::Classical, data).unwrap();
    let package = devices[1].package(Suite::Classical, false);
    let bundle = founder.commit(&adding(&[package])).unwrap();
    founder.merge();
    let tree = founder.group().mls.export_ratchet_tree().tls_serialize_detached().unwrap();
    devices[1].join(bundle.welcome.as_ref().unwrap(), &tree).unwrap();
    let package = dave.package(Suite::Classical, false);
    let bundle = devices[1].commit(&adding(&[package])).unwrap();
    assert_eq!(founder.follow(&bundle.commit).unwrap().added, [dave.local.record]);
}

/// A member whose own machine lets it do anything, in a direct channel: the other refuses it, whoever is server.
#[test]
fn a_direct_channel_is_of_its_two_accounts_for_every_member() {
    let (mut alice, mut bob) = (Device::new(1), Device::new(2));
    let (phone, mut carol) = (alice.sibling(3), Device::new(4));
    let mut admins = vec![alice.account_id(), bob.account_id()];
    admins.sort_unstable();
    let metadata = crate::id::Digest([0; 32]);
    let data = GroupData { version: 1, admins, open: false, metadata };
    alice.found_with(Suite::Classical, data.clone()).unwrap();
    let package = bob.package(Suite::Classical, false);
    let bundle = alice.commit(&adding(&[package])).unwrap();
    alice.merge();
    let tree = alice.group().mls.export_ratchet_tree().tls_serialize_detached().unwrap();
    bob.join(bundle.welcome.as_ref().unwrap(), &tree).unwrap();

    let channel = ChannelId::direct(alice.account_id(), bob.account_id());
    let judged = |bob: &mut Device, payload: &[u8]| {
        bob.run(|group, cx, _| {
            group.confine(channel);
            group.receive(cx, payload)
        })
    };
    let package = carol.package(Suite::Classical, false);
    let roles = GroupData { version: 2, admins: vec![alice.account_id()], ..data };
    let plans = [
        adding(&[package]),
        removing(&[bob.sender()]),
        Plan { data: Some(roles), ..Plan::default() },
    ];
    for plan in plans {
        let bundle = alice.commit(&plan).unwrap();
        let refusal = judged(&mut bob, &bundle.commit);
        assert!(matches!(refusal, Err(MlsError::NotAllowed(_))), "{refusal:?}");
        // Nor would its own machine make it.
        alice.run(|group, cx, _| group.discard_pending(cx)).unwrap();
        let own = alice.run(|group, cx, local| {
            group.confine(channel);
            group.commit(cx, local, &plan)
        });
        assert!(matches!(own, Err(MlsError::NotAllowed(_))), "{own:?}");
    }
    // Devices of the two come, and go by the word of their own account.
    let mut phone = phone;
    let package = phone.package(Suite::Classical, false);
    let bundle = bob.commit(&adding(&[package])).unwrap();
    bob.merge();
    assert!(matches!(judged(&mut alice, &bundle.commit), Ok(Received::Commit(_))));
    let bundle = alice.commit(&removing(&[phone.sender()])).unwrap();
    assert!(matches!(judged(&mut bob, &bundle.commit), Ok(Received::Commit(_))));
}

#[test]
fn a_plain_member_cannot_change_the_group_data() {
    let (mut world, mut devices) = three();
    let mut data = devices[1].group().data().clone();
    data.version += 1;
    data.admins = vec![devices[1].account_id()];
    let plan = Plan { data: Some(data.clone()), ..Plan::default() };
    assert!(matches!(devices[1].commit(&plan), Err(MlsError::Invalid(_))));
    let extensions = rules::context_extensions(&data).unwrap();
    let forged = forge(&mut devices[1], |commit| {
        commit.propose_group_context_extensions(extensions).unwrap()
    });
    assert!(matches!(refused(&mut world, &mut devices, 1, &forged), MlsError::Invalid(_)));
    // Not even an admin may do so without raising the version, or bring in extensions that nobody knows the meaning of.
    data.version -= 1;
    let extensions = rules::context_extensions(&data).unwrap();
    let forged = forge(&mut devices[0], |commit| {
        commit.propose_group_context_extensions(extensions).unwrap()
    });
    assert!(matches!(refused(&mut world, &mut devices, 0, &forged), MlsError::Invalid(_)));
    data.version += 1;
    let mut extensions = rules::context_extensions(&data).unwrap();
    let more = Extension::Unknown(rules::EXPIRY_EXTENSION, UnknownExtension(vec![0; 8]));
    extensions.add(more).unwrap();
    let forged = forge(&mut devices[0], |commit| {
        commit.propose_group_context_extensions(extensions).unwrap()
    });
    assert!(matches!(refused(&mut world, &mut devices, 0, &forged), MlsError::Invalid(_)));
}

#[test]
fn a_founder_that_may_change_nothing_is_refused() {
    let (mut alice, bob) = (Device::new(1), Device::new(2));
    let mut data = GroupData {
        version: 1,
        admins: vec![bob.account_id()],
        open: false,
        metadata: crate::id::Digest([0; 32]),
    };
    let refusal = alice.found_with(Suite::Classical, data.clone());
    assert!(matches!(refusal, Err(MlsError::Invalid(_))));
    data.admins = vec![alice.account_id(), alice.account_id()];
    assert!(matches!(alice.found_with(Suite::Classical, data), Err(MlsError::Invalid(_))));
}

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
    let local = LocalDevice { key: key.clone(), record: record.clone() };
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
    // Another device's record; an own one that goes back; one more device in the place of this one.
    let key = DeviceKey::generate(backend, &mut devices[1].entropy);
    let sign = |device, sequence| {
        DeviceRecord::sign(backend, &devices[1].account, device, key.public(), sequence, START)
    };
    let records = [
        theirs,
        sign(mine.record.device, 0),
        sign(mine.record.device, 1),
        sign(DeviceId([8; 16]), 9),
    ];
    for record in records {
        let forged = {
            let next = LocalDevice { key: key.clone(), record: record.clone() };
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

#[test]
fn encrypted_handshakes_are_refused() {
    use openmls::prelude::{MIXED_CIPHERTEXT_WIRE_FORMAT_POLICY, MlsGroupJoinConfig};
    let (mut world, mut devices) = three();
    let group = devices[1].group.as_mut().unwrap();
    let hidden = MlsGroupJoinConfig::builder()
        .wire_format_policy(MIXED_CIPHERTEXT_WIRE_FORMAT_POLICY)
        .build();
    group.mls.set_configuration(&group.overlay, &hidden).unwrap();
    let forged = forge(&mut devices[1], |commit| commit.force_self_update(true));
    assert!(matches!(refused(&mut world, &mut devices, 1, &forged), MlsError::Invalid(_)));
}

#[test]
fn what_a_plan_cannot_mean_is_refused() {
    let (_, mut devices) = three();
    let (own, stranger) = (devices[0].sender(), Device::new(8).sender());
    assert!(matches!(devices[0].commit(&removing(&[own])), Err(MlsError::Invalid(_))));
    assert!(matches!(devices[0].commit(&removing(&[stranger])), Err(MlsError::Invalid(_))));
    assert!(matches!(devices[0].commit(&adding(&[vec![1, 2, 3]])), Err(MlsError::Invalid(_))));
    let mut dave = Device::new(4);
    let other_suite = dave.package(Suite::Hybrid, false);
    assert!(matches!(devices[0].commit(&adding(&[other_suite])), Err(MlsError::Invalid(_))));
    let twice: [_; 2] = core::array::from_fn(|_| dave.package(Suite::Classical, false));
    let twice = adding(&twice);
    assert!(matches!(devices[0].commit(&twice), Err(MlsError::Invalid(_))));
    let wrong =
        LocalDevice { key: dave.local.key.clone(), record: devices[0].local.record.clone() };
    let plan = Plan { rotate: Some(wrong), ..Plan::default() };
    assert_eq!(devices[0].commit(&plan), Err(MlsError::Record));
    devices[0].commit(&Plan::default()).unwrap();
}

/// Wire's mls-removal-user-mismatch, and an external commit beside the leaf it should replace.
#[test]
fn an_external_commit_replaces_a_leaf_of_its_own_device_and_no_other() {
    let (mut world, mut devices) = three();
    let info = export_group_info(&devices[0]);
    let tree = devices[0].group().mls.export_ratchet_tree();
    // A stranger, though with a sound record, comes in by no external commit.
    let stranger = Device::new(8);
    let (_, commit, group_info) = external(stranger, &info, tree.clone().into());
    for device in &mut devices {
        assert!(matches!(device.receive(&commit), Err(MlsError::Invalid(_))));
    }
    // A member does, in the place of its old leaf.
    let sender = devices[2].sender();
    let lost = Device::new(3);
    assert_eq!(lost.sender(), sender);
    let (came_back, commit, group_info_2) = external(lost, &info, tree.into());
    assert_ne!(group_info, group_info_2);
    for device in &mut devices[..2] {
        let change = device.follow(&commit).unwrap();
        assert_eq!((change.committer, change.evicted), (sender, false));
        assert!(change.added.is_empty() && change.removed.is_empty());
        assert_eq!(device.group().authenticator(), came_back.epoch_authenticator().as_slice());
    }
    // The old instance of the device learns that there is another one.
    assert_eq!(devices[2].receive(&commit).unwrap_err(), MlsError::OwnMessage);
    world.server.commit(sender, &commit, None, &group_info_2).unwrap();
    world.agree(&[&devices[0], &devices[1]]);
}

fn export_group_info(device: &Device) -> Vec<u8> {
    let crypto = Crypto::verifier(device.backend);
    let mls = &device.group().mls;
    let info = mls.export_group_info(&crypto, &device.local.signer(device.backend), false);
    info.unwrap().to_bytes().unwrap()
}

fn external(
    mut device: Device,
    info: &[u8],
    tree: openmls::prelude::RatchetTreeIn,
) -> (MlsGroup, Vec<u8>, Vec<u8>) {
    use openmls::prelude::MlsMessageBodyIn;
    let overlay = Overlay::default();
    let backend = device.backend;
    let provider = Provider::new(backend, &mut device.entropy, &overlay);
    let MlsMessageBodyIn::GroupInfo(info) = crate::mls::parse(info).unwrap() else { panic!() };
    let leaf = LeafNodeParameters::builder().with_capabilities(rules::capabilities()).build();
    let (group, bundle) = MlsGroup::external_commit_builder()
        .with_ratchet_tree(tree)
        .skip_lifetime_validation()
        .build_group(&provider, info, signer::credential(&device.local.record))
        .unwrap()
        .leaf_node_parameters(leaf)
        .load_psks(&overlay)
        .unwrap()
        .create_group_info(true)
        .build(provider.rand(), provider.crypto(), &device.local.signer(backend), |_| true)
        .unwrap()
        .finalize(&provider)
        .unwrap();
    let (commit, _, info) = bundle.into_messages();
    (group, commit.to_bytes().unwrap(), info.unwrap().to_bytes().unwrap())
}
