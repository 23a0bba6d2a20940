//! The frame codec: a ping, a submission of 512 B and its answer, a push of 64 entries.
#![allow(missing_docs, clippy::unwrap_used, reason = "a measurement")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use qpc_protocol::env::UnixMillis;
use qpc_protocol::id::{AccountId, ChannelId, DeviceId, Digest, MessageId, Sender};
use qpc_protocol::wire::frame::{Decoder, encode};
use qpc_protocol::wire::message::{
    Accepted, Body, Entries, Entry, EntryKind, Frame, Part, Push, Reply, Request, Submit,
    SubmitKind,
};

fn frames() -> Vec<(&'static str, Frame)> {
    let channel = ChannelId([1; 16]);
    let submit = Submit {
        channel,
        generation: 1,
        epoch: 3,
        message: MessageId([2; 16]),
        kind: SubmitKind::Application,
        payload: Bytes::from(vec![7; 512]),
    };
    let accepted = Accepted { seq: 9, chain: Digest([3; 32]), time: UnixMillis(4), proof: [5; 64] };
    let entry = |seq| Entry {
        seq,
        kind: EntryKind::Application,
        generation: 1,
        epoch: 3,
        sender: Sender { account: AccountId([1; 32]), device: DeviceId([2; 16]) },
        message: MessageId([6; 16]),
        time: UnixMillis(4),
        origin: None,
        payload: Part::Inline(Bytes::from(vec![7; 512])),
    };
    let entries = (1..=64).map(entry).collect();
    let pushed = Entries { channel, entries, head: 64, behind: 0, first: 1 };
    let frame = |call, body| Frame { call, body };
    vec![
        ("ping", frame(1, Body::Request(Request::Ping(Bytes::new())))),
        ("submit 512 B", frame(2, Body::Request(Request::Submit(submit)))),
        ("accepted", frame(2, Body::Reply(Reply::Accepted(accepted)))),
        ("push 64 x 512 B", frame(0, Body::Push(Push::Entries(pushed)))),
    ]
}

fn codec(c: &mut Criterion) {
    for (name, frame) in frames() {
        let mut group = c.benchmark_group(format!("codec/{name}"));
        let mut bytes = Vec::new();
        encode(&frame, &mut bytes);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let mut out = Vec::with_capacity(bytes.len());
        group.bench_function("encode", |b| {
            b.iter(|| {
                out.clear();
                encode(black_box(&frame), &mut out);
                out.len()
            });
        });
        group.bench_function("decode whole", |b| {
            let mut decoder = Decoder::new();
            b.iter(|| decoder.next(&mut black_box(bytes.as_slice())).unwrap().unwrap());
        });
        group.bench_function("decode in pieces of 1,200 B", |b| {
            b.iter_batched_ref(
                Decoder::new,
                |decoder| {
                    let mut found = None;
                    for mut piece in bytes.chunks(1200) {
                        while !piece.is_empty() && found.is_none() {
                            found = decoder.next(&mut piece).unwrap();
                        }
                    }
                    found.unwrap()
                },
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

criterion_group!(benches, codec);
criterion_main!(benches);
