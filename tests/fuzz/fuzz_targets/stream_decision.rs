//! The fuzzer's way into `src/stream_decision.rs`.
#![no_main]

#[path = "../src/decision.rs"]
mod decision;
#[path = "../src/stream_decision.rs"]
mod stream_decision;

libfuzzer_sys::fuzz_target!(|data: &[u8]| stream_decision::run(data));
