//! The write side of a client connection below the HTTP library: the proxy's own bytes beside the
//! library's, and the end of a connection in the middle of a request.
//!
//! It does not decide which bytes are sent.

use crate::proxy::stream::Rewound;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long the client may continue to send after the proxy has ended its side. An immediate close would reset the
/// connection, and the client would lose the response (Envoy's `delayed_close_timeout`).
const LINGER: Duration = Duration::from_secs(1);

/// The proxy's own bytes on their way to the client.
#[derive(Debug, Default)]
pub(super) struct Outward {
    pub(super) bytes: Vec<u8>,
    sent: usize,
}

impl Outward {
    /// Takes the status line with which `bytes` begin, and puts header lines behind it. Returns how many bytes it took:
    /// none if there are no lines.
    pub(super) fn insert(&mut self, bytes: &[u8], lines: &[u8]) -> usize {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let Some(end) = end.filter(|_| !lines.is_empty()) else {
            return 0;
        };
        self.bytes.extend_from_slice(&bytes[..=end]);
        self.bytes.extend_from_slice(lines);
        end + 1
    }

    pub(super) fn poll_write(
        &mut self,
        stream: &mut Rewound,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            let bytes = &self.bytes[self.sent..];
            match ready!(Pin::new(&mut *stream).poll_write(cx, bytes))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        *self = Self::default();
        Poll::Ready(Ok(()))
    }
}

/// The time between the end of the proxy's side and the close.
#[derive(Debug, Default)]
pub(super) struct Linger(Option<Pin<Box<Sleep>>>);

impl Linger {
    /// Whether the proxy has ended its side.
    pub(super) fn has_begun(&self) -> bool {
        self.0.is_some()
    }

    /// Discards the client's bytes until the client ends or the time is over.
    pub(super) fn poll(
        &mut self,
        stream: &mut Rewound,
        ended: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let until = self.0.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        let mut thrown_away = [0; 4096];
        while !*ended && until.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut thrown_away);
            match ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                Ok(()) | Err(_) => *ended = true,
            }
        }
        Poll::Ready(())
    }
}
