//! The bound that the transport sets: a bare quinn server that sends back what it gets.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use qpc_smol::ALPN;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{EndpointConfig, SmolRuntime};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::window::{Bounds, Measured, run};
use crate::{Error, quic};

/// Serves one connection on a free port of the loopback, which it prints first.
///
/// # Errors
/// What quinn and rustls say.
pub fn serve() -> Result<(), Error> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut tls =
        rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = Arc::new(QuicServerConfig::try_from(tls)?);
    let mut config = quinn::ServerConfig::with_crypto(crypto);
    config.transport_config(quic::transport());
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let port = socket.local_addr()?.port();
    let mut out = std::io::stdout();
    writeln!(out, "{port}")?;
    out.flush()?;
    smol::block_on(async {
        let runtime = Arc::new(SmolRuntime);
        let endpoint =
            quinn::Endpoint::new(EndpointConfig::default(), Some(config), socket, runtime)?;
        let connection = endpoint.accept().await.ok_or("closed")?.await?;
        while let Ok((mut send, mut recv)) = connection.accept_bi().await {
            while let Some(chunk) = recv.read_chunk(64 * 1024, true).await? {
                send.write_chunk(chunk.bytes).await?;
            }
        }
        Ok(())
    })
}

/// Measures echoes of `size` bytes.
///
/// # Errors
/// What quinn says.
pub async fn measure(
    to: SocketAddr,
    size: usize,
    depths: &[usize],
    bounds: Bounds,
) -> Result<Vec<Measured>, Error> {
    let connection = quic::connect(to).await?;
    let (mut send, mut recv) = connection.open_bi().await?;
    let mut all = Vec::new();
    for &depth in depths {
        let next = |bytes: &mut Vec<u8>| {
            bytes.resize(bytes.len() + size, 7);
            Ok(())
        };
        let mut rest = 0;
        let answers = |bytes: &[u8]| {
            let whole = (rest + bytes.len()) / size;
            rest = (rest + bytes.len()) % size;
            Ok(whole)
        };
        all.push(run((&mut send, &mut recv), depth, bounds, next, answers).await?);
    }
    Ok(all)
}
