//! Removing what has ended.

use std::collections::BTreeMap;

use super::MemoryStore;
use crate::env::UnixMillis;

/// How much of one kind may still go.
struct Budget {
    left: u32,
    swept: u32,
}

impl Budget {
    fn new(most: u32) -> Self {
        Self { left: most, swept: 0 }
    }

    /// Whether this one goes.
    fn takes(&mut self, ended: bool) -> bool {
        let takes = ended && self.left > 0;
        if takes {
            self.left -= 1;
            self.swept += 1;
        }
        takes
    }

    fn retain<K: Ord, V>(&mut self, map: &mut BTreeMap<K, V>, ended: impl Fn(&V) -> bool) {
        map.retain(|_, value| !self.takes(ended(value)));
    }
}

impl MemoryStore {
    pub(super) fn sweep(&mut self, at: UnixMillis, most: u32) -> u32 {
        let mut swept = 0;

        let mut budget = Budget::new(most);
        for channel in self.channels.values_mut() {
            while let Some(oldest) = channel.entries.first_entry() {
                if !budget.takes(oldest.get().expires <= at) {
                    break;
                }
                channel.floor = *oldest.key();
                oldest.remove();
            }
        }
        swept += budget.swept;

        let mut budget = Budget::new(most);
        for device in self.submissions.values_mut() {
            budget.retain(&mut device.known, |submission| submission.expires <= at);
        }
        self.submissions.retain(|_, device| !device.known.is_empty());
        swept += budget.swept;

        let mut budget = Budget::new(most);
        for keys in self.keys.values_mut() {
            keys.packages.retain(|row| !budget.takes(row.expires <= at));
            budget.retain(&mut keys.claimed, |&expires| expires <= at);
            budget.retain(&mut keys.last_resorts, |last| last.row.expires <= at);
        }
        swept += budget.swept;

        let mut budget = Budget::new(most);
        budget.retain(&mut self.blobs, |blob| blob.expires <= at);
        budget.retain(&mut self.uploads, |upload| upload.expires <= at);
        swept += budget.swept;

        let mut budget = Budget::new(most);
        budget.retain(&mut self.refresh, |refresh| refresh.expires <= at);
        swept + budget.swept
    }
}
