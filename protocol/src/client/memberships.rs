//! Groups that this device was added to without having read the welcome: after the copy of its state was made that it
//! was restored from, or so long ago that the inbox has lost it. It is a member of them and knows nothing of them, or
//! waits for a welcome to their next generation; only the server can name them. So it can one that it said this device
//! was out of, and those of a history of which this device has read another.
//!
//! Its word makes this device ask for a group, as a welcome that does not open does, and no more. What it comes in by
//! is the group's GroupInfo: a member has signed it, and a leaf in its tree has the key of this device and its record.
//! So a server can name no group that nobody added this device to. It can keep a group back, as it can keep back all it
//! has. It can show an old state of one that this device has left since, together with who was a member then; what is
//! said there is said under that name, to the members that this device sees. Nothing that it did know is given up: of a
//! group that it has read, the highest epoch seen bounds what is taken.

use super::directory::{self, Unwelcomed};
use super::net::Call;
use super::session::Phase;
use super::{Channel, Client};
use crate::id::ChannelId;
use crate::io::ConnId;
use crate::store::batch::Op;
use crate::wire::message::{ChannelInfo, ChannelKind, Request};

/// How far the list of memberships was read on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    Asked(ConnId, Option<ChannelId>),
    Read(ConnId),
    /// Asked again with the next session.
    Unfinished(ConnId),
}

impl Listed {
    fn conn(self) -> ConnId {
        match self {
            Self::Asked(conn, _) | Self::Read(conn) | Self::Unfinished(conn) => conn,
        }
    }
}

impl Client {
    /// How far the list is read on this connection.
    fn listed(&self) -> Option<Listed> {
        let conn = self.net.conn.as_ref()?.id;
        self.listed.filter(|listed| listed.conn() == conn)
    }

    /// Whether groups may still be named that this device has to come into; asks for them, once the welcomes that are
    /// left have been read.
    pub(super) fn asks_for_memberships(&mut self) -> bool {
        let wanted = self.restored.open || self.unwelcomed;
        if !wanted || self.phase() != Some(Phase::Online) {
            return false;
        }
        match self.listed() {
            None => {
                let mut inboxes = self.channels.values().filter(|channel| channel.inbox);
                if inboxes.all(|inbox| inbox.at_head()) {
                    self.ask_memberships(None);
                }
                true
            }
            Some(Listed::Asked(..)) => true,
            Some(Listed::Read(_) | Listed::Unfinished(_)) => false,
        }
    }

    /// Whether the server has named them all.
    pub(super) fn knows_memberships(&self) -> bool {
        matches!(self.listed(), Some(Listed::Read(_)))
    }

    /// The inbox has lost entries, and maybe welcomes with them: they are asked for anew.
    pub(super) fn miss_welcomes(&mut self) {
        self.listed = None;
        self.doubt_memberships();
    }

    /// This device may be in a group that it does not know for its own: they are asked for, once on each connection.
    pub(super) fn doubt_memberships(&mut self) {
        if !core::mem::replace(&mut self.unwelcomed, true) {
            self.gate.stage(directory::put(directory::UNWELCOMED.to_vec(), &Unwelcomed));
        }
    }

    fn ask_memberships(&mut self, after: Option<ChannelId>) {
        let Some(conn) = self.net.conn.as_ref().map(|conn| conn.id) else { return };
        self.listed = Some(Listed::Asked(conn, after));
        self.call(Call::Memberships, Request::ChannelList { after });
    }

    /// A page of the list. A server that goes on for ever is not listened to: each page has to lead on, and no more
    /// groups are tried at once than welcomes that do not open; the others are asked for with the next session.
    pub(super) fn on_memberships(&mut self, channels: &[ChannelInfo], more: bool) {
        let Some(Listed::Asked(_, after)) = self.listed() else { return };
        let mut last = after;
        for info in channels {
            let leads_on = last < Some(info.channel);
            if !leads_on
                || (self.is_unwelcomed(info) && !self.enter_unopened(info.channel, info.generation))
            {
                return self.stop_memberships();
            }
            last = Some(info.channel);
        }
        match more {
            false => self.end_memberships(),
            true if last > after => self.ask_memberships(last),
            true => self.stop_memberships(),
        }
    }

    /// Whether the server names a group that this device is not in, as far as it knows.
    fn is_unwelcomed(&self, info: &ChannelInfo) -> bool {
        let member = |channel: &Channel| channel.row.member && !channel.waits_for_welcome();
        info.kind != ChannelKind::Inbox && !self.channels.get(&info.channel).is_some_and(member)
    }

    fn end_memberships(&mut self) {
        let Some(conn) = self.net.conn.as_ref().map(|conn| conn.id) else { return };
        self.listed = Some(Listed::Read(conn));
        // A direct channel is founded only if this device is not in it yet.
        self.wake_inboxes();
        if core::mem::take(&mut self.unwelcomed) {
            self.gate.stage(Op::Delete(directory::UNWELCOMED.to_vec()));
        }
    }

    /// It is not read to its end: the server did not say it, did not go on, or named too many groups to try at once.
    pub(super) fn stop_memberships(&mut self) {
        if let Some(Listed::Asked(conn, _)) = self.listed() {
            self.listed = Some(Listed::Unfinished(conn));
            self.wake_inboxes();
        }
    }
}
