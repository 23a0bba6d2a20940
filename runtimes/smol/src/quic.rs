//! QUIC by quinn: endpoints on our executor, and quinn's connections and streams as [`link`](crate::link)
//! wants them.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use bytes::Bytes;
use qpc_protocol::error::CloseCode;
use qpc_protocol::io::{Binding, BindingKind, Gone, LinkRole, Links, Transport};
use qpc_protocol::limits::{LINKS_PER_CONNECTION, READ_CHUNK};
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use quinn::{
    ConnectionError, EndpointConfig, IdleTimeout, ReadError, Runtime, SmolRuntime, TransportConfig,
    VarInt, WriteError,
};
use quinn_proto::HashedConnectionIdGenerator;
use rustls::NamedGroup;
use smol::{Executor, Timer};
use zeroize::Zeroizing;

use crate::link::{Broken, Carrier, ReadHalf, WriteHalf};

/// The protocol name that both sides insist on in the TLS handshake (RFC 7301).
pub const ALPN: &[u8] = b"qpc/1";
/// The label under which the channel binding is exported (RFC 8446 §7.5).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-qpc-v1";

/// A connection without packets for this long is lost. The client's machine pings well within.
const IDLE: Duration = Duration::from_secs(60);
/// Unread bytes that the other side may send ahead on one stream: 10 ms at 1 Gbit/s, 100 ms at 100 Mbit/s.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// The same for all streams of a connection together; also what we keep for sending again.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Wanted size of the kernel's socket buffers; it may grant less.
const SOCKET_BUFFER: usize = 2 * 1024 * 1024;
/// Handshakes that may wait for our attention, and the bytes that may wait with them.
const INCOMING: usize = 1024;
const INCOMING_BYTES: u64 = 8 * 1024 * 1024;
/// Bulk links give way to calls and pushes.
const BULK_PRIORITY: i32 = -1;
/// Pieces taken from quinn per read; each is at most a packet, so together far below `READ_CHUNK`.
const PIECES: usize = 16;
/// How often it is looked whether the close of a connection has left.
const GLANCE: Duration = Duration::from_millis(1);

/// What the TLS handshake of a connection came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionFacts {
    /// The other side's address.
    pub remote: SocketAddr,
    /// The key exchange that was agreed on.
    pub key_exchange: NamedGroup,
}

impl ConnectionFacts {
    /// Whether recorded traffic stays secret from a quantum computer: hybrid X25519MLKEM768.
    pub fn is_post_quantum(&self) -> bool {
        self.key_exchange == NamedGroup::X25519MLKEM768
    }
}

/// quinn's tasks on our executor; its sockets and timers as it makes them for smol. The tasks hold this, so it must
/// not hold them: with the executor they are dropped, and their socket is closed.
struct OnExecutor(Weak<Executor<'static>>);

impl fmt::Debug for OnExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnExecutor")
    }
}

impl Runtime for OnExecutor {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn quinn::AsyncTimer>> {
        SmolRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        if let Some(executor) = self.0.upgrade() {
            executor.spawn(future).detach();
        }
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        SmolRuntime.wrap_udp_socket(socket)
    }
}

/// What a restarted server needs to tell the clients of the one before that their connections are gone (RFC 9000
/// §10.3): 32 bytes that stay the same and that nobody else knows.
#[derive(Clone)]
pub struct ResetSecret(Zeroizing<[u8; 32]>);

impl ResetSecret {
    /// From 32 uniformly random bytes used for nothing else.
    pub fn new(secret: Zeroizing<[u8; 32]>) -> Self {
        Self(secret)
    }

    /// An endpoint that knows the connection ids of its predecessor for its own, and signs resets as it did.
    fn config(&self) -> EndpointConfig {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_slice());
        let resets = hmac::sign(&secret, b"qpc-quic-reset-v1");
        let ids = hmac::sign(&secret, b"qpc-quic-ids-v1");
        let ids = ids.as_ref().iter().take(8).fold(0, |key: u64, &byte| key << 8 | u64::from(byte));
        let mut config =
            EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, resets.as_ref())));
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
        config
    }
}

impl fmt::Debug for ResetSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResetSecret(…)")
    }
}

fn transport() -> TransportConfig {
    let links = u32::try_from(LINKS_PER_CONNECTION).unwrap_or(u32::MAX);
    let idle = u32::try_from(IDLE.as_millis()).unwrap_or(u32::MAX);
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle))))
        .keep_alive_interval(None)
        .max_concurrent_bidi_streams(VarInt::from_u32(links))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(CONNECTION_WINDOW.into())
        .datagram_receive_buffer_size(None);
    config
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    let state = quinn::udp::UdpSocketState::new((&socket).into())?;
    for result in [
        state.set_send_buffer_size((&socket).into(), SOCKET_BUFFER),
        state.set_recv_buffer_size((&socket).into(), SOCKET_BUFFER),
    ] {
        if let Err(error) = result {
            tracing::debug!(%error, "the system keeps its socket buffer size");
        }
    }
    Ok(socket)
}

/// An endpoint that takes connections.
pub(crate) fn server_endpoint(
    tls: Arc<rustls::ServerConfig>,
    listen: SocketAddr,
    reset: Option<&ResetSecret>,
    executor: &Arc<Executor<'static>>,
) -> io::Result<quinn::Endpoint> {
    let crypto = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(Arc::new(transport()))
        .max_incoming(INCOMING)
        .incoming_buffer_size_total(INCOMING_BYTES);
    let runtime = Arc::new(OnExecutor(Arc::downgrade(executor)));
    let endpoint = reset.map_or_else(EndpointConfig::default, ResetSecret::config);
    quinn::Endpoint::new(endpoint, Some(config), bind(listen)?, runtime)
}

/// An endpoint that makes connections to addresses of the family of `to`.
pub(crate) fn client_endpoint(
    to: SocketAddr,
    executor: &Arc<Executor<'static>>,
) -> io::Result<quinn::Endpoint> {
    let any = match to {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let runtime = Arc::new(OnExecutor(Arc::downgrade(executor)));
    quinn::Endpoint::new(EndpointConfig::default(), None, bind(SocketAddr::new(any, 0))?, runtime)
}

/// The client's side of a connection.
pub(crate) fn client_config(
    tls: rustls::ClientConfig,
    probe_time: Option<Duration>,
) -> Result<quinn::ClientConfig, String> {
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    let mut transport = transport();
    transport.keep_alive_interval(probe_time);
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// What a machine, and people, should know of a fresh connection.
pub(crate) fn describe(
    connection: &quinn::Connection,
) -> Result<(Transport, ConnectionFacts), Gone> {
    let data = connection
        .handshake_data()
        .and_then(|data| data.downcast::<HandshakeData>().ok())
        .ok_or_else(|| Gone::Lost("the handshake left no data".to_owned()))?;
    // rustls refuses a QUIC handshake without common protocol; this holds even if it should cease to.
    if data.protocol.as_deref() != Some(ALPN) {
        return Err(Gone::Untrusted("the other side does not speak qpc/1".to_owned()));
    }
    let mut value = [0; 32];
    connection
        .export_keying_material(&mut value, EXPORTER_LABEL, &[])
        .map_err(|_| Gone::Lost("no keying material to bind the session to".to_owned()))?;
    let remote = connection.remote_address();
    let transport = Transport {
        binding: Binding { kind: BindingKind::TlsExporter, value },
        peer: source(remote.ip()),
        links: Links::Many,
    };
    Ok((transport, ConnectionFacts { remote, key_exchange: data.negotiated_key_exchange_group }))
}

/// What budgets per source are kept by: an IPv4 address, the /64 of an IPv6 one.
fn source(address: IpAddr) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets()[..8].to_vec(),
    }
}

/// A quinn connection.
pub(crate) struct Quic(pub(crate) quinn::Connection);

/// The receiving half of a stream.
pub(crate) struct QuicRead {
    stream: quinn::RecvStream,
    /// What was read beyond one delivery.
    left: Bytes,
}

/// The sending half of a stream.
pub(crate) struct QuicWrite(quinn::SendStream);

impl Carrier for Quic {
    type Read = QuicRead;
    type Write = QuicWrite;

    async fn open(&self, role: LinkRole) -> Result<(QuicRead, QuicWrite), Broken> {
        let (send, recv) = self.0.open_bi().await.map_err(|_| Broken::Connection)?;
        if role == LinkRole::Bulk {
            drop(send.set_priority(BULK_PRIORITY));
        }
        Ok((QuicRead::new(recv), QuicWrite(send)))
    }

    async fn accept(&self) -> (QuicRead, QuicWrite) {
        match self.0.accept_bi().await {
            Ok((send, recv)) => (QuicRead::new(recv), QuicWrite(send)),
            Err(_) => std::future::pending().await,
        }
    }

    async fn gone(&self) -> Gone {
        gone(&self.0.closed().await)
    }

    async fn close(&self, code: CloseCode) {
        if self.0.close_reason().is_some() {
            return;
        }
        let why = reason(code);
        if code != CloseCode::SHUTDOWN && !why.is_empty() {
            let remote = self.0.remote_address();
            tracing::info!(%remote, code = code.0, why, "a connection is closed for what its peer did");
        }
        let sent = || self.0.stats().udp_tx.datagrams;
        let before = sent();
        self.0.close(VarInt::from_u32(code.0), why.as_bytes());
        // It goes once and nobody answers it. QUIC would keep the connection for three timeouts of a probe more, for
        // what may still come in.
        while sent() == before {
            Timer::after(GLANCE).await;
        }
    }
}

impl QuicRead {
    fn new(stream: quinn::RecvStream) -> Self {
        Self { stream, left: Bytes::new() }
    }
}

impl ReadHalf for QuicRead {
    async fn read(&mut self) -> Result<Option<Bytes>, Broken> {
        if self.left.is_empty() {
            let mut pieces = [const { Bytes::new() }; PIECES];
            let count = match self.stream.read_chunks(&mut pieces).await {
                Ok(Some(count)) => count,
                Ok(None) => return Ok(None),
                Err(ReadError::Reset(code)) => {
                    return Err(Broken::Link(Gone::Closed(close_code(code))));
                }
                Err(_) => return Err(Broken::Connection),
            };
            self.left = match pieces.get_mut(..count) {
                Some([piece]) => std::mem::take(piece),
                Some(pieces) => Bytes::from(pieces.concat()),
                None => Bytes::new(),
            };
        }
        Ok(Some(self.left.split_to(self.left.len().min(READ_CHUNK))))
    }

    fn stop(&mut self, code: CloseCode) {
        // An error says that the stream is closed already.
        drop(self.stream.stop(VarInt::from_u32(code.0)));
    }
}

impl WriteHalf for QuicWrite {
    async fn write(&mut self, chunks: &mut VecDeque<Bytes>) -> Result<usize, Broken> {
        let written = match self.0.write_chunks(chunks.make_contiguous()).await {
            Ok(written) => written,
            Err(WriteError::Stopped(code)) => {
                return Err(Broken::Link(Gone::Closed(close_code(code))));
            }
            Err(_) => return Err(Broken::Connection),
        };
        chunks.drain(..written.chunks);
        Ok(written.bytes)
    }

    fn finish(&mut self) {
        drop(self.0.finish());
    }

    async fn settled(&mut self) {
        drop(self.0.stopped().await);
    }

    fn reset(&mut self, code: CloseCode) {
        drop(self.0.reset(VarInt::from_u32(code.0)));
    }
}

/// For people who look at the other end, and for our log.
fn reason(code: CloseCode) -> &'static str {
    match code {
        CloseCode::VERSION => "unknown version of the protocol",
        CloseCode::TOO_LARGE => "frame too large",
        CloseCode::MALFORMED => "malformed frame",
        CloseCode::UNEXPECTED => "unexpected frame",
        CloseCode::TOO_SLOW => "too slow",
        CloseCode::OVER_LIMIT => "over a limit",
        CloseCode::SHUTDOWN => "server shutdown",
        _ => "",
    }
}

fn close_code(code: VarInt) -> CloseCode {
    CloseCode(u32::try_from(code.into_inner()).unwrap_or(u32::MAX))
}

/// Why a connection ended, in the machine's terms.
pub(crate) fn gone(error: &ConnectionError) -> Gone {
    match error {
        ConnectionError::ApplicationClosed(close) => Gone::Closed(close_code(close.error_code)),
        ConnectionError::TransportError(error) if is_tls(error.code) => {
            let why = error.reason.strip_prefix("other error: ").unwrap_or(&error.reason);
            Gone::Untrusted(why.to_owned())
        }
        ConnectionError::ConnectionClosed(close) if is_tls(close.error_code) => {
            Gone::Untrusted(match u64::from(close.error_code) & 0xff {
                120 => "the server does not speak qpc/1".to_owned(),
                _ => format!("the other side refused the TLS handshake: {}", close.error_code),
            })
        }
        ConnectionError::VersionMismatch => {
            Gone::Untrusted("the server speaks another version of QUIC".to_owned())
        }
        ConnectionError::TimedOut => Gone::Lost("no answer: timed out".to_owned()),
        error => Gone::Lost(error.to_string()),
    }
}

/// TLS alerts travel as 0x100 plus their number (RFC 9001 §4.8).
fn is_tls(code: quinn::TransportErrorCode) -> bool {
    u64::from(code) >> 8 == 1
}

#[cfg(test)]
mod tests;
