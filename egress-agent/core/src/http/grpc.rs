//! The statuses of gRPC by name and number (grpc `doc/statuscodes.md`), and those that stand for an HTTP status.
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
