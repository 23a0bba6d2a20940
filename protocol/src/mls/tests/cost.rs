//! What a group costs in time: `cargo test --release -p qpc-protocol --all-features --lib mls::tests::cost -- --ignored
//! --nocapture`. Nothing is asserted; compare the ratios of one run.

#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "it measures")]

use std::time::Instant;

use super::bytes::{crowd, device};
use super::world::{START, adding};
use crate::mls::group::{Group, Plan};
use crate::mls::suite::Suite;
use crate::mls::{Context, key_package};

/// The median of a few runs in milliseconds.
fn median<T>(runs: usize, mut run: impl FnMut() -> T) -> f64 {
    let mut times: Vec<_> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            let _kept = run();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The same with all threads and with one, in turns, so that both meet the same machine.
fn shared_and_alone(what: &str, runs: usize, mut run: impl FnMut() + Send) {
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let (mut shared, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        shared.push(median(1, &mut run));
        alone.push(median(1, || one.install(&mut run)));
    }
    shared.sort_by(f64::total_cmp);
    alone.sort_by(f64::total_cmp);
    let (shared, alone) = (shared[runs / 2], alone[runs / 2]);
    println!("{what}: {shared:.1} ms, with one thread {alone:.1} ms");
}

#[test]
#[ignore = "it measures"]
fn of_a_thousand_members() {
    for suite in Suite::ALL {
        let size = 1_000;
        let (mut world, mut here) = crowd(suite, size);
        let packages: Vec<_> = (1..size).map(|n| device(n + 2_000).package(suite, false)).collect();
        let checked = median(3, || {
            for package in &packages {
                key_package::check(here[0].backend, package, START).unwrap();
            }
        });
        println!("{suite:?}: check 999 key packages {checked:.1} ms");
        shared_and_alone(&format!("{suite:?}: found, add 999, store and read"), 5, || {
            let mut founder = device(0);
            founder.found(suite);
            founder.commit(&adding(&packages)).unwrap();
        });
        let mut joiner = device(5_000);
        let package = joiner.package(suite, false);
        let bundle = here[0].commit(&adding(&[package])).unwrap();
        let tree = world.accept(&mut here[0], &bundle).unwrap();
        for device in &mut here[1..] {
            device.follow(&bundle.commit).unwrap();
        }
        let disk = joiner.package_disk.clone();
        shared_and_alone(&format!("{suite:?}: join"), 7, || {
            joiner.packages = key_package::KeyPackages::restore(disk.records()).unwrap();
            let (cx, local) = (
                Context {
                    backend: joiner.backend,
                    entropy: &mut joiner.entropy,
                    wall: joiner.wall,
                },
                &joiner.local,
            );
            let welcome = bundle.welcome.as_ref().unwrap();
            Group::join(cx, local, &mut joiner.packages, welcome, &tree).unwrap();
        });
        for round in 0..3 {
            let bundle = world.turn(&mut here, round, &Plan::default());
            println!("{suite:?}: commit of {} bytes", bundle.commit.len());
        }
        let records = here[0].disk.records();
        let bytes: usize = records.iter().map(|(key, value)| key.len() + value.len()).sum();
        let load = median(9, || Group::restore(here[0].backend, records.clone()).unwrap());
        let copy = median(9, || records.clone());
        println!(
            "{suite:?}: restore {load:.2} ms (copy of {} records, {bytes} bytes: {copy:.2} ms)",
            records.len()
        );
        let backend = here[0].backend;
        let [alice, bob, _] = &mut here;
        let (alice, local) = (alice.group.as_mut().unwrap(), bob.local.clone());
        let mut entropy = bob.entropy.fork();
        let bob = bob.group.as_mut().unwrap();
        let mut payload = Vec::new();
        let (mut sent, mut received) = (Vec::new(), Vec::new());
        for _ in 0..50 {
            sent.push(median(1, || {
                let cx = Context { backend, entropy: &mut entropy, wall: START };
                payload = bob.encrypt(cx, &local, &[7; 1024]).unwrap();
                bob.take_ops()
            }));
            received.push(median(1, || {
                let cx = Context { backend, entropy: &mut entropy, wall: START };
                alice.receive(cx, &payload).unwrap();
                alice.take_ops()
            }));
        }
        sent.sort_by(f64::total_cmp);
        received.sort_by(f64::total_cmp);
        println!("{suite:?}: send {:.3} ms, receive {:.3} ms", sent[25], received[25]);
    }
}
