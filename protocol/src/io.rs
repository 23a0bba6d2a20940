//! Everything that passes between a machine and its runtime: [`Input`] goes in, [`Output`] comes out.
//!
//! The contract, for both machines (each rule has a test):
//!
//! * `handle(now, input)` and commands may be called in any order, any number of times, before
//!   [`Output`]s are drained with `poll`; draining late costs latency only.
//! * `poll` returns [`Output::Idle`] when there is nothing left to do until its `wake_at` or the next
//!   input. Waking too early is harmless; a runtime needs one timer.
//! * A link is an ordered byte stream. Its id is used once. A connection has one link or many.
//! * [`Output::Read`] asks for one [`Input::Bytes`] on that link (at most
//!   [`READ_CHUNK`](crate::limits::READ_CHUNK) bytes); none may be delivered unasked.
//! * [`Input::Writable`] *adds* credit in bytes to a link; [`Output::Send`] never spends more.
//! * [`Output::Persist`] batches are applied in the order they come out, each atomically, and each is
//!   answered by [`Input::Persisted`]; an [`Output::Load`] reads what all batches before it have written;
//!   [`Output::Store`] operations are answered by [`Input::Stored`],
//!   [`Output::Load`] by [`Input::Loaded`], [`Output::Compute`] by [`Input::Computed`].

use core::fmt;
use core::time::Duration;

use crate::client::event::Event;
use crate::error::{CloseCode, StoreFault};
use crate::id::ChannelId;
use crate::job::{Job, JobOutput};
use crate::server::audit::AuditEvent;
use crate::server::op::{StoreOp, StoreReply};
use crate::store::batch::{Batch, Records};

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
            pub struct $name(pub u64);
        )*
    };
}

handles! {
    /// A connection. A client's machine draws the id, a server's runtime does; never reused.
    ConnId;
    /// A link of a connection. A client's machine draws the id, a server's runtime does; never reused
    /// and unique across connections.
    LinkId;
    /// A batch to persist; contiguous from 1.
    BatchId;
    /// A read of stored records.
    LoadId;
    /// A store operation.
    OpId;
    /// A job handed to the runtime.
    JobId;
    /// A command accepted, finished by an event that carries it.
    Ticket;
}

/// Where to connect to: the address as the configuration has it, opaque to the machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target(pub String);

/// How many links a transport can give one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// One ordered byte stream carries everything: a serial line, a Unix socket, TCP.
    One,
    /// As many as needed: QUIC streams.
    Many,
}

/// What ties a session to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindingKind {
    /// Keying material exported from TLS 1.3 (RFC 9266 style), label `EXPORTER-qpc-v1`.
    TlsExporter,
    /// The handshake hash of a Noise channel.
    NoiseHash,
    /// Nothing: the transport is plain. Refused unless the configuration says `insecure_plain`.
    InsecurePlain,
}

impl BindingKind {
    /// The byte that is signed and sent.
    pub fn number(self) -> u8 {
        match self {
            Self::TlsExporter => 1,
            Self::NoiseHash => 2,
            Self::InsecurePlain => 3,
        }
    }
}

/// A channel binding: the same 32 bytes on both ends, different for every connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// Where the bytes come from.
    pub kind: BindingKind,
    /// The bytes; zeros for [`BindingKind::InsecurePlain`].
    pub value: [u8; 32],
}

// The bytes are keying material of the connection.
impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Binding({:?}, …)", self.kind)
    }
}

/// What a runtime knows of a fresh connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transport {
    /// The channel binding.
    pub binding: Binding,
    /// Who is at the other end, as far as the transport can tell. On a server: what login budgets per
    /// source are kept by (an IPv4 address, the /64 of an IPv6 one), at most 64 bytes. On a client: free.
    pub peer: Vec<u8>,
    /// One link or many.
    pub links: Links,
}

/// Why a link or connection is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The other side closed it with this code.
    Closed(CloseCode),
    /// The other side finished sending (links only).
    Finished,
    /// The transport lost it or could not make it; the text is for people.
    Lost(String),
    /// The transport reached someone, but not whom it should: wrong certificate, pin or ALPN. Trying
    /// again cannot help.
    Untrusted(String),
}

/// What a link carries. The first frame on a link says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkRole {
    /// Everything, on a transport with one link.
    All,
    /// Calls and their replies, pipelined.
    Calls,
    /// Pushes from server to client; acks back.
    Pushes,
    /// One bulk object.
    Bulk,
}

/// What a runtime tells a machine.
pub enum Input<'a> {
    /// A connection is up. On a client it answers [`Output::Connect`].
    Connected(ConnId, Transport),
    /// A connection is gone, its links with it, or could not be made.
    Disconnected(ConnId, Gone),
    /// The other side opened a link (server).
    Accepted(ConnId, LinkId),
    /// Bytes that arrived on a link.
    Bytes(LinkId, &'a [u8]),
    /// The other side closed a link, or finished sending on it.
    Closed(LinkId, Gone),
    /// The link takes this many more bytes.
    Writable(LinkId, usize),
    /// A batch is durable, or will never be (client).
    Persisted(BatchId, Result<(), StoreFault>),
    /// Records that were asked for (client).
    Loaded(LoadId, Result<Records, StoreFault>),
    /// The answer to a store operation (server).
    Stored(OpId, Result<StoreReply, StoreFault>),
    /// Another process appended up to this seq to a channel of the shared store (server).
    Notified(ChannelId, u64),
    /// A job is done.
    Computed(JobId, JobOutput),
    /// Nothing but time has passed.
    Tick,
}

// Bytes of a link carry tokens, stored records private keys: only their sizes are shown.
impl fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected(conn, transport) => write!(f, "Connected({conn:?}, {transport:?})"),
            Self::Disconnected(conn, why) => write!(f, "Disconnected({conn:?}, {why:?})"),
            Self::Accepted(conn, link) => write!(f, "Accepted({conn:?}, {link:?})"),
            Self::Bytes(link, bytes) => write!(f, "Bytes({link:?}, {} bytes)", bytes.len()),
            Self::Closed(link, why) => write!(f, "Closed({link:?}, {why:?})"),
            Self::Writable(link, credit) => write!(f, "Writable({link:?}, {credit})"),
            Self::Persisted(batch, result) => write!(f, "Persisted({batch:?}, {result:?})"),
            Self::Loaded(load, Ok(records)) => {
                write!(f, "Loaded({load:?}, {} records)", records.len())
            }
            Self::Loaded(load, Err(fault)) => write!(f, "Loaded({load:?}, {fault:?})"),
            Self::Stored(op, result) => write!(f, "Stored({op:?}, {result:?})"),
            Self::Notified(channel, seq) => write!(f, "Notified({channel:?}, {seq})"),
            Self::Computed(job, output) => write!(f, "Computed({job:?}, {output:?})"),
            Self::Tick => f.write_str("Tick"),
        }
    }
}

/// What a machine asks of its runtime.
#[derive(Debug)]
pub enum Output {
    /// Make a connection; answer with `Connected` or `Disconnected` (client).
    Connect(ConnId, Target),
    /// Open a link; there is no answer but `Writable` (client). Transports with one link hand out that.
    Open(ConnId, LinkId, LinkRole),
    /// `len` bytes were appended to the buffer given to `poll`: send them on that link. `fin`: the last.
    Send {
        /// The link.
        link: LinkId,
        /// How many bytes, at the end of the buffer.
        len: usize,
        /// Nothing follows on this link.
        fin: bool,
    },
    /// Deliver the next bytes of that link.
    Read(LinkId),
    /// Close a link at once, both directions.
    CloseLink(LinkId, CloseCode),
    /// Close a connection at once, all links with it. No `Disconnected` follows.
    CloseConn(ConnId, CloseCode),
    /// Make a batch durable (client).
    Persist(Batch),
    /// Read stored records, with all batches that came out before (client).
    Load(LoadId, Page),
    /// Execute a store operation; those that come out together go into one transaction (server).
    Store(OpId, StoreOp),
    /// Something for the audit log (server).
    Audit(AuditEvent),
    /// Run [`Job::run`] somewhere and hand the result back.
    Compute(JobId, Job),
    /// Something for the application (client).
    Event(Event),
    /// Nothing to do until `wake_at` on the monotonic clock (or the next input, if `None`).
    Idle {
        /// When to send a [`Input::Tick`] at the latest.
        wake_at: Option<Duration>,
        /// What the deadline is for.
        reason: WakeReason,
    },
}

/// Which records to read: those whose key starts with `prefix` and comes after `after`, in key order,
/// at most `most` of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The prefix of the keys.
    pub prefix: Vec<u8>,
    /// Where the page before ended.
    pub after: Option<Vec<u8>>,
    /// Most records to return.
    pub most: usize,
}

/// What a deadline is for; the earliest wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum WakeReason {
    /// No deadline: only an input can cause work.
    Nothing,
    /// A connection attempt is due.
    Reconnect,
    /// A handshake or session proof is overdue.
    Handshake,
    /// A call is overdue.
    Call,
    /// The connection should show that it lives.
    KeepAlive,
    /// A token has to be refreshed.
    Token,
    /// Key packages have to be replaced, or keys of before erased.
    KeyPackages,
    /// Something that the server could not do is asked again.
    Retry,
    /// A staggered or retried commit is due.
    Commit,
    /// The keys of an own leaf, or envelope keys, have to be replaced.
    Update,
    /// A long poll has to be answered.
    LongPoll,
    /// An answer is held back to its floor time.
    Floor,
    /// Expired entries have to be swept.
    Sweep,
    /// A drain ends.
    Drain,
}

#[cfg(test)]
mod tests;
