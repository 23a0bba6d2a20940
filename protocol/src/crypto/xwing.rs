//! X-Wing (draft-connolly-cfrg-xwing-kem): X25519 and ML-KEM-768 in one KEM that holds as long as either does.
//!
//! A secret key is a seed of 32 bytes; both halves grow out of it by SHAKE256. Nothing here draws randomness.
//!
//! ```
//! use qpc_protocol::crypto::{portable, xwing};
//!
//! let secret = [7; xwing::SECRET_LEN]; // fresh and secret in earnest
//! let public = xwing::public_key(portable(), &secret);
//! let (ciphertext, ours) = xwing::encapsulate(portable(), &public, &[9; xwing::RANDOMNESS_LEN])?;
//! let theirs = xwing::decapsulate(portable(), &secret, &ciphertext)?;
//! assert_eq!(ours, theirs);
//! # Ok::<(), qpc_protocol::crypto::CryptoError>(())
//! ```

use sha3::{Digest as _, Sha3_256};
use shake::{ExtendableOutput as _, Shake256, Update as _, XofReader as _};
use zeroize::Zeroizing;

use super::{Backend, CryptoError};

/// Length of a public key in bytes: ML-KEM-768 (1,184), then X25519 (32).
pub const PUBLIC_LEN: usize = MLKEM_PUBLIC + 32;
/// Length of a secret key in bytes: a seed.
pub const SECRET_LEN: usize = 32;
/// Length of a ciphertext in bytes: ML-KEM-768 (1,088), then an ephemeral X25519 key (32).
pub const CIPHERTEXT_LEN: usize = MLKEM_CIPHERTEXT + 32;
/// Length of the randomness of one encapsulation in bytes: ML-KEM's message (32), then the ephemeral secret (32).
pub const RANDOMNESS_LEN: usize = 64;
/// Length of a shared secret in bytes.
pub const SHARED_LEN: usize = 32;

const MLKEM_PUBLIC: usize = 1184;
const MLKEM_CIPHERTEXT: usize = 1088;
const LABEL: &[u8; 6] = br"\.//^\";

/// The public key of a seed.
pub fn public_key(backend: Backend, secret: &[u8; SECRET_LEN]) -> Vec<u8> {
    let halves = Halves::expand(secret);
    let mut public = backend.mlkem768_public(&halves.mlkem);
    public.extend_from_slice(&backend.x25519_public(&halves.x25519));
    public
}

/// Whether others can encapsulate to this public key: its length, and that the coefficients of its ML-KEM half are
/// below q (FIPS 203 §7.2). Any X25519 half will do.
pub fn check_public_key(public: &[u8]) -> Result<(), CryptoError> {
    const Q: u16 = 3329;
    let (mlkem, _x25519) = split::<MLKEM_PUBLIC>(public)?;
    // Coefficients of 12 bits, two in three bytes; behind them the seed of the matrix.
    let (coefficients, _seed) = mlkem.split_at(MLKEM_PUBLIC - 32);
    let (pairs, _) = coefficients.as_chunks::<3>();
    let in_range = pairs.iter().all(|&[low, middle, high]| {
        let first = u16::from(low) | u16::from(middle & 0x0F) << 8;
        let second = u16::from(middle >> 4) | u16::from(high) << 4;
        first < Q && second < Q
    });
    if in_range { Ok(()) } else { Err(CryptoError) }
}

/// A ciphertext for the holder of `public`, and the secret now shared with it. `randomness` must be fresh and used
/// once. Fails if the key is not [`PUBLIC_LEN`] long or its ML-KEM half is malformed (FIPS 203 §7.2).
pub fn encapsulate(
    backend: Backend,
    public: &[u8],
    randomness: &[u8; RANDOMNESS_LEN],
) -> Result<(Vec<u8>, Zeroizing<[u8; SHARED_LEN]>), CryptoError> {
    let (mlkem_public, x25519_public) = split::<MLKEM_PUBLIC>(public)?;
    let (message, ephemeral) = split::<32>(randomness)?;
    let message = Zeroizing::new(*message);
    let ephemeral = Zeroizing::new(*ephemeral);

    let (mut ciphertext, mlkem_shared) = backend.mlkem768_encapsulate(mlkem_public, &message)?;
    let (x25519_ciphertext, x25519_shared) = x25519(backend, &ephemeral, x25519_public);
    ciphertext.extend_from_slice(&x25519_ciphertext);
    Ok((ciphertext, combine(&mlkem_shared, &x25519_shared, &x25519_ciphertext, x25519_public)))
}

/// The secret shared by a ciphertext. A forged ciphertext gives a secret that nobody else has (implicit rejection);
/// only a length other than [`CIPHERTEXT_LEN`] fails.
pub fn decapsulate(
    backend: Backend,
    secret: &[u8; SECRET_LEN],
    ciphertext: &[u8],
) -> Result<Zeroizing<[u8; SHARED_LEN]>, CryptoError> {
    let (mlkem_ciphertext, x25519_ciphertext) = split::<MLKEM_CIPHERTEXT>(ciphertext)?;
    let halves = Halves::expand(secret);
    let mlkem_shared = backend.mlkem768_decapsulate(&halves.mlkem, mlkem_ciphertext)?;
    let (x25519_public, x25519_shared) = x25519(backend, &halves.x25519, x25519_ciphertext);
    Ok(combine(&mlkem_shared, &x25519_shared, x25519_ciphertext, &x25519_public))
}

/// SHAKE256 over the concatenation of `parts` into `out`.
pub(super) fn shake256(parts: &[&[u8]], out: &mut [u8]) {
    let mut shake = Shake256::default();
    for part in parts {
        shake.update(part);
    }
    shake.finalize_xof().read(out);
}

/// The two secret keys of a seed.
struct Halves {
    /// `d || z` of ML-KEM-768.
    mlkem: Zeroizing<[u8; 64]>,
    x25519: Zeroizing<[u8; 32]>,
}

impl Halves {
    fn expand(seed: &[u8; SECRET_LEN]) -> Self {
        let mut expanded = Zeroizing::new([0; 96]);
        shake256(&[seed], expanded.as_mut_slice());
        let mut halves = Self { mlkem: Zeroizing::new([0; 64]), x25519: Zeroizing::new([0; 32]) };
        halves.mlkem.copy_from_slice(&expanded[..64]);
        halves.x25519.copy_from_slice(&expanded[64..]);
        halves
    }
}

/// The secret's own public key, and X25519 without RFC 7748's optional check: the draft leaves it out, because a secret
/// of zeros costs the combiner no more than the X25519 half, and whoever sent it could have told that half to anybody
/// anyway.
fn x25519(
    backend: Backend,
    secret: &[u8; 32],
    public: &[u8; 32],
) -> ([u8; 32], Zeroizing<[u8; 32]>) {
    let (own, shared) = backend.x25519_both(secret, public);
    (own, shared.unwrap_or_else(|CryptoError| Zeroizing::new([0; 32])))
}

fn combine(
    mlkem_shared: &[u8; 32],
    x25519_shared: &[u8; 32],
    x25519_ciphertext: &[u8; 32],
    x25519_public: &[u8; 32],
) -> Zeroizing<[u8; SHARED_LEN]> {
    let hash = Sha3_256::new()
        .chain_update(mlkem_shared)
        .chain_update(x25519_shared)
        .chain_update(x25519_ciphertext)
        .chain_update(x25519_public)
        .chain_update(LABEL);
    Zeroizing::new(hash.finalize().into())
}

/// `FIRST` bytes, then exactly 32.
fn split<const FIRST: usize>(bytes: &[u8]) -> Result<(&[u8; FIRST], &[u8; 32]), CryptoError> {
    let (first, rest) = bytes.split_first_chunk().ok_or(CryptoError)?;
    Ok((first, rest.try_into().map_err(|_| CryptoError)?))
}
