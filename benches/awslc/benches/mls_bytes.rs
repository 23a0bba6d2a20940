//! The rows of `qpc-benches`' `mls_bytes` with mls-rs over AWS-LC among them.
#![forbid(unsafe_code)]

mod awslc;
#[path = "../../benches/mls/rows.rs"]
mod rows;

use self::rows::Bytes;

fn main() {
    awslc::visit_all(&mut Bytes).unwrap();
}
