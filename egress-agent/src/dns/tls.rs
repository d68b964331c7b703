//! The connection to a name server over TLS (RFC 7858). All questions to this server share it.
//!
//! Owns when it is made, given up and made again. It is strict (RFC 8310): a question leaves only on a connection whose
//! server has a valid certificate for its name. hickory multiplexes the questions.

use super::failing::{Failing, reason};
use super::transport::Transport;
use super::trust::Trust;
use crate::sockets::SocketFactory;
use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use egress_core::dns::name_server::NameServer;
use hickory_resolver::config::ConnectionConfig;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::RuntimeProvider as _;
use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::tcp::{TcpClientStream, TcpStream};
use hickory_resolver::net::xfer::{
    BufDnsStreamHandle, DnsExchange, DnsHandle, DnsMultiplexer, DnsResponseStream, FirstAnswer as _,
};
use hickory_resolver::proto::op::{DnsRequest, DnsResponse};
use hickory_resolver::{ConnectionProvider, PoolContext};
use rustls::pki_types::ServerName;
use std::future::{Ready, ready};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long connect and handshake may take. A question may take 0.2 s longer, so that its error says why there is no
/// connection.
const CONNECT: Duration = Duration::from_millis(1800);
/// A connection on which nothing arrives while a question waits this long is given up: the server may be gone without a
/// word. A server that is only slow for one name answers others meanwhile.
const SILENCE: Duration = Duration::from_millis(1500);
/// How many connections a question is sent on if the server closes them.
const TRIES: usize = 3;
/// Questions on the connection at one time: more than the agent takes from all workloads.
const UNDER_WAY: usize = 16_384;

/// See the module.
pub(super) struct Link {
    server: SocketAddr,
    name: ServerName<'static>,
    transport: Transport,
    trust: Arc<ArcSwapOption<Trust>>,
    /// Held while a connection is made, so that only one is.
    current: Mutex<Current>,
    /// Attempts to connect that have ended.
    attempts: AtomicU64,
    failing: Failing,
}

#[derive(Default)]
struct Current {
    open: Option<Arc<Open>>,
    /// The number and the error of the last attempt, if it failed.
    failed: Option<(u64, NetError)>,
}

/// A connection whose server was verified.
struct Open {
    exchange: DnsExchange<Transport>,
    /// Reads and writes until the connection ends.
    task: JoinHandle<()>,
    /// What the server was verified by.
    trust: Arc<Trust>,
    given_up: AtomicBool,
    heard: SyncMutex<Instant>,
}

impl Open {
    fn serves(&self, trust: &Arc<Trust>) -> bool {
        let given_up = self.given_up.load(Ordering::Relaxed);
        !given_up && !self.task.is_finished() && Arc::ptr_eq(&self.trust, trust)
    }

    fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    fn last_heard(&self) -> Instant {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question that waits for its answer. Whoever asked it may stop waiting at any time.
struct Asked<'a> {
    link: &'a Link,
    open: &'a Open,
    at: Instant,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if self.at.elapsed() >= SILENCE && self.open.last_heard() < self.at {
            self.open.give_up();
            self.link.failing.set("no answer over the connection");
        }
    }
}

impl Link {
    /// The link to a server; `None` if it is not asked over TLS.
    pub(super) fn new(
        server: &NameServer,
        sockets: &Arc<SocketFactory>,
        trust: &Arc<ArcSwapOption<Trust>>,
    ) -> anyhow::Result<Option<Self>> {
        let Some(name) = &server.tls else {
            return Ok(None);
        };
        let name = ServerName::try_from(name.to_string()).context("the name of a DNS server")?;
        Ok(Some(Self {
            server: server.address,
            name,
            transport: Transport::new(Arc::clone(sockets), sockets.own_netns(), CONNECT),
            trust: Arc::clone(trust),
            current: Mutex::default(),
            attempts: AtomicU64::new(0),
            failing: Failing::new(server.to_string()),
        }))
    }

    /// Where the server listens.
    pub(super) fn server(&self) -> SocketAddr {
        self.server
    }

    /// Why it cannot be asked at the moment.
    pub(super) fn failing(&self) -> Option<String> {
        self.failing.why()
    }

    /// Hickory's provider of connections, all of which are this one.
    pub(super) fn provider(self: &Arc<Self>) -> OverTls {
        OverTls(Arc::clone(self))
    }

    async fn ask(&self, request: DnsRequest) -> Result<DnsResponse, NetError> {
        let mut closed = NetError::NoConnections;
        for _ in 0..TRIES {
            let open = self.open().await?;
            let at = Instant::now();
            let asked = Asked {
                link: self,
                open: &open,
                at,
            };
            match open.exchange.send(request.clone()).first_answer().await {
                Ok(response) => {
                    let now = Instant::now();
                    *open.heard.lock().unwrap_or_else(PoisonError::into_inner) = now;
                    self.failing.end();
                    return Ok(response);
                }
                Err(error @ (NetError::Timeout | NetError::Proto(_))) => return Err(error),
                Err(error) => {
                    open.give_up();
                    drop(asked);
                    closed = error;
                }
            }
        }
        self.failing
            .set("the server closes each connection without an answer");
        Err(closed)
    }

    /// The connection, which is made first if there is none.
    async fn open(&self) -> Result<Arc<Open>, NetError> {
        let before = self.attempts.load(Ordering::Relaxed);
        let mut current = self.current.lock().await;
        let Some(trust) = self.trust.load_full() else {
            return Err(NetError::Message("no authorities for DNS over TLS"));
        };
        if let Some(open) = current.open.as_ref().filter(|open| open.serves(&trust)) {
            return Ok(Arc::clone(open));
        }
        // A question that waited for this attempt does not begin another one.
        if let Some((_, error)) = current.failed.as_ref().filter(|(n, _)| *n > before) {
            return Err(error.clone());
        }
        current.open = None;
        let made = match timeout(CONNECT, self.connect(trust)).await {
            Ok(made) => made,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
        };
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        match made {
            Ok(open) => {
                let open = Arc::new(open);
                current.open = Some(Arc::clone(&open));
                Ok(open)
            }
            Err(error) => {
                let why = reason(&error);
                self.failing.set(&why);
                let error = NetError::Msg(format!("TLS: {why}"));
                current.failed = Some((attempt, error.clone()));
                Err(error)
            }
        }
    }

    async fn connect(&self, trust: Arc<Trust>) -> io::Result<Open> {
        let connected = self.transport.connect_tcp(self.server, None, Some(CONNECT));
        let AsyncIoTokioAsStd(stream) = connected.await?;
        let connector = TlsConnector::from(Arc::clone(&trust.config));
        let stream = connector.connect(self.name.clone(), stream).await?;
        let (sender, messages) = BufDnsStreamHandle::with_buffer_size(self.server, UNDER_WAY);
        let stream = AsyncIoTokioAsStd(stream);
        let stream = TcpStream::from_stream_with_receiver(stream, self.server, messages);
        let stream = DnsMultiplexer::new(TcpClientStream::from_stream(stream), sender)
            .with_max_active_requests(UNDER_WAY);
        let (exchange, background) = DnsExchange::from_stream(stream);
        Ok(Open {
            exchange,
            task: tokio::spawn(background),
            trust,
            given_up: AtomicBool::new(false),
            heard: SyncMutex::new(Instant::now()),
        })
    }
}

/// A link as hickory's provider of connections, and as each of them.
#[derive(Clone)]
pub(super) struct OverTls(Arc<Link>);

impl ConnectionProvider for OverTls {
    type Conn = Self;
    type FutureConn = Ready<Result<Self, NetError>>;
    type RuntimeProvider = Transport;

    fn new_connection(
        &self,
        _server: IpAddr,
        _config: &ConnectionConfig,
        _context: &PoolContext,
    ) -> Result<Self::FutureConn, NetError> {
        Ok(ready(Ok(self.clone())))
    }

    fn runtime_provider(&self) -> &Transport {
        &self.0.transport
    }
}

impl DnsHandle for OverTls {
    type Response = DnsResponseStream;
    type Runtime = Transport;

    fn send(&self, request: DnsRequest) -> DnsResponseStream {
        let link = Arc::clone(&self.0);
        Box::pin(async move { link.ask(request).await }).into()
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
