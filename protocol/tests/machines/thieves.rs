//! What liars and thieves get out of the ways back into a group.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::rejoin::{all_talk, undisturbed};
use crate::talk::*;
use qpc_protocol::client::event::{Event, Outcome, Why};
use qpc_protocol::limits::REJOIN_TIME;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{Body, EntryKind, Frame, Part, Reply, Request};
use qpc_sim::world::{Rules, World};

/// Nothing that comes short of what the device knows is a start: an older GroupInfo of its group, one of another group,
/// of a weaker suite, one with another tree.
#[test]
fn a_server_that_offers_another_state_of_the_group_is_refused() {
    let mut world = World::new(Rules::new(40));
    for name in ["alice", "bob", "carol"] {
        world.register(name);
    }
    let channel = group_in(&mut world, Suite::Hybrid, ALICE, &["bob", "carol"]);
    let other = group_of(&mut world, ALICE, &["bob", "carol"]);
    // What the server once had of both.
    let seen: Rc<RefCell<Vec<Reply>>> = Rc::default();
    let keep = seen.clone();
    lie_reply(&mut world, BOB, move |reply| {
        if matches!(reply, Reply::GroupInfo { .. }) {
            keep.borrow_mut().push(reply.clone());
        }
    });
    for group in [channel, other] {
        world.done(BOB, |client, now| client.rejoin(now, group));
    }
    world.settle();
    let lies = ["older", "other group", "weaker suite", "other tree"];
    for (number, lie) in lies.into_iter().enumerate() {
        world.liar = None;
        world.pass(REJOIN_TIME);
        let before = world.group(ALICE, channel).epoch;
        world.devices[BOB].log.clear();
        let writes = Rc::new(RefCell::new(0));
        let (count, seen) = (writes.clone(), seen.clone());
        world.liar = Some(Box::new(move |device, up, mut frame| {
            if device != BOB {
                return vec![frame];
            }
            match &mut frame.body {
                Body::Request(Request::Commit(_)) if up => *count.borrow_mut() += 1,
                Body::Reply(Reply::GroupInfo { group_info, tree, tree_len, epoch, .. }) => {
                    let offered = seen.borrow()[usize::from(lie == "other group")].clone();
                    let Reply::GroupInfo {
                        group_info: old,
                        tree: old_tree,
                        tree_len: old_len,
                        epoch: old_epoch,
                        ..
                    } = offered
                    else {
                        unreachable!()
                    };
                    if number < 2 {
                        *group_info = old;
                        *epoch = old_epoch;
                    }
                    if number != 2 {
                        (*tree, *tree_len) = (old_tree, old_len);
                    } else {
                        let mut weaker = group_info.to_vec();
                        // RFC 9420 §8.1: version and wire format, then version and suite of the GroupContext.
                        assert_eq!(weaker[6..8], [0x00, 0x4F]);
                        weaker[7] = 0x01;
                        *group_info = weaker.into();
                    }
                }
                _ => {}
            }
            vec![frame]
        }));
        let ticket = world.command(BOB, |client, now| client.rejoin(now, channel));
        world.pass(Duration::from_secs(30));
        assert!(saw(&world, BOB, |e| matches!(e, Event::Unreadable { .. })), "{lie}");
        assert_eq!(*writes.borrow(), 0, "{lie}");
        assert_eq!(world.group(ALICE, channel).epoch, before, "{lie}");
        honest(&mut world, &[BOB]);
        assert_eq!(world.outcome(BOB, ticket), Outcome::Epoch(before + 1), "{lie}");
        all_talk(&mut world, channel, lie);
    }
    undisturbed(&world, &[ALICE, CAROL]);
}

#[test]
fn another_tree_than_was_named_is_asked_for_again() {
    let (mut world, channel) = three(41);
    let mut lies = 3;
    lie_reply(&mut world, BOB, move |reply| {
        if let Reply::Blob { chunk, .. } = reply
            && lies > 0
        {
            lies -= 1;
            let mut other = chunk.to_vec();
            other[9] ^= 1;
            *chunk = other.into();
        }
    });
    world.done(BOB, |client, now| client.rejoin(now, channel));
    assert!(saw(&world, BOB, suspected));
    all_talk(&mut world, channel, "after");
    undisturbed(&world, &[ALICE, CAROL]);
}

/// A commit kept from a device shows by what is written in the epoch after it, and by a GroupInfo that a member signed.
/// Neither is made up by showing an entry of a later epoch alone.
#[test]
fn a_device_that_misses_a_commit_comes_back_once_the_server_is_honest() {
    let (mut world, channel) = three(42);
    leave_out(&mut world, BOB, channel, |entry| entry.kind == EntryKind::Commit);
    world.done(ALICE, |client, now| client.update(now, channel));
    said(&mut world, ALICE, channel, "out of bob's reach");
    world.until(|world| saw(world, BOB, |e| matches!(e, Event::FellOut { .. })));
    honest(&mut world, &[BOB]);
    world.settle();
    assert_eq!(rejoins(&world, BOB), [Why::Missed]);
    all_talk(&mut world, channel, "after");
    undisturbed(&world, &[ALICE, CAROL]);
}

/// A commit that was shown otherwise is missed too. If nobody writes in the epoch after it, the own next commit shows
/// it: it is refused for a later epoch, to which the log does not lead, read anew.
#[test]
fn a_device_that_was_shown_another_commit_finds_out_by_its_own_next_one() {
    let (mut world, channel) = three(44);
    lie_entries_of(&mut world, BOB, channel, |entries| {
        for entry in entries.iter_mut().filter(|entry| entry.kind == EntryKind::Commit) {
            if let Part::Inline(commit) = &entry.payload {
                let mut other = commit.to_vec();
                let at = other.len() - 9;
                other[at] ^= 1;
                entry.payload = Part::Inline(other.into());
            }
        }
    });
    world.done(ALICE, |client, now| client.update(now, channel));
    world.pass(Duration::from_secs(1));
    world.liar = None;
    assert!(world.group(BOB, channel).epoch < world.group(ALICE, channel).epoch);
    world.done(BOB, |client, now| client.update(now, channel));
    assert_eq!(rejoins(&world, BOB), [Why::Missed]);
    all_talk(&mut world, channel, "after");
    undisturbed(&world, &[ALICE, CAROL]);
}

/// Whoever has a copy of a device's state and its keys *is* the device. It gets in, as a commit in the log that the
/// device itself did not make: it says so, and takes its leaf back. Only revoking the device ends it.
#[test]
fn a_thief_of_a_backup_is_noticed_and_thrown_out() {
    let mut world = World::new(Rules::new(43));
    for name in ["alice", "bob", "carol"] {
        world.register(name);
    }
    let tablet = world.login("bob");
    let channel = group_of(&mut world, ALICE, &["bob", "carol"]);
    let copy = world.devices[BOB].disk.clone();
    said(&mut world, BOB, channel, "mine");
    world.cut(BOB);
    world.settle();
    world.devices[BOB].log.clear();
    let thief = world.device();
    put_back(&mut world, thief, copy);
    world.until(|world| !rejoins(world, thief).is_empty());
    // The keys that the copy had before are of no use to it: what it reads it reads by a leaf that all see.
    world.until(|world| saw(world, BOB, restored));
    world.until(|world| !rejoins(world, BOB).is_empty());
    said(&mut world, BOB, channel, "it is me");
    let device = world.client(BOB).whoami().unwrap().1.device;
    world.done(tablet, |client, now| client.revoke(now, device));
    for out in [thief, BOB] {
        world.until(|world| saw(world, out, |e| matches!(e, Event::SessionEnded(_))));
    }
    said(&mut world, ALICE, channel, "among us");
    world.pass(Duration::from_secs(10));
    assert!(!world.bodies(thief).contains(&"among us".to_owned()));
    assert!(world.bodies(tablet).contains(&"among us".to_owned()));
}

#[test]
fn an_answer_of_another_kind_ends_the_connection_and_not_the_way_back() {
    let (mut world, channel) = three(44);
    let mut lies = 1;
    lie(&mut world, BOB, false, move |frame| {
        if matches!(frame.body, Body::Reply(Reply::GroupInfo { .. })) && lies > 0 {
            lies -= 1;
            return vec![Frame { body: Body::Reply(Reply::Done), ..frame }];
        }
        vec![frame]
    });
    world.done(BOB, |client, now| client.rejoin(now, channel));
    assert!(saw(&world, BOB, |e| matches!(e, Event::ServerFault { .. })));
    all_talk(&mut world, channel, "after");
}

/// The place in a group that a message was made for can be named by every member. Who else says that it is this
/// device's own decides whether one group is doubted or all.
#[test]
fn a_message_that_the_server_says_is_anothers_doubts_one_group_only() {
    for honest in [true, false] {
        let (mut world, channel) = three(45);
        let second = group_of(&mut world, ALICE, &["bob"]);
        let copy = world.devices[BOB].disk.clone();
        world.crash(CAROL);
        said(&mut world, BOB, channel, "since the copy");
        world.settle();
        let bob = world.client(BOB).whoami().unwrap().1;
        let alice = world.client(ALICE).whoami().unwrap().1;
        lie_entries(&mut world, BOB, move |entries| {
            let own = entries.iter_mut().filter(|entry| entry.sender == bob && !honest);
            own.filter(|e| e.kind == EntryKind::Application).for_each(|e| e.sender = alice);
        });
        put_back(&mut world, BOB, copy);
        world.pass(Duration::from_secs(10));
        let groups = if honest { 2 } else { 1 };
        assert_eq!(rejoins(&world, BOB), vec![Why::Restored; groups]);
        assert_eq!(saw(&world, BOB, restored), honest);
        agree(&world, second, &[ALICE, BOB]);
        agree(&world, channel, &[ALICE, BOB]);
    }
}
