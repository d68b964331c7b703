//! A client that sends what a case says and watches what the server does.

use super::{Step, Want};
use crate::frames::*;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// Only a server that does nothing takes this long.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a server must send no more than its window.
const QUIET: Duration = Duration::from_millis(200);

#[derive(Debug)]
enum Event {
    Frame {
        kind: u8,
        flags: u8,
        stream: u32,
        payload: Vec<u8>,
    },
    Closed,
    Silent,
}

pub async fn run(server: SocketAddr, steps: &[Step]) -> Result<(), String> {
    let stream = TcpStream::connect(server)
        .await
        .map_err(|e| e.to_string())?;
    stream.set_nodelay(true).unwrap();
    let mut peer = Peer {
        stream,
        bytes: Vec::new(),
        data: 0,
    };
    peer.send(&preface()).await;
    // The settings of the server and its acknowledgement of ours.
    let mut settings = 0;
    while settings < 2 {
        match peer.event(Instant::now() + PATIENCE).await {
            Event::Frame {
                kind: SETTINGS,
                flags,
                ..
            } => {
                settings += 1;
                if flags & 1 == 0 {
                    peer.send(&frame(SETTINGS, 1, 0, b"")).await;
                }
            }
            Event::Frame { .. } => {}
            other => return Err(format!("no settings: {other:?}")),
        }
    }
    for step in steps {
        match step {
            Step::Send(bytes) => peer.send(bytes).await,
            Step::Wait(want) => peer.wait(want).await?,
        }
    }
    Ok(())
}

struct Peer {
    stream: TcpStream,
    bytes: Vec<u8>,
    /// Bytes of the body of stream 1.
    data: usize,
}

impl Peer {
    /// The server may have closed the connection already.
    async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    async fn event(&mut self, until: Instant) -> Event {
        loop {
            if self.bytes.len() >= 9 {
                let length = [0, self.bytes[0], self.bytes[1], self.bytes[2]];
                let end = 9 + u32::from_be_bytes(length) as usize;
                if self.bytes.len() >= end {
                    let whole: Vec<u8> = self.bytes.drain(..end).collect();
                    let stream = u32::from_be_bytes(whole[5..9].try_into().unwrap());
                    if whole[3] == DATA && stream == 1 {
                        self.data += end - 9;
                    }
                    return Event::Frame {
                        kind: whole[3],
                        flags: whole[4],
                        stream,
                        payload: whole[9..].to_vec(),
                    };
                }
            }
            match timeout_at(until, self.stream.read_buf(&mut self.bytes)).await {
                Ok(Ok(1..)) => {}
                Ok(_) => return Event::Closed,
                Err(_) => return Event::Silent,
            }
        }
    }

    async fn wait(&mut self, want: &Want) -> Result<(), String> {
        if matches!(want, Want::Lives) {
            self.send(&frame(PING, 0, 0, b"alive?!?")).await;
        }
        let until = Instant::now() + PATIENCE;
        loop {
            if let Want::Data(most) = want
                && self.data >= *most
            {
                return self.quiet(*most).await;
            }
            let event = self.event(until).await;
            if let Some(done) = judge(want, &event) {
                return if done {
                    Ok(())
                } else {
                    Err(format!("wanted {want:?}, got {event:?}"))
                };
            }
        }
    }

    /// No further byte of the body comes for a while.
    async fn quiet(&mut self, most: usize) -> Result<(), String> {
        let until = Instant::now() + QUIET;
        while let Event::Frame { .. } = self.event(until).await {}
        if self.data > most {
            return Err(format!("{} bytes instead of {most}", self.data));
        }
        Ok(())
    }
}

/// Whether an event is what is wanted. `None` if it says nothing of that.
#[expect(clippy::match_same_arms, reason = "an arm for each wish")]
fn judge(want: &Want, event: &Event) -> Option<bool> {
    let code = |payload: &[u8], at: usize| {
        let bytes = payload.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    };
    match (want, event) {
        (Want::Connection(_) | Want::Stream(_) | Want::Malformed, Event::Closed) => Some(true),
        (
            Want::Connection(codes) | Want::Stream(codes),
            Event::Frame {
                kind: GOAWAY,
                payload,
                ..
            },
        ) => Some(codes.contains(&code(payload, 4)?)),
        (
            Want::Stream(codes),
            Event::Frame {
                kind: RST_STREAM,
                payload,
                ..
            },
        ) => Some(codes.contains(&code(payload, 0)?)),
        (
            Want::Malformed,
            Event::Frame {
                kind: RST_STREAM | GOAWAY,
                ..
            },
        ) => Some(true),
        (
            Want::Malformed,
            Event::Frame {
                kind: HEADERS,
                payload,
                ..
            },
        ) => Some(status(payload) != Some(200)),
        (
            Want::Status(wanted),
            Event::Frame {
                kind: HEADERS,
                stream: 1,
                payload,
                ..
            },
        ) => Some(status(payload) == Some(*wanted)),
        (
            Want::Lives,
            Event::Frame {
                kind: PING,
                flags: 1,
                payload,
                ..
            },
        ) => Some(payload == b"alive?!?"),
        (
            Want::Settings,
            Event::Frame {
                kind: SETTINGS,
                flags: 1,
                ..
            },
        ) => Some(true),
        (_, Event::Closed | Event::Silent | Event::Frame { kind: GOAWAY, .. }) => Some(false),
        (
            Want::Status(_) | Want::Data(_),
            Event::Frame {
                kind: RST_STREAM, ..
            },
        ) => Some(false),
        _ => None,
    }
}

/// The status of a response, which is the first field of its block, if it is one of the static table (RFC 7541,
/// appendix A).
fn status(block: &[u8]) -> Option<u16> {
    let mut bytes = block.iter();
    let first = loop {
        match bytes.next()? {
            // A change of the table's size (RFC 7541 §6.3).
            0x3f => while bytes.next()? & 0x80 != 0 {},
            0x20..0x3f => {}
            other => break *other,
        }
    };
    let of_table = [200, 204, 206, 304, 400, 404, 500];
    let index = first.checked_sub(0x88)?;
    of_table.get(usize::from(index)).copied()
}
