//! A name server of the config: where it listens, and whether it is asked over TLS. Sends nothing.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// A name server that the agent asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServer {
    /// Where it listens.
    pub address: SocketAddr,
    /// The name that its certificate must be valid for if it is asked over TLS (RFC 7858), which may be an IP address. `None`:
    /// it is asked without TLS.
    pub tls: Option<Arc<str>>,
}

impl From<SocketAddr> for NameServer {
    fn from(address: SocketAddr) -> Self {
        Self { address, tls: None }
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tls {
            Some(name) => write!(f, "tls://{}#{name}", self.address),
            None => self.address.fmt(f),
        }
    }
}
