//! Commits whose path secrets are forged: no server can see it, the members do, and go on.

use std::time::Duration;

use crate::reset::{all_talk, reset};
use crate::talk::*;
use qpc_protocol::client::Client;
use qpc_protocol::client::event::{Event, Outcome, Why};
use qpc_protocol::env::Now;
use qpc_protocol::error::Refused;
use qpc_protocol::io::Ticket;
use qpc_protocol::wire::message::{EntryKind, Part};
use qpc_sim::recorder::Forgery;
use qpc_sim::world::{Rules, World};

/// A member's commit of nothing but new keys, with forged path secrets.
fn forge(
    world: &mut World,
    by: usize,
    forgery: Forgery,
    commit: impl FnOnce(&mut Client, Now) -> Result<Ticket, Refused>,
) {
    world.devices[by].forgery = Some(forgery);
    let ticket = world.command(by, commit);
    let outcome = world.outcome(by, ticket);
    assert!(matches!(outcome, Outcome::Epoch(_)), "the server has no way to see it: {outcome:?}");
    world.devices[by].forgery = None;
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
        forge(&mut world, BOB, forgery, |client, now| client.update(now, channel));
        world.settle();
        for device in others {
            assert_eq!(unopened(&world, device), 1, "{forgery:?}, device {device}");
        }
        agree(&world, channel, &all);

        forge(&mut world, BOB, forgery, |client, now| client.update(now, channel));
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

/// Who comes back from outside by a commit with forged secrets signs them as well: the others come back, too.
#[test]
fn secrets_that_are_forged_from_outside_bring_the_others_back() {
    for (seed, forgery) in [(92, Forgery::Sealed), (93, Forgery::Secret)] {
        let mut world = World::new(Rules::new(seed));
        for name in ["alice", "bob", "carol", "dave"] {
            world.register(name);
        }
        let channel = group_of(&mut world, ALICE, &["bob", "carol", "dave"]);
        let all = [ALICE, BOB, CAROL, 3];
        forge(&mut world, BOB, forgery, |client, now| client.rejoin(now, channel));
        world.settle();
        for device in [ALICE, CAROL, 3] {
            assert_eq!(unopened(&world, device), 1, "{forgery:?}, device {device}");
        }
        agree(&world, channel, &all);
        all_talk(&mut world, channel, &all, 1);
    }
}

/// The tag of a commit from outside is signed by nobody: one that was bent on the way brings nobody back.
#[test]
fn a_commit_from_outside_whose_tag_was_bent_is_no_evidence() {
    let mut world = World::new(Rules::new(94));
    for name in ["alice", "bob", "carol"] {
        world.register(name);
    }
    let channel = group_of(&mut world, ALICE, &["bob", "carol"]);
    lie_entries_of(&mut world, ALICE, channel, |entries| {
        for entry in entries.iter_mut().filter(|entry| entry.kind == EntryKind::Commit) {
            let Part::Inline(commit) = &entry.payload else { panic!("a blob") };
            // It ends with the tag: from outside there is no membership tag behind.
            let (tag, before) = commit.split_last().unwrap();
            entry.payload = Part::Inline([before, &[tag ^ 1]].concat().into());
        }
    });
    world.done(BOB, |client, now| client.rejoin(now, channel));
    world.pass(Duration::from_secs(5));
    assert_eq!(unopened(&world, ALICE), 0);
    assert!(saw(&world, ALICE, trouble));
}
