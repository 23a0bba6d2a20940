//! The table of `qpc-benches`' suite `mls` with mls-rs over AWS-LC in it, all in the same run.
#![forbid(unsafe_code)]

mod awslc;
#[path = "../../benches/mls/table.rs"]
mod table;

use criterion::Criterion;

use self::table::Table;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    awslc::visit_all(&mut Table(&mut criterion)).unwrap();
    criterion.final_summary();
}
