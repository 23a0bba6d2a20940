#![expect(
    clippy::disallowed_methods,
    reason = "threads must not show in any output: that is tested"
)]

use data_encoding::HEXLOWER;
use openmls::prelude::{HpkeAeadType, HpkeConfig, HpkeKdfType, HpkeKemType};
use openmls_traits::crypto::OpenMlsCrypto;
use openmls_traits::random::OpenMlsRand;
use openmls_traits::types::{
    AeadType, Ciphersuite, CryptoError, HashType, HpkeKeyPair, SignatureScheme,
};

use super::Crypto;
use crate::crypto::hpke::Kem;
use crate::crypto::portable;
use crate::env::Entropy;
use crate::mls::parallel::MANY;
use crate::mls::suite::Suite;

fn crypto(seed: u8) -> Crypto {
    Crypto::new(portable(), &mut Entropy::from_seed([seed; 32]))
}

fn config(kem: HpkeKemType) -> HpkeConfig {
    HpkeConfig(kem, HpkeKdfType::HkdfSha256, HpkeAeadType::AesGcm128)
}

const KEMS: [HpkeKemType; 2] = [HpkeKemType::DhKem25519, HpkeKemType::XWingKemDraft6];

#[test]
fn draws_differ_and_depend_on_the_seed_and_their_count_alone() {
    let (one, same, other) = (crypto(1), crypto(1), crypto(2));
    let first: [u8; 32] = one.random_array().unwrap();
    assert_eq!(same.random_vec(32).unwrap(), first);
    assert_ne!(one.random_vec(32).unwrap(), first);
    assert_ne!(other.random_vec(32).unwrap(), first);
    let long = one.random_vec(200).unwrap();
    assert_eq!(long.len(), 200);
    let blocks: std::collections::BTreeSet<_> = long.chunks(64).collect();
    assert_eq!(blocks.len(), 4);
}

#[test]
fn an_encapsulation_made_ahead_is_used_once_and_is_the_same_in_every_run() {
    for (name, kem) in KEMS.into_iter().zip([Kem::X25519, Kem::XWing]) {
        let pairs: Vec<_> = (0..2 * MANY)
            .map(|n| crypto(9).derive_hpke_keypair(config(name), &[n as u8; 32]).unwrap())
            .collect();
        let keys: Vec<&[u8]> = pairs.iter().map(|pair| pair.public.as_slice()).collect();
        let run = |keys: &[&[u8]]| {
            let crypto = crypto(1);
            crypto.encapsulate_ahead(kem, keys);
            let seal = |pair: &HpkeKeyPair| {
                crypto.hpke_seal(config(name), &pair.public, b"info", b"aad", b"secret").unwrap()
            };
            [pairs.iter().map(seal).collect::<Vec<_>>(), pairs.iter().map(seal).collect()]
        };
        let [first, second] = run(&keys);
        assert_eq!(run(&keys), [first.clone(), second.clone()]);
        // Those that were not made ahead, and those that were made are used up.
        let [plain, again] = run(&keys[..MANY - 1]);
        assert_eq!((&plain, &second), (&again, &again));
        for (pair, sealed) in pairs.iter().zip(&first) {
            let open = crypto(2).hpke_open(config(name), sealed, &pair.private, b"info", b"aad");
            assert_eq!(open.unwrap(), b"secret");
            let of_all = first.iter().chain(&second);
            assert_eq!(of_all.filter(|all| all.kem_output == sealed.kem_output).count(), 1);
        }
    }
}

#[test]
fn an_encapsulation_depends_on_what_is_sealed_and_not_on_when() {
    for kem in KEMS {
        let pair = crypto(9).derive_hpke_keypair(config(kem), &[7; 32]).unwrap();
        let seal = |crypto: &Crypto, n: u8| {
            crypto.hpke_seal(config(kem), &pair.public, &[n; 5000], b"aad", &[n]).unwrap()
        };
        let alone = crypto(1);
        let expected: Vec<_> = (0..8).map(|n| seal(&alone, n)).collect();
        let shared = crypto(1);
        let crowd: Vec<_> = std::thread::scope(|scope| {
            let (shared, seal) = (&shared, &seal);
            let threads: Vec<_> =
                (0..8).rev().map(|n| scope.spawn(move || seal(shared, n))).collect();
            threads.into_iter().rev().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(crowd, expected);
        for (n, sealed) in (0..8).zip(&expected) {
            let opened =
                alone.hpke_open(config(kem), sealed, &pair.private, &[n; 5000], b"aad").unwrap();
            assert_eq!(opened, [n]);
            let others = expected.iter().filter(|other| other.kem_output == sealed.kem_output);
            assert_eq!(others.count(), 1);
            let wrong = alone.hpke_open(config(kem), sealed, &pair.private, &[n; 5000], b"AAD");
            assert_eq!(wrong, Err(CryptoError::HpkeDecryptionError));
        }
        assert_ne!(seal(&crypto(2), 0), expected[0]);
    }
}

#[test]
fn exporters_agree_and_never_repeat_themselves() {
    for kem in KEMS {
        let crypto = crypto(1);
        let pair = crypto.derive_hpke_keypair(config(kem), &[7; 32]).unwrap();
        let send = || {
            crypto
                .hpke_setup_sender_and_export(config(kem), &pair.public, b"info", b"context", 32)
                .unwrap()
        };
        let ((enc, secret), (again, _)) = (send(), send());
        assert_ne!(enc, again);
        let received = crypto
            .hpke_setup_receiver_and_export(
                config(kem),
                &enc,
                &pair.private,
                b"info",
                b"context",
                32,
            )
            .unwrap();
        assert_eq!(*received, *secret);
    }
}

/// RFC 5869, appendix A.1 (test case 1).
#[test]
fn hkdf_as_published() {
    let crypto = crypto(1);
    let salt = HEXLOWER.decode(b"000102030405060708090a0b0c").unwrap();
    let prk = crypto.hkdf_extract(HashType::Sha2_256, &salt, &[0x0b; 22]).unwrap();
    assert_eq!(
        HEXLOWER.encode(prk.as_slice()),
        "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"
    );
    let info = HEXLOWER.decode(b"f0f1f2f3f4f5f6f7f8f9").unwrap();
    let okm = crypto.hkdf_expand(HashType::Sha2_256, prk.as_slice(), &info, 42).unwrap();
    assert_eq!(
        HEXLOWER.encode(okm.as_slice()),
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    );
    let most = crypto.hkdf_expand(HashType::Sha2_256, prk.as_slice(), &info, 255 * 32).unwrap();
    assert_eq!(most.as_slice().len(), 255 * 32);
    assert_eq!(most.as_slice()[..42], *okm.as_slice());
    let more = crypto.hkdf_expand(HashType::Sha2_256, prk.as_slice(), &info, 255 * 32 + 1);
    assert_eq!(more.unwrap_err(), CryptoError::HkdfOutputLengthInvalid);
}

#[test]
fn a_generated_key_signs() {
    let crypto = crypto(1);
    let (secret, public) = crypto.signature_key_gen(SignatureScheme::ED25519).unwrap();
    let signature = crypto.sign(SignatureScheme::ED25519, b"content", &secret).unwrap();
    let verify = |content: &[u8], public: &[u8], signature: &[u8]| {
        crypto.verify_signature(SignatureScheme::ED25519, content, public, signature)
    };
    assert_eq!(verify(b"content", &public, &signature), Ok(()));
    assert!(verify(b"Content", &public, &signature).is_err());
    assert!(verify(b"content", &public, &signature[..63]).is_err());
    assert!(verify(b"content", &public[..31], &signature).is_err());
    let both = [secret.as_slice(), &public].concat();
    assert_eq!(crypto.sign(SignatureScheme::ED25519, b"content", &both).unwrap(), signature);
    assert!(crypto.sign(SignatureScheme::ED25519, b"content", &secret[..31]).is_err());
}

/// openmls GHSA-8x3w-qj7j-gqhf is about a tag of MLS's own; this is AES-GCM's.
#[test]
fn a_shortened_tag_does_not_open() {
    let crypto = crypto(1);
    for aead in [AeadType::Aes128Gcm, AeadType::Aes256Gcm, AeadType::ChaCha20Poly1305] {
        let (key, nonce) = (vec![1; aead.key_size()], [2; 12]);
        let sealed = crypto.aead_encrypt(aead, &key, b"text", &nonce, b"aad").unwrap();
        assert_eq!(crypto.aead_decrypt(aead, &key, &sealed, &nonce, b"aad").unwrap(), b"text");
        for length in 0..sealed.len() {
            assert!(crypto.aead_decrypt(aead, &key, &sealed[..length], &nonce, b"aad").is_err());
        }
        assert!(crypto.aead_encrypt(aead, &key[1..], b"text", &nonce, b"aad").is_err());
        assert!(crypto.aead_encrypt(aead, &key, b"text", &nonce[1..], b"aad").is_err());
    }
}

#[test]
fn what_it_cannot_do_it_refuses() {
    let crypto = crypto(1);
    for suite in Suite::ALL {
        assert!(crypto.supports(suite.ciphersuite()).is_ok());
    }
    assert!(crypto.supported_ciphersuites().iter().all(|suite| crypto.supports(*suite).is_ok()));
    let foreign = Ciphersuite::MLS_256_DHKEMP384_AES256GCM_SHA384_P384;
    assert_eq!(crypto.supports(foreign), Err(CryptoError::UnsupportedCiphersuite));
    assert!(crypto.hash(HashType::Sha2_384, b"").is_err());
    assert!(crypto.signature_key_gen(SignatureScheme::ED448).is_err());
    let p256 = config(HpkeKemType::DhKemP256);
    assert!(crypto.derive_hpke_keypair(p256, &[1; 32]).is_err());
    let sha512 =
        HpkeConfig(HpkeKemType::DhKem25519, HpkeKdfType::HkdfSha512, HpkeAeadType::AesGcm128);
    assert!(crypto.derive_hpke_keypair(sha512, &[1; 32]).is_err());
}
