//! What everybody did, as one hash; and what nobody may do, looked for all the time: a key and a nonce used for two
//! plaintexts, a secret in bytes that leave a machine.

use std::time::Duration;

use qpc_protocol::env::Now;
use qpc_protocol::gauge::Gauge;
use qpc_protocol::id::Digest;
use qpc_protocol::io::{Input, LinkId, Output};
use qpc_protocol::server::op::{StoreOp, StoreReply};
use qpc_protocol::store::batch::{Batch, Op};

use super::World;
use crate::recorder::Recorder;
use crate::takeover;
use crate::transcript::json::Json;

/// What a [`Watcher`] sees. Machines go by their number, the server's is `usize::MAX`.
pub enum Seen<'a> {
    /// A machine was made, with this seed; the server's also of these secrets.
    Started(usize, Now, [u8; 32], Option<&'a [u8]>),
    /// A machine is about to be told something.
    Input(usize, Now, &'a Input<'a>),
    /// What a machine put out, with the bytes that go with it.
    Output(usize, &'a Output, &'a [u8]),
    /// A machine had nothing more to do: an [`Output::Idle`], and how full its queues are.
    Idle(usize, &'a Output, &'a [Gauge]),
    /// A device has opened a link: what it calls it, and what the server is going to.
    Opened(usize, LinkId, LinkId),
    /// A batch became durable on a device.
    Persisted(usize, &'a Batch),
    /// The server's disk refused one.
    NotStored,
    /// The server's store executed a transaction.
    Stored(&'a [StoreOp], &'a [StoreReply]),
    /// The same of the other history, if the server has two.
    StoredElsewhere(&'a [StoreOp], &'a [StoreReply]),
}

/// Sees what happens, at the moment in which it does, and changes nothing.
pub type Watcher = Box<dyn FnMut(Duration, &Seen<'_>)>;

impl World {
    pub(super) fn watched(&mut self, seen: &Seen<'_>) {
        let now = self.now.mono;
        if let Some(watch) = &mut self.watch {
            watch(now, seen);
        }
    }

    /// From now on these bytes are in nothing that a machine sends. They are at least [`PLANTED_BYTES`] long.
    ///
    /// [`PLANTED_BYTES`]: crate::recorder::PLANTED_BYTES
    pub fn plant(&self, secret: &[u8]) {
        self.recorder.plant(secret);
    }

    /// How many path secrets were forged since the last call.
    pub fn take_forged(&self) -> usize {
        self.recorder.take_forged()
    }

    /// What remembers which key made which ciphertext, from now on, if the primitives keep anything secret.
    pub(crate) fn key_keeper(&self) -> Option<&'static Recorder> {
        self.recorder.keep_keys().then_some(self.recorder)
    }

    pub(super) fn note(&mut self, who: usize, output: &Output, bytes: &[u8]) {
        self.watched(&Seen::Output(who, output, bytes));
        if let Some(said) = &mut self.said {
            said.push_str(&format!("{who} {output:?}\n"));
        }
        let who = (who as u64).to_be_bytes();
        let mut hash = |part: &[u8]| self.trace = Digest::of(&[&self.trace.0, &who, part]);
        if let Output::Persist(batch) = output {
            for op in &batch.ops {
                let (Op::Put(key, _) | Op::Delete(key) | Op::DeletePrefix(key)) = op;
                hash(key);
                // OpenMLS stamps past epochs with the clock of the process, in a group's own records: they count
                // where that clock is the world's.
                if let Op::Put(key, value) = op
                    && (takeover::is_active() || !is_of_openmls(key))
                {
                    hash(value);
                }
            }
        } else if let Output::Event(event) = output {
            // Whole, where its text for people leaves out what people said.
            let whole = event.json().to_string();
            hash(whole.as_bytes());
        } else if let Output::Store(id, op) = output {
            hash(format!("{id:?} {}", op.json()).as_bytes());
        } else {
            hash(format!("{output:?}").as_bytes());
        }
        hash(bytes);
    }

    /// Bytes leave a machine.
    pub(super) fn see_bytes(&mut self, who: usize, bytes: &[u8]) {
        self.sent_bytes += bytes.len() as u64;
        if let Some(what) = self.recorder.find(bytes) {
            panic!("machine {who} sends a secret: {what}");
        }
    }

    /// What the machines have done with their keys.
    pub(super) fn check_keys(&self) {
        if let Some(reuse) = self.recorder.reuse() {
            panic!("{reuse}");
        }
    }

    /// A machine is about to run: the clock of the process shows what it is told, and what it seals is forged if its
    /// owner has changed its program.
    pub(super) fn stand_at(&self, who: usize, now: Now) {
        takeover::stand_at(now);
        self.recorder.forge_path_secrets(self.devices.get(who).and_then(|device| device.forgery));
    }
}

fn is_of_openmls(key: &[u8]) -> bool {
    key.starts_with(b"g/") || key.starts_with(b"r/")
}
