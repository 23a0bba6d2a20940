//! The pages that name tests name what is there.

#![expect(clippy::disallowed_methods, reason = "this test reads the sources")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "in a test a failure is a panic")]

use std::fs;
use std::path::Path;

/// The tests that a page names, as `path::function` in backquotes, with the line that each stands in.
fn named(page: &str) -> Vec<(String, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join(page)).unwrap();
    let mut named = Vec::new();
    for line in text.lines() {
        for quoted in line.split('`').skip(1).step_by(2) {
            if let Some((path, function)) = quoted.split_once(".rs::") {
                named.push((format!("{path}.rs"), function.to_owned(), line.to_owned()));
            }
        }
    }
    for (path, function, _) in &named {
        let source = fs::read_to_string(root.join(path))
            .unwrap_or_else(|error| panic!("{page} names {path}: {error}"));
        assert!(source.contains(&format!("fn {function}(")), "{page}: no {function} in {path}");
    }
    named
}

#[test]
fn every_regression_has_its_test() {
    let named = named("docs/regressions.md");
    for row in 1..=30 {
        let (number, prefix) = (format!("| {row} |"), format!("regression_{row:02}_"));
        let has = |(_, function, line): &(String, String, String)| {
            line.starts_with(&number) && function.starts_with(&prefix)
        };
        assert!(named.iter().any(has), "row {row} has no test called {prefix}…");
    }
}

/// The rows of each section of the page, so that one which vanishes is missed.
const GUARDS: [(&str, usize); 3] =
    [("Epochs, suites, senders", 25), ("Who may do what", 17), ("One log for all", 11)];

#[test]
fn every_guard_has_its_test() {
    named("docs/guards.md");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/guards.md")).unwrap();
    let sections: Vec<_> = page.split("\n## ").skip(1).collect();
    assert_eq!(sections.len(), GUARDS.len());
    for (section, (title, rows)) in sections.iter().zip(GUARDS) {
        assert_eq!(section.lines().next(), Some(title));
        let of: Vec<_> = section.lines().filter(|line| line.starts_with('|')).skip(2).collect();
        assert_eq!(of.len(), rows, "rows of \"{title}\"");
        for row in of {
            assert!(row.contains(".rs::"), "no test: {row}");
        }
    }
}
