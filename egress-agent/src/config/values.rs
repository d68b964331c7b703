//! Values of the config file and the command line that are parsed from a text. Each has the same syntax
//! in both, and its parse error says what was expected.

use super::glob::CgroupGlob;
use egress_core::dns::judge;
use egress_core::dns::name_server::NameServer;
use egress_core::http::authority::parse_server_name;
use egress_core::istio::duration::{TimeSpan, parse_duration};
use egress_core::istio::hosts;
use egress_core::policy::leases::PrivateAnswers;
use hickory_resolver::proto::rr::RecordType;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Deserializer, de};
use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// A DNS server: `IP`, `IP:PORT` or `[IP6]:PORT`, with default port 53; over TLS with `tls://` before it, default port 853,
/// and `#NAME` behind it. Without a name the certificate must be valid for the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsServer(pub NameServer);

impl FromStr for DnsServer {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        const WANT: &str = "want IP, IP:PORT or [IPv6]:PORT, or tls://IP[:PORT]#NAME with the name in the server's certificate";
        let bad = || format!("`{s}` is not a DNS server: {WANT}");
        let (place, name, default) = match s.strip_prefix("tls://") {
            None => (s, None, 53),
            Some(rest) => {
                let named = rest.split_once('#');
                let (place, name) = named.map_or((rest, None), |(at, name)| (at, Some(name)));
                (place, name, 853)
            }
        };
        let ip = place.strip_prefix('[').and_then(|r| r.strip_suffix(']'));
        let address = match ip.unwrap_or(place).parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, default),
            Err(_) => place.parse().map_err(|_| bad())?,
        };
        if address.port() == 0 {
            return Err(bad());
        }
        let tls = match name {
            _ if default == 53 => None,
            None => Some(address.ip().to_string()),
            Some(name) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                ServerName::try_from(name).map_err(|_| bad())?;
                Some(name.to_ascii_lowercase())
            }
        };
        let tls = tls.map(Into::into);
        Ok(Self(NameServer { address, tls }))
    }
}

/// A type of DNS records by its name (`TXT`) or number (`TYPE257`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsType(pub RecordType);

impl FromStr for DnsType {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let numbered = s.strip_prefix("TYPE").and_then(|n| n.parse::<u16>().ok());
        let kind = numbered.map(RecordType::from);
        let kind = kind.or_else(|| s.to_ascii_uppercase().parse().ok());
        let kind = kind.filter(|kind| !judge::is_meta(*kind) && *kind != RecordType::PTR);
        kind.map(Self).ok_or_else(|| {
            format!(
                "`{s}` is not a type of records that can be allowed: want TXT, MX, SRV, TYPE257"
            )
        })
    }
}

/// A domain of a search list, in canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsDomain(pub Arc<str>);

impl FromStr for DnsDomain {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let name = s.trim_end_matches('.').to_ascii_lowercase();
        let labels = name.split('.');
        let good = |label: &str| {
            let letter = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
            (1..=63).contains(&label.len()) && label.bytes().all(letter)
        };
        if name.len() <= 253 && labels.into_iter().all(good) {
            Ok(Self(name.into()))
        } else {
            Err(format!("`{s}` is not a domain: want corp.example"))
        }
    }
}

/// `above` if it is set, else `below`.
pub(super) fn list<T>(above: Vec<T>, below: Vec<T>) -> Vec<T> {
    if above.is_empty() { below } else { above }
}

/// Where a TCP listener listens: `IP:PORT`, `[IP6]:PORT`, or `:PORT` for every address of both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// `None`: every address.
    pub ip: Option<IpAddr>,
    /// Not 0.
    pub port: u16,
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let whole = match s.strip_prefix(':') {
            Some(port) => port.parse().ok().map(|port| (None, port)),
            None => s
                .parse::<SocketAddr>()
                .ok()
                .map(|at| (Some(at.ip()), at.port())),
        };
        match whole {
            Some((ip, port)) if port != 0 => Ok(Self { ip, port }),
            Some(_) | None => Err(format!(
                "`{s}` is not an address to listen on: want IP:PORT, [IPv6]:PORT or :PORT"
            )),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(ip) => SocketAddr::new(ip, self.port).fmt(f),
            None => write!(f, ":{}", self.port),
        }
    }
}

/// A network: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr(pub ipnet::IpNet);

impl FromStr for Cidr {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let net = s
            .parse::<ipnet::IpNet>()
            .or_else(|_| s.parse::<IpAddr>().map(ipnet::IpNet::from))
            .map_err(|_| format!("`{s}` is not a network: want ADDRESS/LENGTH"))?;
        if net.addr() != net.network() {
            return Err(format!(
                "`{s}` has bits set beyond its length: did you mean {}?",
                net.trunc()
            ));
        }
        Ok(Self(net))
    }
}

/// A network that is not public and whose addresses are accepted in DNS answers: `10.0.0.0/8` for every
/// host, or `db.example=10.0.0.0/8`, `*.db.example=10.0.0.0/8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateAnswer(pub PrivateAnswers);

impl FromStr for PrivateAnswer {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (host, network) = match s.split_once('=') {
            Some((host, network)) => (Some(host), network),
            None => (None, s),
        };
        let name = |host: &str| {
            let host = hosts::canonical(host);
            let bare = host.strip_prefix("*.").unwrap_or(&host);
            match parse_server_name(bare.as_bytes()) {
                Ok(_) => Ok(host),
                Err(_) => Err(format!("`{host}` is not a host: want NAME or *.NAME")),
            }
        };
        Ok(Self(PrivateAnswers {
            host: host.map(name).transpose()?,
            network: network.parse::<Cidr>()?.0,
        }))
    }
}

/// A duration as Go and Istio write it: `500ms`, `3s`, `1m30s`, `10m`, `1h`. At least 0 and at most a
/// year.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let span = parse_duration(s).ok().filter(|span| span.nanos() >= 0);
        let span = span.map(TimeSpan::duration).filter(|d| *d <= MAX_SPAN);
        span.map(Self)
            .ok_or_else(|| format!("`{s}` is not a duration: want 500ms, 3s, 1m30s, at most 8760h"))
    }
}

/// A year.
const MAX_SPAN: Duration = Duration::from_hours(8760);

/// Parses inside the visitor, so that `serde_yaml` adds the field's path and line to an error.
struct Parsed<T>(PhantomData<T>);

impl<T: FromStr<Err = String>> de::Visitor<'_> for Parsed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, s: &str) -> Result<T, E> {
        s.parse().map_err(E::custom)
    }
}

macro_rules! deserialize_from_str {
    ($($t:ty),*) => { $(
        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                d.deserialize_str(Parsed(PhantomData))
            }
        }
    )* };
}
deserialize_from_str!(
    CgroupGlob,
    DnsDomain,
    DnsServer,
    DnsType,
    Cidr,
    ListenAddress,
    PrivateAnswer,
    Span
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, want) in [
            ("500ms", Some(500)),
            ("3s", Some(3000)),
            ("1m30s", Some(90_000)),
            ("1.5s", Some(1500)),
            ("1h", Some(3_600_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("", None),
            ("3", None),
            ("s", None),
            ("-3s", None),
            ("3 s", None),
            ("3s4", None),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
            ("8760h", Some(31_536_000_000)),
            ("8760h1ms", None),
        ] {
            let read = text.parse().ok().map(|span: Span| span.0);
            assert_eq!(read, want.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn a_dns_server_over_tls_has_port_853_and_the_name_in_its_certificate() {
        for (text, want) in [
            (
                "tls://192.0.2.1#dns.example",
                "tls://192.0.2.1:853#dns.example",
            ),
            (
                "tls://192.0.2.1:8853#DNS.example.",
                "tls://192.0.2.1:8853#dns.example",
            ),
            ("tls://192.0.2.1", "tls://192.0.2.1:853#192.0.2.1"),
            (
                "tls://[2001:db8::1]:853",
                "tls://[2001:db8::1]:853#2001:db8::1",
            ),
            (
                "tls://2001:db8::1#192.0.2.9",
                "tls://[2001:db8::1]:853#192.0.2.9",
            ),
            (
                "tls://192.0.2.1:53#dns.example",
                "tls://192.0.2.1:53#dns.example",
            ),
        ] {
            let read: DnsServer = text.parse().unwrap();
            assert_eq!(read.0.to_string(), want);
        }
        for text in [
            "tls://",
            "tls://dns.example",
            "tls://dns.example#dns.example",
            "tls://192.0.2.1:0#dns.example",
            "tls://192.0.2.1:853x#dns.example",
            "tls://192.0.2.1#",
            "tls://192.0.2.1#*.example",
            "tls://192.0.2.1#a b",
            "tls://192.0.2.1#a#b",
            "tls://192.0.2.1/#dns.example",
            "TLS://192.0.2.1#dns.example",
            "tls:192.0.2.1#dns.example",
            "https://192.0.2.1#dns.example",
            "192.0.2.1#dns.example",
        ] {
            let line = text.parse::<DnsServer>().unwrap_err();
            assert!(
                line.contains(text)
                    && line.contains("tls://IP[:PORT]#NAME")
                    && !line.contains('\n'),
                "{line}"
            );
        }
    }

    #[test]
    fn a_dns_server_has_port_53_unless_it_says_otherwise() {
        for (text, want) in [
            ("192.0.2.1", "192.0.2.1:53"),
            ("192.0.2.1:5353", "192.0.2.1:5353"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("[2001:db8::1]", "[2001:db8::1]:53"),
            ("[2001:db8::1]:5353", "[2001:db8::1]:5353"),
        ] {
            assert_eq!(text.parse::<DnsServer>().unwrap().0.to_string(), want);
        }
        for text in ["dns.example", "192.0.2.1:0", "", "192.0.2.1:x", "[]"] {
            assert!(text.parse::<DnsServer>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_network_with_host_bits_is_refused_with_the_likely_one() {
        assert!(
            "10.1.0.0/8"
                .parse::<Cidr>()
                .unwrap_err()
                .contains("10.0.0.0/8")
        );
        assert_eq!(
            "10.0.0.1".parse::<Cidr>().unwrap().0.to_string(),
            "10.0.0.1/32"
        );
        assert!("10.0.0.0/33".parse::<Cidr>().is_err());
    }

    #[test]
    fn types_and_domains_of_queries_are_read_in_any_case() {
        for text in ["TXT", "mx", "SRV", "TYPE257", "CAA"] {
            assert!(text.parse::<DnsType>().is_ok(), "{text}");
        }
        for text in ["ANY", "AXFR", "OPT", "PTR", "TYPE255", "TYPE", "NOPE", ""] {
            assert!(text.parse::<DnsType>().is_err(), "{text}");
        }
        let domain: DnsDomain = "Corp.Example.".parse().unwrap();
        assert_eq!(&*domain.0, "corp.example");
        for text in ["", ".", "a..b", "*.example", "a b", &"a.".repeat(200)] {
            assert!(text.parse::<DnsDomain>().is_err(), "{text}");
        }
    }
}
