//! The rest of a group's life: fresh keys, what it is called, who may do what, a new group in its place; and another
//! key for this device.

use data_encoding::HEXLOWER_PERMISSIVE;
use qpc_protocol::client::event::Outcome;
use qpc_protocol::client::{ProfileChange, Role};
use qpc_protocol::id::Digest;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::ChannelKind;
use serde_json::json;

use super::account::unexpected;
use super::args::{GroupProfile, NewRole};
use super::context::{Context, check_group_name, find_group};
use super::group::{member_account, suite_name};
use crate::output::plain;
use crate::problem::{Local, Problem};
use crate::session::Session;

/// `qpc group update`.
pub(super) async fn update(context: &Context, group: String) -> Result<(), Problem> {
    let work = async |session: &mut Session| {
        let group = find_group(session, &group).await?.channel;
        let outcome =
            session.lasting("the update", move |client, now| client.update(now, group)).await?;
        let Outcome::Epoch(epoch) = outcome else { return Err(unexpected(&outcome)) };
        session.output().result(
            || format!("this device has fresh keys in the group, epoch {epoch}"),
            &json!({ "type": "updated", "group": group.to_string(), "epoch": epoch }),
        )
    };
    context.on_device(work).await
}

/// `qpc group set`.
pub(super) async fn set(context: &Context, wanted: GroupProfile) -> Result<(), Problem> {
    wanted.name.as_deref().map_or(Ok(()), check_group_name)?;
    let avatar = match wanted.avatar.as_deref() {
        None => None,
        Some("") => Some(None),
        Some(picture) => Some(Some(digest(picture)?)),
    };
    let change = ProfileChange { name: wanted.name, description: wanted.description, avatar };
    let work = async |session: &mut Session| {
        let group = find_group(session, &wanted.group).await?.channel;
        let change = change.clone();
        let outcome = session
            .lasting("the change", move |client, now| client.set_metadata(now, group, change))
            .await?;
        let Outcome::Epoch(epoch) = outcome else { return Err(unexpected(&outcome)) };
        session.output().result(
            || format!("the group shows itself anew, epoch {epoch}"),
            &json!({ "type": "group_set", "group": group.to_string(), "epoch": epoch }),
        )
    };
    context.on_device(work).await
}

/// SHA-256 of a picture: of the file of that name, or given as 64 digits.
fn digest(picture: &str) -> Result<Digest, Problem> {
    let digits = HEXLOWER_PERMISSIVE.decode(picture.as_bytes()).ok();
    if let Some(digits) = digits.and_then(|digits| digits.try_into().ok()) {
        return Ok(Digest(digits));
    }
    let bytes = std::fs::read(picture)
        .map_err(|error| Problem::new(Local::Invalid, format!("{}: {error}", plain(picture))))?;
    Ok(Digest::of(&[&bytes]))
}

/// `qpc group role`.
pub(super) async fn role(context: &Context, wanted: NewRole) -> Result<(), Problem> {
    let NewRole { group, username, role } = wanted;
    let (role, name) = match role.as_str() {
        "admin" => (Role::Admin, "admin"),
        _ => (Role::Member, "member"),
    };
    let work = async |session: &mut Session| {
        session.synced().await?;
        let found = find_group(session, &group).await?;
        if found.kind == ChannelKind::Direct {
            return Err(Problem::new(Local::Invalid, "a direct channel has no roles"));
        }
        let group = found.channel;
        let account = member_account(session, group, &username).await?;
        let outcome = session
            .lasting("the role", move |client, now| client.set_role(now, group, account, role))
            .await?;
        let Outcome::Epoch(epoch) = outcome else { return Err(unexpected(&outcome)) };
        session.output().result(
            || format!("{} is {name} of the group, epoch {epoch}", plain(&username)),
            &json!({
                "type": "role",
                "group": group.to_string(),
                "account": account.to_string(),
                "role": name,
                "epoch": epoch,
            }),
        )
    };
    context.on_device(work).await
}

/// `qpc group reset`.
pub(super) async fn reset(
    context: &Context,
    group: String,
    suite: Option<&str>,
) -> Result<(), Problem> {
    let suite = suite.and_then(|name| Suite::ALL.into_iter().find(|it| suite_name(*it) == name));
    let work = async |session: &mut Session| {
        session.synced().await?;
        let group = find_group(session, &group).await?.channel;
        let outcome = session
            .lasting("the reset", move |client, now| client.reset(now, group, suite))
            .await?;
        let Outcome::Reset { generation, epoch } = outcome else {
            return Err(unexpected(&outcome));
        };
        let groups = session.ask(|client, _| client.groups()).await?;
        let suite = groups.iter().find(|known| known.channel == group).map(|known| known.suite);
        session.output().result(
            || format!("{group} begins anew: generation {generation}, epoch {epoch}"),
            &json!({
                "type": "reset",
                "group": group.to_string(),
                "generation": generation,
                "epoch": epoch,
                "suite": suite.map(suite_name),
            }),
        )
    };
    context.on_device(work).await
}

/// `qpc devices rotate`.
pub(super) async fn rotate(context: &Context) -> Result<(), Problem> {
    let work = async |session: &mut Session| {
        session.synced().await?;
        session.lasting("the new device key", |client, now| client.rotate(now)).await?;
        let me = session.ask(|client, _| client.whoami()).await?;
        let device = me.map(|(_, me, _)| me.device.to_string());
        session.output().result(
            || "this device has a new key; its groups follow".to_owned(),
            &json!({ "type": "rotated", "device": device }),
        )
    };
    context.on_device(work).await
}
