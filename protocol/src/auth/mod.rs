//! Authentication: OPAQUE on both sides, tokens, the session proof, device registration.

pub mod device;
