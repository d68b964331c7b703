//! The statuses of gRPC by name and number (grpc `doc/statuscodes.md`), those that stand for an HTTP status, and the
//! other way round.
//!
//! It reads no message.

/// The names by number.
const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The number of a status.
pub fn grpc_status_of(name: &str) -> Option<u8> {
    let mut all = (0..).zip(NAMES);
    all.find(|(_, known)| *known == name)
        .map(|(number, _)| number)
}

/// `grpc-status` of a reply for a gRPC client, whose HTTP status is 200 (Envoy `grpc/status.cc`, `httpToGrpcStatus`).
pub fn grpc_status(http: u16) -> u8 {
    match http {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// The HTTP status that stands for the `grpc-status` in the head of a response (Envoy `grpc/common.cc`, `getGrpcStatus`,
/// and `grpc/status.cc`, `grpcToHttpStatus`). `None`: the response has none.
pub fn http_status(grpc: &[u8]) -> Option<u16> {
    if grpc.is_empty() {
        return None;
    }
    let number = std::str::from_utf8(grpc).ok();
    Some(match number.and_then(|number| number.trim().parse().ok()) {
        Some(0) => 200,
        Some(1) => 499,
        Some(3 | 9 | 11) => 400,
        Some(4) => 504,
        Some(5) => 404,
        Some(6 | 10) => 409,
        Some(7) => 403,
        Some(8) => 429,
        Some(12) => 501,
        Some(14) => 503,
        Some(16) => 401,
        Some(2_u64 | 13 | 15 | 17..) | None => 500,
    })
}

#[cfg(test)]
mod tests {
    use super::http_status;

    #[test]
    fn a_grpc_status_stands_for_the_status_that_envoy_names() {
        for (grpc, http) in [
            ("0", Some(200)),
            ("1", Some(499)),
            ("2", Some(500)),
            ("4", Some(504)),
            ("8", Some(429)),
            ("12", Some(501)),
            ("14", Some(503)),
            ("16", Some(401)),
            ("17", Some(500)),
            ("-1", Some(500)),
            ("x", Some(500)),
            ("", None),
        ] {
            assert_eq!(http_status(grpc.as_bytes()), http, "{grpc}");
        }
    }
}
