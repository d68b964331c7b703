//! Checks that a TLS client keeps the server name of its first hello: bytes that may belong to a second hello
//! wait here until it is whole and names the same host.
//!
//! It is part of a running connection until the client's first encrypted record.
//! `egress_core::tls::second_hello` decides what a second hello may contain.

use super::client::Client;
use super::observe::DenialReason;
use super::places::{BLOCK, Place};
use egress_core::http::authority::CanonicalHost;
use egress_core::tls::second_hello::{SecondHello, SecondHelloError};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// Bytes that are read at a time behind those that wait.
const STEP: usize = 4096;

/// See the module.
pub(super) struct Guard {
    client: Client,
    name: Option<String>,
    watch: SecondHello,
    /// Bytes that were read: `ready` that may continue, then those that wait.
    held: Vec<u8>,
    room: Option<Place>,
    ready: usize,
    deadline: Option<Pin<Box<Sleep>>>,
    denied: Option<DenialReason>,
}

impl Guard {
    /// Of a connection whose first hello has this name; `behind` was read behind that hello.
    pub(super) fn new(client: &Client, name: Option<CanonicalHost>, behind: &[u8]) -> Self {
        let mut guard = Self {
            client: client.clone(),
            name: name.as_ref().map(|name| name.as_str().to_owned()),
            watch: SecondHello::new(name),
            held: Vec::new(),
            room: None,
            ready: 0,
            deadline: None,
            denied: None,
        };
        guard.take(behind);
        guard
    }

    /// Why the connection may not continue.
    pub(super) fn denied(&mut self) -> Option<DenialReason> {
        self.denied.take()
    }

    /// Nothing waits and nothing more will.
    pub(super) fn is_over(&self) -> bool {
        self.watch.is_over() && self.held.is_empty()
    }

    /// What the server sends.
    pub(super) fn server(&mut self, bytes: &[u8]) {
        self.watch.server(bytes);
    }

    fn take(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        match self.watch.client(bytes) {
            Ok(waiting) => self.ready = self.held.len() - waiting,
            Err(error) => self.deny(DenialReason::SecondHello(error)),
        }
        // The watch collects a hello again.
        let blocks = 2 * self.held.len() / BLOCK;
        if !self.client.keep_room(&mut self.room, blocks) {
            self.deny(DenialReason::MemoryLimit);
        }
    }

    /// Where nothing is denied the connection continues, and is not watched any more.
    fn deny(&mut self, reason: DenialReason) {
        if self.client.audited(&reason, self.name.as_deref()).is_some() {
            self.watch = SecondHello::ended();
            self.ready = self.held.len();
        } else {
            self.denied = Some(reason);
        }
    }

    /// Reads what may continue.
    pub(super) fn poll_read(
        &mut self,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.denied.is_some() {
                return Poll::Ready(Err(io::ErrorKind::PermissionDenied.into()));
            }
            if self.ready > 0 {
                let count = self.ready.min(buffer.remaining());
                buffer.put_slice(&self.held[..count]);
                self.held.drain(..count);
                self.ready -= count;
                return Poll::Ready(Ok(()));
            }
            let mut bytes = [0; STEP];
            let mut fresh = ReadBuf::new(&mut bytes);
            if Pin::new(&mut *stream)
                .poll_read(cx, &mut fresh)?
                .is_pending()
            {
                return self.poll_late(cx);
            }
            if fresh.filled().is_empty() {
                // The client ended its side in the middle of a hello; that part is dropped.
                return Poll::Ready(Ok(()));
            }
            self.take(fresh.filled());
        }
    }

    /// The rest of a hello must arrive in time.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            self.deadline = None;
            return Poll::Pending;
        }
        let limit = self.client.shared.limits.name;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(deadline.as_mut().poll(cx));
        self.deadline = None;
        self.deny(DenialReason::SecondHello(SecondHelloError::Late));
        if self.denied.is_some() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        // Audited: the waiting bytes continue.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
