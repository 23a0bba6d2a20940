//! The timing comparison: its report is whole, and a server that answers unknown users in another time is found out.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use qpc_benches::Error;
use qpc_benches::account::{Answer, Caller};
use qpc_benches::machine::{BINDING, Floor, InMemory};
use qpc_benches::timing::{self, Limits, Row};
use qpc_benches::window::Bounds;
use qpc_protocol::env::Entropy;
use qpc_protocol::limits::LOOKUP_TIME;
use qpc_protocol::wire::message::{Request, Username};

fn timed(arguments: &[&str]) -> (serde_json::Value, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_qpc-load"))
        .args(["timing", "--json", "--seconds", "60"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(!output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = serde_json::from_slice(&output.stdout).unwrap();
    (report, output.status.code())
}

fn whole(report: &serde_json::Value, count: u64) {
    assert_eq!(report["mode"], "timing");
    let rows = report["rows"].as_array().unwrap();
    let calls: Vec<_> = rows.iter().map(|row| row["call"].as_str().unwrap()).collect();
    let starts = ["login start"; 3];
    assert_eq!(calls, [&starts[..], &["login finish, made up", "account lookup"]].concat());
    for row in rows {
        for side in ["left", "right"] {
            assert!(
                row[side].as_str().unwrap().ends_with("user")
                    || row[side].as_str().unwrap().ends_with("password")
            );
            assert!(row[format!("{side}_count")].as_u64().unwrap() > count / 4);
            assert!(row[format!("{side}_p50_ns")].as_f64().unwrap() > 0.0);
        }
        assert!(row["t"].is_f64() && row["median_ratio"].is_f64());
        assert!(row["would_find_ns"].as_f64().unwrap() > 0.0);
        assert!(!row["verdict"].as_str().unwrap().is_empty());
    }
    let earliest = rows[4]["earliest_ns"].as_f64().unwrap();
    assert!(earliest >= LOOKUP_TIME.as_nanos() as f64, "{earliest}");
    let told = rows.iter().any(|row| row["told_apart"] == true);
    assert_eq!(report["told_apart"], told);
}

/// A threshold of the whole range of t: a slow machine must not fail a test of the report.
const NEVER: &str = "1e300";

#[test]
fn the_report_is_whole_and_its_code_says_what_it_says() {
    let (report, code) = timed(&["--count", "40", "--threshold", NEVER]);
    whole(&report, 40);
    assert_eq!((report["over"].as_str(), code), (Some("memory"), Some(0)));
    assert!(report["verdict"].as_str().unwrap().starts_with("not told apart"));

    let (report, code) = timed(&["--count", "40", "--threshold", "0.000001", "--least-ns", "0"]);
    whole(&report, 40);
    assert_eq!(code, Some(1));
    assert!(report["verdict"].as_str().unwrap().starts_with("told apart"));
}

#[test]
fn a_real_server_is_timed_over_quic() {
    let (report, code) = timed(&["--quic", "--count", "40", "--threshold", NEVER]);
    whole(&report, 40);
    assert_eq!((report["over"].as_str(), code), (Some("quic"), Some(0)));
}

#[test]
fn too_little_time_is_an_error_and_not_a_verdict() {
    let output = Command::new(env!("CARGO_BIN_EXE_qpc-load"))
        .args(["timing", "--seconds", "0"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
}

/// A server whose answers seem to take a time that does not depend on this machine.
struct Planted {
    server: InMemory,
    registered: BTreeSet<Username>,
    noise: Entropy,
    /// Added where a name is not registered.
    login: Duration,
    /// From the floor of lookups.
    lookup: Duration,
}

impl Caller for Planted {
    fn ask(&mut self, request: Request) -> Result<(Answer, Duration), Error> {
        let usual = Duration::from_nanos(100_000 + self.noise.u64() % 20_000);
        let took = match &request {
            Request::RegisterFinish { username, .. } => {
                self.registered.insert(username.clone());
                usual
            }
            Request::LoginStart { username, .. } if !self.registered.contains(username) => {
                usual + self.login
            }
            Request::AccountLookup { .. } => LOOKUP_TIME + usual - self.lookup,
            _ => usual,
        };
        Ok((self.server.ask(request)?.0, took))
    }
}

fn planted(login: Duration, lookup: Duration) -> Vec<Row> {
    let server = InMemory::start(Floor::Skip).unwrap();
    let wall = server.wall();
    let noise = Entropy::from_seed([6; 32]);
    let mut caller = Planted { server, registered: BTreeSet::new(), noise, login, lookup };
    let bounds = Bounds { count: 150, time: Duration::from_secs(600) };
    timing::measure(&mut caller, wall, BINDING, bounds, bounds).unwrap()
}

fn told(rows: &[Row]) -> Vec<bool> {
    rows.iter().map(|row| row.told_apart(Limits::default())).collect()
}

#[test]
fn a_planted_difference_is_found_where_it_is() {
    let even = planted(Duration::ZERO, Duration::ZERO);
    assert_eq!(told(&even), [false; 5], "{even:#?}");

    let uneven = planted(Duration::from_micros(6), Duration::ZERO);
    assert_eq!(told(&uneven), [true, true, false, false, false], "{uneven:#?}");
    assert!(uneven[0].verdict(Limits::default()).contains("wrong password is faster"));

    // As sure, but less than what counts.
    let limits = Limits { least: 10_000.0, ..Limits::default() };
    assert!(!uneven[0].told_apart(limits));
    assert!(uneven[0].verdict(limits).ends_with("and 10000 would count"));

    let early = planted(Duration::ZERO, Duration::from_micros(110));
    assert_eq!(told(&early), [false, false, false, false, true], "{early:#?}");
    assert_eq!(early[4].verdict(Limits::default()), "answered before the floor time");
}
