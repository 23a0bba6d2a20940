//! Authentication: OPAQUE on both sides, tokens, the session proof, device registration.

pub mod budget;
pub mod client;
pub mod device;
pub mod opaque;
pub mod server;
pub mod token;

#[cfg(test)]
mod tests;
