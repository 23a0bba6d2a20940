//! Commits whose path secrets are forged: no server can see it, the members do, and go on.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::reset::{all_talk, reset};
use crate::talk::*;
use qpc_protocol::client::event::{Event, Outcome, Why};
use qpc_protocol::id::ChannelId;
use qpc_protocol::wire::message::{Body, Request};
use qpc_sim::recorder::Forgery;
use qpc_sim::world::{Rules, World};

/// A member's commit of nothing but new keys, with forged secrets: nobody else seals anything meanwhile.
fn forge(world: &mut World, by: usize, channel: ChannelId, forgery: Forgery) {
    let sent = Rc::new(Cell::new(false));
    let seen = sent.clone();
    lie(world, by, true, move |frame| {
        seen.set(seen.get() || matches!(frame.body, Body::Request(Request::Commit(_))));
        vec![frame]
    });
    world.forge(Some(forgery));
    let update = world.command(by, |client, now| client.update(now, channel));
    world.until(|_| sent.get());
    world.forge(None);
    world.liar = None;
    let outcome = world.outcome(by, update);
    assert!(matches!(outcome, Outcome::Epoch(_)), "the server has no way to see it: {outcome:?}");
    assert!(world.take_forged() >= 2, "one secret for each half of the tree");
}

/// How often a device said that a commit does not open for it.
fn unopened(world: &World, device: usize) -> usize {
    let of = |event: &&Event| matches!(event, Event::FellOut { why: Why::Unopened, .. });
    world.devices[device].log.iter().filter(of).count()
}

/// The server accepts what it cannot look into. Members say what has happened and come back by themselves; a member who
/// does it again breaks the group, until an admin begins another.
#[test]
fn a_group_that_forged_secrets_have_broken_goes_on_after_a_reset() {
    for (seed, forgery) in [(90, Forgery::Sealed), (91, Forgery::Secret)] {
        let mut world = World::new(Rules::new(seed));
        for name in ["alice", "bob", "carol", "dave"] {
            world.register(name);
        }
        let channel = group_of(&mut world, ALICE, &["bob", "carol", "dave"]);
        let (others, all) = ([ALICE, CAROL, 3], [ALICE, BOB, CAROL, 3]);
        all_talk(&mut world, channel, &all, 1);
        forge(&mut world, BOB, channel, forgery);
        world.settle();
        for device in others {
            assert_eq!(unopened(&world, device), 1, "{forgery:?}, device {device}");
        }
        agree(&world, channel, &all);

        forge(&mut world, BOB, channel, forgery);
        world.pass(Duration::from_secs(5));
        let epoch = world.group(BOB, channel).epoch;
        let mut waiting = Vec::new();
        for device in others {
            assert_eq!(unopened(&world, device), 2, "{forgery:?}, device {device}");
            assert!(world.group(device, channel).epoch < epoch, "not again within the hour");
            waiting.push((device, say(&mut world, device, channel, &format!("kept by {device}"))));
        }
        assert_eq!(reset(&mut world, ALICE, channel, None), 2);
        for (device, ticket) in waiting {
            assert!(matches!(world.outcome(device, ticket), Outcome::Sent(_)));
        }
        all_talk(&mut world, channel, &all, 2);
        for device in others {
            assert_eq!(count(&world, BOB, &format!("kept by {device}")), 1);
        }
        // And bob is put out.
        let bob = account(&mut world, BOB);
        world.done(ALICE, |client, now| client.remove(now, channel, bob));
        world.settle();
        agree(&world, channel, &others);
    }
}
