//! The ordinary life of a group. Every device restarts from its disk after every step.

use openmls::prelude::LeafNodeIndex;

use super::world::{Device, START, World, adding, removing};
use crate::crypto::identity::{DeviceKey, DeviceRecord};
use crate::mls::commit::Wish;
use crate::mls::group::{Group, LocalDevice, Plan, Received};
use crate::mls::provider::Provider;
use crate::mls::suite::Suite;
use crate::mls::{Context, MlsError};

#[test]
fn two_talk_both_ways() {
    for suite in Suite::ALL {
        let mut devices = [Device::new(1), Device::new(2)];
        World::new(suite, &mut devices);
        let [alice, bob] = &mut devices;
        let hello = alice.send(b"hello").unwrap();
        assert_eq!(bob.read(&hello).unwrap(), (alice.sender(), b"hello".to_vec()));
        let answer = bob.send(b"well met").unwrap();
        assert_eq!(alice.read(&answer).unwrap(), (bob.sender(), b"well met".to_vec()));
        assert_eq!((alice.group().own_leaf(), bob.group().own_leaf()), (0, 1));
        assert!(!String::from_utf8_lossy(&hello).contains("hello"));
    }
}

#[test]
fn who_is_removed_reads_no_more() {
    for suite in Suite::ALL {
        let mut devices = [Device::new(1), Device::new(2), Device::new(3)];
        let mut world = World::new(suite, &mut devices[..2]);
        let package = devices[2].package(suite, false);
        let added = devices[0].commit(&adding(&[package])).unwrap();
        let tree = world.accept(&mut devices[0], &added).unwrap();
        let change = devices[1].follow(&added.commit).unwrap();
        assert_eq!(change.added, [devices[2].local.record.clone()]);
        assert_eq!((change.committer, change.epoch), (devices[0].sender(), 2));
        devices[2].join(added.welcome.as_ref().unwrap(), &tree).unwrap();
        world.agree(&devices.each_ref());
        let all = devices[2].send(b"hello all").unwrap();
        assert_eq!(devices[0].read(&all).unwrap().1, b"hello all");
        assert_eq!(devices[1].read(&all).unwrap().1, b"hello all");

        let before_removal = devices[1].disk.clone();
        let removal = devices[0].commit(&removing(&[devices[1].sender()])).unwrap();
        assert!(removal.welcome.is_none());
        world.accept(&mut devices[0], &removal).unwrap();
        let change = devices[2].follow(&removal.commit).unwrap();
        assert_eq!((change.removed, change.evicted), (vec![devices[1].sender()], false));
        let change = devices[1].follow(&removal.commit).unwrap();
        assert!(change.evicted && change.removed == [devices[1].sender()]);
        world.agree(&[&devices[0], &devices[2]]);

        let secret = devices[0].send(b"without Bob").unwrap();
        assert_eq!(devices[2].read(&secret).unwrap().1, b"without Bob");
        assert!(matches!(devices[1].receive(&secret), Err(MlsError::NotMember)));
        assert!(matches!(devices[1].send(b"still here?"), Err(MlsError::NotMember)));
        let plan = Plan::default();
        assert!(matches!(devices[1].commit(&plan), Err(MlsError::NotMember)));
        // Nor if it ignores its removal.
        devices[1].disk = before_removal;
        let old = Group::restore(devices[1].backend, devices[1].disk.records()).unwrap();
        devices[1].group = Some(old);
        assert!(matches!(devices[1].receive(&secret), Err(MlsError::FutureEpoch)));
    }
}

#[test]
fn who_loses_a_race_discards_and_tries_again() {
    for suite in Suite::ALL {
        let mut devices = [Device::new(1), Device::new(2), Device::new(3)];
        let mut world = World::new(suite, &mut devices);
        let bundles: Vec<_> =
            devices.iter_mut().map(|device| device.commit(&Plan::default()).unwrap()).collect();
        assert!(devices.iter().all(|device| device.group().has_pending()));
        assert!(matches!(devices[1].commit(&Plan::default()), Err(MlsError::Pending(_))));
        world.accept(&mut devices[0], &bundles[0]).unwrap();
        let late = world.accept_error(&devices[1], &bundles[1]);
        assert_eq!(late, MlsError::PastEpoch);
        // One finds out from the log, the other is told to drop its own first.
        devices[1].follow(&bundles[0].commit).unwrap();
        devices[2].run(|group, _, _| group.discard_pending()).unwrap();
        assert!(!devices[2].group().has_pending());
        devices[2].follow(&bundles[0].commit).unwrap();
        assert!(!devices[1].group().has_pending());
        world.agree(&devices.each_ref());
        let none = devices[1].run(|group, cx, _| group.merge_pending(cx));
        assert!(matches!(none, Err(MlsError::Pending(_))));
        for loser in [1, 2] {
            world.turn(&mut devices, loser, &Plan::default());
            world.agree(&devices.each_ref());
        }
        assert_eq!(devices[0].group().epoch(), 4);
    }
}

#[test]
fn a_pending_commit_survives_restarts_and_the_own_echo() {
    for suite in Suite::ALL {
        let mut devices = [Device::new(1), Device::new(2)];
        let mut world = World::new(suite, &mut devices);
        let bundle = devices[0].commit(&Plan::default()).unwrap();
        devices[0].restart();
        devices[0].restart();
        assert!(devices[0].group().has_pending());
        assert!(matches!(devices[0].receive(&bundle.commit), Err(MlsError::Pending(_))));
        assert!(devices[0].group().has_pending());
        world.accept(&mut devices[0], &bundle).unwrap();
        devices[1].follow(&bundle.commit).unwrap();
        world.agree(&devices.each_ref());
        assert!(matches!(devices[0].receive(&bundle.commit), Err(MlsError::PastEpoch)));
        let own = devices[0].send(b"mine").unwrap();
        assert!(matches!(devices[0].receive(&own), Err(MlsError::OwnMessage)));
        assert_eq!(devices[1].read(&own).unwrap().1, b"mine");
    }
}

#[test]
fn a_rollback_forgets_what_was_not_taken() {
    let mut devices = [Device::new(1), Device::new(2)];
    World::new(Suite::Hybrid, &mut devices);
    let [alice, bob] = &mut devices;
    let message = bob.send(b"hello").unwrap();
    let group = alice.group.as_mut().unwrap();
    let cx = Context { backend: alice.backend, entropy: &mut alice.entropy, wall: alice.wall };
    group.receive(cx, &message).unwrap();
    group.rollback().unwrap();
    assert_eq!(group.take_ops(), []);
    assert_eq!(alice.read(&message).unwrap().1, b"hello");
}

#[test]
fn a_member_leaves_and_another_one_commits_it() {
    for suite in Suite::ALL {
        let mut devices = [Device::new(1), Device::new(2), Device::new(3)];
        let mut world = World::new(suite, &mut devices);
        let leaver = devices[1].sender();
        let leave = |group: &mut Group, cx: Context<'_>, local: &LocalDevice| {
            group.propose(cx, local, Wish::Leave)
        };
        let wish = devices[1].run(leave).unwrap();
        // Until the log has shown it, it is as if nothing had been said.
        assert!(!devices[1].group().has_proposals());
        world.server.propose(leaver, &wish, START).unwrap();
        devices[1].receive(&wish).unwrap();
        assert!(matches!(devices[1].run(leave), Err(MlsError::Pending(_))));
        for index in [0, 2] {
            let received = devices[index].receive(&wish).unwrap();
            let Received::Proposal { sender, leaves } = received else { panic!("no proposal") };
            assert_eq!((sender, leaves), (leaver, true));
            assert!(devices[index].group().has_proposals());
            // RFC 9420 §12.4: what was proposed is committed before anything is sent.
            assert!(matches!(devices[index].send(b"wait"), Err(MlsError::Pending(_))));
            assert!(matches!(devices[index].receive(&wish), Err(MlsError::Invalid(_))));
        }
        // A plain member may commit it; who leaves cannot.
        let bundle = world.turn(&mut devices, 2, &Plan::default());
        assert!(!devices[1].group().members().iter().any(|leaf| leaf.record.sender() == leaver));
        assert!(matches!(devices[1].receive(&bundle.commit), Err(MlsError::NotMember)));
        world.agree(&[&devices[0], &devices[2]]);
        assert!(!devices[0].group().has_proposals());
        let message = devices[0].send(b"gone").unwrap();
        assert_eq!(devices[2].read(&message).unwrap().1, b"gone");
    }
}

#[test]
fn who_wants_to_leave_may_commit_the_wishes_of_others() {
    let mut devices = [Device::new(1), Device::new(2), Device::new(3)];
    let mut world = World::new(Suite::Classical, &mut devices);
    for index in [1, 2] {
        let wish =
            devices[index].run(|group, cx, local| group.propose(cx, local, Wish::Leave)).unwrap();
        world.server.propose(devices[index].sender(), &wish, START).unwrap();
        for device in &mut devices {
            device.receive(&wish).unwrap();
        }
    }
    let bundle = devices[1].commit(&Plan::default()).unwrap();
    world.accept(&mut devices[1], &bundle).unwrap();
    let change = devices[0].follow(&bundle.commit).unwrap();
    assert_eq!(change.removed, [devices[2].sender()]);
    assert!(devices[2].follow(&bundle.commit).unwrap().evicted);
    world.agree(&[&devices[0], &devices[1]]);
    // Its own wish ended with the epoch.
    assert!(!devices[1].group().has_proposals());
    let message = devices[1].send(b"still here").unwrap();
    assert_eq!(devices[0].read(&message).unwrap().1, b"still here");
}

#[test]
fn a_device_gets_a_new_key_and_record() {
    for suite in Suite::ALL {
        let mut devices = [Device::new(1), Device::new(2)];
        let mut world = World::new(suite, &mut devices);
        let (backend, old) = (devices[1].backend, devices[1].local.clone());
        let key = DeviceKey::generate(backend, &mut devices[1].entropy);
        let record = DeviceRecord::sign(
            backend,
            &devices[1].account,
            old.record.device,
            key.public(),
            2,
            devices[1].wall,
        );
        let next = LocalDevice::new(key, record.clone());
        let plan = Plan { rotate: Some(next.clone()), ..Plan::default() };
        let bundle = devices[1].commit(&plan).unwrap();
        let before = devices[1].send(b"with the old key").unwrap();
        let change = {
            let welcome = bundle.welcome.as_deref();
            world
                .server
                .commit(devices[1].sender(), &bundle.commit, welcome, &bundle.group_info)
                .unwrap();
            devices[1].local = next;
            devices[1].merge()
        };
        assert_eq!(change.updated, core::slice::from_ref(&record));
        assert_eq!(devices[0].follow(&bundle.commit).unwrap().updated, [record]);
        world.agree(&devices.each_ref());
        let after = devices[1].send(b"with the new key").unwrap();
        assert_eq!(devices[0].read(&after).unwrap().1, b"with the new key");
        assert_eq!(devices[0].read(&before).unwrap().1, b"with the old key");
        devices[1].local = old;
        assert!(matches!(devices[1].send(b"old again"), Err(MlsError::Record)));
    }
}

#[test]
fn an_admin_changes_the_group_data() {
    let mut devices = [Device::new(1), Device::new(2), Device::new(3)];
    let mut world = World::new(Suite::Classical, &mut devices);
    let mut data = devices[0].group().data().clone();
    data.version += 1;
    data.admins.push(devices[1].account_id());
    data.admins.sort_unstable();
    let plan = Plan { data: Some(data.clone()), ..Plan::default() };
    let bundle = devices[0].commit(&plan).unwrap();
    world.accept(&mut devices[0], &bundle).unwrap();
    for index in [1, 2] {
        let change = devices[index].follow(&bundle.commit).unwrap();
        assert_eq!(change.data.as_ref(), Some(&data));
        assert_eq!(devices[index].group().data(), &data);
    }
    // The new admin may do what it could not before.
    let target = devices[2].sender();
    world.turn(&mut devices, 1, &removing(&[target]));
    world.agree(&[&devices[0], &devices[1]]);
}

#[test]
fn an_accounts_devices_come_and_go_together() {
    let mut devices = vec![Device::new(1), Device::new(2)];
    let sibling = devices[1].sibling(3);
    let mut world = World::new(Suite::Hybrid, &mut devices);
    // A plain member adds and removes devices of its own account.
    devices.push(sibling);
    let package = devices[2].package(Suite::Hybrid, false);
    let bundle = devices[1].commit(&adding(&[package])).unwrap();
    let tree = world.accept(&mut devices[1], &bundle).unwrap();
    devices[0].follow(&bundle.commit).unwrap();
    devices[2].join(bundle.welcome.as_ref().unwrap(), &tree).unwrap();
    world.agree(&devices.iter().collect::<Vec<_>>());
    let message = devices[1].send(b"to all, my other device too").unwrap();
    assert_eq!(devices[2].read(&message).unwrap().0, devices[1].sender());
    let target = devices[2].sender();
    world.turn(&mut devices, 1, &removing(&[target]));
    world.agree(&[&devices[0], &devices[1]]);
    // An admin removes an account whole; the order of several removals is OpenMLS's.
    let package = devices[2].package(Suite::Hybrid, false);
    let bundle = devices[1].commit(&adding(&[package])).unwrap();
    let tree = world.accept(&mut devices[1], &bundle).unwrap();
    devices[0].follow(&bundle.commit).unwrap();
    devices[2].join(bundle.welcome.as_ref().unwrap(), &tree).unwrap();
    let both = [devices[2].sender(), devices[1].sender()];
    let bundle = world.turn(&mut devices, 0, &removing(&both));
    assert!(bundle.welcome.is_none());
    assert_eq!(devices[0].group().members().len(), 1);
    world.agree(&[&devices[0]]);
}

#[test]
fn a_device_that_lost_its_keys_is_removed_and_added_in_one_commit() {
    let mut devices = [Device::new(1), Device::new(2)];
    let mut world = World::new(Suite::Classical, &mut devices);
    let package = devices[1].package(Suite::Classical, false);
    let plan = Plan { adds: vec![package], removes: vec![devices[1].sender()], ..Plan::default() };
    let bundle = devices[0].commit(&plan).unwrap();
    let tree = world.accept(&mut devices[0], &bundle).unwrap();
    devices[1].join(bundle.welcome.as_ref().unwrap(), &tree).unwrap();
    world.agree(&devices.each_ref());
    let message = devices[1].send(b"back").unwrap();
    assert_eq!(devices[0].read(&message).unwrap().1, b"back");
}

#[test]
fn a_wish_that_comes_after_a_commit_was_made_goes_into_the_next_try() {
    let mut devices = [Device::new(1), Device::new(2), Device::new(3)];
    let mut world = World::new(Suite::Classical, &mut devices);
    let target = devices[1].sender();
    let early = devices[0].commit(&removing(&[target])).unwrap();
    let wish = devices[2].run(|group, cx, local| group.propose(cx, local, Wish::Leave)).unwrap();
    world.server.propose(devices[2].sender(), &wish, START).unwrap();
    for device in &mut devices {
        device.receive(&wish).unwrap();
    }
    // The server sees to it that nobody is kept; the pending commit is as it was, and is of no use any more.
    assert_eq!(world.accept_error(&devices[0], &early), MlsError::LeftOut);
    // The members by themselves, too.
    assert_eq!(devices[1].receive(&early.commit).unwrap_err(), MlsError::LeftOut);
    assert!(devices[0].group().has_pending() && devices[0].group().has_proposals());
    devices[0].run(|group, _, _| group.discard_pending()).unwrap();
    // It says what is queued already, too.
    let again = removing(&[target, devices[2].sender()]);
    let again = devices[0].commit(&again).unwrap();
    world.accept(&mut devices[0], &again).unwrap();
    assert_eq!(devices[0].group().members().len(), 1);
    for leaver in [1, 2] {
        let change = devices[leaver].follow(&again.commit).unwrap();
        assert!(change.evicted);
        assert_eq!(change.removed.len(), 2);
    }
    world.agree(&[&devices[0]]);
}

#[test]
fn a_device_to_be_removed_by_others_does_not_commit() {
    let mut devices = [Device::new(1), Device::new(2), Device::new(3)];
    let mut world = World::new(Suite::Classical, &mut devices);
    let leaf = LeafNodeIndex::new(2);
    let wish = {
        let device = &mut devices[0];
        let group = device.group.as_mut().unwrap();
        let provider = Provider::new(device.backend, &mut device.entropy, &group.overlay);
        let signer = device.local.signer(device.backend);
        let (wish, _) = group.mls.propose_remove_member(&provider, &signer, leaf).unwrap();
        wish.to_bytes().unwrap()
    };
    world.server.propose(devices[0].sender(), &wish, START).unwrap();
    for index in [1, 2] {
        let received = devices[index].receive(&wish).unwrap();
        let Received::Proposal { sender, leaves } = received else { panic!("no proposal") };
        assert_eq!((sender, leaves), (devices[0].sender(), false));
    }
    assert!(matches!(devices[2].commit(&Plan::default()), Err(MlsError::Pending(_))));
    // A plain member may commit what an admin proposed.
    let bundle = devices[1].commit(&Plan::default()).unwrap();
    world.accept(&mut devices[1], &bundle).unwrap();
    devices[0].follow(&bundle.commit).unwrap();
    assert!(devices[2].follow(&bundle.commit).unwrap().evicted);
    world.agree(&[&devices[0], &devices[1]]);
}

#[test]
fn content_is_not_printed() {
    let mut devices = [Device::new(1), Device::new(2)];
    World::new(Suite::Classical, &mut devices);
    let message = devices[0].send(b"only for you").unwrap();
    let received = devices[1].receive(&message).unwrap();
    let printed = format!("{received:?} {received:#?}");
    assert!(printed.contains("12 bytes"), "{printed}");
    assert!(!printed.contains("111, 110") && !printed.contains("only"), "{printed}");
}

#[test]
fn what_is_proposed_by_reference_is_committed_by_anybody_and_comes_true() {
    for suite in Suite::ALL {
        let mut devices = vec![Device::new(1), Device::new(2), Device::new(3)];
        let mut world = World::new(suite, &mut devices);
        devices.push(Device::new(4));
        let package = devices[3].package(suite, false);
        let target = devices[2].sender();
        let add = devices[0].run(|group, cx, local| group.propose(cx, local, Wish::Add(&package)));
        let remove =
            devices[0].run(|group, cx, local| group.propose(cx, local, Wish::Remove(target)));
        for wish in [add.unwrap(), remove.unwrap()] {
            world.server.propose(devices[0].sender(), &wish, START).unwrap();
            for device in &mut devices[..3] {
                assert!(matches!(device.receive(&wish), Ok(Received::Proposal { .. })));
            }
        }
        assert_eq!(devices[1].group().proposed(), [devices[3].sender(), target].into());
        // A plain member commits both, and welcomes.
        let bundle = devices[1].commit(&Plan::default()).unwrap();
        let tree = world.accept(&mut devices[1], &bundle).unwrap();
        let change = devices[0].follow(&bundle.commit).unwrap();
        assert_eq!(change.added, [devices[3].local.record.clone()]);
        assert!(devices[2].follow(&bundle.commit).unwrap().evicted);
        devices[3].join(bundle.welcome.as_ref().unwrap(), &tree).unwrap();
        world.agree(&[&devices[0], &devices[1], &devices[3]]);
    }
}

#[test]
fn an_invitation_alone_brings_no_fresh_keys_and_an_update_beside_it_does() {
    for update in [false, true] {
        let mut devices = vec![Device::new(1), Device::new(2)];
        let mut world = World::new(Suite::Classical, &mut devices);
        let package = Device::new(3).package(Suite::Classical, false);
        let plan = Plan { adds: vec![package], update, ..Plan::default() };
        let bundle = devices[0].commit(&plan).unwrap();
        world.accept(&mut devices[0], &bundle).unwrap();
        assert_eq!(devices[1].follow(&bundle.commit).unwrap().rekeyed, update);
    }
}
