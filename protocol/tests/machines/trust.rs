//! Whom a name stands for, across restarts and under a server that gives names away.

use crate::talk::*;
use qpc_protocol::client::event::{Event, Failed, Outcome, Trust};
use qpc_protocol::crypto::safety_number::{self, ScanError};
use qpc_protocol::error::Refused;
use qpc_protocol::id::AccountId;
use qpc_protocol::wire::message::Reply;
use qpc_sim::world::{Rules, World};

/// Alice, Bob and Mallory, and their accounts.
fn place(seed: u64) -> (World, [AccountId; 3]) {
    let mut world = World::new(Rules::new(seed));
    let accounts = ["alice", "bob", "mallory"].map(|name| {
        let device = world.register(name);
        account(&mut world, device)
    });
    (world, accounts)
}

/// The server gives Alice `other` for every name that she asks about.
fn gives(world: &mut World, other: AccountId) {
    lie_reply(world, ALICE, move |reply| {
        if let Reply::Account { account, .. } = reply {
            *account = other;
        }
    });
}

fn look(world: &mut World, name: &str) -> (AccountId, Option<Trust>) {
    match world.done(ALICE, |client, now| client.lookup(now, name)) {
        Outcome::Lookup { account, trust, .. } => (account, trust),
        other => panic!("{other:?}"),
    }
}

fn restart(world: &mut World) {
    crate::talk::restart(world, ALICE);
    world.settle();
}

/// Names with how far they are trusted, as Alice lists them.
fn listed(world: &mut World) -> Vec<(String, AccountId, Trust)> {
    let entry = |entry: qpc_protocol::client::event::TrustEntry| {
        assert!(entry.since.0 > 0);
        (entry.username.as_str().to_owned(), entry.account, entry.trust)
    };
    world.client(ALICE).trust_list().into_iter().map(entry).collect()
}

/// How often a change of `bob` was told.
fn told(world: &World) -> usize {
    let is = |event: &&Event| matches!(event, Event::AccountChanged { trust: Trust::Changed { .. }, username, .. } if username.as_str() == "bob");
    world.devices[ALICE].log.iter().filter(is).count()
}

#[test]
fn a_contact_is_seen_then_verified_and_stays_so_across_restarts() {
    let (mut world, [alice, bob, mallory]) = place(1);
    assert!(listed(&mut world).is_empty());
    assert_eq!(look(&mut world, "bob"), (bob, Some(Trust::Seen)));
    assert_eq!(look(&mut world, "alice"), (alice, None));
    restart(&mut world);
    assert_eq!(listed(&mut world), [("bob".to_owned(), bob, Trust::Seen)]);
    let done = world.done(ALICE, |client, now| client.mark_verified(now, bob));
    assert_eq!(done, Outcome::Done);
    restart(&mut world);
    assert_eq!(listed(&mut world), [("bob".to_owned(), bob, Trust::Verified)]);
    assert_eq!(look(&mut world, "bob"), (bob, Some(Trust::Verified)));
    world.done(ALICE, |client, now| client.forget(now, bob));
    restart(&mut world);
    assert!(listed(&mut world).is_empty());
    assert_eq!(look(&mut world, "bob"), (bob, Some(Trust::Seen)));
    // Nobody is judged whom this device does not know, nor it itself.
    let now = world.now;
    for account in [alice, mallory] {
        for refused in [
            world.client(ALICE).mark_verified(now, account),
            world.client(ALICE).accept_change(now, account),
            world.client(ALICE).forget(now, account),
        ] {
            assert!(matches!(refused, Err(Refused::Invalid(_))), "{refused:?}");
        }
    }
    let unchanged = world.client(ALICE).accept_change(now, bob);
    assert!(matches!(unchanged, Err(Refused::Invalid(_))), "{unchanged:?}");
    assert_eq!(told(&world), 0);
}

#[test]
fn a_verification_that_is_not_durable_is_not_told() {
    let (mut world, [_, bob, _]) = place(2);
    look(&mut world, "bob");
    world.devices[ALICE].crash_in = Some(0);
    let ticket = world.command(ALICE, |client, now| client.mark_verified(now, bob));
    world.run();
    assert!(!saw(&world, ALICE, |event| matches!(event, Event::Done(done, _) if *done == ticket)));
    world.start(ALICE);
    world.settle();
    assert_eq!(listed(&mut world), [("bob".to_owned(), bob, Trust::Seen)]);
}

#[test]
fn a_changed_name_is_told_after_every_restart_and_not_followed_until_it_is_accepted() {
    let (mut world, [_, bob, mallory]) = place(3);
    let channel = group_of(&mut world, ALICE, &[]);
    look(&mut world, "bob");
    world.done(ALICE, |client, now| client.mark_verified(now, bob));
    gives(&mut world, mallory);
    let changed = Trust::Changed { before: bob, verified: true };
    assert_eq!(look(&mut world, "bob"), (mallory, Some(changed)));
    assert_eq!(told(&world), 1);
    for count in 2..4 {
        restart(&mut world);
        assert_eq!(told(&world), count);
        assert_eq!(listed(&mut world), [("bob".to_owned(), mallory, changed)]);
        let failed = fails(&mut world, ALICE, |client, now| client.invite(now, channel, "bob"));
        assert!(matches!(failed, Failed::NameChanged(_)), "{failed:?}");
        let failed = fails(&mut world, ALICE, |client, now| client.open_direct(now, "bob"));
        assert!(matches!(failed, Failed::NameChanged(_)), "{failed:?}");
    }
    assert_eq!(world.group(ALICE, channel).members, 1);
    // Asking once more is no acceptance; saying so is.
    world.done(ALICE, |client, now| client.accept_change(now, mallory));
    assert_eq!(listed(&mut world), [("bob".to_owned(), mallory, Trust::Seen)]);
    world.done(ALICE, |client, now| client.invite(now, channel, "bob"));
    restart(&mut world);
    assert_eq!(told(&world), 3);
}

#[test]
fn a_name_that_leads_back_is_trusted_as_before() {
    for (seed, verified) in [(4, false), (5, true)] {
        let (mut world, [_, bob, mallory]) = place(seed);
        let carol = world.register("carol");
        let carol = account(&mut world, carol);
        look(&mut world, "bob");
        if verified {
            world.done(ALICE, |client, now| client.mark_verified(now, bob));
        }
        // From one stranger to the next: the one before is still the one that was accepted.
        for other in [mallory, carol] {
            gives(&mut world, other);
            let changed = Trust::Changed { before: bob, verified };
            assert_eq!(look(&mut world, "bob"), (other, Some(changed)));
        }
        assert_eq!(told(&world), 2);
        world.liar = None;
        let as_before = if verified { Trust::Verified } else { Trust::Seen };
        assert_eq!(look(&mut world, "bob"), (bob, Some(as_before)));
        restart(&mut world);
        assert_eq!(listed(&mut world), [("bob".to_owned(), bob, as_before)]);
        assert_eq!(told(&world), 2);
    }
}

/// A server that first gives a contact's account a second name could otherwise give the first name away unnoticed.
#[test]
fn an_account_gets_no_second_name_and_no_name_of_ours() {
    let (mut world, [alice, bob, mallory]) = place(6);
    world.register("carol");
    look(&mut world, "bob");
    world.done(ALICE, |client, now| client.mark_verified(now, bob));
    for (name, account) in [("carol", bob), ("mallory", alice), ("alice", mallory)] {
        gives(&mut world, account);
        let failed = fails(&mut world, ALICE, |client, now| client.lookup(now, name));
        assert!(matches!(failed, Failed::Untrusted(_)), "{name}: {failed:?}");
    }
    assert_eq!(listed(&mut world), [("bob".to_owned(), bob, Trust::Verified)]);
    gives(&mut world, mallory);
    assert!(matches!(look(&mut world, "bob").1, Some(Trust::Changed { verified: true, .. })));
}

#[test]
fn both_scan_the_same_code_unless_somebody_stands_between() {
    let (mut world, [alice, bob, mallory]) = place(8);
    look(&mut world, "bob");
    let shown = world.client(ALICE).safety_qr(bob).unwrap();
    assert_eq!(Some(shown), world.client(BOB).safety_qr(alice));
    assert_eq!(safety_number::compare(bob, alice, &shown), Ok(()));
    assert_eq!(world.client(ALICE).safety_number(bob), world.client(BOB).safety_number(alice));
    // Mallory is bob for alice, and alice for bob.
    world.done(ALICE, |client, now| client.forget(now, bob));
    gives(&mut world, mallory);
    assert_eq!(look(&mut world, "bob"), (mallory, Some(Trust::Seen)));
    let alices = world.client(ALICE).safety_qr(mallory).unwrap();
    let bobs = world.client(BOB).safety_qr(mallory).unwrap();
    for (own, other, scanned) in [(alice, mallory, bobs), (bob, mallory, alices)] {
        assert_eq!(safety_number::compare(own, other, &scanned), Err(ScanError::Different));
    }
    let seen = world.client(ALICE).safety_number(mallory);
    assert!(seen.is_some() && seen != world.client(BOB).safety_number(mallory));
}
