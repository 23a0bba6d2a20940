use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use qpc_protocol::io::BatchId;

use super::*;

const KEY: [u8; 32] = [7; 32];

fn open(dir: &tempfile::TempDir) -> SqlStore {
    SqlStore::open(&dir.path().join("state.db"), &KEY).unwrap()
}

fn all(store: &mut SqlStore, prefix: &[u8], most: usize) -> Records {
    let mut records = Records::new();
    loop {
        let after = records.last().map(|(key, _): &(Vec<u8>, Vec<u8>)| key.clone());
        let page = store.load(&Page { prefix: prefix.to_vec(), after, most }).unwrap();
        let short = page.len() < most;
        records.extend(page);
        if short {
            return records;
        }
    }
}

/// Few different bytes, so that prefixes meet, and the highest one, where prefixes have no end.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![Just(0u8), Just(1), Just(0x61), Just(0xFE), Just(0xFF)], 0..4)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (bytes(), vec(any::<u8>(), 0..9)).prop_map(|(key, value)| Op::Put(key, value)),
        1 => bytes().prop_map(Op::Delete),
        1 => bytes().prop_map(Op::DeletePrefix),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Against the plain meaning of batches and pages, over any bytes.
    #[test]
    fn records_are_what_a_map_would_hold(
        batches in vec(vec(op(), 0..12), 1..6), prefix in bytes(), after in proptest::option::of(bytes()),
        most in 1usize..5,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(&dir);
        let mut model = BTreeMap::new();
        for (number, ops) in batches.into_iter().enumerate() {
            for op in &ops {
                match op.clone() {
                    Op::Put(key, value) => drop(model.insert(key, value)),
                    Op::Delete(key) => drop(model.remove(&key)),
                    Op::DeletePrefix(prefix) => model.retain(|key, _| !key.starts_with(&prefix)),
                }
            }
            store.apply(&Batch { id: BatchId(number as u64 + 1), ops }).unwrap();
        }
        drop(store);
        let mut store = open(&dir);
        let wanted = |after: &Option<Vec<u8>>| -> Records {
            model.iter()
                .filter(|(key, _)| key.starts_with(&prefix) && after.as_ref().is_none_or(|a| *key > a))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        prop_assert_eq!(all(&mut store, &prefix, most), wanted(&None));
        let mut expected = wanted(&after);
        expected.truncate(most);
        let page = Page { prefix: prefix.clone(), after, most };
        prop_assert_eq!(store.load(&page).unwrap(), expected);
    }
}

#[test]
fn the_file_is_private_and_holds_no_plaintext() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(&dir);
    let needle = b"a needle that nobody may find".to_vec();
    let ops = vec![Op::Put(needle.clone(), needle.clone())];
    store.apply(&Batch { id: BatchId(1), ops }).unwrap();
    drop(store);
    let path = dir.path().join("state.db");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let raw = fs::read(&path).unwrap();
    assert!(!raw.windows(needle.len()).any(|window| window == needle));
    assert_eq!(all(&mut open(&dir), b"", 10).len(), 1);
}

#[test]
fn wrong_keys_damage_and_newer_schemas_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    drop(open(&dir));
    let wrong = SqlStore::open(&path, &[8; 32]).unwrap_err();
    assert!(wrong.is(Local::HomeDamaged), "{wrong}");
    let store = open(&dir);
    store.db.pragma_update(None, "user_version", 99).unwrap();
    drop(store);
    let newer = SqlStore::open(&path, &KEY).unwrap_err();
    assert!(newer.is(Local::HomeNewer), "{newer}");
    let length = fs::metadata(&path).unwrap().len();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 1).unwrap();
    let cut = SqlStore::open(&path, &KEY).unwrap_err();
    assert!(cut.is(Local::HomeDamaged) && cut.text().contains("cut off"), "{cut}");
}

/// Whatever SQLite makes of a page that was changed: it is damage, and not the disk.
#[test]
fn a_page_that_was_changed_is_told_as_damage_wherever_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut store = open(&dir);
    let ops = (0..200).map(|number| Op::Put(vec![number; 8], vec![number; 500])).collect();
    store.apply(&Batch { id: BatchId(1), ops }).unwrap();
    drop(store);
    let whole = fs::read(&path).unwrap();
    let mut told = 0;
    let pages = whole.chunks(PAGE as usize).count();
    for page in 0..pages {
        let mut bytes = whole.clone();
        bytes[page * PAGE as usize + 2_000] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let page_of_all = Page { prefix: Vec::new(), after: None, most: 1_000 };
        let read = SqlStore::open(&path, &KEY)
            .and_then(|mut store| store.load(&page_of_all).map_err(Problem::from));
        if let Err(problem) = read {
            assert!(problem.is(Local::HomeDamaged), "page {page}: {problem}");
            told += 1;
        }
        let put = Op::Put(vec![7; 8], vec![8; 500]);
        let batch = Batch { id: BatchId(1), ops: vec![put] };
        let written = SqlStore::open(&path, &KEY)
            .and_then(|mut store| store.apply(&batch).map_err(Problem::from));
        if let Err(problem) = written {
            assert!(problem.is(Local::HomeDamaged), "page {page}, writing: {problem}");
        }
        drop(fs::remove_file(dir.path().join("state.db-wal")));
        drop(fs::remove_file(dir.path().join("state.db-journal")));
    }
    assert!(told + 1 >= pages, "{told} of {pages}");
}

#[test]
fn a_batch_that_fails_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(&dir);
    // Room for a few pages only.
    store.db.execute_batch("PRAGMA max_page_count = 8").unwrap();
    let ops = vec![Op::Put(b"a".to_vec(), vec![1; 100]), Op::Put(b"b".to_vec(), vec![2; 1 << 20])];
    let full = store.apply(&Batch { id: BatchId(1), ops }).unwrap_err();
    assert_eq!(full.kind, StoreFaultKind::Full, "{full}");
    assert!(all(&mut store, b"", 10).is_empty());
}
