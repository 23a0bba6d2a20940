use super::*;
use crate::id::{AccountId, DeviceId};

fn member(number: usize) -> Sender {
    let number = u16::try_from(number).unwrap().to_be_bytes();
    let mut device = [0; 16];
    device[..2].copy_from_slice(&number);
    Sender { account: AccountId([1; 32]), device: DeviceId(device) }
}

#[test]
fn each_has_a_place_of_its_own_and_it_never_goes_back() {
    let mut agreed = Agreed::default();
    let (one, other) = (Some(member(1)), Some(member(2)));
    for (by, seq) in [(one, 5), (None, 9), (one, 3)] {
        agreed.note(by, seq);
    }
    assert_eq!(agreed.before(one, 8), 5);
    assert_eq!(agreed.before(other, 8), 0);
    assert_eq!(agreed.before(None, 10), 9);
    assert_eq!(agreed.before(None, 9), 0, "it was the same there, and is not");
}

#[test]
fn whoever_was_heard_of_longest_ago_is_forgotten_first() {
    let mut agreed = Agreed::default();
    for number in 0..=AGREEMENTS_KEPT {
        agreed.note(Some(member(number)), number as u64 + 1);
    }
    assert_eq!(agreed.members.len(), AGREEMENTS_KEPT);
    assert_eq!(agreed.before(Some(member(0)), u64::MAX), 0);
    assert_eq!(agreed.before(Some(member(1)), u64::MAX), 2);
}
