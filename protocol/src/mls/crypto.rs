//! The crate's primitives as OpenMLS asks for them, with its randomness from one seed.

#[cfg(test)]
mod tests;

use core::convert::Infallible;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;

use openmls_traits::crypto::OpenMlsCrypto;
use openmls_traits::random::OpenMlsRand;
use openmls_traits::types::{
    AeadType, Ciphersuite, CryptoError, ExporterSecret, HashType, HpkeAeadType, HpkeCiphertext,
    HpkeConfig, HpkeKdfType, HpkeKemType, HpkeKeyPair, KemOutput, SignatureScheme,
};
use tls_codec::SecretVLBytes;
use zeroize::Zeroizing;

use super::ahead::Encapsulations;
use super::hashes::Hashes;
use super::parallel;
use super::verified::Verified;
use crate::crypto::hpke::{self, Info, InfoHash, Kem};
use crate::crypto::{Aead, Backend};
use crate::env::Entropy;

/// Cryptography and randomness for OpenMLS, from one seed drawn when it is made.
///
/// OpenMLS encrypts path secrets on several threads, so a shared stream of randomness would be handed out in the
/// order in which threads happen to run. The randomness of an encapsulation is therefore derived from the seed and
/// from all that is encrypted, or, if it is made ahead of that, from a draw and the key; the other draws happen on the
/// calling thread and are counted. The seed lives as long as this value and is never stored.
pub struct Crypto {
    backend: Backend,
    seed: Zeroizing<[u8; 32]>,
    draws: AtomicU64,
    /// What one commit encrypts under: its GroupContext to the path, its GroupInfo to each new member. Hashing the
    /// latter anew for each would take most of the time that adding a thousand members takes.
    infos: [OnceLock<Memo>; 2],
    /// Signatures that need no second look.
    verified: OnceLock<Verified>,
    hashes: OnceLock<Hashes>,
    ahead: OnceLock<Encapsulations>,
}

struct Memo {
    kem: Kem,
    aead: Aead,
    info: Vec<u8>,
    hash: InfoHash,
}

impl Crypto {
    /// Draws a seed from `entropy`.
    pub fn new(backend: Backend, entropy: &mut Entropy) -> Self {
        Self {
            backend,
            seed: Zeroizing::new(entropy.array()),
            draws: AtomicU64::new(0),
            infos: [const { OnceLock::new() }; 2],
            verified: OnceLock::new(),
            hashes: OnceLock::new(),
            ahead: OnceLock::new(),
        }
    }

    /// For verifying and decrypting, which draw no randomness.
    pub(super) fn verifier(backend: Backend) -> Self {
        Self::new(backend, &mut Entropy::from_seed([0; 32]))
    }

    /// The primitives in use.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Takes note of signatures verified ahead; only the first time.
    pub(super) fn know(&self, verified: Verified) {
        let _ = self.verified.set(verified);
    }

    /// Remembers the hashes of a tree with so many leaves; only the first time.
    pub(super) fn remember_tree(&self, leaves: usize) {
        if let Some(hashes) = Hashes::of_tree(leaves) {
            let _ = self.hashes.set(hashes);
        }
    }

    /// Encapsulates to keys that each something is about to be encrypted to, side by side; only the first time, and
    /// only for many. OpenMLS encrypts to joiners one after the other.
    pub(super) fn encapsulate_ahead(&self, kem: Kem, keys: &[&[u8]]) {
        if keys.len() < parallel::MANY {
            return;
        }
        let draw = self.draws.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let randomness = |key: &[u8]| {
            self.backend.hmac_sha512(&*self.seed, &[b"ahead", &draw, &kem.id().to_be_bytes(), key])
        };
        let _ = self.ahead.set(Encapsulations::new(self.backend, kem, keys, randomness));
    }

    fn fill(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(64) {
            let draw = self.draws.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            let block = self.backend.hmac_sha512(&*self.seed, &[b"draw", &draw]);
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }

    fn info_hash(&self, kem: Kem, aead: Aead, info: &[u8]) -> InfoHash {
        let compute = || InfoHash::new(self.backend, kem, aead, info);
        for slot in &self.infos {
            match slot.get() {
                Some(memo) if memo.kem == kem && memo.aead == aead && memo.info == info => {
                    return memo.hash;
                }
                Some(_) => {}
                None => {
                    let hash = compute();
                    // Another thread may have been first: then it is kept by nobody, and still right.
                    let _ = slot.set(Memo { kem, aead, info: info.to_vec(), hash });
                    return hash;
                }
            }
        }
        compute()
    }

    /// Fields have a fixed length or are preceded by it, so no two encapsulations that differ share their randomness;
    /// two that do not differ give the same ciphertext, which tells nothing new.
    fn encapsulation(
        &self,
        kem: Kem,
        public: &[u8],
        info: &InfoHash,
        aad: &[u8],
        content: &[u8],
    ) -> Zeroizing<[u8; 64]> {
        let length = |field: &[u8]| (field.len() as u64).to_be_bytes();
        self.backend.hmac_sha512(
            &*self.seed,
            &[
                b"encapsulation",
                &kem.id().to_be_bytes(),
                info.as_bytes(),
                &length(public),
                public,
                &length(aad),
                aad,
                &length(content),
                content,
            ],
        )
    }
}

impl fmt::Debug for Crypto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crypto({}, …)", self.backend.name())
    }
}

impl OpenMlsRand for Crypto {
    type Error = Infallible;

    fn random_array<const N: usize>(&self) -> Result<[u8; N], Infallible> {
        let mut out = [0; N];
        self.fill(&mut out);
        Ok(out)
    }

    fn random_vec(&self, len: usize) -> Result<Vec<u8>, Infallible> {
        let mut out = vec![0; len];
        self.fill(&mut out);
        Ok(out)
    }
}

/// The suites that this provider can do. Which of them a group may have is [`Suite`](super::suite::Suite)'s business.
const SUITES: [Ciphersuite; 3] = [
    Ciphersuite::MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519,
    Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
    Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
];

impl OpenMlsCrypto for Crypto {
    fn supports(&self, ciphersuite: Ciphersuite) -> Result<(), CryptoError> {
        if SUITES.contains(&ciphersuite) {
            Ok(())
        } else {
            Err(CryptoError::UnsupportedCiphersuite)
        }
    }

    fn supported_ciphersuites(&self) -> Vec<Ciphersuite> {
        SUITES.to_vec()
    }

    fn hkdf_extract(
        &self,
        hash_type: HashType,
        salt: &[u8],
        ikm: &[u8],
    ) -> Result<SecretVLBytes, CryptoError> {
        // RFC 5869 §2.2
        self.hmac(hash_type, salt, ikm)
    }

    fn hmac(
        &self,
        hash_type: HashType,
        key: &[u8],
        message: &[u8],
    ) -> Result<SecretVLBytes, CryptoError> {
        sha256_only(hash_type)?;
        Ok(self.backend.hmac_sha256(key, &[message]).as_slice().into())
    }

    fn hkdf_expand(
        &self,
        hash_type: HashType,
        prk: &[u8],
        info: &[u8],
        okm_len: usize,
    ) -> Result<SecretVLBytes, CryptoError> {
        sha256_only(hash_type)?;
        // RFC 5869 §2.3
        if okm_len > 255 * 32 {
            return Err(CryptoError::HkdfOutputLengthInvalid);
        }
        let mut out = Zeroizing::new(Vec::with_capacity(okm_len.next_multiple_of(32)));
        let mut block = Zeroizing::new([0; 32]);
        for counter in 1..=u8::MAX {
            if out.len() >= okm_len {
                break;
            }
            let before: &[u8] = if counter == 1 { &[] } else { block.as_slice() };
            block = self.backend.hmac_sha256(prk, &[before, info, &[counter]]);
            out.extend_from_slice(block.as_slice());
        }
        Ok(out[..okm_len].into())
    }

    fn hash(&self, hash_type: HashType, data: &[u8]) -> Result<Vec<u8>, CryptoError> {
        sha256_only(hash_type)?;
        let hash = match self.hashes.get() {
            Some(hashes) => hashes.hash(self.backend, data),
            None => self.backend.sha256(&[data]),
        };
        Ok(hash.to_vec())
    }

    fn aead_encrypt(
        &self,
        alg: AeadType,
        key: &[u8],
        data: &[u8],
        nonce: &[u8],
        aad: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        let nonce = nonce.try_into().map_err(|_| CryptoError::InvalidLength)?;
        self.backend
            .aead_seal(aead(alg), key, nonce, aad, data)
            .map_err(|_| CryptoError::CryptoLibraryError)
    }

    fn aead_decrypt(
        &self,
        alg: AeadType,
        key: &[u8],
        ct_tag: &[u8],
        nonce: &[u8],
        aad: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        let nonce = nonce.try_into().map_err(|_| CryptoError::InvalidLength)?;
        let mut plaintext = self
            .backend
            .aead_open(aead(alg), key, nonce, aad, ct_tag)
            .map_err(|_| CryptoError::AeadDecryptionError)?;
        Ok(core::mem::take(&mut *plaintext))
    }

    fn signature_key_gen(&self, alg: SignatureScheme) -> Result<(Vec<u8>, Vec<u8>), CryptoError> {
        ed25519_only(alg)?;
        let mut seed = Zeroizing::new([0; 32]);
        self.fill(seed.as_mut_slice());
        let public = self.backend.ed25519_public(&seed);
        Ok((seed.to_vec(), public.to_vec()))
    }

    fn verify_signature(
        &self,
        alg: SignatureScheme,
        data: &[u8],
        pk: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        ed25519_only(alg)?;
        if self.verified.get().is_some_and(|verified| verified.holds(pk, data, signature)) {
            return Ok(());
        }
        let public = pk.try_into().map_err(|_| CryptoError::InvalidPublicKey)?;
        let signature = signature.try_into().map_err(|_| CryptoError::InvalidSignature)?;
        self.backend
            .ed25519_verify(public, data, signature)
            .map_err(|_| CryptoError::InvalidSignature)
    }

    /// `key` is the seed (RFC 8032 §5.1.5), or seed and public key one behind the other.
    fn sign(&self, alg: SignatureScheme, data: &[u8], key: &[u8]) -> Result<Vec<u8>, CryptoError> {
        ed25519_only(alg)?;
        let seed = match key.len() {
            32 | 64 => key.first_chunk(),
            _ => None,
        };
        let seed = seed.ok_or(CryptoError::InvalidLength)?;
        Ok(self.backend.ed25519_sign(seed, data).to_vec())
    }

    fn hpke_seal(
        &self,
        config: HpkeConfig,
        pk_r: &[u8],
        info: &[u8],
        aad: &[u8],
        ptxt: &[u8],
    ) -> Result<HpkeCiphertext, CryptoError> {
        let (kem, aead) = hpke_parts(&config)?;
        let info = self.info_hash(kem, aead, info);
        if let Some(made) = self.ahead.get().and_then(|ahead| ahead.take(kem, pk_r)) {
            let sealed = hpke::seal_to(self.backend, kem, aead, &made.shared, &info, aad, ptxt);
            let ciphertext = sealed.map_err(|_| CryptoError::HpkeEncryptionError)?.into();
            return Ok(HpkeCiphertext { kem_output: made.enc.clone().into(), ciphertext });
        }
        let randomness = self.encapsulation(kem, pk_r, &info, aad, ptxt);
        let (enc, ciphertext) = hpke::seal(
            self.backend,
            kem,
            aead,
            pk_r,
            Info::Hashed(&info),
            aad,
            ptxt,
            &randomness[..kem.randomness_len()],
        )
        .map_err(|_| CryptoError::HpkeEncryptionError)?;
        Ok(HpkeCiphertext { kem_output: enc.into(), ciphertext: ciphertext.into() })
    }

    fn hpke_open(
        &self,
        config: HpkeConfig,
        input: &HpkeCiphertext,
        sk_r: &[u8],
        info: &[u8],
        aad: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        let (kem, aead) = hpke_parts(&config)?;
        let (enc, ciphertext) = (input.kem_output.as_slice(), input.ciphertext.as_slice());
        let mut plaintext = hpke::open(self.backend, kem, aead, sk_r, enc, info, aad, ciphertext)
            .map_err(|_| CryptoError::HpkeDecryptionError)?;
        Ok(core::mem::take(&mut *plaintext))
    }

    fn hpke_setup_sender_and_export(
        &self,
        config: HpkeConfig,
        pk_r: &[u8],
        info: &[u8],
        exporter_context: &[u8],
        exporter_length: usize,
    ) -> Result<(KemOutput, ExporterSecret), CryptoError> {
        let (kem, aead) = hpke_parts(&config)?;
        // Who exports has no content that tells one use from another, so the draw counts.
        let mut salt = Zeroizing::new([0; 32]);
        self.fill(salt.as_mut_slice());
        let info = self.info_hash(kem, aead, info);
        let randomness = self.encapsulation(kem, pk_r, &info, exporter_context, salt.as_slice());
        let (enc, secret) = hpke::setup_sender_and_export(
            self.backend,
            kem,
            aead,
            pk_r,
            Info::Hashed(&info),
            exporter_context,
            exporter_length,
            &randomness[..kem.randomness_len()],
        )
        .map_err(|_| CryptoError::SenderSetupError)?;
        Ok((enc, secret.to_vec().into()))
    }

    fn hpke_setup_receiver_and_export(
        &self,
        config: HpkeConfig,
        enc: &[u8],
        sk_r: &[u8],
        info: &[u8],
        exporter_context: &[u8],
        exporter_length: usize,
    ) -> Result<ExporterSecret, CryptoError> {
        let (kem, aead) = hpke_parts(&config)?;
        hpke::setup_receiver_and_export(
            self.backend,
            kem,
            aead,
            enc,
            sk_r,
            info,
            exporter_context,
            exporter_length,
        )
        .map(|secret| secret.to_vec().into())
        .map_err(|_| CryptoError::ReceiverSetupError)
    }

    fn derive_hpke_keypair(
        &self,
        config: HpkeConfig,
        ikm: &[u8],
    ) -> Result<HpkeKeyPair, CryptoError> {
        let (kem, _) = hpke_parts(&config)?;
        let (secret, public) = hpke::derive_keypair(self.backend, kem, ikm);
        Ok(HpkeKeyPair { private: secret.as_slice().into(), public })
    }
}

fn sha256_only(hash: HashType) -> Result<(), CryptoError> {
    match hash {
        HashType::Sha2_256 => Ok(()),
        _ => Err(CryptoError::UnsupportedHashAlgorithm),
    }
}

fn ed25519_only(scheme: SignatureScheme) -> Result<(), CryptoError> {
    match scheme {
        SignatureScheme::ED25519 => Ok(()),
        _ => Err(CryptoError::UnsupportedSignatureScheme),
    }
}

fn aead(aead: AeadType) -> Aead {
    match aead {
        AeadType::Aes128Gcm => Aead::Aes128Gcm,
        AeadType::Aes256Gcm => Aead::Aes256Gcm,
        AeadType::ChaCha20Poly1305 => Aead::ChaCha20Poly1305,
    }
}

fn hpke_parts(HpkeConfig(kem, kdf, aead): &HpkeConfig) -> Result<(Kem, Aead), CryptoError> {
    let kem = match kem {
        HpkeKemType::DhKem25519 => Kem::X25519,
        HpkeKemType::XWingKemDraft6 => Kem::XWing,
        _ => return Err(CryptoError::UnsupportedCiphersuite),
    };
    if *kdf != HpkeKdfType::HkdfSha256 {
        return Err(CryptoError::UnsupportedKdf);
    }
    let aead = match aead {
        HpkeAeadType::AesGcm128 => Aead::Aes128Gcm,
        HpkeAeadType::AesGcm256 => Aead::Aes256Gcm,
        HpkeAeadType::ChaCha20Poly1305 => Aead::ChaCha20Poly1305,
        HpkeAeadType::Export => return Err(CryptoError::UnsupportedAeadAlgorithm),
    };
    Ok((kem, aead))
}
