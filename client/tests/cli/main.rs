//! The command line on real processes: a server, homes, pipes and signals.

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so by failing"
)]

mod homes;
mod many;
mod support;
mod trouble;
mod verbs;
