//! What holds after every run of a script.

use std::collections::BTreeMap;

use qpc_protocol::client::event::Event;
use qpc_protocol::id::ChannelId;

use super::Asked;
use crate::world::World;

/// The last events of everybody, for a failure.
pub(super) fn last(world: &World) -> String {
    let mut text = String::new();
    for (number, device) in world.devices.iter().enumerate() {
        let events: Vec<_> = device.log.iter().rev().take(6).collect();
        text.push_str(&format!("\n  device {number}: {:?} {events:?}", device.client));
    }
    text
}

/// `mistaken`: somebody's name had led to two accounts before.
pub(super) fn all_hold(world: &World, asked: &[Asked], mistaken: bool) -> Result<(), String> {
    nothing_suspect(world, mistaken)?;
    same_groups(world)?;
    read_once_and_alike(world)?;
    told_once(world, asked)
}

/// Who has no session any more has heard nothing since.
fn has_session(world: &World, device: usize) -> bool {
    let client = world.devices[device].client.as_ref();
    client.is_some_and(|client| client.may_connect().is_ok())
}

/// Crashes are nobody's lie.
fn nothing_suspect(world: &World, mistaken: bool) -> Result<(), String> {
    for (number, device) in world.devices.iter().enumerate() {
        let bad = device.log.iter().find(|event| match event {
            Event::AccountChanged { .. } => !mistaken,
            Event::ForkDetected { .. }
            | Event::ForkSuspected { .. }
            | Event::ServerFault { .. }
            | Event::Restored { .. }
            | Event::Gap { .. }
            | Event::NameContradicted { .. }
            | Event::Unreadable { .. } => true,
            _ => false,
        });
        if let Some(event) = bad {
            return Err(format!("device {number} was told {event:?}"));
        }
    }
    Ok(())
}

/// Members of a group are in the same epoch, with the same keys, at the same place of the same log.
fn same_groups(world: &World) -> Result<(), String> {
    let mut groups: BTreeMap<ChannelId, (usize, _, u32, u32)> = BTreeMap::new();
    for number in (0..world.devices.len()).filter(|device| has_session(world, *device)) {
        for group in world.groups(number).into_iter().filter(|group| group.member) {
            let state =
                (group.generation, group.epoch, group.authenticator, group.cursor, group.chain);
            let known =
                groups.entry(group.channel).or_insert((number, state.clone(), group.members, 0));
            if known.1 != state {
                let first = known.0;
                return Err(format!("devices {first} and {number} differ in {}", group.channel));
            }
            known.3 += 1;
        }
    }
    match groups.into_iter().find(|(_, (_, _, members, seen))| members != seen) {
        Some((channel, (_, _, members, seen))) => {
            Err(format!("{channel} has {members} members, and {seen} think they are"))
        }
        None => Ok(()),
    }
}

/// A place in a log holds the same for everybody, and no text stands at two. Unread messages come again after each
/// start, so a device may be told one several times.
fn read_once_and_alike(world: &World) -> Result<(), String> {
    let mut log = BTreeMap::new();
    let mut texts = BTreeMap::new();
    for number in 0..world.devices.len() {
        for message in world.messages(number) {
            let place = (message.channel, message.seq);
            let body = message.body.to_vec();
            let text = String::from_utf8_lossy(&body).into_owned();
            if *log.entry(place).or_insert_with(|| body.clone()) != body {
                return Err(format!("device {number} read something else at {place:?}: {text}"));
            }
            if *texts.entry(body).or_insert(place) != place {
                return Err(format!("{text} is there twice"));
            }
        }
    }
    Ok(())
}

/// What became of a command is told at most once: if its device went off between the batch and the telling, never.
fn told_once(world: &World, asked: &[Asked]) -> Result<(), String> {
    for (at, command) in asked.iter().enumerate() {
        let again = asked[at + 1..].iter();
        let again = again.filter(|later| (later.by, later.ticket) == (command.by, command.ticket));
        let later: usize = again.map(|later| later.answers(world).count()).max().unwrap_or(0);
        let told = command.answers(world).count() - later;
        if told > 1 {
            return Err(format!("{command:?} was answered {told} times"));
        }
    }
    Ok(())
}
