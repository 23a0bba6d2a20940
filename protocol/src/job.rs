//! Work above about a millisecond, as a value: the runtime runs it where it likes and hands the result back
//! with [`Input::Computed`](crate::io::Input::Computed). Running it inline is always allowed.

use crate::client::job::{ClientJob, ClientJobOutput};
use crate::server::job::{ServerJob, ServerJobOutput};

/// A piece of work that needs nothing but itself.
#[derive(Debug)]
pub enum Job {
    /// For a client's machine.
    Client(ClientJob),
    /// For a server's machine.
    Server(ServerJob),
}

/// What a job came to.
#[derive(Debug)]
pub enum JobOutput {
    /// For the client's machine that asked.
    Client(ClientJobOutput),
    /// For the server's machine that asked.
    Server(ServerJobOutput),
}

impl Job {
    /// Does the work. Pure: no clock, no randomness but what the job brought along.
    pub fn run(self) -> JobOutput {
        match self {
            Self::Client(job) => JobOutput::Client(job.run()),
            Self::Server(job) => JobOutput::Server(job.run()),
        }
    }
}
