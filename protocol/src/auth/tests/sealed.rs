//! The account key under OPAQUE's export key.

use zeroize::Zeroizing;

use super::*;
use crate::auth::client::{open_account_key, seal_account_key};
use crate::auth::opaque::ExportKey;
use crate::crypto::identity::AccountKey;
use crate::crypto::portable;
use crate::id::AccountId;
use crate::limits::SEALED_KEY_BYTES;

fn sealed() -> (ExportKey, AccountKey, Bytes) {
    let export = ExportKey(Zeroizing::new([3; 64]));
    let key = AccountKey::generate(portable(), &mut entropy(1));
    let sealed = seal_account_key(portable(), &export, &key).unwrap();
    (export, key, sealed)
}

#[test]
fn a_new_device_recovers_the_account_key() {
    let server = OpaqueServer::generate(&mut entropy(1));
    let (registered, record) = register(&server, "alice", PASSWORD, 2);
    let key = AccountKey::generate(portable(), &mut entropy(5));
    let sealed = seal_account_key(portable(), &registered.export_key, &key).unwrap();
    assert!(sealed.len() <= SEALED_KEY_BYTES);
    let other = login(&server, Some(&record), "alice", PASSWORD, 3).client.unwrap();
    let opened = open_account_key(portable(), &other.export_key, key.account(), &sealed).unwrap();
    assert_eq!(opened.seed(), key.seed());
}

#[test]
fn it_opens_for_nobody_else() {
    let (export, key, sealed) = sealed();
    let open = |export: &ExportKey, account, sealed: &[u8]| {
        open_account_key(portable(), export, account, sealed).is_ok()
    };
    assert!(open(&export, key.account(), &sealed));
    assert!(!open(&ExportKey(Zeroizing::new([4; 64])), key.account(), &sealed));
    assert!(!open(&export, AccountId([1; 32]), &sealed));
    for at in 0..sealed.len() {
        let mut bad = sealed.to_vec();
        bad[at] ^= 1;
        assert!(!open(&export, key.account(), &bad), "byte {at}");
        assert!(!open(&export, key.account(), &sealed[..at]), "cut at {at}");
    }
    assert!(!open(&export, key.account(), &[&sealed[..], &[0]].concat()));
}

/// The nonce is fixed, so the keys must differ: two account keys under one export key share no keystream.
#[test]
fn each_account_key_is_sealed_under_a_key_of_its_own() {
    let (export, key, first) = sealed();
    let other = AccountKey::generate(portable(), &mut entropy(2));
    let second = seal_account_key(portable(), &export, &other).unwrap();
    let xor = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(a, b)| a ^ b).collect::<Vec<_>>();
    assert_ne!(xor(&first[1..33], &second[1..33]), xor(key.seed(), other.seed()));
}

/// A server that seals a key of its own making cannot put it under somebody's account: the key is checked
/// against the account id even if the seal holds.
#[test]
fn a_key_of_another_account_is_refused_even_when_its_seal_holds() {
    use crate::crypto::{Aead, kdf};
    let (export, key, _) = sealed();
    let account = key.account();
    let prk = kdf::extract(portable(), &[], &[&*export.0]);
    let mut sealing = [0; 32];
    kdf::expand(portable(), &*prk, &[b"qpc-account-key-v1", &account.0], &mut sealing).unwrap();
    let aad = [b"qpc-account-key-v1".as_slice(), &[1], &account.0].concat();
    let seal = |seed: &[u8]| {
        let sealed =
            portable().aead_seal(Aead::ChaCha20Poly1305, &sealing, &[0; 12], &aad, seed).unwrap();
        open_account_key(portable(), &export, account, &[&[1][..], &sealed].concat()).is_ok()
    };
    assert!(seal(key.seed()));
    assert!(!seal(&[9; 32]));
    assert!(!seal(&key.seed()[..31]));
    assert!(!seal(&[key.seed().as_slice(), &[0]].concat()));
}
