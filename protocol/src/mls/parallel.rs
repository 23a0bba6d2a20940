//! Work on many things at once: the only place of this crate that shares work among threads, as OpenMLS does with its
//! path secrets. What comes out depends on what goes in alone, and stands in the same order.

use rayon::prelude::*;

/// From this many things on it pays to share the work: each of them is a signature or two.
pub(super) const MANY: usize = 8;

/// What `work` makes of each.
pub(super) fn each<T: Sync, R: Send>(things: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if things.len() < MANY {
        things.iter().map(work).collect()
    } else {
        things.par_iter().map(&work).collect()
    }
}
