use ed25519_dalek::VerifyingKey;

use super::*;

/// An encoding that decodes to a point outside the small subgroup, and a harmless S.
const SOUND: [u8; 32] = {
    let mut y = [0; 32];
    y[0] = 3;
    y
};

fn signature(r: [u8; 32], s: [u8; 32]) -> [u8; 64] {
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&r);
    signature[32..].copy_from_slice(&s);
    signature
}

#[test]
fn the_table_is_the_small_subgroup() {
    let mut points = 0;
    for y in SMALL_ORDER_Y {
        for sign in [0, 0x80] {
            let mut encoding = y;
            encoding[31] |= sign;
            // dalek decodes odd encodings too, so all ten are points; two of them with x = 0 come twice.
            assert!(VerifyingKey::from_bytes(&encoding).unwrap().is_weak(), "{encoding:02x?}");
            points += 1;
            assert_eq!(check_ed25519(&encoding, &signature(SOUND, [0; 32])), Err(CryptoError));
            assert_eq!(check_ed25519(&SOUND, &signature(encoding, [0; 32])), Err(CryptoError));
        }
    }
    assert_eq!(points, 10);
    assert_eq!(check_ed25519(&SOUND, &signature(SOUND, [0; 32])), Ok(()));
}

#[test]
fn encodings_from_the_prime_on_are_refused() {
    for low in 0xed..=0xffu8 {
        for sign in [0x7f, 0xff] {
            let mut encoding = [0xff; 32];
            encoding[0] = low;
            encoding[31] = sign;
            assert_eq!(check_ed25519(&encoding, &signature(SOUND, [0; 32])), Err(CryptoError));
            assert_eq!(check_ed25519(&SOUND, &signature(encoding, [0; 32])), Err(CryptoError));
        }
    }
    // p - 2 is the largest that is no small-order point.
    let mut largest = P;
    largest[0] = 0xeb;
    assert_eq!(check_ed25519(&largest, &signature(SOUND, [0; 32])), Ok(()));
}

#[test]
fn s_is_below_the_order() {
    let mut below = L;
    below[0] -= 1;
    assert_eq!(check_ed25519(&SOUND, &signature(SOUND, below)), Ok(()));
    assert_eq!(check_ed25519(&SOUND, &signature(SOUND, L)), Err(CryptoError));
    assert_eq!(check_ed25519(&SOUND, &signature(SOUND, [0xff; 32])), Err(CryptoError));
}
