//! Queues and what bounds them, by its name in `limits.rs`: by what machines put out, what they have stored, what the
//! store has, and by what they say themselves.

use std::collections::{BTreeMap, BTreeSet};

use qpc_protocol::gauge::Gauge;
use qpc_protocol::id::ChannelId;
use qpc_protocol::io::{ConnId, Input, LinkId, LinkRole, Output};
use qpc_protocol::limits::*;
use qpc_protocol::wire::message::{Body, Entries, Frame, Part, Push, Reply, Request, SubmitKind};

use super::log::Broken;
use super::reader::Reader;
use crate::world::Seen;

/// What is under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Queues {
    /// Store operations that the server waits for.
    stores: usize,
    /// Links of each device's connections.
    links: BTreeMap<(usize, LinkId), (ConnId, bool)>,
    /// Which link of a device a link of the server's is.
    opened: BTreeMap<LinkId, (usize, LinkId)>,
    /// Calls of each device that are not answered: the group of a message.
    calls: BTreeMap<usize, BTreeMap<(LinkId, u32), Option<ChannelId>>>,
    subscribed: BTreeMap<usize, BTreeSet<ChannelId>>,
}

/// A limit, and how much there is.
type Fill = (&'static str, usize, usize);

fn above(fills: impl IntoIterator<Item = Fill>) -> Option<Broken> {
    let mut fills = fills.into_iter();
    fills.find_map(|(name, most, is)| (is > most).then(|| (name, format!("{is} of {most}"))))
}

/// What is fuller than it may be.
fn full(gauges: &[Gauge]) -> Option<Broken> {
    above(gauges.iter().map(|gauge| (gauge.limit, gauge.most, gauge.is)))
}

/// What is left of work that is done.
pub(super) fn undrained(gauges: &[Gauge]) -> Option<Broken> {
    let left = gauges.iter().find(|gauge| gauge.drains && gauge.is > 0)?;
    Some(("what is done leaves no queue behind", format!("{left:?}")))
}

impl Queues {
    /// A machine begins anew.
    pub(super) fn started(&mut self, who: usize) {
        self.links.retain(|(of, _), _| *of != who);
        self.calls.remove(&who);
        self.subscribed.remove(&who);
        if who == usize::MAX {
            self.stores = 0;
        }
    }

    /// Something happened.
    pub(super) fn see(&mut self, seen: &Seen<'_>) -> Option<Broken> {
        match seen {
            Seen::Started(who, ..) => self.started(*who),
            Seen::Opened(device, link, at_server) => {
                self.opened.insert(*at_server, (*device, *link));
            }
            Seen::Output(who, Output::Open(conn, link, role), _) => {
                self.links.insert((*who, *link), (*conn, *role == LinkRole::Bulk));
                let of = self.links.iter().filter(|((of, _), (at, _))| of == who && at == conn);
                let (bulk, all) = of.fold((0, 0), |(bulk, all), (_, (_, is_bulk))| {
                    (bulk + usize::from(*is_bulk), all + 1)
                });
                return above([
                    ("limits::LINKS_PER_CONNECTION", LINKS_PER_CONNECTION, all),
                    ("limits::TRANSFERS and limits::REJOINS", 2 * TRANSFERS + REJOINS, bulk),
                ]);
            }
            Seen::Output(who, Output::CloseLink(link, _), _)
            | Seen::Input(who, _, Input::Closed(link, _)) => _ = self.links.remove(&(*who, *link)),
            Seen::Output(who, Output::CloseConn(conn, _), _)
            | Seen::Input(who, _, Input::Disconnected(conn, _)) => {
                self.links.retain(|(of, _), (at, _)| (of, *at) != (who, *conn));
            }
            // What was under way on another connection is not waited for.
            Seen::Output(who, Output::Connect(..), _) => {
                self.calls.remove(who);
                self.subscribed.remove(who);
            }
            Seen::Output(_, Output::Store(..), _) => {
                self.stores += 1;
                return above([("limits::STORE_OPS", STORE_OPS, self.stores)]);
            }
            Seen::Idle(_, _, gauges) => return full(gauges),
            Seen::Input(_, _, Input::Stored(..)) => self.stores = self.stores.saturating_sub(1),
            _ => {}
        }
        None
    }

    /// A frame leaves a machine.
    pub(super) fn sent(&mut self, who: usize, link: LinkId, frame: &Frame) -> Option<Broken> {
        match &frame.body {
            Body::Request(request) => {
                let message = match request {
                    Request::Submit(submit) if submit.kind == SubmitKind::Application => {
                        Some(submit.channel)
                    }
                    _ => None,
                };
                let subscribed = self.subscribed.entry(who).or_default();
                match request {
                    Request::Subscribe { channel, .. } => _ = subscribed.insert(*channel),
                    Request::Unsubscribe { channel } => _ = subscribed.remove(channel),
                    _ => {}
                }
                let subscribed = subscribed.len();
                let calls = self.calls.entry(who).or_default();
                calls.insert((link, frame.call), message);
                let ahead = calls.values().filter(|of| message.is_some() && **of == message);
                above([
                    ("limits::MESSAGES_AHEAD", MESSAGES_AHEAD, ahead.count()),
                    ("limits::CALLS_IN_FLIGHT", CALLS_IN_FLIGHT, calls.len()),
                    ("limits::SUBSCRIPTIONS", SUBSCRIPTIONS, subscribed),
                ])
            }
            Body::Reply(reply) => {
                self.answered(link, frame);
                match reply {
                    Reply::Entries(entries) => filled(entries),
                    Reply::Blob { chunk, .. } => {
                        above([("limits::BLOB_CHUNK", BLOB_CHUNK, chunk.len())])
                    }
                    Reply::Devices(devices) => {
                        above([("limits::DEVICES_LISTED", DEVICES_LISTED, devices.len())])
                    }
                    _ => None,
                }
            }
            Body::Failure(_) => {
                self.answered(link, frame);
                None
            }
            Body::Push(Push::Entries(entries)) => filled(entries),
            _ => None,
        }
    }

    fn answered(&mut self, link: LinkId, frame: &Frame) {
        if let Some((device, link)) = self.opened.get(&link)
            && let Some(calls) = self.calls.get_mut(device)
        {
            calls.remove(&(*link, frame.call));
        }
    }
}

fn filled(entries: &Entries) -> Option<Broken> {
    let inline = entries.entries.iter().map(|entry| match &entry.payload {
        Part::Inline(payload) => payload.len(),
        Part::Blob { .. } => 0,
    });
    let count = entries.entries.len();
    // One larger entry goes alone.
    let bytes: usize = if count == 1 { 0 } else { inline.sum() };
    above([
        ("limits::FETCH_ENTRIES", FETCH_ENTRIES, count),
        ("limits::FETCH_BYTES", FETCH_BYTES, bytes),
    ])
}

/// What a device has stored, and was asked for.
pub(super) fn kept(reader: &Reader, disk: &BTreeMap<Vec<u8>, Vec<u8>>) -> Option<Broken> {
    let of = |prefix: &[u8]| disk.keys().filter(|key| key.starts_with(prefix)).count();
    let waiting = reader.tickets.values();
    let waiting = waiting.filter(|issued| issued.life == reader.life && !issued.answered);
    above([
        ("limits::TICKETS", TICKETS, waiting.count()),
        ("limits::OUTBOX", OUTBOX, reader.outbox.len()),
        ("limits::CONTACTS", CONTACTS, reader.contacts.len()),
        ("limits::CHECKPOINTS_KEPT", CHECKPOINTS_KEPT, of(b"d/k/")),
        ("limits::UNOPENED_WELCOMES", UNOPENED_WELCOMES, reader.unopened()),
        ("limits::KEY_PACKAGES_KEPT", KEY_PACKAGES_KEPT + LAST_RESORTS_KEPT + 2, of(b"k/P")),
    ])
}
