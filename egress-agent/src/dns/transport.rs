//! Lets hickory create its connections with the socket factory.

use crate::sockets::SocketFactory;
use egress_ebpf::ids::NetnsCookie;
use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::runtime::{RuntimeProvider, TokioHandle, TokioTime};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpStream, UdpSocket};

type Made<S> = Pin<Box<dyn Send + Future<Output = io::Result<S>>>>;

/// Creates hickory's connections in one network namespace.
#[derive(Clone)]
pub(super) struct Transport {
    handle: TokioHandle,
    sockets: Arc<SocketFactory>,
    netns: NetnsCookie,
    limit: Duration,
}

impl Transport {
    /// `limit` is for connects without a limit from hickory.
    pub(super) fn new(sockets: Arc<SocketFactory>, netns: NetnsCookie, limit: Duration) -> Self {
        Self {
            handle: TokioHandle::default(),
            sockets,
            netns,
            limit,
        }
    }
}

impl RuntimeProvider for Transport {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> TokioHandle {
        self.handle.clone()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        _bind: Option<SocketAddr>,
        limit: Option<Duration>,
    ) -> Made<Self::Tcp> {
        let (sockets, netns) = (Arc::clone(&self.sockets), self.netns);
        let limit = limit.unwrap_or(self.limit);
        Box::pin(async move {
            sockets
                .connect(netns, server, limit)
                .await
                .map(AsyncIoTokioAsStd)
        })
    }

    /// Datagrams go through [`super::exchange`].
    fn bind_udp(&self, _local: SocketAddr, _server: SocketAddr) -> Made<UdpSocket> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}
