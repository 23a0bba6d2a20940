//! The server's machine per kind of call, over the reference store in memory: what a call costs without transport and
//! disk.
#![allow(missing_docs, clippy::unwrap_used, reason = "a measurement")]

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use qpc_benches::device::{Caller, Device};
use qpc_benches::machine::{BINDING, InMemory};
use qpc_protocol::wire::message::{Reply, Request};

fn started() -> (InMemory, Device) {
    let mut server = InMemory::start().unwrap();
    let wall = server.wall();
    let device = Device::enrol("alice", [1; 32], wall, &BINDING, &mut server).unwrap();
    (server, device)
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
    let fetch = |limit| Request::Fetch { channel, after: 0, limit, wait_ms: 0 };
    let calls = [
        ("ping", Request::Ping(Bytes::new())),
        ("health", Request::Health),
        ("channel info", Request::ChannelInfo { channel }),
        ("channel list", Request::ChannelList { after: None }),
        ("device list", Request::DeviceList { account: device.account() }),
        ("key package status", Request::KeyPackageStatus),
        ("fetch 1 x 512 B", fetch(1)),
        ("fetch 64 x 512 B", fetch(64)),
        ("ack", Request::Ack { channel, seq: 0 }),
        ("submit 512 B, a resend", Request::Submit(resent)),
    ];
    let mut group = c.benchmark_group("server");
    for (name, request) in calls {
        server.call(request.clone()).unwrap();
        let bytes = server.encoded(request);
        group.bench_function(name, |b| b.iter(|| server.serve(&bytes).unwrap()));
    }
    group.finish();
}

/// Every submission is another one, in a log that grows.
fn submitting(c: &mut Criterion) {
    let (mut server, mut device) = started();
    let mut group = c.benchmark_group("server");
    let mut made = Vec::new();
    let mut next = |server: &mut InMemory| {
        if made.is_empty() {
            made = device.submissions(512, 1024).unwrap();
        }
        server.encoded(Request::Submit(made.pop().unwrap()))
    };
    let server = std::cell::RefCell::new(&mut server);
    group.bench_function("submit 512 B", |b| {
        b.iter_batched(
            || next(&mut server.borrow_mut()),
            |bytes| server.borrow_mut().serve(&bytes).unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, reading, submitting);
criterion_main!(benches);
