//! `qpc-server`: the reference server of quicprochat.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    qpc_server::main(std::env::args_os())
}
