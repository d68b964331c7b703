//! Any bytes: no panic, and the same outcome in one piece and byte by byte.

use egress_core::tls::client_hello::{HelloOutcome, HelloReader, parse};

/// Panics where something is wrong.
pub fn run(bytes: &[u8]) {
    let mut reader = HelloReader::default();
    let outcome = bytes
        .iter()
        .map(|byte| reader.push(&[*byte]))
        .find(|outcome| *outcome != HelloOutcome::NeedMore)
        .unwrap_or(HelloOutcome::NeedMore);
    assert_eq!(parse(bytes), outcome);
}
