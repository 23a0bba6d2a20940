//! quicprochat in a simulated world: the same client and server machines as everywhere, over disks, links and clocks
//! that are values, everything from one seed.

mod actors;
pub mod cli;
pub mod crash;
pub mod fuzz;
pub mod insecure;
mod minimise;
mod oracle;
pub mod recorder;
mod run;
pub mod scenario;
pub mod takeover;
mod trace;
pub mod transcript;
pub mod world;

pub use actors::{OF_MEMBERS, OF_SERVERS, Way};
pub use minimise::{Minimised, minimise};
pub use oracle::Failure;
pub use run::{Report, run, run_here, run_over, run_traced};
pub use trace::Trace;
