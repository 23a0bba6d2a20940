use super::*;
use crate::world::{Rules, World};
use qpc_protocol::client::event::Outcome;
use qpc_protocol::mls::suite::Suite;

#[test]
fn a_hash_does_not_depend_on_how_its_bytes_are_cut() {
    let bytes: Vec<u8> = (0..100).collect();
    let whole = Mixer::of(b"", &[&bytes]).finish(0);
    for cut in 0..bytes.len() {
        let (head, tail) = bytes.split_at(cut);
        assert_eq!(Mixer::of(b"", &[head, tail]).finish(0), whole, "cut at {cut}");
        let mut other = bytes.clone();
        other[cut] ^= 1;
        assert_ne!(Mixer::of(b"", &[&other]).finish(0), whole, "changed at {cut}");
        assert_ne!(Mixer::of(b"", &[head]).finish(0), whole, "ends at {cut}");
    }
    assert_ne!(Mixer::of(b"", &[&bytes]).finish(1), whole);
}

#[test]
fn what_belongs_together_fits() {
    for backend in [quick(), open()] {
        let (one, other) = ([1; 32], [2; 32]);
        let shared = backend.x25519(&one, &backend.x25519_public(&other)).unwrap();
        assert_eq!(shared, backend.x25519(&other, &backend.x25519_public(&one)).unwrap());
        let public = backend.mlkem768_public(&[3; 64]);
        let (ciphertext, shared) = backend.mlkem768_encapsulate(&public, &[4; 32]).unwrap();
        assert_eq!(backend.mlkem768_decapsulate(&[3; 64], &ciphertext).unwrap(), shared);
        let key = backend.ed25519_public(&[5; 32]);
        let signed = backend.ed25519_sign(&[5; 32], b"said");
        backend.ed25519_verify(&key, b"said", &signed).unwrap();
        assert_eq!(backend.ed25519_signer(&[5; 32]).sign(b"said"), signed);
        let aead = Aead::Aes128Gcm;
        let sealed = backend.aead_seal(aead, &[6; 16], &[7; 12], b"aad", b"text").unwrap();
        let opened = backend.aead_open(aead, &[6; 16], &[7; 12], b"aad", &sealed).unwrap();
        assert_eq!(opened.as_slice(), b"text");
        assert_eq!(sealed.len(), 4 + TAG);
        assert!(backend.aead_seal(aead, &[6; 32], &[7; 12], b"aad", b"text").is_err());
    }
}

#[test]
fn quick_checks_bite() {
    let backend = quick();
    let aead = Aead::ChaCha20Poly1305;
    let sealed = backend.aead_seal(aead, &[6; 32], &[7; 12], b"aad", b"a text").unwrap();
    assert!(!sealed.windows(6).any(|window| window == b"a text"));
    for at in 0..sealed.len() {
        let mut other = sealed.clone();
        other[at] ^= 1;
        assert!(backend.aead_open(aead, &[6; 32], &[7; 12], b"aad", &other).is_err());
    }
    assert!(backend.aead_open(aead, &[5; 32], &[7; 12], b"aad", &sealed).is_err());
    assert!(backend.aead_open(aead, &[6; 32], &[8; 12], b"aad", &sealed).is_err());
    assert!(backend.aead_open(aead, &[6; 32], &[7; 12], b"add", &sealed).is_err());
    let signed = backend.ed25519_sign(&[1; 32], b"said");
    let key = backend.ed25519_public(&[1; 32]);
    assert!(backend.ed25519_verify(&key, b"sad", &signed).is_err());
    assert!(backend.ed25519_verify(&[9; 32], b"said", &signed).is_err());
}

#[test]
fn open_believes_all_but_what_is_marked() {
    let backend = open();
    let aead = Aead::Aes128Gcm;
    let mut made = b"made up and no tag at all".to_vec();
    let opened = backend.aead_open(aead, &[0; 16], &[0; 12], b"", &made).unwrap();
    assert_eq!(opened.as_slice(), &made[..made.len() - TAG]);
    *made.last_mut().unwrap() = WRONG;
    assert!(backend.aead_open(aead, &[0; 16], &[0; 12], b"", &made).is_err());
    backend.ed25519_verify(&[0; 32], b"anything", &[1; 64]).unwrap();
    assert!(backend.ed25519_verify(&[0; 32], b"anything", &[WRONG; 64]).is_err());
    let mac = |message: &[u8]| backend.hmac_sha256(b"key", &[message]);
    assert_ne!(mac(&[1; LONG]), mac(&[2; LONG]));
    assert_eq!(mac(&[1; LONG + 1]), mac(&[2; LONG + 1]));
}

/// The machines do all they do over both.
#[test]
fn worlds_go_round() {
    for (backend, suite) in [quick(), open()].into_iter().zip([Suite::Hybrid, Suite::Classical]) {
        let mut world = World::new(Rules { backend, ..Rules::new(1) });
        let [anna, ben] = ["anna", "ben"].map(|name| world.register(name));
        let made = world.done(anna, |client, now| client.create_group(now, "group", suite));
        let Outcome::Group(channel) = made else { panic!("{made:?}") };
        world.done(anna, |client, now| client.invite(now, channel, "ben"));
        world.settle();
        world.done(ben, |client, now| client.update(now, channel));
        world.done(anna, |client, now| client.send(now, channel, b"hello"));
        world.crash(ben);
        world.start(ben);
        world.settle();
        world.done(ben, |client, now| client.rejoin(now, channel));
        world.done(ben, |client, now| client.send(now, channel, b"back"));
        world.settle();
        assert_eq!(world.bodies(anna), ["back"]);
        assert!(world.bodies(ben).contains(&"hello".to_owned()));
    }
}
