//! The connection of a client: its links, its calls in flight, and when to try again.

use core::time::Duration;
use std::collections::BTreeMap;

use super::contacts::NameClaim;
use super::session::Phase;
use crate::delivery::backoff::Backoff;
use crate::env::UnixMillis;
use crate::id::{ChannelId, Digest};
use crate::io::{ConnId, LinkId, LinkRole, Ticket, Transport};
use crate::mls::suite::Suite;
use crate::wire::frame::Decoder;

/// What a call in flight is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Hello,
    RegisterStart,
    RegisterFinish,
    LoginStart,
    LoginFinish,
    DeviceRegister,
    /// `DeviceRegister` with a new key, within a session.
    Rotate,
    /// `DeviceRegister` with new envelope keys, within a session.
    Envelope,
    Resume,
    Refresh,
    /// `Refresh` within a session, for the next one.
    Renew,
    KeepAlive,
    /// A question of the application.
    Ask(Ticket, Ask),
    /// `DeviceList` of the own account, for this machine itself.
    OwnDevices,
    /// `ChannelList`, after a backup was restored.
    Memberships,
    PackageStatus(Suite),
    PackageUpload(Suite),
    /// `ChannelCreate` of an intent.
    Found(Ticket),
    /// `ChannelCreate` of the next generation.
    Reset(Ticket),
    /// `AccountLookup` of an intent.
    Resolve(Ticket),
    /// `KeyPackageFetch` of an intent.
    Claim(Ticket),
    /// `AccountLookup` to check what a member says an account is called.
    Confirm(NameClaim),
    Submit(Ticket),
    Commit(Ticket),
    /// Behind which seq.
    Subscribe(ChannelId, u64),
    /// A chunk of this blob, which an entry of this channel waits for.
    Blob(ChannelId, Digest),
    /// What a commit to come back to this group by is made from.
    GroupInfo(ChannelId),
    /// A chunk of the tree that goes with it.
    RejoinTree(ChannelId),
    /// A chunk of a blob that a commit names.
    Upload(Ticket),
    /// Nothing depends on the answer: `Ack`, `Unsubscribe`.
    Tell,
    /// Whatever it was, the session that it was asked for is over.
    Void,
}

/// A question that changes nothing here: asked again after a lost connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Ping(Duration),
    Health,
    Lookup(crate::wire::message::Username),
    Devices,
    Revoke(crate::id::DeviceId),
    Packages,
    Logout,
    Delete,
}

/// A call in flight.
#[derive(Debug)]
pub(super) struct Pending {
    pub what: Call,
    pub deadline: Duration,
}

/// One link.
#[derive(Debug)]
pub(super) struct Link {
    pub role: LinkRole,
    pub decoder: Decoder,
    /// Encoded frames, not yet sent.
    pub out: Vec<u8>,
    pub credit: usize,
    /// Close our side when `out` is empty.
    pub fin: bool,
}

impl Link {
    pub(super) fn new(role: LinkRole) -> Self {
        Self { role, decoder: Decoder::default(), out: Vec::new(), credit: 0, fin: false }
    }
}

/// A connection, made or being made.
#[derive(Debug)]
pub(super) struct Connection {
    pub id: ConnId,
    pub transport: Option<Transport>,
    /// The link of calls; of everything, if there is one only.
    pub calls_link: Option<LinkId>,
    pub links: BTreeMap<LinkId, Link>,
    pub phase: Phase,
    pub nonce: [u8; 32],
    /// What the server's calendar showed, and when: tokens end by that.
    pub greeted: Option<(UnixMillis, Duration)>,
    /// When tokens are renewed within the session.
    pub renew_at: Option<Duration>,
    /// Tokens were renewed before the session: once is enough.
    pub refreshed: bool,
    /// By when the handshake has to be through.
    pub handshake_by: Duration,
    /// When something last arrived.
    pub heard: Duration,
    pub next_call: u32,
    pub calls: BTreeMap<u32, Pending>,
}

impl Connection {
    /// Whether calls that need a session may be made.
    pub(super) fn online(&self) -> bool {
        self.phase == Phase::Online
    }

    /// The earliest deadline of a call.
    pub(super) fn call_deadline(&self) -> Option<Duration> {
        self.calls.values().map(|pending| pending.deadline).min()
    }
}

/// Whether and when to connect.
#[derive(Debug)]
pub(super) struct Net {
    pub conn: Option<Connection>,
    pub backoff: Backoff,
    /// When to connect next; `None`: only when asked.
    pub connect_at: Option<Duration>,
}
