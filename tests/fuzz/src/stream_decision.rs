//! Any bytes as the frames of an HTTP/2 client, from the library that decodes them to the decisions about their streams:
//! no panic, and no stream goes where no rule lets it go.

use crate::decision::check;
use egress_core::http::stream_head::read_stream_head;
use http::Request;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, ReadBuf};

const HEAD: usize = 60 * 1024;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Polls of one connection.
const POLLS: usize = 1000;

/// A client that has sent these bytes, and sends no more.
struct Open<'a>(&'a [u8]);

impl AsyncRead for Open<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.is_empty() {
            return Poll::Pending;
        }
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

/// Panics where something is wrong.
pub fn run(bytes: &[u8]) {
    let bytes = [PREFACE, bytes].concat();
    let stream = tokio::io::join(Open(&bytes), tokio::io::sink());
    let mut cx = Context::from_waker(Waker::noop());
    let mut builder = h2::server::Builder::new();
    builder.max_header_list_size(2 * HEAD as u32);
    let mut handshake = pin!(builder.handshake::<_, bytes::Bytes>(stream));
    let Poll::Ready(Ok(mut connection)) = handshake.as_mut().poll(&mut cx) else {
        return;
    };
    // Streams are kept, as by a proxy that has not answered yet.
    let mut open = Vec::new();
    for _ in 0..POLLS {
        let Poll::Ready(Some(Ok((request, respond)))) = connection.poll_accept(&mut cx) else {
            return;
        };
        let (mut parts, body) = request.into_parts();
        open.push((body, respond));
        let Ok(head) = read_stream_head(&mut parts, HEAD) else {
            continue;
        };
        assert_eq!(parts.headers.get_all("host").iter().count(), 1);
        check(&Request::from_parts(parts, ()), &head.authority);
    }
}
