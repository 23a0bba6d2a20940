//! The rest of a group's life, on real processes.

use crate::support::Place;

#[test]
fn a_group_gets_fresh_keys_a_face_and_roles_and_a_device_another_key() {
    let place = Place::new();
    let (alice, bob) = place.team();
    let carol = place.registered("carol");
    bob.ok(&["recv"]);
    let epoch = |objects: &[serde_json::Value]| objects[0]["epoch"].as_u64().unwrap();
    let first = epoch(&alice.ok(&["group", "update", "team"]));
    assert_eq!(epoch(&bob.ok(&["group", "update", "team"])), first + 1);

    // What it shows reaches those who are in it, and who comes later.
    let picture = place.path("boat.png");
    std::fs::write(&picture, b"a boat").unwrap();
    let picture = picture.to_str().unwrap();
    let about = "who sails when";
    alice.ok(&["group", "set", "team", "--name", "harbour", "--description", about]);
    alice.ok(&["group", "set", "harbour", "--avatar", picture]);
    alice.ok(&["group", "invite", "harbour", "carol"]);
    for device in [&alice, &bob, &carol] {
        device.ok(&["recv"]);
        let listed = device.ok(&["group", "list"]);
        assert_eq!(
            (&listed[0]["name"], &listed[0]["description"]),
            (&"harbour".into(), &about.into())
        );
        assert_eq!(listed[0]["avatar"].as_str().unwrap().len(), 64);
    }
    assert_eq!(bob.fails(&["group", "set", "harbour", "--name", "bob's"]).0, 6);
    assert_eq!(alice.fails(&["group", "set", "harbour"]).0, 2);

    // Roles: refused where they have to be, before anybody is troubled.
    assert_eq!(bob.fails(&["group", "remove", "harbour", "carol"]).0, 6);
    assert_eq!(alice.fails(&["group", "leave", "harbour"]).0, 6);
    assert_eq!(alice.fails(&["group", "role", "harbour", "alice", "member"]).0, 6);
    assert_eq!(alice.ok(&["group", "role", "harbour", "bob", "admin"])[0]["role"], "admin");
    bob.ok(&["group", "role", "harbour", "alice", "member"]);
    let members = carol.ok(&["group", "members", "harbour"]);
    let admins: Vec<_> = members.iter().filter(|member| member["admin"] == true).collect();
    assert_eq!(admins.len(), 1);
    assert_eq!(admins[0]["account"], bob.ok(&["whoami"])[0]["account"]);

    // Another key: everything goes on under it, in this process and the next.
    assert_eq!(bob.ok(&["devices", "rotate"])[0]["type"], "rotated");
    bob.send("harbour", "with another key");
    for device in [&alice, &carol] {
        assert_eq!(device.texts(), ["with another key"]);
    }
    alice.send("harbour", "and back");
    assert_eq!(bob.texts(), ["and back"]);
    bob.ok(&["devices", "rotate"]);
    bob.ok(&["group", "remove", "harbour", "carol"]);
    assert_eq!(
        bob.ok(&["group", "list"])[0]["authenticator"],
        alice.ok(&["group", "list"])[0]["authenticator"]
    );
}

#[test]
fn a_group_begins_anew_in_another_suite_and_goes_on() {
    let place = Place::new();
    let (alice, bob) = place.team();
    alice.ok(&["group", "create", "old", "--classical"]);
    alice.ok(&["group", "invite", "old", "bob"]);
    bob.send("old", "before");
    assert_eq!(bob.fails(&["group", "reset", "old"]).0, 6);
    let reset = alice.ok(&["group", "reset", "old", "--suite", "hybrid"]);
    let (generation, suite) = (&reset[0]["generation"], &reset[0]["suite"]);
    assert_eq!(
        (&reset[0]["type"], generation, suite),
        (&"reset".into(), &2.into(), &"hybrid".into())
    );
    assert_eq!(alice.fails(&["group", "reset", "old", "--suite", "classical"]).0, 2);
    // Bob, who was away, has missed nothing and is in the new one.
    alice.send("old", "after");
    bob.send("old", "too");
    assert_eq!(bob.texts(), ["after"]);
    assert_eq!(alice.texts(), ["before", "too"]);
    for device in [&alice, &bob] {
        let groups = device.ok(&["group", "list"]);
        let old = groups.iter().find(|group| group["name"] == "old").unwrap();
        assert_eq!((&old["generation"], &old["suite"]), (&2.into(), &"hybrid".into()));
    }
}
