//! What a request says: besides what the HTTP library knows of it, and in the form that routes see.
//!
//! It judges nothing.

use super::interim::Interim;
use crate::proxy::random::random;
use egress_core::http::headers::receive_request;
use hyper::header::{EXPECT, HeaderValue};
use hyper::http::HeaderMap;
use uuid::{Builder, Uuid};

/// See the module.
pub(super) struct Asking {
    /// The one host that it names.
    pub(super) authority: String,
    /// For the origin's 1xx responses.
    pub(super) interim: Interim,
}

/// Puts the headers of a request into the form that routes see. `expect` was kept from the HTTP library. As in Envoy, a
/// request whose target is not a path gets no id.
pub(super) fn receive(headers: &mut HeaderMap, expect: Option<HeaderValue>, is_path: bool) {
    if let Some(expect) = expect {
        headers.insert(EXPECT, expect);
    }
    receive_request(headers, || is_path.then(request_id).flatten());
}

fn request_id() -> Option<HeaderValue> {
    let id = Builder::from_random_bytes(random()).into_uuid();
    let mut buffer = Uuid::encode_buffer();
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut buffer)).ok()
}
