//! Every script of `qpc_sim::crash`, with a crash at a share of its points; at all of them with `QPC_CRASH=all`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failure is a panic")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use qpc_protocol::crypto::fast;
use qpc_sim::crash::{Script, Tally, everywhere, scripts};
use qpc_sim::world::Rules;

/// By default one point in so many. There are six kinds of each: they all get their turn.
const STRIDE: usize = 5;

#[test]
fn nothing_is_lost_wherever_somebody_crashes() {
    let all = std::env::var("QPC_CRASH").is_ok_and(|value| value == "all");
    let only = std::env::var("QPC_SCRIPT").ok();
    let wanted = |script: &&Script| only.as_deref().is_none_or(|name| name == script.name);
    let scripts: Vec<_> = scripts::ALL.iter().filter(wanted).collect();
    let next = AtomicUsize::new(0);
    let tallies: Mutex<Vec<(&str, Tally)>> = Mutex::default();
    let work = || {
        while let Some((number, script)) = {
            let number = next.fetch_add(1, Ordering::Relaxed);
            scripts.get(number).map(|script| (number, script))
        } {
            let rules = Rules { backend: fast(), ..Rules::new(number as u64) };
            let (stride, offset) = if all { (1, 0) } else { (STRIDE, number % STRIDE) };
            let tally = everywhere(rules, script, stride, offset);
            tallies.lock().unwrap().push((script.name, tally));
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    let mut bad = Vec::new();
    let (mut runs, mut points) = (0, 0);
    for (name, tally) in tallies.into_inner().unwrap() {
        println!("{name}: {} runs of {} points, {} bad", tally.runs, tally.points, tally.bad.len());
        runs += tally.runs;
        points += tally.points;
        bad.extend(tally.bad);
    }
    println!("{runs} runs of {points} points");
    assert!(bad.is_empty(), "{} of {runs} runs went wrong:\n{}", bad.len(), bad.join("\n"));
}
