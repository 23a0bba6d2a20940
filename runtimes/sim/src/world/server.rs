//! The server: its machine over the reference store.

use std::time::Duration;

use qpc_protocol::env::Entropy;
use qpc_protocol::error::{StoreFault, StoreFaultKind};
use qpc_protocol::io::{Input, OpId, Output};
use qpc_protocol::server::memory::MemoryStore;
use qpc_protocol::server::op::StoreOp;
use qpc_protocol::server::{Config as ServerConfig, Server, ServerSecrets};

use super::disk::Moment;
use super::link::Packet;
use super::network::{InFlight, Side};
use super::{ENDLESS, Idle, SERVER, Seen, World};

/// Operations that become durable together.
type Transaction = Vec<(OpId, StoreOp)>;

/// The server's disk, and what goes wrong with it.
#[derive(Default)]
pub struct Storage {
    /// How long a transaction takes. Several may be under way; they are made in order.
    pub latency: Duration,
    /// Fail the next transaction with this.
    pub fail: Option<StoreFaultKind>,
    /// Crash at the n-th transaction from now, counted from 0. Nothing switches the server on again by itself.
    pub crash_in: Option<u64>,
    /// At which moment of that transaction.
    pub crash_moment: Option<Moment>,
    /// Transactions made.
    pub transactions: u64,
    /// How often the server went without a word.
    pub crashes: u64,
    under_way: InFlight<Transaction>,
    /// The server crashes as soon as what waited for its last transaction has left.
    dying: bool,
}

impl World {
    /// Switches the server on, from its store.
    pub fn start_server(&mut self) {
        self.server = Some(self.make_server());
    }

    pub(super) fn make_server(&mut self) -> Server {
        let secrets = ServerSecrets::decode(&self.secrets).unwrap();
        let suites = self.rules.suites.to_vec();
        let config = ServerConfig { suites, ..ServerConfig::new(self.backend) };
        let now = self.server_clock.of(self.now);
        let seed = self.rng.array();
        if let Some(watch) = &mut self.watch {
            watch(self.now.mono, &Seen::Started(SERVER, now, seed, Some(&self.secrets)));
        }
        Server::new(config, secrets, Entropy::from_seed(seed), now)
    }

    /// The server is gone, without a word; its store stays.
    pub fn kill_server(&mut self) {
        let under_way = self.storage.under_way.drain().collect::<Vec<_>>();
        if !under_way.is_empty() {
            let made = self.rng.u64() as usize % (under_way.len() + 1);
            for transaction in under_way.into_iter().take(made) {
                let ops: Vec<_> = transaction.into_iter().map(|(_, op)| op).collect();
                let replies = self.store.apply(&ops);
                self.watched(&Seen::Stored(&ops, &replies));
            }
        }
        self.server = None;
        self.storage.crashes += 1;
        self.storage.crash_in = None;
        self.storage.dying = false;
        for device in 0..self.devices.len() {
            self.cut(device);
        }
    }

    /// The server starts again from a backup of its store.
    pub fn restore_server(&mut self, backup: MemoryStore) {
        self.kill_server();
        self.store = backup;
        self.start_server();
    }

    pub(super) fn run_server(&mut self) -> Idle {
        let mut idle = self.run_storage();
        let mut ops = Vec::new();
        for round in 0.. {
            let mut buffer = Vec::new();
            let now = self.server_clock.of(self.now);
            self.stand_at(SERVER, now);
            let Some(server) = self.server.as_mut() else { return idle };
            let output = server.poll(&mut buffer);
            if let Output::Idle { wake_at, reason } = output {
                if !ops.is_empty() {
                    self.transact(core::mem::take(&mut ops));
                    continue;
                }
                if self.storage.dying {
                    self.kill_server();
                    return idle;
                }
                idle.and(Idle { worked: false, wake_at });
                self.reasons.insert(SERVER, format!("{reason:?} {wake_at:?}"));
                let gauges = self.watch.as_ref().map(|_| server.gauges()).unwrap_or_default();
                self.watched(&Seen::Idle(SERVER, &output, &gauges));
                return idle;
            }
            idle.worked = true;
            assert!(round < ENDLESS, "the server does not come to rest: {output:?}");
            self.note(SERVER, &output, &buffer);
            match output {
                Output::Send { link, fin, .. } => {
                    self.see_bytes(SERVER, &buffer);
                    if let Some((wire, at)) = self.wire(SERVER, link) {
                        wire.down.send(at, Packet::Data { bytes: buffer, fin });
                    }
                }
                Output::Read(link) => {
                    if let Some((wire, _)) = self.wire(SERVER, link) {
                        wire.up.want();
                    }
                }
                Output::CloseLink(link, code) => {
                    if let Some((wire, at)) = self.wire(SERVER, link) {
                        wire.close(Side::Server, at, code);
                    }
                }
                Output::CloseConn(conn, code) => self.close_conn(Side::Server, conn, 0, code),
                Output::Store(id, op) => ops.push((id, op)),
                Output::Compute(id, job) => self.to_server(Input::Computed(id, job.run())),
                Output::Audit(_) => {}
                output => unreachable!("a server: {output:?}"),
            }
        }
        idle
    }

    fn transact(&mut self, transaction: Transaction) {
        if self.storage.dying {
            return;
        }
        let at = self.now.mono + self.storage.latency;
        self.storage.under_way.put(at, transaction);
        self.run_storage();
    }

    /// Makes the transactions that are due.
    fn run_storage(&mut self) -> Idle {
        let now = self.now.mono;
        let mut worked = false;
        while !self.storage.dying
            && let Some(transaction) = self.storage.under_way.take(now)
        {
            worked = true;
            self.make(transaction);
        }
        Idle { worked, wake_at: self.storage.under_way.next() }
    }

    fn make(&mut self, transaction: Transaction) {
        let (ids, ops): (Vec<_>, Vec<_>) = transaction.into_iter().unzip();
        let full = self.server_disk_full.then_some(StoreFaultKind::Full);
        if let Some(kind) = self.storage.fail.take().or(full) {
            self.watched(&Seen::NotStored);
            for id in ids {
                let fault = StoreFault { kind, detail: "planned".into() };
                self.to_server(Input::Stored(id, Err(fault)));
            }
            return;
        }
        let now = self.storage.crash_in == Some(0);
        self.storage.crash_in = self.storage.crash_in.and_then(|left| left.checked_sub(1));
        let moment = self.storage.crash_moment.unwrap_or(Moment::Before);
        if now && moment == Moment::Before {
            self.storage.under_way.clear();
            return self.kill_server();
        }
        self.storage.transactions += 1;
        let replies = self.store.apply(&ops);
        self.watched(&match self.in_fork {
            true => Seen::StoredElsewhere(&ops, &replies),
            false => Seen::Stored(&ops, &replies),
        });
        if now && moment == Moment::During {
            return self.kill_server();
        }
        self.storage.dying |= now;
        for (id, reply) in ids.into_iter().zip(replies) {
            self.to_server(Input::Stored(id, Ok(reply)));
        }
    }

    /// Something happens to the server's machine.
    pub fn to_server(&mut self, input: Input<'_>) {
        if let Some(said) = &mut self.said {
            said.push_str(&format!("server {input:?}\n"));
        }
        let now = self.server_clock.of(self.now);
        self.stand_at(SERVER, now);
        if self.server.is_some() {
            self.watched(&Seen::Input(SERVER, now, &input));
        }
        if let Some(server) = self.server.as_mut() {
            server.handle(now, input).unwrap();
        }
    }
}
