//! Verifies a server's certificate: a chain to one of the authorities, revocation, and names.
//!
//! Which of these a rule asks for is in `egress_core::traffic::ClientTls`. The chain is checked by `webpki`.

use super::failure::{Rejected, issuer_missing};
use egress_core::traffic::Verify;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationOptions,
    RevocationOptionsBuilder,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Verifier {
    /// `None`: any certificate is accepted.
    verify: Option<Verify>,
    authorities: Arc<RootCertStore>,
    revoked: Arc<Vec<CertRevocationList<'static>>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(
        verify: Option<Verify>,
        authorities: Arc<RootCertStore>,
        revoked: Arc<Vec<CertRevocationList<'static>>>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        Self {
            verify,
            authorities,
            revoked,
            algorithms,
        }
    }

    fn chain(
        &self,
        server: &EndEntityCert<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Rejected> {
        let lists: Vec<_> = self.revoked.iter().collect();
        let anchors: &[TrustAnchor<'_>] = &self.authorities.roots;
        let verified = server.verify_for_usage(
            self.algorithms.all,
            anchors,
            others,
            now,
            KeyUsage::server_auth(),
            revocation(&lists),
            None,
        );
        verified.map(drop).map_err(|error| match error {
            webpki::Error::UnknownIssuer => issuer_missing(server, others),
            error => Rejected::Chain(error),
        })
    }
}

/// As Envoy, each certificate of the chain needs a list of its issuer, if there are lists, and that list must not have
/// expired.
fn revocation<'a>(lists: &'a [&'a CertRevocationList<'a>]) -> Option<RevocationOptions<'a>> {
    let options = RevocationOptionsBuilder::new(lists).ok()?;
    Some(
        options
            .with_expiration_policy(ExpirationPolicy::Enforce)
            .build(),
    )
}

/// Whether the certificate has this name: a DNS name, which its wildcards cover too, an IP address or a URI.
fn has(certificate: &EndEntityCert<'_>, name: &str) -> bool {
    let as_server = ServerName::try_from(name);
    as_server.is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok())
        || certificate.valid_uri_names().any(|uri| uri == name)
        || certificate.valid_dns_names().any(|dns| dns == name)
}

impl Verifier {
    fn check(
        &self,
        verify: &Verify,
        server: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Rejected> {
        let certificate = EndEntityCert::try_from(server).map_err(Rejected::Chain)?;
        self.chain(&certificate, others, now)?;
        if verify.host && certificate.verify_is_valid_for_subject_name(name).is_err() {
            return Err(Rejected::host(&name.to_str(), &certificate));
        }
        if !verify.names.is_empty() && !verify.names.iter().any(|name| has(&certificate, name)) {
            return Err(Rejected::names(&certificate));
        }
        Ok(())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(verify) = &self.verify {
            self.check(verify, server, others, name, now)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
