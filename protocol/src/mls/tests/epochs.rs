//! Messages of other epochs, out of order, and again.

use super::world::{Device, World, adding, removing};
use crate::mls::MlsError;
use crate::mls::group::{Group, Plan, Received};
use crate::mls::suite::Suite;

#[test]
fn content_of_two_epochs_back_is_read_and_of_three_is_not() {
    for suite in Suite::ALL {
        let mut devices = [Device::new(1), Device::new(2)];
        let mut world = World::new(suite, &mut devices);
        let mut late = Vec::new();
        for _ in 0..4 {
            let text = devices[1].group().epoch().to_string();
            late.push((devices[1].send(text.as_bytes()).unwrap(), text));
            world.turn(&mut devices, 1, &Plan::default());
        }
        let now = devices[0].group().epoch();
        assert_eq!(now, 5);
        for (message, text) in &late {
            let sent: u64 = text.parse().unwrap();
            if sent + 2 < now {
                assert!(matches!(devices[0].receive(message), Err(MlsError::PastEpoch)));
            } else {
                let Received::Application { epoch, content, .. } =
                    devices[0].receive(message).unwrap()
                else {
                    panic!("not content")
                };
                assert_eq!((epoch, content.as_slice()), (sent, text.as_bytes()));
            }
        }
    }
}

#[test]
fn a_message_of_a_later_epoch_waits_for_its_commit() {
    let mut devices = [Device::new(1), Device::new(2)];
    let mut world = World::new(Suite::Hybrid, &mut devices);
    let bundle = devices[0].commit(&Plan::default()).unwrap();
    world.accept(&mut devices[0], &bundle).unwrap();
    let message = devices[0].send(b"later").unwrap();
    assert!(matches!(devices[1].receive(&message), Err(MlsError::FutureEpoch)));
    devices[1].follow(&bundle.commit).unwrap();
    assert_eq!(devices[1].read(&message).unwrap().1, b"later");
}

#[test]
fn what_was_sent_before_one_joined_is_not_for_it() {
    let mut devices = [Device::new(1), Device::new(2)];
    let mut world = World::new(Suite::Classical, &mut devices[..1]);
    let early = devices[0].send(b"to myself").unwrap();
    let package = devices[1].package(Suite::Classical, false);
    let bundle = devices[0].commit(&adding(&[package])).unwrap();
    let tree = world.accept(&mut devices[0], &bundle).unwrap();
    devices[1].join(bundle.welcome.as_ref().unwrap(), &tree).unwrap();
    assert!(matches!(devices[1].receive(&early), Err(MlsError::PastEpoch)));
}

#[test]
fn messages_out_of_order_are_read_within_the_window() {
    let mut devices = [Device::new(1), Device::new(2)];
    World::new(Suite::Classical, &mut devices);
    let [alice, bob] = &mut devices;
    let sent: Vec<_> = (0..40_u8).map(|n| alice.send(&[n]).unwrap()).collect();
    assert_eq!(bob.read(&sent[39]).unwrap().1, [39]);
    for n in (10..39_u8).rev() {
        assert_eq!(bob.read(&sent[usize::from(n)]).unwrap().1, [n]);
    }
    // Keys skipped are kept for 32 messages.
    assert!(matches!(bob.receive(&sent[0]), Err(MlsError::Decrypt)));
}

/// openmls GHSA-qr9h-x63w-vqfm: the secret tree was not written after a message was decrypted, so a reload
/// forgot which keys were used.
#[test]
fn regression_14_secret_tree_not_persisted() {
    for suite in Suite::ALL {
        let mut devices = [Device::new(1), Device::new(2)];
        World::new(suite, &mut devices);
        let [alice, bob] = &mut devices;
        let message = alice.send(b"once").unwrap();
        bob.read(&message).unwrap();
        for _ in 0..2 {
            bob.restart();
            assert!(matches!(bob.receive(&message), Err(MlsError::Decrypt)));
        }
        // The sender restarts as well, and still no key encrypts twice: were one, the ciphertexts' sender data
        // would name the same generation and the second could not be read after the first.
        for n in 0..5_u8 {
            alice.restart();
            let next = alice.send(&[n]).unwrap();
            assert_eq!(bob.read(&next).unwrap().1, [n]);
        }
    }
}

/// openmls #1944: the credential of a message from a past epoch was taken from the present tree.
#[test]
fn regression_16_wrong_credential_for_a_past_epoch() {
    for suite in Suite::ALL {
        let mut devices = [Device::new(1), Device::new(2), Device::new(3)];
        let mut world = World::new(suite, &mut devices[..2]);
        let late = devices[1].send(b"sent by Bob").unwrap();
        let target = devices[1].sender();
        world.turn(&mut devices[..2], 0, &removing(&[target]));
        let package = devices[2].package(suite, false);
        let bundle = devices[0].commit(&adding(&[package])).unwrap();
        world.accept(&mut devices[0], &bundle).unwrap();
        // Carol sits where Bob sat.
        let members = devices[0].group().members();
        assert_eq!((members[1].leaf, members[1].record.sender()), (1, devices[2].sender()));
        let Received::Application { sender, epoch, content } = devices[0].receive(&late).unwrap()
        else {
            panic!("not content")
        };
        assert_eq!(sender, devices[1].local.record);
        assert_eq!((epoch, content.as_slice()), (1, b"sent by Bob".as_slice()));
    }
}

#[test]
fn a_fork_at_the_same_epoch_does_not_decrypt() {
    let mut devices = [Device::new(1), Device::new(2)];
    let mut world = World::new(Suite::Classical, &mut devices);
    let (one, other) = (
        devices[0].commit(&Plan::default()).unwrap(),
        devices[1].commit(&Plan::default()).unwrap(),
    );
    // A lying server tells each that its own won.
    world.accept(&mut devices[0], &one).unwrap();
    devices[1].merge();
    assert_eq!(devices[0].group().epoch(), devices[1].group().epoch());
    assert_ne!(devices[0].group().authenticator(), devices[1].group().authenticator());
    let message = devices[1].send(b"which world?").unwrap();
    assert!(matches!(devices[0].receive(&message), Err(MlsError::Decrypt)));
    assert_ne!(one.commit, other.commit);
}

#[test]
fn another_groups_message_is_named_as_such() {
    let mut devices = [Device::new(1), Device::new(2)];
    World::new(Suite::Classical, &mut devices);
    let message = devices[0].send(b"hello").unwrap();
    let mut records = devices[1].disk.clone();
    records.0.remove(b"M".as_slice());
    let damaged = Group::restore(devices[1].backend, records.records());
    assert!(matches!(damaged, Err(MlsError::Damaged(_))));
    let mut other = message.clone();
    other[6] ^= 1; // the group id begins behind version, wire format and its length
    assert!(matches!(devices[1].receive(&other), Err(MlsError::WrongGroup)));
    assert_eq!(devices[1].read(&message).unwrap().1, b"hello");
}
