//! Peers that speak something else, at the running program: each is turned away by its own code, told in the log, and
//! nobody else notices.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use qpc_protocol::error::CloseCode;
use qpc_protocol::io::LinkRole;
use qpc_protocol::wire::frame::encode;
use qpc_protocol::wire::message::{Body, Frame, Request};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// A server process, killed with the test.
struct Program(Child, SocketAddr);

impl Program {
    fn start(data: &std::path::Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qpc-server"));
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("QPC_"))
        {
            command.env_remove(name);
        }
        let mut child = command
            .args([
                "--json",
                "--listen",
                "127.0.0.1:0",
                "--log",
                "info,qpc_smol=debug",
                "--data-dir",
            ])
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = line["listen"].as_str().unwrap().parse().unwrap();
        Self(child, address)
    }

    /// What it logged, after a peaceful end.
    fn end(mut self) -> String {
        assert!(self.0.try_wait().unwrap().is_none(), "it ended by itself");
        let told = Command::new("kill").arg(self.0.id().to_string()).status().unwrap();
        assert!(told.success());
        let mut log = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert!(self.0.wait().unwrap().success(), "{log}");
        log
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Hostile peers trust anybody.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

async fn connect(to: SocketAddr, alpn: &[u8]) -> Result<Connection, ConnectionError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let tls = QuicClientConfig::try_from(tls).unwrap();
    endpoint.set_default_client_config(ClientConfig::new(Arc::new(tls)));
    endpoint.connect(to, "localhost").unwrap().await
}

fn frame(body: Body) -> Vec<u8> {
    // Only calls have a number.
    let call = u32::from(matches!(body, Body::Request(_)));
    let mut out = Vec::new();
    encode(&Frame { call, body }, &mut out);
    out
}

/// What the connection is closed with after these bytes on a link.
async fn code_after(to: SocketAddr, bytes: &[u8]) -> u64 {
    let connection = connect(to, b"qpc/1").await.unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    // It may be closed before all of it is written.
    drop(send.write_all(bytes).await);
    let closed = async { Some(connection.closed().await) };
    let late = async {
        smol::Timer::after(Duration::from_secs(20)).await;
        None
    };
    match smol::future::or(closed, late).await {
        Some(ConnectionError::ApplicationClosed(close)) => close.error_code.into_inner(),
        other => panic!("{other:?} after {}", bytes[..bytes.len().min(40)].escape_ascii()),
    }
}

#[test]
fn what_is_not_our_protocol_is_turned_away_and_the_server_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::start(&dir.path().join("data"));
    let to = program.1;
    smol::block_on(async {
        let refused = connect(to, b"qpc/9").await.unwrap_err();
        // TLS's no_application_protocol (RFC 7301 §3.2) as QUIC carries it (RFC 9001 §4.8).
        let ConnectionError::ConnectionClosed(close) = refused else { panic!("{refused:?}") };
        assert_eq!(u64::from(close.error_code), 0x100 + 120);

        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for number in 0..500u32 {
            let bytes = number.to_be_bytes().repeat(1 + usize::try_from(number).unwrap() % 350);
            socket.send_to(&bytes, to).unwrap();
        }

        let open = frame(Body::Open(LinkRole::Calls));
        // One segment of 2^30 words.
        let huge = [0, 0, 0, 0, 0, 0, 0, 0x40];
        assert_eq!(code_after(to, &huge).await, u64::from(CloseCode::TOO_LARGE.0));
        assert_eq!(
            code_after(to, &[&open[..], &huge].concat()).await,
            u64::from(CloseCode::TOO_LARGE.0)
        );
        let malformed = u64::from(CloseCode::MALFORMED.0);
        assert_eq!(code_after(to, &[0xFF; 64]).await, malformed);
        assert_eq!(code_after(to, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await, malformed);
        // The version is the first field of the root: behind the segment table and the root's pointer.
        let mut later = open.clone();
        later[16] = 99;
        assert_eq!(code_after(to, &later).await, u64::from(CloseCode::VERSION.0));
        // A call on a link that has not said what it is for.
        let early = frame(Body::Request(Request::Health));
        assert_eq!(code_after(to, &early).await, u64::from(CloseCode::UNEXPECTED.0));
        let mut broken = open.clone();
        broken[8..16].fill(0xFF);
        assert_eq!(code_after(to, &broken).await, malformed);

        // Others are served meanwhile and after.
        let connection = connect(to, b"qpc/1").await.unwrap();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        let hello = [open, frame(Body::Request(Request::Hello))].concat();
        send.write_all(&hello).await.unwrap();
        let mut answer = [0; 64];
        receive.read_exact(&mut answer).await.unwrap();
    });
    let log = program.end();
    assert!(!log.contains("panic"), "{log}");
    assert!(log.contains("handshake failed"), "{log}");
    assert_eq!(log.matches("PeerFault").count(), 7, "{log}");
    for why in [
        "frame too large",
        "malformed frame",
        "unknown version of the protocol",
        "unexpected frame",
    ] {
        assert!(log.contains(why), "no {why} in {log}");
    }
}
