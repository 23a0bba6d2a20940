//! What each implementation writes to its disk: one tab-separated row for each, in bytes. `QPC_MLS_MEMBERS=2,10`
//! chooses the sizes of the groups.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a measurement")]

mod rows;

use qpc_benches::mls::visit_all;

use self::rows::Bytes;

fn main() {
    visit_all(&mut Bytes).unwrap();
}
