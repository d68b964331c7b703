//! The way of an origin's 1xx responses to the client of the running request.
//!
//! It keeps a few of them at most: a client that does not read gets no further ones.

use super::control::Control;
use hyper::StatusCode;
use hyper::http::HeaderMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// 1xx responses that wait for an HTTP/2 client.
const WAITING: usize = 8;

/// A 1xx response.
pub(super) type InterimResponse = (StatusCode, HeaderMap);

/// See the module.
#[derive(Clone)]
pub(super) enum Interim {
    /// To the client of an HTTP/1.1 connection, as long as its request has this number.
    Http1(Arc<Control>, u64),
    /// To the client of one HTTP/2 stream.
    Http2(mpsc::Sender<InterimResponse>),
}

impl Interim {
    /// For the running request of a connection.
    pub(super) fn http1(control: &Arc<Control>) -> Self {
        Self::Http1(Arc::clone(control), control.number())
    }

    /// For a stream, whose task gets the responses.
    pub(super) fn http2() -> (Self, mpsc::Receiver<InterimResponse>) {
        let (to, from) = mpsc::channel(WAITING);
        (Self::Http2(to), from)
    }

    /// A callback that passes responses on.
    pub(super) fn passing(self) -> impl Fn(StatusCode, &HeaderMap) + Send + Sync + 'static {
        move |status, headers| self.pass(status, headers)
    }

    fn pass(&self, status: StatusCode, headers: &HeaderMap) {
        match self {
            Self::Http1(control, number) => control.interim(*number, status, headers),
            // A full queue loses it: a client may ignore any of them (RFC 9110 §15.2).
            Self::Http2(to) => drop(to.try_send((status, headers.clone()))),
        }
    }
}
