//! Servers without a pin in their address: a certificate authority vouches for them.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::support::{Place, qpc};

/// An authority, and the file that says whom to trust.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn file(&self, place: &Place) -> PathBuf {
        let file = place.path("ca.pem");
        std::fs::write(&file, &self.pem).unwrap();
        file
    }

    /// A certificate chain for these names, and its key.
    fn certify(&self, dir: &Path, names: &[&str]) -> [PathBuf; 2] {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (chain, secret) = (dir.join("chain.pem"), dir.join("key.pem"));
        std::fs::write(&chain, certificate.pem()).unwrap();
        std::fs::write(&secret, key.serialize_pem()).unwrap();
        [chain, secret]
    }
}

/// The server's address without its pin.
fn unpinned(place: &Place) -> &str {
    place.address.split_once('#').unwrap().0
}

#[test]
fn an_authority_vouches_for_a_server_and_is_remembered() {
    let authority = Authority::new("one authority");
    let place = Place::certified(|dir| authority.certify(dir, &["127.0.0.1", "localhost"]));
    let (address, file) = (unpinned(&place), authority.file(&place));
    let ca = file.to_str().unwrap();
    let ping = qpc(&["ping", "--json", "--server", address, "--ca", ca]);
    assert_eq!(ping.code, 0, "{}", ping.err);
    let alice = place.device("alice");
    alice.ok(&["register", "alice", "--server", address, "--ca", ca]);
    std::fs::remove_file(&file).unwrap();
    alice.ok(&["group", "list"]);
    // Without any, nobody vouches for it.
    let (code, name) = place.device("bob").fails(&["register", "bob", "--server", address]);
    assert_eq!((code, name.as_str()), (2, "E105 NoServer"));
    // A pin in the address says more than any authority.
    std::fs::write(&file, &Authority::new("another").pem).unwrap();
    let bob = place.device("bob");
    bob.ok(&["register", "bob", "--server", &place.address, "--ca", ca]);
}

#[test]
fn a_server_that_another_authority_vouches_for_is_not_talked_to() {
    let authority = Authority::new("one authority");
    let place = Place::certified(|dir| authority.certify(dir, &["127.0.0.1"]));
    // By the same name, so that only the signature tells them apart.
    for other in ["one authority", "another authority"] {
        let ca = Authority::new(other).file(&place);
        let alice = place.device("alice");
        let address = unpinned(&place);
        let done = alice.run(&[
            "register",
            "alice",
            "--json",
            "--server",
            address,
            "--ca",
            ca.to_str().unwrap(),
        ]);
        let error = done.error();
        assert_eq!((done.code, &error["code"]), (3, &"E103".into()), "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("certificate"), "{message}");
        assert!(!alice.home.join("config.toml").exists());
    }
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new("one authority");
    let place = Place::certified(|dir| authority.certify(dir, &["chat.example.org"]));
    let ca = authority.file(&place);
    let address = unpinned(&place);
    let ping = qpc(&["ping", "--json", "--server", address, "--ca", ca.to_str().unwrap()]);
    let error = ping.error();
    assert_eq!((ping.code, &error["code"]), (3, &"E103".into()), "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("name") && message.contains("chat.example.org"), "{message}");
}

#[test]
fn a_file_without_authorities_is_told() {
    let place = Place::new();
    let file = place.path("empty.pem");
    std::fs::write(&file, "nothing").unwrap();
    for file in [file, place.path("missing.pem")] {
        let file = file.to_str().unwrap();
        let ping = qpc(&["ping", "--json", "--server", unpinned(&place), "--ca", file]);
        let error = ping.error();
        assert_eq!((ping.code, &error["code"]), (2, &"E101".into()), "{error}");
        assert!(error["message"].as_str().unwrap().contains(file), "{error}");
    }
}
