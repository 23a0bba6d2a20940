//! What one connection costs a server's machine in memory, in the worst of cases: a program of its own, for it counts
//! every allocation.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failure is a panic")]
#![expect(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use qpc_protocol::crypto::fast;
use qpc_protocol::env::{Entropy, Now, UnixMillis};
use qpc_protocol::io::{
    Binding, BindingKind, ConnId, Input, LinkId, LinkRole, Links, Output, Transport,
};
use qpc_protocol::limits;
use qpc_protocol::server::memory::MemoryStore;
use qpc_protocol::server::{Config, Server, ServerSecrets};
use qpc_protocol::wire::frame::encode;
use qpc_protocol::wire::message::{Body, Frame, Request};
use qpc_sim::world::{Rules, World};

struct Counting;

/// Bytes allocated now.
static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator, with what came in.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise, handed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const NOW: Now = Now { mono: Duration::from_secs(1), wall: UnixMillis(1_800_000_000_000) };

/// A server's machine whose clients are bytes.
struct Bench {
    server: Server,
    store: MemoryStore,
    now: Now,
    /// Links whose next bytes are asked for.
    asked: BTreeSet<LinkId>,
    closed: BTreeSet<ConnId>,
    last: u64,
}

impl Bench {
    fn new() -> Self {
        let mut entropy = Entropy::from_seed([1; 32]);
        let secrets = ServerSecrets::generate(&mut entropy);
        let server = Server::new(Config::new(fast()), secrets, entropy, NOW);
        Self::over(server, MemoryStore::default(), NOW)
    }

    fn over(server: Server, store: MemoryStore, now: Now) -> Self {
        let (asked, closed) = (BTreeSet::new(), BTreeSet::new());
        Self { server, store, now, asked, closed, last: 1 << 40 }
    }

    fn id(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn give(&mut self, input: Input<'_>) {
        self.server.handle(self.now, input).unwrap();
        let mut buffer = Vec::new();
        loop {
            match self.server.poll(&mut buffer) {
                Output::Store(id, op) => {
                    let reply = self.store.apply(&[op]).pop().unwrap();
                    self.server.handle(self.now, Input::Stored(id, Ok(reply))).unwrap();
                }
                Output::Compute(id, job) => {
                    self.server.handle(self.now, Input::Computed(id, job.run())).unwrap();
                }
                Output::Read(link) => drop(self.asked.insert(link)),
                Output::CloseConn(conn, _) => drop(self.closed.insert(conn)),
                Output::Idle { .. } => return,
                _ => {}
            }
        }
    }

    fn connect(&mut self) -> ConnId {
        let conn = ConnId(self.id());
        let binding = Binding { kind: BindingKind::TlsExporter, value: [1; 32] };
        // Budgets per source are not what this is about.
        let peer = conn.0.to_be_bytes().to_vec();
        self.give(Input::Connected(conn, Transport { binding, peer, links: Links::Many }));
        conn
    }

    fn link(&mut self, conn: ConnId) -> LinkId {
        let link = LinkId(self.id());
        self.give(Input::Accepted(conn, link));
        link
    }

    /// As much of an endless stream as the machine asks for, if it ever stops; whether it did.
    fn flood(&mut self, link: LinkId, stream: &[u8]) -> bool {
        for _ in 0..64 * limits::CONNECTION_BACKLOG_BYTES / limits::READ_CHUNK {
            if !self.asked.remove(&link) {
                return true;
            }
            self.give(Input::Bytes(link, &stream[..stream.len().min(limits::READ_CHUNK)]));
        }
        false
    }

    /// What the machine holds.
    fn held(self) -> usize {
        let before = LIVE.load(Ordering::Relaxed);
        drop(self.server);
        before - LIVE.load(Ordering::Relaxed)
    }
}

fn frame(body: Body) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&Frame { call: 0, body }, &mut bytes);
    bytes
}

fn opening() -> Vec<u8> {
    frame(Body::Open(LinkRole::Calls))
}

/// Calls whose answers are as long as they are.
fn pings() -> Vec<u8> {
    let mut stream = Vec::new();
    for call in 1.. {
        let request = Request::Ping(vec![7; limits::PING_BYTES].into());
        encode(&Frame { call, body: Body::Request(request) }, &mut stream);
        if stream.len() > limits::READ_CHUNK - 1_024 {
            break;
        }
    }
    stream
}

/// A frame of that many bytes, in one segment of 8-byte words: nothing is known to be wrong with it before its end.
fn unfinished(bytes: usize) -> Vec<u8> {
    let words = u32::try_from(bytes / 8 - 1).unwrap();
    let mut frame = vec![0; bytes];
    frame[4..8].copy_from_slice(&words.to_le_bytes());
    frame
}

/// What a connection does before it is measured.
type Conduct = fn(&mut Bench, ConnId);

fn quiet(bench: &mut Bench, conn: ConnId) {
    let link = bench.link(conn);
    bench.give(Input::Bytes(link, &opening()));
}

/// Never reads an answer.
fn deaf(bench: &mut Bench, conn: ConnId) {
    let link = bench.link(conn);
    bench.asked.remove(&link);
    bench.give(Input::Bytes(link, &opening()));
    assert!(bench.flood(link, &pings()), "it is read without end");
}

/// Never finishes a frame of that many bytes, on nearly as many links as it may have.
fn never_done(bench: &mut Bench, conn: ConnId, bytes: usize) {
    let frame = unfinished(bytes);
    for _ in 0..limits::LINKS_PER_CONNECTION - 4 {
        let link = bench.link(conn);
        bench.asked.remove(&link);
        bench.give(Input::Bytes(link, &opening()));
        for chunk in frame[..bytes - 8].chunks(limits::READ_CHUNK) {
            if bench.asked.remove(&link) {
                bench.give(Input::Bytes(link, chunk));
            }
        }
    }
}

/// The longest that are gathered before login.
fn short(bench: &mut Bench, conn: ConnId) {
    never_done(bench, conn, 4 * 1024);
}

fn long(bench: &mut Bench, conn: ConnId) {
    never_done(bench, conn, limits::FRAME_BYTES);
}

fn deaf_and_short(bench: &mut Bench, conn: ConnId) {
    deaf(bench, conn);
    short(bench, conn);
}

fn deaf_and_long(bench: &mut Bench, conn: ConnId) {
    deaf(bench, conn);
    long(bench, conn);
}

/// Bytes per connection of many that nobody knows.
fn of_strangers(conduct: Conduct, count: usize) -> usize {
    let empty = Bench::new().held();
    let mut bench = Bench::new();
    for _ in 0..count {
        let conn = bench.connect();
        conduct(&mut bench, conn);
    }
    assert!(bench.closed.is_empty(), "who is closed holds nothing");
    (bench.held() - empty) / count
}

#[test]
fn each_kind_of_connection_stays_within_its_budget() {
    let before_login = of_strangers(quiet, 1_000);
    let hostile_stranger =
        [deaf as Conduct, short, deaf_and_short].map(|conduct| of_strangers(conduct, 20));
    let idle = of_idle(20);
    let hostile = [deaf as Conduct, long, deaf_and_long].map(of_hostile);
    println!(
        "before login {before_login}, hostile {hostile_stranger:?}; idle {idle}, hostile {hostile:?}"
    );
    assert!(before_login <= limits::STRANGER_MEMORY);
    assert!(hostile_stranger.into_iter().max().unwrap() <= limits::HOSTILE_STRANGER_MEMORY);
    assert!(idle <= limits::SESSION_MEMORY);
    assert!(hostile.into_iter().max().unwrap() <= limits::HOSTILE_SESSION_MEMORY);
}

fn logged_in(count: usize) -> World {
    let mut world = World::new(Rules { backend: fast(), ..Rules::new(1) });
    for number in 0..count {
        world.register(&format!("device{number}"));
    }
    world.settle();
    world
}

/// Bytes per connection of many that are logged in and do nothing.
fn of_idle(count: usize) -> usize {
    let held = |count: usize| {
        let mut world = logged_in(count);
        let before = LIVE.load(Ordering::Relaxed);
        drop(world.server.take());
        before - LIVE.load(Ordering::Relaxed)
    };
    let (none, all) = (held(0), held(count));
    (all - none) / count
}

/// Bytes of one connection that is logged in and does its worst.
fn of_hostile(conduct: Conduct) -> usize {
    let mut world = logged_in(1);
    let conn = world.conn_at_server(0).unwrap();
    let (server, store, now) = (world.server.take().unwrap(), world.store.clone(), world.now);
    drop(world);
    let mut bench = Bench::over(server, store, now);
    conduct(&mut bench, conn);
    assert!(bench.closed.is_empty(), "who is closed holds nothing");
    bench.held()
}
