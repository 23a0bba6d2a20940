use super::*;
use crate::crypto::portable;

const CHEAP: Cost = Cost { memory_kib: 8, passes: 1 };

fn entropy() -> Entropy {
    Entropy::from_seed([1; 32])
}

fn sealed(plaintext: &[u8]) -> Vec<u8> {
    seal(portable(), b"correct horse", CHEAP, plaintext, b"aad", &mut entropy()).unwrap()
}

fn opens(password: &[u8], sealed: &[u8], aad: &[u8]) -> bool {
    open(portable(), password, sealed, aad).is_ok()
}

#[test]
fn what_is_sealed_opens_under_its_password_only() {
    for plaintext in [b"".as_slice(), b"secret", &[3; 5000]] {
        let sealed = sealed(plaintext);
        assert_eq!(sealed.len(), plaintext.len() + OVERHEAD);
        let opened = open(portable(), b"correct horse", &sealed, b"aad").unwrap();
        assert_eq!(*opened, plaintext);
        assert!(!opens(b"correct horsf", &sealed, b"aad"));
        assert!(!opens(b"", &sealed, b"aad"));
        assert!(!opens(b"correct horse", &sealed, b"other"));
    }
}

#[test]
fn what_is_sealed_under_a_key_opens_under_that_key_only() {
    let sealed = seal_with_key(portable(), &[5; 32], b"secret", b"aad", &mut entropy()).unwrap();
    assert_eq!(sealed.len(), 6 + OVERHEAD_WITH_KEY);
    let opened = open_with_key(portable(), &[5; 32], &sealed, b"aad").unwrap();
    assert_eq!(*opened, b"secret");
    assert!(open_with_key(portable(), &[6; 32], &sealed, b"aad").is_err());
    assert!(open_with_key(portable(), &[5; 32], &sealed, b"").is_err());
    // One form is not the other.
    assert!(!opens(&[5; 32], &sealed, b"aad"));
    assert!(open_with_key(portable(), &[5; 32], &self::sealed(b""), b"aad").is_err());
}

/// openmls GHSA-8x3w-qj7j-gqhf, at rest: every truncation, a trailing byte and every changed byte are refused.
#[test]
fn regression_13_truncated_and_changed_seals_are_refused() {
    let by_password = sealed(b"secret");
    let by_key = seal_with_key(portable(), &[5; 32], b"secret", b"aad", &mut entropy()).unwrap();
    let password_opens = |bytes: &[u8]| opens(b"correct horse", bytes, b"aad");
    let key_opens = |bytes: &[u8]| open_with_key(portable(), &[5; 32], bytes, b"aad").is_ok();
    check(&by_password, password_opens);
    check(&by_key, key_opens);

    fn check(sealed: &[u8], opens: impl Fn(&[u8]) -> bool) {
        assert!(opens(sealed));
        for length in 0..sealed.len() {
            assert!(!opens(&sealed[..length]), "{length}");
        }
        assert!(!opens(&[sealed, &[0]].concat()));
        for place in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[place] ^= 1;
            assert!(!opens(&changed), "{place}");
        }
    }
}

#[test]
fn hostile_costs_are_refused_before_any_work() {
    assert!(Cost::new(MEMORY_LEAST, 1).is_some());
    assert!(Cost::new(MEMORY_MOST, PASSES_MOST).is_some());
    for (memory, passes) in [
        (MEMORY_LEAST - 1, 1),
        (0, 1),
        (MEMORY_MOST + 1, 1),
        (u32::MAX, 1),
        (MEMORY_LEAST, 0),
        (MEMORY_LEAST, PASSES_MOST + 1),
        (u32::MAX, u32::MAX),
    ] {
        assert!(Cost::new(memory, passes).is_none());
        let mut hostile = sealed(b"secret");
        hostile[2..6].copy_from_slice(&memory.to_be_bytes());
        hostile[6..10].copy_from_slice(&passes.to_be_bytes());
        // Four tebibytes and four billion passes would not come back at all.
        assert!(!opens(b"correct horse", &hostile, b"aad"));
    }
    let mut lanes = sealed(b"secret");
    lanes[10] = 255;
    assert!(!opens(b"correct horse", &lanes, b"aad"));
}

#[test]
fn every_sealing_is_fresh() {
    let mut entropy = entropy();
    let mut seal = || seal_with_key(portable(), &[5; 32], b"secret", b"", &mut entropy).unwrap();
    let (one, other) = (seal(), seal());
    assert_ne!(one[2..18], other[2..18]);
    assert_ne!(one[18..], other[18..]);
}

/// The reference implementation's own tests (P-H-C/phc-winner-argon2 @ f57e61e, `src/test.c`, CC0), one lane.
#[test]
fn argon2id_as_the_reference_computes_it() {
    for (memory_kib, passes, password, expected) in [
        (65536, 2, "password", "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7"),
        (256, 2, "password", "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe"),
        (65536, 1, "password", "f6a5adc1ba723dddef9b5ac1d464e180fcd9dffc9d1cbf76cca2fed795d9ca98"),
    ] {
        let cost = Cost::new(memory_kib, passes).unwrap();
        let key = cost.key(password.as_bytes(), b"somesalt").unwrap();
        assert_eq!(data_encoding::HEXLOWER.encode(key.as_slice()), expected);
    }
}

/// Format version 1, pinned: what was sealed once must open for ever.
#[test]
fn sealed_bytes_are_pinned() {
    let pinned = "01010000000800000001011ecc3686b60ee3b84b6c7d321d70d5c0e0009ea626dc331929052ba8c8c5c4972969d231a4b0";
    let pinned = data_encoding::HEXLOWER.decode(pinned.as_bytes()).unwrap();
    assert_eq!(sealed(b"secret"), pinned);
    assert_eq!(*open(portable(), b"correct horse", &pinned, b"aad").unwrap(), b"secret");
    // Computed apart from this code, in Python from RFC 5869 and RFC 8439.
    let pinned = "01021ecc3686b60ee3b84b6c7d321d70d5c0b8dec959b50969c7ee4ff66c7e40dcaee0c65f474201";
    let pinned = data_encoding::HEXLOWER.decode(pinned.as_bytes()).unwrap();
    assert_eq!(*open_with_key(portable(), &[5; 32], &pinned, b"aad").unwrap(), b"secret");
}
