use super::super::memory::MemoryStore;

crate::server_store_conformance!(MemoryStore::default);

/// The reference beside itself: the driver finds no difference where there is none, and finds one where there is.
mod driver {
    use std::collections::BTreeMap;
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

    /// Counts which operation got which answer.
    #[derive(Default)]
    struct Recorder {
        store: MemoryStore,
        seen: BTreeMap<String, usize>,
    }

    impl Backend for Recorder {
        fn apply(&mut self, ops: &[StoreOp]) -> Result<Vec<StoreReply>, StoreFault> {
            let replies = self.store.apply(ops);
            for (op, reply) in ops.iter().zip(&replies) {
                let op = format!("{op:?}");
                let name = op.split([' ', '(']).next().unwrap();
                let answer = match reply {
                    StoreReply::Refused { code, .. } => code.name(),
                    StoreReply::Appended { duplicate: true, .. } => "duplicate",
                    _ => "ok",
                };
                *self.seen.entry(format!("{name} {answer}")).or_default() += 1;
            }
            Ok(replies)
        }

        fn reopen(&mut self) {}
    }

    #[test]
    fn random_operations_meet_every_answer() {
        let mut recorder = Recorder::default();
        for seed in 0..60 {
            recorder.store = MemoryStore::default();
            compare(&mut MemoryStore::default(), &mut recorder, &script(seed));
        }
        let answers = [
            ("Ack", "ok ChannelUnknown NotMember CursorInvalid"),
            (
                "Append",
                "ok duplicate MessageIdReused ChannelUnknown NotMember GenerationMismatch FutureEpoch StaleEpoch",
            ),
            ("ChannelInfo", "ok ChannelUnknown NotMember"),
            ("ClaimKeyPackages", "ok AccountUnknown"),
            (
                "Commit",
                "ok duplicate MessageIdReused ChannelUnknown NotMember GenerationMismatch FutureEpoch \
                 EpochConflict RecordInvalid",
            ),
            ("CountKeyPackages", "ok"),
            ("CreateAccount", "ok UsernameTaken AccountExists"),
            ("CreateChannel", "ok ChannelExists DeviceUnknown DeviceRevoked AccountUnknown"),
            ("DeleteAccount", "ok AccountUnknown"),
            ("EndTokens", "ok"),
            ("Fetch", "ok ChannelUnknown NotMember CursorInvalid"),
            ("FindAccount", "ok"),
            ("FindRefresh", "ok TokenInvalid TokenExpired"),
            ("GetBlob", "ok BlobUnknown CursorInvalid"),
            ("ListChannels", "ok"),
            ("ListDevices", "ok"),
            ("LoadGroup", "ok ChannelUnknown"),
            ("LoadGroupInfo", "ok ChannelUnknown NotMember GenerationMismatch"),
            ("OpenSession", "ok DeviceUnknown DeviceRevoked TokenInvalid"),
            ("PutBlob", "ok BlobMismatch BlobTooLarge"),
            ("PutDevice", "ok AccountUnknown DeviceRevoked DeviceLimit RecordStale"),
            ("PutKeyPackages", "ok DeviceUnknown DeviceRevoked KeyPackageQuota"),
            ("PutRefresh", "ok AccountUnknown DeviceRevoked"),
            (
                "ResetChannel",
                "ok duplicate MessageIdReused ChannelUnknown NotMember GenerationMismatch",
            ),
            ("RevokeDevice", "ok DeviceUnknown"),
            ("RotateRefresh", "ok TokenInvalid"),
            ("Sweep", "ok"),
        ];
        for (op, answers) in answers {
            for answer in answers.split_whitespace() {
                let pair = format!("{op} {answer}");
                assert!(recorder.seen.contains_key(&pair), "{pair} in {:#?}", recorder.seen);
            }
        }
    }
}
