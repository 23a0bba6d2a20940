//! The SQLCipher store beside the reference.
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its disk fails")]

use proptest::prelude::*;
use qpc_protocol::error::StoreFault;
use qpc_protocol::server::conformance::{Backend, compare};
use qpc_protocol::server::memory::MemoryStore;
use qpc_protocol::server::op::{StoreOp, StoreReply};
use qpc_protocol::server_store_conformance;
use qpc_server::store::SqliteStore;
use qpc_smol::store::ServerStore as _;
use tempfile::TempDir;
use zeroize::Zeroizing;

/// A store on a disk that is gone with it.
struct Disk {
    directory: TempDir,
    store: Option<SqliteStore>,
}

fn disk() -> Disk {
    let mut disk = Disk { directory: TempDir::new().unwrap(), store: None };
    disk.reopen();
    disk
}

impl Backend for Disk {
    fn apply(&mut self, ops: &[StoreOp]) -> Result<Vec<StoreReply>, StoreFault> {
        self.store.as_mut().unwrap().apply(ops)
    }

    fn reopen(&mut self) {
        // One process has the file at a time: closed first.
        self.store = None;
        let path = self.directory.path().join("server.db");
        self.store = Some(SqliteStore::open(&path, Zeroizing::new([7; 32])).unwrap());
    }
}

server_store_conformance!(disk);

/// Every batch is synced to a disk: as many runs as fit into a test, or as `PROPTEST_CASES` says.
fn runs() -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = std::env::var_os("PROPTEST_CASES").map_or(32, |_| default.cases);
    ProptestConfig { cases, max_shrink_iters: 2_000, ..default }
}

proptest! {
    #![proptest_config(runs())]

    #[test]
    fn answers_as_the_reference_does(script in proptest::collection::vec(any::<u8>(), 500..6_000)) {
        let seen = compare(&mut MemoryStore::default(), &mut disk(), &script);
        prop_assert!(seen.accepted > 20);
    }
}
