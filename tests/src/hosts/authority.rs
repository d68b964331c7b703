//! A certificate authority that lives as long as a test.
//!
//! Owns its key. Clients trust it by the file that it writes; the agent never sees it.

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
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

    /// A server's configuration with a fresh certificate for `names`.
    pub(super) fn server(&self, names: &[&str]) -> Result<Arc<ServerConfig>> {
        let mut params =
            CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        params.distinguished_name.push(
            DnType::CommonName,
            *names.first().context("a certificate needs a name")?,
        );
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let chain = vec![certificate.der().clone(), self.certificate.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(Arc::new(config))
    }
}
