//! Where a corpus begins: real conversations, as scripts that change nothing, and scripts drawn by lot.

use qpc_protocol::env::Entropy;
use qpc_protocol::wire::frame::encode;

use super::act::ACTS;
use super::bundle::carries;
use super::past::{NAMES, past};

/// Drawn scripts of each target.
const DRAWN: usize = 24;
/// Longest seed in bytes.
const LONGEST: usize = 4096;

/// Inputs of the target of that name to begin with, none longer than 4 KiB.
pub fn seeds(name: &str) -> Vec<Vec<u8>> {
    let mut seeds = match name {
        "frame" => frames(),
        "server" => requests(),
        "bundle" => bundles(),
        "client" => commands(),
        "mls" => messages(),
        "join" => product(&[2, 2, 1, 1]),
        "opaque" => product(&[6, 3, 1]),
        "restore" => product(&[5, 4, 2, 8, 1]),
        "world" => worlds(),
        _ => Vec::new(),
    };
    let mut entropy = Entropy::from_seed([10; 32]);
    for drawn in 0..DRAWN {
        let mut seed = vec![0; 16 << (drawn % 5)];
        entropy.fill(&mut seed);
        // Low numbers choose and change little, zeros nothing.
        seed.iter_mut().for_each(|byte| *byte = if *byte < 64 { 0 } else { *byte });
        seeds.push(seed);
    }
    seeds.retain(|seed| seed.len() <= LONGEST);
    seeds
}

/// What the script reads back as this choice among so many.
fn choose(seed: &mut Vec<u8>, sides: usize, side: usize) {
    let len = if sides > 256 { 2 } else { 1 };
    seed.extend(&(side as u16).to_le_bytes()[..len]);
}

fn frames() -> Vec<Vec<u8>> {
    let past = past();
    let all: Vec<_> = past.up.iter().chain(&past.down).collect();
    let mut seeds = Vec::new();
    for (nth, (_, frame)) in all.iter().enumerate() {
        let mut plain = vec![0, 7, 0];
        encode(frame, &mut plain);
        seeds.push(plain);
        let mut told = vec![1, 0, 1];
        choose(&mut told, all.len(), nth);
        told.push(0);
        seeds.push(told);
    }
    seeds
}

/// Each request alone, and what each device asked, as it asked it.
fn requests() -> Vec<Vec<u8>> {
    let past = past();
    let ask = |seed: &mut Vec<u8>, nth: usize| {
        seed.push(0);
        choose(seed, past.up.len(), nth);
        seed.extend([0, 0]);
    };
    let alone = past.up.iter().enumerate().map(|(nth, (device, _))| {
        let mut seed = vec![*device as u8];
        ask(&mut seed, nth);
        seed
    });
    let mut seeds: Vec<_> = alone.collect();
    for device in 0..NAMES.len() {
        let own = past.up.iter().enumerate().filter(|(_, (of, _))| *of == device);
        let own: Vec<_> = own.map(|(nth, _)| nth).collect();
        for stretch in own.chunks(40) {
            let mut seed = vec![device as u8];
            stretch.iter().for_each(|nth| ask(&mut seed, *nth));
            seeds.push(seed);
        }
    }
    seeds
}

fn bundles() -> Vec<Vec<u8>> {
    let count = past().up.iter().filter(|(_, frame)| carries(frame)).count();
    let mut seeds = Vec::new();
    for nth in 0..count {
        for bends in 0..3 {
            let mut seed = Vec::new();
            choose(&mut seed, count, nth);
            seed.push(bends);
            seeds.push(seed);
        }
    }
    seeds
}

/// Every command on every device, while the server is honest, and while it is not.
fn commands() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for device in 0..=NAMES.len() {
        for act in 0..ACTS {
            for lies in [&[][..], &[0, 0, 0, 0, 0, 0, 3, 1], &[0, 0, 0, 5, 1, 2, 0, 0, 7]] {
                let mut seed = vec![device as u8, 6, 0, 0, act as u8, 1, 0, 0, 0];
                seed.extend(lies);
                seeds.push(seed);
            }
        }
    }
    seeds
}

fn messages() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for member in 0..3 {
        for channel in 0..2 {
            for first in 0..96 {
                seeds.push(vec![member, channel, first, 0, 0, first + 1, 0, 0]);
            }
        }
    }
    seeds
}

/// Every way to choose among so many sides.
fn product(sides: &[u8]) -> Vec<Vec<u8>> {
    let mut seeds = vec![Vec::new()];
    for sides in sides {
        let longer = |seed: &Vec<u8>| {
            let seed = seed.clone();
            (0..*sides).map(move |side| [seed.as_slice(), &[side]].concat())
        };
        seeds = seeds.iter().flat_map(longer).collect();
    }
    seeds
}

/// Four devices of two to four accounts in a group, and steps drawn by lot.
fn worlds() -> Vec<Vec<u8>> {
    let mut entropy = Entropy::from_seed([11; 32]);
    let mut seeds = Vec::new();
    for number in 0..32 {
        let mut seed = vec![0, 0, 0, 0, 0, 0, 0, number];
        seed.extend([number, number / 2, number, 0, 0, 3, 0, 1, 1 + number % 2, number % 4, 1]);
        let steps: [u8; 120] = entropy.array();
        seed.extend(steps);
        seeds.push(seed);
    }
    seeds
}
