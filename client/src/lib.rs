//! `qpc`, the command line of quicprochat: one home directory is one device.
//!
//! The binary is [`main`] and nothing else.
#![forbid(unsafe_code)]

mod cli;
mod demo;
mod home;
mod output;
mod password;
mod problem;
mod session;
mod store;
mod warning;

pub use cli::main;
