//! A server that is killed at each step of its very first start: the next start finds nothing in its way.
#![cfg(debug_assertions)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What a fresh server makes, each before and after: certificate, database key, secrets; then it opens its store.
const STEPS: u64 = 7;

/// Starts a server that dies at that moment, if there is one; returns the line that it says when it listens.
fn start(data: &Path, dies_at: Option<u64>) -> (Child, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qpc-server"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("QPC_")) {
        command.env_remove(name);
    }
    command
        .args(["--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data)
        .envs(dies_at.map(|at| ("QPC_KILL_AT", at.to_string())))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line)
}

fn end(mut child: Child) -> String {
    drop(child.kill());
    child.wait().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    said
}

#[test]
fn a_server_killed_at_any_step_of_its_first_start_starts_again() {
    let mut step = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let (child, first) = start(&data, Some(step));
        end(child);
        let (child, line) = start(&data, None);
        let said = end(child);
        assert!(line.starts_with("qpc://"), "step {step}: {said}");
        if !first.is_empty() {
            // It listened before that moment came: it is the same server after it.
            let pin = |line: &str| line.trim_end().split_once('#').unwrap().1.to_owned();
            assert_eq!(pin(&first), pin(&line));
            break;
        }
        step += 1;
    }
    assert!(step >= STEPS, "{step}");
}
