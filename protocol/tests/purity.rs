//! The core stays pure: nothing in its dependencies or its text reaches for the world around it. Clippy refuses the
//! calls (`protocol/clippy.toml`); this looks from the other side, where an `allow` cannot hide anything.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this test reads the sources and asks cargo"
)]
#![expect(clippy::unwrap_used, reason = "in a test a failure is a panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runtimes, sockets, TLS, databases, terminals, what asks the system for its clock, and OpenMLS's own providers.
const BANNED_CRATES: &[&str] = &[
    "async-executor",
    "async-fs",
    "async-io",
    "async-net",
    "async-std",
    "blocking",
    "chrono",
    "clap",
    "console",
    "crossterm",
    "diesel",
    "directories",
    "embassy-executor",
    "embassy-net",
    "embassy-time",
    "futures",
    "futures-executor",
    "futures-util",
    "hyper",
    "indicatif",
    "libsqlite3-sys",
    "log4rs",
    "mio",
    "monoio",
    "native-tls",
    "openmls_basic_credential",
    "openmls_libcrux_crypto",
    "openmls_memory_storage",
    "openmls_rust_crypto",
    "openssl",
    "openssl-sys",
    "polling",
    "postgres",
    "quinn",
    "quinn-proto",
    "quinn-udp",
    "ratatui",
    "redb",
    "redis",
    "reqwest",
    "ring",
    "rocksdb",
    "rpassword",
    "rusqlite",
    "rustls",
    "rustyline",
    "sled",
    "smol",
    "socket2",
    "sqlx",
    "tempfile",
    "termion",
    "time",
    "tokio",
    "tracing-subscriber",
    "ureq",
];

/// The one file that shares work among threads, as OpenMLS itself does: what comes out does not tell.
const SHARES_WORK: (&str, &str) = ("protocol/src/mls/parallel.rs", "rayon");

/// What the core's text must not say outside comments. The generated code is not excepted.
const BANNED_WORDS: &[&str] = &[
    "SystemTime",
    "Instant::",
    "std::thread",
    "thread::spawn",
    "std::net",
    "std::fs",
    "std::io",
    "std::env",
    "std::process",
    "HashMap",
    "HashSet",
    "RandomState",
    "Mutex",
    "RwLock",
    "Condvar",
    "mpsc",
    "OsRng",
    "SysRng",
    "thread_rng",
    "getrandom",
    "rand::random",
    "rngs::",
    "rayon",
    "tokio",
    "async ",
    ".await",
    "println!",
    "eprintln!",
    "dbg!",
    "unsafe ",
    "static mut",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn tree(features: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "-p", "qpc-protocol", "-e", "normal", "--prefix", "none", "--frozen"])
        .args(features)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
}

#[test]
fn no_dependency_runs_connects_stores_or_draws() {
    for features in [&[][..], &["--all-features"]] {
        let tree = tree(features);
        // The question was understood: what must be there is there.
        for known in ["qpc-protocol", "openmls", "ed25519-dalek"] {
            assert!(tree.contains(known), "{known} is missing from {tree:?}");
        }
        assert_eq!(tree.contains("aws-lc-rs"), !features.is_empty());
        let found: Vec<_> = BANNED_CRATES.iter().filter(|name| tree.contains(**name)).collect();
        assert!(found.is_empty(), "the core depends on {found:?} with {features:?}");
    }
}

/// Every line of code under a folder, tests aside, with its place; comments are cut off.
fn code(folder: &Path, into: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            code(&path, into);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            let text = fs::read_to_string(&path).unwrap();
            for (number, line) in text.lines().enumerate() {
                let line = line.split("//").next().unwrap_or_default();
                into.push((format!("{}:{}", path.display(), number + 1), line.to_owned()));
            }
        }
    }
}

fn banned(line: &str) -> Option<&'static str> {
    BANNED_WORDS.iter().copied().find(|word| line.contains(word))
}

#[test]
fn the_text_names_nothing_of_the_world_outside() {
    let mut lines = Vec::new();
    code(&root().join("protocol/src"), &mut lines);
    assert!(lines.len() > 10_000, "the sources were not found");
    let found: Vec<_> = lines
        .iter()
        .filter_map(|(place, line)| banned(line).map(|word| (place, word)))
        .filter(|(place, word)| !place.contains(SHARES_WORK.0) || *word != SHARES_WORK.1)
        .map(|(place, word)| format!("{place}: {word}"))
        .collect();
    assert!(found.is_empty(), "{found:#?}");
    assert_eq!(banned("let now = std::time::SystemTime::now();"), Some("SystemTime"));
}

/// The simulated world stands in for two symbols of the C library. (One of its tests counts allocations.)
const WITH_UNSAFE: (&str, &str) = ("runtimes/sim", "src/takeover.rs");

#[test]
fn every_crate_but_one_forbids_unsafe_code() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("\nunsafe_code = \"forbid\"\n"));
    let members = manifest.lines().find(|line| line.starts_with("members = [")).unwrap();
    let members: Vec<_> = members.split('"').skip(1).step_by(2).collect();
    assert!(members.contains(&"protocol") && members.contains(&"server"));
    let (sim, file) = WITH_UNSAFE;
    let mut lines = Vec::new();
    code(&root().join(sim), &mut lines);
    let elsewhere =
        lines.iter().find(|(place, line)| line.contains("unsafe ") && !place.contains(file));
    assert_eq!(elsewhere, None);
    for member in members.into_iter().filter(|member| *member != sim) {
        let manifest = fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{member} has lints of its own");
    }
}

/// All that an embedder has to do is to be seen at a glance.
#[test]
fn the_smallest_runtime_stays_small() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/one_link.rs");
    assert!(fs::read_to_string(example).unwrap().lines().count() < 200);
}
