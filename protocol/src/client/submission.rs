//! What is on its way to the server or to the application, as it is stored.

use core::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::env::UnixMillis;
use crate::id::{ChannelId, Digest, MessageId, Sender};
use crate::limits::RESEND_TIME;
use crate::wire::message::{Accepted, CommitBundle, Submit, SubmitKind};

/// A submission on its way, until the server has it and the log has shown it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct OutItem {
    pub channel: ChannelId,
    pub message: MessageId,
    pub what: OutWhat,
    /// The server's acceptance.
    pub accepted: Option<Accepted>,
    /// Whether the application knows: internal submissions have no ticket to finish.
    pub silent: bool,
    /// When a message was encrypted first, by this device's clock, since the server last denied having it.
    pub since: Option<UnixMillis>,
}

/// What is on its way.
#[derive(Clone, Serialize, Deserialize)]
pub(super) enum OutWhat {
    /// Application content: encrypted when the group is ready, then resent as it is.
    Application { body: Zeroizing<Vec<u8>>, says: Says, sealed: Option<Submit> },
    /// A proposal of ours.
    Proposal { submit: Submit, intent: u64 },
    /// A commit of ours, pending in the group.
    Commit { bundle: CommitBundle, intents: Vec<u64> },
    /// A commit from outside that replaces our own leaf.
    Rejoin { bundle: CommitBundle },
}

/// What kind of content it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Says {
    /// The application's.
    Body,
    /// The group's metadata and members' names; made when it is encrypted.
    Metadata,
    /// Checkpoints of other channels.
    Checkpoints,
}

// The body is a secret, and what is sealed is no help to a reader.
impl fmt::Debug for OutWhat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Application { body, says, sealed } => f
                .debug_struct("Application")
                .field("bytes", &body.len())
                .field("says", says)
                .field("epoch", &sealed.as_ref().map(|submit| submit.epoch))
                .finish(),
            Self::Proposal { submit, intent } => {
                write!(f, "Proposal(epoch {}, intent {intent})", submit.epoch)
            }
            Self::Commit { bundle, intents } => {
                write!(f, "Commit(epoch {}, intents {intents:?})", bundle.epoch)
            }
            Self::Rejoin { bundle } => write!(f, "Rejoin(epoch {})", bundle.epoch),
        }
    }
}

impl OutItem {
    pub(super) fn new(channel: ChannelId, message: MessageId, what: OutWhat, silent: bool) -> Self {
        Self { channel, message, what, accepted: None, silent, since: None }
    }

    /// Whether it may be in the log, and the server would not know it any more: what it remembers of a submission it
    /// remembers for longer than this.
    pub(super) fn is_unclear(&self, now: UnixMillis) -> bool {
        let since = self.since.filter(|_| self.accepted.is_none());
        since.is_some_and(|since| now.since(since) > RESEND_TIME)
    }

    /// SHA-256 of the payload, once there is one.
    pub(super) fn hash(&self) -> Option<Digest> {
        match &self.what {
            OutWhat::Application { sealed, .. } => {
                sealed.as_ref().map(|submit| Digest::of(&[&submit.payload]))
            }
            OutWhat::Proposal { submit, .. } => Some(Digest::of(&[&submit.payload])),
            OutWhat::Commit { bundle, .. } | OutWhat::Rejoin { bundle } => {
                Some(bundle.commit.hash())
            }
        }
    }

    /// Content of the application, as opposed to a change of the group.
    pub(super) fn is_message(&self) -> bool {
        matches!(self.what, OutWhat::Application { .. })
    }

    /// A message that is not encrypted yet.
    pub(super) fn is_unsealed(&self) -> bool {
        matches!(self.what, OutWhat::Application { sealed: None, .. })
    }

    /// A message that is encrypted, and that the server is not known to have.
    pub(super) fn is_under_way(&self) -> bool {
        self.is_message() && !self.is_unsealed() && self.accepted.is_none()
    }

    /// What goes to the server, if it is not a commit and is ready.
    pub(super) fn submit(&self) -> Option<&Submit> {
        match &self.what {
            OutWhat::Application { sealed, .. } => sealed.as_ref(),
            OutWhat::Proposal { submit, .. } => Some(submit),
            OutWhat::Commit { .. } | OutWhat::Rejoin { .. } => None,
        }
    }
}

/// A delivery proof, with all it takes to check it beside the channel in its key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredProof {
    pub message: MessageId,
    pub hash: Digest,
    pub accepted: Accepted,
}

/// A received message, waiting for the application.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct StoredMessage {
    pub message: MessageId,
    pub sender: Sender,
    pub time: UnixMillis,
    pub epoch: u64,
    pub body: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for StoredMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredMessage({:?}, {} bytes)", self.message, self.body.len())
    }
}

/// A submission of application bytes.
pub(super) fn application(
    channel: ChannelId,
    generation: u32,
    epoch: u64,
    message: MessageId,
    payload: Vec<u8>,
) -> Submit {
    Submit {
        channel,
        generation,
        epoch,
        message,
        kind: SubmitKind::Application,
        payload: payload.into(),
    }
}

#[cfg(test)]
mod tests;
