//! Published vectors against every backend that is built in. Origins and licences: `vectors/README.md`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use data_encoding::HEXLOWER_PERMISSIVE;
use qpc_protocol::crypto::{Aead, Backend, hpke, kdf, portable, xwing};
use serde_json::Value;
use shake::{ExtendableOutput, Shake256, Update, XofReader};

macro_rules! vectors {
    ($path:literal) => {
        serde_json::from_str::<serde_json::Value>(include_str!(concat!("../../../vectors/", $path)))
            .unwrap()
    };
}

mod mlkem;

fn backends() -> Vec<Backend> {
    vec![
        portable(),
        #[cfg(feature = "fast")]
        qpc_protocol::crypto::fast(),
    ]
}

fn unhex(text: &str) -> Vec<u8> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).unwrap()
}

fn hex(value: &Value, field: &str) -> Vec<u8> {
    unhex(value[field].as_str().unwrap_or_else(|| panic!("{field} in {value}")))
}

fn array<const N: usize>(value: &Value, field: &str) -> [u8; N] {
    hex(value, field).try_into().unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

/// Every test of every group, with its group; there must be as many as expected, so that an empty file fails.
fn each(vectors: &Value, expected: usize, mut check: impl FnMut(&Value, &Value)) {
    let mut count = 0;
    for group in list(&vectors["testGroups"]) {
        for test in list(&group["tests"]) {
            check(group, test);
            count += 1;
        }
    }
    assert_eq!(count, expected);
}

fn check_aead(vectors: &Value, expected: usize, aead: impl Fn(&Value) -> Aead) {
    let mut opened = 0;
    each(vectors, expected, |group, test| {
        let (key, iv, aad) = (hex(test, "key"), hex(test, "iv"), hex(test, "aad"));
        let (message, tag) = (hex(test, "msg"), hex(test, "tag"));
        let ciphertext = [hex(test, "ct"), tag].concat();
        // The interface takes 96-bit nonces only; with others nothing can be asked of it.
        let Ok(nonce) = <[u8; 12]>::try_from(iv.as_slice()) else { return };
        for backend in backends() {
            let aead = aead(group);
            let result = backend.aead_open(aead, &key, &nonce, &aad, &ciphertext);
            if test["result"] == "valid" {
                assert_eq!(*result.unwrap(), message, "{test}");
                let sealed = backend.aead_seal(aead, &key, &nonce, &aad, &message).unwrap();
                assert_eq!(sealed, ciphertext, "{test}");
                opened += 1;
            } else {
                assert!(result.is_err(), "{} took {test}", backend.name());
            }
        }
    });
    assert!(opened > 50 * backends().len());
}

#[test]
fn wycheproof_aes_gcm() {
    check_aead(&vectors!("wycheproof/aes_gcm.json"), 213, |group| {
        match group["keySize"].as_u64() {
            Some(128) => Aead::Aes128Gcm,
            Some(256) => Aead::Aes256Gcm,
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn wycheproof_chacha20_poly1305() {
    let vectors = vectors!("wycheproof/chacha20_poly1305.json");
    check_aead(&vectors, 325, |_| Aead::ChaCha20Poly1305);
}

#[test]
fn wycheproof_x25519() {
    let mut refused = 0;
    each(&vectors!("wycheproof/x25519.json"), 518, |_, test| {
        let shared: [u8; 32] = array(test, "shared");
        for backend in backends() {
            // RFC 7748 §6.1: ours is the strict side, where a secret of zeros is refused, and nothing else is.
            match backend.x25519(&array(test, "private"), &array(test, "public")) {
                Ok(ours) => assert!(*ours == shared && shared != [0; 32], "{test}"),
                Err(_) => {
                    assert_eq!(shared, [0; 32], "{} refused {test}", backend.name());
                    refused += 1;
                }
            }
        }
    });
    assert_eq!(refused, 31 * backends().len());
}

#[test]
fn rfc7748_x25519() {
    let vectors = vectors!("x25519/rfc7748.json");
    for backend in backends() {
        for case in list(&vectors["scalar_mult"]) {
            let out = backend.x25519(&array(case, "scalar"), &array(case, "u")).unwrap();
            assert_eq!(*out, array(case, "out"));
        }
        let iterated = &vectors["iterated"];
        let mut k: [u8; 32] = array(iterated, "start");
        let mut u = k;
        assert_eq!(*backend.x25519(&k, &u).unwrap(), backend.x25519_public(&k));
        for round in 1..=1000 {
            let next = *backend.x25519(&k, &u).unwrap();
            u = k;
            k = next;
            if round == 1 {
                assert_eq!(k, array(iterated, "after_1"));
            }
        }
        assert_eq!(k, array(iterated, "after_1000"));
    }
}

#[test]
fn wycheproof_ed25519() {
    each(&vectors!("wycheproof/ed25519.json"), 151, |group, test| {
        let message = hex(test, "msg");
        // A signature of another length cannot be handed over at all.
        let Ok(signature) = hex(test, "sig").try_into() else {
            assert_eq!(test["result"], "invalid");
            return;
        };
        for backend in backends() {
            let result = backend.ed25519_verify(&array(group, "pk"), &message, &signature);
            assert_eq!(result.is_ok(), test["result"] == "valid", "{}: {test}", backend.name());
        }
    });
}

#[test]
fn ed25519_signatures() {
    let mut count = 0;
    for line in include_str!("../../../vectors/ed25519/sign-input.txt").lines() {
        let fields: Vec<_> = line.split(':').map(unhex).collect();
        let [pair, public, message, signed, ..] = fields.as_slice() else { panic!("{line}") };
        let seed = pair[..32].try_into().unwrap();
        let signature = signed[..64].try_into().unwrap();
        let public = public.as_slice().try_into().unwrap();
        for backend in backends() {
            assert_eq!(&backend.ed25519_public(seed), public);
            assert_eq!(&backend.ed25519_sign(seed, message), signature);
            backend.ed25519_verify(public, message, signature).unwrap();
        }
        count += 1;
    }
    assert_eq!(count, 64);
}

/// Small order of A (0, 1) and R (2), cofactored only (4, 5), S not below L (6, 7) and R not canonical (8, 9) are
/// all refused; a key of mixed order is not in itself wrong (3).
#[test]
fn ed25519_speccheck() {
    let vectors = vectors!("ed25519/speccheck.json");
    assert_eq!(list(&vectors).len(), 10);
    for backend in backends() {
        let takes = |case: &Value| {
            let (public, signature) = (array(case, "pub_key"), array(case, "signature"));
            backend.ed25519_verify(&public, &hex(case, "message"), &signature).is_ok()
        };
        let taken: Vec<_> = (0..10).filter(|&place| takes(&vectors[place])).collect();
        assert_eq!(taken, [3], "{}", backend.name());
    }
}

#[test]
fn wycheproof_hkdf_sha256() {
    each(&vectors!("wycheproof/hkdf_sha256.json"), 86, |_, test| {
        for backend in backends() {
            let prk = kdf::extract(backend, &hex(test, "salt"), &[&hex(test, "ikm")]);
            let mut out = vec![0; usize::try_from(test["size"].as_u64().unwrap()).unwrap()];
            let result = kdf::expand(backend, prk.as_slice(), &[&hex(test, "info")], &mut out);
            assert_eq!(result.is_ok(), test["result"] == "valid", "{test}");
            if result.is_ok() {
                assert_eq!(out, hex(test, "okm"), "{test}");
            }
        }
    });
}

#[test]
fn wycheproof_hmac_sha256() {
    each(&vectors!("wycheproof/hmac_sha256.json"), 174, |_, test| {
        let (key, message, tag) = (hex(test, "key"), hex(test, "msg"), hex(test, "tag"));
        let (head, tail) = message.split_at(message.len() / 2);
        for backend in backends() {
            let ours = backend.hmac_sha256(&key, &[head, tail]);
            assert_eq!(ours[..tag.len()] == tag, test["result"] == "valid", "{test}");
        }
    });
}

/// RFC 4231 §4.2 and §4.7 (test cases 1 and 6: a key longer than a block).
#[test]
fn rfc4231_hmac_sha512() {
    let first = "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde\
                 daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854";
    let sixth = "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f352\
                 6b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598";
    let text = b"Test Using Larger Than Block-Size Key - Hash Key First";
    for backend in backends() {
        assert_eq!(backend.hmac_sha512(&[0x0b; 20], &[b"Hi ", b"There"]).to_vec(), unhex(first));
        assert_eq!(backend.hmac_sha512(&[0xaa; 131], &[text]).to_vec(), unhex(sixth));
    }
}

#[test]
fn xwing_draft() {
    let vectors = vectors!("xwing/draft-test-vectors.json");
    assert_eq!(list(&vectors).len(), 3);
    for case in list(&vectors) {
        let secret = array(case, "sk");
        for backend in backends() {
            let public = xwing::public_key(backend, &secret);
            assert_eq!(public, hex(case, "pk"));
            assert_eq!(public.len(), xwing::PUBLIC_LEN);
            let (ciphertext, shared) =
                xwing::encapsulate(backend, &public, &array(case, "eseed")).unwrap();
            assert_eq!(ciphertext, hex(case, "ct"));
            assert_eq!(ciphertext.len(), xwing::CIPHERTEXT_LEN);
            assert_eq!(shared.as_slice(), hex(case, "ss"));
            assert_eq!(xwing::decapsulate(backend, &secret, &ciphertext).unwrap(), shared);
        }
    }
}

#[test]
fn rfc9180_x25519_base_mode() {
    let vectors = vectors!("hpke/rfc9180-x25519-base.json");
    let aeads = [Aead::Aes128Gcm, Aead::Aes256Gcm, Aead::ChaCha20Poly1305];
    assert_eq!(list(&vectors).len(), aeads.len());
    for (case, aead) in list(&vectors).iter().zip(aeads) {
        for backend in backends() {
            check_hpke(case, backend, hpke::Kem::X25519, aead);
        }
    }
}

fn check_hpke(case: &Value, backend: Backend, kem: hpke::Kem, aead: Aead) {
    let (secret, public) = hpke::derive_keypair(backend, kem, &hex(case, "ikmR"));
    assert_eq!(secret.as_slice(), hex(case, "skRm"));
    assert_eq!(public, hex(case, "pkRm"));
    let (plain, random) = (hex(case, "info"), hex(case, "ikmE"));
    let info = &hpke::InfoHash::new(backend, kem, aead, &plain);
    let secret = secret.as_slice();

    let (enc, mut sender) = hpke::setup_sender(backend, kem, aead, &public, info, &random).unwrap();
    assert_eq!(enc, hex(case, "enc"));
    let mut receiver =
        hpke::setup_receiver(backend, kem, aead, &enc, secret, plain.as_slice()).unwrap();
    for export in list(&case["exports"]) {
        let (context, value) = (hex(export, "exporter_context"), hex(export, "exported_value"));
        assert_eq!(*sender.export(&context, value.len()).unwrap(), value);
        assert_eq!(*receiver.export(&context, value.len()).unwrap(), value);
    }

    let first = &case["encryptions"][0];
    let (aad, message) = (hex(first, "aad"), hex(first, "pt"));
    let (_, sealed) =
        hpke::seal(backend, kem, aead, &public, info, &aad, &message, &random).unwrap();
    assert_eq!(sealed, hex(first, "ct"));
    let opened = hpke::open(backend, kem, aead, secret, &enc, info, &aad, &sealed).unwrap();
    assert_eq!(*opened, message);

    // The file keeps some of the messages; those between only move the counters.
    let mut sequence = 0;
    let kept = list(&case["encryptions_index"]).iter().map(|index| index.as_u64().unwrap());
    for (index, encryption) in kept.zip(list(&case["encryptions"])) {
        while sequence < index {
            let between = sender.seal(b"", b"").unwrap();
            receiver.open(b"", &between).unwrap();
            sequence += 1;
        }
        let (aad, message) = (hex(encryption, "aad"), hex(encryption, "pt"));
        let sealed = sender.seal(&aad, &message).unwrap();
        assert_eq!(sealed, hex(encryption, "ct"));
        assert_eq!(*receiver.open(&aad, &sealed).unwrap(), message);
        sequence += 1;
    }
    assert_eq!(sequence, 257);
}

#[test]
fn hpke_pq_draft_05_xwing() {
    let case = vectors!("hpke/hpke-pq-draft-05-xwing.json");
    let (kem, aead) = (hpke::Kem::XWing, Aead::ChaCha20Poly1305);
    let (info, random) = (hex(&case, "info"), hex(&case, "ikmE"));
    for backend in backends() {
        let (secret, public) = hpke::derive_keypair_labelled(backend, kem, &hex(&case, "ikmR"));
        assert_eq!(secret.as_slice(), hex(&case, "skRm"));
        assert!(public.starts_with(&hex(&case, "pkRm_first")));
        assert!(public.ends_with(&hex(&case, "pkRm_last")));
        let (enc, mut sender) =
            hpke::setup_sender(backend, kem, aead, &public, info.as_slice(), &random).unwrap();
        assert!(enc.starts_with(&hex(&case, "enc_first")));
        assert!(enc.ends_with(&hex(&case, "enc_last")));
        let shared = xwing::decapsulate(backend, &secret, &enc).unwrap();
        assert_eq!(shared.as_slice(), hex(&case, "shared_secret"));
        for encryption in list(&case["encryptions"]) {
            let sealed = sender.seal(&hex(encryption, "aad"), &hex(encryption, "pt")).unwrap();
            assert_eq!(sealed, hex(encryption, "ct"));
        }
        for export in list(&case["exports"]) {
            let exported = sender.export(&hex(export, "exporter_context"), 32).unwrap();
            assert_eq!(*exported, hex(export, "exported_value"));
        }
    }
}

/// X-Wing under the suites of today: `SHAKE256(ikm, 32)` is the seed.
#[test]
fn xwing_derives_by_plain_shake() {
    let mut seed = [0; 32];
    let mut shake = Shake256::default();
    shake.update(b"key material");
    shake.finalize_xof().read(&mut seed);
    for backend in backends() {
        let (secret, public) = hpke::derive_keypair(backend, hpke::Kem::XWing, b"key material");
        assert_eq!(*secret, seed);
        assert_eq!(public, xwing::public_key(backend, &seed));
    }
}

#[test]
fn rfc9106_argon2id() {
    let vectors = vectors!("argon2/rfc9106.json");
    assert_eq!(list(&vectors["cases"]).len(), 1);
    for case in list(&vectors["cases"]) {
        let number = |field: &str| u32::try_from(case[field].as_u64().unwrap()).unwrap();
        let params = argon2::ParamsBuilder::new()
            .m_cost(number("m_kib"))
            .t_cost(number("t"))
            .p_cost(number("p"))
            .data(argon2::AssociatedData::new(&hex(case, "ad")).unwrap())
            .build()
            .unwrap();
        let secret = hex(case, "secret");
        let (algorithm, version) = (argon2::Algorithm::Argon2id, argon2::Version::V0x13);
        let argon2 = argon2::Argon2::new_with_secret(&secret, algorithm, version, params).unwrap();
        let mut tag = [0; 32];
        argon2.hash_password_into(&hex(case, "password"), &hex(case, "salt"), &mut tag).unwrap();
        assert_eq!(tag.as_slice(), hex(case, "tag"));
    }
}
