//! Decapsulation as it is published with keys in their expanded form (FIPS 203 §7.1), of which only this half of a
//! backend can be asked: our own keys are seeds. Origins and licences: `vectors/README.md`.

use data_encoding::HEXLOWER_PERMISSIVE;
use ml_kem::ml_kem_768::DecapsulationKey;
use serde_json::Value;

use super::*;

/// What a backend makes of a ciphertext for an expanded key.
type Decapsulate = fn(&[u8], &[u8]) -> SharedSecret;

fn decapsulations() -> Vec<Decapsulate> {
    vec![
        with_portable,
        #[cfg(feature = "fast")]
        with_fast,
    ]
}

#[expect(deprecated, reason = "what is published is in this form")]
fn with_portable(key: &[u8], ciphertext: &[u8]) -> SharedSecret {
    let key = DecapsulationKey::from_expanded(key.try_into().unwrap()).unwrap();
    portable::decapsulate(&key, ciphertext)
}

#[cfg(feature = "fast")]
fn with_fast(key: &[u8], ciphertext: &[u8]) -> SharedSecret {
    let key = key.try_into().unwrap();
    fast::decapsulate(&key, ciphertext)
}

fn unhex(text: &str) -> Vec<u8> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).unwrap()
}

#[test]
fn acvp_mlkem768_decapsulation() {
    let text = include_str!("../../../../vectors/acvp-mlkem/decapsulation.json");
    let vectors: Value = serde_json::from_str(text).unwrap();
    let mut count = 0;
    for group in vectors["testGroups"].as_array().unwrap() {
        let hex = |value: &Value| unhex(value.as_str().unwrap());
        let key = hex(&group["dk"]);
        for test in group["tests"].as_array().unwrap() {
            for decapsulate in decapsulations() {
                let shared = decapsulate(&key, &hex(&test["c"])).unwrap();
                assert_eq!(shared.as_slice(), hex(&test["k"]), "{test}");
            }
            count += 1;
        }
    }
    assert_eq!(count, 10);
}

/// `strcmp`: a ciphertext that is as it should be up to a zero, and wrong behind it, is rejected.
#[test]
fn cctv_mlkem768_decapsulation() {
    for text in [
        include_str!("../../../../vectors/cctv/intermediate-ML-KEM-768.txt"),
        include_str!("../../../../vectors/cctv/strcmp-ML-KEM-768.txt"),
        include_str!("../../../../vectors/cctv/unluckysample-ML-KEM-768.txt"),
    ] {
        let field = |name: &str| {
            let prefix = format!("{name} = ");
            unhex(text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap())
        };
        for decapsulate in decapsulations() {
            let shared = decapsulate(&field("dk"), &field("c")).unwrap();
            assert_eq!(shared.as_slice(), field("K"));
        }
    }
}
