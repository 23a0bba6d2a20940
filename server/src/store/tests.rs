use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use qpc_protocol::crypto::identity::{DeviceRecord, EnvelopeKeys};
use qpc_protocol::env::UnixMillis;
use qpc_protocol::error::{StoreFault, StoreFaultKind};
use qpc_protocol::id::{AccountId, ChannelId, DeviceId, Digest, MessageId, Sender};
use qpc_protocol::server::op::{AccountRow, Append, StoreOp, StoreReply};
use qpc_protocol::wire::message::{ChannelKind, EntryKind, Part, Username};
use qpc_smol::store::ServerStore as _;
use rusqlite::Connection;
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::open::migrate;
use super::{OpenError, SqliteStore};

const KEY: [u8; 32] = [0xC4; 32];
const ONE: Sender = Sender { account: AccountId([1; 32]), device: DeviceId([1; 16]) };
const CHANNEL: ChannelId = ChannelId([1; 16]);
const NOW: UnixMillis = UnixMillis(1_000);
const PLANTED: &[u8] = b"planted: no byte of this may be found in a file";

fn open(path: &Path) -> Result<SqliteStore, OpenError> {
    SqliteStore::open(path, Zeroizing::new(KEY))
}

fn place() -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("data").join("server.db");
    (directory, path)
}

fn founding() -> Vec<StoreOp> {
    let record = DeviceRecord {
        account: ONE.account,
        device: ONE.device,
        device_key: [2; 32],
        sequence: 1,
        not_before: NOW,
        signature: [0; 64],
    };
    let envelope_keys = EnvelopeKeys {
        sender: ONE,
        sequence: 1,
        not_before: NOW,
        x25519: [0; 32],
        mlkem768: Box::new([0; 1184]),
        signature: [0; 64],
    };
    vec![
        StoreOp::CreateAccount(AccountRow {
            username: Username::prepare("plantedname").unwrap(),
            account: ONE.account,
            opaque_record: Bytes::from_static(PLANTED),
            sealed_account_key: Bytes::from_static(PLANTED),
            created: NOW,
        }),
        StoreOp::PutDevice { record, envelope_keys, most: 1, at: NOW, expires: NOW },
        StoreOp::CreateChannel {
            channel: CHANNEL,
            kind: ChannelKind::Group,
            generation: 1,
            creator: ONE,
            with: None,
            group: Vec::new(),
            group_info: Bytes::from_static(PLANTED),
            at: NOW,
        },
    ]
}

fn append(n: u64, payload: Bytes) -> StoreOp {
    let mut message = [0; 16];
    message[..8].copy_from_slice(&n.to_be_bytes());
    StoreOp::Append(Append {
        channel: CHANNEL,
        generation: 1,
        epoch: 0,
        past_epochs: 2,
        sender: ONE,
        message: MessageId(message),
        hash: Digest::of(&[&message]),
        kind: EntryKind::Application,
        payload: Part::Inline(payload),
        group: Vec::new(),
        at: NOW,
        expires: UnixMillis(10_000),
    })
}

fn fetch() -> StoreOp {
    StoreOp::Fetch {
        channel: CHANNEL,
        reader: ONE,
        after: 0,
        most: u32::MAX,
        bytes: u64::MAX,
        at: NOW,
    }
}

fn head(store: &mut SqliteStore) -> u64 {
    match store.apply(&[fetch()]).unwrap().as_slice() {
        [StoreReply::Entries { entries, head, first: 1 }] => {
            assert_eq!(entries.len() as u64, *head);
            *head
        }
        other => panic!("{other:?}"),
    }
}

/// A store with `entries` entries of about a page each, closed.
fn filled(path: &Path, entries: u64) {
    let mut store = open(path).unwrap();
    store.apply(&founding()).unwrap();
    for n in 0..entries {
        store.apply(&[append(n, Bytes::from(vec![7; 3_000]))]).unwrap();
    }
}

/// Both the file and what it leaves in its log, of a store that is not closed.
fn raw(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    bytes.extend(fs::read(path.with_extension("db-wal")).unwrap_or_default());
    bytes
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn files_are_the_owners_alone() {
    let (_directory, path) = place();
    let mut store = open(&path).unwrap();
    store.apply(&founding()).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&path.with_extension("db-wal")), 0o600);
    drop(store);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    open(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn nothing_readable_reaches_the_disk() {
    let (_directory, path) = place();
    let mut store = open(&path).unwrap();
    store.apply(&founding()).unwrap();
    store.apply(&[append(1, Bytes::from_static(PLANTED))]).unwrap();
    let written = |bytes: &[u8]| {
        assert!(bytes.len() > 4096);
        for needle in [PLANTED, b"plantedname", b"CREATE TABLE", b"SQLite format 3"] {
            assert!(!contains(bytes, needle));
        }
    };
    written(&raw(&path));
    drop(store);
    written(&raw(&path));
    assert_eq!(head(&mut open(&path).unwrap()), 1);
}

#[test]
fn settings_are_as_stated() {
    let (_directory, path) = place();
    let store = open(&path).unwrap();
    let text = |sql: &str| -> String {
        store
            .db
            .query_row(sql, (), |row| row.get::<_, rusqlite::types::Value>(0))
            .map(|value| match value {
                rusqlite::types::Value::Integer(n) => n.to_string(),
                rusqlite::types::Value::Text(text) => text,
                other => panic!("{other:?}"),
            })
            .unwrap()
    };
    assert_eq!(text("PRAGMA journal_mode"), "wal");
    assert_eq!(text("PRAGMA synchronous"), "2");
    assert_eq!(text("PRAGMA foreign_keys"), "1");
    assert_eq!(text("PRAGMA temp_store"), "2");
    assert_eq!(text("PRAGMA locking_mode"), "exclusive");
    assert_eq!(text("PRAGMA cipher_page_size"), "4096");
    assert_eq!(text("PRAGMA cipher_use_hmac"), "1");
    assert_eq!(text("PRAGMA cipher_hmac_algorithm"), "HMAC_SHA512");
    assert!(text("PRAGMA cipher_version").starts_with('4'));
}

#[test]
fn another_key_is_refused_by_name_and_never_shown() {
    let (_directory, path) = place();
    filled(&path, 3);
    let before = fs::read(&path).unwrap();
    let wrong = SqliteStore::open(&path, Zeroizing::new([0xD5; 32])).unwrap_err();
    assert!(matches!(wrong, OpenError::WrongKey(_)), "{wrong:?}");
    for text in [wrong.to_string(), format!("{wrong:?}")] {
        assert!(!text.to_lowercase().contains("d5d5"), "{text}");
    }
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(head(&mut open(&path).unwrap()), 3);
}

#[test]
fn a_database_without_a_key_is_not_taken() {
    let (_directory, path) = place();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(error, OpenError::WrongKey(_)), "{error:?}");
}

#[test]
fn a_database_of_another_program_is_not_taken() {
    let (_directory, path) = place();
    let store = open(&path).unwrap();
    store.db.execute_batch("PRAGMA application_id = 5").unwrap();
    drop(store);
    let error = open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Damaged(..)), "{error:?}");
}

#[test]
fn a_newer_schema_is_refused_with_both_versions() {
    let (_directory, path) = place();
    let store = open(&path).unwrap();
    store.db.execute_batch("PRAGMA user_version = 9").unwrap();
    drop(store);
    let error = open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 9, known: 1, .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("version 9") && text.contains("up to 1"), "{text}");
}

#[test]
fn migrations_run_once_each_and_all_or_none() {
    let (_directory, path) = place();
    let mut store = open(&path).unwrap();
    let first = "SELECT 1";
    let second = "CREATE TABLE later (n INTEGER); INSERT INTO later VALUES (2)";
    let broken = "INSERT INTO later VALUES (3); INSERT INTO nowhere VALUES (1)";
    let version = |db: &Connection| {
        db.query_row("PRAGMA user_version", [], |row| row.get::<_, u32>(0)).unwrap()
    };
    let sum = |db: &Connection| {
        db.query_row("SELECT sum(n) FROM later", [], |row| row.get::<_, u32>(0)).unwrap()
    };
    for _ in 0..2 {
        migrate(&mut store.db, &path, &[first, second]).unwrap();
        assert_eq!((version(&store.db), sum(&store.db)), (2, 2));
    }
    migrate(&mut store.db, &path, &[first, second, broken]).unwrap_err();
    assert_eq!((version(&store.db), sum(&store.db)), (2, 2));
    let newer = migrate(&mut store.db, &path, &[first]).unwrap_err();
    assert!(matches!(newer, OpenError::Newer { found: 2, known: 1, .. }), "{newer:?}");
}

#[test]
fn a_file_in_use_is_said_to_be() {
    let (_directory, path) = place();
    let store = open(&path).unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(error, OpenError::InUse(_)), "{error:?}");
    drop(store);
    open(&path).unwrap();
}

#[test]
fn a_file_cut_off_is_damaged() {
    let (_directory, path) = place();
    filled(&path, 20);
    let bytes = fs::read(&path).unwrap();
    for keep in [100, 4096 + 7, bytes.len() - 1] {
        fs::write(&path, &bytes[..keep]).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error, OpenError::Damaged(..)), "{keep}: {error:?}");
    }
}

#[test]
fn a_damaged_page_is_a_fault_and_the_rest_still_answers() {
    let (_directory, path) = place();
    filled(&path, 60);
    let mut bytes = fs::read(&path).unwrap();
    // The last pages hold the last entries.
    let page = bytes.len() - 3 * 4096;
    bytes[page + 100..page + 200].fill(0);
    fs::write(&path, &bytes).unwrap();
    let mut store = open(&path).unwrap();
    let fault = store.apply(&[fetch()]).unwrap_err();
    assert_eq!(fault.kind, StoreFaultKind::Corrupt, "{fault}");
    let find = StoreOp::FindAccount { username: Username::prepare("plantedname").unwrap() };
    assert!(matches!(store.apply(&[find]).unwrap()[..], [StoreReply::Account(Some(_))]));
}

#[test]
fn a_directory_in_its_place_is_an_error() {
    let (_directory, path) = place();
    fs::create_dir_all(&path).unwrap();
    assert!(matches!(open(&path).unwrap_err(), OpenError::Damaged(..)));
    let below_a_file = path.with_extension("txt");
    fs::write(&below_a_file, b"a file").unwrap();
    let error = open(&below_a_file.join("server.db")).unwrap_err();
    assert!(matches!(error, OpenError::File { .. }), "{error:?}");
}

/// The disk fills up in the middle of a batch: nothing of the batch stays, what was there does, and when there is room
/// again the same batch goes through.
#[test]
fn a_full_disk_takes_nothing_half() {
    let (_directory, path) = place();
    filled(&path, 5);
    let mut store = open(&path).unwrap();
    // One submission is in memory already, so that what is kept there has to be dropped too.
    store.apply(&[append(100, Bytes::new())]).unwrap();
    let pages: i64 = store.db.query_row("PRAGMA page_count", (), |row| row.get(0)).unwrap();
    let limit = |store: &SqliteStore, pages: i64| {
        let sql = format!("PRAGMA max_page_count = {pages}");
        store.db.query_row(&sql, (), |_| Ok(())).unwrap();
    };
    limit(&store, pages + 20);
    let batch: Vec<_> = (200..300).map(|n| append(n, Bytes::from(vec![1; 3_000]))).collect();
    for _ in 0..2 {
        let fault = store.apply(&batch).unwrap_err();
        assert_eq!(fault.kind, StoreFaultKind::Full, "{fault}");
        assert_eq!(head(&mut store), 6);
    }
    // What fits goes through meanwhile.
    let small = store.apply(&[append(200, Bytes::new())]).unwrap();
    assert!(matches!(small[..], [StoreReply::Appended { seq: 7, duplicate: false, .. }]));
    limit(&store, 1_000_000);
    let replies = store.apply(&batch).unwrap();
    assert!(matches!(replies[0], StoreReply::Appended { seq: 7, duplicate: true, .. }));
    assert!(matches!(replies[99], StoreReply::Appended { seq: 106, duplicate: false, .. }));
    drop(store);
    for _ in 0..2 {
        assert_eq!(head(&mut open(&path).unwrap()), 106);
    }
}

/// What was answered is in the file, whatever happens to the process: a copy of the files of a store that is still
/// open, as a crash leaves them, has it all.
#[test]
fn what_was_answered_survives_a_crash() {
    let (directory, path) = place();
    let mut store = open(&path).unwrap();
    store.apply(&founding()).unwrap();
    for n in 0..40 {
        store.apply(&[append(n, Bytes::from(vec![3; 500]))]).unwrap();
        if n % 13 != 0 {
            continue;
        }
        let copy = directory.path().join(format!("copy{n}")).join("server.db");
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(&path, &copy).unwrap();
        fs::copy(path.with_extension("db-wal"), copy.with_extension("db-wal")).unwrap();
        for _ in 0..2 {
            let mut after = open(&copy).unwrap();
            assert_eq!(head(&mut after), n + 1);
            let again = after.apply(&[append(n, Bytes::from(vec![3; 500]))]).unwrap();
            assert!(matches!(again[..], [StoreReply::Appended { duplicate: true, .. }]));
        }
    }
}

/// A batch that was cut off while it was written never happened.
#[test]
fn a_torn_batch_never_happened() {
    let (directory, path) = place();
    let mut store = open(&path).unwrap();
    store.apply(&founding()).unwrap();
    store.apply(&[append(1, Bytes::from(vec![3; 500]))]).unwrap();
    let log = path.with_extension("db-wal");
    let before = fs::read(&log).unwrap().len();
    let batch: Vec<_> = (2..20).map(|n| append(n, Bytes::from(vec![3; 3_000]))).collect();
    store.apply(&batch).unwrap();
    let whole = fs::read(&log).unwrap();
    assert!(whole.len() > before + 10 * 4096);
    for (n, cut) in
        [before + 1, before + 5_000, whole.len() - 4_000, whole.len() - 1].into_iter().enumerate()
    {
        let copy = directory.path().join(format!("copy{n}")).join("server.db");
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(&path, &copy).unwrap();
        fs::write(copy.with_extension("db-wal"), &whole[..cut]).unwrap();
        assert_eq!(head(&mut open(&copy).unwrap()), 1, "cut at {cut} of {}", whole.len());
    }
}

/// A message to a group costs its bytes and little more, whatever the size of the log before it.
#[test]
fn batches_write_few_pages() {
    let (_directory, path) = place();
    let mut store = open(&path).unwrap();
    store.apply(&founding()).unwrap();
    let mut batch = |from: u64| {
        let ops: Vec<_> = (from..from + 64).map(|n| append(n, Bytes::from(vec![3; 512]))).collect();
        let before = fs::metadata(path.with_extension("db-wal")).unwrap().len();
        store.apply(&ops).unwrap();
        (fs::metadata(path.with_extension("db-wal")).unwrap().len() - before) / 4096
    };
    batch(0);
    for round in 1..20 {
        let pages = batch(round * 64);
        // 64 entries of about 560 bytes are ten pages, 64 submissions of about 110 are two.
        assert!(pages <= 20, "{pages} pages in round {round}");
    }
}

/// Which message stands where is forgotten for devices that rest, and read again when they do not.
#[test]
fn the_memory_of_submissions_is_bounded() {
    let (_directory, path) = place();
    let mut store = open(&path).unwrap();
    store.apply(&founding()).unwrap();
    let device = |n: u8| Sender { account: ONE.account, device: DeviceId([n; 16]) };
    let channel = |n: u8| ChannelId([n; 16]);
    let from = |n: u8, op: StoreOp| match op {
        StoreOp::Append(op) => {
            StoreOp::Append(Append { sender: device(n), channel: channel(n), ..op })
        }
        other => other,
    };
    for n in 2..=3 {
        let ops = founding().into_iter().filter_map(|op| match op {
            StoreOp::PutDevice { mut record, mut envelope_keys, at, expires, .. } => {
                record.device = DeviceId([n; 16]);
                envelope_keys.sender = device(n);
                Some(StoreOp::PutDevice { record, envelope_keys, most: 3, at, expires })
            }
            StoreOp::CreateChannel { kind, generation, with, group, group_info, at, .. } => {
                Some(StoreOp::CreateChannel {
                    channel: channel(n),
                    kind,
                    generation,
                    creator: device(n),
                    with,
                    group,
                    group_info,
                    at,
                })
            }
            _ => None,
        });
        let replies = store.apply(&ops.collect::<Vec<_>>()).unwrap();
        assert!(matches!(replies[..], [StoreReply::Told { .. }, StoreReply::Done]));
    }
    store.cache.submissions.most = 10;
    for round in 0..8 {
        for n in 1..=3 {
            let replies = store.apply(&[from(n, append(round, Bytes::new()))]).unwrap();
            let seq = round + 1;
            let expected = |reply: &StoreReply| matches!(reply, StoreReply::Appended { seq: s, duplicate: false, .. } if *s == seq);
            assert!(expected(&replies[0]), "{replies:?}");
            assert!(store.cache.submissions.ids <= 10);
        }
    }
    for n in 1..=3 {
        let again: Vec<_> = (0..8).map(|round| from(n, append(round, Bytes::new()))).collect();
        for (reply, expected) in store.apply(&again).unwrap().iter().zip(1..) {
            assert!(
                matches!(reply, StoreReply::Appended { seq, duplicate: true, .. } if *seq == expected),
                "{reply:?}"
            );
        }
        assert!(store.cache.submissions.ids <= 10);
    }
}

#[test]
fn numbers_that_do_not_fit_are_refused() {
    let place = |no, n| super::row::place(no, n).ok();
    assert_eq!(place(3, 5), Some(3 << 35 | 5));
    assert_eq!(place((1 << 28) - 1, (1 << 35) - 1), Some(i64::MAX));
    assert_eq!(place(1 << 28, 0), None);
    assert_eq!(place(0, 1 << 35), None);
    assert_eq!(place(-1, 0), None);
    assert_eq!(super::row::position(3 << 35 | 5), 5);
}

/// SQLite's codes as the protocol tells them apart.
#[test]
fn faults_say_what_happened() {
    let full =
        rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None);
    let io = rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_WRITE),
        None,
    );
    let torn = rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        None,
    );
    let kinds = [&full, &io, &torn].map(|error| {
        let StoreFault { kind, detail } = super::fault(error);
        assert!(!detail.is_empty());
        kind
    });
    assert_eq!(kinds, [StoreFaultKind::Full, StoreFaultKind::Io, StoreFaultKind::Corrupt]);
}
