use super::*;
use crate::crypto::identity::AccountKey;
use crate::crypto::portable;
use crate::id::DeviceId;

struct Device {
    record: DeviceRecord,
    key: DeviceKey,
    secrets: EnvelopeSecrets,
    keys: EnvelopeKeys,
}

fn device(number: u8) -> Device {
    let mut entropy = Entropy::from_seed([number; 32]);
    let account = AccountKey::generate(portable(), &mut entropy);
    let key = DeviceKey::generate(portable(), &mut entropy);
    let id = DeviceId(entropy.array());
    let record = DeviceRecord::sign(portable(), &account, id, key.public(), 1, UnixMillis(1_000));
    let secrets = EnvelopeSecrets::generate(&mut entropy);
    let keys = secrets.publish(portable(), &key, record.sender(), 1, UnixMillis(1_000));
    Device { record, key, secrets, keys }
}

fn note(from: &Device, to: &Device, body: &[u8]) -> Vec<u8> {
    let mut entropy = Entropy::from_seed([99; 32]);
    let purpose = Purpose::DeviceNote;
    seal(portable(), purpose, &from.record, &from.key, &to.keys, body, &mut entropy).unwrap()
}

fn read(to: &Device, envelope: &[u8]) -> Result<(DeviceRecord, Zeroizing<Vec<u8>>), CryptoError> {
    let recipient = to.record.sender();
    open(portable(), Purpose::DeviceNote, &to.secrets, recipient, envelope)
}

#[test]
fn an_envelope_arrives_and_names_its_sender() {
    let (alice, bob) = (device(1), device(2));
    for body in [b"".as_slice(), b"hello", &[7; 10_000]] {
        let envelope = note(&alice, &bob, body);
        assert_eq!(envelope.len(), OVERHEAD + body.len());
        let (from, read) = read(&bob, &envelope).unwrap();
        assert_eq!(from, alice.record);
        assert_eq!(*read, body);
    }
}

#[test]
fn only_the_recipient_and_only_for_its_purpose() {
    let (alice, bob, eve) = (device(1), device(2), device(3));
    let envelope = note(&alice, &bob, b"hello");
    assert!(read(&eve, &envelope).is_err());
    let recipient = bob.record.sender();
    for purpose in [Purpose::SealedSender, Purpose::Recovery] {
        assert!(open(portable(), purpose, &bob.secrets, recipient, &envelope).is_err());
    }
    let other = eve.record.sender();
    assert!(open(portable(), Purpose::DeviceNote, &bob.secrets, other, &envelope).is_err());
}

/// Bob cannot open Alice's envelope and send what is in it, signature and all, to Carol.
#[test]
fn a_recipient_cannot_pass_it_on_as_the_senders() {
    let (alice, bob, carol) = (device(1), device(2), device(3));
    let envelope = note(&alice, &bob, b"hello");
    let (plaintext, _) = opened(&bob, &envelope);

    let mut entropy = Entropy::from_seed([5; 32]);
    let (ephemeral, message) = (entropy.array(), entropy.array());
    let x25519_shared = portable().x25519(&ephemeral, &carol.keys.x25519).unwrap();
    let (ciphertext, mlkem_shared) =
        portable().mlkem768_encapsulate(carol.keys.mlkem768.as_slice(), &message).unwrap();
    let ephemeral = portable().x25519_public(&ephemeral);
    let keys = [carol.keys.x25519.as_slice(), carol.keys.mlkem768.as_slice()].concat();
    let aad = [keys.as_slice(), &ephemeral, &ciphertext].concat();
    let key = combine(portable(), &x25519_shared, &mlkem_shared);
    let sealed = portable()
        .aead_seal(Aead::ChaCha20Poly1305, key.as_slice(), &NONCE, &aad, &plaintext)
        .unwrap();
    let forwarded = [[VERSION].as_slice(), &ephemeral, &ciphertext, &sealed].concat();
    // It decrypts, so what stops it is the signature.
    assert_eq!(opened(&carol, &forwarded).0, plaintext);
    assert_eq!(read(&carol, &forwarded), Err(CryptoError));
}

/// The plaintext and aad of an envelope, by its formula step by step.
fn opened(to: &Device, envelope: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (ephemeral, ciphertext) = (&envelope[1..33], &envelope[33..33 + 1088]);
    let x25519 = portable().x25519(&to.secrets.x25519, ephemeral.try_into().unwrap()).unwrap();
    let mlkem = portable().mlkem768_decapsulate(&to.secrets.mlkem_seed(), ciphertext).unwrap();
    let ikm = [x25519.as_slice(), mlkem.as_slice()].concat();
    let (_, hkdf) = hkdf::Hkdf::<sha2::Sha256>::extract(None, &ikm);
    let mut key = [0; 32];
    hkdf.expand(b"quicprochat-hybrid-v1", &mut key).unwrap();
    let (public, encapsulation) = to.secrets.public(portable());
    let aad = [public.as_slice(), encapsulation.as_slice(), ephemeral, ciphertext].concat();
    let sealed = &envelope[33 + 1088..];
    let plaintext =
        portable().aead_open(Aead::ChaCha20Poly1305, &key, &[0; 12], &aad, sealed).unwrap();
    (plaintext.to_vec(), aad)
}

#[test]
fn the_layout_is_the_documented_one() {
    let (alice, bob) = (device(1), device(2));
    let (plaintext, aad) = opened(&bob, &note(&alice, &bob, b"hello"));
    assert_eq!(plaintext[..DeviceRecord::LEN], alice.record.encode());
    assert_eq!(&plaintext[DeviceRecord::LEN + 64..], b"hello");
    assert_eq!(aad.len(), 32 + 1184 + 32 + 1088);
}

/// openmls GHSA-8x3w-qj7j-gqhf: a shortened tag was accepted. Ours refuses every truncation, a trailing byte, and
/// every changed byte.
#[test]
fn regression_13_truncated_and_changed_envelopes_are_refused() {
    let (alice, bob) = (device(1), device(2));
    let envelope = note(&alice, &bob, b"hello");
    for length in (0..40).chain(1100..envelope.len()) {
        assert!(read(&bob, &envelope[..length]).is_err(), "{length}");
    }
    assert!(read(&bob, &[envelope.as_slice(), &[0]].concat()).is_err());
    for place in (0..envelope.len()).step_by(13) {
        let mut changed = envelope.clone();
        changed[place] ^= 1;
        assert!(read(&bob, &changed).is_err(), "{place}");
    }
    let mut other_version = envelope;
    other_version[0] = 2;
    assert!(read(&bob, &other_version).is_err());
}

#[test]
fn bad_keys_are_refused_when_sealing() {
    let (alice, bob) = (device(1), device(2));
    let mut entropy = Entropy::from_seed([9; 32]);
    let mut seal = |record: &DeviceRecord, keys: &EnvelopeKeys| {
        let purpose = Purpose::DeviceNote;
        seal(portable(), purpose, record, &alice.key, keys, b"", &mut entropy).is_ok()
    };
    assert!(seal(&alice.record, &bob.keys));
    assert!(!seal(&bob.record, &bob.keys));
    let mut small = bob.keys.clone();
    small.x25519 = [0; 32];
    assert!(!seal(&alice.record, &small));
    let mut malformed = bob.keys.clone();
    malformed.mlkem768[..3].fill(0xff);
    assert!(!seal(&alice.record, &malformed));
}

#[test]
fn a_record_with_a_wrong_signature_is_refused() {
    let (mut alice, bob) = (device(1), device(2));
    alice.record.signature[0] ^= 1;
    assert_eq!(read(&bob, &note(&alice, &bob, b"hello")), Err(CryptoError));
}

#[test]
fn secrets_survive_storage_and_do_not_print() {
    let (alice, mut bob) = (device(1), device(2));
    assert_eq!(format!("{:?}", bob.secrets), "EnvelopeSecrets(…)");
    let stored = postcard::to_allocvec(&bob.secrets).unwrap();
    bob.secrets = postcard::from_bytes(&stored).unwrap();
    assert_eq!(*read(&bob, &note(&alice, &bob, b"hello")).unwrap().1, b"hello");
    bob.keys.verify(portable(), &bob.record.device_key).unwrap();
}
