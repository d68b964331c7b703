//! The UDP socket of one question. It returns the answer and drops every other datagram.
//!
//! Owns how many other datagrams end the question. The core (`dns/question.rs`) decides which datagram is the
//! answer. docs/threat-model.md describes who else could send one. [`super::server`] decides what happens
//! after a question has ended without an answer.

use egress_core::dns::question::{Fit, fit};
use hickory_resolver::net::runtime::{DnsUdpSocket, TokioTime};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

/// The question ends after this many datagrams that are not the answer. Each may be a guess of one of 65 536
/// ids; a server sends none.
const MOST_WRONG: usize = 3;

/// Why a question must be asked over TCP instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Doubt {
    /// Any process of this node can send from the server's address.
    #[error("the server is on this node")]
    OnThisNode,
    /// Too many datagrams were not the answer: a process may be guessing ids.
    #[error("{MOST_WRONG} wrong answers arrived")]
    WrongAnswers,
    /// The server changes upper and lower case in the question that it repeats.
    #[error("the server does not preserve the case of the question")]
    CaseLost,
}

impl From<Doubt> for io::Error {
    fn from(doubt: Doubt) -> Self {
        // After errors of this kind hickory does not try another port.
        Self::new(io::ErrorKind::InvalidData, doubt)
    }
}

/// See the module.
pub(super) struct QuestionSocket {
    socket: UdpSocket,
    server: SocketAddr,
    asked: OnceLock<Box<[u8]>>,
    wrong: AtomicUsize,
    only_tcp: Arc<AtomicBool>,
}

impl QuestionSocket {
    /// Wraps a socket for one question to `server`. Sets `only_tcp` if it finds out that `server` must be
    /// asked over TCP.
    pub(super) async fn connect(
        socket: UdpSocket,
        server: SocketAddr,
        only_tcp: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        socket.connect(server).await?;
        // For a destination that is the node's own address, the kernel chooses the same address as the
        // source.
        let own = socket.local_addr()?.ip();
        if server.ip().is_loopback() || own == server.ip() {
            return Err(Doubt::OnThisNode.into());
        }
        Ok(Self {
            socket,
            server,
            asked: OnceLock::new(),
            wrong: AtomicUsize::new(0),
            only_tcp,
        })
    }

    fn doubt(&self, doubt: Doubt) -> io::Error {
        let server = self.server;
        match doubt {
            Doubt::CaseLost if !self.only_tcp.swap(true, Ordering::Relaxed) => {
                tracing::info!(%server, "asking this DNS server over TCP from now on: {doubt}");
            }
            Doubt::WrongAnswers => {
                tracing::warn!(%server, "repeating the DNS query over TCP: {doubt}");
            }
            Doubt::OnThisNode | Doubt::CaseLost => {}
        }
        doubt.into()
    }
}

impl DnsUdpSocket for QuestionSocket {
    type Time = TokioTime;

    fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        loop {
            let mut buffer = ReadBuf::new(buf);
            let from = ready!(self.socket.poll_recv_from(cx, &mut buffer))?;
            let asked = self.asked.get().map_or(&[][..], |asked| asked);
            // A datagram that arrived before the socket was connected can be from any sender.
            let fit = if from == self.server {
                fit(asked, buffer.filled())
            } else {
                Fit::Wrong
            };
            match fit {
                Fit::Answer => return Poll::Ready(Ok((buffer.filled().len(), from))),
                Fit::CaseLost => return Poll::Ready(Err(self.doubt(Doubt::CaseLost))),
                Fit::Wrong => {
                    if self.wrong.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_WRONG {
                        return Poll::Ready(Err(self.doubt(Doubt::WrongAnswers)));
                    }
                }
            }
        }
    }

    fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        buf: &[u8],
        _target: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.asked.get_or_init(|| buf.into());
        self.socket.poll_send(cx, buf)
    }
}
