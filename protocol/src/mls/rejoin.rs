//! Coming back into a group that this device is still a member of, but cannot follow any more: an external commit
//! (RFC 9420 §12.4.3.2) that replaces its own leaf.
//!
//! What it starts from comes from the server, so it is held to what this device knows: the group's id, suite and epoch,
//! and that the GroupInfo is signed by somebody who was in the group before. OpenMLS merges an external commit at
//! once; it is made over records of its own, which take the place of the old ones only when the log shows the commit.

use std::collections::BTreeSet;

use openmls::group::MlsGroup;
use openmls::messages::group_info::VerifiableGroupInfo;
use openmls::prelude::{LeafNodeParameters, MlsMessageBodyIn, OpenMlsProvider as _, RatchetTreeIn};
use tls_codec::Deserialize as _;

use super::group::{Bundle, Group, LocalDevice, MEMBER_FROM, Meta, READS_FROM};
use super::overlay::{Overlay, tree_in};
use super::provider::Provider;
use super::public::outside::{self, Expected};
use super::rules::{self, invalid};
use super::suite::Suite;
use super::{Context, MlsError, encode, join, parse, signer};
use crate::id::{AccountId, GroupId, Sender};
use crate::limits;
use crate::store::batch::Records;
use crate::store::record;

/// What a GroupInfo has to come up to.
#[derive(Clone, Copy, Debug)]
pub struct Floor<'a> {
    /// The group.
    pub id: GroupId,
    /// Its suite, which never changes.
    pub suite: Suite,
    /// The lowest epoch that it can be in.
    pub epoch: u64,
    /// Accounts that were in the group when this device last followed it: one of them has signed the GroupInfo. Else
    /// whoever holds a key package of this device could make a group of the same id around it. `None`: it never has,
    /// and anybody may have added it.
    pub known: Option<&'a BTreeSet<AccountId>>,
}

/// The suite of a GroupInfo; `None` if it is none of ours.
pub fn suite_of(group_info: &[u8]) -> Option<Suite> {
    match parse(group_info).ok()? {
        MlsMessageBodyIn::GroupInfo(info) => Suite::from_number(u16::from(info.ciphersuite())),
        _ => None,
    }
}

/// The devices in a stored group, from its tree alone: the other records may be damaged. `None` if this one is too.
pub fn devices(records: Records) -> Option<Vec<Sender>> {
    let tree = tree_in(records)?;
    tree.full_leaves().map(|(_, leaf)| Some(rules::record_in(leaf).ok()?.sender())).collect()
}

impl Group {
    /// The group as it is after an external commit that replaces this device's leaf, and that commit, without a
    /// welcome. Nothing is changed anywhere: the group lives on records of its own.
    ///
    /// Errors: [`MlsError::WrongGroup`], [`MlsError::Suite`] and [`MlsError::PastEpoch`] for a GroupInfo that does not
    /// come up to the floor; [`MlsError::NotMember`] if no leaf has this device's key; [`MlsError::Record`] for a
    /// leaf whose record does not hold; else [`MlsError::Invalid`].
    pub fn rejoin(
        cx: Context<'_>,
        device: &LocalDevice,
        group_info: &[u8],
        tree: &[u8],
        floor: &Floor<'_>,
    ) -> Result<(Self, Bundle), MlsError> {
        device.check(cx.backend)?;
        let MlsMessageBodyIn::GroupInfo(info) = parse(group_info)? else {
            return Err(invalid("not a GroupInfo"));
        };
        floor.check(&info)?;
        let (signed_by, context) = signer_of(group_info, &info)?;
        let (epoch, tree) = (info.epoch().as_u64(), read_tree(tree)?);
        let own_key = device.key.public();
        let own_leaf = tree.leaves().find(|leaf| leaf.signature_key().as_slice() == own_key);
        let replaced = encode(own_leaf.ok_or(MlsError::NotMember)?.encryption_key())?;
        let overlay = Overlay::default();
        let provider = Provider::new(cx.backend, cx.entropy, &overlay);
        let parameters =
            LeafNodeParameters::builder().with_capabilities(rules::capabilities()).build();
        let (mls, bundle) = MlsGroup::external_commit_builder()
            .with_ratchet_tree(tree)
            .with_config(join::config())
            .skip_lifetime_validation()
            .build_group(&provider, info, signer::credential(&device.record))
            .map_err(|error| MlsError::Invalid(error.to_string()))?
            .leaf_node_parameters(parameters)
            .load_psks(&overlay)
            .map_err(|error| MlsError::Internal(error.to_string()))?
            .create_group_info(true)
            .build(provider.rand(), provider.crypto(), &device.signer(cx.backend), |_| true)
            .map_err(|error| MlsError::Invalid(error.to_string()))?
            .finalize(&provider)
            .map_err(|error| MlsError::Internal(error.to_string()))?;
        join::check_tree(cx.backend, floor.suite, &mls)?;
        let first_epoch = mls.epoch().as_u64();
        if first_epoch != epoch + 1 {
            return Err(invalid("a GroupInfo of an epoch that has no next one"));
        }
        let meta = Meta { id: floor.id, first_epoch, stale_leaf: false };
        // It was a member before, nobody knows since when.
        overlay.put_raw(MEMBER_FROM, record::encode(&0_u64));
        let mut group = Self::assemble(cx.backend, overlay, mls, meta)?;
        group.replaced = Some(replaced);
        group.check_signer(signed_by, device, floor, group_info, &context)?;
        group.save_meta();
        group.overlay.settle();
        let (commit, _, group_info) = bundle.into_messages();
        let group_info = group_info.ok_or_else(|| MlsError::Internal("no GroupInfo".to_owned()))?;
        let (commit, group_info) = (encode(&commit)?, encode(&group_info)?);
        Ok((group, Bundle { commit, welcome: None, group_info }))
    }

    /// Keeps reading what was sent before this device came back: takes over the keys of `old`, the same group as it was
    /// up to the external commit, as those of past epochs. Nothing is changed if `old` is another group, or was in an
    /// earlier epoch than the one before.
    ///
    /// Error: [`MlsError::Damaged`], and nothing is changed either.
    pub fn keep_past(&mut self, old: &Self) -> Result<(), MlsError> {
        let before = self.epoch() == self.meta.first_epoch && old.epoch() + 1 == self.epoch();
        if old.id() != self.id() || !before || !old.mls.is_active() {
            return Ok(());
        }
        self.step(|group| {
            let members: Vec<_> = old.mls.members().collect();
            let id = group.mls.group_id();
            let kept = group.overlay.keep_past(&old.overlay, id, old.epoch(), &members);
            if kept.map_err(|error| MlsError::Damaged(error.to_string()))? {
                group.overlay.put_raw(READS_FROM, record::encode(&old.reads_from));
                group.overlay.put_raw(MEMBER_FROM, record::encode(&old.member_from));
                group.reload()?;
            }
            Ok(())
        })
    }

    /// Every record as it stands, to be stored in the place of others.
    pub fn records(&self) -> Records {
        self.overlay.records()
    }

    /// Who signed the GroupInfo was in the group when this device followed it, and the GroupInfo is as members make it.
    fn check_signer(
        &self,
        leaf: u32,
        device: &LocalDevice,
        floor: &Floor<'_>,
        group_info: &[u8],
        context: &[u8],
    ) -> Result<(), MlsError> {
        // The own leaf is another by now; all others are where they were.
        let signer = self.records.get(&leaf).filter(|_| leaf != self.own_leaf());
        let record = signer.unwrap_or(&device.record);
        if floor.known.is_some_and(|known| !known.contains(&record.account)) {
            return Err(invalid("a GroupInfo of a stranger"));
        }
        let key = &record.device_key;
        let expected = Expected { suite: floor.suite, context, tag: None, signer: leaf, key };
        outside::check_group_info(self.backend, group_info, &expected)
    }
}

impl Floor<'_> {
    fn check(&self, info: &VerifiableGroupInfo) -> Result<(), MlsError> {
        if info.group_id().as_slice() != self.id.as_bytes() {
            return Err(MlsError::WrongGroup);
        }
        if info.ciphersuite() != self.suite.ciphersuite() {
            return Err(MlsError::Suite);
        }
        if info.epoch().as_u64() < self.epoch {
            return Err(MlsError::PastEpoch);
        }
        // OpenMLS counts on from here.
        if info.epoch().as_u64() == u64::MAX {
            return Err(invalid("a GroupInfo of an epoch that has no next one"));
        }
        Ok(())
    }
}

/// The leaf that a GroupInfo says signed it, and the encoded GroupContext in it.
fn signer_of(message: &[u8], info: &VerifiableGroupInfo) -> Result<(u32, Vec<u8>), MlsError> {
    let context = encode(info.group_context())?;
    let signer = outside::group_info_signer(message, &context);
    signer.map(|signer| (signer, context)).ok_or_else(|| invalid("malformed GroupInfo"))
}

fn read_tree(tree: &[u8]) -> Result<RatchetTreeIn, MlsError> {
    if tree.len() > limits::TREE_BYTES {
        return Err(invalid("tree too long"));
    }
    RatchetTreeIn::tls_deserialize_exact(tree).map_err(|error| MlsError::Invalid(error.to_string()))
}
