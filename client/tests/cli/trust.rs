//! Whom a name stands for, between real processes.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Device, Place};

fn contact(device: &Device, username: &str) -> Value {
    let listed = device.ok(&["trust", "list"]);
    let of = |contact: &&Value| contact["username"] == username;
    listed.iter().find(of).unwrap_or_else(|| panic!("{listed:?}")).clone()
}

#[test]
fn two_people_compare_and_their_names_are_marked_from_then_on() {
    let place = Place::new();
    let (alice, bob) = place.team();
    let (code, name) = alice.fails(&["verify", "carol", "--mark"]);
    assert_eq!((code, name.as_str()), (1, "E138 ContactUnknown"));
    assert_eq!(contact(&alice, "bob")["trust"], "seen");
    let (ours, theirs) = (alice.ok(&["verify", "bob"]), bob.ok(&["verify", "alice"]));
    assert_eq!(ours[0]["qr"], theirs[0]["qr"]);
    assert_eq!(ours[0]["trust"], "seen");

    // Alice scans what Bob's terminal shows; Bob compares the digits.
    let drawn = bob.run(&["verify", "alice", "--qr"]);
    let code = theirs[0]["qr"].as_str().unwrap();
    assert!(drawn.out.contains(code) && drawn.out.contains('▄'), "{drawn:?}");
    let place_of = |number: usize| drawn.out.lines().nth(number).unwrap().chars().count();
    assert!(place_of(7) == place_of(8) && place_of(7) > 40, "{drawn:?}");
    let verified = alice.ok(&["verify", "bob", "--scanned", &code.to_ascii_lowercase()]);
    assert_eq!(
        (&verified[0]["type"], &verified[0]["username"]),
        (&"verified".into(), &"bob".into())
    );
    assert_eq!(bob.ok(&["verify", "alice", "--mark"])[0]["type"], "verified");
    assert_eq!(contact(&alice, "bob")["trust"], "verified");

    bob.send("team", "it is me");
    let members = alice.ok(&["group", "members", "team"]);
    let trust: Vec<_> = members.iter().map(|member| &member["trust"]).collect();
    assert_eq!(trust, [&Value::Null, &"verified".into()]);
    let got = alice.run(&["recv"]);
    assert!(got.out.contains("  bob (verified): it is me"), "{got:?}");
    alice.send("team", "and me");
    assert_eq!(bob.ok(&["recv"])[0]["trust"], "verified");
    assert_eq!(alice.ok(&["trust", "forget", "bob"])[0]["type"], "forgotten");
    assert!(alice.ok(&["trust", "list"]).is_empty());
    assert_eq!(alice.ok(&["verify", "bob"])[0]["trust"], "seen");
}

#[test]
fn a_code_of_somebody_else_verifies_nobody() {
    let place = Place::new();
    let (alice, _) = place.team();
    let carol = place.registered("carol");
    let between = carol.ok(&["verify", "alice"]);
    let (code, name) =
        alice.fails(&["verify", "bob", "--scanned", between[0]["qr"].as_str().unwrap()]);
    assert_eq!((code, name.as_str()), (6, "E151 SafetyNumber"));
    let (code, name) = alice.fails(&["verify", "bob", "--scanned", "nonsense"]);
    assert_eq!((code, name.as_str()), (2, "E101 Invalid"));
    assert_eq!(contact(&alice, "bob")["trust"], "seen");
}

/// Copies a directory of files.
fn copy(from: &Path, to: &Path) {
    drop(fs::remove_dir_all(to));
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        assert!(entry.file_type().unwrap().is_file(), "{entry:?}");
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Whoever runs the server puts an old copy of it in place, and somebody else registers Bob's name there.
#[test]
fn a_name_that_somebody_else_has_now_is_warned_of_until_it_is_accepted() {
    let mut place = Place::new();
    let alice = place.registered("alice");
    alice.ok(&["group", "create", "team"]);
    let (data, old) = (place.path("server"), place.path("old"));
    place.kill_server();
    copy(&data, &old);
    place.restart_server();
    place.registered("bob");
    alice.ok(&["verify", "bob"]);
    alice.ok(&["verify", "bob", "--mark"]);
    let before = contact(&alice, "bob")["account"].clone();
    place.kill_server();
    copy(&old, &data);
    place.restart_server();
    let other = place.device("other");
    other.ok(&["register", "bob", "--server", &place.address]);

    let shown = alice.ok(&["verify", "bob"]);
    assert_eq!(shown[0]["trust"], "changed");
    let (now, listed) = (shown[0]["account"].clone(), contact(&alice, "bob"));
    assert_eq!((&listed["trust"], &listed["account"]), (&"changed".into(), &now));
    assert_eq!(listed["before"], before);
    for arguments in [&["whoami"][..], &["group", "list"], &["recv"]] {
        let done = alice.run(arguments);
        let warned = done.err.contains("bob IS ANOTHER ACCOUNT THAN BEFORE and was VERIFIED");
        assert!(warned, "{arguments:?}: {done:?}");
    }
    let (code, name) = alice.fails(&["send", "@bob", "are you there?"]);
    assert_eq!((code, name.as_str()), (6, "E152 NameChanged"));
    let (code, name) = alice.fails(&["group", "invite", "team", "bob"]);
    assert_eq!((code, name.as_str()), (6, "E152 NameChanged"));
    let (code, name) = alice.fails(&["verify", "bob", "--mark"]);
    assert_eq!((code, name.as_str()), (6, "E152 NameChanged"));

    assert_eq!(alice.ok(&["trust", "accept", "bob"])[0]["account"], now);
    let done = alice.run(&["whoami"]);
    assert!(!done.err.contains("ANOTHER ACCOUNT"), "{done:?}");
    alice.send("@bob", "hello, stranger");
    assert_eq!(other.texts(), ["hello, stranger"]);
}

#[test]
fn members_compare_what_their_devices_read_of_a_log() {
    let mut place = Place::new();
    let (alice, bob) = place.team();
    alice.send("team", "seen by both");
    let theirs = bob.ok(&["verify", "--group", "team"]);
    let code = |object: &Value| object["checkpoint"].as_str().unwrap().to_owned();
    let compared = alice.ok(&["verify", "--group", "team", "--with", &code(&theirs[0])]);
    assert_eq!(
        (&compared[0]["type"], &compared[0]["result"]),
        (&"compared".into(), &"same".into())
    );
    assert_eq!(
        (&compared[0]["seq"], &compared[0]["agreed"]),
        (&theirs[0]["seq"], &theirs[0]["seq"])
    );
    let drawn = alice.run(&["verify", "--group", "team", "--qr"]);
    assert!(drawn.code == 0 && drawn.out.contains('▄'), "{drawn:?}");
    let (exit, name) = alice.fails(&["verify", "--group", "team", "--with", "AEAQ"]);
    assert_eq!((exit, name.as_str()), (2, "E101 Invalid"));
    assert_eq!(alice.run(&["verify"]).code, 2);
    assert_eq!(alice.run(&["verify", "bob", "--group", "team"]).code, 2);

    // Whoever runs the server goes back to an old copy of it, and the log goes on otherwise.
    let (data, old) = (place.path("server"), place.path("old"));
    place.kill_server();
    copy(&data, &old);
    place.restart_server();
    let seq = alice.send("team", "for alice's view");
    let ours = code(&alice.ok(&["verify", "--group", "team"])[0]);
    place.kill_server();
    copy(&old, &data);
    place.restart_server();
    assert_eq!(bob.send("team", "for bob's view"), seq);
    let done = bob.run(&["verify", "--group", "team", "--with", &ours, "--json"]);
    assert_eq!((done.code, &done.error()["code"]), (6, &"E153".into()), "{done:?}");
    assert_eq!(
        (&done.objects()[0]["result"], &done.objects()[0]["seq"]),
        (&"differs".into(), &seq.into())
    );
    assert!(done.err.contains("A MEMBER HAS ANOTHER LOG"), "{done:?}");
}
