//! The demo's server: this program again, as a process of its own that can be killed.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::Deserialize;

use crate::cli::SERVE;
use crate::home::file_problem;
use crate::problem::{Local, Problem};

/// Everything of ours; the transport below logs packets, which would be megabytes.
const LOG: &str = "info,qpc_server=trace,qpc_smol=trace,qpc_protocol=trace";

/// What the server prints when it listens.
#[derive(Clone, Debug, Deserialize)]
struct Line {
    address: String,
    listen: String,
}

/// A running server; killed when dropped.
#[derive(Debug)]
pub(super) struct ServerProcess {
    child: Child,
    line: Line,
    data: PathBuf,
    log: PathBuf,
}

impl ServerProcess {
    /// Starts one on a free port of this machine, with its data in `data` and its log in `log`.
    pub(super) async fn start(data: &Path, log: &Path) -> Result<Self, Problem> {
        Self::spawn("127.0.0.1:0", data, log).await
    }

    async fn spawn(listen: &str, data: &Path, log: &Path) -> Result<Self, Problem> {
        let failed = |why: String| {
            Problem::new(Local::CheckFailed, format!("the server does not start: {why}"))
        };
        let program = env::current_exe().map_err(|error| failed(error.to_string()))?;
        let file = append(log)?;
        let mut command = Command::new(program);
        command
            .args([SERVE, "--json", "--listen", listen, "--log", LOG, "--data-dir"])
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file);
        // What is set for other servers or for this device is not meant for this one.
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("QPC_") {
                command.env_remove(name);
            }
        }
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        let stdout = child.stdout.take().ok_or_else(|| failed("no output".to_owned()))?;
        let text = smol::unblock(move || {
            let mut text = String::new();
            BufReader::new(stdout).read_line(&mut text).map(|_| text)
        })
        .await;
        let line = text.ok().and_then(|text| serde_json::from_str(&text).ok());
        let Some(line) = line else {
            drop(child.kill());
            drop(child.wait());
            let why = std::fs::read_to_string(log).unwrap_or_default();
            return Err(failed(why.lines().last().unwrap_or("it says nothing").to_owned()));
        };
        Ok(Self { child, line, data: data.to_owned(), log: log.to_owned() })
    }

    /// `qpc://host:port#pin`.
    pub(super) fn address(&self) -> &str {
        &self.line.address
    }

    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`: no chance to write or say anything.
    pub(super) fn kill(&mut self) -> Result<(), Problem> {
        let gone = self.child.kill().and_then(|()| self.child.wait());
        gone.map(drop).map_err(|error| {
            Problem::new(Local::CheckFailed, format!("the server cannot be killed: {error}"))
        })
    }

    /// Starts it again on the same port and the same data.
    pub(super) async fn restart(&mut self) -> Result<(), Problem> {
        let (listen, address) = (self.line.listen.clone(), self.line.address.clone());
        *self = Self::spawn(&listen, &self.data, &self.log).await?;
        if self.line.address == address {
            return Ok(());
        }
        Err(Problem::new(Local::CheckFailed, "the server came back under another address or key"))
    }

    /// How many commits it has refused because another one was first.
    pub(super) fn conflicts(&self) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines()
            .filter(|line| line.contains("kind=Commit") && line.ends_with("error=46"))
            .count()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn append(path: &Path) -> Result<File, Problem> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|error| file_problem(path, &error))
}
