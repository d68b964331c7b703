//! A DNS server over TLS (RFC 7858), in front of the zone of [`Dns`].
//!
//! Owns its connections: a test counts them, closes them, and ends the server.

use super::authority::Authority;
use super::dns::{Dns, exchange};
use anyhow::{Context as _, Result};
use rustls::ServerConfig;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// A running server. It ends when this is dropped: its port and connections are closed.
pub struct DnsTls {
    state: Arc<State>,
    listening: AbortHandle,
}

struct State {
    dns: Dns,
    config: Mutex<Arc<ServerConfig>>,
    /// Clients that came, and those that finished the handshake.
    came: AtomicUsize,
    served: AtomicUsize,
    /// How many queries of a connection are answered before it is closed.
    each: AtomicUsize,
    /// Changes when all connections are to be closed.
    close: watch::Sender<()>,
}

impl DnsTls {
    /// How many clients connected.
    pub fn connections(&self) -> usize {
        self.state.came.load(Ordering::SeqCst)
    }

    /// How many clients finished the handshake.
    pub fn handshakes(&self) -> usize {
        self.state.served.load(Ordering::SeqCst)
    }

    /// Closes connections made from now on after this number of answers.
    pub fn close_after(&self, answers: usize) {
        self.state.each.store(answers, Ordering::SeqCst);
    }

    /// Closes the present connections.
    pub fn close_all(&self) {
        self.state.close.send_replace(());
    }

    /// Presents another certificate from now on.
    pub fn present(&self, authority: &Authority, name: &str) -> Result<()> {
        let config = authority.server(&[name])?;
        let current = self.state.config.lock();
        *current.unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }
}

impl Drop for DnsTls {
    fn drop(&mut self) {
        // The task owns those of the connections.
        self.listening.abort();
    }
}

/// Listens, and continues in tasks of its own.
pub(super) async fn serve(
    dns: Dns,
    address: SocketAddr,
    config: Arc<ServerConfig>,
) -> Result<DnsTls> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("DNS over TLS at {address}"))?;
    let state = Arc::new(State {
        dns,
        config: Mutex::new(config),
        came: AtomicUsize::new(0),
        served: AtomicUsize::new(0),
        each: AtomicUsize::new(usize::MAX),
        close: watch::channel(()).0,
    });
    let shared = Arc::clone(&state);
    let listening = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, peer)) = listener.accept().await {
            let state = Arc::clone(&shared);
            let mut close = state.close.subscribe();
            connections.spawn(async move {
                tokio::select! {
                    _ = close.changed() => {}
                    _ = conversation(&state, stream, peer) => {}
                }
            });
        }
    });
    let listening = listening.abort_handle();
    Ok(DnsTls { state, listening })
}

async fn conversation(state: &State, stream: TcpStream, peer: SocketAddr) -> Option<()> {
    state.came.fetch_add(1, Ordering::SeqCst);
    let config = {
        let config = state.config.lock();
        Arc::clone(&config.unwrap_or_else(PoisonError::into_inner))
    };
    let mut stream = TlsAcceptor::from(config).accept(stream).await.ok()?;
    state.served.fetch_add(1, Ordering::SeqCst);
    let each = state.each.load(Ordering::SeqCst);
    for _ in 0..each {
        exchange(&state.dns, &mut stream, peer.ip()).await?;
    }
    stream.shutdown().await.ok()
}
