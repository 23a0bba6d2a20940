//! What is written per message and per commit, whatever the size of the group.

use super::world::{Device, Disk, World, adding};
use crate::crypto::portable;
use crate::env::Entropy;
use crate::mls::Context;
use crate::mls::MlsError;
use crate::mls::group::{Group, LocalDevice, Plan};
use crate::mls::overlay::Overlay;
use crate::mls::suite::Suite;
use crate::store::batch::{Op, Records};

/// What an operation wrote, in bytes of keys and values.
fn written<T>(
    device: &mut Device,
    operation: impl FnOnce(&mut Group, Context<'_>, &LocalDevice) -> Result<T, MlsError>,
) -> (T, usize) {
    let group = device.group.as_mut().unwrap();
    device.disk.apply(group.take_ops());
    let cx = Context { backend: device.backend, entropy: &mut device.entropy, wall: device.wall };
    let result = operation(group, cx, &device.local).unwrap();
    let ops = group.take_ops();
    let size = size(&ops);
    device.disk.apply(ops);
    device.restart();
    (result, size)
}

fn size(ops: &[Op]) -> usize {
    let of = |op: &Op| match op {
        Op::Put(key, value) => key.len() + value.len(),
        Op::Delete(key) | Op::DeletePrefix(key) => key.len(),
    };
    ops.iter().map(of).sum()
}

fn send(device: &mut Device) -> (Vec<u8>, usize) {
    written(device, |group, cx, local| group.encrypt(cx, local, &[7; 1024]))
}

fn receive(device: &mut Device, payload: &[u8]) -> usize {
    written(device, |group, cx, _| group.receive(cx, payload)).1
}

pub(super) fn device(number: u16) -> Device {
    let mut seed = [3; 32];
    seed[..2].copy_from_slice(&number.to_be_bytes());
    Device::from_entropy(portable(), Entropy::from_seed(seed))
}

/// A group of `size` of which the first three are here; the others were added and never heard of.
pub(super) fn crowd(suite: Suite, size: u16) -> (World, [Device; 3]) {
    let mut here = [device(0), device(1), device(2)];
    let mut founder = World::new(suite, &mut here[..1]);
    let mut packages: Vec<_> = (3..size).map(|n| device(n).package(suite, false)).collect();
    // The second is in the middle, the third at the end.
    packages.insert(packages.len() / 2, here[1].package(suite, false));
    packages.push(here[2].package(suite, false));
    let bundle = here[0].commit(&adding(&packages)).unwrap();
    let tree = founder.accept(&mut here[0], &bundle).unwrap();
    for device in &mut here[1..] {
        device.join(bundle.welcome.as_ref().unwrap(), &tree).unwrap();
    }
    (founder, here)
}

/// A commit of `by` that changes nothing but its keys: what making and merging it wrote, and what receiving it.
fn turn(world: &mut World, here: &mut [Device; 3], by: usize) -> [usize; 3] {
    let (bundle, made) =
        written(&mut here[by], |group, cx, local| group.commit(cx, local, &Plan::default()));
    let sender = here[by].sender();
    world.server.commit(sender, &bundle.commit, None, &bundle.group_info).unwrap();
    let (_, merged) = written(&mut here[by], |group, cx, _| group.merge_pending(cx));
    let mut received = 0;
    for (index, device) in here.iter_mut().enumerate() {
        if index != by {
            received = received.max(receive(device, &bundle.commit));
        }
    }
    [made, merged, received]
}

#[test]
fn a_message_writes_less_than_a_kilobyte() {
    for size in [2_u16, 40, 200] {
        let (mut world, mut here) = match size {
            2 => {
                let mut here = [device(0), device(1), device(2)];
                let world = World::new(Suite::Classical, &mut here[..2]);
                (world, here)
            }
            size => crowd(Suite::Classical, size),
        };
        let present = usize::from(size.min(3));
        for epoch in 0..4 {
            for message in 0..3 {
                for from in 0..present {
                    let (payload, sent) = send(&mut here[from]);
                    assert!(sent < 1000, "{size}: {sent} bytes sent, {epoch}, {message}");
                    for (to, device) in here[..present].iter_mut().enumerate() {
                        if to != from {
                            let got = receive(device, &payload);
                            assert!(got < 1000, "{size}: {got} bytes received, {epoch}, {message}");
                        }
                    }
                }
            }
            if size > 2 {
                turn(&mut world, &mut here, epoch % 3);
            }
        }
    }
}

#[test]
fn a_message_writes_no_more_when_every_member_has_sent() {
    let mut devices: Vec<_> = (0..24).map(device).collect();
    let mut world = World::new(Suite::Hybrid, &mut devices);
    for epoch in 0..3 {
        for from in 0..devices.len() {
            let (payload, sent) = send(&mut devices[from]);
            assert!(sent < 700, "{sent} bytes sent");
            for to in (0..devices.len()).filter(|to| *to != from && (*to < 2 || epoch == 0)) {
                let got = receive(&mut devices[to], &payload);
                assert!(got < 700, "{got} bytes received");
            }
        }
        world.turn(&mut devices, epoch, &Plan::default());
    }
}

#[test]
fn a_commit_writes_as_much_as_its_path_is_long() {
    // Bytes that one level more of the tree may cost: a node with its key, a pair of keys, an entry of the pending
    // commit.
    for (suite, level) in [(Suite::Classical, 600), (Suite::Hybrid, 6_000)] {
        let mut smaller: Option<Vec<[usize; 3]>> = None;
        for size in [16_u16, 64, 256] {
            let (mut world, mut here) = crowd(suite, size);
            let turns: Vec<_> =
                (0..5).map(|round| turn(&mut world, &mut here, round % 3)).collect();
            for (was, is) in smaller.iter().flatten().flatten().zip(turns.iter().flatten()) {
                assert!(*is <= was + 2 * level, "{suite:?} {size}: {was} bytes became {is}");
            }
            smaller = Some(turns);
        }
    }
}

/// The record of a kind in one piece, as it was stored before there were blocks.
fn whole(group: &Group) -> Records {
    let overlay = &group.overlay;
    let mut records = overlay.records();
    records.retain(|(key, _)| !matches!(key[0], b'H' | b'B'));
    records.extend(overlay.joined());
    records
}

#[test]
fn records_in_one_piece_are_read_and_written_anew_in_blocks() {
    let (mut world, mut here) = crowd(Suite::Classical, 12);
    turn(&mut world, &mut here, 0);
    turn(&mut world, &mut here, 1);
    let device = &mut here[2];
    device.disk.0 = whole(device.group()).into_iter().collect();
    device.group = Some(Group::restore(portable(), device.disk.records()).unwrap());
    assert!(device.disk.0.keys().all(|key| !matches!(key[0], b'H' | b'B')));
    device.restart();
    // The first message turns the secrets into blocks, the next commit the rest.
    let (payload, _) = send(&mut here[2]);
    receive(&mut here[0], &payload);
    receive(&mut here[1], &payload);
    turn(&mut world, &mut here, 2);
    turn(&mut world, &mut here, 0);
    let keys = here[2].disk.0.keys();
    assert_eq!(keys.clone().filter(|key| key[0] == b'H').count(), 3);
    assert_eq!(keys.filter(|key| matches!(key[0], b't' | b'm' | b's')).count(), 0);
    world.agree(&here.iter().collect::<Vec<_>>());
}

#[test]
fn blocks_of_another_time_are_found_out() {
    let (mut world, mut here) = crowd(Suite::Classical, 6);
    turn(&mut world, &mut here, 0);
    turn(&mut world, &mut here, 1);
    let older = here[1].disk.clone();
    let (payload, _) = send(&mut here[2]);
    receive(&mut here[0], &payload);
    receive(&mut here[1], &payload);
    let bundle = here[0].commit(&Plan::default()).unwrap();
    world.accept(&mut here[0], &bundle).unwrap();
    receive(&mut here[1], &bundle.commit);
    let newer = here[1].disk.clone();
    let in_blocks = |key: &[u8]| matches!(key[0], b'H' | b'B');
    let mut mixed = 0;
    for key in older.0.keys().chain(newer.0.keys()).filter(|key| in_blocks(key)) {
        let mut disk = newer.clone();
        match older.0.get(key) {
            Some(value) => disk.0.insert(key.clone(), value.clone()),
            None => disk.0.remove(key),
        };
        if disk.0 != newer.0 {
            let restored = Group::restore(portable(), disk.records());
            assert!(matches!(restored, Err(MlsError::Damaged(_))), "{}", key.escape_ascii());
            mixed += 1;
        }
        disk.0.remove(key);
        if disk.0 != newer.0 {
            assert!(matches!(
                Group::restore(portable(), disk.records()),
                Err(MlsError::Damaged(_))
            ));
        }
    }
    assert!(mixed > 20, "{mixed} blocks changed");
    // The tree alone from another time, whole and sound in itself: the list of members leans on it.
    let of_tree = |disk: &Disk| {
        let overlay = Overlay::new(disk.records());
        let keys = overlay.keys(b"").into_iter().filter(|key| key[0] != b't');
        keys.for_each(|key| overlay.delete_raw(&key));
        overlay.records()
    };
    let mut disk = newer.clone();
    for (key, _) in of_tree(&newer) {
        disk.0.remove(&key);
    }
    disk.0.extend(of_tree(&older));
    assert!(matches!(Group::restore(portable(), disk.records()), Err(MlsError::Damaged(_))));
}

/// Ratchet secrets in records: 32 bytes behind their length.
fn secrets(records: &Records) -> Vec<Vec<u8>> {
    let blocks = records.iter().filter(|(key, _)| key[0] == b'B');
    let windows = blocks.flat_map(|(_, value)| value.windows(33));
    windows.filter(|window| window[0] == 32).map(|window| window[1..].to_vec()).collect()
}

#[test]
fn what_a_message_used_up_is_in_no_record() {
    let mut devices = [device(0), device(1), device(2), device(3)];
    World::new(Suite::Classical, &mut devices);
    for _ in 0..4 {
        // The sender's own ratchet, which the receiver's is in step with, says what the message uses up.
        let kept = secrets(&devices[0].disk.records());
        let payload = devices[0].send(b"content").unwrap();
        let moved = secrets(&devices[0].disk.records());
        let used: Vec<_> = kept.iter().filter(|secret| !moved.contains(secret)).collect();
        let held = |records: &Records| {
            let holds = |secret: &Vec<u8>| {
                records.iter().any(|(_, value)| value.windows(32).any(|part| part == secret))
            };
            used.iter().filter(|secret| holds(secret)).count()
        };
        assert!(held(&devices[1].disk.records()) > 0);
        devices[1].read(&payload).unwrap();
        assert_eq!(held(&devices[1].disk.records()), 0);
    }
}

/// Secrets among it: memory that they were moved out of is not erased.
#[test]
fn what_is_read_from_blocks_is_never_moved() {
    for suite in Suite::ALL {
        let mut devices: Vec<_> = (1..=9).map(Device::new).collect();
        World::new(suite, &mut devices);
        for device in &mut devices {
            send(device);
            let stored = Overlay::new(device.disk.records());
            assert!(stored.joined().len() >= 2, "tree and message secrets at least");
            assert_eq!(stored.slack(), 0);
        }
    }
}
