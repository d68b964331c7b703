//! The fuzzer's way into `src/dns_question.rs`.
#![no_main]

#[path = "../src/dns_question.rs"]
mod dns_question;

libfuzzer_sys::fuzz_target!(|data: &[u8]| dns_question::run(data));
