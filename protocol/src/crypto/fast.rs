//! The fast backend: AWS-LC for ciphers and curves, libcrux for ML-KEM (AWS-LC's safe interface has no encapsulation
//! with given randomness), RustCrypto for hashes as in the portable one: both use the CPU's instructions, and for the
//! few hundred bytes that are hashed here AWS-LC's interface costs more than the hash (HMAC-SHA-256 of 64 bytes: 0.30
//! µs against 0.53).

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::signature::{self, Ed25519KeyPair, KeyPair as _};
use libcrux_ml_kem::mlkem768;
use zeroize::{Zeroize as _, Zeroizing};

use super::portable::Portable;
use super::{Aead, CryptoError, Primitives, SharedSecret, Signer, strict};

impl Signer for Ed25519KeyPair {
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        fixed(Ed25519KeyPair::sign(self, message).as_ref())
    }
}

/// See [`super::fast`].
#[derive(Debug)]
pub(super) struct Fast;

const TAG: usize = 16;

impl Primitives for Fast {
    fn name(&self) -> &'static str {
        "fast"
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        Portable.sha256(parts)
    }

    fn hmac_sha256(&self, key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        Portable.hmac_sha256(key, parts)
    }

    fn hmac_sha512(&self, key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 64]> {
        Portable.hmac_sha512(key, parts)
    }

    fn aead_seal(
        &self,
        aead: Aead,
        key: &[u8],
        nonce: &[u8; 12],
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        let key = aead_key(aead, key)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let mut out = Vec::with_capacity(plaintext.len() + TAG);
        out.extend_from_slice(plaintext);
        key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut out).map_err(|_| CryptoError)?;
        Ok(out)
    }

    fn aead_open(
        &self,
        aead: Aead,
        key: &[u8],
        nonce: &[u8; 12],
        aad: &[u8],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let key = aead_key(aead, key)?;
        let (body, tag) = ciphertext.split_last_chunk::<TAG>().ok_or(CryptoError)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let mut out = Zeroizing::new(vec![0; body.len()]);
        key.open_separate_gather(nonce, Aad::from(aad), body, tag, &mut out)
            .map_err(|_| CryptoError)?;
        Ok(out)
    }

    fn x25519_public(&self, secret: &[u8; 32]) -> [u8; 32] {
        x25519_public(&x25519_key(secret))
    }

    fn x25519(&self, secret: &[u8; 32], public: &[u8; 32]) -> SharedSecret {
        x25519_agree(&x25519_key(secret), public)
    }

    // AWS-LC computes the public key whenever it is given a secret one.
    fn x25519_both(&self, secret: &[u8; 32], public: &[u8; 32]) -> ([u8; 32], SharedSecret) {
        let key = x25519_key(secret);
        (x25519_public(&key), x25519_agree(&key, public))
    }

    fn ed25519_public(&self, seed: &[u8; 32]) -> [u8; 32] {
        fixed(key_pair(seed).public_key().as_ref())
    }

    fn ed25519_sign(&self, seed: &[u8; 32], message: &[u8]) -> [u8; 64] {
        Signer::sign(&key_pair(seed), message)
    }

    fn ed25519_signer(&self, seed: &[u8; 32]) -> Box<dyn Signer> {
        Box::new(key_pair(seed))
    }

    fn ed25519_verify(
        &self,
        public: &[u8; 32],
        message: &[u8],
        signature: &[u8; 64],
    ) -> Result<(), CryptoError> {
        strict::check_ed25519(public, signature)?;
        signature::UnparsedPublicKey::new(&signature::ED25519, public)
            .verify(message, signature)
            .map_err(|_| CryptoError)
    }

    fn mlkem768_public(&self, seed: &[u8; 64]) -> Vec<u8> {
        let (mut secret, public) = mlkem768::generate_key_pair(*seed).into_parts();
        secret[0..].zeroize();
        public.as_slice().to_vec()
    }

    fn mlkem768_encapsulate(
        &self,
        public: &[u8],
        randomness: &[u8; 32],
    ) -> Result<(Vec<u8>, Zeroizing<[u8; 32]>), CryptoError> {
        let public = mlkem768::MlKem768PublicKey::try_from(public).map_err(|_| CryptoError)?;
        // FIPS 203 §7.2: libcrux leaves the modulus check to its caller.
        if !mlkem768::validate_public_key(&public) {
            return Err(CryptoError);
        }
        let (ciphertext, shared) = mlkem768::encapsulate(&public, *randomness);
        Ok((ciphertext.as_ref().to_vec(), Zeroizing::new(shared)))
    }

    fn mlkem768_decapsulate(
        &self,
        seed: &[u8; 64],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
        let (mut secret, _) = mlkem768::generate_key_pair(*seed).into_parts();
        let shared = decapsulate(&secret, ciphertext);
        secret[0..].zeroize();
        shared
    }
}

pub(super) fn decapsulate(
    secret: &mlkem768::MlKem768PrivateKey,
    ciphertext: &[u8],
) -> SharedSecret {
    let ciphertext = mlkem768::MlKem768Ciphertext::try_from(ciphertext).map_err(|_| CryptoError)?;
    Ok(Zeroizing::new(mlkem768::decapsulate(secret, &ciphertext)))
}

fn aead_key(aead: Aead, key: &[u8]) -> Result<LessSafeKey, CryptoError> {
    let algorithm: &'static Algorithm = match aead {
        Aead::Aes128Gcm => &AES_128_GCM,
        Aead::Aes256Gcm => &AES_256_GCM,
        Aead::ChaCha20Poly1305 => &CHACHA20_POLY1305,
    };
    UnboundKey::new(algorithm, key).map(LessSafeKey::new).map_err(|_| CryptoError)
}

#[expect(clippy::expect_used, reason = "X25519 takes every 32 bytes as a secret (RFC 7748 §5)")]
fn x25519_key(secret: &[u8; 32]) -> PrivateKey {
    PrivateKey::from_private_key(&X25519, secret).expect("32 bytes")
}

#[expect(clippy::expect_used, reason = "it was computed with the key")]
fn x25519_public(key: &PrivateKey) -> [u8; 32] {
    fixed(key.compute_public_key().expect("computed with the key").as_ref())
}

/// AWS-LC itself refuses the all-zero secret (RFC 7748 §6.1).
fn x25519_agree(key: &PrivateKey, public: &[u8; 32]) -> SharedSecret {
    let public = UnparsedPublicKey::new(&X25519, public);
    agreement::agree(key, public, CryptoError, |shared| Ok(Zeroizing::new(fixed(shared))))
}

#[expect(clippy::expect_used, reason = "Ed25519 takes every 32 bytes as a seed (RFC 8032 §5.1.5)")]
fn key_pair(seed: &[u8; 32]) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(seed).expect("32 bytes")
}

#[expect(clippy::expect_used, reason = "callers name the output length of their algorithm")]
fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the algorithm's output length")
}
