//! Where a server is and how it is known: `qpc://host:port#pin`.

use std::fmt;
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use qpc_protocol::id::Digest;
use rustls::pki_types::CertificateDer;
use thiserror::Error;

/// The port of an address that names none.
pub const DEFAULT_PORT: u16 = 7000;

/// SHA-256 of a certificate's SubjectPublicKeyInfo (DER): the server's key, whatever its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin(pub [u8; 32]);

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name, an IPv4 or an IPv6 address (without brackets).
    pub host: String,
    /// The UDP port.
    pub port: u16,
    /// The key that the server must prove, if the address names one.
    pub pin: Option<Pin>,
}

/// Text that is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// Not `qpc://`.
    #[error("an address starts with qpc://, as in qpc://127.0.0.1:7000#<pin>")]
    Scheme,
    /// No host, or one with characters that no host has.
    #[error(
        "the address has no valid host; an IPv6 address needs brackets, as in qpc://[::1]:7000"
    )]
    Host,
    /// Not a number from 1 to 65535.
    #[error("the port must be a number from 1 to 65535")]
    Port,
    /// Not 64 hexadecimal digits.
    #[error("the pin after # must be 64 hexadecimal digits")]
    Pin,
}

impl Pin {
    /// The pin of a certificate; `None` if it does not parse.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
        Some(Self(Digest::of(&[certificate.subject_public_key_info().as_ref()]).0))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl FromStr for Pin {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| AddressError::Pin)?;
        bytes.try_into().map(Self).map_err(|_| AddressError::Pin)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "qpc://[{}]:{}", self.host, self.port)?;
        } else {
            write!(f, "qpc://{}:{}", self.host, self.port)?;
        }
        self.pin.map_or(Ok(()), |pin| write!(f, "#{pin}"))
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix("qpc://").ok_or(AddressError::Scheme)?;
        let (place, pin) = match rest.split_once('#') {
            Some((place, pin)) => (place, Some(pin.parse()?)),
            None => (rest, None),
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or(AddressError::Host)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| AddressError::Host)?;
                match port.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if port.is_empty() => (host, None),
                    None => return Err(AddressError::Port),
                }
            }
            None => {
                let (host, port) =
                    place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port)));
                // A second colon without brackets is an IPv6 address whose port cannot be told.
                if port.is_some_and(|port| port.contains(':')) || !is_host(host) {
                    return Err(AddressError::Host);
                }
                (host, port)
            }
        };
        let port = match port {
            Some(port) => port.parse().ok().filter(|&port| port != 0).ok_or(AddressError::Port)?,
            None => DEFAULT_PORT,
        };
        Ok(Self { host: host.to_owned(), port, pin })
    }
}

// RFC 1123 §2.1: letters, digits, hyphens, dots; underscores occur in private zones.
fn is_host(host: &str) -> bool {
    (1..=253).contains(&host.len())
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

#[cfg(test)]
mod tests;
