//! An origin for HTTP/1.1, and HTTP/2 with prior knowledge, plain or behind TLS, that records its requests.
//!
//! Owns connections and the record of requests. `httpbin` has the answers.

use super::httpbin;
use anyhow::{Context as _, Result};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `GET` and so on.
    pub method: String,
    /// The path with its query.
    pub target: String,
    /// The headers in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Where the connection came from.
    pub peer: SocketAddr,
    /// The address that it was made to.
    pub local: SocketAddr,
}

impl Seen {
    /// The first header of that name; the name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A running origin, seen from the test.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    record: Arc<Record>,
}

#[derive(Debug, Default)]
struct Record {
    connections: AtomicUsize,
    handshakes: AtomicUsize,
    requests: Mutex<Vec<Seen>>,
}

impl Origin {
    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.record.connections.load(Ordering::SeqCst)
    }

    /// TLS handshakes completed so far.
    pub fn handshakes(&self) -> usize {
        self.record.handshakes.load(Ordering::SeqCst)
    }

    /// Every request so far, oldest first.
    pub fn requests(&self) -> Vec<Seen> {
        self.lock().clone()
    }

    /// The latest request.
    pub fn last_request(&self) -> Option<Seen> {
        self.lock().last().cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.record
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a request. Returns how many there were for its target.
    fn note(&self, request: &Request<Incoming>, peer: SocketAddr, local: SocketAddr) -> usize {
        let headers = request
            .headers()
            .iter()
            .map(|(name, value)| {
                (
                    name.to_string(),
                    String::from_utf8_lossy(value.as_bytes()).into_owned(),
                )
            })
            .collect();
        let target = request.uri().to_string();
        let mut requests = self.lock();
        requests.push(Seen {
            method: request.method().to_string(),
            target: target.clone(),
            headers,
            peer,
            local,
        });
        requests.iter().filter(|r| r.target == target).count()
    }
}

/// Listens at every address, and continues in tasks of its own.
pub(super) async fn serve(
    origin: Origin,
    addresses: Vec<SocketAddr>,
    tls: Option<Arc<ServerConfig>>,
) -> Result<()> {
    for address in addresses {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("an origin at {address}"))?;
        tokio::spawn(accept(
            listener,
            origin.clone(),
            tls.clone().map(TlsAcceptor::from),
        ));
    }
    Ok(())
}

async fn accept(listener: TcpListener, origin: Origin, tls: Option<TlsAcceptor>) {
    while let Ok((stream, peer)) = listener.accept().await {
        // A listener at every address has none of its own. A client may have left.
        let Ok(local) = stream.local_addr() else {
            continue;
        };
        origin.record.connections.fetch_add(1, Ordering::SeqCst);
        let _ = stream.set_nodelay(true);
        let (origin, tls) = (origin.clone(), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => connection(stream, (peer, local), origin, "http").await,
                Some(tls) => {
                    // A client that gives up in the handshake is not an error.
                    if let Ok(stream) = tls.accept(stream).await {
                        origin.record.handshakes.fetch_add(1, Ordering::SeqCst);
                        connection(stream, (peer, local), origin, "https").await;
                    }
                }
            }
        });
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    (peer, local): (SocketAddr, SocketAddr),
    origin: Origin,
    scheme: &'static str,
) {
    let service = service_fn(move |request| {
        let times = origin.note(&request, peer, local);
        async move { Ok::<_, Infallible>(httpbin::answer(request, peer, scheme, times).await) }
    });
    // Some tests break connections.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
