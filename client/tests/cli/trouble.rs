//! What goes wrong: each its own clear error, nothing lost.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use crate::support::{Place, bare, finish, holds, qpc, signal, with_input};

#[test]
fn wrong_passwords_and_unknown_names() {
    let place = Place::new();
    let alice = place.registered("alice");
    let mut thief = place.device("thief");
    let login = ["login", "alice", "--server", &place.address];
    assert_eq!(thief.fails(&login), (4, "E011 LoginFailed".to_owned()));
    // Nothing of the failed login is in the way of the right one.
    thief.password = alice.password.clone();
    thief.ok(&login);
    let nobody = place.device("nobody");
    let login = ["login", "nobody", "--server", &place.address];
    assert_eq!(nobody.fails(&login), (4, "E011 LoginFailed".to_owned()));
    let register = ["register", "alice", "--server", &place.address];
    assert_eq!(nobody.fails(&register), (6, "E015 UsernameTaken".to_owned()));
    assert_eq!(nobody.fails(&["whoami"]), (5, "E120 NoAccount".to_owned()));
    assert_eq!(alice.fails(&["register", "alice2"]), (5, "E121 HasAccount".to_owned()));
    assert_eq!(alice.fails(&["verify", "nobody"]), (6, "E017 AccountUnknown".to_owned()));
    alice.ok(&["group", "create", "team"]);
    assert_eq!(
        alice.fails(&["group", "invite", "team", "nobody"]),
        (6, "E017 AccountUnknown".to_owned())
    );
    // Who cannot be added keeps nobody else out.
    let bob = place.registered("bob");
    let both = alice.fails(&["group", "invite", "team", "nobody", "bob"]);
    assert_eq!(both, (6, "E017 AccountUnknown".to_owned()));
    bob.ok(&["recv"]);
    assert_eq!(bob.ok(&["group", "list"]).len(), 1);
    assert_eq!(alice.fails(&["send", "crew", "hello"]), (1, "E130 GroupUnknown".to_owned()));
    assert_eq!(alice.fails(&["send", "team", ""]), (2, "E101 Invalid".to_owned()));
    assert_eq!(
        alice.fails(&["group", "remove", "team", "nobody"]),
        (6, "E017 AccountUnknown".to_owned())
    );
    alice.ok(&["group", "create", "team"]);
    let ambiguous = alice.run(&["send", "team", "hello", "--json"]);
    assert_eq!(ambiguous.error()["name"], "GroupAmbiguous");
    assert_eq!(ambiguous.error()["candidates"].as_array().unwrap().len(), 2);
}

#[test]
fn a_home_under_a_password_opens_with_it_only() {
    let place = Place::new();
    let mut alice = place.device("alice");
    alice.key_file = None;
    // From standard input; what follows the first line is left for the command.
    let register = ["register", "alice", "--password-stdin", "--server", &place.address];
    assert_eq!(with_input(alice.spawn(&register), "alice's password\n").code, 0);
    let whoami = with_input(alice.spawn(&["whoami", "--password-stdin"]), "alice's password\n");
    assert_eq!(whoami.code, 0, "{}", whoami.err);
    alice.ok(&["group", "create", "team"]);
    let sent = alice.spawn(&["send", "team", "-", "--password-stdin"]);
    assert_eq!(with_input(sent, "alice's password\nthe message itself").code, 0);

    let mut stranger = alice.clone();
    stranger.password = place.path("wrong");
    std::fs::write(&stranger.password, "a guess\n").unwrap();
    assert_eq!(stranger.fails(&["whoami"]), (4, "E111 PasswordWrong".to_owned()));
    std::fs::remove_file(&stranger.password).unwrap();
    assert_eq!(stranger.fails(&["whoami"]), (4, "E110 PasswordMissing".to_owned()));
    let silent = alice.command(&["whoami", "--json"]).env_remove("QPC_PASSWORD_FILE").spawn();
    let silent = finish(silent.unwrap());
    assert_eq!(silent.error()["code"], "E110", "no terminal, no password, and no hanging");
    assert!(!holds(&alice.home, "alice's password"));
}

#[test]
fn a_server_that_is_down_loses_nothing() {
    let mut place = Place::new();
    let (alice, bob) = place.team();
    bob.ok(&["recv"]);
    alice.send("team", "before");
    place.kill_server();
    let quick = "--timeout=2";
    for text in ["meanwhile", "and again"] {
        assert_eq!(alice.fails(&["send", "team", text, quick]), (7, "E140 Queued".to_owned()));
    }
    assert_eq!(bob.fails(&["recv", quick]), (3, "E102 Unreachable".to_owned()));
    assert_eq!(bob.fails(&["group", "list", quick]), (3, "E102 Unreachable".to_owned()));
    assert_eq!(bob.ok(&["group", "list", "--offline"]).len(), 1);
    assert_eq!(bob.ok(&["whoami"])[0]["username"], "bob");
    let ping = qpc(&["ping", "--json", quick, "--server", &place.address]);
    assert_eq!((ping.code, &ping.error()["code"]), (3, &"E102".into()));
    let nobody = place.device("nobody");
    let register = ["register", "nobody", "--server", &place.address, quick];
    assert_eq!(nobody.fails(&register), (3, "E102 Unreachable".to_owned()));

    place.restart_server();
    // Any command that reaches the server takes along what was queued, and says so.
    let listed = alice.run(&["group", "list"]);
    assert_eq!(listed.code, 0, "{}", listed.err);
    assert_eq!(listed.err.matches("queued before is sent now").count(), 2, "{}", listed.err);
    assert_eq!(bob.texts(), ["before", "meanwhile", "and again"]);
    nobody.ok(&["register", "nobody", "--server", &place.address]);
}

#[test]
fn a_server_with_another_key_is_not_talked_to() {
    let place = Place::new();
    let alice = place.registered("alice");
    let (address, pin) = place.address.split_once('#').unwrap();
    let flipped = if pin.starts_with('0') { "1" } else { "0" };
    let other = format!("{address}#{flipped}{}", &pin[1..]);
    assert_eq!(alice.fails(&["recv", "--server", &other]), (3, "E103 Untrusted".to_owned()));
    assert_eq!(alice.fails(&["recv", "--server", address]), (2, "E105 NoServer".to_owned()));
    assert_eq!(alice.fails(&["recv", "--server", "http://x"]), (2, "E101 Invalid".to_owned()));
    // Another server altogether, properly pinned: not the one that this device belongs to.
    let elsewhere = Place::new();
    let (code, name) = alice.fails(&["recv", "--server", &elsewhere.address]);
    assert_eq!((code, name.as_str()), (3, "E103 Untrusted"));
    alice.ok(&["recv"]);
}

#[test]
fn what_cannot_be_printed_stays_unread() {
    let place = Place::new();
    let (alice, bob) = place.team();
    bob.ok(&["recv"]);
    alice.send("team", "for a full disk");
    for arguments in [["recv"].as_slice(), &["recv", "--json"], &["recv", "--follow"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let done = finish(bob.command(arguments).stdout(full).spawn().unwrap());
        assert_eq!(done.code, 1, "{}", done.err);
        assert!(done.err.contains("E162") && done.err.contains("stays unread"), "{}", done.err);
    }
    assert_eq!(bob.texts(), ["for a full disk"]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(finish(bare().arg("--help").stdout(full).spawn().unwrap()).code, 1);
}

#[test]
fn interrupting_and_broken_pipes_lose_no_message() {
    let place = Place::new();
    let (alice, bob) = place.team();
    bob.ok(&["recv"]);
    alice.send("team", "for a reader who left");

    let mut reader = bob.command(&["recv"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(reader.stdout.take());
    let done = finish(reader);
    assert_eq!((done.code, done.err.as_str()), (141, ""), "{}", done.err);
    // Nobody has seen it, so it is still unread.
    assert_eq!(bob.texts(), ["for a reader who left"]);

    let follower = bob.spawn(&["recv", "--follow", "--json"]);
    std::thread::sleep(Duration::from_millis(500));
    let told = bob.run(&["whoami", "--timeout", "1", "--json"]);
    assert_eq!((told.code, &told.error()["code"]), (5, &"E122".into()));
    let message = told.error()["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains(&format!("process {} (qpc recv --follow)", follower.id())),
        "{message}"
    );
    alice.send("team", "while following");
    std::thread::sleep(Duration::from_millis(500));
    signal(&follower, "-INT");
    let done = finish(follower);
    assert_eq!(done.code, 130, "{}", done.err);
    assert_eq!(done.objects()[0]["text"], "while following");
    assert!(bob.texts().is_empty(), "the home is free again, and what was printed is read");
}

#[test]
fn no_secret_is_in_the_log_at_trace() {
    let place = Place::new();
    let alice = place.device("alice");
    let run = |arguments: &[&str]| {
        let child = alice.command(arguments).env("QPC_LOG", "trace").spawn().unwrap();
        let done = finish(child);
        assert_eq!(done.code, 0, "{}", done.err);
        done.err
    };
    let mut log = run(&["register", "alice", "--server", &place.address]);
    log += &run(&["group", "create", "a secret name"]);
    log += &run(&["send", "a secret name", "a secret text"]);
    log += &run(&["recv"]);
    assert!(log.len() > 1000 && log.contains("TRACE"));
    let key = std::fs::read(alice.key_file.as_ref().unwrap()).unwrap();
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    for secret in ["alice's password", "a secret name", "a secret text", &hex] {
        assert!(!log.contains(secret), "{secret}");
        assert!(!holds(&alice.home, secret), "{secret}");
        assert!(!holds(&place.path("server"), secret), "{secret}");
    }
}
