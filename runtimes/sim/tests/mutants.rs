//! The faults that `.ci/mutants` plants stay plantable: each patch fits the tree as it is, is told of in
//! docs/simulation.md, and the world that catches it keeps every promise without it.

#![allow(clippy::unwrap_used, reason = "in a test a failure is a panic")]

use std::fs;
use std::path::{Path, PathBuf};

use qpc_sim::run;
use qpc_sim::scenario::Scenario;

/// How many faults there are at least.
const FAULTS: usize = 20;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The files of the faults that end like this: their names and texts.
fn of_faults(end: &str) -> Vec<(String, String)> {
    let files = fs::read_dir(root().join("runtimes/sim/mutants")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let mut files: Vec<_> = files
        .filter(|file| file.extension().is_some_and(|extension| extension == end))
        .map(|file| {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(&file).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// The pieces of a patch: the file that each is of, and the lines that it has to find there.
fn pieces(patch: &str) -> Vec<(&str, String)> {
    let mut pieces: Vec<(&str, String)> = Vec::new();
    let mut file = "";
    for line in patch.lines() {
        if let Some(name) = line.strip_prefix("--- a/") {
            file = name;
        } else if line.starts_with("@@ ") {
            pieces.push((file, String::new()));
        } else if let Some((_, old)) = pieces.last_mut()
            && !line.starts_with('+')
        {
            old.push_str(line.get(1..).unwrap_or_default());
            old.push('\n');
        }
    }
    pieces
}

#[test]
fn every_fault_can_be_planted_and_is_told_of() {
    let told = fs::read_to_string(root().join("docs/simulation.md")).unwrap();
    let patches = of_faults("patch");
    assert!(patches.len() >= FAULTS, "{} faults", patches.len());
    for (name, patch) in &patches {
        let mut lines = patch.lines();
        let (what, tried) = (lines.next().unwrap(), lines.next().unwrap().strip_prefix("try: "));
        let row = format!("| `{}`: {what} | ", name.trim_end_matches(".patch"));
        assert!(told.contains(&row), "not in docs/simulation.md: {row}");
        if let Some(scenario) = tried {
            let there = root().join("runtimes/sim/mutants").join(scenario).exists();
            assert!(there, "{name}: no {scenario}");
        }
        let pieces = pieces(patch);
        assert!(!pieces.is_empty(), "{name}: changes nothing");
        for (file, old) in pieces {
            let text = fs::read_to_string(root().join(file)).unwrap();
            assert_eq!(text.matches(&old).count(), 1, "{name} does not fit {file}:\n{old}");
        }
    }
}

#[test]
fn the_worlds_that_catch_faults_are_sound_without_them() {
    for (name, text) in of_faults("txt") {
        let scenario: Scenario = text.parse().unwrap();
        let report = run(&scenario);
        assert!(report.failures.is_empty(), "{name}: {report}");
    }
}
