//! TLS towards endpoints, as `DestinationRule`s ask for it: whose server it is, the settings with the content of their
//! files, and the handshake.
//!
//! Settings and files are shared by all workloads; connections and their sessions are not resumed between policies
//! with different settings, because each has its own configuration.

pub(super) mod failure;
mod files;
mod parts;
mod pem;
pub(in crate::proxy) mod secrets;
mod verifier;

use super::stream::{Stream, Tls};
use crate::proxy::places::Place;
use crate::secret_store::SecretStore;
use egress_core::http::authority::parse_authority;
use egress_core::http::upstream_reset::UpstreamReset;
use egress_core::traffic::ClientTls;
use parts::{MAX_ENTRIES, Parts};
use rustls::ClientConfig;
use rustls::pki_types::{IpAddr, Ipv4Addr, ServerName};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Blocks of memory of one TLS connection: rustls keeps up to 16 KiB that the socket does not take.
pub(super) const BLOCKS: usize = 4;
const BUFFER: usize = 16 * 1024;

/// Whose server a connection leads to. Connections are kept and used again only for an equal peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::proxy) struct Peer {
    settings: Arc<ClientTls>,
    /// The host of the request, if the settings ask for it.
    host: Option<String>,
    /// ALPN offers HTTP/2, and nothing else.
    http2: bool,
}

impl Peer {
    /// The peer of a request with this authority, after the rule's changes to it. `http2`: its port is listed for
    /// HTTP/2 (istio `cluster_tls.go`).
    pub(in crate::proxy) fn of_request(
        settings: &Arc<ClientTls>,
        authority: &str,
        http2: bool,
    ) -> Self {
        let by_host = settings.sni.is_none();
        let host = parse_authority(authority).ok().filter(|_| by_host);
        Self {
            settings: Arc::clone(settings),
            host: host.map(|host| host.as_str().to_owned()),
            http2,
        }
    }

    /// The peer of bytes that are not read: without `sni` no name is sent, as by Istio.
    /// `http2`: a tunnel's proxy is asked with HTTP/2.
    pub(in crate::proxy) fn of_bytes(settings: &Arc<ClientTls>, http2: bool) -> Self {
        let mut settings = ClientTls::clone(settings);
        if let Some(verify) = &mut settings.verify {
            verify.host = false;
        }
        Self {
            settings: Arc::new(settings),
            host: None,
            http2,
        }
    }

    /// The host of the request, for the log.
    pub(super) fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// The name to send and, if the settings say so, to verify. An address is verified and not sent (RFC 6066 §3).
    fn server_name(&self) -> Option<ServerName<'static>> {
        let name = self.settings.sni.as_deref().or(self.host.as_deref());
        match name {
            Some(name) => ServerName::try_from(name.to_owned()).ok(),
            // Nothing verifies it, and nothing is sent.
            None if !self
                .settings
                .verify
                .as_ref()
                .is_some_and(|verify| verify.host) =>
            {
                Some(ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0; 4]))))
            }
            None => None,
        }
    }
}

/// The settings that connections were made with.
#[derive(Debug)]
pub(in crate::proxy) struct TlsClients {
    known: Mutex<HashMap<Arc<ClientTls>, Arc<Entry>>>,
    parts: Parts,
}

#[derive(Debug, Default)]
struct Entry(tokio::sync::Mutex<Option<Made>>);

/// The configuration of settings, and the parts that it was made of.
#[derive(Debug)]
struct Made {
    of: parts::Chosen,
    config: Arc<ClientConfig>,
    /// The same with ALPN for HTTP/2.
    http2: Arc<ClientConfig>,
}

impl Made {
    fn config(&self, peer: &Peer) -> Arc<ClientConfig> {
        Arc::clone(if peer.http2 {
            &self.http2
        } else {
            &self.config
        })
    }
}

impl TlsClients {
    /// Client certificates may be in these folders, and in Secrets.
    pub(in crate::proxy) fn new(folders: Vec<PathBuf>, secrets: Arc<SecretStore>) -> Self {
        Self {
            known: Mutex::default(),
            parts: Parts::new(folders, secrets),
        }
    }

    fn entry(&self, settings: &Arc<ClientTls>) -> Arc<Entry> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_ENTRIES && !known.contains_key(settings) {
            known.retain(|_, entry| Arc::strong_count(entry) > 1);
        }
        Arc::clone(known.entry(Arc::clone(settings)).or_default())
    }

    /// The configuration by the present files, or why there is none.
    async fn config(&self, peer: &Peer) -> Result<Arc<ClientConfig>, String> {
        let settings = &peer.settings;
        let entry = self.entry(settings);
        let mut made = entry.0.lock().await;
        let chosen = self.parts.of(settings).await?;
        if let Some(made) = made.as_ref().filter(|made| made.of == chosen) {
            return Ok(made.config(peer));
        }
        let config = chosen.config(settings)?;
        let mut http2 = config.clone();
        http2.alpn_protocols = vec![b"h2".to_vec()];
        let new = Made {
            of: chosen,
            config: Arc::new(config),
            http2: Arc::new(http2),
        };
        Ok(made.insert(new).config(peer))
    }

    /// Makes the handshake on a new connection. `room` is the memory of its buffers: [`BLOCKS`].
    pub(super) async fn connect(
        &self,
        peer: &Peer,
        stream: TcpStream,
        room: Place,
    ) -> Result<Stream, Failed> {
        let config = self.config(peer).await.map_err(Failed::Settings)?;
        let Some(name) = peer.server_name() else {
            let name = peer.settings.sni.as_deref().or(peer.host.as_deref());
            let name = name.unwrap_or_default();
            return Err(Failed::Settings(format!("{name:?} is not a server name")));
        };
        let bounded =
            |session: &mut rustls::ClientConnection| session.set_buffer_limit(Some(BUFFER));
        let handshake = TlsConnector::from(config).connect_with(name, stream, bounded);
        let failed = |error: io::Error| Failed::Handshake(failure::of_handshake(&error));
        let stream = handshake.await.map_err(failed)?;
        Ok(Stream::Tls(Box::new(Tls {
            stream,
            _room: room,
        })))
    }
}

/// Why there is no TLS connection.
pub(super) enum Failed {
    /// The settings or their files cannot be used, for this reason.
    Settings(String),
    /// The handshake failed.
    Handshake(UpstreamReset),
}
