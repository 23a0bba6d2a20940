//! Random operations, decoded from bytes, on two stores at once.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Backend;
use super::bed::{
    Bed, NOW, account, account_row, channel, device_key, digest, envelope_keys, later, member,
    message, package, record, revocation, sender, username,
};
use crate::env::UnixMillis;
use crate::id::{ChannelId, Digest, Sender};
use crate::mls::key_package::latest_end;
use crate::mls::suite::Suite;
use crate::server::op::{
    AccountRow, Append, Commit, KeyPackageRow, Member, Reset, StoreOp, StoreReply,
};
use crate::store::batch::Op;
use crate::wire::message::{ChannelKind, EntryKind, Part};

/// How a run of [`compare`] went: enough to see that it tried something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Operations that were not refused.
    pub accepted: usize,
    /// Operations that were.
    pub refused: usize,
    /// Restarts.
    pub restarts: usize,
}

/// Decodes operations from bytes, executes them on both stores in batches of the same random sizes, and panics at
/// the first reply in which they differ. Ids, times and contents come from small spaces, so that they meet.
pub fn compare(reference: &mut dyn Backend, other: &mut dyn Backend, script: &[u8]) -> Seen {
    let mut decoder = Decoder {
        script,
        clock: 0,
        generations: BTreeMap::new(),
        epochs: BTreeMap::new(),
        heads: BTreeMap::new(),
    };
    let mut seen = Seen::default();
    let mut ops = prelude();
    loop {
        let expected = Bed(reference).batch(&ops);
        let found = Bed(other).batch(&ops);
        for ((op, expected), found) in ops.iter().zip(&expected).zip(&found) {
            assert_eq!(expected, found, "in answer to {op:?}");
            decoder.learn(op, expected);
            match expected {
                StoreReply::Refused { .. } => seen.refused += 1,
                _ => seen.accepted += 1,
            }
        }
        if decoder.script.is_empty() {
            return seen;
        }
        if decoder.below(16) == 1 {
            reference.reopen();
            other.reopen();
            seen.restarts += 1;
        }
        let size = decoder.below(8) + 1;
        ops = (0..size).map(|_| decoder.op()).collect();
    }
}

/// Something to start from: most operations on an empty store are refused.
fn prelude() -> Vec<StoreOp> {
    let mut ops = Vec::new();
    for a in 1..=3 {
        ops.push(StoreOp::CreateAccount(account_row(a)));
        for d in 1..=2 {
            ops.push(super::bed::put_device(sender(a, d), 1));
        }
    }
    ops.push(super::bed::create(1, sender(1, 1)));
    ops.push(StoreOp::Commit(Commit {
        adds: vec![member(sender(2, 1)), member(sender(3, 1))],
        ..super::bed::commit(channel(1), sender(1, 1), 0, 200)
    }));
    ops
}

/// Turns bytes into choices. At the end of the bytes every choice is the first one.
struct Decoder<'a> {
    script: &'a [u8],
    clock: u64,
    generations: BTreeMap<ChannelId, u32>,
    epochs: BTreeMap<ChannelId, u64>,
    heads: BTreeMap<ChannelId, u64>,
}

impl Decoder<'_> {
    fn byte(&mut self) -> u8 {
        match self.script.split_first() {
            Some((&byte, rest)) => {
                self.script = rest;
                byte
            }
            None => 0,
        }
    }

    fn below(&mut self, bound: u8) -> u8 {
        self.byte() % bound
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 1
    }

    fn sender(&mut self) -> Sender {
        // Mostly the members of the first channel.
        match self.below(12) {
            n @ 0..=8 => sender(n % 3 + 1, 1),
            9 => sender(1, 2),
            10 => sender(2, 2),
            _ => sender(self.below(5) + 1, self.below(4) + 1),
        }
    }

    fn account(&mut self) -> u8 {
        self.below(4) + 1
    }

    fn channel(&mut self) -> ChannelId {
        match self.below(8) {
            0..=4 => channel(1),
            5 => channel(2),
            6 => channel(3),
            _ => ChannelId::inbox(self.sender()),
        }
    }

    /// Mostly forward, at times back.
    fn now(&mut self) -> UnixMillis {
        match self.byte() {
            n @ 0..=127 => self.clock += u64::from(n) / 24,
            n @ 128..=143 => self.clock = self.clock.saturating_sub(u64::from(n) - 100),
            _ => {}
        }
        later(self.clock)
    }

    fn end(&mut self) -> UnixMillis {
        UnixMillis(NOW.0 + self.clock + u64::from(self.below(64)))
    }

    fn epoch(&mut self, of: ChannelId) -> u64 {
        let now = self.epochs.get(&of).copied().unwrap_or(0);
        match self.below(16) {
            0..=10 => now,
            11 => now + 1,
            n => now.saturating_sub(u64::from(n) - 11),
        }
    }

    /// A seq, mostly within the log.
    fn seq(&mut self, of: ChannelId) -> u64 {
        let head = self.heads.get(&of).copied().unwrap_or(0);
        match self.below(8) {
            0 => 0,
            1 => head + 1,
            2 => head,
            _ => head.saturating_sub(u64::from(self.below(8))),
        }
    }

    fn generation(&mut self, of: ChannelId) -> u32 {
        let right = u32::from(of.0 == [of.0[0]; 16]);
        let present = self.generations.get(&of).copied().unwrap_or(right);
        if self.below(16) == 0 { present + 1 } else { present }
    }

    fn package(&mut self) -> KeyPackageRow {
        let n = self.below(24);
        let suite = if n.is_multiple_of(3) { Suite::Classical } else { Suite::Hybrid };
        let at = later(u64::from(n) * 16);
        // Some have ended by then, others do not hold before.
        package(n, suite, if n.is_multiple_of(4) { latest_end(false, at) } else { at })
    }

    fn payload(&mut self) -> Part {
        match self.below(8) {
            0 => Part::Blob { hash: digest(self.byte()), len: 1 << 33 },
            1 => Part::Inline(Bytes::from(vec![self.byte(); 6_000])),
            _ => {
                let len = usize::from(self.byte());
                Part::Inline(Bytes::from(vec![self.byte(); len]))
            }
        }
    }

    /// As [`Self::payload`], but a blob is one of those that are uploaded, at times with another length.
    fn commit_payload(&mut self) -> Part {
        match self.payload() {
            Part::Blob { .. } => {
                let content = blob(self.below(4));
                let len = content.len() as u64 + u64::from(self.below(16) == 0);
                Part::Blob { hash: Digest::of(&[&content]), len }
            }
            inline => inline,
        }
    }

    fn group(&mut self) -> Vec<Op> {
        let key = |decoder: &mut Self| {
            let len = usize::from(decoder.below(4));
            (0..len).map(|_| [0, 1, 0xFE, 0xFF][usize::from(decoder.below(4))]).collect()
        };
        (0..self.below(3))
            .map(|_| match self.below(4) {
                0 => Op::Delete(key(self)),
                1 => Op::DeletePrefix(key(self)),
                _ => Op::Put(key(self), vec![self.byte(); 3]),
            })
            .collect()
    }

    fn members(&mut self) -> Vec<Member> {
        let count = self.below(6).saturating_sub(2);
        let mut members: Vec<Member> = Vec::new();
        for _ in 0..count {
            let mut one = member(self.sender());
            if self.below(16) == 0 {
                one.device_key = [1; 32];
            }
            members.push(one);
        }
        members
    }

    fn op(&mut self) -> StoreOp {
        match self.below(64) {
            0..=7 => self.account_op(),
            8..=13 => self.token_op(),
            14..=20 => self.key_op(),
            21..=33 => self.append(),
            34..=39 => self.commit(),
            40..=45 => self.fetch(),
            46..=51 => {
                let channel = self.channel();
                StoreOp::Ack { channel, reader: self.sender(), seq: self.seq(channel) }
            }
            52 => self.reset(),
            53..=56 => self.channel_op(),
            57..=61 => self.blob_op(),
            _ => StoreOp::Sweep { at: self.now(), most: u32::MAX },
        }
    }

    fn account_op(&mut self) -> StoreOp {
        match self.below(32) {
            0..=2 => {
                let name = username(self.account());
                StoreOp::CreateAccount(AccountRow { username: name, ..account_row(self.account()) })
            }
            3..=6 => StoreOp::FindAccount { username: username(self.account()) },
            // Rare, because little goes on after them.
            7 if self.below(4) == 0 => {
                StoreOp::DeleteAccount { account: account(self.account()), at: self.now() }
            }
            8 if self.below(2) == 0 => StoreOp::RevokeDevice {
                revocation: revocation(self.sender(), self.byte()),
                by: self.sender(),
                most: u32::from(self.below(3)),
                at: self.now(),
                expires: self.end(),
            },
            7..=14 => StoreOp::ListDevices { account: account(self.account()) },
            15..=20 => StoreOp::OpenSession {
                sender: self.sender(),
                issued: self.now(),
                state_version: if self.below(16) == 0 { u64::MAX } else { self.byte().into() },
                at: self.now(),
            },
            _ => {
                let of = self.sender();
                let mut record = record(of, u32::from(self.below(4)));
                record.signature = [self.below(2); 64];
                StoreOp::PutDevice {
                    record,
                    envelope_keys: envelope_keys(of, u32::from(self.below(4))),
                    most: u32::from(self.below(5)),
                    at: self.now(),
                    expires: self.end(),
                }
            }
        }
    }

    fn token_op(&mut self) -> StoreOp {
        let sender = self.sender();
        match self.below(6) {
            0 | 1 => StoreOp::PutRefresh {
                sender,
                device_key: device_key(sender),
                hash: digest(self.below(3)),
                expires: self.end(),
            },
            2 | 3 => StoreOp::FindRefresh { sender, hash: digest(self.below(3)), at: self.now() },
            4 => StoreOp::RotateRefresh {
                sender,
                old: digest(self.below(3)),
                new: digest(self.below(3)),
                expires: self.end(),
                at: self.now(),
            },
            _ => StoreOp::EndTokens { sender, at: self.now() },
        }
    }

    fn key_op(&mut self) -> StoreOp {
        match self.below(6) {
            0..=2 => StoreOp::PutKeyPackages {
                sender: self.sender(),
                packages: (0..self.below(4)).map(|_| self.package()).collect(),
                last_resort: if self.flag() { Some(self.package()) } else { None },
                most: u32::from(self.below(10)),
                at: self.now(),
            },
            3 => StoreOp::CountKeyPackages {
                sender: self.sender(),
                suite: [None, Some(Suite::Hybrid), Some(Suite::Classical)]
                    [usize::from(self.below(3))],
                at: self.now(),
            },
            _ => StoreOp::ClaimKeyPackages {
                account: account(self.account()),
                suite: Suite::ALL[usize::from(self.below(2))],
                device: if self.flag() { Some(self.sender().device) } else { None },
                at: self.now(),
            },
        }
    }

    fn append(&mut self) -> StoreOp {
        let channel = self.channel();
        StoreOp::Append(Append {
            channel,
            generation: self.generation(channel),
            epoch: self.epoch(channel),
            past_epochs: u64::from(self.below(3)),
            sender: self.sender(),
            message: message(self.below(48)),
            hash: digest(u8::from(self.below(8) == 0)),
            kind: if self.flag() { EntryKind::Application } else { EntryKind::Proposal },
            payload: self.payload(),
            group: self.group(),
            at: self.now(),
            expires: self.end(),
        })
    }

    fn commit(&mut self) -> StoreOp {
        let channel = self.channel();
        let adds = self.members();
        StoreOp::Commit(Commit {
            channel,
            generation: self.generation(channel),
            epoch: self.epoch(channel),
            sender: self.sender(),
            message: message(self.below(48)),
            hash: digest(u8::from(self.below(8) == 0)),
            commit: self.commit_payload(),
            group_info: Bytes::from(vec![self.byte(); 40]),
            tree: if self.flag() { Some(blob(self.below(4))) } else { None },
            group: self.group(),
            welcomes: if self.flag() { welcomes(adds.len()) } else { Vec::new() },
            adds,
            removes: (0..self.below(4) / 3).map(|_| self.sender()).collect(),
            at: self.now(),
            expires: self.end(),
        })
    }

    fn reset(&mut self) -> StoreOp {
        let channel = self.channel();
        let generation = self.generation(channel) + u32::from(self.below(8) > 0);
        StoreOp::ResetChannel(Reset {
            channel,
            generation,
            founder: self.sender(),
            message: message(self.below(48)),
            hash: digest(u8::from(self.below(8) == 0)),
            group: self.group(),
            group_info: Bytes::from(vec![self.byte(); 40]),
            at: self.now(),
            expires: self.end(),
        })
    }

    fn fetch(&mut self) -> StoreOp {
        let channel = self.channel();
        StoreOp::Fetch {
            channel,
            reader: self.sender(),
            after: self.seq(channel),
            most: u32::from(self.below(12)),
            bytes: u64::from(self.byte()) * 8,
            at: self.now(),
        }
    }

    fn channel_op(&mut self) -> StoreOp {
        match self.below(5) {
            0 => StoreOp::CreateChannel {
                channel: channel(self.below(3) + 1),
                kind: if self.flag() { ChannelKind::Group } else { ChannelKind::Direct },
                generation: 1,
                creator: self.sender(),
                with: if self.flag() { Some(account(self.account())) } else { None },
                group: self.group(),
                group_info: Bytes::from(vec![self.byte(); 40]),
                at: self.now(),
            },
            1 => StoreOp::ChannelInfo { channel: self.channel(), reader: self.sender() },
            2 => StoreOp::ListChannels {
                reader: self.sender(),
                after: if self.flag() { Some(self.channel()) } else { None },
                most: u32::from(self.below(4)),
            },
            3 => StoreOp::LoadGroup { channel: self.channel() },
            _ => StoreOp::LoadGroupInfo { channel: self.channel(), reader: self.sender() },
        }
    }

    fn blob_op(&mut self) -> StoreOp {
        let content = blob(self.below(4));
        let hash = Digest::of(&[&content]);
        let total = content.len() as u64;
        if self.flag() {
            let (offset, most) = (u64::from(self.below(40)) * 10, u64::from(self.byte()));
            return StoreOp::GetBlob { hash, offset, most, at: self.now() };
        }
        // Chunks of a third, so that uploads often fit together; at times with a wrong byte or length.
        let third = content.len().div_ceil(3);
        let start = usize::from(self.below(3)) * third;
        let end = content.len().min(start + third * (1 + usize::from(self.below(3))));
        let mut chunk = content.get(start..end).unwrap_or_default().to_vec();
        if self.below(16) == 0
            && let Some(byte) = chunk.first_mut()
        {
            *byte ^= 1;
        }
        StoreOp::PutBlob {
            sender: sender(1, if self.below(4) == 0 { 2 } else { 1 }),
            hash,
            total: if self.below(16) == 0 { total + 1 } else { total },
            offset: start as u64,
            chunk: chunk.into(),
            most: if self.below(16) == 0 { 100 } else { 1_000 },
            uploads: 1 + u32::from(self.below(3)),
            expires: self.end(),
        }
    }

    /// Where the logs are, for choosing what is near.
    fn learn(&mut self, op: &StoreOp, reply: &StoreReply) {
        if let StoreReply::Told { entries, .. } = reply {
            self.heads.extend(entries.iter().copied());
        }
        let StoreReply::Appended { seq, duplicate: false, inboxes, .. } = reply else { return };
        match op {
            StoreOp::Append(op) => {
                self.heads.insert(op.channel, *seq);
            }
            StoreOp::Commit(op) => {
                self.heads.insert(op.channel, *seq);
                self.epochs.insert(op.channel, op.epoch + 1);
            }
            StoreOp::ResetChannel(op) => {
                self.heads.insert(op.channel, *seq);
                self.epochs.insert(op.channel, 0);
                self.generations.insert(op.channel, op.generation);
            }
            _ => {}
        }
        self.heads.extend(inboxes.iter().copied());
    }
}

/// A welcome of its own for each device added.
fn welcomes(count: usize) -> Vec<Bytes> {
    (0..count).map(|n| Bytes::from(format!("welcome {n}"))).collect()
}

/// One of four contents.
fn blob(n: u8) -> Bytes {
    Bytes::from(vec![n; [0, 5, 90, 300][usize::from(n)]])
}
