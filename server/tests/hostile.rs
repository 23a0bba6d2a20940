//! Peers that speak something else, at the running program: each is turned away by its own code, told in the log, and
//! nobody else notices.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use qpc_protocol::error::CloseCode;
use qpc_protocol::io::LinkRole;
use qpc_protocol::limits::LINKS_PER_CONNECTION;
use qpc_protocol::wire::frame::encode;
use qpc_protocol::wire::message::{Body, Frame, Request};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint};
use quinn_proto::congestion::NewRenoConfig;
use quinn_proto::{self as proto, DatagramEvent, Dir, Event, StreamId, TransportConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Links that a connection may open.
const LINKS: usize = LINKS_PER_CONNECTION;
/// Fragments on each link: below the 1,024 that quinn closes a connection for.
const FRAGMENTS: usize = 1_000;
/// What they may cost the server in all, in KiB. Their datagrams, if it kept them, would be over 20 MiB.
const MOST: u64 = 10 * 1024;

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

    /// Its resident memory in KiB.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
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

fn client_config(alpn: &[u8]) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

async fn connect(to: SocketAddr, alpn: &[u8]) -> Result<Connection, ConnectionError> {
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(client_config(alpn));
    endpoint.connect(to, "localhost").unwrap().await
}

/// A link is opened and a call answered.
async fn is_served(to: SocketAddr) {
    let connection = connect(to, b"qpc/1").await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    let hello = [frame(Body::Open(LinkRole::Calls)), frame(Body::Request(Request::Hello))].concat();
    send.write_all(&hello).await.unwrap();
    let mut answer = [0; 64];
    receive.read_exact(&mut answer).await.unwrap();
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
        is_served(to).await;
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

/// A peer whose packets are sent or not as the test likes. It is not told what arrived, so it sends nothing again.
struct ByHand {
    socket: UdpSocket,
    endpoint: proto::Endpoint,
    handle: proto::ConnectionHandle,
    connection: proto::Connection,
    /// Packets sent since the last one that came.
    unheard: usize,
    /// What came and was not taken in.
    heard: Vec<Vec<u8>>,
}

impl ByHand {
    fn connect(to: SocketAddr) -> Self {
        let mut config = client_config(b"qpc/1");
        let mut transport = TransportConfig::default();
        let mut no_congestion = NewRenoConfig::default();
        no_congestion.initial_window(u32::MAX.into());
        // Each fragment comes in a datagram that is as large as it may be.
        transport.pad_to_mtu(true).congestion_controller_factory(Arc::new(no_congestion));
        config.transport_config(Arc::new(transport));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut endpoint = proto::Endpoint::new(Arc::default(), None, false, None);
        let (handle, connection) =
            endpoint.connect(Instant::now(), config, to, "localhost").unwrap();
        let mut peer = Self { socket, endpoint, handle, connection, unheard: 0, heard: Vec::new() };
        while !matches!(peer.connection.poll(), Some(Event::Connected)) {
            while peer.transmit(true) {}
            peer.wait();
            peer.hear();
        }
        while peer.transmit(true) {}
        peer
    }

    /// Makes the next packet, and sends it or not; whether there was one.
    fn transmit(&mut self, sent: bool) -> bool {
        let mut packet = Vec::new();
        let made = self.connection.poll_transmit(Instant::now(), 1, &mut packet).is_some();
        if made && sent {
            self.socket.send(&packet).unwrap();
            self.unheard += 1;
        }
        made
    }

    /// Takes in what came.
    fn hear(&mut self) {
        let (now, from) = (Instant::now(), self.socket.peer_addr().unwrap());
        for datagram in std::mem::take(&mut self.heard) {
            let data = BytesMut::from(&datagram[..]);
            let event = self.endpoint.handle(now, from, None, None, data, &mut Vec::new());
            if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
                self.connection.handle_event(event);
            }
        }
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(event);
            }
        }
    }

    /// Waits for a datagram, and keeps all that are there.
    fn wait(&mut self) {
        let mut buffer = [0; 2048];
        let mut received = self.socket.recv(&mut buffer);
        assert!(received.is_ok(), "nothing comes: {received:?}");
        self.socket.set_nonblocking(true).unwrap();
        while let Ok(length) = received {
            self.heard.push(buffer[..length].to_vec());
            received = self.socket.recv(&mut buffer);
        }
        self.socket.set_nonblocking(false).unwrap();
        self.unheard = 0;
    }

    /// Writes so many single bytes in a packet each, and sends every other one.
    fn fragments(&mut self, stream: StreamId, count: usize) {
        for number in 0..2 * count {
            assert_eq!(self.connection.send_stream(stream).write(b"x").unwrap(), 1);
            while !self.transmit(number % 2 == 1) {}
            // The server says what has come: no buffer on the way runs over.
            if self.unheard > 100 {
                self.wait();
            }
        }
    }

    /// Why the server has closed the connection; waits for it.
    fn lost(&mut self) -> ConnectionError {
        loop {
            self.hear();
            while let Some(event) = self.connection.poll() {
                if let Event::ConnectionLost { reason } = event {
                    return reason;
                }
            }
            self.wait();
        }
    }
}

/// quinn CVE-2026-25800, RUSTSEC-2026-0185: memory of fragments out of order.
#[test]
fn regression_06_streams_full_of_gaps_cost_the_server_little_and_are_closed_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::start(&dir.path().join("data"));
    let to = program.1;
    smol::block_on(is_served(to));
    let before = program.memory();
    let mut peer = ByHand::connect(to);
    let streams: Vec<_> =
        (0..LINKS).map(|_| peer.connection.streams().open(Dir::Bi).unwrap()).collect();
    for stream in &streams {
        peer.fragments(*stream, FRAGMENTS);
    }
    let grown = program.memory().saturating_sub(before);
    eprintln!("{} fragments: {grown} KiB more", LINKS * FRAGMENTS);
    assert!(grown < MOST, "{grown} KiB");
    smol::block_on(is_served(to));

    peer.fragments(streams[0], FRAGMENTS / 10);
    let lost = peer.lost();
    assert!(matches!(lost, ConnectionError::ConnectionClosed(_)), "{lost:?}");
    assert!(program.memory().saturating_sub(before) < MOST);
    smol::block_on(is_served(to));
    assert!(!program.end().contains("panic"));
}
