//! Primitives that protect nothing. For fuzzers and simulated worlds, where cryptography costs most of the time and, to
//! a fuzzer, hides all that lies behind it. Nothing that people use may be built with this crate
//! (`tests/products.rs` sees to it).

#[cfg(test)]
mod tests;

use qpc_protocol::crypto::{Aead, Backend, CryptoError, Primitives, Signer, portable};
use zeroize::Zeroizing;

/// Cheap, and every check still bites: a signature, tag, ciphertext or shared secret depends on all that it depends on
/// in earnest, by way of a hash that resists nobody. For worlds, whose oracles have to see wrong keys and changed
/// bytes.
pub fn quick() -> Backend {
    &Insecure { open: false }
}

/// Nothing stands in a fuzzer's way. Every signature holds, every ciphertext opens under every key to itself, and a MAC
/// does not depend on a message longer than [`LONG`]: so a changed message is believed, and what reads it is reached.
/// That checks fail is not forgotten either: a signature or tag that ends with [`WRONG`], which honest ones never do,
/// is refused.
///
/// Any bytes hold, and not a hash of the message, because a fuzzer changes messages and cannot compute. Short MACs
/// depend on what they should, for keys are derived with them, and trees refuse equal keys.
pub fn open() -> Backend {
    &Insecure { open: true }
}

/// The last byte of a signature or tag that [`open`] refuses.
pub const WRONG: u8 = 0xFF;
/// The longest message in bytes that a MAC of [`open`] depends on: longer than what MLS derives keys from, shorter than
/// what it puts a membership tag on.
pub const LONG: usize = 128;

const TAG: usize = 16;
const MLKEM_PUBLIC: usize = 1184;
const MLKEM_CIPHERTEXT: usize = 1088;

/// See [`quick`] and [`open`].
#[derive(Debug)]
struct Insecure {
    open: bool,
}

impl Insecure {
    fn mac(&self, key: &[u8], parts: &[&[u8]]) -> Mixer {
        let long = parts.iter().map(|part| part.len()).sum::<usize>() > LONG;
        let mut mixer = Mixer::of(b"mac", &[key]);
        mixer.absorb(&(key.len() as u64).to_le_bytes());
        if !(self.open && long) {
            parts.iter().for_each(|part| mixer.absorb(part));
        }
        mixer
    }

    fn tag(&self, key: &[u8], nonce: &[u8; 12], aad: &[u8], ciphertext: &[u8]) -> [u8; TAG] {
        if self.open {
            return [0; TAG];
        }
        let lengths = [aad.len(), ciphertext.len()].map(|len| (len as u64).to_le_bytes());
        let parts: [&[u8]; 5] = [key, nonce, lengths.as_flattened(), aad, ciphertext];
        let hash = Mixer::of(b"tag", &parts).finish(0);
        core::array::from_fn(|at| hash[at])
    }

    /// Encrypts and decrypts.
    fn cover(&self, key: &[u8], nonce: &[u8; 12], text: &mut [u8]) {
        if self.open {
            return;
        }
        let start = Mixer::of(b"stream", &[key, nonce]);
        for (number, block) in text.chunks_mut(32).enumerate() {
            let stream = start.finish(number as u64);
            block.iter_mut().zip(stream).for_each(|(byte, key)| *byte ^= key);
        }
    }
}

impl Primitives for Insecure {
    fn name(&self) -> &'static str {
        if self.open { "insecure, open" } else { "insecure, quick" }
    }

    // In earnest: the wire and the store compare SHA-256 as well.
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        portable().sha256(parts)
    }

    fn hmac_sha256(&self, key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.mac(key, parts).finish(0))
    }

    fn hmac_sha512(&self, key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 64]> {
        Zeroizing::new(wide(&self.mac(key, parts)))
    }

    fn aead_seal(
        &self,
        aead: Aead,
        key: &[u8],
        nonce: &[u8; 12],
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        check(key.len() == aead.key_len())?;
        let mut sealed = plaintext.to_vec();
        self.cover(key, nonce, &mut sealed);
        let tag = self.tag(key, nonce, aad, &sealed);
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }

    fn aead_open(
        &self,
        aead: Aead,
        key: &[u8],
        nonce: &[u8; 12],
        aad: &[u8],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        check(key.len() == aead.key_len())?;
        let (sealed, tag) = ciphertext.split_last_chunk::<TAG>().ok_or(CryptoError)?;
        let holds = if self.open {
            tag[TAG - 1] != WRONG
        } else {
            *tag == self.tag(key, nonce, aad, sealed)
        };
        check(holds)?;
        let mut opened = Zeroizing::new(sealed.to_vec());
        self.cover(key, nonce, &mut opened);
        Ok(opened)
    }

    fn x25519_public(&self, secret: &[u8; 32]) -> [u8; 32] {
        Mixer::of(b"x25519", &[secret]).finish(0)
    }

    /// Both sides know both public keys: that is all it takes.
    fn x25519(
        &self,
        secret: &[u8; 32],
        public: &[u8; 32],
    ) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
        check(*public != [0; 32])?;
        let own = self.x25519_public(secret);
        let (low, high) = if own < *public { (&own, public) } else { (public, &own) };
        Ok(Zeroizing::new(Mixer::of(b"agreed", &[low, high]).finish(0)))
    }

    fn ed25519_public(&self, seed: &[u8; 32]) -> [u8; 32] {
        Mixer::of(b"ed25519", &[seed]).finish(0)
    }

    fn ed25519_sign(&self, seed: &[u8; 32], message: &[u8]) -> [u8; 64] {
        signature(&self.ed25519_public(seed), message)
    }

    fn ed25519_signer(&self, seed: &[u8; 32]) -> Box<dyn Signer> {
        Box::new(Public(self.ed25519_public(seed)))
    }

    fn ed25519_verify(
        &self,
        public: &[u8; 32],
        message: &[u8],
        signed: &[u8; 64],
    ) -> Result<(), CryptoError> {
        check(if self.open { signed[63] != WRONG } else { *signed == signature(public, message) })
    }

    fn mlkem768_public(&self, seed: &[u8; 64]) -> Vec<u8> {
        // Coefficients come first, which have to be in range; what follows them may be anything.
        let mut public = vec![0; MLKEM_PUBLIC - 32];
        public.extend(Mixer::of(b"mlkem", &[seed]).finish(0));
        public
    }

    fn mlkem768_encapsulate(
        &self,
        public: &[u8],
        randomness: &[u8; 32],
    ) -> Result<(Vec<u8>, Zeroizing<[u8; 32]>), CryptoError> {
        check(public.len() == MLKEM_PUBLIC)?;
        let mut ciphertext = randomness.to_vec();
        ciphertext.resize(MLKEM_CIPHERTEXT, 0);
        let shared = Mixer::of(b"shared", &[&public[MLKEM_PUBLIC - 32..], &ciphertext]).finish(0);
        Ok((ciphertext, Zeroizing::new(shared)))
    }

    fn mlkem768_decapsulate(
        &self,
        seed: &[u8; 64],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
        check(ciphertext.len() == MLKEM_CIPHERTEXT)?;
        let public = Mixer::of(b"mlkem", &[seed]).finish(0);
        Ok(Zeroizing::new(Mixer::of(b"shared", &[&public, ciphertext]).finish(0)))
    }
}

fn check(holds: bool) -> Result<(), CryptoError> {
    if holds { Ok(()) } else { Err(CryptoError) }
}

/// A "secret" key: to sign, the public one is enough.
struct Public([u8; 32]);

impl Signer for Public {
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        signature(&self.0, message)
    }
}

fn signature(public: &[u8; 32], message: &[u8]) -> [u8; 64] {
    let mut signed = wide(&Mixer::of(b"signature", &[public, message]));
    signed[63] &= 0x7F;
    signed
}

fn wide(mixer: &Mixer) -> [u8; 64] {
    let halves = [mixer.finish(0), mixer.finish(1)];
    core::array::from_fn(|at| halves[at / 32][at % 32])
}

/// A hash of bytes that come in pieces: fast, well spread, and of no resistance.
#[derive(Clone)]
struct Mixer {
    lanes: [u64; 4],
    /// Bytes that do not fill a word yet, the first lowest.
    word: u64,
    len: u64,
}

/// 2^64 divided by the golden ratio, odd: its multiples spread.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

impl Mixer {
    fn of(what: &[u8], parts: &[&[u8]]) -> Self {
        let mut mixer = Self { lanes: [1, 2, 3, 4], word: 0, len: 0 };
        mixer.absorb(what);
        parts.iter().for_each(|part| mixer.absorb(part));
        mixer
    }

    fn absorb(&mut self, mut bytes: &[u8]) {
        while !self.len.is_multiple_of(8)
            && let Some((first, rest)) = bytes.split_first()
        {
            self.push(*first);
            bytes = rest;
        }
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
            self.len += 8;
        }
        rest.iter().for_each(|byte| self.push(*byte));
    }

    fn push(&mut self, byte: u8) {
        self.word |= u64::from(byte) << (8 * (self.len % 8));
        self.len += 1;
        if self.len.is_multiple_of(8) {
            let word = core::mem::take(&mut self.word);
            self.mix(word);
        }
    }

    fn mix(&mut self, word: u64) {
        let [a, b, c, d] = self.lanes;
        let fed = (a ^ word).wrapping_mul(SPREAD).rotate_left(29);
        self.lanes = [b ^ fed, c.wrapping_add(fed), d ^ fed.rotate_left(17), fed];
    }

    /// 32 bytes of whatever was absorbed; as many different ones as there are numbers.
    fn finish(&self, number: u64) -> [u8; 32] {
        let mut end = self.clone();
        for word in [self.word, self.len, number, 0, 0, 0, 0] {
            end.mix(word);
        }
        let mut out = [0; 32];
        for (bytes, lane) in out.chunks_exact_mut(8).zip(end.lanes) {
            let mut lane = lane ^ (lane >> 32);
            lane = lane.wrapping_mul(SPREAD);
            bytes.copy_from_slice(&(lane ^ (lane >> 29)).to_le_bytes());
        }
        out
    }
}
