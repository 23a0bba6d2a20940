//! The schema names every code that crosses the wire, as the code has them.

use qpc_protocol::error::{CloseCode, ErrorCode};

const SCHEMA: &str = include_str!("../../schemas/qpc.capnp");

fn listed(number: u32, name: &str) -> bool {
    SCHEMA.lines().any(|line| {
        let mut words = line.trim_start_matches('#').split_whitespace();
        words.next() == Some(number.to_string().as_str()) && words.next() == Some(name)
    })
}

#[test]
fn every_error_code_is_in_the_schema() {
    for code in ErrorCode::ALL {
        assert!(listed(code.number().into(), code.name()), "{} {}", code.number(), code.name());
        assert!(SCHEMA.contains(code.text()), "{}: {}", code.name(), code.text());
    }
    assert!(!listed(1, "Something"));
}

#[test]
fn every_close_code_is_in_the_schema() {
    for (code, name) in [
        (CloseCode::DONE, "DONE"),
        (CloseCode::VERSION, "VERSION"),
        (CloseCode::TOO_LARGE, "TOO_LARGE"),
        (CloseCode::MALFORMED, "MALFORMED"),
        (CloseCode::UNEXPECTED, "UNEXPECTED"),
        (CloseCode::TOO_SLOW, "TOO_SLOW"),
        (CloseCode::OVER_LIMIT, "OVER_LIMIT"),
        (CloseCode::SHUTDOWN, "SHUTDOWN"),
        (CloseCode::FULL, "FULL"),
        (CloseCode::SESSION_ENDED, "SESSION_ENDED"),
        (CloseCode::INTERNAL, "INTERNAL"),
    ] {
        assert!(listed(code.0, name), "{} {name}", code.0);
    }
}
