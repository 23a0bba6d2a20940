use super::*;
use crate::crypto::portable;

const KEMS: [Kem; 2] = [Kem::X25519, Kem::XWing];
const AEAD: Aead = Aead::Aes128Gcm;

fn random(kem: Kem) -> Vec<u8> {
    vec![7; kem.randomness_len()]
}

#[test]
fn what_is_sealed_opens_and_nothing_near_it() {
    for kem in KEMS {
        let (secret, public) = derive_keypair(portable(), kem, b"recipient");
        assert_eq!(public.len(), kem.public_len());
        let info = b"info".as_slice();
        let (enc, sealed) =
            seal(portable(), kem, AEAD, &public, info, b"aad", b"text", &random(kem)).unwrap();
        assert_eq!(enc.len(), kem.enc_len());
        let open = |enc: &[u8], info: &[u8], aad: &[u8], sealed: &[u8]| {
            open(portable(), kem, AEAD, secret.as_slice(), enc, info, aad, sealed)
        };
        assert_eq!(*open(&enc, info, b"aad", &sealed).unwrap(), b"text");
        assert!(open(&enc, b"other", b"aad", &sealed).is_err());
        assert!(open(&enc, info, b"other", &sealed).is_err());
        let mut tampered = enc.clone();
        tampered[0] ^= 1;
        assert!(open(&tampered, info, b"aad", &sealed).is_err());
        tampered = enc.clone();
        *tampered.last_mut().unwrap() ^= 1;
        assert!(open(&tampered, info, b"aad", &sealed).is_err());
        for length in 0..sealed.len() {
            assert!(open(&enc, info, b"aad", &sealed[..length]).is_err());
        }
        for length in [0, 1, enc.len() - 1] {
            assert!(open(&enc[..length], info, b"aad", &sealed).is_err());
        }
    }
}

#[test]
fn wrong_lengths_are_refused() {
    for kem in KEMS {
        let (secret, public) = derive_keypair(portable(), kem, b"recipient");
        let setup = |public: &[u8], random: &[u8]| {
            setup_sender(portable(), kem, AEAD, public, b"".as_slice(), random).is_ok()
        };
        assert!(setup(&public, &random(kem)));
        assert!(!setup(&public[1..], &random(kem)));
        assert!(!setup(&[public.as_slice(), &[0]].concat(), &random(kem)));
        assert!(!setup(&public, &random(kem)[1..]));
        assert!(!setup(&public, &[]));
        let enc = vec![9; kem.enc_len()];
        let receive = |secret: &[u8]| {
            setup_receiver(portable(), kem, AEAD, &enc, secret, b"".as_slice()).is_ok()
        };
        assert!(receive(secret.as_slice()));
        assert!(!receive(&secret[1..]));
        assert!(!receive(&[]));
    }
}

#[test]
fn hashed_info_is_the_same_as_plain_and_for_its_suite_only() {
    for kem in KEMS {
        let (_, public) = derive_keypair(portable(), kem, b"recipient");
        let random = random(kem);
        let hash = InfoHash::new(portable(), kem, AEAD, b"info");
        let plain = b"info".as_slice();
        assert_eq!(
            seal(portable(), kem, AEAD, &public, &hash, b"", b"text", &random),
            seal(portable(), kem, AEAD, &public, plain, b"", b"text", &random),
        );
        let other = Aead::ChaCha20Poly1305;
        let mixed = seal(portable(), kem, other, &public, &hash, b"", b"text", &random);
        assert_eq!(mixed, Err(CryptoError));
    }
}

#[test]
fn both_sides_export_the_same() {
    for kem in KEMS {
        let (secret, public) = derive_keypair(portable(), kem, b"recipient");
        let (info, random) = (b"info".as_slice(), random(kem));
        let (enc, ours) =
            setup_sender_and_export(portable(), kem, AEAD, &public, info, b"for", 48, &random)
                .unwrap();
        let receive = |context: &[u8], len| {
            let secret = secret.as_slice();
            setup_receiver_and_export(portable(), kem, AEAD, &enc, secret, info, context, len)
        };
        assert_eq!(receive(b"for", 48).unwrap(), ours);
        assert_ne!(receive(b"other", 48).unwrap(), ours);
        assert_eq!(receive(b"for", kdf::EXPAND_MOST).unwrap().len(), kdf::EXPAND_MOST);
        assert_eq!(receive(b"for", kdf::EXPAND_MOST + 1), Err(CryptoError));
        assert_eq!(receive(b"for", usize::MAX), Err(CryptoError));
    }
}

/// RUSTSEC-2026-0071: a counter that wraps uses a nonce twice. Forced to its end, ours refuses, on both sides and
/// for good. (RUSTSEC-2026-0070, a panic of export-only contexts, has no counterpart: there is no such mode here;
/// exporting at any counter works.)
#[test]
fn regression_10_a_nonce_counter_never_wraps() {
    let (secret, public) = derive_keypair(portable(), Kem::X25519, b"recipient");
    let info = b"".as_slice();
    let random = random(Kem::X25519);
    let (enc, mut sender) =
        setup_sender(portable(), Kem::X25519, AEAD, &public, info, &random).unwrap();
    let mut receiver =
        setup_receiver(portable(), Kem::X25519, AEAD, &enc, secret.as_slice(), info).unwrap();
    sender.sequence = u64::MAX - 1;
    receiver.sequence = u64::MAX - 1;
    let last = sender.seal(b"", b"last").unwrap();
    assert_eq!(*receiver.open(b"", &last).unwrap(), b"last");
    for _ in 0..3 {
        assert_eq!(sender.seal(b"", b"one too many"), Err(CryptoError));
        assert_eq!(receiver.open(b"", &last), Err(CryptoError));
    }
    assert_eq!(sender.sequence, u64::MAX);
    assert_eq!(sender.export(b"", 32).unwrap(), receiver.export(b"", 32).unwrap());
}

#[test]
fn a_message_that_does_not_open_moves_no_counter() {
    let (secret, public) = derive_keypair(portable(), Kem::X25519, b"recipient");
    let info = b"".as_slice();
    let random = random(Kem::X25519);
    let (enc, mut sender) =
        setup_sender(portable(), Kem::X25519, AEAD, &public, info, &random).unwrap();
    let mut receiver =
        setup_receiver(portable(), Kem::X25519, AEAD, &enc, secret.as_slice(), info).unwrap();
    let (first, second) = (sender.seal(b"", b"1").unwrap(), sender.seal(b"", b"2").unwrap());
    assert!(receiver.open(b"", &second).is_err());
    assert!(receiver.open(b"", b"garbage").is_err());
    assert_eq!(*receiver.open(b"", &first).unwrap(), b"1");
    assert!(receiver.open(b"", &first).is_err());
    assert_eq!(*receiver.open(b"", &second).unwrap(), b"2");
}

#[test]
fn keys_that_nobody_can_encrypt_to_are_found_early() {
    for kem in KEMS {
        let (_, public) = derive_keypair(portable(), kem, b"recipient");
        check_public_key(kem, &public).unwrap();
        assert!(check_public_key(kem, &public[1..]).is_err());
        assert!(check_public_key(kem, &[]).is_err());
        assert!(check_public_key(kem, &[public.as_slice(), &[0]].concat()).is_err());
    }
}

/// The list names exactly the keys that the primitive refuses.
#[test]
fn keys_of_small_order_are_those_that_x25519_refuses() {
    let refused = |key: &[u8; 32]| {
        let found = check_public_key(Kem::X25519, key).is_err();
        assert_eq!(found, portable().x25519(&[0x42; 32], key).is_err(), "{key:02x?}");
        found
    };
    for key in SMALL_ORDER {
        for high in [0, 0x80] {
            let mut key = key;
            key[31] |= high;
            assert!(refused(&key));
        }
        for bit in 0..255 {
            let mut near = key;
            near[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(refused(&near), SMALL_ORDER.contains(&near));
        }
    }
    for lowest in 0..=0xff {
        assert_eq!(refused(&near_p(lowest)), (0xec..=0xee).contains(&lowest));
        let mut small = [0; 32];
        small[0] = lowest;
        assert_eq!(refused(&small), lowest < 2);
    }
}

/// FIPS 203 §7.2: the first coefficient that is refused is q, wherever it stands.
#[test]
fn malformed_keys_are_those_that_mlkem_refuses() {
    let (_, public) = derive_keypair(portable(), Kem::XWing, b"recipient");
    for place in [0, 1, 2, 3, 254, 255, 256, 511, 512, 766, 767] {
        for value in [0, 3328, 3329, 3330, 4095_u16] {
            let mut key = public.clone();
            let at = place / 2 * 3;
            let [low, high] = value.to_le_bytes();
            if place % 2 == 0 {
                (key[at], key[at + 1]) = (low, key[at + 1] & 0xF0 | high);
            } else {
                (key[at + 1], key[at + 2]) = (key[at + 1] & 0x0F | low << 4, high << 4 | low >> 4);
            }
            let refused = check_public_key(Kem::XWing, &key).is_err();
            assert_eq!(refused, value >= 3329, "{value} at {place}");
            let random = [0; xwing::RANDOMNESS_LEN];
            assert_eq!(refused, xwing::encapsulate(portable(), &key, &random).is_err());
        }
    }
    // Any X25519 half will do.
    let mut key = public.clone();
    key[1184..].fill(0);
    check_public_key(Kem::XWing, &key).unwrap();
    xwing::encapsulate(portable(), &key, &[0; xwing::RANDOMNESS_LEN]).unwrap();
}

#[test]
fn contexts_do_not_print_their_keys() {
    let (_, public) = derive_keypair(portable(), Kem::X25519, b"recipient");
    let random = random(Kem::X25519);
    let info = b"".as_slice();
    let (_, context) = setup_sender(portable(), Kem::X25519, AEAD, &public, info, &random).unwrap();
    let printed = format!("{context:?}");
    assert_eq!(printed, "Context(Suite { kem: X25519, aead: Aes128Gcm }, #0)");
}
