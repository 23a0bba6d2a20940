#![no_main]

libfuzzer_sys::fuzz_target!(init: qpc_sim::fuzz::prepare(), |data: &[u8]| qpc_sim::fuzz::run("restore", data));
