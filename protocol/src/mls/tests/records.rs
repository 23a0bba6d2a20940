//! The records of groups and key packages, OpenMLS's among them, pinned by bytes. They hold for each other, so they are
//! pinned as sets: everything below one prefix of a client, or of one channel at the server.

use std::collections::BTreeSet;

use qpc_sim::{takeover, world as simulated};
use serde_json::{Value, json};

use super::world::{Device, Disk, GROUP, START, World};
use crate::crypto::identity::Revocation;
use crate::crypto::portable;
use crate::mls::Context;
use crate::mls::commit::Wish;
use crate::mls::group::{Group, Plan};
use crate::mls::key_package::KeyPackages;
use crate::mls::overlay::Overlay;
use crate::mls::public::PublicState;
use crate::mls::rejoin::Floor;
use crate::mls::suite::Suite;
use crate::store::batch::Records;
use crate::tests::{Vector, hex, read, readable, same, unhex, write};

const FILE: &str = "records-mls.json";
const LIST: &str = "sets";

/// Records that OpenMLS's storage has a place for and that nothing of ours ever makes it write: encryption keys and
/// leaf nodes of updates that are proposed, signature keys (they are ours), external pre-shared keys.
const NEVER: &[u8] = b"klyx";

/// Four devices in their third epoch, of which Dave's wants to go and Carol's was revoked: Bob's has a commit pending
/// that sees to both, and the server what it is made of.
fn group_of_four(suite: Suite) -> (World, Vec<Device>) {
    let mut devices: Vec<_> = (1..=4).map(Device::new).collect();
    let mut world = World::new(suite, &mut devices);
    let hello = devices[0].send(b"hello").unwrap();
    for device in &mut devices[1..] {
        device.read(&hello).unwrap();
    }
    world.turn(&mut devices, 1, &Plan { update: true, ..Plan::default() });
    let late = devices[3].send(b"late").unwrap();
    devices[1].read(&late).unwrap();
    let wish = devices[3].run(|group, cx, local| group.propose(cx, local, Wish::Leave)).unwrap();
    world.server.propose(devices[3].sender(), &wish, START).unwrap();
    devices[1].receive(&wish).unwrap();
    let carol = &devices[2];
    let revocation = Revocation::sign(portable(), &carol.account, carol.sender().device, START);
    devices[1].commit(&Plan { revoked: vec![revocation], ..Plan::default() }).unwrap();
    (world, devices)
}

/// Two devices, one of which has come back and kept what it could read before.
fn one_that_came_back() -> Disk {
    let mut two = [Device::new(8), Device::new(9)];
    let mut world = World::new(Suite::Classical, &mut two);
    let hello = two[0].send(b"hello").unwrap();
    two[1].read(&hello).unwrap();
    let info = world.turn(&mut two, 0, &Plan::default()).group_info;
    let (epoch, tree) = (two[1].group().epoch(), world.server.tree().unwrap());
    let floor = Floor { id: GROUP, suite: Suite::Classical, epoch, known: None };
    let Device { backend, entropy, local, group, .. } = &mut two[1];
    let cx = Context { backend: *backend, entropy, wall: START };
    let (mut back, _) = Group::rejoin(cx, local, &info, &tree, &floor).unwrap();
    back.keep_past(group.as_ref().unwrap()).unwrap();
    Disk(back.records().into_iter().collect())
}

fn sets() -> Vec<(&'static str, Records)> {
    let (mut world, devices) = group_of_four(Suite::Classical);
    let mut two = [Device::new(5), Device::new(6)];
    World::new(Suite::Hybrid, &mut two);
    let mut keys = Device::new(7);
    keys.package(Suite::Classical, false);
    keys.package(Suite::Hybrid, true);
    keys.package(Suite::Hybrid, true);
    let mut at_server = Disk::default();
    at_server.apply(world.server.take_ops());
    vec![
        ("client g/, r/: classical, a pending commit", devices[1].disk.records()),
        ("client g/, r/: hybrid", two[1].disk.records()),
        ("client g/, r/: classical, come back to", one_that_came_back().records()),
        ("client k/", keys.package_disk.records()),
        ("server group_records: classical, a queued proposal", at_server.records()),
    ]
}

/// What is read from a set: what of it is public.
fn holds(name: &str, records: Records) -> Value {
    let members = |members: Vec<_>| -> Value { members.into_iter().collect() };
    if name.starts_with("client g/") {
        let group = readable(FILE, name, Group::restore(portable(), records));
        let senders = group.members().into_iter().map(|member| member.record.sender());
        json!({
            "suite": group.suite().number(),
            "epoch": group.epoch(),
            "authenticator": hex(&group.authenticator()),
            "devices": members(senders.map(|sender| hex(&sender.device.0)).collect()),
            "pendingCommit": group.has_pending(),
            "queuedProposals": group.has_proposals(),
        })
    } else if name.starts_with("client k/") {
        let packages = readable(FILE, name, KeyPackages::restore(records));
        json!({ "keyPackages": format!("{packages:?}") })
    } else {
        let group = readable(FILE, name, PublicState::restore(portable(), records));
        let devices = group.members().into_iter().map(|member| hex(&member.sender.device.0));
        json!({
            "suite": group.suite().number(),
            "epoch": group.epoch(),
            "devices": members(devices.collect()),
        })
    }
}

fn stated(records: Records) -> Value {
    records.into_iter().map(|(key, value)| json!([hex(&key), hex(&value)])).collect()
}

fn stored(vector: &Value) -> Records {
    let records = vector["records"].as_array().unwrap().iter();
    records.map(|pair| (unhex(&pair[0]), unhex(&pair[1]))).collect()
}

#[test]
fn the_pinned_sets_are_read_and_written() {
    let pinned = read(FILE, LIST);
    assert_eq!(pinned.len(), 5, "{FILE}");
    for vector in &pinned {
        let name = vector["name"].as_str().unwrap();
        let records = stored(vector);
        let again = stated(Overlay::new(records.clone()).records());
        same(FILE, name, &vector["records"], &again);
        same(FILE, &format!("{name} (what it holds)"), &vector["holds"], &holds(name, records));
    }
}

#[test]
fn who_is_restored_from_what_is_pinned_goes_on() {
    let pinned = read(FILE, LIST);
    let set = |name: &str| {
        let mut sets = pinned.iter();
        stored(sets.find(|vector| vector["name"].as_str().unwrap().starts_with(name)).unwrap())
    };
    let (_, mut devices) = group_of_four(Suite::Classical);
    devices[1].disk = Disk(set("client g/").into_iter().collect());
    devices[1].group = Some(Group::restore(portable(), set("client g/")).unwrap());
    let mut server = PublicState::restore(portable(), set("server")).unwrap();
    devices[1].run(|group, _, _| group.discard_pending()).unwrap();
    let carol = &devices[2];
    let revocation = Revocation::sign(portable(), &carol.account, carol.sender().device, START);
    let plan = Plan { revoked: vec![revocation], ..Plan::default() };
    let bundle = devices[1].commit(&plan).unwrap();
    let by = devices[1].sender();
    server.commit(by, &bundle.commit, None, &bundle.group_info).unwrap();
    devices[1].merge();
    assert_eq!(devices[1].group().members().len(), 2);
    assert_eq!(server.members().len(), 2);
}

/// Every kind of record that the code names is in some set.
#[test]
fn no_kind_is_missing() {
    let mut present = BTreeSet::new();
    for (key, _) in read(FILE, LIST).iter().flat_map(stored) {
        let behind = if key[0] == b'H' { &key[..2] } else { &key[..1] };
        present.extend(behind.iter().copied());
    }
    // `Name = b'x'` and `NAME: u8 = b'X'`, `NAME: &[u8] = b"X"`.
    let files = [
        include_str!("../overlay.rs"),
        include_str!("../overlay/blocks.rs"),
        include_str!("../group.rs"),
        include_str!("../key_package.rs"),
        include_str!("../public.rs"),
    ];
    let named = files.into_iter().flat_map(|file| file.split(" = b").skip(1)).filter_map(|rest| {
        let [quote, letter, end] = *rest.as_bytes().first_chunk()?;
        (quote == end && b"'\"".contains(&quote)).then_some(letter)
    });
    let wanted = named.filter(|letter| !NEVER.contains(letter)).collect::<BTreeSet<_>>();
    let text = |letters: BTreeSet<u8>| String::from_utf8(letters.into_iter().collect()).unwrap();
    assert_eq!(text(present), text(wanted));
}

#[test]
#[ignore = "rewrites vectors/qpc/records-mls.json"]
fn bless_the_records_of_groups() {
    // OpenMLS stamps past epochs with the clock of the process.
    let vectors = takeover::run(1, || {
        takeover::stand_at(simulated::World::new(simulated::Rules::new(1)).now);
        let vectors = sets().into_iter().map(|(name, records)| {
            let holds = holds(name, records.clone());
            vec![("name", name.into()), ("holds", holds), ("records", stated(records))]
        });
        vectors.collect::<Vec<Vector>>()
    });
    write(FILE, LIST, &vectors);
}
