//! The server's machine per kind of call, over the reference store in memory: what a call costs without transport and
//! disk. Jobs are run inline and are part of the call. A floor time is skipped: what is measured is work.
#![allow(missing_docs, clippy::unwrap_used, reason = "a measurement")]

use std::cell::RefCell;

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, criterion_group, criterion_main};
use qpc_benches::account::{Account, Caller};
use qpc_benches::device::Device;
use qpc_benches::machine::{BINDING, Floor, InMemory};
use qpc_protocol::id::Digest;
use qpc_protocol::limits::BLOB_CHUNK;
use qpc_protocol::mls::group::Plan;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::server::memory::MemoryStore;
use qpc_protocol::wire::message::{Reply, Request, Submit, Tokens};

fn started() -> (InMemory, Device) {
    let mut server = InMemory::start(Floor::Skip).unwrap();
    let wall = server.wall();
    let device = Device::enrol("alice", [1; 32], wall, &BINDING, &mut server).unwrap();
    (server, device)
}

/// Measures one call. `prepare` makes it, each time anew and off the clock, so that it finds what it consumes; it has
/// to be answered with a reply, and with that many entries pushed.
fn one_call<W: AsMut<InMemory>>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    pushed: usize,
    world: &mut W,
    mut prepare: impl FnMut(&mut W) -> Request,
) {
    let world = RefCell::new(world);
    let check = |world: &mut W| {
        let (answer, found) = world.as_mut().answered().unwrap();
        assert!(answer.is_ok() && found == pushed, "{name}: {answer:?}, {found} pushed");
    };
    let mut served = false;
    group.bench_function(name, |b| {
        b.iter_batched(
            || {
                let world = &mut **world.borrow_mut();
                if core::mem::replace(&mut served, true) {
                    check(world);
                }
                let request = prepare(world);
                world.as_mut().encoded(request).unwrap()
            },
            |bytes| world.borrow_mut().as_mut().serve(&bytes).unwrap(),
            BatchSize::PerIteration,
        );
    });
    if served {
        check(&mut world.borrow_mut());
    }
}

/// Calls that change nothing: the same bytes again and again.
fn reading(c: &mut Criterion) {
    let (mut server, mut device) = started();
    let channel = device.channel();
    for submit in device.submissions(512, 64).unwrap() {
        let reply = server.call(Request::Submit(submit)).unwrap();
        assert!(matches!(reply, Reply::Accepted(_)));
    }
    let resent = device.submission(512).unwrap();
    server.call(Request::Submit(resent.clone())).unwrap();
    let blob = Bytes::from(vec![7; BLOB_CHUNK]);
    let hash = Digest::of(&[&blob]);
    let put = Request::BlobPut { hash, total: BLOB_CHUNK as u64, offset: 0, chunk: blob };
    server.call(put).unwrap();
    let fetch = |limit| Request::Fetch { channel, after: 0, limit, wait_ms: 0 };
    let calls = [
        ("ping", Request::Ping(Bytes::new())),
        ("health", Request::Health),
        ("hello", Request::Hello),
        ("channel info", Request::ChannelInfo { channel }),
        ("channel list", Request::ChannelList { after: None }),
        ("device list", Request::DeviceList { account: device.account().id() }),
        ("key package status", Request::KeyPackageStatus { suite: None }),
        ("group info fetch", Request::GroupInfoFetch { channel }),
        ("fetch 1 x 512 B", fetch(1)),
        ("fetch 64 x 512 B", fetch(64)),
        ("ack", Request::Ack { channel, seq: 0 }),
        ("submit 512 B, a resend", Request::Submit(resent)),
        ("blob get 256 KiB", Request::BlobGet { hash, offset: 0 }),
    ];
    let mut group = c.benchmark_group("server");
    for (name, request) in calls {
        server.call(request.clone()).unwrap();
        let bytes = server.encoded(request).unwrap();
        group.bench_function(name, |b| b.iter(|| server.serve(&bytes).unwrap()));
    }
    group.finish();
}

/// A device with a log.
struct Log {
    server: InMemory,
    device: Device,
    made: Vec<Submit>,
    head: u64,
}

impl AsMut<InMemory> for Log {
    fn as_mut(&mut self) -> &mut InMemory {
        &mut self.server
    }
}

impl Log {
    fn submit(&mut self) -> Request {
        if self.made.is_empty() {
            self.made = self.device.submissions(512, 1024).unwrap();
        }
        self.head += 1;
        Request::Submit(self.made.pop().unwrap())
    }

    fn subscribe(&self, after: u64) -> Request {
        Request::Subscribe { channel: self.device.channel(), after }
    }

    fn unsubscribe(&self) -> Request {
        Request::Unsubscribe { channel: self.device.channel() }
    }

    fn subscribed(&mut self) {
        self.unsubscribed();
        self.server.call(self.subscribe(self.head)).unwrap();
    }

    fn unsubscribed(&mut self) {
        self.server.call(self.unsubscribe()).unwrap();
    }
}

type OnLog = (&'static str, usize, fn(&mut Log) -> Request);

/// A log and who is told of it; it has 64 entries until the submissions, which come last.
const LOG: [OnLog; 5] = [
    ("subscribe, nothing new", 0, |log| {
        log.unsubscribed();
        log.subscribe(log.head)
    }),
    ("subscribe, with a push of 64 x 512 B", 64, |log| {
        log.unsubscribed();
        log.subscribe(0)
    }),
    ("unsubscribe", 0, |log| {
        log.subscribed();
        log.unsubscribe()
    }),
    ("submit 512 B, with its push", 1, |log| {
        log.subscribed();
        log.submit()
    }),
    ("submit 512 B", 0, |log| {
        log.unsubscribed();
        log.submit()
    }),
];

fn log(c: &mut Criterion) {
    let (mut server, mut device) = started();
    for submit in device.submissions(512, 64).unwrap() {
        server.call(Request::Submit(submit)).unwrap();
    }
    let mut log = Log { server, device, made: Vec::new(), head: 64 };
    let mut group = c.benchmark_group("server");
    for (name, pushed, prepare) in LOG {
        one_call(&mut group, name, pushed, &mut log, prepare);
    }
    group.finish();
}

/// A server that newcomers find as it was in the beginning.
struct Door {
    server: InMemory,
    before: MemoryStore,
    drawn: u64,
}

impl AsMut<InMemory> for Door {
    fn as_mut(&mut self) -> &mut InMemory {
        &mut self.server
    }
}

impl Door {
    fn stranger(&mut self) -> Account {
        self.server.restore(self.before.clone());
        self.server.reconnect().unwrap();
        self.drawn += 1;
        let mut seed = [2; 32];
        seed[..8].copy_from_slice(&self.drawn.to_be_bytes());
        let (name, wall) = (format!("user-{}", self.drawn), self.server.wall());
        Account::new(&name, seed, wall, BINDING, &mut self.server).unwrap()
    }

    fn registered(&mut self) -> Account {
        let mut account = self.stranger();
        account.register(&mut self.server).unwrap();
        account
    }

    fn logged_in(&mut self) -> (Account, Tokens) {
        let mut account = self.registered();
        let tokens = account.log_in(&mut self.server).unwrap();
        (account, tokens)
    }

    /// Somebody new with an open session.
    fn inside(&mut self) -> (Account, Tokens) {
        let mut account = self.registered();
        let tokens = account.open(&mut self.server).unwrap();
        (account, tokens)
    }

    /// The same person on another connection.
    fn again(&mut self, account: &mut Account) {
        self.server.reconnect().unwrap();
        account.greet(&mut self.server).unwrap();
    }

    fn upload(&mut self, account: &mut Account, count: usize) -> Request {
        let packages = account.key_packages(count).unwrap();
        let packages = packages.into_iter().map(Bytes::from).collect();
        Request::KeyPackageUpload { packages, last_resort: None }
    }

    fn blob(&mut self, chunks: usize) -> Request {
        self.inside();
        let blob = vec![7; chunks * BLOB_CHUNK];
        let chunk = Bytes::copy_from_slice(&blob[..BLOB_CHUNK]);
        let total = blob.len() as u64;
        Request::BlobPut { hash: Digest::of(&[&blob]), total, offset: 0, chunk }
    }
}

type AtDoor = (&'static str, fn(&mut Door) -> Request);

/// Calls that leave an account, a device or a session different: each is made by somebody new.
const DOOR: [AtDoor; 18] = [
    ("register start, with its job", |door| door.stranger().register_start().unwrap().1),
    ("register finish, with its job", |door| {
        door.stranger().register_finish(&mut door.server).unwrap()
    }),
    ("login start, with its job", |door| door.registered().login_start().unwrap().1),
    ("login finish, with its job", |door| {
        door.registered().login_finish(&mut door.server).unwrap()
    }),
    ("device register", |door| door.logged_in().0.device_register()),
    ("resume", |door| {
        let (mut account, tokens) = door.inside();
        door.again(&mut account);
        account.resume(&tokens)
    }),
    ("refresh", |door| {
        let (account, tokens) = door.inside();
        account.refresh(&tokens)
    }),
    ("logout", |door| {
        door.inside();
        Request::Logout
    }),
    ("device revoke, another one", |door| {
        let (mut account, _) = door.inside();
        let lost = account.next_device();
        door.again(&mut account);
        account.open(&mut door.server).unwrap();
        account.device_revoke(lost)
    }),
    ("account lookup, its floor skipped", |door| {
        let username = door.inside().0.username().clone();
        Request::AccountLookup { username }
    }),
    ("account delete", |door| door.inside().0.delete()),
    ("key package upload 1, with its job", |door| {
        let mut account = door.inside().0;
        door.upload(&mut account, 1)
    }),
    ("key package upload 20, with its job", |door| {
        let mut account = door.inside().0;
        door.upload(&mut account, 20)
    }),
    ("key package fetch, one device", |door| {
        let mut account = door.inside().0;
        let upload = door.upload(&mut account, 1);
        door.server.call(upload).unwrap();
        Request::KeyPackageFetch { account: account.id(), suite: Suite::Hybrid, device: None }
    }),
    ("channel create, with its job", |door| {
        let (account, wall) = (door.inside().0, door.server.wall());
        Device::found(account, wall).unwrap().1
    }),
    ("group info fetch, the first, with its job", |door| {
        let (account, wall) = (door.inside().0, door.server.wall());
        let (device, create) = Device::found(account, wall).unwrap();
        door.server.done(create).unwrap();
        Request::GroupInfoFetch { channel: device.channel() }
    }),
    ("blob put 256 KiB, all of it", |door| door.blob(1)),
    ("blob put 256 KiB, the first of two chunks", |door| door.blob(2)),
];

fn door(c: &mut Criterion) {
    let server = InMemory::start(Floor::Skip).unwrap();
    let before = server.stored();
    let mut door = Door { server, before, drawn: 0 };
    let mut group = c.benchmark_group("server");
    for (name, prepare) in DOOR {
        one_call(&mut group, name, 0, &mut door, prepare);
    }
    group.finish();
}

/// A group and a guest who comes and goes. Nobody but the founder has ever committed: the tree is blank around its
/// path, and the path of a commit is encrypted to every member, the dearest case.
struct Members {
    server: InMemory,
    device: Device,
    add: Plan,
    remove: Plan,
}

impl AsMut<InMemory> for Members {
    fn as_mut(&mut self) -> &mut InMemory {
        &mut self.server
    }
}

impl Members {
    /// A group that is of that size without the guest.
    fn start(size: usize) -> Self {
        let mut server = InMemory::start(Floor::Skip).unwrap();
        let wall = server.wall();
        let mut others: Vec<_> = (0..size)
            .map(|index| {
                server.reconnect().unwrap();
                let mut seed = [3; 32];
                seed[..8].copy_from_slice(&index.to_be_bytes());
                let name = format!("user-{index}");
                let mut account = Account::new(&name, seed, wall, BINDING, &mut server).unwrap();
                account.register(&mut server).unwrap();
                account.open(&mut server).unwrap();
                let package = account.key_packages(1).unwrap().remove(0);
                (account.local().record.sender(), package)
            })
            .collect();
        server.reconnect().unwrap();
        let mut device = Device::enrol("alice", [1; 32], wall, &BINDING, &mut server).unwrap();
        let (guest, package) = others.pop().unwrap();
        let adds = others.into_iter().map(|(_, package)| package).collect();
        device.change(&Plan { adds, ..Plan::default() }, &mut server).unwrap();
        let add = Plan { adds: vec![package], ..Plan::default() };
        let remove = Plan { removes: vec![guest], ..Plan::default() };
        Self { server, device, add, remove }
    }

    /// Settles the last commit and brings the group to that size, by adding or removing the guest.
    fn settle(&mut self, size: usize) {
        self.device.merge().unwrap();
        let members = self.device.members();
        if members != size {
            let plan = if members < size { &self.add } else { &self.remove };
            self.device.change(plan, &mut self.server).unwrap();
        }
        assert_eq!(self.device.members(), size);
    }
}

type OnGroup = (&'static str, bool, fn(&mut Members) -> Request);

/// What is done to a group, and whether the guest is in it before.
const GROUP: [OnGroup; 4] = [
    ("a commit that adds the last one", false, |group| group.device.commit(&group.add).unwrap()),
    ("a commit that removes one", true, |group| group.device.commit(&group.remove).unwrap()),
    ("a commit that updates", true, |group| group.device.commit(&Plan::default()).unwrap()),
    ("group info fetch after a commit", true, |group| {
        group.device.change(&Plan::default(), &mut group.server).unwrap();
        Request::GroupInfoFetch { channel: group.device.channel() }
    }),
];

fn group(c: &mut Criterion) {
    for size in [2, 100] {
        let mut members = Members::start(size - 1);
        let mut group = c.benchmark_group(format!("server, a group of {size}"));
        group.sample_size(20);
        for (name, guest, prepare) in GROUP {
            let name = format!("{name}, with its job");
            one_call(&mut group, &name, 0, &mut members, |members| {
                members.settle(if guest { size } else { size - 1 });
                prepare(members)
            });
        }
        group.finish();
    }
}

criterion_group!(benches, reading, log, door, group);
criterion_main!(benches);
