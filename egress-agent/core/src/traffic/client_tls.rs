//! TLS that the proxy originates: Istio's `trafficPolicy.tls` of a `DestinationRule`.
//!
//! Owns which fields are read. The proxy reads files and Secrets and makes the handshake. Source of the defaults: istio
//! `pilot/pkg/networking/core/cluster_tls.go`, `constructUpstreamTLS`.

use crate::istio::CredentialName;
use crate::istio::destination_rule::{ClientTlsMode, ClientTlsSettings};
use std::sync::Arc;

/// Settings for TLS towards the endpoints of a cluster: protocol versions 1.2 and 1.3.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientTls {
    /// How the server's certificate is verified; `None` for `insecureSkipVerify`, which accepts any certificate.
    pub verify: Option<Verify>,
    /// The certificate that the proxy presents (mode `MUTUAL`).
    pub certificate: Option<ClientCertificate>,
    /// `sni`: the server name to send. `None`: the host of the request; without a request, no name is sent.
    pub sni: Option<Arc<str>>,
}

/// How a server's certificate is verified. A chain to one of the authorities is always required.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Verify {
    /// PEM file of authorities, a Secret or a ConfigMap. `None`: the system's.
    pub authorities: Option<Authorities>,
    /// `caCrl`: PEM file of revoked certificates.
    pub revoked: Option<Arc<str>>,
    /// The certificate needs one of these names, each a DNS name, a URI or an IP address. Empty: no such condition.
    pub names: Arc<[Arc<str>]>,
    /// The certificate also needs the host of the request as a name (Envoy's `auto_san_validation`).
    pub host: bool,
}

/// Where authorities are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Authorities {
    /// `caCertificates`: a PEM file.
    File(Arc<str>),
    /// `credentialName`: this Secret, the one that is named after it (`CredentialName::of_authorities`), or this ConfigMap.
    Secret(CredentialName),
}

/// Where a client certificate is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientCertificate {
    /// PEM files.
    Files(CertificateFiles),
    /// `credentialName`.
    Secret(CredentialName),
}

/// PEM files of a client certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertificateFiles {
    /// `clientCertificate`: the chain, the client's certificate first.
    pub chain: Arc<str>,
    /// `privateKey`.
    pub key: Arc<str>,
}

impl ClientTls {
    /// From a rule that is carried out. `None` if it asks for no TLS. `of_service` has the `subjectAltNames` of the
    /// `ServiceEntry`, which count if the rule has none. `secret`: that of `credentialName`.
    pub fn new(
        rule: &ClientTlsSettings,
        of_service: &[String],
        secret: Option<&CredentialName>,
    ) -> Option<Self> {
        let text = |text: &str| (!text.is_empty()).then(|| Arc::from(text));
        let of_secret = secret.cloned().map(ClientCertificate::Secret);
        let certificate = match rule.mode {
            ClientTlsMode::Disable => return None,
            ClientTlsMode::Simple => None,
            ClientTlsMode::Mutual | ClientTlsMode::IstioMutual => of_secret.or_else(|| {
                Some(ClientCertificate::Files(CertificateFiles {
                    chain: rule.client_certificate.as_str().into(),
                    key: rule.private_key.as_str().into(),
                }))
            }),
        };
        let own = &rule.subject_alt_names;
        let names = if own.is_empty() { of_service } else { own };
        let verify = (rule.insecure_skip_verify != Some(true)).then(|| Verify {
            authorities: match secret {
                Some(secret) => Some(Authorities::Secret(secret.clone())),
                None => text(&rule.ca_certificates).map(Authorities::File),
            },
            revoked: text(&rule.ca_crl),
            names: names.iter().map(|name| Arc::from(name.as_str())).collect(),
            host: rule.sni.is_empty() && own.is_empty(),
        });
        Some(Self {
            verify,
            certificate,
            sni: text(&rule.sni),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> ClientTlsSettings {
        ClientTlsSettings {
            mode: ClientTlsMode::Simple,
            ..ClientTlsSettings::default()
        }
    }

    #[test]
    fn the_host_is_verified_unless_the_rule_has_a_server_name_or_names() {
        let names = || vec!["a.example".to_owned()];
        for (sni, own, of_service, listed, host) in [
            ("", vec![], vec![], vec![], true),
            ("b.example", vec![], vec![], vec![], false),
            ("", names(), vec![], names(), false),
            ("", vec![], names(), names(), true),
            ("b.example", vec![], names(), names(), false),
            ("", names(), vec!["c.example".to_owned()], names(), false),
        ] {
            let rule = ClientTlsSettings {
                sni: sni.to_owned(),
                subject_alt_names: own,
                ..rule()
            };
            let tls = ClientTls::new(&rule, &of_service, None).unwrap();
            let verify = tls.verify.unwrap();
            let found: Vec<&str> = verify.names.iter().map(AsRef::as_ref).collect();
            assert_eq!(
                (found, verify.host),
                (listed.iter().map(String::as_str).collect(), host)
            );
            assert_eq!(tls.sni.as_deref(), Some(sni).filter(|sni| !sni.is_empty()));
        }
    }

    #[test]
    fn nothing_is_verified_only_if_the_rule_says_so_and_disable_asks_for_nothing() {
        let skip = |insecure_skip_verify| {
            let rule = ClientTlsSettings {
                insecure_skip_verify,
                ..rule()
            };
            ClientTls::new(&rule, &[], None).unwrap().verify.is_none()
        };
        assert_eq!(
            [None, Some(false), Some(true)].map(skip),
            [false, false, true]
        );
        assert_eq!(
            ClientTls::new(&ClientTlsSettings::default(), &[], None),
            None
        );
    }
}
