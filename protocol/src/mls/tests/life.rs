//! The ordinary life of a group. Every device restarts after every step.

use super::world::{Device, World, adding, removing};
use crate::crypto::identity::{DeviceKey, DeviceRecord};
use crate::mls::MlsError;
use crate::mls::group::{LocalDevice, Plan, Received};
use crate::mls::suite::Suite;

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
        assert_eq!(bob.group().members().len(), 2);
        assert_eq!(bob.group().own_leaf(), 1);
    }
}
