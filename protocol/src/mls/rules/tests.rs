//! Limits that no test of a whole group reaches in good time.

use super::*;
use crate::crypto::identity::{AccountKey, DeviceKey};
use crate::crypto::portable;
use crate::env::Entropy;
use crate::id::{DeviceId, Digest};

fn records(count: usize) -> Vec<DeviceRecord> {
    let mut entropy = Entropy::from_seed([1; 32]);
    let account = AccountKey::generate(portable(), &mut entropy);
    let one = |_| {
        let (device, key) =
            (DeviceId(entropy.array()), DeviceKey::generate(portable(), &mut entropy));
        DeviceRecord::sign(portable(), &account, device, key.public(), 1, UnixMillis(0))
    };
    (0..count).map(one).collect()
}

/// A commit of the first leaf in a group of so many, which adds so many.
fn judge(members: usize, adds: usize) -> Result<(), MlsError> {
    let all = records(members + adds);
    let (there, new) = all.split_at(members);
    let there = (0..).zip(there.iter().cloned()).collect();
    let data = GroupData {
        version: 1,
        admins: vec![all[0].account],
        open: false,
        metadata: Digest([0; 32]),
    };
    let before = Before {
        backend: portable(),
        suite: Suite::Classical,
        records: &there,
        data: &data,
        direct: None,
        revoked: BTreeSet::new(),
    };
    let added = |record: &DeviceRecord| Added { record: record.clone(), expires: UnixMillis(1) };
    let verdict = Verdict {
        committer: all[0].clone(),
        external: false,
        added: new.iter().map(added).collect(),
        removed: Vec::new(),
        left: Vec::new(),
        updated: Vec::new(),
        data: None,
    };
    before.check_result(&verdict)
}

#[test]
fn a_commit_adds_so_many_and_a_group_has_so_many() {
    let refused = |members, adds, why: &str| {
        let error = judge(members, adds).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    };
    refused(1, limits::ADDS_PER_COMMIT + 1, "too many adds");
    assert_eq!(judge(1, limits::MEMBERS - 1), Ok(()));
    refused(2, limits::MEMBERS - 1, "too many members");
}
