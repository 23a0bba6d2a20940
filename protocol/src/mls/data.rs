//! What all members of a group must agree on beside its tree: GroupContext extension 0xF0A2. The server can
//! read it, so names and descriptions are not in here, only the hash of their sealed form.

use super::MlsError;
use crate::id::{AccountId, ChannelId, Digest};
use crate::wire::message::ChannelKind;

/// The content of extension 0xF0A2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupData {
    /// Raised with every change.
    pub version: u32,
    /// Accounts that may add, remove and change roles; the others are plain members. Sorted, not empty,
    /// unless the group gives everyone that right (`open`).
    pub admins: Vec<AccountId>,
    /// Every member may add others.
    pub open: bool,
    /// SHA-256 of the sealed metadata; zeros for none.
    pub metadata: Digest,
}

impl GroupData {
    /// The extension type.
    pub const EXTENSION: u16 = 0xF0A2;

    /// format (1) = 1 || version (4) || open (1) || metadata (32) || count (2) || accounts (32 each), big endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        out.extend_from_slice(&self.version.to_be_bytes());
        out.push(u8::from(self.open));
        out.extend_from_slice(&self.metadata.0);
        let count = u16::try_from(self.admins.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&count.to_be_bytes());
        for admin in self.admins.iter().take(usize::from(count)) {
            out.extend_from_slice(&admin.0);
        }
        out
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[1], rest) = bytes.split_first_chunk::<1>()? else { return None };
        let (version, rest) = rest.split_first_chunk::<4>()?;
        let (&[open], rest) = rest.split_first_chunk::<1>()?;
        let (metadata, rest) = rest.split_first_chunk::<32>()?;
        let (count, rest) = rest.split_first_chunk::<2>()?;
        let (admins, tail) = rest.as_chunks::<32>();
        let admins: Vec<_> = admins.iter().map(|admin| AccountId(*admin)).collect();
        let sound = tail.is_empty()
            && open <= 1
            && admins.len() == usize::from(u16::from_be_bytes(*count))
            && admins.is_sorted_by(|a, b| a < b)
            && (open == 1 || !admins.is_empty());
        sound.then(|| Self {
            version: u32::from_be_bytes(*version),
            admins,
            open: open == 1,
            metadata: Digest(*metadata),
        })
    }

    /// Whether these are roles that the group of a channel can have: of a direct one both accounts are admins, so that
    /// neither depends on the other, and nobody else is. Error: [`MlsError::NotAllowed`].
    pub fn check_for(&self, channel: ChannelId) -> Result<(), MlsError> {
        let both = match self.admins.as_slice() {
            [one, other] => !self.open && ChannelId::direct(*one, *other) == channel,
            _ => false,
        };
        if both || channel.kind() != Some(ChannelKind::Direct) {
            Ok(())
        } else {
            Err(MlsError::NotAllowed("the admins of a direct channel are its two accounts"))
        }
    }

    /// Whether an account may change who is in the group.
    pub fn may_change(&self, account: AccountId) -> bool {
        self.open || self.is_admin(account)
    }

    /// Whether an account may change roles and metadata.
    pub fn is_admin(&self, account: AccountId) -> bool {
        self.admins.binary_search(&account).is_ok()
    }
}
