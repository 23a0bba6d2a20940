//! Trust: verify, trust list, trust accept, trust forget; and the marks beside names.

use std::io::{self, IsTerminal as _, Write as _};

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use qpc_protocol::client::event::{Comparison, Outcome, Trust, TrustEntry};
use qpc_protocol::crypto::safety_number::{self, ScanError};
use qpc_protocol::id::{AccountId, ChannelId};
use qpc_protocol::wire::message::Username;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde_json::{Value, json};

use super::account::unexpected;
use super::args::{TrustVerb, Verified};
use super::context::{Context, find_group};
use crate::output::{moment, plain};
use crate::problem::{Local, Problem};
use crate::session::Session;

/// `qpc verify`.
pub(super) async fn verify(context: &Context, wanted: Verified) -> Result<(), Problem> {
    let Verified { username, qr, scanned, mark, group, with } = wanted;
    if let Some(group) = group {
        let work = async |session: &mut Session| verify_log(session, &group, with, qr).await;
        return context.on_device(work).await;
    }
    let username = username.unwrap_or_default();
    if mark {
        return context.offline(async |session| mark_compared(session, &username).await).await;
    }
    let work = async |session: &mut Session| match &scanned {
        Some(text) => compare_scanned(session, &username, text).await,
        None => show(session, &username, qr).await,
    };
    context.on_device(work).await
}

/// What the directory says of a name, and what is to be compared.
struct Found {
    username: Username,
    account: AccountId,
    own: AccountId,
    safety_number: String,
    trust: Trust,
}

async fn look_up(session: &mut Session, username: &str) -> Result<Found, Problem> {
    let username = username.to_owned();
    let outcome = session.command(move |client, now| client.lookup(now, &username)).await?;
    let Outcome::Lookup { username, account, safety_number, trust } = outcome else {
        return Err(unexpected(&outcome));
    };
    let own = session.ask(|client, _| client.whoami().map(|(_, me, _)| me.account)).await?;
    let (Some(own), Some(trust)) = (own, trust) else {
        let text = "that is your own account: a safety number is between two";
        return Err(Problem::new(Local::Invalid, text));
    };
    Ok(Found { username, account, own, safety_number, trust })
}

async fn show(session: &mut Session, username: &str, qr: bool) -> Result<(), Problem> {
    let Found { username, account, own, safety_number, trust } = look_up(session, username).await?;
    let code = BASE32_NOPAD.encode(&safety_number::qr(own, account));
    let drawn = if qr { format!("{}\n{code}\n\n", draw(&code)?) } else { String::new() };
    session.output().result(
        || {
            let (first, second) = halves(&safety_number);
            format!(
                "{username}{}\naccount  {account}\n\n    {first}\n    {second}\n\n{drawn}Compare these digits with \
                 {username} in person or by a call. Equal: nobody stands between you.",
                mark_of(Some(trust)),
            )
        },
        &json!({
            "type": "safety_number",
            "username": username.as_str(),
            "account": account.to_string(),
            "safety_number": safety_number,
            "qr": code,
            "trust": name_of(trust),
        }),
    )?;
    let person = io::stdin().is_terminal() && io::stderr().is_terminal();
    if person && !session.output().is_json() && trust != Trust::Verified && asked()? {
        mark(session, &username, account).await?;
    }
    Ok(())
}

/// Asks whether the digits are the same.
fn asked() -> Result<bool, Problem> {
    let mut err = io::stderr().lock();
    drop(write!(err, "\nDo they match? [y/N] "));
    drop(err);
    let mut line = String::new();
    io::stdin()
        .read_line(&mut line)
        .map_err(|error| Problem::new(Local::Input, format!("standard input: {error}")))?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

async fn compare_scanned(session: &mut Session, username: &str, text: &str) -> Result<(), Problem> {
    let found = look_up(session, username).await?;
    match safety_number::compare(found.own, found.account, &scanned_bytes(text)) {
        Ok(()) => mark(session, &found.username, found.account).await,
        Err(ScanError::Unknown) => {
            let text = "that is not what `qpc verify --qr` shows";
            Err(Problem::new(Local::Invalid, text))
        }
        Err(ScanError::Different) => Err(Problem::new(
            Local::SafetyNumber,
            format!("the safety number of {} here is another than the one scanned", found.username),
        )),
    }
}

/// What was compared is what this device has kept of the name, not what the server says of it now.
async fn mark_compared(session: &mut Session, username: &str) -> Result<(), Problem> {
    let contact = contact(session, username).await?;
    if matches!(contact.trust, Trust::Changed { .. }) {
        let text = format!("{} is another account than before", contact.username);
        return Err(Problem::new(Local::NameChanged, text));
    }
    mark(session, &contact.username, contact.account).await
}

async fn mark(
    session: &mut Session,
    username: &Username,
    account: AccountId,
) -> Result<(), Problem> {
    session.command(move |client, now| client.mark_verified(now, account)).await?;
    session.output().result(
        || format!("{username} is verified"),
        &json!({ "type": "verified", "username": username.as_str(), "account": account.to_string() }),
    )
}

/// What this device read of a group's log, signed; or what another member's is to it.
async fn verify_log(
    session: &mut Session,
    group: &str,
    with: Option<String>,
    qr: bool,
) -> Result<(), Problem> {
    session.synced().await?;
    let group = find_group(session, group).await?.channel;
    let Some(text) = with else {
        let own = session.ask(move |client, _| client.checkpoint(group)).await??;
        let text = BASE32_NOPAD.encode(&own.encode());
        let drawn = if qr { format!("\n\n{}", draw(&text)?) } else { String::new() };
        return session.output().result(
            || format!("{group}  epoch {}, #{}\n{text}{drawn}", own.epoch, own.seq),
            &json!({
                "type": "checkpoint",
                "group": group.to_string(),
                "epoch": own.epoch,
                "seq": own.seq,
                "chain": HEXLOWER.encode(&own.chain.0),
                "checkpoint": text,
            }),
        );
    };
    let theirs = scanned_bytes(&text);
    let outcome =
        session.command(move |client, now| client.compare_checkpoint(now, group, &theirs)).await?;
    let Outcome::Compared(found) = outcome else { return Err(unexpected(&outcome)) };
    compared(session, group, found)
}

fn compared(session: &Session, group: ChannelId, found: Comparison) -> Result<(), Problem> {
    let invalid = |text| Err(Problem::new(Local::Invalid, text));
    let (name, seq, agreed, text) = match found {
        Comparison::Same { seq } => ("same", seq, Some(seq), format!("the same log up to #{seq}")),
        Comparison::Ahead { seq, agreed } => {
            let same = match agreed {
                Some(agreed) => format!("the same log up to #{agreed}; "),
                None => String::new(),
            };
            let text = format!(
                "{same}the other has read up to #{seq}, which is not known here yet: receive, and compare again"
            );
            ("ahead", seq, agreed, text)
        }
        Comparison::TooOld { seq } => {
            let text = format!("#{seq} is too far back to compare: ask for a newer checkpoint");
            ("too_old", seq, None, text)
        }
        Comparison::Differs { seq } => ("differs", seq, None, format!("ANOTHER LOG at #{seq}")),
        Comparison::Stranger => return invalid("the checkpoint is by no member of the group"),
        Comparison::Forged => {
            return invalid("the checkpoint is not signed by the device it names");
        }
    };
    session.output().result(
        || text,
        &json!({
            "type": "compared",
            "group": group.to_string(),
            "result": name,
            "seq": seq,
            "agreed": agreed,
        }),
    )?;
    match found {
        Comparison::Differs { .. } => {
            Err(Problem::new(Local::LogsDiffer, "the two devices have read different logs"))
        }
        _ => Ok(()),
    }
}

/// The bytes of a code as printed, however it was wrapped; none if it is none.
fn scanned_bytes(text: &str) -> Vec<u8> {
    let text: String = text.split_whitespace().collect();
    BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).unwrap_or_default()
}

/// Sixty digits in two lines.
fn halves(number: &str) -> (String, String) {
    let groups: Vec<_> = number.split(' ').collect();
    let (first, second) = groups.split_at(groups.len() / 2);
    (first.join(" "), second.join(" "))
}

/// A QR code for a terminal with light text on a dark ground.
fn draw(text: &str) -> Result<String, Problem> {
    let code =
        QrCode::new(text).map_err(|error| Problem::new(Local::Internal, error.to_string()))?;
    let (dark, light) = (Dense1x2::Light, Dense1x2::Dark);
    Ok(code.render::<Dense1x2>().dark_color(dark).light_color(light).build())
}

/// `qpc trust …`.
pub(super) async fn trust(context: &Context, verb: TrustVerb) -> Result<(), Problem> {
    let work = async |session: &mut Session| match verb {
        TrustVerb::List => {
            for entry in session.ask(|client, _| client.trust_list()).await? {
                let (text, value) = shown(&entry);
                session.output().result(|| text, &value)?;
            }
            Ok(())
        }
        TrustVerb::Accept { username } => {
            let TrustEntry { username, account, .. } = contact(session, &username).await?;
            session.command(move |client, now| client.accept_change(now, account)).await?;
            session.output().result(
                || format!("{username} is {account} from now on; not verified"),
                &json!({ "type": "accepted", "username": username.as_str(), "account": account.to_string() }),
            )
        }
        TrustVerb::Forget { username } => {
            let TrustEntry { username, account, .. } = contact(session, &username).await?;
            session.command(move |client, now| client.forget(now, account)).await?;
            session.output().result(
                || format!("forgot {username}"),
                &json!({ "type": "forgotten", "username": username.as_str(), "account": account.to_string() }),
            )
        }
    };
    context.offline(work).await
}

/// What this device has kept of a name.
async fn contact(session: &Session, username: &str) -> Result<TrustEntry, Problem> {
    let wanted = Username::prepare(username.strip_prefix('@').unwrap_or(username));
    let contacts = session.ask(|client, _| client.trust_list()).await?;
    let known = contacts.into_iter().find(|entry| Some(&entry.username) == wanted.as_ref());
    known.ok_or_else(|| {
        Problem::new(
            Local::ContactUnknown,
            format!("nobody is known here as \"{}\"", plain(username)),
        )
    })
}

fn shown(entry: &TrustEntry) -> (String, Value) {
    let TrustEntry { username, account, trust, since } = entry;
    let before = match trust {
        Trust::Changed { before, .. } => Some(before.to_string()),
        Trust::Seen | Trust::Verified => None,
    };
    let was = before.as_ref().map(|before| format!("  before {before}")).unwrap_or_default();
    let text = format!("{username}  {account}  {} since {}{was}", name_of(*trust), moment(*since));
    let value = json!({
        "type": "contact",
        "username": username.as_str(),
        "account": account.to_string(),
        "trust": name_of(*trust),
        "since": since.0,
        "before": before,
    });
    (text, value)
}

/// The trust in an account, as JSON has it.
pub(super) fn name_of(trust: Trust) -> &'static str {
    match trust {
        Trust::Seen => "seen",
        Trust::Verified => "verified",
        Trust::Changed { .. } => "changed",
    }
}

/// What stands behind a name. No username can hold a space, so none can bring the mark along.
pub(super) fn mark_of(trust: Option<Trust>) -> &'static str {
    match trust {
        Some(Trust::Verified) => " (verified)",
        Some(Trust::Changed { .. }) => " (CHANGED)",
        Some(Trust::Seen) | None => "",
    }
}
