use zeroize::Zeroizing;

use super::*;
use crate::crypto::portable;

fn key() -> DeviceKey {
    DeviceKey::from_seed(portable(), Zeroizing::new([9; 32]))
}

fn one() -> Checkpoint {
    Checkpoint {
        by: Sender { account: AccountId([1; 32]), device: DeviceId([2; 16]) },
        channel: ChannelId([3; 16]),
        generation: 4,
        epoch: 5,
        transcript: Digest([6; 32]),
        seq: 70,
        chain: Digest([8; 32]),
        mark: 64,
        mark_chain: Digest([10; 32]),
        signature: [0; 64],
    }
    .signed(portable(), &key())
}

#[test]
fn it_is_read_back_and_holds() {
    let bytes = one().encode();
    assert_eq!(bytes.len(), Checkpoint::LEN);
    let read = Checkpoint::decode(&bytes).unwrap();
    assert_eq!(read, one());
    assert_eq!(read.verify(portable(), &key().public()), Ok(()));
    let other = DeviceKey::from_seed(portable(), Zeroizing::new([10; 32]));
    assert!(read.verify(portable(), &other.public()).is_err());
}

#[test]
fn no_byte_of_it_can_be_changed() {
    let bytes = one().encode();
    for place in 0..bytes.len() {
        let mut other = bytes.clone();
        other[place] ^= 1;
        let holds = Checkpoint::decode(&other)
            .is_some_and(|read| read.verify(portable(), &key().public()).is_ok());
        assert!(!holds, "byte {place}");
    }
    for wrong in [&bytes[1..], &bytes[..bytes.len() - 1], &[bytes.as_slice(), &[0]].concat()] {
        assert_eq!(Checkpoint::decode(wrong), None);
    }
    let ahead = Checkpoint { mark: 71, ..one() };
    assert_eq!(Checkpoint::decode(&ahead.encode()), None);
}
