//! Every verb, end to end, and the shape of its JSON.

use serde_json::Value;

use crate::support::{Place, qpc, with_input};

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn two_people_talk_and_part() {
    let place = Place::new();
    let alice = place.device("alice");
    let account = alice.ok(&["register", "alice", "--server", &place.address]);
    assert_eq!(
        keys(&account[0]),
        ["account", "device", "key_packages", "server", "type", "username"]
    );
    assert_eq!(account[0]["username"], "alice");
    let bob = place.registered("bob");

    let who = alice.ok(&["whoami"]);
    assert_eq!(who[0]["account"], account[0]["account"]);
    assert_eq!(who[0]["server"], place.address.as_str());
    assert_eq!(who[0]["server_id"].as_str().unwrap().len(), 64);

    let group = alice.ok(&["group", "create", "the team"]);
    assert_eq!(keys(&group[0]), ["group", "kind", "name", "suite", "type"]);
    assert_eq!(group[0]["suite"], "hybrid");
    let id = group[0]["group"].as_str().unwrap().to_owned();
    let invited = alice.ok(&["group", "invite", "the team", "bob"]);
    assert_eq!(keys(&invited[0]), ["changed", "epoch", "group", "type", "username"]);
    assert_eq!(invited[0]["changed"], true);

    let sent = alice.ok(&["send", "the team", "hello bob"]);
    assert_eq!(keys(&sent[0]), ["group", "message", "seq", "time", "type"]);
    let got = bob.ok(&["recv"]);
    let expected = [
        "account",
        "device",
        "epoch",
        "group",
        "group_name",
        "kind",
        "message",
        "seq",
        "text",
        "time",
        "trust",
        "type",
        "username",
    ];
    assert_eq!(keys(&got[0]), expected);
    assert_eq!((got.len(), &got[0]["text"]), (1, &Value::from("hello bob")));
    assert_eq!((&got[0]["username"], &got[0]["group_name"]), (&"alice".into(), &"the team".into()));
    assert_eq!((&got[0]["seq"], &got[0]["message"]), (&sent[0]["seq"], &sent[0]["message"]));
    assert!(bob.ok(&["recv"]).is_empty(), "what was printed counts as read");

    // By the start of the id, from a pipe.
    let piped = with_input(bob.spawn(&["send", &id[..8], "-"]), "two\nlines\n");
    assert_eq!(piped.code, 0, "{}", piped.err);
    assert_eq!(alice.texts(), ["two\nlines"]);

    let members = alice.ok(&["group", "members", "the team"]);
    assert_eq!(
        keys(&members[0]),
        ["account", "admin", "device", "self", "trust", "type", "username"]
    );
    let shape: Vec<_> =
        members.iter().map(|m| (m["username"].as_str().unwrap(), m["self"] == true)).collect();
    assert_eq!(shape, [("alice", true), ("bob", false)]);
    let (ours, theirs) = (alice.ok(&["verify", "bob"]), bob.ok(&["verify", "alice"]));
    assert_eq!(keys(&ours[0]), ["account", "qr", "safety_number", "trust", "type", "username"]);
    assert_eq!(ours[0]["safety_number"], theirs[0]["safety_number"]);
    let groups: Vec<_> = ours[0]["safety_number"].as_str().unwrap().split(' ').collect();
    let is_group = |text: &&str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    assert!(groups.len() == 12 && groups.iter().all(is_group), "{groups:?}");

    let listed = bob.ok(&["group", "list"]);
    assert_eq!(
        keys(&listed[0]),
        [
            "authenticator",
            "avatar",
            "cursor",
            "description",
            "epoch",
            "generation",
            "group",
            "kind",
            "member",
            "members",
            "name",
            "suite",
            "type",
            "unread"
        ]
    );
    assert_eq!(listed[0]["authenticator"], alice.ok(&["group", "list"])[0]["authenticator"]);

    let removed = alice.ok(&["group", "remove", "the team", "bob"]);
    assert_eq!(keys(&removed[0]), ["account", "epoch", "group", "type"]);
    alice.send("the team", "not for bob");
    assert!(bob.texts().is_empty());
    let out = &bob.ok(&["group", "list"])[0];
    assert_eq!((&out["member"], &out["authenticator"]), (&false.into(), &Value::Null));
    assert_eq!(bob.fails(&["send", "the team", "am I here?"]), (1, "E132 NotMember".to_owned()));
}

#[test]
fn a_second_device_reads_too_and_can_be_revoked() {
    let place = Place::new();
    let (alice, bob) = place.team();
    let mut second = place.device("second");
    second.password = alice.password.clone();
    let account = second.ok(&["login", "alice", "--server", &place.address]);
    assert_eq!(account[0]["account"], alice.ok(&["whoami"])[0]["account"]);
    let devices = alice.ok(&["devices", "list"]);
    assert_eq!(keys(&devices[0]), ["device", "last_seen", "revoked", "self", "since", "type"]);
    assert_eq!(devices.len(), 2);

    // Carol's group with Alice: both devices of hers are in it.
    let carol = place.registered("carol");
    carol.ok(&["create-group", "reading"]);
    carol.ok(&["invite", "reading", "alice", "bob"]);
    carol.send("reading", "chapter one");
    for device in [&alice, &second, &bob] {
        assert_eq!(device.texts(), ["chapter one"]);
    }
    second.send("reading", "from the second device");
    assert_eq!(alice.texts(), ["from the second device"]);

    let id = account[0]["device"].as_str().unwrap();
    assert_eq!(alice.ok(&["devices", "revoke", &id[..10]])[0]["device"], id);
    let (code, name) = second.fails(&["recv"]);
    assert_eq!(code, 4, "{name}");
    assert_eq!(alice.fails(&["devices", "revoke", "ffff"]), (1, "E136 DeviceUnknown".to_owned()));
}

#[test]
fn keys_health_ping_and_older_names() {
    let place = Place::new();
    let alice = place.registered("alice");
    for verb in [
        ["keys", "status"].as_slice(),
        &["check-key"],
        &["keys", "refresh"],
        &["refresh-keypackage"],
    ] {
        let status = alice.ok(verb);
        assert_eq!(keys(&status[0]), ["available", "last_resort", "type"]);
        assert!(status[0]["available"].as_u64().unwrap() >= 8 && status[0]["last_resort"] == true);
    }
    // A hundred are kept; above that fresh ones take the place of the oldest.
    let available = |verb| alice.ok(&["keys", verb])[0]["available"].as_u64().unwrap();
    while available("status") < 100 {
        available("refresh");
    }
    assert_eq!(available("refresh"), 100);
    let bob = place.registered("bob");
    bob.ok(&["group", "create", "team"]);
    bob.ok(&["group", "invite", "team", "alice"]);
    bob.send("team", "with the oldest that is left");
    assert_eq!(alice.texts(), ["with the oldest that is left"]);
    assert_eq!(alice.ok(&["fetch-key", "bob"])[0]["type"], "safety_number");
    alice.ok(&["create-group", "old names", "--classical"]);
    let joined = alice.ok(&["join"]);
    let old = joined.iter().find(|group| group["name"] == "old names").unwrap();
    assert_eq!(old["suite"], "classical");

    let ping = qpc(&["ping", "--count", "2", "--server", &place.address, "--json"]);
    let pongs = ping.objects();
    assert_eq!((ping.code, pongs.len()), (0, 2), "{}", ping.err);
    assert_eq!(keys(&pongs[0]), ["key_exchange", "micros", "post_quantum", "server", "type"]);
    assert_eq!(pongs[0]["post_quantum"], true);
    let health = qpc(&["health", "--server", &place.address, "--json"]);
    assert_eq!(keys(&health.objects()[0]), ["healthy", "server", "time", "type", "version"]);
    assert_eq!(health.objects()[0]["healthy"], true);
}

#[test]
fn leaving_a_group_and_deleting_an_account() {
    let place = Place::new();
    let (alice, bob) = place.team();
    bob.ok(&["recv"]);
    assert_eq!(keys(&bob.ok(&["group", "leave", "team"])[0]), ["group", "type"]);
    let left = || bob.ok(&["group", "list"])[0]["authenticator"].clone();
    assert_eq!(left(), Value::Null);
    // Another member makes it true with the next thing she does there.
    alice.send("team", "is bob gone?");
    let members = alice.ok(&["group", "members", "team"]);
    assert_eq!(members.len(), 1, "{members:?}");
    assert!(bob.texts().is_empty());
    assert_eq!(left(), Value::Null, "nor after the others have made it true");

    let mut second = place.device("second");
    second.password = bob.password.clone();
    second.ok(&["login", "bob", "--server", &place.address]);
    assert_eq!(bob.fails(&["delete-account"]), (1, "E160 Declined".to_owned()));
    assert_eq!(bob.ok(&["delete-account", "--yes"])[0]["type"], "deleted");
    let (code, name) = bob.fails(&["login"]);
    assert_eq!((code, name.as_str()), (4, "E011 LoginFailed"));
    let other = second.run(&["recv", "--json"]);
    assert_eq!((other.code, &other.error()["code"]), (4, &"E116".into()), "{}", other.err);
    assert_eq!(other.error()["message"], "the account was deleted");
    assert_eq!(alice.fails(&["verify", "bob"]), (6, "E017 AccountUnknown".to_owned()));
}

#[test]
fn logging_out_and_in_again() {
    let place = Place::new();
    let (alice, bob) = place.team();
    assert_eq!(bob.ok(&["logout"])[0]["type"], "logged_out");
    alice.send("team", "while you were out");
    let (code, name) = bob.fails(&["send", "team", "hello?"]);
    assert_eq!((code, name.as_str()), (4, "E113 LoggedOut"));
    bob.ok(&["login"]);
    assert_eq!(bob.texts(), ["while you were out"]);
    assert!(bob.send("team", "back again") > 0);
    assert_eq!(alice.texts(), ["back again"]);
}

#[test]
fn help_names_every_exit_code_and_usage_errors_have_theirs() {
    let help = qpc(&["--help"]);
    assert_eq!(help.code, 0);
    for line in ["0    done", "2    wrong usage", "7    queued", "141  nobody reads"] {
        assert!(help.out.contains(line), "{line}");
    }
    assert!(!help.out.contains("__serve"), "the demo's server is nobody's verb");
    let serve = qpc(&["__serve", "--help"]);
    assert!(serve.out.contains("Usage: qpc __serve "), "{}", serve.out);
    assert_eq!(qpc(&["no-such-verb"]).code, 2);
    let wrong = qpc(&["send", "--json"]);
    let error = wrong.error();
    assert_eq!((wrong.code, &error["code"]), (2, &"E100".into()));
    // On one line each, in text and in JSON.
    let said = "the following required arguments were not provided: <GROUP> <TEXT>";
    assert_eq!(error["message"], said);
    let wrong = qpc(&["send"]);
    assert_eq!(wrong.err, format!("error[E100 Usage]: {said}\nUsage: qpc send <GROUP> <TEXT>\n"));
}
