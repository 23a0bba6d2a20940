//! Homes: key files, damage, what is in the way.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::{Place, bare, finish};

#[test]
fn key_files_are_made_and_needed() {
    let place = Place::new();
    let alice = place.registered("alice");
    let file = alice.key_file.clone().unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let mut without = alice.clone();
    without.key_file = None;
    assert_eq!(without.fails(&["whoami"]), (5, "E127 KeyFile".to_owned()));
    without.key_file = Some(place.path("another.key"));
    assert_eq!(without.fails(&["whoami"]), (5, "E127 KeyFile".to_owned()));
    std::fs::write(place.path("another.key"), [3; 32]).unwrap();
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(place.path("another.key"), private).unwrap();
    assert_eq!(without.fails(&["whoami"]), (5, "E127 KeyFile".to_owned()));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(alice.fails(&["whoami"]), (5, "E127 KeyFile".to_owned()));
}

#[test]
fn damage_is_told() {
    let place = Place::new();
    let alice = place.registered("alice");
    let damaged = (5, "E123 HomeDamaged".to_owned());
    for name in ["key", "state.db", "config.toml"] {
        let file = alice.home.join(name);
        let whole = std::fs::read(&file).unwrap();
        let mut bytes = whole.clone();
        let middle = bytes.len() / 2;
        bytes[..middle].fill(0xA5);
        std::fs::write(&file, &bytes).unwrap();
        let done = alice.run(&["whoami", "--json"]);
        assert_eq!((done.code, &done.error()["code"]), (5, &"E123".into()), "{name} overwritten");
        assert_eq!(done.err.lines().count(), 1, "nobody but us speaks: {}", done.err);
        std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
        if name != "config.toml" {
            assert_eq!(alice.fails(&["whoami"]), damaged, "{name} cut off");
            std::fs::remove_file(&file).unwrap();
            assert_eq!(alice.fails(&["whoami"]), damaged, "{name} missing");
        }
        std::fs::write(&file, &whole).unwrap();
        alice.ok(&["whoami"]);
    }
}

/// Wherever a byte of the state was changed: what the page holds is not needed, or the damage is named, and what to do.
#[test]
fn a_changed_byte_of_the_state_is_told_wherever_it_is() {
    let place = Place::new();
    let (alice, bob) = place.team();
    bob.send("team", "unread");
    alice.send("team", "read");
    let file = alice.home.join("state.db");
    let whole = std::fs::read(&file).unwrap();
    let mut told = 0;
    for at in (1_000..whole.len()).step_by(4_096) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        let done = alice.run(&["group", "list", "--json"]);
        if done.code != 0 {
            let error = done.error();
            assert_eq!((done.code, &error["code"]), (5, &"E123".into()), "byte {at}: {error}");
            assert!(error["next"].as_str().unwrap().contains("backup"), "{error}");
            told += 1;
        }
        std::fs::write(&file, &whole).unwrap();
        drop(std::fs::remove_file(alice.home.join("state.db-wal")));
    }
    assert!(told > 0);
    assert_eq!(bob.texts(), ["read"]);
}

#[test]
fn a_variable_that_is_empty_counts_as_unset() {
    let place = Place::new();
    let alice = place.registered("alice");
    let names = ["QPC_SERVER", "QPC_HOME", "QPC_CA", "QPC_KEY_FILE", "QPC_LOG"];
    let mut command = alice.command(&["group", "list"]);
    let done = finish(command.envs(names.map(|name| (name, ""))).spawn().unwrap());
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    // The default home, and no place for a password.
    let mut command = bare();
    command.envs(names.map(|name| (name, ""))).env("QPC_PASSWORD_FILE", "");
    command.env("XDG_DATA_HOME", place.path("data")).args(["whoami", "--json"]);
    let error = finish(command.spawn().unwrap()).error();
    assert_eq!(error["code"], "E120", "{error}");
    let shown = place.path("data/qpc").display().to_string();
    assert!(error["message"].as_str().unwrap().contains(&shown), "{error}");
    // An argument that is empty is still a mistake.
    assert_eq!(alice.fails(&["whoami", "--home", ""]).0, 2);
}

#[test]
fn registering_again_changes_nothing_and_says_so() {
    let place = Place::new();
    let alice = place.device("alice");
    let register = ["register", "alice", "--server", &place.address];
    let first = alice.ok(&register);
    let again = alice.run(&["register", "Alice", "--json"]);
    assert_eq!((again.code, again.objects()), (0, first), "{}", again.err);
    assert!(again.err.contains("already; nothing was changed"), "{}", again.err);
    assert_eq!(alice.ok(&["devices", "list"]).len(), 1);
    // After a logout it is a login.
    alice.ok(&["logout"]);
    let back = alice.run(&["register", "alice", "--json"]);
    assert_eq!((back.code, back.err.as_str()), (0, ""));
}
