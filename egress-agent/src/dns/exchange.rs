//! Questions over UDP to one server: each has a socket of its own, unless there are many at a time. Then they share
//! sockets for a moment ([`super::shared`]), because a socket for each would cost more than all else that a query takes.

use super::shared::{Answer, MAX_SHARERS, NoAnswer, Shared};
use crate::lock::lock;
use crate::sockets::SocketFactory;
use egress_core::dns::query::Question;
use egress_ebpf::ids::NetnsCookie;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// As many questions of a server at a time have a socket each. Further ones share sockets, and so do those that come
/// while such a socket takes questions.
const ALONE: usize = 16;

/// See the module.
pub(super) struct Exchange {
    sockets: Arc<SocketFactory>,
    netns: NetnsCookie,
    server: SocketAddr,
    /// Questions that wait for an answer.
    open: AtomicUsize,
    /// The socket of the next question that shares one.
    current: Mutex<Option<Arc<Shared>>>,
}

/// A question that waits for an answer.
struct Open<'a>(&'a AtomicUsize);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Exchange {
    pub(super) fn new(
        sockets: &Arc<SocketFactory>,
        netns: NetnsCookie,
        server: SocketAddr,
    ) -> Self {
        Self {
            sockets: Arc::clone(sockets),
            netns,
            server,
            open: AtomicUsize::new(0),
            current: Mutex::default(),
        }
    }

    /// The message that answers a question. It waits for as long as the caller does.
    pub(super) async fn ask(&self, question: &Question) -> Result<Vec<u8>, NoAnswer> {
        let others = self.open.fetch_add(1, Ordering::Relaxed);
        let _open = Open(&self.open);
        let answer = match self.put(question)? {
            Some(answer) => answer,
            None if others < ALONE => self.put_first(question, 1).await?.1,
            None => {
                let (shared, answer) = self.put_first(question, MAX_SHARERS).await?;
                *lock(&self.current) = Some(shared);
                answer
            }
        };
        let answered = answer.await;
        // The socket's task has ended.
        answered.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::BrokenPipe).into()))
    }

    /// Sends a question over the socket that others use too. `None` if there is none that takes it.
    fn put(&self, question: &Question) -> io::Result<Option<Answer>> {
        let mut current = lock(&self.current);
        let Some(shared) = &*current else {
            return Ok(None);
        };
        let answer = shared.ask_with_others(question)?;
        if answer.is_none() {
            *current = None;
        }
        Ok(answer)
    }

    /// Sends a question over a new socket for `most` of them.
    async fn put_first(
        &self,
        question: &Question,
        most: usize,
    ) -> Result<(Arc<Shared>, Answer), NoAnswer> {
        let shared = Shared::connect(&self.sockets, self.netns, self.server, most).await?;
        let shared = Arc::new(shared);
        let answer = shared.ask(question)?;
        let answer = answer.ok_or(io::ErrorKind::BrokenPipe);
        tokio::spawn(Arc::clone(&shared).receive());
        Ok((shared, answer.map_err(io::Error::from)?))
    }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
