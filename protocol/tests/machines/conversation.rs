//! Whole conversations between machines, in memory.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::talk::*;
use qpc_protocol::client::event::{Event, Message, Outcome};
use qpc_protocol::error::{ErrorCode, Refused};
use qpc_protocol::id::ChannelId;
use qpc_protocol::limits::{KEY_PACKAGE_TIME, PAST_EPOCHS};
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{Body, Request};
use qpc_sim::world::{Rules, World};

fn three_talk(rules: Rules, suite: Suite) -> World {
    let mut world = World::new(rules);
    let alice = world.register("alice");
    let bob = world.register("bob");
    let carol = world.register("carol");
    let channel = group_in(&mut world, suite, alice, &["bob", "carol"]);
    said(&mut world, alice, channel, "hello from alice");
    said(&mut world, bob, channel, "hello from bob");
    said(&mut world, carol, channel, "hello from carol");
    world.settle();
    assert_eq!(world.bodies(alice), ["hello from bob", "hello from carol"]);
    assert_eq!(world.bodies(bob), ["hello from alice", "hello from carol"]);
    assert_eq!(world.bodies(carol), ["hello from alice", "hello from bob"]);
    let epoch = world.group(alice, channel).epoch;
    for device in [alice, bob, carol] {
        let group = world.group(device, channel);
        assert_eq!(group.epoch, epoch);
        assert_eq!(group.authenticator, world.group(alice, channel).authenticator);
        assert_eq!(group.name.as_deref(), Some(NAME));
        assert_eq!(group.members, 3);
    }
    world
}

#[test]
fn three_members_talk_in_a_hybrid_group() {
    three_talk(Rules::new(1), Suite::Hybrid);
}

#[test]
fn three_members_talk_in_a_classical_group_over_one_link() {
    three_talk(Rules::new(2).one_link(), Suite::Classical);
}

#[test]
fn a_device_that_was_off_reads_everything_later() {
    let mut world = World::new(Rules::new(3));
    let alice = world.register("alice");
    let bob = world.register("bob");
    let channel = group_in(&mut world, Suite::Hybrid, alice, &["bob"]);
    world.crash(bob);
    for number in 0..20 {
        said(&mut world, alice, channel, &format!("message {number}"));
    }
    world.start(bob);
    world.settle();
    let expected: Vec<_> = (0..20).map(|number| format!("message {number}")).collect();
    assert_eq!(world.bodies(bob), expected);
    assert!(!world.devices[bob].log.iter().any(|event| matches!(event, Event::Unreadable { .. })));
}

fn members_commit_at_once(count: usize, seed: u64) {
    let mut world = World::new(Rules::new(seed));
    let names: Vec<_> = (0..count).map(|number| format!("member{number}")).collect();
    let devices: Vec<_> = names.iter().map(|name| world.register(name)).collect();
    let others: Vec<_> = names[1..].iter().map(String::as_str).collect();
    let channel = group_in(&mut world, Suite::Hybrid, devices[0], &others);
    let before = world.group(devices[0], channel).epoch;
    let tickets: Vec<_> = devices
        .iter()
        .map(|device| (*device, world.command(*device, |client, now| client.update(now, channel))))
        .collect();
    for (device, ticket) in tickets {
        assert!(matches!(world.outcome(device, ticket), Outcome::Epoch(_)));
    }
    world.settle();
    agree(&world, channel, &devices);
    undisturbed(&world, &devices);
    // One commit per epoch: exactly as many epochs as intents.
    assert_eq!(world.group(devices[0], channel).epoch, before + count as u64);
}

#[test]
fn two_members_committing_at_once_converge() {
    members_commit_at_once(2, 10);
}

/// Forks in production (libxmtp #914): with an honest server there is one commit to an epoch, whoever else made one.
#[test]
fn regression_20_eight_members_committing_at_once_do_not_fork() {
    members_commit_at_once(8, 11);
}

#[test]
fn two_admins_inviting_the_same_account_add_it_once() {
    let mut world = World::new(Rules::new(12));
    let alice = world.register("alice");
    let phone = world.login("alice");
    let bob = world.register("bob");
    let channel = group_in(&mut world, Suite::Hybrid, alice, &["alice"]);
    agree(&world, channel, &[alice, phone]);
    let one = world.command(alice, |client, now| client.invite(now, channel, "bob"));
    let two = world.command(phone, |client, now| client.invite(now, channel, "bob"));
    // Whose commit came second has changed nothing, and is told so.
    let outcomes = [world.outcome(alice, one), world.outcome(phone, two)];
    let told = matches!(
        outcomes,
        [Outcome::Epoch(at), Outcome::Unchanged(of)] | [Outcome::Unchanged(of), Outcome::Epoch(at)]
            if at == of
    );
    assert!(told, "{outcomes:?}");
    world.settle();
    agree(&world, channel, &[alice, phone, bob]);
    assert_eq!(world.group(bob, channel).members, 3);
    undisturbed(&world, &[alice, phone, bob]);
}

#[test]
fn a_removed_member_reads_nothing_after() {
    let mut world = World::new(Rules::new(13));
    let alice = world.register("alice");
    let bob = world.register("bob");
    let carol = world.register("carol");
    let channel = group_in(&mut world, Suite::Hybrid, alice, &["bob", "carol"]);
    said(&mut world, alice, channel, "before");
    let bobs = account(&mut world, bob);
    world.done(alice, |client, now| client.remove(now, channel, bobs));
    said(&mut world, alice, channel, "after");
    said(&mut world, carol, channel, "after too");
    world.settle();
    assert_eq!(world.bodies(bob), ["before"]);
    assert_eq!(world.bodies(carol), ["before", "after"]);
    assert!(world.devices[bob].log.iter().any(|event| matches!(event, Event::Evicted { .. })));
    let now = world.now;
    let refused = world.client(bob).send(now, channel, b"still here?");
    assert_eq!(refused, Err(Refused::NotMember));
    agree(&world, channel, &[alice, carol]);
}

#[test]
fn a_member_that_leaves_is_committed_out_by_another() {
    let mut world = World::new(Rules::new(14));
    let alice = world.register("alice");
    let bob = world.register("bob");
    let carol = world.register("carol");
    let channel = group_in(&mut world, Suite::Hybrid, alice, &["bob", "carol"]);
    assert_eq!(world.done(bob, |client, now| client.leave(now, channel)), Outcome::Done);
    let gone = |event: &Event| matches!(event, Event::Evicted { .. });
    world.until(|world| world.devices[bob].log.iter().any(gone));
    world.settle();
    said(&mut world, carol, channel, "without bob");
    world.settle();
    agree(&world, channel, &[alice, carol]);
    assert_eq!(world.group(alice, channel).members, 2);
    assert!(world.bodies(bob).is_empty());
    undisturbed(&world, &[alice, carol]);
}

#[test]
fn all_devices_of_an_account_are_added_and_read_all() {
    let mut world = World::new(Rules::new(15));
    let alice = world.register("alice");
    let carol = world.register("carol");
    let tablet = world.login("carol");
    let channel = group_in(&mut world, Suite::Hybrid, alice, &["carol"]);
    assert_eq!(world.group(alice, channel).members, 3);
    said(&mut world, alice, channel, "to both");
    said(&mut world, carol, channel, "from one");
    world.settle();
    assert_eq!(world.bodies(carol), ["to both"]);
    assert_eq!(world.bodies(tablet), ["to both", "from one"]);
    agree(&world, channel, &[alice, carol, tablet]);
}

#[test]
fn same_seed_same_bytes_and_both_backends_the_same() {
    let run = |rules| three_talk(rules, Suite::Hybrid).trace;
    let first = run(Rules::new(16));
    assert_eq!(first, run(Rules::new(16)));
    assert_ne!(first, run(Rules::new(17)));
    #[cfg(feature = "fast")]
    {
        let fast = Rules { backend: qpc_protocol::crypto::fast(), ..Rules::new(16) };
        assert_eq!(first, run(fast));
    }
}

#[test]
fn byte_streams_cut_anywhere_change_nothing() {
    for seed in 20..24 {
        three_talk(Rules::new(seed).split(), Suite::Hybrid);
        three_talk(Rules::new(seed).split().one_link(), Suite::Classical);
    }
}

#[test]
fn a_message_read_only_after_a_crash_is_still_there() {
    let mut world = World::new(Rules::new(30));
    let alice = world.register("alice");
    let bob = world.register("bob");
    let channel = group_in(&mut world, Suite::Hybrid, alice, &["bob"]);
    said(&mut world, alice, channel, "read me");
    world.settle();
    // Twice: what is lost only after the second restart is lost too.
    for _ in 0..2 {
        world.crash(bob);
        world.devices[bob].log.clear();
        world.start(bob);
        world.settle();
        assert_eq!(world.bodies(bob), ["read me"]);
    }
    let seq = world.messages(bob)[0].seq;
    let now = world.now;
    world.client(bob).ack(now, channel, seq).unwrap();
    world.settle();
    world.crash(bob);
    world.devices[bob].log.clear();
    world.start(bob);
    world.settle();
    assert!(world.bodies(bob).is_empty());
}

#[test]
fn a_send_that_crashed_before_its_acknowledgement_goes_out_once() {
    for batch in 0..6 {
        let mut world = World::new(Rules::new(40 + batch));
        let alice = world.register("alice");
        let bob = world.register("bob");
        let channel = group_in(&mut world, Suite::Hybrid, alice, &["bob"]);
        world.command(alice, |client, now| client.send(now, channel, b"first"));
        world.devices[alice].crash_in = Some(batch);
        world.run();
        if world.devices[alice].client.is_some() {
            world.crash(alice);
        }
        world.start(alice);
        world.settle();
        said(&mut world, alice, channel, "second");
        world.settle();
        let bodies = world.bodies(bob);
        // The very first batch holds the message: without it there was no send.
        let expected: &[&str] = if batch == 0 { &["second"] } else { &["first", "second"] };
        assert_eq!(bodies, expected, "crash at batch {batch}");
        undisturbed(&world, &[alice, bob]);
    }
}

#[test]
fn the_server_killed_in_mid_conversation_loses_nothing() {
    let mut world = World::new(Rules::new(50));
    let alice = world.register("alice");
    let bob = world.register("bob");
    let channel = group_in(&mut world, Suite::Hybrid, alice, &["bob"]);
    for round in 0..5 {
        let text = format!("round {round}");
        let ticket = world.command(alice, |client, now| client.send(now, channel, text.as_bytes()));
        if round % 2 == 0 {
            world.run();
        }
        world.kill_server();
        world.pass(Duration::from_secs(1));
        world.start_server();
        assert!(matches!(world.outcome(alice, ticket), Outcome::Sent(_)));
    }
    world.settle();
    let expected: Vec<_> = (0..5).map(|round| format!("round {round}")).collect();
    assert_eq!(world.bodies(bob), expected);
    agree(&world, channel, &[alice, bob]);
    undisturbed(&world, &[alice, bob]);
}

#[test]
fn a_full_disk_stops_a_client_before_anything_is_told_and_a_restart_goes_on() {
    let mut world = World::new(Rules::new(60));
    let alice = world.register("alice");
    let bob = world.register("bob");
    let channel = group_in(&mut world, Suite::Hybrid, alice, &["bob"]);
    world.devices[bob].fail_disk = Some(qpc_protocol::error::StoreFaultKind::Full);
    said(&mut world, alice, channel, "hello");
    world.until(|world| world.devices[bob].fatal.is_some());
    assert!(world.bodies(bob).is_empty());
    let now = world.now;
    let refused = world.client(bob).send(now, channel, b"x");
    assert_eq!(refused, Err(Refused::Stopped));
    world.crash(bob);
    world.start(bob);
    world.settle();
    assert_eq!(world.bodies(bob), ["hello"]);
}

#[test]
fn a_full_disk_of_the_server_is_answered_and_got_over() {
    let mut world = World::new(Rules::new(61));
    let alice = world.register("alice");
    let bob = world.register("bob");
    let channel = group_in(&mut world, Suite::Hybrid, alice, &["bob"]);
    world.server_disk_full = true;
    let ticket = world.command(alice, |client, now| client.send(now, channel, b"patience"));
    world.pass(Duration::from_secs(5));
    assert!(world.bodies(bob).is_empty());
    world.server_disk_full = false;
    assert!(matches!(world.outcome(alice, ticket), Outcome::Sent(_)));
    world.settle();
    assert_eq!(world.bodies(bob), ["patience"]);
}

/// Messages that were on their way when the connection ended, in an epoch of which the server takes none any more, are
/// encrypted anew; what was said after them waits for that.
#[test]
fn messages_keep_their_order_over_a_lost_connection_and_commits() {
    let (mut world, channel) = three(31);
    world.part(ALICE);
    for text in ["first", "second", "third"] {
        say(&mut world, ALICE, channel, text);
    }
    world.pass(Duration::from_millis(200));
    world.cut(ALICE);
    for _ in 0..=PAST_EPOCHS {
        world.done(BOB, |client, now| client.update(now, channel));
    }
    for text in ["fourth", "fifth"] {
        say(&mut world, ALICE, channel, text);
    }
    world.heal(ALICE);
    world.settle();
    assert_eq!(world.bodies(BOB), ["first", "second", "third", "fourth", "fifth"]);
}

#[test]
fn a_quiet_connection_is_kept() {
    let mut world = World::new(Rules::new(72));
    let alice = world.register("alice");
    world.pass(Duration::from_secs(300));
    let offline = |event: &&Event| matches!(event, Event::Offline { .. });
    assert_eq!(world.devices[alice].log.iter().filter(offline).count(), 0);
}

#[test]
fn the_group_that_is_read_now_comes_before_too_many_unread_messages_of_others() {
    let mut world = World::new(Rules { backend: fastest(), ..Rules::new(71) });
    let alice = world.register("alice");
    let bob = world.register("bob");
    let mut groups = [0, 1].map(|_| group_in(&mut world, Suite::Classical, alice, &["bob"]));
    groups.sort();
    let [loud, quiet] = groups;
    let most = qpc_protocol::limits::UNREAD_EVENTS;
    for number in 0..most + 100 {
        world.command(alice, |client, now| client.send(now, loud, format!("{number}").as_bytes()));
        if number % 500 == 499 {
            world.settle();
        }
    }
    world.settle();
    let say = |world: &mut World, text: &str| {
        world.command(alice, |client, now| client.send(now, quiet, text.as_bytes()));
        world.settle();
    };
    say(&mut world, "first");
    let heard = |world: &World| -> Vec<String> {
        let text = |message: Message| String::from_utf8(message.body.to_vec()).unwrap();
        world.messages(bob).into_iter().filter(|m| m.channel == quiet).map(text).collect()
    };
    assert!(heard(&world).is_empty() && world.messages(bob).len() == most);
    let now = world.now;
    world.client(bob).prefer(now, quiet).unwrap();
    world.settle();
    assert_eq!(heard(&world), ["first"]);
    say(&mut world, "second");
    assert_eq!(heard(&world), ["first", "second"]);
    assert_eq!(world.messages(bob).len(), most + 2, "the others wait as before");
    let unknown = ChannelId([1; 16]);
    assert_eq!(world.client(bob).prefer(now, unknown), Err(Refused::UnknownChannel));
}

fn fastest() -> qpc_protocol::crypto::Backend {
    #[cfg(feature = "fast")]
    return qpc_protocol::crypto::fast();
    #[cfg(not(feature = "fast"))]
    qpc_protocol::crypto::portable()
}

#[test]
fn a_commit_refused_after_a_crash_is_made_again() {
    let mut world = World::new(Rules::new(31));
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| world.register(name));
    let channel = group_in(&mut world, Suite::Classical, alice, &["bob"]);
    // No commit of Alice's arrives; hers is durable when she crashes.
    world.liar = Some(Box::new(move |device, up, frame| match frame.body {
        Body::Request(Request::Commit(_)) if up && device == alice => Vec::new(),
        _ => vec![frame],
    }));
    let invited = world.command(alice, |client, now| client.invite(now, channel, "carol"));
    world.pass(Duration::from_secs(1));
    world.crash(alice);
    // Carol's key package is over when Alice is back.
    world.pass(KEY_PACKAGE_TIME + Duration::from_secs(3600));
    let refused = Rc::new(RefCell::new(Vec::new()));
    let refusals = refused.clone();
    lie(&mut world, alice, false, move |frame| {
        if let Body::Failure(failure) = &frame.body {
            refusals.borrow_mut().push(failure.code);
        }
        vec![frame]
    });
    world.start(alice);
    world.outcome(alice, invited);
    assert_eq!(*refused.borrow(), [ErrorCode::KeyPackageInvalid]);
    said(&mut world, alice, channel, "still here");
    world.settle();
    assert_eq!(world.bodies(bob), ["still here"]);
    agree(&world, channel, &[alice, bob, carol]);
}

#[test]
fn delivery_proofs_are_kept_by_the_sender_and_hold() {
    let mut world = World::new(Rules::new(80));
    let alice = world.register("alice");
    let bob = world.register("bob");
    let channel = group_in(&mut world, Suite::Hybrid, alice, &["bob"]);
    for text in ["one", "two", "three"] {
        said(&mut world, alice, channel, text);
    }
    world.crash(alice);
    world.start(alice);
    world.settle();
    let outcome = world.done(alice, |client, now| client.proofs(now, channel, 0, 100));
    let Outcome::Proofs(proofs) = outcome else { panic!("{outcome:?}") };
    let server = world.client(alice).whoami().unwrap().2;
    assert_eq!(proofs.len(), 3);
    for sent in &proofs {
        let statement = sent.accepted.statement(channel, sent.message, sent.hash);
        let proof = &sent.accepted.proof;
        qpc_protocol::crypto::portable().ed25519_verify(&server.0, &statement, proof).unwrap();
    }
    let last = proofs[1].accepted.seq;
    let outcome = world.done(alice, |client, now| client.proofs(now, channel, last, 100));
    assert_eq!(outcome, Outcome::Proofs(vec![proofs[2].clone()]));
    let outcome = world.done(bob, |client, now| client.proofs(now, channel, 0, 100));
    assert_eq!(outcome, Outcome::Proofs(Vec::new()));
}

/// A copy of a device's state never encrypts with keys that the original used up, however few batches lie between: its
/// own message in the log, which it does not remember, makes it come back by new ones first.
#[test]
fn a_copy_of_a_device_encrypts_nothing_with_the_keys_that_it_had() {
    let mut world = World::new(Rules::new(90));
    let alice = world.register("alice");
    let bob = world.register("bob");
    let channel = group_in(&mut world, Suite::Hybrid, alice, &["bob"]);
    said(&mut world, bob, channel, "before");
    world.settle();
    let copy = world.devices[bob].disk.clone();
    // While somebody has not read it, the log still holds what the original sent.
    world.crash(alice);
    said(&mut world, bob, channel, "one");
    world.settle();
    world.crash(bob);
    world.devices[bob].disk = copy;
    world.start(bob);
    let restored = |event: &Event| matches!(event, Event::Restored { .. });
    world.until(|world| world.devices[bob].log.iter().any(restored));
    said(&mut world, bob, channel, "two");
    world.devices[alice].log.clear();
    world.start(alice);
    world.settle();
    assert_eq!(world.bodies(alice), ["before", "one", "two"]);
    let epochs: Vec<_> = world.messages(alice).iter().map(|message| message.epoch).collect();
    assert_eq!(epochs, [1, 1, 2]);
    agree(&world, channel, &[alice, bob]);
    undisturbed(&world, &[alice]);
}

/// A name that was heard and not confirmed before the device went off is asked for again.
#[test]
fn a_name_is_confirmed_after_a_restart() {
    let mut world = World::new(Rules::new(91));
    let alice = world.register("alice");
    let bob = world.register("bob");
    let channel = group_in(&mut world, Suite::Hybrid, alice, &["bob"]);
    let alices = account(&mut world, alice);
    for batch in 0..4 {
        said(&mut world, alice, channel, "who am I?");
        world.crash(bob);
        world.start(bob);
        world.devices[bob].crash_in = Some(batch);
        world.pass(Duration::from_secs(1));
        if world.devices[bob].client.is_none() {
            world.start(bob);
        }
    }
    said(&mut world, alice, channel, "and now?");
    world.settle();
    assert_eq!(world.client(bob).username(alices).map(|name| name.as_str()), Some("alice"));
}
