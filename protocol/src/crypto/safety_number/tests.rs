use super::*;
use crate::crypto::portable;

fn number(one: u8, other: u8) -> SafetyNumber {
    SafetyNumber::of(portable(), AccountId([one; 32]), AccountId([other; 32]))
}

#[test]
fn both_sides_see_the_same_sixty_digits() {
    assert_eq!(number(1, 2), number(2, 1));
    let printed = number(1, 2).to_string();
    let groups: Vec<_> = printed.split(' ').collect();
    assert_eq!(groups.len(), 12);
    for group in groups {
        assert_eq!(group.len(), 5);
        assert!(group.bytes().all(|digit| digit.is_ascii_digit()));
    }
}

#[test]
fn another_account_is_another_number() {
    let numbers = [number(1, 2), number(1, 3), number(2, 3), number(1, 1)];
    for (place, one) in numbers.iter().enumerate() {
        assert!(numbers[place + 1..].iter().all(|other| one != other));
    }
    // The half that both pairs share is the same: it is the account's own.
    assert_eq!(number(1, 2).groups()[..6], number(1, 3).groups()[..6]);
}

/// Version 1, computed apart from this code with Python's hashlib.
#[test]
fn the_number_is_pinned() {
    assert_eq!(
        number(1, 2).to_string(),
        "10505 51543 09282 06616 76429 83540 70287 51081 76176 62045 95537 91422"
    );
}

#[test]
fn a_code_scanned_from_either_side_is_the_same_and_any_other_is_not() {
    let (one, two, three) = (AccountId([1; 32]), AccountId([2; 32]), AccountId([3; 32]));
    let code = qr(one, two);
    assert_eq!(code, qr(two, one));
    assert_eq!(code.to_vec(), [[1].as_slice(), &[1; 32], &[2; 32]].concat());
    assert_eq!(compare(two, one, &code), Ok(()));
    // Somebody in between shows each of the two a code of its own.
    assert_eq!(compare(one, two, &qr(three, two)), Err(ScanError::Different));
    for place in 0..QR_BYTES {
        let mut other = code;
        other[place] ^= 1;
        let expected = if place == 0 { ScanError::Unknown } else { ScanError::Different };
        assert_eq!(compare(one, two, &other), Err(expected), "byte {place}");
    }
    for bytes in [&code[..64], &[], &[code.as_slice(), &[0]].concat()] {
        assert_eq!(compare(one, two, bytes), Err(ScanError::Unknown));
    }
}
