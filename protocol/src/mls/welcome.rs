//! A welcome by its outside (RFC 9420 §12.4.3.1): who is welcomed is readable without any key, and each of them has a
//! secret of its own in it. So a server can give every joiner a welcome with its own secret alone, of the same size
//! however many join.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::MlsError;
use super::public::outside::{MLS10, Reader, write_vector};
use super::rules::invalid;
use super::suite::Suite;
use crate::limits::WELCOME_SECRET_BYTES;

const WELCOME: u16 = 3;
/// What encryption adds to a GroupInfo: the tag of AES-128-GCM, with either suite.
const SEAL_BYTES: usize = 16;

/// The parts of an MLSMessage with a Welcome, borrowed from it.
#[derive(Debug)]
pub(super) struct WelcomeOutside<'a> {
    suite: u16,
    /// EncryptedGroupSecrets by KeyPackageRef.
    secrets: BTreeMap<&'a [u8], &'a [u8]>,
    group_info: &'a [u8],
}

impl<'a> WelcomeOutside<'a> {
    /// Reads a welcome to its last byte. Error: [`MlsError::Invalid`]: malformed, two secrets for one key package,
    /// a secret longer than [`WELCOME_SECRET_BYTES`].
    pub(super) fn read(message: &'a [u8]) -> Result<Self, MlsError> {
        read(&mut Reader::new(message)).ok_or_else(|| invalid("not a Welcome that holds"))
    }

    /// Checks that it is of that suite, for exactly these key packages, and that its GroupInfo has no room for more
    /// than the one (an MLSMessage) that was made with it: it is going to be kept once for each of them.
    ///
    /// Errors: [`MlsError::Suite`], [`MlsError::Invalid`].
    pub(super) fn check<'r>(
        &self,
        suite: Suite,
        references: impl ExactSizeIterator<Item = &'r [u8]>,
        group_info: &[u8],
    ) -> Result<(), MlsError> {
        if self.suite != u16::from(suite.ciphersuite()) {
            return Err(MlsError::Suite);
        }
        let exactly = references.len() == self.secrets.len();
        let mut references = references;
        if !exactly || !references.all(|reference| self.secrets.contains_key(reference)) {
            return Err(invalid("a welcome for others than are added"));
        }
        if self.group_info.len() > group_info.len() + SEAL_BYTES {
            return Err(invalid("a welcome with more than its GroupInfo"));
        }
        Ok(())
    }

    /// The welcome of one key package alone; `None` if it is for others.
    pub(super) fn cut(&self, reference: &[u8]) -> Option<Bytes> {
        let secret = self.secrets.get(reference)?;
        let mut out = Vec::with_capacity(16 + secret.len() + self.group_info.len());
        for field in [MLS10, WELCOME, self.suite] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        write_vector(&mut out, secret);
        write_vector(&mut out, self.group_info);
        Some(out.into())
    }
}

fn read<'a>(reader: &mut Reader<'a>) -> Option<WelcomeOutside<'a>> {
    if (reader.u16()?, reader.u16()?) != (MLS10, WELCOME) {
        return None;
    }
    let suite = reader.u16()?;
    let mut list = Reader::new(reader.vector()?);
    let mut secrets = BTreeMap::new();
    while !list.is_empty() {
        let before = list.rest();
        let (reference, _kem_output, _ciphertext) =
            (list.vector()?, list.vector()?, list.vector()?);
        let secret = &before[..before.len() - list.rest().len()];
        if secret.len() > WELCOME_SECRET_BYTES || secrets.insert(reference, secret).is_some() {
            return None;
        }
    }
    let group_info = reader.vector()?;
    reader.is_empty().then_some(WelcomeOutside { suite, secrets, group_info })
}
