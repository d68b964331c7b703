//! The one canonical form of a host that a client names, by Host header or by SNI.
//!
//! The name that is matched is the name that is dialled: only this code reads a Host, so two readers cannot disagree
//! about a name. It knows no rules and resolves nothing.

use std::net::{Ipv4Addr, Ipv6Addr};
use thiserror::Error;

/// The longest name in text form, without the trailing dot (RFC 1035 §2.3.4).
const MAX_NAME: usize = 253;
/// The longest label (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;

/// Why a rule could not list a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HostError {
    /// No bytes.
    #[error("the host is empty")]
    Empty,
    /// More than 253 bytes.
    #[error("the host is longer than 253 bytes")]
    TooLong,
    /// Two dots in a row, a leading dot, or a trailing dot where it is not allowed.
    #[error("a label of the host is empty")]
    EmptyLabel,
    /// More than 63 bytes between dots.
    #[error("a label of the host is longer than 63 bytes")]
    LabelTooLong,
    /// A byte that is not a letter, digit, hyphen or underscore.
    #[error("the host has the byte 0x{0:02x}")]
    BadByte(u8),
    /// `user@host`.
    #[error("the host carries user information")]
    UserInfo,
    /// Brackets around something that is not an IPv6 address, or bytes after them.
    #[error("the brackets of the host hold no IPv6 address")]
    BadBrackets,
    /// Bytes after the colon that are not a port.
    #[error("the port of the host is not a number up to 65535")]
    BadPort,
    /// An address with a trailing dot, an IPv4 address written as IPv6, or an IPv6 address that is not in the form of
    /// RFC 5952.
    #[error("the address of the host is not in its usual form")]
    AddressForm,
    /// An IP address where only a name is allowed (RFC 6066 §3).
    #[error("the host is an IP address")]
    IpLiteral,
}

/// A host in canonical form: lower case, no port, no trailing dot, an IPv6 address without brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CanonicalHost(String);

impl CanonicalHost {
    /// The host as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host as an owned text.
    pub fn into_string(self) -> String {
        self.0
    }
}

/// Reads a Host header or `:authority`.
///
/// The port is read and dropped: a sidecar routes by the dialled port and ignores the port in Host (Istio
/// `tests/integration/pilot/common/routing.go`, hostCases). One trailing dot is removed, because Istio lists each host
/// with it as well (`httproute.go`, `EnableAbsoluteFqdnVhostDomain`). An address has one form: Envoy compares text, so it
/// knows no other one.
pub fn parse_authority(text: &str) -> Result<CanonicalHost, HostError> {
    if let Some(bad) = text.bytes().find(|byte| !(0x21..=0x7e).contains(byte)) {
        return Err(HostError::BadByte(bad));
    }
    if text.contains('@') {
        return Err(HostError::UserInfo);
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, after) = rest.split_once(']').ok_or(HostError::BadBrackets)?;
        let address: Ipv6Addr = inside.parse().map_err(|_| HostError::BadBrackets)?;
        let form = address.to_string();
        if address.to_ipv4_mapped().is_some() || !inside.eq_ignore_ascii_case(&form) {
            return Err(HostError::AddressForm);
        }
        if !after.is_empty() {
            check_port(after.strip_prefix(':').ok_or(HostError::BadBrackets)?)?;
        }
        return Ok(CanonicalHost(form));
    }
    let host = match text.split_once(':') {
        Some((host, port)) => {
            check_port(port)?;
            host
        }
        None => text,
    };
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return Ok(CanonicalHost(address.to_string()));
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.parse::<Ipv4Addr>().is_ok() {
        return Err(HostError::AddressForm);
    }
    canonical_name(host.as_bytes()).map(CanonicalHost)
}

/// Reads the `host_name` of a TLS server name: no port, no trailing dot, no IP address (RFC 6066 §3).
pub fn parse_server_name(bytes: &[u8]) -> Result<CanonicalHost, HostError> {
    let name = canonical_name(bytes)?;
    if name.parse::<Ipv4Addr>().is_ok() {
        return Err(HostError::IpLiteral);
    }
    Ok(CanonicalHost(name))
}

/// An empty port (`host:`) is legal in a URI (RFC 3986 §3.2.3) and means the default one.
fn check_port(port: &str) -> Result<(), HostError> {
    if port.is_empty() {
        return Ok(());
    }
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    if digits && port.parse::<u16>().is_ok() {
        Ok(())
    } else {
        Err(HostError::BadPort)
    }
}

/// Letters, digits, hyphens and underscores. Some names below listed wildcards have underscores (buckets of object
/// stores).
fn canonical_name(bytes: &[u8]) -> Result<String, HostError> {
    if bytes.is_empty() {
        return Err(HostError::Empty);
    }
    if bytes.len() > MAX_NAME {
        return Err(HostError::TooLong);
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if let Some(bad) = bytes.iter().copied().find(|byte| !allowed(*byte)) {
        return Err(HostError::BadByte(bad));
    }
    for label in bytes.split(|byte| *byte == b'.') {
        if label.is_empty() {
            return Err(HostError::EmptyLabel);
        }
        if label.len() > MAX_LABEL {
            return Err(HostError::LabelTooLong);
        }
    }
    Ok(bytes
        .iter()
        .map(|byte| char::from(byte.to_ascii_lowercase()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_has_one_canonical_form() {
        for (text, host) in [
            ("httpbin.org", "httpbin.org"),
            ("HTTPBIN.org", "httpbin.org"),
            ("httpbin.org:80", "httpbin.org"),
            ("httpbin.org:12345", "httpbin.org"),
            ("httpbin.org:", "httpbin.org"),
            ("httpbin.org.", "httpbin.org"),
            ("httpbin.org.:80", "httpbin.org"),
            ("my_bucket.s3.example.com", "my_bucket.s3.example.com"),
            ("192.0.2.7:80", "192.0.2.7"),
            ("[2001:DB8::1]:80", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
        ] {
            assert_eq!(
                parse_authority(text).map(CanonicalHost::into_string),
                Ok(host.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn a_host_that_two_readers_could_read_differently_is_rejected() {
        use HostError::{
            AddressForm, BadBrackets, BadByte, BadPort, Empty, EmptyLabel, LabelTooLong, TooLong,
            UserInfo,
        };
        let long_label = format!("{}.org", "a".repeat(64));
        let long_name = ["a"; 4].map(|_| "b".repeat(63)).join(".") + ".org";
        for (text, error) in [
            ("", Empty),
            (".", Empty),
            (":80", Empty),
            ("httpbin.org\0.evil.example", BadByte(0)),
            ("evil.example\0", BadByte(0)),
            ("user@httpbin.org", UserInfo),
            ("httpbin.org:80@evil.example", UserInfo),
            ("[httpbin.org]", BadBrackets),
            ("[::1", BadBrackets),
            ("[::1]evil", BadBrackets),
            ("[fe80::1%eth0]", BadBrackets),
            ("192.0.2.7.", AddressForm),
            ("192.0.2.7.:80", AddressForm),
            ("[::ffff:192.0.2.7]", AddressForm),
            ("[::ffff:c000:207]:80", AddressForm),
            ("[2001:db8:0::1]", AddressForm),
            ("[2001:0db8::1]", AddressForm),
            ("httpbin.org..", EmptyLabel),
            ("httpbin..org", EmptyLabel),
            (".httpbin.org", EmptyLabel),
            ("httpbin.org:0x50", BadPort),
            ("httpbin.org:99999", BadPort),
            ("httpbin.org:+80", BadPort),
            ("httpbin.org:80:80", BadPort),
            ("::1", BadPort),
            ("httpbin.org,evil.example", BadByte(b',')),
            ("httpbin.org/evil", BadByte(b'/')),
            ("httpbin.org evil", BadByte(b' ')),
            ("httpbin%2eorg", BadByte(b'%')),
            ("*.example.com", BadByte(b'*')),
            ("b\u{fc}cher.example", BadByte(0xc3)),
            (&long_label, LabelTooLong),
            (&long_name, TooLong),
        ] {
            assert_eq!(parse_authority(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_server_name_is_stricter_than_a_host_header() {
        assert_eq!(
            parse_server_name(b"WWW.Google.com").map(CanonicalHost::into_string),
            Ok("www.google.com".into())
        );
        for (bytes, error) in [
            (&b"www.google.com."[..], HostError::EmptyLabel),
            (b"192.0.2.1", HostError::IpLiteral),
            (b"2001:db8::1", HostError::BadByte(b':')),
            (b"[::1]", HostError::BadByte(b'[')),
            (b"www.google.com:443", HostError::BadByte(b':')),
            (b"www.google.com\0", HostError::BadByte(0)),
            (b"\xff", HostError::BadByte(0xff)),
            (b"", HostError::Empty),
        ] {
            assert_eq!(parse_server_name(bytes), Err(error), "{bytes:?}");
        }
    }
}
