//! The signals about the running request between the service of an HTTP connection and the layer below the HTTP
//! library.

use egress_core::http::head_error::HeadError;
use egress_core::http::response_head::interim_response;
use hyper::StatusCode;
use hyper::http::HeaderMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use tokio::sync::Notify;
use tokio::time::Instant;

/// The most bytes of 1xx responses that wait for one client. Further ones are dropped.
const MAX_INTERIM: usize = 64 * 1024;

/// The parts of a head that are hidden from the HTTP library.
#[derive(Debug)]
pub(super) struct Asked {
    /// The one host that the request names.
    pub(super) authority: String,
    /// The value of `expect`.
    pub(super) expect: Option<Vec<u8>>,
    /// The value of `connection` of a websocket that says close.
    pub(super) connection: Option<Vec<u8>>,
    /// The client can read 1xx responses.
    pub(super) interim: bool,
}

/// What the connection waits for. It decides whether the HTTP library keeps its buffers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Turn {
    /// A request is running, or none has come yet.
    #[default]
    Request,
    /// The next head, since this time.
    Head(Instant),
    /// The same, and others wait for the connection's memory.
    Wanted(Instant),
}

/// Shared by both sides of one connection.
#[derive(Debug, Default)]
pub(super) struct Control {
    state: Mutex<State>,
    rejection: Notify,
    left: Notify,
}

#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact that one side tells the other"
)]
struct State {
    /// Of the task that serves the connection.
    waker: Option<Waker>,
    asked: Option<Asked>,
    rejected: Option<HeadError>,
    /// Counts requests.
    number: u64,
    /// The final response of the request has not begun, so 1xx responses may be sent.
    open: bool,
    interim: Vec<u8>,
    /// Header lines for the final response, besides its own.
    lines: Vec<u8>,
    /// The head of the final response was written.
    begun: bool,
    /// Bytes of the response's body that the library has not yet written to the client's socket.
    queued: usize,
    /// The body waits until the library has written them.
    full: bool,
    /// The body of the response is done.
    replied: bool,
    /// The response is on the wire.
    answered: bool,
    tunnel: bool,
    turn: Turn,
}

impl Control {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request begins.
    pub(super) fn asked(&self, asked: Asked) {
        let mut state = self.state();
        state.number += 1;
        state.open = asked.interim;
        state.asked = Some(asked);
        (state.replied, state.answered) = (false, false);
        state.turn = Turn::Request;
    }

    /// The connection waits for the next head. `wanted`: others wait for its memory.
    pub(super) fn waits(&self, wanted: bool) {
        let mut state = self.state();
        let since = match state.turn {
            Turn::Request => Instant::now(),
            Turn::Head(since) | Turn::Wanted(since) => since,
        };
        state.turn = if wanted {
            Turn::Wanted(since)
        } else {
            Turn::Head(since)
        };
    }

    /// What the connection waits for.
    pub(super) fn turn(&self) -> Turn {
        self.state().turn
    }

    /// The head of the running request.
    pub(super) fn take_asked(&self) -> Option<Asked> {
        self.state().asked.take()
    }

    /// A head was rejected and answered.
    pub(super) fn rejected(&self, error: HeadError) {
        self.state().rejected = Some(error);
        self.rejection.notify_one();
    }

    /// The error that [`Self::rejected`] got, once.
    pub(super) fn take_rejected(&self) -> Option<HeadError> {
        self.state().rejected.take()
    }

    /// Waits until a head is rejected.
    pub(super) async fn rejection(&self) {
        self.rejection.notified().await;
    }

    /// The number of the running request, for [`Self::interim`].
    pub(super) fn number(&self) -> u64 {
        self.state().number
    }

    /// Forwards a 1xx response, unless the final response of that request has begun.
    pub(super) fn interim(&self, number: u64, status: StatusCode, headers: &HeaderMap) {
        let waker = {
            let mut state = self.state();
            if state.number != number || !state.open {
                return;
            }
            let bytes = interim_response(status, headers);
            if state.interim.len() + bytes.len() <= MAX_INTERIM {
                state.interim.extend(bytes);
            }
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn take_interim(&self, to: &mut Vec<u8>) {
        to.append(&mut self.state().interim);
    }

    /// The final response begins. These header lines are written besides its own.
    pub(super) fn responds(&self, lines: Vec<u8>) {
        let mut state = self.state();
        (state.open, state.begun) = (false, false);
        state.lines = lines;
    }

    /// Header lines that the next response has besides its own.
    pub(super) fn take_lines(&self) -> Vec<u8> {
        std::mem::take(&mut self.state().lines)
    }

    /// The head of the response was written.
    pub(super) fn has_begun(&self) -> bool {
        self.state().begun
    }

    /// The client has ended within the body of its request.
    pub(super) fn left(&self) {
        self.left.notify_one();
    }

    /// Waits until the client ends within the body of its request.
    pub(super) async fn has_left(&self) {
        self.left.notified().await;
    }

    /// The body of the response was given to the library.
    pub(super) fn replied(&self) {
        self.state().replied = true;
    }

    /// The library was given this many bytes of the response's body.
    pub(super) fn queue(&self, bytes: usize) {
        self.state().queued += bytes;
    }

    /// Bytes of the response's body that wait in the library.
    pub(super) fn queued(&self) -> usize {
        self.state().queued
    }

    /// The body gives no more bytes until these are written. The task is then woken.
    pub(super) fn full(&self) {
        self.state().full = true;
    }

    /// All bytes from the library were written.
    pub(super) fn flushed(&self) {
        let mut state = self.state();
        state.queued = 0;
        state.begun = true;
        let full = std::mem::take(&mut state.full);
        let replied = std::mem::take(&mut state.replied);
        state.answered |= replied;
        if replied || full {
            let waker = state.waker.take();
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Whether the library may get the next request. True once.
    pub(super) fn take_answered(&self) -> bool {
        std::mem::take(&mut self.state().answered)
    }

    /// The connection is no longer HTTP.
    pub(super) fn tunnel(&self) {
        self.state().tunnel = true;
    }

    pub(super) fn is_tunnel(&self) -> bool {
        self.state().tunnel
    }

    /// Wakes the task when there is something to write or to read.
    pub(super) fn wait(&self, cx: &Context<'_>) {
        let mut state = self.state();
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }
}
