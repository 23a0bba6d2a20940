//! The members of a past epoch, which OpenMLS keeps in full so that a late message can be verified: credential and both
//! keys of each. Most of them are in the present tree as they were then, so only those that are not are stored.

use std::collections::BTreeMap;

use openmls::prelude::Credential;

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

    /// What tells this list from `others`.
    pub(super) fn exceptions(&self, others: &Exceptions) -> Exceptions {
        let mut exceptions: Exceptions = others.keys().map(|leaf| (*leaf, Vec::new())).collect();
        for (leaf, member) in self.each() {
            if others.get(&leaf).is_some_and(|other| other == member) {
                exceptions.remove(&leaf);
            } else {
                exceptions.insert(leaf, member.to_vec());
            }
        }
        exceptions
    }

    /// The list that differs from `others` by these exceptions.
    pub(super) fn restore(others: &Exceptions, exceptions: &Exceptions) -> Self {
        let mut all: BTreeMap<u32, &Vec<u8>> = others.iter().map(|(leaf, m)| (*leaf, m)).collect();
        all.extend(exceptions.iter().map(|(leaf, member)| (*leaf, member)));
        let mut list = Self::default();
        for (leaf, member) in all.into_iter().filter(|(_, member)| !member.is_empty()) {
            list.bytes.extend_from_slice(member);
            list.ends.push((leaf, list.bytes.len()));
        }
        list
    }
}

/// The member in a leaf as the tree stores it, encoded as lists of members have it. `None` for a blank leaf, or for one
/// that looks otherwise than it does in OpenMLS 0.9.2: then the lists have such members in full.
pub(super) fn in_leaf(leaf: u32, stored: &[u8]) -> Option<Vec<u8>> {
    // Some(LeafNode { payload: { encryption key, signature key, credential, … }, … })
    let fields = stored.strip_prefix(&[1])?;
    let (fields, _): ((&[u8], &[u8], Credential), _) = postcard::take_from_bytes(fields).ok()?;
    let (encryption_key, signature_key, credential) = fields;
    let mut member = postcard::to_extend(&(leaf, credential), Vec::new()).ok()?;
    for key in [encryption_key, signature_key] {
        member = postcard::to_extend(&key.len(), member).ok()?;
        member.extend_from_slice(key);
    }
    Some(member)
}
