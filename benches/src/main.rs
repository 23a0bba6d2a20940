//! `qpc-load`: puts load on a real server and says how it took it, beside what the transport alone allows.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use qpc_benches::machine::{BINDING, Floor, InMemory};
use qpc_benches::members::{self, Plan};
use qpc_benches::timing::Limits;
use qpc_benches::town::InMemory as InTown;
use qpc_benches::welch::Compared;
use qpc_benches::window::{Bounds, Measured};
use qpc_benches::{Error, echo, quic, send, timing, welch};
use qpc_protocol::limits::{LOGINS_IN_ALL, LOOKUPS_PER_MINUTE};
use qpc_protocol::mls::suite::Suite;
use qpc_server::store::SqliteStore;
use qpc_smol::store::ServerStore;
use serde_json::json;
use zeroize::Zeroizing;

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
    /// Whether the time of an answer tells which accounts exist.
    Timing(Timing),
    /// A group of many members through the server's machine: what each step takes.
    Members(Members),
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

/// Logins of each of three kinds, so that a server admits them all at once, and some registrations.
const QUIC_LOGINS: usize = (LOGINS_IN_ALL as usize - 200) / 3;
/// Lookups of each of two kinds, so that a server admits them all within one minute.
const QUIC_LOOKUPS: usize = (LOOKUPS_PER_MINUTE as usize - 4) / 2;

const TIMING: &str = "\
Logins are started for known users with the right and a wrong password and for unknown users, and finished with
something made up; names are looked up that are known and unknown. All in random order; the slowest tenth is dropped, the
rest is compared by Welch's t. Lookups are answered after 5 ms at the earliest, so they take the longest.

Examples:
  qpc-load timing                          the server's machine in memory, on one thread: the sharpest there is
  qpc-load timing --quic                   a server of its own on the loopback: what a stranger sees
  qpc-load timing --count 20000 --seconds 300 --json

Exit codes:
  0  nothing was told apart
  1  something was: |t| above the threshold and the medians apart by what counts, or a lookup answered before its 5 ms
  2  it could not be measured";

/// Makes logins and lookups, and compares the times of their answers.
#[derive(Debug, Args)]
#[command(after_help = TIMING)]
struct Timing {
    /// Logins of each of the three kinds, and lookups of each of the two, at most. Over QUIC no more than a server
    /// admits at once: 6,600 and 48.
    #[arg(long, default_value_t = 2_000)]
    count: usize,
    /// Seconds for the logins, and as many again for the lookups, at most.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// |t| above which two kinds count as told apart.
    #[arg(long, default_value_t = welch::THRESHOLD)]
    threshold: f64,
    /// Nanoseconds between the medians from which on a difference counts; ten times that for lookups, whose answers
    /// differ in themselves.
    #[arg(long, default_value_t = welch::LEAST)]
    least_ns: f64,
    /// Over QUIC, against a process of its own with a SQLCipher store, instead of the machine in memory.
    #[arg(long)]
    quic: bool,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

const MEMBERS: &str = "\
All machines run in one process on one thread, without QUIC and with a clock that jumps: what takes time is work. Of the
members, those online run to the end; the others register, upload key packages, and are switched off. Changes and
messages come in random order; one member is away for 50 of the changes, and catches up in one go. It fails unless all
who are online end in the same epoch with all messages.

Bytes are those on all links (up: to the server) and those that devices made durable.

Examples:
  qpc-load members --members 1000 --online 10 --adds 100 --removes 100 --updates 100 --messages 1000
  qpc-load members --members 5000 --online 3 --updates 3 --store sqlite --json";

/// Makes a group of many members and lives in it.
#[derive(Debug, Args)]
#[command(after_help = MEMBERS)]
struct Members {
    /// Members once the group is made.
    #[arg(long, default_value_t = 1_000)]
    members: usize,
    /// Of them, how many are online.
    #[arg(long, default_value_t = 10)]
    online: usize,
    /// Devices added one by one.
    #[arg(long, default_value_t = 0)]
    adds: usize,
    /// Devices removed one by one.
    #[arg(long, default_value_t = 0)]
    removes: usize,
    /// Renewals of keys.
    #[arg(long, default_value_t = 0)]
    updates: usize,
    /// Messages.
    #[arg(long, default_value_t = 0)]
    messages: usize,
    /// The group's suite.
    #[arg(long, value_enum, default_value_t = SuiteName::Hybrid)]
    suite: SuiteName,
    /// The server's store.
    #[arg(long, value_enum, default_value_t = StoreName::Memory)]
    store: StoreName,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SuiteName {
    Hybrid,
    Classical,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StoreName {
    Memory,
    Sqlite,
}

fn main() -> ExitCode {
    let done = match Cli::parse().mode {
        Mode::Send(options) => measure(&options),
        Mode::Members(options) => live(&options),
        Mode::Timing(options) => match time(&options) {
            Ok(true) => return ExitCode::from(1),
            other => other.map(|_| ()),
        },
        Mode::Serve { arguments } => {
            return qpc_server::main([OsString::from("qpc-server")].into_iter().chain(arguments));
        }
        Mode::Echo => echo::serve(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "qpc-load: {error}"));
            ExitCode::from(2)
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

/// Starts a server with its data in that directory, and further flags.
fn start_server(dir: &Path, flags: &[&str]) -> Result<(Process, SocketAddr), Error> {
    let usual = ["serve", "--", "--listen", "127.0.0.1:0", "--log", "error", "--data-dir"];
    let mut arguments: Vec<OsString> = usual.map(OsString::from).into();
    arguments.push(dir.join("data").into());
    arguments.extend(flags.iter().map(OsString::from));
    let (server, line) = start(&arguments)?;
    let address: qpc_smol::Address = line.parse()?;
    Ok((server, SocketAddr::from(([127, 0, 0, 1], address.port))))
}

/// Whether anything was told apart.
fn time(options: &Timing) -> Result<bool, Error> {
    let time = Duration::from_secs(options.seconds);
    let bounds = Bounds { count: options.count, time };
    let rows = if options.quic {
        let dir = tempfile::tempdir()?;
        let unlimited = ["--logins-per-account", "1000000", "--logins-per-source", "1000000"];
        let (_server, to) = start_server(dir.path(), &unlimited)?;
        let mut calls =
            smol::block_on(async { quic::Calls::open(quic::connect(to).await?).await })?;
        let binding = calls.binding()?;
        let most = |most: usize| Bounds { count: bounds.count.min(most), time };
        let (logins, lookups) = (most(QUIC_LOGINS), most(QUIC_LOOKUPS));
        timing::measure(&mut calls, send::wall()?, binding, logins, lookups)?
    } else {
        let mut server = InMemory::start(Floor::Wait)?;
        let wall = server.wall();
        timing::measure(&mut server, wall, BINDING, bounds, bounds)?
    };
    let limits = Limits { threshold: options.threshold, least: options.least_ns };
    let told_apart = rows.iter().any(|row| row.told_apart(limits));
    let verdict = if told_apart {
        "told apart: the time of an answer says more than the answer"
    } else {
        "not told apart: known and unknown users are answered in the same time, as far as this can tell"
    };
    let mut out = std::io::stdout().lock();
    if options.json {
        let all = json!({
            "mode": "timing",
            "over": if options.quic { "quic" } else { "memory" },
            "threshold": limits.threshold,
            "rows": rows.iter().map(|row| row.json(limits)).collect::<Vec<_>>(),
            "told_apart": told_apart,
            "verdict": verdict,
        });
        writeln!(out, "{all}")?;
        return Ok(told_apart);
    }
    writeln!(out, "| call | left | right | of each | p50 µs | ratio | t | verdict |")?;
    writeln!(out, "|---|---|---|---:|---:|---:|---:|---|")?;
    for row in &rows {
        let Compared { counts: [left, right], medians, t, .. } = row.compared;
        let [call, of_left, of_right] = [row.call, row.sides[0], row.sides[1]];
        let [p50, other] = medians.map(|nanos| nanos / 1_000.0);
        let (ratio, words) = (row.compared.ratio(), row.verdict(limits));
        writeln!(
            out,
            "| {call} | {of_left} | {of_right} | {left}, {right} | {p50:.1}, {other:.1} | {ratio:.4} | {t:.2} | {words} |"
        )?;
    }
    writeln!(out, "\n{verdict}")?;
    Ok(told_apart)
}

fn live(options: &Members) -> Result<(), Error> {
    let &Members { members, online, adds, removes, updates, messages, .. } = options;
    let suite = match options.suite {
        SuiteName::Hybrid => Suite::Hybrid,
        SuiteName::Classical => Suite::Classical,
    };
    let dir = tempfile::tempdir()?;
    let store: Box<dyn ServerStore> = match options.store {
        StoreName::Memory => Box::new(InTown::default()),
        StoreName::Sqlite => {
            Box::new(SqliteStore::open(&dir.path().join("store"), Zeroizing::new([5; 32]))?)
        }
    };
    let plan = Plan { members, online, adds, removes, updates, messages, suite };
    let done = members::measure(plan, store)?;
    let store_bytes: u64 = std::fs::read_dir(dir.path())?
        .map(|file| Ok(file?.metadata()?.len()))
        .sum::<Result<u64, Error>>()?;
    let memory = peak_memory();
    let mut out = std::io::stdout().lock();
    if options.json {
        let all = json!({
            "mode": "members",
            "suite": format!("{suite:?}"),
            "store": format!("{:?}", options.store),
            "online": online,
            "members": done.members,
            "created_in_commits": done.created_in,
            "epoch": done.epoch,
            "messages": done.messages,
            "steps": done.steps.iter().map(members::Step::json).collect::<Vec<_>>(),
            "store_bytes": store_bytes,
            "peak_memory_bytes": memory,
        });
        return Ok(writeln!(out, "{all}")?);
    }
    writeln!(out, "| step | count | ms | of it server | KB up | KB down | KB persisted |")?;
    writeln!(out, "|---|---:|---:|---:|---:|---:|---:|")?;
    for members::Step { name, count, spent } in &done.steps {
        let [time, server] = [spent.time, spent.server].map(|time| time.as_millis());
        let [up, down, kept] = [spent.up, spent.down, spent.persisted].map(|bytes| bytes / 1_000);
        writeln!(out, "| {name} | {count} | {time} | {server} | {up} | {down} | {kept} |")?;
    }
    let (members, epoch, messages) = (done.members, done.epoch, done.messages);
    writeln!(out, "\ncreated in {} commits", done.created_in)?;
    writeln!(
        out,
        "{online} online of {members}, all in epoch {epoch} with all {messages} messages"
    )?;
    let (disk, memory) = (store_bytes / 1_000_000, memory / 1_000_000);
    Ok(writeln!(
        out,
        "{suite:?}, server's store {disk} MB on disk, process {memory} MB at its peak"
    )?)
}

/// The most memory that this process held, in bytes; 0 where the system does not say.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn measure(options: &Send) -> Result<(), Error> {
    let bounds = Bounds { count: options.count, time: Duration::from_secs(options.seconds) };
    let dir = match &options.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let (server, to) = start_server(dir.path(), &[])?;
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
