//! Key packages: kept in store on the server, so that others can add this device while it is away.

use core::time::Duration;

use bytes::Bytes;

use super::Client;
use super::directory::{self, Issued, PackagePlan, Sweep};
use super::event::{Event, Failed, Outcome};
use super::load::Reading;
use super::net::Call;
use crate::env::UnixMillis;
use crate::error::ErrorCode;
use crate::io::{LoadId, Ticket};
use crate::limits::{CLASSICAL_SHARE, KEY_PACKAGES_WANTED, LAST_RESORT_TIME};
use crate::mls::group::LocalDevice;
use crate::mls::key_package::KeyPackages;
use crate::mls::suite::Suite;
use crate::mls::{Context, MlsError};
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

/// What becomes of a suite's last-resort key package when others are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LastResort {
    Keep,
    Renew,
}

/// How many of a suite are kept on the server.
fn wanted(suite: Suite) -> usize {
    const CLASSICAL: usize = KEY_PACKAGES_WANTED / (CLASSICAL_SHARE + 1);
    match suite {
        Suite::Classical => CLASSICAL,
        Suite::Hybrid => KEY_PACKAGES_WANTED - CLASSICAL,
    }
}

impl Client {
    /// A session began, or somebody took one of the last: are there enough of each suite?
    pub(super) fn begin_packages(&mut self) {
        self.packages_retry = None;
        self.packages_low = false;
        self.packages_taken = None;
        for suite in Suite::ALL {
            let request = Request::KeyPackageStatus { suite: Some(suite) };
            self.call(Call::PackageStatus(suite), request);
        }
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
        let packages = KeyPackages::restore(records);
        let packages = packages.unwrap_or_else(|_| self.lose_packages());
        self.packages = Packages::Warm(Box::new(packages));
        self.sweep_packages();
        self.replenish();
        let inboxes: Vec<_> =
            self.channels.iter().filter(|(_, c)| c.inbox).map(|(id, _)| *id).collect();
        for inbox in inboxes {
            self.try_join(inbox);
        }
        self.try_rejoins();
    }

    /// The server says how many of a suite it has, and whether nobody was given the last-resort one yet. Once a quarter
    /// is gone others take their place; a last-resort one that was handed out is superseded.
    pub(super) fn on_package_status(&mut self, suite: Suite, available: u32, last_resort: bool) {
        let few = (available as usize).saturating_mul(4) <= wanted(suite) * 3;
        let due = self.plan.of(suite).due() <= self.now.wall;
        // Wanted while there was no session: by somebody, or for another key of this device.
        let asked = !self.package_tickets.is_empty() || self.wanted_packages.contains_key(&suite);
        if few || due || asked || !last_resort {
            let spare = if last_resort { LastResort::Keep } else { LastResort::Renew };
            self.want_more(suite, spare);
            self.warm_packages();
            self.replenish();
        } else {
            self.packages_answered();
        }
    }

    /// Somebody took one, and there are few left of its suite. Of which, and whether it was the last-resort one, is
    /// asked once it is answered what was asked before: that may have been counted too early.
    pub(super) fn on_packages_low(&mut self) {
        self.packages_low = true;
        self.packages_answered();
    }

    pub(super) fn want_more(&mut self, suite: Suite, last_resort: LastResort) {
        let wanted = self.wanted_packages.entry(suite).or_insert(last_resort);
        *wanted = last_resort.max(*wanted);
    }

    /// Makes and uploads key packages of every suite, and last-resort ones where there is none or that is wished.
    pub(super) fn make_packages(&mut self, last_resort: LastResort) {
        for suite in Suite::ALL {
            let none = self.plan.of(suite) == Issued::default();
            self.want_more(suite, if none { LastResort::Renew } else { last_resort });
        }
        self.warm_packages();
        self.replenish();
    }

    /// Whether the server was asked about key packages, or given some, and has not answered.
    pub(super) fn asked_for_packages(&self) -> bool {
        let of_packages =
            |call: &Call| matches!(call, Call::PackageStatus(_) | Call::PackageUpload(_));
        let conn = self.net.conn.as_ref();
        conn.is_some_and(|conn| conn.calls.values().any(|pending| of_packages(&pending.what)))
    }

    /// An answer about key packages is here. After the last one those who wait for it are told.
    fn packages_answered(&mut self) {
        if self.asked_for_packages() || !self.wanted_packages.is_empty() {
            return;
        }
        if let Some((available, last_resort)) = self.packages_taken {
            for ticket in core::mem::take(&mut self.package_tickets) {
                self.event(Event::Done(ticket, Outcome::KeyPackages { available, last_resort }));
            }
        }
        self.greet();
        if self.packages_low {
            self.begin_packages();
        }
    }

    /// A login is complete: others can add this device.
    pub(super) fn greet(&mut self) {
        if let Some((ticket, outcome)) = self.greeting.take() {
            self.event(Event::Done(ticket, outcome));
        }
    }

    /// When key packages have to be replaced: well before they end.
    pub(super) fn packages_due(&self) -> UnixMillis {
        Suite::ALL.map(|suite| self.plan.of(suite).due()).into_iter().min().unwrap_or_default()
    }

    /// Makes and uploads key packages, if that is wanted and their private halves are in memory.
    pub(super) fn replenish(&mut self) {
        let online = self.phase() == Some(super::session::Phase::Online);
        let device = self.identity.as_ref().and_then(|identity| identity.local());
        let (Some(device), true) = (device, online) else { return };
        for suite in Suite::ALL {
            if let Err(error) = self.replenish_suite(&device, suite) {
                return self.damaged("key packages", &error.to_string());
            }
        }
    }

    fn replenish_suite(&mut self, device: &LocalDevice, suite: Suite) -> Result<(), MlsError> {
        let Some(packages) = self.packages.warm() else { return Ok(()) };
        let Some(last_resort) = self.wanted_packages.remove(&suite) else { return Ok(()) };
        let mut entropy = self.entropy.fork();
        let (backend, wall) = (self.config.backend, self.now.wall);
        let mut make = |last_resort| {
            let cx = Context { backend, entropy: &mut entropy, wall };
            packages.generate(cx, device, suite, last_resort).map(Bytes::from)
        };
        let made = (0..wanted(suite)).map(|_| make(false)).collect::<Result<_, _>>()?;
        let mut issued = Issued { at: wall, ..self.plan.of(suite) };
        let old = wall.since(issued.last_resort) >= LAST_RESORT_TIME / 2;
        let renew = last_resort == LastResort::Renew || old;
        let last_resort = renew.then(|| make(true)).transpose()?;
        packages.sweep(wall);
        if last_resort.is_some() {
            issued.last_resort = wall;
        }
        self.store_issued(suite, issued);
        self.stage_packages();
        let request = Request::KeyPackageUpload { packages: made, last_resort };
        self.call(Call::PackageUpload(suite), request);
        Ok(())
    }

    fn store_issued(&mut self, suite: Suite, issued: Issued) {
        self.plan.0.insert(suite, issued);
        self.gate.stage(directory::put(directory::PACKAGES.to_vec(), &self.plan));
    }

    /// Stages what changed in the private halves, and when the first of them are to go.
    pub(super) fn stage_packages(&mut self) {
        let Some(packages) = self.packages.warm() else { return };
        let (ops, sweep) = (packages.take_ops(), Sweep { at: packages.sweep_at() });
        self.gate.stage_all(directory::under(directory::PACKAGE_KEYS, ops));
        if self.sweep != Some(sweep) {
            self.sweep = Some(sweep);
            self.gate.stage(directory::put(directory::SWEEP.to_vec(), &sweep));
        }
    }

    /// When private halves are to be deleted, online or not; `None` while they are being read, and if there are none.
    pub(super) fn sweep_due(&self) -> Option<UnixMillis> {
        let reading = matches!(self.packages, Packages::Loading(..));
        self.identity.as_ref().filter(|_| !reading)?;
        // Not stored, or lost: they are looked through, if there are any.
        let unknown = (self.plan != PackagePlan::default()).then(UnixMillis::default);
        self.sweep.map_or(unknown, |sweep| sweep.at)
    }

    /// Deletes private halves whose time is over.
    pub(super) fn sweep_packages(&mut self) {
        if self.sweep_due().is_none_or(|at| at > self.now.wall) {
            return;
        }
        match self.packages.warm() {
            Some(packages) => {
                packages.sweep(self.now.wall);
                self.stage_packages();
            }
            None => self.warm_packages(),
        }
    }

    /// The server could not say or take them: asked again after a while. One that does not allow a suite has those of
    /// the other all the same.
    pub(super) fn on_packages_refused(&mut self, suite: Suite, failure: &Failure) {
        if failure.is_transient() {
            self.packages_retry = Some(self.now.mono + PACKAGES_RETRY);
        } else {
            // Asked again when the time has come, or with the next session.
            let before = self.plan.of(suite);
            let at = before.at.max(self.now.wall);
            self.plan.0.insert(suite, Issued { at, ..before });
        }
        if failure.code != ErrorCode::SuiteNotAllowed {
            for ticket in core::mem::take(&mut self.package_tickets) {
                self.event(Event::Failed(ticket, Failed::from(failure)));
            }
        }
        // The account is there all the same.
        self.packages_answered();
    }

    /// Uploaded.
    pub(super) fn on_uploaded(&mut self, available: u32, last_resort: bool) {
        self.packages_taken = Some((available, last_resort));
        self.packages_answered();
    }

    /// An upload on the application's wish.
    pub(super) fn want_packages(&mut self, ticket: Ticket) {
        self.package_tickets.push(ticket);
        self.make_packages(LastResort::Keep);
    }
}
