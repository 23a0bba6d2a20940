//! HKDF-SHA-256 (RFC 5869), over whatever backend.

use zeroize::Zeroizing;

use super::{Backend, CryptoError};

/// Longest output of [`expand`] in bytes: 255 blocks (RFC 5869 §2.3).
pub const EXPAND_MOST: usize = 255 * 32;

/// HKDF-Extract over the concatenation of `ikm`. An empty salt is the same as 32 zeros (RFC 5869 §2.2).
pub fn extract(backend: Backend, salt: &[u8], ikm: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    backend.hmac_sha256(salt, ikm)
}

/// HKDF-Expand with the concatenation of `info` into `out`. Fails if `out` is longer than [`EXPAND_MOST`].
pub fn expand(
    backend: Backend,
    prk: &[u8],
    info: &[&[u8]],
    out: &mut [u8],
) -> Result<(), CryptoError> {
    if out.len() > EXPAND_MOST {
        return Err(CryptoError);
    }
    // T(n) = HMAC(prk, T(n-1) || info || n) (RFC 5869 §2.3).
    let mut previous = Zeroizing::new([0; 32]);
    for (chunk, number) in out.chunks_mut(32).zip(1u8..=255) {
        let counter = [number];
        let mut parts: Vec<&[u8]> = Vec::with_capacity(info.len() + 2);
        if number > 1 {
            parts.push(previous.as_slice());
        }
        parts.extend_from_slice(info);
        parts.push(&counter);
        let block = backend.hmac_sha256(prk, &parts);
        chunk.copy_from_slice(&block[..chunk.len()]);
        previous = block;
    }
    Ok(())
}

/// [`expand`] into a key of 32 bytes.
pub fn expand_key(backend: Backend, prk: &[u8], info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let one = [1];
    let mut parts = info.to_vec();
    parts.push(&one);
    backend.hmac_sha256(prk, &parts)
}
