//! The outside: hosts in a network namespace that answer like real ones.
//!
//! Owns their threads. Each kind of host has its own file: `origin` (HTTP and TLS), `dns`, `dns_tls`, `echo`, `anyone`. Dropping
//! the world ends them all.

mod anyone;
mod authority;
mod dns;
mod dns_tls;
mod echo;
mod httpbin;
mod origin;

pub use authority::Authority;
pub use dns::{Dns, Fault};
pub use dns_tls::DnsTls;
pub use echo::Echo;
pub use origin::{Origin, Seen};

use crate::netns::NetNs;
use anyhow::{Context as _, Result, anyhow};
use rustls::ServerConfig;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, mpsc};
use tokio::runtime::{Handle, Runtime};

/// The hosts of one network namespace.
#[derive(Debug)]
pub struct World {
    runtime: Option<Runtime>,
    handle: Handle,
}

impl World {
    /// A world without hosts.
    pub fn start(netns: &NetNs) -> Result<Self> {
        // Threads inherit the namespace of the thread that made them, so a runtime that is built inside does all its
        // work inside.
        let runtime = netns.run(|| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .thread_name("world")
                .enable_all()
                .build()
        })??;
        let handle = runtime.handle().clone();
        Ok(Self {
            runtime: Some(runtime),
            handle,
        })
    }

    /// Runs `work` on a thread inside and waits for it.
    fn inside<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        // `block_on` would poll on the caller's thread, in the caller's namespace.
        let (sender, receiver) = mpsc::channel();
        self.handle.spawn(async move {
            let _ = sender.send(work.await);
        });
        receiver
            .recv()
            .map_err(|_| anyhow!("a host ended before it was up"))?
    }

    /// An HTTP origin that answers as httpbin does, at `port` of each address.
    pub fn http(&self, addresses: &[IpAddr], port: u16) -> Result<Origin> {
        let origin = Origin::default();
        self.inside(origin::serve(
            origin.clone(),
            sockets(addresses, port),
            None,
        ))?;
        Ok(origin)
    }

    /// Lets an origin answer at `port` of further addresses, without TLS.
    pub fn http_as(&self, origin: &Origin, addresses: &[IpAddr], port: u16) -> Result<()> {
        self.inside(origin::serve(
            origin.clone(),
            sockets(addresses, port),
            None,
        ))
    }

    fn tls(
        &self,
        addresses: &[IpAddr],
        port: u16,
        config: Result<Arc<ServerConfig>>,
    ) -> Result<Origin> {
        let config = config.context("a certificate for the TLS origin")?;
        let (origin, at) = (Origin::default(), sockets(addresses, port));
        self.inside(origin::serve(origin.clone(), at, Some(config)))?;
        Ok(origin)
    }

    /// The same behind TLS, with a certificate for `names`.
    pub fn https(
        &self,
        addresses: &[IpAddr],
        port: u16,
        authority: &Authority,
        names: &[&str],
    ) -> Result<Origin> {
        self.tls(addresses, port, authority.server(names))
    }

    /// The same, for clients with a certificate of the authority only.
    pub fn https_mutual(
        &self,
        addresses: &[IpAddr],
        port: u16,
        authority: &Authority,
        names: &[&str],
    ) -> Result<Origin> {
        self.tls(addresses, port, authority.mutual_server(names))
    }

    /// A DNS server at port 53 of each address, over UDP and TCP, with an empty zone.
    pub fn dns(&self, addresses: &[IpAddr]) -> Result<Dns> {
        let dns = Dns::default();
        self.inside(dns::serve(dns.clone(), sockets(addresses, 53)))?;
        Ok(dns)
    }

    /// The zone of a DNS server over TLS too, with a certificate for `name`, which may be an IP address.
    pub fn dns_tls(
        &self,
        dns: &Dns,
        address: SocketAddr,
        authority: &Authority,
        name: &str,
    ) -> Result<DnsTls> {
        let config = authority.server(&[name])?;
        self.inside(dns_tls::serve(dns.clone(), address, config))
    }

    /// Hosts that answer in the client's protocol, at these ports of each address.
    pub fn anyone(&self, addresses: &[IpAddr], ports: &[u16]) -> Result<()> {
        let all = ports.iter().flat_map(|port| sockets(addresses, *port));
        self.inside(anyone::serve(all.collect()))
    }

    /// A host that sends back what it receives, over TCP and UDP.
    pub fn echo(&self, addresses: &[IpAddr], port: u16) -> Result<Echo> {
        let echo = Echo::default();
        self.inside(echo::serve(echo.clone(), sockets(addresses, port)))?;
        Ok(echo)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn sockets(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    addresses
        .iter()
        .map(|address| SocketAddr::new(*address, port))
        .collect()
}
