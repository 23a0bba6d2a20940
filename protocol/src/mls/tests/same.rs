//! The same seeds give the same bytes: run after run, whatever threads OpenMLS uses, and on both backends.

use super::world::{Device, World, adding, removing};
use crate::crypto::{Backend, portable};
use crate::id::Digest;
use crate::mls::group::Plan;
use crate::mls::suite::Suite;

/// A conversation of nine devices; the digest of all that was sent.
fn conversation(backend: Backend, suite: Suite) -> Vec<Digest> {
    let mut devices: Vec<_> = (1..=9).map(|seed| Device::with_backend(backend, seed)).collect();
    let mut sent = Vec::new();
    let mut world = World::new(suite, &mut devices[..8]);
    for round in 0..3_u8 {
        for from in 0..8 {
            let message = devices[from].send(&[round; 100]).unwrap();
            for to in (0..8).filter(|to| *to != from) {
                devices[to].read(&message).unwrap();
            }
            sent.push(message);
        }
        let bundle = world.turn(&mut devices[..8], usize::from(round), &Plan::default());
        sent.extend([bundle.commit, bundle.group_info]);
    }
    let package = devices[8].package(suite, false);
    sent.push(package.clone());
    let bundle = devices[0].commit(&adding(&[package])).unwrap();
    let tree = world.accept(&mut devices[0], &bundle).unwrap();
    for device in &mut devices[1..8] {
        device.follow(&bundle.commit).unwrap();
    }
    devices[8].join(bundle.welcome.as_ref().unwrap(), &tree).unwrap();
    sent.extend([bundle.commit, bundle.welcome.unwrap(), bundle.group_info, tree]);
    let target = devices[3].sender();
    let bundle = world.turn(&mut devices, 0, &removing(&[target]));
    sent.extend([bundle.commit, bundle.group_info]);
    sent.push(devices[8].group().authenticator());
    sent.iter().map(|message| Digest::of(&[message])).collect()
}

#[test]
fn run_after_run() {
    for suite in Suite::ALL {
        assert_eq!(conversation(portable(), suite), conversation(portable(), suite));
    }
}

#[cfg(feature = "fast")]
#[test]
fn on_both_backends() {
    for suite in Suite::ALL {
        assert_eq!(conversation(portable(), suite), conversation(crate::crypto::fast(), suite));
    }
}
