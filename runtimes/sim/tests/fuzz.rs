//! What the fuzzers run, in ordinary tests: every input of the committed corpora, where each of them begins, and bytes
//! drawn by lot. A file that once was a finding stays in its corpus.

#![expect(clippy::unwrap_used, reason = "in a test a failure is a panic")]

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::*;
use qpc_sim::fuzz::{TARGETS, Target, run, seeds};

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// Which of these inputs of a target are findings.
fn findings(target: &Target, inputs: impl Iterator<Item = (String, Vec<u8>)>) -> Vec<String> {
    let found = inputs.filter(|(_, input)| catch_unwind(|| (target.run)(input)).is_err());
    found.map(|(name, _)| format!("{}: {name}", target.name)).collect()
}

#[test]
fn the_corpora_find_nothing() {
    for target in TARGETS {
        let corpus = files(&fuzz().join("corpus").join(target.name));
        assert!((10..=220).contains(&corpus.len()), "{}: {} files", target.name, corpus.len());
        let inputs = corpus.iter().map(|path| {
            let input = fs::read(path).unwrap();
            assert!(input.len() <= 4096, "{} is too long", path.display());
            (path.display().to_string(), input)
        });
        let found = findings(target, inputs);
        assert!(found.is_empty(), "{found:#?}");
    }
}

#[test]
fn every_target_has_a_program_and_a_corpus() {
    let names: BTreeSet<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    let stems = |folder: &str| -> BTreeSet<String> {
        let stem = |path: PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
        files(&fuzz().join(folder)).into_iter().map(stem).collect()
    };
    assert_eq!(stems("fuzz_targets"), names);
    assert_eq!(stems("corpus"), names);
    for name in names {
        let program = fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("run(\"{name}\", data)")), "{name} runs another target");
    }
}

/// All but whole worlds, which take longer.
fn small() -> Vec<&'static Target> {
    TARGETS.iter().filter(|target| target.name != "world").collect()
}

/// One of every few: the corpora hold what is left of them.
#[test]
fn where_the_corpora_begin_nothing_is_found() {
    for target in small() {
        let some = seeds(target.name).into_iter().step_by(5);
        let inputs = some.map(|seed| (format!("{seed:?}"), seed));
        let found = findings(target, inputs);
        assert!(found.is_empty(), "{found:#?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        rng_seed: proptest::test_runner::RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn drawn_bytes_find_nothing(which in 0..small().len(), bytes in vec(any::<u8>(), 0..400)) {
        run(small()[which].name, &bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        rng_seed: proptest::test_runner::RngSeed::Fixed(2),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// The same decoder that a fuzzer's bytes go through.
    #[test]
    fn worlds_of_drawn_bytes_keep_every_promise(bytes in vec(any::<u8>(), 0..1500)) {
        run("world", &bytes);
    }
}
