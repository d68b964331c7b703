//! The fuzzer's way into `src/access_format.rs`.
#![no_main]

#[path = "../src/access_format.rs"]
mod access_format;

libfuzzer_sys::fuzz_target!(|data: &[u8]| access_format::run(data));
