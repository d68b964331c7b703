//! The conditions of `retries.retryOn`, and the status codes among them.
//!
//! What each condition means is in `retry_policy`.

use std::collections::BTreeSet;
use std::fmt;

/// A condition by which a failed attempt is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Condition {
    /// `5xx`: a status of that class, or a lost upstream.
    ServerError,
    /// `gateway-error`: 502, 503, 504, or a lost upstream.
    Gateway,
    /// `reset`: a lost upstream.
    Reset,
    /// `reset-before-request`: the same before any byte of the request was sent.
    ResetBeforeRequest,
    /// `connect-failure`.
    ConnectFailure,
    /// `envoy-ratelimited`: only responses with `x-envoy-ratelimited`.
    EnvoyRateLimited,
    /// `retriable-4xx`: 409.
    Retriable4xx,
    /// `refused-stream`: of HTTP/2.
    RefusedStream,
    /// `retriable-status-codes`: the listed codes.
    StatusCodes,
    /// `retriable-headers`: Istio lists none, so it has no effect.
    Headers,
    /// `http3-post-connect-failure`: no upstream speaks HTTP/3, so it has no effect.
    Http3,
    /// gRPC status 1.
    Cancelled,
    /// gRPC status 4.
    DeadlineExceeded,
    /// gRPC status 13.
    Internal,
    /// gRPC status 8.
    ResourceExhausted,
    /// gRPC status 14.
    Unavailable,
}

/// Each condition with Envoy's name.
const NAMES: [(Condition, &str); 16] = [
    (Condition::ServerError, "5xx"),
    (Condition::Gateway, "gateway-error"),
    (Condition::Reset, "reset"),
    (Condition::ResetBeforeRequest, "reset-before-request"),
    (Condition::ConnectFailure, "connect-failure"),
    (Condition::EnvoyRateLimited, "envoy-ratelimited"),
    (Condition::Retriable4xx, "retriable-4xx"),
    (Condition::RefusedStream, "refused-stream"),
    (Condition::StatusCodes, "retriable-status-codes"),
    (Condition::Headers, "retriable-headers"),
    (Condition::Http3, "http3-post-connect-failure"),
    (Condition::Cancelled, "cancelled"),
    (Condition::DeadlineExceeded, "deadline-exceeded"),
    (Condition::Internal, "internal"),
    (Condition::ResourceExhausted, "resource-exhausted"),
    (Condition::Unavailable, "unavailable"),
];

/// A set of conditions and status codes. The default is Istio's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryOn {
    conditions: u16,
    codes: BTreeSet<u16>,
}

impl Default for RetryOn {
    fn default() -> Self {
        Self::parse("connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes")
    }
}

impl RetryOn {
    /// Reads a list with commas. Numbers are status codes, which need no `retriable-status-codes` beside them. The
    /// validation of rules rejects unknown words.
    pub fn parse(text: &str) -> Self {
        let (mut conditions, mut codes) = (0, BTreeSet::new());
        for word in text.split(',') {
            if let Ok(code) = word.parse() {
                codes.insert(code);
                conditions |= 1 << Condition::StatusCodes as u8;
            }
            let named = NAMES.iter().find(|(_, name)| *name == word);
            conditions |= named.map_or(0, |(condition, _)| 1 << *condition as u8);
        }
        Self { conditions, codes }
    }

    /// Adds the conditions in a list that are of a kind. Other words have no effect.
    pub(super) fn add_conditions(&mut self, text: &str, is_of_kind: impl Fn(Condition) -> bool) {
        for word in text.split(',').map(str::trim) {
            let mut known = NAMES.iter();
            let named = known.find(|(condition, name)| *name == word && is_of_kind(*condition));
            self.conditions |= named.map_or(0, |(condition, _)| 1 << *condition as u8);
        }
    }

    /// Adds the status codes in a list, which count if the condition is in the set.
    pub(super) fn add_codes(&mut self, text: &str) {
        if self.has(Condition::StatusCodes) {
            let codes = text
                .split(',')
                .filter_map(|word| word.trim().parse::<u16>().ok());
            self.codes.extend(codes);
        }
    }

    /// None.
    pub(super) fn none() -> Self {
        Self::parse("")
    }

    /// Whether the condition is in the set.
    pub fn has(&self, condition: Condition) -> bool {
        self.conditions & (1 << condition as u8) != 0
    }

    /// Whether there are status codes in the set.
    pub fn has_codes(&self) -> bool {
        !self.codes.is_empty()
    }

    /// Whether the status code is in the set.
    pub fn has_code(&self, status: u16) -> bool {
        self.codes.contains(&status)
    }
}

impl fmt::Display for RetryOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let implied = |c: Condition| c == Condition::StatusCodes && !self.codes.is_empty();
        let own = NAMES.iter().filter(|(c, _)| self.has(*c) && !implied(*c));
        let names = own.map(|(_, name)| (*name).to_owned());
        let codes = self.codes.iter().map(u16::to_string);
        f.write_str(&names.chain(codes).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_and_codes_are_read_and_printed_as_istio_writes_them() {
        for text in [
            "5xx,reset",
            "gateway-error,connect-failure,refused-stream",
            "5xx,429,503",
            "retriable-status-codes",
            "cancelled,deadline-exceeded,internal,resource-exhausted,unavailable",
        ] {
            assert_eq!(RetryOn::parse(text).to_string(), text);
        }
        let codes = RetryOn::parse("429");
        assert!(codes.has(Condition::StatusCodes) && codes.has_code(429) && !codes.has_code(430));
    }
}
