//! Properties of both backends. What they must agree on with the world is in `tests/vectors_crypto`.

use proptest::prelude::*;

use super::*;

mod expanded;

fn backends() -> Vec<Backend> {
    vec![
        portable(),
        #[cfg(feature = "fast")]
        fast(),
    ]
}

/// Asks every backend; all must answer the same.
fn agree<T: PartialEq + fmt::Debug>(ask: impl Fn(Backend) -> T) -> T {
    let mut answers = backends().into_iter().map(ask);
    let first = answers.next().unwrap();
    for answer in answers {
        assert_eq!(answer, first);
    }
    first
}

const AEADS: [Aead; 3] = [Aead::Aes128Gcm, Aead::Aes256Gcm, Aead::ChaCha20Poly1305];

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..=most)
}

/// Points and scalars as an attacker picks them: random, small, around the prime and the order, of small order.
fn hostile() -> impl Strategy<Value = [u8; 32]> {
    let edges = (0..64u8, any::<bool>(), 0..5usize).prop_map(|(low, sign, kind)| {
        let mut edge = match kind {
            0 => [0; 32],
            1 => [0xff; 32],
            2 => {
                let mut prime = [0xff; 32];
                prime[31] = 0x7f;
                prime
            }
            3 => {
                // L, the order of the base point (RFC 8032 §5.1), but for its low byte.
                let mut order = [0; 32];
                order[1..16].copy_from_slice(&[
                    0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9,
                    0xde, 0x14,
                ]);
                order[31] = 0x10;
                order
            }
            _ => {
                // A point of order eight.
                let mut eighth = [
                    0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2,
                    0xef, 0x98, 0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38,
                    0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
                ];
                eighth[31] ^= u8::from(sign) << 7;
                return eighth;
            }
        };
        edge[0] = u8::wrapping_sub(edge[0], 32).wrapping_add(low);
        edge[31] ^= u8::from(sign) << 7;
        edge
    });
    prop_oneof![any::<[u8; 32]>(), edges]
}

fn joined(r: [u8; 32], s: [u8; 32]) -> [u8; 64] {
    let mut joined = [0; 64];
    joined[..32].copy_from_slice(&r);
    joined[32..].copy_from_slice(&s);
    joined
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hashes_agree_and_parts_do_not_matter(key in bytes(200), text in bytes(500), cut in any::<prop::sample::Index>()) {
        let (head, tail) = text.split_at(cut.index(text.len() + 1));
        let whole = agree(|backend| {
            (backend.sha256(&[&text]), backend.hmac_sha256(&key, &[&text]), backend.hmac_sha512(&key, &[&text]))
        });
        let parts = agree(|backend| {
            let parts = [head, b"", tail];
            (backend.sha256(&parts), backend.hmac_sha256(&key, &parts), backend.hmac_sha512(&key, &parts))
        });
        prop_assert_eq!(whole, parts);
    }

    #[test]
    fn aeads_agree_and_open_only_what_was_sealed(
        key in any::<[u8; 32]>(), nonce in any::<[u8; 12]>(), aad in bytes(64), text in bytes(300),
        place in any::<prop::sample::Index>(), bit in 0..8u8,
    ) {
        for aead in AEADS {
            let key = &key[..aead.key_len()];
            let sealed = agree(|backend| backend.aead_seal(aead, key, &nonce, &aad, &text)).unwrap();
            prop_assert_eq!(sealed.len(), text.len() + 16);
            let opened = agree(|backend| backend.aead_open(aead, key, &nonce, &aad, &sealed)).unwrap();
            prop_assert_eq!(&*opened, &text);
            let mut changed = sealed.clone();
            changed[place.index(sealed.len())] ^= 1 << bit;
            prop_assert!(agree(|backend| backend.aead_open(aead, key, &nonce, &aad, &changed)).is_err());
            let longer = [aad.as_slice(), &[0]].concat();
            prop_assert!(agree(|backend| backend.aead_open(aead, key, &nonce, &longer, &sealed)).is_err());
        }
    }

    #[test]
    fn aeads_agree_on_garbage(key in bytes(40), nonce in any::<[u8; 12]>(), sealed in bytes(64)) {
        for aead in AEADS {
            prop_assert!(agree(|backend| backend.aead_open(aead, &key, &nonce, b"", &sealed)).is_err());
            let sealed = agree(|backend| backend.aead_seal(aead, &key, &nonce, b"", &sealed));
            prop_assert_eq!(sealed.is_ok(), key.len() == aead.key_len());
        }
    }

    #[test]
    fn x25519_agrees_on_any_point(one in any::<[u8; 32]>(), other in any::<[u8; 32]>(), point in hostile()) {
        let ours = agree(|backend| backend.x25519_public(&one));
        let theirs = agree(|backend| backend.x25519_public(&other));
        let shared = agree(|backend| backend.x25519(&one, &theirs)).unwrap();
        prop_assert_eq!(agree(|backend| backend.x25519(&other, &ours)).unwrap(), shared);
        let _ = agree(|backend| backend.x25519(&one, &point));
    }

    #[test]
    fn ed25519_agrees_on_signatures(seed in any::<[u8; 32]>(), text in bytes(100), place in 0..64usize, bit in 0..8u8) {
        let public = agree(|backend| backend.ed25519_public(&seed));
        let signature = agree(|backend| backend.ed25519_sign(&seed, &text));
        prop_assert_eq!(agree(|backend| backend.ed25519_signer(&seed).sign(&text)), signature);
        prop_assert!(agree(|backend| backend.ed25519_verify(&public, &text, &signature)).is_ok());
        let mut changed = signature;
        changed[place] ^= 1 << bit;
        prop_assert!(agree(|backend| backend.ed25519_verify(&public, &text, &changed)).is_err());
        let longer = [text.as_slice(), &[0]].concat();
        prop_assert!(agree(|backend| backend.ed25519_verify(&public, &longer, &signature)).is_err());
    }

    #[test]
    fn ed25519_agrees_on_hostile_points(a in hostile(), r in hostile(), s in hostile(), text in bytes(20)) {
        let signature = joined(r, s);
        prop_assert!(agree(|backend| backend.ed25519_verify(&a, &text, &signature)).is_err());
    }
}

proptest! {
    // ML-KEM is slow where generic code is not optimised.
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mlkem768_agrees(
        seed in any::<[u8; 32]>(), z in any::<[u8; 32]>(), random in any::<[u8; 32]>(),
        place in any::<prop::sample::Index>(), value in any::<u8>(),
    ) {
        let seed = joined(seed, z);
        let public = agree(|backend| backend.mlkem768_public(&seed));
        let (ciphertext, shared) = agree(|backend| backend.mlkem768_encapsulate(&public, &random)).unwrap();
        prop_assert_eq!(agree(|backend| backend.mlkem768_decapsulate(&seed, &ciphertext)).unwrap(), shared.clone());
        let mut changed = ciphertext.clone();
        let at = place.index(changed.len());
        changed[at] ^= value | 1;
        prop_assert_ne!(agree(|backend| backend.mlkem768_decapsulate(&seed, &changed)).unwrap(), shared);
        // A changed key is refused or used, by both.
        let mut changed = public.clone();
        let at = place.index(changed.len());
        changed[at] = value;
        let _ = agree(|backend| backend.mlkem768_encapsulate(&changed, &random));
        for short in [&public[..at], &ciphertext[..place.index(ciphertext.len())]] {
            prop_assert!(agree(|backend| backend.mlkem768_encapsulate(short, &random)).is_err());
            // A key may be cut to the length of a ciphertext.
            let decapsulated = agree(|backend| backend.mlkem768_decapsulate(&seed, short));
            prop_assert_eq!(decapsulated.is_ok(), short.len() == ciphertext.len());
        }
    }

    #[test]
    fn hpke_agrees(ikm in bytes(64), random in any::<[u8; 32]>(), info in bytes(100), aad in bytes(20), text in bytes(100)) {
        for kem in [hpke::Kem::X25519, hpke::Kem::XWing] {
            let (secret, public) = agree(|backend| hpke::derive_keypair(backend, kem, &ikm));
            let _ = agree(|backend| hpke::derive_keypair_labelled(backend, kem, &ikm));
            let random = &joined(random, random)[..kem.randomness_len()];
            let info = info.as_slice();
            for aead in AEADS {
                let (enc, sealed) =
                    agree(|backend| hpke::seal(backend, kem, aead, &public, info, &aad, &text, random)).unwrap();
                let opened =
                    agree(|backend| hpke::open(backend, kem, aead, secret.as_slice(), &enc, info, &aad, &sealed));
                prop_assert_eq!(&*opened.unwrap(), &text);
            }
        }
    }
}

#[test]
fn envelopes_and_seals_agree() {
    use crate::env::{Entropy, UnixMillis};
    use crate::id::DeviceId;
    let envelope = agree(|backend| {
        let mut entropy = Entropy::from_seed([4; 32]);
        let account = identity::AccountKey::generate(backend, &mut entropy);
        let key = identity::DeviceKey::generate(backend, &mut entropy);
        let id = DeviceId(entropy.array());
        let record =
            identity::DeviceRecord::sign(backend, &account, id, key.public(), 1, UnixMillis(5));
        let secrets = hybrid::EnvelopeSecrets::generate(&mut entropy);
        let keys = secrets.publish(backend, &key, record.sender(), 1, UnixMillis(5));
        let purpose = hybrid::Purpose::DeviceNote;
        let envelope =
            hybrid::seal(backend, purpose, &record, &key, &keys, b"body", &mut entropy).unwrap();
        let (from, body) =
            hybrid::open(backend, purpose, &secrets, record.sender(), &envelope).unwrap();
        assert_eq!((from, &*body), (record, &b"body".to_vec()));
        let cost = seal::Cost::new(8, 1).unwrap();
        let sealed = seal::seal(backend, b"pw", cost, b"text", b"", &mut entropy).unwrap();
        let keyed = seal::seal_with_key(backend, &[1; 32], b"text", b"", &mut entropy).unwrap();
        (envelope, sealed, keyed)
    });
    assert!(envelope.0.len() > hybrid::OVERHEAD);
}

#[test]
fn safety_numbers_agree() {
    use crate::id::AccountId;
    agree(|backend| {
        safety_number::SafetyNumber::of(backend, AccountId([1; 32]), AccountId([2; 32]))
    });
}

/// openmls GHSA-8x3w-qj7j-gqhf: a tag cut short was accepted. Each length of tag but sixteen is refused, by each cipher
/// of each backend.
#[test]
fn regression_13_every_truncated_tag_is_refused() {
    for backend in backends() {
        for aead in AEADS {
            let key = &[1; 32][..aead.key_len()];
            for text in [b"".as_slice(), b"some text that is longer than a tag"] {
                let sealed = backend.aead_seal(aead, key, &[2; 12], b"aad", text).unwrap();
                assert!(backend.aead_open(aead, key, &[2; 12], b"aad", &sealed).is_ok());
                for length in 0..sealed.len() {
                    let cut = &sealed[..length];
                    assert!(
                        backend.aead_open(aead, key, &[2; 12], b"aad", cut).is_err(),
                        "{length}"
                    );
                }
                let longer = [sealed.as_slice(), &[0]].concat();
                assert!(backend.aead_open(aead, key, &[2; 12], b"aad", &longer).is_err());
            }
        }
    }
}

/// CVE-2026-22705 (ML-DSA's decompose) and RUSTSEC-2024-0344 (curve25519-dalek's scalar subtraction) leaked secrets
/// by time. The lock file must hold no version before the fixes: curve25519-dalek 4.1.3 and ml-dsa 0.1.0-rc.3 (of
/// which only what came after 0.1.0 is taken here). Nothing of ours signs with ML-DSA; it comes with other crates.
#[test]
fn regression_11_versions_are_past_the_timing_fixes() {
    let lock = include_str!("../../../Cargo.lock");
    let versions = |name: &str| -> Vec<Vec<u32>> {
        let line = format!("name = \"{name}\"\nversion = \"");
        let found = lock.match_indices(&line).map(|(at, _)| {
            let version = lock[at + line.len()..].split(['"', '-', '+']).next().unwrap();
            version.split('.').map(|part| part.parse().unwrap()).collect()
        });
        found.collect()
    };
    let curve = versions("curve25519-dalek");
    assert!(!curve.is_empty());
    assert!(curve.iter().all(|version| *version >= vec![4, 1, 3]), "{curve:?}");
    assert!(versions("ml-dsa").iter().all(|version| *version > vec![0, 1, 0]));
}
