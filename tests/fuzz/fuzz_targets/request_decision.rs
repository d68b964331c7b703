//! The fuzzer's way into `src/request_decision.rs`.
#![no_main]

#[path = "../src/decision.rs"]
mod decision;
#[path = "../src/request_decision.rs"]
mod request_decision;

libfuzzer_sys::fuzz_target!(|data: &[u8]| request_decision::run(data));
