//! What can happen to the network, to disks and to clocks, one at a time: each is got over, and nothing is lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failure is a panic")]

use std::time::Duration;

use qpc_protocol::client::event::{Event, Outcome};
use qpc_protocol::crypto::fast;
use qpc_protocol::error::StoreFaultKind;
use qpc_protocol::id::ChannelId;
use qpc_protocol::io::Links;
use qpc_protocol::limits::CLOCK_SKEW;
use qpc_protocol::mls::suite::Suite;
use qpc_sim::world::{Damage, Moment, Rules, SILENCE, Side, World};

const ALICE: usize = 0;
const BOB: usize = 1;
const CAROL: usize = 2;
const ALL: [usize; 3] = [ALICE, BOB, CAROL];

fn three(rules: Rules) -> (World, ChannelId) {
    let mut world = World::new(Rules { backend: fast(), ..rules });
    for name in ["alice", "bob", "carol"] {
        world.register(name);
    }
    let made = world.done(ALICE, |client, now| client.create_group(now, "three", Suite::Classical));
    let Outcome::Group(channel) = made else { panic!("{made:?}") };
    for name in ["bob", "carol"] {
        world.done(ALICE, |client, now| client.invite(now, channel, name));
    }
    world.settle();
    (world, channel)
}

fn say(world: &mut World, device: usize, channel: ChannelId, text: &str) {
    world.command(device, |client, now| client.send(now, channel, text.as_bytes()));
}

fn agree(world: &World, channel: ChannelId) {
    let state = |device: usize| {
        let group = world.group(device, channel);
        (group.member, group.epoch, group.authenticator, group.cursor, group.chain)
    };
    let first = state(ALICE);
    assert!(first.0);
    ALL.iter().for_each(|device| assert_eq!(state(*device), first, "device {device}"));
}

fn saw(world: &World, device: usize, is: impl Fn(&Event) -> bool) -> bool {
    world.devices[device].log.iter().any(is)
}

/// Everybody says something; all others read it once.
fn talk(world: &mut World, channel: ChannelId, words: &str) {
    for device in ALL {
        say(world, device, channel, &format!("{words} {device}"));
    }
    world.settle();
    // Who has read all that it knows of may not know of the last entry yet.
    world.pass(Duration::from_secs(10));
    world.settle();
    for reader in ALL {
        for writer in ALL.into_iter().filter(|writer| *writer != reader) {
            let text = format!("{words} {writer}");
            let read = world.messages(reader).into_iter().filter(|m| *m.body == text.as_bytes());
            let mut seqs: Vec<_> = read.map(|message| message.seq).collect();
            seqs.dedup();
            assert_eq!(seqs.len(), 1, "device {reader}: {text}");
        }
    }
    agree(world, channel);
}

#[test]
fn links_of_all_kinds_meet_in_one_world() {
    let (mut world, channel) = three(Rules::new(1).split());
    for (device, links) in [(ALICE, Links::One), (BOB, Links::Many), (CAROL, Links::One)] {
        world.devices[device].links = links;
        world.devices[device].latency = Duration::from_millis(40 * device as u64);
        world.devices[device].jitter = Duration::from_millis(30);
        world.cut(device);
    }
    talk(&mut world, channel, "mixed");
}

#[test]
fn who_reads_slowly_reads_all() {
    let (mut world, channel) = three(Rules::new(2));
    world.devices[BOB].credit = 300;
    world.devices[BOB].latency = Duration::from_millis(20);
    world.cut(BOB);
    let long = "x".repeat(20_000);
    for _ in 0..5 {
        say(&mut world, ALICE, channel, &long);
    }
    talk(&mut world, channel, "behind it");
    assert_eq!(world.bodies(BOB).iter().filter(|body| **body == long).count(), 5);
}

#[test]
fn an_end_that_is_not_told_finds_out() {
    for blind in [Side::Device, Side::Server] {
        let (mut world, channel) = three(Rules::new(3));
        world.half_open(BOB, blind);
        say(&mut world, ALICE, channel, "are you there?");
        say(&mut world, BOB, channel, "am I here?");
        world.pass(SILENCE / 2);
        talk(&mut world, channel, "again");
        world.pass(SILENCE);
        talk(&mut world, channel, "and again");
    }
}

#[test]
fn what_a_partition_held_back_arrives() {
    let (mut world, channel) = three(Rules::new(4));
    for span in [Duration::from_secs(5), SILENCE / 2, SILENCE * 3] {
        for parted in [&[BOB][..], &ALL] {
            parted.iter().for_each(|device| world.part(*device));
            let text = format!("{span:?} {}", parted.len());
            say(&mut world, ALICE, channel, &text);
            say(&mut world, BOB, channel, &format!("{text} too"));
            world.pass(span);
            assert!(!world.bodies(BOB).contains(&text));
            parted.iter().for_each(|device| assert!(world.heal(*device)));
            talk(&mut world, channel, &format!("after {text}"));
            assert!(world.bodies(BOB).contains(&text));
        }
    }
}

#[test]
fn a_server_that_nobody_reaches_goes_on_by_itself() {
    let (mut world, channel) = three(Rules::new(5));
    for (number, span) in [Duration::from_secs(5), SILENCE / 2, SILENCE * 3].into_iter().enumerate()
    {
        world.part_server(span);
        let text = format!("{span:?}");
        for device in ALL {
            say(&mut world, device, channel, &text);
        }
        world.pass(span - Duration::from_secs(1));
        assert!(!world.bodies(BOB).contains(&text), "nothing passes");
        let lost = |event: &Event| matches!(event, Event::Offline { .. });
        let told = ALL.iter().all(|device| saw(&world, *device, lost));
        assert_eq!(told, number > 0, "who waits for an answer for too long is told");
        world.pass(Duration::from_secs(60));
        assert!(world.bodies(BOB).contains(&text), "it has ended by itself");
        talk(&mut world, channel, &format!("after {text}"));
    }
    world.part_server(Duration::from_secs(3_600));
    assert!(world.heal_server() && !world.heal_server());
    talk(&mut world, channel, "at once");
}

#[test]
fn a_link_that_ends_at_any_byte_is_made_anew() {
    for rules in [Rules::new(30), Rules::new(31).one_link(), Rules::new(32).split()] {
        let (mut world, channel) = three(rules);
        for (number, after) in [0, 1, 7, 8, 9, 30, 100, 101, 500, 3_000].into_iter().enumerate() {
            for up in [0, 1] {
                world.devices[BOB].ends_in[up] = Some(after);
                let long = format!("{number} {up} {}", "x".repeat(4_000));
                say(&mut world, BOB, channel, &long);
                say(&mut world, ALICE, channel, &long);
                talk(&mut world, channel, &format!("after {after} {up}"));
                assert_eq!(world.devices[BOB].ends_in[up], None, "{after} bytes went there");
                let read = world.bodies(BOB).into_iter().filter(|body| *body == long);
                assert_eq!(read.count(), 1, "after {after} {up}");
            }
        }
    }
}

#[test]
fn batches_under_way_at_a_crash_are_there_in_order_or_not_at_all() {
    for seed in 0..12 {
        let (mut world, channel) = three(Rules::new(100 + seed));
        world.devices[BOB].disk_latency = Duration::from_millis(30);
        for number in 0..6 {
            say(&mut world, BOB, channel, &format!("early {number}"));
            say(&mut world, ALICE, channel, &format!("incoming {number}"));
            world.pass(Duration::from_millis(7));
        }
        if seed % 2 == 0 {
            world.crash(BOB)
        } else {
            world.lose_power(BOB)
        }
        world.devices[BOB].disk_latency = Duration::ZERO;
        world.start(BOB);
        world.settle();
        let bodies = world.bodies(ALICE);
        let early: Vec<_> = bodies.iter().filter(|body| body.starts_with("early")).collect();
        let expected: Vec<_> = (0..early.len()).map(|number| format!("early {number}")).collect();
        assert_eq!(early, expected.iter().collect::<Vec<_>>(), "seed {seed}");
        talk(&mut world, channel, "afterwards");
    }
}

#[test]
fn disks_that_fail_stop_their_device_and_nothing_else() {
    let (mut world, channel) = three(Rules::new(6));
    for kind in [StoreFaultKind::Full, StoreFaultKind::Io, StoreFaultKind::Corrupt] {
        world.devices[BOB].fail_disk = Some(kind);
        say(&mut world, ALICE, channel, "to a full disk");
        world.until(|world| world.devices[BOB].fatal.is_some());
        world.crash(BOB);
        world.devices[BOB].fail_load = Some(kind);
        world.start(BOB);
        say(&mut world, CAROL, channel, "to a disk that cannot be read");
        world.until(|world| world.devices[BOB].fatal.is_some());
        world.crash(BOB);
        world.start(BOB);
        world.storage.fail = Some(kind);
        talk(&mut world, channel, &format!("after {kind:?}"));
    }
}

#[test]
fn a_server_that_crashes_around_a_transaction_loses_and_doubles_nothing() {
    let (mut world, channel) = three(Rules::new(7));
    world.storage.latency = Duration::from_millis(5);
    for moment in Moment::ALL {
        for at in 0..4 {
            world.storage.crash_in = Some(at);
            world.storage.crash_moment = Some(moment);
            say(&mut world, BOB, channel, &format!("{moment:?} {at}"));
            world.until(|world| world.server.is_none());
            world.pass(Duration::from_secs(1));
            world.start_server();
            talk(&mut world, channel, &format!("after {moment:?} {at}"));
        }
    }
}

#[test]
fn a_device_from_a_backup_comes_back_by_new_keys() {
    let (mut world, channel) = three(Rules::new(8));
    let backup = world.devices[BOB].disk.clone();
    talk(&mut world, channel, "since");
    world.restore(BOB, backup);
    world.until(|world| saw(world, BOB, |event| matches!(event, Event::Rejoined { .. })));
    talk(&mut world, channel, "restored");
}

#[test]
fn a_server_from_a_backup_is_found_out() {
    let (mut world, channel) = three(Rules::new(9));
    let backup = world.store.clone();
    talk(&mut world, channel, "forgotten by the server");
    world.restore_server(backup);
    world.pass(Duration::from_secs(5));
    say(&mut world, CAROL, channel, "in another history");
    world.pass(SILENCE);
    let found =
        |event: &Event| matches!(event, Event::ForkDetected { .. } | Event::ForkSuspected { .. });
    assert!(ALL.iter().any(|device| saw(&world, *device, found)), "nobody noticed");
}

#[test]
fn a_torn_file_is_told_or_healed() {
    for how in [Damage::Cut, Damage::Flip, Damage::Gone] {
        for (number, prefix) in [b"d/", b"g/", b"m/", b"k/"].iter().enumerate() {
            let (mut world, channel) = three(Rules::new(10 + number as u64));
            say(&mut world, ALICE, channel, "unread");
            world.settle();
            world.crash(BOB);
            let Some(key) = world.damage(BOB, &prefix[..], how) else { continue };
            let key = key.escape_ascii().to_string();
            let started = world.try_start(BOB);
            if started.is_err() {
                assert!(**prefix == *b"d/", "{key} is not of the directory");
                continue;
            }
            // Whatever it makes of it, the others go on.
            world.pass(Duration::from_secs(60));
            say(&mut world, ALICE, channel, "the others");
            world.pass(Duration::from_secs(60));
            assert!(world.bodies(CAROL).contains(&"the others".to_owned()), "{how:?} {key}");
            // He reads on, or was told that and why he does not.
            let told = world.devices[BOB].log.iter().any(|event| {
                use Event::{FellOut, RecordLost, Restored, Unreadable};
                matches!(
                    event,
                    RecordLost { .. } | Unreadable { .. } | FellOut { .. } | Restored { .. }
                )
            });
            let reads = world.bodies(BOB).contains(&"the others".to_owned());
            assert!(reads || told, "{how:?} {key}");
        }
    }
}

#[test]
fn clocks_may_be_wrong_jump_and_stand_still() {
    let (mut world, channel) = three(Rules::new(20));
    let skew = CLOCK_SKEW.as_millis() as i64 - 1_000;
    world.devices[BOB].clock.ahead = skew;
    world.devices[CAROL].clock.ahead = -skew;
    talk(&mut world, channel, "skewed");
    world.done(ALICE, |client, now| client.update(now, channel));
    world.devices[ALICE].clock.stands = Some(world.now.wall);
    world.pass(Duration::from_secs(3 * 24 * 60 * 60));
    talk(&mut world, channel, "standing");
    world.devices[ALICE].clock.stands = None;
    world.devices[BOB].clock.ahead = -40 * 24 * 60 * 60 * 1_000;
    talk(&mut world, channel, "back by forty days");
    world.devices[BOB].clock.ahead = 40 * 24 * 60 * 60 * 1_000;
    world.server_clock.ahead = 2 * 24 * 60 * 60 * 1_000;
    talk(&mut world, channel, "ahead by forty days");
    world.pass(Duration::from_secs(60));
    world.devices[BOB].clock.ahead = 0;
    world.server_clock.ahead = 0;
    talk(&mut world, channel, "right again");
}

#[test]
fn who_was_asleep_reads_on() {
    let (mut world, channel) = three(Rules::new(21));
    for span in [Duration::from_secs(3), Duration::from_secs(40), Duration::from_secs(7_200)] {
        world.devices[BOB].asleep = true;
        say(&mut world, ALICE, channel, &format!("good night {span:?}"));
        world.pass(span);
        world.devices[BOB].asleep = false;
        talk(&mut world, channel, &format!("good morning {span:?}"));
        assert!(world.bodies(BOB).contains(&format!("good night {span:?}")));
    }
}
