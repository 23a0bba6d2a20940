//! Devices that their accounts have revoked: who removes them, and who leads the group then.

use openmls::prelude::LeafNodeIndex;

use super::guards::{forge, refused, three};
use super::world::{Device, START, World, adding};
use crate::crypto::identity::Revocation;
use crate::id::DeviceId;
use crate::limits;
use crate::mls::data::GroupData;
use crate::mls::group::{Bundle, Plan};
use crate::mls::{MlsError, rules};

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

// ---- the last admin ------------------------------------------------------------------------------

fn revocation_of(device: &Device) -> Revocation {
    Revocation::sign(device.backend, &device.account, device.sender().device, START)
}

/// A commit that removes leaf 0 and changes the group's data to that, if any.
fn succession(device: &mut Device, evidence: Vec<u8>, data: Option<&GroupData>) -> Bundle {
    device.group.as_mut().unwrap().mls.set_aad(evidence);
    let extensions = data.map(|data| rules::context_extensions(data).unwrap());
    forge(device, |commit| {
        let commit = commit.propose_removals([LeafNodeIndex::new(0)]);
        match extensions {
            Some(extensions) => commit.propose_group_context_extensions(extensions).unwrap(),
            None => commit,
        }
    })
}

fn heirs(of: &GroupData, who: &[&Device]) -> GroupData {
    let mut data = of.clone();
    data.version += 1;
    data.admins.extend(who.iter().map(|device| device.account_id()));
    data.admins.sort_unstable();
    data
}

/// Whoever commits it, the lowest leaf that stays leads on.
#[test]
fn a_group_whose_only_admin_is_revoked_gets_another() {
    let (mut world, mut devices) = three();
    let (alice, heir) = (devices[0].sender(), devices[1].account_id());
    let before = devices[1].group().data().clone();
    let plan = Plan { revoked: vec![revocation_of(&devices[0])], ..Plan::default() };
    let bundle = devices[2].commit(&plan).unwrap();
    world.accept(&mut devices[2], &bundle).unwrap();
    let change = devices[1].follow(&bundle.commit).unwrap();
    let expected = heirs(&before, &[&devices[1]]);
    assert_eq!((change.removed, change.data), (vec![alice], Some(expected.clone())));
    for device in &devices[1..] {
        assert_eq!(device.group().data(), &expected);
        assert!(device.group().data().is_admin(heir));
    }
    // And can do what an admin can.
    let package = Device::new(4).package(world.suite, false);
    world.turn(&mut devices[1..], 0, &adding(&[package]));
}

#[test]
fn nobody_makes_more_of_it_than_that() {
    let (mut world, mut devices) = three();
    let now = devices[1].group().data().clone();
    let evidence = revocation_of(&devices[0]).encode();
    let due = heirs(&now, &[&devices[1]]);
    let bad = [
        heirs(&now, &[&devices[2]]),
        heirs(&now, &[&devices[1], &devices[2]]),
        GroupData { admins: vec![devices[1].account_id()], ..due.clone() },
        GroupData { open: true, ..due.clone() },
        GroupData { metadata: crate::id::Digest([1; 32]), ..due.clone() },
        GroupData { version: due.version + 1, ..due.clone() },
        GroupData { version: now.version, ..due.clone() },
    ];
    for data in &bad {
        let forged = succession(&mut devices[2], evidence.clone(), Some(data));
        let error = refused(&mut world, &mut devices, 2, &forged);
        assert!(matches!(error, MlsError::Invalid(_)), "{data:?}: {error}");
    }
    // Nor less: somebody has to lead.
    let forged = succession(&mut devices[2], evidence, None);
    assert_eq!(refused(&mut world, &mut devices, 2, &forged), MlsError::NoAdmin);
    // Not for an admin who was not revoked, and not while there is one.
    let forged = succession(&mut devices[2], Vec::new(), Some(&due));
    assert!(matches!(refused(&mut world, &mut devices, 2, &forged), MlsError::Invalid(_)));
    let plain = revocation_of(&devices[2]).encode();
    devices[1].group.as_mut().unwrap().mls.set_aad(plain);
    let extensions = rules::context_extensions(&due).unwrap();
    let forged = forge(&mut devices[1], |commit| {
        let commit = commit.propose_removals([LeafNodeIndex::new(2)]);
        commit.propose_group_context_extensions(extensions).unwrap()
    });
    assert!(matches!(refused(&mut world, &mut devices, 1, &forged), MlsError::Invalid(_)));
}

#[test]
fn an_admin_with_another_device_stays_the_only_one() {
    let alice = Device::new(1);
    let laptop = alice.sibling(9);
    let mut devices = [alice, Device::new(2), laptop];
    let mut world = World::new(crate::mls::suite::Suite::Classical, &mut devices);
    let now = devices[1].group().data().clone();
    let plan = Plan { revoked: vec![revocation_of(&devices[0])], ..Plan::default() };
    world.turn_without(&mut devices, 0, 1, &plan);
    assert_eq!(devices[2].group().data(), &now);
}
