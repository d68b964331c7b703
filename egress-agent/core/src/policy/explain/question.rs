//! The question to `explain`: a host, an address or a URL, and the method and headers of a request
//! to it.
//!
//! It only parses the text and reads no rule.

use crate::http::authority::parse_authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use thiserror::Error;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What is dialled.
    pub to: Dialled,
    /// What the client speaks. `None`: the protocol for which the port is listed.
    pub scheme: Option<Scheme>,
    /// Host and port as written in the URL, as a client sends them in the Host header.
    pub authority: String,
    /// Method of the HTTP request.
    pub method: Method,
    /// Path and query of the HTTP request; `/` without one.
    pub path: String,
    /// Further headers of the HTTP request.
    pub headers: HeaderMap,
}

/// What a client dials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialled {
    /// A name in canonical form, and a port.
    Name(String, u16),
    /// An address and port.
    Address(SocketAddr),
}

/// Scheme of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP in plain text.
    Http,
    /// TLS with the URL's host as server name.
    Https,
}

/// Why a text is not a question.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QuestionError {
    /// No port, and no scheme that has one.
    #[error("no port: give HOST:PORT, IP:PORT or a URL")]
    NoPort,
    /// Not a port.
    #[error("{0} is not a port (1 to 65535)")]
    BadPort(String),
    /// An IPv6 address whose end may be a port.
    #[error("write IPv6 as [{0}]:{1}")]
    Brackets(Ipv6Addr, u16),
    /// The host is not a name or address.
    #[error("{0:?} is not a host")]
    BadHost(String),
    /// Neither http nor https.
    #[error("scheme {0:?} is neither http nor https")]
    Scheme(String),
    /// Not a method of HTTP.
    #[error("{0:?} is not an HTTP method")]
    Method(String),
    /// Not a header.
    #[error("{0:?} is not a header: give NAME: VALUE")]
    Header(String),
}

impl Question {
    /// Reads `HOST:PORT`, `IP:PORT`, `[IPV6]:PORT` or a URL.
    pub fn parse(text: &str) -> Result<Self, QuestionError> {
        let (rest, scheme) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => {
                (rest, Some(Scheme::Http))
            }
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => {
                (rest, Some(Scheme::Https))
            }
            Some((other, _)) => return Err(QuestionError::Scheme(other.to_owned())),
            None => (text, None),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = match path.split('#').next().unwrap_or_default() {
            path if path.starts_with('/') => path.to_owned(),
            query => format!("/{query}"),
        };
        Ok(Self {
            to: dialled(authority, scheme)?,
            scheme,
            authority: authority.to_owned(),
            method: Method::GET,
            path,
            headers: HeaderMap::new(),
        })
    }

    /// The same with another method.
    pub fn with_method(mut self, method: &str) -> Result<Self, QuestionError> {
        let bad = |_| QuestionError::Method(method.to_owned());
        self.method = Method::from_bytes(method.as_bytes()).map_err(bad)?;
        Ok(self)
    }

    /// The same with one more header, given as `NAME: VALUE`.
    pub fn with_header(mut self, header: &str) -> Result<Self, QuestionError> {
        let bad = || QuestionError::Header(header.to_owned());
        let (name, value) = header.split_once(':').ok_or_else(bad)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| bad())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| bad())?;
        self.headers.append(name, value);
        Ok(self)
    }

    /// The port that is dialled.
    pub fn port(&self) -> u16 {
        match &self.to {
            Dialled::Name(_, port) => *port,
            Dialled::Address(to) => to.port(),
        }
    }
}

fn dialled(authority: &str, scheme: Option<Scheme>) -> Result<Dialled, QuestionError> {
    let (host, written) = authority.rsplit_once(':').unwrap_or((authority, ""));
    let is_host = !host.contains(':') || host.ends_with(']');
    let port = written.parse().ok().filter(|port| *port != 0);
    if is_host && !written.is_empty() && port.is_none() {
        return Err(QuestionError::BadPort(written.to_owned()));
    }
    if let Ok(address) = authority.parse::<SocketAddr>() {
        return Ok(Dialled::Address(address));
    }
    let default = scheme.map(|scheme| match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    });
    if let (None, Some(port), Ok(ip)) = (default, port, host.parse::<Ipv6Addr>()) {
        return Err(QuestionError::Brackets(ip, port));
    }
    let bare = authority.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        let port = default.ok_or(QuestionError::NoPort)?;
        return Ok(Dialled::Address(SocketAddr::new(ip, port)));
    }
    let port = port.filter(|_| is_host);
    let port = port.or(default).ok_or(QuestionError::NoPort)?;
    let host = parse_authority(authority);
    let host = host.map_err(|_| QuestionError::BadHost(authority.to_owned()))?;
    Ok(Dialled::Name(host.as_str().to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_without_a_usable_port_says_what_to_write() {
        for (text, error) in [
            ("a.example:99999", "99999 is not a port (1 to 65535)"),
            ("a.example:0", "0 is not a port (1 to 65535)"),
            ("a.example:http", "http is not a port (1 to 65535)"),
            ("192.0.2.1:99999", "99999 is not a port (1 to 65535)"),
            ("[::1]:99999", "99999 is not a port (1 to 65535)"),
            (
                "https://a.example:99999/x",
                "99999 is not a port (1 to 65535)",
            ),
            ("::1:80", "write IPv6 as [::1]:80"),
            ("2001:db8::1:443", "write IPv6 as [2001:db8::1]:443"),
            ("1:2:3:4:5:6:7:8:443", "write IPv6 as [1:2:3:4:5:6:7:8]:443"),
            ("::1", "no port: give HOST:PORT, IP:PORT or a URL"),
            ("2001:db8::1", "no port: give HOST:PORT, IP:PORT or a URL"),
            ("a.example", "no port: give HOST:PORT, IP:PORT or a URL"),
        ] {
            assert_eq!(
                Question::parse(text).unwrap_err().to_string(),
                error,
                "{text}"
            );
        }
        for (text, port) in [
            ("a.example:443", 443),
            ("[::1]:80", 80),
            ("http://[::1]/", 80),
        ] {
            assert_eq!(Question::parse(text).unwrap().port(), port, "{text}");
        }
    }
}
