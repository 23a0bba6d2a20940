//! What a fuzzer runs, as plain functions of its bytes: a target each (`fuzz/` at the top of the repository calls them,
//! and so do ordinary tests). Any bytes are an input; a finding is a panic.
//!
//! Most targets read their bytes as a script over what was said in real conversations: which of their frames comes
//! next, and what becomes of it. So a few bytes reach deep, and whatever a fuzzer finds is a handful of edits. The
//! backend is [`insecure::open`](crate::insecure::open).

#![allow(clippy::expect_used, clippy::panic, reason = "a finding is a panic")]

mod act;
mod bend;
mod bundle;
mod client;
mod frame;
mod join;
mod mls;
mod opaque;
mod past;
mod restore;
mod script;
mod seeds;
mod server;
mod stage;
#[cfg(test)]
mod tests;
mod world;

pub use seeds::seeds;

/// A target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of the program in `fuzz/fuzz_targets`, and of its corpus in `fuzz/corpus`.
    pub name: &'static str,
    /// One execution.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "frame", run: frame::frame },
    Target { name: "server", run: server::server },
    Target { name: "client", run: client::client },
    Target { name: "mls", run: mls::mls },
    Target { name: "join", run: join::join },
    Target { name: "bundle", run: bundle::bundle },
    Target { name: "opaque", run: opaque::opaque },
    Target { name: "restore", run: restore::restore },
    Target { name: "world", run: world::world },
];

/// Makes what all executions begin with, so that none of them is slow because it is the first: on a busy machine that
/// would be a finding.
pub fn prepare() {
    past::past();
}

/// Runs the target of that name.
///
/// # Panics
/// If it finds something, and if there is none of that name.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a target of that name").run)(data);
}
