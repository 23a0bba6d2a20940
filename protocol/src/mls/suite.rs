//! The cipher suites that are allowed.

use serde::{Deserialize, Serialize};

/// A cipher suite. The order is by strength: a group never moves to a lesser one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Suite {
    /// 0x0001, MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519: the classical baseline; makes no post-quantum claim.
    Classical,
    /// 0x004F, MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519: hybrid X-Wing KEM
    /// (draft-ietf-mls-pq-ciphersuites, code point provisional).
    #[default]
    Hybrid,
}

impl Suite {
    /// All of them, the preferred one first.
    pub const ALL: [Self; 2] = [Self::Hybrid, Self::Classical];

    /// The code point.
    pub fn number(self) -> u16 {
        match self {
            Self::Classical => 0x0001,
            Self::Hybrid => 0x004F,
        }
    }

    /// The suite of a code point, if allowed.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.number() == number)
    }
}
