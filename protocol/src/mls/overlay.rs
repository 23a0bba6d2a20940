//! OpenMLS's storage as a map of records in memory that remembers what changed: the changes become durable with the
//! batch of the machine, or are dropped.
//!
//! A key is one byte that says what the record is, then OpenMLS's own key in postcard. Records that grow with the group
//! are stored in blocks, so that a message or a commit writes what it changes and not the whole: see `blocks`.

mod blocks;
mod byte;
mod cut;
mod members;
mod out;
mod past;
mod storage;
mod stored;
#[cfg(test)]
mod tests;

use core::cell::RefCell;
use core::fmt;
use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::store::batch::{Op, Records};
use blocks::Blocks;
use out::Out;
pub(super) use stored::tree_in;

/// A record that does not encode or decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("stored MLS record {0:?} is damaged")]
pub struct RecordFault(char);

/// Records of OpenMLS in memory, with the changes since the last [`Overlay::take_ops`].
///
/// Not `Sync`: it belongs to the one machine that uses it.
#[derive(Default)]
pub struct Overlay(RefCell<State>);

type Value = Zeroizing<Vec<u8>>;

/// What stands under a key.
#[derive(Clone)]
enum Stored {
    Whole(Value),
    Blocks(Blocks),
    /// Blocks that do not go together: whoever asks for it is told.
    Damaged,
}

impl Stored {
    fn bytes(&self) -> usize {
        match self {
            Self::Whole(value) => value.len(),
            Self::Blocks(blocks) => blocks.bytes(),
            Self::Damaged => 0,
        }
    }
}

#[derive(Default)]
struct State {
    records: BTreeMap<Vec<u8>, Stored>,
    /// What stood under each key changed since the last take, up to the last settled step.
    before: Undo,
    /// The same, for what changed in the present step.
    step: Undo,
    /// The number of the next scope of blocks.
    next_scope: u32,
}

/// What stood under a key before; `None` for nothing.
type Undo = BTreeMap<Vec<u8>, Option<Stored>>;

impl State {
    fn set(&mut self, key: Vec<u8>, value: Option<Stored>) {
        let old = match value {
            Some(value) => self.records.insert(key.clone(), value),
            None => self.records.remove(&key),
        };
        self.step.entry(key).or_insert(old);
    }

    fn settle(&mut self) {
        for (key, old) in core::mem::take(&mut self.step) {
            self.before.entry(key).or_insert(old);
        }
    }

    fn restore(&mut self, undo: Undo) {
        for (key, old) in undo {
            match old {
                Some(value) => self.records.insert(key, value),
                None => self.records.remove(&key),
            };
        }
    }
}

impl Overlay {
    /// An overlay over stored records.
    pub fn new(records: Records) -> Self {
        Self(RefCell::new(State::read(records)))
    }

    /// The changes since the last call, in order of their keys; none for what is as it was.
    pub fn take_ops(&self) -> Vec<Op> {
        let mut state = self.0.borrow_mut();
        state.settle();
        let before = core::mem::take(&mut state.before);
        let (ops, saved) = state.changes(before);
        for (key, saved) in saved {
            if let Some(Stored::Blocks(blocks)) = state.records.get_mut(&key) {
                blocks.saved = Some(saved);
            }
        }
        ops
    }

    /// Ends a step that went through: [`Self::revert`] no longer undoes it.
    pub fn settle(&self) {
        self.0.borrow_mut().settle();
    }

    /// Undoes a step that failed: every change since the last [`Self::settle`], [`Self::take_ops`] or
    /// [`Self::rollback`].
    pub fn revert(&self) {
        let mut state = self.0.borrow_mut();
        let step = core::mem::take(&mut state.step);
        state.restore(step);
    }

    /// Drops the changes since the last [`Self::take_ops`].
    pub fn rollback(&self) {
        let mut state = self.0.borrow_mut();
        state.settle();
        let before = core::mem::take(&mut state.before);
        state.restore(before);
    }

    /// Every record as it stands and as it is stored, unsaved changes included.
    pub fn records(&self) -> Records {
        let state = self.0.borrow();
        let (ops, _) = state.changes(state.records.keys().map(|key| (key.clone(), None)).collect());
        let records = ops.into_iter().filter_map(|op| match op {
            Op::Put(key, value) => Some((key, value)),
            Op::Delete(_) | Op::DeletePrefix(_) => None,
        });
        records.collect()
    }

    /// The records that are stored in blocks, in one piece.
    #[cfg(test)]
    pub(super) fn joined(&self) -> Records {
        let state = self.0.borrow();
        let large = state.records.iter().filter_map(|(key, stored)| match stored {
            Stored::Blocks(blocks) => Some((key.clone(), blocks.join().to_vec())),
            _ => None,
        });
        large.collect()
    }

    /// How many bytes all records have, keys included.
    pub fn bytes(&self) -> usize {
        let state = self.0.borrow();
        let sizes = state.records.iter().map(|(key, stored)| key.len() + stored.bytes());
        sizes.sum()
    }

    /// Memory that blocks have beyond what is in them. What was put together piece by piece has some, and has left
    /// copies where it was before.
    #[cfg(test)]
    pub(super) fn slack(&self) -> usize {
        let state = self.0.borrow();
        let slack = state.records.values().map(|stored| match stored {
            Stored::Blocks(blocks) => blocks.slack(),
            _ => 0,
        });
        slack.sum()
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().records.is_empty()
    }

    /// Keys that begin with `prefix`, in order.
    pub(super) fn keys(&self, prefix: &[u8]) -> Vec<Vec<u8>> {
        let state = self.0.borrow();
        let from = state.records.range(prefix.to_vec()..);
        from.take_while(|(key, _)| key.starts_with(prefix)).map(|(key, _)| key.clone()).collect()
    }

    /// A record of ours beside OpenMLS's.
    pub(super) fn get_raw(&self, key: &[u8]) -> Option<Value> {
        match self.0.borrow().records.get(key) {
            Some(Stored::Whole(value)) => Some(value.clone()),
            _ => None,
        }
    }

    /// See [`Self::get_raw`].
    pub(super) fn put_raw(&self, key: &[u8], value: Vec<u8>) {
        self.0.borrow_mut().set(key.to_vec(), Some(Stored::Whole(Zeroizing::new(value))));
    }

    /// See [`Self::get_raw`].
    pub(super) fn delete_raw(&self, key: &[u8]) {
        self.0.borrow_mut().set(key.to_vec(), None);
    }

    fn put<T: Serialize>(
        &self,
        kind: Kind,
        key: &impl Serialize,
        value: &T,
    ) -> Result<(), RecordFault> {
        let key = kind.key(key)?;
        let mut state = self.0.borrow_mut();
        let value = if kind.is_large() {
            Stored::Blocks(state.cut(&key, value).map_err(|_| kind.fault())?)
        } else {
            Stored::Whole(kind.encode(value)?)
        };
        state.set(key, Some(value));
        Ok(())
    }

    fn get<T: DeserializeOwned>(
        &self,
        kind: Kind,
        key: &impl Serialize,
    ) -> Result<Option<T>, RecordFault> {
        let state = self.0.borrow();
        match state.records.get(&kind.key(key)?) {
            None => Ok(None),
            Some(Stored::Whole(value)) => kind.decode(value).map(Some),
            Some(Stored::Blocks(blocks)) => kind.decode(&blocks.join()).map(Some),
            Some(Stored::Damaged) => Err(kind.fault()),
        }
    }

    fn delete(&self, kind: Kind, key: &impl Serialize) -> Result<(), RecordFault> {
        let key = kind.key(key)?;
        self.delete_raw(&key);
        Ok(())
    }
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.borrow();
        let (records, changed) = (state.records.len(), state.before.len() + state.step.len());
        write!(f, "Overlay({records} records, {changed} changed)")
    }
}

/// What a record is. The numbers are stored: never change one, never use one twice.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    JoinConfig = b'c',
    OwnLeaves = b'l',
    ProposalRefs = b'p',
    Proposal = b'q',
    Tree = b't',
    InterimTranscript = b'i',
    Context = b'g',
    ConfirmationTag = b'f',
    GroupState = b's',
    MessageSecrets = b'm',
    ResumptionPsks = b'r',
    OwnLeafIndex = b'o',
    EpochSecrets = b'e',
    SignatureKey = b'y',
    EncryptionKey = b'k',
    EpochKeys = b'n',
    KeyPackage = b'h',
    Psk = b'x',
}

impl Kind {
    /// Whether it has something of every member, and is stored in blocks. A pending commit, which is in the group's
    /// state, has the secrets of its epoch.
    fn is_large(self) -> bool {
        matches!(self, Self::Tree | Self::MessageSecrets | Self::GroupState)
    }

    fn fault(self) -> RecordFault {
        RecordFault(char::from(self as u8))
    }

    fn key(self, key: &impl Serialize) -> Result<Vec<u8>, RecordFault> {
        postcard::to_extend(key, vec![self as u8]).map_err(|_| self.fault())
    }

    /// How a value is stored: in postcard, but a join configuration in JSON, because OpenMLS reads it as an
    /// untagged enum, which only a self-describing format can give.
    fn encode<T: Serialize>(self, value: &T) -> Result<Value, RecordFault> {
        let bytes = match self {
            Self::JoinConfig => serde_json::to_vec(value).ok().map(Zeroizing::new),
            _ => postcard::serialize_with_flavor(value, Out::default()).ok(),
        };
        bytes.ok_or(self.fault())
    }

    fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, RecordFault> {
        let value = match self {
            Self::JoinConfig => serde_json::from_slice(bytes).ok(),
            _ => match postcard::take_from_bytes(bytes) {
                Ok((value, [])) => Some(value),
                _ => None,
            },
        };
        value.ok_or(self.fault())
    }
}
