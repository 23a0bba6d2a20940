//! External commits: a device that fell out replaces its own leaf, and nothing else.

use super::world::*;
use crate::mls::suite::Suite;

#[test]
fn a_device_replaces_its_own_leaf() {
    for suite in Suite::ALL {
        let World { mut server, mut alice, mut bob, bob2, added, .. } = World::new(suite);
        let members = server.state().members();
        let mut back = Device::new(3, 1);
        let sent = back.rejoin(&added.group_info, &server.state().tree().unwrap());
        server.refuses(&bob, &sent, "another device");
        server.refuses(&bob2, &sent, "another device");
        let checked = server.commit(back.sender(), &sent).unwrap();
        assert_eq!((checked.epoch, checked.adds, checked.removes), (2, vec![], vec![]));
        assert_eq!(checked.tree, None);
        for device in [&mut alice, &mut bob] {
            device.receive(&sent.commit);
        }
        server.agree(&[&alice, &bob, &back]);
        assert_eq!(server.state().members(), members);
        let sent = back.update();
        server.commit(back.sender(), &sent).unwrap();
    }
}

/// It refers to no proposal: those who are queued to be added are proposed again.
#[test]
fn a_device_comes_back_while_somebody_is_queued_to_be_added() {
    let World { mut server, mut alice, mut carol, added, .. } = World::new(Suite::Classical);
    let package = Device::new(4, 1).key_package(Suite::Classical);
    let proposal = alice.propose(openmls::prelude::Propose::Add(package));
    server.propose(alice.sender(), &proposal).unwrap();
    let mut other = Stored { records: server.records.clone() };
    let mut back = Device::new(3, 1);
    let sent = back.rejoin(&added.group_info, &server.state().tree().unwrap());
    let checked = server.commit(back.sender(), &sent).unwrap();
    assert_eq!((checked.epoch, checked.left_out), (2, None));
    assert!(server.state().queued().unwrap().is_empty());
    // A member who leaves it out is told until when that is not right.
    let sent = carol.update();
    assert_eq!(other.commit(carol.sender(), &sent).unwrap().left_out, Some(EXPIRES));
}

/// An external commit that would remove somebody else, and one whose path repeats a key of the tree
/// (openmls PR 2207, Wire mls-removal-user-mismatch).
#[test]
fn regression_15_an_external_commit_removes_no_other_and_repeats_no_key() {
    let World { mut server, carol, added, mut stranger, alice, .. } = World::new(Suite::Classical);
    let tree = server.state().tree().unwrap();

    // OpenMLS replaces the leaf with the same signature key: give Carol's to another device of hers.
    let other = record(&account(3), 2, 1, &key(3, 1, 1));
    let mut other = Device::with(key(3, 1, 1), other);
    let sent = other.rejoin(&added.group_info, &tree);
    for by in [&carol, &other] {
        assert!(server.commit(by.sender(), &sent).is_err());
    }
    // A newcomer replaces nobody.
    let sent = stranger.rejoin(&added.group_info, &tree);
    server.refuses(&stranger, &sent, "no longer a member");
    server.refuses(&alice, &sent, "no leaf of its own");
    // A device with a fresh key would have two leaves: it has to be removed and added.
    let mut rekeyed = Device::numbered(3, 1, 2);
    let sent = rekeyed.rejoin(&added.group_info, &tree);
    server.refuses(&rekeyed, &sent, "no leaf of its own");

    // The randomness of somebody else's path: its keys are in the tree since.
    let mut world = World::new(Suite::Classical);
    let same = || crate::env::Entropy::from_seed([5; 32]);
    let mut carol = Device::new(3, 1);
    carol.entropy = same();
    let sent = carol.rejoin(&added.group_info, &tree);
    world.server.commit(carol.sender(), &sent).unwrap();
    let tree = world.server.state().tree().unwrap();
    let mut bob = Device::new(2, 1);
    bob.entropy = same();
    let again = bob.rejoin(&sent.group_info, &tree);
    world.server.refuses(&bob, &again, "encryption key");
    // And one's own, by ordinary commits.
    let mut bob = Device::new(2, 1);
    let sent = bob.rejoin(&sent.group_info, &tree);
    world.server.commit(bob.sender(), &sent).unwrap();
    bob.entropy = same();
    let sent = bob.update();
    world.server.commit(bob.sender(), &sent).unwrap();
    bob.merge();
    bob.entropy = same();
    let again = bob.update();
    world.server.refuses(&bob, &again, "encryption key");
}
