//! What breaks, what is mended, and the calm after it.

use core::time::Duration;

use qpc_protocol::error::StoreFaultKind;
use qpc_protocol::io::Links;
use qpc_protocol::limits::REJOIN_TIME;

use super::Play;
use crate::scenario::Step;
use crate::world::{CREDIT, Clock, Damage, Moment, Side};

/// Once faults stop, the world comes to rest within this time: a device comes back to a group at most once an hour, and
/// may have done so just before; the rest is backoff and retries.
const REST: Duration = Duration::from_secs(2 * REJOIN_TIME.as_secs());

/// What a link takes ahead of a slow reader, in bytes.
const SLOW: usize = 300;

impl Play<'_> {
    pub(super) fn fault(&mut self, step: Step) -> bool {
        match step.of_device() {
            Some(device) => self.of_device(self.device(device), step),
            None => self.of_server(step),
        }
    }

    fn of_server(&mut self, step: Step) -> bool {
        let up = self.world.server.is_some();
        match step {
            Step::Kill {} if up => self.world.kill_server(),
            Step::KillAt { batch, moment } if up => {
                self.world.storage.crash_in = Some(batch.into());
                self.world.storage.crash_moment = Some(Moment::ALL[usize::from(moment) % 3]);
            }
            Step::Serve {} if !up => self.world.start_server(),
            Step::PartServer { seconds } => {
                self.world.part_server(Duration::from_secs(seconds.into()));
            }
            Step::HealServer {} => return self.world.heal_server(),
            Step::ServerDiskFails { how } => self.world.storage.fail = Some(disk_fault(how)),
            Step::ServerDisk { full } => return self.fill_server_disk(full == 1),
            Step::ServerSlowDisk { ms } => self.world.storage.latency = millis(ms),
            Step::ServerClock { hours, back } => self.world.server_clock = skewed(hours, back),
            Step::ServerClockRight {} => {
                return core::mem::take(&mut self.world.server_clock) != Clock::default();
            }
            _ => return false,
        }
        true
    }

    fn of_device(&mut self, index: usize, step: Step) -> bool {
        let on = self.is_on(index);
        let is_thief = self.thieves().contains(&index);
        let wall = self.world.now.wall;
        let device = &mut self.world.devices[index];
        match step {
            Step::Crash { .. } if on => self.world.crash(index),
            Step::CrashAt { batch, moment, .. } if on => {
                device.crash_in = Some(batch.into());
                device.crash_moment = Moment::ALL[usize::from(moment) % 3];
            }
            Step::Start { .. } if !on && !is_thief => self.start(index),
            Step::Cut { .. } => self.world.cut(index),
            Step::Away { .. } => {
                device.connect = false;
                self.world.cut(index);
            }
            Step::Back { .. } => return !core::mem::replace(&mut device.connect, true),
            Step::CutAfter { up, after, .. } => {
                device.ends_in[usize::from(up % 2)] = Some(after.into());
            }
            Step::HalfOpen { end, .. } => {
                let blind = if end == 0 { Side::Device } else { Side::Server };
                self.world.half_open(index, blind);
            }
            Step::Part { .. } => self.world.part(index),
            Step::Heal { .. } => return self.world.heal(index),
            Step::Latency { ms, .. } => device.latency = millis(ms),
            Step::Jitter { ms, .. } => device.jitter = millis(ms),
            Step::SlowReader { fast, .. } => {
                device.credit = if fast == 1 { CREDIT } else { SLOW };
            }
            Step::Transport { many, .. } => {
                device.links = if many == 1 { Links::Many } else { Links::One };
            }
            Step::SlowDisk { ms, .. } => device.disk_latency = millis(ms),
            Step::DiskFails { how, .. } if on => {
                device.fail_disk = Some(disk_fault(how));
            }
            Step::Damage { part, .. } if !is_thief => return self.damage(index, part),
            Step::Backup { .. } => {
                self.backups[index] = Some(device.disk.clone());
                self.oracle.borrow_mut().backed_up(index);
            }
            Step::Restore { .. } => {
                let Some(copy) = self.backups[index].clone() else { return false };
                self.world.crash(index);
                self.oracle.borrow_mut().put_back(index, &copy);
                self.world.devices[index].disk = copy;
                self.start(index);
            }
            Step::Clock { hours, back, .. } => device.clock = skewed(hours, back),
            Step::ClockStops { .. } => device.clock.stands = Some(wall),
            Step::ClockRight { .. } => {
                return core::mem::take(&mut device.clock) != Clock::default();
            }
            _ => return false,
        }
        true
    }

    /// Damages a record of a device that goes off, and switches it on.
    fn damage(&mut self, device: usize, part: u16) -> bool {
        self.world.crash(device);
        let whole = self.world.devices[device].disk.clone();
        let torn = match part % 3 {
            0 => self.world.damage(device, b"d/c/", Damage::Cut),
            1 => self.world.damage(device, b"g/", Damage::Cut),
            _ => {
                self.world.devices[device].fail_load = Some(StoreFaultKind::Corrupt);
                None
            }
        };
        self.oracle.borrow_mut().started(device);
        let begun = self.world.try_start(device).is_ok();
        if let Some(key) = &torn {
            self.oracle.borrow_mut().torn(device, key, begun);
        }
        if !begun {
            self.world.devices[device].disk = whole;
            self.start(device);
        }
        torn.is_some() || part % 3 == 2
    }

    /// Switches a device on that is off, or whose machine has stopped.
    fn start(&mut self, device: usize) {
        if self.world.devices[device].client.is_some() {
            self.world.crash(device);
        }
        self.oracle.borrow_mut().started(device);
        self.world.start(device);
    }

    fn fill_server_disk(&mut self, full: bool) -> bool {
        let was = core::mem::replace(&mut self.world.server_disk_full, full);
        if was && !full {
            self.oracle.borrow_mut().server_has_room();
        }
        was != full
    }

    /// Ends all faults.
    fn mend(&mut self) {
        self.be_honest();
        self.fill_server_disk(false);
        self.world.heal_server();
        self.world.server_clock = Clock::default();
        self.world.storage.latency = Duration::ZERO;
        self.world.storage.crash_in = None;
        self.world.storage.fail = None;
        if self.world.server.is_none() {
            self.world.start_server();
        }
        for index in 0..self.thieves().start {
            let device = &mut self.world.devices[index];
            device.connect = true;
            device.ends_in = [None, None];
            device.crash_in = None;
            device.fail_disk = None;
            device.fail_load = None;
            device.clock = Clock::default();
            device.latency = millis(self.scenario.setting.latency);
            device.jitter = Duration::ZERO;
            device.credit = CREDIT;
            device.disk_latency = Duration::ZERO;
            self.world.heal(index);
            if !self.is_on(index) {
                self.start(index);
            }
            let now = self.world.now_of(index);
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
            for device in 0..self.thieves().start {
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

fn disk_fault(how: u16) -> StoreFaultKind {
    if how == 0 { StoreFaultKind::Full } else { StoreFaultKind::Io }
}

fn millis(ms: u16) -> Duration {
    Duration::from_millis(ms.into())
}

/// A calendar that is so many hours ahead, or back.
fn skewed(hours: u16, back: u16) -> Clock {
    let ahead = i64::from(hours) * 3_600_000;
    Clock { ahead: if back == 1 { -ahead } else { ahead }, stands: None }
}
