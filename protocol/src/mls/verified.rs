//! Signatures verified ahead of OpenMLS, which verifies one after the other: those of the leaves of a tree that a
//! joiner is handed, and of the key packages of a commit that adds many.
//!
//! What is read here from bytes decides nothing: a signature that is not found, or not where it was looked for, OpenMLS
//! verifies itself.

use std::collections::BTreeSet;

use tls_codec::{Serialize as _, VLByteSlice};

use super::parallel::{self, MANY};
use super::path;
use super::public::outside::{Reader, read_framing};
use crate::crypto::Backend;
use crate::id::Digest;
use crate::limits;

/// Signatures that hold, each by the hash of key, signature and message in full.
#[derive(Debug, Default)]
pub(super) struct Verified(BTreeSet<Digest>);

/// A signature to be verified.
#[derive(Debug)]
struct Claim<'a> {
    public: &'a [u8],
    /// What it is about (RFC 9420 §5.1.2).
    label: &'static [u8],
    content: &'a [u8],
    /// What MLS appends to the content.
    context: Vec<u8>,
    signature: &'a [u8],
}

const LEAF: &[u8] = b"MLS 1.0 LeafNodeTBS";
const PACKAGE: &[u8] = b"MLS 1.0 KeyPackageTBS";

impl Verified {
    /// Those that hold of the leaves of an encoded tree (RFC 9420 §7.8).
    pub(super) fn of_tree(backend: Backend, group: &[u8], tree: &[u8]) -> Self {
        let mut claims = Vec::new();
        // Where the tree is malformed, reading ends.
        let _ = read_tree(tree, group, &mut claims);
        Self::among(backend, &claims)
    }

    /// Those that hold of the key packages that a commit adds.
    pub(super) fn of_commit(backend: Backend, message: &[u8]) -> Self {
        let mut claims = Vec::new();
        let _ = read_commit(message, &mut claims);
        Self::among(backend, &claims)
    }

    /// Whether this signature was found to hold.
    pub(super) fn holds(&self, public: &[u8], message: &[u8], signature: &[u8]) -> bool {
        !self.0.is_empty() && self.0.contains(&name(public, message, signature))
    }

    fn among(backend: Backend, claims: &[Claim<'_>]) -> Self {
        if claims.len() < MANY {
            return Self::default();
        }
        let most = claims.len().min(2 * limits::MEMBERS);
        let verified = parallel::each(&claims[..most], |claim| claim.verify(backend));
        Self(verified.into_iter().flatten().collect())
    }
}

impl Claim<'_> {
    /// Its name, if it holds.
    fn verify(&self, backend: Backend) -> Option<Digest> {
        let public = self.public.try_into().ok()?;
        let signature = self.signature.try_into().ok()?;
        let message = self.message()?;
        backend.ed25519_verify(public, &message, signature).ok()?;
        Some(name(public, &message, signature))
    }

    /// SignContent (RFC 9420 §5.1.2).
    fn message(&self) -> Option<Vec<u8>> {
        let content = [self.content, &self.context].concat();
        let mut message = VLByteSlice(self.label).tls_serialize_detached().ok()?;
        message.extend(VLByteSlice(&content).tls_serialize_detached().ok()?);
        Some(message)
    }
}

/// Key and signature have a fixed length wherever one has been verified, so no two signatures have one name.
fn name(public: &[u8], message: &[u8], signature: &[u8]) -> Digest {
    Digest::of(&[public, signature, message])
}

/// The bytes that `read` passes.
fn passed<'a>(
    reader: &mut Reader<'a>,
    read: impl FnOnce(&mut Reader<'a>) -> Option<()>,
) -> Option<&'a [u8]> {
    let before = reader.rest();
    read(reader)?;
    before.get(..before.len() - reader.rest().len())
}

fn read_tree<'a>(tree: &'a [u8], group: &[u8], claims: &mut Vec<Claim<'a>>) -> Option<()> {
    let mut nodes = Reader::new(Reader::new(tree).vector()?);
    let mut index = 0_u32;
    while !nodes.is_empty() {
        match (nodes.u8()?, index % 2) {
            (0, _) => {}
            (1, 0) => {
                if nodes.u8()? != 1 {
                    return None;
                }
                read_leaf(&mut nodes, group, index / 2, claims)?;
            }
            (1, _) => {
                let (_type, _key, _parent_hash) = (nodes.u8()?, nodes.vector()?, nodes.vector()?);
                let _unmerged_leaves = nodes.vector()?;
            }
            _ => return None,
        }
        index = index.checked_add(1)?;
    }
    Some(())
}

/// A LeafNode (RFC 9420 §7.2); one that is not from a key package is signed for its place.
fn read_leaf<'a>(
    reader: &mut Reader<'a>,
    group: &[u8],
    place: u32,
    claims: &mut Vec<Claim<'a>>,
) -> Option<()> {
    let leaf = passed(reader, |reader| path::read_leaf(reader).map(drop))?;
    let mut fields = Reader::new(leaf);
    let (_encryption_key, public) = (fields.vector()?, fields.vector()?);
    let signature = leaf.len().checked_sub(SIGNATURE)?;
    let (content, signature) = leaf.split_at(signature);
    let signature = Reader::new(signature).vector()?;
    let mut context = Vec::new();
    if !from_key_package(leaf)? {
        context = VLByteSlice(group).tls_serialize_detached().ok()?;
        context.extend_from_slice(&place.to_be_bytes());
    }
    claims.push(Claim { public, label: LEAF, content, context, signature });
    Some(())
}

/// An Ed25519 signature with its length in front, in bytes.
const SIGNATURE: usize = 2 + 64;

fn from_key_package(leaf: &[u8]) -> Option<bool> {
    let mut reader = Reader::new(leaf);
    let (_encryption_key, _signature_key) = (reader.vector()?, reader.vector()?);
    let (_credential, _identity) = (reader.u16()?, reader.vector()?);
    for _capabilities in 0..5 {
        reader.vector()?;
    }
    Some(reader.u8()? == 1)
}

fn read_commit<'a>(message: &'a [u8], claims: &mut Vec<Claim<'a>>) -> Option<()> {
    let mut reader = Reader::new(message);
    read_framing(&mut reader)?;
    let mut proposals = Reader::new(reader.vector()?);
    while !proposals.is_empty() {
        // ProposalOrRef (RFC 9420 §12.4), then the proposal's type.
        match (proposals.u8()?, proposals.u16()?) {
            (1, 1) => read_package(&mut proposals, claims)?,
            (1, 3) => drop(proposals.take(4)?),
            (1, 7) => drop(proposals.vector()?),
            _ => return None,
        }
    }
    Some(())
}

/// A KeyPackage (RFC 9420 §10).
fn read_package<'a>(reader: &mut Reader<'a>, claims: &mut Vec<Claim<'a>>) -> Option<()> {
    let mut public = None;
    let content = passed(reader, |reader| {
        let (_version, _suite, _init_key) = (reader.u16()?, reader.u16()?, reader.vector()?);
        read_leaf(reader, &[], 0, claims)?;
        public = claims.last().map(|claim| claim.public);
        reader.vector().map(drop)
    })?;
    let signature = reader.vector()?;
    claims.push(Claim { public: public?, label: PACKAGE, content, context: Vec::new(), signature });
    Some(())
}

#[cfg(test)]
impl Verified {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What would be here of a tree if every signature in it held.
    pub(super) fn if_all_held(group: &[u8], tree: &[u8]) -> Self {
        let mut claims = Vec::new();
        read_tree(tree, group, &mut claims);
        let name = |claim: &Claim<'_>| Some(name(claim.public, &claim.message()?, claim.signature));
        Self(claims.iter().filter_map(name).collect())
    }
}
