//! A device of the demo: a home of its own, a machine of its own, and what it has heard.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use qpc_protocol::client::event::{Event, GroupSummary, Outcome};
use qpc_protocol::client::{Client, UpdatePolicy};
use qpc_protocol::env::Now;
use qpc_protocol::error::Refused;
use qpc_protocol::id::ChannelId;
use qpc_protocol::io::{Page, Ticket};
use qpc_smol::store::ClientStore as _;
use zeroize::Zeroizing;

use super::check;
use crate::home::{Home, Secret};
use crate::output::Output;
use crate::problem::{Local, Problem};
use crate::session::{Server, Session, Terms, message_text};

/// For anything that one device waits for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a condition is looked at when nothing is told.
const GLANCE: Duration = Duration::from_millis(10);

/// A message as a device has read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) seq: u64,
    pub(super) text: String,
}

/// A device.
#[derive(Debug)]
pub(super) struct Device {
    /// As in `carol's second device`.
    pub(super) name: String,
    pub(super) username: String,
    password: String,
    home: PathBuf,
    session: Session,
    pub(super) heard: Vec<Heard>,
    pub(super) evicted: bool,
    /// Commands that ended while another one was waited for.
    ended: Vec<(Ticket, Result<Outcome, Problem>)>,
    /// Messages count as read at once; else they stay stored.
    pub(super) acks: bool,
}

impl Device {
    /// A new device in a home of its own, registered or logged in by nobody yet.
    pub(super) fn new(
        dir: &Path,
        (name, username, password): (&str, &str, &str),
        server: &str,
    ) -> Result<Self, Problem> {
        let path = dir.join(name.replace(' ', "-"));
        let home = Home::open_or_make(&path, "demo", PATIENCE)?;
        let secret = Secret::Password(Zeroizing::new(password.to_owned()));
        home.make_key(&secret)?;
        let store = home.unlock(&secret)?;
        let server = Server { address: server.to_owned(), ca: None };
        // A warning would be a defect: `take` makes it one.
        let terms = Terms {
            output: Output::silent(),
            timeout: PATIENCE,
            connect: true,
            update: UpdatePolicy::default(),
        };
        let session = Session::start(Some(home), Box::new(store), &server, terms)?;
        Ok(Self {
            name: name.to_owned(),
            username: username.to_owned(),
            password: password.to_owned(),
            home: path,
            session,
            heard: Vec::new(),
            evicted: false,
            ended: Vec::new(),
            acks: true,
        })
    }

    /// Makes the account and logs in by OPAQUE.
    pub(super) async fn register(&mut self) -> Result<(), Problem> {
        let (name, password) = (self.username.clone(), Zeroizing::new(self.password.clone()));
        self.command(move |client, now| client.register(now, &name, password)).await?;
        self.settle().await
    }

    /// Logs in by OPAQUE, with this password.
    pub(super) async fn login(&mut self, password: &str) -> Result<(), Problem> {
        let (name, password) = (self.username.clone(), Zeroizing::new(password.to_owned()));
        self.command(move |client, now| client.login(now, &name, password)).await?;
        self.settle().await
    }

    /// Waits until the server has key packages of this device.
    async fn settle(&mut self) -> Result<(), Problem> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let outcome = self.command(|client, now| client.key_packages(now)).await?;
            if matches!(outcome, Outcome::KeyPackages { available: 1.., last_resort: true }) {
                return Ok(());
            }
            check(Instant::now() < deadline, || format!("{} uploads no key packages", self.name))?;
            smol::Timer::after(GLANCE).await;
        }
    }

    /// Gives a command and waits for its outcome; what is heard meanwhile is kept.
    pub(super) async fn command(
        &mut self,
        command: impl FnOnce(&mut Client, Now) -> Result<Ticket, Refused> + Send + 'static,
    ) -> Result<Outcome, Problem> {
        let ticket = self.session.begin(command).await?;
        self.outcome(ticket).await
    }

    /// Gives a command.
    pub(super) async fn begin(
        &mut self,
        command: impl FnOnce(&mut Client, Now) -> Result<Ticket, Refused> + Send + 'static,
    ) -> Result<Ticket, Problem> {
        self.session.begin(command).await
    }

    /// Waits for the outcome of a command.
    pub(super) async fn outcome(&mut self, ticket: Ticket) -> Result<Outcome, Problem> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(place) = self.ended.iter().position(|(ended, _)| *ended == ticket) {
                return self.ended.swap_remove(place).1;
            }
            let event = self.session.next(deadline).await?;
            self.take(event).await?;
        }
    }

    /// Sends; returns the seq once the server has it on disk.
    pub(super) async fn send(&mut self, group: ChannelId, text: &str) -> Result<u64, Problem> {
        let ticket = self.begin_send(group, text).await?;
        self.sent(ticket).await
    }

    /// Hands a message over.
    pub(super) async fn begin_send(
        &mut self,
        group: ChannelId,
        text: &str,
    ) -> Result<Ticket, Problem> {
        let body = text.to_owned();
        self.begin(move |client, now| client.send(now, group, body.as_bytes())).await
    }

    /// Waits until the server has it on disk.
    pub(super) async fn sent(&mut self, ticket: Ticket) -> Result<u64, Problem> {
        match self.outcome(ticket).await? {
            Outcome::Sent(sent) => Ok(sent.accepted.seq),
            _ => Err(Problem::new(Local::Internal, "a message was answered with something else")),
        }
    }

    async fn take(&mut self, event: Event) -> Result<(), Problem> {
        match event {
            Event::Message(message) => {
                let (channel, seq) = (message.channel, message.seq);
                let text = message_text(&message).unwrap_or("(not text)").to_owned();
                self.heard.push(Heard { seq, text });
                if self.acks {
                    self.session.ask(move |client, now| client.ack(now, channel, seq)).await??;
                }
            }
            Event::Done(ticket, outcome) => self.ended.push((ticket, Ok(outcome))),
            Event::Failed(ticket, failed) => self.ended.push((ticket, Err(failed.into()))),
            Event::Evicted { .. } => self.evicted = true,
            Event::ForkDetected { .. }
            | Event::ForkSuspected { .. }
            | Event::Unreadable { .. }
            | Event::Gap { .. }
            | Event::ServerFault { .. } => {
                check(false, || format!("{} complains: {event:?}", self.name))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Waits until `holds`; `None` for a group that this device does not know.
    pub(super) async fn until(
        &mut self,
        group: ChannelId,
        what: &str,
        holds: impl Fn(&Self, Option<&GroupSummary>) -> bool,
    ) -> Result<(), Problem> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Some(event) = self.session.ready()? {
                self.take(event).await?;
            }
            let summary = self.summary(group).await?;
            if holds(self, summary.as_ref()) {
                return Ok(());
            }
            check(Instant::now() < deadline, || format!("{}: {what}, in vain", self.name))?;
            match self.session.next(Instant::now() + GLANCE).await {
                Ok(event) => self.take(event).await?,
                Err(problem) if problem.is_unreachable() => {}
                Err(problem) => return Err(problem),
            }
        }
    }

    /// The group as this device knows it.
    pub(super) async fn summary(&self, group: ChannelId) -> Result<Option<GroupSummary>, Problem> {
        let groups = self.session.ask(|client, _| client.groups()).await?;
        Ok(groups.into_iter().find(|known| known.channel == group))
    }

    /// The key exchange of its connection, and whether it is hybrid.
    pub(super) fn key_exchange(&self) -> (String, bool) {
        self.session.key_exchange().unwrap_or_default()
    }

    /// Stops the device and returns everything that its decrypted state holds, and its home.
    pub(super) async fn into_state(self) -> Result<(Vec<u8>, PathBuf), Problem> {
        self.session.close().await?;
        let home = Home::open(&self.home, "demo", PATIENCE)?;
        let mut store = home.unlock(&Secret::Password(Zeroizing::new(self.password)))?;
        let all = Page { prefix: Vec::new(), after: None, most: usize::MAX };
        let records = store.load(&all)?;
        Ok((
            records.into_iter().flat_map(|(key, value)| [key, value]).flatten().collect(),
            self.home,
        ))
    }

    /// Stops the device.
    pub(super) async fn close(self) -> Result<(), Problem> {
        self.session.close().await
    }
}
