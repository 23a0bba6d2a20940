use super::*;
use crate::client::Client;
use crate::client::checkpoint::tests::{account, alone, name};

/// A device that knows one contact.
fn knowing(known: usize) -> Client {
    let (mut client, _) = alone();
    client.learn(account(known), name(known)).unwrap();
    client
}

fn claims(client: &mut Client, by: usize, of: usize, called: usize) {
    let (by, account) = (account(by), account(of));
    client.hear_name(NameClaim { by, account, username: name(called) });
}

/// However many names a member claims: so many are told, each once, and the next member's are told all the same.
#[test]
fn so_many_names_of_a_member_are_told() {
    let mut client = knowing(0);
    claims(&mut client, 0, 0, 0);
    assert!(client.conflicts.is_empty());
    for called in 1..100 {
        claims(&mut client, 5, 0, called);
        claims(&mut client, 5, 0, called);
    }
    let told: Vec<_> = client.conflicts.iter().map(|of| of.username.clone()).collect();
    assert_eq!(told, [1, 2, 3, 4].map(name));
    assert_eq!(told.len(), NAME_CONFLICTS_OF_MEMBER);
    claims(&mut client, 6, 0, 1);
    assert_eq!(client.conflicts.len(), NAME_CONFLICTS_OF_MEMBER + 1);
}

/// However many members claim names: so many are remembered, and one more is told still.
#[test]
fn so_many_names_are_remembered() {
    let mut client = knowing(0);
    for by in 1..NAME_CONFLICTS_KEPT + 10 {
        claims(&mut client, by, 0, 1);
        assert_eq!(client.conflicts.back().map(|of| of.by), Some(account(by)));
    }
    assert_eq!(client.conflicts.len(), NAME_CONFLICTS_KEPT);
}
