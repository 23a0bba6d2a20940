//! A home that was copied and put back.

use serde_json::Value;

use crate::support::{Device, Place, copy, put_back};

fn epoch(device: &Device) -> (u64, Value) {
    let group = device.ok(&["group", "list"]).remove(0);
    (group["epoch"].as_u64().unwrap(), group["authenticator"].clone())
}

#[test]
fn a_home_put_back_from_a_copy_talks_again_by_new_keys() {
    let place = Place::new();
    let (alice, bob) = place.team();
    bob.ok(&["recv"]);
    let copied = place.path("copy");
    copy(&bob.home, &copied);
    // Read by everybody, or still in the log: the copy knows of neither.
    for read in [true, false] {
        bob.send("team", "since the copy");
        bob.send("team", "and more");
        if read {
            assert_eq!(alice.texts().len(), 2);
        }
        let (before, _) = epoch(&alice);
        put_back(&bob, &copied);
        alice.send("team", "who is there?");
        assert!(bob.texts().len() <= 1);
        let done = bob.run(&["send", "team", "it is me", "--json"]);
        assert_eq!(done.code, 0, "{}{}", done.out, done.err);
        assert_eq!(alice.texts().last().map(String::as_str), Some("it is me"));
        alice.send("team", "good");
        assert_eq!(bob.texts(), ["good"]);
        assert_eq!(epoch(&alice), epoch(&bob));
        assert_eq!(epoch(&alice).0, before + 1);
        assert!(bob.ok(&["group", "list"])[0]["member"].as_bool().unwrap());
    }
    // By itself it did so just now; on demand not again so soon. Alice has not yet.
    assert_eq!(bob.fails(&["group", "rejoin", "team"]), (2, "E101 Invalid".to_owned()));
    let back = alice.ok(&["group", "rejoin", "team"]);
    assert_eq!(back[0]["type"], "rejoined");
    assert_eq!(back[0]["epoch"], epoch(&bob).0);
    bob.send("team", "all well");
    assert_eq!(alice.texts(), ["all well"]);
}

/// Its key is one that the device has replaced: whoever has a copy of that is not let in, and nor is who lost the rest.
#[test]
fn a_home_put_back_from_before_its_key_was_changed_makes_room_for_a_new_device() {
    let place = Place::new();
    let (alice, bob) = place.team();
    bob.ok(&["recv"]);
    let copied = place.path("copy");
    copy(&bob.home, &copied);
    bob.ok(&["devices", "rotate"]);
    bob.send("team", "by another key");
    assert_eq!(alice.texts(), ["by another key"]);
    put_back(&bob, &copied);
    let old = bob.ok(&["whoami"])[0]["device"].as_str().unwrap().to_owned();
    // Nor does a login help, with the right password.
    for arguments in [&["recv", "--json"][..], &["login", "--json"]] {
        let done = bob.run(arguments);
        let error = done.error();
        assert_eq!((done.code, &error["code"]), (4, &"E014".into()), "{error}");
        let next = error["next"].as_str().unwrap();
        for advice in ["newer copy", "fresh --home", "qpc devices revoke", "invite you again"] {
            assert!(next.contains(advice), "{next}");
        }
    }
    // What it advises.
    let mut fresh = place.device("fresh");
    fresh.password = bob.password.clone();
    fresh.ok(&["login", "bob", "--server", &place.address]);
    let listed = fresh.ok(&["devices", "list"]);
    assert!(listed.iter().any(|device| device["device"] == old.as_str()), "{listed:?}");
    fresh.ok(&["devices", "revoke", &old]);
    alice.ok(&["group", "update", "team"]);
    alice.ok(&["group", "invite", "team", "bob"]);
    assert_eq!(alice.ok(&["group", "members", "team"]).len(), 2);
    alice.send("team", "welcome back");
    assert_eq!(fresh.texts(), ["welcome back"]);
    fresh.send("team", "here I am");
    assert_eq!(alice.texts(), ["here I am"]);
    assert_eq!(epoch(&alice), epoch(&fresh));
}
