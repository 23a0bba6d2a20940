mod hostile;
mod refusals;
mod rejoin;
mod world;

use crate::mls::suite::Suite;
use world::*;

fn conversation(suite: Suite) {
    let mut world = World::new(suite);
    let World { server, alice, bob, bob2, carol, .. } = &mut world;

    let sent = bob.update();
    let checked = server.commit(bob.sender(), &sent).unwrap();
    assert_eq!((checked.epoch, checked.tree, checked.expires), (2, None, None));
    assert_eq!((checked.adds, checked.removes, checked.updates), (vec![], vec![], vec![]));
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
    assert_eq!((checked.epoch, checked.updates), (4, vec![rekeyed.member()]));
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
    world.agree(&[&world.alice, &world.bob, &back]);
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
