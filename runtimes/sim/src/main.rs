//! `qpc-sim`: runs, replays and minimises worlds.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    qpc_sim::cli::main(std::env::args_os())
}
