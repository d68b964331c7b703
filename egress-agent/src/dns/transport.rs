//! Lets hickory create its connections and datagram sockets with the socket factory.

use super::question::QuestionSocket;
use crate::sockets::SocketFactory;
use egress_ebpf::ids::NetnsCookie;
use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::runtime::{RuntimeProvider, TokioHandle, TokioTime};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::net::TcpStream;

type Made<S> = Pin<Box<dyn Send + Future<Output = io::Result<S>>>>;

/// Creates hickory's sockets in one network namespace.
#[derive(Clone)]
pub(super) struct Transport {
    handle: TokioHandle,
    sockets: Arc<SocketFactory>,
    netns: NetnsCookie,
    only_tcp: Arc<AtomicBool>,
    limit: Duration,
}

impl Transport {
    /// `only_tcp` is set when the server turns out to change the case of a question. `limit` is for connects
    /// without a limit from hickory.
    pub(super) fn new(
        sockets: Arc<SocketFactory>,
        netns: NetnsCookie,
        only_tcp: Arc<AtomicBool>,
        limit: Duration,
    ) -> Self {
        Self {
            handle: TokioHandle::default(),
            sockets,
            netns,
            only_tcp,
            limit,
        }
    }
}

impl RuntimeProvider for Transport {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = QuestionSocket;
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

    fn bind_udp(&self, local: SocketAddr, server: SocketAddr) -> Made<QuestionSocket> {
        let (sockets, netns) = (Arc::clone(&self.sockets), self.netns);
        let only_tcp = Arc::clone(&self.only_tcp);
        Box::pin(async move {
            let socket = sockets.datagram(netns, local).await?;
            QuestionSocket::connect(socket, server, only_tcp).await
        })
    }
}
