//! Worlds of many seeds, each twice: every promise is kept, and the same seed gives the same outputs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failure is a panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use qpc_protocol::crypto::fast;
use qpc_sim::scenario::{Crypto, Scenario};
use qpc_sim::{Report, run, run_here, run_over, takeover};

/// Operations of each world after its beginning.
const OPERATIONS: usize = 200;

/// How many worlds.
const SEEDS: u64 = 308;

fn of(seed: u64) -> Crypto {
    // Most worlds have primitives that cost nothing: what is looked for is not in them.
    if seed.is_multiple_of(10) { Crypto::Portable } else { Crypto::Insecure }
}

fn wrong(seed: u64) -> Option<String> {
    let scenario = Scenario::draw(seed, OPERATIONS, of(seed));
    let first = run(&scenario);
    if !first.failures.is_empty() {
        return Some(format!("{first}\n  again: qpc-sim replay {} --trace", arguments(seed)));
    }
    let second = run(&scenario);
    (first != second).then(|| format!("not the same twice: {first}\n{second}"))
}

fn arguments(seed: u64) -> String {
    let insecure = if of(seed) == Crypto::Insecure { " --insecure" } else { "" };
    format!("--seed {seed} --steps {OPERATIONS}{insecure}")
}

#[test]
fn three_hundred_worlds_keep_every_promise_twice() {
    let (next, found) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        return;
                    }
                    found.lock().unwrap().extend(wrong(seed));
                }
            });
        }
    });
    let found = found.into_inner().unwrap();
    assert!(found.is_empty(), "{} worlds:\n{}", found.len(), found.join("\n"));
}

/// What the world found once, made small: `tests/failures/*.txt`.
#[test]
fn what_was_found_stays_mended() {
    let kept = kept("failures");
    assert!(!kept.is_empty());
    let broken: Vec<String> = kept
        .into_iter()
        .map(|(file, scenario)| (file.clone(), twice(&file, &scenario)))
        .filter(|(_, report)| !report.failures.is_empty())
        .map(|(file, report)| format!("{file}: {report}"))
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// What it found and nobody has mended yet, `tests/open/*.txt`, can be replayed, and is the same each time.
#[test]
fn what_is_open_can_be_replayed() {
    for (file, scenario) in kept("open") {
        assert!(!scenario.steps.is_empty(), "{file}");
        twice(&file, &scenario);
    }
}

/// What came of a scenario, twice.
fn twice(file: &str, scenario: &Scenario) -> Report {
    let first = run(scenario);
    assert_eq!(first, run(scenario), "{file}: not the same twice");
    first
}

/// Drawn worlds over both backends, and with as many threads for OpenMLS as one may have: every output is the same.
#[test]
fn drawn_worlds_are_the_same_over_both_backends_and_on_any_threads() {
    for seed in [10, 21, 32] {
        let scenario = Scenario::draw(seed, 60, Crypto::Portable);
        let first = run(&scenario);
        assert_eq!(first, run_over(fast(), &scenario), "seed {seed}: the other backend");
        for threads in [1, 2] {
            assert_eq!(first, on(threads, &scenario), "seed {seed}: {threads} threads");
        }
    }
}

/// In a pool of so many threads, all of them taken over.
fn on(threads: usize, scenario: &Scenario) -> Report {
    let seed = scenario.seed;
    let pool = rayon::ThreadPoolBuilder::new();
    let pool = pool.num_threads(threads).stack_size(16 << 20);
    let pool = pool.start_handler(move |_| takeover::enter(seed)).build().unwrap();
    pool.install(|| run_here(fast(), scenario))
}

/// The scenarios of a folder; none if there is no such folder.
fn kept(folder: &str) -> Vec<(String, Scenario)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let Ok(files) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    let read = |file: &PathBuf| {
        let name = file.display().to_string();
        let parsed = fs::read_to_string(file).unwrap().parse();
        (name.clone(), parsed.unwrap_or_else(|error| panic!("{name}: {error:?}")))
    };
    files.iter().map(read).collect()
}
