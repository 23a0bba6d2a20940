//! The command line on real processes: a server, homes, pipes and signals.

mod homes;
mod kill;
mod many;
mod support;
mod trouble;
mod verbs;
