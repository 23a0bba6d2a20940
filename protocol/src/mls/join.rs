//! How a group comes to be on a device: founded by it, or joined.

use core::fmt;
use std::collections::BTreeSet;

use openmls::group::{
    GroupId as MlsGroupId, MlsGroup, MlsGroupCreateConfig, MlsGroupJoinConfig, StagedWelcome,
    WelcomeError,
};
use openmls::prelude::{
    Lifetime, MIXED_PLAINTEXT_WIRE_FORMAT_POLICY, MlsMessageBodyIn, OpenMlsProvider as _,
    RatchetTreeIn, SenderRatchetConfiguration,
};
use tls_codec::Deserialize as _;

use super::data::GroupData;
use super::group::{Founding, Group, LocalDevice, Meta, NewGroup};
use super::key_package::KeyPackages;
use super::overlay::Overlay;
use super::provider::Provider;
use super::rules::{self, invalid};
use super::suite::Suite;
use super::verified::Verified;
use super::{Context, MlsError, encode, parallel, parse, signer};
use crate::crypto::Backend;
use crate::id::GroupId;
use crate::limits;

impl Group {
    /// Founds a group with this device as its only member.
    ///
    /// Errors: [`MlsError::Record`]; [`MlsError::Invalid`] for group data that is unsound or that does not allow its
    /// founder to change the group.
    pub fn create(
        cx: Context<'_>,
        device: &LocalDevice,
        new: &NewGroup,
    ) -> Result<(Self, Founding), MlsError> {
        device.check(cx.backend)?;
        if GroupData::decode(&new.data.encode()).as_ref() != Some(&new.data) {
            return Err(invalid("unsound group data"));
        }
        if !new.data.may_change(device.record.account) {
            return Err(invalid("a founder that may not change its group"));
        }
        let config = MlsGroupCreateConfig::builder()
            .ciphersuite(new.suite.ciphersuite())
            .wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
            .max_past_epochs(PAST_EPOCHS)
            .number_of_resumption_psks(0)
            .use_ratchet_tree_extension(false)
            .sender_ratchet_configuration(ratchets())
            .lifetime(Lifetime::init(0, u64::MAX))
            .capabilities(rules::capabilities())
            .with_group_context_extensions(rules::context_extensions(&new.data)?)
            .build();
        let overlay = Overlay::default();
        let signer = device.signer(cx.backend);
        let provider = Provider::new(cx.backend, cx.entropy, &overlay);
        let mls = MlsGroup::new_with_group_id(
            &provider,
            &signer,
            &config,
            MlsGroupId::from_slice(new.id.as_bytes()),
            signer::credential(&device.record),
        )
        .map_err(|error| MlsError::Internal(error.to_string()))?;
        let group_info = mls
            .export_group_info(provider.crypto(), &signer, false)
            .map_err(|error| MlsError::Internal(error.to_string()))?;
        let founding = Founding {
            group_info: encode(&group_info)?,
            tree: encode(&mls.export_ratchet_tree())?,
        };
        let meta = Meta { id: new.id, first_epoch: 0, stale_leaf: false };
        let group = Self::assemble(cx.backend, overlay, mls, meta)?;
        group.save_meta();
        group.overlay.settle();
        Ok((group, founding))
    }

    /// Joins from a welcome and the ratchet tree served beside it. The key package used is removed from
    /// `packages` (a last-resort one stays). The group's id is the caller's to check.
    ///
    /// Errors, after which `packages` are as before: [`MlsError::NotForUs`]; [`MlsError::Suite`];
    /// [`MlsError::Record`] if a leaf's record does not hold, or the own one is of another device; else
    /// [`MlsError::Invalid`].
    pub fn join(
        cx: Context<'_>,
        device: &LocalDevice,
        packages: &mut KeyPackages,
        welcome: &[u8],
        tree: &[u8],
    ) -> Result<Self, MlsError> {
        let joined = Self::join_in_step(cx, device, packages, welcome, tree);
        match joined {
            Ok(_) => packages.overlay.settle(),
            Err(_) => packages.overlay.revert(),
        }
        joined
    }

    fn join_in_step(
        cx: Context<'_>,
        device: &LocalDevice,
        packages: &KeyPackages,
        welcome: &[u8],
        tree: &[u8],
    ) -> Result<Self, MlsError> {
        let MlsMessageBodyIn::Welcome(welcome) = parse(welcome)? else {
            return Err(invalid("not a welcome"));
        };
        let suite = welcome.ciphersuite();
        let suite = Suite::from_number(u16::from(suite)).ok_or(MlsError::Suite)?;
        if tree.len() > limits::TREE_BYTES {
            return Err(invalid("tree too long"));
        }
        let nodes = RatchetTreeIn::tls_deserialize_exact(tree)
            .map_err(|error| MlsError::Invalid(error.to_string()))?;
        let config = config();
        let keys = Provider::new(cx.backend, cx.entropy, &packages.overlay);
        let builder =
            StagedWelcome::build_from_welcome(&keys, &config, welcome).map_err(welcome_error)?;
        let processed = builder.processed_welcome();
        let package = processed.own_key_package().cloned().ok_or(MlsError::NotForUs)?;
        let group = processed.unverified_group_info().group_id().as_slice();
        keys.crypto().know(Verified::of_tree(cx.backend, group, tree));
        keys.crypto().remember_tree(nodes.leaves().count());
        let staged = builder
            .with_ratchet_tree(nodes)
            .skip_lifetime_validation()
            .build()
            .map_err(welcome_error)?;
        // OpenMLS finds our leaf by its signature key alone; with another encryption key it would not be ours to use.
        let own = staged.own_leaf_node().map(|leaf| leaf.encryption_key());
        if own != Some(package.leaf_node().encryption_key()) {
            return Err(invalid("welcome to a leaf of another key package"));
        }
        let adder = staged.welcome_sender().map_err(|_| invalid("welcome of nobody"))?;
        let adder = rules::record_in(adder)?.sender();
        packages.used(&package, cx.backend)?;
        let id = GroupId::from_slice(staged.group_context().group_id().as_slice())
            .ok_or_else(|| invalid("group id of a wrong length"))?;
        let overlay = Overlay::default();
        let mls = staged
            .into_group(&Provider::new(cx.backend, cx.entropy, &overlay))
            .map_err(welcome_error)?;
        check_tree(cx.backend, suite, &mls)?;
        let meta =
            Meta { id, first_epoch: mls.epoch().as_u64(), stale_leaf: package.last_resort() };
        let mut group = Self::assemble(cx.backend, overlay, mls, meta)?;
        group.added_by = Some(adder);
        let own = group.own_record()?;
        if own.sender() != device.record.sender() || own.device_key != device.key.public() {
            return Err(MlsError::Record);
        }
        group.save_meta();
        group.overlay.settle();
        Ok(group)
    }
}

/// As [`limits::PAST_EPOCHS`], in OpenMLS's type.
const PAST_EPOCHS: usize = limits::PAST_EPOCHS as usize;

/// As [`limits::MESSAGES_AHEAD`], in OpenMLS's type.
const MESSAGES_AHEAD: u32 = limits::MESSAGES_AHEAD as u32;

/// A log hands out the messages of a sender in their order, but for those that the server had no room for at first.
/// More than 4,096 messages of one sender in one epoch cannot get lost without a gap in the log. Only members can make
/// a receiver run ahead, at about two hashes a message.
fn ratchets() -> SenderRatchetConfiguration {
    SenderRatchetConfiguration::new(MESSAGES_AHEAD, 4_096)
}

/// How a group is kept by whoever joins it, by whatever way.
pub(super) fn config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
        .max_past_epochs(PAST_EPOCHS)
        .number_of_resumption_psks(0)
        .use_ratchet_tree_extension(false)
        .sender_ratchet_configuration(ratchets())
        .build()
}

/// What a joiner demands of a tree beyond MLS (RFC 9420 §12.4.3.1): every leaf of a verified device, each device once,
/// every key one that can be encrypted to, the context as it has to be.
pub(super) fn check_tree(backend: Backend, suite: Suite, mls: &MlsGroup) -> Result<(), MlsError> {
    rules::check_context(mls.extensions())?;
    let mut devices = BTreeSet::new();
    let leaves: Vec<_> = mls.treesync().full_leaves().collect();
    for record in parallel::each(&leaves, |(_, leaf)| rules::check_leaf(backend, suite, leaf)) {
        if !devices.insert(record?.sender()) {
            return Err(invalid("a device with two leaves"));
        }
    }
    let parents: Vec<_> = mls.treesync().full_parents().collect();
    let checks = parallel::each(&parents, |(_, parent)| rules::check_first_key(suite, *parent));
    checks.into_iter().collect::<Result<(), _>>()?;
    if devices.len() > limits::MEMBERS { Err(invalid("too many members")) } else { Ok(()) }
}

fn welcome_error<E: fmt::Debug + fmt::Display>(error: WelcomeError<E>) -> MlsError {
    match error {
        WelcomeError::NoMatchingKeyPackage | WelcomeError::JoinerSecretNotFound => {
            MlsError::NotForUs
        }
        WelcomeError::UnsupportedCiphersuite(_) => MlsError::Suite,
        WelcomeError::StorageError(error) => MlsError::Damaged(error.to_string()),
        error => MlsError::Invalid(error.to_string()),
    }
}
