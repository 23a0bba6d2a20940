//! Each way of being dishonest, alone: a group of three accounts and four devices talks, changes and is lied to, or has
//! a member who misbehaves. Whatever is told, nobody reads what was not sent, or twice, or what is not theirs; and once
//! all are honest again, everybody is back in one epoch, and reads. Who is alarmed by what is said here, or why nobody
//! is; so it is in the table of `docs/scenarios.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failure is a panic")]

use std::collections::BTreeMap;
use std::path::Path;

use qpc_sim::scenario::Scenario;
use qpc_sim::{OF_MEMBERS, OF_SERVERS, Report, Way, run};

/// Everything that gives a liar occasion, twice.
const TALK: &str = "
send device=0 group=0 bytes=10
send device=2 group=0 bytes=10
pass ms=500
update device=0 group=0
pass ms=500
cut device=1
pass ms=2000
send device=1 group=0 bytes=10
send device=1 group=0 bytes=10
lookup device=1 account=2
devices device=1
invite device=1 group=0 account=3
update device=1 group=0
pass ms=1000
refresh device=1
rotate device=1
pass ms=2000
rejoin device=1 group=0
send device=3 group=0 bytes=10
pass ms=3000
";

fn told(step: &str, ways: &[Way], name: &str) -> Report {
    let way = ways.iter().position(|way| way.name == name).expect("a way of that name");
    let act = format!("{step} device=1 way={way} times=3");
    let report = after(&act, TALK);
    assert!(report.lies > 0, "{name}: no occasion");
    report
}

/// A group of three accounts and four devices, in which somebody acts twice before the others talk.
fn after(act: &str, talk: &str) -> Report {
    let mut text = "seed 5\naccounts 0 1 2 0 3\n".to_owned();
    for device in 0..5 {
        let word = if device == 3 { "login" } else { "register" };
        text += &format!("{word} device={device}\npass ms=500\n");
    }
    text += "create device=0 suite=0\npass ms=500\n";
    for account in 0..3 {
        text += &format!("invite device=0 group=0 account={account}\npass ms=1000\n");
    }
    text += "role device=0 group=0 account=1 admin=1\npass ms=1000\n";
    for _ in 0..2 {
        text += &format!("{act}\n{talk}");
    }
    text += "calm\nsend device=0 group=0 bytes=3\nsend device=1 group=0 bytes=3\nupdate device=2 group=0\n";
    let scenario: Scenario = text.parse().unwrap();
    let report = run(&scenario);
    assert!(report.failures.is_empty(), "{report}");
    // Whoever was lied to is back where everybody is, and has read all that was said since: nothing is excused any
    // more.
    assert!(report.doubtful.is_empty(), "{:?} are not back: {report}", report.doubtful);
    report
}

/// The device that is lied to, or that misbehaves.
const IT: usize = 1;

/// Who was alarmed by what: "it" is the device that is lied to or misbehaves.
fn alarms(report: &Report) -> String {
    let who = |devices: &BTreeMap<usize, usize>| {
        let others = devices.keys().any(|device| *device != IT);
        match (devices.contains_key(&IT), others) {
            (true, false) => "it",
            (false, _) => "others",
            (true, true) => "it and others",
        }
    };
    let told = report.alarms.iter().map(|(alarm, devices)| format!("{alarm} ({})", who(devices)));
    told.collect::<Vec<_>>().join(", ")
}

/// Each row of the table in the documentation that says what becomes of one way.
fn documented(row: &str) -> bool {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/scenarios.md");
    std::fs::read_to_string(page).unwrap().lines().any(|line| line == row)
}

fn row(name: &str, detected: &str, harmless: &str) -> String {
    match detected {
        "" => format!("| {name} | nobody | {harmless} |"),
        detected => format!("| {name} | {detected} | {harmless} |"),
    }
}

/// A thief has a device's disk and goes on from it at the same time, as device 5: to everybody it is that device, and
/// it takes part until it is caught. What the two say under one key is read once; the other is told to be unreadable.
#[test]
fn a_disk_is_stolen() {
    let talk = format!("pass ms=500\nsend device=5 group=0 bytes=9\npass ms=500\n{TALK}honest\n");
    let report = after("steal device=1", &talk);
    let detected = "Unreadable (it and others)";
    assert_eq!(alarms(&report), detected, "{report}");
    let row =
        row("goes on from a copy of a disk", detected, "one of two texts under one key is read");
    assert!(documented(&row), "not in the documentation:\n{row}");
}

/// The server goes on from a copy of its store as well, and leads one to three devices there, until they meet the
/// others again: then it is found out.
#[test]
fn members_are_led_into_two_histories() {
    for devices in 1..=3 {
        let apart = "pass ms=2000
            send device=0 group=0 bytes=10
            send device=1 group=0 bytes=10
            send device=2 group=0 bytes=10
            pass ms=2000
            update device=1 group=0
            pass ms=1000
            send device=1 group=0 bytes=10
            send device=2 group=0 bytes=10
            send device=3 group=0 bytes=10
            update device=0 group=0
            pass ms=3000
            send device=1 group=0 bytes=10
            pass ms=3000\n";
        let together = "pass ms=3000
            send device=0 group=0 bytes=10
            send device=1 group=0 bytes=10
            pass ms=5000\n";
        let talk = format!("{apart}honest\n{together}");
        let report = after(&format!("fork device=1 devices={devices}"), &talk);
        let alarms: Vec<&str> = report.alarms.keys().map(String::as_str).collect();
        assert!(alarms.contains(&"ForkSuspected"), "{report}");
    }
}

/// A member's commits carry path secrets that open for nobody, or are others: no server can see it. The others say so,
/// and are in one epoch with it again once it stops.
#[test]
fn path_secrets_are_forged() {
    for how in [0, 1] {
        let talk = format!("update device=1 group=0\npass ms=2000\n{TALK}honest\nhours hours=2\n");
        let report = after(&format!("forge device=1 how={how}"), &talk);
        assert!(report.fallen >= 3, "how {how}: {report}");
    }
}

/// Each way: the alarms and who raises them, and what the device that is lied to, or the server, does about it.
macro_rules! ways {
    ($($test:ident: $step:literal, $ways:ident, $name:literal => $detected:literal, $then:literal;)*) => {
        $(#[test]
        fn $test() {
            let report = told($step, $ways, $name);
            assert_eq!(alarms(&report), $detected, "{report}");
            let row = row($name, $detected, $then);
            assert!(documented(&row), "not in the documentation:\n{row}");
        })*

        #[test]
        fn every_way_has_its_test() {
            let named = [$(($step, $name)),*];
            let all = OF_SERVERS.iter().map(|way| ("lie", way.name));
            let all = all.chain(OF_MEMBERS.iter().map(|way| ("misbehave", way.name)));
            for way in all {
                assert!(named.contains(&way), "{way:?}");
            }
        }
    };
}

ways! {
    entries_are_dropped: "lie", OF_SERVERS, "drops entries" => "", "what is missing is asked for again";
    entries_are_repeated: "lie", OF_SERVERS, "repeats entries" => "", "an entry is read once, by its seq";
    entries_are_reordered: "lie", OF_SERVERS, "reorders entries" => "", "they are put in order by their seqs";
    entries_are_replayed: "lie", OF_SERVERS, "replays entries under new seqs" => "ForkDetected (it and others), ForkSuspected (it), Unreadable (it)", "reads on; its chain stays another";
    entries_are_left_out: "lie", OF_SERVERS, "leaves entries out and counts on" => "ForkDetected (it and others), Unreadable (it)", "reads on; its chain stays another";
    another_sender_is_named: "lie", OF_SERVERS, "names another sender" => "ForkDetected (it and others), ForkSuspected (it)", "the signature counts; its chain stays another";
    a_payload_is_changed: "lie", OF_SERVERS, "changes a payload" => "ForkSuspected (it), Unreadable (it)", "passes it over; its chain stays another";
    a_commit_is_changed: "lie", OF_SERVERS, "changes a commit" => "Unreadable (it)", "comes back by new keys; its chain stays another";
    entries_are_said_to_be_gone: "lie", OF_SERVERS, "says that entries are gone" => "Gap (it)", "comes back by new keys";
    the_epoch_is_said_to_have_passed: "lie", OF_SERVERS, "says that the epoch has passed" => "Unreadable (it)", "what was refused is encrypted anew";
    a_member_is_said_to_be_none: "lie", OF_SERVERS, "says that a member is none" => "Evicted (it), Unreadable (it)", "comes back by new keys";
    there_is_no_delivery_proof: "lie", OF_SERVERS, "signs no delivery proof" => "ForkSuspected (it)", "asks again on another connection";
    later_state_is_claimed: "lie", OF_SERVERS, "claims to have seen later state" => "", "comes back by new keys, as after a backup";
    key_packages_are_changed: "lie", OF_SERVERS, "changes key packages" => "Failed (it)", "nobody is added by one";
    key_packages_are_hidden: "lie", OF_SERVERS, "hides key packages" => "", "the invitation fails";
    a_name_leads_elsewhere: "lie", OF_SERVERS, "gives a name to another account" => "AccountChanged (it), NameContradicted (it)", "the name is not followed";
    a_device_is_invented: "lie", OF_SERVERS, "invents a device" => "Failed (it)", "it counts for nothing";
    a_group_info_is_changed: "lie", OF_SERVERS, "changes a GroupInfo" => "Unreadable (it)", "it is not come back by";
    a_tree_is_changed: "lie", OF_SERVERS, "changes a tree" => "ForkSuspected (it)", "asks again on another connection";
    other_calls_are_answered: "lie", OF_SERVERS, "answers other calls" => "ServerFault (it)", "asks again on another connection";
    the_server_cannot_now: "lie", OF_SERVERS, "says that it cannot now" => "", "asks again";
    entries_are_held_back: "lie", OF_SERVERS, "holds entries back" => "", "they are read when they come";
    answers_are_held_back: "lie", OF_SERVERS, "holds answers back" => "", "they are taken when they come";

    a_member_changes_its_commit: "misbehave", OF_MEMBERS, "changes its commit" => "", "the server refuses it";
    a_member_signs_wrongly: "misbehave", OF_MEMBERS, "signs its commit wrongly" => "", "the server refuses it";
    a_member_sends_a_broken_group_info: "misbehave", OF_MEMBERS, "sends a broken GroupInfo" => "", "the server refuses the commit";
    a_member_sends_no_welcome: "misbehave", OF_MEMBERS, "sends no welcome" => "", "the server refuses the commit";
    a_member_sends_a_broken_message: "misbehave", OF_MEMBERS, "sends a broken message" => "ForkSuspected (it and others), Unreadable (it and others)", "nobody reads it";
    a_member_calls_a_message_a_proposal: "misbehave", OF_MEMBERS, "calls a message a proposal" => "", "the server refuses it";
    a_member_submits_to_another_epoch: "misbehave", OF_MEMBERS, "submits to another epoch" => "", "the server refuses it";
    a_member_acknowledges_what_is_not_there: "misbehave", OF_MEMBERS, "acknowledges what is not there" => "", "the server refuses it";
    a_member_reads_what_is_others: "misbehave", OF_MEMBERS, "reads what is others'" => "Unreadable (it)", "the server refuses it";
    a_member_reads_from_before_it_joined: "misbehave", OF_MEMBERS, "reads from before it joined" => "", "the server begins where it joined";
    a_member_uploads_broken_key_packages: "misbehave", OF_MEMBERS, "uploads broken key packages" => "", "the server refuses them";
    a_member_registers_a_forged_device: "misbehave", OF_MEMBERS, "registers a forged device" => "", "the server refuses it";
    a_member_says_everything_twice: "misbehave", OF_MEMBERS, "says everything twice" => "ServerFault (it)", "what comes twice counts once";
    a_member_says_nothing: "misbehave", OF_MEMBERS, "says nothing" => "", "asks again on another connection";
}
