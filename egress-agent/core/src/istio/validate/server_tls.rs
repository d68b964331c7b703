//! Rules of TLS on a sidecar's own listeners. Of no meaning for egress, but part of the verdict.

use super::check::Check;
use crate::istio::sidecar::{ServerTlsMode, ServerTlsSettings, TlsProtocol};
use std::collections::BTreeSet;

/// Cipher suites that Istio knows (istio `pkg/config/security/security.go`).
const CIPHERS: [&str; 20] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "ECDHE-RSA-AES128-SHA256",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "AES128-SHA256",
    "DES-CBC3-SHA",
    "ECDHE-RSA-DES-CBC3-SHA",
    "ECDHE-PSK-AES128-CBC-SHA",
    "ECDHE-PSK-AES256-CBC-SHA",
];

/// Checks what no listener of a sidecar may have.
pub fn ingress_tls(check: &mut Check<'_>, tls: &ServerTlsSettings, port_is_tls: bool) {
    if !tls.subject_alt_names.is_empty() {
        check.at("subjectAltNames", |check| {
            check.error("sidecar: subjectAltNames is not supported in ingress tls");
        });
    }
    if tls.https_redirect {
        check.at("httpsRedirect", |check| {
            check.error("sidecar: httpsRedirect is not supported");
        });
    }
    if !tls.credential_name.is_empty() {
        check.at("credentialName", |check| {
            check.error("sidecar: credentialName is not currently supported");
        });
    }
    if !tls.credential_names.is_empty() {
        check.at("credentialNames", |check| {
            check.error("sidecar: credentialNames is not currently supported");
        });
    }
    if !tls.tls_certificates.is_empty() {
        check.at("tlsCertificates", |check| {
            check.error("sidecar: tls_certificates is not currently supported");
        });
    }
    if matches!(
        tls.mode,
        ServerTlsMode::IstioMutual | ServerTlsMode::AutoPassthrough
    ) {
        let mode = tls.mode.as_str();
        check.at("mode", |check| {
            check.error(format!(
                "configuration is invalid: cannot set mode to {mode} in sidecar ingress tls"
            ));
        });
    }
    if !port_is_tls {
        check.error("server cannot have TLS settings for non HTTPS/TLS ports");
    }
    server_tls(check, tls);
}

fn server_tls(check: &mut Check<'_>, tls: &ServerTlsSettings) {
    ciphers(check, tls);
    if tls.mode == ServerTlsMode::IstioMutual {
        for (is_set, what) in [
            (!tls.server_certificate.is_empty(), "server certificate"),
            (!tls.private_key.is_empty(), "private key"),
            (!tls.ca_certificates.is_empty(), "CA bundle"),
            (!tls.tls_certificates.is_empty(), "tlsCertificates"),
            (!tls.credential_name.is_empty(), "credentialName"),
            (!tls.credential_names.is_empty(), "credentialNames"),
        ] {
            if is_set {
                check.error(format!("ISTIO_MUTUAL TLS cannot have associated {what}"));
            }
        }
        return;
    }
    let has_credential = !tls.credential_name.is_empty() || !tls.credential_names.is_empty();
    if matches!(
        tls.mode,
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough
    ) {
        let files = [
            &tls.ca_crl,
            &tls.server_certificate,
            &tls.private_key,
            &tls.ca_certificates,
        ];
        if has_credential
            || !tls.tls_certificates.is_empty()
            || files.iter().any(|file| !file.is_empty())
        {
            check.warn(format!(
                "{} mode does not use certificates, they will be ignored",
                tls.mode.as_str()
            ));
        }
    }
    let sources = [
        !tls.server_certificate.is_empty() && !tls.private_key.is_empty(),
        !tls.credential_name.is_empty(),
        !tls.credential_names.is_empty(),
        !tls.tls_certificates.is_empty(),
    ];
    if sources.iter().filter(|set| **set).count() > 1 {
        check.error(
            "only one of credential_name, credential_names, server_certificate/private_key, tls_certificates should be specified",
        );
    }
    let word = match tls.mode {
        ServerTlsMode::Simple => Some("SIMPLE TLS"),
        ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => Some("MUTUAL TLS"),
        ServerTlsMode::Passthrough
        | ServerTlsMode::AutoPassthrough
        | ServerTlsMode::IstioMutual => None,
    };
    if word.is_some() && has_credential {
        return;
    }
    if let Some(word) = word {
        certificates(check, tls, word);
    }
    if !tls.ca_crl.is_empty() {
        if !tls.credential_name.is_empty() {
            check.error("CRL is not supported with credentialName. CRL has to be specified in the credential");
        }
        if tls.mode == ServerTlsMode::Simple {
            check.error("CRL is not supported with SIMPLE TLS");
        }
    }
}

fn certificates(check: &mut Check<'_>, tls: &ServerTlsSettings, word: &str) {
    if word == "MUTUAL TLS" && tls.ca_certificates.is_empty() {
        check.error(format!("{word} requires a client CA bundle"));
    }
    if tls.tls_certificates.len() > 2 {
        check.warn(format!("{word} can support up to 2 server certificates"));
    }
    let mut pair = |certificate: &str, key: &str| {
        if certificate.is_empty() {
            check.error(format!("{word} requires a server certificate"));
        }
        if key.is_empty() {
            check.error(format!("{word} requires a private key"));
        }
    };
    if tls.tls_certificates.is_empty() {
        pair(&tls.server_certificate, &tls.private_key);
    }
    for certificate in &tls.tls_certificates {
        pair(&certificate.server_certificate, &certificate.private_key);
    }
}

fn ciphers(check: &mut Check<'_>, tls: &ServerTlsSettings) {
    if matches!(
        tls.min_protocol_version,
        TlsProtocol::TlsV1_0 | TlsProtocol::TlsV1_1
    ) && tls.cipher_suites.is_empty()
    {
        check.warn(
            "TLS version below TLSV1_2 require setting compatible ciphers as by default they no longer include compatible ciphers.",
        );
    }
    let (mut known, mut unknown, mut twice) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for cipher in &tls.cipher_suites {
        if !CIPHERS.contains(&cipher.as_str()) {
            unknown.insert(cipher.as_str());
        } else if !known.insert(cipher.as_str()) {
            twice.insert(cipher.as_str());
        }
    }
    for (list, word) in [(unknown, "invalid"), (twice, "duplicate")] {
        if !list.is_empty() {
            let list: Vec<&str> = list.into_iter().collect();
            check.at("cipherSuites", |check| {
                check.warn(format!(
                    "ignoring {word} cipher suites: [{}]",
                    list.join(" ")
                ));
            });
        }
    }
}
