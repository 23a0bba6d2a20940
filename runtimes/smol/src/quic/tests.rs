use std::net::Ipv4Addr;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use smol::LocalExecutor;

use super::*;
use crate::address::Pin as KeyPin;
use crate::tls::{Identity, Trust};

/// An identity made for `name`, and its certificate in PEM.
fn identity(algorithm: &'static SignatureAlgorithm, name: &str) -> (Identity, String) {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let certificate =
        CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
    let pem = certificate.pem();
    (Identity::from_pem(pem.as_bytes(), key.serialize_pem().as_bytes()).unwrap(), pem)
}

fn on_executor<T>(run: impl AsyncFnOnce(Arc<Executor<'static>>) -> T) -> T {
    let executor = Arc::new(Executor::new());
    async_io::block_on(executor.run(LocalExecutor::new().run(run(Arc::clone(&executor)))))
}

type Side = Result<(Transport, ConnectionFacts), Gone>;

/// Both ends of a handshake between these two configurations, under `name`.
fn handshake(
    server: Arc<rustls::ServerConfig>,
    client: rustls::ClientConfig,
    name: &str,
) -> (Side, Side) {
    on_executor(async |executor| {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = server_endpoint(server, listen, None, &executor).unwrap();
        let to = listener.local_addr().unwrap();
        let dialer = client_endpoint(to, &executor).unwrap();
        let config = client_config(client, None).unwrap();
        let accept = async {
            let connection = listener.accept().await.unwrap().await;
            connection.map(|connection| (describe(&connection), connection))
        };
        let connect = async {
            let connection = dialer.connect_with(config, to, name).unwrap().await;
            connection.map(|connection| (describe(&connection), connection))
        };
        // Both connections live until both ends were described.
        let (accepted, connected) = futures_lite::future::zip(accept, connect).await;
        let side =
            |result: Result<(Result<_, Gone>, quinn::Connection), ConnectionError>| match result {
                Ok((described, _)) => described,
                Err(error) => Err(gone(&error)),
            };
        (side(accepted), side(connected))
    })
}

fn pinned(pin: KeyPin) -> rustls::ClientConfig {
    Trust::PinOnly.client_config(Some(pin)).unwrap()
}

#[test]
fn both_ends_export_the_same_binding_and_agree_on_the_hybrid_exchange() {
    for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P256_SHA256] {
        let (identity, _) = identity(algorithm, "localhost");
        let mut values = Vec::new();
        for _ in 0..2 {
            let (server, client) =
                handshake(identity.config(), pinned(identity.pin()), "127.0.0.1");
            let ((server, server_facts), (client, client_facts)) =
                (server.unwrap(), client.unwrap());
            assert_eq!(server.binding, client.binding);
            assert_eq!(server.binding.kind, BindingKind::TlsExporter);
            assert_eq!(server.peer, [127, 0, 0, 1]);
            assert_eq!(server.links, Links::Many);
            assert!(server_facts.is_post_quantum() && client_facts.is_post_quantum());
            values.push(server.binding.value);
        }
        assert_ne!(values[0], values[1], "a binding belongs to one connection");
    }
}

#[test]
fn without_the_hybrid_exchange_the_classical_one_is_used_and_told() {
    let (identity, _) = identity(&PKCS_ED25519, "localhost");
    let mut config = identity.config().as_ref().clone();
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let resolver = Arc::clone(&config.cert_resolver);
    config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![ALPN.to_vec()];
    let (_, client) = handshake(Arc::new(config), pinned(identity.pin()), "localhost");
    let (_, facts) = client.unwrap();
    assert_eq!(facts.key_exchange, NamedGroup::X25519);
    assert!(!facts.is_post_quantum());
}

#[test]
fn another_key_than_the_pinned_one_is_untrusted_and_both_are_named() {
    let (identity_, _) = identity(&PKCS_ED25519, "localhost");
    let (other, _) = identity(&PKCS_ED25519, "localhost");
    let (server, client) = handshake(identity_.config(), pinned(other.pin()), "localhost");
    let Err(Gone::Untrusted(why)) = client else { panic!("{client:?}") };
    assert!(why.starts_with("the server's key is"), "{why}");
    assert!(why.contains(&identity_.pin().to_string()), "{why}");
    assert!(why.contains(&other.pin().to_string()), "{why}");
    assert!(server.is_err());
}

#[test]
fn a_stolen_certificate_without_its_key_is_untrusted() {
    // The thief shows the pinned certificate but can only sign with a key of its own.
    let (honest, pem) = identity(&PKCS_ED25519, "localhost");
    let thief = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let shown = rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, client) = handshake(showing(shown, &thief), pinned(honest.pin()), "localhost");
    assert!(matches!(client, Err(Gone::Untrusted(_))), "{client:?}");
}

/// A server that shows `certificate`, whatever it is, and signs with `key`.
fn showing(certificate: CertificateDer<'static>, key: &KeyPair) -> Arc<rustls::ServerConfig> {
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let signer = aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let shown = rustls::sign::CertifiedKey::new(vec![certificate], signer);
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    Arc::new(config)
}

/// Panics elsewhere on hostile certificates (webpki RUSTSEC-2026-0098, -0099, -0104). Certificates cut off, bent
/// or made of anything, at a client with a pin and at one with an authority.
#[test]
fn regression_08_hostile_certificates_are_untrusted() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    let (honest, pem) = identity(&PKCS_ED25519, "localhost");
    std::fs::write(&file, &pem).unwrap();
    let authority = Trust::from_file(&file).unwrap();
    let whole: CertificateDer<'_> =
        rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap();
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut shown = vec![vec![0], vec![0x30; 100], vec![0xff; 4000]];
    shown.extend((1..whole.len()).step_by(17).map(|end| whole[..end].to_vec()));
    shown.extend((0..whole.len()).step_by(13).map(|at| {
        let mut bent = whole.to_vec();
        bent[at] ^= 0x81;
        bent
    }));
    for certificate in shown {
        let server = showing(certificate.into(), &key);
        for client in [pinned(honest.pin()), authority.client_config(None).unwrap()] {
            let (_, client) = handshake(Arc::clone(&server), client, "localhost");
            assert!(matches!(client, Err(Gone::Untrusted(_))), "{client:?}");
        }
    }
}

#[test]
fn another_protocol_is_refused_by_either_side() {
    let (identity, _) = identity(&PKCS_ED25519, "localhost");
    for protocols in [vec![], vec![b"qpc/2".to_vec()], vec![b"h3".to_vec()]] {
        let mut client = pinned(identity.pin());
        client.alpn_protocols.clone_from(&protocols);
        let (server, client) = handshake(identity.config(), client, "localhost");
        let Err(Gone::Untrusted(why)) = client else { panic!("{client:?}") };
        assert!(why.contains("qpc/1"), "{why}");
        assert!(server.is_err(), "{server:?}");

        let mut server = identity.config().as_ref().clone();
        server.alpn_protocols.clone_from(&protocols);
        let (_, client) = handshake(Arc::new(server), pinned(identity.pin()), "localhost");
        assert!(matches!(client, Err(Gone::Untrusted(_))), "{client:?}");
    }
}

#[test]
fn an_authority_vouches_for_a_name_and_for_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    let (identity_, pem) = identity(&PKCS_ECDSA_P256_SHA256, "chat.example.org");
    std::fs::write(&file, pem).unwrap();
    let trust = Trust::from_file(&file).unwrap();
    let client = || trust.client_config(None).unwrap();
    assert!(handshake(identity_.config(), client(), "chat.example.org").1.is_ok());
    let (_, wrong_name) = handshake(identity_.config(), client(), "other.example.org");
    assert!(matches!(wrong_name, Err(Gone::Untrusted(_))), "{wrong_name:?}");
    let (unknown, _) = identity(&PKCS_ECDSA_P256_SHA256, "chat.example.org");
    let (_, unknown) = handshake(unknown.config(), client(), "chat.example.org");
    assert!(matches!(unknown, Err(Gone::Untrusted(_))), "{unknown:?}");
}

#[test]
fn trust_without_pin_and_authority_is_none() {
    assert!(Trust::PinOnly.client_config(None).unwrap_err().contains("no pin"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("empty.pem");
    std::fs::write(&file, "nothing").unwrap();
    assert!(Trust::from_file(&file).is_err());
    assert!(Trust::from_file(&directory.path().join("missing.pem")).is_err());
}

#[test]
fn unusable_certificates_and_keys_are_told_apart() {
    use crate::tls::IdentityError;
    let (_, pem) = identity(&PKCS_ED25519, "localhost");
    let other = KeyPair::generate_for(&PKCS_ED25519).unwrap().serialize_pem();
    let made =
        |chain: &str, key: &str| Identity::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err();
    assert!(matches!(made("", &other), IdentityError::Certificate(_)));
    assert!(matches!(made(&other, &other), IdentityError::Certificate(_)));
    assert!(matches!(made(&pem, &pem), IdentityError::Key(_)));
    assert!(matches!(made(&pem, &other), IdentityError::Pair(_)));
}

#[test]
fn a_source_is_an_address_or_its_network() {
    let of = |text: &str| source(text.parse().unwrap());
    assert_eq!(of("192.0.2.7"), [192, 0, 2, 7]);
    assert_eq!(of("::ffff:192.0.2.7"), [192, 0, 2, 7]);
    assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
    assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
}
