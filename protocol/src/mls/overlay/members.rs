//! The members of a past epoch, which OpenMLS keeps in full so that a late message can be verified: credential and both
//! keys of each. Most of them are in the present tree as they were then, so only those that are not are stored.

use std::collections::BTreeMap;

use openmls::prelude::Member;
use openmls::treesync::TreeSync;

use crate::mls::encode;
use crate::mls::public::outside::Reader;

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

/// The members of an encoded tree, encoded.
pub(super) fn of_tree(tree: &[u8]) -> Option<Exceptions> {
    let (tree, _): (TreeSync, _) = postcard::take_from_bytes(tree).ok()?;
    let members = tree.full_leaves().map(|(leaf, node)| {
        let key = encode(node.encryption_key()).ok()?;
        let member = Member::new(
            leaf,
            Reader::new(&key).vector()?.to_vec(),
            node.signature_key().as_slice().to_vec(),
            node.credential().clone(),
        );
        Some((leaf.u32(), postcard::to_extend(&member, Vec::new()).ok()?))
    });
    members.collect()
}
