//! What a verb has at hand: where the home is, where secrets come from, and sessions.

use std::path::{Path, PathBuf};
use std::time::Duration;

use qpc_protocol::client::UpdatePolicy;
use qpc_protocol::client::event::{GroupSummary, Outcome};
use qpc_protocol::wire::message::{ChannelKind, Username};
use smol::future;
use zeroize::Zeroizing;

use super::account::unexpected;
use super::args::Global;
use super::interrupted;
use crate::home::{self, Home, Remembered, SealedBy, Secret};
use crate::output::{Output, plain};
use crate::password::Source;
use crate::problem::{Local, Problem};
use crate::session::{Server, Session, Terms, Volatile};

/// What a verb has at hand.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) output: Output,
    verb: &'static str,
    home: Option<PathBuf>,
    server: Option<String>,
    ca: Option<PathBuf>,
    key_file: Option<PathBuf>,
    pub(super) passwords: Source,
    timeout: Duration,
    update: UpdatePolicy,
}

/// How far a registration or login has come in a home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Nothing,
    /// It was interrupted: what the server knows of it is not known.
    Begun,
    Finished,
}

/// What a device begins with.
pub(super) struct Beginning {
    pub(super) password: Zeroizing<String>,
    /// How far somebody came here before.
    pub(super) before: Before,
}

impl Context {
    pub(super) fn new(global: Global, output: Output, verb: &'static str) -> Self {
        Self {
            output,
            verb,
            update: global.update(),
            home: global.home,
            server: global.server,
            ca: global.ca,
            key_file: global.key_file,
            passwords: Source { stdin: global.password_stdin, file: global.password_file },
            timeout: Duration::from_secs(global.timeout),
        }
    }

    fn path(&self) -> Result<PathBuf, Problem> {
        match &self.home {
            Some(path) => Ok(path.clone()),
            None => home::default_path(),
        }
    }

    fn terms(&self, connect: bool) -> Terms {
        Terms { output: self.output, timeout: self.timeout, connect, update: self.update }
    }

    /// The server that was named, else the one that the home remembers.
    fn server(&self, home: &Path) -> Result<Server, Problem> {
        let remembered = home::remembered(home)?.map(|remembered| remembered.server);
        let address = self.server.clone().or(remembered).ok_or_else(|| {
            Problem::new(Local::NoServer, "no server is named, and none is remembered here")
        })?;
        Ok(Server { address, ca: self.ca.clone().or_else(|| home::remembered_ca(home)) })
    }

    /// Runs `work` on the device that lives in the home.
    pub(super) async fn on_device(
        &self,
        work: impl AsyncFnOnce(&mut Session) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        self.work(true, work).await
    }

    /// The same without a connection.
    pub(super) async fn offline(
        &self,
        work: impl AsyncFnOnce(&mut Session) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        self.work(false, work).await
    }

    async fn work(
        &self,
        connect: bool,
        work: impl AsyncFnOnce(&mut Session) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let path = self.path()?;
        // The password first: while a person types it, others may use the home.
        let secret = self.secret(&path)?;
        let home = Home::open(&path, self.verb, self.timeout)?;
        let store = home.unlock(&secret)?;
        drop(secret);
        let server = self.server(&path)?;
        let mut session =
            Session::start(Some(home), Box::new(store), &server, self.terms(connect))?;
        let result = until_interrupted(async {
            if connect {
                session.ask(|client, _| client.may_connect()).await??;
                session.count_owed().await?;
            }
            work(&mut session).await?;
            session.flush().await
        })
        .await;
        finish(session, result).await
    }

    /// What opens this home.
    fn secret(&self, path: &Path) -> Result<Secret, Problem> {
        match (home::sealed_by(path)?, &self.key_file) {
            (Some(SealedBy::KeyFile), Some(file)) => {
                Ok(Secret::KeyFile(home::key_file(file, false)?))
            }
            (Some(SealedBy::KeyFile), None) => {
                Err(Problem::new(Local::KeyFile, "this home opens with a key file only"))
            }
            (None, _) => Err(Problem::new(
                Local::NoAccount,
                format!("no device lives in {}", path.display()),
            )),
            (Some(SealedBy::Password), _) => Ok(Secret::Password(self.passwords.password(false)?)),
        }
    }

    /// Runs `work` on a device that may be new, for register and login. What a first try made is taken back if it
    /// fails.
    pub(super) async fn on_new_device(
        &self,
        work: impl AsyncFnOnce(&mut Session, Beginning) -> Result<(), Problem>,
        twice: bool,
    ) -> Result<(), Problem> {
        let path = self.path()?;
        let server = self.server(&path)?;
        let home = Home::open_or_make(&path, self.verb, self.timeout)?;
        let sealed_by = home::sealed_by(&path)?;
        let password = self.passwords.password(twice && sealed_by.is_none())?;
        let by_key_file = match sealed_by {
            Some(by) => by == SealedBy::KeyFile,
            None => self.key_file.is_some(),
        };
        let secret = match (&self.key_file, by_key_file) {
            (Some(file), true) => Secret::KeyFile(home::key_file(file, sealed_by.is_none())?),
            (None, true) => {
                return Err(Problem::new(Local::KeyFile, "this home opens with a key file only"));
            }
            (_, false) => Secret::Password(password.clone()),
        };
        if sealed_by.is_none() {
            home.make_key(&secret)?;
        }
        let store = home.unlock(&secret)?;
        // Held here too: it goes on after the session.
        let mut session = Session::start(None, Box::new(store), &server, self.terms(true))?;
        let before = match (sealed_by, home::remembered(&path)?) {
            (None, _) => Before::Nothing,
            (Some(_), None) => Before::Begun,
            (Some(_), Some(_)) => Before::Finished,
        };
        let beginning = Beginning { password, before };
        let result = until_interrupted(work(&mut session, beginning)).await;
        let known = session.ask(|client, _| client.whoami().is_some()).await;
        let result = finish(session, result).await;
        match result {
            Ok(()) => home.remember(&Remembered { server: server.address }, server.ca.as_deref()),
            Err(problem) => {
                // An account that the server may know is kept, even if it did not say so in time.
                if known == Ok(false) {
                    home.undo();
                }
                Err(problem)
            }
        }
    }

    /// Runs `work` without an account, for questions to the server itself.
    pub(super) async fn anonymously(
        &self,
        work: impl AsyncFnOnce(&mut Session) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let server = self.server(&self.path()?)?;
        let store = Box::new(Volatile::default());
        let mut session = Session::start(None, store, &server, self.terms(false))?;
        let result = until_interrupted(work(&mut session)).await;
        finish(session, result).await
    }
}

async fn until_interrupted(work: impl Future<Output = Result<(), Problem>>) -> Result<(), Problem> {
    future::or(work, async { Err(interrupted().await) }).await
}

/// Closes the session. What stopped the machine says more than that it has stopped.
async fn finish(session: Session, result: Result<(), Problem>) -> Result<(), Problem> {
    let queued = session.queued;
    let output = session.output();
    let closed = session.close().await;
    match (result, closed) {
        (Err(problem), Ok(())) => {
            if problem.is_interrupted() && queued {
                output.note("it stays queued here and goes out with the next command that reaches the server");
            }
            Err(problem)
        }
        (_, Err(problem)) => Err(problem),
        (Ok(()), Ok(())) => Ok(()),
    }
}

/// A group's name as people read it: that of a direct channel is written as it is addressed.
pub(super) fn shown_name(group: &GroupSummary) -> String {
    match (&group.name, group.kind) {
        (Some(name), ChannelKind::Direct) => format!("@{name}"),
        (Some(name), _) => group_name(name),
        (None, _) => "(no name yet)".to_owned(),
    }
}

/// A group's own name. Who gives it one that looks like a direct channel's does not pass it off as that.
pub(super) fn group_name(name: &str) -> String {
    if name.trim_start().starts_with('@') { format!("\"{name}\"") } else { name.to_owned() }
}

/// Refuses a name for a group that stands for a direct channel.
pub(super) fn check_group_name(name: &str) -> Result<(), Problem> {
    if name.trim_start().starts_with('@') {
        let text =
            "a group's name does not begin with @: that means the direct channel with an account";
        return Err(Problem::new(Local::Usage, text));
    }
    Ok(())
}

/// Whether a group goes by that name. What begins with @ is a username, and means the direct channel with that account
/// whatever groups are called.
fn goes_by(group: &GroupSummary, wanted: &str) -> bool {
    let name = group.name.as_deref();
    match (wanted.strip_prefix('@'), group.kind) {
        (Some(username), ChannelKind::Direct) => {
            let username = Username::prepare(username);
            username.is_some_and(|username| name == Some(username.as_str()))
        }
        (None, ChannelKind::Group) => name == Some(wanted),
        _ => false,
    }
}

/// The group that `wanted` names: by its name, by the first digits of its id, or by @ and a username.
pub(super) fn pick_group(groups: &[GroupSummary], wanted: &str) -> Result<GroupSummary, Problem> {
    let digits = wanted.to_ascii_lowercase();
    let is_prefix = wanted.len() >= 4;
    let matching: Vec<_> = groups
        .iter()
        .filter(|group| {
            goes_by(group, wanted) || (is_prefix && group.channel.to_string().starts_with(&digits))
        })
        .collect();
    // A group that this device has left does not stand in the way of one it is in.
    let active: Vec<_> = matching.iter().copied().filter(|group| group.member).collect();
    let shown = plain(wanted);
    match (matching.as_slice(), active.as_slice()) {
        ([one], _) | (_, [one]) => Ok((*one).clone()),
        ([], _) => Err(Problem::new(
            Local::GroupUnknown,
            format!("no group is called \"{shown}\" here, and no id starts so"),
        )),
        (several, _) => {
            let candidates =
                several.iter().map(|group| format!("{}  {}", group.channel, shown_name(group)));
            Err(Problem::new(
                Local::GroupAmbiguous,
                format!("\"{shown}\" may mean any of {} groups", several.len()),
            )
            .candidates(candidates.collect()))
        }
    }
}

/// The group that `wanted` names, as it stands now. Groups that this device was just added to count, so all logs are
/// read first if it is not known yet.
pub(super) async fn find_group(
    session: &mut Session,
    wanted: &str,
) -> Result<GroupSummary, Problem> {
    let mut found = known_group(session, wanted).await;
    let unknown = |found: &Result<_, Problem>| {
        found.as_ref().is_err_and(|problem: &Problem| problem.is(Local::GroupUnknown))
    };
    if unknown(&found) && !session.is_synced() {
        session.synced().await?;
        found = known_group(session, wanted).await;
    }
    // Whoever opened a direct channel is known by name once the directory was asked.
    if let (true, Some(username)) = (unknown(&found), wanted.strip_prefix('@').map(str::to_owned)) {
        session.command(move |client, now| client.lookup(now, &username)).await?;
        found = known_group(session, wanted).await;
    }
    found
}

async fn known_group(session: &Session, wanted: &str) -> Result<GroupSummary, Problem> {
    let groups = session.ask(|client, _| client.groups()).await?;
    pick_group(&groups, wanted)
}

/// The same; a direct channel that is not there yet, or that this device does not know by name, is opened.
pub(super) async fn find_or_open(
    session: &mut Session,
    wanted: &str,
) -> Result<GroupSummary, Problem> {
    let Some(username) = wanted.strip_prefix('@') else { return find_group(session, wanted).await };
    match known_group(session, wanted).await {
        Err(problem) if problem.is(Local::GroupUnknown) => open_direct(session, username).await,
        found => found,
    }
}

/// The direct channel with an account, opened if it is not.
pub(super) async fn open_direct(
    session: &mut Session,
    username: &str,
) -> Result<GroupSummary, Problem> {
    let username = username.to_owned();
    let outcome = session
        .lasting("the channel", move |client, now| client.open_direct(now, &username))
        .await?;
    let Outcome::Group(channel) = outcome else { return Err(unexpected(&outcome)) };
    let groups = session.ask(|client, _| client.groups()).await?;
    let group = groups.into_iter().find(|group| group.channel == channel);
    group.ok_or_else(|| unexpected(&Outcome::Group(channel)))
}

#[cfg(test)]
mod tests;
