//! What takes days, on real processes whose clocks are ahead.

use crate::support::{Device, Place, copy, finish, put_back};

/// The same place, so many days after it began.
fn days_later(place: &mut Place, days: u32) -> [Device; 2] {
    place.kill_server();
    place.days = days;
    place.restart_server();
    ["alice", "bob"].map(|name| place.device(name))
}

fn epoch(device: &Device) -> u64 {
    device.ok(&["group", "list"])[0]["epoch"].as_u64().unwrap()
}

fn assert_they_talk(alice: &Device, bob: &Device) {
    alice.send("team", "who is there?");
    assert_eq!(bob.texts(), ["who is there?"]);
    bob.send("team", "me");
    assert_eq!(alice.texts(), ["me"]);
    let authenticator = |device: &Device| device.ok(&["group", "list"])[0]["authenticator"].clone();
    assert_eq!(authenticator(alice), authenticator(bob));
}

#[test]
fn who_was_away_longer_than_entries_are_kept_keeps_what_it_has_and_comes_back() {
    let mut place = Place::new();
    let (alice, bob) = place.team();
    alice.send("team", "read");
    assert_eq!(bob.texts(), ["read"]);
    alice.send("team", "stored at Bob's");
    assert_eq!(bob.ok(&["group", "list"])[0]["unread"], 1);
    alice.send("team", "gone by then");
    let [alice, bob] = days_later(&mut place, 8);
    let done = bob.run(&["recv"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.out.ends_with("stored at Bob's\n"), "{done:?}");
    assert_eq!(done.out.lines().count(), 1, "{done:?}");
    assert!(done.err.contains("are not going to be read here"), "{done:?}");
    assert_they_talk(&alice, &bob);
}

#[test]
fn a_backup_older_than_entries_are_kept_comes_back() {
    let mut place = Place::new();
    let (alice, bob) = place.team();
    bob.ok(&["recv"]);
    let copied = place.path("copy");
    copy(&bob.home, &copied);
    bob.send("team", "since the copy");
    assert_eq!(alice.texts(), ["since the copy"]);
    alice.ok(&["group", "update", "team"]);
    bob.ok(&["recv"]);
    let [alice, bob] = days_later(&mut place, 8);
    put_back(&bob, &copied);
    bob.ok(&["recv"]);
    assert_they_talk(&alice, &bob);
}

/// The keys of an own leaf are renewed after as many days as are said.
#[test]
fn keys_are_renewed_after_so_many_days() {
    let mut place = Place::new();
    let (_, bob) = place.team();
    bob.ok(&["recv"]);
    let [alice, _] = days_later(&mut place, 3);
    let renews = |days: &str| {
        let before = epoch(&alice);
        alice.ok(&["recv", "--update-days", days]);
        epoch(&alice) - before
    };
    // What has just become due waits for its turn, what was due for an hour does not.
    assert_eq!((renews("4"), renews("2"), renews("1")), (0, 1, 0));
    // As a variable, two days after that; seven unless something is said.
    let [alice, bob] = days_later(&mut place, 5);
    let before = epoch(&alice);
    for (days, epochs) in [("3", 0), ("1", 1), ("1", 1)] {
        let recv = alice.command(&["recv"]).env("QPC_UPDATE_DAYS", days).spawn().unwrap();
        assert_eq!(finish(recv).code, 0);
        assert_eq!(epoch(&alice), before + epochs, "{days} days");
    }
    assert_they_talk(&alice, &bob);
    assert_eq!(epoch(&bob), before + 1);
    let [_, bob] = days_later(&mut place, 8);
    bob.ok(&["recv"]);
    assert_eq!(epoch(&bob), before + 2);
}
