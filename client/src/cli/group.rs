//! Groups: create, list, members, invite, remove, leave, rejoin.

use data_encoding::HEXLOWER;
use qpc_protocol::client::event::{GroupMember, GroupSummary, Outcome};
use qpc_protocol::id::{AccountId, ChannelId};
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{ChannelKind, Username};
use serde_json::{Value, json};

use super::account::unexpected;
use super::args::{Invited, NewGroup};
use super::context::{Context, check_group_name, find_group, open_direct, shown_name};
use super::trust::{mark_of, name_of};
use crate::output::plain;
use crate::problem::{Local, Problem};
use crate::session::Session;

/// `qpc group create`.
pub(super) async fn create(context: &Context, new: NewGroup) -> Result<(), Problem> {
    let suite = if new.classical { Suite::Classical } else { Suite::Hybrid };
    let name = new.name;
    check_group_name(&name)?;
    let work = async |session: &mut Session| {
        let of_group = name.clone();
        let outcome = session
            .lasting("the group", move |client, now| client.create_group(now, &of_group, suite))
            .await?;
        let Outcome::Group(channel) = outcome else { return Err(unexpected(&outcome)) };
        session.output().result(
            || format!("{channel}  {}", plain(&name)),
            &json!({
                "type": "group",
                "group": channel.to_string(),
                "kind": kind_name(ChannelKind::Group),
                "name": name,
                "suite": suite_name(suite),
            }),
        )
    };
    context.on_device(work).await
}

/// `qpc direct`.
pub(super) async fn direct(context: &Context, username: String) -> Result<(), Problem> {
    let name = username.strip_prefix('@').unwrap_or(&username).to_owned();
    let work = async |session: &mut Session| {
        let group = open_direct(session, &name).await?;
        let name = group.name.as_deref().unwrap_or(&name);
        session.output().result(
            || format!("{}  @{}", group.channel, plain(name)),
            &json!({
                "type": "group",
                "group": group.channel.to_string(),
                "kind": kind_name(group.kind),
                "name": name,
                "suite": suite_name(group.suite),
            }),
        )
    };
    context.on_device(work).await
}

pub(super) fn kind_name(kind: ChannelKind) -> &'static str {
    match kind {
        ChannelKind::Direct => "direct",
        ChannelKind::Group | ChannelKind::Inbox => "group",
    }
}

pub(super) fn suite_name(suite: Suite) -> &'static str {
    match suite {
        Suite::Hybrid => "hybrid",
        Suite::Classical => "classical",
    }
}

/// `qpc group list`.
pub(super) async fn list(context: &Context, offline: bool) -> Result<(), Problem> {
    let work = async |session: &mut Session| {
        let synced = if offline { Ok(()) } else { session.synced().await };
        // What was queued has its time first: it may change what is listed.
        if synced.is_ok() {
            session.flush().await?;
        }
        // What is known here is shown even if the server cannot be reached.
        let synced = match synced {
            Err(problem) if !problem.is_unreachable() => return Err(problem),
            synced => synced,
        };
        for group in session.ask(|client, _| client.groups()).await? {
            let (text, value) = shown(&group);
            session.output().result(|| text, &value)?;
        }
        synced
    };
    if offline { context.offline(work).await } else { context.on_device(work).await }
}

fn shown(group: &GroupSummary) -> (String, Value) {
    let state = if group.member { "" } else { "  (left)" };
    let again = match group.generation {
        0 | 1 => String::new(),
        generation => format!(", generation {generation}"),
    };
    let about = match group.description.as_str() {
        "" => String::new(),
        about => format!("  {}", plain(about)),
    };
    let text = format!(
        "{}  {}  {} devices, {} unread{again}{state}{about}",
        group.channel,
        plain(&shown_name(group)),
        group.members,
        group.unread,
    );
    // Of a group that this device is out of, it knows nothing that holds now.
    let authenticator = (group.member && !group.authenticator.is_empty())
        .then(|| HEXLOWER.encode(&group.authenticator));
    let value = json!({
        "type": "group",
        "group": group.channel.to_string(),
        "kind": kind_name(group.kind),
        "name": group.name,
        "suite": suite_name(group.suite),
        "generation": group.generation,
        "epoch": group.epoch,
        "members": group.members,
        "unread": group.unread,
        "member": group.member,
        "description": group.description,
        "avatar": group.avatar.map(|avatar| HEXLOWER.encode(&avatar.0)),
        "cursor": group.cursor,
        "authenticator": authenticator,
    });
    (text, value)
}

/// `qpc group members`.
pub(super) async fn members(context: &Context, group: String) -> Result<(), Problem> {
    let work = async |session: &mut Session| {
        session.synced().await?;
        let group = find_group(session, &group).await?;
        let own = session.ask(|client, _| client.whoami()).await?.map(|(_, me, _)| me);
        for member in listed(session, group.channel).await? {
            let is_own = own == Some(member.sender);
            let (account, device) = (member.sender.account, member.sender.device);
            let name = member.username.as_ref().map(Username::as_str);
            let trust = session.ask(move |client, _| client.trust(account)).await?;
            session.output().result(
                || {
                    let admin = if member.admin { "  admin" } else { "" };
                    let mark = if is_own { "  this device" } else { "" };
                    let name = name.unwrap_or("(unknown)");
                    format!("{name}{}  {account}  {device}{admin}{mark}", mark_of(trust))
                },
                &json!({
                    "type": "member",
                    "username": name,
                    "account": account.to_string(),
                    "device": device.to_string(),
                    "admin": member.admin,
                    "self": is_own,
                    "trust": trust.map(name_of),
                }),
            )?;
        }
        Ok(())
    };
    context.on_device(work).await
}

async fn listed(session: &mut Session, channel: ChannelId) -> Result<Vec<GroupMember>, Problem> {
    let outcome = session.command(move |client, now| client.members(now, channel)).await?;
    match outcome {
        Outcome::Members(members) => Ok(members),
        other => Err(unexpected(&other)),
    }
}

/// `qpc group invite`: who cannot be added does not keep the others out.
pub(super) async fn invite(context: &Context, invited: Invited) -> Result<(), Problem> {
    let work = async |session: &mut Session| {
        let group = find_group(session, &invited.group).await?.channel;
        let mut failed = None::<Problem>;
        for username in invited.usernames {
            let Err(problem) = invite_one(session, group, &username).await else { continue };
            if let Some(before) = failed.replace(problem) {
                session.output().problem(&before);
            }
            if failed.as_ref().is_some_and(Problem::ends_all) {
                break;
            }
        }
        failed.map_or(Ok(()), Err)
    };
    context.on_device(work).await
}

async fn invite_one(
    session: &mut Session,
    group: ChannelId,
    username: &str,
) -> Result<(), Problem> {
    let name = username.to_owned();
    let outcome = session
        .lasting("the invitation", move |client, now| client.invite(now, group, &name))
        .await?;
    let (epoch, changed) = match outcome {
        Outcome::Epoch(epoch) => (epoch, true),
        Outcome::Unchanged(epoch) => (epoch, false),
        other => return Err(unexpected(&other)),
    };
    session.output().result(
        || match changed {
            true => format!("{} is in the group, epoch {epoch}", plain(username)),
            false => format!("{} was in the group already: nothing was changed", plain(username)),
        },
        &json!({
            "type": "invited",
            "group": group.to_string(),
            "username": username,
            "epoch": epoch,
            "changed": changed,
        }),
    )
}

/// `qpc group remove`.
pub(super) async fn remove(
    context: &Context,
    group: String,
    username: String,
) -> Result<(), Problem> {
    let work = async |session: &mut Session| {
        session.synced().await?;
        let group = find_group(session, &group).await?.channel;
        let account = member_account(session, group, &username).await?;
        let own = session.ask(|client, _| client.whoami().map(|(_, me, _)| me.account)).await?;
        if own == Some(account) {
            return Err(Problem::new(
                Local::Invalid,
                "that is your own account: `qpc group leave` takes this device out, `qpc devices revoke` another one",
            ));
        }
        let outcome = session
            .lasting("the removal", move |client, now| client.remove(now, group, account))
            .await?;
        let Outcome::Epoch(epoch) = outcome else { return Err(unexpected(&outcome)) };
        session.output().result(
            || format!("{} is out of the group, epoch {epoch}", plain(&username)),
            &json!({
                "type": "removed",
                "group": group.to_string(),
                "account": account.to_string(),
                "epoch": epoch,
            }),
        )
    };
    context.on_device(work).await
}

/// The account of a member: by the name that the directory confirmed, else as the directory says now, else by the
/// first digits of its id.
pub(super) async fn member_account(
    session: &mut Session,
    group: ChannelId,
    wanted: &str,
) -> Result<AccountId, Problem> {
    let members = listed(session, group).await?;
    let accounts: std::collections::BTreeSet<_> =
        members.iter().map(|member| member.sender.account).collect();
    let name = Username::prepare(wanted);
    let named = members.iter().find(|member| member.username.is_some() && member.username == name);
    if let Some(member) = named {
        return Ok(member.sender.account);
    }
    let digits = wanted.to_ascii_lowercase();
    let by_id: Vec<_> = accounts
        .iter()
        .filter(|account| digits.len() >= 8 && account.to_string().starts_with(&digits))
        .collect();
    if let [account] = by_id.as_slice() {
        return Ok(**account);
    }
    let unknown = || {
        Problem::new(
            Local::MemberUnknown,
            format!("no member of the group is called \"{}\"", plain(wanted)),
        )
    };
    if name.is_none() {
        return Err(unknown());
    }
    let wanted = wanted.to_owned();
    match session.command(move |client, now| client.lookup(now, &wanted)).await? {
        Outcome::Lookup { account, .. } if accounts.contains(&account) => Ok(account),
        _ => Err(unknown()),
    }
}

/// `qpc group leave`.
pub(super) async fn leave(context: &Context, group: String) -> Result<(), Problem> {
    let work = async |session: &mut Session| {
        let group = find_group(session, &group).await?.channel;
        session.lasting("leaving", move |client, now| client.leave(now, group)).await?;
        session.output().result(
            || format!("left {group}"),
            &json!({ "type": "left", "group": group.to_string() }),
        )
    };
    context.on_device(work).await
}

/// `qpc group rejoin`.
pub(super) async fn rejoin(context: &Context, group: String) -> Result<(), Problem> {
    let work = async |session: &mut Session| {
        let group = find_group(session, &group).await?.channel;
        let outcome =
            session.lasting("rejoining", move |client, now| client.rejoin(now, group)).await?;
        let Outcome::Epoch(epoch) = outcome else { return Err(unexpected(&outcome)) };
        session.output().result(
            || format!("back in {group}, epoch {epoch}"),
            &json!({ "type": "rejoined", "group": group.to_string(), "epoch": epoch }),
        )
    };
    context.on_device(work).await
}
