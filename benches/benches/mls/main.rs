//! MLS: one table of operations for every implementation. `QPC_MLS_MEMBERS=2,10` chooses the sizes of the groups, the
//! feature `peers` adds those of others; what is persisted with each operation is `--bench mls_bytes`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a measurement")]

mod table;

use criterion::Criterion;
use qpc_benches::mls::visit_all;

use self::table::Table;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    visit_all(&mut Table(&mut criterion)).unwrap();
    criterion.final_summary();
}
