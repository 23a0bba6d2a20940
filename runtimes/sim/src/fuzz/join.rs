//! What a device reads to come into a group: a welcome with the tree served beside it, or a GroupInfo to come back by.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use qpc_protocol::crypto::identity::{AccountKey, DeviceKey, DeviceRecord};
use qpc_protocol::env::{Entropy, UnixMillis};
use qpc_protocol::id::{AccountId, ChannelId, DeviceId, Digest, GroupId};
use qpc_protocol::mls::Context;
use qpc_protocol::mls::data::GroupData;
use qpc_protocol::mls::group::{Group, LocalDevice, NewGroup, Plan};
use qpc_protocol::mls::key_package::KeyPackages;
use qpc_protocol::mls::rejoin::Floor;
use qpc_protocol::mls::suite::Suite;

use super::mls::pairs;
use super::script::Script;
use super::stage::{Disk, START};
use crate::insecure;

/// A group of two, and all that the second one came in by.
struct Invitation {
    id: GroupId,
    suite: Suite,
    invited: LocalDevice,
    known: BTreeSet<AccountId>,
    /// Private halves of the key package that the welcome is for.
    packages: Disk,
    welcome: Vec<u8>,
    group_info: Vec<u8>,
    tree: Vec<u8>,
}

fn context(entropy: &mut Entropy) -> Context<'_> {
    Context { backend: insecure::open(), entropy, wall: UnixMillis(START) }
}

fn device(entropy: &mut Entropy) -> LocalDevice {
    let backend = insecure::open();
    let account = AccountKey::generate(backend, entropy);
    let key = DeviceKey::generate(backend, entropy);
    let (id, since) = (DeviceId(entropy.array()), UnixMillis(START));
    let record = DeviceRecord::sign(backend, &account, id, key.public(), 1, since);
    LocalDevice::new(key, record)
}

impl Invitation {
    fn make(suite: Suite) -> Self {
        let mut entropy = Entropy::from_seed([5; 32]);
        let entropy = &mut entropy;
        let [founder, invited] = [device(entropy), device(entropy)];
        let accounts = [founder.record.account, invited.record.account];
        let (admins, metadata) = (vec![founder.record.account], Digest([0; 32]));
        let data = GroupData { version: 0, admins, open: false, metadata };
        let id = GroupId::of(ChannelId([2; 16]), 1);
        let new = NewGroup { id, suite, data };
        let (mut group, _) = Group::create(context(entropy), &founder, &new).expect("sound");
        let mut own = KeyPackages::restore(Vec::new()).expect("empty");
        let package = own.generate(context(entropy), &invited, suite, false).expect("sound");
        let mut packages = Disk::new();
        own.take_ops().into_iter().for_each(|op| op.apply(&mut packages));
        let plan = Plan { adds: vec![package], ..Plan::default() };
        let bundle = group.commit(context(entropy), &founder, &plan).expect("sound");
        group.merge_pending(context(entropy)).expect("pending");
        Self {
            id,
            suite,
            invited,
            known: accounts.into(),
            packages,
            welcome: bundle.welcome.expect("adds one"),
            group_info: bundle.group_info,
            tree: group.ratchet_tree().expect("has one"),
        }
    }
}

/// The bytes: the suite, which way in, and what becomes of the two texts.
pub(super) fn join(data: &[u8]) {
    static MADE: OnceLock<[Invitation; 2]> = OnceLock::new();
    let made = MADE.get_or_init(|| [Suite::Classical, Suite::Hybrid].map(Invitation::make));
    let mut script = Script::new(data);
    let invitation = &made[script.pick(2)];
    let back = script.pick(2) == 1;
    let text = if back { &invitation.group_info } else { &invitation.welcome };
    let (text, tree) = (script.edited(text), script.edited(&invitation.tree));
    let mut entropy = Entropy::from_seed([6; 32]);
    let joined = if back {
        let Invitation { id, suite, known, .. } = invitation;
        let floor = Floor { id: *id, suite: *suite, epoch: 1, known: Some(known) };
        Group::rejoin(context(&mut entropy), &invitation.invited, &text, &tree, &floor)
            .map(|(group, _)| group)
    } else {
        let records = pairs(&invitation.packages);
        let mut packages = KeyPackages::restore(records).expect("sound");
        let cx = context(&mut entropy);
        let joined = Group::join(cx, &invitation.invited, &mut packages, &text, &tree);
        assert!(joined.is_ok() || packages.take_ops().is_empty(), "refused, and a key is gone");
        joined
    };
    // Who came in can go on, and reads what it stored.
    if let Ok(mut group) = joined {
        let mut records = Disk::new();
        group.take_ops().into_iter().for_each(|op| op.apply(&mut records));
        let records = if back { group.records() } else { pairs(&records) };
        let stored = Group::restore(insecure::open(), records).expect("stored by itself");
        assert_eq!(stored.authenticator(), group.authenticator());
        let plan = Plan { update: true, ..Plan::default() };
        let _ = group.commit(context(&mut entropy), &invitation.invited, &plan);
    }
}
