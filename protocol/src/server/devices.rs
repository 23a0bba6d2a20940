//! The device directory.

use super::Server;
use super::connection::{Auth, Call};
use super::stored::Step;
use crate::crypto::identity::{DeviceRecord, EnvelopeKeys, Revocation};
use crate::error::ErrorCode;
use crate::id::{ChannelId, Sender};
use crate::limits;
use crate::server::audit::AuditKind;
use crate::server::op::{StoreOp, StoreReply};
use crate::wire::message::Reply;

/// Channels told of a revocation in one transaction, so that it stays short.
const REVOCATION_CHANNELS: u32 = 256;

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
            expires: self.now.wall.plus(self.config.retention),
        };
        self.store(Step::DeviceRegister(call, Box::new(record)), op);
    }

    pub(super) fn device_registered(
        &mut self,
        call: Call,
        record: &DeviceRecord,
        reply: StoreReply,
    ) {
        let StoreReply::Told { entries, .. } = reply else {
            return self.refusal(call, Some(AuditKind::DeviceRegister), None, &reply);
        };
        self.audit(AuditKind::DeviceRegister, Some(call.conn), None, None);
        // Open sessions of the device go on under its new key.
        for conn in self.sessions.get(&record.sender()).into_iter().flatten() {
            if let Some(connection) = self.conns.get_mut(conn)
                && let Auth::Session(peer) = &mut connection.auth
            {
                peer.device_key = record.device_key;
            }
        }
        self.reply(call, Reply::Done);
        self.told(entries);
    }

    /// The store has appended to these channels.
    fn told(&mut self, entries: Vec<(ChannelId, u64)>) {
        for (channel, seq) in entries {
            self.appended(channel, seq, None);
        }
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
        self.revoke_on(call, sender, Box::new(revocation));
    }

    /// Tells the next channels of a revocation; the first time, it begins to hold.
    fn revoke_on(&mut self, call: Call, by: Sender, revocation: Box<Revocation>) {
        let op = StoreOp::RevokeDevice {
            revocation: (*revocation).clone(),
            by,
            most: REVOCATION_CHANNELS,
            at: self.now.wall,
            expires: self.now.wall.plus(self.config.retention),
        };
        self.store(Step::DeviceRevoke(call, by, revocation), op);
    }

    pub(super) fn device_revoked(
        &mut self,
        call: Call,
        by: Sender,
        revocation: Box<Revocation>,
        reply: StoreReply,
    ) {
        let StoreReply::Told { entries, more } = reply else {
            return self.refusal(call, Some(AuditKind::DeviceRevoke), None, &reply);
        };
        let revoked = Sender { account: revocation.account, device: revocation.device };
        if more {
            self.revoke_on(call, by, revocation);
        } else {
            self.audit(AuditKind::DeviceRevoke, Some(call.conn), None, None);
            self.reply(call, Reply::Done);
        }
        self.told(entries);
        // A device that revokes itself hears of it first.
        if !more || revoked != by {
            self.end_sessions(revoked, None);
        }
    }
}
