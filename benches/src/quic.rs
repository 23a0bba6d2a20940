//! QUIC by quinn on one smol executor, as a load generator needs it: a certificate is taken as it is, the loopback is
//! trusted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qpc_protocol::io::{Binding, BindingKind, LinkRole};
use qpc_protocol::wire::frame::{Decoder, encode};
use qpc_protocol::wire::message::{Body, Frame, Request};
use qpc_smol::{ALPN, EXPORTER_LABEL};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{EndpointConfig, SmolRuntime, TransportConfig, VarInt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

use crate::Error;
use crate::account::{Answer, Caller};

/// Window of a stream in bytes, as in `qpc-smol`, on both sides of every measurement.
const STREAM_WINDOW: u32 = 1024 * 1024;

/// The transport settings of both sides of the echo, and of our side of the rest.
pub fn transport() -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(4 * STREAM_WINDOW))
        .send_window(u64::from(4 * STREAM_WINDOW));
    Arc::new(config)
}

#[derive(Debug)]
struct TakeAny(Arc<CryptoProvider>);

impl ServerCertVerifier for TakeAny {
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
        Err(rustls::Error::General("TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Connects to a server on the loopback.
///
/// # Errors
/// What quinn and rustls say.
pub async fn connect(to: SocketAddr) -> Result<quinn::Connection, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TakeAny(provider)))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport());
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let runtime = Arc::new(SmolRuntime);
    let endpoint = quinn::Endpoint::new(EndpointConfig::default(), None, socket, runtime)?;
    Ok(endpoint.connect_with(config, to, "localhost")?.await?)
}

/// A connection with its link for calls.
pub struct Calls {
    connection: quinn::Connection,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    decoder: Decoder,
    last: u32,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Calls")
    }
}

impl Calls {
    /// Opens the link.
    ///
    /// # Errors
    /// What quinn says.
    pub async fn open(connection: quinn::Connection) -> Result<Self, Error> {
        let (mut send, recv) = connection.open_bi().await?;
        let mut bytes = Vec::new();
        encode(&Frame { call: 0, body: Body::Open(LinkRole::Calls) }, &mut bytes);
        send.write_all(&bytes).await?;
        Ok(Self { connection, send, recv, decoder: Decoder::new(), last: 0 })
    }

    /// What ties a session to this connection.
    ///
    /// # Errors
    /// Before the handshake is over.
    pub fn binding(&self) -> Result<Binding, Error> {
        let mut value = [0; 32];
        let exported = self.connection.export_keying_material(&mut value, EXPORTER_LABEL, &[]);
        exported.map_err(|_| "nothing to bind the session to")?;
        Ok(Binding { kind: BindingKind::TlsExporter, value })
    }

    /// The link's two directions, to be used directly. What was read is whole frames.
    pub fn streams(&mut self) -> (&mut quinn::SendStream, &mut quinn::RecvStream) {
        (&mut self.send, &mut self.recv)
    }

    async fn exchange(&mut self, request: Request) -> Result<(Answer, Duration), Error> {
        self.last += 1;
        let mut bytes = Vec::new();
        encode(&Frame { call: self.last, body: Body::Request(request) }, &mut bytes);
        let begun = Instant::now();
        self.send.write_all(&bytes).await?;
        loop {
            let chunk = self.recv.read_chunk(64 * 1024, true).await?.ok_or("the link ended")?;
            let took = begun.elapsed();
            let mut input = chunk.bytes.as_ref();
            while let Some(frame) =
                self.decoder.next(&mut input).map_err(|fault| format!("{fault:?}"))?
            {
                match frame.body {
                    Body::Reply(reply) if frame.call == self.last => return Ok((Ok(reply), took)),
                    Body::Failure(failure) if frame.call == self.last => {
                        return Ok((Err(failure), took));
                    }
                    _ => {}
                }
            }
        }
    }
}

impl Caller for Calls {
    fn ask(&mut self, request: Request) -> Result<(Answer, Duration), Error> {
        smol::block_on(self.exchange(request))
    }
}
