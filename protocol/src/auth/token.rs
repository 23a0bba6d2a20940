//! Access and refresh tokens.
//!
//! An access token is a statement of the server to itself under a MAC: nothing is stored for it. It names account
//! and device but not the device's key: opening a session reads the device's record anyway (it may have been
//! revoked), and the session proof is checked against the key in there. A refresh token is random and stored as
//! its SHA-256 only. Neither opens anything without the device's signature (`session_statement`).

use core::fmt;
use core::time::Duration;

use subtle::ConstantTimeEq as _;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::crypto::Backend;
use crate::env::{Entropy, UnixMillis};
use crate::id::{AccountId, DeviceId, Digest, Sender};
use crate::wire::message::Token;

/// Length of an access token in bytes.
pub const ACCESS_TOKEN: usize = BODY + MAC;
/// Length of a refresh token in bytes.
pub const REFRESH_TOKEN: usize = 1 + 32;

/// version (1) || account (32) || device (16) || issued (8) || expires (8) || nonce (16), numbers big endian.
const BODY: usize = 1 + 32 + 16 + 8 + 8 + 16;
const MAC: usize = 32;
/// The first byte tells the kinds apart, and from later versions.
const ACCESS_VERSION: u8 = 1;
const REFRESH_VERSION: u8 = 0x81;
const MAC_DOMAIN: &[u8] = b"qpc-access-token-v1";

/// Why a token does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Not made by this server, or tampered with.
    #[error("the token is unknown or belongs to another device")]
    Invalid,
    /// Made by this server, and over.
    #[error("the token has expired")]
    Expired,
}

/// What an access token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The device that it was issued to. Compare it with the one that presents it.
    pub sender: Sender,
    /// When it was issued, by the server's clock.
    pub issued: UnixMillis,
    /// The first moment at which it is over.
    pub expires: UnixMillis,
}

/// The key of the MACs in access tokens. Changing it ends all of them.
#[derive(Clone)]
pub struct TokenKey {
    backend: Backend,
    key: Zeroizing<[u8; 32]>,
}

impl TokenKey {
    /// The key of 32 random bytes that are used for nothing else.
    pub fn new(backend: Backend, key: Zeroizing<[u8; 32]>) -> Self {
        Self { backend, key }
    }

    /// An access token for that device, from `issued` for `life`; with the moment at which it ends.
    pub fn issue(
        &self,
        sender: Sender,
        issued: UnixMillis,
        life: Duration,
        entropy: &mut Entropy,
    ) -> (Token, UnixMillis) {
        let expires = issued.plus(life);
        let mut token = Zeroizing::new(Vec::with_capacity(ACCESS_TOKEN));
        token.push(ACCESS_VERSION);
        token.extend_from_slice(&sender.account.0);
        token.extend_from_slice(&sender.device.0);
        token.extend_from_slice(&issued.0.to_be_bytes());
        token.extend_from_slice(&expires.0.to_be_bytes());
        token.extend_from_slice(&entropy.array::<16>());
        let mac = self.mac(&token);
        token.extend_from_slice(&*mac);
        (Token(token), expires)
    }

    /// What the token says, if this key made it and it is not over at `now` (the wall clock). Nothing in it is
    /// looked at before its MAC holds, and that is compared in constant time.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn verify(&self, token: &Token, now: UnixMillis) -> Result<Claims, TokenError> {
        let (body, mac) = token.0.split_first_chunk::<BODY>().ok_or(TokenError::Invalid)?;
        // Slices of different lengths compare as different.
        if !bool::from(self.mac(body).as_slice().ct_eq(mac)) {
            return Err(TokenError::Invalid);
        }
        let claims = Claims::decode(body).ok_or(TokenError::Invalid)?;
        if now < claims.expires { Ok(claims) } else { Err(TokenError::Expired) }
    }

    fn mac(&self, body: &[u8]) -> Zeroizing<[u8; 32]> {
        self.backend.hmac_sha256(&*self.key, &[MAC_DOMAIN, body])
    }
}

impl Claims {
    fn decode(body: &[u8; BODY]) -> Option<Self> {
        let (&[version], rest) = body.split_first_chunk()?;
        let (account, rest) = rest.split_first_chunk()?;
        let (device, rest) = rest.split_first_chunk()?;
        let (issued, rest) = rest.split_first_chunk()?;
        let (expires, _nonce) = rest.split_first_chunk()?;
        (version == ACCESS_VERSION).then_some(Self {
            sender: Sender { account: AccountId(*account), device: DeviceId(*device) },
            issued: UnixMillis(u64::from_be_bytes(*issued)),
            expires: UnixMillis(u64::from_be_bytes(*expires)),
        })
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(…)")
    }
}

/// A fresh refresh token: version (1) || 32 random bytes. Store [`hash`] of it, never itself.
pub fn refresh(entropy: &mut Entropy) -> Token {
    refresh_from(&Zeroizing::new(entropy.array::<32>()))
}

/// The refresh token of these 32 secret bytes.
pub fn refresh_from(secret: &[u8; 32]) -> Token {
    let mut token = Zeroizing::new(Vec::with_capacity(REFRESH_TOKEN));
    token.push(REFRESH_VERSION);
    token.extend_from_slice(secret);
    Token(token)
}

/// The hash under which a refresh token is stored, if it has the form of one: so that nothing else is ever
/// looked for.
///
/// # Errors
/// [`TokenError::Invalid`].
pub fn refresh_hash(token: &Token) -> Result<Digest, TokenError> {
    let fits = token.0.len() == REFRESH_TOKEN && token.0.first() == Some(&REFRESH_VERSION);
    if fits { Ok(hash(token)) } else { Err(TokenError::Invalid) }
}

/// SHA-256 of a token: what the session proof names, and how refresh tokens are stored. A refresh token's
/// 256 random bits need no salt.
pub fn hash(token: &Token) -> Digest {
    Digest::of(&[&token.0])
}

#[cfg(test)]
mod tests;
