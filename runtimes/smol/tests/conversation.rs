//! Both machines, driven over real QUIC: what an application and an operator see.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_channel::Receiver;
use async_io::{Timer, block_on};
use futures_lite::future;
use qpc_protocol::client::event::{Event, Outcome};
use qpc_protocol::client::{Client, Config, Stretching, UpdatePolicy};
use qpc_protocol::crypto;
use qpc_protocol::env::Now;
use qpc_protocol::error::{Fatal, Refused, StoreFault, StoreFaultKind};
use qpc_protocol::id::ChannelId;
use qpc_protocol::io::{Page, Target, Ticket};
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::server::audit::AuditKind;
use qpc_protocol::server::memory::MemoryStore;
use qpc_protocol::server::op::{StoreOp, StoreReply};
use qpc_protocol::server::{Config as ServerConfig, Server, ServerSecrets};
use qpc_protocol::store::batch::{Batch, Op, Records};
use qpc_smol::store::{ClientStore, ServerStore};
use qpc_smol::{
    Address, ClientHandle, ClientOptions, Clock, Identity, ServeOptions, ServerHandle, entropy,
    open, serve,
};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};

const PATIENCE: Duration = Duration::from_secs(60);

/// A server's store that outlives its server.
#[derive(Clone, Default)]
struct Shared {
    store: Arc<Mutex<MemoryStore>>,
    /// Operations of each transaction.
    transactions: Arc<Mutex<Vec<usize>>>,
    broken: Arc<Mutex<bool>>,
    slow: Duration,
}

impl ServerStore for Shared {
    fn apply(&mut self, ops: &[StoreOp]) -> Result<Vec<StoreReply>, StoreFault> {
        std::thread::sleep(self.slow);
        if *self.broken.lock().unwrap() {
            return Err(StoreFault { kind: StoreFaultKind::Full, detail: "no room".to_owned() });
        }
        self.transactions.lock().unwrap().push(ops.len());
        Ok(self.store.lock().unwrap().apply(ops))
    }
}

/// A client's store that outlives its client.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>);

impl ClientStore for Kept {
    fn apply(&mut self, batch: &Batch) -> Result<(), StoreFault> {
        let mut records = self.0.lock().unwrap();
        for op in &batch.ops {
            match op {
                Op::Put(key, value) => drop(records.insert(key.clone(), value.clone())),
                Op::Delete(key) => drop(records.remove(key)),
                Op::DeletePrefix(prefix) => records.retain(|key, _| !key.starts_with(prefix)),
            }
        }
        Ok(())
    }

    fn load(&mut self, page: &Page) -> Result<Records, StoreFault> {
        let records = self.0.lock().unwrap();
        let after = |key: &Vec<u8>| page.after.as_ref().is_none_or(|after| key > after);
        Ok(records
            .iter()
            .filter(|(key, _)| key.starts_with(&page.prefix) && after(key))
            .take(page.most)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }
}

/// What stays the same when a server is started again.
struct House {
    identity: Identity,
    secrets: Vec<u8>,
    store: Shared,
    audits: Arc<Mutex<Vec<AuditKind>>>,
}

impl House {
    fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let identity =
            Identity::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes())
                .unwrap();
        let secrets = ServerSecrets::generate(&mut entropy().unwrap()).encode().to_vec();
        Self { identity, secrets, store: Shared::default(), audits: Arc::default() }
    }

    fn serve(&self, port: u16) -> ServerHandle {
        let clock = Clock::start();
        let secrets = ServerSecrets::decode(&self.secrets).unwrap();
        let config = ServerConfig::new(crypto::fast());
        let machine = Server::new(config, secrets, entropy().unwrap(), clock.now());
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let audits = Arc::clone(&self.audits);
        let audit = Box::new(move |event: qpc_protocol::server::audit::AuditEvent| {
            audits.lock().unwrap().push(event.kind);
        });
        let options = ServeOptions::new(listen, self.identity.clone());
        serve(options, machine, Box::new(self.store.clone()), clock, audit).unwrap()
    }

    fn address(&self, server: &ServerHandle) -> Address {
        let at = server.local_addr();
        Address { host: at.ip().to_string(), port: at.port(), pin: Some(self.identity.pin()) }
    }
}

fn config(server: &Address) -> Config {
    Config {
        backend: crypto::fast(),
        server: Target(server.to_string()),
        stretching: Stretching { memory_kib: 64, passes: 1, lanes: 1 },
        insecure_plain: false,
        auto_connect: true,
        propose_first: false,
        update: UpdatePolicy::default(),
    }
}

/// A client in a test's hands.
struct Device {
    handle: ClientHandle,
    events: Receiver<Event>,
    seen: Vec<Event>,
}

impl Device {
    fn open(address: &Address, store: &Kept) -> Self {
        let options = ClientOptions::new(config(address));
        let (handle, events) = open(options, Box::new(store.clone())).unwrap();
        Self { handle, events, seen: Vec::new() }
    }

    /// The first event, old or new, that `pick` takes.
    async fn find<T>(&mut self, pick: impl Fn(&Event) -> Option<T>) -> T {
        let mut at = 0;
        let late = async {
            Timer::after(PATIENCE).await;
            None
        };
        let found = async {
            loop {
                while let Some(event) = self.seen.get(at) {
                    if let Some(found) = pick(event) {
                        return Some(found);
                    }
                    at += 1;
                }
                self.seen.push(self.events.recv().await.ok()?);
            }
        };
        match future::or(found, late).await {
            Some(found) => found,
            None => panic!("never seen, only {:?}", self.seen),
        }
    }

    /// Runs a command and waits for what it comes to.
    async fn done(
        &mut self,
        command: impl FnOnce(&mut Client, Now) -> Result<Ticket, Refused> + Send + 'static,
    ) -> Outcome {
        let ticket = self.asks(command).await;
        self.is_done(ticket).await
    }

    /// Gives a command, without waiting for more than its ticket.
    async fn asks(
        &mut self,
        command: impl FnOnce(&mut Client, Now) -> Result<Ticket, Refused> + Send + 'static,
    ) -> Ticket {
        self.handle.run(command).await.unwrap().unwrap()
    }

    async fn is_done(&mut self, ticket: Ticket) -> Outcome {
        self.find(|event| match event {
            Event::Done(done, outcome) if *done == ticket => Some(outcome.clone()),
            Event::Failed(failed, why) if *failed == ticket => panic!("{why:?}"),
            _ => None,
        })
        .await
    }

    async fn register(&mut self, name: &'static str) {
        self.done(move |client, now| client.register(now, name, "secret".to_owned().into())).await;
    }

    async fn founds(&mut self, suite: Suite) -> ChannelId {
        match self.done(move |client, now| client.create_group(now, "den", suite)).await {
            Outcome::Group(channel) => channel,
            other => panic!("{other:?}"),
        }
    }

    async fn message(&mut self, body: &[u8]) {
        self.find(|event| match event {
            Event::Message(message) if message.body.as_slice() == body => Some(()),
            _ => None,
        })
        .await;
    }
}

#[test]
fn two_devices_talk_and_go_on_after_the_server_was_started_again() {
    let house = House::new();
    let server = house.serve(0);
    let address = house.address(&server);
    block_on(async {
        let (alice_store, bob_store) = (Kept::default(), Kept::default());
        let mut alice = Device::open(&address, &alice_store);
        let mut bob = Device::open(&address, &bob_store);
        alice.register("alice").await;
        bob.register("bob").await;
        bob.done(|client, now| client.refresh_key_packages(now)).await;
        assert!(alice.handle.connection().unwrap().is_post_quantum());
        assert_eq!(server.connections(), 2);

        let channel = alice.founds(Suite::Hybrid).await;
        alice.done(move |client, now| client.invite(now, channel, "bob")).await;
        bob.find(|event| matches!(event, Event::Joined { .. }).then_some(())).await;
        let sent = alice.done(move |client, now| client.send(now, channel, b"hello")).await;
        assert!(matches!(sent, Outcome::Sent(_)), "{sent:?}");
        bob.message(b"hello").await;

        // The server drains: nobody waits for the time limit, all are told why.
        let start = Instant::now();
        server.drain().await;
        server.ended().await;
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        server.join().unwrap();
        alice.find(|event| matches!(event, Event::Offline { last: false, .. }).then_some(())).await;

        // What is sent meanwhile waits; both come back by themselves.
        let ticket = bob.asks(move |client, now| client.send(now, channel, b"anybody?")).await;
        let server = house.serve(address.port);
        bob.is_done(ticket).await;
        alice.message(b"anybody?").await;

        // A device that is stopped and opened again is the same one.
        bob.handle.stop().await.unwrap();
        let mut bob = Device::open(&address, &bob_store);
        alice.done(move |client, now| client.send(now, channel, b"still there?")).await;
        bob.message(b"still there?").await;
        bob.handle.stop().await.unwrap();
        alice.handle.stop().await.unwrap();
        server.drain().await;
        server.join().unwrap();
    });
    let audits = house.audits.lock().unwrap();
    for kind in
        [AuditKind::Register, AuditKind::Session, AuditKind::ChannelCreate, AuditKind::Commit]
    {
        assert!(audits.contains(&kind), "{kind:?} in {audits:?}");
    }
}

/// What ends a connection has left before a client has stopped, so that the server frees it; nothing else is waited
/// for.
#[test]
fn a_client_that_stops_has_told_the_server_and_waits_for_nothing_more() {
    let house = House::new();
    let server = house.serve(0);
    let address = house.address(&server);
    block_on(async {
        let mut spent = Vec::new();
        for name in ["alice", "bob", "carol", "dave", "erin"] {
            let mut device = Device::open(&address, &Kept::default());
            device.register(name).await;
            assert_eq!(server.connections(), 1);
            let start = Instant::now();
            device.handle.stop().await.unwrap();
            spent.push(start.elapsed());
            while server.connections() > 0 {
                assert!(start.elapsed() < Duration::from_secs(2), "the server was not told");
                Timer::after(Duration::from_millis(1)).await;
            }
        }
        spent.sort();
        eprintln!("{spent:?}");
        // Three times the longest wait for an acknowledgement that QUIC has would be 75 ms at least.
        assert!(spent[2] < Duration::from_millis(70), "{spent:?}");
        server.drain().await;
        server.join().unwrap();
    });
}

#[test]
fn a_server_with_another_key_is_told_once_and_not_tried_again() {
    let house = House::new();
    let server = house.serve(0);
    let address = Address { pin: Some(House::new().identity.pin()), ..house.address(&server) };
    block_on(async {
        let mut device = Device::open(&address, &Kept::default());
        let ticket = device
            .asks(|client, now| client.register(now, "alice", "secret".to_owned().into()))
            .await;
        let why = device
            .find(|event| match event {
                Event::Offline { why, last: true } => Some(why.clone()),
                _ => None,
            })
            .await;
        assert!(why.contains(&house.identity.pin().to_string()), "{why}");
        device
            .find(|event| {
                matches!(event, Event::Failed(failed, _) if *failed == ticket).then_some(())
            })
            .await;
        device.handle.stop().await.unwrap();
        server.drain().await;
        server.join().unwrap();
    });
}

#[test]
fn operations_that_come_while_the_store_works_share_a_transaction() {
    let mut house = House::new();
    house.store.slow = Duration::from_millis(20);
    let server = house.serve(0);
    let address = house.address(&server);
    block_on(async {
        let mut alice = Device::open(&address, &Kept::default());
        alice.register("alice").await;
        let channel = alice.founds(Suite::Classical).await;
        alice.done(move |client, now| client.send(now, channel, b"warm")).await;
        let before = house.store.transactions.lock().unwrap().len();
        let tickets = alice
            .handle
            .run(move |client, now| {
                let send = |at: u8| client.send(now, channel, &[at]).unwrap();
                (0..100).map(send).collect::<Vec<_>>()
            })
            .await
            .unwrap();
        for ticket in tickets {
            alice.is_done(ticket).await;
        }
        let transactions = house.store.transactions.lock().unwrap().split_off(before);
        assert!(transactions.iter().sum::<usize>() >= 100);
        assert!(transactions.len() < 40, "{transactions:?}");
        alice.handle.stop().await.unwrap();
        server.drain().await;
        server.join().unwrap();
    });
}

#[test]
fn a_call_in_flight_finishes_before_a_drained_server_closes() {
    let mut house = House::new();
    house.store.slow = Duration::from_millis(200);
    let server = house.serve(0);
    let address = house.address(&server);
    block_on(async {
        let mut alice = Device::open(&address, &Kept::default());
        alice.register("alice").await;
        let channel = alice.founds(Suite::Classical).await;
        alice.done(move |client, now| client.send(now, channel, b"warm")).await;
        let before = house.store.transactions.lock().unwrap().len();
        let ticket = alice.asks(move |client, now| client.send(now, channel, b"last")).await;
        // The store has the call, and has not answered it yet.
        Timer::after(Duration::from_millis(100)).await;
        server.drain().await;
        alice.find(|event| matches!(event, Event::Offline { .. }).then_some(())).await;
        let done = |event: &Event| matches!(event, Event::Done(done, _) if *done == ticket);
        let answered = alice.seen.iter().position(done).expect("answered before the close");
        let closed = alice.seen.iter().position(|event| matches!(event, Event::Offline { .. }));
        assert!(Some(answered) < closed);
        assert!(house.store.transactions.lock().unwrap().len() > before);
        server.join().unwrap();
        alice.handle.stop().await.unwrap();
    });
}

/// Panics elsewhere: of QUIC stacks on frames, parameters and Retry (quinn CVE-2023-42805, CVE-2026-31812,
/// CVE-2024-45311). Hostile datagrams at the running server, which then serves as before.
#[test]
fn regression_05_hostile_datagrams_do_not_stop_the_server() {
    let house = House::new();
    let server = house.serve(0);
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut random = entropy().unwrap();
    for length in [0, 1, 2, 7, 20, 21, 50, 1199, 1200, 1201, 1472, 9000] {
        for first in [0x00, 0x40, 0x7f, 0x80, 0xc0, 0xd0, 0xe0, 0xf0, 0xff] {
            for version in
                [[0, 0, 0, 0], [0, 0, 0, 1], [0x6b, 0x33, 0x43, 0xcf], [0x0a, 0x1a, 0x2a, 0x3a]]
            {
                let mut datagram = vec![0; length];
                random.fill(&mut datagram);
                // A long header (RFC 9000 §17.2): flags, version, then lengths of connection ids.
                for (byte, value) in datagram.iter_mut().zip([first].into_iter().chain(version)) {
                    *byte = value;
                }
                if let Some(byte) = datagram.get_mut(5) {
                    *byte %= 21;
                }
                socket.send_to(&datagram, server.local_addr()).unwrap();
            }
        }
    }
    block_on(async {
        let mut alice = Device::open(&house.address(&server), &Kept::default());
        alice.register("alice").await;
        alice.handle.stop().await.unwrap();
        server.drain().await;
        server.join().unwrap();
    });
}

#[test]
fn a_store_without_room_fails_calls_and_not_the_server() {
    let house = House::new();
    let server = house.serve(0);
    let address = house.address(&server);
    block_on(async {
        let mut alice = Device::open(&address, &Kept::default());
        alice.register("alice").await;
        let channel = alice.founds(Suite::Hybrid).await;
        alice.done(move |client, now| client.send(now, channel, b"before")).await;
        *house.store.broken.lock().unwrap() = true;
        let ticket = alice.asks(move |client, now| client.send(now, channel, b"one")).await;
        Timer::after(Duration::from_millis(300)).await;
        *house.store.broken.lock().unwrap() = false;
        alice.is_done(ticket).await;
        alice.handle.stop().await.unwrap();
        server.drain().await;
        server.join().unwrap();
    });
}

#[test]
fn a_clients_store_that_fails_ends_its_driver_and_says_why() {
    struct Failing;
    impl ClientStore for Failing {
        fn apply(&mut self, _: &Batch) -> Result<(), StoreFault> {
            Err(StoreFault { kind: StoreFaultKind::Full, detail: "no room".to_owned() })
        }
        fn load(&mut self, _: &Page) -> Result<Records, StoreFault> {
            Ok(Records::new())
        }
    }
    let house = House::new();
    let server = house.serve(0);
    block_on(async {
        let options = ClientOptions::new(config(&house.address(&server)));
        let (handle, events) = open(options, Box::new(Failing)).unwrap();
        let registered = handle
            .run(|client, now| client.register(now, "alice", "secret".to_owned().into()))
            .await
            .unwrap();
        assert!(registered.is_ok());
        while events.recv().await.is_ok() {}
        let run = handle.run(|_, _| ()).await;
        assert_eq!(run, Err(qpc_smol::Stopped));
        let Err(Fatal::Store(fault)) = handle.stop().await else { panic!("no fault") };
        assert_eq!(fault.kind, StoreFaultKind::Full);
        server.drain().await;
        server.join().unwrap();
    });
}
