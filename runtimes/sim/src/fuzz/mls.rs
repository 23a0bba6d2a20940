//! MLS messages into a member's group, and what else a client reads of MLS: key packages, welcomes, GroupInfos, trees.

use qpc_protocol::env::{Entropy, UnixMillis};
use qpc_protocol::id::ChannelId;
use qpc_protocol::mls::group::Group;
use qpc_protocol::mls::key_package;
use qpc_protocol::mls::public::PublicState;
use qpc_protocol::mls::{Context, MlsError};
use qpc_protocol::store::batch::Records;
use qpc_protocol::wire::message::{Body, EntryKind, Frame, Part, Push, Reply, Request};

use super::past::{ALICE, BOB, CAROL, Past, past};
use super::script::Script;
use super::stage::{Disk, START};
use crate::insecure;

/// Most messages of one execution.
const OPS: usize = 16;

/// The bytes: which member of which group, then messages of the stories, bent, or the fuzzer's own.
pub(super) fn mls(data: &[u8]) {
    let past = past();
    let mut script = Script::new(data);
    let member = [ALICE, BOB, CAROL][script.pick(3)];
    let channel = script.of(&past.channels).expect("there are some");
    let mut records = group_records(&past.disks[member], channel);
    let Ok(mut group) = Group::restore(insecure::open(), pairs(&records)) else { return };
    group.confine(channel);
    let messages = messages(past);
    let mut entropy = Entropy::from_seed([3; 32]);
    for _ in 0..OPS {
        if script.is_done() {
            break;
        }
        let base = script.pick(messages.len());
        let message = script.edited(&messages[base]);
        match script.pick(8) {
            6 => outside(&message),
            7 => {
                let _ = group.discard_pending();
            }
            _ => receive(&mut group, &mut records, &mut entropy, &message),
        }
    }
}

fn context(entropy: &mut Entropy) -> Context<'_> {
    Context { backend: insecure::open(), entropy, wall: UnixMillis(START) }
}

/// A message goes through or changes nothing; and what is stored is what is in memory.
fn receive(group: &mut Group, records: &mut Disk, entropy: &mut Entropy, message: &[u8]) {
    let state = |group: &Group| {
        (group.epoch(), group.authenticator(), group.members(), group.has_proposals())
    };
    let before = state(group);
    let received = group.receive(context(entropy), message);
    let ops = group.take_ops();
    match received {
        Ok(_) => {}
        Err(MlsError::Internal(why)) => panic!("OpenMLS failed where it must not: {why}"),
        Err(_) => {
            assert_eq!(state(group), before);
            assert!(ops.is_empty(), "refused, and stored: {ops:?}");
        }
    }
    ops.into_iter().for_each(|op| op.apply(records));
    let stored = Group::restore(insecure::open(), pairs(records)).expect("stored by itself");
    assert_eq!(state(&stored), state(group));
}

/// Everything else that is read before any key is known.
fn outside(message: &[u8]) {
    let backend = insecure::open();
    let _ = PublicState::peek(message);
    let _ = key_package::check(backend, message, UnixMillis(START));
}

/// Every MLS message of the stories: what was submitted, and what came out of inboxes and the directory.
fn messages(past: &Past) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    for (_, frame) in &past.up {
        match &frame.body {
            Body::Request(Request::Submit(submit)) => messages.push(submit.payload.to_vec()),
            Body::Request(Request::Commit(bundle)) => {
                if let Part::Inline(commit) = &bundle.commit {
                    messages.push(commit.to_vec());
                }
            }
            _ => {}
        }
    }
    for (_, frame) in &past.down {
        messages.extend(carried(frame));
    }
    messages.sort();
    messages.dedup();
    messages
}

fn carried(frame: &Frame) -> Vec<Vec<u8>> {
    match &frame.body {
        Body::Push(Push::Entries(entries)) => {
            let welcomes = entries.entries.iter().filter(|entry| entry.kind == EntryKind::Welcome);
            let inline = welcomes.filter_map(|entry| match &entry.payload {
                Part::Inline(bytes) => Some(bytes.to_vec()),
                Part::Blob { .. } => None,
            });
            inline.collect()
        }
        Body::Reply(Reply::ClaimedKeyPackages(claimed)) => {
            let packages = claimed.iter().filter_map(|claimed| claimed.package.as_ref());
            packages.map(|package| package.to_vec()).collect()
        }
        Body::Reply(Reply::GroupInfo { group_info, .. }) => vec![group_info.to_vec()],
        _ => Vec::new(),
    }
}

/// The records of a group on a disk, without the prefix that names it there: `g/`, channel, generation.
pub(super) fn group_records(disk: &Disk, channel: ChannelId) -> Disk {
    let prefix = [b"g/".as_slice(), &channel.0, &1u32.to_be_bytes()].concat();
    let records = disk.iter().filter(|(key, _)| key.starts_with(&prefix));
    records.map(|(key, value)| (key[prefix.len()..].to_vec(), value.clone())).collect()
}

pub(super) fn pairs(records: &Disk) -> Records {
    records.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}
