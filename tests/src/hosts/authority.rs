//! A certificate authority that lives as long as a test.
//!
//! Owns its key. Clients trust it by the file that it writes; the agent never sees it.

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{WantsServerCert, WebPkiClientVerifier};
use rustls::{ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier};
use std::path::Path;
use std::sync::Arc;
use tempfile::NamedTempFile;

/// The authority and the file with its certificate.
pub struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
    file: NamedTempFile,
}

impl Authority {
    /// A new authority.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "throw-away authority of a test");
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let file = tempfile::Builder::new()
            .prefix("egress-test-ca-")
            .suffix(".pem")
            .tempfile()?;
        std::fs::write(file.path(), certificate.pem())?;
        Ok(Self {
            certificate,
            issuer: Issuer::new(params, key),
            file,
        })
    }

    /// The PEM file of its certificate, for `curl --cacert`.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// A fresh client certificate and its key, as PEM.
    pub fn client(&self) -> Result<(String, String)> {
        self.identity(&["client.example"])
    }

    /// A fresh certificate for `names` and its key, as PEM.
    pub fn identity(&self, names: &[&str]) -> Result<(String, String)> {
        let (certificate, key) = self.leaf(names)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// A server's configuration with a fresh certificate for `names`.
    pub(crate) fn server(&self, names: &[&str]) -> Result<Arc<ServerConfig>> {
        self.server_for(names, |builder, _| Ok(builder.with_no_client_auth()))
    }

    /// The same, for clients with a certificate of this authority only.
    pub(super) fn mutual_server(&self, names: &[&str]) -> Result<Arc<ServerConfig>> {
        self.server_for(names, |builder, provider| {
            let mut roots = RootCertStore::empty();
            roots.add(self.certificate.der().clone())?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            Ok(builder.with_client_cert_verifier(verifier.build()?))
        })
    }

    fn leaf(&self, names: &[&str]) -> Result<(Certificate, KeyPair)> {
        let mut params =
            CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        params.distinguished_name.push(
            DnType::CommonName,
            *names.first().context("a certificate needs a name")?,
        );
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &self.issuer)?, key))
    }

    fn server_for(
        &self,
        names: &[&str],
        clients: impl FnOnce(
            ConfigBuilder<ServerConfig, WantsVerifier>,
            Arc<CryptoProvider>,
        ) -> Result<ConfigBuilder<ServerConfig, WantsServerCert>>,
    ) -> Result<Arc<ServerConfig>> {
        let (certificate, key) = self.leaf(names)?;
        let chain = vec![certificate.der().clone(), self.certificate.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = clients(builder, provider)?;
        Ok(Arc::new(builder.with_single_cert(chain, key)?))
    }
}
