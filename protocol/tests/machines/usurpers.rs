//! Resets that are nobody's to make: by members without the right to, by servers, and by an admin whom a server helps
//! to weaken the group.

use std::time::Duration;

use crate::reset::{all_talk, reset, resets};
use crate::stranger::Stranger;
use crate::talk::*;
use qpc_protocol::client::event::Event;
use qpc_protocol::error::{ErrorCode, Refused};
use qpc_protocol::id::ChannelId;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::EntryKind;
use qpc_sim::world::{Rules, World};

// ---- who may not ------------------------------------------------------------------------------

#[test]
fn a_plain_member_and_one_who_is_out_reset_nothing() {
    let (mut world, channel) = three(70);
    let failed = fails(&mut world, BOB, |client, now| client.reset(now, channel, None));
    assert_eq!(code(&failed), ErrorCode::NotAllowed);
    let dave = world.register("dave");
    let now = world.now;
    assert_eq!(world.client(dave).reset(now, channel, None), Err(Refused::UnknownChannel));
    let carol = me(&mut world, CAROL).account;
    world.done(ALICE, |client, now| client.remove(now, channel, carol));
    world.settle();
    let now = world.now;
    assert_eq!(world.client(CAROL).reset(now, channel, None), Err(Refused::NotMember));
    all_talk(&mut world, channel, &[ALICE, BOB], 1);
}

/// The server has a reset begun by one of whom carol does not know that she is an admin, and says that it was begun by
/// one who is: for carol that is a plain member and a server that lies.
#[test]
fn a_reset_by_a_plain_member_is_not_followed_whatever_the_server_says() {
    for says_alice in [false, true] {
        let (mut world, channel) = three(71);
        let alice = me(&mut world, ALICE);
        world.crash(CAROL);
        make_admin(&mut world, ALICE, channel, BOB);
        world.settle();
        reset(&mut world, BOB, channel, None);
        world.settle();
        lie_entries(&mut world, CAROL, move |entries| {
            let mut gone = 0;
            entries.retain_mut(|entry| {
                // Of the group she was in: what made bob an admin.
                let hidden = entry.kind == EntryKind::Commit && entry.generation == 1;
                gone += u64::from(hidden);
                if entry.origin.is_none() {
                    entry.seq -= gone;
                }
                if entry.kind == EntryKind::Reset && says_alice {
                    entry.sender = alice;
                }
                !hidden
            });
        });
        world.devices[CAROL].log.clear();
        world.start(CAROL);
        world.pass(Duration::from_secs(30));
        assert_eq!(world.group(CAROL, channel).generation, 1);
        assert!(!saw(&world, CAROL, |e| matches!(e, Event::Joined { .. })));
        let told = |text: &str| {
            saw(&world, CAROL, |e| matches!(e, Event::Unreadable { why, .. } if why.contains(text)))
        };
        assert_eq!(resets(&world, CAROL).len(), usize::from(says_alice));
        assert!(told("no admin"), "{:?}", world.devices[CAROL].log);
    }
}

/// A server that makes up a reset stops a group, as it can anyway, and moves nobody into another.
#[test]
fn a_reset_that_the_server_made_up_stops_the_group_and_moves_nobody() {
    let (mut world, channel) = three(72);
    lie_entries(&mut world, BOB, |entries| {
        for entry in entries.iter_mut().filter(|entry| entry.kind == EntryKind::Application) {
            entry.kind = EntryKind::Reset;
            entry.generation = 2;
        }
    });
    world.devices[BOB].log.clear();
    said(&mut world, ALICE, channel, "never read");
    world.pass(Duration::from_secs(5));
    assert_eq!(resets(&world, BOB).len(), 1);
    let kept = say(&mut world, BOB, channel, "kept");
    world.pass(Duration::from_secs(60));
    assert_eq!(world.bodies(CAROL), ["never read"]);
    assert!(!is_done(&world, BOB, kept));
    let group = world.group(BOB, channel);
    assert!(group.member && group.generation == 1);
    assert!(!saw(&world, BOB, |event| matches!(event, Event::Joined { .. })));
    assert!(!saw(&world, BOB, forked), "nothing contradicts it yet");
    // The way out is the one from any log that does not go on: to be added anew, or a reset.
    world.liar = None;
    reset(&mut world, ALICE, channel, None);
    all_talk(&mut world, channel, &[ALICE, BOB, CAROL], 2);
    assert_eq!(count(&world, CAROL, "kept"), 1);
    assert!(saw(&world, BOB, forked), "no log has two resets to one generation");
}

/// The log that the others have goes on in the group that is said to be over: with the next connection, or at once.
#[test]
fn a_reset_that_the_server_made_up_is_told_once_the_log_goes_on_without_it() {
    for restarted in [false, true] {
        let (mut world, channel) = three(73);
        let mut once = true;
        lie_entries_of(&mut world, BOB, channel, move |entries| {
            for entry in entries.iter_mut().filter(|entry| entry.kind == EntryKind::Application) {
                if core::mem::take(&mut once) {
                    (entry.kind, entry.generation) = (EntryKind::Reset, 2);
                }
            }
        });
        said(&mut world, ALICE, channel, "never read");
        world.settle();
        let end = world.group(BOB, channel).cursor;
        assert_eq!(resets(&world, BOB).len(), 1);
        assert!(!saw(&world, BOB, forked));
        world.liar = None;
        if restarted {
            restart(&mut world, BOB);
        }
        said(&mut world, ALICE, channel, "read by carol");
        world.settle();
        let told = |event: &&Event| matches!(event, Event::ForkDetected { channel: of, seq, by: None, .. } if (*of, *seq) == (channel, end));
        assert_eq!(world.devices[BOB].log.iter().filter(told).count(), 1);
        assert_eq!(world.bodies(CAROL), ["never read", "read by carol"]);
    }
}

// ---- a server that helps an admin to weaken a group --------------------------------------------

#[test]
fn a_welcome_to_a_weaker_suite_is_refused_whoever_it_is_from() {
    let mut world = World::new(Rules::new(80));
    let bob = world.register("bob");
    let account = account(&mut world, bob);
    let mut admin = Stranger::new(&mut world);
    let channel = ChannelId::direct(admin.sender.account, account);
    admin.begin(&mut world, channel, account, 1, Suite::Hybrid);
    world.cut(bob);
    world.settle();
    assert_eq!(world.group(bob, channel).suite, Suite::Hybrid);
    admin.begin(&mut world, channel, account, 2, Suite::Classical);
    world.cut(bob);
    world.settle();
    assert_eq!(resets(&world, bob), [(2, admin.sender)]);
    let group = world.group(bob, channel);
    assert_eq!((group.suite, group.generation), (Suite::Hybrid, 1));
    assert!(saw(
        &world,
        bob,
        |e| matches!(e, Event::Unreadable { why, .. } if why.contains("suite"))
    ));
    // The same by one that is not weaker is followed.
    admin.begin(&mut world, channel, account, 3, Suite::Hybrid);
    world.cut(bob);
    world.settle();
    let group = world.group(bob, channel);
    assert_eq!((group.suite, group.generation), (Suite::Hybrid, 3));
}
