//! Why a handshake failed, in Envoy's words: Envoy prints BoringSSL's error queue (`tls/ssl_socket.cc`, `drainErrorQueue`).
//!
//! The numbers are BoringSSL's packed errors: 16 << 24 for the library `SSL`, plus the reason (`include/openssl/ssl.h`).

use egress_core::http::upstream_reset::UpstreamReset;
use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CertificateError, Error, OtherError};
use std::io;
use std::sync::Arc;
use webpki::EndEntityCert;

/// The library `SSL` of BoringSSL's errors.
const SSL: u32 = 16 << 24;
/// The reasons `CERTIFICATE_VERIFY_FAILED`, `UNSUPPORTED_PROTOCOL` and `WRONG_VERSION_NUMBER`.
const VERIFY_FAILED: u32 = 125;
const UNSUPPORTED_PROTOCOL: u32 = 240;
const WRONG_VERSION: u32 = 247;
/// Reasons of received alerts begin here.
const ALERT: u32 = 1000;

/// Why a certificate was rejected.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rejected {
    #[error("X509_verify_cert: certificate verification error at depth {depth}: {what}")]
    Issuer { depth: usize, what: &'static str },
    #[error("X509_verify_cert: certificate verification error at depth 0: {}", chain(.0))]
    Chain(webpki::Error),
    #[error("verify SAN list, expected SANs: [{expected}], certificate SANs: [{found}]")]
    Host { expected: String, found: String },
    #[error("SAN matcher, certificate SANs are [{found}]")]
    Names { found: String },
}

impl Rejected {
    pub(super) fn host(expected: &str, certificate: &EndEntityCert<'_>) -> Self {
        Self::Host {
            expected: expected.to_owned(),
            found: names(certificate),
        }
    }

    pub(super) fn names(certificate: &EndEntityCert<'_>) -> Self {
        Self::Names {
            found: names(certificate),
        }
    }
}

impl From<Rejected> for Error {
    fn from(rejected: Rejected) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(rejected))))
    }
}

/// DNS names and URIs of a certificate, at most as many as fit into a line.
fn names(certificate: &EndEntityCert<'_>) -> String {
    const MAX_LINE: usize = 1024;
    let all = certificate
        .valid_dns_names()
        .chain(certificate.valid_uri_names());
    let mut text = String::new();
    for name in all {
        if text.len() + name.len() > MAX_LINE {
            text.push_str(", ...");
            break;
        }
        if !text.is_empty() {
            text.push_str(", ");
        }
        // A reply and a log line: nothing of a certificate may begin another line.
        text.extend(name.chars().filter(|c| !c.is_control()));
    }
    text
}

/// Where the chain of a certificate ends without an authority.
pub(super) fn issuer_missing(
    server: &EndEntityCert<'_>,
    others: &[CertificateDer<'_>],
) -> Rejected {
    let others: Vec<_> = others
        .iter()
        .filter_map(|other| EndEntityCert::try_from(other).ok())
        .collect();
    let mut last = server;
    let mut depth = 0;
    while last.issuer() != last.subject() {
        let issuer = others.iter().find(|other| other.subject() == last.issuer());
        let Some(issuer) = issuer.filter(|_| depth < others.len()) else {
            let what = "unable to get local issuer certificate";
            return Rejected::Issuer { depth, what };
        };
        last = issuer;
        depth += 1;
    }
    let what = if depth == 0 {
        "self signed certificate"
    } else {
        "self signed certificate in certificate chain"
    };
    Rejected::Issuer { depth, what }
}

/// The text of BoringSSL for a chain (`crypto/x509/x509_txt.cc`), where there is one.
fn chain(error: &webpki::Error) -> String {
    match error {
        webpki::Error::CertExpired { .. } => "certificate has expired".to_owned(),
        webpki::Error::CertNotValidYet { .. } => "certificate is not yet valid".to_owned(),
        webpki::Error::CertRevoked => "certificate revoked".to_owned(),
        webpki::Error::UnknownRevocationStatus => "unable to get certificate CRL".to_owned(),
        webpki::Error::CrlExpired { .. } => "CRL has expired".to_owned(),
        webpki::Error::InvalidSignatureForPublicKey => "certificate signature failure".to_owned(),
        webpki::Error::RequiredEkuNotFoundContext(_) => {
            "unsupported certificate purpose".to_owned()
        }
        other => other.to_string(),
    }
}

/// The files of the settings cannot be used. Envoy's words if it has not got a secret (`tls/ssl_socket.cc`,
/// `NotReadySslSocket`); the log has the reason.
pub(in crate::proxy::upstream) fn not_ready() -> UpstreamReset {
    UpstreamReset::TlsFailure(Some("TLS error: Secret is not supplied by SDS".to_owned()))
}

/// How a handshake failed.
pub(super) fn of_handshake(error: &io::Error) -> UpstreamReset {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    let text = match (inner, error.kind()) {
        (Some(error), _) => Some(of_tls(error)),
        // The peer closed the connection: Envoy has no text either.
        (None, io::ErrorKind::UnexpectedEof) => None,
        (None, kind) => {
            // Library `SYS` (2) with the number of the system.
            let code = error.raw_os_error().unwrap_or_default();
            let text = match kind {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                    errno::Errno(code).to_string()
                }
                _ => error.to_string(),
            };
            Some(queue(
                (2 << 24) + code.unsigned_abs(),
                "system library",
                &text,
            ))
        }
    };
    UpstreamReset::TlsFailure(text)
}

fn of_tls(error: &Error) -> String {
    let ssl = |reason, text: &str| queue(SSL + reason, "SSL routines", text);
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(why))) => ssl(
            VERIFY_FAILED,
            &format!("CERTIFICATE_VERIFY_FAILED:verify cert failed: {why}"),
        ),
        Error::InvalidCertificate(why) => ssl(
            VERIFY_FAILED,
            &format!("CERTIFICATE_VERIFY_FAILED:verify cert failed: {why}"),
        ),
        Error::InvalidMessage(_) => ssl(WRONG_VERSION, "WRONG_VERSION_NUMBER"),
        Error::PeerIncompatible(_) => ssl(UNSUPPORTED_PROTOCOL, "UNSUPPORTED_PROTOCOL"),
        Error::AlertReceived(alert) => {
            ssl(ALERT + u32::from(u8::from(*alert)), &alert_name(*alert))
        }
        other => ssl(0, &other.to_string()),
    }
}

fn queue(code: u32, library: &str, text: &str) -> String {
    format!("TLS_error:|{code}:{library}:OPENSSL_internal:{text}:TLS_error_end")
}

/// BoringSSL's name of an alert: those of SSL 3.0 and those of TLS have different prefixes.
fn alert_name(alert: AlertDescription) -> String {
    let name = match alert {
        AlertDescription::CloseNotify => "SSLV3_ALERT_CLOSE_NOTIFY",
        AlertDescription::UnexpectedMessage => "SSLV3_ALERT_UNEXPECTED_MESSAGE",
        AlertDescription::BadRecordMac => "SSLV3_ALERT_BAD_RECORD_MAC",
        AlertDescription::DecompressionFailure => "SSLV3_ALERT_DECOMPRESSION_FAILURE",
        AlertDescription::HandshakeFailure => "SSLV3_ALERT_HANDSHAKE_FAILURE",
        AlertDescription::NoCertificate => "SSLV3_ALERT_NO_CERTIFICATE",
        AlertDescription::BadCertificate => "SSLV3_ALERT_BAD_CERTIFICATE",
        AlertDescription::UnsupportedCertificate => "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        AlertDescription::CertificateRevoked => "SSLV3_ALERT_CERTIFICATE_REVOKED",
        AlertDescription::CertificateExpired => "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        AlertDescription::CertificateUnknown => "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        AlertDescription::IllegalParameter => "SSLV3_ALERT_ILLEGAL_PARAMETER",
        AlertDescription::UnknownCA => "TLSV1_ALERT_UNKNOWN_CA",
        AlertDescription::AccessDenied => "TLSV1_ALERT_ACCESS_DENIED",
        AlertDescription::DecodeError => "TLSV1_ALERT_DECODE_ERROR",
        AlertDescription::DecryptError => "TLSV1_ALERT_DECRYPT_ERROR",
        AlertDescription::ProtocolVersion => "TLSV1_ALERT_PROTOCOL_VERSION",
        AlertDescription::InsufficientSecurity => "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        AlertDescription::InternalError => "TLSV1_ALERT_INTERNAL_ERROR",
        AlertDescription::UserCanceled => "TLSV1_ALERT_USER_CANCELLED",
        AlertDescription::NoRenegotiation => "TLSV1_ALERT_NO_RENEGOTIATION",
        AlertDescription::UnsupportedExtension => "TLSV1_ALERT_UNSUPPORTED_EXTENSION",
        AlertDescription::UnrecognisedName => "TLSV1_ALERT_UNRECOGNIZED_NAME",
        AlertDescription::BadCertificateStatusResponse => {
            "TLSV1_ALERT_BAD_CERTIFICATE_STATUS_RESPONSE"
        }
        AlertDescription::UnknownPSKIdentity => "TLSV1_ALERT_UNKNOWN_PSK_IDENTITY",
        AlertDescription::CertificateRequired => "TLSV1_ALERT_CERTIFICATE_REQUIRED",
        AlertDescription::NoApplicationProtocol => "TLSV1_ALERT_NO_APPLICATION_PROTOCOL",
        other => return format!("{other:?}"),
    };
    name.to_owned()
}
