//! The UDP socket of one question: it passes on the answer and drops every other datagram.
//!
//! Owns which datagram is the answer, and how many others end the question. Who else could have
//! sent one is described in docs/threat-model.md; what happens to the question then is
//! [`super::server`]'s.

use hickory_resolver::net::runtime::{DnsUdpSocket, TokioTime};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

/// Datagrams that are not the answer, after which the question is dropped. Each is a guess of one
/// of 65 536 ids; a server sends none.
const MOST_WRONG: usize = 3;
/// Length of a DNS header (RFC 1035 §4.1.1).
const HEADER: usize = 12;

/// Why a question cannot be asked over UDP. Over TCP it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Doubt {
    /// Any process of this node can send from the server's address.
    #[error("the server is on this node")]
    OnThisNode,
    /// Somebody guesses.
    #[error("{MOST_WRONG} datagrams arrived that are not the answer")]
    WrongAnswers,
    /// The server changes upper and lower case in the question that it repeats.
    #[error("the server does not keep the case of the question")]
    CaseLost,
}

impl From<Doubt> for io::Error {
    fn from(doubt: Doubt) -> Self {
        // Not one of the kinds after which hickory tries another port.
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
    /// Takes a socket that was made for one question to `server`. `only_tcp` is set where this
    /// socket finds that none should go over UDP.
    pub(super) async fn connect(
        socket: UdpSocket,
        server: SocketAddr,
        only_tcp: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        socket.connect(server).await?;
        // The kernel gives a packet to one of its own addresses that very address as its source.
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
                tracing::info!(%server, "DNS server is asked over TCP from now on: {doubt}");
            }
            Doubt::WrongAnswers => {
                tracing::warn!(%server, "DNS question is asked again over TCP: {doubt}");
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
            // What came before the socket was connected can be from anywhere.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    Answer,
    CaseLost,
    Wrong,
}

/// Whether `received` answers `asked`: a response with its id and, byte for byte, its question.
/// The question's upper and lower case is random (draft-vixie-dnsext-dns0x20), so each letter of
/// the name is one more bit to guess.
fn fit(asked: &[u8], received: &[u8]) -> Fit {
    let (Some(question), Some(header)) = (question(asked), received.first_chunk::<HEADER>()) else {
        return Fit::Wrong;
    };
    // QR set, OPCODE 0 (a query), one question.
    let response = header[2] & 0xf8 == 0x80 && header[4..6] == [0, 1];
    let Some(repeated) = received.get(HEADER..HEADER + question.len()) else {
        return Fit::Wrong;
    };
    if !response || header[..2] != asked[..2] || !repeated.eq_ignore_ascii_case(question) {
        Fit::Wrong
    } else if repeated == question {
        Fit::Answer
    } else {
        Fit::CaseLost
    }
}

/// The question of a query that this agent made: one, its name not compressed.
fn question(asked: &[u8]) -> Option<&[u8]> {
    let section = asked.get(HEADER..)?;
    let mut at = 0;
    loop {
        let length = usize::from(*section.get(at)?);
        at += 1 + length;
        if length == 0 {
            // QTYPE and QCLASS follow.
            return section.get(..at + 4);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: &[u8] = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\x01\x03wWw\x02eX\0\0\x01\0\x01edns";

    fn answer(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let question = question(ASKED).unwrap();
        let mut bytes = b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0".to_vec();
        bytes.extend(question);
        bytes.extend(b"\xc0\x0c and the rest");
        change(&mut bytes);
        bytes
    }

    #[test]
    fn the_answer_has_the_id_and_the_question_as_it_was_asked() {
        assert_eq!(question(ASKED).unwrap(), b"\x03wWw\x02eX\0\0\x01\0\x01");
        assert_eq!(fit(ASKED, &answer(|_| ())), Fit::Answer);
        let servfail = answer(|b| b[3] = 0x82);
        assert_eq!(fit(ASKED, &servfail), Fit::Answer);
    }

    #[test]
    fn everything_else_is_not_the_answer() {
        for (what, bytes) in [
            ("another id", answer(|b| b[1] ^= 1)),
            ("a query", answer(|b| b[2] &= 0x7f)),
            ("a notify", answer(|b| b[2] |= 0x20)),
            ("no question", answer(|b| b[5] = 0)),
            ("two questions", answer(|b| b[5] = 2)),
            ("another name", answer(|b| b[13] = b'x')),
            ("another label length", answer(|b| b[12] = 2)),
            ("another type", answer(|b| b[21] = 28)),
            ("a compressed name", answer(|b| b[12] = 0xc0)),
            ("the header alone", answer(|b| b.truncate(HEADER))),
            ("a cut question", answer(|b| b.truncate(HEADER + 9))),
            ("nothing", Vec::new()),
        ] {
            assert_eq!(fit(ASKED, &bytes), Fit::Wrong, "{what}");
        }
        assert_eq!(fit(&[], &answer(|_| ())), Fit::Wrong, "nothing was asked");
    }

    #[test]
    fn a_server_that_changes_the_case_is_told_from_a_guess() {
        let lower = answer(|b| b[12..20].make_ascii_lowercase());
        assert_eq!(fit(ASKED, &lower), Fit::CaseLost);
    }
}
