//! What does not decrypt and chains that differ are told, and bring nobody back (docs/adr/0015).

use std::time::Duration;

use crate::talk::*;
use qpc_protocol::client::event::{Event, Why};
use qpc_protocol::id::ChannelId;
use qpc_protocol::wire::message::{Body, EntryKind, Request, SubmitKind};
use qpc_sim::world::World;

const NOISES: usize = 20;

/// Nobody fell out, nobody came back, and the group is in the epoch that it was in.
fn nobody_moved(world: &World, channel: ChannelId, devices: &[usize], epoch: u64) {
    for device in devices {
        assert!(!saw(world, *device, |event| matches!(event, Event::FellOut { .. })), "{device}");
        assert!(rejoins(world, *device).is_empty());
        assert_eq!(world.group(*device, channel).epoch, epoch);
    }
}

/// A member submits what nobody can decrypt, again and again. The server cannot tell it from any other message.
#[test]
fn a_member_whose_messages_do_not_decrypt_makes_nobody_come_back() {
    let (mut world, channel) = three(1);
    let epoch = world.group(BOB, channel).epoch;
    lie(&mut world, ALICE, true, |mut frame| {
        if let Body::Request(Request::Submit(submit)) = &mut frame.body {
            let mut noise = submit.payload.to_vec();
            *noise.last_mut().unwrap() ^= 1;
            submit.payload = noise.into();
        }
        vec![frame]
    });
    for _ in 0..NOISES {
        say(&mut world, ALICE, channel, "noise");
    }
    world.pass(Duration::from_secs(60));
    for device in [BOB, CAROL] {
        let told = world.devices[device].log.iter().filter(|event| suspected(event)).count();
        assert_eq!(told, NOISES, "device {device}");
    }
    world.pass(Duration::from_secs(2 * 60 * 60));
    nobody_moved(&world, channel, &[BOB, CAROL], epoch);
    // Between the others all is as before.
    said(&mut world, BOB, channel, "still here");
    said(&mut world, CAROL, channel, "here too");
    world.pass(Duration::from_secs(5));
    assert_eq!(
        (world.bodies(BOB), world.bodies(CAROL)),
        (vec!["here too".into()], vec!["still here".into()])
    );
    // The next commit brings fresh keys, whoever makes it.
    world.done(BOB, |client, now| client.update(now, channel));
    world.pass(Duration::from_secs(5));
    agree(&world, channel, &[BOB, CAROL]);
}

/// A proposal's membership tag comes last (RFC 9420 §6.2), and takes the group's secrets to check. The server insists
/// on one that no member can use: one device comes in from outside, and all commit as before.
#[test]
fn a_proposal_that_no_member_can_use_does_not_stop_the_group() {
    let (mut world, channel) = three(3);
    let mut spoilt = false;
    lie(&mut world, BOB, true, move |mut frame| {
        if let Body::Request(Request::Submit(submit)) = &mut frame.body
            && submit.kind == SubmitKind::Proposal
            && !core::mem::replace(&mut spoilt, true)
        {
            let mut noise = submit.payload.to_vec();
            *noise.last_mut().unwrap() ^= 1;
            submit.payload = noise.into();
        }
        vec![frame]
    });
    let leave = world.command(BOB, |client, now| client.leave(now, channel));
    world.until(|world| saw(world, ALICE, unreadable) && saw(world, CAROL, unreadable));
    let tickets =
        [ALICE, CAROL].map(|of| world.command(of, |client, now| client.update(now, channel)));
    world.pass(Duration::from_secs(5));
    assert!(is_done(&world, ALICE, tickets[0]) && is_done(&world, CAROL, tickets[1]));
    let back = [ALICE, CAROL].map(|of| rejoins(&world, of));
    assert_eq!(back.concat(), [Why::Blocked], "one for all");
    // What he asked for did not reach the server, and he is told.
    honest(&mut world, &[BOB]);
    world.failure(BOB, leave);
    all_say(&mut world, channel, &[ALICE, BOB, CAROL], "after");
}

/// The server shows one entry otherwise: from there on every word of everybody contradicts what bob has read.
#[test]
fn a_chain_that_differs_for_good_makes_nobody_come_back() {
    let (mut world, channel) = three(2);
    let at = world.group(BOB, channel).cursor + 1;
    lie_entries_of(&mut world, BOB, channel, move |entries| {
        entries.iter_mut().filter(|entry| entry.seq == at).for_each(|entry| entry.time.0 += 1);
    });
    let epoch = world.group(BOB, channel).epoch;
    for number in 0..NOISES {
        for device in [ALICE, CAROL] {
            said(&mut world, device, channel, &format!("{number} from {device}"));
        }
    }
    world.pass(Duration::from_secs(60));
    let told = world.devices[BOB].log.iter().filter(|event| forked(event)).count();
    assert_eq!(told, 2 * NOISES - 1, "every word but the first");
    assert_eq!(world.bodies(BOB).len(), 2 * NOISES);
    nobody_moved(&world, channel, &[ALICE, BOB, CAROL], epoch);
    // He commits and is followed, and he follows.
    for device in [BOB, ALICE] {
        world.done(device, |client, now| client.update(now, channel));
    }
    world.settle();
    agree(&world, channel, &[ALICE, BOB, CAROL]);
    nobody_moved(&world, channel, &[ALICE, BOB, CAROL], epoch + 2);
}

/// A commit of the present epoch that no member signed is noise too.
#[test]
fn a_commit_that_is_noise_makes_nobody_come_back() {
    let (mut world, channel) = three(3);
    let epoch = world.group(BOB, channel).epoch;
    lie_entries_of(&mut world, BOB, channel, |entries| {
        let messages = entries.iter_mut().filter(|entry| entry.kind == EntryKind::Application);
        messages.for_each(|entry| entry.kind = EntryKind::Commit);
    });
    said(&mut world, ALICE, channel, "called a commit");
    world.pass(Duration::from_secs(60));
    nobody_moved(&world, channel, &[ALICE, BOB, CAROL], epoch);
}
