//! The members of a past epoch, which OpenMLS keeps in full so that a late message can be verified: credential and both
//! keys of each. Most of them are in the present tree as they were then, so only those that are not are stored.

use std::collections::BTreeMap;

use openmls::prelude::CredentialType;
use serde::Deserialize;

/// Encoded members by leaf, where they differ from others; nothing for a leaf that nobody had.
pub(super) type Exceptions = BTreeMap<u32, Vec<u8>>;

/// A list of members, encoded one behind the other.
#[derive(Default)]
pub(super) struct Members {
    bytes: Vec<u8>,
    /// The leaf of each, ascending, and where its encoding ends.
    ends: Vec<(u32, usize)>,
}

impl Members {
    /// From the encodings one behind the other, and where each of them ends. `None` if the leaves do not ascend.
    pub(super) fn new(bytes: Vec<u8>, ends: &[usize]) -> Option<Self> {
        let mut start = 0;
        let mut leaves = Vec::with_capacity(ends.len());
        for &end in ends {
            let (leaf, _) = postcard::take_from_bytes(bytes.get(start..end)?).ok()?;
            leaves.push((leaf, end));
            start = end;
        }
        leaves.is_sorted_by(|a, b| a.0 < b.0).then_some(Self { bytes, ends: leaves })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.ends.len()).unwrap_or(u32::MAX)
    }

    fn each(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let starts = core::iter::once(0).chain(self.ends.iter().map(|(_, end)| *end));
        let pairs = self.ends.iter().zip(starts);
        pairs.map(|((leaf, end), start)| (*leaf, &self.bytes[start..*end]))
    }

    fn push(&mut self, leaf: u32, member: &[u8]) {
        self.bytes.extend_from_slice(member);
        self.ends.push((leaf, self.bytes.len()));
    }

    /// Adds the member in a leaf as the tree stores it, in the encoding of these lists. Not one that looks otherwise
    /// than it does in OpenMLS 0.9.2: then the lists have such members in full.
    pub(super) fn push_leaf(&mut self, leaf: u32, stored: &[u8]) {
        let mut number = [0; 5];
        if let Some((encryption_key, signature_key, credential)) = parts_of(stored)
            && let Ok(number) = postcard::to_slice(&leaf, &mut number)
        {
            for part in [number, credential, encryption_key, signature_key] {
                self.bytes.extend_from_slice(part);
            }
            self.ends.push((leaf, self.bytes.len()));
        }
    }

    /// What tells this list from `others`.
    pub(super) fn exceptions(&self, others: &Self) -> Exceptions {
        let mut exceptions = Exceptions::new();
        let mut others = others.each().peekable();
        for (leaf, member) in self.each() {
            while let Some((gone, _)) = others.next_if(|(other, _)| *other < leaf) {
                exceptions.insert(gone, Vec::new());
            }
            if others.next_if(|(other, _)| *other == leaf).is_none_or(|(_, same)| same != member) {
                exceptions.insert(leaf, member.to_vec());
            }
        }
        exceptions.extend(others.map(|(gone, _)| (gone, Vec::new())));
        exceptions
    }

    /// The list that differs from `others` by these exceptions.
    pub(super) fn restore(others: &Self, exceptions: &Exceptions) -> Self {
        let mut list = Self::default();
        let mut exceptions = exceptions.iter().map(|(leaf, member)| (*leaf, member)).peekable();
        let mut except = |list: &mut Self, here: &dyn Fn(u32) -> bool| {
            let mut last = None;
            while let Some((leaf, member)) = exceptions.next_if(|(leaf, _)| here(*leaf)) {
                last = Some(leaf);
                if !member.is_empty() {
                    list.push(leaf, member);
                }
            }
            last
        };
        for (leaf, member) in others.each() {
            if except(&mut list, &|other| other <= leaf) != Some(leaf) {
                list.push(leaf, member);
            }
        }
        except(&mut list, &|_| true);
        list
    }
}

/// Encryption key, signature key and credential in a leaf that is not blank, each as it is encoded.
fn parts_of(stored: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    // Some(LeafNode { payload: { encryption key, signature key, credential, … }, … })
    let fields = stored.strip_prefix(&[1])?;
    let (encryption_key, rest) = first::<&[u8]>(fields)?;
    let (signature_key, rest) = first::<&[u8]>(rest)?;
    let (credential, _) = first::<(CredentialType, &[u8])>(rest)?;
    Some((encryption_key, signature_key, credential))
}

/// The bytes of the value that comes first, and those behind it.
fn first<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (_, rest) = postcard::take_from_bytes::<T>(bytes).ok()?;
    bytes.split_at_checked(bytes.len() - rest.len())
}

#[cfg(test)]
mod tests;
