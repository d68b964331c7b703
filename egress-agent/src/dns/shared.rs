//! A socket of several questions to one server, for a short time.
//!
//! A sender off the path must guess the port, the id and the case of each letter, and a shared port lasts for too short a
//! time to be found out. Owns the socket and which datagram belongs to which question; the core (`dns/question.rs`) decides
//! whether it is the answer.

use crate::lock::lock;
use crate::sockets::{Inbox, Outbox, SocketFactory};
use egress_core::dns::query::Question;
use egress_core::dns::question::{Fit, fit, message};
use egress_ebpf::ids::NetnsCookie;
use rustix::rand::{GetRandomFlags, getrandom};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::sleep_until;

/// How many questions may share a socket, and for how long.
pub(super) const MAX_SHARERS: usize = 256;
pub(super) const SHARED: Duration = Duration::from_millis(200);
/// The questions of a socket end after this many datagrams that are not answers. Each may be a guess of one of 65 536
/// ids; a server sends none.
pub(super) const MOST_WRONG: usize = 3;
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

/// Where the answer to a question arrives.
pub(super) type Answer = oneshot::Receiver<Result<Vec<u8>, NoAnswer>>;
type Waiter = oneshot::Sender<Result<Vec<u8>, NoAnswer>>;

/// See the module.
pub(super) struct Shared {
    /// How many questions it takes.
    pub(super) most: usize,
    pub(super) socket: UdpSocket,
    pub(super) server: SocketAddr,
    pub(super) made: Instant,
    pub(super) asked: Mutex<Asked>,
}

/// The questions of a socket.
#[derive(Default)]
pub(super) struct Asked {
    /// The message of each, and who waits for its answer.
    by_id: HashMap<u16, (Vec<u8>, Option<Waiter>)>,
    /// How many have no answer yet.
    open: usize,
    wrong: usize,
    /// Questions that are sent together, and their ids.
    outbox: Outbox,
    unsent: Vec<u16>,
    /// No further question may be asked.
    closed: bool,
}

impl Shared {
    /// A new socket at a server that is not on this node.
    pub(super) async fn connect(
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
    pub(super) fn ask(&self, question: &Question) -> io::Result<Option<Answer>> {
        let mut asked = lock(&self.asked);
        let answer = self.add(&mut asked, question)?;
        asked.send(&self.socket);
        Ok(answer)
    }

    /// Sends a question together with those of other tasks: when the tasks that are ready have run. `None` if it needs
    /// another socket.
    pub(super) fn ask_with_others(
        self: &Arc<Self>,
        question: &Question,
    ) -> io::Result<Option<Answer>> {
        let mut asked = lock(&self.asked);
        let is_first = asked.unsent.is_empty();
        let answer = self.add(&mut asked, question)?;
        if is_first && answer.is_some() {
            let shared = Arc::clone(self);
            tokio::spawn(async move {
                yield_now().await;
                lock(&shared.asked).send(&shared.socket);
            });
        }
        Ok(answer)
    }

    /// Adds a question to those that are sent next.
    fn add(&self, asked: &mut Asked, question: &Question) -> io::Result<Option<Answer>> {
        if self.is_closed(asked) {
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
        asked.outbox.add(None, |bytes| bytes.extend(&message));
        asked.unsent.push(id);
        asked.by_id.insert(id, (message, Some(waiter)));
        asked.open += 1;
        Ok(Some(answer))
    }

    /// Passes on answers until no question needs the socket.
    pub(super) async fn receive(self: Arc<Self>) {
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
            let none = || io::Error::from(io::ErrorKind::WouldBlock);
            // Sending may have taken the error. Without an error, the runtime has to wait for the next one.
            let failed = socket.try_io(Interest::ERROR, || socket.take_error()?.ok_or_else(none));
            let mut read = false;
            let received = socket.try_io(Interest::READABLE, || {
                let more = inbox.receive(socket);
                read = more.is_ok();
                if more? { Ok(()) } else { Err(none()) }
            });
            let mut asked = lock(&self.asked);
            let received = received
                .err()
                .filter(|e| e.kind() != io::ErrorKind::WouldBlock);
            if let Some(error) = failed.ok().or(received) {
                asked.end(|| io::Error::from(error.kind()).into());
                return false;
            }
            // Otherwise the inbox has the datagrams of another socket.
            let arrived = read.then(|| inbox.received());
            for datagram in arrived.into_iter().flatten() {
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
    /// Sends what was added. A question that cannot be sent ends.
    fn send(&mut self, socket: &UdpSocket) {
        let Self {
            by_id,
            open,
            outbox,
            unsent,
            ..
        } = self;
        outbox.send(socket, |at, error| {
            let asked = unsent.get(at).and_then(|id| by_id.get_mut(id));
            if let Some(waiter) = asked.and_then(|(_, waiter)| waiter.take()) {
                *open -= 1;
                // Who asked may have given up.
                let _ = waiter.send(Err(error.into()));
            }
        });
        unsent.clear();
    }

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
