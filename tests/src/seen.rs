//! The result of a lab step, as text and as checks.
//!
//! Owns the reading of replies. `walk` has the expectations.

use crate::client::Reply;
use crate::hosts::Origin;
use serde_json::Value;

/// A reply in a few words.
pub fn brief(reply: &Reply) -> String {
    let millis = reply.elapsed.as_micros() / 100;
    let time = format!("{}.{} ms", millis / 10, millis % 10);
    if reply.exit == 0 {
        format!("{} in {time}", reply.code)
    } else if reply.refused() {
        format!("denied (curl {}) in {time}", reply.exit)
    } else {
        format!("curl {} in {time}", reply.exit)
    }
}

/// Whether it took between `low` and `high` seconds, including both.
pub fn between(reply: &Reply, low: f64, high: f64) -> bool {
    (low..=high).contains(&reply.elapsed.as_secs_f64())
}

/// A header of the latest request, the name in lower case.
pub fn last_header(origin: &Origin, name: &str) -> Option<String> {
    origin.last_request()?.header(name).map(str::to_owned)
}

/// The headers of step 1 that the origin's answer does not show as a sidecar would send them.
pub fn missing_headers(body: &str) -> Vec<&'static str> {
    let answer: Value = serde_json::from_str(body).unwrap_or(Value::Null);
    let value = |name: &str| {
        answer["headers"][name]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let hex = |name: &str, digits: usize| {
        let value = value(name);
        value.len() == digits && value.chars().all(|c| c.is_ascii_hexdigit())
    };
    [
        ("Host", value("Host") == "httpbin.org"),
        (
            "X-B3-Sampled",
            matches!(value("X-B3-Sampled").as_str(), "0" | "1"),
        ),
        ("X-B3-Spanid", hex("X-B3-Spanid", 16)),
        ("X-B3-Traceid", hex("X-B3-Traceid", 32)),
        (
            "X-Envoy-Decorator-Operation",
            value("X-Envoy-Decorator-Operation") == "httpbin.org:80/*",
        ),
    ]
    .into_iter()
    .filter(|(_, there)| !there)
    .map(|(name, _)| name)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sidecars_headers_are_recognised() {
        let plain = r#"{"headers": {"Host": "httpbin.org"}}"#;
        assert_eq!(missing_headers(plain).len(), 4);
        let full = r#"{"headers": {"Host": "httpbin.org", "X-B3-Sampled": "1",
            "X-B3-Spanid": "0123456789abcdef", "X-B3-Traceid": "0123456789abcdef0123456789abcdef",
            "X-Envoy-Decorator-Operation": "httpbin.org:80/*"}}"#;
        assert_eq!(missing_headers(full), Vec::<&str>::new());
        assert_eq!(missing_headers("").len(), 5);
    }
}
