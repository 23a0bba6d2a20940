//! What `capnpc` makes of `schemas/qpc.capnp`; `.ci/schema --write` makes it anew.

#[rustfmt::skip]
#[allow(
    clippy::all,
    clippy::unwrap_used,
    dead_code,
    missing_docs,
    rust_2018_idioms,
    unreachable_pub,
    unused_qualifications,
    reason = "generated"
)]
pub(crate) mod qpc_capnp;
