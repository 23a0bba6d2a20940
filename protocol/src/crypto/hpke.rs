//! HPKE in base mode (RFC 9180) with HKDF-SHA-256, for DHKEM(X25519) and X-Wing.
//!
//! Encapsulation takes its randomness as an argument, so equal inputs give equal bytes. `info` can be hashed once
//! for many recipients ([`InfoHash`]): in an MLS welcome it is the whole encrypted group info, the same for
//! every new member.
//!
//! ```
//! use qpc_protocol::crypto::hpke::{self, Kem};
//! use qpc_protocol::crypto::{Aead, portable};
//!
//! for kem in [Kem::X25519, Kem::XWing] {
//!     let (secret, public) = hpke::derive_keypair(portable(), kem, &[7; 32]); // fresh and secret in earnest
//!     let randomness = vec![9; kem.randomness_len()]; // fresh for each message in earnest
//!     let (info, aad) = (b"what this is for".as_slice(), b"what goes with it");
//!     let (enc, sealed) = hpke::seal(
//!         portable(), kem, Aead::Aes128Gcm, &public, info, aad, b"hello", &randomness,
//!     )?;
//!     let opened = hpke::open(portable(), kem, Aead::Aes128Gcm, secret.as_slice(), &enc, info, aad, &sealed)?;
//!     assert_eq!(opened.as_slice(), b"hello");
//! }
//! # Ok::<(), qpc_protocol::crypto::CryptoError>(())
//! ```

use zeroize::Zeroizing;

use super::{Aead, Backend, CryptoError, kdf, xwing};

/// Which KEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kem {
    /// DHKEM(X25519, HKDF-SHA256), KEM id 0x0020.
    X25519,
    /// X-Wing, KEM id 0x647A.
    XWing,
}

impl Kem {
    /// HPKE's identifier of the KEM (RFC 9180 §7.1).
    pub fn id(self) -> u16 {
        match self {
            Self::X25519 => 0x0020,
            Self::XWing => 0x647A,
        }
    }

    /// Length of the randomness of one encapsulation in bytes. X25519: the `ikm` of the ephemeral key pair
    /// (RFC 9180 §4.1, `ikmE` of its test vectors). X-Wing: [`xwing::RANDOMNESS_LEN`].
    pub fn randomness_len(self) -> usize {
        match self {
            Self::X25519 => 32,
            Self::XWing => xwing::RANDOMNESS_LEN,
        }
    }

    /// Length of a public key in bytes.
    pub fn public_len(self) -> usize {
        match self {
            Self::X25519 => 32,
            Self::XWing => xwing::PUBLIC_LEN,
        }
    }

    /// Length of an encapsulated secret in bytes.
    pub fn enc_len(self) -> usize {
        match self {
            Self::X25519 => 32,
            Self::XWing => xwing::CIPHERTEXT_LEN,
        }
    }

    fn suite(self) -> [u8; 5] {
        let [high, low] = self.id().to_be_bytes();
        [b'K', b'E', b'M', high, low]
    }
}

/// `info` hashed once for one combination of KEM and AEAD, to be used for many recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InfoHash {
    suite: Suite,
    hash: [u8; 32],
}

impl InfoHash {
    /// Hashes `info`.
    pub fn new(backend: Backend, kem: Kem, aead: Aead, info: &[u8]) -> Self {
        let suite = Suite { kem, aead };
        let hash = *labeled_extract(backend, &suite.id(), &[], b"info_hash", info);
        Self { suite, hash }
    }

    /// The hash itself: `LabeledExtract("", "info_hash", info)` (RFC 9180 §5.1).
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.hash
    }
}

/// The application's `info`, plain or hashed before.
#[derive(Clone, Copy, Debug)]
pub enum Info<'a> {
    /// As it is.
    Plain(&'a [u8]),
    /// Hashed before, for this KEM and AEAD; others refuse it.
    Hashed(&'a InfoHash),
}

impl<'a> From<&'a [u8]> for Info<'a> {
    fn from(info: &'a [u8]) -> Self {
        Self::Plain(info)
    }
}

impl<'a> From<&'a InfoHash> for Info<'a> {
    fn from(info: &'a InfoHash) -> Self {
        Self::Hashed(info)
    }
}

/// Encrypts one message to the holder of `public`: the encapsulated secret and the ciphertext. `randomness` must be
/// fresh, used once, and [`Kem::randomness_len`] long. Fails on any wrong length and on a malformed key.
pub fn seal<'a>(
    backend: Backend,
    kem: Kem,
    aead: Aead,
    public: &[u8],
    info: impl Into<Info<'a>>,
    aad: &[u8],
    plaintext: &[u8],
    randomness: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), CryptoError> {
    let (enc, mut context) = setup_sender(backend, kem, aead, public, info, randomness)?;
    Ok((enc, context.seal(aad, plaintext)?))
}

/// Decrypts what [`seal`] made.
pub fn open<'a>(
    backend: Backend,
    kem: Kem,
    aead: Aead,
    secret: &[u8],
    enc: &[u8],
    info: impl Into<Info<'a>>,
    aad: &[u8],
    ciphertext: &[u8],
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    setup_receiver(backend, kem, aead, enc, secret, info)?.open(aad, ciphertext)
}

/// Agrees on a secret of `len` bytes with the holder of `public` (RFC 9180 §6.2): the encapsulated secret and the
/// exported one. Fails as [`seal`] does, and if `len` is above [`kdf::EXPAND_MOST`].
pub fn setup_sender_and_export<'a>(
    backend: Backend,
    kem: Kem,
    aead: Aead,
    public: &[u8],
    info: impl Into<Info<'a>>,
    exporter_context: &[u8],
    len: usize,
    randomness: &[u8],
) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), CryptoError> {
    let (enc, context) = setup_sender(backend, kem, aead, public, info, randomness)?;
    Ok((enc, context.export(exporter_context, len)?))
}

/// The receiver's side of [`setup_sender_and_export`].
pub fn setup_receiver_and_export<'a>(
    backend: Backend,
    kem: Kem,
    aead: Aead,
    enc: &[u8],
    secret: &[u8],
    info: impl Into<Info<'a>>,
    exporter_context: &[u8],
    len: usize,
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    setup_receiver(backend, kem, aead, enc, secret, info)?.export(exporter_context, len)
}

/// The key pair of some key material: secret, then public.
///
/// X25519: `DeriveKeyPair` of RFC 9180 §7.1.3. X-Wing: the seed is `SHAKE256(ikm, 32)`, as the implementations of
/// the provisional MLS suites do; see [`derive_keypair_labelled`] for what the HPKE draft says.
pub fn derive_keypair(backend: Backend, kem: Kem, ikm: &[u8]) -> (Zeroizing<[u8; 32]>, Vec<u8>) {
    match kem {
        Kem::X25519 => {
            let secret = derive_x25519(backend, ikm);
            let public = backend.x25519_public(&secret).to_vec();
            (secret, public)
        }
        Kem::XWing => {
            let mut secret = Zeroizing::new([0; 32]);
            xwing::shake256(&[ikm], secret.as_mut_slice());
            let public = xwing::public_key(backend, &secret);
            (secret, public)
        }
    }
}

fn derive_x25519(backend: Backend, ikm: &[u8]) -> Zeroizing<[u8; 32]> {
    let suite = Kem::X25519.suite();
    let prk = labeled_extract(backend, &suite, &[], b"dkp_prk", ikm);
    let info = labeled_info(&suite, &[0, 32], b"sk");
    kdf::expand_key(backend, prk.as_slice(), &info)
}

/// X-Wing's key pair as draft-ietf-hpke-pq-05 derives it: `SHAKE256(ikm || "HPKE-v1" || "KEM" || id || len(label) ||
/// label || L || context)` with the label `DeriveKeyPair`, an empty context and L = 32. For X25519 the same as
/// [`derive_keypair`]. Kept for the day the suites' final code points ask for it.
pub fn derive_keypair_labelled(
    backend: Backend,
    kem: Kem,
    ikm: &[u8],
) -> (Zeroizing<[u8; 32]>, Vec<u8>) {
    if kem == Kem::X25519 {
        return derive_keypair(backend, kem, ikm);
    }
    const LABEL: &[u8; 13] = b"DeriveKeyPair";
    let mut secret = Zeroizing::new([0; 32]);
    let parts: [&[u8]; 6] = [ikm, VERSION, &kem.suite(), &[0, 13], LABEL, &[0, 32]];
    xwing::shake256(&parts, secret.as_mut_slice());
    let public = xwing::public_key(backend, &secret);
    (secret, public)
}

/// Whether others can encrypt to this public key: its length, for X25519 that it is not of small order, for X-Wing
/// that its ML-KEM half is well-formed (FIPS 203 §7.2). A key that fails would make every [`seal`] to it fail, so
/// check it when it arrives, not when it is used. Costs about a microsecond: a tree has thousands of keys.
pub fn check_public_key(kem: Kem, public: &[u8]) -> Result<(), CryptoError> {
    match kem {
        Kem::X25519 => {
            let mut public: [u8; 32] = public.try_into().map_err(|_| CryptoError)?;
            // RFC 7748 §5: the highest bit is ignored.
            public[31] &= 0x7F;
            if SMALL_ORDER.contains(&public) { Err(CryptoError) } else { Ok(()) }
        }
        Kem::XWing => xwing::check_public_key(public),
    }
}

/// Every X25519 public key of small order, its highest bit cleared: with each of them, and with no other, every shared
/// secret is zero (RFC 7748 §6.1). As 255-bit numbers: 0, 1, the two of order eight, and p - 1, p, p + 1.
const SMALL_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    {
        let mut one = [0; 32];
        one[0] = 1;
        one
    },
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef,
        0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f,
        0x11, 0x57,
    ],
    near_p(0xec),
    near_p(0xed),
    near_p(0xee),
];

/// p = 2^255 - 19, with another lowest byte.
const fn near_p(lowest: u8) -> [u8; 32] {
    let mut number = [0xff; 32];
    number[0] = lowest;
    number[31] = 0x7f;
    number
}

/// Encapsulates to `public` and derives a [`Context`] (RFC 9180 §5.1.1).
pub fn setup_sender<'a>(
    backend: Backend,
    kem: Kem,
    aead: Aead,
    public: &[u8],
    info: impl Into<Info<'a>>,
    randomness: &[u8],
) -> Result<(Vec<u8>, Context), CryptoError> {
    let (enc, shared) = encapsulate(backend, kem, public, randomness)?;
    Ok((enc, Context::new(backend, Suite { kem, aead }, &shared, info.into())?))
}

/// What takes the time of [`setup_sender`] and depends on nothing but the key: the encapsulated secret, and the shared
/// one, which is good for a single context.
pub(crate) fn encapsulate(
    backend: Backend,
    kem: Kem,
    public: &[u8],
    randomness: &[u8],
) -> Result<(Vec<u8>, Zeroizing<[u8; 32]>), CryptoError> {
    match kem {
        Kem::X25519 => dhkem_encapsulate(backend, public, randomness),
        Kem::XWing => {
            let randomness = randomness.try_into().map_err(|_| CryptoError)?;
            xwing::encapsulate(backend, public, randomness)
        }
    }
}

/// The rest of [`seal`].
pub(crate) fn seal_to(
    backend: Backend,
    kem: Kem,
    aead: Aead,
    shared: &[u8; 32],
    info: &InfoHash,
    aad: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    Context::new(backend, Suite { kem, aead }, shared, info.into())?.seal(aad, plaintext)
}

/// Decapsulates `enc` and derives the same [`Context`].
pub fn setup_receiver<'a>(
    backend: Backend,
    kem: Kem,
    aead: Aead,
    enc: &[u8],
    secret: &[u8],
    info: impl Into<Info<'a>>,
) -> Result<Context, CryptoError> {
    let secret = secret.try_into().map_err(|_| CryptoError)?;
    let shared = match kem {
        Kem::X25519 => dhkem_decapsulate(backend, secret, enc)?,
        Kem::XWing => xwing::decapsulate(backend, secret, enc)?,
    };
    Context::new(backend, Suite { kem, aead }, &shared, info.into())
}

/// An encryption context (RFC 9180 §5.2): the keys of one encapsulation and a counter of messages. The sender only
/// seals with it, the receiver only opens.
pub struct Context {
    backend: Backend,
    suite: Suite,
    key: Zeroizing<[u8; 32]>,
    base_nonce: Zeroizing<[u8; 12]>,
    exporter_secret: Zeroizing<[u8; 32]>,
    sequence: u64,
}

impl Context {
    fn new(
        backend: Backend,
        suite: Suite,
        shared: &[u8; 32],
        info: Info<'_>,
    ) -> Result<Self, CryptoError> {
        const BASE_MODE: [u8; 1] = [0];
        let id = suite.id();
        let psk_id_hash = labeled_extract(backend, &id, &[], b"psk_id_hash", &[]);
        let info_hash = match info {
            Info::Plain(info) => InfoHash::new(backend, suite.kem, suite.aead, info),
            Info::Hashed(hash) if hash.suite == suite => *hash,
            Info::Hashed(_) => return Err(CryptoError),
        };
        let schedule: [&[u8]; 3] = [&BASE_MODE, psk_id_hash.as_slice(), &info_hash.hash];
        let secret = labeled_extract(backend, &id, shared, b"secret", &[]);

        let mut context = Self {
            backend,
            suite,
            key: Zeroizing::new([0; 32]),
            base_nonce: Zeroizing::new([0; 12]),
            exporter_secret: Zeroizing::new([0; 32]),
            sequence: 0,
        };
        let key = &mut context.key[..suite.aead.key_len()];
        labeled_expand(backend, &id, secret.as_slice(), b"key", &schedule, key)?;
        let nonce = context.base_nonce.as_mut_slice();
        labeled_expand(backend, &id, secret.as_slice(), b"base_nonce", &schedule, nonce)?;
        let exporter = context.exporter_secret.as_mut_slice();
        labeled_expand(backend, &id, secret.as_slice(), b"exp", &schedule, exporter)?;
        Ok(context)
    }

    /// Encrypts the next message. Fails once 2^64 - 1 messages were sealed: a nonce is never used twice.
    pub fn seal(&mut self, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let (nonce, next) = self.nonce()?;
        let ciphertext =
            self.backend.aead_seal(self.suite.aead, self.key(), &nonce, aad, plaintext)?;
        self.sequence = next;
        Ok(ciphertext)
    }

    /// Decrypts the next message; one that does not open moves no counter.
    pub fn open(
        &mut self,
        aad: &[u8],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let (nonce, next) = self.nonce()?;
        let plaintext =
            self.backend.aead_open(self.suite.aead, self.key(), &nonce, aad, ciphertext)?;
        self.sequence = next;
        Ok(plaintext)
    }

    /// A secret of `len` bytes, at most [`kdf::EXPAND_MOST`], for use outside HPKE (RFC 9180 §5.3).
    pub fn export(&self, context: &[u8], len: usize) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        if len > kdf::EXPAND_MOST {
            return Err(CryptoError);
        }
        let mut out = Zeroizing::new(vec![0; len]);
        let prk = self.exporter_secret.as_slice();
        labeled_expand(self.backend, &self.suite.id(), prk, b"sec", &[context], &mut out)?;
        Ok(out)
    }

    fn key(&self) -> &[u8] {
        &self.key[..self.suite.aead.key_len()]
    }

    /// The nonce of this message and the counter after it (RFC 9180 §5.2).
    fn nonce(&self) -> Result<([u8; 12], u64), CryptoError> {
        let next = self.sequence.checked_add(1).ok_or(CryptoError)?;
        let mut nonce = *self.base_nonce;
        for (byte, counter) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= counter;
        }
        Ok((nonce, next))
    }
}

impl core::fmt::Debug for Context {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Context({:?}, #{})", self.suite, self.sequence)
    }
}

const VERSION: &[u8; 7] = b"HPKE-v1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Suite {
    kem: Kem,
    aead: Aead,
}

impl Suite {
    /// `"HPKE" || KEM || KDF || AEAD` (RFC 9180 §5.1); the KDF is HKDF-SHA256, 0x0001.
    fn id(self) -> [u8; 10] {
        let [kem_high, kem_low] = self.kem.id().to_be_bytes();
        let aead = match self.aead {
            Aead::Aes128Gcm => 1,
            Aead::Aes256Gcm => 2,
            Aead::ChaCha20Poly1305 => 3,
        };
        [b'H', b'P', b'K', b'E', kem_high, kem_low, 0, 1, 0, aead]
    }
}

fn dhkem_encapsulate(
    backend: Backend,
    public: &[u8],
    randomness: &[u8],
) -> Result<(Vec<u8>, Zeroizing<[u8; 32]>), CryptoError> {
    let public: &[u8; 32] = public.try_into().map_err(|_| CryptoError)?;
    if randomness.len() != Kem::X25519.randomness_len() {
        return Err(CryptoError);
    }
    // RFC 9180 §7.1.4: a secret of zeros is refused; the primitive does so.
    let (enc, dh) = backend.x25519_both(&derive_x25519(backend, randomness), public);
    let shared = dhkem_shared(backend, &*dh?, &enc, public);
    Ok((enc.to_vec(), shared))
}

fn dhkem_decapsulate(
    backend: Backend,
    secret: &[u8; 32],
    enc: &[u8],
) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
    let enc: &[u8; 32] = enc.try_into().map_err(|_| CryptoError)?;
    let (public, dh) = backend.x25519_both(secret, enc);
    Ok(dhkem_shared(backend, &*dh?, enc, &public))
}

/// `ExtractAndExpand` of RFC 9180 §4.1.
fn dhkem_shared(
    backend: Backend,
    dh: &[u8; 32],
    enc: &[u8],
    public: &[u8; 32],
) -> Zeroizing<[u8; 32]> {
    let suite = Kem::X25519.suite();
    let prk = labeled_extract(backend, &suite, &[], b"eae_prk", dh);
    let [length, version, id, label] = labeled_info(&suite, &[0, 32], b"shared_secret");
    kdf::expand_key(backend, prk.as_slice(), &[length, version, id, label, enc, public])
}

fn labeled_extract(
    backend: Backend,
    suite: &[u8],
    salt: &[u8],
    label: &[u8],
    ikm: &[u8],
) -> Zeroizing<[u8; 32]> {
    kdf::extract(backend, salt, &[VERSION, suite, label, ikm])
}

fn labeled_expand(
    backend: Backend,
    suite: &[u8],
    prk: &[u8],
    label: &[u8],
    info: &[&[u8]],
    out: &mut [u8],
) -> Result<(), CryptoError> {
    let length = u16::try_from(out.len()).map_err(|_| CryptoError)?.to_be_bytes();
    let mut parts = labeled_info(suite, &length, label).to_vec();
    parts.extend_from_slice(info);
    kdf::expand(backend, prk, &parts, out)
}

/// The head of `labeled_info` (RFC 9180 §4).
fn labeled_info<'a>(suite: &'a [u8], length: &'a [u8; 2], label: &'a [u8]) -> [&'a [u8]; 4] {
    [length, VERSION, suite, label]
}

#[cfg(test)]
mod tests;
