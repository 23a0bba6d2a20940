//! The load generator on real processes, small: that it measures what it says.

use std::process::Command;

use qpc_benches::account::Caller;
use qpc_benches::device::Device;
use qpc_benches::machine::{BINDING, Floor, InMemory};
use qpc_protocol::wire::message::{Reply, Request};

#[test]
fn sends_are_counted_and_timed() {
    let output = Command::new(env!("CARGO_BIN_EXE_qpc-load"))
        .args(["send", "--json", "--count", "40", "--seconds", "60", "--in-flight", "1,8"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(all["payload_bytes"], 512);
    let rows = all["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for (row, depth) in rows.iter().zip([1, 8]) {
        assert_eq!(row["in_flight"], depth);
        for of in ["send", "echo"] {
            assert_eq!(row[of]["count"], 40);
            assert!(row[of]["per_second"].as_f64().unwrap() > 0.0);
            let quantile = |name: &str| row[of][name].as_u64().unwrap();
            assert!(quantile("p50_us") <= quantile("p99_us"));
            assert!(quantile("p99_us") <= quantile("max_us"));
        }
    }
}

#[test]
fn a_machine_in_memory_serves_a_device() {
    let mut server = InMemory::start(Floor::Skip).unwrap();
    let wall = server.wall();
    let mut device = Device::enrol("alice", [1; 32], wall, &BINDING, &mut server).unwrap();
    for (submit, seq) in device.submissions(512, 3).unwrap().into_iter().zip(1..) {
        assert_eq!(submit.payload.len(), 512);
        let reply = server.call(Request::Submit(submit)).unwrap();
        assert!(matches!(reply, Reply::Accepted(accepted) if accepted.seq == seq));
    }
    let channel = device.channel();
    let reply = server.call(Request::Fetch { channel, after: 0, limit: 9, wait_ms: 0 }).unwrap();
    assert!(matches!(reply, Reply::Entries(found) if found.entries.len() == 3));
}
