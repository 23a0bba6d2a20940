//! What a member, or a server, must not get away with. The attacker drives OpenMLS itself, past our own checks; the
//! honest members and the server each refuse by their own.

use core::mem::discriminant;

use openmls::group::MlsGroup;
use openmls::prelude::{
    Capabilities, CommitBuilder, Extension, ExtensionType, Extensions, Initial, LeafNodeIndex,
    LeafNodeParameters, MlsMessageOut, OpenMlsProvider as _, ProposalType,
    RequiredCapabilitiesExtension, UnknownExtension,
};
use tls_codec::Serialize as _;

use super::world::{Device, START, World, adding, removing};
use crate::id::ChannelId;
use crate::mls::data::GroupData;
use crate::mls::group::{Bundle, LocalDevice, Plan, Received};
use crate::mls::overlay::Overlay;
use crate::mls::suite::Suite;
use crate::mls::{Crypto, Provider};
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
    devices[by].run(|group, _, _| group.discard_pending()).unwrap();
    world.agree(&devices.iter().collect::<Vec<_>>());
    by_server
}

pub(super) fn three() -> (World, [Device; 3]) {
    let mut devices = [Device::new(1), Device::new(2), Device::new(3)];
    (World::new(Suite::Classical, &mut devices), devices)
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
        assert!(matches!(
            world.server.propose(sender, &proposal, START),
            Err(MlsError::Invalid(_))
        ));
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
    assert_eq!(founder.follow(&bundle.commit).unwrap().added, [dave.local.record.clone()]);
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
        alice.run(|group, _, _| group.discard_pending()).unwrap();
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

/// By an admin, who may change a group's data, and by a member, whose leaf is its own: to no less than the group has
/// had.
#[test]
fn nobody_lowers_what_a_group_has() {
    let (mut world, mut devices) = three();
    let before = devices[0].group().data().clone();
    let raised = GroupData { version: before.version + 4, ..before.clone() };
    let plan = Plan { data: Some(raised.clone()), ..Plan::default() };
    let bundle = devices[0].commit(&plan).unwrap();
    world.accept(&mut devices[0], &bundle).unwrap();
    for device in &mut devices[1..] {
        device.follow(&bundle.commit).unwrap();
    }

    // Versions that were, and the one that is.
    let mut contexts = Vec::new();
    for version in [before.version, raised.version - 1, raised.version] {
        let data = GroupData { version, ..raised.clone() };
        contexts.push(rules::context_extensions(&data).unwrap());
    }
    // A sound version, and members that need to be able to do less.
    let sound = || {
        let data = GroupData { version: raised.version + 1, ..raised.clone() };
        Extension::Unknown(GroupData::EXTENSION, UnknownExtension(data.encode()))
    };
    let all = rules::required_capabilities();
    let without = |proposals: &[ProposalType], extensions: &[ExtensionType]| {
        Extension::RequiredCapabilities(RequiredCapabilitiesExtension::new(
            extensions,
            proposals,
            all.credential_types(),
        ))
    };
    let (proposals, extensions) = (all.proposal_types(), all.extension_types());
    assert!(!proposals.is_empty() && extensions.len() > 1);
    for required in [
        without(&[], &[ExtensionType::Unknown(GroupData::EXTENSION)]),
        without(&proposals[1..], extensions),
        without(proposals, &extensions[1..]),
    ] {
        contexts.push(Extensions::from_vec(vec![required, sound()]).unwrap());
    }
    for context in contexts {
        let forged = forge(&mut devices[0], |commit| {
            commit.propose_group_context_extensions(context).unwrap()
        });
        assert!(matches!(refused(&mut world, &mut devices, 0, &forged), MlsError::Invalid(_)));
    }

    // A leaf that knows only the weaker suite, which no group that is to move on could take along.
    let whole = rules::capabilities();
    let fewer = Capabilities::builder()
        .ciphersuites(vec![Suite::Classical.ciphersuite()])
        .extensions(whole.extensions().to_vec())
        .proposals(whole.proposals().to_vec())
        .build();
    let leaf = LeafNodeParameters::builder().with_capabilities(fewer).build();
    let forged =
        forge(&mut devices[1], |commit| commit.force_self_update(true).leaf_node_parameters(leaf));
    assert_eq!(refused(&mut world, &mut devices, 1, &forged), MlsError::Capabilities);
    let stays = devices[0].commit(&Plan::default()).unwrap();
    world.accept(&mut devices[0], &stays).unwrap();
    assert_eq!(devices[1].follow(&stays.commit).unwrap().epoch, devices[0].group().epoch());
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
    let wrong = LocalDevice::new(dave.local.key.clone(), devices[0].local.record.clone());
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
