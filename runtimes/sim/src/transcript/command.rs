//! Commands of an application as data.

use qpc_protocol::client::Client;
use qpc_protocol::env::Now;
use qpc_protocol::error::Refused;
use qpc_protocol::id::{AccountId, ChannelId};
use qpc_protocol::io::Ticket;
use qpc_protocol::mls::suite::Suite;
use serde_json::Value;

use super::json::{Json, fields, named, unhex};

/// What an application asks of a device. The fields are the arguments of the method of that name.
#[derive(Clone, Debug)]
pub(super) enum Command {
    Register { username: String, password: String },
    Login { username: String, password: String },
    Connect,
    Disconnect,
    CreateGroup { name: String, suite: Suite },
    Invite { channel: ChannelId, username: String },
    Remove { channel: ChannelId, account: AccountId },
    Update { channel: ChannelId },
    Rejoin { channel: ChannelId },
    Send { channel: ChannelId, body: Vec<u8> },
    Ack { channel: ChannelId, seq: u64 },
}

impl Command {
    /// Gives it: its ticket, if it has one.
    pub(super) fn give(&self, client: &mut Client, now: Now) -> Result<Option<Ticket>, Refused> {
        let given = match self {
            Self::Connect => {
                return {
                    client.connect(now);
                    Ok(None)
                };
            }
            Self::Disconnect => {
                return {
                    client.disconnect(now);
                    Ok(None)
                };
            }
            Self::Ack { channel, seq } => return client.ack(now, *channel, *seq).map(|()| None),
            Self::Register { username, password } => {
                client.register(now, username, password.clone().into())
            }
            Self::Login { username, password } => {
                client.login(now, username, password.clone().into())
            }
            Self::CreateGroup { name, suite } => client.create_group(now, name, *suite),
            Self::Invite { channel, username } => client.invite(now, *channel, username),
            Self::Remove { channel, account } => client.remove(now, *channel, *account),
            Self::Update { channel } => client.update(now, *channel),
            Self::Rejoin { channel } => client.rejoin(now, *channel),
            Self::Send { channel, body } => client.send(now, *channel, body),
        };
        given.map(Some)
    }

    /// Reads what [`Json::json`] made of one.
    pub(super) fn read(of: &Value) -> Option<Self> {
        let of = match of.as_str() {
            Some("connect") => return Some(Self::Connect),
            Some("disconnect") => return Some(Self::Disconnect),
            _ => of.as_object()?,
        };
        let (name, of) = of.iter().next()?;
        let text = |name: &str| of[name].as_str().map(str::to_owned);
        let channel = || ChannelId::from_hex(of["channel"].as_str()?);
        let username = || text("username");
        let account = || AccountId::from_hex(of["account"].as_str()?);
        Some(match name.as_str() {
            "register" => Self::Register { username: username()?, password: text("password")? },
            "login" => Self::Login { username: username()?, password: text("password")? },
            "createGroup" => {
                let suite = Suite::from_number(u16::try_from(of["suite"].as_u64()?).ok()?)?;
                Self::CreateGroup { name: text("name")?, suite }
            }
            "invite" => Self::Invite { channel: channel()?, username: username()? },
            "remove" => Self::Remove { channel: channel()?, account: account()? },
            "update" => Self::Update { channel: channel()? },
            "rejoin" => Self::Rejoin { channel: channel()? },
            "send" => Self::Send { channel: channel()?, body: unhex(&of["body"]) },
            "ack" => Self::Ack { channel: channel()?, seq: of["seq"].as_u64()? },
            _ => return None,
        })
    }
}

impl Json for Command {
    fn json(&self) -> Value {
        match self {
            Self::Register { username, password } => named("register", fields!(username, password)),
            Self::Login { username, password } => named("login", fields!(username, password)),
            Self::Connect => "connect".into(),
            Self::Disconnect => "disconnect".into(),
            Self::CreateGroup { name, suite } => named("createGroup", fields!(name, suite)),
            Self::Invite { channel, username } => named("invite", fields!(channel, username)),
            Self::Remove { channel, account } => named("remove", fields!(channel, account)),
            Self::Update { channel } => named("update", fields!(channel)),
            Self::Rejoin { channel } => named("rejoin", fields!(channel)),
            Self::Send { channel, body } => named("send", fields!(channel, body)),
            Self::Ack { channel, seq } => named("ack", fields!(channel, seq)),
        }
    }
}
