//! Hashes of a tree's nodes, each computed once in an operation. OpenMLS keeps none: for one commit it hashes the whole
//! tree anew for the path, for the new epoch, and for what it stages; for a tree that a joiner is handed once more for
//! each level.
//!
//! What is looked up is compared in full, so a hash is always that of its content. All of it is public.

use std::sync::OnceLock;

use crate::crypto::Backend;

/// SHA-256 hashes, by content.
pub(super) struct Hashes(Vec<OnceLock<Known>>);

struct Known {
    content: Vec<u8>,
    hash: [u8; 32],
}

/// Below this length a hash costs less than to look for it, in bytes.
const SHORTEST: usize = 64;
/// In how many places a hash may be: contents that meet in more are hashed again.
const PLACES: usize = 4;
/// From this many leaves on it pays to remember.
const FEWEST_LEAVES: usize = 16;

impl Hashes {
    /// Room for the nodes of a tree; `None` for a small one.
    pub(super) fn of_tree(leaves: usize) -> Option<Self> {
        let room = leaves.saturating_mul(4).next_power_of_two();
        let places = || (0..room).map(|_| OnceLock::new()).collect();
        (leaves >= FEWEST_LEAVES).then(|| Self(places()))
    }

    /// The hash of `content`.
    pub(super) fn hash(&self, backend: Backend, content: &[u8]) -> [u8; 32] {
        let compute = || backend.sha256(&[content]);
        if content.len() < SHORTEST {
            return compute();
        }
        let first = place(content);
        for at in first..first + PLACES {
            let Some(place) = self.0.get(at % self.0.len()) else { break };
            match place.get() {
                Some(known) if known.content == content => return known.hash,
                Some(_) => {}
                None => {
                    let hash = compute();
                    // Another thread may have been first: then it is kept by nobody, and still right.
                    let _ = place.set(Known { content: content.to_vec(), hash });
                    return hash;
                }
            }
        }
        compute()
    }
}

/// Where to look first: leaves differ in their first bytes and all nodes in their last, which are a signature's or a
/// hash's. Who makes them meet has them hashed more than once, as without this.
fn place(content: &[u8]) -> usize {
    let eight = |bytes: &[u8]| {
        bytes.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let mixed = eight(content) ^ eight(&content[content.len().saturating_sub(16)..]);
    // The golden ratio's bits spread what differs over the highest; a place needs fewer than 32 of them.
    usize::try_from(mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33).unwrap_or_default()
}

#[cfg(test)]
mod tests;
