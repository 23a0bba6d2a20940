//! Names that members claim: each is shown once the directory has confirmed it, and told if something contradicts it.

use crate::talk::*;
use qpc_protocol::client::event::{Event, NameConflict, Outcome, Trust};
use qpc_protocol::id::{AccountId, ChannelId};
use qpc_protocol::wire::message::{Reply, Username};
use qpc_sim::world::{Rules, World};

const ROB: usize = 2;

/// Alice, Bob and Rob in a group. Alice knows neither by name, and was told nothing yet.
fn place(seed: u64) -> (World, ChannelId, [AccountId; 3]) {
    let mut world = World::new(Rules::new(seed));
    let accounts = ["alice", "bob", "rob"].map(|name| {
        let device = world.register(name);
        account(&mut world, device)
    });
    let channel = group_of(&mut world, ALICE, &["bob", "rob"]);
    for contact in &accounts[1..] {
        world.done(ALICE, |client, now| client.forget(now, *contact));
    }
    world.settle();
    undisturbed(&world, &[ALICE, BOB, ROB]);
    (world, channel, accounts)
}

/// Changes a name in one record of a device: from then on that device says so.
fn rename(world: &mut World, device: usize, record: &[u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    world.crash(device);
    let value = world.devices[device].disk.get_mut(record).unwrap();
    let at = value.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
    value[at..at + to.len()].copy_from_slice(to.as_bytes());
    world.start(device);
    world.settle();
}

/// From now on Rob says that it is called otherwise.
fn claims(world: &mut World, from: &str, to: &str) {
    rename(world, ROB, b"d/identity", from, to);
}

fn speaks(world: &mut World, device: usize, channel: ChannelId, text: &str) {
    said(world, device, channel, text);
    world.settle();
}

/// What the server answers a device that asks for a name.
fn answers(
    world: &mut World,
    at: usize,
    mut with: impl FnMut(&mut Username, &mut AccountId) + 'static,
) {
    lie_reply(world, at, move |reply| {
        if let Reply::Account { username, account } = reply {
            with(username, account);
        }
    });
}

fn name(text: &str) -> Username {
    Username::prepare(text).unwrap()
}

/// The contradictions that a device was told: of whom, the name, by whom, and what contradicts it.
fn told(world: &World, device: usize) -> Vec<(AccountId, String, AccountId, NameConflict)> {
    let of = |event: &Event| match event {
        Event::NameContradicted { account, claimed, by, conflict } => {
            Some((*account, claimed.as_str().to_owned(), *by, conflict.clone()))
        }
        _ => None,
    };
    world.devices[device].log.iter().filter_map(of).collect()
}

#[test]
fn a_member_who_claims_another_accounts_name_is_told_once() {
    let (mut world, channel, [_, bob, rob]) = place(1);
    claims(&mut world, "rob", "bob");
    for text in ["it is me", "believe me", "really"] {
        speaks(&mut world, ROB, channel, text);
    }
    let lie = (rob, "bob".to_owned(), rob, NameConflict::LeadsTo(bob));
    assert_eq!(told(&world, ALICE), core::slice::from_ref(&lie));
    // It is read, under no name, and the name is still free for whose it is.
    assert!(world.messages(ALICE).iter().all(|message| message.username.is_none()));
    assert!(world.client(ALICE).trust_list().is_empty());
    speaks(&mut world, BOB, channel, "that is not me");
    assert_eq!(world.client(ALICE).trust(bob), Some(Trust::Seen));
    // After a restart it is told with the next claim; who tells the truth at last is believed.
    restart(&mut world, ALICE);
    speaks(&mut world, ROB, channel, "still me");
    assert_eq!(told(&world, ALICE), [lie.clone(), lie]);
    claims(&mut world, "bob", "rob");
    speaks(&mut world, ROB, channel, "well");
    assert_eq!(world.client(ALICE).trust(rob), Some(Trust::Seen));
    assert_eq!(told(&world, ALICE).len(), 2);
}

#[test]
fn a_member_who_claims_a_name_that_nobody_has_is_told() {
    let (mut world, channel, [_, _, rob]) = place(2);
    claims(&mut world, "rob", "zob");
    speaks(&mut world, ROB, channel, "it is me");
    assert_eq!(told(&world, ALICE), [(rob, "zob".to_owned(), rob, NameConflict::Unknown)]);
    assert!(world.client(ALICE).trust_list().is_empty());
}

#[test]
fn a_contact_who_claims_another_name_is_told_and_keeps_its_own() {
    let (mut world, channel, [_, _, rob]) = place(3);
    speaks(&mut world, ROB, channel, "hello");
    assert_eq!(world.client(ALICE).trust(rob), Some(Trust::Seen));
    claims(&mut world, "rob", "bob");
    speaks(&mut world, ROB, channel, "it is me");
    let known = NameConflict::KnownAs(name("rob"));
    assert_eq!(told(&world, ALICE), [(rob, "bob".to_owned(), rob, known)]);
    assert_eq!(world.client(ALICE).username(rob), Some(&name("rob")));
}

/// Who adds somebody says who is there: what it makes up is its own word, not theirs.
#[test]
fn a_member_who_gives_others_a_wrong_name_is_named() {
    let (mut world, channel, [_, bob, rob]) = place(4);
    let carol = world.register("carol");
    make_admin(&mut world, ALICE, channel, ROB);
    world.done(ROB, |client, now| client.lookup(now, "bob"));
    rename(&mut world, ROB, &[b"d/a/".as_slice(), &bob.0].concat(), "bob", "zob");
    world.done(ROB, |client, now| client.invite(now, channel, "carol"));
    world.settle();
    assert_eq!(told(&world, carol), [(bob, "zob".to_owned(), rob, NameConflict::Unknown)]);
    // Bob's own word is heard all the same.
    speaks(&mut world, BOB, channel, "it is me");
    assert_eq!(world.client(carol).username(bob), Some(&name("bob")));
    assert_eq!(told(&world, carol).len(), 1);
}

#[test]
fn a_server_that_gives_a_members_name_to_another_is_told() {
    let (mut world, channel, [_, bob, rob]) = place(5);
    answers(&mut world, ALICE, move |_, account| *account = rob);
    speaks(&mut world, BOB, channel, "who am I?");
    speaks(&mut world, BOB, channel, "and now?");
    assert_eq!(told(&world, ALICE), [(bob, "bob".to_owned(), bob, NameConflict::LeadsTo(rob))]);
    assert!(world.client(ALICE).trust_list().is_empty());
    honest(&mut world, &[ALICE]);
    world.settle();
    speaks(&mut world, BOB, channel, "at last");
    assert_eq!(world.client(ALICE).username(bob), Some(&name("bob")));
}

/// The first answer is taken on trust; the first word of whose account it was contradicts it.
#[test]
fn a_name_that_the_server_gave_to_a_member_at_first_is_told_when_that_speaks() {
    let (mut world, channel, [_, bob, _]) = place(6);
    answers(&mut world, ALICE, move |_, account| *account = bob);
    let found = world.done(ALICE, |client, now| client.lookup(now, "rob"));
    assert!(matches!(found, Outcome::Lookup { account, .. } if account == bob));
    honest(&mut world, &[ALICE]);
    world.settle();
    speaks(&mut world, BOB, channel, "hello");
    let known = NameConflict::KnownAs(name("rob"));
    assert_eq!(told(&world, ALICE), [(bob, "bob".to_owned(), bob, known)]);
}

#[test]
fn an_own_name_that_a_member_claims_is_told_even_if_the_server_helps() {
    let mut world = World::new(Rules::new(7));
    let [alice, clara] = ["alice", "clara"].map(|name| {
        let device = world.register(name);
        account(&mut world, device)
    });
    let channel = group_of(&mut world, ALICE, &["clara"]);
    world.done(ALICE, |client, now| client.forget(now, clara));
    rename(&mut world, 1, b"d/identity", "clara", "alice");
    answers(&mut world, ALICE, move |_, account| *account = clara);
    speaks(&mut world, 1, channel, "it is you");
    let lie = (clara, "alice".to_owned(), clara, NameConflict::LeadsTo(alice));
    assert_eq!(told(&world, ALICE), [lie]);
}

#[test]
fn a_member_who_takes_a_contacts_name_is_told_when_the_server_helps() {
    let (mut world, channel, [_, bob, rob]) = place(8);
    speaks(&mut world, BOB, channel, "hello");
    claims(&mut world, "rob", "bob");
    answers(&mut world, ALICE, move |_, account| *account = rob);
    speaks(&mut world, ROB, channel, "it is me");
    let trust = Trust::Changed { before: bob, verified: false };
    assert_eq!(world.client(ALICE).trust(rob), Some(trust));
    let changed = |event: &&Event| {
        let Event::AccountChanged { username, before, now, .. } = event else { return false };
        (username.as_str(), *before, *now) == ("bob", bob, rob)
    };
    assert_eq!(world.devices[ALICE].log.iter().filter(changed).count(), 1);
}

#[test]
fn an_answer_about_another_name_breaks_the_protocol() {
    let (mut world, channel, _) = place(9);
    answers(&mut world, ALICE, move |username, _| *username = name("rob"));
    speaks(&mut world, BOB, channel, "hello");
    assert!(saw(&world, ALICE, |event| matches!(event, Event::ServerFault { .. })));
    assert!(world.client(ALICE).trust_list().is_empty());
}
