//! The connection to a name server over TCP, or over TLS (RFC 7858). All questions to this server that need one share it.
//!
//! Owns when it is made, given up and made again. TLS is strict (RFC 8310): a question leaves only on a connection whose
//! server has a valid certificate for its name. hickory multiplexes the questions, and passes on the messages as they are.

use super::failing::{Failing, reason};
use super::transport::Transport;
use super::trust::Trust;
use crate::sockets::SocketFactory;
use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use egress_core::dns::name_server::NameServer;
use egress_ebpf::ids::NetnsCookie;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::RuntimeProvider as _;
use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::tcp::{TcpClientStream, TcpStream};
use hickory_resolver::net::xfer::{
    BufDnsStreamHandle, DnsExchange, DnsHandle as _, DnsMultiplexer, FirstAnswer as _,
};
use hickory_resolver::proto::op::{DnsRequest, DnsResponse};
use rustls::pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
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
const NO_AUTHORITIES: NetError = NetError::Message("no authorities for DNS over TLS");
/// Questions on the connection at one time: more than the agent takes from all workloads.
const UNDER_WAY: usize = 16_384;

/// See the module.
pub(super) struct Link {
    server: SocketAddr,
    transport: Transport,
    tls: Option<Tls>,
    /// Held while a connection is made, so that only one is.
    current: Mutex<Current>,
    /// Attempts to connect that have ended.
    attempts: AtomicU64,
}

/// How a server is verified.
struct Tls {
    name: ServerName<'static>,
    trust: Arc<ArcSwapOption<Trust>>,
    failing: Failing,
}

#[derive(Default)]
struct Current {
    open: Option<Arc<Open>>,
    /// The number and the error of the last attempt, if it failed.
    failed: Option<(u64, NetError)>,
}

/// A connection. Over TLS, its server was verified.
struct Open {
    exchange: DnsExchange<Transport>,
    /// Reads and writes until the connection ends.
    task: JoinHandle<()>,
    /// What the server was verified by.
    trust: Option<Arc<Trust>>,
    given_up: AtomicBool,
    heard: SyncMutex<Instant>,
}

impl Open {
    fn serves(&self, trust: Option<&Arc<Trust>>) -> bool {
        let given_up = self.given_up.load(Ordering::Relaxed);
        let same = self.trust.as_ref().map(Arc::as_ptr) == trust.map(Arc::as_ptr);
        !given_up && !self.task.is_finished() && same
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
            self.link.fails("no answer over the connection");
        }
    }
}

impl Link {
    /// The link to a server over TCP, in this network namespace.
    pub(super) fn over_tcp(
        server: SocketAddr,
        sockets: &Arc<SocketFactory>,
        netns: NetnsCookie,
    ) -> Self {
        Self {
            server,
            transport: Transport::new(Arc::clone(sockets), netns, CONNECT),
            tls: None,
            current: Mutex::default(),
            attempts: AtomicU64::new(0),
        }
    }

    /// The link to a server over TLS; `None` if it is not asked so.
    pub(super) fn over_tls(
        server: &NameServer,
        sockets: &Arc<SocketFactory>,
        trust: &Arc<ArcSwapOption<Trust>>,
    ) -> anyhow::Result<Option<Self>> {
        let Some(name) = &server.tls else {
            return Ok(None);
        };
        let name = ServerName::try_from(name.to_string()).context("the name of a DNS server")?;
        Ok(Some(Self {
            tls: Some(Tls {
                name,
                trust: Arc::clone(trust),
                failing: Failing::new(server.to_string()),
            }),
            ..Self::over_tcp(server.address, sockets, sockets.own_netns())
        }))
    }

    /// Where the server listens.
    pub(super) fn server(&self) -> SocketAddr {
        self.server
    }

    /// Whether it is over TLS.
    pub(super) fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Why it cannot be asked over TLS at the moment.
    pub(super) fn failing(&self) -> Option<String> {
        self.tls.as_ref()?.failing.why()
    }

    /// Notes why it cannot be asked over TLS.
    fn fails(&self, why: &str) {
        if let Some(tls) = &self.tls {
            tls.failing.set(why);
        }
    }

    /// The server's message about a question.
    pub(super) async fn ask(&self, request: DnsRequest) -> Result<DnsResponse, NetError> {
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
                    if let Some(tls) = &self.tls {
                        tls.failing.end();
                    }
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
        self.fails("the server closes each connection without an answer");
        Err(closed)
    }

    /// The connection, which is made first if there is none.
    async fn open(&self) -> Result<Arc<Open>, NetError> {
        let before = self.attempts.load(Ordering::Relaxed);
        let mut current = self.current.lock().await;
        let trust = match &self.tls {
            Some(tls) => Some(tls.trust.load_full().ok_or(NO_AUTHORITIES)?),
            None => None,
        };
        let open = current.open.as_ref();
        if let Some(open) = open.filter(|open| open.serves(trust.as_ref())) {
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
                let error = if self.tls.is_some() {
                    let why = reason(&error);
                    self.fails(&why);
                    NetError::Msg(format!("TLS: {why}"))
                } else {
                    error.into()
                };
                current.failed = Some((attempt, error.clone()));
                Err(error)
            }
        }
    }

    async fn connect(&self, trust: Option<Arc<Trust>>) -> io::Result<Open> {
        let connected = self.transport.connect_tcp(self.server, None, Some(CONNECT));
        let AsyncIoTokioAsStd(stream) = connected.await?;
        let (Some(tls), Some(trust)) = (&self.tls, trust) else {
            return Ok(self.opened(stream, None));
        };
        let connector = TlsConnector::from(Arc::clone(&trust.config));
        let stream = connector.connect(tls.name.clone(), stream).await?;
        Ok(self.opened(stream, Some(trust)))
    }

    fn opened<S>(&self, stream: S, trust: Option<Arc<Trust>>) -> Open
    where
        S: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
    {
        let (sender, messages) = BufDnsStreamHandle::with_buffer_size(self.server, UNDER_WAY);
        let stream = AsyncIoTokioAsStd(stream);
        let stream = TcpStream::from_stream_with_receiver(stream, self.server, messages);
        let stream = DnsMultiplexer::new(TcpClientStream::from_stream(stream), sender)
            .with_max_active_requests(UNDER_WAY);
        let (exchange, background) = DnsExchange::from_stream(stream);
        Open {
            exchange,
            task: tokio::spawn(background),
            trust,
            given_up: AtomicBool::new(false),
            heard: SyncMutex::new(Instant::now()),
        }
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
