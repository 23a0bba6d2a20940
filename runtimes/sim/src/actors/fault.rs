//! What breaks, what is mended, and the calm after it.

use core::time::Duration;

use qpc_protocol::error::StoreFaultKind;
use qpc_protocol::limits::REJOIN_TIME;

use super::Play;
use crate::scenario::Step;

/// Once faults stop, the world comes to rest within this time: a device comes back to a group at most once an hour, and
/// may have done so just before; the rest is backoff and retries.
const REST: Duration = Duration::from_secs(2 * REJOIN_TIME.as_secs());

impl Play<'_> {
    pub(super) fn fault(&mut self, step: Step) -> bool {
        match step {
            Step::Kill {} => {
                let up = self.world.server.is_some();
                if up {
                    self.world.kill_server();
                }
                return up;
            }
            Step::Serve {} => {
                let down = self.world.server.is_none();
                if down {
                    self.world.start_server();
                }
                return down;
            }
            Step::ServerDisk { full } => {
                let was = core::mem::replace(&mut self.world.server_disk_full, full == 1);
                return was != (full == 1);
            }
            _ => {}
        }
        let (Step::Crash { device }
        | Step::CrashAt { device, .. }
        | Step::Start { device }
        | Step::Cut { device }
        | Step::Away { device }
        | Step::Back { device }
        | Step::Latency { device, .. }
        | Step::DiskFails { device, .. }
        | Step::Backup { device }
        | Step::Restore { device }) = step
        else {
            return false;
        };
        let device = self.device(device);
        self.of_device(device, step)
    }

    fn of_device(&mut self, device: usize, step: Step) -> bool {
        let on = self.is_on(device);
        match step {
            Step::Crash { .. } if on => self.world.crash(device),
            Step::CrashAt { batch, .. } if on => {
                self.world.devices[device].crash_in = Some(batch.into());
            }
            Step::Start { .. } if !on => self.start(device),
            Step::Cut { .. } => self.world.cut(device),
            Step::Away { .. } => {
                self.world.devices[device].connect = false;
                self.world.cut(device);
            }
            Step::Back { .. } => self.world.devices[device].connect = true,
            Step::Latency { ms, .. } => {
                self.world.devices[device].latency = Duration::from_millis(ms.into());
            }
            Step::DiskFails { how, .. } if on => {
                let kind = if how == 0 { StoreFaultKind::Full } else { StoreFaultKind::Io };
                self.world.devices[device].fail_disk = Some(kind);
            }
            Step::Backup { .. } => {
                self.backups[device] = Some(self.world.devices[device].disk.clone());
            }
            Step::Restore { .. } => {
                let Some(copy) = self.backups[device].clone() else { return false };
                self.world.crash(device);
                self.oracle.borrow_mut().put_back(device, &copy);
                self.world.devices[device].disk = copy;
                self.start(device);
            }
            _ => return false,
        }
        true
    }

    /// Switches a device on that is off, or whose machine has stopped.
    fn start(&mut self, device: usize) {
        if self.world.devices[device].client.is_some() {
            self.world.crash(device);
        }
        self.oracle.borrow_mut().started(device);
        self.world.start(device);
    }

    /// Ends all faults.
    fn mend(&mut self) {
        self.be_honest();
        self.world.server_disk_full = false;
        if self.world.server.is_none() {
            self.world.start_server();
        }
        for index in 0..self.world.devices.len() {
            let device = &mut self.world.devices[index];
            device.connect = true;
            device.crash_in = None;
            device.fail_disk = None;
            if !self.is_on(index) {
                self.start(index);
            }
            let now = self.world.now;
            self.world.client(index).connect(now);
        }
    }

    /// All faults end, and the world comes to rest; then everything is checked.
    pub(super) fn calm(&mut self) {
        self.mend();
        let end = self.world.now.mono + REST;
        let mut span = Duration::from_secs(1);
        let mut quiet = 0;
        while quiet < 2 {
            self.world.pass(span);
            for device in 0..self.world.devices.len() {
                if self.oracle.borrow().is_logged_out(device) {
                    self.log_in(device);
                }
                self.world.devices[device].events.clear();
            }
            if !self.oracle.borrow().failures.is_empty() {
                return;
            }
            let unsettled = self.oracle.borrow().unsettled(&self.world);
            quiet = if unsettled.is_none() { quiet + 1 } else { 0 };
            if self.world.now.mono > end {
                return self.oracle.borrow_mut().unsettled_for_good(unsettled);
            }
            span = if quiet > 0 { Duration::from_secs(2) } else { (span * 2).min(REST / 60) };
        }
        self.oracle.borrow_mut().rest(&self.world);
    }
}
