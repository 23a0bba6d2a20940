//! External commits: a device that fell out replaces its own leaf, and nothing else.

use super::world::*;
use crate::mls::MlsError;
use crate::mls::suite::Suite;

#[test]
fn a_device_replaces_its_own_leaf() {
    for suite in Suite::ALL {
        let World { mut server, mut alice, mut carol, mut bob, bob2, added, .. } =
            World::new(suite);
        let tree = server.state().tree().unwrap();
        let mut back = Device::new(3, 1);
        let sent = back.rejoin(&added.group_info, &tree);
        server.refuses(&bob, &sent, "another device");
        let checked = server.commit(back.sender(), &sent).unwrap();
        assert_eq!((checked.epoch, checked.adds, checked.removes), (2, vec![], vec![]));
        assert_eq!((checked.updates, checked.tree), (vec![], None));
        for device in [&mut alice, &mut bob] {
            device.receive(&sent.commit);
        }
        let world = World {
            suite,
            server,
            stranger: Device::new(9, 1),
            added,
            alice,
            bob,
            bob2,
            carol: Device::new(3, 1),
        };
        world.agree(&[&world.alice, &world.bob, &back]);
        assert_eq!(world.server.state().members().len(), 4);
        carol.group = None;
    }
}

/// An external commit that would remove somebody else, and one whose path repeats a key of the tree
/// (openmls PR 2207, Wire mls-removal-user-mismatch).
#[test]
fn regression_15_an_external_commit_removes_no_other_and_repeats_no_key() {
    let World { mut server, mut carol, added, stranger, alice, .. } = World::new(Suite::Classical);
    let tree = server.state().tree().unwrap();

    // OpenMLS replaces the leaf with the same signature key: give Carol's to another device of hers.
    let other = record(&account(3), 2, 1, &key(3, 1, 1));
    let mut other = Device::with(key(3, 1, 1), other);
    let sent = other.rejoin(&added.group_info, &tree);
    for by in [&carol, &other] {
        assert!(server.commit(by.sender(), &sent).is_err());
    }
    // A newcomer replaces nobody.
    let mut stranger = stranger;
    let sent = stranger.rejoin(&added.group_info, &tree);
    server.refuses(&stranger, &sent, "no longer a member");
    server.refuses(&alice, &sent, "no leaf of its own");
    // A device with a fresh key would have two leaves: it has to be removed and added.
    let mut rekeyed = Device::numbered(3, 1, 2);
    let sent = rekeyed.rejoin(&added.group_info, &tree);
    server.refuses(&rekeyed, &sent, "no leaf of its own");

    // The same randomness twice: the second path repeats the keys of the first.
    let sent = carol.update();
    server.commit(carol.sender(), &sent).unwrap();
    carol.merge();
    let before = crate::env::Entropy::from_seed([5; 32]);
    let mut one = Device::new(3, 1);
    one.entropy = before;
    let tree = server.state().tree().unwrap();
    let sent = one.rejoin(&sent.group_info, &tree);
    server.commit(one.sender(), &sent).unwrap();
    let mut two = Device::new(3, 1);
    two.entropy = crate::env::Entropy::from_seed([5; 32]);
    let tree = server.state().tree().unwrap();
    let again = two.rejoin(&sent.group_info, &tree);
    server.refuses(&two, &again, "");
    assert_ne!(server.commit(two.sender(), &again), Err(MlsError::PastEpoch));
    let sent = one.update();
    server.commit(one.sender(), &sent).unwrap();
}
