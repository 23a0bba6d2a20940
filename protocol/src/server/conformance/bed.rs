//! What the cases share: small ids, ready operations, and checks of replies.

use bytes::Bytes;

use super::Backend;
use crate::crypto::identity::{DeviceRecord, EnvelopeKeys, Revocation};
use crate::env::UnixMillis;
use crate::error::ErrorCode;
use crate::id::{AccountId, ChannelId, DeviceId, Digest, MessageId, Sender};
use crate::limits;
use crate::mls::suite::Suite;
use crate::server::op::{
    AccountRow, Append, Commit, KeyPackageRow, Member, Reset, StoreOp, StoreReply,
};
use crate::wire::message::{
    ChannelInfo, ChannelKind, ClaimedKeyPackage, Entry, EntryKind, Part, Username,
};

/// When the cases begin, and how long what they store lasts.
pub(super) const NOW: UnixMillis = UnixMillis(1_000_000_000);
pub(super) const LIFE: u64 = 1_000;
/// How much longer submissions are remembered, in milliseconds.
pub(super) const RESEND: u64 = limits::RESEND_TIME.as_secs() * 1_000;
pub(super) const MOST: u32 = 100;

pub(super) fn later(millis: u64) -> UnixMillis {
    UnixMillis(NOW.0 + millis)
}

pub(super) fn username(n: u8) -> Username {
    match Username::prepare(&format!("user{n}")) {
        Some(name) => name,
        None => panic!("a plain name is a username"),
    }
}

pub(super) fn account(n: u8) -> AccountId {
    AccountId([n; 32])
}

/// Device `device` of account `account`.
pub(super) fn sender(account: u8, device: u8) -> Sender {
    Sender { account: AccountId([account; 32]), device: DeviceId([device; 16]) }
}

pub(super) fn channel(n: u8) -> ChannelId {
    ChannelId([n; 16])
}

pub(super) fn message(n: u8) -> MessageId {
    MessageId([n; 16])
}

pub(super) fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

/// The device key that a device registers first.
pub(super) fn device_key(of: Sender) -> [u8; 32] {
    Digest::of(&[b"device key", &of.account.0, &of.device.0]).0
}

pub(super) fn member(of: Sender) -> Member {
    Member { sender: of, device_key: device_key(of) }
}

pub(super) fn account_row(n: u8) -> AccountRow {
    AccountRow {
        username: username(n),
        account: account(n),
        opaque_record: Bytes::from(vec![n; 192]),
        sealed_account_key: Bytes::from(vec![n ^ 0xFF; 90]),
        created: NOW,
    }
}

/// Signed by nobody: a store checks no signatures.
pub(super) fn record(of: Sender, sequence: u32) -> DeviceRecord {
    DeviceRecord {
        account: of.account,
        device: of.device,
        device_key: device_key(of),
        sequence,
        not_before: NOW,
        signature: [7; 64],
    }
}

pub(super) fn envelope_keys(of: Sender, sequence: u32) -> EnvelopeKeys {
    EnvelopeKeys {
        sender: of,
        sequence,
        not_before: NOW,
        x25519: [sequence.to_be_bytes()[3]; 32],
        mlkem768: Box::new([9; 1184]),
        signature: [8; 64],
    }
}

pub(super) fn revocation(of: Sender, signature: u8) -> Revocation {
    Revocation { account: of.account, device: of.device, at: NOW, signature: [signature; 64] }
}

pub(super) fn put_device(of: Sender, sequence: u32) -> StoreOp {
    StoreOp::PutDevice {
        record: record(of, sequence),
        envelope_keys: envelope_keys(of, sequence),
        most: MOST,
        at: NOW,
        expires: later(LIFE),
    }
}

/// Revokes on the word of account `of.account`'s device 1.
pub(super) fn revoke(of: Sender, signature: u8) -> StoreOp {
    StoreOp::RevokeDevice {
        revocation: revocation(of, signature),
        by: Sender { device: DeviceId([1; 16]), ..of },
        most: MOST,
        at: NOW,
        expires: later(LIFE),
    }
}

pub(super) fn package(n: u8, suite: Suite, expires: UnixMillis) -> KeyPackageRow {
    KeyPackageRow { hash: digest(n), suite, expires, package: Bytes::from(vec![n; 300]) }
}

pub(super) fn put_packages(of: Sender, packages: Vec<KeyPackageRow>) -> StoreOp {
    StoreOp::PutKeyPackages { sender: of, packages, last_resort: None, most: MOST, at: NOW }
}

pub(super) fn create(n: u8, creator: Sender) -> StoreOp {
    StoreOp::CreateChannel {
        channel: channel(n),
        kind: ChannelKind::Group,
        generation: 1,
        creator,
        with: None,
        group: Vec::new(),
        group_info: Bytes::from_static(b"group info 0"),
        at: NOW,
    }
}

/// An application message `n` of that epoch, its hash and payload made from `n`.
pub(super) fn append(to: ChannelId, from: Sender, epoch: u64, n: u8) -> Append {
    Append {
        channel: to,
        generation: 1,
        epoch,
        past_epochs: 2,
        sender: from,
        message: message(n),
        hash: digest(n),
        kind: EntryKind::Application,
        payload: Part::Inline(Bytes::from(vec![n; 100])),
        group: Vec::new(),
        at: NOW,
        expires: later(LIFE),
    }
}

/// A commit `n` that ends that epoch and changes nobody.
pub(super) fn commit(to: ChannelId, from: Sender, epoch: u64, n: u8) -> Commit {
    Commit {
        channel: to,
        generation: 1,
        epoch,
        sender: from,
        message: message(n),
        hash: digest(n),
        commit: Part::Inline(Bytes::from(vec![n; 200])),
        group_info: Bytes::from(format!("group info {}", epoch + 1)),
        tree: None,
        group: Vec::new(),
        adds: Vec::new(),
        welcomes: Vec::new(),
        removes: Vec::new(),
        at: NOW,
        expires: later(LIFE),
    }
}

/// A reset `n` into that generation.
pub(super) fn reset(of: ChannelId, founder: Sender, generation: u32, n: u8) -> Reset {
    Reset {
        channel: of,
        generation,
        founder,
        message: message(n),
        hash: digest(n),
        group: Vec::new(),
        group_info: Bytes::from(format!("group info of generation {generation}")),
        at: NOW,
        expires: later(LIFE),
    }
}

pub(super) fn fetch(from: ChannelId, reader: Sender, after: u64) -> StoreOp {
    StoreOp::Fetch { channel: from, reader, after, most: MOST, bytes: u64::MAX, at: NOW }
}

pub(super) fn ack(of: ChannelId, reader: Sender, seq: u64) -> StoreOp {
    StoreOp::Ack { channel: of, reader, seq }
}

/// A store under test.
pub(super) struct Bed<'a>(pub(super) &'a mut dyn Backend);

impl Bed<'_> {
    #[track_caller]
    pub(super) fn run(&mut self, op: StoreOp) -> StoreReply {
        let mut replies = self.batch(&[op]);
        match replies.pop() {
            Some(reply) if replies.is_empty() => reply,
            _ => panic!("one reply for one operation"),
        }
    }

    #[track_caller]
    pub(super) fn batch(&mut self, ops: &[StoreOp]) -> Vec<StoreReply> {
        match self.0.apply(ops) {
            Ok(replies) => {
                assert_eq!(replies.len(), ops.len(), "one reply for each operation");
                replies
            }
            Err(fault) => panic!("{fault}"),
        }
    }

    #[track_caller]
    pub(super) fn done(&mut self, op: StoreOp) {
        assert_eq!(self.run(op), StoreReply::Done);
    }

    /// Devices came or went; who was told does not matter here.
    #[track_caller]
    pub(super) fn told(&mut self, op: StoreOp) -> Vec<(ChannelId, u64)> {
        match self.run(op) {
            StoreReply::Told { entries, more: false } => entries,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn refused(&mut self, op: StoreOp, code: ErrorCode) {
        self.refused_at(op, code, 0);
    }

    #[track_caller]
    pub(super) fn refused_at(&mut self, op: StoreOp, code: ErrorCode, epoch: u64) {
        assert_eq!(self.run(op), StoreReply::Refused { code, epoch });
    }

    /// Accounts 1 to `accounts` with devices 1 to `devices` each.
    #[track_caller]
    pub(super) fn people(&mut self, accounts: u8, devices: u8) {
        for a in 1..=accounts {
            self.done(StoreOp::CreateAccount(account_row(a)));
            for d in 1..=devices {
                self.told(put_device(sender(a, d), 1));
            }
        }
    }

    /// Channel 1 at epoch 1: founded by device 1 of account 1, which then added device 1 of the other accounts by
    /// commit 200 (seq 1).
    #[track_caller]
    pub(super) fn group(&mut self, accounts: u8) -> ChannelId {
        self.people(accounts, 1);
        self.done(create(1, sender(1, 1)));
        let adds = (2..=accounts).map(|a| member(sender(a, 1))).collect();
        let add = Commit { adds, ..commit(channel(1), sender(1, 1), 0, 200) };
        assert_eq!(self.commit(add).0, 1);
        channel(1)
    }

    /// Appends, and returns seq and chain.
    #[track_caller]
    pub(super) fn append(&mut self, op: Append) -> (u64, Digest) {
        match self.run(StoreOp::Append(op)) {
            StoreReply::Appended { seq, chain, duplicate: false, .. } => (seq, chain),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn commit(&mut self, op: Commit) -> (u64, Digest) {
        match self.run(StoreOp::Commit(op)) {
            StoreReply::Appended { seq, chain, duplicate: false, .. } => (seq, chain),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn reset(&mut self, op: Reset) -> u64 {
        match self.run(StoreOp::ResetChannel(op)) {
            StoreReply::Appended { seq, duplicate: false, .. } => seq,
            other => panic!("{other:?}"),
        }
    }

    /// Entries, head, first.
    #[track_caller]
    pub(super) fn entries(&mut self, op: StoreOp) -> (Vec<Entry>, u64, u64) {
        match self.run(op) {
            StoreReply::Entries { entries, head, first } => (entries, head, first),
            other => panic!("{other:?}"),
        }
    }

    /// The seqs that a fetch returns, head, first.
    #[track_caller]
    pub(super) fn seqs(&mut self, op: StoreOp) -> (Vec<u64>, u64, u64) {
        let (entries, head, first) = self.entries(op);
        (entries.iter().map(|entry| entry.seq).collect(), head, first)
    }

    #[track_caller]
    pub(super) fn info(&mut self, of: ChannelId, reader: Sender) -> ChannelInfo {
        match self.run(StoreOp::ChannelInfo { channel: of, reader }) {
            StoreReply::Channel(info) => info,
            other => panic!("{other:?}"),
        }
    }

    /// The first byte of each device's claimed package, and whether it is the last resort.
    #[track_caller]
    pub(super) fn claim(&mut self, n: u8, suite: Suite, at: UnixMillis) -> Vec<(Option<u8>, bool)> {
        match self.run(StoreOp::ClaimKeyPackages { account: account(n), suite, device: None, at }) {
            StoreReply::Claimed(claimed) => claimed
                .into_iter()
                .map(|ClaimedKeyPackage { package, last_resort, .. }| {
                    (package.and_then(|bytes| bytes.first().copied()), last_resort)
                })
                .collect(),
            other => panic!("{other:?}"),
        }
    }
}
