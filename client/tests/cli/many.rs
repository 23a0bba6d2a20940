//! Many messages, and two processes on one home.

use std::thread;

use crate::support::{Device, Place, with_input};

/// "Database is locked" on quick sends (libxmtp #1480): of two processes on one home, one waits for the other; a
/// thousand messages go out back to back.
#[test]
fn regression_30_quick_sends_and_two_processes_on_one_home() {
    let place = Place::new();
    let (alice, bob) = place.team();
    bob.ok(&["recv"]);

    let each = 25;
    let sender = |who: &'static str| {
        let alice = alice.clone();
        thread::spawn(move || {
            for number in 0..each {
                let text = format!("{who} {number}");
                alice.ok(&["send", "team", &text, "--timeout", "60"]);
            }
        })
    };
    let (one, other) = (sender("one"), sender("other"));
    one.join().unwrap();
    other.join().unwrap();
    let texts = bob.texts();
    assert_eq!(texts.len(), 2 * each);
    for who in ["one", "other"] {
        let own: Vec<_> = texts.iter().filter(|text| text.starts_with(who)).cloned().collect();
        let expected: Vec<_> = (0..each).map(|number| format!("{who} {number}")).collect();
        assert_eq!(own, expected);
    }

    let lines: Vec<_> = (0..1000).map(|number| format!("line {number}")).collect();
    let chat = with_input(alice.spawn(&["chat", "team", "--json"]), &lines.join("\n"));
    assert_eq!(chat.code, 0, "{}", chat.err);
    assert_eq!(chat.out.lines().count(), lines.len());
    assert_eq!(bob.texts(), lines);
}

#[test]
fn a_chat_goes_both_ways() {
    let place = Place::new();
    let (alice, bob) = place.team();
    let mut chat = alice.spawn(&["chat", "team"]);
    bob.send("team", "good morning");
    let mut out = std::io::BufReader::new(chat.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert!(line.ends_with("  team  bob: good morning\n"), "{line}");
    let done = with_input(chat, "and to you\n\n");
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(bob.texts(), ["and to you"]);
}

#[test]
fn one_group_is_read_although_too_much_is_unread_in_another() {
    let place = Place::new();
    let (alice, bob) = (place.registered("alice"), place.registered("bob"));
    let group =
        |name| alice.ok(&["group", "create", name])[0]["group"].as_str().unwrap().to_owned();
    let mut groups = [group("one"), group("two")];
    // What is unread is told in the order of the ids: the loud group first.
    groups.sort();
    let [loud, quiet] = &groups;
    for group in &groups {
        alice.ok(&["group", "invite", group, "bob"]);
    }
    let lines: Vec<_> = (0..1200).map(|number| format!("line {number}")).collect();
    let chat = with_input(alice.spawn(&["chat", loud, "--json"]), &lines.join("\n"));
    assert_eq!(chat.code, 0, "{}", chat.err);
    bob.ok(&["group", "list"]);
    alice.send(quiet, "a quiet word");
    let texts = |arguments: &[&str]| -> Vec<String> {
        let text = |message: &serde_json::Value| message["text"].as_str().unwrap().to_owned();
        bob.ok(arguments).iter().map(text).collect()
    };
    assert_eq!(texts(&["recv", quiet]), ["a quiet word"]);
    assert_eq!(texts(&["recv"]), lines);
}

fn epoch(device: &Device) -> u64 {
    device.ok(&["group", "list"])[0]["epoch"].as_u64().unwrap()
}

/// The keys of an own leaf are renewed after as many entries as are said, but not before twice as many as there are
/// devices.
#[test]
fn keys_are_renewed_after_so_many_entries_of_a_group() {
    let place = Place::new();
    let (alice, bob) = place.team();
    let before = epoch(&alice);
    let write = |count: usize| {
        let lines: Vec<_> = (0..count).map(|number| format!("line {number}")).collect();
        let chat = with_input(alice.spawn(&["chat", "team", "--json"]), &lines.join("\n"));
        assert_eq!(chat.code, 0, "{}", chat.err);
        assert_eq!(bob.texts(), lines);
    };
    let renews = |entries: &str| {
        let before = epoch(&alice);
        alice.ok(&["recv", "--update-entries", entries]);
        epoch(&alice) - before
    };
    write(20);
    assert_eq!((epoch(&alice), renews("100")), (before, 0));
    assert_eq!((renews("10"), renews("10")), (1, 0));
    // Of a group of two devices never before the fourth.
    write(2);
    assert_eq!(renews("1"), 0);
    write(2);
    assert_eq!((renews("1"), renews("1")), (1, 0));
    write(1);
    assert_eq!(epoch(&bob), before + 2);
}
