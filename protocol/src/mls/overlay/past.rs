//! The message secrets of past epochs, carried over into a record that has none of them: whoever comes back to a group
//! goes on reading what was sent before, as after any other commit.
//!
//! In OpenMLS a record of message secrets is how many past epochs there may be, a list of them, and the secrets of the
//! present one. How [`cut`](super::cut) leaves it, each epoch's secrets are a scope of their own, and what lies between
//! them are the epochs' numbers and members.

use core::iter::Peekable;
use std::collections::VecDeque;
use std::sync::Arc;

use openmls::prelude::Member;
use serde::Serialize;
use zeroize::Zeroizing;

use super::blocks::{Blocks, List, Part};
use super::members::Members;
use super::{Kind, Overlay, RecordFault, Stored};

impl Overlay {
    /// Keeps the epochs of `old`, the present one of which is `epoch` with these members, as past epochs of a group
    /// here, in the place of those that it has; as many as it may have. `false`: there is nothing to keep in one of
    /// them.
    pub(in crate::mls) fn keep_past(
        &self,
        old: &Self,
        group: &impl Serialize,
        epoch: u64,
        members: &[Member],
    ) -> Result<bool, RecordFault> {
        let (kind, mut state) = (Kind::MessageSecrets, self.0.borrow_mut());
        let key = kind.key(group)?;
        let old = old.0.borrow();
        let (Some(Stored::Blocks(new)), Some(Stored::Blocks(old))) =
            (state.records.get(&key), old.records.get(&key))
        else {
            return Ok(false);
        };
        let (old, new) = (Epochs::of(old), Epochs::of(new));
        let (Some(old), Some(new)) = (old, new) else { return Err(kind.fault()) };
        let members = list(members).ok_or(kind.fault())?;
        let blocks =
            new.behind(old, epoch, members, &mut state.next_scope).map_err(|_| kind.fault())?;
        state.set(key, Some(Stored::Blocks(blocks)));
        Ok(true)
    }
}

/// A record of message secrets.
struct Epochs {
    /// The scope of what lies around the epochs.
    scope: u32,
    /// How many past epochs there may be.
    most: usize,
    past: VecDeque<Past>,
    present: Vec<Part>,
}

struct Past {
    epoch: u64,
    secrets: Vec<Part>,
    members: Arc<Members>,
}

impl Epochs {
    fn of(record: &Blocks) -> Option<Self> {
        let mut parts = record.parts.iter().cloned().peekable();
        let Part { scope, literal, .. } = parts.next()?;
        let ((most, len), rest) = postcard::take_from_bytes::<(usize, usize)>(&literal).ok()?;
        // An epoch's number ends the part before its secrets.
        let mut number = rest.to_vec();
        let mut past = VecDeque::new();
        for _ in 0..len {
            let epoch = postcard::from_bytes(&number).ok()?;
            let secrets = in_a_row(&mut parts, scope);
            let List::Members(members) = parts.next()?.list else { return None };
            past.push_back(Past { epoch, secrets, members });
            number = parts.next()?.literal.to_vec();
        }
        let present = in_a_row(&mut parts, scope);
        Some(Self { scope, most, past, present })
    }

    /// The record with the epochs of `old` for its past ones; scopes of theirs are given the next numbers here.
    fn behind(
        self,
        old: Self,
        epoch: u64,
        members: Arc<Members>,
        next: &mut u32,
    ) -> Result<Blocks, postcard::Error> {
        let mut past = old.past;
        past.push_back(Past { epoch, secrets: old.present, members });
        past.drain(..past.len().saturating_sub(self.most));
        let (mut parts, mut slot) = (Vec::new(), 0);
        let mut around = |parts: &mut Vec<Part>, literal: Vec<u8>, list: List| {
            slot += 1;
            parts.push(Part { scope: self.scope, slot, literal: Zeroizing::new(literal), list });
        };
        let mut number = postcard::to_extend(&(self.most, past.len()), Vec::new())?;
        for Past { epoch, secrets, members } in past {
            around(&mut parts, postcard::to_extend(&epoch, number)?, List::None);
            parts.extend(secrets.into_iter().map(|part| Part { scope: *next, ..part }));
            *next += 1;
            let len = postcard::to_extend(&members.len(), Vec::new())?;
            around(&mut parts, len, List::Members(members));
            number = Vec::new();
        }
        around(&mut parts, number, List::None);
        parts.extend(self.present);
        around(&mut parts, Vec::new(), List::None);
        Ok(Blocks { parts, saved: None })
    }
}

/// The parts of the scope that begins here; `around` is the one that it is in.
fn in_a_row(parts: &mut Peekable<impl Iterator<Item = Part>>, around: u32) -> Vec<Part> {
    core::iter::from_fn(|| parts.next_if(|part| part.scope != around)).collect()
}

/// Members as OpenMLS lists them.
fn list(members: &[Member]) -> Option<Arc<Members>> {
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for member in members {
        bytes = postcard::to_extend(member, bytes).ok()?;
        ends.push(bytes.len());
    }
    Members::new(bytes, &ends).map(Arc::new)
}
