//! A device comes back by replacing its own leaf: from a GroupInfo that comes up to what it knows, and from no other.

use std::collections::BTreeSet;

use super::world::{Device, GROUP, START, World, removing};
use crate::crypto::identity::{DeviceKey, DeviceRecord};
use crate::id::{AccountId, DeviceId, GroupId};
use crate::mls::group::{Bundle, Founding, Group, Plan, Received};
use crate::mls::rejoin::{Floor, devices};
use crate::mls::suite::Suite;
use crate::mls::{Context, MlsError};
use crate::store::batch::Records;

const EPOCH: u64 = 2;

/// Three devices in epoch 2, what the server has of it, and the accounts in it.
struct Scene {
    world: World,
    devices: Vec<Device>,
    group_info: Vec<u8>,
    tree: Vec<u8>,
    known: BTreeSet<AccountId>,
}

impl Scene {
    fn new(suite: Suite) -> Self {
        let mut devices: Vec<_> = (1..=3).map(Device::new).collect();
        let mut world = World::new(suite, &mut devices);
        let group_info = world.turn(&mut devices, 2, &Plan::default()).group_info;
        let tree = world.server.tree().unwrap();
        let known = devices.iter().map(Device::account_id).collect();
        Self { world, devices, group_info, tree, known }
    }

    /// The server refuses it, and each member but the one whose leaf it is about.
    fn refused(&mut self, by: &Device, bundle: &Bundle) {
        let (commit, info) = (&bundle.commit, &bundle.group_info);
        let before = self.devices[0].group().epoch();
        assert!(self.world.server.commit(by.sender(), commit, None, info).is_err());
        for device in
            self.devices.iter_mut().filter(|device| device.account_id() != by.account_id())
        {
            device.receive(commit).unwrap_err();
            assert_eq!(device.group().epoch(), before);
        }
    }

    fn floor(&self) -> Floor<'_> {
        Floor { id: GROUP, suite: self.world.suite, epoch: EPOCH, known: Some(&self.known) }
    }
}

fn rejoin(
    by: &mut Device,
    group_info: &[u8],
    tree: &[u8],
    floor: &Floor<'_>,
) -> Result<Bundle, MlsError> {
    let cx = Context { backend: by.backend, entropy: &mut by.entropy, wall: START };
    let (mut group, bundle) = Group::rejoin(cx, &by.local, group_info, tree, floor)?;
    by.disk = super::world::Disk::default();
    by.disk.apply(group.take_ops());
    by.group = Some(Group::restore(by.backend, group.records()).unwrap());
    by.restart();
    Ok(bundle)
}

#[test]
fn a_device_without_any_state_comes_back_and_all_talk() {
    for suite in Suite::ALL {
        let mut scene = Scene::new(suite);
        let (info, tree, known) =
            (scene.group_info.clone(), scene.tree.clone(), scene.known.clone());
        let floor = Floor { id: GROUP, suite, epoch: EPOCH, known: Some(&known) };
        let mut bob = Device::new(2);
        let bundle = rejoin(&mut bob, &info, &tree, &floor).unwrap();
        assert_eq!(bundle.welcome, None);
        let Scene { world, devices, .. } = &mut scene;
        let (commit, info) = (&bundle.commit, &bundle.group_info);
        let checked = world.server.commit(bob.sender(), commit, None, info).unwrap();
        assert_eq!((checked.adds, checked.removes), (vec![], vec![]));
        devices.remove(1);
        for device in devices.iter_mut() {
            let Received::Commit(change) = device.receive(commit).unwrap() else { panic!() };
            assert_eq!((change.committer, change.epoch), (bob.sender(), EPOCH + 1));
            assert_eq!((change.added, change.removed, change.updated), (vec![], vec![], vec![]));
            assert!(!change.evicted);
        }
        devices.insert(1, bob);
        world.agree(&devices.iter().collect::<Vec<_>>());
        let hello = devices[1].send(b"back").unwrap();
        assert_eq!(devices[0].read(&hello).unwrap().1, b"back");
        world.turn(devices, 1, &Plan::default());
    }
}

#[test]
fn a_group_info_that_does_not_come_up_to_what_is_known_is_refused() {
    let scene = Scene::new(Suite::Hybrid);
    let mut bob = Device::new(2);
    let mut fails = |group_info: &[u8], tree: &[u8], floor: Floor<'_>| {
        rejoin(&mut bob, group_info, tree, &floor).unwrap_err()
    };
    let (info, tree, floor) = (&scene.group_info, &scene.tree, scene.floor());
    assert_eq!(fails(info, tree, Floor { epoch: 3, ..floor }), MlsError::PastEpoch);
    assert_eq!(fails(info, tree, Floor { suite: Suite::Classical, ..floor }), MlsError::Suite);
    let other = GroupId([8; 32]);
    assert_eq!(fails(info, tree, Floor { id: other, ..floor }), MlsError::WrongGroup);
    // Signed by Carol, who was not in the group as far as this device knows.
    let carol = scene.devices[2].account_id();
    let known = scene.known.iter().copied().filter(|account| *account != carol).collect();
    let stranger = fails(info, tree, Floor { known: Some(&known), ..floor });
    assert!(stranger.to_string().contains("stranger"), "{stranger}");
    // Every byte of the GroupInfo and of the tree counts.
    for at in (0..info.len()).step_by(97).chain([info.len() - 1]) {
        let mut other = info.clone();
        other[at] ^= 1;
        fails(&other, tree, floor);
    }
    for at in (0..tree.len()).step_by(501).chain([tree.len() - 1]) {
        let mut other = tree.clone();
        other[at] ^= 1;
        fails(info, &other, floor);
    }
    for short in [&[][..], &info[..info.len() - 1]] {
        fails(short, tree, floor);
        fails(info, &tree[..tree.len() - 1], floor);
    }
}

/// A group of the same id around somebody's leaf, made by one who holds a key package of it.
#[test]
fn a_strangers_group_of_the_same_id_is_refused() {
    let scene = Scene::new(Suite::Classical);
    let (mut mallory, mut bob) = (Device::new(9), Device::new(2));
    let package = bob.package(Suite::Classical, false);
    let mut fake = World::new(Suite::Classical, std::slice::from_mut(&mut mallory));
    let bundle = mallory.commit(&super::world::adding(&[package])).unwrap();
    let tree = fake.accept(&mut mallory, &bundle).unwrap();
    let floor = Floor { epoch: 0, ..scene.floor() };
    let refused = rejoin(&mut bob, &bundle.group_info, &tree, &floor).unwrap_err();
    assert!(refused.to_string().contains("stranger"), "{refused}");
}

#[test]
fn a_device_that_was_removed_or_never_in_cannot_come_back_by_itself() {
    let mut scene = Scene::new(Suite::Classical);
    let mut stranger = Device::new(9);
    let floor = scene.floor();
    let refused = rejoin(&mut stranger, &scene.group_info, &scene.tree, &floor);
    assert_eq!(refused.unwrap_err(), MlsError::NotMember);
    let bob = scene.devices.remove(1);
    let bundle = scene.devices[0].commit(&removing(&[bob.sender()])).unwrap();
    let tree = scene.world.accept(&mut scene.devices[0], &bundle).unwrap();
    let refused = rejoin(&mut Device::new(2), &bundle.group_info, &tree, &scene.floor());
    assert_eq!(refused.unwrap_err(), MlsError::NotMember);
}

#[test]
fn ones_own_last_commit_is_as_good_a_start_as_anothers() {
    let mut scene = Scene::new(Suite::Classical);
    let bundle = scene.world.turn(&mut scene.devices, 1, &Plan::default());
    let tree = scene.world.server.tree().unwrap();
    let mut bob = Device::new(2);
    let bundle = rejoin(&mut bob, &bundle.group_info, &tree, &scene.floor()).unwrap();
    let commit = &bundle.commit;
    scene.world.server.commit(bob.sender(), commit, None, &bundle.group_info).unwrap();
    // The device that it was a copy of learns that there is another, and changes nothing.
    let before = scene.devices[1].group().epoch();
    assert_eq!(scene.devices[1].receive(commit).unwrap_err(), MlsError::OwnMessage);
    assert_eq!(scene.devices[1].group().epoch(), before);
}

#[test]
fn a_forgotten_commit_of_ones_own_is_told_from_a_broken_one() {
    let mut scene = Scene::new(Suite::Classical);
    let copy = scene.devices[1].disk.clone();
    let bundle = scene.world.turn(&mut scene.devices, 1, &Plan::default());
    scene.devices[1].disk = copy;
    scene.devices[1].group =
        Some(Group::restore(scene.devices[1].backend, scene.devices[1].disk.records()).unwrap());
    assert_eq!(scene.devices[1].receive(&bundle.commit).unwrap_err(), MlsError::OwnMessage);
    // What the server made up of it proves nothing.
    let mut spoiled = bundle.commit.clone();
    let tag = spoiled.len() - 3;
    spoiled[tag] ^= 1;
    assert!(matches!(scene.devices[1].receive(&spoiled), Err(MlsError::Invalid(_))));
}

/// No path secret opens for this device any more.
fn forget_keys(device: &mut Device) {
    let before = device.disk.0.len();
    device.disk.0.retain(|key, _| !matches!(key[0], b'k' | b'n'));
    assert!(device.disk.0.len() < before);
    device.group = Some(Group::restore(device.backend, device.disk.records()).unwrap());
}

/// A path sealed to keys that this device does not have: as if its own state had been damaged, or the committer lied.
#[test]
fn a_members_commit_that_does_not_open_is_told_from_what_anybody_could_make_up() {
    let mut scene = Scene::new(Suite::Classical);
    let bundle = scene.devices[0].commit(&Plan::default()).unwrap();
    let mut bob = scene.devices.remove(1);
    forget_keys(&mut bob);
    let broken = bob.receive(&bundle.commit).unwrap_err();
    assert!(matches!(broken, MlsError::Unopened(_)), "{broken:?}");
    let mut spoiled = bundle.commit;
    let tag = spoiled.len() - 3;
    spoiled[tag] ^= 1;
    assert!(matches!(bob.receive(&spoiled), Err(MlsError::Invalid(_))));
}

/// From outside, only a device of the group gives cause to come back: under another's name anybody could sign one.
#[test]
fn a_commit_from_outside_that_does_not_open_counts_if_it_is_of_a_device_of_the_group() {
    for (id, counts) in [(None, true), (Some(DeviceId([9; 16])), false)] {
        let mut scene = Scene::new(Suite::Classical);
        let mut bob = Device::new(2);
        if let Some(id) = id {
            let of_key = bob.local.record.device_key;
            bob.local.record = DeviceRecord::sign(bob.backend, &bob.account, id, of_key, 1, START);
        }
        let bundle = rejoin(&mut bob, &scene.group_info, &scene.tree, &scene.floor()).unwrap();
        let alice = &mut scene.devices[0];
        forget_keys(alice);
        let broken = alice.receive(&bundle.commit).unwrap_err();
        assert_eq!(matches!(broken, MlsError::Unopened(_)), counts, "{broken:?}");
    }
}

#[test]
fn who_was_in_the_group_is_read_from_the_tree_alone() {
    let mut scene = Scene::new(Suite::Classical);
    let known = scene.known.clone();
    scene.devices[0].restart();
    let records = scene.devices[0].disk.records();
    // Blocks of the tree, heads of records, and what is whole: keys begin with what they are.
    let without = |kind: u8| records.iter().filter(|(key, _)| key[0] != kind).cloned().collect();
    let accounts = |records| {
        let there = devices(records)?.into_iter();
        Some(there.map(|device| device.account).collect::<BTreeSet<_>>())
    };
    assert_eq!(accounts(records.clone()), Some(known.clone()));
    for kind in b"MSgo" {
        assert_eq!(accounts(without(*kind)), Some(known.clone()), "{}", char::from(*kind));
    }
    assert_eq!(accounts(without(b'B')), None);
    assert_eq!(accounts(without(b'H')), None);
    assert_eq!(accounts(Records::new()), None);
}

#[test]
fn a_group_founded_alone_is_come_back_to_as_well() {
    let mut alice = Device::new(1);
    let Founding { group_info, tree } = alice.found(Suite::Hybrid);
    let known = [alice.account_id()].into();
    let floor = Floor { id: GROUP, suite: Suite::Hybrid, epoch: 0, known: Some(&known) };
    rejoin(&mut Device::new(1), &group_info, &tree, &floor).unwrap();
}

/// An external commit that takes somebody else's leaf, and one whose path repeats a key of the tree (openmls PR 2207,
/// Wire mls-removal-user-mismatch): what a server lets through each member refuses by itself.
#[test]
fn regression_15_members_refuse_what_takes_another_leaf_or_repeats_a_key() {
    let mut scene = Scene::new(Suite::Classical);
    let (info, tree, known) = (scene.group_info.clone(), scene.tree.clone(), scene.known.clone());
    let floor = Floor { id: GROUP, suite: Suite::Classical, epoch: EPOCH, known: Some(&known) };
    // Bob's key under the name of another device: OpenMLS replaces the leaf that has the key.
    let mut bob = Device::new(2);
    let of_key = bob.local.record.device_key;
    let other = DeviceId([9; 16]);
    bob.local.record = DeviceRecord::sign(bob.backend, &bob.account, other, of_key, 1, START);
    let taken = rejoin(&mut bob, &info, &tree, &floor).unwrap();
    scene.refused(&bob, &taken);
    // A device that is not in the group joins by nobody's leave: it replaces no leaf.
    let mut newcomer = Device::new(2);
    newcomer.local.key = DeviceKey::generate(newcomer.backend, &mut newcomer.entropy);
    let of_key = newcomer.local.key.public();
    newcomer.local.record =
        DeviceRecord::sign(newcomer.backend, &newcomer.account, other, of_key, 1, START);
    assert_eq!(rejoin(&mut newcomer, &info, &tree, &floor).unwrap_err(), MlsError::NotMember);

    // The randomness of another's path: its keys are in the tree since.
    let same = || crate::env::Entropy::from_seed([5; 32]);
    let mut carol = Device::new(3);
    carol.entropy = same();
    let first = rejoin(&mut carol, &info, &tree, &floor).unwrap();
    let (commit, after) = (&first.commit, &first.group_info);
    scene.world.server.commit(carol.sender(), commit, None, after).unwrap();
    scene.devices.pop();
    for device in &mut scene.devices {
        device.follow(commit).unwrap();
    }
    scene.devices.push(carol);
    let mut bob = Device::new(2);
    bob.entropy = same();
    let tree = scene.world.server.tree().unwrap();
    let again = rejoin(&mut bob, after, &tree, &floor).unwrap();
    scene.refused(&bob, &again);
}

// ---- what was sent before -----------------------------------------------------------------------

/// Bob comes back from the state that he has, and all follow: his group of before.
fn comes_back(scene: &mut Scene, keep: bool) -> Group {
    let known = scene.known.clone();
    let (suite, epoch) = (scene.world.suite, scene.devices[0].group().epoch());
    let floor = Floor { id: GROUP, suite, epoch, known: Some(&known) };
    let tree = scene.world.server.tree().unwrap();
    let Scene { world, devices, group_info, .. } = scene;
    let bob = &mut devices[1];
    let cx = Context { backend: bob.backend, entropy: &mut bob.entropy, wall: START };
    let (mut group, bundle) = Group::rejoin(cx, &bob.local, group_info, &tree, &floor).unwrap();
    let old = bob.group.take().unwrap();
    if keep {
        group.keep_past(&old).unwrap();
    }
    drop(group.take_ops());
    bob.disk = super::world::Disk::default();
    bob.disk.0.extend(group.records());
    bob.group = Some(group);
    let (commit, info) = (&bundle.commit, &bundle.group_info);
    world.server.commit(bob.sender(), commit, None, info).unwrap();
    for other in [0, 2] {
        devices[other].follow(commit).unwrap();
    }
    scene.group_info = bundle.group_info;
    old
}

#[test]
fn what_was_sent_before_one_came_back_is_read_once_as_after_any_commit() {
    for suite in Suite::ALL {
        for keep in [true, false] {
            let mut scene = Scene::new(suite);
            let mut sent = Vec::new();
            for round in 0..3 {
                for by in [0, 2] {
                    let text = format!("{by} in epoch {}", scene.devices[by].group().epoch());
                    let message = scene.devices[by].send(text.as_bytes()).unwrap();
                    sent.push((scene.devices[by].local.record.clone(), message, text));
                }
                if round < 2 {
                    scene.group_info = scene
                        .world
                        .turn(&mut scene.devices, 2 * round, &Plan::default())
                        .group_info;
                }
            }
            // One of them is read before.
            let (_, read, text) = sent.pop().unwrap();
            assert_eq!(scene.devices[1].read(&read).unwrap().1, text.as_bytes());
            comes_back(&mut scene, keep);
            scene.world.agree(&scene.devices.iter().collect::<Vec<_>>());
            let bob = &mut scene.devices[1];
            let now = bob.group().epoch();
            assert!(matches!(bob.receive(&read), Err(MlsError::Decrypt | MlsError::PastEpoch)));
            for (by, message, text) in &sent {
                let epoch: u64 = text.rsplit(' ').next().unwrap().parse().unwrap();
                bob.restart();
                if keep && epoch + 2 >= now {
                    let Received::Application { sender, epoch: of, content } =
                        bob.receive(message).unwrap()
                    else {
                        panic!("not content")
                    };
                    assert_eq!((&sender, of, content.as_slice()), (by, epoch, text.as_bytes()));
                    bob.restart();
                    assert!(matches!(bob.receive(message), Err(MlsError::Decrypt)));
                } else {
                    assert!(matches!(bob.receive(message), Err(MlsError::PastEpoch)));
                }
            }
            // Two commits later the keys are gone, here as at everybody else's.
            let late = scene.devices[0].send(b"late").unwrap();
            for by in [1, 0, 2] {
                scene.world.turn(&mut scene.devices, by, &Plan::default());
            }
            assert!(matches!(scene.devices[1].receive(&late), Err(MlsError::PastEpoch)));
            scene.devices[1].restart();
            scene.world.agree(&scene.devices.iter().collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_group_of_another_epoch_or_id_is_not_kept() {
    let mut scene = Scene::new(Suite::Classical);
    let missed = scene.devices[0].send(b"missed").unwrap();
    let copy = scene.devices[1].disk.clone();
    scene.group_info = scene.world.turn(&mut scene.devices, 0, &Plan::default()).group_info;
    comes_back(&mut scene, false);
    let bob = &mut scene.devices[1];
    let stale = Group::restore(bob.backend, copy.records()).unwrap();
    let before = bob.group().records();
    bob.group.as_mut().unwrap().keep_past(&stale).unwrap();
    assert_eq!(bob.group().records(), before);
    assert!(matches!(bob.receive(&missed), Err(MlsError::PastEpoch)));
}

/// A message of the leaf that was replaced says nothing new: that this device has forgotten it is why it came back.
#[test]
fn a_forgotten_message_of_the_leaf_before_is_of_an_epoch_that_is_over() {
    let mut scene = Scene::new(Suite::Classical);
    let copy = scene.devices[1].disk.clone();
    let forgotten = scene.devices[1].send(b"forgotten").unwrap();
    scene.devices[1].disk = copy;
    scene.devices[1].group =
        Some(Group::restore(scene.devices[1].backend, scene.devices[1].disk.records()).unwrap());
    assert_eq!(scene.devices[1].receive(&forgotten).unwrap_err(), MlsError::OwnMessage);
    comes_back(&mut scene, true);
    assert_eq!(scene.devices[1].receive(&forgotten).unwrap_err(), MlsError::PastEpoch);
    assert_eq!(scene.devices[0].read(&forgotten).unwrap().1, b"forgotten");
    let own = scene.devices[1].send(b"own").unwrap();
    assert_eq!(scene.devices[1].receive(&own).unwrap_err(), MlsError::OwnMessage);
}

/// One that came back twice keeps what it kept the first time.
#[test]
fn what_is_kept_is_kept_over_another_return() {
    let mut scene = Scene::new(Suite::Classical);
    let (one, two) = (scene.devices[0].send(b"1").unwrap(), scene.devices[2].send(b"2").unwrap());
    comes_back(&mut scene, true);
    assert_eq!(scene.devices[1].read(&one).unwrap().1, b"1");
    let three = scene.devices[2].send(b"3").unwrap();
    comes_back(&mut scene, true);
    let bob = &mut scene.devices[1];
    bob.restart();
    for (message, text) in [(&two, b"2"), (&three, b"3")] {
        assert_eq!(bob.read(message).unwrap().1, text);
        assert!(matches!(bob.receive(message), Err(MlsError::Decrypt)));
    }
    assert!(matches!(bob.receive(&one), Err(MlsError::Decrypt)));
}
