//! TLS 1.3 for QUIC: who a server is, whom a client trusts, and nothing older or weaker.
//!
//! There are no session tickets and no resumption: a session of ours belongs to its connection, a
//! resumed handshake would save one round trip of computation on long-lived connections and cost
//! forward secrecy and linkability. Hence no 0-RTT either.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, ServerConfig,
    SignatureScheme,
};
use thiserror::Error;

use crate::address::Pin;
use crate::quic::ALPN;

/// A server's certificate chain with its private key.
#[derive(Clone)]
pub struct Identity {
    config: Arc<ServerConfig>,
    pin: Pin,
}

/// A certificate or key that cannot be used.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The certificate file does not hold certificates in PEM.
    #[error("the certificate is no PEM file with at least one certificate: {0}")]
    Certificate(String),
    /// The key file does not hold a private key in PEM.
    #[error("the key is no PEM file with an unencrypted private key: {0}")]
    Key(String),
    /// Certificate and key do not go together, or their algorithm is not supported.
    #[error("certificate and key cannot be used together: {0}")]
    Pair(String),
}

/// A file of certification authorities that cannot be used.
#[derive(Debug, Error)]
pub enum RootsError {
    /// Not readable, or not PEM.
    #[error("cannot read certificates from {path}: {why}")]
    File {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
}

/// Whom a client trusts when the server's address has no pin. A pin always decides alone.
#[derive(Clone, Debug, Default)]
pub enum Trust {
    /// Nobody: an address without a pin is refused.
    #[default]
    PinOnly,
    /// Servers whose certificate these authorities vouch for, under the name in the address.
    Roots(Arc<RootCertStore>),
}

impl Identity {
    /// An identity from PEM texts.
    ///
    /// # Errors
    ///
    /// See [`IdentityError`].
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| IdentityError::Certificate(error.to_string()))?;
        let first = chain
            .first()
            .ok_or_else(|| IdentityError::Certificate("no certificate in it".to_owned()))?;
        let pin = Pin::of(first)
            .ok_or_else(|| IdentityError::Certificate("it does not parse".to_owned()))?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| IdentityError::Key(error.to_string()))?;
        let config = Arc::new(server_config(chain, key)?);
        Ok(Self { config, pin })
    }

    /// The pin of the certificate's key.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, IdentityError> {
    let pair = |error: rustls::Error| IdentityError::Pair(error.to_string());
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(pair)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.pin)
    }
}

impl Trust {
    /// Trusts the authorities in a PEM file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or holds no usable certificate.
    pub fn from_file(path: &Path) -> Result<Self, RootsError> {
        let failed = |why: String| RootsError::File { path: path.display().to_string(), why };
        let mut roots = RootCertStore::empty();
        for certificate in
            CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?
        {
            let certificate = certificate.map_err(|error| failed(error.to_string()))?;
            roots.add(certificate).map_err(|error| failed(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(failed("there is none in it".to_owned()));
        }
        Ok(Self::Roots(Arc::new(roots)))
    }

    /// The client's side of TLS towards a server with that pin; the error is for people.
    pub(crate) fn client_config(&self, pin: Option<Pin>) -> Result<ClientConfig, String> {
        let provider = provider();
        let verifier: Arc<dyn ServerCertVerifier> = match (pin, self) {
            (Some(pin), _) => Arc::new(PinVerifier { pin, provider: Arc::clone(&provider) }),
            (None, Self::Roots(roots)) => WebPkiServerVerifier::builder_with_provider(
                Arc::clone(roots),
                Arc::clone(&provider),
            )
            .build()
            .map_err(|error| error.to_string())?,
            (None, Self::PinOnly) => {
                return Err("the address has no pin and no certification authority is given; \
                            use the whole address that the server printed, or name its authority"
                    .to_owned());
            }
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        Ok(config)
    }
}

/// aws-lc-rs, with X25519MLKEM768 first and, for servers that lack it, X25519 after it.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519];
    Arc::new(provider)
}

/// Trusts one key. Names, dates and issuers of its certificate say nothing more, so they are not asked;
/// that the server holds the private key is proved by its handshake signature, as ever.
#[derive(Debug)]
struct PinVerifier {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug, Error)]
#[error(
    "the server's key is {found}, but the address pins {pinned}: either the server has a new certificate, \
     then get its new address from its operator, or somebody is in between"
)]
struct PinMismatch {
    found: Pin,
    pinned: Pin,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = Pin::of(end_entity).ok_or(CertificateError::BadEncoding)?;
        if found == self.pin {
            return Ok(ServerCertVerified::assertion());
        }
        // Not as an `InvalidCertificate`: that would show this error's `Debug` to people.
        Err(OtherError(Arc::new(PinMismatch { found, pinned: self.pin })).into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
