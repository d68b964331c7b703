//! The fuzzer's way into `src/dns_policy.rs`.
#![no_main]

#[path = "../src/dns_policy.rs"]
mod dns_policy;

libfuzzer_sys::fuzz_target!(|data: &[u8]| dns_policy::run(data));
