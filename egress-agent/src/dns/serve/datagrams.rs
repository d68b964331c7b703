//! Receives queries over UDP and finds their owners.

use super::asker::Asker;
use super::observe::QueryResult;
use super::replies::Replies;
use super::server::Server;
use super::upstream::LIMIT;
use super::waiting::Way;
use crate::sockets::{Inbox, Outbox};
use egress_core::dns::content::Transport;
use egress_ebpf::ids::NetnsCookie;
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// How long receiving pauses after an error that is not a client's.
const PAUSE: Duration = Duration::from_millis(20);

/// Serves one socket until `stop` is over, and then waits until the queries that it has taken are answered.
pub async fn datagrams(
    socket: Arc<UdpSocket>,
    netns: NetnsCookie,
    server: Arc<Server>,
    stop: impl Future<Output = ()>,
) {
    tokio::pin!(stop);
    tokio::select! {
        biased;
        () = &mut stop => {}
        () = receive(socket, netns, &server) => {}
    }
    let last = Instant::now() + LIMIT;
    while server.waiting.in_use() > 0 && Instant::now() < last {
        tokio::time::sleep(PAUSE).await;
    }
}

async fn receive(socket: Arc<UdpSocket>, netns: NetnsCookie, server: &Arc<Server>) {
    let Ok(local) = socket.local_addr() else {
        return;
    };
    let from = Source {
        netns,
        port: local.port(),
        server,
        replies: Replies::new(Arc::clone(&socket)),
    };
    loop {
        if socket.readable().await.is_err() {
            return;
        }
        let taken = BATCH.with_borrow_mut(|batch| batch.take(&socket, &from));
        if let Err(error) = taken {
            tracing::warn!(%error, "cannot receive DNS queries");
            tokio::time::sleep(PAUSE).await;
        }
        // Other tasks get their turn.
        tokio::task::yield_now().await;
    }
}

thread_local! {
    /// Each thread takes one batch at a time.
    static BATCH: RefCell<Batch> = RefCell::new(Batch {
        inbox: Inbox::default(),
        outbox: Outbox::default(),
        askers: Vec::new(),
    });
}

/// An address and a mark.
type Sender = (SocketAddr, u32);

/// The socket of a batch.
struct Source<'a> {
    netns: NetnsCookie,
    port: u16,
    server: &'a Arc<Server>,
    replies: Arc<Replies>,
}

/// Queries that are received together, and the replies to them.
struct Batch {
    inbox: Inbox,
    outbox: Outbox,
    /// Who sent datagrams with this mark from this address.
    askers: Vec<(Sender, Option<Arc<Asker>>)>,
}

impl Batch {
    /// Receives what there is, and sends the replies that need no name server.
    fn take(&mut self, socket: &UdpSocket, of: &Source<'_>) -> io::Result<()> {
        let Self {
            inbox,
            outbox,
            askers,
        } = self;
        let received = socket.try_io(Interest::READABLE, || {
            if inbox.receive(socket)? {
                return Ok(());
            }
            // The socket is empty: the runtime has to wait for it.
            Err(io::ErrorKind::WouldBlock.into())
        });
        match received {
            // An ICMP error for an earlier reply: its client has left.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => return Ok(()),
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
            Ok(()) | Err(_) => {}
        }
        askers.clear();
        let server = of.server;
        for datagram in inbox.received() {
            let sender = (datagram.from, datagram.mark);
            let known = askers.iter().find(|(known, _)| *known == sender);
            let asker = if let Some((_, asker)) = known {
                asker.clone()
            } else {
                let (from, mark) = sender;
                let found = server.owners.asker(of.netns, from, of.port, mark);
                let found = found.map(Arc::new);
                askers.push((sender, found.clone()));
                found
            };
            match (asker, datagram.payload) {
                (Some(asker), Some(message)) => outbox.add(Some(datagram.from), |reply| {
                    let way = || Way::Datagram(Arc::clone(&of.replies));
                    server.take(message, &asker, Transport::Udp, way, reply);
                }),
                _ => server.queries.ended(QueryResult::Dropped),
            }
        }
        // A client that gets no reply asks again.
        outbox.send(socket, |_, _| {});
        Ok(())
    }
}
