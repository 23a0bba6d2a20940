//! Keys that are taken in a group: no two of its leaves may share one, nor two key packages of a commit
//! (RFC 9420 §7.3, §12.2). OpenMLS refuses a commit as a whole for that, without a word on whose it is.

use std::collections::BTreeSet;

use openmls::prelude::{KeyPackage, Member};

use super::public::outside::Reader;
use super::{MlsError, encode};

/// The public keys of a key package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageKeys {
    /// That others encrypt to: of its leaf, and the init key. Between them OpenMLS makes no difference.
    sealing: [Vec<u8>; 2],
    signing: Vec<u8>,
}

impl PackageKeys {
    /// Error: [`MlsError::Internal`].
    pub(super) fn of(package: &KeyPackage) -> Result<Self, MlsError> {
        let leaf = package.leaf_node();
        let encoded = encode(leaf.encryption_key())?;
        let key = Reader::new(&encoded).vector().unwrap_or_default().to_vec();
        let init = package.hpke_init_key().as_slice().to_vec();
        Ok(Self { sealing: [key, init], signing: leaf.signature_key().as_slice().to_vec() })
    }
}

/// Keys that are taken.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    sealing: BTreeSet<Vec<u8>>,
    signing: BTreeSet<Vec<u8>>,
}

impl Taken {
    /// Those of a group's leaves.
    pub(super) fn by(members: impl Iterator<Item = Member>) -> Self {
        let mut taken = Self::default();
        for member in members {
            taken.sealing.insert(member.encryption_key);
            taken.signing.insert(member.signature_key);
        }
        taken
    }

    /// Whether one of a key package's keys is among them.
    pub fn has(&self, keys: &PackageKeys) -> bool {
        self.signing.contains(&keys.signing)
            || keys.sealing.iter().any(|key| self.sealing.contains(key))
    }

    /// Takes those of a key package, too.
    pub fn take(&mut self, keys: &PackageKeys) {
        self.sealing.extend(keys.sealing.iter().cloned());
        self.signing.insert(keys.signing.clone());
    }
}

#[cfg(test)]
mod tests;
