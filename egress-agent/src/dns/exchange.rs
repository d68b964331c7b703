//! Questions over UDP to one server: each has a socket of its own, unless there are many at a time. Then they share
//! sockets for a moment, because a socket for each would cost more than all else that a query takes.
//!
//! A sender off the path must guess the port, the id and the case of each letter, and a shared port lasts for too short a
//! time to be found out. Owns the sockets and which datagram belongs to which question; the core (`dns/question.rs`) decides
//! whether it is the answer.

use crate::sockets::{Inbox, SocketFactory};
use egress_core::dns::query::Question;
use egress_core::dns::question::{Fit, fit, message};
use egress_ebpf::ids::NetnsCookie;
use rustix::net::{SendFlags, send};
use rustix::rand::{GetRandomFlags, getrandom};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::time::sleep_until;

/// As many questions of a server at a time have a socket each. Further ones share sockets.
const ALONE: usize = 16;
/// How many questions may share a socket, and for how long.
const MOST: usize = 256;
const SHARED: Duration = Duration::from_millis(200);
/// The questions of a socket end after this many datagrams that are not answers. Each may be a guess of one of 65 536
/// ids; a server sends none.
const MOST_WRONG: usize = 3;
/// Datagrams and ICMP errors.
const READ: Interest = Interest::READABLE.add(Interest::ERROR);

/// Why a question has no answer over UDP.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// Any process of this node can send from the server's address.
    #[error("the server is on this node")]
    OnThisNode,
    /// Too many datagrams were not answers: a process may be guessing ids.
    #[error("{MOST_WRONG} wrong answers arrived")]
    WrongAnswers,
    /// The server changes upper and lower case in the question that it repeats.
    #[error("the server does not preserve the case of the question")]
    CaseLost,
    /// Of the socket.
    #[error(transparent)]
    Socket(#[from] io::Error),
}

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
        let answer = if others < ALONE {
            self.put_alone(question).await?
        } else {
            self.put(question).await?
        };
        let answered = answer.await;
        // The socket's task has ended.
        answered.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::BrokenPipe).into()))
    }

    /// Sends a question over a socket of its own.
    async fn put_alone(&self, question: &Question) -> Result<Answer, NoAnswer> {
        let (_, answer) = self.put_first(question, 1).await?;
        Ok(answer)
    }

    /// Sends a question over a socket that others use too.
    async fn put(&self, question: &Question) -> Result<Answer, NoAnswer> {
        let current = lock(&self.current).clone();
        if let Some(shared) = current
            && let Some(answer) = shared.ask(question)?
        {
            return Ok(answer);
        }
        let (shared, answer) = self.put_first(question, MOST).await?;
        *lock(&self.current) = Some(shared);
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Answer = oneshot::Receiver<Result<Vec<u8>, NoAnswer>>;
type Waiter = oneshot::Sender<Result<Vec<u8>, NoAnswer>>;

/// A socket of several questions.
struct Shared {
    /// How many.
    most: usize,
    socket: UdpSocket,
    server: SocketAddr,
    made: Instant,
    asked: Mutex<Asked>,
}

/// The questions of a socket.
#[derive(Default)]
struct Asked {
    /// The message of each, and who waits for its answer.
    by_id: HashMap<u16, (Vec<u8>, Option<Waiter>)>,
    /// How many have no answer yet.
    open: usize,
    wrong: usize,
    /// No further question may be asked.
    closed: bool,
}

impl Shared {
    async fn connect(
        sockets: &SocketFactory,
        netns: NetnsCookie,
        server: SocketAddr,
        most: usize,
    ) -> Result<Self, NoAnswer> {
        let any: SocketAddr = if server.is_ipv6() {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        };
        let socket = sockets.datagram(netns, any).await?;
        socket.connect(server).await?;
        // For a destination that is the node's own address, the kernel chooses the same address as the source.
        if server.ip().is_loopback() || socket.local_addr()?.ip() == server.ip() {
            return Err(NoAnswer::OnThisNode);
        }
        Ok(Self {
            most,
            socket,
            server,
            made: Instant::now(),
            asked: Mutex::default(),
        })
    }

    fn is_closed(&self, asked: &mut Asked) -> bool {
        asked.closed |= asked.by_id.len() >= self.most || self.made.elapsed() >= SHARED;
        asked.closed
    }

    /// Sends a question. `None` if it needs another socket.
    fn ask(&self, question: &Question) -> io::Result<Option<Answer>> {
        let mut asked = lock(&self.asked);
        if self.is_closed(&mut asked) {
            return Ok(None);
        }
        let (id, case) = loop {
            let [id, case @ ..] = random_words::<5>()?;
            let id = id as u16;
            if !asked.by_id.contains_key(&id) {
                break (id, case);
            }
        };
        let message = message(question, id, case);
        let (waiter, answer) = oneshot::channel();
        // The runtime does not know yet whether a new socket is writable. The first error may be an ICMP error for an
        // earlier question.
        send(&self.socket, &message, SendFlags::DONTWAIT)
            .or_else(|_| send(&self.socket, &message, SendFlags::DONTWAIT))?;
        asked.by_id.insert(id, (message, Some(waiter)));
        asked.open += 1;
        Ok(Some(answer))
    }

    /// Passes on answers until no question needs the socket.
    async fn receive(self: Arc<Self>) {
        let mut look = self.made + SHARED;
        loop {
            tokio::select! {
                ready = self.socket.ready(READ) => {
                    if ready.is_err() || !self.pass_on() {
                        return;
                    }
                }
                () = sleep_until(look.into()) => look += SHARED,
            }
            let mut asked = lock(&self.asked);
            if self.is_closed(&mut asked) {
                // Who waits no longer dropped the other end.
                let by_id = asked.by_id.values();
                let waits = |waiter: &Waiter| !waiter.is_closed();
                let open =
                    asked.open > 0 && by_id.filter_map(|(_, waiter)| waiter.as_ref()).any(waits);
                if !open {
                    return;
                }
            }
        }
    }

    /// Receives what there is. Returns false if the socket is not used any more.
    fn pass_on(&self) -> bool {
        INBOX.with_borrow_mut(|inbox| {
            // An ICMP error: nothing is at the server's port, or on the way.
            let socket = &self.socket;
            let failed = socket.try_io(Interest::ERROR, || socket.take_error());
            let received = socket.try_io(Interest::READABLE, || {
                if inbox.receive(socket)? {
                    return Ok(());
                }
                Err(io::ErrorKind::WouldBlock.into())
            });
            let mut asked = lock(&self.asked);
            let received = received
                .err()
                .filter(|e| e.kind() != io::ErrorKind::WouldBlock);
            if let Some(error) = failed.ok().flatten().or(received) {
                asked.end(|| io::Error::from(error.kind()).into());
                return false;
            }
            for datagram in inbox.received() {
                // One that arrived before the socket was connected can be from any sender.
                let from_server = datagram.from == self.server;
                let payload = datagram.payload.filter(|_| from_server);
                asked.take(payload.unwrap_or_default());
                if asked.wrong >= MOST_WRONG {
                    let why = NoAnswer::WrongAnswers;
                    tracing::warn!(
                        server = %self.server,
                        queries = asked.open,
                        "repeating DNS queries over TCP: {why}"
                    );
                    asked.end(|| NoAnswer::WrongAnswers);
                    return false;
                }
            }
            true
        })
    }
}

impl Asked {
    /// Ends all questions, and takes no more.
    fn end(&mut self, why: impl Fn() -> NoAnswer) {
        self.closed = true;
        for (_, waiter) in self.by_id.values_mut() {
            if let Some(waiter) = waiter.take() {
                // Who asked may have given up.
                let _ = waiter.send(Err(why()));
            }
        }
    }

    /// Takes a datagram of the server's address.
    fn take(&mut self, datagram: &[u8]) {
        let id = datagram.first_chunk().map(|id| u16::from_be_bytes(*id));
        let Some((asked, waiter)) = id.and_then(|id| self.by_id.get_mut(&id)) else {
            self.wrong += 1;
            return;
        };
        let result = match fit(asked, datagram) {
            Fit::Answer => Ok(datagram.to_vec()),
            Fit::CaseLost => Err(NoAnswer::CaseLost),
            Fit::Wrong => {
                self.wrong += 1;
                return;
            }
        };
        // A second answer changes nothing.
        if let Some(waiter) = waiter.take() {
            self.open -= 1;
            let _ = waiter.send(result);
        }
    }
}

thread_local! {
    static INBOX: RefCell<Inbox> = RefCell::new(Inbox::default());
    static RANDOM: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Random words of the kernel, which is asked for many at a time.
fn random_words<const N: usize>() -> io::Result<[u64; N]> {
    RANDOM.with_borrow_mut(|words| {
        if words.len() < N {
            let mut bytes = [0_u8; 2048];
            let mut filled = 0;
            while filled < bytes.len() {
                filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
            }
            let (chunks, _) = bytes.as_chunks();
            words.extend(chunks.iter().map(|word| u64::from_ne_bytes(*word)));
        }
        let rest = words.len() - N;
        let taken = std::array::from_fn(|at| words[rest + at]);
        words.truncate(rest);
        Ok(taken)
    })
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
