//! The portable backend: pure Rust, from RustCrypto and the dalek crates.

use aes_gcm::aead::array::typenum::U12;
use aes_gcm::aead::{AeadCore, KeyInit, Payload};
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use chacha20poly1305::ChaCha20Poly1305;
use ed25519_dalek::{Signature, SigningKey, Verifier as _, VerifyingKey};
use hmac::{Hmac, Mac as _};
use ml_kem::kem::Decapsulate as _;
use ml_kem::ml_kem_768::{Ciphertext, DecapsulationKey, EncapsulationKey};
use ml_kem::{B32, KeyExport as _, Seed};
use sha2::{Digest as _, Sha256, Sha512};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize as _, Zeroizing};

use super::{Aead, CryptoError, Primitives, SharedSecret, Signer, strict};

impl Signer for SigningKey {
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        ed25519_dalek::Signer::sign(self, message).to_bytes()
    }
}

/// See [`super::portable`].
#[derive(Debug)]
pub(super) struct Portable;

impl Primitives for Portable {
    fn name(&self) -> &'static str {
        "portable"
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part);
        }
        hash.finalize().into()
    }

    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length (RFC 2104 §3)")]
    fn hmac_sha256(&self, key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
        for part in parts {
            mac.update(part);
        }
        Zeroizing::new(mac.finalize().into_bytes().into())
    }

    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length (RFC 2104 §3)")]
    fn hmac_sha512(&self, key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 64]> {
        let mut mac = Hmac::<Sha512>::new_from_slice(key).expect("any length");
        for part in parts {
            mac.update(part);
        }
        Zeroizing::new(mac.finalize().into_bytes().into())
    }

    fn aead_seal(
        &self,
        aead: Aead,
        key: &[u8],
        nonce: &[u8; 12],
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        match aead {
            Aead::Aes128Gcm => seal::<Aes128Gcm>(key, nonce, aad, plaintext),
            Aead::Aes256Gcm => seal::<Aes256Gcm>(key, nonce, aad, plaintext),
            Aead::ChaCha20Poly1305 => seal::<ChaCha20Poly1305>(key, nonce, aad, plaintext),
        }
    }

    fn aead_open(
        &self,
        aead: Aead,
        key: &[u8],
        nonce: &[u8; 12],
        aad: &[u8],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        match aead {
            Aead::Aes128Gcm => open::<Aes128Gcm>(key, nonce, aad, ciphertext),
            Aead::Aes256Gcm => open::<Aes256Gcm>(key, nonce, aad, ciphertext),
            Aead::ChaCha20Poly1305 => open::<ChaCha20Poly1305>(key, nonce, aad, ciphertext),
        }
    }

    fn x25519_public(&self, secret: &[u8; 32]) -> [u8; 32] {
        PublicKey::from(&StaticSecret::from(*secret)).to_bytes()
    }

    fn x25519(&self, secret: &[u8; 32], public: &[u8; 32]) -> SharedSecret {
        let shared = StaticSecret::from(*secret).diffie_hellman(&PublicKey::from(*public));
        // RFC 7748 §6.1: the all-zero secret means that the other side contributed nothing.
        if shared.was_contributory() {
            Ok(Zeroizing::new(shared.to_bytes()))
        } else {
            Err(CryptoError)
        }
    }

    fn ed25519_public(&self, seed: &[u8; 32]) -> [u8; 32] {
        SigningKey::from_bytes(seed).verifying_key().to_bytes()
    }

    fn ed25519_sign(&self, seed: &[u8; 32], message: &[u8]) -> [u8; 64] {
        SigningKey::from_bytes(seed).sign(message)
    }

    fn ed25519_signer(&self, seed: &[u8; 32]) -> Box<dyn Signer> {
        Box::new(SigningKey::from_bytes(seed))
    }

    fn ed25519_verify(
        &self,
        public: &[u8; 32],
        message: &[u8],
        signature: &[u8; 64],
    ) -> Result<(), CryptoError> {
        strict::check_ed25519(public, signature)?;
        let key = VerifyingKey::from_bytes(public).map_err(|_| CryptoError)?;
        // `verify_strict` would decode R as well, to see that it is not of small order. That is known by now, and R is
        // compared by its encoding, which is canonical.
        key.verify(message, &Signature::from_bytes(signature)).map_err(|_| CryptoError)
    }

    fn mlkem768_public(&self, seed: &[u8; 64]) -> Vec<u8> {
        decapsulation_key(seed).encapsulation_key().to_bytes().to_vec()
    }

    fn mlkem768_encapsulate(
        &self,
        public: &[u8],
        randomness: &[u8; 32],
    ) -> Result<(Vec<u8>, Zeroizing<[u8; 32]>), CryptoError> {
        let encoded = public.try_into().map_err(|_| CryptoError)?;
        let key = EncapsulationKey::new(encoded).map_err(|_| CryptoError)?;
        let mut message = B32::from(*randomness);
        let (ciphertext, mut shared) = key.encapsulate_deterministic(&message);
        message.zeroize();
        let kept = Zeroizing::new(shared.into());
        shared.zeroize();
        Ok((ciphertext.to_vec(), kept))
    }

    fn mlkem768_decapsulate(
        &self,
        seed: &[u8; 64],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
        decapsulate(&decapsulation_key(seed), ciphertext)
    }
}

fn decapsulation_key(seed: &[u8; 64]) -> DecapsulationKey {
    DecapsulationKey::from_seed(Seed::from(*seed))
}

pub(super) fn decapsulate(key: &DecapsulationKey, ciphertext: &[u8]) -> SharedSecret {
    let ciphertext: &Ciphertext = ciphertext.try_into().map_err(|_| CryptoError)?;
    let mut shared = key.decapsulate(ciphertext);
    let kept = Zeroizing::new(shared.into());
    shared.zeroize();
    Ok(kept)
}

fn seal<C>(key: &[u8], nonce: &[u8; 12], aad: &[u8], msg: &[u8]) -> Result<Vec<u8>, CryptoError>
where
    C: KeyInit + aes_gcm::aead::Aead + AeadCore<NonceSize = U12>,
{
    let cipher = C::new_from_slice(key).map_err(|_| CryptoError)?;
    cipher.encrypt(nonce.into(), Payload { msg, aad }).map_err(|_| CryptoError)
}

fn open<C>(
    key: &[u8],
    nonce: &[u8; 12],
    aad: &[u8],
    msg: &[u8],
) -> Result<Zeroizing<Vec<u8>>, CryptoError>
where
    C: KeyInit + aes_gcm::aead::Aead + AeadCore<NonceSize = U12>,
{
    let cipher = C::new_from_slice(key).map_err(|_| CryptoError)?;
    cipher.decrypt(nonce.into(), Payload { msg, aad }).map(Zeroizing::new).map_err(|_| CryptoError)
}
