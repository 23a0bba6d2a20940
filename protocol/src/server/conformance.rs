//! One suite for every backend of a server's store.
//!
//! A backend implements [`Backend`] and calls [`server_store_conformance!`](crate::server_store_conformance) in its
//! tests: one test per case. [`compare`] drives it with random operations beside the reference,
//! [`MemoryStore`], and compares every reply; the operations are decoded from
//! bytes, so that a property test and a fuzzer share them.
//!
//! A case panics where a backend is wrong.
#![expect(clippy::panic, reason = "this is a suite of tests: a failed check panics")]

mod accounts;
mod bed;
mod blobs;
mod channels;
mod commits;
mod durable;
mod keys;
mod log;
mod random;
mod resets;

pub use accounts::*;
pub use blobs::*;
pub use channels::*;
pub use commits::*;
pub use durable::*;
pub use keys::*;
pub use log::*;
pub use random::compare;
pub use resets::*;

use super::memory::MemoryStore;
use super::op::{StoreOp, StoreReply};
use crate::error::StoreFault;

/// What the suite needs of a backend.
pub trait Backend {
    /// Executes operations in order as one transaction.
    fn apply(&mut self, ops: &[StoreOp]) -> Result<Vec<StoreReply>, StoreFault>;

    /// Closes the store and opens it again, as a restart does. A backend without durability does nothing.
    fn reopen(&mut self);
}

impl Backend for MemoryStore {
    fn apply(&mut self, ops: &[StoreOp]) -> Result<Vec<StoreReply>, StoreFault> {
        Ok(Self::apply(self, ops))
    }

    fn reopen(&mut self) {}
}

/// Writes one `#[test]` for every case of the suite. The argument is called for a fresh, empty
/// [`Backend`](crate::server::conformance::Backend) each time.
#[macro_export]
macro_rules! server_store_conformance {
    ($make:expr) => {
        $crate::server_store_conformance! { $make =>
            accounts_are_taken_once
            deleted_accounts_are_gone_but_stay_taken
            devices_are_registered_once_and_limited
            newer_records_replace_older_ones
            revocation_takes_what_a_device_holds
            devices_are_told_of_each_other
            revocations_are_told_to_groups
            sessions_need_an_active_device_and_fresh_tokens
            refresh_tokens_are_replaced_and_end
            key_packages_are_added_all_or_nothing
            key_packages_are_claimed_once_and_in_order
            key_packages_made_ahead_of_time_wait_for_it
            claimed_key_packages_do_not_come_back
            last_resorts_handed_out_are_told_from_others
            fresh_key_packages_replace_the_oldest
            channels_are_created_once
            direct_channels_are_with_accounts_that_there_are
            channels_are_listed_in_pages
            group_records_change_in_order
            submissions_are_checked_in_order
            duplicates_are_answered_before_anything_else
            submissions_are_remembered_until_their_end
            entries_chain
            reading_stops_at_its_bounds
            large_payloads_come_back_whole
            acknowledged_entries_go
            gone_members_hold_nothing_back
            entries_end_in_their_order
            commits_do_everything_at_once
            commits_are_checked_in_order
            one_commit_wins_an_epoch
            refused_commits_change_nothing
            removed_members_read_up_to_their_removal
            members_who_return_begin_anew
            each_inbox_gets_its_own_welcome
            large_commits_name_their_blob
            resets_are_checked_in_order
            resets_do_everything_at_once
            members_of_before_a_reset_read_on
            resets_follow_each_other
            blobs_come_in_chunks
            wrong_blobs_are_dropped
            uploads_are_ones_own
            unfinished_uploads_are_few
            blobs_end
            large_blobs_come_back_whole
            operations_see_those_before_them
            sweeping_stops_at_its_bound
            sweeping_is_not_needed_for_ending
            restarts_lose_nothing
        }
    };
    ($make:expr => $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                $crate::server::conformance::$case(&mut $make());
            }
        )*
    };
}

#[cfg(test)]
mod tests;
