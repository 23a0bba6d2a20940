//! The program: from arguments to an exit code.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};

use crate::scenario::{Crypto, Scenario};
use crate::{Minimised, Report, Trace, minimise, run, run_traced};

/// Every world kept its promises.
const KEPT: u8 = 0;
/// One did not.
const BROKEN: u8 = 1;
/// The arguments, or a file, make no sense.
const MISUSED: u8 = 2;

#[derive(Parser)]
#[command(
    name = "qpc-sim",
    version,
    about = "quicprochat in a simulated world, everything from one seed",
    after_help = "Exit codes: 0 every promise was kept, 1 one was not, 2 wrong usage."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs worlds of seeds, each twice, and compares all their outputs
    #[command(
        after_help = "Examples:\n  qpc-sim run --seed 7\n  qpc-sim run --seeds 0..300 --jobs 2\n  \
                            qpc-sim run --minutes 60"
    )]
    Run(Run),
    /// Runs one world again
    #[command(after_help = "Examples:\n  qpc-sim replay --seed 7 --trace | less\n  \
                            qpc-sim replay failure.txt")]
    Replay(Replay),
    /// Makes a failing scenario smaller and prints it
    #[command(after_help = "Examples:\n  qpc-sim minimise --seed 7 >failure.txt\n  \
                            qpc-sim minimise failure.txt")]
    Minimise(Smaller),
    /// Prints a seed's scenario
    Show(Source),
}

#[derive(Args)]
struct Drawn {
    /// Operations of each world after its beginning
    #[arg(long, default_value_t = 200, value_name = "N")]
    steps: usize,
    /// Primitives that cost nothing and hide nothing: quicker, without the checks of keys
    #[arg(long)]
    insecure: bool,
}

impl Drawn {
    fn draw(&self, seed: u64) -> Scenario {
        let crypto = if self.insecure { Crypto::Insecure } else { Crypto::Portable };
        Scenario::draw(seed, self.steps, crypto)
    }
}

#[derive(Args)]
struct Run {
    /// One seed
    #[arg(long, value_name = "S", conflicts_with_all = ["seeds", "minutes"])]
    seed: Option<u64>,
    /// Seeds from A up to, and without, B
    #[arg(long, value_name = "A..B", value_parser = span)]
    seeds: Option<Range<u64>>,
    /// Seeds from the first of `--seeds` on, or from the time of day, for so long
    #[arg(long, value_name = "M")]
    minutes: Option<u64>,
    /// Worlds at once; as many as there are processors by default
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Each world once: nothing is compared, twice as many are seen
    #[arg(long)]
    once: bool,
    /// Begins no further world once one has broken a promise
    #[arg(long)]
    until_broken: bool,
    #[command(flatten)]
    drawn: Drawn,
}

#[derive(Args)]
struct Source {
    /// A scenario as `minimise` prints it
    #[arg(value_name = "FILE", required_unless_present = "seed", conflicts_with = "seed")]
    file: Option<PathBuf>,
    /// The scenario of a seed
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    #[command(flatten)]
    drawn: Drawn,
}

#[derive(Args)]
struct Replay {
    #[command(flatten)]
    source: Source,
    /// Says who did what, when, with which bytes
    #[arg(long)]
    trace: bool,
}

#[derive(Args)]
struct Smaller {
    #[command(flatten)]
    source: Source,
    /// At most so many runs
    #[arg(long, default_value_t = 2_000, value_name = "N")]
    runs: usize,
}

impl Source {
    fn scenario(&self) -> Result<Scenario, String> {
        match (&self.file, self.seed) {
            (Some(file), _) => read(file),
            (None, seed) => Ok(self.drawn.draw(seed.unwrap_or_default())),
        }
    }
}

fn read(file: &Path) -> Result<Scenario, String> {
    let text =
        std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    text.parse().map_err(|misread| format!("{}: {misread}", file.display()))
}

fn span(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("`{text}`: two numbers and two dots, as in 0..300");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let number = |text: &str| text.parse().map_err(|_| wrong());
    Ok(number(from)?..number(to)?)
}

/// Runs the program with these arguments (the first is the program's name).
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { MISUSED } else { KEPT });
        }
    };
    let done = match cli.verb {
        Verb::Run(args) => Ok(run_seeds(&args)),
        Verb::Replay(args) => replay(&args),
        Verb::Minimise(args) => smaller(&args),
        Verb::Show(source) => source.scenario().map(|scenario| {
            print!("{scenario}");
            KEPT
        }),
    };
    ExitCode::from(done.unwrap_or_else(|problem| {
        eprintln!("qpc-sim: {problem}");
        MISUSED
    }))
}

// ---- many worlds ------------------------------------------------------------------------------

/// What many worlds came to.
#[derive(Default)]
struct Sum {
    worlds: u64,
    operations: u64,
    checks: u64,
    time: Duration,
    broken: Vec<u64>,
}

fn run_seeds(args: &Run) -> u8 {
    let started = Instant::now();
    let from = args.seed.or(args.seeds.as_ref().map(|seeds| seeds.start)).unwrap_or_else(|| {
        // Fresh ones each time; the seed is printed wherever it matters.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |now| now.as_secs() << 20)
    });
    let to = match (args.seed, &args.seeds, args.minutes) {
        (Some(seed), _, _) => seed.saturating_add(1),
        (_, _, Some(_)) | (_, None, _) => u64::MAX,
        (_, Some(seeds), None) => seeds.end,
    };
    let minutes = args.minutes.or((to == u64::MAX).then_some(1));
    let end = minutes.map(|minutes| started + Duration::from_secs(60 * minutes));
    let jobs = args.jobs.or(thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let (next, sum) = (AtomicU64::new(from), Mutex::new(Sum::default()));
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while end.is_none_or(|end| Instant::now() < end) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let broken = || {
                        let sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                        !sum.broken.is_empty()
                    };
                    if seed >= to || (args.until_broken && broken()) {
                        return;
                    }
                    one(args, seed, &sum, started);
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary(&sum, started.elapsed());
    if sum.broken.is_empty() { KEPT } else { BROKEN }
}

fn one(args: &Run, seed: u64, sum: &Mutex<Sum>, started: Instant) {
    let scenario = args.drawn.draw(seed);
    let first = run(&scenario);
    let other = (!args.once).then(|| run(&scenario)).filter(|second| *second != first);
    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
    sum.worlds += 1;
    sum.operations += first.operations as u64;
    sum.checks += first.checks;
    sum.time += first.time;
    if let Some(second) = &other {
        println!("seed {seed}: NOT THE SAME TWICE\n{first}\n{second}");
    } else if !first.failures.is_empty() {
        println!("{first}");
    }
    if other.is_some() || !first.failures.is_empty() {
        println!("  again: {}", again(args, seed));
        sum.broken.push(seed);
    } else if args.seed.is_some() {
        println!("{first}");
    }
    if sum.worlds.is_multiple_of(50) {
        eprintln!(
            "… {} worlds, {} broken, {:.0?}",
            sum.worlds,
            sum.broken.len(),
            started.elapsed()
        );
    }
}

/// The one line that runs a world again.
fn again(args: &Run, seed: u64) -> String {
    let insecure = if args.drawn.insecure { " --insecure" } else { "" };
    format!("qpc-sim replay --seed {seed} --steps {}{insecure} --trace", args.drawn.steps)
}

fn summary(sum: &Sum, took: Duration) {
    let days = sum.time.as_secs_f64() / 86_400.0;
    let rate = sum.operations as f64 / took.as_secs_f64();
    println!(
        "{} worlds, {} operations ({rate:.0} per second), {} checks, {days:.1} virtual days in {took:.1?}; \
         {} broken {:?}",
        sum.worlds,
        sum.operations,
        sum.checks,
        sum.broken.len(),
        sum.broken
    );
}

// ---- one world --------------------------------------------------------------------------------

fn replay(args: &Replay) -> Result<u8, String> {
    let scenario = args.source.scenario()?;
    let trace = args.trace.then(Trace::default);
    let report = run_traced(&scenario, trace.clone());
    let lines = trace.map(|trace| trace.take()).unwrap_or_default();
    lines.iter().for_each(|line| println!("{line}"));
    println!("{report}");
    Ok(verdict(&report))
}

fn smaller(args: &Smaller) -> Result<u8, String> {
    let scenario = args.source.scenario()?;
    let mut progress = |best: &Minimised| {
        let (steps, devices) = (best.scenario.steps.len(), best.scenario.setting.accounts.len());
        eprintln!("… {steps} steps, {devices} devices after {} runs", best.runs);
    };
    let Some(found) = minimise(&scenario, args.runs, &mut progress) else {
        eprintln!("every promise is kept: there is nothing to make smaller");
        return Ok(KEPT);
    };
    print!("{}", found.scenario);
    let report = found.report.to_string();
    report.lines().for_each(|line| println!("# {line}"));
    Ok(verdict(&found.report))
}

fn verdict(report: &Report) -> u8 {
    if report.failures.is_empty() { KEPT } else { BROKEN }
}
