//! What is stored and read again: a device's records, a group's on either side, a server's secrets.

use std::time::Duration;

use qpc_protocol::auth::server::OpaqueServer;
use qpc_protocol::env::{Entropy, UnixMillis};
use qpc_protocol::mls::Context;
use qpc_protocol::mls::group::Group;
use qpc_protocol::mls::key_package::KeyPackages;
use qpc_protocol::mls::public::PublicState;
use qpc_protocol::server::ServerSecrets;
use qpc_protocol::server::op::{StoreOp, StoreReply};

use super::act::act;
use super::mls::{group_records, pairs};
use super::past::{NAMES, Past, past};
use super::script::Script;
use super::stage::{Disk, START};
use crate::insecure;

/// The bytes: which part, which records of it, what becomes of them, and what is done then.
pub(super) fn restore(data: &[u8]) {
    let past = past();
    let mut script = Script::new(data);
    match script.pick(5) {
        0..2 => device(past, &mut script),
        2 => group(past, &mut script),
        3 => public(past, &mut script),
        _ => small(past, &mut script),
    }
}

fn spoil(script: &mut Script, records: &mut Disk) {
    for _ in 0..1 + script.pick(4) {
        let keys: Vec<_> = records.keys().cloned().collect();
        let at = script.pick(keys.len());
        let Some(key) = keys.get(at) else { return };
        match script.pick(8) {
            0 => drop(records.remove(key)),
            1 => {
                let value = records.remove(key).unwrap_or_default();
                records.insert(script.edited(key), value);
            }
            2 => {
                let other = script.pick(keys.len());
                let value = records[&keys[other]].clone();
                records.insert(key.clone(), value);
            }
            _ => {
                let value = script.edited(&records[key]);
                records.insert(key.clone(), value);
            }
        }
    }
}

/// A device whose disk was damaged: it says so at start or later, or lives with it.
fn device(past: &Past, script: &mut Script) {
    let mut stage = past.stage();
    stage.damaged = true;
    let device = script.pick(NAMES.len());
    spoil(script, &mut stage.devices[device].disk);
    stage.start(device);
    stage.pass(Duration::from_secs(5));
    for _ in 0..8 {
        if script.is_done() {
            break;
        }
        let now = stage.now;
        let on = &mut stage.devices[device];
        if let Some(client) = on.client.as_mut().filter(|_| !on.fatal) {
            act(&past.senders, client, now, script);
        }
        stage.run();
    }
    stage.pass(Duration::from_secs(100));
}

/// A group's records as a member reads them.
fn group(past: &Past, script: &mut Script) {
    let channel = script.of(&past.channels).expect("there are some");
    let mut records = group_records(&past.disks[script.pick(NAMES.len())], channel);
    spoil(script, &mut records);
    let backend = insecure::open();
    if let Ok(mut group) = Group::restore(backend, pairs(&records)) {
        let _ = (group.members(), group.ratchet_tree(), group.authenticator());
        let mut entropy = Entropy::from_seed([4; 32]);
        let wall = UnixMillis(START);
        let _ = group.merge_pending(Context { backend, entropy: &mut entropy, wall });
        let _ = group.receive(Context { backend, entropy: &mut entropy, wall }, &script.text());
        let _ = group.rollback();
    }
}

/// A group's records as the server reads them.
fn public(past: &Past, script: &mut Script) {
    let channel = script.of(&past.channels).expect("there are some");
    let replies = past.store.clone().apply(&[StoreOp::LoadGroup { channel }]);
    let Some(StoreReply::Group { records, .. }) = replies.into_iter().next() else { return };
    let mut records: Disk = records.into_iter().collect();
    spoil(script, &mut records);
    if let Ok(mut state) = PublicState::restore(insecure::open(), pairs(&records)) {
        let _ = (state.members(), state.tree(), state.epoch());
        if let Some(sender) = script.of(&past.senders) {
            let _ = state.propose(sender, &script.text(), UnixMillis(START));
        }
    }
}

/// Private halves of key packages; a server's secrets.
fn small(past: &Past, script: &mut Script) {
    let disk = &past.disks[script.pick(NAMES.len())];
    let packages = disk.iter().filter(|(key, _)| key.starts_with(b"k/"));
    let mut packages = packages.map(|(key, value)| (key[2..].to_vec(), value.clone())).collect();
    spoil(script, &mut packages);
    if let Ok(mut packages) = KeyPackages::restore(pairs(&packages)) {
        packages.sweep(UnixMillis(START + 4_000_000_000));
    }
    let secrets = script.edited(&past.secrets);
    if let Some(read) = ServerSecrets::decode(&secrets) {
        assert_eq!(*read.encode(), secrets);
    }
    let _ = OpaqueServer::decode(&secrets[65.min(secrets.len())..]);
}
