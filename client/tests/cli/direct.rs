//! Direct channels between real processes.

use std::thread;

use serde_json::Value;

use crate::support::{Device, Place, finish, with_input};

fn group(device: &Device, username: &str) -> Value {
    let listed = device.ok(&["group", "list"]);
    let direct = |group: &&Value| group["kind"] == "direct" && group["name"] == username;
    listed.iter().find(direct).unwrap_or_else(|| panic!("{listed:?}")).clone()
}

#[test]
fn two_people_talk_between_themselves() {
    let place = Place::new();
    let (alice, bob) = place.team();
    let opened = alice.ok(&["direct", "bob"]);
    let keys: Vec<_> = opened[0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["group", "kind", "name", "suite", "type"]);
    assert_eq!((&opened[0]["type"], &opened[0]["kind"]), (&"group".into(), &"direct".into()));
    assert_eq!((&opened[0]["name"], &opened[0]["suite"]), (&"bob".into(), &"hybrid".into()));
    // Again, from either side, it is the same.
    assert_eq!(alice.ok(&["direct", "@bob"]), opened);
    assert_eq!(bob.ok(&["direct", "alice"])[0]["group"], opened[0]["group"]);

    alice.send("@bob", "between us");
    alice.send("team", "to the team");
    let got = bob.ok(&["recv", "@alice"]);
    assert_eq!(got.len(), 1, "{got:?}");
    assert_eq!((&got[0]["text"], &got[0]["username"]), (&"between us".into(), &"alice".into()));
    assert_eq!((&got[0]["group"], &got[0]["group_name"]), (&opened[0]["group"], &"@alice".into()));
    assert_eq!(bob.texts(), ["to the team"]);
    let said = with_input(bob.spawn(&["chat", "@alice"]), "one\ntwo\n");
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(alice.texts(), ["one", "two"]);
    let members = bob.ok(&["group", "members", "@alice"]);
    let names: Vec<_> = members.iter().map(|member| member["username"].as_str().unwrap()).collect();
    assert_eq!(names, ["alice", "bob"]);
    assert_eq!(group(&bob, "alice")["members"], 2);
    let text = alice.run(&["group", "list"]);
    assert!(text.out.contains("  @bob  2 devices"), "{text:?}");

    // Nobody else gets in, nobody is put out.
    place.registered("carol");
    assert_eq!(alice.fails(&["group", "invite", "@bob", "carol"]).0, 2);
    assert_eq!(alice.fails(&["group", "remove", "@bob", "bob"]).0, 2);
    let (code, name) = alice.fails(&["send", "@nobody", "hello"]);
    assert_eq!((code, name.as_str()), (6, "E017 AccountUnknown"));
    assert_eq!(alice.fails(&["direct", "alice"]).0, 2);
}

/// What comes while a command still looks for its group is told by that command.
#[test]
fn the_first_command_after_an_invitation_reads() {
    let place = Place::new();
    let alice = place.registered("alice");
    alice.ok(&["group", "create", "tea"]);
    let texts = |lines: Vec<Value>| -> Vec<String> {
        let message = lines.into_iter().filter(|line| line["type"] == "message");
        message.map(|line| line["text"].as_str().unwrap().to_owned()).collect()
    };
    let [bob, carol, dave] = ["bob", "carol", "dave"].map(|name| place.registered(name));
    alice.ok(&["group", "invite", "tea", "bob", "dave"]);
    alice.send("tea", "first");
    alice.send("@carol", "hello");
    assert_eq!(texts(bob.ok(&["recv", "tea"])), ["first"]);
    let got = carol.ok(&["recv", "@alice"]);
    assert_eq!((&got[0]["text"], &got[0]["kind"]), (&"hello".into(), &"direct".into()));
    let said = with_input(dave.spawn(&["--json", "chat", "tea"]), "here\n");
    assert_eq!(texts(said.objects()), ["first"], "{said:?}");
}

#[test]
fn a_group_does_not_pass_itself_off_as_a_direct_channel() {
    let place = Place::new();
    let (alice, _bob) = place.team();
    assert_eq!(alice.fails(&["group", "create", "@bob"]), (2, "E100 Usage".into()));
    assert_eq!(alice.fails(&["group", "set", "team", "--name", " @bob"]), (2, "E100 Usage".into()));
}

#[test]
fn the_first_message_opens_it_whoever_sends_it() {
    let place = Place::new();
    let (alice, bob) = (place.registered("alice"), place.registered("bob"));
    let mut second = place.device("second");
    second.password = bob.password.clone();
    second.ok(&["login", "bob", "--server", &place.address]);
    // Both at once, each from a process of its own.
    let sends = [(&alice, "@bob", "hi bob"), (&bob, "@alice", "hi alice")];
    let running = sends.map(|(device, to, text)| device.spawn(&["send", to, text, "--all"]));
    let done = running.map(|child| thread::spawn(|| finish(child)));
    for done in done {
        let done = done.join().unwrap();
        assert_eq!(done.code, 0, "{done:?}");
    }
    assert_eq!(alice.texts(), ["hi alice"]);
    assert_eq!(bob.texts(), ["hi bob"]);
    let mut both = second.texts();
    both.sort();
    assert_eq!(both, ["hi alice", "hi bob"]);
    let one = group(&alice, "bob");
    assert_eq!((&one["group"], &one["members"]), (&group(&second, "alice")["group"], &3.into()));
    assert_eq!(one["authenticator"], group(&bob, "alice")["authenticator"]);
}

#[test]
fn opening_outlives_a_server_that_is_away() {
    let mut place = Place::new();
    let (alice, bob) = (place.registered("alice"), place.registered("bob"));
    place.kill_server();
    let (code, name) = alice.fails(&["direct", "bob", "--timeout", "2"]);
    assert_eq!(code, 7, "{name}");
    place.restart_server();
    // The next command that reaches the server takes it along.
    alice.ok(&["group", "list"]);
    alice.send("@bob", "here at last");
    assert_eq!(bob.texts(), ["here at last"]);
}
