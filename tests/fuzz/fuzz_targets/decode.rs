//! The fuzzer's way into `src/decode.rs`.
#![no_main]

#[path = "../src/decode.rs"]
mod decode;

libfuzzer_sys::fuzz_target!(|data: &[u8]| decode::run(data));
