//! Whole conversations, byte for byte: `vectors/qpc/transcripts`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failure is a panic")]

use std::collections::BTreeSet;
use std::fs;

use qpc_protocol::crypto::{Backend, fast, portable};
use qpc_sim::transcript::{BLESS, CONVERSATIONS, Conversation, record, replay};

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
