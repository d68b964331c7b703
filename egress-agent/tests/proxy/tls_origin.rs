//! TLS servers with certificates of an authority that lives as long as a test.

use crate::raw::Raw;
use egress_core::traffic::{Authorities, ClientTls, ClusterPolicy, Verify};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// An authority and the folder with its files.
pub struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
    pub folder: TempDir,
}

/// A certificate and its key.
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub pem: String,
    pub key: KeyPair,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let name = uuid::Uuid::new_v4().to_string();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let this = Self {
            certificate,
            issuer: Issuer::new(params, key),
            folder: tempfile::tempdir().unwrap(),
        };
        this.write("ca.pem", &this.pem());
        this
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    pub fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> Arc<str> {
        std::fs::write(self.path(name), text).unwrap();
        text_of(&self.path(name))
    }

    /// A certificate with these DNS names, URIs (with a colon) and addresses.
    pub fn identity(&self, names: &[&str]) -> Identity {
        self.identity_with(names, |_| ())
    }

    pub fn identity_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) if name.contains(':') => SanType::URI((*name).try_into().unwrap()),
                Err(_) => SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            chain: vec![certificate.der().clone()],
            pem: certificate.pem(),
            key,
        }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        roots
    }

    /// A server's settings; `mutual` asks for a certificate of this authority.
    pub fn server(&self, identity: &Identity, mutual: bool) -> ServerConfig {
        self.server_at(identity, mutual, rustls::ALL_VERSIONS)
    }

    pub fn server_at(
        &self,
        identity: &Identity,
        mutual: bool,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .unwrap();
        let key = PrivateKeyDer::try_from(identity.key.serialize_der()).unwrap();
        let builder = if mutual {
            let roots = Arc::new(self.roots());
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        builder
            .with_single_cert(identity.chain.clone(), key)
            .unwrap()
    }

    /// SIMPLE with this authority's file.
    pub fn simple(&self) -> ClientTls {
        ClientTls {
            verify: Some(Verify {
                authorities: Some(Authorities::File(text_of(&self.path("ca.pem")))),
                host: true,
                ..Verify::default()
            }),
            certificate: None,
            sni: None,
        }
    }
}

pub fn text_of(path: &Path) -> Arc<str> {
    path.to_str().unwrap().into()
}

pub fn policy(tls: ClientTls) -> Arc<ClusterPolicy> {
    Arc::new(ClusterPolicy {
        tls: Some(Arc::new(tls)),
        ..ClusterPolicy::default()
    })
}

/// A TLS server that answers each request with what it knows of the client.
#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    /// Connections so far.
    pub accepted: Arc<AtomicUsize>,
    config: Arc<Mutex<Arc<ServerConfig>>>,
}

impl Server {
    pub async fn new(config: ServerConfig) -> Self {
        Self::serving(config, answer).await
    }

    /// `serve` gets each connection after its handshake.
    pub async fn serving<R>(config: ServerConfig, serve: fn(TlsStream<TcpStream>) -> R) -> Self
    where
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Self {
            address: listener.local_addr().unwrap(),
            accepted: Arc::default(),
            config: Arc::new(Mutex::new(Arc::new(config))),
        };
        let server = this.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                server.accepted.fetch_add(1, Ordering::SeqCst);
                let config = Arc::clone(&server.config.lock().unwrap());
                tokio::spawn(async move {
                    // A client that rejects the certificate is not an error here.
                    if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                        serve(stream).await;
                    }
                });
            }
        });
        this
    }

    /// From the next connection on.
    pub fn change(&self, config: ServerConfig) {
        *self.config.lock().unwrap() = Arc::new(config);
    }

    pub fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// `sni=... alpn=... cert=...`, and the length of the request's body.
async fn answer(stream: TlsStream<TcpStream>) {
    let told = {
        let (_, session) = stream.get_ref();
        let alpn = session.alpn_protocol().map(String::from_utf8_lossy);
        format!(
            "sni={} alpn={} cert={}",
            session.server_name().unwrap_or("-"),
            alpn.as_deref().unwrap_or("-"),
            session.peer_certificates().is_some(),
        )
    };
    let mut raw = Raw::over(stream);
    while let Some(message) = raw.message().await {
        let body = format!("{told} body={}", message.body.len());
        let length = body.len();
        raw.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}").as_bytes())
            .await;
    }
}
