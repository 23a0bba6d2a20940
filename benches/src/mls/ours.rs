//! Ours, by the path of the product: a group over its records, its changes taken as operations after every step.

use core::fmt;
use std::collections::BTreeMap;

use qpc_protocol::crypto::Backend;
use qpc_protocol::crypto::identity::{AccountKey, DeviceKey, DeviceRecord};
use qpc_protocol::env::{Entropy, UnixMillis};
use qpc_protocol::id::{DeviceId, Digest, GroupId};
use qpc_protocol::mls::Context;
use qpc_protocol::mls::data::GroupData;
use qpc_protocol::mls::group::{Group, LocalDevice, NewGroup, Plan, Received};
use qpc_protocol::mls::key_package::KeyPackages;
use qpc_protocol::store::batch::{Op, Records};

use super::{Invitation, Member, Suite};
use crate::Error;

const WALL: UnixMillis = UnixMillis(1_800_000_000_000);
const GROUP: GroupId = GroupId([7; 32]);

/// A device of ours.
pub struct Ours {
    device: Device,
    entropy: Entropy,
    packages: KeyPackages,
    group: Option<Group>,
    disks: Disks,
    written: usize,
}

#[derive(Clone)]
struct Device {
    backend: Backend,
    suite: Suite,
    number: u32,
    local: LocalDevice,
}

/// Records of the key packages, and of the group.
#[derive(Clone, Default)]
struct Disks {
    packages: BTreeMap<Vec<u8>, Vec<u8>>,
    group: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// See [`Member::Saved`].
#[derive(Clone)]
pub struct Saved {
    device: Device,
    disks: Disks,
}

impl Ours {
    /// A group operation as one step of the product: its changes are on the disk before anything goes on.
    fn step<T>(
        &mut self,
        operation: impl FnOnce(
            &mut Group,
            Context<'_>,
            &LocalDevice,
        ) -> Result<T, qpc_protocol::mls::MlsError>,
    ) -> Result<T, Error> {
        let group = self.group.as_mut().ok_or("in no group")?;
        let cx = Context { backend: self.device.backend, entropy: &mut self.entropy, wall: WALL };
        let done = operation(group, cx, &self.device.local)?;
        self.persist();
        Ok(done)
    }

    fn persist(&mut self) {
        self.written += apply(self.packages.take_ops(), &mut self.disks.packages);
        if let Some(group) = &mut self.group {
            self.written += apply(group.take_ops(), &mut self.disks.group);
        }
    }
}

fn apply(ops: Vec<Op>, disk: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> usize {
    let mut written = 0;
    for op in ops {
        written += match &op {
            Op::Put(key, value) => key.len() + value.len(),
            Op::Delete(key) | Op::DeletePrefix(key) => key.len(),
        };
        op.apply(disk);
    }
    written
}

fn records(disk: &BTreeMap<Vec<u8>, Vec<u8>>) -> Records {
    disk.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

impl Member for Ours {
    type Kind = Backend;
    type Saved = Saved;

    fn does(_: &Backend, _: Suite) -> bool {
        true
    }

    fn new(backend: &Backend, suite: Suite, number: u32) -> Result<Self, Error> {
        let backend = *backend;
        let mut entropy = Entropy::from_seed(backend.sha256(&[b"member", &number.to_be_bytes()]));
        let account = AccountKey::generate(backend, &mut entropy);
        let key = DeviceKey::generate(backend, &mut entropy);
        let id = DeviceId(entropy.array());
        let record = DeviceRecord::sign(backend, &account, id, key.public(), 1, WALL);
        let local = LocalDevice::new(key, record);
        // A device verifies its own record once, when it first uses it: not in what is measured.
        let cx = Context { backend, entropy: &mut entropy, wall: WALL };
        KeyPackages::restore(Records::new())?.generate(cx, &local, suite, false)?;
        let device = Device { backend, suite, number, local };
        Self::load(Saved { device, disks: Disks::default() })
    }

    fn key_package(&mut self) -> Result<Vec<u8>, Error> {
        let cx = Context { backend: self.device.backend, entropy: &mut self.entropy, wall: WALL };
        let (local, suite) = (&self.device.local, self.device.suite);
        let package = self.packages.generate(cx, local, suite, false)?;
        self.persist();
        Ok(package)
    }

    fn found(&mut self) -> Result<(), Error> {
        let admins = vec![self.device.local.record.account];
        let data = GroupData { version: 1, admins, open: true, metadata: Digest([0; 32]) };
        let new = NewGroup { id: GROUP, suite: self.device.suite, data };
        let cx = Context { backend: self.device.backend, entropy: &mut self.entropy, wall: WALL };
        let (group, _) = Group::create(cx, &self.device.local, &new)?;
        self.group = Some(group);
        self.persist();
        Ok(())
    }

    fn add(&mut self, packages: &[Vec<u8>]) -> Result<Vec<u8>, Error> {
        let plan = Plan { adds: packages.to_vec(), ..Plan::default() };
        let bundle = self.step(|group, cx, local| group.commit(cx, local, &plan))?;
        self.step(|group, cx, _| group.merge_pending(cx))?;
        Ok(bundle.welcome.ok_or("no welcome")?)
    }

    fn tree(&self) -> Result<Vec<u8>, Error> {
        Ok(self.group.as_ref().ok_or("in no group")?.ratchet_tree()?)
    }

    fn join(&mut self, invitation: &Invitation) -> Result<(), Error> {
        let Invitation { welcome, tree } = invitation;
        let cx = Context { backend: self.device.backend, entropy: &mut self.entropy, wall: WALL };
        let joined = Group::join(cx, &self.device.local, &mut self.packages, welcome, tree)?;
        self.group = Some(joined);
        self.persist();
        Ok(())
    }

    fn update(&mut self) -> Result<Vec<u8>, Error> {
        let plan = Plan::default();
        let bundle = self.step(|group, cx, local| group.commit(cx, local, &plan))?;
        self.step(|group, cx, _| group.merge_pending(cx))?;
        Ok(bundle.commit)
    }

    fn process(&mut self, commit: &[u8]) -> Result<(), Error> {
        match self.step(|group, cx, _| group.receive(cx, commit))? {
            Received::Commit(_) => Ok(()),
            other => Err(format!("{other:?}").into()),
        }
    }

    fn encrypt(&mut self, content: &[u8]) -> Result<Vec<u8>, Error> {
        self.step(|group, cx, local| group.encrypt(cx, local, content))
    }

    fn decrypt(&mut self, message: &[u8]) -> Result<Vec<u8>, Error> {
        match self.step(|group, cx, _| group.receive(cx, message))? {
            Received::Application { content, .. } => Ok(content.to_vec()),
            other => Err(format!("{other:?}").into()),
        }
    }

    fn saved(&self) -> Saved {
        Saved { device: self.device.clone(), disks: self.disks.clone() }
    }

    fn load(saved: Saved) -> Result<Self, Error> {
        let Saved { device, disks } = saved;
        let seed = device.backend.sha256(&[b"operations", &device.number.to_be_bytes()]);
        let packages = KeyPackages::restore(records(&disks.packages))?;
        let group = match disks.group.is_empty() {
            true => None,
            false => Some(Group::restore(device.backend, records(&disks.group))?),
        };
        let entropy = Entropy::from_seed(seed);
        Ok(Self { device, entropy, packages, group, disks, written: 0 })
    }

    fn written(&mut self) -> usize {
        core::mem::take(&mut self.written)
    }

    fn stored(&self) -> usize {
        self.disks.group.iter().map(|(key, value)| key.len() + value.len()).sum()
    }

    fn authenticator(&self) -> Result<Vec<u8>, Error> {
        Ok(self.group.as_ref().ok_or("in no group")?.authenticator())
    }
}

impl fmt::Debug for Ours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ours({}, {:?})", self.device.number, self.group)
    }
}
