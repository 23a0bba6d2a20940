//! Accounts: registration, lookup, deletion.

use core::time::Duration;

use bytes::Bytes;

use super::Server;
use super::connection::Call;
use super::job::{RegisterError, ServerJob};
use super::stored::{Step, Task};
use super::timers::Timer;
use crate::auth::device::{deletion_statement, registration_statement};
use crate::auth::opaque::OpaqueError;
use crate::error::ErrorCode;
use crate::id::{AccountId, DeviceId, Sender};
use crate::limits;
use crate::server::audit::AuditKind;
use crate::server::op::{AccountRow, StoreOp, StoreReply};
use crate::wire::message::{Body, Reply, Username};

/// An account to be made, once its upload and proof are checked.
#[derive(Debug)]
pub(super) struct Registration {
    username: Username,
    account: AccountId,
    sealed_account_key: Bytes,
}

impl Server {
    pub(super) fn register_start(&mut self, call: Call, username: Username, request: Bytes) {
        if self.nonce(call).is_none() || !self.admit_registration(call) {
            return;
        }
        if let Some(connection) = self.conns.get_mut(&call.conn) {
            connection.registering = Some(username.clone());
        }
        let job = ServerJob::RegisterStart { opaque: self.opaque.clone(), username, request };
        if !self.compute(Task::RegisterStart(call), job) {
            self.too_busy(call);
        }
    }

    pub(super) fn register_started(&mut self, call: Call, result: Result<Bytes, OpaqueError>) {
        match result {
            Ok(response) => self.reply(call, Reply::RegisterStart { response }),
            Err(_) => self.fail(call, ErrorCode::BadRequest),
        }
    }

    pub(super) fn register_finish(
        &mut self,
        call: Call,
        username: Username,
        upload: &Bytes,
        account: AccountId,
        sealed_account_key: Bytes,
        proof: &[u8; 64],
    ) {
        let Some(nonce) = self.nonce(call) else { return };
        // The budget was spent on the first step: no second without it.
        let begun = self.conns.get_mut(&call.conn).and_then(|c| c.registering.take());
        if begun.as_ref() != Some(&username) {
            return self.fail_with(call, ErrorCode::BadRequest, "no registration under way");
        }
        if sealed_account_key.len() > limits::SEALED_KEY_BYTES {
            return self.fail(call, ErrorCode::BadRequest);
        }
        let job = ServerJob::RegisterFinish {
            backend: self.config.backend,
            upload: upload.clone(),
            account: account.0,
            statement: registration_statement(&nonce, self.id(), account, &username),
            proof: *proof,
        };
        let registration = Registration { username, account, sealed_account_key };
        if !self.compute(Task::RegisterFinish(call, Box::new(registration)), job) {
            self.too_busy(call);
        }
    }

    pub(super) fn register_checked(
        &mut self,
        call: Call,
        registration: Registration,
        result: Result<Bytes, RegisterError>,
    ) {
        let Registration { username, account, sealed_account_key } = registration;
        let opaque_record = match result {
            Ok(record) => record,
            Err(why) => {
                let code = match why {
                    RegisterError::Upload => ErrorCode::BadRequest,
                    RegisterError::Proof => ErrorCode::ProofInvalid,
                };
                self.audit_as(AuditKind::Register, Some(account), None, None, Some(code));
                return self.fail(call, code);
            }
        };
        let created = self.now.wall;
        let row = AccountRow { username, account, opaque_record, sealed_account_key, created };
        self.store(Step::RegisterFinish(call, account), StoreOp::CreateAccount(row));
    }

    pub(super) fn registered(&mut self, call: Call, account: AccountId, reply: StoreReply) {
        let error = match reply {
            StoreReply::Refused { code, .. } => Some(code),
            _ => None,
        };
        self.audit_as(AuditKind::Register, Some(account), None, None, error);
        self.plain(call, reply);
    }

    pub(super) fn lookup(&mut self, call: Call, sender: Sender, username: Username) {
        if !self.admit_lookup(call, sender.account) {
            return;
        }
        let floor = self.now.mono + limits::LOOKUP_TIME;
        let op = StoreOp::FindAccount { username: username.clone() };
        self.store(Step::Lookup(call, username, floor), op);
    }

    pub(super) fn looked_up(
        &mut self,
        call: Call,
        username: Username,
        floor: Duration,
        reply: StoreReply,
    ) {
        let body = match reply {
            StoreReply::Account(Some(row)) => {
                Body::Reply(Reply::Account { username, account: row.account })
            }
            StoreReply::Account(None) => Body::Failure(ErrorCode::AccountUnknown.into()),
            _ => return self.unavailable(call),
        };
        if self.now.mono >= floor {
            return self.answer(call, body);
        }
        self.floored.insert(call, body);
        self.timers.set(floor, Timer::Floor(call));
    }

    pub(super) fn account_delete(&mut self, call: Call, sender: Sender, proof: &[u8; 64]) {
        let Some(nonce) = self.nonce(call) else { return };
        let account = sender.account;
        let statement = deletion_statement(&nonce, self.id(), account, sender.device);
        if self.config.backend.ed25519_verify(&account.0, &statement, proof).is_err() {
            let error = Some(ErrorCode::ProofInvalid);
            self.audit(AuditKind::AccountDelete, Some(call.conn), None, error);
            return self.fail(call, ErrorCode::ProofInvalid);
        }
        let op = StoreOp::DeleteAccount { account, at: self.now.wall };
        self.store(Step::AccountDelete(call, account), op);
    }

    pub(super) fn account_deleted(&mut self, call: Call, account: AccountId, reply: StoreReply) {
        if reply != StoreReply::Done {
            return self.refusal(call, Some(AuditKind::AccountDelete), None, &reply);
        }
        self.audit(AuditKind::AccountDelete, Some(call.conn), None, None);
        let first = Sender { account, device: DeviceId([0; 16]) };
        let last = Sender { account, device: DeviceId([255; 16]) };
        let devices: Vec<_> = self.sessions.range(first..=last).map(|(s, _)| *s).collect();
        for sender in devices {
            self.end_sessions(sender, Some(call.conn));
        }
        self.close_session(call.conn);
        self.reply(call, Reply::Done);
    }
}
