//! The way of an origin's 1xx responses to the client of the running request.
//!
//! It keeps nothing.

use super::control::Control;
use hyper::StatusCode;
use hyper::header::HeaderName;
use hyper::http::HeaderMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;

/// A 1xx response.
pub(super) type InterimResponse = (StatusCode, HeaderMap);

/// See the module.
#[derive(Clone)]
pub(super) struct Interim {
    to: To,
    /// One was passed on. As in Envoy, further ones of the same request are not.
    passed: Arc<AtomicBool>,
    /// Headers that the route removes.
    removed: Arc<[HeaderName]>,
}

#[derive(Clone)]
enum To {
    /// To the client of an HTTP/1.1 connection, as long as its request has this number.
    Http1(Arc<Control>, u64),
    /// To the client of one HTTP/2 stream.
    Http2(mpsc::Sender<InterimResponse>),
}

impl Interim {
    /// For the running request of a connection.
    pub(super) fn http1(control: &Arc<Control>) -> Self {
        Self::new(To::Http1(Arc::clone(control), control.number()))
    }

    /// For a stream, whose task gets the responses.
    pub(super) fn http2() -> (Self, mpsc::Receiver<InterimResponse>) {
        let (to, from) = mpsc::channel(1);
        (Self::new(To::Http2(to)), from)
    }

    fn new(to: To) -> Self {
        Self {
            to,
            passed: Arc::default(),
            removed: Arc::default(),
        }
    }

    /// The same for a route that removes these headers from responses. In Envoy, a route sets none on a 1xx response.
    pub(super) fn without(&self, removed: Vec<HeaderName>) -> Self {
        Self {
            removed: removed.into(),
            ..self.clone()
        }
    }

    /// Whether one was passed on.
    pub(super) fn has_passed(&self) -> bool {
        self.passed.load(Ordering::Relaxed)
    }

    /// A callback that passes responses on.
    pub(super) fn passing(self) -> impl Fn(StatusCode, &HeaderMap) + Send + Sync + 'static {
        move |status, headers| self.pass(status, headers)
    }

    fn pass(&self, status: StatusCode, headers: &HeaderMap) {
        if self.passed.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut left = None;
        if !self.removed.is_empty() {
            let left = left.insert(headers.clone());
            for name in &*self.removed {
                left.remove(name);
            }
        }
        let headers = left.as_ref().unwrap_or(headers);
        match &self.to {
            To::Http1(control, number) => control.interim(*number, status, headers),
            // The queue is empty.
            To::Http2(to) => drop(to.try_send((status, headers.clone()))),
        }
    }
}
