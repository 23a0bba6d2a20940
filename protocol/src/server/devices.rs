//! The device directory.

use super::Server;
use super::connection::{Auth, Call};
use super::stored::Step;
use crate::crypto::identity::{DeviceRecord, EnvelopeKeys, Revocation};
use crate::error::ErrorCode;
use crate::id::Sender;
use crate::limits;
use crate::server::audit::AuditKind;
use crate::server::op::{StoreOp, StoreReply};
use crate::wire::message::Reply;

impl Server {
    /// `device_key` is the one that the login proved; within a session another one may follow it.
    pub(super) fn device_register(
        &mut self,
        call: Call,
        sender: Sender,
        device_key: Option<[u8; 32]>,
        record: DeviceRecord,
        envelope_keys: EnvelopeKeys,
    ) {
        let backend = self.config.backend;
        let holds = record.sender() == sender
            && device_key.is_none_or(|key| key == record.device_key)
            && record.not_before <= self.now.wall.plus(limits::CLOCK_SKEW)
            && envelope_keys.sender == sender
            && record.verify(backend).is_ok()
            && envelope_keys.verify(backend, &record.device_key).is_ok();
        if !holds {
            let error = Some(ErrorCode::RecordInvalid);
            self.audit(AuditKind::DeviceRegister, Some(call.conn), None, error);
            return self.fail(call, ErrorCode::RecordInvalid);
        }
        let op = StoreOp::PutDevice {
            record: record.clone(),
            envelope_keys,
            most: limits::DEVICES_PER_ACCOUNT as u32,
            at: self.now.wall,
        };
        self.store(Step::DeviceRegister(call, Box::new(record)), op);
    }

    pub(super) fn device_registered(
        &mut self,
        call: Call,
        record: &DeviceRecord,
        reply: StoreReply,
    ) {
        if reply != StoreReply::Done {
            return self.refusal(call, Some(AuditKind::DeviceRegister), None, &reply);
        }
        self.audit(AuditKind::DeviceRegister, Some(call.conn), None, None);
        // Open sessions of the device go on under its new key.
        for conn in self.sessions.get(&record.sender()).into_iter().flatten() {
            if let Some(connection) = self.conns.get_mut(conn)
                && let Auth::Session(peer) = &mut connection.auth
            {
                peer.device_key = record.device_key;
            }
        }
        self.plain(call, reply);
    }

    pub(super) fn devices_listed(&mut self, call: Call, reply: StoreReply) {
        let StoreReply::Devices(mut devices) = reply else { return self.plain(call, reply) };
        if devices.len() > limits::DEVICES_LISTED {
            // Of those revoked, the latest. Stable, so that the order of ids stays within.
            devices.sort_by_key(|entry| {
                entry.revocation.as_ref().map(|revocation| core::cmp::Reverse(revocation.at))
            });
            devices.truncate(limits::DEVICES_LISTED);
            devices.sort_by_key(|entry| entry.record.device);
        }
        self.reply(call, Reply::Devices(devices));
    }

    pub(super) fn device_revoke(&mut self, call: Call, sender: Sender, revocation: Revocation) {
        let account = revocation.account;
        if account != sender.account || revocation.verify(self.config.backend).is_err() {
            let error = Some(ErrorCode::RecordInvalid);
            self.audit(AuditKind::DeviceRevoke, Some(call.conn), None, error);
            return self.fail(call, ErrorCode::RecordInvalid);
        }
        let revoked = Sender { account, device: revocation.device };
        let op = StoreOp::RevokeDevice { revocation, at: self.now.wall };
        self.store(Step::DeviceRevoke(call, revoked), op);
    }

    pub(super) fn device_revoked(&mut self, call: Call, revoked: Sender, reply: StoreReply) {
        if reply != StoreReply::Done {
            return self.refusal(call, Some(AuditKind::DeviceRevoke), None, &reply);
        }
        self.audit(AuditKind::DeviceRevoke, Some(call.conn), None, None);
        self.plain(call, reply);
        // A device that revokes itself hears of it first.
        self.end_sessions(revoked, None);
    }
}
