//! Devices with their disks: what is not taken as operations is lost when a device restarts.

use std::collections::BTreeMap;

use crate::crypto::identity::{AccountKey, DeviceKey, DeviceRecord};
use crate::crypto::{Backend, portable};
use crate::env::{Entropy, UnixMillis};
use crate::id::{AccountId, DeviceId, Digest, GroupId, Sender};
use crate::mls::data::GroupData;
use crate::mls::group::{Bundle, Change, Founding, Group, LocalDevice, NewGroup, Plan, Received};
use crate::mls::key_package::KeyPackages;
use crate::mls::public::PublicState;
use crate::mls::suite::Suite;
use crate::mls::{Context, MlsError};
use crate::server::op::Member as ServerMember;
use crate::store::batch::{Op, Records};

pub(super) const GROUP: GroupId = GroupId([7; 32]);
pub(super) const START: UnixMillis = UnixMillis(1_800_000_000_000);

/// Records on a disk.
#[derive(Clone, Default)]
pub(super) struct Disk(pub(super) BTreeMap<Vec<u8>, Vec<u8>>);

impl Disk {
    pub(super) fn apply(&mut self, ops: Vec<Op>) {
        for op in ops {
            match op {
                Op::Put(key, value) => drop(self.0.insert(key, value)),
                Op::Delete(key) => drop(self.0.remove(&key)),
                Op::DeletePrefix(prefix) => self.0.retain(|key, _| !key.starts_with(&prefix)),
            }
        }
    }

    pub(super) fn records(&self) -> Records {
        self.0.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

/// A device, its key packages, and its group once it has one.
pub(super) struct Device {
    pub(super) backend: Backend,
    pub(super) entropy: Entropy,
    pub(super) wall: UnixMillis,
    pub(super) account: AccountKey,
    pub(super) local: LocalDevice,
    pub(super) packages: KeyPackages,
    pub(super) package_disk: Disk,
    pub(super) group: Option<Group>,
    pub(super) disk: Disk,
}

impl Device {
    /// The first device of an account, all drawn from one number.
    pub(super) fn new(seed: u8) -> Self {
        Self::with_backend(portable(), seed)
    }

    pub(super) fn with_backend(backend: Backend, seed: u8) -> Self {
        Self::from_entropy(backend, Entropy::from_seed([seed; 32]))
    }

    pub(super) fn from_entropy(backend: Backend, mut entropy: Entropy) -> Self {
        let account = AccountKey::generate(backend, &mut entropy);
        Self::of_account(backend, entropy, account)
    }

    /// Another device of the same account.
    pub(super) fn sibling(&self, seed: u8) -> Self {
        Self::of_account(self.backend, Entropy::from_seed([seed; 32]), self.account.clone())
    }

    fn of_account(backend: Backend, mut entropy: Entropy, account: AccountKey) -> Self {
        let device = DeviceId(entropy.array());
        let key = DeviceKey::generate(backend, &mut entropy);
        let record = DeviceRecord::sign(backend, &account, device, key.public(), 1, START);
        Self {
            backend,
            entropy,
            wall: START,
            account,
            local: LocalDevice::new(key, record),
            packages: KeyPackages::restore(Vec::new()).unwrap(),
            package_disk: Disk::default(),
            group: None,
            disk: Disk::default(),
        }
    }

    pub(super) fn sender(&self) -> Sender {
        self.local.record.sender()
    }

    pub(super) fn account_id(&self) -> AccountId {
        self.account.account()
    }

    pub(super) fn group(&self) -> &Group {
        self.group.as_ref().unwrap()
    }

    /// Makes everything durable, then starts again from the disk.
    pub(super) fn restart(&mut self) {
        let taken = self.packages.take_ops();
        self.package_disk.apply(taken);
        self.packages = KeyPackages::restore(self.package_disk.records()).unwrap();
        if let Some(mut group) = self.group.take() {
            self.disk.apply(group.take_ops());
            let (epoch, authenticator) = (group.epoch(), group.authenticator());
            let members = group.members();
            let restored = Group::restore(self.backend, self.disk.records()).unwrap();
            assert_eq!((restored.epoch(), restored.authenticator()), (epoch, authenticator));
            assert_eq!(restored.members(), members);
            self.group = Some(restored);
        }
    }

    /// An operation of the group, with a restart behind it. A failed one must have changed nothing.
    pub(super) fn run<T>(
        &mut self,
        operation: impl FnOnce(&mut Group, Context<'_>, &LocalDevice) -> Result<T, MlsError>,
    ) -> Result<T, MlsError> {
        let group = self.group.as_mut().unwrap();
        self.disk.apply(group.take_ops());
        let state = |group: &Group| {
            let waiting = (group.has_pending(), group.has_proposals());
            (group.epoch(), group.authenticator(), group.members(), group.data().clone(), waiting)
        };
        let before = state(group);
        let cx = Context { backend: self.backend, entropy: &mut self.entropy, wall: self.wall };
        let result = operation(group, cx, &self.local);
        if result.is_err() {
            assert_eq!(group.take_ops(), [], "a failed operation left changes");
            assert_eq!(state(group), before);
        }
        self.restart();
        result
    }

    pub(super) fn package(&mut self, suite: Suite, last_resort: bool) -> Vec<u8> {
        let cx = Context { backend: self.backend, entropy: &mut self.entropy, wall: self.wall };
        let package = self.packages.generate(cx, &self.local, suite, last_resort).unwrap();
        self.restart();
        package
    }

    pub(super) fn found(&mut self, suite: Suite) -> Founding {
        let data = GroupData {
            version: 1,
            admins: vec![self.account_id()],
            open: false,
            metadata: Digest([0; 32]),
        };
        self.found_with(suite, data).unwrap()
    }

    pub(super) fn found_with(
        &mut self,
        suite: Suite,
        data: GroupData,
    ) -> Result<Founding, MlsError> {
        let cx = Context { backend: self.backend, entropy: &mut self.entropy, wall: self.wall };
        let new = NewGroup { id: GROUP, suite, data };
        let (group, founding) = Group::create(cx, &self.local, &new)?;
        self.group = Some(group);
        self.restart();
        Ok(founding)
    }

    pub(super) fn join(&mut self, welcome: &[u8], tree: &[u8]) -> Result<(), MlsError> {
        let cx = Context { backend: self.backend, entropy: &mut self.entropy, wall: self.wall };
        let joined = Group::join(cx, &self.local, &mut self.packages, welcome, tree);
        if joined.is_err() {
            assert_eq!(self.packages.take_ops(), [], "a failed join used a key package up");
        }
        self.group = Some(joined?);
        self.disk = Disk::default();
        self.restart();
        Ok(())
    }

    pub(super) fn send(&mut self, content: &[u8]) -> Result<Vec<u8>, MlsError> {
        self.run(|group, cx, local| group.encrypt(cx, local, content))
    }

    pub(super) fn commit(&mut self, plan: &Plan) -> Result<Bundle, MlsError> {
        self.run(|group, cx, local| group.commit(cx, local, plan))
    }

    pub(super) fn merge(&mut self) -> Change {
        self.run(|group, cx, _| group.merge_pending(cx)).unwrap()
    }

    pub(super) fn receive(&mut self, payload: &[u8]) -> Result<Received, MlsError> {
        self.run(|group, cx, _| group.receive(cx, payload))
    }

    /// Receives content: who sent it, and what.
    pub(super) fn read(&mut self, payload: &[u8]) -> Result<(Sender, Vec<u8>), MlsError> {
        match self.receive(payload)? {
            Received::Application { sender, content, .. } => {
                Ok((sender.sender(), content.to_vec()))
            }
            other => panic!("not content: {other:?}"),
        }
    }

    /// Receives a commit.
    pub(super) fn follow(&mut self, commit: &[u8]) -> Result<Change, MlsError> {
        match self.receive(commit)? {
            Received::Commit(change) => Ok(change),
            other => panic!("not a commit: {other:?}"),
        }
    }
}

/// A plan that adds.
pub(super) fn adding(packages: &[Vec<u8>]) -> Plan {
    Plan { adds: packages.to_vec(), ..Plan::default() }
}

/// A plan that removes.
pub(super) fn removing(devices: &[Sender]) -> Plan {
    Plan { removes: devices.to_vec(), ..Plan::default() }
}

/// A group with a server that follows it.
pub(super) struct World {
    pub(super) suite: Suite,
    pub(super) server: PublicState,
}

impl World {
    /// `devices[0]` founds the group and adds the others in one commit.
    pub(super) fn new(suite: Suite, devices: &mut [Device]) -> Self {
        let (founder, rest) = devices.split_first_mut().unwrap();
        let founding = founder.found(suite);
        let creator =
            ServerMember { sender: founder.sender(), device_key: founder.local.record.device_key };
        let server = PublicState::create(
            founder.backend,
            GROUP,
            &creator,
            &founding.group_info,
            &founding.tree,
        )
        .unwrap();
        let mut world = Self { suite, server };
        if !rest.is_empty() {
            let packages: Vec<_> =
                rest.iter_mut().map(|device| device.package(suite, false)).collect();
            let bundle = founder.commit(&adding(&packages)).unwrap();
            let tree = world.accept(founder, &bundle).unwrap();
            for device in rest {
                device.join(bundle.welcome.as_ref().unwrap(), &tree).unwrap();
            }
        }
        world.agree(&devices.iter().collect::<Vec<_>>());
        world
    }

    /// The server accepts a commit of `by`, which merges it. Gives the new tree.
    pub(super) fn accept(&mut self, by: &mut Device, bundle: &Bundle) -> Result<Vec<u8>, MlsError> {
        let welcome = bundle.welcome.as_deref();
        self.server.commit(by.sender(), &bundle.commit, welcome, &bundle.group_info)?;
        by.merge();
        self.server.tree()
    }

    /// A commit of `devices[by]` that the server accepts and all the others follow.
    pub(super) fn turn(&mut self, devices: &mut [Device], by: usize, plan: &Plan) -> Bundle {
        let bundle = devices[by].commit(plan).unwrap();
        self.accept(&mut devices[by], &bundle).unwrap();
        for (index, device) in devices.iter_mut().enumerate() {
            if index != by {
                device.follow(&bundle.commit).unwrap();
            }
        }
        bundle
    }

    /// The same, but that `gone` does not hear of it.
    pub(super) fn turn_without(
        &mut self,
        devices: &mut [Device],
        gone: usize,
        by: usize,
        plan: &Plan,
    ) -> Bundle {
        let bundle = devices[by].commit(plan).unwrap();
        self.accept(&mut devices[by], &bundle).unwrap();
        for (index, device) in devices.iter_mut().enumerate() {
            if index != by && index != gone {
                device.follow(&bundle.commit).unwrap();
            }
        }
        bundle
    }

    /// All are in the same epoch with the same authenticator, and the server sees the same members.
    pub(super) fn agree(&self, devices: &[&Device]) {
        let first = devices[0].group();
        for device in devices {
            let group = device.group();
            assert_eq!(group.epoch(), first.epoch());
            assert_eq!(group.authenticator(), first.authenticator());
            assert_eq!(group.members(), first.members());
            assert_eq!(group.suite(), self.suite);
        }
        assert_eq!(self.server.epoch(), first.epoch());
        let seen = first.members().into_iter().map(|member| member.record.sender());
        let known = self.server.members().into_iter().map(|member| member.sender);
        assert!(seen.eq(known));
    }
}

impl World {
    /// Why the server refuses a commit.
    pub(super) fn accept_error(&mut self, by: &Device, bundle: &Bundle) -> MlsError {
        let welcome = bundle.welcome.as_deref();
        self.server.commit(by.sender(), &bundle.commit, welcome, &bundle.group_info).unwrap_err()
    }
}
