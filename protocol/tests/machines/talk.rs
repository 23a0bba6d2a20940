//! A small language for tests of what goes wrong.

use std::time::Duration;

use qpc_protocol::client::Client;
use qpc_protocol::client::event::{Event, Failed, Outcome};
use qpc_protocol::env::Now;
use qpc_protocol::error::{ErrorCode, Refused};
use qpc_protocol::id::ChannelId;
use qpc_protocol::io::Ticket;
use qpc_protocol::limits::COMMIT_LOSSES;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{Body, CommitBundle, Entry, Frame, Part, Push, Reply, Request};

use qpc_sim::world::{Rules, World};

pub(crate) fn group_of(world: &mut World, founder: usize, names: &[&str]) -> ChannelId {
    let suite = Suite::Classical;
    let made = world.done(founder, |client, now| client.create_group(now, "planted name", suite));
    let Outcome::Group(channel) = made else { panic!("{made:?}") };
    for name in names {
        world.done(founder, |client, now| client.invite(now, channel, name));
    }
    world.settle();
    channel
}

pub(crate) fn say(world: &mut World, device: usize, channel: ChannelId, text: &str) -> Ticket {
    world.command(device, |client, now| client.send(now, channel, text.as_bytes()))
}

pub(crate) fn said(world: &mut World, device: usize, channel: ChannelId, text: &str) {
    let ticket = say(world, device, channel, text);
    assert!(matches!(world.outcome(device, ticket), Outcome::Sent(_)));
}

pub(crate) fn fails(
    world: &mut World,
    device: usize,
    run: impl FnOnce(&mut Client, Now) -> Result<Ticket, Refused>,
) -> Failed {
    let ticket = world.command(device, run);
    world.failure(device, ticket)
}

pub(crate) fn code(failed: &Failed) -> ErrorCode {
    match failed {
        Failed::Server { code, .. } => *code,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn saw(world: &World, device: usize, is: impl Fn(&Event) -> bool) -> bool {
    world.devices[device].log.iter().any(is)
}

pub(crate) fn forked(event: &Event) -> bool {
    matches!(event, Event::ForkDetected { .. })
}

pub(crate) fn suspected(event: &Event) -> bool {
    matches!(event, Event::ForkSuspected { .. })
}

pub(crate) fn agree(world: &World, channel: ChannelId, devices: &[usize]) {
    let first = world.group(devices[0], channel);
    for device in devices {
        let group = world.group(*device, channel);
        assert!(group.member);
        assert_eq!((group.epoch, &group.authenticator), (first.epoch, &first.authenticator));
    }
}

/// Changes frames for one device from its server, or (`up`) to it.
pub(crate) fn lie(
    world: &mut World,
    at: usize,
    of: bool,
    mut with: impl FnMut(Frame) -> Vec<Frame> + 'static,
) {
    world.liar = Some(Box::new(move |device, up, frame| match (device, up) == (at, of) {
        true => with(frame),
        false => vec![frame],
    }));
}

/// Changes replies for one device.
pub(crate) fn lie_reply(world: &mut World, at: usize, mut with: impl FnMut(&mut Reply) + 'static) {
    lie(world, at, false, move |mut frame| {
        if let Body::Reply(reply) = &mut frame.body {
            with(reply);
        }
        vec![frame]
    });
}

/// Changes entries pushed to one device.
pub(crate) fn lie_entries(
    world: &mut World,
    at: usize,
    mut with: impl FnMut(&mut Vec<Entry>) + 'static,
) {
    lie(world, at, false, move |mut frame| {
        if let Body::Push(Push::Entries(entries)) = &mut frame.body {
            with(&mut entries.entries);
        }
        vec![frame]
    });
}

pub(crate) fn three(seed: u64) -> (World, ChannelId) {
    let mut world = World::new(Rules::new(seed));
    for name in ["alice", "bob", "carol"] {
        world.register(name);
    }
    let channel = group_of(&mut world, ALICE, &["bob", "carol"]);
    (world, channel)
}

pub(crate) const ALICE: usize = 0;
pub(crate) const BOB: usize = 1;
pub(crate) const CAROL: usize = 2;

/// RFC 9420 §6: version, wire format, group id (one byte of length, 32 bytes), epoch, kind of sender.
pub(crate) fn is_outside(bundle: &CommitBundle) -> bool {
    match &bundle.commit {
        Part::Inline(commit) => commit[2 + 2 + 33 + 8] == 4,
        Part::Blob { .. } => false,
    }
}

/// A member's invitation loses until it is proposed, and then no member's commit gets through while the liar stays:
/// the Adds wait in the group.
pub(crate) fn queue_add(
    world: &mut World,
    channel: ChannelId,
    by: usize,
    other: usize,
    name: &str,
) -> Ticket {
    let lose = |of: Option<usize>| {
        move |device: usize, up: bool, frame: Frame| {
            let commit = matches!(&frame.body, Body::Request(Request::Commit(bundle)) if !is_outside(bundle));
            let lost = commit && up && of.is_none_or(|of| of == device);
            if lost { vec![] } else { vec![frame] }
        }
    };
    world.liar = Some(Box::new(lose(Some(by))));
    let ticket = world.command(by, |client, now| client.invite(now, channel, name));
    for _ in 0..COMMIT_LOSSES {
        world.pass(Duration::from_secs(1));
        world.done(other, |client, now| client.update(now, channel));
    }
    world.liar = Some(Box::new(lose(None)));
    world.pass(Duration::from_secs(1));
    ticket
}
