//! Whole conversations, byte for byte: `vectors/qpc/transcripts`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failure is a panic")]

use std::collections::BTreeSet;
use std::fs;

use data_encoding::HEXLOWER;
use qpc_protocol::crypto::{Backend, fast, portable};
use qpc_sim::transcript::{BLESS, CONVERSATIONS, Conversation, record, replay};
use serde_json::Value;

/// Above this a transcript is too long, in bytes.
const LONGEST: usize = 1_000_000;

fn text(conversation: &Conversation) -> String {
    let path = conversation.path();
    fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}: {BLESS}", path.display()))
}

fn replays(backend: Backend) {
    for conversation in CONVERSATIONS {
        let steps = replay(conversation, &text(conversation), backend);
        assert!(steps.unwrap_or_else(|difference| panic!("{difference}")) > 100);
    }
}

#[test]
fn the_portable_backend_makes_the_same_bytes() {
    replays(portable());
}

#[test]
fn the_fast_backend_makes_the_same_bytes() {
    replays(fast());
}

#[test]
fn every_conversation_has_a_transcript_of_its_own() {
    let folder = CONVERSATIONS[0].path().parent().unwrap().to_owned();
    let there = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let wanted = CONVERSATIONS.iter().map(Conversation::path);
    assert_eq!(there.collect::<BTreeSet<_>>(), wanted.collect::<BTreeSet<_>>());
    for conversation in CONVERSATIONS {
        assert!(text(conversation).len() < LONGEST, "{} is too long", conversation.name);
    }
}

/// The kinds of records are pinned in files of their own (`vectors/README.md`).
#[test]
fn what_devices_store_is_of_a_pinned_kind() {
    let folder = CONVERSATIONS[0].path().parent().unwrap().parent().unwrap().to_owned();
    let read = |file: &str| {
        let text = fs::read_to_string(folder.join(file)).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let (ours, of_groups) = (read("records-client.json"), read("records-mls.json"));
    let lists = [&ours["records"], &of_groups["sets"]].map(|list| list.as_array().unwrap());
    let names = lists.into_iter().flatten().map(|vector| vector["name"].as_str().unwrap());
    let words = names.flat_map(|name| name.split([' ', ',', ':']));
    let kinds: Vec<_> = words.filter(|word| word.contains('/')).collect();
    let mut seen = BTreeSet::new();
    for conversation in CONVERSATIONS {
        let whole: Value = serde_json::from_str(&text(conversation)).unwrap();
        for step in whole["steps"].as_array().unwrap() {
            let ops = step["out"]["persist"]["ops"].as_array();
            for key in ops.into_iter().flatten().filter_map(|op| op["put"].as_str()) {
                let key = HEXLOWER.decode(key.as_bytes()).unwrap();
                let kind = kinds.iter().find(|kind| key.starts_with(kind.as_bytes()));
                let known = kind.unwrap_or_else(|| panic!("not pinned: {}", key.escape_ascii()));
                seen.insert(*known);
            }
        }
    }
    assert!(seen.len() > 12, "{seen:?}");
}

#[test]
fn a_byte_of_difference_is_named() {
    let conversation = &CONVERSATIONS[0];
    let text = text(conversation);
    // The last thing that anybody sends.
    let at = text.rfind("\"bytes\":\"").unwrap() + 9;
    let mut spoilt = text.clone().into_bytes();
    spoilt[at + 21] = if spoilt[at + 21] == b'0' { b'1' } else { b'0' };
    let why = replay(conversation, &String::from_utf8(spoilt).unwrap(), portable()).unwrap_err();
    let step = text[..at].lines().filter(|line| line.starts_with("{\"")).count() - 1;
    let place = format!("vectors/qpc/transcripts/register.json: step {step} (");
    assert!(why.starts_with(&place), "{why}");
    assert!(why.contains("the output.send.bytes differs from byte 10 on"), "{why}");
    assert!(why.contains(BLESS), "{why}");
}

#[test]
#[ignore = "rewrites vectors/qpc/transcripts"]
fn bless_the_transcripts() {
    fs::create_dir_all(CONVERSATIONS[0].path().parent().unwrap()).unwrap();
    for conversation in CONVERSATIONS {
        let text = record(conversation);
        fs::write(conversation.path(), &text).unwrap();
        for backend in [portable(), fast()] {
            replay(conversation, &text, backend)
                .unwrap_or_else(|difference| panic!("{difference}"));
        }
    }
}
