//! Key packages: stored checked, claimed once.

use bytes::Bytes;

use super::Server;
use super::connection::{Call, Peer};
use super::job::ServerJob;
use super::stored::{Step, Task};
use crate::error::ErrorCode;
use crate::id::{AccountId, DeviceId, Sender};
use crate::limits;
use crate::mls::MlsError;
use crate::mls::key_package::CheckedKeyPackage;
use crate::mls::suite::Suite;
use crate::server::audit::AuditKind;
use crate::server::op::{KeyPackageRow, StoreOp, StoreReply};
use crate::wire::message::Reply;

impl Server {
    pub(super) fn key_package_upload(
        &mut self,
        call: Call,
        mut packages: Vec<Bytes>,
        last_resort: Option<Bytes>,
    ) {
        let Some(peer) = self.peer(call.conn) else { return };
        if packages.len() > limits::KEY_PACKAGES_PER_DEVICE {
            return self.fail(call, ErrorCode::KeyPackageQuota);
        }
        let too_long = |package: &Bytes| package.len() > limits::KEY_PACKAGE_BYTES;
        if packages.iter().chain(&last_resort).any(too_long) {
            return self.fail(call, ErrorCode::KeyPackageInvalid);
        }
        let has_last_resort = last_resort.is_some();
        packages.extend(last_resort);
        let backend = self.config.backend;
        let job = ServerJob::KeyPackages { backend, packages, wall: self.now.wall };
        let task = Task::KeyPackageUpload(call, peer, has_last_resort);
        if !self.compute(task, job) {
            self.too_busy(call);
        }
    }

    pub(super) fn key_packages_checked(
        &mut self,
        call: Call,
        peer: Peer,
        has_last_resort: bool,
        checked: Result<Vec<(CheckedKeyPackage, Bytes)>, MlsError>,
    ) {
        let checked = match checked {
            Ok(checked) => checked,
            Err(MlsError::Suite) => return self.upload_refused(call, ErrorCode::SuiteNotAllowed),
            Err(_) => return self.upload_refused(call, ErrorCode::KeyPackageInvalid),
        };
        let ordinary = checked.len() - usize::from(has_last_resort);
        let mut rows = Vec::with_capacity(checked.len());
        for (index, (package, bytes)) in checked.into_iter().enumerate() {
            let record = &package.record;
            if record.sender() != peer.sender
                || record.device_key != peer.device_key
                || package.last_resort != (index >= ordinary)
            {
                return self.upload_refused(call, ErrorCode::KeyPackageInvalid);
            }
            if !self.config.suites.contains(&package.suite) {
                return self.upload_refused(call, ErrorCode::SuiteNotAllowed);
            }
            let CheckedKeyPackage { hash, suite, expires, .. } = package;
            rows.push(KeyPackageRow { hash, suite, expires, package: bytes });
        }
        let last_resort = if has_last_resort { rows.pop() } else { None };
        let op = StoreOp::PutKeyPackages {
            sender: peer.sender,
            packages: rows,
            last_resort,
            most: limits::KEY_PACKAGES_PER_DEVICE as u32,
            at: self.now.wall,
        };
        self.store(Step::KeyPackageUpload(call), op);
    }

    fn upload_refused(&mut self, call: Call, code: ErrorCode) {
        self.audit(AuditKind::KeyPackageUpload, Some(call.conn), None, Some(code));
        self.fail(call, code);
    }

    pub(super) fn key_packages_stored(&mut self, call: Call, reply: StoreReply) {
        if !matches!(reply, StoreReply::KeyPackages { .. }) {
            return self.refusal(call, Some(AuditKind::KeyPackageUpload), None, &reply);
        }
        self.audit(AuditKind::KeyPackageUpload, Some(call.conn), None, None);
        self.plain(call, reply);
    }

    pub(super) fn key_package_fetch(
        &mut self,
        call: Call,
        sender: Sender,
        account: AccountId,
        suite: Suite,
        device: Option<DeviceId>,
    ) {
        if !self.config.suites.contains(&suite) {
            return self.fail(call, ErrorCode::SuiteNotAllowed);
        }
        if !self.admit_claim(call, sender.account, account) {
            return;
        }
        let op = StoreOp::ClaimKeyPackages { account, suite, device, at: self.now.wall };
        self.store(Step::KeyPackageClaim(call, account, suite), op);
    }

    pub(super) fn key_packages_claimed(
        &mut self,
        call: Call,
        account: AccountId,
        suite: Suite,
        reply: StoreReply,
    ) {
        let StoreReply::Claimed(claimed) = reply else {
            return self.refusal(call, Some(AuditKind::KeyPackageFetch), None, &reply);
        };
        let none = claimed.iter().all(|claim| claim.package.is_none());
        let error = none.then_some(ErrorCode::NoKeyPackage);
        self.audit(AuditKind::KeyPackageFetch, Some(call.conn), None, error);
        for claim in &claimed {
            let sender = Sender { account, device: claim.device };
            // Only who is here can be told; who comes later counts for itself.
            if self.sessions.contains_key(&sender) {
                // Plenty of another suite is no help to who wants this one.
                let at = self.now.wall;
                let op = StoreOp::CountKeyPackages { sender, suite: Some(suite), at };
                self.store(Step::KeyPackageLow(sender, suite), op);
            }
        }
        if none {
            return self.fail(call, ErrorCode::NoKeyPackage);
        }
        self.reply(call, Reply::ClaimedKeyPackages(claimed));
    }

    pub(super) fn key_packages_counted(
        &mut self,
        sender: Sender,
        suite: Suite,
        reply: &StoreReply,
    ) {
        let StoreReply::KeyPackages { available, .. } = *reply else { return };
        let low = match suite {
            Suite::Hybrid => limits::KEY_PACKAGES_LOW,
            Suite::Classical => limits::KEY_PACKAGES_LOW / limits::CLASSICAL_SHARE,
        };
        if available as usize >= low {
            return;
        }
        let conns: Vec<_> = self.sessions.get(&sender).into_iter().flatten().copied().collect();
        for conn in conns {
            let Some(connection) = self.conns.get_mut(&conn) else { continue };
            connection.low = Some(connection.low.map_or(available, |low| low.min(available)));
            if let Some(link) = connection.push_link {
                self.make_ready(link);
            }
        }
    }
}
