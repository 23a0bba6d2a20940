use super::super::memory::MemoryStore;

crate::server_store_conformance!(MemoryStore::default);

/// The reference beside itself: the driver finds no difference where there is none, and finds one where there is.
mod driver {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::super::{Backend, compare};
    use super::MemoryStore;
    use crate::env::Entropy;
    use crate::error::{ErrorCode, StoreFault};
    use crate::server::op::{StoreOp, StoreReply};

    fn script(seed: u8) -> Vec<u8> {
        let mut bytes = vec![0; 4_000];
        Entropy::from_seed([seed; 32]).fill(&mut bytes);
        bytes
    }

    #[test]
    fn equal_stores_compare_equal() {
        for seed in 0..20 {
            let seen =
                compare(&mut MemoryStore::default(), &mut MemoryStore::default(), &script(seed));
            assert!(seen.accepted > 50 && seen.refused > 20, "{seen:?}");
        }
    }

    /// Does not tell the epoch when it was the reason, as a careless backend would.
    struct Silent(MemoryStore);

    impl Backend for Silent {
        fn apply(&mut self, ops: &[StoreOp]) -> Result<Vec<StoreReply>, StoreFault> {
            let mut replies = self.0.apply(ops);
            for reply in &mut replies {
                if matches!(reply, StoreReply::Refused { code: ErrorCode::StaleEpoch, .. }) {
                    *reply = StoreReply::refused(ErrorCode::StaleEpoch);
                }
            }
            Ok(replies)
        }

        fn reopen(&mut self) {}
    }

    #[test]
    fn a_difference_is_found() {
        let found = (0..20).any(|seed| {
            let mut wrong = Silent(MemoryStore::default());
            let run = || compare(&mut MemoryStore::default(), &mut wrong, &script(seed));
            catch_unwind(AssertUnwindSafe(run)).is_err()
        });
        assert!(found);
    }
}
