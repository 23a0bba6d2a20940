//! Envelope keys: new ones every week and with every new device key, and those before for as long as a note waits.

use std::time::Duration;

use crate::lifecycle::lose_rotation;
use crate::talk::*;
use qpc_protocol::client::event::{Event, Outcome};
use qpc_protocol::crypto::identity::EnvelopeKeys;
use qpc_protocol::crypto::portable;
use qpc_protocol::error::ErrorCode;
use qpc_protocol::wire::message::{Body, Failure, Reply, Request};
use qpc_sim::world::{Rules, World};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const RECORD: &[u8] = b"d/envelopes";

fn place(seed: u64) -> World {
    let mut world = World::new(Rules::new(seed));
    world.register("alice");
    world.settle();
    world
}

/// What the server hands out, which its device has signed.
fn published(world: &mut World) -> EnvelopeKeys {
    match world.done(ALICE, |client, now| client.devices(now)) {
        Outcome::Devices(devices) => {
            let [only] = devices.as_slice() else { panic!("{devices:?}") };
            only.envelope_keys.verify(portable(), &only.record.device_key).unwrap();
            only.envelope_keys.clone()
        }
        other => panic!("{other:?}"),
    }
}

/// Some of the secrets of before that were stored last: in front of the time they are followed by.
fn secret_of_before(world: &World) -> Vec<u8> {
    let record = &world.devices[ALICE].disk[RECORD];
    record[record.len() - 60..record.len() - 28].to_vec()
}

fn is_stored(world: &World, secret: &[u8]) -> bool {
    let mut values = world.devices[ALICE].disk.values();
    values.any(|value| value.windows(secret.len()).any(|window| window == secret))
}

#[test]
fn envelope_keys_are_new_every_week_and_those_before_are_erased_a_week_later() {
    let mut world = place(1);
    let first = published(&mut world);
    world.pass(DAY * 6);
    assert_eq!(published(&mut world), first);
    world.pass(DAY * 2);
    let second = published(&mut world);
    assert_eq!(second.sequence, first.sequence + 1);
    assert!(second.x25519 != first.x25519 && second.mlkem768 != first.mlkem768);
    let secret = secret_of_before(&world);
    world.pass(DAY * 5);
    assert!(is_stored(&world, &secret));
    let stored = world.devices[ALICE].disk[RECORD].len();
    world.pass(DAY * 2);
    assert!(!is_stored(&world, &secret));
    assert_eq!(published(&mut world).sequence, first.sequence + 2);
    // Off for ten days: the same as soon as it is on again, and no more is kept.
    world.crash(ALICE);
    world.advance(DAY * 10);
    world.start(ALICE);
    world.settle();
    assert_eq!(published(&mut world).sequence, first.sequence + 3);
    assert_eq!(world.devices[ALICE].disk[RECORD].len(), stored);
    // Those of before go from a device that is offline, too.
    let secret = secret_of_before(&world);
    world.devices[ALICE].connect = false;
    world.cut(ALICE);
    world.pass(DAY * 8);
    assert!(!is_stored(&world, &secret));
}

#[test]
fn a_new_device_key_comes_with_new_envelope_keys() {
    let mut world = place(2);
    let first = published(&mut world);
    world.done(ALICE, |client, now| client.rotate(now));
    world.settle();
    let second = published(&mut world);
    assert_eq!(second.sequence, first.sequence + 1);
    assert!(second.x25519 != first.x25519 && second.mlkem768 != first.mlkem768);
    // A week from then on.
    world.pass(DAY * 6);
    assert_eq!(published(&mut world), second);
    world.pass(DAY * 2);
    assert_eq!(published(&mut world).sequence, second.sequence + 1);
}

/// What the server has is what the device keeps, whether or not it was told.
#[test]
fn new_envelope_keys_whose_answer_is_lost_are_offered_again() {
    for crash in [false, true] {
        let mut world = place(3);
        let first = published(&mut world);
        let lost = lose_rotation(&mut world, ALICE, true);
        world.pass(DAY * 7 + Duration::from_secs(60));
        assert!(lost.get() > 0);
        let record = world.devices[ALICE].disk[RECORD].clone();
        if crash {
            world.crash(ALICE);
            world.start(ALICE);
        }
        honest(&mut world, &[ALICE]);
        world.settle();
        let second = published(&mut world);
        assert_eq!(second.sequence, first.sequence + 1);
        assert_ne!(second.x25519, first.x25519);
        // Those that were drawn before the answer was lost are in use, so nothing else was drawn.
        let drawn = record
            .windows(32)
            .any(|secret| portable().x25519_public(&secret.try_into().unwrap()) == second.x25519);
        assert!(drawn, "crash: {crash}");
        world.pass(DAY);
        assert_eq!(published(&mut world), second);
    }
}

#[test]
fn a_server_that_cannot_take_envelope_keys_now_is_asked_again() {
    let mut world = place(4);
    let first = published(&mut world);
    let mut refused = 0;
    let mut call = None;
    lie_both_ways(&mut world, ALICE, move |up, mut frame| {
        if up && matches!(frame.body, Body::Request(Request::DeviceRegister { .. })) {
            call = Some(frame.call);
        }
        if !up && call == Some(frame.call) && refused < 3 && frame.body == Body::Reply(Reply::Done)
        {
            refused += 1;
            frame.body = Body::Failure(Failure::from(ErrorCode::Unavailable));
        }
        vec![frame]
    });
    world.pass(DAY * 8);
    assert_eq!(published(&mut world).sequence, first.sequence + 1);
    assert!(!saw(&world, ALICE, |event| matches!(event, Event::Failed(..))));
}

/// What it would offer has a sequence that was used since: the server keeps what it has, and no note would open.
#[test]
fn a_restored_backup_goes_on_from_where_the_server_is() {
    for (seed, weeks) in [(6, 1), (7, 3), (8, 1), (9, 3)] {
        let mut world = place(seed);
        let copy = world.devices[ALICE].disk.clone();
        let first = published(&mut world);
        for _ in 0..weeks {
            world.pass(DAY * 8);
        }
        let later = published(&mut world);
        assert_eq!(later.sequence, first.sequence + weeks);
        if seed > 7 {
            // By its own clock it is not time for new ones yet: what it learns of it is that it is a backup.
            world.cut(ALICE);
            world.settle();
            let back = (DAY * 8 * weeks).as_millis();
            world.devices[ALICE].clock.ahead = -i64::try_from(back).unwrap();
        }
        world.devices[ALICE].log.clear();
        put_back(&mut world, ALICE, copy);
        if seed == 9 {
            // Its tokens were renewed twice since.
            world.until(|world| saw(world, ALICE, |e| matches!(e, Event::SessionEnded(_))));
            let password = "password of alice".to_owned();
            world.done(ALICE, |client, now| client.login(now, "alice", password.into()));
        }
        world.settle();
        assert_eq!(saw(&world, ALICE, restored), seed > 7);
        let now = published(&mut world);
        assert_eq!(now.sequence, later.sequence + 1, "seed {seed}");
        assert!(is_own(&world, &now), "seed {seed}");
        // And no others for now.
        world.pass(DAY);
        restart(&mut world, ALICE);
        world.settle();
        assert_eq!(published(&mut world), now);
    }
}

/// Whether the device has the secrets of what the server gives out.
fn is_own(world: &World, keys: &EnvelopeKeys) -> bool {
    let identity = &world.devices[ALICE].disk[b"d/identity".as_slice()];
    identity
        .windows(32)
        .any(|secret| portable().x25519_public(&secret.try_into().unwrap()) == keys.x25519)
}

/// Which were offered last is not known any more: their sequence is passed over.
#[test]
fn a_damaged_record_of_envelope_keys_costs_those_before() {
    let mut world = place(5);
    let first = published(&mut world);
    world.crash(ALICE);
    world.devices[ALICE].disk.get_mut(RECORD).unwrap().truncate(1);
    world.start(ALICE);
    world.settle();
    assert!(saw(&world, ALICE, |event| matches!(event, Event::RecordLost { .. })));
    assert_eq!(published(&mut world).sequence, first.sequence + 2);
}
