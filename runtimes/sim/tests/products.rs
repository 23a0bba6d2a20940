//! What is insecure here stays here: no program that people run is built with this crate.

#![expect(clippy::unwrap_used, reason = "in a test a failure is a panic")]

use std::collections::BTreeSet;
use std::process::Command;

fn tree(package: &str, edges: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "-p",
            package,
            "-e",
            edges,
            "--prefix",
            "none",
            "--frozen",
            "--all-features",
        ])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
}

#[test]
fn nothing_that_people_run_is_built_with_the_simulation() {
    for package in ["qpc-protocol", "qpc-smol", "qpc-server", "qpc-client"] {
        let tree = tree(package, "normal,build");
        assert!(tree.contains("openmls"), "{package}: the question was not understood");
        assert!(!tree.contains("qpc-sim"), "{package} is built with qpc-sim");
    }
    // It would be seen.
    assert!(tree("qpc-protocol", "normal,build,dev").contains("qpc-sim"));
}
