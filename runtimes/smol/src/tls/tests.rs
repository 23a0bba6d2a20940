use std::io::{self, Cursor, Read, Write};

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use rustls::{ClientConnection, ServerConnection};

use super::*;

/// The lock file holds this package, and no version of it before a fix.
fn past_the_fix(name: &str, fixed: [u32; 3]) {
    let lock = include_str!("../../../../Cargo.lock");
    let line = format!("name = \"{name}\"\nversion = \"");
    let versions: Vec<Vec<u32>> = lock
        .match_indices(&line)
        .map(|(at, _)| {
            let version = lock[at + line.len()..].split(['"', '-', '+']).next().unwrap();
            version.split('.').map(|part| part.parse().unwrap()).collect()
        })
        .collect();
    assert!(!versions.is_empty(), "no {name}");
    assert!(versions.iter().all(|version| version[..] >= fixed[..]), "{name}: {versions:?}");
}

/// Panics on unknown frames, transport parameters and Retry: quinn CVE-2023-42805 (fixed in 0.10.5), CVE-2024-45311
/// (0.11.7), CVE-2026-31812 (0.11.14).
#[test]
fn regression_05_quic_is_past_the_fixes() {
    past_the_fix("quinn-proto", [0, 11, 14]);
}

/// Memory of out-of-order fragments: quinn CVE-2026-25800, RUSTSEC-2026-0185 (fixed in 0.11.15).
#[test]
fn regression_06_quic_is_past_the_fix() {
    past_the_fix("quinn-proto", [0, 11, 15]);
}

/// Panics and wrong verdicts on name constraints and CRLs: rustls-webpki RUSTSEC-2026-0098, -0099 (fixed in 0.103.12),
/// -0104 (0.103.13).
#[test]
fn regression_08_certificates_are_read_past_the_fixes() {
    past_the_fix("rustls-webpki", [0, 103, 13]);
}

/// An endless loop at a close in mid-handshake (rustls CVE-2024-32650, fixed in 0.23.5), and a panic on a ClientHello
/// in fragments (CVE-2024-11738, fixed in 0.23.18).
#[test]
fn regression_07_a_handshake_byte_by_byte_is_done_and_one_cut_off_ends() {
    past_the_fix("rustls", [0, 23, 18]);
    let (identity, mut client) = ends();
    let mut server = ServerConnection::new(identity.config()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let fragments = in_records_of_one_byte(&hello);

    // Who waits for a whole ClientHello gets it from the last byte.
    let mut acceptor = Acceptor::default();
    for (at, byte) in fragments.iter().enumerate() {
        acceptor.read_tls(&mut Cursor::new([*byte])).unwrap();
        let accepted = acceptor.accept().unwrap();
        assert_eq!(accepted.is_some(), at + 1 == fragments.len(), "{at}");
    }

    feed(&fragments, |mut byte| {
        server.read_tls(&mut byte).map(|_| {
            server.process_new_packets().unwrap();
        })
    });
    while client.is_handshaking() || server.is_handshaking() {
        let (mut down, mut up) = (Vec::new(), Vec::new());
        server.write_tls(&mut down).unwrap();
        feed(&down, |mut byte| {
            client.read_tls(&mut byte).map(|_| {
                client.process_new_packets().unwrap();
            })
        });
        client.write_tls(&mut up).unwrap();
        feed(&up, |mut byte| {
            server.read_tls(&mut byte).map(|_| {
                server.process_new_packets().unwrap();
            })
        });
        assert!(!down.is_empty() || !up.is_empty(), "neither has anything to say");
    }
    assert_eq!(server.alpn_protocol(), Some(ALPN));

    // A close_notify, alone and behind any part of the hello; then nothing.
    let close = [21, 3, 3, 0, 2, 1, 0];
    for end in (0..fragments.len()).step_by(6 * 97) {
        let mut server = ServerConnection::new(identity.config()).unwrap();
        let mut peer = Peer(Cursor::new([&fragments[..end], &close].concat()));
        let ended = server.complete_io(&mut peer);
        assert!(ended.is_err() && server.is_handshaking(), "{end}: {ended:?}");
    }
}

/// A server's identity, and a client that trusts it, before its first byte.
fn ends() -> (Identity, ClientConnection) {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let pem = certificate.pem();
    let identity = Identity::from_pem(pem.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let config = Trust::PinOnly.client_config(Some(identity.pin())).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    (identity, client)
}

/// The same handshake messages in TLS records (RFC 8446 §5.1) of one byte each.
fn in_records_of_one_byte(mut records: &[u8]) -> Vec<u8> {
    let mut fragments = Vec::new();
    while let [kind, major, minor, high, low, rest @ ..] = records {
        let (payload, after) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        for byte in payload {
            fragments.extend([*kind, *major, *minor, 0, 1, *byte]);
        }
        records = after;
    }
    fragments
}

fn feed(bytes: &[u8], mut read: impl FnMut(&[u8]) -> io::Result<()>) {
    for byte in bytes {
        read(&[*byte]).unwrap();
    }
}

/// Says what it has, hears nothing.
struct Peer(Cursor<Vec<u8>>);

impl Read for Peer {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
