#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qpc_sim::fuzz::run("bundle", data));
