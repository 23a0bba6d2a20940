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
