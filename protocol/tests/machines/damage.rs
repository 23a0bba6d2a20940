//! Stored records that do not read: each kind costs what it held, and is told; the device goes on, or says what is
//! damaged.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::talk::*;
use qpc_protocol::client::event::{Event, Failed};
use qpc_protocol::error::RestoreError;
use qpc_protocol::id::ChannelId;
use qpc_protocol::limits::REJOIN_TIME;
use qpc_protocol::wire::message::Request;
use qpc_sim::world::World;

/// Records that a device cannot be without.
const NEEDED: [&[u8]; 3] = [b"d/identity", b"d/c/", b"d/devices"];
/// All others that are read at start, and the start of a key of each.
const OTHERS: [&[u8]; 15] = [
    b"d/version",
    b"d/restored",
    b"d/tokens",
    b"d/rotation",
    b"d/packages",
    b"d/sweep",
    b"d/a/",
    b"d/l/",
    b"d/f/",
    b"d/e/",
    b"d/g/",
    b"d/k/",
    b"d/i/",
    b"d/o/",
    b"k/",
];

/// Bob has changed his key, come back to the group once, read and not acknowledged, and something of his is under way.
fn lived_in(seed: u64) -> (World, ChannelId) {
    let (mut world, channel) = three(seed);
    said(&mut world, ALICE, channel, "to read");
    world.done(BOB, |client, now| client.rotate(now));
    world.done(BOB, |client, now| client.rejoin(now, channel));
    world.settle();
    (world, channel)
}

/// What Bob asks for does not get out, and he goes off.
fn leave_things_under_way(world: &mut World, channel: ChannelId) {
    let requests = |request: &Request| matches!(request, Request::Submit(_) | Request::Commit(_));
    hold_back(world, BOB, requests);
    say(world, BOB, channel, "under way");
    world.command(BOB, |client, now| client.update(now, channel));
    world.pass(Duration::from_secs(1));
    world.crash(BOB);
    world.liar = None;
}

/// The records of a kind; where there is none, the key that one would have.
fn keys_of(world: &World, kind: &[u8], channel: ChannelId) -> Vec<Vec<u8>> {
    let disk = world.devices[BOB].disk.keys();
    let found: Vec<_> = disk.filter(|key| key.starts_with(kind)).cloned().collect();
    match kind.ends_with(b"/") && found.is_empty() {
        false if found.is_empty() => vec![kind.to_vec()],
        false => found,
        true => vec![[kind, &channel.0].concat()],
    }
}

fn lost(event: &Event) -> bool {
    matches!(event, Event::RecordLost { .. })
}

#[test]
fn each_damaged_record_costs_what_it_held_and_the_device_goes_on() {
    let (mut world, channel) = lived_in(80);
    let mut seen = BTreeSet::new();
    for kind in OTHERS {
        world.pass(REJOIN_TIME + Duration::from_secs(60));
        leave_things_under_way(&mut world, channel);
        let name = kind.escape_ascii().to_string();
        let keys = keys_of(&world, kind, channel);
        for key in keys {
            if let Some(value) = world.devices[BOB].disk.insert(key, vec![1]) {
                assert!(value.len() > 1, "{name}");
                seen.insert(kind);
            }
        }
        world.devices[BOB].log.clear();
        world.start(BOB);
        if kind == b"d/tokens" {
            let password = "password of bob".to_owned().into();
            world.done(BOB, |client, now| client.login(now, "bob", password));
        }
        if kind == b"k/" {
            // They are read when they are needed.
            world.done(BOB, |client, now| client.refresh_key_packages(now));
        }
        // Who has to come back does so once in an hour, and what waits for it comes true then.
        world.pass(REJOIN_TIME + Duration::from_secs(60));
        world.settle();
        assert!(saw(&world, BOB, lost), "{name}: {:#?}", world.devices[BOB].log);
        let failed = |event: &Event| matches!(event, Event::Failed(_, Failed::Obsolete(_)));
        assert_eq!(saw(&world, BOB, failed), matches!(kind, b"d/i/" | b"d/o/"), "{name}");
        all_say(&mut world, channel, &[ALICE, BOB, CAROL], &name);
        // It is told once.
        world.crash(BOB);
        world.devices[BOB].log.clear();
        world.start(BOB);
        world.settle();
        assert!(!saw(&world, BOB, lost), "{name}");
    }
    let missing: Vec<_> = OTHERS.iter().filter(|kind| !seen.contains(**kind)).collect();
    assert!(missing.len() <= 4, "no such record there: {missing:?}");
    undisturbed(&world, &[ALICE, CAROL]);
    let joined = group_of(&mut world, ALICE, &["bob"]);
    agree(&world, joined, &[ALICE, BOB]);
}

#[test]
fn a_record_that_a_device_cannot_be_without_is_named() {
    let (mut world, channel) = lived_in(81);
    leave_things_under_way(&mut world, channel);
    let whole = world.devices[BOB].disk.clone();
    for kind in NEEDED {
        for key in keys_of(&world, kind, channel) {
            world.devices[BOB].disk.insert(key.clone(), vec![1]);
            let named = RestoreError::Damaged(key.escape_ascii().to_string());
            assert_eq!(world.try_start(BOB), Err(named));
            world.devices[BOB].disk.clone_from(&whole);
        }
    }
    // Nor can it do without knowing who it is, or with a record of which it knows nothing.
    world.devices[BOB].disk.remove(b"d/identity".as_slice());
    assert!(matches!(world.try_start(BOB), Err(RestoreError::Damaged(_))));
    world.devices[BOB].disk.clone_from(&whole);
    world.devices[BOB].disk.insert(b"d/unknown".to_vec(), vec![1]);
    assert!(matches!(world.try_start(BOB), Err(RestoreError::Damaged(_))));
}

/// Cut off anywhere, overwritten, or with one byte changed: a device starts or says what is damaged.
#[test]
fn no_damage_of_a_record_ends_in_a_panic() {
    let (mut world, channel) = lived_in(82);
    leave_things_under_way(&mut world, channel);
    let whole = world.devices[BOB].disk.clone();
    let directory: Vec<_> = whole.iter().filter(|(key, _)| key.starts_with(b"d/")).collect();
    for (key, value) in directory {
        let cut = [0, 1, value.len() / 2, value.len() - 1].map(|length| value[..length].to_vec());
        let over = [0x00, 0x01, 0x7F, 0xFF].map(|byte| vec![byte; value.len()]);
        let step = value.len().div_ceil(50);
        let changed = (0..value.len()).step_by(step).map(|at| {
            let mut value = value.clone();
            value[at] ^= 0x41;
            value
        });
        for bad in cut.into_iter().chain(over).chain(changed) {
            world.devices[BOB].disk.insert(key.clone(), bad);
            let started = world.try_start(BOB);
            let needed = NEEDED.iter().any(|kind| key.starts_with(kind));
            let newer = matches!(started, Err(RestoreError::Newer { .. }));
            assert!(started.is_ok() || needed || newer, "{}", key.escape_ascii());
            if started.is_ok() {
                world.crash(BOB);
            }
        }
        world.devices[BOB].disk.insert(key.clone(), value.clone());
    }
    world.start(BOB);
    world.settle();
    all_say(&mut world, channel, &[ALICE, BOB, CAROL], "sound");
}

/// What is lost with the version is no way to hide that an older state was put in place.
#[test]
fn a_backup_without_its_version_is_still_found_out() {
    let (mut world, channel) = three(83);
    let mut copy = world.devices[BOB].disk.clone();
    for text in ["one", "two", "three"] {
        said(&mut world, BOB, channel, text);
        world.cut(BOB);
        world.settle();
    }
    copy.remove(b"d/version".as_slice());
    world.devices[BOB].log.clear();
    put_back(&mut world, BOB, copy);
    said(&mut world, BOB, channel, "four");
    world.settle();
    assert!(saw(&world, BOB, restored) && saw(&world, BOB, lost));
    assert_eq!(rejoins(&world, BOB).len(), 1);
    all_say(&mut world, channel, &[ALICE, BOB, CAROL], "after");
    undisturbed(&world, &[ALICE, CAROL]);
}
