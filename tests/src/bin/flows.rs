//! A client that makes many flows at one time: reads them from standard input as JSON and writes how
//! each ended, in their order.
//!
//! Owns sockets only; it runs inside a cgroup and a namespace that a test chose.

use hyper::{Request, Version};
use serde_json::{Value, json};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longer than any answer of a host of the lab.
const LIMIT: Duration = Duration::from_secs(8);
/// Flows at one time.
const AT_ONCE: usize = 24;

fn main() -> io::Result<()> {
    let asked: Vec<Value> = serde_json::from_reader(io::stdin())?;
    let ends = Mutex::new(vec![Value::Null; asked.len()]);
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(flow) = asked.get(at) else {
                        return;
                    };
                    let end = made(flow);
                    let mut ends = ends
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                    ends[at] = end;
                }
            });
        }
    });
    let ends = ends
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    serde_json::to_writer(io::stdout(), &ends)?;
    Ok(())
}

/// `"denied"`, `"closed"`, `"served"`, the status of the proxy's answer, or an error.
fn made(flow: &Value) -> Value {
    let to = flow["to"].as_str().and_then(|to| to.parse().ok());
    let first = flow["first"].as_array().into_iter().flatten();
    let first: Vec<u8> = first
        .filter_map(|byte| u8::try_from(byte.as_u64()?).ok())
        .collect();
    let Some(to) = to else {
        return json!({"error": "no destination"});
    };
    let ended = match flow["http2"].as_str() {
        Some(url) => http2(to, url),
        None if flow["udp"] == true => datagram(to, &first),
        None => stream(to, &first),
    };
    match ended {
        Ok(end) => end,
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => json!("denied"),
        Err(error) => json!({"error": error.to_string(), "to": to.to_string()}),
    }
}

fn stream(to: SocketAddr, first: &[u8]) -> io::Result<Value> {
    let mut stream = TcpStream::connect_timeout(&to, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    // The read below detects a connection that was closed before.
    let _ = stream.write_all(first);
    let mut answer = vec![0; 4096];
    let mut length = 0;
    // Reads a whole head, or everything that comes.
    while length < answer.len() && !answer[..length].ends_with(b"served") {
        match stream.read(&mut answer[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error),
        }
    }
    Ok(ended(&answer[..length]))
}

/// How a flow with this answer ended.
fn ended(answer: &[u8]) -> Value {
    let answer = String::from_utf8_lossy(answer);
    let status = answer
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3));
    match status.and_then(|status| status.parse::<u16>().ok()) {
        _ if answer.contains("x-served") || answer == "served" => json!("served"),
        Some(status) => json!(status),
        None if answer.is_empty() => json!("closed"),
        None => json!({"answer": answer}),
    }
}

/// An HTTP/2 request. What is no HTTP/2 counts as the answer to bytes.
fn http2(to: SocketAddr, url: &str) -> io::Result<Value> {
    let stream = TcpStream::connect_timeout(&to, LIMIT)?;
    stream.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let request = Request::get(url)
        .version(Version::HTTP_2)
        .body(())
        .map_err(io::Error::other)?;
    let read = Arc::<Mutex<Vec<u8>>>::default();
    let asking = async {
        let stream = Tap {
            stream: tokio::net::TcpStream::from_std(stream)?,
            read: Arc::clone(&read),
        };
        let (mut send, connection) = h2::client::handshake(stream)
            .await
            .map_err(io::Error::other)?;
        let (response, _) = send.send_request(request, true).map_err(io::Error::other)?;
        tokio::select! {
            response = response => response.map_err(io::Error::other),
            ended = connection => Err(io::Error::other(format!("{ended:?}"))),
        }
    };
    match runtime.block_on(async { tokio::time::timeout(LIMIT, asking).await }) {
        Ok(Ok(response)) if response.headers().contains_key("x-served") => Ok(json!("served")),
        Ok(Ok(response)) => Ok(json!(response.status().as_u16())),
        Ok(Err(_)) => Ok(ended(
            &read
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// A connection that keeps what was read.
struct Tap {
    stream: tokio::net::TcpStream,
    read: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let mut read = self
            .read
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        read.extend_from_slice(&buffer.filled()[before..]);
        polled
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn datagram(to: SocketAddr, first: &[u8]) -> io::Result<Value> {
    let any: SocketAddr = if to.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.send_to(first, to)?;
    let mut back = [0; 16];
    socket.recv_from(&mut back)?;
    Ok(json!("served"))
}
