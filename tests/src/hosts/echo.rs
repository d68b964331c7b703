//! A host that sends back every byte and every datagram.
//!
//! Owns only the record of what reached it.

use anyhow::{Context as _, Result};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::{TcpListener, UdpSocket};

/// A running echo, seen from the test.
#[derive(Debug, Clone, Default)]
pub struct Echo {
    peers: Arc<Mutex<Vec<IpAddr>>>,
    datagrams: Arc<AtomicUsize>,
}

impl Echo {
    /// TCP connections accepted so far.
    pub fn connections(&self) -> usize {
        self.lock().len()
    }

    /// The peer of each TCP connection, in order.
    pub fn peers(&self) -> Vec<IpAddr> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<IpAddr>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Datagrams received so far.
    pub fn datagrams(&self) -> usize {
        self.datagrams.load(Ordering::SeqCst)
    }
}

/// Listens at every address, and continues in tasks of its own.
pub(super) async fn serve(echo: Echo, addresses: Vec<SocketAddr>) -> Result<()> {
    for address in addresses {
        let tcp = TcpListener::bind(address)
            .await
            .with_context(|| format!("TCP echo at {address}"))?;
        let udp = UdpSocket::bind(address)
            .await
            .with_context(|| format!("UDP echo at {address}"))?;
        tokio::spawn(streams(echo.clone(), tcp));
        tokio::spawn(datagrams(echo.clone(), udp));
    }
    Ok(())
}

async fn streams(echo: Echo, listener: TcpListener) {
    while let Ok((mut stream, peer)) = listener.accept().await {
        echo.lock().push(peer.ip());
        tokio::spawn(async move {
            let (mut from, mut to) = stream.split();
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
    }
}

async fn datagrams(echo: Echo, socket: UdpSocket) {
    let mut buffer = vec![0; 65536];
    loop {
        // An ICMP error for an earlier answer appears here. The host continues.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        echo.datagrams.fetch_add(1, Ordering::SeqCst);
        let _ = socket.send_to(&buffer[..length], peer).await;
    }
}
