//! Garbage in both directions of a whole conversation: nothing panics or spins; and once the garbage ends, all talk on.

use std::time::Duration;

use crate::talk::*;
use qpc_protocol::client::event::Event;
use qpc_protocol::env::Entropy;
use qpc_protocol::id::{ChannelId, Digest};
use qpc_protocol::limits::REJOIN_TIME;
use qpc_protocol::wire::frame::{Decoder, encode};
use qpc_protocol::wire::message::{Body, Frame, Part, Push, Reply};
use qpc_sim::world::World;

fn conversation(world: &mut World, channel: ChannelId, dice: &mut Entropy, round: u32) {
    let now = world.now;
    for device in [ALICE, BOB, CAROL] {
        if let Some(client) = world.devices[device].client.as_mut() {
            let _ = client.send(now, channel, format!("{round} of {device}").as_bytes());
            if dice.u64().is_multiple_of(4) {
                let _ = client.update(now, channel);
            }
            if dice.u64().is_multiple_of(8) {
                let _ = client.devices(now);
            }
        }
    }
    world.pass(Duration::from_millis(dice.u64() % 2_000));
}

/// Without garbage: all talk, and each reads what the others say, once.
fn afterwards(world: &mut World, channel: ChannelId, seed: u64) {
    world.garbler = None;
    world.liar = None;
    for device in [ALICE, BOB, CAROL] {
        restart(world, device);
    }
    world.pass(Duration::from_secs(120));
    for device in [ALICE, BOB, CAROL] {
        if world.client(device).may_connect().is_err() {
            // Thrown out by a lie, and told so: the password opens a session again.
            assert!(saw(world, device, |e| matches!(e, Event::SessionEnded(_))), "seed {seed}");
            let name = ["alice", "bob", "carol"][device];
            let password = format!("password of {name}");
            world.done(device, |client, now| client.login(now, name, password.into()));
        }
    }
    // Who fell out comes back, at most once an hour.
    world.pass(REJOIN_TIME + Duration::from_secs(120));
    // What was told of the garbage excuses nothing from here on.
    for device in [ALICE, BOB, CAROL] {
        restart(world, device);
        world.devices[device].log.clear();
    }
    world.pass(Duration::from_secs(60));
    all_say(world, channel, &[ALICE, BOB, CAROL], "after");
}

fn spoil(dice: &mut Entropy, bytes: &mut Vec<u8>) {
    let at = dice.u64() as usize % bytes.len().max(1);
    match dice.u64() % 5 {
        0 => bytes.truncate(at),
        1 => bytes.extend([0xFF; 9]),
        2 => bytes.rotate_left(at),
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (dice.u64() % 8);
            }
        }
    }
}

#[test]
fn spoiled_bytes_end_connections_and_nothing_else() {
    for seed in 0..12 {
        let (mut world, channel) = three(seed);
        let mut dice = Entropy::from_seed([seed as u8; 32]);
        let mut bytes_dice = dice.fork();
        world.garbler = Some(Box::new(move |_, _, bytes| {
            if bytes_dice.u64().is_multiple_of(6) {
                spoil(&mut bytes_dice, bytes);
            }
        }));
        for round in 0..30 {
            conversation(&mut world, channel, &mut dice, round);
        }
        afterwards(&mut world, channel, seed);
    }
}

/// A frame that is well-formed and says something else.
fn distort(dice: &mut Entropy, frame: &mut Frame) {
    let number = match dice.u64() % 4 {
        0 => 0,
        1 => u64::MAX,
        2 => 1,
        _ => dice.u64() % 20,
    };
    let other = Digest([dice.u64() as u8; 32]);
    match &mut frame.body {
        Body::Push(Push::Entries(entries)) => match dice.u64() % 8 {
            0 => entries.head = number,
            1 => entries.first = number,
            2 => entries.entries.reverse(),
            3 => entries.entries.clear(),
            4 => {
                let again = entries.entries.clone();
                entries.entries.extend(again);
                entries.entries.truncate(256);
            }
            rest => {
                for entry in &mut entries.entries {
                    match rest {
                        5 => entry.seq = number,
                        6 => entry.epoch = number,
                        _ => {
                            if let Part::Inline(bytes) = &mut entry.payload {
                                let mut spoiled = bytes.to_vec();
                                spoil(dice, &mut spoiled);
                                *bytes = spoiled.into();
                            }
                        }
                    }
                }
            }
        },
        Body::Reply(Reply::Accepted(accepted)) => match dice.u64() % 2 {
            0 => accepted.seq = number,
            _ => accepted.chain = other,
        },
        Body::Reply(Reply::Subscribed { head }) => *head = number,
        Body::Reply(Reply::KeyPackages { available, last_resort }) => {
            *available = number as u32;
            *last_resort = !*last_resort;
        }
        Body::Reply(Reply::Hello { nonce, .. }) => *nonce = other.0,
        Body::Reply(Reply::Blob { total, .. }) => *total = number,
        Body::Reply(reply) => *reply = Reply::Done,
        Body::Failure(failure) => failure.epoch = number,
        _ => frame.call ^= 1,
    }
}

#[test]
fn distorted_dropped_and_repeated_frames_are_got_over() {
    for seed in 100..112 {
        let (mut world, channel) = three(seed);
        let mut dice = Entropy::from_seed([seed as u8; 32]);
        let mut lies = dice.fork();
        let mut kept: Vec<Frame> = Vec::new();
        world.liar = Some(Box::new(move |_, up, mut frame| {
            match lies.u64() % 24 {
                0 => return vec![],
                1 => return vec![frame.clone(), frame],
                2 if !up => {
                    kept.push(frame.clone());
                    kept.truncate(8);
                }
                3 if !up && !kept.is_empty() => {
                    let old = kept.swap_remove(lies.u64() as usize % kept.len());
                    return vec![frame, old];
                }
                4 | 5 => distort(&mut lies, &mut frame),
                _ => {}
            }
            vec![frame]
        }));
        for round in 0..30 {
            conversation(&mut world, channel, &mut dice, round);
        }
        afterwards(&mut world, channel, seed);
    }
}

/// Bits of frames flip before they are encoded anew, so that what arrives is well-formed as far as can be.
#[test]
fn frames_with_flipped_bits_are_got_over() {
    for seed in 200..208 {
        let (mut world, channel) = three(seed);
        let mut dice = Entropy::from_seed([seed as u8; 32]);
        let mut flips = dice.fork();
        world.liar = Some(Box::new(move |_, _, frame| {
            if !flips.u64().is_multiple_of(8) {
                return vec![frame];
            }
            let mut bytes = Vec::new();
            encode(&frame, &mut bytes);
            let at = 8 + flips.u64() as usize % (bytes.len() - 8);
            bytes[at] ^= 1 << (flips.u64() % 8);
            let mut rest = bytes.as_slice();
            Decoder::new().next(&mut rest).ok().flatten().into_iter().collect()
        }));
        for round in 0..30 {
            conversation(&mut world, channel, &mut dice, round);
        }
        afterwards(&mut world, channel, seed);
    }
}
