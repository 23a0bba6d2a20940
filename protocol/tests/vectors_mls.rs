//! The MLS working group's test vectors through our provider, on every backend that is built in. Origin:
//! `vectors/README.md`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod mls_wg;

use std::time::Duration;

use qpc_protocol::crypto::{Backend, portable};
use qpc_protocol::env::{Now, UnixMillis};
use qpc_sim::takeover;
use serde_json::Value;

use self::mls_wg::{Run, Tally, labels, passive, run_all};

fn backends() -> Vec<Backend> {
    vec![
        portable(),
        #[cfg(feature = "fast")]
        qpc_protocol::crypto::fast(),
    ]
}

/// All cases hold, none is skipped, and there are as many as expected.
fn holds(file: &str, expected: usize, run: Run) {
    let cases: Value = serde_json::from_str(file).unwrap();
    for backend in backends() {
        let tally = run_all(backend, &cases, run);
        assert_eq!(tally, Tally { held: expected, ..Tally::default() }, "{}", backend.name());
    }
}

#[test]
fn crypto_basics() {
    holds(include_str!("../../vectors/mls/crypto-basics.json"), 2, labels::basics);
}

#[test]
fn key_schedule() {
    holds(include_str!("../../vectors/mls/key-schedule.json"), 2, labels::key_schedule);
}

#[test]
fn welcome() {
    holds(include_str!("../../vectors/mls/welcome.json"), 2, passive::open_welcome);
}

#[test]
fn passive_client_joins() {
    holds(include_str!("../../vectors/mls/passive-client-welcome.json"), 8, passive::follow);
}

#[test]
fn passive_client_follows() {
    let file = include_str!("../../vectors/mls/passive-client-handling-commit.json");
    holds(file, 13, passive::follow);
}

/// A group that lives long: proposals of every kind in fifty epochs. OpenMLS holds the key packages in it against the
/// system's clock, which has to be that of the time when they were made.
#[cfg(target_os = "linux")]
#[test]
fn passive_client_follows_a_random_group() {
    let file = include_str!("../../vectors/mls/passive-client-random.json");
    in_2023(|| holds(file, 1, passive::follow));
}

/// Packages of the published groups that are compared with a clock are good from March 2023 on, for a year.
fn in_2023<T: Send>(tests: impl FnOnce() -> T + Send) -> T {
    let now = Now { mono: Duration::ZERO, wall: UnixMillis(1_700_000_000_000) };
    takeover::run(1, || {
        takeover::stand_at(now);
        tests()
    })
}

/// A runner that cannot fail would show nothing: every published value of every case is changed in one place, and
/// none then holds. Another suite is counted as skipped.
#[test]
fn a_changed_case_does_not_hold() {
    let file = include_str!("../../vectors/mls/passive-client-handling-commit.json");
    let mut cases: Value = serde_json::from_str(file).unwrap();
    let flip = |value: &mut Value| {
        let text = value.as_str().unwrap();
        let last = if text.ends_with('0') { '1' } else { '0' };
        *value = format!("{}{last}", &text[..text.len() - 1]).into();
    };
    let case = &mut cases.as_array_mut().unwrap();
    case.truncate(8);
    flip(&mut case[0]["initial_epoch_authenticator"]);
    flip(&mut case[1]["epochs"][0]["epoch_authenticator"]);
    flip(&mut case[2]["epochs"][1]["commit"]);
    flip(&mut case[3]["init_priv"]);
    flip(&mut case[4]["welcome"]);
    flip(&mut case[5]["external_psks"][0]["psk"]);
    flip(&mut case[6]["encryption_priv"]);
    case[7]["cipher_suite"] = 2.into();
    let tally = run_all(portable(), &cases, passive::follow);
    assert_eq!((tally.held, tally.skipped, tally.failed.len()), (0, 1, 7), "{tally:?}");
}

/// Whole files of these kinds, which need not be in the repository: `QPC_MLS_VECTORS` names their folder.
#[test]
#[ignore = "for files from elsewhere: QPC_MLS_VECTORS=folder cargo test --test vectors_mls -- --ignored --nocapture"]
#[expect(clippy::disallowed_methods, reason = "reads what it is pointed to")]
fn files_from_elsewhere() {
    let folder = std::env::var_os("QPC_MLS_VECTORS").expect("QPC_MLS_VECTORS names a folder");
    let (mut files, mut failed) = (0, 0);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let run: Run = match name.as_str() {
            "crypto-basics.json" => labels::basics,
            "key-schedule.json" => labels::key_schedule,
            "welcome.json" => passive::open_welcome,
            name if name.starts_with("passive-client-") => passive::follow,
            _ => continue,
        };
        let cases: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for backend in backends() {
            let tally = in_2023(|| run_all(backend, &cases, run));
            println!("{name}, {}: {tally:?}", backend.name());
            failed += tally.failed.len();
            assert!(tally.held + tally.failed.len() > 0, "{name}: every case was skipped");
        }
        files += 1;
    }
    assert!(files > 0, "no file of a known name");
    assert_eq!(failed, 0);
}
