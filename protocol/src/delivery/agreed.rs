//! How far others' words on a log were the same as what was read of it: if one differs, it does so behind that.

use std::collections::BTreeMap;

use crate::id::Sender;
use crate::limits::AGREEMENTS_KEPT;

/// The last places at which a log was the same for others.
#[derive(Clone, Debug, Default)]
pub struct Agreed {
    /// What the server signed.
    server: u64,
    /// What members said; at most [`AGREEMENTS_KEPT`] of them.
    members: BTreeMap<Sender, u64>,
}

impl Agreed {
    /// At `seq` the log was the same for a member, or (`None`) in what the server signed.
    pub fn note(&mut self, by: Option<Sender>, seq: u64) {
        let place = match by {
            None => &mut self.server,
            Some(by) => self.members.entry(by).or_default(),
        };
        *place = seq.max(*place);
        while self.members.len() > AGREEMENTS_KEPT {
            let oldest = self.members.iter().min_by_key(|(_, seq)| **seq).map(|(by, _)| *by);
            oldest.and_then(|by| self.members.remove(&by));
        }
    }

    /// The last place before `seq` that is known to have been the same; 0, before every entry, if none is. What was the
    /// same at `seq` or later says nothing of it: then somebody has shown two logs by turns.
    pub fn before(&self, by: Option<Sender>, seq: u64) -> u64 {
        let place = by.map_or(Some(self.server), |by| self.members.get(&by).copied());
        place.filter(|place| *place < seq).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
