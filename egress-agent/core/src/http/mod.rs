//! The pure half of HTTP: request and response heads read strictly, the Host and the path in one
//! canonical form, Envoy's local replies, a sidecar's headers.
//!
//! The proxy owns connections, bodies and clocks.

pub mod authority;
pub mod chunked;
pub mod copy_headers;
pub mod field_list;
pub mod flood;
pub mod format;
pub mod frames;
pub mod grpc;
pub mod grpc_timeout;
pub mod head_error;
pub mod head_reader;
pub mod headers;
pub mod hop_by_hop;
pub mod local_reply;
pub mod looks;
pub mod method;
pub mod repeated;
pub mod request_head;
pub mod resets;
pub mod response_flags;
pub mod response_head;
pub mod stream_head;
pub mod target;
#[cfg(test)]
pub(crate) mod test_headers;
pub mod trace;
pub mod upstream_reset;
pub mod values;

/// The largest head of a request or of a response, in bytes (Envoy's `max_request_headers_kb` and
/// `max_response_headers_kb` defaults).
pub const MAX_HEAD: usize = 60 * 1024;
