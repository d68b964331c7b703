//! What a request says: besides what the HTTP library knows of it, and in the form that routes see.
//!
//! It judges nothing.

use super::interim::Interim;
use crate::proxy::random::random;
use bytes::Bytes;
use egress_core::http::headers::receive_request;
use hyper::header::{CONNECTION, EXPECT, HeaderValue};
use hyper::http::HeaderMap;
use uuid::{Builder, Uuid};

/// See the module.
pub(super) struct Asking {
    /// The one host that it names.
    pub(super) authority: String,
    /// For the origin's 1xx responses.
    pub(super) interim: Interim,
}

/// Fields that were kept from the HTTP library.
#[derive(Default)]
pub(super) struct KeptBack {
    pub(super) expect: Option<HeaderValue>,
    pub(super) connection: Option<HeaderValue>,
}

/// The value of a field.
pub(super) fn value(of: Option<Vec<u8>>) -> Option<HeaderValue> {
    HeaderValue::from_maybe_shared(Bytes::from(of?)).ok()
}

/// Puts the headers of a request into the form that routes see. As in Envoy, a request whose target is not a path gets
/// no id.
pub(super) fn receive(headers: &mut HeaderMap, kept: KeptBack, is_path: bool) {
    let fields = [(EXPECT, kept.expect), (CONNECTION, kept.connection)];
    for (name, value) in fields {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    receive_request(headers, || is_path.then(request_id).flatten());
}

fn request_id() -> Option<HeaderValue> {
    let id = Builder::from_random_bytes(random()).into_uuid();
    let mut buffer = Uuid::encode_buffer();
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut buffer)).ok()
}
