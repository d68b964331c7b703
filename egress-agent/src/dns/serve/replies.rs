//! Replies over one socket. While many queries wait for answers, the replies of all tasks that are ready are sent with
//! one system call.

use crate::sockets::Outbox;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::UdpSocket;
use tokio::task::yield_now;

/// See the module.
pub(super) struct Replies {
    socket: Arc<UdpSocket>,
    outbox: Mutex<Outbox>,
}

impl Replies {
    pub(super) fn new(socket: Arc<UdpSocket>) -> Arc<Self> {
        Arc::new(Self {
            socket,
            outbox: Mutex::default(),
        })
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a reply that `write` appends to a buffer: at once, or with those of other tasks. A client that takes none
    /// asks again.
    pub(super) fn send(
        self: &Arc<Self>,
        to: SocketAddr,
        with_others: bool,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let mut outbox = self.outbox();
        let is_first = outbox.is_empty();
        outbox.add(Some(to), write);
        if !with_others {
            outbox.send(&self.socket, |_, _| {});
        } else if is_first {
            let replies = Arc::clone(self);
            tokio::spawn(async move {
                yield_now().await;
                replies.outbox().send(&replies.socket, |_, _| {});
            });
        }
    }
}
