//! From arguments to an exit code.

mod account;
mod args;
mod context;
mod group;
mod lifecycle;
mod message;
mod service;
mod trust;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::error::ErrorKind;
use smol::future;
use smol::stream::StreamExt as _;
use tracing_subscriber::EnvFilter;

use crate::output::Output;
use crate::problem::{Local, Problem};
use args::{Cli, DevicesVerb, GroupVerb, KeysVerb, Verb};
use context::Context;

/// The environment variable with the log filter, as in `debug` or `qpc_smol=trace`.
const LOG: &str = "QPC_LOG";

/// Not shown to people: the server's program in this one, so that the demo needs no other build step.
pub(crate) const SERVE: &str = "__serve";

/// Runs the program with these arguments (the first is the program's name).
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    // The server's program has settings, help, logs and exit codes of its own.
    if arguments.get(1).is_some_and(|verb| verb == SERVE) {
        let verb = format!("qpc {SERVE}");
        arguments.splice(..2, [verb.into()]);
        return qpc_server::main(arguments);
    }
    let cli = match Cli::read(arguments) {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    let output = Output::new(cli.global.json);
    match log().and_then(|()| smol::block_on(run(cli, output))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            output.problem(&problem);
            ExitCode::from(problem.exit())
        }
    }
}

/// Help and version are "errors" of clap's too, with exit code 0.
fn misused(error: &clap::Error) -> ExitCode {
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let json = std::env::args_os().any(|argument| argument == "--json");
    let bare = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if !asked && (json || !bare) {
        let problem = match bare {
            true => Problem::new(Local::Usage, "a verb is missing"),
            false => misuse(&error.render().to_string()),
        };
        Output::new(json).problem(&problem);
        return ExitCode::from(problem.exit());
    }
    if let Err(error) = error.print() {
        let problem = crate::output::unwritable(&error);
        Output::new(json).problem(&problem);
        return ExitCode::from(problem.exit());
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(crate::problem::exit::USAGE))
}

/// What clap says in several lines, in one; how the verb is used is what to look at next.
fn misuse(rendered: &str) -> Problem {
    let lines = || rendered.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_usage = |line: &&str| line.starts_with("Usage: ");
    let said: Vec<_> = lines()
        .filter(|line| !is_usage(line) && !line.starts_with("For more information"))
        .map(|line| line.strip_prefix("error: ").unwrap_or(line))
        .collect();
    let problem = Problem::new(Local::Usage, said.join(" "));
    match lines().find(is_usage) {
        Some(usage) => problem.next(usage),
        None => problem,
    }
}

fn log() -> Result<(), Problem> {
    let Some(filter) = args::variable(LOG) else { return Ok(()) };
    let bad = |why: String| {
        Problem::new(Local::Invalid, format!("{LOG}: {why}")).next("As in QPC_LOG=debug.")
    };
    let filter = filter.into_string().map_err(|_| bad("not UTF-8".to_owned()))?;
    let filter = EnvFilter::try_new(filter).map_err(|error| bad(error.to_string()))?;
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .try_init();
    started.map_err(|error| Problem::new(Local::Internal, error.to_string()))
}

async fn run(cli: Cli, output: Output) -> Result<(), Problem> {
    let context = Context::new(cli.global, output, cli.verb.name());
    match cli.verb {
        Verb::Register { username } => account::register(&context, username).await,
        Verb::Login { username } => account::login(&context, username).await,
        Verb::Logout => account::logout(&context).await,
        Verb::Whoami => account::whoami(&context).await,
        Verb::DeleteAccount { yes } => account::delete(&context, yes).await,
        Verb::Verify(wanted) | Verb::FetchKey(wanted) => trust::verify(&context, wanted).await,
        Verb::Trust(verb) => trust::trust(&context, verb).await,
        Verb::Keys(KeysVerb::Status) | Verb::CheckKey => account::keys(&context, false).await,
        Verb::Keys(KeysVerb::Refresh) | Verb::RefreshKeypackage => {
            account::keys(&context, true).await
        }
        Verb::Devices(DevicesVerb::List) => account::devices(&context).await,
        Verb::Devices(DevicesVerb::Rotate) => lifecycle::rotate(&context).await,
        Verb::Devices(DevicesVerb::Revoke { device }) => account::revoke(&context, device).await,
        Verb::Ping { count } => service::ping(&context, count).await,
        Verb::Health => service::health(&context).await,
        Verb::Group(GroupVerb::Create(new)) | Verb::CreateGroup(new) => {
            group::create(&context, new).await
        }
        Verb::Group(GroupVerb::List { offline }) => group::list(&context, offline).await,
        Verb::Join => group::list(&context, false).await,
        Verb::Group(GroupVerb::Members { group }) => group::members(&context, group).await,
        Verb::Group(GroupVerb::Invite(invited)) | Verb::Invite(invited) => {
            group::invite(&context, invited).await
        }
        Verb::Group(GroupVerb::Remove { group, username }) => {
            group::remove(&context, group, username).await
        }
        Verb::Group(GroupVerb::Update { group }) => lifecycle::update(&context, group).await,
        Verb::Group(GroupVerb::Set(profile)) => lifecycle::set(&context, profile).await,
        Verb::Group(GroupVerb::Role(role)) => lifecycle::role(&context, role).await,
        Verb::Group(GroupVerb::Leave { group }) => group::leave(&context, group).await,
        Verb::Group(GroupVerb::Rejoin { group }) => group::rejoin(&context, group).await,
        Verb::Group(GroupVerb::Reset { group, suite }) => {
            lifecycle::reset(&context, group, suite.as_deref()).await
        }
        Verb::Direct { username } => group::direct(&context, username).await,
        Verb::Send { group, text, all: _ } => message::send(&context, group, text).await,
        Verb::Recv { group, follow } => message::recv(&context, group, follow).await,
        Verb::Chat { group } => message::chat(&context, group).await,
        Verb::Demo { members } => {
            future::or(crate::demo::run(output, members), async { Err(interrupted().await) }).await
        }
    }
}

/// Ends with the first SIGINT or SIGTERM. A second one ends the process at once.
async fn interrupted() -> Problem {
    use async_signal::{Signal, Signals};
    let Ok(mut signals) = Signals::new([Signal::Int, Signal::Term]) else {
        // Without it the signals do what they do by default.
        return std::future::pending().await;
    };
    signals.next().await;
    smol::spawn(async move {
        signals.next().await;
        std::process::exit(i32::from(crate::problem::exit::INTERRUPTED));
    })
    .detach();
    Problem::interrupted()
}
