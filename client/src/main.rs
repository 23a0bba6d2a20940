//! `qpc`: encrypted group messaging on the command line.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    qpc_client::main(std::env::args_os())
}
