//! Those who are not honest: a server that lies to a device, and a device that sends the server what it should not.
//! Both change frames on their way; what is dishonest about it is theirs to do, for neither has anybody else's keys.

use core::time::Duration;

use qpc_protocol::wire::message::Frame;

use super::Play;
use super::ways::{OF_MEMBERS, OF_SERVERS, Tale};
use crate::recorder::Forgery;
use crate::scenario::{DEVICES, Step};

struct Lie {
    device: usize,
    up: bool,
    way: usize,
    left: u16,
    tale: Tale,
}

/// All who are dishonest now.
#[derive(Default)]
pub(crate) struct Liars {
    lies: Vec<Lie>,
    /// How often anything was told otherwise.
    told: usize,
    /// How long what was told last is held back.
    late: Duration,
}

impl Liars {
    fn tell(&mut self, device: usize, up: bool, frame: Frame) -> Vec<Frame> {
        self.late = Duration::ZERO;
        let of = self.lies.iter_mut().filter(|lie| lie.device == device && lie.up == up);
        for lie in of.filter(|lie| lie.left > 0) {
            let ways = if up { OF_MEMBERS } else { OF_SERVERS };
            if let Some(told) = (ways[lie.way].change)(&mut lie.tale, &frame) {
                lie.left -= 1;
                self.told += 1;
                self.late = lie.tale.late;
                return told;
            }
        }
        vec![frame]
    }
}

impl Play<'_> {
    pub(super) fn hostile(&mut self, step: Step) -> bool {
        match step {
            Step::Lie { device, way, times } => {
                let way = usize::from(way) % OF_SERVERS.len();
                self.lie(self.device(device), false, way, times);
            }
            Step::Fork { device, devices } => return self.fork(device, devices),
            Step::Misbehave { device, way, times } => {
                let way = usize::from(way) % OF_MEMBERS.len();
                self.lie(self.device(device), true, way, times);
            }
            Step::Flood { device, group, messages } => {
                let device = self.device(device);
                let Some(channel) = self.group(group) else { return false };
                let taken = (0..messages).filter(|_| self.say(device, channel, 1)).count();
                return taken > 0;
            }
            Step::Steal { device } => {
                let device = self.device(device);
                return self.steal(device);
            }
            Step::Forge { device, how } => {
                let device = self.device(device);
                let forgery = if how == 0 { Forgery::Sealed } else { Forgery::Secret };
                self.oracle.borrow_mut().lied(device);
                self.world.devices[device].forgery = Some(forgery);
            }
            Step::Honest {} => return self.be_honest(),
            _ => return false,
        }
        true
    }

    fn lie(&mut self, device: usize, up: bool, way: usize, times: u16) {
        self.oracle.borrow_mut().lied(device);
        let tale = Tale::default();
        self.liars.borrow_mut().lies.push(Lie { device, up, way, left: times, tale });
        let (liars, held) = (self.liars.clone(), self.liars.clone());
        if self.world.liar.is_none() {
            // Whoever changes frames sees them from the first byte of a link.
            (0..self.accounts.len()).for_each(|device| self.world.cut(device));
        }
        self.world.liar =
            Some(Box::new(move |device, up, frame| liars.borrow_mut().tell(device, up, frame)));
        self.world.delayer = Some(Box::new(move |_, _, _| held.borrow().late));
    }

    /// How often anything was told otherwise than it was meant.
    pub(crate) fn lies(&self) -> usize {
        self.liars.borrow().told
    }

    /// The server leads some devices into another history. Whether it does: there is one more at most.
    fn fork(&mut self, first: u16, count: u16) -> bool {
        if self.oracle.borrow().is_forked() {
            return false;
        }
        let mut devices: Vec<_> =
            (0..count).map(|more| self.device(first.saturating_add(more))).collect();
        devices.sort_unstable();
        devices.dedup();
        self.oracle.borrow_mut().forked(&devices);
        self.world.fork(&devices);
        true
    }

    fn steal(&mut self, device: usize) -> bool {
        let nobody = self.oracle.borrow().sender(device).is_none();
        if nobody || self.thieves().contains(&device) || self.thieves().len() >= DEVICES {
            return false;
        }
        let disk = self.world.devices[device].disk.clone();
        let thief = self.add_device(self.accounts[device]);
        self.oracle.borrow_mut().stolen(device);
        self.world.restore(thief, disk);
        true
    }

    /// All lies end, and thieves are caught. Who was lied to begins again with another connection. Returns whether
    /// there was anything to end.
    pub(super) fn be_honest(&mut self) -> bool {
        let lies = core::mem::take(&mut self.liars.borrow_mut().lies);
        self.world.liar = None;
        self.world.delayer = None;
        lies.iter().for_each(|lie| self.world.cut(lie.device));
        let forgers = self.world.devices.iter_mut().filter_map(|device| device.forgery.take());
        let forgers = forgers.count();
        let forked = self.world.join_forks();
        let is_free = |thief: &usize| self.world.devices[*thief].client.is_some();
        let free: Vec<_> = self.thieves().filter(is_free).collect();
        free.iter().for_each(|thief| self.world.crash(*thief));
        !(lies.is_empty() && free.is_empty()) || forgers > 0 || forked
    }
}
