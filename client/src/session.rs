//! A device at work: its home, its machine on its thread, and what the machine tells.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_channel::Receiver;
use qpc_protocol::client::event::{Event, Message, Outcome};
use qpc_protocol::client::{Client, Config, Stretching, UpdatePolicy};
use qpc_protocol::crypto;
use qpc_protocol::env::Now;
use qpc_protocol::error::{ErrorCode, Refused, RestoreError, StoreFault};
use qpc_protocol::io::{Page, Target, Ticket};
use qpc_protocol::store::batch::{Batch, Op, Records};
use qpc_smol::store::ClientStore;
use qpc_smol::{Address, ClientHandle, ClientOptions, OpenError, Trust, open};
use smol::{Timer, future};

use crate::home::Home;
use crate::output::{Output, plain};
use crate::problem::{Local, Problem};
use crate::warning::warn;

/// Longest time one connection attempt may take.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// What a server says that was reached and can open no session now; the machine tells it as it came.
const UNABLE: [ErrorCode; 3] = [ErrorCode::Unavailable, ErrorCode::Busy, ErrorCode::ShuttingDown];

/// How long what was queued earlier may hold up a command that is done itself.
const FLUSH_TIME: Duration = Duration::from_secs(3);
/// The same for what nobody asked for, as the account's new device that is to be added: a process that always ended
/// before the answer would begin anew each time.
const DUTY_TIME: Duration = Duration::from_millis(500);
/// How often is looked whether the machine has come to rest: that is no event.
const LOOK: Duration = Duration::from_millis(5);

/// Where the server is and whom to trust for it.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) ca: Option<PathBuf>,
}

impl Server {
    fn options(&self, terms: Terms) -> Result<ClientOptions, Problem> {
        let address: Address = self
            .address
            .parse()
            .map_err(|error| Problem::new(Local::Invalid, format!("{}: {error}", self.address)))?;
        let trust = match (&self.ca, address.pin) {
            (_, Some(_)) => Trust::PinOnly,
            (Some(file), None) => Trust::from_file(file)
                .map_err(|error| Problem::new(Local::Invalid, error.to_string()))?,
            (None, None) => {
                return Err(Problem::new(
                    Local::NoServer,
                    format!("{} has no pin, and no --ca says whom to trust", self.address),
                ));
            }
        };
        let config = Config {
            backend: crypto::fast(),
            server: Target(address.to_string()),
            stretching: Stretching::default(),
            insecure_plain: false,
            auto_connect: terms.connect,
            propose_first: proposes_first(),
            update: terms.update,
        };
        Ok(ClientOptions {
            trust,
            connect_time: CONNECT_TIME,
            clock: qpc_server::clock(),
            ..ClientOptions::new(config)
        })
    }
}

/// Whether a test wants its process to propose who is to be added or removed, as after lost races. Read in builds with
/// debug assertions only.
fn proposes_first() -> bool {
    cfg!(debug_assertions) && std::env::var_os("QPC_PROPOSE_FIRST").is_some()
}

/// How a session is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) output: Output,
    /// For one command, from asking to its answer.
    pub(crate) timeout: Duration,
    /// Connect by itself and stay connected.
    pub(crate) connect: bool,
    /// When the device's leaves get fresh keys by themselves.
    pub(crate) update: UpdatePolicy,
}

/// A device at work.
#[derive(Debug)]
pub(crate) struct Session {
    handle: ClientHandle,
    events: Receiver<Event>,
    /// Messages that came while something else was waited for: each is told once.
    kept: VecDeque<Event>,
    terms: Terms,
    address: String,
    online: bool,
    synced: bool,
    /// Why the server could not be reached last.
    offline: Option<String>,
    /// Commands of this process: what ends with another ticket was queued by an earlier one.
    own: BTreeSet<Ticket>,
    /// Commands of earlier processes that are stored here, and whose end was not told yet.
    owed: usize,
    /// Something is stored on this device and not accepted by the server yet.
    pub(crate) queued: bool,
    /// Held until the end.
    _home: Option<Home>,
}

impl Session {
    /// Starts the machine of a device on its store.
    pub(crate) fn start(
        home: Option<Home>,
        store: Box<dyn ClientStore>,
        server: &Server,
        terms: Terms,
    ) -> Result<Self, Problem> {
        let options = server.options(terms)?;
        let address = options.config.server.0.clone();
        let (handle, events) = open(options, store).map_err(|error| match error {
            OpenError::Store(fault) => fault.into(),
            OpenError::Restore(newer @ RestoreError::Newer { .. }) => {
                Problem::new(Local::HomeNewer, newer.to_string())
            }
            OpenError::Restore(damaged) => Problem::new(Local::HomeDamaged, damaged.to_string()),
            OpenError::System(error) => Problem::new(Local::Internal, error.to_string()),
        })?;
        Ok(Self {
            handle,
            events,
            kept: VecDeque::new(),
            terms,
            address,
            online: false,
            synced: false,
            offline: None,
            own: BTreeSet::new(),
            owed: 0,
            queued: false,
            _home: home,
        })
    }

    /// The server's address, pin included.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn output(&self) -> Output {
        self.terms.output
    }

    /// The key exchange of the present connection, and whether it is hybrid.
    pub(crate) fn key_exchange(&self) -> Option<(String, bool)> {
        let facts = self.handle.connection()?;
        Some((format!("{:?}", facts.key_exchange), facts.is_post_quantum()))
    }

    /// Asks the machine something.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Client, Now) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        self.handle.run(question).await.map_err(|_| stopped())
    }

    /// Gives a command.
    pub(crate) async fn begin(
        &mut self,
        command: impl FnOnce(&mut Client, Now) -> Result<Ticket, Refused> + Send + 'static,
    ) -> Result<Ticket, Problem> {
        let ticket = self.ask(command).await??;
        self.own.insert(ticket);
        Ok(ticket)
    }

    /// Gives a command and waits for its outcome.
    pub(crate) async fn command(
        &mut self,
        command: impl FnOnce(&mut Client, Now) -> Result<Ticket, Refused> + Send + 'static,
    ) -> Result<Outcome, Problem> {
        let ticket = self.begin(command).await?;
        self.outcome(ticket).await
    }

    /// The same for a command that stays stored until it is done, however often the connection is lost: if the
    /// server does not answer, the person is told that it is queued.
    pub(crate) async fn lasting(
        &mut self,
        what: &str,
        command: impl FnOnce(&mut Client, Now) -> Result<Ticket, Refused> + Send + 'static,
    ) -> Result<Outcome, Problem> {
        let ticket = self.begin(command).await?;
        self.queued = true;
        let outcome = match self.outcome(ticket).await {
            Err(problem) if problem.is_unreachable() => {
                let text = format!("{what} is queued, not done: {}", problem.text());
                return Err(Problem::new(Local::Queued, text));
            }
            outcome => outcome,
        };
        self.queued = false;
        outcome
    }

    /// Counts what earlier processes have queued, so that the end of each is told.
    pub(crate) async fn count_owed(&mut self) -> Result<(), Problem> {
        self.owed = self.ask(|client, _| client.pending()).await?;
        Ok(())
    }

    /// Gives what was queued earlier the time to go out and to be told, and the machine's own duties a moment, while
    /// there is a connection.
    pub(crate) async fn flush(&mut self) -> Result<(), Problem> {
        let begin = Instant::now();
        let deadline = self.deadline().min(begin + FLUSH_TIME);
        while self.online {
            let (pending, idle) =
                self.ask(|client, _| (client.pending(), client.is_idle())).await?;
            let asked_for = pending > 0 || self.owed > 0;
            let until = if asked_for { deadline } else { deadline.min(begin + DUTY_TIME) };
            // What is accepted is told once it is durable here.
            if (pending == 0 && idle) || Instant::now() >= until {
                break;
            }
            match self.next(until.min(Instant::now() + LOOK)).await {
                Err(problem) if problem.is_unreachable() => {}
                event => drop(event?),
            }
        }
        while self.ready()?.is_some() {}
        Ok(())
    }

    /// Waits for the outcome of a command.
    pub(crate) async fn outcome(&mut self, ticket: Ticket) -> Result<Outcome, Problem> {
        let deadline = self.deadline();
        loop {
            match self.fresh(deadline).await? {
                Event::Done(done, outcome) if done == ticket => return Ok(outcome),
                Event::Failed(done, failed) if done == ticket => return Err(failed.into()),
                event => self.keep(event),
            }
        }
    }

    /// Waits until every log was read to its head.
    pub(crate) async fn synced(&mut self) -> Result<(), Problem> {
        let deadline = self.deadline();
        while !self.synced {
            let event = self.fresh(deadline).await?;
            self.keep(event);
        }
        Ok(())
    }

    fn keep(&mut self, event: Event) {
        if matches!(event, Event::Message(_)) {
            self.kept.push_back(event);
        }
    }

    pub(crate) fn is_online(&self) -> bool {
        self.online
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.synced
    }

    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.terms.timeout
    }

    /// The next event; what everybody should know of it was told already.
    ///
    /// # Errors
    /// At the deadline, with why; or when nothing more can come.
    pub(crate) async fn next(&mut self, deadline: Instant) -> Result<Event, Problem> {
        match self.kept.pop_front() {
            Some(event) => Ok(event),
            None => self.fresh(deadline).await,
        }
    }

    /// The next event that nobody has seen.
    async fn fresh(&mut self, deadline: Instant) -> Result<Event, Problem> {
        let late = async {
            Timer::at(deadline).await;
            None
        };
        let event = async { Some(self.events.recv().await) };
        match future::or(event, late).await {
            Some(Ok(event)) => {
                self.note(&event)?;
                Ok(event)
            }
            Some(Err(_)) => Err(stopped()),
            None => Err(self.late()),
        }
    }

    /// An event that is here already.
    pub(crate) fn ready(&mut self) -> Result<Option<Event>, Problem> {
        if let Some(event) = self.kept.pop_front() {
            return Ok(Some(event));
        }
        match self.events.try_recv() {
            Ok(event) => self.note(&event).map(|()| Some(event)),
            Err(async_channel::TryRecvError::Empty) => Ok(None),
            Err(async_channel::TryRecvError::Closed) => Err(stopped()),
        }
    }

    /// The next event, however long it takes. Losing the connection is no reason to stop.
    pub(crate) async fn next_ever(&mut self) -> Result<Event, Problem> {
        if let Some(event) = self.kept.pop_front() {
            return Ok(event);
        }
        let event = self.events.recv().await.map_err(|_| stopped())?;
        self.note(&event)?;
        Ok(event)
    }

    fn late(&self) -> Problem {
        if self.online {
            let text = format!("no answer within {} s", self.terms.timeout.as_secs());
            return Problem::new(Local::Timeout, text);
        }
        let why = self.offline.as_deref().unwrap_or("it does not answer");
        if UNABLE.iter().any(|code| code.text() == why) {
            let text = format!("{} answers, but {why}", self.address);
            return Problem::new(Local::Unreachable, text).next(
                "The server is there, but cannot do its work (its disk may be full): try again later, or tell who runs it.",
            );
        }
        Problem::new(Local::Unreachable, format!("cannot reach {}: {why}", self.address))
    }

    fn note(&mut self, event: &Event) -> Result<(), Problem> {
        let output = self.terms.output;
        match event {
            Event::Online { .. } => {
                self.online = true;
                if self.offline.take().is_some() {
                    output.progress("connected again");
                }
            }
            Event::Synced => self.synced = true,
            Event::Offline { why, last: false } => {
                if self.offline.is_none() {
                    output.progress(&format!("no connection ({}); trying again", plain(why)));
                }
                (self.online, self.synced) = (false, false);
                self.offline = Some(why.clone());
            }
            Event::Offline { why, last: true } => {
                return Err(Problem::new(Local::Untrusted, format!("{}: {why}", self.address)));
            }
            Event::Done(ticket, outcome) if !self.own.contains(ticket) => {
                self.owed = self.owed.saturating_sub(1);
                output.note(&match outcome {
                    Outcome::Sent(sent) => {
                        let seq = sent.accepted.seq;
                        format!("a message that was queued before is sent now, as #{seq}")
                    }
                    _ => "something else that was queued before is done now".to_owned(),
                });
            }
            Event::Failed(ticket, failed) if !self.own.contains(ticket) => {
                self.owed = self.owed.saturating_sub(1);
                let problem = Problem::from(failed.clone());
                output.warn(&format!("something that was queued before has failed: {problem}"));
            }
            Event::SessionEnded(code) => return Err(Problem::server(*code, code.text())),
            other => warn(output, other),
        }
        Ok(())
    }

    /// Closes the connection, lets the store finish, and gives the home back.
    pub(crate) async fn close(self) -> Result<(), Problem> {
        Ok(self.handle.stop().await?)
    }
}

fn stopped() -> Problem {
    // Closing the session says what stopped it.
    Problem::new(Local::Internal, "the device's machine has stopped")
}

/// A message, for printing.
pub(crate) fn message_text(message: &Message) -> Option<&str> {
    str::from_utf8(&message.body).ok()
}

/// Records that are gone with the process, for questions that need no account.
#[derive(Debug, Default)]
pub(crate) struct Volatile(std::collections::BTreeMap<Vec<u8>, Vec<u8>>);

impl ClientStore for Volatile {
    fn apply(&mut self, batch: &Batch) -> Result<(), StoreFault> {
        let records = &mut self.0;
        for op in &batch.ops {
            match op {
                Op::Put(key, value) => drop(records.insert(key.clone(), value.clone())),
                Op::Delete(key) => drop(records.remove(key)),
                Op::DeletePrefix(prefix) => records.retain(|key, _| !key.starts_with(prefix)),
            }
        }
        Ok(())
    }

    fn load(&mut self, page: &Page) -> Result<Records, StoreFault> {
        let records = &mut self.0;
        let of_page = records.iter().filter(|(key, _)| {
            key.starts_with(&page.prefix) && page.after.as_ref().is_none_or(|after| *key > after)
        });
        Ok(of_page.take(page.most).map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}
