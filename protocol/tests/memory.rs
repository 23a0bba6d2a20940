//! What a client's machine holds in memory while its application does not read: a program of its own, for the memory of
//! a process is one number.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failure is a panic")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "not the core")]

use qpc_protocol::client::event::{Event, Outcome};
use qpc_protocol::limits::UNREAD_EVENTS;
use qpc_protocol::mls::suite::Suite;
use qpc_sim::world::{Rules, World};

const ENTRIES: usize = 10_000;
/// Bytes of each message.
const LONG: usize = 2_000;

/// Memory in use, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

fn backend() -> qpc_protocol::crypto::Backend {
    #[cfg(feature = "fast")]
    return qpc_protocol::crypto::fast();
    #[cfg(not(feature = "fast"))]
    qpc_protocol::crypto::portable()
}

/// Tells what has come, and forgets it as an application does that wrote it down.
fn take(world: &mut World, device: usize) -> Vec<(u64, usize)> {
    world.devices[device].events.clear();
    let told = world.devices[device].log.drain(..).filter_map(|event| match event {
        Event::Message(message) => {
            let number = message.body.split(|byte| *byte == b' ').next().unwrap();
            Some((message.seq, std::str::from_utf8(number).unwrap().parse().unwrap()))
        }
        _ => None,
    });
    told.collect()
}

/// Inbound overflow dropped events (mdk #1945). Ten thousand entries wait for an application that does not read; then
/// it does: all are there, in order, each once. Meanwhile they were on the disk and not in memory.
#[test]
fn regression_29_ten_thousand_entries_wait_for_a_slow_application() {
    let mut world = World::new(Rules { backend: backend(), ..Rules::new(29) });
    let (alice, bob) = (world.register("alice"), world.register("bob"));
    let made = world.done(alice, |client, now| client.create_group(now, "many", Suite::Classical));
    let Outcome::Group(channel) = made else { panic!("{made:?}") };
    world.done(alice, |client, now| client.invite(now, channel, "bob"));
    world.settle();
    // All is in the log before bob is on.
    world.crash(bob);
    for number in 0..ENTRIES {
        let text = format!("{number} {}", "x".repeat(LONG));
        world.command(alice, |client, now| client.send(now, channel, text.as_bytes()));
        if number % 250 == 249 {
            world.settle();
            take(&mut world, alice);
        }
    }
    let on_disk = |world: &World| -> usize {
        world.devices[bob].disk.iter().map(|(key, value)| key.len() + value.len()).sum()
    };
    let (before, disk) = (resident(), on_disk(&world));
    world.start(bob);
    world.settle();
    let stored = on_disk(&world) - disk;
    assert!(stored > ENTRIES * LONG, "{stored}");
    let mut told = take(&mut world, bob);
    assert_eq!(told.len(), UNREAD_EVENTS);
    // In this process the disk is memory too. What comes on top is of what was told, which is two megabytes here.
    let held = resident().saturating_sub(before).saturating_sub(stored);
    assert!(held < 16 << 20, "{held} bytes held");

    while told.len() < ENTRIES {
        let now = world.now;
        world.client(bob).ack(now, channel, told.last().unwrap().0).unwrap();
        world.settle();
        let more = take(&mut world, bob);
        assert!(!more.is_empty() && more.len() <= UNREAD_EVENTS, "stuck at {}", told.len());
        told.extend(more);
    }
    let numbers: Vec<_> = told.iter().map(|(_, number)| *number).collect();
    assert_eq!(numbers, (0..ENTRIES).collect::<Vec<_>>());
}
