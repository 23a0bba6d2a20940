//! Messages: send, recv, chat.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use qpc_protocol::client::Client;
use qpc_protocol::client::event::{Event, Message, Outcome, Sent};
use qpc_protocol::id::{AccountId, ChannelId};
use qpc_protocol::io::Ticket;
use qpc_protocol::limits::CONTENT_BYTES;
use qpc_protocol::wire::message::Username;
use serde_json::json;
use smol::io::{AsyncBufReadExt as _, BufReader};
use smol::stream::StreamExt as _;
use smol::{Timer, Unblock, future};
use zeroize::Zeroizing;

use super::account::unexpected;
use super::context::{Context, find_group, find_or_open, group_name, shown_name};
use super::group::kind_name;
use super::trust::{mark_of, name_of};
use crate::output::{Output, indented, moment, plain};
use crate::problem::{Local, Problem};
use crate::session::{Session, message_text};

/// How long unread messages may take to come out of the store before something must be in their way.
const STALLED: Duration = Duration::from_secs(5);

/// Lines of a chat that wait for the server; the next one is not read before.
const UNDER_WAY: usize = 256;
/// How long a message may wait for the claim of its sender's name, which a member sends by itself.
const CLAIM_TIME: Duration = Duration::from_millis(300);

/// `qpc send`.
pub(super) async fn send(context: &Context, group: String, text: String) -> Result<(), Problem> {
    let text = Zeroizing::new(text);
    let work = async |session: &mut Session| {
        let body = if text.as_str() == "-" { piped()? } else { text.clone() };
        if body.is_empty() {
            return Err(Problem::new(Local::Invalid, "there is nothing to send"));
        }
        let group = find_or_open(session, &group).await?.channel;
        let send = move |client: &mut Client, now| client.send(now, group, body.as_bytes());
        let outcome = session.lasting("the message", send).await?;
        let Outcome::Sent(sent) = outcome else { return Err(unexpected(&outcome)) };
        print_sent(session.output(), &sent)
    };
    context.on_device(work).await
}

fn piped() -> Result<Zeroizing<String>, Problem> {
    let bad = |why: String| Problem::new(Local::Input, why);
    let mut text = Zeroizing::new(String::new());
    let most = u64::try_from(CONTENT_BYTES).unwrap_or(u64::MAX);
    io::stdin()
        .lock()
        .take(most + 1)
        .read_to_string(&mut text)
        .map_err(|error| bad(format!("standard input: {error}")))?;
    if text.len() > CONTENT_BYTES {
        return Err(bad(format!("a message has at most {CONTENT_BYTES} bytes")));
    }
    let length = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(length);
    Ok(text)
}

fn print_sent(output: Output, sent: &Sent) -> Result<(), Problem> {
    output.result(
        || format!("#{}", sent.accepted.seq),
        &json!({
            "type": "sent",
            "group": sent.channel.to_string(),
            "seq": sent.accepted.seq,
            "message": sent.message.to_string(),
            "time": sent.accepted.time.0,
        }),
    )
}

/// Which messages are wanted, and what their groups are called.
#[derive(Default)]
struct Reader {
    only: Option<ChannelId>,
    names: BTreeMap<ChannelId, Option<String>>,
    /// Accounts whose name was waited for.
    nameless: BTreeSet<AccountId>,
}

impl Reader {
    /// Of one group, however much is unread in others.
    async fn of(session: &Session, group: ChannelId) -> Result<Self, Problem> {
        session.ask(move |client, now| client.prefer(now, group)).await??;
        Ok(Self { only: Some(group), ..Self::default() })
    }

    /// How many messages that are wanted were not printed yet.
    async fn unread(&mut self, session: &Session) -> Result<u32, Problem> {
        let groups = session.ask(|client, _| client.groups()).await?;
        self.names = groups
            .iter()
            .map(|group| (group.channel, group.name.is_some().then(|| shown_name(group))))
            .collect();
        let wanted =
            groups.iter().filter(|group| self.only.is_none_or(|only| only == group.channel));
        Ok(wanted.map(|group| group.unread).sum())
    }

    /// Prints a message if it is wanted; it counts as read once it is out.
    async fn take(&mut self, session: &Session, event: &Event) -> Result<(), Problem> {
        let message = match event {
            Event::Message(message) => message,
            Event::Metadata(group) => {
                self.names.insert(group.channel, Some(group_name(&group.profile.name)));
                return Ok(());
            }
            _ => return Ok(()),
        };
        let (channel, seq) = (message.channel, message.seq);
        if self.only.is_some_and(|only| only != channel) {
            return Ok(());
        }
        let mut message = message.clone();
        if message.username.is_none() {
            let account = message.sender.account;
            message.username = self.sender_name(session, account).await?;
            message.trust = session.ask(move |client, _| client.trust(account)).await?;
        }
        // The sender's name may be the channel's.
        if !self.names.get(&channel).is_some_and(Option::is_some) {
            self.unread(session).await?;
        }
        let name = self.names.get(&channel).cloned().flatten();
        print_message(session.output(), &message, name.as_deref())?;
        session.ask(move |client, now| client.ack(now, channel, seq)).await??;
        Ok(())
    }
}

impl Reader {
    /// A sender's name may be on its way: a member says it, which is worth a moment, once; then the directory is asked
    /// before it is believed, and its answer is waited for as any other.
    async fn sender_name(
        &mut self,
        session: &Session,
        account: AccountId,
    ) -> Result<Option<Username>, Problem> {
        let first = self.nameless.insert(account);
        let (claimed_by, answered_by) = (Instant::now() + CLAIM_TIME, session.deadline());
        loop {
            let (name, asked) = session
                .ask(move |client, _| (client.username(account).cloned(), client.is_confirming()))
                .await?;
            let until = if asked { answered_by } else { claimed_by };
            if name.is_some() || !first || !session.is_online() || Instant::now() >= until {
                return Ok(name);
            }
            Timer::after(Duration::from_millis(10)).await;
        }
    }
}

fn print_message(output: Output, message: &Message, group: Option<&str>) -> Result<(), Problem> {
    let text = message_text(message);
    let account = message.sender.account.to_string();
    let username = message.username.as_ref().map(|name| name.as_str());
    let mut value = json!({
        "type": "message",
        "group": message.channel.to_string(),
        "group_name": group,
        "kind": message.channel.kind().map(kind_name),
        "seq": message.seq,
        "message": message.message.to_string(),
        "epoch": message.epoch,
        "time": message.time.0,
        "username": username,
        "account": account,
        "device": message.sender.device.to_string(),
        "trust": message.trust.map(name_of),
    });
    match text {
        Some(text) => value["text"] = text.into(),
        None => value["hex"] = HEXLOWER.encode(&message.body).into(),
    }
    output.result(
        || {
            let id = message.channel.to_string();
            let group = plain(group.unwrap_or(&id[..8]));
            let sender = username.map_or_else(|| format!("({})", &account[..8]), plain);
            let text = text.map_or_else(|| format!("({} bytes)", message.body.len()), indented);
            format!("{}  {group}  {sender}{}: {text}", moment(message.time), mark_of(message.trust))
        },
        &value,
    )
}

/// `qpc recv`.
pub(super) async fn recv(
    context: &Context,
    group: Option<String>,
    follow: bool,
) -> Result<(), Problem> {
    let work = async |session: &mut Session| {
        let mut reader = match &group {
            Some(group) => {
                let group = find_group(session, group).await?.channel;
                Reader::of(session, group).await?
            }
            None => Reader::default(),
        };
        if follow {
            reader.unread(session).await?;
            loop {
                let event = session.next_ever().await?;
                reader.take(session, &event).await?;
            }
        }
        let deadline = session.deadline();
        let mut unreachable = None;
        let mut progress = Instant::now();
        loop {
            let settled = session.is_synced() || unreachable.is_some();
            if settled && reader.unread(session).await? == 0 {
                return unreachable.map_or(Ok(()), Err);
            }
            if settled && progress.elapsed() >= STALLED {
                let text = "unread messages do not come out of this device's store";
                return Err(Problem::new(Local::Internal, text));
            }
            let until =
                if settled { Instant::now() + Duration::from_millis(100) } else { deadline };
            match session.next(until).await {
                Ok(event) => {
                    reader.take(session, &event).await?;
                    progress = Instant::now();
                }
                // What is here already is printed even if the server cannot be reached.
                Err(problem) if problem.is_unreachable() => {
                    if !settled {
                        unreachable = Some(problem);
                        progress = Instant::now();
                    }
                }
                Err(problem) => return Err(problem),
            }
        }
    };
    context.on_device(work).await
}

enum Turn {
    Line(Option<io::Result<String>>),
    Event(Result<Event, Problem>),
}

/// `qpc chat`.
pub(super) async fn chat(context: &Context, group: String) -> Result<(), Problem> {
    let work = async |session: &mut Session| {
        let group = find_or_open(session, &group).await?.channel;
        let mut reader = Reader::of(session, group).await?;
        reader.unread(session).await?;
        session.output().progress("lines are sent as they are entered; end with Ctrl-D");
        let mut lines = BufReader::new(Unblock::new(io::stdin())).lines();
        let mut waiting: Vec<Ticket> = Vec::new();
        let mut open = true;
        while open || !waiting.is_empty() {
            let line = async {
                if !open || waiting.len() >= UNDER_WAY {
                    return future::pending().await;
                }
                Turn::Line(lines.next().await)
            };
            let turn = future::or(async { Turn::Event(session.next_ever().await) }, line).await;
            match turn {
                Turn::Line(None) => open = false,
                Turn::Line(Some(line)) => {
                    let line = line.map_err(|error| {
                        Problem::new(Local::Input, format!("standard input: {error}"))
                    })?;
                    let line = Zeroizing::new(line);
                    if !line.trim().is_empty() {
                        let send = session
                            .begin(move |client, now| client.send(now, group, line.as_bytes()));
                        waiting.push(send.await?);
                        session.queued = true;
                    }
                }
                Turn::Event(event) => {
                    said(session, &mut reader, &mut waiting, event?).await?;
                    session.queued = !waiting.is_empty();
                }
            }
        }
        Ok(())
    };
    context.on_device(work).await
}

/// One event of a chat.
async fn said(
    session: &Session,
    reader: &mut Reader,
    waiting: &mut Vec<Ticket>,
    event: Event,
) -> Result<(), Problem> {
    match event {
        Event::Done(ticket, Outcome::Sent(sent)) if waiting.contains(&ticket) => {
            waiting.retain(|other| *other != ticket);
            if session.output().is_json() {
                print_sent(session.output(), &sent)?;
            }
        }
        Event::Failed(ticket, failed) if waiting.contains(&ticket) => {
            waiting.retain(|other| *other != ticket);
            session.output().problem(&Problem::from(failed));
        }
        event => reader.take(session, &event).await?,
    }
    Ok(())
}
