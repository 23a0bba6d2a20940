//! What is wanted of a group, as it is stored.

use core::fmt;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::metadata::{Metadata, ProfileChange, Role};
use crate::id::{AccountId, ChannelId, DeviceId, Digest, Sender};
use crate::mls::suite::Suite;
use crate::wire::message::Username;

/// A change of a group that this device wants to come true, however many commits it takes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Intent {
    pub channel: ChannelId,
    pub want: Want,
    /// How often our commit for it lost against another one.
    pub losses: u32,
}

impl Intent {
    /// Whether the application asked for it and waits for its ticket.
    pub(super) fn is_asked_for(&self) -> bool {
        use Want::{Admit, Carry, Expel, Flush, LeaveAgain, Renew, Return, Rotate};
        let unasked = matches!(self.want, Flush | LeaveAgain | Renew | Rotate);
        !unasked && !matches!(self.want, Admit { .. } | Carry { .. } | Expel { .. } | Return { .. })
    }

    /// Whether it is about our own removal.
    pub(super) fn leaves(&self) -> bool {
        matches!(self.want, Want::Leave | Want::LeaveAgain)
    }
}

/// What an intent wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Want {
    /// Found the group on the server.
    Found { group_info: Vec<u8>, tree: Vec<u8> },
    /// Every device of the account a member. Packages, once fetched, are kept for every try; devices without one that
    /// holds are left out, and told.
    Add {
        username: Username,
        account: Option<AccountId>,
        packages: Option<Vec<Vec<u8>>>,
        missing: Vec<(DeviceId, String)>,
    },
    /// No device of the account a member.
    Remove { account: AccountId },
    /// Our own removal proposed.
    Leave,
    /// Fresh keys in our own leaf.
    Update,
    /// The queued proposals committed.
    Flush,
    /// Our own removal proposed again: a commit that did not know of it ended its epoch. Nobody asked for this one.
    LeaveAgain,
    /// What the group shows of itself changed; the sealed form is that of the commit under way.
    Describe { change: ProfileChange, sealed: Option<Metadata> },
    /// Another role for an account.
    SetRole { account: AccountId, role: Role },
    /// Fresh keys in our own leaf, since they have become due. Nobody asked for this one.
    Renew,
    /// The present device key in our own leaf.
    Rotate,
    /// Our own leaf replaced from outside.
    Rejoin,
    /// This device a member. Nobody asked: of the own account, its record did; of another one, a reset that left it
    /// out.
    Admit { device: Sender, package: Option<Vec<u8>> },
    /// A device no member that its account has revoked, by the [`Revocation`](crate::crypto::identity::Revocation).
    Expel { revocation: Vec<u8> },
    /// A generation after `from`, of that suite or a stronger one. The one that this device made itself, once it has.
    Reset { from: u32, suite: Option<Suite>, next: Option<Box<Successor>> },
    /// Every device of an account a member again: these were, before the reset that asks for it.
    Return {
        account: AccountId,
        devices: Vec<DeviceId>,
        packages: Option<Vec<Vec<u8>>>,
        missing: Vec<(DeviceId, String)>,
    },
    /// What the group before showed of itself last shown by this one, which was made before that, unless another
    /// profile than the one of that hash has come since. Nobody asked for this one.
    Carry { change: ProfileChange, over: Digest, sealed: Option<Metadata> },
}

/// The next generation of a channel, made by this device.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Successor {
    pub generation: u32,
    pub suite: Suite,
    pub group_info: Vec<u8>,
    pub tree: Vec<u8>,
    pub metadata: Option<Metadata>,
    pub authenticator: Vec<u8>,
    /// The log has shown it: it is the channel's group.
    pub begun: bool,
    /// Who was in the group before and is not asked back yet.
    pub absent: BTreeMap<AccountId, Vec<DeviceId>>,
}

impl fmt::Debug for Successor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (generation, absent) = (self.generation, self.absent.len());
        write!(f, "Successor({generation}, begun: {}, {absent} accounts absent)", self.begun)
    }
}

impl Want {
    /// Every device of an account a member: of a name that is yet to be looked up, or of an account that is known.
    pub(super) fn add(username: Username, account: Option<AccountId>) -> Self {
        Self::Add { username, account, packages: None, missing: Vec::new() }
    }

    /// Whether it adds an account of which key packages are here.
    pub(super) fn has_packages(&self) -> bool {
        matches!(self, Self::Add { packages: Some(_), .. })
    }
}
