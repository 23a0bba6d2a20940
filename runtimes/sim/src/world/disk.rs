//! Disks: what becomes durable, when, and what a crash leaves of it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use qpc_protocol::error::StoreFault;
use qpc_protocol::io::Input;
use qpc_protocol::store::batch::Batch;

use super::{Device, Idle, Seen, World};

/// A device's records. A copy of it is a backup.
pub type Disk = BTreeMap<Vec<u8>, Vec<u8>>;

/// At which moment of a batch or a transaction a crash comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Nothing of it is durable.
    Before,
    /// It is durable, and its machine was not told.
    During,
    /// Its machine was told, and what waited for it has left.
    After,
}

impl Moment {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Before, Self::During, Self::After];
}

/// How a record is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Its second half is missing.
    Cut,
    /// One bit of its value is another.
    Flip,
    /// It is gone.
    Gone,
}

impl Device {
    /// Whether anything is on its way to the disk.
    pub(crate) fn is_writing(&self) -> bool {
        self.writing.next().is_some()
    }

    /// Its records with all that is on its way to the disk: a read comes behind what came out before it.
    pub(super) fn written(&self) -> Cow<'_, Disk> {
        let mut disk = Cow::Borrowed(&self.disk);
        for batch in self.writing.iter() {
            batch.ops.iter().cloned().for_each(|op| op.apply(disk.to_mut()));
        }
        disk
    }
}

impl World {
    /// A device as it was when the backup was made: switched off, and on again.
    pub fn restore(&mut self, device: usize, backup: Disk) {
        if self.devices[device].client.is_some() {
            self.crash(device);
        }
        self.devices[device].disk = backup;
        self.start(device);
    }

    /// Damages a record of a device that is off: one drawn from those whose key starts so. Returns its key.
    pub fn damage(&mut self, device: usize, prefix: &[u8], how: Damage) -> Option<Vec<u8>> {
        let draw = self.rng.u64() as usize;
        let disk = &mut self.devices[device].disk;
        let keys: Vec<_> = disk.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
        let key = keys.get(draw.checked_rem(keys.len())?)?;
        let value = disk.get_mut(key)?;
        match how {
            Damage::Cut => value.truncate(value.len() / 2),
            Damage::Flip => {
                if let Some(at) = draw.checked_rem(value.len()) {
                    value[at] ^= 1 << (draw % 8);
                }
            }
            Damage::Gone => drop(disk.remove(key)),
        }
        Some(key.clone())
    }

    pub(super) fn persist(&mut self, index: usize, batch: Batch) {
        let now = self.now.mono;
        let device = &mut self.devices[index];
        if device.dying {
            return;
        }
        device.writing.put(now + device.disk_latency, batch);
        self.run_disk(index);
    }

    /// Makes durable what is due.
    pub(super) fn run_disk(&mut self, index: usize) -> Idle {
        let now = self.now.mono;
        let mut worked = false;
        while !self.devices[index].dying
            && let Some(batch) = self.devices[index].writing.take(now)
        {
            worked = true;
            self.write(index, batch);
        }
        Idle { worked, wake_at: self.devices[index].writing.next() }
    }

    fn write(&mut self, index: usize, batch: Batch) {
        let device = &mut self.devices[index];
        if let Some(kind) = device.fail_disk.take() {
            device.writing.clear();
            let fault = StoreFault { kind, detail: "planned".into() };
            return self.to_device(index, Input::Persisted(batch.id, Err(fault)));
        }
        let now = device.crash_in == Some(0);
        device.crash_in = device.crash_in.and_then(|left| left.checked_sub(1));
        let moment = device.crash_moment;
        if now && moment == Moment::Before {
            device.writing.clear();
            return self.crash(index);
        }
        device.batches += 1;
        batch.ops.iter().cloned().for_each(|op| op.apply(&mut device.disk));
        self.watched(&Seen::Persisted(index, &batch));
        if now && moment == Moment::During {
            return self.crash(index);
        }
        self.devices[index].dying |= now;
        self.to_device(index, Input::Persisted(batch.id, Ok(())));
    }

    /// A crash: of what is being written, so much as happened to get there is there.
    pub(super) fn settle_disk(&mut self, index: usize) {
        let device = &mut self.devices[index];
        let under_way = device.writing.drain().collect::<Vec<_>>();
        if under_way.is_empty() {
            return;
        }
        let written = self.rng.u64() as usize % (under_way.len() + 1);
        for batch in under_way.into_iter().take(written) {
            let device = &mut self.devices[index];
            device.batches += 1;
            batch.ops.iter().cloned().for_each(|op| op.apply(&mut device.disk));
            self.watched(&Seen::Persisted(index, &batch));
        }
    }
}
