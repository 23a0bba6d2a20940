//! The command line on real processes: a server, homes, pipes and signals.

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test says so by failing"
)]

mod authority;
#[cfg(debug_assertions)]
mod away;
mod direct;
mod disk;
mod homes;
mod kill;
mod lifecycle;
mod many;
mod rejoin;
mod search;
mod secrets;
#[cfg(debug_assertions)]
mod steps;
mod support;
mod trouble;
mod trust;
mod verbs;
