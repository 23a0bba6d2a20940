//! The slow steps of a server, as values.

/// A slow step of a server.
#[derive(Debug)]
pub enum ServerJob {}

/// What it came to.
#[derive(Debug)]
pub enum ServerJobOutput {}

impl ServerJob {
    /// Does the work.
    pub fn run(self) -> ServerJobOutput {
        match self {}
    }
}
