//! What happens to a device over time: away, removed and added anew, logged out and in, alone.

use std::time::Duration;

use crate::talk::*;
use qpc_protocol::client::Client;
use qpc_protocol::client::event::{Event, Outcome};
use qpc_protocol::error::{ErrorCode, Refused};
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{Body, Request};
use qpc_sim::world::{Rules, World};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[test]
fn a_device_removed_and_added_again_while_away_is_in_and_reads_on() {
    for away in [true, false] {
        let (mut world, channel) = three(1);
        let account = account(&mut world, BOB);
        if away {
            world.crash(BOB);
        }
        said(&mut world, ALICE, channel, "before");
        world.done(ALICE, |client, now| client.remove(now, channel, account));
        said(&mut world, ALICE, channel, "without bob");
        world.done(ALICE, |client, now| client.invite(now, channel, "bob"));
        if away {
            world.start(BOB);
        }
        world.settle();
        agree(&world, channel, &[ALICE, BOB, CAROL]);
        said(&mut world, CAROL, channel, "again");
        said(&mut world, BOB, channel, "thanks");
        world.settle();
        assert!(!world.bodies(BOB).contains(&"without bob".to_owned()));
        assert_eq!(world.bodies(BOB).last().unwrap(), "again");
        assert_eq!(world.bodies(ALICE), ["again", "thanks"]);
        agree(&world, channel, &[ALICE, BOB, CAROL]);
    }
}

#[test]
fn who_leaves_alone_takes_the_group_along_and_no_ticket_stays_open() {
    let mut world = World::new(Rules::new(2));
    let alice = world.register("alice");
    let channel = group_of(&mut world, alice, &[]);
    world.cut(alice);
    let leave = world.command(alice, |client, now| client.leave(now, channel));
    let invite = world.command(alice, |client, now| client.invite(now, channel, "nobody"));
    assert_eq!(world.outcome(alice, leave), Outcome::Done);
    world.failure(alice, invite);
    world.settle();
    assert!(world.groups(alice).is_empty());
}

#[test]
fn what_was_said_before_leaving_goes_out_before() {
    let (mut world, channel) = three(3);
    for device in [BOB, CAROL] {
        make_admin(&mut world, ALICE, channel, device);
    }
    world.settle();
    for device in [ALICE, BOB] {
        world.cut(device);
        let word = say(&mut world, device, channel, "farewell");
        let leave = world.command(device, |client, now| client.leave(now, channel));
        assert!(matches!(world.outcome(device, word), Outcome::Sent(_)));
        assert_eq!(world.outcome(device, leave), Outcome::Done);
        world.settle();
        world.until(|world| saw(world, device, |e| matches!(e, Event::Evicted { .. })));
    }
    world.settle();
    assert_eq!(world.group(CAROL, channel).members, 1);
    assert_eq!(world.bodies(CAROL), ["farewell", "farewell"]);
}

#[test]
fn an_invitation_made_offline_is_kept_and_comes_true_days_later() {
    let mut world = World::new(Rules::new(4));
    let alice = world.register("alice");
    let bob = world.register("bob");
    let channel = group_of(&mut world, alice, &[]);
    world.devices[alice].connect = false;
    world.cut(alice);
    let invite = world.command(alice, |client, now| client.invite(now, channel, "bob"));
    for _ in 0..2 {
        // Bob's key packages are renewed meanwhile; alice is switched off and on.
        world.pass(Duration::from_secs(25 * 3600));
        world.crash(alice);
        world.start(alice);
    }
    world.devices[alice].connect = true;
    assert!(matches!(world.outcome(alice, invite), Outcome::Epoch(_)));
    world.settle();
    agree(&world, channel, &[alice, bob]);
}

#[test]
fn after_a_logout_nothing_goes_and_after_a_login_all_does() {
    let (mut world, channel) = three(5);
    world.done(BOB, |client, now| client.logout(now));
    let now = world.now;
    assert_eq!(world.client(BOB).send(now, channel, b"x"), Err(Refused::LoggedOut));
    said(&mut world, ALICE, channel, "while bob is out");
    world.pass(Duration::from_secs(60));
    assert!(world.bodies(BOB).is_empty());
    let password = "password of bob".to_owned();
    world.done(BOB, |client, now| client.login(now, "bob", password.into()));
    said(&mut world, BOB, channel, "back");
    world.settle();
    assert_eq!(world.bodies(BOB), ["while bob is out"]);
    assert_eq!(world.bodies(ALICE), ["back"]);
    agree(&world, channel, &[ALICE, BOB, CAROL]);
}

/// Its tokens are renewed meanwhile, whatever its calendar shows.
#[test]
fn who_was_connected_for_long_can_be_away_for_long_afterwards() {
    for ahead in [-33, 0, 33] {
        let (mut world, channel) = three(9);
        world.devices[BOB].clock.ahead = ahead * 3_600_000;
        for _ in 0..25 {
            world.advance(DAY);
            world.pass(Duration::from_secs(60));
        }
        world.kill_server();
        world.pass(DAY * 10);
        world.start_server();
        world.pass(Duration::from_secs(60));
        said(&mut world, BOB, channel, "here still");
        world.settle();
        assert_eq!(world.bodies(ALICE), ["here still"], "{ahead} hours ahead");
        assert!(!saw(&world, BOB, |event| matches!(event, Event::SessionEnded(_))));
    }
}

/// The tokens' end is a date of the server's calendar.
#[test]
fn a_session_that_ends_with_its_tokens_ends_for_that_whatever_the_calendar_shows() {
    for ahead in [-33, 33] {
        let (mut world, _) = three(10);
        world.devices[BOB].connect = false;
        world.cut(BOB);
        world.devices[BOB].clock.ahead = ahead * 3_600_000;
        world.advance(DAY * 31);
        world.devices[BOB].connect = true;
        world.pass(Duration::from_secs(120));
        let ended = |event: &Event| matches!(event, Event::SessionEnded(ErrorCode::TokenExpired));
        assert!(saw(&world, BOB, ended), "{ahead} hours ahead");
    }
}

#[test]
fn a_deleted_account_ends_its_devices_and_nobody_elses() {
    let mut world = World::new(Rules::new(6));
    for name in ["alice", "bob", "carol"] {
        world.register(name);
    }
    let tablet = world.login("bob");
    let channel = group_of(&mut world, ALICE, &["bob", "carol"]);
    world.done(BOB, |client, now| client.delete_account(now));
    world.until(|world| saw(world, tablet, |e| matches!(e, Event::SessionEnded(_))));
    said(&mut world, ALICE, channel, "still here");
    world.pass(Duration::from_secs(10));
    assert_eq!(world.bodies(CAROL), ["still here"]);
    let failed = fails(&mut world, ALICE, |client, now| client.lookup(now, "bob"));
    assert_eq!(code(&failed), ErrorCode::AccountUnknown);
}

#[test]
fn a_disk_of_the_server_that_is_full_at_every_moment_is_got_over() {
    let mut world = World::new(Rules::new(7));
    for name in ["alice", "bob"] {
        world.register(name);
    }
    let channel = found(&mut world, ALICE, Suite::Classical);
    let invite = world.command(ALICE, |client, now| client.invite(now, channel, "bob"));
    let word = say(&mut world, ALICE, channel, "at last");
    for round in 0..12 {
        world.server_disk_full = round % 2 == 0;
        world.cut(round % 2);
        world.pass(Duration::from_millis(700));
    }
    world.server_disk_full = false;
    assert!(matches!(world.outcome(ALICE, invite), Outcome::Epoch(_)));
    assert!(matches!(world.outcome(ALICE, word), Outcome::Sent(_)));
    world.settle();
    agree(&world, channel, &[ALICE, BOB]);
}

/// The founding waits for the server, or its answer is lost, while the device gets another key, and one more when the
/// server has refused it.
#[test]
fn a_group_made_with_the_old_key_is_founded() {
    for (seed, came_true, again) in [(46, false, false), (47, true, false), (48, false, true)] {
        let mut world = World::new(Rules::new(seed));
        for name in ["alice", "bob"] {
            world.register(name);
        }
        let mut asked = None;
        lie_both_ways(&mut world, ALICE, move |_, frame| {
            let lost = match &frame.body {
                Body::Request(Request::ChannelCreate { .. }) => {
                    asked = Some(frame.call);
                    !came_true
                }
                Body::Reply(_) => asked == Some(frame.call),
                _ => false,
            };
            if lost { vec![] } else { vec![frame] }
        });
        let found = |client: &mut Client, now| client.create_group(now, "friends", Suite::Hybrid);
        let ticket = world.command(ALICE, found);
        world.pass(Duration::from_secs(1));
        world.done(ALICE, |client, now| client.rotate(now));
        honest(&mut world, &[ALICE]);
        if again {
            world.devices[ALICE].latency = Duration::from_millis(50);
            world.devices[ALICE].log.clear();
            world.until(|world| saw(world, ALICE, |e| matches!(e, Event::Online { .. })));
            world.done(ALICE, |client, now| client.rotate(now));
        }
        let Outcome::Group(channel) = world.outcome(ALICE, ticket) else { panic!("not founded") };
        world.done(ALICE, |client, now| client.invite(now, channel, "bob"));
        all_say(&mut world, channel, &[ALICE, BOB], "founded");
        agree(&world, channel, &[ALICE, BOB]);
        assert_eq!(world.group(BOB, channel).name.as_deref(), Some("friends"));
    }
}
