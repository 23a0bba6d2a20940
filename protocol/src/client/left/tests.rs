use super::*;

/// More than an account can have: the memory of who left does not grow past it.
#[test]
fn only_as_many_as_an_account_has_are_remembered() {
    let mut left = Left::default();
    let device = |number: usize| DeviceId([u8::try_from(number).unwrap(); 16]);
    for number in 0..=DEVICES_PER_ACCOUNT {
        left.note(device(number));
        left.note(device(number));
    }
    assert_eq!(left.devices.len(), DEVICES_PER_ACCOUNT);
    assert!(!left.has(device(0)) && left.has(device(1)) && left.has(device(DEVICES_PER_ACCOUNT)));
}
