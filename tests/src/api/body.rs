//! Bodies of answers: whole, or a watch's lines as they come.

use bytes::Bytes;
use hyper::body::{Body, Frame};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// See the module.
pub(super) enum Outgoing {
    Whole(Option<Bytes>),
    Lines(mpsc::Receiver<Bytes>),
}

impl Outgoing {
    pub(super) fn whole(text: impl Into<Bytes>) -> Self {
        Self::Whole(Some(text.into()))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Lines(lines) => {
                let line = lines.poll_recv(context);
                line.map(|line| line.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }
}
