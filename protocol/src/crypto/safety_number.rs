//! Safety numbers: sixty digits that two people compare to know that no server stands between them.
//!
//! Version 1. Each account has thirty digits of its own: h(0) = SHA-256("qpc-safety-number-v1" || account),
//! h(n) = SHA-256(h(n-1) || account) for n up to 1,024; the first thirty bytes of the last are read as six numbers
//! of five bytes, big endian, each modulo 100,000, printed with five digits. The lower account's digits come first, so
//! both sides print the same. Thirty digits are 99 bits; each step of the iteration makes a search for a second
//! account with the same digits that much dearer.

use core::fmt;

use subtle::ConstantTimeEq as _;
use thiserror::Error;

use super::Backend;
use crate::id::AccountId;

const DOMAIN: &[u8; 20] = b"qpc-safety-number-v1";
const ITERATIONS: usize = 1_024;
const GROUPS: usize = 12;

/// Sixty digits, the same whoever asks. `Display` prints twelve groups of five with spaces between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SafetyNumber([u32; GROUPS]);

impl SafetyNumber {
    /// The safety number of two accounts; takes under a millisecond.
    pub fn of(backend: Backend, one: AccountId, other: AccountId) -> Self {
        let (low, high) = if one <= other { (one, other) } else { (other, one) };
        let mut groups = [0; GROUPS];
        groups[..GROUPS / 2].copy_from_slice(&digits(backend, low));
        groups[GROUPS / 2..].copy_from_slice(&digits(backend, high));
        Self(groups)
    }

    /// The twelve groups, each below 100,000.
    pub fn groups(&self) -> [u32; GROUPS] {
        self.0
    }
}

impl fmt::Display for SafetyNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, group) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{group:05}")?;
        }
        Ok(())
    }
}

/// Length of what a QR code holds, in bytes.
pub const QR_BYTES: usize = 1 + 32 + 32;
const QR_VERSION: u8 = 1;

/// What a QR code shows in place of the digits: version (1) = 1 || lower account (32) || higher account (32). Both
/// sides show the same, so either may scan.
pub fn qr(ours: AccountId, theirs: AccountId) -> [u8; QR_BYTES] {
    let (low, high) = if ours <= theirs { (ours, theirs) } else { (theirs, ours) };
    let mut out = [QR_VERSION; QR_BYTES];
    out[1..33].copy_from_slice(&low.0);
    out[33..].copy_from_slice(&high.0);
    out
}

/// Why a scanned code does not verify anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ScanError {
    /// Of another version, or something else altogether.
    #[error("not a safety number's code of a version that is known here")]
    Unknown,
    /// Of two other accounts: somebody may stand in between.
    #[error("the code is that of other accounts")]
    Different,
}

/// Compares what was scanned from the other's screen with what stands on ours, in constant time.
///
/// # Errors
/// [`ScanError`]; `Ok` is the same as sixty equal digits.
pub fn compare(ours: AccountId, theirs: AccountId, scanned: &[u8]) -> Result<(), ScanError> {
    if scanned.len() != QR_BYTES || scanned.first() != Some(&QR_VERSION) {
        return Err(ScanError::Unknown);
    }
    let same = bool::from(qr(ours, theirs).ct_eq(scanned));
    if same { Ok(()) } else { Err(ScanError::Different) }
}

fn digits(backend: Backend, account: AccountId) -> [u32; GROUPS / 2] {
    let mut hash = backend.sha256(&[DOMAIN, &account.0]);
    for _ in 0..ITERATIONS {
        hash = backend.sha256(&[&hash, &account.0]);
    }
    let mut groups = [0; GROUPS / 2];
    for (group, bytes) in groups.iter_mut().zip(hash.chunks_exact(5)) {
        let number = bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        // Below 100,000, so it fits.
        *group = (number % 100_000) as u32;
    }
    groups
}

#[cfg(test)]
mod tests;
