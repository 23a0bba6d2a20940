//! The server's certificate: given, or made for development.

use std::path::Path;

use qpc_smol::{Identity, Pin};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ED25519};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use crate::error::StartError;
use crate::files::{DataDir, read, shared_mode, write_private};
use crate::settings::{Settings, SettingsError};

/// Both in one file, so that they cannot come apart.
const FILE: &str = "development-certificate.pem";

/// The identity that the settings name, else the development one, made if there is none yet.
pub(crate) fn obtain(settings: &Settings, dir: &DataDir) -> Result<Identity, StartError> {
    let own = dir.join(FILE);
    match (&settings.cert, &settings.key) {
        (Some(cert), Some(key)) => {
            let identity = given(cert, key)?;
            if settings.production && made_here(&own)? == Some(identity.pin()) {
                return Err(StartError::Production(
                    "this certificate was made by the server for development\n\
                     Give one that you made or were issued with --cert and --key.",
                ));
            }
            Ok(identity)
        }
        (None, None) if settings.production => Err(StartError::Production(
            "no certificate is given, and one made by the server itself is refused\n\
             Give a PEM certificate chain with --cert and its key with --key.",
        )),
        (None, None) => development(settings, &own),
        _ => Err(SettingsError::CertWithoutKey.into()),
    }
}

fn given(cert: &Path, key: &Path) -> Result<Identity, StartError> {
    let chain = present(cert)?;
    let secret = present(key)?;
    if let Some(mode) = shared_mode(key)? {
        tracing::warn!(file = %key.display(), mode = format!("{mode:o}"),
            "other users may read the certificate's key; chmod 600 it");
    }
    let file = format!("{}, {}", cert.display(), key.display());
    Identity::from_pem(&chain, &secret).map_err(|error| StartError::Identity { file, error })
}

fn present(path: &Path) -> Result<Zeroizing<Vec<u8>>, StartError> {
    read(path)?.ok_or_else(|| StartError::File {
        path: path.to_owned(),
        error: std::io::ErrorKind::NotFound.into(),
    })
}

fn made_here(file: &Path) -> Result<Option<Pin>, StartError> {
    let Some(pem) = read(file)? else { return Ok(None) };
    Ok(CertificateDer::from_pem_slice(&pem).ok().and_then(|certificate| Pin::of(&certificate)))
}

fn development(settings: &Settings, file: &Path) -> Result<Identity, StartError> {
    let unusable = |error| StartError::Identity { file: file.display().to_string(), error };
    let pem = match read(file)? {
        Some(pem) => pem,
        None => {
            let pem = make(settings)
                .map_err(|error| unusable(qpc_smol::IdentityError::Pair(error.to_string())))?;
            write_private(file, &pem)?;
            pem
        }
    };
    let identity = Identity::from_pem(&pem, &pem).map_err(unusable)?;
    tracing::warn!(file = %file.display(),
        "DEVELOPMENT CERTIFICATE: this server vouches for itself; clients know it by the pin in its address only. \
         Not for production: there, give --cert and --key");
    Ok(identity)
}

fn make(settings: &Settings) -> Result<Zeroizing<Vec<u8>>, rcgen::Error> {
    let mut names = vec![settings.public_host(), "localhost".to_owned()];
    names.dedup();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "qpc development certificate");
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let certificate = params.self_signed(&key)?;
    let secret = Zeroizing::new(key.serialize_pem());
    let public = certificate.pem();
    let mut pem = Zeroizing::new(Vec::with_capacity(public.len() + secret.len()));
    pem.extend_from_slice(public.as_bytes());
    pem.extend_from_slice(secret.as_bytes());
    Ok(pem)
}
