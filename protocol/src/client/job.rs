//! The slow steps of a client, as values.

/// A slow step of a client.
#[derive(Debug)]
pub enum ClientJob {}

/// What it came to.
#[derive(Debug)]
pub enum ClientJobOutput {}

impl ClientJob {
    /// Does the work.
    pub fn run(self) -> ClientJobOutput {
        match self {}
    }
}
