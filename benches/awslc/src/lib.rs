//! Nothing of its own: see `benches/`.
#![forbid(unsafe_code)]
