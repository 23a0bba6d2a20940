//! The account and its devices: register, login, logout, whoami, keys, devices, delete-account.

use std::io::{self, IsTerminal as _, Write as _};

use qpc_protocol::client::event::Outcome;
use qpc_protocol::error::ErrorCode;
use qpc_protocol::id::{AccountId, DeviceId};
use qpc_protocol::wire::message::{DeviceEntry, Username};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::context::{Before, Beginning, Context};
use crate::output::moment;
use crate::problem::{Local, Problem};
use crate::session::Session;

/// `qpc register`.
pub(super) async fn register(context: &Context, username: String) -> Result<(), Problem> {
    let work = async |session: &mut Session, Beginning { password, before }: Beginning| {
        let known = session.ask(|client, _| client.whoami().map(|(name, ..)| name)).await?;
        // A registration that was interrupted after the server had it is finished by logging in.
        let own = known
            .as_ref()
            .is_some_and(|known| Username::prepare(&username).as_ref() == Some(known));
        let logged_in_here = session.ask(|client, _| client.may_connect()).await?.is_ok();
        if own && logged_in_here && before == Before::Finished {
            let (username, account, device, _) = whoever(session).await?;
            session
                .output()
                .note(&format!("this home is a device of {username} already; nothing was changed"));
            return settled(session, Outcome::Account { username, account, device }).await;
        }
        if own {
            let outcome = log_in(session, username, password).await?;
            return settled(session, outcome).await;
        }
        let (name, secret) = (username.clone(), password.clone());
        let made = session.command(move |client, now| client.register(now, &name, secret)).await;
        let outcome = match made {
            // It may be ours, from before the interruption: the password says so.
            Err(taken) if before == Before::Begun && taken.is_server(ErrorCode::UsernameTaken) => {
                log_in(session, username, password).await.map_err(|error| {
                    if error.is_server(ErrorCode::LoginFailed) { taken } else { error }
                })?
            }
            made => made?,
        };
        settled(session, outcome).await
    };
    context.on_new_device(work, true).await
}

async fn log_in(
    session: &mut Session,
    username: String,
    password: Zeroizing<String>,
) -> Result<Outcome, Problem> {
    session.command(move |client, now| client.login(now, &username, password)).await
}

/// `qpc login`.
pub(super) async fn login(context: &Context, username: Option<String>) -> Result<(), Problem> {
    let work = async |session: &mut Session, Beginning { password, .. }: Beginning| {
        let known = session.ask(|client, _| client.whoami().map(|(name, ..)| name)).await?;
        let username = username.or(known.map(|known| known.to_string())).ok_or_else(|| {
            Problem::new(Local::Invalid, "whom to log in?")
                .next("Name the account: `qpc login <username>`.")
        })?;
        let outcome = log_in(session, username, password).await?;
        settled(session, outcome).await
    };
    context.on_new_device(work, false).await
}

/// Logged in. Only once the server has key packages can others add this device, so that belongs to it.
async fn settled(session: &mut Session, outcome: Outcome) -> Result<(), Problem> {
    let Outcome::Account { username, account, device } = outcome else {
        return Err(unexpected(&outcome));
    };
    session.synced().await?;
    let available = packages_there(session).await?;
    let server = session.address().to_owned();
    session.output().result(
        || format!("{username} is logged in on this device\naccount  {account}\ndevice   {device}"),
        &json!({
            "type": "account",
            "username": username.as_str(),
            "account": account.to_string(),
            "device": device.to_string(),
            "server": server,
            "key_packages": available,
        }),
    )
}

/// The machine uploads key packages by itself when a session opens and the server has too few.
async fn packages_there(session: &mut Session) -> Result<u32, Problem> {
    let deadline = session.deadline();
    loop {
        let outcome = session.command(|client, now| client.key_packages(now)).await?;
        let Outcome::KeyPackages { available, .. } = outcome else {
            return Err(unexpected(&outcome));
        };
        if available > 0 || std::time::Instant::now() >= deadline {
            return Ok(available);
        }
        smol::Timer::after(std::time::Duration::from_millis(20)).await;
    }
}

/// `qpc logout`.
pub(super) async fn logout(context: &Context) -> Result<(), Problem> {
    let work = async |session: &mut Session| {
        session.command(|client, now| client.logout(now)).await?;
        session.output().result(|| "logged out".to_owned(), &json!({ "type": "logged_out" }))
    };
    context.on_device(work).await
}

/// `qpc delete-account`.
pub(super) async fn delete(context: &Context, yes: bool) -> Result<(), Problem> {
    let work = async |session: &mut Session| {
        let (username, ..) = whoever(session).await?;
        if !yes {
            confirm(&username)?;
        }
        session.command(|client, now| client.delete_account(now)).await?;
        session.output().result(
            || {
                format!(
                    "the account {username} is deleted; its state on this device can be removed"
                )
            },
            &json!({ "type": "deleted" }),
        )
    };
    context.on_device(work).await
}

fn confirm(username: &Username) -> Result<(), Problem> {
    let declined = || Problem::new(Local::Declined, "not confirmed");
    if !io::stdin().is_terminal() {
        return Err(declined().next("Run it on a terminal, or with --yes."));
    }
    let mut err = io::stderr().lock();
    drop(write!(err, "This deletes {username} for good. Type the name to confirm: "));
    drop(err);
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(|_| declined())?;
    if line.trim() == username.as_str() { Ok(()) } else { Err(declined()) }
}

/// `qpc whoami`.
pub(super) async fn whoami(context: &Context) -> Result<(), Problem> {
    let work = async |session: &mut Session| {
        let (username, account, device, server) = whoever(session).await?;
        let address = session.address();
        session.output().result(
            || format!("{username}\naccount  {account}\ndevice   {device}\nserver   {address}"),
            &json!({
                "type": "account",
                "username": username.as_str(),
                "account": account.to_string(),
                "device": device.to_string(),
                "server": address,
                "server_id": server,
            }),
        )
    };
    context.offline(work).await
}

async fn whoever(session: &Session) -> Result<(Username, AccountId, DeviceId, String), Problem> {
    let known = session.ask(|client, _| client.whoami()).await?;
    let (username, me, server) =
        known.ok_or_else(|| Problem::new(Local::NoAccount, "this device has no account yet"))?;
    Ok((username, me.account, me.device, server.to_string()))
}

/// `qpc keys status`, `qpc keys refresh`.
pub(super) async fn keys(context: &Context, refresh: bool) -> Result<(), Problem> {
    let work = async |session: &mut Session| {
        let outcome = session
            .command(move |client, now| {
                if refresh { client.refresh_key_packages(now) } else { client.key_packages(now) }
            })
            .await?;
        let Outcome::KeyPackages { available, last_resort } = outcome else {
            return Err(unexpected(&outcome));
        };
        let spare = if last_resort { "and a last-resort one" } else { "no last-resort one" };
        session.output().result(
            || format!("{available} key packages on the server, {spare}"),
            &json!({ "type": "key_packages", "available": available, "last_resort": last_resort }),
        )
    };
    context.on_device(work).await
}

/// `qpc devices list`.
pub(super) async fn devices(context: &Context) -> Result<(), Problem> {
    let work = async |session: &mut Session| {
        let (_, _, own, _) = whoever(session).await?;
        for entry in list(session).await? {
            let (text, value) = shown(&entry, own);
            session.output().result(|| text, &value)?;
        }
        Ok(())
    };
    context.on_device(work).await
}

async fn list(session: &mut Session) -> Result<Vec<DeviceEntry>, Problem> {
    let outcome = session.command(|client, now| client.devices(now)).await?;
    match outcome {
        Outcome::Devices(devices) => Ok(devices),
        other => Err(unexpected(&other)),
    }
}

fn shown(entry: &DeviceEntry, own: DeviceId) -> (String, Value) {
    let device = entry.record.device;
    let (is_own, revoked) = (device == own, entry.revocation.is_some());
    let mark = match (is_own, revoked) {
        (true, _) => "  this device",
        (_, true) => "  revoked",
        _ => "",
    };
    let (since, seen) = (entry.record.not_before, entry.last_seen);
    // The server knows to the hour only when it saw a device: never before there was one.
    let shown = moment(seen.max(since));
    let text = format!("{device}  since {}  seen {shown}{mark}", moment(since));
    let value = json!({
        "type": "device",
        "device": device.to_string(),
        "self": is_own,
        "revoked": revoked,
        "since": since.0,
        "last_seen": seen.0,
    });
    (text, value)
}

/// `qpc devices revoke`.
pub(super) async fn revoke(context: &Context, wanted: String) -> Result<(), Problem> {
    let work = async |session: &mut Session| {
        let digits = wanted.to_ascii_lowercase();
        let devices: Vec<_> = list(session)
            .await?
            .into_iter()
            .map(|entry| entry.record.device)
            .filter(|device| !digits.is_empty() && device.to_string().starts_with(&digits))
            .collect();
        let [device] = devices.as_slice() else {
            let text = match devices.len() {
                0 => "no device of this account has an id that starts so".to_owned(),
                several => format!("{several} devices have ids that start so"),
            };
            let ids = devices.iter().map(ToString::to_string).collect();
            return Err(Problem::new(Local::DeviceUnknown, text).candidates(ids));
        };
        let device = *device;
        session.command(move |client, now| client.revoke(now, device)).await?;
        session.output().result(
            || format!("revoked {device}"),
            &json!({ "type": "revoked", "device": device.to_string() }),
        )
    };
    context.on_device(work).await
}

/// An outcome that does not belong to its command: a defect.
pub(super) fn unexpected(outcome: &Outcome) -> Problem {
    let kind = format!("{outcome:?}");
    let kind = kind.split([' ', '(', '{']).next().unwrap_or_default();
    Problem::new(Local::Internal, format!("the command ended with {kind}"))
}
