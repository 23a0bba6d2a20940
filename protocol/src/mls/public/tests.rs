mod beside;
mod crafted;
mod hostile;
mod queue;
mod refusals;
mod rejoin;
mod world;

use super::*;
use crate::mls::suite::Suite;
use world::*;

fn conversation(suite: Suite) {
    let mut world = World::new(suite);
    let World { server, alice, bob, bob2, carol, .. } = &mut world;

    let sent = bob.update();
    let checked = server.commit(bob.sender(), &sent).unwrap();
    assert_eq!((checked.epoch, checked.tree, checked.expires), (2, None, None));
    assert_eq!((checked.adds, checked.removes), (vec![], vec![]));
    bob.merge();
    for device in [&mut *alice, bob2, carol] {
        device.receive(&sent.commit);
    }

    let leaving = carol.leave();
    server.propose(carol.sender(), &leaving).unwrap();
    for device in [&mut *alice, bob, bob2] {
        device.receive(&leaving);
    }
    let sent = bob2.update();
    let checked = server.commit(bob2.sender(), &sent).unwrap();
    assert_eq!((checked.epoch, checked.removes), (3, vec![carol.sender()]));
    bob2.merge();
    for device in [&mut *alice, bob, carol] {
        device.receive(&sent.commit);
    }
    assert!(!carol.group().is_active());

    let rekeyed = Device::numbered(2, 1, 2);
    let sent = bob.rotate(&rekeyed);
    let checked = server.commit(bob.sender(), &sent).unwrap();
    assert_eq!(checked.epoch, 4);
    assert!(server.state().members().contains(&rekeyed.member()));
    bob.merge();
    (bob.key, bob.record) = (rekeyed.key, rekeyed.record);
    for device in [&mut *alice, bob2] {
        device.receive(&sent.commit);
    }

    let mut back = Device::new(3, 1);
    let leaf = alice.leaf_of(bob2);
    let package = back.key_package(suite);
    let sent = alice.commit(|builder| builder.propose_removals([leaf]).propose_adds([package]));
    let checked = server.commit(alice.sender(), &sent).unwrap();
    assert_eq!((checked.adds, checked.removes), (vec![back.member()], vec![bob2.sender()]));
    alice.merge();
    back.join(sent.welcome.as_ref().unwrap(), checked.tree.as_ref().unwrap());
    bob.receive(&sent.commit);
    let mut data = data(&[alice, bob]);
    data.version = 2;
    let sent = alice.change(&data);
    server.commit(alice.sender(), &sent).unwrap();
    assert_eq!(server.state().data, data);
    alice.merge();
    bob.receive(&sent.commit);
    back.receive(&sent.commit);
    world.server.agree(&[&world.alice, &world.bob, &back]);
    assert_eq!(
        world.server.state().members(),
        [world.alice.member(), world.bob.member(), back.member()]
    );
}

#[test]
fn follows_a_classical_group() {
    conversation(Suite::Classical);
}

#[test]
fn follows_a_hybrid_group() {
    conversation(Suite::Hybrid);
}

#[test]
fn a_device_is_removed_and_added_anew() {
    let World { mut server, mut alice, mut bob, carol, .. } = World::new(Suite::Hybrid);
    let leaf = alice.leaf_of(&carol);
    let mut back = Device::numbered(3, 1, 2);
    let package = back.key_package(Suite::Hybrid);
    let sent = alice.commit(|builder| builder.propose_removals([leaf]).propose_adds([package]));
    let checked = server.commit(alice.sender(), &sent).unwrap();
    assert_eq!((checked.removes, checked.adds), (vec![carol.sender()], vec![back.member()]));
    alice.merge();
    bob.receive(&sent.commit);
    back.join(&sent.welcome.unwrap(), &checked.tree.unwrap());
    server.agree(&[&alice, &bob, &back]);
}

#[test]
fn a_change_that_fails_late_leaves_nothing_behind() {
    let World { server, mut alice, mut bob, mut carol, .. } = World::new(Suite::Classical);
    let mut state = server.state();
    let leaving = carol.leave();
    // Not taken yet, but done: a later failure does not undo it.
    state.propose(carol.sender(), &leaving, NOW).unwrap();
    let before = (state.epoch(), state.members(), state.tree(), state.overlay.records());
    bob.receive(&leaving);
    let sent = bob.update();
    let failed: Result<(), _> = state.change(|state| {
        let checked = state.commit(bob.sender(), &sent.commit, None, &sent.group_info).unwrap();
        assert_eq!((checked.epoch, state.epoch()), (2, 2));
        Err(MlsError::Suite)
    });
    assert_eq!(failed, Err(MlsError::Suite));
    let after = (state.epoch(), state.members(), state.tree(), state.overlay.records());
    assert!(before == after);
    let ignorant = alice.update();
    let refused = state.commit(alice.sender(), &ignorant.commit, None, &ignorant.group_info);
    assert!(refused.is_err());
    state.commit(bob.sender(), &sent.commit, None, &sent.group_info).unwrap();
}
