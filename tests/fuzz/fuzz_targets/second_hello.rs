//! The fuzzer's way into `src/second_hello.rs`.
#![no_main]

#[path = "../src/second_hello.rs"]
mod second_hello;

libfuzzer_sys::fuzz_target!(|data: &[u8]| second_hello::run(data));
