//! Values of the headers that the proxy adds to a request.

use bytes::BytesMut;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use std::fmt::{self, Write as _};

/// Values that share one piece of memory, so that a copy of the head copies none of them.
pub struct Values(BytesMut);

impl Default for Values {
    fn default() -> Self {
        // Longer operations need a second piece.
        Self(BytesMut::with_capacity(192))
    }
}

impl Values {
    /// Sets a header, unless the value cannot be one.
    pub(super) fn insert(
        &mut self,
        headers: &mut HeaderMap,
        name: &HeaderName,
        value: fmt::Arguments<'_>,
    ) {
        if self.0.write_fmt(value).is_ok()
            && let Ok(value) = HeaderValue::from_maybe_shared(self.0.split().freeze())
        {
            headers.insert(name, value);
        }
    }
}
