//! Key packages: kept in store on the server, so that others can add this device while it is away.

use core::time::Duration;

use super::Client;
use super::directory::{self, PackagePlan};
use super::event::{Event, Failed, Outcome};
use super::load::Reading;
use super::net::Call;
use crate::env::UnixMillis;
use crate::io::{LoadId, Ticket};
use crate::limits::{CLASSICAL_SHARE, KEY_PACKAGE_TIME, KEY_PACKAGES_WANTED, LAST_RESORT_TIME};
use crate::mls::Context;
use crate::mls::key_package::KeyPackages;
use crate::mls::suite::Suite;
use crate::store::batch::Records;
use crate::wire::message::{Failure, Request};

/// Pause before the server is asked again about key packages.
pub(super) const PACKAGES_RETRY: Duration = Duration::from_secs(10);

/// The private halves of this device's key packages.
pub(super) enum Packages {
    Cold,
    Loading(LoadId),
    Warm(Box<KeyPackages>),
}

// Stored records are secrets.
impl core::fmt::Debug for Packages {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Cold => f.write_str("Cold"),
            Self::Loading(read) => write!(f, "Loading({read:?})"),
            Self::Warm(packages) => write!(f, "Warm({packages:?})"),
        }
    }
}

impl Packages {
    pub(super) fn warm(&mut self) -> Option<&mut KeyPackages> {
        match self {
            Self::Warm(packages) => Some(packages),
            _ => None,
        }
    }
}

impl Client {
    /// A session began: are there enough?
    pub(super) fn begin_packages(&mut self) {
        self.packages_retry = None;
        self.call(Call::PackageStatus, Request::KeyPackageStatus);
    }

    /// Reads the private halves, if they are not in memory.
    pub(super) fn warm_packages(&mut self) {
        if matches!(self.packages, Packages::Cold) {
            let read = self.read(Reading::Packages, directory::PACKAGE_KEYS.to_vec());
            self.packages = Packages::Loading(read);
        }
    }

    pub(super) fn on_package_records(&mut self, read: LoadId, records: Records) {
        if !matches!(self.packages, Packages::Loading(awaited) if awaited == read) {
            return;
        }
        match KeyPackages::restore(self.config.backend, records) {
            Ok(packages) => self.packages = Packages::Warm(Box::new(packages)),
            Err(error) => return self.damaged("key packages", &error.to_string()),
        }
        self.replenish();
        let inboxes: Vec<_> =
            self.channels.iter().filter(|(_, c)| c.inbox).map(|(id, _)| *id).collect();
        for inbox in inboxes {
            self.try_join(inbox);
        }
    }

    /// The server says how many it has. If so many are gone that it may be all of the suite with the fewest, others
    /// take their place, and that of the last-resort one too: it may have been handed out.
    pub(super) fn on_package_status(&mut self, available: u32, last_resort: bool) {
        const FEWEST: usize = KEY_PACKAGES_WANTED / (CLASSICAL_SHARE + 1);
        let low = available as usize + FEWEST <= KEY_PACKAGES_WANTED;
        // Wanted while there was no session: by somebody, or for another key of this device.
        let asked = !self.package_tickets.is_empty() || self.wanted_packages.is_some();
        if low || asked || !last_resort || self.packages_due() <= self.now.wall {
            self.make_packages(last_resort && !low);
        } else {
            self.greet();
        }
    }

    /// Somebody took one, and there are few left of its suite; after the last, the last-resort one is next.
    pub(super) fn on_packages_low(&mut self, available: u32) {
        self.make_packages(available > 0);
    }

    fn make_packages(&mut self, keep_last_resort: bool) {
        let keep_before = self.wanted_packages.unwrap_or(true);
        self.wanted_packages = Some(keep_last_resort && keep_before);
        self.warm_packages();
        self.replenish();
    }

    /// A login is complete: others can add this device.
    pub(super) fn greet(&mut self) {
        if let Some((ticket, outcome)) = self.greeting.take() {
            self.event(Event::Done(ticket, outcome));
        }
    }

    /// When key packages have to be replaced: well before they end.
    pub(super) fn packages_due(&self) -> UnixMillis {
        let fresh = KEY_PACKAGE_TIME.saturating_sub(Duration::from_secs(4 * 60 * 60));
        self.plan.issued.plus(fresh)
    }

    /// Makes and uploads key packages, if that is wanted and their private halves are in memory.
    pub(super) fn replenish(&mut self) {
        let Some(keep_last_resort) = self.wanted_packages else { return };
        let online = self.phase() == Some(super::session::Phase::Online);
        let device = self.identity.as_ref().and_then(|identity| identity.local());
        let (Some(device), true) = (device, online) else { return };
        let mut entropy = self.entropy.fork();
        let (backend, wall) = (self.config.backend, self.now.wall);
        let age = wall.since(self.plan.last_resort_issued);
        let renew = !keep_last_resort || age >= LAST_RESORT_TIME / 2;
        let Some(packages) = self.packages.warm() else { return };
        self.wanted_packages = None;
        let mut make = |suite, last_resort| {
            let cx = Context { backend, entropy: &mut entropy, wall };
            packages.generate(cx, &device, suite, last_resort)
        };
        let mut made = Vec::new();
        for number in 0..KEY_PACKAGES_WANTED {
            let classical = number % (CLASSICAL_SHARE + 1) == CLASSICAL_SHARE;
            let suite = if classical { Suite::Classical } else { Suite::Hybrid };
            match make(suite, false) {
                Ok(package) => made.push(package.into()),
                Err(error) => return self.damaged("key packages", &error.to_string()),
            }
        }
        let last_resort = if renew { make(Suite::Hybrid, true).ok() } else { None };
        packages.sweep(wall);
        self.plan.issued = wall;
        if last_resort.is_some() {
            self.plan.last_resort_issued = wall;
        }
        self.gate.stage(directory::put(directory::PACKAGES.to_vec(), &self.plan));
        self.stage_packages();
        let last_resort = last_resort.map(Into::into);
        self.call(Call::PackageUpload, Request::KeyPackageUpload { packages: made, last_resort });
    }

    /// Stages what changed in the private halves.
    pub(super) fn stage_packages(&mut self) {
        if let Some(packages) = self.packages.warm() {
            let ops = packages.take_ops();
            self.gate.stage_all(directory::under(directory::PACKAGE_KEYS, ops));
        }
    }

    /// The server could not say or take them: asked again after a while.
    pub(super) fn on_packages_refused(&mut self, failure: &Failure) {
        if failure.is_transient() {
            self.packages_retry = Some(self.now.mono + PACKAGES_RETRY);
        } else {
            self.packages_retry = None;
            // Asked again when the time has come, or with the next session.
            self.plan.issued = self.plan.issued.max(self.now.wall);
        }
        for ticket in core::mem::take(&mut self.package_tickets) {
            self.event(Event::Failed(ticket, Failed::from(failure)));
        }
        // The account is there all the same.
        self.greet();
    }

    /// Uploaded: those who asked for it are told.
    pub(super) fn on_uploaded(&mut self, available: u32, last_resort: bool) {
        for ticket in core::mem::take(&mut self.package_tickets) {
            self.event(Event::Done(ticket, Outcome::KeyPackages { available, last_resort }));
        }
        self.greet();
    }

    /// An upload on the application's wish.
    pub(super) fn want_packages(&mut self, ticket: Ticket) {
        self.package_tickets.push(ticket);
        self.wanted_packages = Some(self.plan != PackagePlan::default());
        self.warm_packages();
        self.replenish();
    }
}
