//! The fuzzer's way into `src/request_head.rs`.
#![no_main]

#[path = "../src/request_head.rs"]
mod request_head;

libfuzzer_sys::fuzz_target!(|data: &[u8]| request_head::run(data));
