use super::*;
use crate::crypto::portable;

fn account_key() -> AccountKey {
    AccountKey::from_seed(portable(), Zeroizing::new([1; 32]))
}

fn device_key() -> DeviceKey {
    DeviceKey::from_seed(portable(), Zeroizing::new([2; 32]))
}

fn record() -> DeviceRecord {
    let device_key = device_key().public();
    DeviceRecord::sign(portable(), &account_key(), DeviceId([3; 16]), device_key, 7, UnixMillis(9))
}

fn envelope_keys() -> EnvelopeKeys {
    let mlkem768 = Box::new([5; 1184]);
    let sender = record().sender();
    EnvelopeKeys::sign(portable(), &device_key(), sender, 2, UnixMillis(9), [4; 32], mlkem768)
}

/// Every shorter length and one byte more must be refused; every flipped byte must be refused or fail to verify.
fn check_encoding<T>(
    encoded: &[u8],
    decode: impl Fn(&[u8]) -> Option<T>,
    holds: impl Fn(&T) -> bool,
) {
    assert!(decode(encoded).is_some_and(|value| holds(&value)));
    for length in 0..encoded.len() {
        assert!(decode(&encoded[..length]).is_none(), "{length}");
    }
    assert!(decode(&[encoded, &[0]].concat()).is_none());
    for place in 0..encoded.len() {
        let mut tampered = encoded.to_vec();
        tampered[place] ^= 0x10;
        assert!(!decode(&tampered).is_some_and(|value| holds(&value)), "{place}");
    }
}

#[test]
fn device_record_holds_and_nothing_near_it() {
    let encoded = record().encode();
    assert_eq!(encoded.len(), DeviceRecord::LEN);
    assert_eq!(DeviceRecord::decode(&encoded), Some(record()));
    check_encoding(&encoded, DeviceRecord::decode, |record| record.verify(portable()).is_ok());
}

#[test]
fn revocation_holds_and_nothing_near_it() {
    let revocation =
        Revocation::sign(portable(), &account_key(), DeviceId([3; 16]), UnixMillis(11));
    let encoded = revocation.encode();
    assert_eq!(encoded.len(), Revocation::LEN);
    assert_eq!(Revocation::decode(&encoded), Some(revocation));
    check_encoding(&encoded, Revocation::decode, |revocation| {
        revocation.verify(portable()).is_ok()
    });
}

#[test]
fn envelope_keys_hold_and_nothing_near_them() {
    let encoded = envelope_keys().encode();
    let key = device_key().public();
    assert_eq!(encoded.len(), EnvelopeKeys::LEN);
    assert_eq!(EnvelopeKeys::decode(&encoded), Some(envelope_keys()));
    check_encoding(&encoded, EnvelopeKeys::decode, |keys| keys.verify(portable(), &key).is_ok());
    assert_eq!(envelope_keys().verify(portable(), &account_key().public()), Err(CryptoError));
}

#[test]
fn another_account_cannot_claim_a_device() {
    let other = AccountKey::from_seed(portable(), Zeroizing::new([8; 32]));
    let mut claimed = record();
    claimed.account = other.account();
    assert_eq!(claimed.verify(portable()), Err(CryptoError));
    let mut forged =
        DeviceRecord::sign(portable(), &other, DeviceId([3; 16]), [0; 32], 8, UnixMillis(9));
    forged.account = account_key().account();
    assert_eq!(forged.verify(portable()), Err(CryptoError));
}

#[test]
fn a_statement_of_one_kind_is_none_of_another() {
    // A revocation's fields are a prefix of what a record says; the domains keep them apart.
    let revocation =
        Revocation::sign(portable(), &account_key(), DeviceId([3; 16]), UnixMillis(11));
    let mut posing = record();
    posing.signature = revocation.signature;
    assert_eq!(posing.verify(portable()), Err(CryptoError));
    assert!(!record().statement().starts_with(REVOCATION_DOMAIN));
    assert!(!envelope_keys().statement().starts_with(RECORD_DOMAIN));
}

#[test]
fn the_encoding_of_a_record_is_pinned() {
    let digest = portable().sha256(&[&record().encode()]);
    let pinned = "23ed0cee5a45e22fef7c075f3539213c4083d952cf56445480799e82cb24e909";
    assert_eq!(data_encoding::HEXLOWER.encode(&digest), pinned);
}

#[test]
fn keys_do_not_print_their_seeds() {
    assert_eq!(format!("{:?}", account_key()), "AccountKey(…)");
    assert_eq!(format!("{:?}", device_key()), "DeviceKey(…)");
}

#[test]
fn keys_survive_storage() {
    let stored = postcard::to_allocvec(&device_key()).unwrap();
    let back: DeviceKey = postcard::from_bytes(&stored).unwrap();
    assert_eq!(back.seed(), device_key().seed());
    assert_eq!(back.public(), device_key().public());
}
