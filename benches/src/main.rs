//! `qpc-load`: puts load on a real server and says how it took it, beside what the transport alone allows.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use qpc_benches::window::{Bounds, Measured};
use qpc_benches::{Error, echo, send};
use serde_json::json;

/// Puts load on a server and measures.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Durable submissions over QUIC into SQLCipher, and a bare quinn echo of the same bytes.
    Send(Send),
    /// The server of the measurement, a process of its own.
    #[command(hide = true)]
    Serve { arguments: Vec<OsString> },
    /// The echo of the measurement, a process of its own.
    #[command(hide = true)]
    Echo,
}

#[derive(Debug, Args)]
struct Send {
    /// Bytes of a payload.
    #[arg(long, default_value_t = 512)]
    size: usize,
    /// In flight, one measurement for each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32, 256])]
    in_flight: Vec<usize>,
    /// Submissions per measurement, at most.
    #[arg(long, default_value_t = 20_000)]
    count: usize,
    /// Seconds per measurement, at most.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Where the server's data goes; it is removed afterwards [default: the system's temporary directory].
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let done = match Cli::parse().mode {
        Mode::Send(options) => measure(&options),
        Mode::Serve { arguments } => {
            return qpc_server::main([OsString::from("qpc-server")].into_iter().chain(arguments));
        }
        Mode::Echo => echo::serve(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "qpc-load: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// A process of ours, ended with this value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts this program again in another mode; also the first line it prints.
fn start(arguments: &[OsString]) -> Result<(Process, String), Error> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().ok_or("no output")?;
    let process = Process(child);
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    Ok((process, line.trim().to_owned()))
}

fn measure(options: &Send) -> Result<(), Error> {
    let bounds = Bounds { count: options.count, time: Duration::from_secs(options.seconds) };
    let dir = match &options.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let flags = ["serve", "--", "--listen", "127.0.0.1:0", "--log", "error", "--data-dir"];
    let mut arguments: Vec<OsString> = flags.map(OsString::from).into();
    arguments.push(dir.path().join("data").into());
    let (server, line) = start(&arguments)?;
    let address: qpc_smol::Address = line.parse()?;
    let to = SocketAddr::from(([127, 0, 0, 1], address.port));
    let sends = send::measure(to, options.size, &options.in_flight, bounds)?;
    drop(server);

    let (echoing, line) = start(&["echo".into()])?;
    let to = SocketAddr::from(([127, 0, 0, 1], line.parse()?));
    let echoes = smol::block_on(echo::measure(to, sends.frame, &options.in_flight, bounds))?;
    drop(echoing);
    report(options, sends.frame, &sends.measured, &echoes)
}

fn report(
    options: &Send,
    frame: usize,
    sends: &[Measured],
    echoes: &[Measured],
) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    let rows = options.in_flight.iter().zip(sends.iter().zip(echoes));
    if options.json {
        let rows: Vec<_> = rows
            .map(|(depth, (send, echo))| {
                let share = send.rate() / echo.rate();
                json!({ "in_flight": depth, "send": send.json(), "echo": echo.json(), "share_of_echo": share })
            })
            .collect();
        let all = json!({
            "mode": "send",
            "payload_bytes": options.size,
            "frame_bytes": frame,
            "payload": "MLS ciphertext",
            "store": "SQLCipher, WAL, synchronous=FULL",
            "rows": rows,
        });
        return Ok(writeln!(out, "{all}")?);
    }
    writeln!(
        out,
        "durable submissions of {} B (frames of {frame} B), SQLCipher, one connection",
        options.size
    )?;
    writeln!(out)?;
    writeln!(
        out,
        "| in flight | sends/s | p50 µs | p99 µs | echoes/s | p50 µs | p99 µs | share |"
    )?;
    writeln!(out, "|---:|---:|---:|---:|---:|---:|---:|---:|")?;
    for (depth, (send, echo)) in rows {
        let columns = |m: &Measured| {
            let at = |quantile| m.latency.value_at_quantile(quantile);
            format!("{:.0} | {} | {}", m.rate(), at(0.50), at(0.99))
        };
        let share = send.rate() / echo.rate();
        writeln!(out, "| {depth} | {} | {} | {share:.3} |", columns(send), columns(echo))?;
    }
    Ok(())
}
