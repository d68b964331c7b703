//! Clients and origins that send and read bytes as they are, without an HTTP library.

use crate::support::PATIENCE;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

/// An address without a listener.
pub fn refused_address() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    // No other socket gets the port while this one has it.
    std::mem::forget(socket);
    address
}

/// A raw origin: `serve_one` gets each accepted connection, with its number from 0.
pub async fn raw_origin<F, R>(serve_one: F) -> SocketAddr
where
    F: Fn(usize, Raw) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    raw_origin_on("127.0.0.1:0", serve_one).await
}

/// The same on an address.
pub async fn raw_origin_on<F, R>(bind: &str, serve_one: F) -> SocketAddr
where
    F: Fn(usize, Raw) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(bind).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve_one(number, Raw::new(stream)));
        }
    });
    addr
}

/// An origin that reads each request's head and body, and answers with `reply`.
pub async fn fixed_origin(reply: &'static str) -> SocketAddr {
    raw_origin(move |_, mut raw| async move {
        while raw.message().await.is_some() {
            raw.send(reply.as_bytes()).await;
        }
    })
    .await
}

/// An origin that answers with the head and body that it got.
pub async fn echo_origin() -> SocketAddr {
    raw_origin(|_, mut raw| async move {
        while let Some(message) = raw.message().await {
            let body = [message.head.as_bytes(), &message.body].concat();
            raw.send(
                format!(
                    "HTTP/1.1 200 OK\r\nserver: gunicorn\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                )
                .as_bytes(),
            )
            .await;
            raw.send(&body).await;
        }
    })
    .await
}

/// A message as it was on the wire.
#[derive(Debug)]
pub struct Message {
    /// Up to and including the empty line.
    pub head: String,
    pub body: Vec<u8>,
}

impl Message {
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        header_of(&self.head, name)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

fn header_of<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

/// A connection whose bytes the test writes itself.
pub struct Raw<S = TcpStream> {
    pub stream: S,
    seen: Vec<u8>,
}

impl Raw {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub fn over(stream: S) -> Self {
        Self {
            stream,
            seen: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // The other side may have left. A test judges the received bytes.
        self.stream.write_all(bytes).await.ok();
    }

    async fn more(&mut self) -> bool {
        matches!(
            timeout(PATIENCE, self.stream.read_buf(&mut self.seen))
                .await
                .expect("bytes"),
            Ok(1..)
        )
    }

    /// The next head; `None` if the connection ends first.
    pub async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.seen.windows(4).position(|four| four == b"\r\n\r\n") {
                return Some(String::from_utf8(self.seen.drain(..at + 4).collect()).unwrap());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// The next head with its body.
    pub async fn message(&mut self) -> Option<Message> {
        let head = self.head().await?;
        let mut body = Vec::new();
        if header_of(&head, "transfer-encoding").is_some() {
            loop {
                let size = usize::from_str_radix(&self.line().await?, 16).unwrap();
                body.extend(self.take(size).await?);
                if size == 0 {
                    while !self.line().await?.is_empty() {}
                    break;
                }
                self.line().await?;
            }
        } else if let Some(length) = header_of(&head, "content-length") {
            body = self.take(length.parse().unwrap()).await?;
        }
        Some(Message { head, body })
    }

    pub async fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.seen.len() < count {
            if !self.more().await {
                return None;
            }
        }
        Some(self.seen.drain(..count).collect())
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.seen.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.seen.drain(..at + 2).collect();
                return Some(String::from_utf8(line[..at].to_vec()).unwrap());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// All bytes until the other side closes.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.seen)
    }

    pub async fn ask(&mut self, request: &str) -> Message {
        self.send(request.as_bytes()).await;
        self.message().await.expect("a response")
    }
}

pub fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}
