//! Any bytes as a rules file: decoding, validation and both reports must not panic, and what they
//! say must hold together. Start from `tests/data/istio`.

use egress_core::istio::report::Report;
use egress_core::istio::{Verdict, decode};

/// Panics where something is wrong.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let decoded = decode("fuzz.yaml", text);
    let report = Report::new("fuzz.yaml", text, &decoded);
    for (index, object) in decoded.objects.iter().enumerate() {
        // What cannot be decoded is never taken for something that can be loaded.
        assert!(object.spec.is_some() || report.object_verdict(index) == Verdict::Invalid);
    }
    if decoded.is_broken() {
        assert_eq!(report.verdict(), Verdict::Invalid);
    }
    assert!(!report.text(true).contains('\0'));
    for line in report.json_lines().lines() {
        assert!(line.starts_with('{') && line.ends_with('}'));
    }
}
