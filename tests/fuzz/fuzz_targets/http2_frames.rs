//! The fuzzer's way into `src/http2_frames.rs`.
#![no_main]

#[path = "../src/http2_frames.rs"]
mod http2_frames;

libfuzzer_sys::fuzz_target!(|data: &[u8]| http2_frames::run(data));
