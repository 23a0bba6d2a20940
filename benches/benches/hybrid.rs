//! Hybrid cryptography on both backends: X-Wing, the envelope, and what surrounds them.
#![allow(missing_docs, clippy::unwrap_used, reason = "a measurement")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use qpc_protocol::crypto::hybrid::{self, EnvelopeSecrets, Purpose};
use qpc_protocol::crypto::identity::{AccountKey, DeviceKey, DeviceRecord};
use qpc_protocol::crypto::{Backend, fast, portable, xwing};
use qpc_protocol::env::{Entropy, UnixMillis};
use qpc_protocol::id::DeviceId;

fn xwing(c: &mut Criterion, name: &str, backend: Backend) {
    let mut group = c.benchmark_group(format!("xwing/{name}"));
    let secret = [1; xwing::SECRET_LEN];
    let randomness = [2; xwing::RANDOMNESS_LEN];
    let public = xwing::public_key(backend, &secret);
    let (ciphertext, _) = xwing::encapsulate(backend, &public, &randomness).unwrap();
    group.bench_function("public key", |b| {
        b.iter(|| xwing::public_key(backend, black_box(&secret)))
    });
    group.bench_function("encapsulate", |b| {
        b.iter(|| xwing::encapsulate(backend, black_box(&public), &randomness).unwrap());
    });
    group.bench_function("decapsulate", |b| {
        b.iter(|| xwing::decapsulate(backend, &secret, black_box(&ciphertext)).unwrap());
    });
    group.finish();
}

fn envelope(c: &mut Criterion, name: &str, backend: Backend) {
    let mut entropy = Entropy::from_seed([3; 32]);
    let account = AccountKey::generate(backend, &mut entropy);
    let key = DeviceKey::generate(backend, &mut entropy);
    let (device, at) = (DeviceId([4; 16]), UnixMillis(5));
    let record = DeviceRecord::sign(backend, &account, device, key.public(), 1, at);
    let secrets = EnvelopeSecrets::generate(&mut entropy);
    let to = secrets.publish(backend, &key, record.sender(), 1, at);
    let body = [6; 512];
    let mut seal = |backend| {
        hybrid::seal(backend, Purpose::DeviceNote, &record, &key, &to, &body, &mut entropy).unwrap()
    };
    let envelope = seal(backend);
    let mut group = c.benchmark_group(format!("envelope 512 B/{name}"));
    group.bench_function("seal", |b| b.iter(|| seal(backend)));
    group.bench_function("open", |b| {
        let open = || {
            hybrid::open(backend, Purpose::DeviceNote, &secrets, record.sender(), &envelope)
                .unwrap()
        };
        b.iter(open);
    });
    group.finish();
}

fn ed25519(c: &mut Criterion, name: &str, backend: Backend) {
    let key = DeviceKey::generate(backend, &mut Entropy::from_seed([7; 32]));
    let message = [8; 128];
    let signature = key.sign(backend, &message);
    let mut group = c.benchmark_group(format!("ed25519/{name}"));
    group.bench_function("sign", |b| b.iter(|| key.sign(backend, black_box(&message))));
    group.bench_function("verify", |b| {
        b.iter(|| backend.ed25519_verify(&key.public(), black_box(&message), &signature).unwrap());
    });
    group.finish();
}

fn primitives(c: &mut Criterion, name: &str, backend: Backend) {
    let (secret, message) = ([9; 32], [10; 128]);
    let public = backend.x25519_public(&secret);
    let mut group = c.benchmark_group(format!("primitives/{name}"));
    group.bench_function("x25519 public key", |b| {
        b.iter(|| backend.x25519_public(black_box(&secret)));
    });
    group.bench_function("x25519", |b| b.iter(|| backend.x25519(black_box(&secret), &public)));
    group.bench_function("x25519 both", |b| {
        b.iter(|| backend.x25519_both(black_box(&secret), &public));
    });
    group.bench_function("sha256 128 B", |b| b.iter(|| backend.sha256(&[black_box(&message)])));
    group.bench_function("hmac-sha256 128 B", |b| {
        b.iter(|| backend.hmac_sha256(&secret, &[black_box(&message)]));
    });
    group.bench_function("hmac-sha512 128 B", |b| {
        b.iter(|| backend.hmac_sha512(&secret, &[black_box(&message)]));
    });
    group.finish();
}

fn hybrid(c: &mut Criterion) {
    for (name, backend) in [("portable", portable()), ("fast", fast())] {
        xwing(c, name, backend);
        envelope(c, name, backend);
        ed25519(c, name, backend);
        primitives(c, name, backend);
    }
}

criterion_group!(benches, hybrid);
criterion_main!(benches);
