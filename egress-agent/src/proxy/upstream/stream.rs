//! A connection to an endpoint: plain, TLS that the proxy originates, or a tunnel through an HTTP proxy.
//!
//! It adds nothing to the bytes of its user.

use crate::proxy::places::Place;
use crate::proxy::short_write::poll_write_slices;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// See the module.
pub(in crate::proxy) enum Stream {
    Plain(TcpStream),
    Tls(Box<Tls>),
    /// Bytes through an HTTP proxy.
    Tunnel(Box<dyn Duplex>),
}

/// Bytes in both directions.
pub(in crate::proxy) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A TLS connection and the memory of its buffers.
pub(in crate::proxy) struct Tls {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) _room: Place,
}

impl Stream {
    /// Its own address.
    pub(in crate::proxy) fn local(&self) -> Option<SocketAddr> {
        let stream = match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => tls.stream.get_ref().0,
            // It belongs to the connection to the proxy.
            Self::Tunnel(_) => return None,
        };
        stream.local_addr().ok()
    }

    /// Whether an idle connection is still open. The origin must not have sent anything that its user would read.
    pub(super) fn is_idle(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.poll_lost(&mut cx).is_pending()
    }

    /// Ready once the origin closes an idle connection or sends bytes that nobody asked for. Messages of TLS itself,
    /// such as session tickets, do not count as such bytes.
    pub(super) fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut byte = [0];
        Pin::new(self)
            .poll_read(cx, &mut ReadBuf::new(&mut byte))
            .map(drop)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            // As Envoy, an end without close_notify is an end, and an alert terminates the connection.
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_read(cx, buffer),
            Self::Tls(tls) => {
                Pin::new(&mut tls.stream)
                    .poll_read(cx, buffer)
                    .map(|read| match read {
                        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
                        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                            Err(io::Error::new(io::ErrorKind::ConnectionReset, error))
                        }
                        read => read,
                    })
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_write(cx, bytes),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => poll_write_slices(stream, cx, slices),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_write_vectored(cx, slices),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(tls) => tls.stream.is_write_vectored(),
            Self::Tunnel(tunnel) => tunnel.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_flush(cx),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_shutdown(cx),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_shutdown(cx),
        }
    }
}
