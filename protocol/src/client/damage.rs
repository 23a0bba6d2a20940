//! What becomes of a device one of whose stored records does not read: what the record held is lost, not the device.
//!
//! | record | what is lost | what that costs | why nobody gains by it |
//! |---|---|---|---|
//! | `d/version` | how often this state was stored | taken for a backup: the device comes back to its groups | it is doubted more than before |
//! | `d/restored` | whether it is one | the same | the same |
//! | `d/tokens` | the session | a login | only who has the password logs in |
//! | `d/rotation` | device keys of before, or one not yet in use | it comes back to its groups by its present key | that key is in its record |
//! | `d/envelopes` | envelope keys of before, or not yet in use | new ones are made; notes to the others do not open | nobody else has them |
//! | `d/packages` | when key packages were made | new ones are made | old ones end as they would have |
//! | `d/sweep` | when private halves of key packages end | they are looked through | it can only be early |
//! | `d/a/` | a contact's name and how far it was trusted | compare safety numbers anew | told, since a name is taken at first use again |
//! | `d/l/` | how old the keys of a leaf are | they are renewed | it can only be early |
//! | `d/f/` | whether the device is out of a group | it takes itself for out, and comes back | keys that may be used up are not used |
//! | `d/e/` | that a group has ended by a reset | it comes into the next one from outside | as for all who come back |
//! | `d/g/` | older links of a log, for comparing | a fork before the latest entries is found by others only | the cursor has the latest ones itself |
//! | `d/k/` | a checkpoint not compared yet | the same | the same |
//! | `d/i/` | a wish | it fails; ask again | nothing was changed yet |
//! | `d/o/` | something under way to a group | it fails; if the log shows it, the device comes back to that group | its key is not used again: the group has moved on |
//! | `g/`, `r/` | a group | the device comes back to it | see [`super::fall`] |
//! | `k/` | private halves of key packages | others are made; who was added by one comes in from outside | as above |
//! | `m/` | an unread message | it stays unread | it is told |
//! | `p/` | a delivery proof | the question for proofs fails | |
//!
//! Three kinds are no one's to lose, and with them damaged a device does not start: `d/identity`, because nothing else
//! has the keys; `d/c/`, because the place in the log and the epoch of a group are what an old log or an old GroupInfo
//! is told from; and `d/devices`, because a server that names a revoked device again must be told from one that names a
//! new one. So it is with a record of a kind that is not known here, or of a newer version.
//!
//! Whoever can damage a record can put an older one in its place just as well: what is against that is the state
//! version, which the server remembers.

use super::Client;
use super::directory;
use super::event::{Event, Failed, Why};
use super::keys::LastResort;
use crate::error::{CloseCode, ErrorCode};
use crate::id::ChannelId;
use crate::io::Ticket;
use crate::mls::key_package::KeyPackages;
use crate::mls::suite::Suite;
use crate::store::batch::Op;
use crate::store::gate::VERSION_KEY;

const LOST: &str = "what was stored of it is damaged; see how things stand, and ask again";

/// A record that a device can be without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    Version,
    Restored,
    Unwelcomed,
    Tokens,
    Rotation,
    Envelopes,
    Plan,
    Sweep,
    Contact,
    Leaf(ChannelId),
    Fall(ChannelId),
    Ended(ChannelId),
    Ledger(ChannelId),
    Claim,
    Intent(Ticket),
    Submission(Ticket),
}

impl Lost {
    /// What the record under this key held, if a device can be without it.
    pub(super) fn of(key: &[u8]) -> Option<Self> {
        match key {
            VERSION_KEY => return Some(Self::Version),
            directory::RESTORED => return Some(Self::Restored),
            directory::UNWELCOMED => return Some(Self::Unwelcomed),
            directory::TOKENS => return Some(Self::Tokens),
            directory::ROTATION => return Some(Self::Rotation),
            directory::ENVELOPES => return Some(Self::Envelopes),
            directory::PACKAGES => return Some(Self::Plan),
            directory::SWEEP => return Some(Self::Sweep),
            _ => {}
        }
        let channel = |prefix| key.strip_prefix(prefix).and_then(ChannelId::from_slice);
        let ticket = |prefix| key.strip_prefix(prefix).and_then(directory::ticket);
        let of_channel = channel(directory::LEAF)
            .map(Self::Leaf)
            .or_else(|| channel(directory::FALL).map(Self::Fall))
            .or_else(|| channel(directory::ENDED).map(Self::Ended))
            .or_else(|| channel(directory::LEDGER).map(Self::Ledger));
        let of_ticket = || {
            let intent = ticket(directory::INTENT).map(Self::Intent);
            intent.or_else(|| ticket(directory::OUTBOX).map(Self::Submission))
        };
        let other = || match key {
            key if key.starts_with(directory::CONTACT) => Some(Self::Contact),
            key if key.starts_with(directory::CLAIM) => Some(Self::Claim),
            _ => None,
        };
        of_channel.or_else(of_ticket).or_else(other)
    }

    fn channel(self) -> Option<ChannelId> {
        match self {
            Self::Leaf(id) | Self::Fall(id) | Self::Ended(id) | Self::Ledger(id) => Some(id),
            _ => None,
        }
    }

    /// What it held and what its loss costs, for people.
    fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::Version | Self::Restored => {
                ("how recent this state is", "this device comes back to its groups by new keys")
            }
            Self::Unwelcomed => {
                ("whether welcomes were lost", "the server is asked for this device's groups")
            }
            Self::Tokens => ("the session", "log in again"),
            Self::Rotation => {
                ("earlier keys of this device", "it comes back to its groups by its present key")
            }
            Self::Envelopes => (
                "earlier envelope keys of this device",
                "notes that were sealed to them do not open",
            ),
            Self::Plan => ("when key packages were made", "new ones are made"),
            Self::Sweep => ("when private keys of key packages end", "they are looked through"),
            Self::Contact => {
                ("a contact", "compare safety numbers anew with whom you write to by name")
            }
            Self::Leaf(_) => ("how old keys are", "they are renewed"),
            Self::Fall(_) | Self::Ended(_) => {
                ("how this device stands in a group", "it comes back to it by new keys")
            }
            Self::Ledger(_) | Self::Claim => {
                ("what a log is compared by", "a difference further back is not found here")
            }
            Self::Intent(_) => {
                ("something that was asked for", "see how things stand, and ask again")
            }
            Self::Submission(_) => ("something on its way to a group", "see whether it arrived"),
        }
    }
}

impl Client {
    /// Goes on without these records.
    pub(super) fn go_without(&mut self, lost: Vec<(Vec<u8>, Lost)>) {
        for (key, lost) in lost {
            self.gate.stage(Op::Delete(key));
            let (what, cost) = lost.told();
            self.tell_lost(lost.channel(), what, cost);
            self.make_up_for(lost);
        }
    }

    fn make_up_for(&mut self, lost: Lost) {
        match lost {
            Lost::Version | Lost::Restored => self.note_restored(0),
            Lost::Unwelcomed => self.miss_welcomes(),
            Lost::Tokens => self.end_session(ErrorCode::TokenInvalid),
            Lost::Rotation => {
                for id in self.channels.keys().copied().collect::<Vec<_>>() {
                    self.fall_out(id, Why::Damaged, false);
                }
            }
            Lost::Envelopes => self.lose_envelopes(),
            Lost::Fall(id) => {
                // A commit to come back by may have been made: it goes with what told of it.
                if let Some(channel) = self.channels.get_mut(&id) {
                    channel.fall.made = true;
                }
                self.drop_rejoin(id);
                self.fall_out(id, Why::Damaged, true);
            }
            Lost::Ended(id) => self.fall_out(id, Why::Damaged, true),
            Lost::Intent(ticket) | Lost::Submission(ticket) => {
                self.event(Event::Failed(ticket, Failed::Obsolete(LOST)));
            }
            Lost::Plan
            | Lost::Sweep
            | Lost::Contact
            | Lost::Leaf(_)
            | Lost::Ledger(_)
            | Lost::Claim => {}
        }
    }

    pub(super) fn tell_lost(
        &mut self,
        channel: Option<ChannelId>,
        what: &'static str,
        cost: &'static str,
    ) {
        self.event(Event::RecordLost { channel, what, cost });
    }

    /// What was to be stored cannot be made from what is: told, not hidden.
    pub(super) fn damaged(&mut self, what: &str, why: &str) {
        let why = format!("{what}: {why}");
        self.event(Event::Offline { why, last: true });
        self.close_connection(CloseCode::INTERNAL);
        self.net.connect_at = None;
    }

    /// The private halves of the key packages do not read: all of them go, and others are made of every suite.
    pub(super) fn lose_packages(&mut self) -> KeyPackages {
        self.tell_lost(None, "the private keys of key packages", "new ones are made");
        self.gate.stage(Op::DeletePrefix(directory::PACKAGE_KEYS.to_vec()));
        for suite in Suite::ALL {
            self.want_more(suite, LastResort::Renew);
        }
        KeyPackages::empty()
    }
}
