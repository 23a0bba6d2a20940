//! What both backends demand of an Ed25519 signature before they look at the equation.
//!
//! RFC 8032 §5.1.7 leaves room (cofactor or not, odd encodings), and libraries fill it differently. Here a
//! signature holds if and only if `S < L`, neither `A` nor `R` is of small order, both are encoded canonically,
//! and `[S]B = R + [k]A` holds without cofactor. The first three are checked here, the last by the backend.

use super::CryptoError;

/// The order of the base point (RFC 8032 §5.1), little endian.
const L: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// The field's prime 2^255 - 19, little endian.
const P: [u8; 32] = {
    let mut p = [0xff; 32];
    p[0] = 0xed;
    p[31] = 0x7f;
    p
};

/// The y coordinates of the eight points of small order: 1, -1, 0 and two of order eight.
const SMALL_ORDER_Y: [[u8; 32]; 5] = {
    let mut one = [0; 32];
    one[0] = 1;
    let mut minus_one = P;
    minus_one[0] = 0xec;
    [
        one,
        minus_one,
        [0; 32],
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef,
            0x98, 0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88,
            0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10,
            0x67, 0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77,
            0x92, 0xac, 0x03, 0x7a,
        ],
    ]
};

/// Canonical, not of small order, `S` in range. All of it is public, so nothing here is constant-time.
pub(super) fn check_ed25519(public: &[u8; 32], signature: &[u8; 64]) -> Result<(), CryptoError> {
    let (r, s) = signature.split_at(32);
    let sound = point_is_sound(public) && point_is_sound(r) && is_below(s, &L);
    if sound { Ok(()) } else { Err(CryptoError) }
}

fn point_is_sound(encoding: &[u8]) -> bool {
    let Ok(mut y) = <[u8; 32]>::try_from(encoding) else { return false };
    y[31] &= 0x7f; // the sign of x
    is_below(&y, &P) && !SMALL_ORDER_Y.contains(&y)
}

/// Little-endian comparison.
fn is_below(number: &[u8], bound: &[u8; 32]) -> bool {
    number.iter().rev().lt(bound.iter().rev())
}

#[cfg(test)]
mod tests;
